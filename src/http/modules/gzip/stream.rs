//! One response body being compressed.

use std::cell::RefCell;

use flate2::{Compress, Compression, FlushCompress, Status};

/// A response body being compressed. Its tables take about 256 KiB, so that a finished stream is
/// kept for a next response.
pub struct Stream {
    deflate: Compress,
    level: u8,
    /// Bytes were written since the last flush.
    unflushed: bool,
}

/// How many bytes went in and came out: `$gzip_ratio`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Bytes of the body before compression.
    pub plain: u64,
    /// Bytes of the body that was sent.
    pub compressed: u64,
}

thread_local! {
    /// Streams of this worker that are not in use. Boxed as they are handed out.
    #[allow(clippy::vec_box)]
    static FREE: RefCell<Vec<Box<Stream>>> = const { RefCell::new(Vec::new()) };
}

/// Streams kept at most by one worker: 2 MiB.
const FREE_MAX: usize = 8;
/// Window of the format's full size.
const WINDOW_BITS: u8 = 15;
/// Room in the output when the compressor is called.
const ROOM: usize = 4 << 10;

impl Stream {
    /// A stream at its beginning; `level` is 1 to 9.
    pub fn take(level: u8) -> Box<Stream> {
        debug_assert!((1..=9).contains(&level));
        let compression = Compression::new(level.into());
        if let Some(mut stream) = FREE.with_borrow_mut(Vec::pop) {
            // Right after a reset nothing is pending, so that the level can always be changed.
            if stream.level == level || stream.deflate.set_level(compression).is_ok() {
                stream.level = level;
                return stream;
            }
        }
        let deflate = Compress::new_gzip(compression, WINDOW_BITS);
        Box::new(Stream {
            deflate,
            level,
            unflushed: false,
        })
    }

    /// Compresses `data`; what comes out so far is appended to `out`.
    pub fn write(&mut self, data: &[u8], out: &mut Vec<u8>) {
        if !data.is_empty() {
            self.unflushed = true;
            self.run(data, out, FlushCompress::None);
        }
    }

    /// Appends to `out` all that is held back, so that the client can read what was written.
    pub fn flush(&mut self, out: &mut Vec<u8>) {
        if self.unflushed {
            self.unflushed = false;
            self.run(&[], out, FlushCompress::Sync);
        }
    }

    /// Appends the end of the stream to `out`.
    pub fn finish(mut self: Box<Self>, out: &mut Vec<u8>) -> Totals {
        self.run(&[], out, FlushCompress::Finish);
        let (plain, compressed) = (self.deflate.total_in(), self.deflate.total_out());
        FREE.with_borrow_mut(|free| {
            if free.len() < FREE_MAX {
                self.deflate.reset();
                self.unflushed = false;
                free.push(self);
            }
        });
        Totals { plain, compressed }
    }

    fn run(&mut self, mut data: &[u8], out: &mut Vec<u8>, flush: FlushCompress) {
        loop {
            out.reserve(ROOM);
            let before = self.deflate.total_in();
            let status = self
                .deflate
                .compress_vec(data, out, flush)
                .expect("deflate fails only on calls in a wrong order");
            data = &data[(self.deflate.total_in() - before) as usize..];
            match status {
                Status::StreamEnd => return,
                // No progress was possible: nothing was left to do.
                Status::BufError => return,
                // Room left over means that nothing waits for room.
                Status::Ok => {
                    let done = data.is_empty() && out.len() < out.capacity();
                    if done && !matches!(flush, FlushCompress::Finish) {
                        return;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn unpack(bytes: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(bytes)
            .read_to_end(&mut plain)
            .unwrap();
        plain
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut rng = fastrand::Rng::with_seed(7);
        (0..length).map(|_| rng.u8(..)).collect()
    }

    #[test]
    fn bodies_come_back_at_every_level_and_size() {
        for length in [0, 1, 19, 4095, 4096, 70_000, 300_000] {
            let text: Vec<u8> = noise(length).iter().map(|b| b % 7).collect();
            for (level, body) in [(1, noise(length)), (9, noise(length)), (5, text)] {
                let mut stream = Stream::take(level);
                let mut out = Vec::new();
                for piece in body.chunks(9_999) {
                    stream.write(piece, &mut out);
                }
                let totals = stream.finish(&mut out);
                assert_eq!(unpack(&out), body);
                let expected = Totals {
                    plain: length as u64,
                    compressed: out.len() as u64,
                };
                assert_eq!(totals, expected);
            }
        }
    }

    #[test]
    fn a_flush_gives_out_all_that_was_written() {
        let mut stream = Stream::take(1);
        let mut out = Vec::new();
        stream.write(b"event: 1\n\n", &mut out);
        stream.flush(&mut out);
        let mut plain = [0; 10];
        flate2::read::GzDecoder::new(&out[..])
            .read_exact(&mut plain)
            .unwrap();
        assert_eq!(&plain, b"event: 1\n\n");
        let length = out.len();
        stream.flush(&mut out);
        assert_eq!(out.len(), length, "nothing new, nothing sent");
        for size in 1..200 {
            stream.write(&noise(size * 37), &mut out);
            stream.flush(&mut out);
        }
        stream.finish(&mut out);
        assert_eq!(
            unpack(&out).len(),
            10 + (1..200).map(|n| n * 37).sum::<usize>()
        );
    }

    #[test]
    fn streams_are_used_again() {
        let free = || FREE.with_borrow(Vec::len);
        let mut out = Vec::new();
        let many: Vec<_> = (0..FREE_MAX + 3).map(|_| Stream::take(1)).collect();
        for stream in many {
            stream.finish(&mut out);
        }
        assert_eq!(free(), FREE_MAX);
        out.clear();
        let mut stream = Stream::take(9);
        assert_eq!(free(), FREE_MAX - 1);
        stream.write(b"again", &mut out);
        stream.finish(&mut out);
        assert_eq!(unpack(&out), b"again");
    }
}
