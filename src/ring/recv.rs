//! Receiving into buffers that are chosen when the data is there.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::ptr;
use std::task::{Context, Poll, Waker};

use io_uring::{opcode, squeue, types};

use crate::base::clock;

use super::chunk::Chunk;
use super::engine;
use super::op::{Cqe, Op, poll_first};
use super::slots::{NONBLOCKING, SlotRef};
use super::stream::{End, NO_STREAM, Next as Streamed};

/// Whether the bytes are thought to be there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Likely there: try first, then wait.
    Now,
    /// Surely not there yet (an answer to what is just being sent): wait first.
    Later,
}

/// Which of the worker's buffers to receive into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Heads and small messages.
    Small = 0,
    /// Bodies.
    Large = 1,
    /// Small messages, of which more will follow: a socket that has proved to be calm goes on
    /// receiving between the calls, see [`super::Socket::is_streaming`].
    Stream = 2,
}

/// Small messages in a row after which a socket is calm: one request on a connection says nothing
/// of a second.
const CALM: u8 = 2;

/// A receive under way. Resolves to a chunk, which is empty at the end of the stream.
#[must_use = "what it receives is lost when it is dropped"]
pub struct Recv {
    /// None once the result has been taken.
    flight: Option<Flight>,
}

impl Recv {
    pub(super) fn submit(slot: SlotRef, expect: Expect, class: Class) -> Recv {
        // A non-blocking socket would only say that it has to wait.
        let (op, stage) = if is_streamed(&slot, class) {
            (None, Stage::Leased)
        } else if expect == Expect::Later && slot.has(NONBLOCKING) {
            (Some(submit_wait(&slot)), Stage::Waiting)
        } else {
            (Some(submit_leased(&slot, class, expect)), Stage::Leased)
        };
        Recv {
            flight: Some(Flight {
                op,
                slot,
                class,
                stage,
            }),
        }
    }

    /// The result, if it is there. None leaves no waker behind, not even an earlier one: await it
    /// to be woken.
    pub fn try_take(&mut self) -> Option<io::Result<Chunk>> {
        match self.poll_with(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        }
    }

    fn poll_with(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Chunk>> {
        loop {
            let flight = self
                .flight
                .as_mut()
                .expect("a receive gives its result once");
            let next = match flight.op.as_mut().map(|op| op.poll_op(cx)) {
                Some(Poll::Ready((cqe, own))) => flight.complete(cqe, own),
                Some(Poll::Pending) => return Poll::Pending,
                None => match flight.read_stream(cx) {
                    Some(next) => next,
                    None => return Poll::Pending,
                },
            };
            match next {
                Next::Resubmitted => {}
                Next::Done(result) => {
                    self.end();
                    return Poll::Ready(result);
                }
            }
        }
    }

    fn end(&mut self) {
        if let Some(flight) = self.flight.take() {
            engine::with(|engine| engine.slots.release(flight.slot));
        }
    }
}

impl Future for Recv {
    type Output = io::Result<Chunk>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.get_mut().poll_with(cx)
    }
}

impl Drop for Recv {
    /// The completion of a receive may carry a buffer, and only it says which: someone has to wait
    /// for it, or the buffer is lost to the worker.
    fn drop(&mut self) {
        if let Some(flight) = self.flight.take() {
            let mut orphan = Orphan(Some(flight));
            if !orphan.is_over() {
                engine::with(|engine| engine.orphans.borrow_mut().push(orphan));
            }
        }
    }
}

/// A receive that nobody waits for any more.
pub(super) struct Orphan(Option<Flight>);

impl Orphan {
    /// Whether it has completed; its buffer is given back then.
    pub(super) fn is_over(&mut self) -> bool {
        let Some(flight) = self.0.as_mut() else {
            return true;
        };
        if let Some(op) = flight.op.as_mut() {
            let Some((cqe, _)) = op.try_take() else {
                return false;
            };
            drop(flight.leased_chunk(cqe));
        }
        let slot = self.0.take().map(|flight| flight.slot);
        engine::with(|engine| slot.map(|slot| engine.slots.release(slot)));
        true
    }
}

struct Flight {
    /// With the buffer, when it is one of its own. None: the socket's stream is read.
    op: Option<Op<Vec<u8>>>,
    slot: SlotRef,
    class: Class,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    /// Into a buffer of the worker's.
    Leased,
    /// As before, after the worker had none.
    Again,
    /// The worker has none left: into a buffer of its own.
    Owned,
    /// The socket is a non-blocking one without data: waiting for readiness.
    Waiting,
}

enum Next {
    Resubmitted,
    Done(io::Result<Chunk>),
}

impl Flight {
    fn complete(&mut self, cqe: Cqe, own: Vec<u8>) -> Next {
        let leased = self.leased_chunk(cqe);
        match (-cqe.res, self.stage) {
            (libc::EINTR, _) => self.again(Stage::Leased),
            (libc::ENOBUFS, Stage::Leased | Stage::Again) => self.again(self.without_buffer()),
            (libc::EAGAIN, _) => self.again(Stage::Waiting),
            (_, Stage::Waiting) if cqe.res >= 0 => self.again(Stage::Leased),
            _ => {
                let result = cqe.result();
                if self.class == Class::Stream {
                    self.judge(*result.as_ref().unwrap_or(&0));
                }
                Next::Done(result.map(|count| leased.unwrap_or_else(|| filled(own, count))))
            }
        }
    }

    /// Counts a message of `count` bytes.
    fn judge(&self, count: usize) {
        let size = engine::require(|engine| engine.groups[group_of(self.class)].size());
        let calm = &self.slot.calm;
        if (1..size as usize).contains(&count) {
            calm.set(calm.get().saturating_add(1));
        } else {
            calm.set(0);
        }
    }

    /// What the socket's stream has, or None if that is nothing yet.
    fn read_stream(&mut self, cx: &mut Context<'_>) -> Option<Next> {
        let stream = self.slot.stream.get();
        if stream == NO_STREAM {
            // The socket is gone, or a later receive has ended the stream.
            return Some(self.again(Stage::Leased));
        }
        let next = engine::require(|engine| engine.streams.next(stream, cx.waker()));
        match next {
            Streamed::Nothing => None,
            Streamed::Chunk(chunk) => Some(Next::Done(Ok(chunk))),
            Streamed::Ended(end) => {
                engine::require(|engine| engine.streams.leave(stream));
                self.slot.stream.set(NO_STREAM);
                if end != End::Starved {
                    self.slot.calm.set(0);
                }
                Some(match end {
                    End::Closed => Next::Done(Ok(Chunk::empty())),
                    End::Failed(errno) => Next::Done(Err(io::Error::from_raw_os_error(errno))),
                    End::Stopped | End::Starved => self.again(Stage::Leased),
                })
            }
        }
    }

    /// What to do when the kernel found no buffer. A batch of receives fails together: the first of
    /// them that comes here brings more buffers into circulation, so that the next batch finds
    /// them.
    fn without_buffer(&self) -> Stage {
        engine::require(|engine| {
            let group = &engine.groups[group_of(self.class)];
            if group.grow_for(clock::now_ms()) || self.stage == Stage::Leased {
                Stage::Again
            } else {
                Stage::Owned
            }
        })
    }

    fn again(&mut self, stage: Stage) -> Next {
        let fd = self.slot.fd.get();
        if fd < 0 || engine::with(|engine| engine.open.get()) != Some(true) {
            return Next::Done(Err(io::ErrorKind::NotConnected.into()));
        }
        self.stage = stage;
        self.op = Some(match stage {
            Stage::Leased | Stage::Again => submit_leased(&self.slot, self.class, Expect::Now),
            Stage::Owned => {
                let size = engine::require(|engine| engine.groups[group_of(self.class)].size());
                let mut own = Vec::with_capacity(size as usize);
                let sqe = opcode::Recv::new(types::Fd(fd), own.as_mut_ptr(), size).build();
                Op::submit(own, sqe)
            }
            Stage::Waiting => submit_wait(&self.slot),
        });
        Next::Resubmitted
    }

    /// The worker's buffer that the operation has used, whatever its result.
    fn leased_chunk(&self, cqe: Cqe) -> Option<Chunk> {
        let id = cqe.buffer_id()?;
        let count = cqe.res.max(0) as usize;
        engine::with(|engine| Chunk::lease(&engine.groups[group_of(self.class)], id, count))
    }
}

/// Whether the socket's stream is to be read, which is started for a socket that is calm.
fn is_streamed(slot: &SlotRef, class: Class) -> bool {
    if class != Class::Stream {
        slot.calm.set(0);
    }
    let stream = slot.stream.get();
    if stream != NO_STREAM {
        if class != Class::Stream {
            engine::require(|engine| engine.streams.stop(stream));
        }
        return true;
    }
    if class != Class::Stream || slot.calm.get() < CALM || slot.has(NONBLOCKING) {
        return false;
    }
    let started = engine::require(|engine| {
        let group = &engine.groups[Class::Stream as usize];
        engine.streams.start(slot.fd.get(), group)
    });
    match started {
        Ok(stream) => slot.stream.set(stream),
        Err(_) => slot.calm.set(0),
    }
    started.is_ok()
}

/// The index of the buffers for a single receive.
fn group_of(class: Class) -> usize {
    match class {
        Class::Small | Class::Stream => Class::Small as usize,
        Class::Large => Class::Large as usize,
    }
}

fn submit_leased(slot: &SlotRef, class: Class, expect: Expect) -> Op<Vec<u8>> {
    let group = group_of(class) as u16;
    let size = engine::require(|engine| engine.groups[group_of(class)].size());
    let sqe = opcode::Recv::new(types::Fd(slot.fd.get()), ptr::null_mut(), size)
        .buf_group(group)
        .build()
        .flags(squeue::Flags::BUFFER_SELECT);
    let sqe = if expect == Expect::Later {
        poll_first(sqe)
    } else {
        sqe
    };
    Op::submit(Vec::new(), sqe)
}

fn submit_wait(slot: &SlotRef) -> Op<Vec<u8>> {
    let events = (libc::POLLIN | libc::POLLRDHUP) as u32;
    let entry = opcode::PollAdd::new(types::Fd(slot.fd.get()), events).build();
    Op::submit(Vec::new(), entry)
}

fn filled(mut own: Vec<u8>, count: usize) -> Chunk {
    debug_assert!(count <= own.capacity());
    // SAFETY: the kernel has written `count` bytes, at most the capacity that it was told.
    unsafe { own.set_len(count) };
    Chunk::from(own)
}
