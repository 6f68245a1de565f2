//! The life of a TCP session: its phases in their fixed order, up to its log line.
//!
//! PROXY protocol header → `realip` → `limit_conn` → `access` → preread → content → `log`.

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
use super::modules::log;
use super::proxy;
use super::session::Session;

/// Why a phase ends a session: the value of `$status`.
pub type End = u16;

/// Serves a connection that was accepted at `addr`, listen `listen` of `generation`, until it
/// closes.
pub async fn serve(
    local: Rc<Local>,
    generation: Rc<Generation>,
    listen: u32,
    addr: Rc<ListenAddr>,
    sock: Socket,
    remote: Remote,
) {
    let _open = Open::new(Rc::clone(&local.places));
    let mut session = Session::new(local, generation, listen, addr, remote);
    let s = &mut session;
    s.local_addr = local_addr(&sock, s);
    s.log_plain(
        Level::Info,
        format_args!("client {} connected to {}", s.remote, s.listen_addr),
    );
    let mut client = Client::new(sock);
    s.status = match run(s, &mut client).await {
        Ok(()) => 200,
        Err(status) => status,
    };
    log::write(s);
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

/// The phases between the first byte and the log line.
async fn run(s: &mut Session, client: &mut Client) -> Result<(), End> {
    let generation = s.generation();
    let server = generation.server(s.server);
    if !server.core.tcp_nodelay && s.local_addr.is_some() {
        // Connections come with it on. What cannot be set only costs packets.
        let _ = client.sock.set_nodelay(false);
    }
    if generation.stream.listens[s.listen as usize].proxy_protocol {
        read_proxy_protocol(s, client).await?;
    }
    // Preread may choose another server.
    match &generation.server(s.server).content {
        Content::Proxy(pass) => proxy::run(s, client, pass).await,
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
