//! A connected socket.

use std::io;
use std::marker::PhantomData;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::rc::Rc;

use io_uring::{opcode, types};
use socket2::SockRef;

use super::addr::Addr;
use super::engine;
use super::op::Op;
use super::poll::Readiness;
use super::recv::{Class, Expect, Recv};
use super::send::{Payload, Send, send_now};
use super::slots::{ABANDONED, FIRED, NEVER, NONBLOCKING, READ_ONLY, SlotRef};
use super::stream::NO_STREAM;

/// A stream socket of this worker, with its deadline. Not `Send`.
///
/// The descriptor is a blocking one, as the ring wants it: on a non-blocking one an operation that
/// has to wait fails with EAGAIN instead (which receives and sends put up with, at some cost).
///
/// At most one receive and one send should be under way at a time; two of a kind would take each
/// other's bytes. Dropping the socket closes it, through the ring; operations that are under way
/// are ended first by `shutdown(2)`, so a send that matters is awaited before.
pub struct Socket {
    slot: Option<SlotRef>,
    not_send: PhantomData<Rc<()>>,
}

impl Socket {
    /// Takes over a connected stream socket. Panics outside of [`super::start`].
    pub fn from_fd(fd: OwnedFd) -> Socket {
        let slot = engine::require(|engine| engine.slots.take(fd.into_raw_fd()));
        Socket {
            slot: Some(slot),
            not_send: PhantomData,
        }
    }

    /// The descriptor, which the socket keeps.
    pub fn raw_fd(&self) -> RawFd {
        self.slot().fd.get()
    }

    /// Receives what comes next, into one of the worker's buffers of the class. No buffer is held
    /// while it waits. An empty chunk is the end of the stream.
    ///
    /// Submitted at once; it may be kept and awaited later, even across requests. Dropping it
    /// before it completes loses what it would have received, so that is done only together with
    /// dropping the socket.
    pub fn recv(&self, expect: Expect, class: Class) -> Recv {
        Recv::submit(self.slot().share(), expect, class)
    }

    /// Sends all of `payload`, which comes back with the number of bytes that went out, or with
    /// the error. Submitted at once; may be kept and awaited later.
    pub fn send<B: Payload>(&self, payload: B) -> Send<B> {
        Send::submit(self.slot().share(), payload)
    }

    /// Sends before the socket is dropped what there is room for at once, with no send under way:
    /// a farewell that may be lost.
    pub fn send_farewell(&self, bytes: &[u8]) {
        let _ = send_now(self.raw_fd(), bytes);
    }

    /// Waits until there is something to receive, an end or an error included.
    pub fn readable(&self) -> Readiness {
        Readiness::to_receive(self.slot().share())
    }

    /// Waits until something can be sent, or the connection has failed.
    pub fn writable(&self) -> Readiness {
        Readiness::to_send(self.slot().share())
    }

    /// Ends one direction or both; pending operations on it complete.
    pub fn shutdown(&self, how: Shutdown) {
        engine::shutdown(
            self.raw_fd(),
            match how {
                Shutdown::Read => libc::SHUT_RD,
                Shutdown::Write => libc::SHUT_WR,
                Shutdown::Both => libc::SHUT_RDWR,
            },
        );
    }

    /// From `at_ms` (of [`crate::base::clock::now_ms`]) on, within a sweep, both directions are
    /// ended and what is pending completes. Replaces the deadline that was set; costs a store.
    #[inline]
    pub fn set_deadline(&self, at_ms: Option<u64>) {
        self.slot().clear(READ_ONLY);
        self.slot().at_ms.set(at_ms.unwrap_or(NEVER));
    }

    /// As [`Socket::set_deadline`], but only receiving ends, so that an answer can still be sent.
    #[inline]
    pub fn set_read_deadline(&self, at_ms: Option<u64>) {
        self.slot().set(READ_ONLY);
        self.slot().at_ms.set(at_ms.unwrap_or(NEVER));
    }

    /// Whether a deadline has ended the socket. Stays true.
    #[inline]
    pub fn timed_out(&self) -> bool {
        self.slot().has(FIRED)
    }

    /// Whether the kernel receives from it although nobody waits: a receive of
    /// [`Class::Stream`] does not end with its result. One of another class ends it.
    pub fn is_streaming(&self) -> bool {
        self.slot().stream.get() != NO_STREAM
    }

    /// Ends the connection now and with a reset, without what is still to be sent. What is under
    /// way on it fails.
    ///
    /// (`SO_LINGER` would not do: closing while a receive waits takes a `shutdown(2)`, after which
    /// the peer sees an orderly end before the reset.)
    pub fn reset(&self) {
        // SAFETY: an all-zero address is a valid one, of the family AF_UNSPEC.
        let nobody: libc::sockaddr = unsafe { std::mem::zeroed() };
        let length = size_of_val(&nobody) as libc::socklen_t;
        // Connecting to nobody is disconnecting. That unix sockets cannot be makes their end an
        // orderly one, which is as good.
        // SAFETY: the address is valid for its length.
        unsafe { libc::connect(self.raw_fd(), &raw const nobody, length) };
    }

    /// Makes the descriptor a non-blocking one, as splice(2) wants it ([`super::Pipe`]), or a
    /// blocking one again, as the ring wants it. What is under way goes on as it began.
    pub fn set_nonblocking(&self, on: bool) {
        let mut value = libc::c_int::from(on);
        // SAFETY: FIONBIO reads one int. On an open socket it does not fail.
        unsafe { libc::ioctl(self.raw_fd(), libc::FIONBIO, &raw mut value) };
        if on {
            self.slot().set(NONBLOCKING);
        } else {
            self.slot().clear(NONBLOCKING);
        }
    }

    /// Sends small segments without delay, or not. Sockets of [`super::Listener`] and
    /// [`super::connect()`] begin with it on.
    pub fn set_nodelay(&self, on: bool) -> io::Result<()> {
        self.options().set_tcp_nodelay(on)
    }

    /// TCP keepalive probes.
    pub fn set_keepalive(&self, on: bool) -> io::Result<()> {
        self.options().set_keepalive(on)
    }

    /// Our end's address.
    pub fn local_addr(&self) -> io::Result<Addr> {
        self.options().local_addr().map(Addr::from)
    }

    /// The other end's address.
    pub fn peer_addr(&self) -> io::Result<Addr> {
        self.options().peer_addr().map(Addr::from)
    }

    /// For options that are not here.
    pub fn options(&self) -> SockRef<'_> {
        SockRef::from(self)
    }

    pub(super) fn slot(&self) -> &SlotRef {
        self.slot.as_ref().expect("the slot is there until drop")
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the socket, which the result borrows.
        unsafe { BorrowedFd::borrow_raw(self.raw_fd()) }
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.raw_fd()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let Some(slot) = self.slot.take() else { return };
        let fd = slot.fd.replace(-1);
        slot.at_ms.set(NEVER);
        let stream = slot.stream.replace(NO_STREAM);
        let is_idle = slot.others() == 0 && !slot.has(ABANDONED) && stream == NO_STREAM;
        if !is_idle {
            engine::shutdown(fd, libc::SHUT_RDWR);
        }
        if stream != NO_STREAM {
            engine::with(|engine| engine.streams.leave(stream));
        }
        let open = engine::with(|engine| {
            engine.slots.release(slot);
            engine.open.get()
        });
        if is_idle {
            // SAFETY: the descriptor was ours alone, and the slot has let go of it.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
        } else if open == Some(true) {
            // Through the ring, after everything that was queued for this descriptor: a close(2)
            // now could let the next connection get the number, and what is queued with it.
            drop(Op::submit((), opcode::Close::new(types::Fd(fd)).build()));
        } else {
            // SAFETY: the descriptor was ours alone, and the slot has let go of it.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            engine::with(|engine| engine.close_at_the_end(Rc::new(fd)));
        }
    }
}
