//! One HTTP/2 connection to an upstream server, shared by the requests of a worker.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{SendStream, client};
use http::Request;

use crate::base::clock;
use crate::base::places::Counted;
use crate::http::h2::io::{Io, Watch};
use crate::ring;
use crate::upstream::Keepalive;

use super::super::connection::Parts;
use super::pool::Line;
use super::timer::Timer;

/// Streams at once on one connection, where the server allows as many.
const STREAMS_MAX: u32 = 128;

/// Bytes of an answer that the server may send ahead of its client.
const WINDOW: u32 = 128 << 10;

/// The same for all streams: none has to wait for another one's client.
const CONNECTION_WINDOW: u32 = WINDOW * STREAMS_MAX;

/// Bytes of a request body that wait for the server, per stream.
const SEND_BUFFER_MAX: usize = 64 << 10;

/// Bytes of fields in the head of an answer; `proxy_buffer_size` bounds it further.
const FIELDS_BYTES_MAX: u32 = 1 << 20;

/// A connection whose bytes the kernel has not taken for so long gets no more streams.
const STALLED_MS: u64 = 5_000;

/// How long the end of a connection may take.
const END_MS: u64 = 5_000;

/// Notes when bytes come.
#[derive(Default)]
pub struct Heard {
    /// Bytes so far.
    bytes: u64,
}

impl Watch for Heard {
    fn feed(&mut self, bytes: &[u8]) -> bool {
        self.bytes += bytes.len() as u64;
        true
    }
}

/// A connection. About 300 bytes and what `h2` has.
pub struct Connection {
    /// `None`: it takes no more streams.
    sender: RefCell<Option<SendRequest<Bytes>>>,
    io: Io<Heard>,
    keepalive: Keepalive,
    line: RefCell<Weak<Line>>,
    /// The server has said how many streams it takes. Until then there is one.
    has_settled: Cell<bool>,
    active: Cell<u32>,
    served: Cell<u64>,
    opened_ms: u64,
    idle_since_ms: Cell<u64>,
    timers: RefCell<Vec<Rc<Timer>>>,
    spare_timers: RefCell<Vec<Rc<Timer>>>,
}

impl Connection {
    /// Begins HTTP/2 on a connection that stands, and starts the task that serves it.
    ///
    /// # Errors
    /// Those of `h2`, which has sent nothing then.
    pub async fn open(parts: Parts, keepalive: Keepalive) -> Result<Rc<Self>, h2::Error> {
        let now_ms = clock::now_ms();
        parts.sock.set_deadline(None);
        let heard = Heard::default();
        let io = Io::new(
            parts.sock,
            parts.tls,
            parts.recv,
            parts.early.to_vec(),
            heard,
        );
        let (sender, driver) = client::Builder::new()
            .initial_window_size(WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buffer_size(SEND_BUFFER_MAX)
            .max_header_list_size(FIELDS_BYTES_MAX)
            .max_concurrent_reset_streams(STREAMS_MAX as usize)
            .enable_push(false)
            .handshake(io.clone())
            .await?;
        let connection = Rc::new(Connection {
            sender: RefCell::new(Some(sender)),
            io: io.clone(),
            keepalive,
            line: RefCell::default(),
            has_settled: Cell::new(false),
            active: Cell::new(0),
            served: Cell::new(0),
            opened_ms: now_ms,
            idle_since_ms: Cell::new(now_ms),
            timers: RefCell::default(),
            spare_timers: RefCell::default(),
        });
        let owner = Rc::downgrade(&connection);
        ring::spawn(drive(driver, io, owner, parts.counted));
        Ok(connection)
    }

    /// Whether new streams may be opened now or later.
    pub fn may_be_used(&self, now_ms: u64) -> bool {
        let has_failed = match &mut *self.sender.borrow_mut() {
            None => return false,
            Some(sender) => {
                let mut cx = Context::from_waker(Waker::noop());
                matches!(sender.poll_ready(&mut cx), Poll::Ready(Err(_)))
            }
        };
        let is_over = has_failed
            || self.served.get() >= self.keepalive.requests
            || now_ms.saturating_sub(self.opened_ms) > self.keepalive.time_ms;
        if is_over {
            self.leave();
        }
        !is_over
    }

    /// Whether there is room for one more stream.
    pub fn has_room(&self, now_ms: u64) -> bool {
        let is_stalled = || {
            let since = self.io.sending_since();
            since.is_some_and(|since| now_ms.saturating_sub(since) > STALLED_MS)
        };
        self.active.get() < self.streams_max() && !is_stalled()
    }

    /// Whether the server has said how many streams it takes.
    pub fn has_settled(&self) -> bool {
        self.has_settled.get()
    }

    /// Streams that may be open at once.
    fn streams_max(&self) -> u32 {
        match &*self.sender.borrow() {
            None => 0,
            Some(_) if !self.has_settled.get() => 1,
            Some(sender) => (sender.current_max_send_streams().min(STREAMS_MAX as usize)) as u32,
        }
    }

    /// Takes note that the server's settings have come.
    fn settle(&self) {
        self.has_settled.set(true);
        for timer in &*self.timers.borrow() {
            timer.wake();
        }
        let room = self.streams_max().saturating_sub(self.active.get());
        let line = self.line.borrow().upgrade();
        if let Some(line) = line {
            // One more than there is room for: it makes the next connection.
            line.wake(room as usize + 1);
        }
    }

    /// Counts one more stream.
    pub fn enter(&self) {
        self.active.set(self.active.get() + 1);
        self.served.set(self.served.get() + 1);
    }

    /// A stream is over.
    pub fn exit(&self) {
        let active = self.active.get() - 1;
        self.active.set(active);
        if active == 0 {
            self.idle_since_ms.set(clock::now_ms());
            if self.keepalive.connections == 0 || self.keepalive.timeout_ms == 0 {
                self.leave();
            }
        }
    }

    /// How many connections to its server may lie idle (`keepalive`).
    pub fn idle_max(&self) -> u32 {
        self.keepalive.connections
    }

    /// Whether streams are open.
    pub fn is_busy(&self) -> bool {
        self.active.get() > 0
    }

    /// Says to whom it belongs, so that its end is known there.
    pub fn belong_to(&self, line: &Rc<Line>) {
        *self.line.borrow_mut() = Rc::downgrade(line);
    }

    /// Takes no more streams, and ends when those there are have ended.
    pub fn leave(&self) {
        *self.sender.borrow_mut() = None;
    }

    /// Bytes received so far.
    pub fn heard(&self) -> u64 {
        self.io.with_watch(|heard| heard.bytes)
    }

    /// Sends a request's head. `ends`: there is no body.
    ///
    /// # Errors
    /// The connection has ended or takes no more streams, or the head is none that `h2` sends.
    pub fn request(
        &self,
        request: Request<()>,
        ends: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        let mut sender = self.sender.borrow_mut();
        let Some(sender) = &mut *sender else {
            return Err(h2::Reason::REFUSED_STREAM.into());
        };
        let mut cx = Context::from_waker(Waker::noop());
        if sender.poll_ready(&mut cx)?.is_pending() {
            // A stream waits for one that was reset to be gone. Only its own handle has to wait.
            *sender = sender.clone();
        }
        sender.send_request(request, ends)
    }

    /// A timer for a stream. [`Connection::give_back`] takes it back.
    pub fn timer(&self) -> Rc<Timer> {
        let timer = self.spare_timers.borrow_mut().pop().unwrap_or_default();
        let mut timers = self.timers.borrow_mut();
        timer.place.set(timers.len());
        timers.push(Rc::clone(&timer));
        timer
    }

    /// Takes a timer back.
    pub fn give_back(&self, timer: &Rc<Timer>) {
        let mut timers = self.timers.borrow_mut();
        let at = timer.place.get();
        debug_assert!(Rc::ptr_eq(&timers[at], timer));
        let timer = timers.swap_remove(at);
        if let Some(moved) = timers.get(at) {
            moved.place.set(at);
        }
        timer.clear();
        self.spare_timers.borrow_mut().push(timer);
    }

    /// Ends what is late.
    pub fn sweep(&self, now_ms: u64) {
        for timer in &*self.timers.borrow() {
            timer.sweep(now_ms);
        }
        let idle_ms = now_ms.saturating_sub(self.idle_since_ms.get());
        if self.active.get() == 0 && idle_ms >= self.keepalive.timeout_ms {
            self.leave();
        }
    }
}

/// Serves a connection until it ends.
async fn drive(
    driver: client::Connection<Io<Heard>, Bytes>,
    io: Io<Heard>,
    owner: Weak<Connection>,
    _counted: Counted,
) {
    let mut driver = pin!(driver);
    poll_fn(|cx| {
        let ended = driver.as_mut().poll(cx);
        if let Some(connection) = owner.upgrade() {
            if !connection.has_settled() && connection.heard() > 0 {
                connection.settle();
            }
            if connection.sender.borrow().is_none() && connection.active.get() == 0 {
                let end_ms = clock::now_ms() + END_MS;
                io.with_socket(|sock| sock.set_deadline(Some(end_ms)));
            }
        }
        match io.push(cx) {
            // What waits for an answer gets to know it from `h2`, which reads the failure.
            Err(_) => Poll::Ready(()),
            Ok(()) => ended.map(drop),
        }
    })
    .await;
    if let Some(connection) = owner.upgrade() {
        connection.leave();
        let line = connection.line.borrow().upgrade();
        if let Some(line) = line {
            line.forget(&connection);
        }
    }
}
