//! Bytes of a response on their way through `h2`.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::{Buf, Bytes};

use crate::ring::Chunk;

/// Buffers up to this size are kept for other responses, …
const KEPT_BYTES_MAX: usize = 8 << 10;
/// … at most so many.
const KEPT_MAX: usize = 32;

/// Buffers between two responses; those of one connection share them.
#[derive(Clone, Default)]
pub struct Spares(Rc<RefCell<Vec<Vec<u8>>>>);

impl Spares {
    /// An empty buffer.
    pub fn take(&self) -> Vec<u8> {
        self.0.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes one back.
    pub fn keep(&self, mut buffer: Vec<u8>) {
        let mut kept = self.0.borrow_mut();
        if buffer.capacity() <= KEPT_BYTES_MAX && buffer.capacity() > 0 && kept.len() < KEPT_MAX {
            buffer.clear();
            kept.push(buffer);
        }
    }

    /// Gives all of them up.
    pub fn clear(&self) {
        self.0.take();
    }
}

/// What `h2` is given to send: bytes with their owner.
pub enum Piece {
    /// A whole buffer, of which so much is sent, and where it goes afterwards.
    Own(Vec<u8>, usize, Spares),
    /// A part of a large one.
    Shared(Bytes),
    /// As it was received.
    Leased(Chunk),
}

impl Piece {
    /// No bytes.
    pub const EMPTY: Piece = Piece::Shared(Bytes::new());

    /// Takes the first `count` bytes out.
    pub fn split_to(&mut self, count: usize) -> Piece {
        if count >= self.remaining() {
            return std::mem::replace(self, Piece::EMPTY);
        }
        if let Piece::Own(bytes, at, _) = self {
            let mut shared = Bytes::from(std::mem::take(bytes));
            shared.advance(*at);
            *self = Piece::Shared(shared);
        }
        match self {
            Piece::Leased(chunk) => Piece::Leased(chunk.split_to(count)),
            Piece::Shared(bytes) => Piece::Shared(bytes.split_to(count)),
            Piece::Own(..) => Piece::EMPTY,
        }
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        match self {
            Piece::Own(bytes, at, _) => bytes.len() - at,
            Piece::Shared(bytes) => bytes.len(),
            Piece::Leased(chunk) => chunk.len(),
        }
    }

    fn chunk(&self) -> &[u8] {
        match self {
            Piece::Own(bytes, at, _) => &bytes[*at..],
            Piece::Shared(bytes) => bytes,
            Piece::Leased(chunk) => chunk,
        }
    }

    fn advance(&mut self, count: usize) {
        match self {
            Piece::Own(_, at, _) => *at += count,
            Piece::Shared(bytes) => bytes.advance(count),
            Piece::Leased(chunk) => chunk.advance(count),
        }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if let Piece::Own(bytes, _, spares) = self {
            spares.keep(std::mem::take(bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_split_and_buffers_return() {
        let spares = Spares::default();
        let mut piece = Piece::Own(b"abcdef".to_vec(), 0, spares.clone());
        piece.advance(1);
        let first = piece.split_to(2);
        assert_eq!(first.chunk(), b"bc");
        assert_eq!(piece.chunk(), b"def");
        drop((first, piece));
        assert_eq!(spares.take().capacity(), 0);

        let mut piece = Piece::Own(b"abc".to_vec(), 0, spares.clone());
        let all = piece.split_to(3);
        assert_eq!((all.remaining(), piece.remaining()), (3, 0));
        drop(all);
        assert_eq!(spares.take().capacity(), 3);
    }
}
