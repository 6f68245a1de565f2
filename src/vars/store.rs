//! The values a request carries: results of `set`, of cached maps and of regular expressions.

use std::fmt;

/// The place of one user variable in every [`Store`] of a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot(pub(super) u32);

/// What one request (or session) remembers for its variables.
///
/// A store belongs to one connection and is reused: [`Store::reset`] forgets the values in time
/// proportional to what was used and keeps every buffer, so that a request in steady state
/// allocates nothing here.
#[derive(Default)]
pub struct Store {
    slots: Vec<Value>,
    /// Slots whose state is not `Unset`, for `reset`.
    used: Vec<u32>,
    captures: Captures,
    /// Buffers lent to templates and maps while they work.
    spare: Vec<Vec<u8>>,
}

/// The state of one slot, as a reader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored<'a> {
    /// Nothing was written in this request.
    Unset,
    /// Something looked for the value and there is none.
    Missing,
    /// The value is being computed further up the stack: a cycle.
    Busy,
    /// The value.
    Found(&'a [u8]),
}

#[derive(Default)]
struct Value {
    state: State,
    bytes: Vec<u8>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Unset,
    Missing,
    Busy,
    Found,
}

/// The groups of the last successful match, with a copy of the text they point into.
#[derive(Default)]
struct Captures {
    text: Vec<u8>,
    ranges: Vec<Option<(usize, usize)>>,
}

/// Buffers above this are not kept for the next request, so that one huge value does not stay for
/// the life of a connection.
const KEPT_BYTES_MAX: usize = 16 * 1024;

/// Buffers kept ready at most; nesting deeper than this (a map reading a map reading …) allocates.
const SPARE_MAX: usize = 8;

impl Store {
    /// An empty store; it takes no memory until something is written.
    pub const fn new() -> Self {
        Self {
            slots: Vec::new(),
            used: Vec::new(),
            captures: Captures {
                text: Vec::new(),
                ranges: Vec::new(),
            },
            spare: Vec::new(),
        }
    }

    /// Forgets all values and captures, keeping the buffers.
    pub fn reset(&mut self) {
        for index in self.used.drain(..) {
            let value = &mut self.slots[index as usize];
            value.state = State::Unset;
            recycle(&mut value.bytes);
        }
        self.captures.ranges.clear();
        recycle(&mut self.captures.text);
    }

    /// Writes `value` into `slot`, replacing what was there.
    pub fn set(&mut self, slot: Slot, value: &[u8]) {
        let target = self.occupy(slot);
        target.state = State::Found;
        target.bytes.clear();
        target.bytes.extend_from_slice(value);
    }

    /// Takes the buffer of `slot`, empty, to compute the value in; the slot reads as
    /// [`Stored::Busy`] until [`Store::finish`] is called with that buffer.
    pub fn begin(&mut self, slot: Slot) -> Vec<u8> {
        let target = self.occupy(slot);
        debug_assert!(
            target.state != State::Busy,
            "a value computed while being computed"
        );
        target.state = State::Busy;
        let mut bytes = std::mem::take(&mut target.bytes);
        bytes.clear();
        bytes
    }

    /// Ends what [`Store::begin`] began; `found` is false when there is no value.
    pub fn finish(&mut self, slot: Slot, value: Vec<u8>, found: bool) {
        let target = self.occupy(slot);
        debug_assert!(target.state == State::Busy, "finish without begin");
        target.state = if found { State::Found } else { State::Missing };
        target.bytes = value;
    }

    /// Forgets the value of one slot, so that it is computed again.
    pub fn forget(&mut self, slot: Slot) {
        if let Some(value) = self.slots.get_mut(slot.0 as usize) {
            // It stays listed in `used`: resetting an unset slot is harmless.
            value.state = State::Unset;
        }
    }

    /// Lends an empty buffer; give it back with [`Store::give_back`] to have it reused.
    pub fn lend(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    /// Returns a buffer taken with [`Store::lend`].
    pub fn give_back(&mut self, mut buffer: Vec<u8>) {
        if self.spare.len() < SPARE_MAX {
            recycle(&mut buffer);
            self.spare.push(buffer);
        }
    }

    /// Remembers the groups of a match in `text`: `ranges[0]` is the whole match, `ranges[n]` is
    /// `$n`.
    pub fn set_captures(&mut self, text: &[u8], ranges: &[Option<(usize, usize)>]) {
        debug_assert!(
            ranges
                .iter()
                .flatten()
                .all(|r| r.0 <= r.1 && r.1 <= text.len())
        );
        self.captures.text.clear();
        self.captures.text.extend_from_slice(text);
        self.captures.ranges.clear();
        self.captures.ranges.extend_from_slice(ranges);
    }

    /// Forgets the groups: a match without groups leaves `$1` empty.
    pub fn clear_captures(&mut self) {
        self.captures.ranges.clear();
    }

    /// The value of `slot` in this request.
    pub fn get(&self, slot: Slot) -> Stored<'_> {
        match self.slots.get(slot.0 as usize) {
            None => Stored::Unset,
            Some(value) => match value.state {
                State::Unset => Stored::Unset,
                State::Missing => Stored::Missing,
                State::Busy => Stored::Busy,
                State::Found => Stored::Found(&value.bytes),
            },
        }
    }

    /// Group `number` of the last successful match (`$1` is 1), if it took part in it.
    pub fn capture(&self, number: usize) -> Option<&[u8]> {
        let (start, end) = (*self.captures.ranges.get(number)?)?;
        self.captures.text.get(start..end)
    }

    /// The slot for writing, listed for `reset`; the vector grows to hold it.
    fn occupy(&mut self, slot: Slot) -> &mut Value {
        let index = slot.0 as usize;
        if index >= self.slots.len() {
            self.slots.resize_with(index + 1, Value::default);
        }
        let value = &mut self.slots[index];
        if value.state == State::Unset {
            self.used.push(slot.0);
        }
        value
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("used", &self.used.len())
            .field("captures", &self.captures.ranges.len())
            .finish_non_exhaustive()
    }
}

fn recycle(buffer: &mut Vec<u8>) {
    if buffer.capacity() > KEPT_BYTES_MAX {
        *buffer = Vec::new();
    } else {
        buffer.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_unset_until_written_and_after_reset() {
        let mut store = Store::new();
        assert_eq!(store.get(Slot(3)), Stored::Unset);
        store.set(Slot(3), b"x");
        store.set(Slot(3), b"yy");
        assert_eq!(store.get(Slot(3)), Stored::Found(b"yy"));
        assert_eq!(store.get(Slot(2)), Stored::Unset);
        store.reset();
        assert_eq!(store.get(Slot(3)), Stored::Unset);
    }

    #[test]
    fn reset_keeps_buffers_but_not_huge_ones() {
        let mut store = Store::new();
        store.set(Slot(0), &[b'a'; 100]);
        store.set(Slot(1), &[b'a'; KEPT_BYTES_MAX + 1]);
        store.reset();
        assert!(store.slots[0].bytes.capacity() >= 100);
        assert_eq!(store.slots[1].bytes.capacity(), 0);
    }

    #[test]
    fn forgetting_twice_or_rewriting_keeps_the_used_list_sound() {
        let mut store = Store::new();
        for _ in 0..3 {
            store.set(Slot(1), b"a");
            store.forget(Slot(1));
        }
        store.reset();
        assert_eq!(store.get(Slot(1)), Stored::Unset);
        assert!(store.used.is_empty());
    }

    #[test]
    fn a_value_being_computed_reads_as_busy() {
        let mut store = Store::new();
        let mut value = store.begin(Slot(0));
        assert_eq!(store.get(Slot(0)), Stored::Busy);
        value.push(b'v');
        store.finish(Slot(0), value, true);
        assert_eq!(store.get(Slot(0)), Stored::Found(b"v"));
    }

    #[test]
    fn captures_outlive_the_text_they_came_from() {
        let mut store = Store::new();
        store.set_captures(b"/a/bc", &[Some((0, 5)), Some((1, 2)), None, Some((3, 5))]);
        assert_eq!(store.capture(1), Some(&b"a"[..]));
        assert_eq!(store.capture(2), None);
        assert_eq!(store.capture(3), Some(&b"bc"[..]));
        assert_eq!(store.capture(4), None);
        store.clear_captures();
        assert_eq!(store.capture(1), None);
    }
}
