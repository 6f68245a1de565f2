//! How much of a worker's time handshakes get while others wait.
//!
//! A handshake takes about as long as a hundred requests. When many clients come at once, what each
//! does to the worker would add up before it looks at its ring again, and everybody's requests wait
//! for all of it. So there are but a few between two looks.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Poll, Waker};

use crate::ring;

/// Handshakes that begin between two looks at the ring. With two, requests wait for a third of the
/// time when nothing but handshakes arrive, and a handshake costs an eighth more.
const PER_TURN: u32 = 4;

#[derive(Default)]
struct Gate {
    /// Those that have begun since the last look.
    begun: Cell<u32>,
    /// A task counts the looks.
    is_counting: Cell<bool>,
    /// Those that wait for the next one, in their order.
    waiting: RefCell<VecDeque<Waker>>,
}

thread_local! {
    static GATE: Gate = Gate::default();
}

/// Waits until this worker may begin a handshake: not at all, if there are few.
pub async fn pass() {
    let mut has_waited = false;
    poll_fn(|cx| {
        GATE.with(|gate| {
            let is_next = has_waited || gate.waiting.borrow().is_empty();
            if gate.begun.get() < PER_TURN && is_next {
                gate.begin();
                return Poll::Ready(());
            }
            has_waited = true;
            gate.waiting.borrow_mut().push_back(cx.waker().clone());
            Poll::Pending
        })
    })
    .await;
}

impl Gate {
    /// Counts one, until the next look at the ring.
    fn begin(&self) {
        self.begun.set(self.begun.get() + 1);
        if !self.is_counting.replace(true) {
            drop(ring::spawn(count_turns()));
        }
    }

    /// A new turn: those who have waited longest are next. False if there are none.
    fn open(&self) -> bool {
        self.begun.set(0);
        let mut waiting = self.waiting.borrow_mut();
        let next = waiting.len().min(PER_TURN as usize);
        // Among them may be tasks that have ended; then the turn has fewer.
        waiting.drain(..next).for_each(Waker::wake);
        self.is_counting.set(next > 0);
        next > 0
    }
}

async fn count_turns() {
    loop {
        ring::yield_now().await;
        if !GATE.with(Gate::open) {
            return;
        }
    }
}
