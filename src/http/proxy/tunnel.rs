//! After `101 Switching Protocols`: bytes both ways, whatever they mean (WebSocket and others).

use std::future::poll_fn;
use std::task::Poll;

use crate::base::clock;
use crate::http::client::Client;
use crate::http::exchange::Exchange;
use crate::http::phases::Finish;
use crate::http::respond::Output;
use crate::observe::Level;
use std::net::Shutdown;

use crate::ring::{Chunk, Class, Expect, Socket};

use super::attempt::Answer;
use super::conf::Conf;

/// Passes the 101 to the client, then everything both sides send, until both have ended or
/// nothing moves for `proxy_read_timeout` (towards the client) or `proxy_send_timeout`.
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
    let mut peer = answer.kept.conn;
    let timeout_ms = conf.read_timeout_ms;
    let sent = {
        let down = Lane {
            timeout_ms,
            early: early.into(),
        };
        let up = Lane {
            timeout_ms,
            early: std::mem::take(&mut client.input).into(),
        };
        // The reads in flight are handed over: each lane owns its direction from here on.
        let from_client = client.take_recv();
        let from_peer = peer.take_recv();
        let mut up = std::pin::pin!(up.run(&client.sock, from_client, &peer.sock));
        let mut down = std::pin::pin!(down.run(&peer.sock, from_peer, &client.sock));
        let (mut up_done, mut down_done) = (None, None);
        poll_fn(|cx| {
            if up_done.is_none()
                && let Poll::Ready(n) = up.as_mut().poll(cx)
            {
                up_done = Some(n);
            }
            if down_done.is_none()
                && let Poll::Ready(n) = down.as_mut().poll(cx)
            {
                down_done = Some(n);
            }
            match (&up_done, &down_done) {
                (Some(up), Some(down)) => Poll::Ready((*up, *down)),
                // A lane that failed (not one that ended) takes the other with it.
                (Some((_, false)), None) | (None, Some((_, false))) => {
                    Poll::Ready((up_done.unwrap_or_default(), down_done.unwrap_or_default()))
                }
                _ => Poll::Pending,
            }
        })
        .await
    };
    let ((up, _), (down, _)) = sent;
    ex.response.body_bytes_sent += down;
    ex.response.bytes_sent += down;
    ex.request.length += up;
    if let Some(state) = ex.upstream.last_mut() {
        state.bytes_sent += up;
        state.bytes_received += down;
        state.response_length += down;
    }
    if client.sock.timed_out() || peer.sock.timed_out() {
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

/// One direction.
struct Lane {
    timeout_ms: u64,
    /// Bytes that were read together with a head.
    early: Chunk,
}

impl Lane {
    /// Passes bytes until the source ends, then ends the destination's reading side too. Returns
    /// how many, and `false` if it broke instead of ending.
    async fn run(self, from: &Socket, recv: Option<crate::ring::Recv>, to: &Socket) -> (u64, bool) {
        let mut sent = 0;
        let mut recv = recv;
        if !self.early.is_empty() {
            sent += self.early.len() as u64;
            if to.send(self.early).await.0.is_err() {
                return (0, false);
            }
        }
        loop {
            // Whatever moves in either direction keeps both sides alive.
            let deadline = Some(clock::now_ms() + self.timeout_ms);
            from.set_deadline(deadline);
            to.set_deadline(deadline);
            let read = recv
                .take()
                .unwrap_or_else(|| from.recv(Expect::Later, Class::Small));
            match read.await {
                Ok(chunk) if chunk.is_empty() => {
                    to.shutdown(Shutdown::Write);
                    return (sent, !from.timed_out());
                }
                Ok(chunk) => {
                    let n = chunk.len() as u64;
                    to.set_deadline(Some(clock::now_ms() + self.timeout_ms));
                    if to.send(chunk).await.0.is_err() {
                        return (sent, false);
                    }
                    sent += n;
                }
                Err(_) => return (sent, false),
            }
        }
    }
}
