//! After `101 Switching Protocols`: bytes both ways, whatever they mean (WebSocket and others).

mod stream;

use crate::http::client::Client;
use crate::http::exchange::Exchange;
use crate::http::phases::Finish;
use crate::http::respond::Output;
use crate::observe::Level;
use crate::relay::{self, End, Flows, Outcome, Stop};

use super::attempt::Answer;
use super::carrier::Carrier;
use super::conf::Conf;
use super::connection::Parts;

/// Passes the 101 to the client, then everything both sides send, until both have ended or
/// nothing moves for `proxy_read_timeout`.
pub async fn run(ex: &mut Exchange, client: &mut Client, answer: Answer, conf: &Conf) -> Finish {
    ex.doing = "proxying upgraded connection";
    ex.keepalive = false;
    ex.response.content_length = None;
    let early = ex.response.buf[answer.rest.clone()].to_vec();
    let Ok(mut output) = Output::start(ex, client).await else {
        return Finish::Truncated;
    };
    if output.flush(client).await.is_err() {
        return Finish::Truncated;
    }
    let Carrier::Connection(kept) = answer.carrier else {
        return Finish::Truncated;
    };
    let (moved, has_timed_out) = match client.stream_mut() {
        None => relay(client, kept.conn.into_parts(), early, conf).await,
        Some(_) => {
            let mut peer = kept.conn;
            let mut tunnel = stream::Tunnel::new(client, &mut peer, conf.read_timeout_ms);
            let outcome = tunnel.run(early).await;
            let moved = (tunnel.up, tunnel.down);
            if matches!(outcome, stream::Outcome::Failed) {
                client.reset();
            }
            (moved, matches!(outcome, stream::Outcome::TimedOut))
        }
    };
    let (up, down) = moved;
    ex.response.body_bytes_sent += down;
    ex.response.bytes_sent += down;
    ex.request.length += up;
    if let Some(state) = ex.upstream.last_mut() {
        state.bytes_sent += up;
        state.bytes_received += down;
        state.response_length += down;
    }
    if has_timed_out {
        ex.log(
            Level::Error,
            format_args!(
                "upstream timed out (110: Connection timed out) while {}",
                ex.doing
            ),
        );
    }
    ex.response.complete = true;
    Finish::Tunnel
}

/// Passes bytes between two sockets. How many there were, up and down, and whether nothing moved
/// for too long in the end.
async fn relay(
    client: &mut Client,
    peer: Parts,
    early: Vec<u8>,
    conf: &Conf,
) -> ((u64, u64), bool) {
    let flows = Flows::default();
    let Some(ends) = client.take_ends() else {
        return ((0, 0), false);
    };
    // The reads in flight are handed over: the relay owns both directions from here on.
    let from = End {
        recv: ends.recv,
        early: ends.early.into(),
        tls: ends.tls,
        ..End::new(ends.sock)
    };
    let to = End {
        recv: peer.recv,
        early: early.into(),
        tls: peer.tls,
        ..End::new(&peer.sock)
    };
    let conf = relay::Conf {
        idle_ms: conf.read_timeout_ms,
        half_close: true,
        upload_rate: 0,
        download_rate: 0,
    };
    let outcome = relay::relay(from, to, &conf, &flows, &Stop::default()).await;
    let moved = (flows.up.sent.get(), flows.down.sent.get());
    (moved, matches!(outcome, Outcome::TimedOut))
}
