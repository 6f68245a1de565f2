//! Waiting for readiness, with no buffer.

use std::fmt;
use std::future::Future;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use io_uring::{opcode, types};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::engine;
use super::op::Op;
use super::slots::{ABANDONED, SlotRef};

/// A wait for readiness under way.
#[must_use = "it is to be awaited"]
pub struct Readiness {
    flight: Option<(Wait, SlotRef)>,
}

enum Wait {
    Ring(Op<()>),
    Epoll(Pin<Box<dyn Future<Output = io::Result<()>>>>),
}

impl Readiness {
    /// Waits for something to receive, an end or an error included.
    pub(super) fn to_receive(slot: SlotRef) -> Readiness {
        Readiness::submit(slot, libc::POLLIN | libc::POLLRDHUP)
    }

    /// Waits for room to send, or an error.
    ///
    /// The ring's poll is over at once when the peer has ended its half, whatever it is asked for,
    /// so that waiting in this way would be spinning. Such a socket is waited for in epoll, which
    /// costs some system calls more.
    pub(super) fn to_send(slot: SlotRef) -> Readiness {
        if !has_ended_half(slot.fd.get()) {
            return Readiness::submit(slot, libc::POLLOUT);
        }
        // SAFETY: the descriptor is open: the slot is the caller's socket's.
        let fd = unsafe { BorrowedFd::borrow_raw(slot.fd.get()) };
        let own = fd.try_clone_to_owned();
        let wait = Box::pin(async move {
            // SAFETY: the descriptor is owned by what watches it.
            let target = unsafe { AsyncFd::register_with_interest(own?, Interest::WRITABLE) }?;
            target.writable().await?.retain_ready();
            Ok(())
        });
        Readiness {
            flight: Some((Wait::Epoll(wait), slot)),
        }
    }

    fn submit(slot: SlotRef, events: libc::c_short) -> Readiness {
        let entry = opcode::PollAdd::new(types::Fd(slot.fd.get()), events as u32).build();
        Readiness {
            flight: Some((Wait::Ring(Op::submit((), entry)), slot)),
        }
    }

    /// Whether it has come. False leaves no waker behind, not even an earlier one.
    pub fn try_take(&mut self) -> Option<io::Result<()>> {
        match Pin::new(self).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        }
    }

    fn end(&mut self) {
        if let Some((_, slot)) = self.flight.take() {
            engine::with(|engine| engine.slots.release(slot));
        }
    }
}

impl Future for Readiness {
    type Output = io::Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let (wait, _) = this.flight.as_mut().expect("readiness is told once");
        let waited = match wait {
            Wait::Ring(op) => op.poll_op(cx).map(|(cqe, ())| cqe.result().map(|_| ())),
            Wait::Epoll(wait) => wait.as_mut().poll(cx),
        };
        if waited.is_ready() {
            this.end();
        }
        waited
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Readiness")
    }
}

impl Drop for Readiness {
    fn drop(&mut self) {
        if let Some((wait, slot)) = &self.flight {
            if matches!(wait, Wait::Ring(_)) {
                slot.set(ABANDONED);
            }
            self.end();
        }
    }
}

/// Whether the peer will not send any more.
pub(super) fn has_ended_half(fd: RawFd) -> bool {
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLRDHUP,
        revents: 0,
    };
    // SAFETY: poll reads and writes the one struct that it is given.
    let found = unsafe { libc::poll(&raw mut poll, 1, 0) };
    found > 0 && poll.revents & libc::POLLRDHUP != 0
}
