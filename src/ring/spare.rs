//! Buffers on the heap that go round: a chunk that is made of one gives it back when it is dropped.

use std::cell::RefCell;

use super::engine;

/// Capacities, in bytes: for what is in a small buffer, and for what is in a large one together
/// with a record of TLS that had begun before it.
const SMALL: usize = 4 << 10;
const LARGE: usize = 48 << 10;

/// Kept of each kind by a worker, at most: 256 KiB and 768 KiB.
const SMALL_MAX: usize = 64;
const LARGE_MAX: usize = 16;

/// The buffers of a worker that nobody uses.
#[derive(Default)]
pub(super) struct Spares {
    small: RefCell<Vec<Vec<u8>>>,
    large: RefCell<Vec<Vec<u8>>>,
}

/// An empty buffer with room for `bytes`. As a [`super::Chunk`] it comes back when it is dropped.
pub fn spare_buffer(bytes: usize) -> Vec<u8> {
    let spare = engine::with(|engine| engine.spares.take(bytes)).flatten();
    spare.unwrap_or_else(|| Vec::with_capacity(capacity_for(bytes)))
}

fn capacity_for(bytes: usize) -> usize {
    if bytes <= SMALL {
        SMALL
    } else {
        bytes.max(LARGE)
    }
}

impl Spares {
    fn take(&self, bytes: usize) -> Option<Vec<u8>> {
        match capacity_for(bytes) {
            SMALL => self.small.borrow_mut().pop(),
            LARGE => self.large.borrow_mut().pop(),
            _ => None,
        }
    }

    /// Keeps a buffer of one of the capacities, or lets go of it.
    pub(super) fn give(&self, mut buffer: Vec<u8>) {
        let (kept, most) = match buffer.capacity() {
            SMALL => (&self.small, SMALL_MAX),
            LARGE => (&self.large, LARGE_MAX),
            _ => return,
        };
        let mut kept = kept.borrow_mut();
        if kept.len() < most {
            buffer.clear();
            kept.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Chunk, EngineConf, start};
    use super::*;

    #[test]
    fn buffers_come_back() {
        let main = async {
            for (bytes, capacity) in [(0, SMALL), (100, SMALL), (SMALL + 1, LARGE)] {
                let mut buffer = spare_buffer(bytes);
                assert_eq!(buffer.capacity(), capacity);
                buffer.extend_from_slice(b"x");
                let at = buffer.as_ptr();
                drop(Chunk::from(buffer));
                let again = spare_buffer(bytes);
                assert_eq!((again.as_ptr(), again.len()), (at, 0));
            }
            assert_eq!(spare_buffer(LARGE + 1).capacity(), LARGE + 1);
        };
        start(&EngineConf::default(), main).unwrap();
    }
}
