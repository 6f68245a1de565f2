//! One direction: receive and send, or splice.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::ring::{Chunk, Class, Expect, Pipe, Readiness, Recv, Send};

use super::Way;
use super::gauge::{Gauge, Mode};
use super::pace::Pace;

/// One direction of a relay.
pub struct Lane {
    pass: Pass,
    gauge: Gauge,
    pace: Option<Box<Pace>>,
}

/// How a direction has ended, with everything it had received passed on if that was possible.
#[derive(Debug)]
pub enum Ended {
    /// By the source's end, or its failure.
    Received(io::Result<()>),
    /// By the destination's failure.
    Sending(io::Error),
}

enum Pass {
    Copy(Copying),
    Splice(Splicing),
    Ended,
}

/// Through the worker's buffers. A read is always in flight, unless what an earlier one brought
/// still waits for its turn to be sent.
struct Copying {
    recv: Option<Recv>,
    send: Option<Send<Chunk>>,
    /// Received while `send` is under way; goes next.
    next: Chunk,
    /// The source has ended, or failed.
    ended: Option<io::Result<()>>,
}

/// Through a pipe, which is here only while something is in it.
struct Splicing {
    pipe: Option<Pipe>,
    wait: Option<Readiness>,
    /// Bytes since others had their turn.
    turn: u64,
}

/// Bytes after which others have their turn, when nothing has made the lane wait.
const TURN_BYTES: u64 = 2 << 20;

/// What follows a mode that has not ended the direction.
enum Step {
    Ended(Ended),
    /// To the other mode.
    Switch,
}

impl Lane {
    /// Begins with what is to be sent first, then with what was received early.
    pub fn new(
        way: Way<'_>,
        first: Chunk,
        early: Chunk,
        recv: Option<Recv>,
        (gauge, pace): (Gauge, Option<Box<Pace>>),
    ) -> Lane {
        if !early.is_empty() {
            let received = &way.flow.received;
            received.set(received.get() + early.len() as u64);
        }
        let send = (!first.is_empty()).then(|| way.send(first));
        let recv = recv.or_else(|| {
            let waits = early.is_empty();
            waits.then(|| way.from.recv(Expect::Later, Class::Stream))
        });
        Lane {
            pass: Pass::Copy(Copying {
                recv,
                send,
                next: early,
                ended: way.is_closed().then_some(Ok(())),
            }),
            gauge,
            pace,
        }
    }

    pub fn has_ended(&self) -> bool {
        matches!(self.pass, Pass::Ended)
    }

    /// Whether something is on its way to the destination.
    pub fn is_sending(&self) -> bool {
        match &self.pass {
            Pass::Copy(copy) => copy.send.is_some(),
            Pass::Splice(splice) => splice.pipe.is_some(),
            Pass::Ended => false,
        }
    }

    /// Counts what has been sent and not been noticed, for a relay that is over: the peer may have
    /// had its last bytes and closed before the send was looked at.
    pub fn settle(&mut self, way: Way<'_>) {
        if let Pass::Copy(copy) = &mut self.pass
            && let Some(send) = &mut copy.send
            && let Some((result, bytes)) = send.try_take()
        {
            copy.send = None;
            // Whether it failed does not matter any more.
            let _ = way.sent(result, bytes);
        }
    }

    /// Moves what can be moved. Not to be called again once it has ended.
    pub fn poll(&mut self, cx: &mut Context<'_>, way: Way<'_>) -> Poll<Ended> {
        loop {
            let step = match &mut self.pass {
                Pass::Copy(copy) => copy.poll(cx, way, &mut self.gauge, &mut self.pace),
                Pass::Splice(splice) => splice.poll(cx, way, &mut self.gauge, &mut self.pace),
                Pass::Ended => return Poll::Pending,
            };
            match step {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Step::Ended(ended)) => {
                    if matches!(self.pass, Pass::Splice(_)) {
                        way.link.splice(false);
                    }
                    self.pass = Pass::Ended;
                    return Poll::Ready(ended);
                }
                Poll::Ready(Step::Switch) => self.switch(way),
            }
        }
    }

    /// Neither mode has anything of the other's in hand when it switches: no read in flight, no
    /// bytes unsent.
    fn switch(&mut self, way: Way<'_>) {
        self.pass = match &self.pass {
            Pass::Copy(_) => {
                way.link.splice(true);
                Pass::Splice(Splicing {
                    pipe: None,
                    wait: None,
                    turn: 0,
                })
            }
            _ => {
                way.link.splice(false);
                Pass::Copy(Copying {
                    recv: Some(way.from.recv(Expect::Later, self.gauge.class())),
                    send: None,
                    next: Chunk::empty(),
                    ended: None,
                })
            }
        };
    }
}

/// How many bytes may go now.
fn poll_pace(cx: &mut Context<'_>, way: Way<'_>, pace: &mut Option<Box<Pace>>) -> Poll<u64> {
    match pace {
        None => Poll::Ready(u64::MAX),
        Some(pace) => pace.poll(cx, |ms| way.link.touch_for(ms)),
    }
}

impl Copying {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        way: Way<'_>,
        gauge: &mut Gauge,
        pace: &mut Option<Box<Pace>>,
    ) -> Poll<Step> {
        loop {
            if let Err(error) = self.poll_send(cx, way) {
                return Poll::Ready(Step::Ended(Ended::Sending(error)));
            }
            self.poll_recv(cx, way, gauge);
            if self.send.is_some() {
                return Poll::Pending;
            }
            if !self.next.is_empty() {
                let Poll::Ready(most) = poll_pace(cx, way, pace) else {
                    return Poll::Pending;
                };
                let most = usize::try_from(most).unwrap_or(usize::MAX);
                let piece = self.next.split_to(most.min(self.next.len()));
                if let Some(pace) = pace {
                    pace.passed(piece.len() as u64);
                }
                self.send = Some(way.send(piece));
                self.read_on(way, gauge);
                if self.rests(cx, way, gauge) {
                    return Poll::Pending;
                }
                continue;
            }
            if let Some(Ok(())) = &self.ended
                && let Some(end) = way.end()
            {
                self.send = Some(way.to.send(end));
                continue;
            }
            if let Some(ended) = self.ended.take() {
                return Poll::Ready(Step::Ended(Ended::Received(ended)));
            }
            if self.recv.is_none() {
                return Poll::Ready(Step::Switch);
            }
            return Poll::Pending;
        }
    }

    /// After a message, whether nothing is to be done until the next one. The send is through
    /// with the turn, and to be woken for that would cost more than the rest: the next message, in
    /// whichever direction, finds it, or the next sweep.
    fn rests(&mut self, cx: &mut Context<'_>, way: Way<'_>, gauge: &mut Gauge) -> bool {
        if gauge.mode() != Mode::Copy(Class::Stream) || !way.link.is_looked_after(cx) {
            return false;
        }
        self.poll_recv(cx, way, gauge);
        self.recv.is_some() && self.next.is_empty()
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, way: Way<'_>) -> io::Result<()> {
        if let Some(send) = &mut self.send
            && let Poll::Ready((result, bytes)) = Pin::new(send).poll(cx)
        {
            self.send = None;
            way.sent(result, bytes)?;
        }
        Ok(())
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>, way: Way<'_>, gauge: &mut Gauge) {
        while let Some(recv) = &mut self.recv
            && self.next.is_empty()
            && let Poll::Ready(result) = Pin::new(recv).poll(cx)
        {
            self.recv = None;
            match result {
                Ok(chunk) if chunk.is_empty() => self.ended = Some(Ok(())),
                Ok(chunk) => {
                    gauge.received(chunk.len(), chunk.is_full());
                    (self.next, self.ended) = way.open(chunk);
                    if !self.next.is_empty() {
                        way.has_received(self.next.len() as u64);
                    } else if self.ended.is_none() {
                        // Of a record that has not come whole there is nothing yet.
                        self.recv = Some(way.from.recv(gauge.expect(), gauge.class()));
                    }
                }
                Err(error) => self.ended = Some(Err(error)),
            }
        }
    }

    /// Receives on, unless there is something to be sent before, or a pipe is to take over.
    fn read_on(&mut self, way: Way<'_>, gauge: &Gauge) {
        let is_free = self.next.is_empty() && self.recv.is_none() && self.ended.is_none();
        let class = match gauge.mode() {
            Mode::Copy(class) => Some(class),
            // The pipe would take bytes from under the stream, which another class ends.
            Mode::Splice => way.from.is_streaming().then_some(Class::Large),
        };
        if is_free && let Some(class) = class {
            self.recv = Some(way.from.recv(gauge.expect(), class));
        }
    }
}

impl Splicing {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        way: Way<'_>,
        gauge: &mut Gauge,
        pace: &mut Option<Box<Pace>>,
    ) -> Poll<Step> {
        loop {
            if let Some(wait) = &mut self.wait {
                if Pin::new(wait).poll(cx).is_pending() {
                    return Poll::Pending;
                }
                self.wait = None;
            }
            let step = if self.pipe.is_some() {
                self.drain(way)
            } else if gauge.mode() != Mode::Splice {
                Some(Step::Switch)
            } else {
                let Poll::Ready(most) = poll_pace(cx, way, pace) else {
                    return Poll::Pending;
                };
                self.fill(way, gauge, pace, most)
            };
            if let Some(step) = step {
                return Poll::Ready(step);
            }
        }
    }

    /// From the source into a pipe, which it lends.
    fn fill(
        &mut self,
        way: Way<'_>,
        gauge: &mut Gauge,
        pace: &mut Option<Box<Pace>>,
        most: u64,
    ) -> Option<Step> {
        if self.turn >= TURN_BYTES {
            self.turn = 0;
            self.wait = Some(way.from.readable());
            return None;
        }
        let Some(mut pipe) = Pipe::try_lend() else {
            gauge.refused();
            return Some(Step::Switch);
        };
        let most = most.min(gauge.splice_most()).min(pipe.capacity());
        match pipe.fill(way.from, most) {
            Ok(0) => Some(Step::Ended(Ended::Received(Ok(())))),
            Ok(count) => {
                way.has_received(count);
                if let Some(pace) = pace {
                    pace.passed(count);
                }
                gauge.spliced(count);
                self.turn += count;
                self.pipe = Some(pipe);
                None
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                gauge.ran_dry();
                self.turn = 0;
                if gauge.mode() == Mode::Splice {
                    self.wait = Some(way.from.readable());
                }
                None
            }
            // Not a kind of socket that can be spliced.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                gauge.refused();
                Some(Step::Switch)
            }
            Err(error) => Some(Step::Ended(Ended::Received(Err(error)))),
        }
    }

    /// From the pipe to the destination, waiting for room if that is not for all.
    fn drain(&mut self, way: Way<'_>) -> Option<Step> {
        let pipe = self.pipe.as_mut()?;
        match pipe.drain(way.to) {
            Ok(count) => way.has_sent(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Some(Step::Ended(Ended::Sending(error))),
        }
        if pipe.held() > 0 {
            self.turn = 0;
            self.wait = Some(way.to.writable());
        } else {
            self.pipe = None;
        }
        None
    }
}
