//! The bytes of a session, both ways, until it is over.

use std::cell::Cell;
use std::future::poll_fn;
use std::net::Shutdown;
use std::pin::pin;
use std::task::Poll;

use crate::base::clock;
use crate::observe::Level;
use crate::ring::{Chunk, Class, Expect, Recv, Socket};
use crate::stream::client::Client;
use crate::stream::session::Session;

use super::Conf;

/// Relays until the session is over, and says in the log how it ended.
pub async fn run(s: &mut Session, client: &mut Client, peer: &Socket, conf: &Conf) {
    let (early, recv) = client.take_input();
    let sock = &client.sock;
    let up = Lane::new(sock, peer, conf);
    let down = Lane::new(peer, sock, conf);
    {
        let mut upward = pin!(up.run(early, recv));
        let mut downward = pin!(down.run(Chunk::empty(), None));
        let (mut up_end, mut down_end) = (None, None);
        poll_fn(|cx| {
            if up_end.is_none()
                && let Poll::Ready(end) = upward.as_mut().poll(cx)
            {
                up_end = Some(end);
            }
            if down_end.is_none()
                && let Poll::Ready(end) = downward.as_mut().poll(cx)
            {
                down_end = Some(end);
            }
            let both = up_end.is_some() && down_end.is_some();
            let broken = [up_end, down_end].contains(&Some(End::Broken));
            let either = !conf.half_close && (up_end.is_some() || down_end.is_some());
            if both || broken || either {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
    finish(s, &up, &down, sock.timed_out() || peer.timed_out());
}

fn finish(s: &mut Session, up: &Lane<'_>, down: &Lane<'_>, timed_out: bool) {
    s.received += up.read.get();
    s.sent += down.sent.get();
    if let Some(state) = s.upstream.last_mut() {
        state.bytes_sent += up.sent.get();
        state.bytes_received += down.read.get();
        state.first_byte_ms = down.first_ms.get().map(|at| at - state.started_ms);
        state.session_ms = Some(clock::precise_ms().saturating_sub(state.started_ms));
    }
    let (received, sent) = (s.received, s.sent);
    let (from, to) = (down.read.get(), up.sent.get());
    if timed_out {
        s.log(
            Level::Info,
            format_args!("connection timed out (110: Connection timed out)"),
        );
        return;
    }
    let who = match down.ended.get() {
        true => "upstream",
        false => "client",
    };
    s.log_plain(
        Level::Info,
        format_args!(
            "{who} disconnected, bytes from/to client:{received}/{sent}, bytes from/to \
             upstream:{from}/{to}"
        ),
    );
}

/// How a direction ended.
#[derive(Clone, Copy, PartialEq)]
enum End {
    /// The source has sent everything, and it was passed on.
    Whole,
    /// One of the two connections failed.
    Broken,
}

/// One direction.
struct Lane<'a> {
    from: &'a Socket,
    to: &'a Socket,
    timeout_ms: u64,
    half_close: bool,
    read: Cell<u64>,
    sent: Cell<u64>,
    first_ms: Cell<Option<u64>>,
    ended: Cell<bool>,
}

impl<'a> Lane<'a> {
    fn new(from: &'a Socket, to: &'a Socket, conf: &Conf) -> Lane<'a> {
        Lane {
            from,
            to,
            timeout_ms: conf.timeout_ms,
            half_close: conf.half_close,
            read: Cell::new(0),
            sent: Cell::new(0),
            first_ms: Cell::new(None),
            ended: Cell::new(false),
        }
    }

    /// Passes bytes on until the source ends.
    async fn run(&self, early: Chunk, mut recv: Option<Recv>) -> End {
        if !early.is_empty() && !self.pass(early).await {
            return End::Broken;
        }
        loop {
            self.alive();
            let read = recv
                .take()
                .unwrap_or_else(|| self.from.recv(Expect::Later, Class::Small));
            match read.await {
                Ok(chunk) if chunk.is_empty() && self.from.timed_out() => return End::Broken,
                Ok(chunk) if chunk.is_empty() => {
                    self.ended.set(true);
                    if self.half_close {
                        self.to.shutdown(Shutdown::Write);
                    }
                    return End::Whole;
                }
                Ok(chunk) => {
                    self.read.set(self.read.get() + chunk.len() as u64);
                    if self.first_ms.get().is_none() {
                        self.first_ms.set(Some(clock::precise_ms()));
                    }
                    if !self.pass(chunk).await {
                        return End::Broken;
                    }
                }
                Err(_) => return End::Broken,
            }
        }
    }

    async fn pass(&self, chunk: Chunk) -> bool {
        self.alive();
        let sent = self.to.send(chunk).await.0;
        if let Ok(count) = sent {
            self.sent.set(self.sent.get() + count as u64);
        }
        sent.is_ok()
    }

    /// Whatever moves in either direction keeps both sides alive.
    fn alive(&self) {
        let deadline = Some(clock::now_ms() + self.timeout_ms);
        self.from.set_deadline(deadline);
        self.to.set_deadline(deadline);
    }
}
