//! One client connection from accept to close: its requests one after another, its deadlines,
//! parking while it is idle, lingering close.

use std::future::poll_fn;
use std::mem;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use crate::base::clock;
use crate::base::listen::ListenAddr;
use crate::base::places::Places;
use crate::observe::Level;
use crate::ring::{Chunk, Expect, Recv, Socket};
use crate::ssl::Secured;
use crate::tls::{Broken, Transport};

use super::body::{self, RequestBody};
use super::client::Client;
use super::exchange::{ClientInfo, Exchange, Remote};
use super::h1::head::{self, HeadLimits, Parsed};
use super::local::Local;
use super::message::{Method, Range32, Version};
use super::modules::core::Lingering;
use super::modules::{log, realip};
use super::phases::{self, Finish};
use super::waiting::Call;
use super::{accept, begin, h2, tls};

/// A connection between two requests that gave up its buffers.
///
/// Such a connection costs less than 600 bytes in all: its task 256, [`ClientInfo`] 160, the
/// operation in flight, the socket's slot and its place among the waiting ones 100; the rest is
/// what the allocator loses.
struct Parked {
    sock: Socket,
    recv: Option<Recv>,
    tls: Option<Box<Transport>>,
    info: Box<ClientInfo>,
    /// What happens once per connection has happened.
    has_begun: bool,
    /// Monotonic ms at which it is closed for idleness.
    deadline: Option<u64>,
}

/// A client connection from accept to close: a task that is small while nothing happens. What a
/// working connection needs, 4.2 KiB and its buffers, lives in a future of its own ([`work`]),
/// which is dropped when the connection has been idle for a second.
pub struct Connection {
    place: Place,
    stage: Stage,
}

enum Stage {
    Working(Pin<Box<dyn Future<Output = After>>>),
    Parked(Parked),
    /// Nothing is left to do.
    Over,
}

/// Serves a client connection until it closes.
pub fn serve(local: Rc<Local>, sock: Socket, remote: Remote, listen: Rc<ListenAddr>) -> Connection {
    serve_passed(local, sock, remote, listen, None, None, None)
}

/// As [`serve`], for a connection of which `early` was read already and `recv` is under way, and
/// which may be encrypted: `early` is what was in it then.
pub fn serve_passed(
    local: Rc<Local>,
    sock: Socket,
    remote: Remote,
    listen: Rc<ListenAddr>,
    early: Option<Chunk>,
    recv: Option<Recv>,
    tls: Option<(Rc<Secured>, Box<Transport>)>,
) -> Connection {
    local.places.opened();
    let slot = local.waiting.enter();
    let (secured, transport) = tls.unzip();
    let mut info = client_info(&sock, remote, listen);
    info.tls = secured;
    let fresh = Parked {
        info: Box::new(info),
        sock,
        recv,
        tls: transport,
        has_begun: false,
        deadline: None,
    };
    let place = Place { local, slot };
    Connection {
        stage: Stage::Working(Box::pin(work(place.clone(), fresh, early))),
        place,
    }
}

impl Future for Connection {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let waiting = &this.place.local.waiting;
        loop {
            match &mut this.stage {
                Stage::Working(work) => {
                    this.stage = match ready!(work.as_mut().poll(cx)) {
                        After::Parked(idle) => {
                            waiting.begin(this.place.slot, clock::now_ms(), true);
                            Stage::Parked(idle)
                        }
                        After::Http2(ex, client) => {
                            let h2 = h2::connection::serve(*ex, *client, this.place.slot);
                            Stage::Working(Box::pin(async {
                                h2.await;
                                After::Over
                            }))
                        }
                        After::Over => Stage::Over,
                    };
                    this.place.local.freed();
                }
                Stage::Parked(parked) => {
                    let came = ready!(poll_parked(&this.place, parked, cx));
                    waiting.end(this.place.slot);
                    let stage = mem::replace(&mut this.stage, Stage::Over);
                    let Stage::Parked(mut parked) = stage else {
                        continue;
                    };
                    if came.is_some() {
                        parked.recv = None;
                        let work = work(this.place.clone(), parked, came);
                        this.stage = Stage::Working(Box::pin(work));
                    } else if parked.tls.is_some() {
                        this.stage = Stage::Working(Box::pin(end(parked)));
                    }
                }
                Stage::Over => return Poll::Ready(()),
            }
        }
    }
}

impl Drop for Connection {
    /// Counts the connection out however its task ends.
    fn drop(&mut self) {
        self.stage = Stage::Over;
        self.place.local.waiting.leave(self.place.slot);
        self.place.local.places.closed();
    }
}

/// The life of a parked connection: until something comes (what it is), or it has to close.
fn poll_parked(place: &Place, parked: &mut Parked, cx: &mut Context<'_>) -> Poll<Option<Chunk>> {
    let Some(recv) = &mut parked.recv else {
        return Poll::Ready(None);
    };
    if let Poll::Ready(came) = Pin::new(recv).poll(cx) {
        return Poll::Ready(came.ok().filter(|chunk| !chunk.is_empty()));
    }
    match place.local.waiting.call(place.slot, cx.waker()) {
        Call::Close => Poll::Ready(None),
        Call::None | Call::Park => Poll::Pending,
    }
}

/// A place in the worker's table of waiting connections.
#[derive(Clone)]
struct Place {
    local: Rc<Local>,
    slot: usize,
}

fn client_info(sock: &Socket, remote: Remote, listen: Rc<ListenAddr>) -> ClientInfo {
    let remote_text = match &remote {
        Remote::Inet(addr) => addr.ip().to_string(),
        Remote::Unix => "unix:".into(),
    };
    ClientInfo {
        number: Places::next_connection(),
        requests: 0,
        accepted_at: clock::precise_ms(),
        local: match remote {
            Remote::Inet(_) => local_addr(sock, &listen),
            Remote::Unix => None,
        },
        remote,
        remote_text,
        listen,
        proxy_protocol: None,
        tls: None,
    }
}

/// Our end of the connection; the kernel is only asked where we listen on every address.
fn local_addr(sock: &Socket, listen: &ListenAddr) -> Option<SocketAddr> {
    match listen {
        ListenAddr::Inet(addr) | ListenAddr::Udp(addr) if !addr.ip().is_unspecified() => {
            Some(*addr)
        }
        _ => sock.local_addr().ok().and_then(|addr| addr.inet()),
    }
}

/// What follows the working life of a connection.
enum After {
    /// It is idle.
    Parked(Parked),
    /// Its client speaks HTTP/2.
    Http2(Box<Exchange>, Box<Client>),
    /// It is over.
    Over,
}

/// How the wait for a request ended.
enum Next {
    /// The head is complete and parsed.
    Request,
    /// Nothing came for a while: give up the buffers.
    Park {
        /// Monotonic ms at which it is closed all the same.
        until: u64,
    },
    /// The connection is over.
    Close,
    /// Refused with this status; the connection closes after the answer.
    Refuse(u16),
    /// The client speaks HTTP/2.
    Http2,
}

/// The working life of a connection: requests until it is idle or over. `chunk` is what woke it.
async fn work(place: Place, parked: Parked, chunk: Option<Chunk>) -> After {
    let Parked {
        sock,
        recv,
        tls,
        info,
        has_begun,
        deadline,
    } = parked;
    let mut client = Client::new(sock, recv);
    if !has_begun && let Some(early) = &chunk {
        // Plain, even where TLS is in use already: it was passed on opened.
        client.take_in(early);
    }
    if let Some(tls) = tls {
        client.encrypt(tls);
    }
    let mut ex = Exchange::new(Rc::clone(&place.local), *info);
    let mut idle_deadline = deadline;
    if has_begun && let Some(chunk) = chunk {
        client.take_in(&chunk);
    }
    if !has_begun {
        if !begin::begin(&mut ex, &mut client).await {
            return After::Over;
        }
        if tls::agreed_on_h2(&ex) {
            return After::Http2(Box::new(ex), Box::new(client));
        }
    }
    loop {
        match next_request(&mut ex, &mut client, &place, idle_deadline.take()).await {
            Next::Request => {}
            Next::Close => {
                tell_broken(&ex, &client);
                // Closing a socket whose last answer is still on its way would take that along.
                let _ = client.flush().await;
                client.say_end().await;
                return After::Over;
            }
            Next::Park { until } => return park(ex, client, until),
            Next::Refuse(status) => {
                refuse(&mut ex, &mut client, status).await;
                return After::Over;
            }
            Next::Http2 => return After::Http2(Box::new(ex), Box::new(client)),
        }
        let finish = phases::handle(&mut ex, &mut client).await;
        log::write(&mut ex);
        realip::restore(&mut ex);
        ex.limit_conn.clear();
        if !after(&mut ex, &mut client, finish).await {
            tell_broken(&ex, &client);
            return After::Over;
        }
    }
}

/// Logs why the client's TLS cannot go on, if it cannot.
fn tell_broken(ex: &Exchange, client: &Client) {
    let Some(broken) = client.broken() else {
        return;
    };
    let (mut reason, doing) = (broken.reason().to_owned(), ex.doing);
    if let Broken::Alert(number) = broken {
        reason += &format!(":SSL alert number {number}");
    }
    ex.log(
        Level::Info,
        format_args!("SSL_read() failed (SSL: {reason}) while {doing}"),
    );
}

/// The end of a parked connection whose client is told so.
async fn end(parked: Parked) -> After {
    let mut client = Client::new(parked.sock, parked.recv);
    if let Some(tls) = parked.tls {
        client.encrypt(tls);
        client.say_end().await;
    }
    After::Over
}

fn park(ex: Exchange, client: Client, until: u64) -> After {
    let Ok((sock, recv, tls)) = client.into_parked() else {
        return After::Over;
    };
    After::Parked(Parked {
        sock,
        recv: Some(recv),
        tls,
        info: Box::new(ex.client),
        has_begun: true,
        deadline: Some(until),
    })
}

fn keepalive_timeout(ex: &Exchange) -> u64 {
    ex.generation
        .location(ex.location)
        .core
        .keepalive_timeout_ms
}

/// Waits for the next request and parses its head.
async fn next_request(
    ex: &mut Exchange,
    client: &mut Client,
    place: &Place,
    idle_deadline: Option<u64>,
) -> Next {
    let first = ex.client.requests == 0;
    let pipelined = !first && idle_deadline.is_none() && !client.input.is_empty();
    if client.input.is_empty() {
        let until = match idle_deadline {
            Some(deadline) => deadline,
            None if first => {
                clock::now_ms() + ex.generation.server(ex.server).client.header_timeout_ms
            }
            None => clock::now_ms() + keepalive_timeout(ex),
        };
        client.set_read_deadline(Some(until));
        ex.doing = if first {
            "waiting for request"
        } else {
            "waiting for next request"
        };
        match wait(ex, client, place, until).await {
            Next::Request => {}
            other => return other,
        }
    }
    if first && speaks_h2(ex) {
        // Its own future: a connection that does not speak it has no place for it.
        match Box::pin(read_preface(ex, client)).await {
            Next::Request => {}
            other => return other,
        }
    }
    ex.begin();
    ex.request.pipelined = pipelined;
    ex.request.started_at = clock::precise_ms();
    ex.client.requests += 1;
    ex.doing = "reading client request line";
    read_head(ex, client).await
}

/// Whether a client without TLS may speak HTTP/2 here.
fn speaks_h2(ex: &Exchange) -> bool {
    let generation = &ex.generation;
    let listen = &generation.http.listens[ex.listen as usize];
    !listen.ssl && (listen.http2 || generation.server(ex.server).http2.enabled)
}

/// Reads until it is clear whether the client begins with HTTP/2 (`Next::Http2`), or with a
/// request.
async fn read_preface(ex: &mut Exchange, client: &mut Client) -> Next {
    let timeout_ms = ex.generation.server(ex.server).client.header_timeout_ms;
    client.set_deadline(Some(clock::now_ms() + timeout_ms));
    loop {
        match h2::connection::is_preface(&client.input) {
            Some(true) => return Next::Http2,
            Some(false) => return Next::Request,
            None => {}
        }
        if !matches!(client.fill(Expect::Later).await, Ok(n) if n > 0) {
            // What has come so far is dealt with as a request.
            return Next::Request;
        }
    }
}

/// Waits for the first bytes of a request; `Next::Request` when there are some.
async fn wait(ex: &mut Exchange, client: &mut Client, place: &Place, until: u64) -> Next {
    let first = ex.client.requests == 0;
    client.listen();
    loop {
        place
            .local
            .waiting
            .begin(place.slot, clock::now_ms(), false);
        let next = wait_once(client, place, first, until).await;
        place.local.waiting.end(place.slot);
        match next {
            // What still sends must not park.
            Next::Park { .. } if !client.sent() => {
                if client.flush().await.is_err() {
                    return Next::Close;
                }
            }
            Next::Close if first && client.timed_out() => {
                ex.log(
                    Level::Info,
                    format_args!(
                        "client timed out (110: Connection timed out) while waiting for request"
                    ),
                );
                return next;
            }
            _ => return next,
        }
    }
}

/// Waits until there are bytes, the client has gone, or the worker wants something else.
async fn wait_once(client: &mut Client, place: &Place, first: bool, until: u64) -> Next {
    poll_fn(|cx| {
        if client.poll_gone(cx).is_ready() {
            return Poll::Ready(if client.input.is_empty() {
                Next::Close
            } else {
                Next::Request
            });
        }
        if !client.input.is_empty() {
            return Poll::Ready(Next::Request);
        }
        match place.local.waiting.call(place.slot, cx.waker()) {
            // While draining, a connection that has just come is no idle one: its request is
            // under way.
            Call::Close if first && place.local.places.is_draining() => Poll::Pending,
            Call::Close => Poll::Ready(Next::Close),
            Call::Park => Poll::Ready(Next::Park { until }),
            Call::None => Poll::Pending,
        }
    })
    .await
}

/// Reads until the head is complete, checks it, and finds the server it is for.
async fn read_head(ex: &mut Exchange, client: &mut Client) -> Next {
    let generation = ex.generation();
    let conf = &generation.server(ex.server).client;
    let limits = HeadLimits::new(
        conf.header_buffer_size,
        conf.large_buffers,
        conf.large_buffer_size,
    );
    let mut deadline_set = false;
    loop {
        match head::parse_request(&client.input, &limits, &mut ex.request.head) {
            Ok(Parsed::Complete) => break,
            Ok(Parsed::Partial) => {}
            Err(error) => {
                keep_request_line(ex, client);
                let message = error.client_message(&client.input);
                ex.log(Level::Info, format_args!("{message}"));
                return Next::Refuse(error.status());
            }
        }
        if !deadline_set {
            client.set_deadline(Some(clock::now_ms() + conf.header_timeout_ms));
            deadline_set = true;
        }
        match client.fill(Expect::Later).await {
            Ok(n) if n > 0 => {}
            _ if client.timed_out() => {
                keep_request_line(ex, client);
                ex.log(
                    Level::Info,
                    format_args!(
                        "client timed out (110: Connection timed out) while {}",
                        ex.doing
                    ),
                );
                return Next::Refuse(408);
            }
            _ => {
                ex.log(
                    Level::Info,
                    format_args!("client prematurely closed connection while {}", ex.doing),
                );
                return Next::Close;
            }
        }
    }
    take_head(ex, client);
    match accept::head(ex) {
        Ok(()) => {
            client.listen_for_next(&ex.request.body);
            Next::Request
        }
        Err(status) => Next::Refuse(status),
    }
}

/// For the log of a request that is refused before its head is complete.
fn keep_request_line(ex: &mut Exchange, client: &Client) {
    let end = memchr::memchr2(b'\r', b'\n', &client.input).unwrap_or(client.input.len());
    ex.request.buf.clear();
    ex.request
        .buf
        .extend_from_slice(&client.input[..end.min(2048)]);
    let kept = ex.request.buf.len();
    ex.request.head.clear();
    ex.request.head.line = Range32::new(0, kept);
    ex.request.head.version = Version::Http10;
    ex.request.head.method = Method::Get;
    ex.request.head.method_name = Range32::default();
    ex.request.length = client.input.len() as u64;
}

/// Moves the head's bytes from the input into the request; what follows them stays.
fn take_head(ex: &mut Exchange, client: &mut Client) {
    let len = ex.request.head.len;
    std::mem::swap(&mut ex.request.buf, &mut client.input);
    client.input.clear();
    if ex.request.buf.len() > len {
        client.input.extend_from_slice(&ex.request.buf[len..]);
        ex.request.buf.truncate(len);
    }
    ex.request.length = len as u64;
}

/// Answers a request that is not served, and closes.
async fn refuse(ex: &mut Exchange, client: &mut Client, status: u16) {
    ex.keepalive = false;
    let finish = phases::refuse(ex, client, status).await;
    log::write(ex);
    if finish == Finish::Complete && client.flush().await.is_ok() {
        client.say_end().await;
        linger(ex, client, true).await;
    }
}

/// Decides whether the connection goes on after a response, and closes it properly if not.
async fn after(ex: &mut Exchange, client: &mut Client, finish: Finish) -> bool {
    let core = &ex.generation().http;
    let _ = core;
    match finish {
        Finish::Complete => {}
        Finish::Drop | Finish::Truncated => {
            let generation = ex.generation();
            if generation
                .location(ex.location)
                .core
                .reset_timedout_connection
                && (client.timed_out() || ex.response.status == 444)
            {
                client.reset();
            }
            return false;
        }
        Finish::Tunnel => return false,
    }
    if ex.keepalive && ex.request.body.is_unread() {
        // The answer came before the body was read: the rest is in the way of the next request.
        if client.flush().await.is_err() || body::discard(ex, client).await.is_err() {
            return false;
        }
    }
    if ex.keepalive {
        return true;
    }
    if client.flush().await.is_ok() {
        client.say_end().await;
        let unread = ex.request.body.is_unread() || !client.input.is_empty();
        linger(ex, client, unread).await;
    }
    false
}

/// Closes so that the client surely gets the answer: a socket closed with unread data resets
/// the connection, and the reset may overtake the response.
async fn linger(ex: &Exchange, client: &mut Client, unread: bool) {
    let generation = ex.generation();
    let core = &generation.location(ex.location).core;
    let wanted = match core.lingering_close {
        Lingering::Off => false,
        Lingering::On => unread,
        Lingering::Always => true,
    };
    if !wanted || client.closed {
        return;
    }
    client.end_sending();
    let end = clock::now_ms() + core.lingering_time_ms;
    loop {
        let now = clock::now_ms();
        if now >= end {
            return;
        }
        client.set_deadline(Some((now + core.lingering_timeout_ms).min(end)));
        match client.read(Expect::Later).await {
            Ok(chunk) if !chunk.is_empty() => {}
            _ => return,
        }
    }
}

impl Client {
    /// Keeps a read in flight during the exchange unless the body's reads come first. Also where no
    /// next request is expected: that the read has to be ended before the connection closes was
    /// measured to cost less than to have none.
    pub fn listen_for_next(&mut self, body: &RequestBody) {
        if !body.is_unread() {
            self.listen();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn future_size<A, B, C, F: Future>(_: impl FnOnce(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    /// A task of tokio's has 104 bytes of its own, and takes a multiple of 128.
    #[test]
    fn a_connection_is_small() {
        assert!(size_of::<Connection>() <= 256 - 104);
        assert!(size_of::<ClientInfo>() <= 136);
    }

    #[test]
    fn a_working_connection_is_not_large() {
        assert!(future_size(work) <= 4384, "{}", future_size(work));
        assert!(size_of::<Exchange>() <= 1184, "{}", size_of::<Exchange>());
        assert!(size_of::<Client>() <= 232, "{}", size_of::<Client>());
    }
}
