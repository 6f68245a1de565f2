//! What the engine keeps of each open socket: descriptor, deadline, operations under way.
//!
//! The slots lie densely in pages of which none moves, so that setting a deadline is a store and
//! looking for those which are over is a walk through memory in order.

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::os::fd::RawFd;
use std::ptr::NonNull;

use super::stream::NO_STREAM;

/// The deadline of a slot without one.
pub(super) const NEVER: u64 = u64::MAX;

const PAGE: usize = 128;

/// The deadline ends reading only; otherwise both directions.
pub(super) const READ_ONLY: u8 = 1;
/// The deadline has ended the socket.
pub(super) const FIRED: u8 = 2;
/// An operation was given up before it completed: the kernel may still be at it.
pub(super) const ABANDONED: u8 = 4;
/// The descriptor is a non-blocking one.
pub(super) const NONBLOCKING: u8 = 8;

/// One socket. 24 bytes.
pub(super) struct Slot {
    /// Monotonic milliseconds, or [`NEVER`].
    pub(super) at_ms: Cell<u64>,
    /// -1 once the socket is closed while operations still refer to the slot.
    pub(super) fd: Cell<RawFd>,
    /// The socket and each of its operations count one.
    refs: Cell<u16>,
    flags: Cell<u8>,
    /// Small messages received in a row, as far as it matters.
    pub(super) calm: Cell<u8>,
    /// The stream that receives for it ([`super::stream`]), if one does.
    pub(super) stream: Cell<u32>,
}

impl Slot {
    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags.get() & flag != 0
    }

    pub(super) fn set(&self, flag: u8) {
        self.flags.set(self.flags.get() | flag);
    }

    pub(super) fn clear(&self, flag: u8) {
        self.flags.set(self.flags.get() & !flag);
    }
}

/// One counted reference to a slot. Not `Clone` nor `Drop`: the owner ends it by
/// [`Slots::release`], which costs nothing when the engine is gone.
pub(super) struct SlotRef(NonNull<Slot>);

impl SlotRef {
    /// A further reference, for an operation.
    pub(super) fn share(&self) -> SlotRef {
        self.refs.set(self.refs.get() + 1);
        SlotRef(self.0)
    }

    /// References besides this one.
    pub(super) fn others(&self) -> u16 {
        self.refs.get() - 1
    }
}

impl Deref for SlotRef {
    type Target = Slot;

    fn deref(&self) -> &Slot {
        // SAFETY: pages are freed only when no slot of theirs is referred to, and never move.
        unsafe { self.0.as_ref() }
    }
}

/// All slots of one engine.
#[derive(Default)]
pub(super) struct Slots {
    pages: RefCell<Vec<NonNull<[Slot; PAGE]>>>,
    free: RefCell<Vec<NonNull<Slot>>>,
    used: Cell<usize>,
}

impl Slots {
    /// A slot for an open descriptor.
    pub(super) fn take(&self, fd: RawFd) -> SlotRef {
        let slot = self.free.borrow_mut().pop();
        let slot = SlotRef(slot.unwrap_or_else(|| self.add_page()));
        debug_assert_eq!(slot.refs.get(), 0);
        slot.at_ms.set(NEVER);
        slot.fd.set(fd);
        slot.refs.set(1);
        slot.flags.set(0);
        slot.calm.set(0);
        slot.stream.set(NO_STREAM);
        self.used.set(self.used.get() + 1);
        slot
    }

    /// Ends one reference.
    pub(super) fn release(&self, slot: SlotRef) {
        let refs = slot.refs.get() - 1;
        slot.refs.set(refs);
        if refs == 0 {
            slot.at_ms.set(NEVER);
            self.free.borrow_mut().push(slot.0);
            self.used.set(self.used.get() - 1);
        }
    }

    /// Slots referred to now.
    pub(super) fn used(&self) -> usize {
        self.used.get()
    }

    /// Calls `expire` for at most `most` sockets whose deadline is not after `now_ms`, whose
    /// deadline is then none. True if there may be more of them.
    pub(super) fn expire(&self, now_ms: u64, most: usize, expire: impl Fn(&Slot)) -> bool {
        let mut left = most;
        for page in self.pages.borrow().iter() {
            // SAFETY: pages live as long as `self`, and only shared references to them exist.
            for slot in unsafe { page.as_ref() } {
                if slot.at_ms.get() > now_ms {
                    continue;
                }
                if left == 0 {
                    return true;
                }
                left -= 1;
                slot.at_ms.set(NEVER);
                slot.set(FIRED);
                expire(slot);
            }
        }
        false
    }

    fn add_page(&self) -> NonNull<Slot> {
        let page = Box::new(std::array::from_fn::<Slot, PAGE, _>(|_| Slot {
            at_ms: Cell::new(NEVER),
            fd: Cell::new(-1),
            refs: Cell::new(0),
            flags: Cell::new(0),
            calm: Cell::new(0),
            stream: Cell::new(NO_STREAM),
        }));
        let page = NonNull::from(Box::leak(page));
        self.pages.borrow_mut().push(page);
        let first = page.cast::<Slot>();
        let mut free = self.free.borrow_mut();
        // SAFETY: all indexes are inside of the page just made.
        free.extend((1..PAGE).rev().map(|index| unsafe { first.add(index) }));
        first
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        if self.used.get() != 0 {
            return; // something outlives the engine and may still look at its slot
        }
        for page in self.pages.borrow_mut().drain(..) {
            // SAFETY: made by `Box::leak` in `add_page`, and no slot of it is referred to.
            drop(unsafe { Box::from_raw(page.as_ptr()) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_reused_and_expire_once() {
        let slots = Slots::default();
        let many: Vec<SlotRef> = (0..300).map(|fd| slots.take(fd)).collect();
        many[7].at_ms.set(50);
        many[299].at_ms.set(60);
        let seen = RefCell::new(Vec::new());
        assert!(!slots.expire(55, 10, |slot| seen.borrow_mut().push(slot.fd.get())));
        assert!(!slots.expire(60, 10, |slot| seen.borrow_mut().push(slot.fd.get())));
        assert!(!slots.expire(99, 10, |slot| seen.borrow_mut().push(slot.fd.get())));
        assert_eq!(*seen.borrow(), [7, 299]);
        assert!(many[7].has(FIRED) && !many[8].has(FIRED));

        let op = many[3].share();
        assert_eq!(many[3].others(), 1);
        for slot in many {
            slots.release(slot);
        }
        assert_eq!(slots.used(), 1);
        slots.release(op);
        assert_eq!(slots.used(), 0);
        assert!(!slots.take(1).has(FIRED));
    }

    #[test]
    fn expiry_is_bounded() {
        let slots = Slots::default();
        let many: Vec<SlotRef> = (0..20).map(|fd| slots.take(fd)).collect();
        many.iter().for_each(|slot| slot.at_ms.set(1));
        assert!(slots.expire(2, 15, |_| ()));
        assert!(!slots.expire(2, 15, |_| ()));
        many.into_iter().for_each(|slot| slots.release(slot));
    }
}
