//! A tunnel whose client has a stream of HTTP/2 (RFC 8441): bytes one way, DATA the other.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use crate::base::clock;
use crate::http::client::Client;
use crate::http::proxy::connection::UpstreamConn;
use crate::ring::Expect;

/// How a tunnel has ended.
#[derive(Debug)]
pub enum Outcome {
    /// Both directions have ended in order.
    Closed,
    /// One of them has failed: the other is to be cut too.
    Failed,
    /// Nothing has moved for as long as it may.
    TimedOut,
}

/// A tunnel under way.
pub struct Tunnel<'a> {
    /// One end.
    pub client: &'a mut Client,
    /// The other.
    pub peer: &'a mut UpstreamConn,
    /// How long nothing may move, in milliseconds.
    pub idle_ms: u64,
    /// Bytes passed from the client.
    pub up: u64,
    /// Bytes passed to the client.
    pub down: u64,
    has_ended: [bool; 2],
}

/// Anything that cannot go on.
struct Broken;

impl From<io::Error> for Broken {
    fn from(_: io::Error) -> Self {
        Broken
    }
}

impl<'a> Tunnel<'a> {
    /// Between these two, with nothing in flight to either.
    pub fn new(client: &'a mut Client, peer: &'a mut UpstreamConn, idle_ms: u64) -> Self {
        Tunnel {
            client,
            peer,
            idle_ms,
            up: 0,
            down: 0,
            has_ended: [false; 2],
        }
    }

    /// Passes on what both send, `early` to the client first, until both have ended.
    pub async fn run(&mut self, early: Vec<u8>) -> Outcome {
        self.touch();
        if !early.is_empty() {
            self.down += early.len() as u64;
            self.client.start(early, self.idle_ms);
        }
        poll_fn(|cx| {
            let (up, down) = (self.poll_up(cx), self.poll_down(cx));
            if self.peer.timed_out() {
                return Poll::Ready(Outcome::TimedOut);
            }
            if up.is_err() || down.is_err() {
                return Poll::Ready(Outcome::Failed);
            }
            if self.has_ended == [true; 2] && !self.peer.is_sending() {
                return Poll::Ready(Outcome::Closed);
            }
            Poll::Pending
        })
        .await
    }

    fn touch(&self) {
        self.peer.set_deadline(Some(clock::now_ms() + self.idle_ms));
    }

    /// From the client, until there is nothing to do.
    fn poll_up(&mut self, cx: &mut Context<'_>) -> Result<(), Broken> {
        while !self.has_ended[0] {
            match self.peer.poll_sent(cx) {
                Poll::Ready(sent) => drop(sent?),
                Poll::Pending => return Ok(()),
            }
            let Poll::Ready(read) = self.client.poll_read(cx, Expect::Later) else {
                return Ok(());
            };
            let read = read?;
            self.touch();
            if read.is_empty() {
                self.has_ended[0] = true;
                self.peer.end_sending();
            } else {
                self.up += read.len() as u64;
                self.peer.send(read.to_vec());
            }
        }
        Ok(())
    }

    /// To the client, until there is nothing to do.
    fn poll_down(&mut self, cx: &mut Context<'_>) -> Result<(), Broken> {
        while !self.has_ended[1] {
            match self.client.poll_sent(cx) {
                Poll::Ready(sent) => sent?,
                Poll::Pending => return Ok(()),
            }
            let Poll::Ready(read) = self.peer.poll_read(cx) else {
                // Whether the client has gone shows only here while it sends nothing.
                return match self.client.poll_gone(cx) {
                    Poll::Ready(()) => Err(Broken),
                    Poll::Pending => Ok(()),
                };
            };
            let read = read?;
            if read.is_empty() {
                if self.peer.timed_out() {
                    return Ok(());
                }
                self.has_ended[1] = true;
                self.client.end_response();
            } else {
                self.down += read.len() as u64;
                self.client.start_chunk(read, self.idle_ms);
            }
            self.touch();
        }
        Ok(())
    }
}
