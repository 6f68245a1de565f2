//! HTTP/2 with prior knowledge for gRPC: every message comes back as it went, with status 0. What
//! the request is called does not matter, so nothing of its head is looked at.

use crate::h2::{self, Frame, Frames, Malformed, ReceiveWindow, flag, kind};

/// A server takes this many at a time on a connection, which it says.
const STREAMS_MAX: u32 = 256;
/// Messages longer than this are not for a dummy.
const MESSAGE_BYTES_MAX: usize = 16 << 10;

/// One connection, bytes in and bytes out.
#[derive(Debug)]
pub struct Talk {
    preface_left: &'static [u8],
    frames: Frames,
    streams: Vec<Stream>,
    received: ReceiveWindow,
    /// What the client takes of DATA on the connection.
    window: i64,
    /// Answers that wait for `window`, the oldest first.
    waiting: Vec<Stream>,
    head: Vec<u8>,
    trailers: Vec<u8>,
    /// What is to be sent.
    pub out: Vec<u8>,
}

/// A request that is under way.
#[derive(Debug)]
struct Stream {
    id: u32,
    message: Vec<u8>,
}

impl Talk {
    /// A new connection, which has said nothing yet.
    pub fn new() -> Self {
        let (mut head, mut trailers, mut out) = (vec![0x88], Vec::new(), Vec::new());
        h2::write_literal(&mut head, "content-type", "application/grpc");
        h2::write_literal(&mut trailers, "grpc-status", "0");
        let settings = [
            (h2::setting::MAX_CONCURRENT_STREAMS, STREAMS_MAX),
            (h2::setting::INITIAL_WINDOW_SIZE, h2::WINDOW_MAX),
        ];
        h2::write_settings(&mut out, &settings);
        ReceiveWindow::open(&mut out);
        Self {
            preface_left: h2::PREFACE,
            frames: Frames::default(),
            streams: Vec::new(),
            received: ReceiveWindow::default(),
            window: h2::WINDOW_INITIAL.into(),
            waiting: Vec::new(),
            head,
            trailers,
            out,
        }
    }

    /// Takes bytes from the client.
    ///
    /// # Errors
    /// What the connection ends with.
    pub fn hear(&mut self, mut bytes: &[u8]) -> Result<(), Malformed> {
        let preface = bytes.len().min(self.preface_left.len());
        let (own, left) = self.preface_left.split_at(preface);
        if own != &bytes[..preface] {
            return Err(Malformed);
        }
        (self.preface_left, bytes) = (left, &bytes[preface..]);
        let mut frames = std::mem::take(&mut self.frames);
        let heard = frames.feed(bytes, |frame| self.take(frame));
        self.frames = frames;
        heard
    }

    fn take(&mut self, frame: Frame<'_>) -> Result<(), Malformed> {
        match frame.kind {
            kind::HEADERS => {
                self.streams.push(Stream {
                    id: frame.stream,
                    message: Vec::new(),
                });
                self.end(frame)
            }
            kind::DATA => {
                self.received.note(frame.payload.len(), &mut self.out);
                let found = self.streams.iter_mut().find(|s| s.id == frame.stream);
                let message = &mut found.ok_or(Malformed)?.message;
                message.extend_from_slice(frame.payload);
                if message.len() > MESSAGE_BYTES_MAX {
                    return Err(Malformed);
                }
                self.end(frame)
            }
            kind::RST_STREAM => {
                self.streams.retain(|stream| stream.id != frame.stream);
                self.waiting.retain(|stream| stream.id != frame.stream);
                Ok(())
            }
            kind::WINDOW_UPDATE if frame.stream == 0 => {
                self.window += i64::from(frame.increment().ok_or(Malformed)?);
                for stream in std::mem::take(&mut self.waiting) {
                    self.answer(stream);
                }
                Ok(())
            }
            // Whose length is not bounded here; no proxy needs it for such heads.
            kind::CONTINUATION => Err(Malformed),
            _ => {
                h2::write_ack(&mut self.out, frame);
                Ok(())
            }
        }
    }

    fn end(&mut self, frame: Frame<'_>) -> Result<(), Malformed> {
        if !frame.ends_stream() {
            return Ok(());
        }
        let found = self.streams.iter().position(|s| s.id == frame.stream);
        let stream = self.streams.swap_remove(found.ok_or(Malformed)?);
        self.answer(stream);
        Ok(())
    }

    fn answer(&mut self, stream: Stream) {
        let length = stream.message.len() as i64;
        if length > self.window {
            self.waiting.push(stream);
            return;
        }
        self.window -= length;
        let (id, out) = (stream.id, &mut self.out);
        h2::write(out, kind::HEADERS, flag::END_HEADERS, id, &self.head);
        h2::write(out, kind::DATA, 0, id, &stream.message);
        let flags = flag::END_HEADERS | flag::END_STREAM;
        h2::write(out, kind::HEADERS, flags, id, &self.trailers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(bytes: &[u8]) -> Vec<(u8, u32, usize)> {
        let mut kinds = Vec::new();
        let note = |frame: Frame<'_>| {
            kinds.push((frame.kind, frame.stream, frame.payload.len()));
            Ok::<(), Malformed>(())
        };
        Frames::default().feed(bytes, note).unwrap();
        kinds
    }

    #[test]
    fn messages_come_back_as_the_window_allows() {
        let mut talk = Talk::new();
        let first: Vec<u8> = kinds(&talk.out).iter().map(|(kind, ..)| *kind).collect();
        assert_eq!(first, [kind::SETTINGS, kind::WINDOW_UPDATE]);
        talk.out.clear();
        talk.window = 7;
        let mut wire = h2::PREFACE.to_vec();
        for id in [1, 3] {
            h2::write(&mut wire, kind::HEADERS, flag::END_HEADERS, id, &[0x83]);
            h2::write(&mut wire, kind::DATA, flag::END_STREAM, id, b"12345");
        }
        for piece in wire.chunks(11) {
            talk.hear(piece).unwrap();
        }
        let answer = |id| [(1, id, 32), (0, id, 5), (1, id, 15)];
        assert_eq!(kinds(&talk.out), answer(1));
        talk.out.clear();
        let mut wire = Vec::new();
        h2::write_window(&mut wire, 3);
        talk.hear(&wire).unwrap();
        assert_eq!(kinds(&talk.out), answer(3));
        assert_eq!(talk.window, 0);
    }

    #[test]
    fn something_else_than_the_preface() {
        assert_eq!(Talk::new().hear(b"PRI * HTTP/1.1"), Err(Malformed));
    }
}
