//! The life of a TCP session: its phases in their fixed order, up to its log line.
//!
//! PROXY protocol header → [`phases::enter`] → TLS → preread → content → `log`.

use std::net::SocketAddr;
use std::rc::Rc;

use crate::base::listen::ListenAddr;
use crate::base::places::Places;
use crate::base::remote::Remote;
use crate::base::{clock, proxy_protocol};
use crate::observe::Level;
use crate::ring::Socket;

use super::client::Client;
use super::conf::Content;
use super::local::{Generation, Local};
use super::modules::pass::Passed;
use super::modules::{log, pass, returns, ssl, ssl_preread};
use super::phases;
use super::proxy;
use super::session::Session;

/// Why a phase ends a session: the value of `$status`.
pub type End = u16;

/// Serves a connection that was accepted at `addr`, listen `listen` of `generation`, until it
/// closes.
pub fn serve(
    local: Rc<Local>,
    generation: Rc<Generation>,
    listen: u32,
    addr: Rc<ListenAddr>,
    sock: Socket,
    remote: Remote,
) -> impl Future<Output = ()> {
    let open = Open::new(Rc::clone(&local.places));
    let mut session = Session::new(local, generation, listen, addr, remote);
    session.local_addr = local_addr(&sock, &session);
    finish(open, session, Client::new(sock))
}

/// Serves a connection that `pass` handed to `addr`, listen `listen` of `generation`.
pub fn serve_passed(
    local: Rc<Local>,
    generation: Rc<Generation>,
    listen: u32,
    addr: Rc<ListenAddr>,
    passed: Passed,
) -> impl Future<Output = ()> {
    let open = Open::new(Rc::clone(&local.places));
    let mut session = Session::new(local, generation, listen, addr, passed.remote);
    session.passes = passed.passes;
    session.local_addr = local_addr(&passed.sock, &session);
    let (secured, transport) = passed.tls.unzip();
    session.tls = secured;
    let client = Client::passed(passed.sock, &passed.early, passed.recv, transport);
    finish(open, session, client)
}

/// Takes a session to its log line; or its connection to whom it is handed, who will write one.
#[expect(
    clippy::manual_async_fn,
    reason = "an async fn that works on references to its arguments holds them twice"
)]
fn finish(open: Open, mut session: Session, mut client: Client) -> impl Future<Output = ()> {
    async move {
        let s = &mut session;
        s.log_plain(
            Level::Info,
            format_args!("client {} connected to {}", s.remote, s.listen_addr),
        );
        s.status = match run(s, &mut client).await {
            Ok(None) => 200,
            Ok(Some(addr)) => {
                hand_over(s, client, addr);
                return;
            }
            Err(status) => status,
        };
        log::write(s);
        client.say_end();
        drop(client);
        drop(open);
    }
}

fn hand_over(s: &mut Session, mut client: Client, addr: Rc<ListenAddr>) {
    let (early, recv) = client.take_input();
    let passed = Passed {
        sock: client.sock,
        remote: s.remote.clone(),
        early,
        recv,
        tls: s.tls.clone().zip(client.tls),
        held: std::mem::take(&mut s.limit_conn),
        passes: s.passes + 1,
    };
    if let Some(doors) = s.local.doors() {
        doors.take(addr, passed);
    }
}

/// A client's connection, counted in its worker's places until it has ended however it ends.
pub(super) struct Open(Rc<Places>);

impl Open {
    /// Counts one more.
    pub(super) fn new(places: Rc<Places>) -> Open {
        places.opened();
        Open(places)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.closed();
    }
}

/// Our end of the connection; the kernel is only asked where we listen on every address.
fn local_addr(sock: &Socket, s: &Session) -> Option<SocketAddr> {
    let listen = s.listen_addr.inet()?;
    if !listen.ip().is_unspecified() {
        return Some(listen);
    }
    sock.local_addr().ok()?.inet()
}

/// The phases between the first byte and the log line. `Some`: the address that the connection is
/// handed to.
async fn run(s: &mut Session, client: &mut Client) -> Result<Option<Rc<ListenAddr>>, End> {
    let generation = s.generation();
    let server = generation.server(s.server);
    if !server.core.tcp_nodelay && s.local_addr.is_some() {
        // Connections come with it on. What cannot be set only costs packets.
        let _ = client.sock.set_nodelay(false);
    }
    if generation.stream.listens[s.listen as usize].proxy_protocol {
        read_proxy_protocol(s, client).await?;
    }
    phases::enter(s)?;
    if generation.stream.listens[s.listen as usize].ssl && s.tls.is_none() {
        // Its own future: a session without TLS has no place for a handshake.
        Box::pin(ssl::run(s, client)).await?;
    }
    ssl_preread::run(s, client).await?;
    // Preread may have chosen another server.
    match &generation.server(s.server).content {
        Content::Proxy(pass) => proxy::run(s, client, pass).await.map(|()| None),
        Content::Return(text) => returns::run(s, client, text).await.map(|()| None),
        Content::Pass(conf) => pass::run(s, conf).map(Some),
    }
}

/// Reads the header that comes before everything else where `listen` says so.
async fn read_proxy_protocol(s: &mut Session, client: &mut Client) -> Result<(), End> {
    let generation = s.generation();
    let timeout = generation.server(s.server).core.proxy_protocol_timeout_ms;
    client.sock.set_deadline(Some(clock::now_ms() + timeout));
    s.doing = "reading PROXY protocol";
    loop {
        match proxy_protocol::parse(&client.input) {
            Ok(Some((used, header))) => {
                client.input.drain(..used);
                s.proxy_protocol = header.map(Box::new);
                client.sock.set_deadline(None);
                s.doing = "";
                return Ok(());
            }
            Ok(None) => {}
            Err(_) => {
                let shown = proxy_protocol::shown(&client.input);
                s.log(Level::Error, format_args!("broken header: \"{shown}\""));
                return Err(400);
            }
        }
        if matches!(client.fill().await, Ok(n) if n > 0) {
            continue;
        }
        if client.sock.timed_out() {
            s.log(
                Level::Info,
                format_args!("client timed out (110: Connection timed out)"),
            );
            // To nginx, a session that never began has not failed.
            return Err(200);
        }
        let shown = proxy_protocol::shown(&client.input);
        s.log(Level::Error, format_args!("broken header: \"{shown}\""));
        return Err(400);
    }
}
