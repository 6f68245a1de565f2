//! The event loop of one load run over HTTP/1.1.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::tally::Tally;
use super::wire::Wire;
use super::{Generator, LoadOptions};
use crate::http::{ReplyError, ReplyReader};
use crate::{sys, tls};

/// Closed loop: connections that may wait for their first reply at a time, so that opening many
/// does not overflow the accept queue of the proxy.
const OPENING_MAX: usize = 64;
/// After a failure a connection rests this long, so that a dead proxy does not make a busy loop.
pub const REST_NANOS: u64 = 10_000_000;
/// A request unanswered for this long at the end of the run has failed.
pub const STALL_NANOS: u64 = 1_000_000_000;
/// Open loop: how long replies that are still due are waited for at the end.
const DRAIN: Duration = Duration::from_secs(2);
/// The most a large body is discarded by at a time.
const SCRATCH_BYTES: usize = 1 << 20;
/// The most that is copied to look for a head; what comes after it is discarded unseen.
const HEAD_READ_BYTES: usize = 16 * 1024;
/// With TLS nothing is discarded unseen.
pub const RECORDS_READ_BYTES: usize = 64 * 1024;

/// Connections, schedule and counts of one run. Times are nanoseconds since its start.
pub struct Engine {
    epoll: sys::Epoll,
    address: SocketAddr,
    tls: Option<tls::Settings>,
    request: Vec<u8>,
    new_connections: bool,
    connections: Vec<Connection>,
    /// Closed loop: how many connections have been started, and how many of these have had
    /// neither a reply nor a failure yet.
    started: usize,
    opening: usize,
    /// Open loop: the schedule, and which connections are free, longest free first.
    schedule: Option<Schedule>,
    free: VecDeque<usize>,
    /// Connections that failed, and when they may be used again; in order.
    resting: VecDeque<(u64, usize)>,
    scratch: Vec<u8>,
    tally: Tally,
}

/// When the requests of an open loop are due: the k-th at k / rate.
struct Schedule {
    rate: u64,
    next: u64,
}

impl Schedule {
    /// Nanoseconds since the start.
    fn next_due(&self) -> u64 {
        (u128::from(self.next) * 1_000_000_000 / u128::from(self.rate)) as u64
    }
}

struct Connection {
    wire: Option<Wire>,
    state: State,
    reader: ReplyReader,
    /// From when the latency of the request in flight counts.
    since: u64,
    /// It had no reply yet.
    fresh: bool,
    /// Counted in `Engine::opening`.
    opening: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Closed,
    Sending,
    Waiting,
    /// The reply is complete, the end of the connection is not.
    Ending,
    Idle,
}

impl Engine {
    /// Prepares a run; nothing is sent yet.
    ///
    /// # Errors
    /// Those of `epoll_create1(2)`.
    pub fn new(options: &LoadOptions) -> io::Result<Self> {
        let connection = || Connection {
            wire: None,
            state: State::Closed,
            reader: ReplyReader::new(options.expect),
            since: 0,
            fresh: false,
            opening: false,
        };
        let count = options.connections;
        Ok(Self {
            epoll: sys::Epoll::new()?,
            address: options.target.addr,
            tls: options.tls.clone(),
            request: options.target.request(options.new_connections),
            new_connections: options.new_connections,
            connections: (0..count).map(|_| connection()).collect(),
            started: 0,
            opening: 0,
            schedule: options.rate.map(|rate| Schedule {
                rate: rate.into(),
                next: 0,
            }),
            free: if options.rate.is_some() {
                (0..count).collect()
            } else {
                VecDeque::new()
            },
            resting: VecDeque::new(),
            scratch: vec![0; SCRATCH_BYTES],
            tally: Tally::new(),
        })
    }
}

impl Generator for Engine {
    fn run_for(&mut self, length: Duration) -> io::Result<()> {
        let deadline = self.now() + length.as_nanos() as u64;
        loop {
            sys::interrupted()?;
            let now = self.now();
            if now >= deadline {
                return Ok(());
            }
            self.begin_due(now, deadline);
            let wake = self.next_wake().min(deadline);
            self.turn(wake)?;
        }
    }

    fn tally(&mut self) -> &mut Tally {
        &mut self.tally
    }

    fn finish(mut self) -> io::Result<Tally> {
        let end = self.tally.end();
        if self.schedule.is_some() {
            let deadline = self.now() + DRAIN.as_nanos() as u64;
            while self.owes(end) && self.now() < deadline {
                sys::interrupted()?;
                self.begin_due(self.now(), end);
                self.turn(self.next_wake().min(deadline))?;
            }
            self.count_what_is_owed(end);
        } else {
            let ending = self.connections.iter().filter(|c| c.state == State::Ending);
            let unfinished = self.in_flight().chain(ending);
            let stalled = unfinished.filter(|c| c.since + STALL_NANOS < end).count();
            self.tally.errors.stalled += stalled as u64;
        }
        Ok(self.tally)
    }
}

impl Engine {
    fn now(&self) -> u64 {
        self.tally.now()
    }

    /// Connections that wait for a reply.
    fn in_flight(&self) -> impl Iterator<Item = &Connection> {
        self.connections
            .iter()
            .filter(|c| matches!(c.state, State::Sending | State::Waiting))
    }

    /// Whether requests of an open loop that were due before `end` are unanswered.
    fn owes(&self, end: u64) -> bool {
        self.schedule.as_ref().is_some_and(|s| s.next_due() < end)
            || self.in_flight().any(|c| c.since < end)
    }

    /// Requests that never got an answer have at least the latency they have now.
    fn count_what_is_owed(&mut self, end: u64) {
        let now = self.now();
        let mut owed: Vec<u64> = self.in_flight().map(|c| c.since).collect();
        if let Some(schedule) = &mut self.schedule {
            while schedule.next_due() < end {
                owed.push(schedule.next_due());
                schedule.next += 1;
            }
        }
        for since in owed {
            if self.tally.counts(since) {
                self.tally.latencies.record(now - since);
                self.tally.errors.stalled += 1;
            }
        }
    }

    /// Starts whatever is due before both `now` and `deadline`.
    fn begin_due(&mut self, now: u64, deadline: u64) {
        while let Some(&(when, index)) = self.resting.front()
            && when <= now
        {
            self.resting.pop_front();
            self.make_available(index);
        }
        if self.schedule.is_none() {
            self.open_more();
        }
        while let Some(schedule) = &mut self.schedule {
            let due = schedule.next_due();
            if due > now || due >= deadline {
                return;
            }
            let Some(index) = self.free.pop_front() else {
                return;
            };
            schedule.next += 1;
            self.begin_request(index, due);
        }
    }

    /// When [`Engine::begin_due`] has something to do next.
    fn next_wake(&self) -> u64 {
        let rested = self.resting.front().map_or(u64::MAX, |(when, _)| *when);
        match &self.schedule {
            Some(schedule) if !self.free.is_empty() => rested.min(schedule.next_due()),
            _ => rested,
        }
    }

    /// One wait, until `wake` at the latest, and what came of it.
    fn turn(&mut self, wake: u64) -> io::Result<()> {
        // An interrupt is looked for at least this often.
        let timeout = Duration::from_nanos(wake.saturating_sub(self.now()));
        let events = self
            .epoll
            .wait(Some(timeout.min(Duration::from_millis(200))))?;
        for event in 0..events {
            let (index, _) = self.epoll.event(event);
            match self.connections[index].state {
                State::Sending => self.send(index),
                State::Waiting => self.receive(index),
                State::Ending | State::Idle => self.notice_end(index),
                State::Closed => {}
            }
        }
        Ok(())
    }

    /// Closed loop: starts connections that were not started yet, not too many at a time.
    fn open_more(&mut self) {
        while self.started < self.connections.len() && self.opening < OPENING_MAX {
            let index = self.started;
            self.started += 1;
            self.opening += 1;
            self.connections[index].opening = true;
            self.make_available(index);
        }
    }

    /// A connection had its first reply, or failed.
    fn note_opened(&mut self, index: usize) {
        if std::mem::take(&mut self.connections[index].opening) {
            self.opening -= 1;
        }
    }

    /// A connection (or the right to open one) can take its next request.
    fn make_available(&mut self, index: usize) {
        match self.schedule {
            Some(_) => self.free.push_back(index),
            None => self.begin_request(index, self.now()),
        }
    }

    fn begin_request(&mut self, index: usize, since: u64) {
        let connection = &mut self.connections[index];
        connection.since = since;
        if connection.wire.is_none() {
            match Wire::connect(self.address, self.tls.as_ref()) {
                Ok(wire) => connection.wire = Some(wire),
                Err(_) => {
                    self.tally.errors.connect += 1;
                    return self.fail(index);
                }
            }
            connection.reader.reset();
            (connection.state, connection.fresh) = (State::Closed, true);
        }
        let Some(wire) = &mut connection.wire else {
            return;
        };
        match wire.write(&self.request) {
            Ok(()) => self.send(index),
            Err(_) => {
                self.tally.errors.tls += 1;
                self.fail(index);
            }
        }
    }

    /// Sends what is left to send. On loopback a connection is usually made by the time
    /// `connect(2)` returns, so this is tried at once and only then left to epoll.
    fn send(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let Some(wire) = &mut connection.wire else {
            return;
        };
        let is_new = connection.state == State::Closed;
        let was_sending = connection.state == State::Sending;
        let Ok(done) = wire.flush() else {
            match connection.state {
                State::Idle => self.tally.errors.closed += 1,
                _ => self.tally.errors.connect += 1,
            }
            return self.fail(index);
        };
        connection.state = if done { State::Waiting } else { State::Sending };
        let interest = if done { sys::READ } else { sys::WRITE };
        let result = match (is_new, was_sending == done) {
            (true, _) => self.epoll.add(&wire.fd, interest, index),
            (false, true) => self.epoll.modify(&wire.fd, interest, index),
            (false, false) => Ok(()),
        };
        if result.is_err() {
            self.tally.errors.connect += 1;
            self.fail(index);
        }
    }

    fn receive(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let (Some(wire), reader) = (&mut connection.wire, &mut connection.reader) else {
            return;
        };
        let body_left = reader.body_left();
        let mut complete = Ok(false);
        let received = if wire.is_plain() && body_left > 0 {
            let room = body_left.min(SCRATCH_BYTES as u64) as usize;
            let discarded = sys::discard(&wire.fd, &mut self.scratch[..room]);
            if let Ok(n @ 1..) = discarded {
                complete = Ok(reader.skip(n as u64));
            }
            discarded
        } else {
            let room = match wire.is_plain() {
                true => HEAD_READ_BYTES,
                false => RECORDS_READ_BYTES,
            };
            wire.receive(&mut self.scratch[..room], |bytes| {
                complete = match complete {
                    Ok(false) => reader.feed(bytes),
                    // More than the reply.
                    Ok(true) => Err(ReplyError::Framing),
                    Err(error) => Err(error),
                };
            })
        };
        let has_output = wire.has_output();
        match (received, complete) {
            (Ok(0), _) => self.fail_closed(index),
            (Err(error), _) if error.kind() == io::ErrorKind::WouldBlock => {}
            (Err(error), _) if error.kind() == io::ErrorKind::Other => {
                self.tally.errors.tls += 1;
                self.fail(index);
            }
            (Err(_), _) => self.fail_closed(index),
            (_, Ok(true)) => self.complete(index),
            (_, Ok(false)) if has_output => self.send(index),
            (_, Ok(false)) => {}
            (_, Err(ReplyError::Status(_))) => {
                self.tally.errors.status += 1;
                self.fail(index);
            }
            (_, Err(ReplyError::Framing)) => {
                self.tally.errors.framing += 1;
                self.fail(index);
            }
        }
    }

    /// A reply is whole.
    fn complete(&mut self, index: usize) {
        let now = self.now();
        let connection = &mut self.connections[index];
        // An open loop counts what was due in the counted time, a closed one what ended in it.
        let moment = if self.schedule.is_some() {
            connection.since
        } else {
            now
        };
        self.tally.complete(now, connection.since, moment);
        let handshake = connection.wire.as_ref().and_then(Wire::handshake);
        if let Some(handshake) = handshake
            && std::mem::take(&mut connection.fresh)
        {
            self.tally.note_handshake(handshake, moment);
        }
        if self.new_connections || connection.reader.closes() {
            // The proxy closes first, so that it is its side that keeps the TIME_WAIT.
            connection.state = State::Ending;
        } else {
            connection.state = State::Idle;
            self.make_available(index);
        }
        self.note_opened(index);
    }

    /// Something happened on a connection that waits for nothing but its end.
    fn notice_end(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let Some(wire) = &mut connection.wire else {
            return;
        };
        let mut said = 0;
        let received = wire.receive(&mut self.scratch[..RECORDS_READ_BYTES], |bytes| {
            said += bytes.len();
        });
        match received {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            // TLS says that it ends, or leaves a ticket.
            Ok(1..) if said == 0 => return,
            Ok(1..) => self.tally.errors.framing += 1,
            _ => {}
        }
        let was_ending = connection.state == State::Ending;
        (connection.wire, connection.state) = (None, State::Closed);
        // An idle connection of an open loop is in `free` already and is reopened when used.
        if was_ending {
            self.make_available(index);
        }
    }

    fn fail_closed(&mut self, index: usize) {
        self.tally.errors.closed += 1;
        self.fail(index);
    }

    /// Closes a connection whose request failed; it rests before its next one.
    fn fail(&mut self, index: usize) {
        let now = self.now();
        let connection = &mut self.connections[index];
        (connection.wire, connection.state) = (None, State::Closed);
        self.resting.push_back((now + REST_NANOS, index));
        self.note_opened(index);
    }
}
