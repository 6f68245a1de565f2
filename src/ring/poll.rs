//! Waiting for readiness, with no buffer.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use io_uring::{opcode, types};

use super::engine;
use super::op::Op;
use super::slots::{ABANDONED, SlotRef};

/// A wait for readiness under way.
#[must_use = "it is to be awaited"]
pub struct Readiness {
    flight: Option<(Op<()>, SlotRef)>,
}

impl Readiness {
    pub(super) fn submit(slot: SlotRef, events: libc::c_short) -> Readiness {
        let entry = opcode::PollAdd::new(types::Fd(slot.fd.get()), events as u32).build();
        Readiness {
            flight: Some((Op::submit((), entry), slot)),
        }
    }

    /// Whether it has come. False leaves no waker behind, not even an earlier one.
    pub fn try_take(&mut self) -> Option<io::Result<()>> {
        let (op, _) = self.flight.as_mut().expect("readiness is told once");
        let (cqe, ()) = op.try_take()?;
        self.end();
        Some(cqe.result().map(|_| ()))
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
        let (op, _) = this.flight.as_mut().expect("readiness is told once");
        let Poll::Ready((cqe, ())) = op.poll_op(cx) else {
            return Poll::Pending;
        };
        this.end();
        Poll::Ready(cqe.result().map(|_| ()))
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Readiness")
    }
}

impl Drop for Readiness {
    fn drop(&mut self) {
        if let Some((_, slot)) = &self.flight {
            slot.set(ABANDONED);
            self.end();
        }
    }
}
