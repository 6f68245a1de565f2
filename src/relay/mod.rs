//! Bytes between two sockets, both ways, until both have ended.
//!
//! Each direction is a [`lane`]: it begins by receiving into the worker's buffers and sending from
//! them, moves to splice(2) when it proves bulky ([`gauge`]) and back when it calms down. A lane
//! that waits holds neither a buffer nor a pipe, and one that is held up by its destination holds
//! two buffers or what is left in one pipe, and reads no more. Where an end is encrypted there is
//! no pipe, and every byte passes through the record layer ([`sealed`]).

mod gauge;
mod lane;
mod pace;
mod sealed;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use crate::base::clock;
use crate::ring::{self, Chunk, Recv, Socket};
use crate::tls::Transport;

use gauge::Gauge;
use lane::{Ended, Lane};
pub use pace::Pace;
use sealed::Seals;

/// What both directions keep to.
#[derive(Clone, Copy, Debug)]
pub struct Conf {
    /// Longest time in which nothing moves in either direction, in milliseconds
    /// (`proxy_timeout`).
    pub idle_ms: u64,
    /// Whether the end of one direction leaves the other one going (`proxy_half_close`). Otherwise
    /// the relay ends as soon as what came before the first end has been sent.
    pub half_close: bool,
    /// Bytes per second from the client (`proxy_upload_rate`), 0 for as many as come.
    pub upload_rate: u64,
    /// Bytes per second from the upstream (`proxy_download_rate`), 0 for as many as come.
    pub download_rate: u64,
}

/// One of the two ends, and what the caller has already done with it.
pub struct End<'a> {
    /// The connection. Nobody else sends or receives on it, or sets its deadline, while the relay
    /// runs.
    pub sock: &'a Socket,
    /// A receive that is under way. What it brings follows `early`.
    pub recv: Option<Recv>,
    /// Bytes that have been received from here and are to be passed on first. They count as
    /// received.
    pub early: Chunk,
    /// Bytes to be sent to here before anything else (a PROXY protocol header).
    pub first: Chunk,
    /// What encrypts the connection, if anything does. `early` and `first` are plain, `recv` is
    /// not.
    pub tls: Option<Box<Transport>>,
}

impl<'a> End<'a> {
    /// An end with which nothing has been done.
    pub fn new(sock: &'a Socket) -> End<'a> {
        End {
            sock,
            recv: None,
            early: Chunk::empty(),
            first: Chunk::empty(),
            tls: None,
        }
    }
}

/// Figures of one direction, current while the relay runs.
#[derive(Debug, Default)]
pub struct Flow {
    /// Bytes received from the source, early ones included.
    pub received: Cell<u64>,
    /// Bytes sent to the destination, [`End::first`] included.
    pub sent: Cell<u64>,
    /// When the first byte was received, in milliseconds of [`clock::precise_ms`]. Bytes that were
    /// early came before: their time is the caller's to set.
    pub first_byte_ms: Cell<Option<u64>>,
}

/// Figures of both directions.
#[derive(Debug, Default)]
pub struct Flows {
    /// From the client to the upstream.
    pub up: Flow,
    /// From the upstream to the client.
    pub down: Flow,
}

/// Ends a relay from outside.
#[derive(Default)]
pub struct Stop {
    is_asked: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl Stop {
    /// Lets the relay end with [`Outcome::Stopped`] at its next turn, or at once if it has not
    /// begun.
    pub fn stop(&self) {
        self.is_asked.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Whether [`Stop::stop`] was called.
    pub fn is_asked(&self) -> bool {
        self.is_asked.get()
    }

    /// As [`Stop::is_asked`]; if not yet, the task is woken when it is.
    pub fn poll(&self, cx: &mut Context<'_>) -> bool {
        let waker = self.waker.take();
        let known = waker.filter(|waker| waker.will_wake(cx.waker()));
        self.waker.set(known.or_else(|| Some(cx.waker().clone())));
        self.is_asked.get()
    }
}

impl std::fmt::Debug for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stop({})", self.is_asked.get())
    }
}

/// Whom something came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Who connected to us.
    Client,
    /// Whom we connected to.
    Upstream,
}

/// How a relay has ended. Both sockets are still open, and the caller's to drop.
#[derive(Debug)]
pub enum Outcome {
    /// In order, and nothing is lost: both directions have ended or, without
    /// [`Conf::half_close`], one has.
    Closed {
        /// Whose end was the last one that it took.
        by: Side,
    },
    /// A connection has failed. The other one has been reset, so that its peer knows that what it
    /// got may not be all.
    Failed {
        /// Which of them.
        side: Side,
        /// Whether in sending; otherwise in receiving.
        sending: bool,
        /// How.
        error: io::Error,
    },
    /// Nothing has moved for [`Conf::idle_ms`]. Both connections have been shut down.
    TimedOut,
    /// By [`Stop::stop`].
    Stopped,
}

/// Whether the peer has sent what is no TLS, where there should be some.
pub fn is_broken(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidData
}

/// Passes on what both sides send until [`Outcome`]. It begins at once; the result is to be
/// awaited, and may be dropped only together with both sockets.
///
/// The deadlines of both sockets are used for [`Conf::idle_ms`].
pub fn relay<'a>(
    client: End<'a>,
    upstream: End<'a>,
    conf: &Conf,
    flows: &'a Flows,
    stop: &'a Stop,
) -> Relay<'a> {
    let gauges = match (&client.tls, &upstream.tls) {
        (None, None) => <[Gauge; 2]>::default(),
        _ => [Gauge::without_pipe(), Gauge::without_pipe()],
    };
    relay_gauged(client, upstream, conf, flows, stop, gauges)
}

fn relay_gauged<'a>(
    mut client: End<'a>,
    mut upstream: End<'a>,
    conf: &Conf,
    flows: &'a Flows,
    stop: &'a Stop,
    [up, down]: [Gauge; 2],
) -> Relay<'a> {
    let link = Link::new(&mut client, &mut upstream, conf, flows);
    let paces = [conf.upload_rate, conf.download_rate].map(Pace::new);
    let [up_pace, down_pace] = paces;
    let up = Lane::new(
        link.way(Side::Client),
        upstream.first,
        client.early,
        client.recv,
        (up, up_pace),
    );
    let down = Lane::new(
        link.way(Side::Upstream),
        client.first,
        upstream.early,
        upstream.recv,
        (down, down_pace),
    );
    Relay {
        link,
        up,
        down,
        half_close: conf.half_close,
        stop,
    }
}

/// A relay under way. See [`relay`].
#[must_use = "it goes on only while it is awaited"]
pub struct Relay<'a> {
    link: Link<'a>,
    up: Lane,
    down: Lane,
    half_close: bool,
    stop: &'a Stop,
}

impl Future for Relay<'_> {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let this = self.get_mut();
        if this.stop.poll(cx) {
            return Poll::Ready(Outcome::Stopped);
        }
        for from in [Side::Client, Side::Upstream] {
            let lane = match from {
                Side::Client => &mut this.up,
                Side::Upstream => &mut this.down,
            };
            if lane.has_ended() {
                continue;
            }
            if let Poll::Ready(ended) = lane.poll(cx, this.link.way(from))
                && let Some(outcome) = this.end(from, ended)
            {
                this.up.settle(this.link.way(Side::Client));
                this.down.settle(this.link.way(Side::Upstream));
                this.say_farewell(&outcome);
                return Poll::Ready(outcome);
            }
        }
        if let Some(seals) = &this.link.seals {
            seals.borrow_mut().rest();
        }
        Poll::Pending
    }
}

impl Relay<'_> {
    /// What the end of one direction means for the whole.
    fn end(&self, from: Side, ended: Ended) -> Option<Outcome> {
        let both = self.up.has_ended() && self.down.has_ended();
        self.link.end(from, ended, both || !self.half_close)
    }

    /// Tells who has ended the relay what there is to say in TLS, unless it does not listen.
    fn say_farewell(&self, outcome: &Outcome) {
        let side = match outcome {
            Outcome::Closed { by } => *by,
            Outcome::Failed { side, error, .. } if is_broken(error) => *side,
            _ => return,
        };
        let (lane, way) = match side {
            Side::Client => (&self.down, self.link.way(Side::Upstream)),
            Side::Upstream => (&self.up, self.link.way(Side::Client)),
        };
        if !lane.is_sending()
            && let Some(words) = way.farewell()
            && !words.is_empty()
        {
            // It goes on by itself, and the connection closes behind it.
            drop(way.to.send(words));
        }
    }
}

impl Side {
    /// The side across.
    pub fn other(self) -> Side {
        match self {
            Side::Client => Side::Upstream,
            Side::Upstream => Side::Client,
        }
    }
}

/// What both lanes share.
struct Link<'a> {
    client: &'a Socket,
    upstream: &'a Socket,
    flows: &'a Flows,
    idle_ms: u64,
    /// Lanes that splice.
    splicing: Cell<u8>,
    /// Of [`ring::wake_at_sweep`].
    sweep: Cell<u64>,
    /// What encrypts the connections, where anything does.
    seals: Option<Box<RefCell<Seals>>>,
}

impl<'a> Link<'a> {
    /// Between the two ends, and the time of [`Conf::idle_ms`] begins.
    fn new(
        client: &mut End<'a>,
        upstream: &mut End<'a>,
        conf: &Conf,
        flows: &'a Flows,
    ) -> Link<'a> {
        let link = Link {
            client: client.sock,
            upstream: upstream.sock,
            flows,
            idle_ms: conf.idle_ms,
            splicing: Cell::new(0),
            sweep: Cell::new(0),
            seals: Seals::new([client.tls.take(), upstream.tls.take()]),
        };
        link.touch();
        link
    }

    fn way(&self, from: Side) -> Way<'_> {
        let (source, to, flow) = match from {
            Side::Client => (self.client, self.upstream, &self.flows.up),
            Side::Upstream => (self.upstream, self.client, &self.flows.down),
        };
        Way {
            side: from,
            from: source,
            to,
            flow,
            link: self,
        }
    }

    fn other(&self, side: Side) -> &'a Socket {
        match side {
            Side::Client => self.upstream,
            Side::Upstream => self.client,
        }
    }

    /// What the end of one direction means for the whole; `is_all` if it was the last to end.
    fn end(&self, from: Side, ended: Ended, is_all: bool) -> Option<Outcome> {
        if self.client.timed_out() || self.upstream.timed_out() {
            return Some(Outcome::TimedOut);
        }
        let failed = |side, sending, error| {
            self.other(side).reset();
            Some(Outcome::Failed {
                side,
                sending,
                error,
            })
        };
        match ended {
            Ended::Received(Err(error)) => failed(from, false, error),
            Ended::Sending(error) => failed(from.other(), true, error),
            Ended::Received(Ok(())) if is_all => Some(Outcome::Closed { by: from }),
            Ended::Received(Ok(())) => {
                self.way(from).to.shutdown(Shutdown::Write);
                None
            }
        }
    }

    /// Something has moved.
    fn touch(&self) {
        self.touch_for(0);
    }

    /// As [`Link::touch`], and nothing will move for a time by our own will.
    fn touch_for(&self, more_ms: u64) {
        let end = clock::now_ms()
            .saturating_add(self.idle_ms)
            .saturating_add(more_ms);
        self.client.set_deadline(Some(end));
        self.upstream.set_deadline(Some(end));
    }

    /// Lets the relay be polled before long even if nothing comes; false if that is not to be had.
    fn is_looked_after(&self, cx: &Context<'_>) -> bool {
        let mut sweep = self.sweep.get();
        let is_asked = ring::wake_at_sweep(cx, &mut sweep);
        self.sweep.set(sweep);
        is_asked
    }

    /// One lane more, or less, splices: the sockets are non-blocking while any does.
    fn splice(&self, on: bool) {
        let before = self.splicing.get();
        let after = if on { before + 1 } else { before - 1 };
        self.splicing.set(after);
        if before == 0 || after == 0 {
            self.client.set_nonblocking(on);
            self.upstream.set_nonblocking(on);
        }
    }
}

/// One direction's view of the [`Link`].
#[derive(Clone, Copy)]
struct Way<'a> {
    /// The source.
    side: Side,
    from: &'a Socket,
    to: &'a Socket,
    flow: &'a Flow,
    link: &'a Link<'a>,
}

impl Way<'_> {
    fn has_received(&self, count: u64) {
        let before = self.flow.received.get();
        self.flow.received.set(before + count);
        if before == 0 && self.flow.first_byte_ms.get().is_none() {
            self.flow.first_byte_ms.set(Some(clock::precise_ms()));
        }
        self.link.touch();
    }

    fn has_sent(&self, count: u64) {
        self.flow.sent.set(self.flow.sent.get() + count);
        self.link.touch();
    }
}
