//! Receiving into buffers that are chosen when the data is there.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::ptr;
use std::task::{Context, Poll};

use io_uring::{opcode, squeue, types};

use crate::base::clock;

use super::chunk::Chunk;
use super::engine;
use super::op::{Cqe, Op, poll_first};
use super::slots::{NONBLOCKING, SlotRef};

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
}

/// A receive under way. Resolves to a chunk, which is empty at the end of the stream.
#[must_use = "what it receives is lost when it is dropped"]
pub struct Recv {
    /// None once the result has been taken.
    flight: Option<Flight>,
}

impl Recv {
    pub(super) fn submit(slot: SlotRef, expect: Expect, class: Class) -> Recv {
        // A non-blocking socket would only say that it has to wait.
        let (op, stage) = if expect == Expect::Later && slot.has(NONBLOCKING) {
            (submit_wait(&slot), Stage::Waiting)
        } else {
            (submit_leased(&slot, class, expect), Stage::Leased)
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
        match self.poll_with(|op| op.try_take().map_or(Poll::Pending, Poll::Ready)) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        }
    }

    /// Whether the result has been taken.
    pub fn is_finished(&self) -> bool {
        self.flight.is_none()
    }

    fn poll_with(
        &mut self,
        mut poll: impl FnMut(&mut Op<Vec<u8>>) -> Poll<(Cqe, Vec<u8>)>,
    ) -> Poll<io::Result<Chunk>> {
        loop {
            let flight = self
                .flight
                .as_mut()
                .expect("a receive gives its result once");
            let Poll::Ready((cqe, own)) = poll(&mut flight.op) else {
                return Poll::Pending;
            };
            match flight.complete(cqe, own) {
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
        self.get_mut().poll_with(|op| op.poll_op(cx))
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
        let Some((cqe, _)) = flight.op.try_take() else {
            return false;
        };
        drop(flight.leased_chunk(cqe));
        let slot = self.0.take().map(|flight| flight.slot);
        engine::with(|engine| slot.map(|slot| engine.slots.release(slot)));
        true
    }
}

struct Flight {
    /// With the buffer, when it is one of its own.
    op: Op<Vec<u8>>,
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
            _ => Next::Done(
                cqe.result()
                    .map(|count| leased.unwrap_or_else(|| filled(own, count))),
            ),
        }
    }

    /// What to do when the kernel found no buffer. A batch of receives fails together: the first of
    /// them that comes here brings more buffers into circulation, so that the next batch finds
    /// them.
    fn without_buffer(&self) -> Stage {
        engine::require(|engine| {
            let group = &engine.groups[self.class as usize];
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
        self.op = match stage {
            Stage::Leased | Stage::Again => submit_leased(&self.slot, self.class, Expect::Now),
            Stage::Owned => {
                let size = engine::require(|engine| engine.groups[self.class as usize].size());
                let mut own = Vec::with_capacity(size as usize);
                let sqe = opcode::Recv::new(types::Fd(fd), own.as_mut_ptr(), size).build();
                Op::submit(own, sqe)
            }
            Stage::Waiting => submit_wait(&self.slot),
        };
        Next::Resubmitted
    }

    /// The worker's buffer that the operation has used, whatever its result.
    fn leased_chunk(&self, cqe: Cqe) -> Option<Chunk> {
        let id = cqe.buffer_id()?;
        let count = cqe.res.max(0) as usize;
        engine::with(|engine| Chunk::lease(&engine.groups[self.class as usize], id, count))
    }
}

fn submit_leased(slot: &SlotRef, class: Class, expect: Expect) -> Op<Vec<u8>> {
    let group = class as u16;
    let size = engine::require(|engine| engine.groups[class as usize].size());
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
