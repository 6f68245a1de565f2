//! Deadlines of what has no socket of its own: streams, and connections between their streams.
//!
//! As with those of sockets, setting one is a store, and the worker's sweep finds those that are
//! over. Nothing is cancelled: whoever waits is woken and looks.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};

/// The deadline of a [`Timer`] without one.
const NEVER: u64 = u64::MAX;

/// One deadline.
pub struct Timer {
    /// Monotonic ms, or [`NEVER`].
    at_ms: Cell<u64>,
    has_fired: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Timer {
    /// From `at_ms` on, within a sweep, [`Timer::has_fired`] is true and who watches is woken.
    #[inline]
    pub fn set(&self, at_ms: Option<u64>) {
        self.at_ms.set(at_ms.unwrap_or(NEVER));
    }

    /// When it passes, in monotonic ms; the largest number for never.
    pub fn at_ms(&self) -> u64 {
        self.at_ms.get()
    }

    /// Whether the deadline has passed. Stays true until [`Timer::reset`].
    #[inline]
    pub fn has_fired(&self) -> bool {
        self.has_fired.get()
    }

    /// Makes it as new.
    pub fn reset(&self) {
        self.at_ms.set(NEVER);
        self.has_fired.set(false);
    }

    /// Remembers the task to wake.
    pub fn watch(&self, cx: &Context<'_>) {
        let mut kept = self.waker.borrow_mut();
        if !kept.as_ref().is_some_and(|k| k.will_wake(cx.waker())) {
            *kept = Some(cx.waker().clone());
        }
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

/// All of one worker.
#[derive(Default)]
pub struct Timers(RefCell<Vec<Rc<Timer>>>);

impl Timers {
    /// A timer, until its last owner drops it.
    pub fn add(&self) -> Rc<Timer> {
        let timer = Rc::new(Timer {
            at_ms: Cell::new(NEVER),
            has_fired: Cell::new(false),
            waker: RefCell::new(None),
        });
        self.0.borrow_mut().push(Rc::clone(&timer));
        timer
    }

    /// Fires those that are over, and forgets those that nobody has. Called several times a second.
    pub fn sweep(&self, now_ms: u64) {
        self.0.borrow_mut().retain(|timer| {
            if Rc::strong_count(timer) == 1 {
                return false;
            }
            if timer.at_ms.get() <= now_ms {
                timer.at_ms.set(NEVER);
                timer.has_fired.set(true);
                timer.wake();
            }
            true
        });
    }

    /// Wakes everybody, for news that concern all.
    pub fn wake_all(&self) {
        self.0.borrow().iter().for_each(|timer| timer.wake());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_fire_once_and_are_forgotten() {
        let timers = Timers::default();
        let (one, other) = (timers.add(), timers.add());
        one.set(Some(100));
        timers.sweep(99);
        assert!(!one.has_fired());
        timers.sweep(100);
        assert!(one.has_fired() && !other.has_fired());
        one.reset();
        timers.sweep(200);
        assert!(!one.has_fired());
        drop(other);
        timers.sweep(201);
        assert_eq!(timers.0.borrow().len(), 1);
    }
}
