//! Bytes that were received, in a buffer of the worker's.

use std::fmt;
use std::ops::Deref;
use std::ptr::NonNull;

use super::buffers::Group;
use super::engine;

/// Bytes in a buffer leased from the worker (or, when it had none to lend, on the heap).
///
/// Dropping the chunk gives the buffer back, so a chunk is held while its bytes are needed and not
/// longer. Both ends can be cut off without copying. At most 4 GiB.
pub struct Chunk {
    /// Where the buffer begins.
    buffer: NonNull<u8>,
    /// Of a buffer on the heap.
    capacity: usize,
    start: u32,
    len: u32,
    /// Index of the group, or [`HEAP`].
    group: u16,
    id: u16,
}

const HEAP: u16 = u16::MAX;

impl Chunk {
    /// No bytes, no buffer.
    pub const fn empty() -> Chunk {
        Chunk {
            buffer: NonNull::dangling(),
            capacity: 0,
            start: 0,
            len: 0,
            group: HEAP,
            id: 0,
        }
    }

    /// A copy of `bytes` on the heap.
    pub fn copy_of(bytes: &[u8]) -> Chunk {
        Chunk::from(bytes.to_vec())
    }

    /// Takes over buffer `id` of `group`, in which the kernel has put `len` bytes.
    pub(super) fn lease(group: &Group, id: u16, len: usize) -> Chunk {
        let buffer = group.lease(id);
        let len = (len as u32).min(group.size());
        Chunk {
            buffer,
            capacity: 0,
            start: 0,
            len,
            group: group.id(),
            id,
        }
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there are no bytes: at the end of a stream.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the buffer is filled to its end, so that there may have been more to receive.
    pub fn is_full(&self) -> bool {
        let end = (self.start + self.len) as usize;
        if self.group == HEAP {
            end == self.capacity
        } else {
            self.with_group(|group| end == group.size() as usize)
                .unwrap_or(false)
        }
    }

    /// Cuts off the first `count` bytes. Panics if there are fewer.
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.len());
        self.start += count as u32;
        self.len -= count as u32;
    }

    /// Cuts off what is after the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(u32::try_from(len).unwrap_or(u32::MAX));
    }

    /// Takes the first `count` bytes out, as a chunk of their own: without copying when the buffer
    /// is a leased one. Panics if there are fewer.
    pub fn split_to(&mut self, count: usize) -> Chunk {
        assert!(count <= self.len());
        if count == self.len() {
            return std::mem::take(self);
        }
        let first = if self.share() {
            Chunk {
                buffer: self.buffer,
                capacity: 0,
                start: self.start,
                len: count as u32,
                group: self.group,
                id: self.id,
            }
        } else {
            Chunk::copy_of(&self[..count])
        };
        self.advance(count);
        first
    }

    /// The buffer of bytes on the heap, emptied, to be used again. None for a leased one, which
    /// goes back to the worker.
    pub fn into_buffer(self) -> Option<Vec<u8>> {
        if self.group != HEAP || self.capacity == 0 {
            return None;
        }
        let chunk = std::mem::ManuallyDrop::new(self);
        // SAFETY: pointer and capacity are those of the vector in `From<Vec<u8>>`, which is not
        // dropped by the chunk any more.
        Some(unsafe { Vec::from_raw_parts(chunk.buffer.as_ptr(), 0, chunk.capacity) })
    }

    /// Counts one more owner of the buffer; false if it has to be copied.
    fn share(&self) -> bool {
        self.group != HEAP
            && self
                .with_group(|group| group.share(self.id))
                .unwrap_or(false)
    }

    /// Runs `act` on the group the buffer is of, unless that engine has ended.
    fn with_group<R>(&self, act: impl FnOnce(&Group) -> R) -> Option<R> {
        engine::with(|engine| {
            let group = &engine.groups[usize::from(self.group)];
            group.is_at(self.id, self.buffer).then(|| act(group))
        })
        .flatten()
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `start + len` bytes of the buffer are initialised, and nobody writes to it while
        // a chunk of it exists: the kernel gets a leased buffer back only from the last drop, and
        // a group with leased buffers is never unmapped.
        unsafe {
            let start = self.buffer.add(self.start as usize);
            std::slice::from_raw_parts(start.as_ptr(), self.len())
        }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if self.group != HEAP {
            self.with_group(|group| group.release(self.id));
        } else if self.capacity != 0 {
            // SAFETY: pointer and capacity are those of the vector in `From<Vec<u8>>`.
            let buffer = unsafe { Vec::from_raw_parts(self.buffer.as_ptr(), 0, self.capacity) };
            engine::with(|engine| engine.spares.give(buffer));
        }
    }
}

impl From<Vec<u8>> for Chunk {
    fn from(bytes: Vec<u8>) -> Chunk {
        let mut bytes = std::mem::ManuallyDrop::new(bytes);
        let len = u32::try_from(bytes.len()).expect("a chunk has at most 4 GiB");
        let buffer = NonNull::new(bytes.as_mut_ptr()).expect("vectors do not point to null");
        Chunk {
            buffer,
            capacity: bytes.capacity(),
            start: 0,
            len,
            group: HEAP,
            id: 0,
        }
    }
}

impl Default for Chunk {
    fn default() -> Chunk {
        Chunk::empty()
    }
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({})", self.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heap_chunk_is_cut_at_both_ends() {
        let mut chunk = Chunk::from(b"head and body".to_vec());
        let head = chunk.split_to(5);
        assert_eq!((&*head, &*chunk), (&b"head "[..], &b"and body"[..]));
        chunk.advance(4);
        chunk.truncate(3);
        chunk.truncate(100);
        assert_eq!(&*chunk, b"bod");
        let rest = chunk.split_to(3);
        assert!(chunk.is_empty() && rest.len() == 3);
        assert_eq!(format!("{rest:?}"), "Chunk(bod)");
        let buffer = rest.into_buffer().unwrap();
        assert!(buffer.is_empty() && buffer.capacity() >= 3);
        assert!(Chunk::empty().into_buffer().is_none());
    }
}
