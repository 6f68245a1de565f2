//! Client connections that wait for a request: when they give up their buffers, and which of them
//! are closed for the sake of others.

use std::cell::{Cell, RefCell};
use std::task::Waker;

/// A connection idle for this long gives up its buffers and its future.
const PARK_AFTER_MS: u64 = 1_000;

/// What a waiting connection is asked to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Call {
    /// To wait on.
    #[default]
    None,
    /// To give up its buffers.
    Park,
    /// To close.
    Close,
}

/// The waiting connections of one worker.
#[derive(Default)]
pub struct Waiting {
    slots: RefCell<Vec<Slot>>,
    free: RefCell<Vec<usize>>,
    /// Connections that were asked to close and have not yet.
    leaving: Cell<usize>,
}

/// The place of one connection; 40 bytes for each that is open.
#[derive(Default)]
struct Slot {
    /// Monotonic ms since when the connection waits; 0 while it works.
    since: Cell<u64>,
    /// Wakes the connection's task so that it does what it is asked to.
    waker: RefCell<Option<Waker>>,
    call: Cell<Call>,
    /// It has given up its buffers already.
    is_parked: Cell<bool>,
}

impl Waiting {
    /// A place for a connection. Give it back with [`Waiting::leave`].
    pub fn enter(&self) -> usize {
        if let Some(slot) = self.free.borrow_mut().pop() {
            return slot;
        }
        let mut slots = self.slots.borrow_mut();
        slots.push(Slot::default());
        slots.len() - 1
    }

    /// Gives a place back.
    pub fn leave(&self, slot: usize) {
        self.end(slot);
        self.slots.borrow()[slot].waker.borrow_mut().take();
        self.free.borrow_mut().push(slot);
    }

    /// The connection in this place begins to wait for a request.
    pub fn begin(&self, slot: usize, now_ms: u64, is_parked: bool) {
        let place = &self.slots.borrow()[slot];
        debug_assert_eq!(place.since.get(), 0, "one wait at a time");
        place.since.set(now_ms.max(1));
        place.is_parked.set(is_parked);
    }

    /// The connection in this place works again, or ends.
    pub fn end(&self, slot: usize) {
        let place = &self.slots.borrow()[slot];
        place.since.set(0);
        if place.call.take() == Call::Close {
            self.leaving.set(self.leaving.get() - 1);
        }
    }

    /// What the connection in this place is asked to do. Remembers the waker of the task that
    /// asks, to wake it when that changes.
    pub fn call(&self, slot: usize, waker: &Waker) -> Call {
        let place = &self.slots.borrow()[slot];
        let call = place.call.get();
        if call == Call::None {
            let mut kept = place.waker.borrow_mut();
            if !kept.as_ref().is_some_and(|k| k.will_wake(waker)) {
                *kept = Some(waker.clone());
            }
        }
        call
    }

    /// Connections that were asked to close and still hold their place.
    pub fn leaving(&self) -> usize {
        self.leaving.get()
    }

    /// Asks those that have waited for long to park. Called several times a second.
    pub fn sweep(&self, now_ms: u64) {
        for place in self.slots.borrow().iter() {
            let since = place.since.get();
            let is_due = since != 0 && now_ms.saturating_sub(since) >= PARK_AFTER_MS;
            if is_due && !place.is_parked.get() && place.call.get() == Call::None {
                place.ask(Call::Park);
            }
        }
    }

    /// Asks the `count` connections that have waited longest to close. Returns how many there were.
    pub fn close_oldest(&self, count: usize) -> usize {
        let slots = self.slots.borrow();
        let is_idle = |slot: &&Slot| slot.since.get() != 0 && slot.call.get() != Call::Close;
        let mut idle: Vec<&Slot> = slots.iter().filter(is_idle).collect();
        if idle.len() > count && count > 0 {
            idle.select_nth_unstable_by_key(count - 1, |slot| slot.since.get());
        }
        idle.truncate(count);
        for slot in &idle {
            slot.ask(Call::Close);
        }
        self.leaving.set(self.leaving.get() + idle.len());
        idle.len()
    }
}

impl Slot {
    fn ask(&self, call: Call) {
        self.call.set(call);
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_wait_longest_are_closed_first() {
        let waiting = Waiting::default();
        let slots: Vec<usize> = (0..5).map(|_| waiting.enter()).collect();
        for (slot, since) in [(0, 50), (1, 10), (3, 30), (4, 20)] {
            waiting.begin(slots[slot], since, slot == 4);
        }
        assert_eq!(waiting.close_oldest(2), 2);
        let call = |slot: usize| waiting.call(slots[slot], Waker::noop());
        assert_eq!([0, 1, 2, 3, 4].map(call)[1], Call::Close);
        assert_eq!(call(4), Call::Close);
        assert_eq!(
            (call(0), call(2), call(3)),
            (Call::None, Call::None, Call::None)
        );
        assert_eq!(waiting.leaving(), 2);
        // One of them got a request in the last moment, the other closes.
        waiting.end(slots[1]);
        waiting.leave(slots[4]);
        assert_eq!(waiting.leaving(), 0);
        assert_eq!(waiting.close_oldest(usize::MAX), 2);
        assert_eq!(waiting.enter(), slots[4]);
    }

    #[test]
    fn parked_ones_are_not_asked_to_park() {
        let waiting = Waiting::default();
        let (fresh, parked) = (waiting.enter(), waiting.enter());
        waiting.begin(fresh, 1_000, false);
        waiting.begin(parked, 1_000, true);
        waiting.sweep(1_999);
        assert_eq!(waiting.call(fresh, Waker::noop()), Call::None);
        waiting.sweep(2_000);
        assert_eq!(waiting.call(fresh, Waker::noop()), Call::Park);
        assert_eq!(waiting.call(parked, Waker::noop()), Call::None);
    }
}
