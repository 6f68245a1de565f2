//! Datagrams that wait, in bounds.

use std::collections::VecDeque;

/// Copies of datagrams in their order. What does not fit is not taken, as the kernel does with its
/// own queue.
#[derive(Default)]
pub struct Queue {
    datagrams: VecDeque<Box<[u8]>>,
    bytes: usize,
}

/// Most datagrams that wait in one session.
const DATAGRAMS_MAX: usize = 128;

/// Most bytes that wait in one session: two of the longest datagrams.
const BYTES_MAX: usize = 128 << 10;

impl Queue {
    /// Adds a copy at the end; false if there is no room for it.
    pub fn push(&mut self, datagram: &[u8]) -> bool {
        let fits = self.fits(datagram);
        if fits {
            self.bytes += datagram.len();
            self.datagrams.push_back(datagram.into());
        }
        fits
    }

    /// As [`Queue::push`], of one that was copied before.
    pub fn push_own(&mut self, datagram: Box<[u8]>) -> bool {
        let fits = self.fits(&datagram);
        if fits {
            self.bytes += datagram.len();
            self.datagrams.push_back(datagram);
        }
        fits
    }

    /// Takes the first out.
    pub fn pop(&mut self) -> Option<Box<[u8]>> {
        let datagram = self.datagrams.pop_front()?;
        self.bytes -= datagram.len();
        if self.datagrams.is_empty() {
            self.datagrams = VecDeque::new(); // an idle session has no use for the room
        }
        Some(datagram)
    }

    /// The first.
    pub fn front(&self) -> Option<&[u8]> {
        self.datagrams.front().map(AsRef::as_ref)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> + Clone {
        self.datagrams.iter().map(AsRef::as_ref)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.datagrams.is_empty()
    }

    /// Puts `earlier` before what is here. Both were in bounds, so it is at most twice as much.
    pub fn put_before(&mut self, mut earlier: Queue) {
        earlier.datagrams.append(&mut self.datagrams);
        earlier.bytes += self.bytes;
        *self = earlier;
    }

    fn fits(&self, datagram: &[u8]) -> bool {
        self.datagrams.len() < DATAGRAMS_MAX && self.bytes + datagram.len() <= BYTES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_bounded_by_count_and_by_bytes() {
        let mut queue = Queue::default();
        while queue.push(b"") {}
        assert_eq!(queue.iter().count(), DATAGRAMS_MAX);
        queue.pop().unwrap();
        assert!(queue.push_own(Box::default()));
        let mut queue = Queue::default();
        let long = vec![7; 65_507];
        assert!(queue.push(&long) && queue.push(&long) && !queue.push(&long));
        assert!(queue.push(&[1; 58]) && !queue.push(b"2"));
        assert_eq!(queue.pop().unwrap().len(), long.len());
        assert!(queue.push(b"2"));
    }

    #[test]
    fn what_was_sent_before_comes_first_again() {
        let mut earlier = Queue::default();
        earlier.push(b"a");
        let mut queue = Queue::default();
        queue.push(b"b");
        queue.put_before(earlier);
        assert_eq!(queue.front(), Some(&b"a"[..]));
        assert!(queue.iter().eq([&b"a"[..], b"b"]));
        assert!(queue.pop().is_some() && queue.pop().is_some() && queue.is_empty());
        assert_eq!(queue.bytes, 0);
    }
}
