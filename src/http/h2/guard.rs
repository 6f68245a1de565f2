//! Watches what a client sends before `h2` sees it, frame by frame and without memory of payloads.
//!
//! It ends the connection where `h2` would let something pass or would name another error than RFC
//! 9113 does: the first frame, lengths of frames, frames on streams that the client has ended,
//! header blocks that cannot be decoded (`block`), pseudo-header fields in trailers. And it ends it
//! where a client makes the server work for nothing: see the limits below. All else is left to
//! `h2`, which looks closer.
//!
//! Only connection errors can come from here; RFC 9113 (5.4.2) lets a server answer a stream error
//! with one. The verdict depends on the bytes and on the time given, not on how they are cut.

mod block;
mod huffman;
mod outgoing;

use h2::Reason;

use super::io::Watch;
use crate::base::clock;

use block::Block;
use outgoing::Outgoing;

/// Frames that carry nothing for anybody, beyond those allowed below: PING, SETTINGS, PRIORITY,
/// WINDOW_UPDATE, RST_STREAM, GOAWAY, those of unknown type, and DATA without an octet.
const IDLE_FRAMES_MAX: u32 = 10_000;

/// So many of these are forgotten with each millisecond …
const IDLE_FRAMES_PER_MS: u64 = 10;

/// … with each stream begun …
const IDLE_FRAMES_PER_STREAM: u32 = 8;

/// … and with so many octets of DATA, or of windows granted.
const IDLE_FRAME_OCTETS: u32 = 1024;

/// No frame lets more of them be forgotten.
const IDLE_FRAMES_PER_FRAME: u32 = 64;

/// Streams that the client reset, in thousandths, beyond those allowed below.
const RESETS_MAX: u32 = 1_000_000;

/// A hundred resets in a second are forgotten …
const RESETS_PER_MS: u64 = 100;

/// … and one for every four streams begun.
const RESETS_PER_STREAM: u32 = 250;

/// Streams whose request is not complete and of which we know so.
const OPEN_MAX: usize = 128;

/// What a client sends first (3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const HEAD: usize = 9;

mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

mod flag {
    pub const ACK: u8 = 0x1;
    pub const END_STREAM: u8 = 0x1;
    pub const END_HEADERS: u8 = 0x4;
    pub const PADDED: u8 = 0x8;
    pub const PRIORITY: u8 = 0x20;
}

/// SETTINGS_INITIAL_WINDOW_SIZE (6.5.2).
const INITIAL_WINDOW_SIZE: [u8; 2] = [0, 4];

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// For GOAWAY.
    pub code: Reason,
    /// For the log, behind "client sent ".
    pub why: &'static str,
}

/// What is known of one connection; about 150 bytes, and what `block` keeps.
#[derive(Debug)]
pub struct Guard {
    place: Place,
    /// The head of the frame that is being read, as far as it is there.
    head: [u8; HEAD],
    /// What stands at the begin of a payload, or one setting.
    scratch: [u8; 6],
    gathered: u8,
    /// Octets of the payload still to come.
    left: u32,
    /// How many of them belong to a header block.
    block_left: u32,
    max_frame_size: u32,
    /// SETTINGS have come.
    is_begun: bool,
    /// The stream whose header block goes on.
    in_block: Option<u32>,
    is_trailers: bool,
    block: Block,
    streams: Streams,
    now_ms: u64,
    /// When the frame, or the header block, that is being read began.
    begun_ms: u64,
    idle_frames: u32,
    resets: u32,
    outgoing: Outgoing,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    /// So much of the preface was read.
    Preface(u8),
    /// So much of a head was read.
    Head(u8),
    /// Within a payload, of which so many octets are to be gathered.
    Payload(u8),
    /// All that follows is of no interest.
    Refused(Violation),
}

fn violation<T>(code: Reason, why: &'static str) -> Result<T, Violation> {
    Err(Violation { code, why })
}

impl Guard {
    /// For a connection of which nothing was read, and which announces this SETTINGS_MAX_FRAME_SIZE
    /// (or leaves it at 16,384).
    pub fn new(max_frame_size: u32) -> Guard {
        Guard {
            place: Place::Preface(0),
            head: [0; HEAD],
            scratch: [0; 6],
            gathered: 0,
            left: 0,
            block_left: 0,
            max_frame_size,
            is_begun: false,
            in_block: None,
            is_trailers: false,
            block: Block::default(),
            streams: Streams::default(),
            now_ms: 0,
            begun_ms: 0,
            idle_frames: 0,
            resets: 0,
            outgoing: Outgoing::default(),
        }
    }

    /// Takes note of the next bytes, the preface being the first. `now_ms` is a monotonic clock.
    /// After an error every call gives the same one.
    pub fn feed(&mut self, mut bytes: &[u8], now_ms: u64) -> Result<(), Violation> {
        self.forget(now_ms);
        while !bytes.is_empty() {
            if let Err(violation) = self.step(&mut bytes) {
                self.place = Place::Refused(violation);
                return Err(violation);
            }
        }
        Ok(())
    }

    /// What [`Guard::feed`] found.
    pub fn violation(&self) -> Option<Violation> {
        match self.place {
            Place::Refused(violation) => Some(violation),
            _ => None,
        }
    }

    /// Since when (as `now_ms` of [`Guard::feed`]) a frame or a header block stands unfinished.
    /// DATA does not count: who reads the body waits for it.
    pub fn unfinished_since(&self) -> Option<u64> {
        let is_between = match self.place {
            Place::Preface(_) | Place::Refused(_) => true,
            Place::Head(at) => at == 0 && self.in_block.is_none(),
            Place::Payload(_) => self.kind() == kind::DATA,
        };
        (!is_between).then_some(self.begun_ms)
    }

    /// A stream that was reset for what the client did on it, and the code; each is told once.
    pub fn take_reset(&mut self) -> Option<(u32, Reason)> {
        self.outgoing.take_reset()
    }

    fn forget(&mut self, now_ms: u64) {
        let passed = now_ms.saturating_sub(self.now_ms);
        self.now_ms = now_ms;
        let less = |count: u32, per_ms: u64| {
            u64::from(count).saturating_sub(passed.saturating_mul(per_ms)) as u32
        };
        self.idle_frames = less(self.idle_frames, IDLE_FRAMES_PER_MS);
        self.resets = less(self.resets, RESETS_PER_MS);
    }

    /// Consumes at least one byte.
    fn step(&mut self, bytes: &mut &[u8]) -> Result<(), Violation> {
        match self.place {
            Place::Refused(violation) => Err(violation),
            Place::Preface(at) => {
                if bytes[0] != PREFACE[usize::from(at)] {
                    return violation(Reason::PROTOCOL_ERROR, "an invalid preface");
                }
                *bytes = &bytes[1..];
                self.place = match usize::from(at) + 1 {
                    end if end == PREFACE.len() => Place::Head(0),
                    _ => Place::Preface(at + 1),
                };
                Ok(())
            }
            Place::Head(at) => {
                if at == 0 && self.in_block.is_none() {
                    self.begun_ms = self.now_ms;
                }
                let at = usize::from(at);
                let piece = split(bytes, HEAD - at);
                self.head[at..at + piece.len()].copy_from_slice(piece);
                match at + piece.len() {
                    HEAD => self.begin(),
                    at => {
                        self.place = Place::Head(at as u8);
                        Ok(())
                    }
                }
            }
            Place::Payload(wanted) => self.payload(wanted, bytes),
        }
    }

    fn payload(&mut self, wanted: u8, bytes: &mut &[u8]) -> Result<(), Violation> {
        if self.gathered < wanted {
            let at = usize::from(self.gathered);
            let piece = split(bytes, usize::from(wanted) - at);
            self.scratch[at..at + piece.len()].copy_from_slice(piece);
            self.gathered += piece.len() as u8;
            self.left -= piece.len() as u32;
            if self.gathered == wanted {
                self.read_scratch()?;
            }
        } else if self.block_left > 0 {
            let piece = split(bytes, self.block_left as usize);
            self.block_left -= piece.len() as u32;
            self.left -= piece.len() as u32;
            self.block.feed(piece)?;
        } else {
            let skipped = split(bytes, self.left as usize);
            self.left -= skipped.len() as u32;
        }
        if self.left == 0 { self.end() } else { Ok(()) }
    }

    fn kind(&self) -> u8 {
        self.head[3]
    }

    fn has(&self, flag: u8) -> bool {
        self.head[4] & flag != 0
    }

    /// Without the reserved bit (4.1).
    fn stream(&self) -> u32 {
        let [.., a, b, c, d] = self.head;
        u32::from_be_bytes([a & 0x7f, b, c, d])
    }

    /// A frame's head is there.
    fn begin(&mut self) -> Result<(), Violation> {
        let length = u32::from_be_bytes([0, self.head[0], self.head[1], self.head[2]]);
        let expected = match self.in_block {
            Some(stream) => self.kind() == kind::CONTINUATION && self.stream() == stream,
            None => self.kind() != kind::CONTINUATION,
        };
        if !expected {
            return violation(
                Reason::PROTOCOL_ERROR,
                "a header block in pieces that do not fit",
            );
        }
        if !self.is_begun && self.kind() != kind::SETTINGS {
            return violation(Reason::PROTOCOL_ERROR, "no SETTINGS first");
        }
        self.is_begun = true;
        if length > self.max_frame_size {
            return violation(Reason::FRAME_SIZE_ERROR, "a frame that is too large");
        }
        self.check_length(length)?;
        self.check_stream()?;
        self.left = length;
        self.block_left = 0;
        self.gathered = 0;
        let wanted = match self.kind() {
            kind::DATA => u8::from(self.has(flag::PADDED)),
            kind::HEADERS => {
                u8::from(self.has(flag::PADDED)) + 5 * u8::from(self.has(flag::PRIORITY))
            }
            kind::PRIORITY => 5,
            kind::SETTINGS if length > 0 => 6,
            kind::WINDOW_UPDATE => 4,
            _ => 0,
        };
        if u32::from(wanted) > length {
            return violation(Reason::FRAME_SIZE_ERROR, "a frame that is too short");
        }
        self.place = Place::Payload(wanted);
        if wanted == 0 {
            self.read_scratch()?;
        }
        if length == 0 { self.end() } else { Ok(()) }
    }

    /// 6.3 to 6.9: lengths that are fixed.
    fn check_length(&self, length: u32) -> Result<(), Violation> {
        let fits = match self.kind() {
            kind::PRIORITY => length == 5,
            kind::RST_STREAM | kind::WINDOW_UPDATE => length == 4,
            kind::SETTINGS if self.has(flag::ACK) => length == 0,
            kind::SETTINGS => length.is_multiple_of(6),
            kind::PING => length == 8,
            kind::GOAWAY => length >= 8,
            _ => true,
        };
        if fits {
            return Ok(());
        }
        violation(Reason::FRAME_SIZE_ERROR, "a frame with an incorrect length")
    }

    /// 5.1: which frames may come on which streams.
    fn check_stream(&mut self) -> Result<(), Violation> {
        let stream = self.stream();
        match self.kind() {
            kind::SETTINGS | kind::PING | kind::GOAWAY if stream != 0 => violation(
                Reason::PROTOCOL_ERROR,
                "a frame of the connection on a stream",
            ),
            kind::DATA | kind::HEADERS | kind::PRIORITY | kind::RST_STREAM if stream == 0 => {
                violation(Reason::PROTOCOL_ERROR, "a frame of a stream on none")
            }
            kind::PUSH_PROMISE => violation(Reason::PROTOCOL_ERROR, "PUSH_PROMISE"),
            kind::DATA | kind::RST_STREAM | kind::WINDOW_UPDATE if self.streams.is_idle(stream) => {
                violation(Reason::PROTOCOL_ERROR, "a frame on an idle stream")
            }
            kind::DATA if self.streams.is_over(stream) => {
                violation(Reason::STREAM_CLOSED, "DATA on a closed stream")
            }
            kind::HEADERS => self.check_headers(stream),
            _ => Ok(()),
        }
    }

    fn check_headers(&mut self, stream: u32) -> Result<(), Violation> {
        if stream.is_multiple_of(2) {
            return violation(Reason::PROTOCOL_ERROR, "a request on an even stream");
        }
        if self.streams.is_idle(stream) {
            self.is_trailers = false;
            self.streams.begin(stream);
            self.idle_frames = self.idle_frames.saturating_sub(IDLE_FRAMES_PER_STREAM);
            self.resets = self.resets.saturating_sub(RESETS_PER_STREAM);
            return Ok(());
        }
        if self.streams.is_over(stream) {
            return match self.streams.is_skipped(stream) {
                true => violation(Reason::PROTOCOL_ERROR, "a stream below an earlier one"),
                false => violation(Reason::STREAM_CLOSED, "HEADERS on a closed stream"),
            };
        }
        self.is_trailers = true;
        Ok(())
    }

    /// What stands at the begin of a payload is there (or one of several settings).
    fn read_scratch(&mut self) -> Result<(), Violation> {
        let number = u32::from_be_bytes([
            self.scratch[0],
            self.scratch[1],
            self.scratch[2],
            self.scratch[3],
        ]);
        match self.kind() {
            kind::DATA => {
                let padding = if self.has(flag::PADDED) {
                    self.scratch[0]
                } else {
                    0
                };
                // What is too long is for h2 to refuse.
                let octets = self.left.saturating_sub(u32::from(padding));
                self.useful(octets)?;
            }
            kind::HEADERS => self.read_headers()?,
            kind::CONTINUATION => self.block_left = self.left,
            kind::PRIORITY => {
                self.check_dependency(number)?;
                self.useful(0)?;
            }
            kind::SETTINGS => {
                let [id @ .., a, b, c, d] = self.scratch;
                let value = u32::from_be_bytes([a, b, c, d]);
                if self.gathered == 6 && id == INITIAL_WINDOW_SIZE && value > i32::MAX as u32 {
                    return violation(Reason::FLOW_CONTROL_ERROR, "a window that is too large");
                }
                self.gathered = 0;
                self.useful(0)?;
            }
            kind::WINDOW_UPDATE => self.useful(number & 0x7fff_ffff)?,
            kind::RST_STREAM => {
                self.resets = self.resets.saturating_add(1000);
                if self.resets > RESETS_MAX {
                    return violation(Reason::ENHANCE_YOUR_CALM, "too many RST_STREAM frames");
                }
                self.useful(0)?;
            }
            _ => self.useful(0)?,
        }
        Ok(())
    }

    fn read_headers(&mut self) -> Result<(), Violation> {
        let (mut padding, mut dependency) = (0, &self.scratch[..4]);
        if self.has(flag::PADDED) {
            padding = u32::from(self.scratch[0]);
            dependency = &self.scratch[1..5];
        }
        if self.has(flag::PRIORITY) {
            let number = [dependency[0], dependency[1], dependency[2], dependency[3]];
            self.check_dependency(u32::from_be_bytes(number))?;
        }
        let Some(length) = self.left.checked_sub(padding) else {
            return violation(Reason::PROTOCOL_ERROR, "too much padding");
        };
        self.block.begin();
        self.block_left = length;
        Ok(())
    }

    /// RFC 7540, 5.3.1. h2 leaves the header block of such a frame undecoded, and takes idle
    /// streams for closed.
    fn check_dependency(&self, dependency: u32) -> Result<(), Violation> {
        if dependency & 0x7fff_ffff != self.stream() {
            return Ok(());
        }
        violation(Reason::PROTOCOL_ERROR, "a stream that depends on itself")
    }

    /// A frame that brings, or grants, so many octets.
    fn useful(&mut self, octets: u32) -> Result<(), Violation> {
        let is_data = self.kind() == kind::DATA;
        if !is_data || (octets == 0 && !self.has(flag::END_STREAM)) {
            self.idle_frames += 1;
        }
        let forgotten = (octets / IDLE_FRAME_OCTETS).min(IDLE_FRAMES_PER_FRAME);
        self.idle_frames = self.idle_frames.saturating_sub(forgotten);
        if self.idle_frames <= IDLE_FRAMES_MAX {
            return Ok(());
        }
        let why = match self.kind() {
            kind::DATA => "too many empty DATA frames",
            kind::PRIORITY => "too many PRIORITY frames",
            kind::RST_STREAM => "too many RST_STREAM frames",
            kind::SETTINGS => "too many SETTINGS",
            kind::PING => "too many PING frames",
            kind::WINDOW_UPDATE => "too many WINDOW_UPDATE frames",
            _ => "too many frames without use",
        };
        violation(Reason::ENHANCE_YOUR_CALM, why)
    }

    /// A frame has ended.
    fn end(&mut self) -> Result<(), Violation> {
        self.place = Place::Head(0);
        let stream = self.stream();
        match self.kind() {
            kind::DATA if self.has(flag::END_STREAM) => self.streams.end(stream),
            kind::RST_STREAM => self.streams.end(stream),
            kind::HEADERS | kind::CONTINUATION => {
                if self.kind() == kind::HEADERS && self.has(flag::END_STREAM) {
                    self.streams.end(stream);
                }
                self.in_block = Some(stream);
                if self.has(flag::END_HEADERS) {
                    self.in_block = None;
                    let has_pseudo = self.block.finish()?;
                    if has_pseudo && self.is_trailers {
                        let why = "trailers with a pseudo-header field";
                        return violation(Reason::PROTOCOL_ERROR, why);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl Watch for Guard {
    fn feed(&mut self, bytes: &[u8]) -> bool {
        Guard::feed(self, bytes, clock::now_ms()).is_ok()
    }

    fn sent(&mut self, bytes: &[u8]) {
        self.outgoing.feed(bytes);
    }
}

/// At most `count` bytes off the front.
fn split<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (piece, rest) = bytes.split_at(count.min(bytes.len()));
    *bytes = rest;
    piece
}

/// Which streams the client has ended. What the server did to them is not known here.
#[derive(Debug, Default)]
struct Streams {
    /// The highest that was begun.
    last: u32,
    /// From here on none was left out.
    unbroken_from: u32,
    /// Begun and not ended, in order.
    open: Vec<u32>,
    /// Of this one and those below it, which are not in `open`, nothing is known.
    forgotten: u32,
}

impl Streams {
    fn is_idle(&self, stream: u32) -> bool {
        // Even ones would be the server's, which begins none. 0 is the connection.
        stream > self.last || (stream != 0 && stream.is_multiple_of(2))
    }

    fn is_over(&self, stream: u32) -> bool {
        stream > self.forgotten && self.open.binary_search(&stream).is_err()
    }

    fn is_skipped(&self, stream: u32) -> bool {
        stream < self.unbroken_from
    }

    fn begin(&mut self, stream: u32) {
        if stream != self.last + 2 {
            self.unbroken_from = stream;
        }
        self.last = stream;
        if self.open.len() == OPEN_MAX {
            self.forgotten = self.open.remove(0);
        }
        self.open.push(stream);
    }

    fn end(&mut self, stream: u32) {
        if let Ok(at) = self.open.binary_search(&stream) {
            self.open.remove(at);
        }
    }
}

#[cfg(test)]
mod tests;
