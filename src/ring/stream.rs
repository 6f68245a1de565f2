//! Streams of receives: one operation that goes on delivering (`IORING_RECV_MULTISHOT`).
//!
//! Asking anew for each message costs the kernel a request and a place in the socket's wait queue
//! every time, a sixth of what a small proxied request costs. tokio-uring cannot take more than one
//! completion of an operation, so streams have a ring of their own beside it, whose descriptor the
//! runtime watches. A stream is entered once and then costs no system call.
//!
//! A stream runs ahead of its reader: what arrives takes buffers before anyone asks. So it is for
//! sockets that exchange small messages. It is ended as soon as a buffer comes full or several
//! wait to be read, and the reader goes on with single receives.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::task::Waker;

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::buffers::Group;
use super::chunk::Chunk;
use super::engine;
use super::recv::Class;
use crate::base::clock;

/// A slot's stream when it has none.
pub(super) const NO_STREAM: u32 = u32::MAX;

/// Chunks that may wait for their reader before the stream is ended.
const WAITING_MAX: usize = 8;

/// Completions of cancellations, which say nothing that the stream's own end does not say.
const CANCELLATION: u64 = u64::MAX;

/// `IORING_ENTER_GETEVENTS`
const GETEVENTS: u32 = 1;

/// Room for completions; should it not suffice, the kernel keeps them until there is.
const COMPLETIONS: u32 = 8192;

/// All streams of one engine.
pub(super) struct Streams {
    ring: RefCell<IoUring>,
    streams: RefCell<Vec<Stream>>,
    free: RefCell<Vec<u32>>,
    /// Completions that this turn began with.
    turn: Cell<u32>,
}

/// Completions up to which a turn is a quiet one.
const QUIET: u32 = 4;

#[derive(Default)]
struct Stream {
    /// The reader, while it waits.
    waker: Option<Waker>,
    /// What has come and was not read: the first, since there is seldom more …
    first: Option<Chunk>,
    /// … and those after it.
    more: VecDeque<Chunk>,
    /// How it ended.
    end: Option<End>,
    /// The socket is gone: nobody will read what comes.
    abandoned: bool,
    /// Its end has been asked for.
    ending: bool,
}

/// Why a stream does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The peer will send no more.
    Closed,
    /// The socket goes on; the end was asked for, or there are no buffers left.
    Stopped,
    /// The socket goes on; the kernel found no buffer, and now there are more.
    Starved,
    /// The socket failed, with this errno.
    Failed(i32),
}

/// What a stream has for its reader.
pub(super) enum Next {
    /// Bytes.
    Chunk(Chunk),
    /// Nothing yet; the waker is kept.
    Nothing,
    /// It has ended, and all it brought has been read.
    Ended(End),
}

impl Streams {
    /// The ring for them, which belongs to this thread.
    pub(super) fn new() -> io::Result<Streams> {
        let ring = IoUring::builder()
            .setup_coop_taskrun()
            .setup_single_issuer()
            .setup_cqsize(COMPLETIONS)
            .build(64)?;
        Ok(Streams {
            ring: RefCell::new(ring),
            streams: RefCell::default(),
            free: RefCell::default(),
            turn: Cell::new(0),
        })
    }

    /// The descriptor, for the registration of buffers.
    pub(super) fn ring_fd(&self) -> RawFd {
        self.ring.borrow().as_raw_fd()
    }

    /// Whether few streams have brought something in this turn of the loop.
    pub(super) fn is_quiet_turn(&self) -> bool {
        self.turn.get() <= QUIET
    }

    /// Forgets the last turn, if there has been none since for long.
    pub(super) fn quiet_down(&self) {
        self.turn.set(0);
    }

    /// Streams that have not ended yet, or were not read to their end.
    pub(super) fn live(&self) -> usize {
        self.streams.borrow().len() - self.free.borrow().len()
    }

    /// Starts receiving from `fd` into buffers of `group`. The kernel has it when this returns.
    ///
    /// # Errors
    /// The kernel took no operation.
    pub(super) fn start(&self, fd: RawFd, group: &Group) -> io::Result<u32> {
        let id = self.free.borrow_mut().pop().unwrap_or_else(|| {
            let mut streams = self.streams.borrow_mut();
            streams.push(Stream::default());
            (streams.len() - 1) as u32
        });
        let entry = opcode::RecvMulti::new(types::Fd(fd), group.id())
            .build()
            .user_data(u64::from(id));
        if let Err(error) = self.push(&entry) {
            self.free.borrow_mut().push(id);
            return Err(error);
        }
        Ok(id)
    }

    /// Asks for the end of a stream whose socket goes on. What comes until then is still read.
    pub(super) fn stop(&self, id: u32) {
        let stream = &mut self.streams.borrow_mut()[id as usize];
        if stream.end.is_some() || std::mem::replace(&mut stream.ending, true) {
            return;
        }
        let entry = opcode::AsyncCancel::new(u64::from(id))
            .build()
            .user_data(CANCELLATION);
        // Should it not be taken, the next full buffer asks again.
        stream.ending = self.push(&entry).is_ok();
    }

    /// The next chunk, or what there is to know. Keeps `waker` if there is nothing yet.
    pub(super) fn next(&self, id: u32, waker: &Waker) -> Next {
        let stream = &mut self.streams.borrow_mut()[id as usize];
        if let Some(chunk) = stream.first.take() {
            stream.first = stream.more.pop_front();
            return Next::Chunk(chunk);
        }
        if let Some(end) = stream.end {
            return Next::Ended(end);
        }
        match &mut stream.waker {
            Some(kept) => kept.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        Next::Nothing
    }

    /// The reader has seen the end, or will never read: the place is for another stream as soon
    /// as the kernel is done with it.
    pub(super) fn leave(&self, id: u32) {
        let has_ended = {
            let stream = &mut self.streams.borrow_mut()[id as usize];
            stream.waker = None;
            stream.first = None;
            stream.more.clear();
            stream.abandoned = true;
            stream.end.is_some()
        };
        if has_ended {
            self.release(id);
        }
    }

    fn release(&self, id: u32) {
        let mut streams = self.streams.borrow_mut();
        let stream = &mut streams[id as usize];
        stream.end = None;
        stream.abandoned = false;
        stream.ending = false;
        self.free.borrow_mut().push(id);
    }

    fn push(&self, entry: &squeue::Entry) -> io::Result<()> {
        let mut ring = self.ring.borrow_mut();
        // SAFETY: the entry points to no memory: buffers are the kernel's choice.
        unsafe { ring.submission().push(entry) }.map_err(io::Error::other)?;
        ring.submit().map(drop)
    }

    /// Hands out what has completed. `group` is the one the buffers are of.
    pub(super) fn reap(&self, group: &Group) {
        self.turn.set(0);
        while let Some(entry) = self.next_completion() {
            self.turn.set(self.turn.get() + 1);
            if entry.user_data() != CANCELLATION {
                self.complete(&entry, group);
            }
        }
    }

    fn next_completion(&self) -> Option<cqueue::Entry> {
        let mut ring = self.ring.borrow_mut();
        if let Some(entry) = ring.completion().next() {
            return Some(entry);
        }
        if ring.submission().cq_overflow() {
            // SAFETY: without an argument the call touches no memory of ours.
            let entered = unsafe { ring.submitter().enter::<()>(0, 0, GETEVENTS, None) };
            entered.ok()?;
            return ring.completion().next();
        }
        None
    }

    fn complete(&self, entry: &cqueue::Entry, group: &Group) {
        let id = entry.user_data() as u32;
        let count = usize::try_from(entry.result()).unwrap_or(0);
        let leased = cqueue::buffer_select(entry.flags());
        let chunk = leased.map(|buffer| Chunk::lease(group, buffer, count));
        // With no more buffers to come, single receives are better for a while.
        let is_starved = entry.result() == -libc::ENOBUFS && group.grow_for(clock::now_ms());
        let mut is_bulky = false;
        let (waker, is_over) = {
            let stream = &mut self.streams.borrow_mut()[id as usize];
            if !cqueue::more(entry.flags()) {
                let end = End::of(entry.result());
                stream.end = Some(if is_starved { End::Starved } else { end });
            }
            if let Some(chunk) = chunk
                && count > 0
                && !stream.abandoned
            {
                is_bulky = stream.put(chunk, count == group.size() as usize);
            }
            let is_over = stream.abandoned && stream.end.is_some();
            (stream.waker.take(), is_over)
        };
        if is_over {
            self.release(id);
        } else if is_bulky {
            self.stop(id);
        }
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Stream {
    /// Queues a chunk; true if this is too much for a stream.
    fn put(&mut self, chunk: Chunk, is_full: bool) -> bool {
        if self.first.is_none() {
            self.first = Some(chunk);
        } else {
            self.more.push_back(chunk);
        }
        is_full || self.more.len() >= WAITING_MAX
    }
}

impl End {
    fn of(result: i32) -> End {
        match result {
            0 => End::Closed,
            1.. => End::Stopped,
            error => match -error {
                libc::ECANCELED | libc::ENOBUFS | libc::EINTR | libc::EAGAIN => End::Stopped,
                errno => End::Failed(errno),
            },
        }
    }
}

/// Reaps whenever the ring has something, for as long as the engine runs.
pub(super) async fn drive() {
    let ring_fd = engine::require(|engine| engine.streams.ring_fd());
    // SAFETY: the ring is open for as long as the engine, which outlives its tasks.
    let watched = unsafe { AsyncFd::register_with_interest(ring_fd, Interest::READABLE) };
    let Ok(watched) = watched else {
        return;
    };
    while let Ok(mut ready) = watched.readable().await {
        engine::require(|engine| engine.streams.reap(&engine.groups[Class::Stream as usize]));
        ready.clear_ready();
    }
}
