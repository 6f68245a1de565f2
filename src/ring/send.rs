//! Sending: whole buffers, owned by the operation until the kernel is done with them.

use std::future::Future;
use std::io;
use std::mem;
use std::os::fd::RawFd;
use std::pin::Pin;
use std::ptr;
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
pub struct Send<B: Payload> {
    flight: Option<Flight<B>>,
}

impl<B: Payload> Send<B> {
    pub(super) fn submit(slot: SlotRef, payload: B) -> Send<B> {
        let fd = slot.fd.get();
        Send {
            flight: Some(Flight {
                op: Whole::submit(fd, payload, 0),
                slot,
                sent: 0,
                waiting: false,
            }),
        }
    }

    /// The result, if it is there. None leaves no waker behind, not even an earlier one: await it
    /// to be woken.
    pub fn try_take(&mut self) -> Option<(io::Result<usize>, B)> {
        match poll_flight(&mut self.flight, |op| op.try_take()) {
            Poll::Ready(done) => Some(done),
            Poll::Pending => None,
        }
    }

    /// Whether the result has been taken.
    pub fn is_finished(&self) -> bool {
        self.flight.is_none()
    }
}

impl<B: Payload> Future for Send<B> {
    type Output = (io::Result<usize>, B);

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        poll_flight(&mut self.get_mut().flight, |op| ready(op.poll_op(cx)))
    }
}

impl<B: Payload> Drop for Send<B> {
    fn drop(&mut self) {
        abandon(self.flight.take());
    }
}

/// A send of a head and a body under way. Resolves to the number of bytes sent, all of them, or an
/// error, and the head's buffer.
#[must_use = "the result tells whether it was sent"]
pub struct SendParts {
    kind: Kind,
}

enum Kind {
    /// The body was small enough to be copied behind the head.
    Joined(Send<Vec<u8>>),
    Parts(Option<Flight<Box<Parts>>>),
}

/// Up to so many bytes of body are copied behind the head if there is room: cheaper than what
/// `sendmsg` costs the kernel.
const JOIN_MAX: usize = 4096;

impl SendParts {
    pub(super) fn submit(slot: SlotRef, mut head: Vec<u8>, body: Chunk) -> SendParts {
        if body.len() <= JOIN_MAX.min(head.capacity() - head.len()) {
            head.extend_from_slice(&body);
            return SendParts {
                kind: Kind::Joined(Send::submit(slot, head)),
            };
        }
        let pooled = engine::require(|engine| engine.parts.borrow_mut().pop());
        let mut parts = pooled.unwrap_or_default();
        parts.head = head;
        parts.body = body;
        let op = Whole::submit(slot.fd.get(), parts, 0);
        SendParts {
            kind: Kind::Parts(Some(Flight {
                op,
                slot,
                sent: 0,
                waiting: false,
            })),
        }
    }

    /// The result, if it is there. None leaves no waker behind, not even an earlier one: await it
    /// to be woken.
    pub fn try_take(&mut self) -> Option<(io::Result<usize>, Vec<u8>)> {
        match &mut self.kind {
            Kind::Joined(send) => send.try_take(),
            Kind::Parts(flight) => match poll_flight(flight, |op| op.try_take()) {
                Poll::Ready(done) => Some(take_head(done)),
                Poll::Pending => None,
            },
        }
    }
}

impl Future for SendParts {
    type Output = (io::Result<usize>, Vec<u8>);

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.get_mut().kind {
            Kind::Joined(send) => Pin::new(send).poll(cx),
            Kind::Parts(flight) => poll_flight(flight, |op| ready(op.poll_op(cx))).map(take_head),
        }
    }
}

impl Drop for SendParts {
    fn drop(&mut self) {
        if let Kind::Parts(flight) = &mut self.kind {
            abandon(flight.take());
        }
    }
}

/// What `sendmsg` is told, in one place that does not move. Reused.
pub(super) struct Parts {
    message: libc::msghdr,
    pieces: [libc::iovec; 2],
    head: Vec<u8>,
    body: Chunk,
}

impl Default for Parts {
    fn default() -> Parts {
        // SAFETY: a msghdr consists of integers and pointers, for which zero is a value.
        let message = unsafe { mem::zeroed() };
        let nothing = libc::iovec {
            iov_base: ptr::null_mut(),
            iov_len: 0,
        };
        Parts {
            message,
            pieces: [nothing; 2],
            head: Vec::new(),
            body: Chunk::empty(),
        }
    }
}

const POOLED_PARTS_MAX: usize = 256;

fn take_head((result, mut parts): (io::Result<usize>, Box<Parts>)) -> (io::Result<usize>, Vec<u8>) {
    let head = mem::take(&mut parts.head);
    parts.body = Chunk::empty();
    engine::with(|engine| {
        let mut pool = engine.parts.borrow_mut();
        if pool.len() < POOLED_PARTS_MAX {
            pool.push(parts);
        }
    });
    (result, head)
}

/// Something that one operation sends, and another from where that stopped.
trait Whole: Unpin + Sized + 'static {
    fn length(&self) -> usize;

    /// The SQE for all but the first `skip` bytes.
    fn entry(&mut self, fd: RawFd, skip: usize) -> squeue::Entry;

    fn submit(fd: RawFd, mut data: Self, skip: usize) -> Op<Self> {
        let entry = data.entry(fd, skip);
        Op::submit(data, entry)
    }
}

/// The kernel goes on until all is sent, and gives us an error instead of a signal.
const FLAGS: libc::c_int = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;

impl<B: Payload> Whole for B {
    fn length(&self) -> usize {
        self.bytes().len()
    }

    fn entry(&mut self, fd: RawFd, skip: usize) -> squeue::Entry {
        let rest = &self.bytes()[skip..];
        let len = u32::try_from(rest.len()).unwrap_or(u32::MAX);
        opcode::Send::new(types::Fd(fd), rest.as_ptr(), len)
            .flags(FLAGS)
            .build()
    }
}

impl Whole for Box<Parts> {
    fn length(&self) -> usize {
        self.head.len() + self.body.len()
    }

    fn entry(&mut self, fd: RawFd, skip: usize) -> squeue::Entry {
        let head = &self.head[skip.min(self.head.len())..];
        let body = &self.body[skip.saturating_sub(self.head.len())..];
        self.pieces = [head, body].map(|piece| libc::iovec {
            iov_base: piece.as_ptr().cast_mut().cast(),
            iov_len: piece.len(),
        });
        self.message.msg_iov = self.pieces.as_mut_ptr();
        self.message.msg_iovlen = self.pieces.len() as _;
        opcode::SendMsg::new(types::Fd(fd), &raw const self.message)
            .flags(FLAGS as u32)
            .build()
    }
}

struct Flight<D: 'static> {
    op: Op<D>,
    slot: SlotRef,
    sent: usize,
    /// The operation is a wait for room, since the socket is a non-blocking one.
    waiting: bool,
}

fn poll_flight<D: Whole>(
    flight: &mut Option<Flight<D>>,
    mut take: impl FnMut(&mut Op<D>) -> Option<(Cqe, D)>,
) -> Poll<(io::Result<usize>, D)> {
    loop {
        let current = flight.as_mut().expect("a send gives its result once");
        let Some((cqe, data)) = take(&mut current.op) else {
            return Poll::Pending;
        };
        match current.complete(cqe, data) {
            None => {}
            Some(done) => {
                if let Some(ended) = flight.take() {
                    engine::with(|engine| engine.slots.release(ended.slot));
                }
                return Poll::Ready(done);
            }
        }
    }
}

impl<D: Whole> Flight<D> {
    /// The outcome, or None if there is more to do and that is under way.
    fn complete(&mut self, cqe: Cqe, mut data: D) -> Option<(io::Result<usize>, D)> {
        let wait = match cqe.result() {
            Ok(_) if self.waiting => false,
            Ok(count) => {
                self.sent += count;
                if self.sent >= data.length() {
                    return Some((Ok(self.sent), data));
                }
                if count == 0 {
                    return Some((Err(io::ErrorKind::WriteZero.into()), data));
                }
                false
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.waiting,
            Err(error) if error.raw_os_error() == Some(libc::ETIME) => false,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => true,
            Err(error) => return Some((Err(error), data)),
        };
        self.waiting = wait;
        let fd = self.slot.fd.get();
        if fd < 0 || engine::with(|engine| engine.open.get()) != Some(true) {
            return Some((Err(io::ErrorKind::NotConnected.into()), data));
        }
        let entry = if wait {
            wait_for_room(fd)
        } else {
            data.entry(fd, self.sent)
        };
        self.op = Op::submit(data, entry);
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

/// The operation goes on with its data, which the ring keeps until then.
fn abandon<D: 'static>(flight: Option<Flight<D>>) {
    if let Some(flight) = flight {
        flight.slot.set(ABANDONED);
        engine::with(|engine| engine.slots.release(flight.slot));
    }
}

fn ready<T>(poll: Poll<T>) -> Option<T> {
    match poll {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}
