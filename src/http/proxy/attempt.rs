//! One attempt: connect (or take an idle connection), send the request, read the answer's head.

use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::task::Poll;

use crate::base::clock;
use crate::http::body::BodyError;
use crate::http::client::Client;
use crate::http::exchange::Exchange;
use crate::http::h1::connection as connection_field;
use crate::http::h1::framing::{self, Framing};
use crate::http::h1::head::{self as h1_head, HeadLimits, Parsed};
use crate::http::modules::early_hints;
use crate::http::token::Token;
use crate::observe::{Level, os_error};
use crate::ring::{self, Addr, ConnectOpts, Socket};
use crate::ssl;
use crate::ssl::upstream::{Begun, Identity};
use crate::upstream::{ConnectFailure, Group, Kept, Pick};

use super::carrier::Carrier;
use super::conf::{Conf, HttpVersion, Pass};
use super::connection::UpstreamConn;
use super::h2::{self, stream::Broken};
use super::head::{self, BodyOut};
use super::request_body;
use super::retry::{Cause, Failure};

/// Informational responses passed over before one attempt is called broken.
pub const INTERIM_MAX: u32 = 16;

/// Whom to try, and how.
pub struct TargetPeer<'a> {
    /// The chosen peer.
    pub pick: &'a Pick,
    /// The `proxy_pass` in force.
    pub pass: &'a Pass,
    /// The group it is in.
    pub group: &'a Group,
    /// Do not take an idle connection.
    pub fresh_only: bool,
    /// The request may be sent again, should the connection turn out to be stale.
    pub repeatable: bool,
}

/// An answer whose head stands in `ex.response.upstream`.
pub struct Answer {
    /// What it comes on.
    pub carrier: Carrier,
    /// How its body is framed.
    pub framing: Framing,
    /// Where in `ex.response.buf` the body bytes are that came with the head. Behind them stands
    /// what the filters store there.
    pub rest: Range<usize>,
    /// The connection had served a request before this one.
    pub reused: bool,
    /// The peer keeps the connection open, and the request was sent in full.
    pub keepalive: bool,
}

impl Answer {
    /// Whether the whole body came with the head.
    pub fn is_whole(&self) -> bool {
        if let Carrier::Stream(stream) = &self.carrier {
            return stream.has_ended();
        }
        match self.framing {
            Framing::None => true,
            Framing::Length(length) => length <= self.rest.len() as u64,
            Framing::Chunked | Framing::Close => false,
        }
    }
}

/// Why there is no answer.
pub enum Failed {
    /// The peer failed.
    Upstream(Failure),
    /// The client failed: its body (if told), or its connection.
    Client(Option<BodyError>),
    /// It cannot be tried, and that is not the peer's fault: this worker has as many connections as
    /// it may, our certificate cannot be read, or the request is none that can be sent. It is in
    /// the log.
    Own,
}

/// Runs the attempt.
pub async fn run(
    ex: &mut Exchange,
    client: &mut Client,
    conf: &Conf,
    target: TargetPeer<'_>,
    body: BodyOut,
) -> Result<Answer, Failed> {
    if conf.http_version == HttpVersion::V2 {
        // Boxed: the connections that come by HTTP/1.1 alone have no place for it.
        return Box::pin(h2::run(ex, client, conf, &target, body)).await;
    }
    let (mut kept, reused) = connection(ex, client, conf, &target).await?;
    let mut failure = Failure {
        cause: Cause::Error,
        reused,
        answer_begun: false,
        request_sent: true,
        refused: false,
        level: if reused && target.repeatable {
            Level::Info
        } else {
            Level::Error
        },
    };
    ex.doing = "sending request to upstream";
    let sent_whole =
        request_body::send(ex, client, conf, target.pass, body, &mut kept.conn, failure).await?;
    ex.doing = "reading response header from upstream";
    let framing = read_head(ex, client, conf, &mut kept.conn, &mut failure).await?;
    if let Some(state) = ex.upstream.last_mut() {
        state.header_ms = Some(clock::precise_ms().saturating_sub(state.started_ms));
    }
    let options = connection_field::scan(&ex.response.buf, &mut ex.response.upstream.fields);
    let version = ex.response.upstream.version;
    Ok(Answer {
        framing,
        rest: ex.response.upstream.len..ex.response.buf.len(),
        reused,
        keepalive: sent_whole
            && conf.http_version == HttpVersion::V11
            && options.persistent(version)
            && ex.response.upstream.status != 101,
        carrier: Carrier::Connection(kept),
    })
}

/// An idle connection to the peer, or a new one. Says whether it has served before.
async fn connection(
    ex: &mut Exchange,
    client: &mut Client,
    conf: &Conf,
    target: &TargetPeer<'_>,
) -> Result<(Kept<Box<UpstreamConn>>, bool), Failed> {
    let peer = target.pick.peer();
    let identity = identity(ex, conf);
    if !target.fresh_only && conf.bind.is_none() {
        let (tag, now_ms) = (target.pass.tag, clock::now_ms());
        let idle = &ex.local.idle;
        let kept = idle
            .borrow_mut()
            .checkout(&peer.state, tag, now_ms, |conn| {
                conn.is_for(identity.as_ref())
            });
        if let Some(kept) = kept {
            if let Some(state) = ex.upstream.last_mut() {
                state.connect_ms = Some(0);
            }
            if let Some(identity) = identity {
                identity.give_back(ex);
            }
            return Ok((kept, true));
        }
    }
    // Boxed, since it goes from hand to hand.
    let conn = Box::new(connect(ex, client, conf, target, identity).await?);
    let now_ms = clock::now_ms();
    let kept = Kept::new(conn, &peer.state, target.pass.tag, now_ms);
    Ok((kept, false))
}

/// What a connection must have been made for, where there is TLS.
pub fn identity(ex: &mut Exchange, conf: &Conf) -> Option<Identity> {
    let ssl = conf.ssl.as_ref().filter(|_| ex.proxy_scheme.is_secure())?;
    Some(ssl.identity(ex, |ex, out| out.extend_from_slice(&ex.proxy_host)))
}

/// A new connection to the peer.
pub async fn connect(
    ex: &mut Exchange,
    client: &mut Client,
    conf: &Conf,
    target: &TargetPeer<'_>,
    identity: Option<Identity>,
) -> Result<UpstreamConn, Failed> {
    let peer = target.pick.peer();
    ex.doing = "connecting to upstream";
    let Some(counted) = ex.local.places.count_upstream() else {
        let max = ex.local.places.max();
        ex.log(
            Level::Alert,
            format_args!("{max} worker_connections are not enough while {}", ex.doing),
        );
        return Err(Failed::Own);
    };
    let options = connect_options(ex, conf);
    let addr = Addr::from(&peer.conf.addr);
    let watch = !conf.ignore_client_abort;
    let connecting = while_here(client, watch, ring::connect(&addr, &options));
    let sock = match connecting.await? {
        Ok(sock) => sock,
        Err(error) => {
            let failure = ConnectFailure::new(&peer.conf.name, &error);
            ex.log(
                failure.level(),
                format_args!("{failure} while {}", ex.doing),
            );
            return Err(unsent(failure.is_timeout()));
        }
    };
    let conn = match identity {
        None => UpstreamConn::new(sock, counted),
        Some(identity) => {
            // Time is given once, for both. (Boxed: without TLS there is no place for it.)
            sock.set_deadline(options.deadline_ms);
            let peer = peer.state.serial();
            let secured = Box::pin(secure(ex, client, conf, &sock, &identity, peer));
            let begun = secured.await?;
            sock.set_deadline(None);
            UpstreamConn::secured(sock, counted, begun, identity)
        }
    };
    if let Some(state) = ex.upstream.last_mut() {
        state.connect_ms = Some(clock::precise_ms().saturating_sub(state.started_ms));
    }
    Ok(conn)
}

/// Makes the handshake on a new connection.
async fn secure(
    ex: &mut Exchange,
    client: &mut Client,
    conf: &Conf,
    sock: &Socket,
    identity: &Identity,
    peer: u64,
) -> Result<Begun, Failed> {
    ex.doing = "SSL handshaking to upstream";
    let Some(ssl) = &conf.ssl else {
        return Err(Failed::Own);
    };
    let ours = match ssl.client(ex).await {
        Ok(ours) => ours,
        Err(why) => {
            ex.log(Level::Error, format_args!("{why} while {}", ex.doing));
            return Err(Failed::Own);
        }
    };
    let shaking = ssl::upstream::shake(sock, &ours, identity.target(peer));
    match while_here(client, !conf.ignore_client_abort, shaking).await? {
        Ok(begun) => Ok(begun),
        Err(failure) => {
            ex.log(Level::Error, format_args!("{failure} while {}", ex.doing));
            Err(unsent(failure.is_timeout()))
        }
    }
}

/// A failure before anything of the request was sent.
pub fn unsent(is_timeout: bool) -> Failed {
    Failed::Upstream(Failure {
        cause: match is_timeout {
            true => Cause::Timeout,
            false => Cause::Error,
        },
        reused: false,
        answer_begun: false,
        request_sent: false,
        refused: false,
        level: Level::Error,
    })
}

/// What `work` comes to, unless the client goes away meanwhile and somebody is to `watch` for that.
pub async fn while_here<T>(
    client: &mut Client,
    watch: bool,
    work: impl Future<Output = T>,
) -> Result<T, Failed> {
    let mut work = std::pin::pin!(work);
    poll_fn(|cx| {
        if let Poll::Ready(result) = work.as_mut().poll(cx) {
            return Poll::Ready(Ok(result));
        }
        if watch && client.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(Failed::Client(None)));
        }
        Poll::Pending
    })
    .await
}

fn connect_options(ex: &mut Exchange, conf: &Conf) -> ConnectOpts {
    let mut options = ConnectOpts {
        bind: None,
        transparent: false,
        keepalive: conf.socket_keepalive,
        deadline_ms: Some(clock::now_ms() + conf.connect_timeout_ms),
    };
    if let Some(bind) = &conf.bind {
        options.transparent = bind.transparent;
        options.bind = bind.addr(ex, Exchange::log);
    }
    options
}

/// Reads until the head of a final response is complete.
async fn read_head(
    ex: &mut Exchange,
    client: &mut Client,
    conf: &Conf,
    conn: &mut UpstreamConn,
    failure: &mut Failure,
) -> Result<Framing, Failed> {
    let limits = HeadLimits::response(conf.buffer_size);
    let mut interim = 0;
    conn.set_deadline(Some(clock::now_ms() + conf.read_timeout_ms));
    loop {
        let chunk = poll_fn(|cx| {
            if let Poll::Ready(result) = conn.poll_read(cx) {
                return Poll::Ready(Ok(result));
            }
            if !conf.ignore_client_abort && client.poll_gone(cx).is_ready() {
                return Poll::Ready(Err(()));
            }
            Poll::Pending
        })
        .await;
        let Ok(chunk) = chunk else {
            return Err(Failed::Client(None));
        };
        let chunk = match chunk {
            Ok(chunk) if !chunk.is_empty() => chunk,
            other => {
                failure.cause = read_failed(ex, conn.timed_out(), other.err(), failure.level);
                return Err(Failed::Upstream(*failure));
            }
        };
        failure.answer_begun = true;
        failure.level = Level::Error;
        ex.response.buf.extend_from_slice(&chunk);
        if let Some(state) = ex.upstream.last_mut() {
            state.bytes_received += chunk.len() as u64;
        }
        drop(chunk);
        if let Some(framing) = parse(ex, client, conf, &limits, &mut interim, failure)? {
            return Ok(framing);
        }
        conn.set_deadline(Some(clock::now_ms() + conf.read_timeout_ms));
    }
}

/// Parses what has come; `None` needs more.
fn parse(
    ex: &mut Exchange,
    client: &mut Client,
    conf: &Conf,
    limits: &HeadLimits,
    interim: &mut u32,
    failure: &mut Failure,
) -> Result<Option<Framing>, Failed> {
    failure.cause = Cause::InvalidHeader;
    loop {
        let response = &mut ex.response;
        match h1_head::parse_response(&response.buf, limits, &mut response.upstream) {
            Ok(Parsed::Complete) => {}
            Ok(Parsed::Partial) => {
                failure.cause = Cause::Error;
                return Ok(None);
            }
            Err(error) => {
                let message = error.upstream_message(&ex.response.buf);
                ex.log(Level::Error, format_args!("{message} while {}", ex.doing));
                return Err(Failed::Upstream(*failure));
            }
        }
        let status = ex.response.upstream.status;
        match status {
            101 => {
                if asked_to_upgrade(ex, conf) {
                    return Ok(Some(Framing::None));
                }
                ex.log(
                    Level::Error,
                    format_args!("upstream sent unexpected status 101 while {}", ex.doing),
                );
                return Err(Failed::Upstream(*failure));
            }
            100..=199 => {
                *interim += 1;
                if *interim > INTERIM_MAX {
                    log_interim(ex);
                    return Err(Failed::Upstream(*failure));
                }
                early_hints::pass(ex, client);
                let len = ex.response.upstream.len;
                ex.response.buf.drain(..len);
                ex.response.upstream.clear();
                if ex.response.buf.is_empty() {
                    failure.cause = Cause::Error;
                    return Ok(None);
                }
            }
            _ => break,
        }
    }
    let method = ex.upstream_method;
    match framing::response(method, &ex.response.buf, &ex.response.upstream) {
        Ok(framing) => Ok(Some(framing)),
        Err(error) => {
            ex.log(
                Level::Error,
                format_args!("upstream sent invalid header: {error} while {}", ex.doing),
            );
            Err(Failed::Upstream(*failure))
        }
    }
}

/// Logs that the peer has sent more than [`INTERIM_MAX`] informational responses.
pub fn log_interim(ex: &Exchange) {
    ex.log(
        Level::Error,
        format_args!(
            "upstream sent too many informational responses while {}",
            ex.doing
        ),
    );
}

/// Whether the client asked for another protocol, and the upstream was told.
fn asked_to_upgrade(ex: &mut Exchange, conf: &Conf) -> bool {
    ex.request.field(Token::Upgrade).is_some() && head::passes_upgrade(ex, conf)
}

/// Logs a read that brought nothing, at `level` unless it took too long, and says what it means.
pub fn read_failed(
    ex: &Exchange,
    timed_out: bool,
    error: Option<io::Error>,
    level: Level,
) -> Cause {
    if timed_out {
        return log_io(ex, "", &io::ErrorKind::TimedOut.into(), Level::Error);
    }
    match error {
        Some(error) if error.get_ref().is_some_and(|inner| inner.is::<Broken>()) => {
            ex.log(level, format_args!("{error} while {}", ex.doing));
            Cause::Error
        }
        // What TLS finds wrong with what was received.
        Some(error) if error.kind() == io::ErrorKind::InvalidData => {
            ex.log(
                Level::Error,
                format_args!("SSL_read() failed (SSL: {error}) while {}", ex.doing),
            );
            Cause::Error
        }
        Some(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
            log_io(ex, "recv()", &error, level)
        }
        _ => {
            ex.log(
                level,
                format_args!("upstream prematurely closed connection while {}", ex.doing),
            );
            Cause::Error
        }
    }
}

/// Logs a failed operation in nginx's words and says what it means.
pub fn log_io(ex: &Exchange, operation: &str, error: &io::Error, level: Level) -> Cause {
    if error.kind() == io::ErrorKind::TimedOut {
        ex.log(
            Level::Error,
            format_args!(
                "upstream timed out (110: Connection timed out) while {}",
                ex.doing
            ),
        );
        return Cause::Timeout;
    }
    ex.log(
        level,
        format_args!("{operation} failed {} while {}", os_error(error), ex.doing),
    );
    Cause::Error
}

/// Appends the request's head and remembers the method it carries.
pub fn write_head(ex: &mut Exchange, conf: &Conf, pass: &Pass, body: BodyOut, out: &mut Vec<u8>) {
    head::write_request(ex, conf, pass, body, out);
    ex.upstream_method = match &conf.method {
        None => ex.request.method_kind(),
        Some(_) => {
            let end = memchr::memchr(b' ', out).unwrap_or(0);
            crate::http::message::Method::from_bytes(&out[..end])
        }
    };
}
