//! `proxy_pass`: from a session to a peer, and the bytes both ways.
//!
//! [`connect`] is the loop of attempts: the first server that takes the connection has the session,
//! and the client notices nothing of those that did not. Then [`relay()`] moves the bytes.

pub mod conf;
mod connect;
mod dynamic;

pub use conf::{Conf, Pass, ROWS, Raw, SSL_ROWS};
pub use connect::{PeerConn, Tries};

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;

use crate::base::clock;
use crate::base::proxy_protocol::{self, Transport};
use crate::observe::{Level, os_error};
use crate::relay::{self, End as RelayEnd, Flows, Outcome, Side, Stop};
use crate::ring::Socket;
use crate::upstream::{Group, Moment, Pick};

use super::client::Client;
use super::drops::Watch;
use super::modules::log;
use super::serve::End;
use super::session::Session;

use self::conf::{ProtocolVersion, Rate};

/// Passes the session to an upstream.
///
/// # Errors
/// The session's status: 502 where no server takes it, 500 where it cannot be tried.
pub async fn run(s: &mut Session, client: &mut Client, pass: &Pass) -> Result<(), End> {
    let generation = s.generation();
    let conf = &generation.server(s.server).proxy;
    client.listen();
    // What it takes to connect is large, and gone before the bytes move.
    let connecting = async {
        let mut tries = Tries::new(s, pass, conf).await?;
        let (pick, peer) = tries.connect::<Socket>(s, conf).await?;
        Ok::<_, End>((Arc::clone(tries.group()), pick, peer))
    };
    let (group, mut pick, peer) = Box::pin(connecting).await?;
    relay(s, client, peer, &group, &mut pick, conf).await;
    note_times(s, &mut pick);
    // The pick's place is given back. That the peer took the connection was told when it did;
    // since then it may have failed others, so nothing is said about it now.
    Ok(())
}

/// Moves the bytes until the session is over, and says in the log how it ended.
async fn relay(
    s: &mut Session,
    client: &mut Client,
    mut peer: PeerConn<Socket>,
    group: &Arc<Group>,
    pick: &mut Pick,
    conf: &Conf,
) {
    let (early, recv) = client.take_input();
    let flows = Flows::default();
    let outcome = {
        let from = RelayEnd {
            recv,
            early,
            tls: client.tls.take(),
            ..RelayEnd::new(&client.sock)
        };
        let to = match peer.tls.take() {
            None => RelayEnd {
                first: header(s, conf, Transport::Stream).into(),
                ..RelayEnd::new(&peer.sock)
            },
            // The header came before the handshake.
            Some(begun) => RelayEnd {
                early: begun.plain.into(),
                tls: Some(begun.transport),
                ..RelayEnd::new(&peer.sock)
            },
        };
        if !to.early.is_empty() {
            flows.down.first_byte_ms.set(Some(clock::precise_ms()));
        }
        let never = Stop::default();
        let watch = conf
            .session_drop
            .then(|| s.local.sessions.watch(group, pick));
        let stop = watch.as_ref().map_or(&never, Watch::stop);
        let relaying = {
            // What is borrowed would be kept as long as the bytes move, were it not in a block.
            let conf = relay::Conf {
                idle_ms: conf.timeout_ms,
                half_close: conf.half_close,
                upload_rate: rate(s, conf.upload_rate.as_ref()),
                download_rate: rate(s, conf.download_rate.as_ref()),
            };
            relay::relay(from, to, &conf, &flows, stop)
        };
        let mut relaying = pin!(relaying);
        let unfinished = Unfinished { s, flows: &flows };
        let outcome = poll_fn(|cx| {
            let ended = relaying.as_mut().poll(cx);
            if pick.awaits(Moment::FirstByte) {
                note_first_byte(unfinished.s, &flows, pick);
            }
            ended
        })
        .await;
        unfinished.forget();
        outcome
    };
    count(s, &flows);
    log_end(s, &outcome);
}

/// A session whose bytes are moving. When it is dropped like that, because
/// `worker_shutdown_timeout` has passed, it gets its lines all the same.
struct Unfinished<'a> {
    s: &'a mut Session,
    flows: &'a Flows,
}

impl Unfinished<'_> {
    /// It has ended by itself.
    fn forget(self) {
        std::mem::forget(self);
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.s.local.places.is_draining() {
            return;
        }
        count(self.s, self.flows);
        self.s.log(Level::Info, format_args!("shutdown timeout"));
        self.s.status = 200;
        log::write(self.s);
    }
}

/// Tells the balancer how long the peer took to begin, while the session goes on.
fn note_first_byte(s: &Session, flows: &Flows, pick: &mut Pick) {
    if let Some(at_ms) = flows.down.first_byte_ms.get()
        && let Some(state) = s.upstream.last()
    {
        pick.note(Moment::FirstByte, at_ms.saturating_sub(state.started_ms));
    }
}

/// Tells the balancer how long the peer took.
pub fn note_times(s: &Session, pick: &mut Pick) {
    let Some(state) = s.upstream.last() else {
        return;
    };
    for (moment, ms) in [
        (Moment::FirstByte, state.first_byte_ms),
        (Moment::LastByte, state.session_ms),
    ] {
        if let Some(ms) = ms {
            pick.note(moment, ms);
        }
    }
}

/// What the peer gets before anything else: a PROXY protocol header, or nothing.
pub fn header(s: &Session, conf: &Conf, transport: Transport) -> Vec<u8> {
    let mut out = Vec::new();
    let (source, destination) = (s.remote.addr(), s.local_addr);
    match conf.protocol {
        None => {}
        Some(ProtocolVersion::V1) => proxy_protocol::write_v1(&mut out, source, destination),
        Some(ProtocolVersion::V2) => {
            proxy_protocol::write_v2(&mut out, source, destination, transport);
        }
    }
    out
}

/// The bytes per second that a template comes to, 0 for as many as come.
pub fn rate(s: &mut Session, template: Option<&Rate>) -> u64 {
    match template {
        None => 0,
        Some(Rate::Fixed(rate)) => *rate,
        Some(Rate::Variable(template)) => template.with(s, |s, value| {
            let rate = crate::config::value::parse_size(value);
            if rate.is_none() && !value.is_empty() {
                let value = String::from_utf8_lossy(value);
                s.log(Level::Error, format_args!("invalid size \"{value}\""));
            }
            rate.unwrap_or(0)
        }),
    }
}

/// Takes the figures of the relay over.
fn count(s: &mut Session, flows: &Flows) {
    let Flows { up, down } = flows;
    s.received += up.received.get();
    s.sent += down.sent.get();
    if let Some(state) = s.upstream.last_mut() {
        state.bytes_sent += up.sent.get();
        state.bytes_received += down.received.get();
        let since = |at: u64| at.saturating_sub(state.started_ms);
        state.first_byte_ms = down.first_byte_ms.get().map(since);
        state.session_ms = Some(since(clock::precise_ms()));
    }
}

/// nginx's lines about the end of a session.
fn log_end(s: &mut Session, outcome: &Outcome) {
    let by = match outcome {
        Outcome::Closed { by } => *by,
        Outcome::Failed {
            side,
            sending,
            error,
        } => {
            let (level, doing) = match (side, sending) {
                (Side::Client, false) => (Level::Info, "proxying and reading from client"),
                (Side::Client, true) => (Level::Info, "proxying and sending to client"),
                (Side::Upstream, false) => (Level::Error, "proxying and reading from upstream"),
                (Side::Upstream, true) => (Level::Error, "proxying and sending to upstream"),
            };
            s.doing = doing;
            if relay::is_broken(error) {
                s.log(level, format_args!("SSL_read() failed (SSL: {error})"));
            } else {
                let call = if *sending { "send()" } else { "recv()" };
                s.log(level, format_args!("{call} failed {}", os_error(error)));
            }
            if *sending {
                return;
            }
            *side
        }
        Outcome::TimedOut => {
            s.log(
                Level::Info,
                format_args!("connection timed out (110: Connection timed out)"),
            );
            return;
        }
        Outcome::Stopped => {
            s.log(
                Level::Info,
                format_args!("session dropped, its server is gone"),
            );
            return;
        }
    };
    let who = match by {
        Side::Client => "client",
        Side::Upstream => "upstream",
    };
    let (received, sent) = (s.received, s.sent);
    let (from, to) = s
        .upstream
        .last()
        .map_or((0, 0), |state| (state.bytes_received, state.bytes_sent));
    s.log_plain(
        Level::Info,
        format_args!(
            "{who} disconnected, bytes from/to client:{received}/{sent}, bytes from/to \
             upstream:{from}/{to}"
        ),
    );
}
