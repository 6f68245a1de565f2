//! The HTTP/2 connections to upstream servers, kept by one worker.
//!
//! A [`Line`] is one server together with what connections to it have in common. A request takes a
//! [`Place`] on a connection with room for another stream. Where there is none it makes a
//! connection ([`Ticket`]) or waits for whoever makes one ([`Waiting`]); how many are made at once
//! follows from how many wait.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::ssl::upstream::Identity;

use super::connection::Connection;

/// Connections to one server and worker. Where their streams are used up, requests wait.
const CONNECTIONS_MAX: usize = 256;

/// Streams that a connection which is still being made is thought to take.
const STREAMS_USUAL: usize = 100;

/// What may share a connection to a server.
#[derive(PartialEq)]
pub struct Key {
    /// Serial number of the server's live state.
    pub serial: u64,
    /// The location, where connections are kept for each (`keepalive … local`).
    pub tag: Option<u64>,
    /// What a connection is made for, where there is TLS.
    pub identity: Option<Identity>,
}

/// All lines of a worker.
#[derive(Default)]
pub struct Pool {
    /// By the slot of the server.
    lines: Vec<Vec<Rc<Line>>>,
}

impl Pool {
    /// The line for these connections. A key that was not needed comes back.
    pub fn line(&mut self, slot: usize, key: Key) -> (Rc<Line>, Option<Key>) {
        if self.lines.len() <= slot {
            self.lines.resize_with(slot + 1, Vec::new);
        }
        let lines = &mut self.lines[slot];
        match lines.iter().find(|line| line.key == key) {
            Some(line) => (Rc::clone(line), Some(key)),
            None => {
                let line = Rc::new(Line::new(key));
                lines.push(Rc::clone(&line));
                (line, None)
            }
        }
    }

    /// Ends waits and streams that are late, and connections that have been idle for too long.
    pub fn sweep(&mut self, now_ms: u64) {
        for lines in &mut self.lines {
            lines.retain(|line| {
                line.sweep(now_ms);
                !line.is_deserted() || Rc::strong_count(line) > 1
            });
        }
    }

    /// Closes what is idle.
    pub fn close_idle(&self) {
        for line in self.lines.iter().flatten() {
            for connection in &*line.connections.borrow() {
                if !connection.is_busy() {
                    connection.leave();
                }
            }
        }
    }
}

/// The connections to one server.
pub struct Line {
    key: Key,
    connections: RefCell<Vec<Rc<Connection>>>,
    /// Connections that are being made.
    connecting: Cell<usize>,
    waiting: RefCell<VecDeque<Rc<Waiter>>>,
}

/// What a request finds.
pub enum Found {
    /// Room for it.
    Place(Place),
    /// It is to make a connection.
    Connect(Ticket),
    /// It is to wait, and then to look again.
    Wait(Waiting),
}

impl Line {
    fn new(key: Key) -> Self {
        Line {
            key,
            connections: RefCell::default(),
            connecting: Cell::new(0),
            waiting: RefCell::default(),
        }
    }

    /// Looks for room. A wait ends at `until_ms` at the latest.
    pub fn find(self: &Rc<Self>, now_ms: u64, until_ms: u64) -> Found {
        let connections = self.connections.borrow();
        let is_free = |c: &&Rc<Connection>| c.has_room(now_ms) && c.may_be_used(now_ms);
        if let Some(connection) = connections.iter().find(is_free) {
            return Found::Place(Place::new(connection, self, true));
        }
        let unsettled = connections.iter().filter(|c| !c.has_settled()).count();
        let connecting = self.connecting.get() + unsettled;
        let is_enough = connections.len() + self.connecting.get() >= CONNECTIONS_MAX
            || (connecting > 0 && self.waiting.borrow().len() < connecting * STREAMS_USUAL);
        if is_enough {
            let waiter = Rc::new(Waiter {
                state: Cell::new(State::Waiting),
                until_ms,
                waker: RefCell::default(),
            });
            self.waiting.borrow_mut().push_back(Rc::clone(&waiter));
            return Found::Wait(Waiting {
                waiter,
                line: Rc::clone(self),
            });
        }
        self.connecting.set(self.connecting.get() + 1);
        Found::Connect(Ticket {
            line: Rc::clone(self),
        })
    }

    /// A connection has ended or takes no more streams.
    pub fn forget(&self, connection: &Rc<Connection>) {
        let mut connections = self.connections.borrow_mut();
        connections.retain(|other| !Rc::ptr_eq(other, connection));
        drop(connections);
        self.wake(1);
    }

    /// There is room for `count` more streams.
    pub fn wake(&self, count: usize) {
        for _ in 0..count {
            let Some(waiter) = self.waiting.borrow_mut().pop_front() else {
                return;
            };
            waiter.end(State::Woken);
        }
    }

    fn sweep(&self, now_ms: u64) {
        let mut idle = 0;
        self.connections.borrow_mut().retain(|connection| {
            connection.sweep(now_ms);
            idle += u32::from(!connection.is_busy());
            if idle > connection.idle_max() && !connection.is_busy() {
                connection.leave();
            }
            connection.may_be_used(now_ms) || connection.is_busy()
        });
        self.waiting.borrow_mut().retain(|waiter| {
            let is_late = waiter.until_ms <= now_ms;
            if is_late {
                waiter.end(State::Late);
            }
            !is_late
        });
    }

    fn is_deserted(&self) -> bool {
        self.connections.borrow().is_empty()
            && self.connecting.get() == 0
            && self.waiting.borrow().is_empty()
    }
}

/// A stream on a connection, which is free for another one when this is dropped.
pub struct Place {
    connection: Rc<Connection>,
    line: Rc<Line>,
    /// The connection has served requests before.
    pub reused: bool,
}

impl Place {
    fn new(connection: &Rc<Connection>, line: &Rc<Line>, reused: bool) -> Self {
        connection.enter();
        Place {
            connection: Rc::clone(connection),
            line: Rc::clone(line),
            reused,
        }
    }

    /// The connection it is on.
    pub fn connection(&self) -> &Rc<Connection> {
        &self.connection
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connection.exit();
        self.line.wake(1);
    }
}

/// The duty to make a connection. Dropped, it falls to another that waits.
pub struct Ticket {
    line: Rc<Line>,
}

impl Ticket {
    /// What the connection is to be made for, where there is TLS.
    pub fn identity(&self) -> Option<&Identity> {
        self.line.key.identity.as_ref()
    }

    /// The connection stands.
    pub fn opened(self, connection: &Rc<Connection>) -> Place {
        let place = Place::new(connection, &self.line, false);
        connection.belong_to(&self.line);
        let mut connections = self.line.connections.borrow_mut();
        connections.push(Rc::clone(connection));
        place
    }

    /// The connection could not be made: those who wait for it have failed like this one.
    pub fn failed(self, failure: Failure) {
        let waiting = std::mem::take(&mut *self.line.waiting.borrow_mut());
        for waiter in waiting {
            waiter.end(State::Failed(failure));
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.line.connecting.set(self.line.connecting.get() - 1);
        // Also after it was made: another one may be needed.
        self.line.wake(1);
    }
}

/// Why a connection could not be made, for those who waited for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It took too long.
    TimedOut,
    /// The request that made it knows.
    Other,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    /// There may be room, or a connection to be made.
    Woken,
    Late,
    Failed(Failure),
}

struct Waiter {
    state: Cell<State>,
    until_ms: u64,
    waker: RefCell<Option<Waker>>,
}

impl Waiter {
    fn end(&self, state: State) {
        self.state.set(state);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// A wait for room, or for a connection that another request makes.
pub struct Waiting {
    waiter: Rc<Waiter>,
    line: Rc<Line>,
}

impl Future for Waiting {
    type Output = Result<(), Failure>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = match self.waiter.state.get() {
            State::Waiting => {
                *self.waiter.waker.borrow_mut() = Some(cx.waker().clone());
                return Poll::Pending;
            }
            State::Woken => Ok(()),
            State::Late => Err(Failure::TimedOut),
            State::Failed(failure) => Err(failure),
        };
        self.waiter.state.set(State::Late);
        Poll::Ready(result)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        match self.waiter.state.get() {
            State::Waiting => {
                let mut waiting = self.line.waiting.borrow_mut();
                waiting.retain(|other| !Rc::ptr_eq(other, &self.waiter));
            }
            // Whoever was woken and went away is not to keep the others waiting.
            State::Woken => self.line.wake(1),
            State::Late | State::Failed(_) => {}
        }
    }
}
