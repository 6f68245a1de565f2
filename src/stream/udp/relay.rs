//! Datagrams between client and upstream, until the session is over.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::base::clock;
use crate::base::places::Places;
use crate::relay::{Pace, Stop};
use crate::ring::{BATCH, Batch, DatagramSocket, Readiness};
use crate::stream::session::Session;

use super::flow::{Flow, Flushed, is_too_long};
use super::queue::Queue;

/// How a session's relay has ended.
pub enum Ended {
    /// All datagrams have come and gone.
    Done,
    /// Nothing has come for `proxy_timeout`.
    TimedOut,
    /// The worker ends, and nothing is waited for.
    Shutdown,
    /// The server is no longer one of its group.
    Dropped,
    /// The upstream does not listen, or cannot be reached; `sending` tells which call said so.
    UpstreamFailed {
        /// Whether in sending; otherwise in receiving.
        sending: bool,
        /// What was said.
        error: io::Error,
    },
    /// The client cannot be sent to.
    ClientFailed(io::Error),
}

/// The settings of a session's relay.
pub struct Conf {
    /// Longest silence, in milliseconds (`proxy_timeout`).
    pub timeout_ms: u64,
    /// Pace of what the client sends (`proxy_upload_rate`).
    pub upload: Option<Box<Pace>>,
    /// Pace of what the upstream sends (`proxy_download_rate`).
    pub download: Option<Box<Pace>>,
    /// What goes before the first datagram: a PROXY protocol header.
    pub head: Vec<u8>,
    /// Whether another upstream may be tried if this one does not listen.
    pub keep: bool,
}

/// Batches that a session takes from its upstream before others have their turn.
const ROUNDS: usize = 4;

/// Relays between the client of `flow` and `peer`.
pub async fn run(
    s: &Session,
    flow: &Flow,
    peer: &Rc<DatagramSocket>,
    conf: Conf,
    stop: Option<&Stop>,
) -> Ended {
    flow.begin(peer, conf.timeout_ms, conf.upload.is_some(), conf.keep);
    let mut relay = Relay {
        places: &s.local.places,
        flow,
        peer,
        conf,
        stop,
        room_up: None,
        back: Queue::default(),
        room_back: None,
        readable: None,
        can_receive: false,
        received_ms: 0,
    };
    poll_fn(|cx| relay.poll(cx)).await
}

struct Relay<'a> {
    places: &'a Places,
    flow: &'a Flow,
    peer: &'a DatagramSocket,
    conf: Conf,
    stop: Option<&'a Stop>,
    /// The wait for room in the upstream's socket.
    room_up: Option<Readiness>,
    /// Answers that the client's socket had no room for.
    back: Queue,
    room_back: Option<Pin<Box<dyn Future<Output = io::Result<()>>>>>,
    readable: Option<Readiness>,
    /// There may be more than was taken.
    can_receive: bool,
    /// When the last answer came, by the coarse clock.
    received_ms: u64,
}

impl Relay<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        loop {
            let called = self.flow.poll_called(cx);
            if self.peer.timed_out() {
                return Poll::Ready(Ended::TimedOut);
            }
            if self.stop.is_some_and(|stop| stop.poll(cx)) {
                return Poll::Ready(Ended::Dropped);
            }
            let moved = self.pass_up(cx).and_then(|()| self.pass_back(cx));
            if let Some(ended) = moved.err().or_else(|| self.is_over()) {
                return Poll::Ready(ended);
            }
            if called.is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn is_over(&self) -> Option<Ended> {
        if self.flow.has_waiting() || !self.back.is_empty() {
            return None;
        }
        let progress = self.flow.progress();
        if progress.is_done() {
            return Some(Ended::Done);
        }
        (self.places.is_draining() && !progress.is_waiting()).then_some(Ended::Shutdown)
    }

    /// Sends what waits to the upstream.
    fn pass_up(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        let failed = |error| Ended::UpstreamFailed {
            sending: true,
            error,
        };
        if let Some(error) = self.flow.take_failure() {
            return Err(failed(error));
        }
        while self.flow.has_waiting() {
            if let Some(room) = &mut self.room_up {
                if Pin::new(room).poll(cx).is_pending() {
                    return Ok(());
                }
                self.room_up = None;
            }
            let mut most = usize::MAX;
            if let Some(pace) = &mut self.conf.upload {
                let touch = |pause_ms| self.flow.touch_after(pause_ms);
                if pace.poll(cx, touch).is_pending() {
                    return Ok(());
                }
                most = 1;
            }
            let before = self.flow.up_sent.get();
            match self.flow.flush(self.peer, &mut self.conf.head, most) {
                Flushed::All => {}
                Flushed::Full => self.room_up = Some(self.peer.writable()),
                Flushed::Failed(error) => return Err(failed(error)),
            }
            if let Some(pace) = &mut self.conf.upload {
                pace.passed(self.flow.up_sent.get() - before);
            }
        }
        Ok(())
    }

    /// Sends to the client what comes from the upstream.
    fn pass_back(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        let mut rounds = 0;
        loop {
            if !self.has_room_back(cx)? || self.flow.progress().is_done() {
                return Ok(());
            }
            if let Some(pace) = &mut self.conf.download {
                let touch = |pause_ms| self.flow.touch_after(pause_ms);
                if pace.poll(cx, touch).is_pending() {
                    return Ok(());
                }
            }
            // After some rounds it waits for what is there: others have their turn.
            if (!self.can_receive || rounds == ROUNDS) && !self.is_readable(cx)? {
                return Ok(());
            }
            rounds += 1;
            let most = self.most();
            match self.peer.receive(most) {
                Ok(batch) => {
                    self.can_receive = batch.is_full() && most > 1;
                    self.answer(&batch)?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.can_receive = false,
                Err(error) => {
                    return Err(Ended::UpstreamFailed {
                        sending: false,
                        error,
                    });
                }
            }
        }
    }

    /// How many answers to take at once. A single one is taken more cheaply by itself, and few
    /// sessions have more.
    fn most(&mut self) -> usize {
        let now_ms = clock::now_ms();
        let is_lively = std::mem::replace(&mut self.received_ms, now_ms) == now_ms;
        match is_lively && self.conf.download.is_none() {
            true => BATCH,
            false => 1,
        }
    }

    fn is_readable(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
        let wait = self.readable.get_or_insert_with(|| self.peer.readable());
        let Poll::Ready(result) = Pin::new(wait).poll(cx) else {
            return Ok(false);
        };
        self.readable = None;
        if self.peer.timed_out() {
            return Err(Ended::TimedOut);
        }
        result
            .map(|()| true)
            .map_err(|error| Ended::UpstreamFailed {
                sending: false,
                error,
            })
    }

    /// Sends to the client; what finds no room is queued.
    fn answer(&mut self, batch: &Batch) -> Result<(), Ended> {
        let bytes = batch.iter().map(<[u8]>::len).sum();
        self.flow.answered(batch.len(), bytes);
        if let Some(pace) = &mut self.conf.download {
            pace.passed(bytes as u64);
        }
        let mut rest = batch.iter();
        while rest.len() > 0 {
            let (sent, result) = self.flow.reply(rest.clone());
            rest.by_ref().take(sent).for_each(drop);
            match result {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    rest.by_ref().for_each(|datagram| {
                        self.back.push(datagram);
                    });
                }
                // One that is too long for the way is lost on it.
                Err(error) if is_too_long(&error) => drop(rest.next()),
                Err(error) => return Err(Ended::ClientFailed(error)),
            }
        }
        Ok(())
    }

    /// Sends what is queued for the client; false if some of it has to wait.
    fn has_room_back(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
        while !self.back.is_empty() {
            let replies = self.flow.replies.clone();
            let wait = self
                .room_back
                .get_or_insert_with(|| Box::pin(async move { replies.writable().await }));
            let Poll::Ready(result) = wait.as_mut().poll(cx) else {
                return Ok(false);
            };
            self.room_back = None;
            result.map_err(Ended::ClientFailed)?;
            let (sent, result) = self.flow.reply(self.back.iter());
            (0..sent).for_each(|_| drop(self.back.pop()));
            match result {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if is_too_long(&error) => drop(self.back.pop()),
                Err(error) => return Err(Ended::ClientFailed(error)),
                Ok(()) => {}
            }
        }
        Ok(true)
    }
}
