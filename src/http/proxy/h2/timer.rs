//! The deadlines of a stream: the sweep of the worker looks at them, as it does for sockets.

use std::cell::{Cell, RefCell};
use std::task::{Context, Waker};

/// No deadline.
const NEVER: u64 = u64::MAX;

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The answer.
    Read = 0,
    /// Room for the request's body, or the client that sends it.
    Upload = 1,
}

/// The deadlines of one stream, and who is to be woken.
pub struct Timer {
    /// Monotonic ms, by [`Wait`].
    at_ms: [Cell<u64>; 2],
    fired: [Cell<bool>; 2],
    waker: RefCell<Option<Waker>>,
    /// Where its connection has it.
    pub place: Cell<usize>,
}

impl Default for Timer {
    fn default() -> Self {
        Timer {
            at_ms: [Cell::new(NEVER), Cell::new(NEVER)],
            fired: [Cell::new(false), Cell::new(false)],
            waker: RefCell::default(),
            place: Cell::new(0),
        }
    }
}

impl Timer {
    /// Sets a deadline in monotonic milliseconds.
    pub fn set(&self, wait: Wait, at_ms: Option<u64>) {
        self.at_ms[wait as usize].set(at_ms.unwrap_or(NEVER));
    }

    /// Whether a deadline has passed. Stays true.
    pub fn has_fired(&self, wait: Wait) -> bool {
        self.fired[wait as usize].get()
    }

    /// The task is to be woken by a deadline.
    pub fn register(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        match &mut *waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *waker = Some(cx.waker().clone()),
        }
    }

    /// Wakes the task, for another reason than a deadline.
    pub fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Looks at the deadlines.
    pub fn sweep(&self, now_ms: u64) {
        let mut is_late = false;
        for (at_ms, fired) in self.at_ms.iter().zip(&self.fired) {
            if at_ms.get() <= now_ms {
                at_ms.set(NEVER);
                fired.set(true);
                is_late = true;
            }
        }
        if is_late {
            self.wake();
        }
    }

    /// Makes ready for another stream.
    pub fn clear(&self) {
        for (at_ms, fired) in self.at_ms.iter().zip(&self.fired) {
            at_ms.set(NEVER);
            fired.set(false);
        }
        *self.waker.borrow_mut() = None;
    }
}
