//! The chunked transfer coding (RFC 9112, 7.1), both ways.
//!
//! The decoder refuses whatever is not exact: what one parser forgives, another reads as the start
//! of a request.

use super::fields::Fields;
use super::scan::{is_token_byte, range_in};

/// The longest chunk line, extensions included, in bytes without CRLF.
pub const LINE_MAX: usize = 512;
/// Bytes of extensions in one body: nobody uses them but to make a proxy work for nothing.
pub const EXTENSIONS_MAX: u32 = 16 * 1024;
/// The largest trailer section in bytes.
pub const TRAILER_MAX: usize = 8 * 1024;
/// The most trailer fields.
pub const TRAILER_FIELDS_MAX: usize = 64;

/// What the decoder found in its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// `input[start..end]` is body. Call again with `input[end..]`.
    Data { start: usize, end: usize },
    /// All of the input was used up; more must come.
    NeedMore,
    /// The body is over; `input[consumed..]` is not part of it.
    End { consumed: usize },
}

/// Why a chunked body was refused. For a request always a 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    #[error("invalid chunk size")]
    Size,
    #[error("invalid chunk extension")]
    Extension,
    #[error("too long chunk line")]
    LineTooLong,
    #[error("invalid end of chunk")]
    End,
    #[error("invalid trailer field")]
    Trailer,
    #[error("too large trailer")]
    TrailerTooLarge,
    #[error("trailer field that is not allowed there")]
    ForbiddenTrailer,
}

/// Decodes one chunked body; [`Decoder::reset`] makes it ready for the next.
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    state: State,
    /// Of the current chunk: its size while the line is read, then the bytes to come.
    remaining: u64,
    /// Bytes of the current line.
    line_len: usize,
    extensions_len: u32,
    trailer: Vec<u8>,
    fields: Fields,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Before the first digit.
    #[default]
    SizeStart,
    Size,
    Extension(Extension),
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// At the start of a trailer line, or of the last, empty one.
    TrailerStart,
    TrailerLine,
    TrailerLf,
    LastLf,
    Ended,
}

/// Places in `*( BWS ";" BWS name [ BWS "=" BWS value ] )`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extension {
    /// White space: only a `;` may follow.
    BeforeSemicolon,
    BeforeName,
    Name,
    /// White space after a name: `=` or `;` may follow.
    AfterName,
    BeforeValue,
    Token,
    Quoted,
    Escaped,
    AfterQuoted,
}

impl Decoder {
    /// Forgets the body it decoded and keeps the memory.
    pub fn reset(&mut self) {
        self.state = State::SizeStart;
        self.remaining = 0;
        self.line_len = 0;
        self.extensions_len = 0;
        self.trailer.clear();
        self.fields.clear();
    }

    /// Looks at the next bytes of the body. Nothing is copied but trailers.
    ///
    /// After an error or [`Step::End`] it must be reset before it is used again.
    #[inline]
    pub fn decode(&mut self, input: &[u8]) -> Result<Step, ChunkError> {
        let mut at = 0;
        while at < input.len() {
            if self.state == State::Data {
                let available = (input.len() - at) as u64;
                let taken = available.min(self.remaining);
                debug_assert!(taken > 0);
                self.remaining -= taken;
                if self.remaining == 0 {
                    self.state = State::DataCr;
                }
                return Ok(Step::Data {
                    start: at,
                    end: at + taken as usize,
                });
            }
            self.byte(input[at])?;
            at += 1;
            if self.state == State::Ended {
                return Ok(Step::End { consumed: at });
            }
        }
        Ok(Step::NeedMore)
    }

    /// Whether the whole body was seen.
    pub fn is_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// The trailer fields and the buffer their ranges point into; empty before the end.
    pub fn trailers(&self) -> (&[u8], &Fields) {
        (&self.trailer, &self.fields)
    }

    /// One byte that is not body.
    fn byte(&mut self, byte: u8) -> Result<(), ChunkError> {
        self.state = match self.state {
            State::SizeStart | State::Size => return self.size_byte(byte),
            State::Extension(place) => return self.extension_byte(place, byte),
            State::SizeLf if byte == b'\n' => {
                self.line_len = 0;
                if self.remaining == 0 {
                    State::TrailerStart
                } else {
                    State::Data
                }
            }
            State::DataCr if byte == b'\r' => State::DataLf,
            State::DataLf if byte == b'\n' => State::SizeStart,
            State::TrailerStart if byte == b'\r' => State::LastLf,
            State::TrailerStart | State::TrailerLine | State::TrailerLf => {
                return self.trailer_byte(byte);
            }
            State::LastLf if byte == b'\n' => {
                self.end_trailer()?;
                State::Ended
            }
            _ => return Err(ChunkError::End),
        };
        Ok(())
    }

    fn size_byte(&mut self, byte: u8) -> Result<(), ChunkError> {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            _ if self.state == State::SizeStart => return Err(ChunkError::Size),
            b'\r' => {
                self.state = State::SizeLf;
                return Ok(());
            }
            b' ' | b'\t' => return self.enter(Extension::BeforeSemicolon),
            b';' => return self.enter(Extension::BeforeName),
            _ => return Err(ChunkError::Size),
        };
        if self.state == State::SizeStart {
            self.state = State::Size;
            self.remaining = 0;
            self.line_len = 0;
        }
        self.line_len += 1;
        if self.line_len > SIZE_DIGITS_MAX || self.remaining > (i64::MAX as u64) >> 4 {
            return Err(ChunkError::Size);
        }
        self.remaining = self.remaining << 4 | u64::from(digit);
        Ok(())
    }

    /// Counts a byte of an extension and moves to `place`.
    fn enter(&mut self, place: Extension) -> Result<(), ChunkError> {
        self.line_len += 1;
        self.extensions_len += 1;
        if self.line_len > LINE_MAX || self.extensions_len > EXTENSIONS_MAX {
            return Err(ChunkError::LineTooLong);
        }
        self.state = State::Extension(place);
        Ok(())
    }

    fn extension_byte(&mut self, place: Extension, byte: u8) -> Result<(), ChunkError> {
        use Extension::*;
        let next = match (place, byte) {
            (Name | Token | AfterQuoted, b'\r') => {
                self.state = State::SizeLf;
                return Ok(());
            }
            (Quoted, b'"') => AfterQuoted,
            (Quoted, b'\\') => Escaped,
            (Quoted | Escaped, b'\t' | b' '..=b'~' | 0x80..) => Quoted,
            (BeforeSemicolon | BeforeName | AfterName | BeforeValue, b' ' | b'\t') => place,
            (BeforeSemicolon | Name | AfterName | Token | AfterQuoted, b';') => BeforeName,
            (Name, b' ' | b'\t') => AfterName,
            (Token | AfterQuoted, b' ' | b'\t') => BeforeSemicolon,
            (Name | AfterName, b'=') => BeforeValue,
            (BeforeValue, b'"') => Quoted,
            (BeforeName | Name, _) if is_token_byte(byte) => Name,
            (BeforeValue | Token, _) if is_token_byte(byte) => Token,
            _ => return Err(ChunkError::Extension),
        };
        self.enter(next)
    }

    fn trailer_byte(&mut self, byte: u8) -> Result<(), ChunkError> {
        self.state = match (self.state, byte) {
            (State::TrailerLf, b'\n') => State::TrailerStart,
            (State::TrailerLf, _) => return Err(ChunkError::Trailer),
            (_, b'\r') => State::TrailerLf,
            (_, b'\n') => return Err(ChunkError::Trailer),
            _ => State::TrailerLine,
        };
        if self.trailer.len() == TRAILER_MAX {
            return Err(ChunkError::TrailerTooLarge);
        }
        self.trailer.push(byte);
        Ok(())
    }

    fn end_trailer(&mut self) -> Result<(), ChunkError> {
        if self.trailer.is_empty() {
            return Ok(());
        }
        self.trailer.extend_from_slice(b"\r\n");
        let buf = &self.trailer[..];
        let mut storage = [httparse::EMPTY_HEADER; TRAILER_FIELDS_MAX];
        let headers = match httparse::parse_headers(buf, &mut storage) {
            Ok(httparse::Status::Complete((len, headers))) if len == buf.len() => headers,
            Err(httparse::Error::TooManyHeaders) => return Err(ChunkError::TrailerTooLarge),
            _ => return Err(ChunkError::Trailer),
        };
        for header in headers {
            let name = range_in(buf, header.name.as_bytes());
            let value = range_in(buf, header.value);
            self.fields.push(buf, name, value);
        }
        let forbidden = self
            .fields
            .iter()
            .any(|field| field.token.forbidden_in_trailer());
        if forbidden {
            Err(ChunkError::ForbiddenTrailer)
        } else {
            Ok(())
        }
    }
}

/// Sixteen digits are a 64-bit number.
const SIZE_DIGITS_MAX: usize = 16;

/// What follows the data of a chunk.
pub const CHUNK_END: &[u8] = b"\r\n";
/// The end of a body without trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
/// The most bytes [`write_size`] appends.
pub const SIZE_LINE_MAX: usize = 18;

/// Appends the line that comes before `len` bytes of data. `len` must not be 0: that is the end.
pub fn write_size(len: usize, out: &mut Vec<u8>) {
    debug_assert!(len > 0);
    let mut line = [0; SIZE_LINE_MAX];
    let mut start = SIZE_LINE_MAX - 2;
    line[start..].copy_from_slice(b"\r\n");
    let mut rest = len as u64;
    while rest > 0 {
        start -= 1;
        line[start] = b"0123456789abcdef"[(rest & 15) as usize];
        rest >>= 4;
    }
    out.extend_from_slice(&line[start..]);
}

/// Appends `data` as one chunk; nothing if it is empty.
pub fn write_chunk(data: &[u8], out: &mut Vec<u8>) {
    if data.is_empty() {
        return;
    }
    write_size(data.len(), out);
    out.extend_from_slice(data);
    out.extend_from_slice(CHUNK_END);
}

/// Appends the end of a body with `trailers` as (name, value).
pub fn write_last<'a>(trailers: impl Iterator<Item = (&'a [u8], &'a [u8])>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers {
        super::encode::field(out, name, value);
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds `input` in pieces of `piece` bytes; the body, the bytes used, and how it stands.
    fn run(input: &[u8], piece: usize) -> Result<(Vec<u8>, usize, Decoder), ChunkError> {
        let mut decoder = Decoder::default();
        let mut body = Vec::new();
        let mut at = 0;
        while at < input.len() && !decoder.is_ended() {
            let end = (at + piece).min(input.len());
            match decoder.decode(&input[at..end])? {
                Step::Data { start, end } => {
                    body.extend_from_slice(&input[at + start..at + end]);
                    at += end;
                }
                Step::NeedMore => at = end,
                Step::End { consumed } => at += consumed,
            }
        }
        Ok((body, at, decoder))
    }

    #[test]
    fn bodies_come_out_in_any_pieces() {
        let input = b"5\r\nhello\r\n00000A;a;b=c ; d=\"x\\\"y\\r;\"\r\n0123456789\r\n0\r\nX-A: 1\r\n\r\nGET";
        for piece in 1..input.len() {
            let (body, used, decoder) = run(input, piece).unwrap();
            assert_eq!(body, b"hello0123456789");
            assert_eq!(&input[used..], b"GET");
            let (buf, fields) = decoder.trailers();
            let trailers: Vec<_> = fields.iter().map(|f| f.value.of(buf)).collect();
            assert_eq!(trailers, [b"1"]);
        }
    }

    #[test]
    fn unfinished_bodies_want_more() {
        for input in [
            "",
            "5",
            "5\r",
            "5\r\n",
            "5\r\nab",
            "1\r\na\r\n0\r\n",
            "0\r\n\r",
            "0\r\na: b\r\n",
        ] {
            let (_, used, decoder) = run(input.as_bytes(), 100).unwrap();
            assert!(!decoder.is_ended() && used == input.len(), "{input:?}");
        }
    }

    #[test]
    fn whatever_is_not_exact_is_refused() {
        use ChunkError::*;
        let cases: &[(&str, ChunkError)] = &[
            ("\r\n", Size),
            (" 5\r\n", Size),
            ("+5\r\n", Size),
            ("-5\r\n", Size),
            ("0x5\r\n", Size),
            ("5h\r\n", Size),
            ("g\r\n", Size),
            ("5_0\r\n", Size),
            (";a\r\n", Size),
            ("\n5\r\n", Size),
            ("5\n", Size),
            ("5\r\r\n", End),
            ("5\rX", End),
            ("11111111111111111\r\n", Size),
            ("00000000000000001\r\n", Size),
            ("8000000000000000\r\n", Size),
            ("ffffffffffffffff\r\n", Size),
            ("5 \r\n", Extension),
            ("5;\r\n", Extension),
            ("5;a=\r\n", Extension),
            ("5;a =\"x\r\n", Extension),
            ("5;a b\r\n", Extension),
            ("5;a\n", Extension),
            ("5;a \r\n", Extension),
            ("5;\0\r\n", Extension),
            ("5;a=\"x\"y\r\n", Extension),
            ("5;a\u{b}\r\n", Extension),
            ("1\r\nab\r\n", End),
            ("1\r\na\n", End),
            ("1\r\na\rX", End),
            ("1\r\na0\r\n\r\n", End),
            ("0\r\n\rX", End),
            ("0\r\n\n", Trailer),
            ("0\r\na b: c\r\n\r\n", Trailer),
            ("0\r\na : c\r\n\r\n", Trailer),
            ("0\r\n: c\r\n\r\n", Trailer),
            ("0\r\na\r\n\r\n", Trailer),
            ("0\r\na: b\n\r\n", Trailer),
            ("0\r\na: b\rc\r\n\r\n", Trailer),
            ("0\r\na: b\r\n c\r\n\r\n", Trailer),
            ("0\r\na: \0\r\n\r\n", Trailer),
            ("0\r\nContent-Length: 5\r\n\r\n", ForbiddenTrailer),
            ("0\r\ntransfer-encoding: chunked\r\n\r\n", ForbiddenTrailer),
            ("0\r\nHost: a\r\n\r\n", ForbiddenTrailer),
            ("0\r\nX-Ok: 1\r\nSet-Cookie: a\r\n\r\n", ForbiddenTrailer),
        ];
        for (input, error) in cases {
            for piece in [1, 1000] {
                let result = run(input.as_bytes(), piece).map(|(body, ..)| body);
                assert_eq!(result, Err(*error), "{input:?}");
            }
        }
    }

    #[test]
    fn limits_hold() {
        let long_line = format!("5;{}\r\n", "a".repeat(LINE_MAX));
        assert_eq!(
            run(long_line.as_bytes(), 7).unwrap_err(),
            ChunkError::LineTooLong
        );
        let many = "1;aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\nx\r\n".repeat(1000);
        assert_eq!(
            run(many.as_bytes(), 4096).unwrap_err(),
            ChunkError::LineTooLong
        );
        let large = format!("0\r\nx: {}\r\n\r\n", "a".repeat(TRAILER_MAX));
        assert_eq!(
            run(large.as_bytes(), 4096).unwrap_err(),
            ChunkError::TrailerTooLarge
        );
        let fields = format!("0\r\n{}\r\n", "a: b\r\n".repeat(TRAILER_FIELDS_MAX + 1));
        assert_eq!(
            run(fields.as_bytes(), 4096).unwrap_err(),
            ChunkError::TrailerTooLarge
        );
        let largest = "7fffffffffffffff\r\n";
        let (_, _, decoder) = run(largest.as_bytes(), 4096).unwrap();
        assert_eq!(decoder.remaining, i64::MAX as u64);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8),
            piece in 1usize..64,
        ) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                write_chunk(chunk, &mut wire);
            }
            let trailers = [(&b"X-Sum"[..], &b"1"[..])];
            write_last(trailers.iter().copied(), &mut wire);
            let end = wire.len();
            wire.extend_from_slice(b"next");
            let (body, used, decoder) = run(&wire, piece).unwrap();
            prop_assert_eq!(body, chunks.concat());
            prop_assert_eq!(used, end);
            prop_assert!(decoder.is_ended() && decoder.trailers().1.len() == 1);
        }

        #[test]
        fn pieces_never_change_the_outcome(
            input in prop::collection::vec(prop::sample::select(&b"05aF;=\"\\ \t\r\n\r\n\r\nx:"[..]), 0..60),
            piece in 1usize..10,
        ) {
            let ended = |(body, used, d): (_, _, Decoder)| (body, used, d.is_ended());
            let outcome = |size| run(&input, size).map(ended);
            prop_assert_eq!(outcome(usize::MAX / 2), outcome(piece));
        }
    }
}
