//! Sending: whole buffers, owned by the operation until the kernel is done with them.

use std::future::Future;
use std::io;
use std::mem;
use std::os::fd::RawFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use io_uring::{opcode, squeue, types};

use super::chunk::Chunk;
use super::engine;
use super::op::{Cqe, Op};
use super::poll::has_ended_half;
use super::slots::{ABANDONED, SlotRef};

/// Bytes that can be sent.
///
/// # Safety
/// [`Payload::bytes`] must be at the same address, unchanged, wherever the value is moved.
pub unsafe trait Payload: Unpin + 'static {
    /// What is sent.
    fn bytes(&self) -> &[u8];
}

// SAFETY: the bytes of a vector are on the heap.
unsafe impl Payload for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

// SAFETY: the bytes of a chunk are in the worker's buffer or on the heap.
unsafe impl Payload for Chunk {
    fn bytes(&self) -> &[u8] {
        self
    }
}

// SAFETY: they have a place of their own for the life of the program.
unsafe impl Payload for &'static [u8] {
    fn bytes(&self) -> &[u8] {
        self
    }
}

// SAFETY: `Bytes` is a counted reference to its bytes, which are elsewhere and never change.
unsafe impl Payload for bytes::Bytes {
    fn bytes(&self) -> &[u8] {
        self
    }
}

/// A send under way. Resolves to the number of bytes sent, which is all of them, or an error, and
/// gives the payload back. Never polled, it goes on all the same.
///
/// Dropped before it completes it goes on too, but its result is lost.
#[must_use = "the result tells whether it was sent"]
pub struct Send<B: Payload>(State<B>);

enum State<B: Payload> {
    Done(io::Result<usize>, B),
    Flight(Flight<B>),
    Taken,
}

impl<B: Payload> Send<B> {
    /// A turn with few events sends at once: through the ring it would cost a submission and, for
    /// the completion, a turn of its own. In a busy turn one submission serves many.
    pub(super) fn submit(slot: SlotRef, payload: B) -> Send<B> {
        let is_quiet_turn = engine::require(|engine| engine.streams.is_quiet_turn());
        let mut sent = 0;
        if is_quiet_turn && !slot.has(ABANDONED) {
            match send_now(slot.fd.get(), payload.bytes()) {
                Ok(count) if count == payload.bytes().len() => {
                    engine::with(|engine| engine.slots.release(slot));
                    return Send(State::Done(Ok(count), payload));
                }
                Ok(count) => sent = count,
                // Whatever it is, the ring will say it too.
                Err(_) => {}
            }
        }
        let op = submit(slot.fd.get(), payload, sent);
        Send(State::Flight(Flight {
            op,
            slot,
            sent,
            waiting: false,
        }))
    }

    /// The result, if it is there. None leaves no waker behind, not even an earlier one: await it
    /// to be woken.
    pub fn try_take(&mut self) -> Option<(io::Result<usize>, B)> {
        match self.poll_with(|op| op.try_take()) {
            Poll::Ready(done) => Some(done),
            Poll::Pending => None,
        }
    }

    fn poll_with(
        &mut self,
        mut take: impl FnMut(&mut Op<B>) -> Option<(Cqe, B)>,
    ) -> Poll<(io::Result<usize>, B)> {
        while let State::Flight(flight) = &mut self.0 {
            let Some((cqe, payload)) = take(&mut flight.op) else {
                return Poll::Pending;
            };
            let Some((result, payload)) = flight.complete(cqe, payload) else {
                continue;
            };
            if let State::Flight(ended) = mem::replace(&mut self.0, State::Taken) {
                engine::with(|engine| engine.slots.release(ended.slot));
            }
            return Poll::Ready((result, payload));
        }
        match mem::replace(&mut self.0, State::Taken) {
            State::Done(result, payload) => Poll::Ready((result, payload)),
            _ => panic!("a send gives its result once"),
        }
    }
}

impl<B: Payload> Future for Send<B> {
    type Output = (io::Result<usize>, B);

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.get_mut().poll_with(|op| match op.poll_op(cx) {
            Poll::Ready(done) => Some(done),
            Poll::Pending => None,
        })
    }
}

impl<B: Payload> Drop for Send<B> {
    /// The operation goes on with its payload, which the ring keeps until then.
    fn drop(&mut self) {
        if let State::Flight(flight) = mem::replace(&mut self.0, State::Taken) {
            flight.slot.set(ABANDONED);
            engine::with(|engine| engine.slots.release(flight.slot));
        }
    }
}

/// As much as there is room for, without waiting.
pub(super) fn send_now(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: the kernel reads the bytes before the call returns.
    let count = unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), flags) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// The kernel goes on until all is sent, and gives us an error instead of a signal.
const FLAGS: libc::c_int = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;

/// Sends all but the first `skip` bytes.
fn submit<B: Payload>(fd: RawFd, payload: B, skip: usize) -> Op<B> {
    let rest = &payload.bytes()[skip..];
    let len = u32::try_from(rest.len()).unwrap_or(u32::MAX);
    let entry = opcode::Send::new(types::Fd(fd), rest.as_ptr(), len)
        .flags(FLAGS)
        .build();
    Op::submit(payload, entry)
}

struct Flight<B: 'static> {
    op: Op<B>,
    slot: SlotRef,
    sent: usize,
    /// The operation is a wait for room, since the socket is a non-blocking one.
    waiting: bool,
}

impl<B: Payload> Flight<B> {
    /// The outcome, or None if there is more to do and that is under way.
    fn complete(&mut self, cqe: Cqe, payload: B) -> Option<(io::Result<usize>, B)> {
        let wait = match cqe.result() {
            Ok(_) if self.waiting => false,
            Ok(count) => {
                self.sent += count;
                if self.sent >= payload.bytes().len() {
                    return Some((Ok(self.sent), payload));
                }
                if count == 0 {
                    return Some((Err(io::ErrorKind::WriteZero.into()), payload));
                }
                false
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.waiting,
            Err(error) if error.raw_os_error() == Some(libc::ETIME) => false,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => true,
            Err(error) => return Some((Err(error), payload)),
        };
        self.waiting = wait;
        let fd = self.slot.fd.get();
        if fd < 0 || engine::with(|engine| engine.open.get()) != Some(true) {
            return Some((Err(io::ErrorKind::NotConnected.into()), payload));
        }
        self.op = if wait {
            Op::submit(payload, wait_for_room(fd))
        } else {
            submit(fd, payload, self.sent)
        };
        None
    }
}

/// Until there is room. A poll would be over at once if the peer has ended its half; that this
/// meets a non-blocking socket is rare enough for a pause to do.
fn wait_for_room(fd: RawFd) -> squeue::Entry {
    static PAUSE: types::Timespec = types::Timespec::new().nsec(5_000_000);
    if has_ended_half(fd) {
        opcode::Timeout::new(&raw const PAUSE).build()
    } else {
        opcode::PollAdd::new(types::Fd(fd), libc::POLLOUT as u32).build()
    }
}
