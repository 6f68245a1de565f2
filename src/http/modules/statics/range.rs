//! `Range` (RFC 9110, 14): parts of a file.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::http::exchange::Request;
use crate::http::modules::gzip::parse_date;
use crate::http::token::Token;

/// What of a file is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// All of it: no range is asked for, or none that is worth it.
    Whole,
    /// These parts, in the order that the client asked for; at least one.
    Parts(Vec<Range<u64>>),
    /// 416: nothing of what was asked for exists.
    Unsatisfiable,
}

/// The parts that a request asks for, of a file of `size` bytes; at most `max` of them.
pub fn select(
    request: &Request,
    size: u64,
    modified: i64,
    etag: Option<&[u8]>,
    max: u64,
) -> Selection {
    let Some(value) = request.field(Token::Range) else {
        return Selection::Whole;
    };
    let bytes = value
        .get(..6)
        .is_some_and(|unit| unit.eq_ignore_ascii_case(b"bytes="));
    if !bytes || value.len() < 7 {
        return Selection::Whole;
    }
    if let Some(condition) = request.field(Token::IfRange) {
        let same = match condition {
            [.., _, b'"'] => etag == Some(condition),
            date => parse_date(date) == Some(modified),
        };
        if !same {
            return Selection::Whole;
        }
    }
    parse(&value[6..], size, max)
}

/// Reads the list behind `bytes=`.
fn parse(list: &[u8], size: u64, max: u64) -> Selection {
    let mut parts = Vec::new();
    let mut total = 0u64;
    for spec in list.split(|b| *b == b',') {
        let Some(part) = parse_one(spec, size) else {
            return Selection::Unsatisfiable;
        };
        if part.start < part.end {
            if parts.len() as u64 == max {
                return Selection::Whole;
            }
            total = total.saturating_add(part.end - part.start);
            parts.push(part);
        } else if part.start == 0 {
            return Selection::Whole;
        }
    }
    match parts.len() {
        0 => Selection::Unsatisfiable,
        // Overlapping parts which add up to more than the file are no saving to anybody.
        _ if total > size => Selection::Whole,
        _ => Selection::Parts(parts),
    }
}

/// One `first-last`, `first-` or `-length`; empty where the file has no such bytes.
fn parse_one(spec: &[u8], size: u64) -> Option<Range<u64>> {
    let spec = spec.trim_ascii();
    let dash = memchr::memchr(b'-', spec)?;
    let (first, last) = (
        spec[..dash].trim_ascii_end(),
        spec[dash + 1..].trim_ascii_start(),
    );
    if first.is_empty() {
        let length = crate::config::value::parse_number(last)?;
        return Some(size.saturating_sub(length)..size);
    }
    let first = crate::config::value::parse_number(first)?;
    if last.is_empty() {
        return Some(first..size);
    }
    let last = crate::config::value::parse_number(last)?;
    Some(first..last.saturating_add(1).min(size))
}

/// The bytes between the parts of a `multipart/byteranges` body.
pub struct Multipart {
    boundary: String,
}

impl Multipart {
    /// A boundary that no other response has.
    pub fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed) + 1;
        Multipart {
            boundary: format!("{number:020}"),
        }
    }

    /// The body's content type.
    pub fn content_type(&self) -> String {
        format!("multipart/byteranges; boundary={}", self.boundary)
    }

    /// What comes before a part's bytes.
    pub fn head(&self, part: &Range<u64>, size: u64, content_type: Option<&[u8]>) -> Vec<u8> {
        let mut head = format!("\r\n--{}\r\n", self.boundary).into_bytes();
        if let Some(content_type) = content_type {
            head.extend_from_slice(b"Content-Type: ");
            head.extend_from_slice(content_type);
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"Content-Range: ");
        head.extend_from_slice(content_range(part, size).as_bytes());
        head.extend_from_slice(b"\r\n\r\n");
        head
    }

    /// What comes after the last part.
    pub fn tail(&self) -> Vec<u8> {
        format!("\r\n--{}--\r\n", self.boundary).into_bytes()
    }
}

/// Value of `Content-Range` for one part.
pub fn content_range(part: &Range<u64>, size: u64) -> String {
    format!("bytes {}-{}/{size}", part.start, part.end - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(list: &str, size: u64) -> Selection {
        parse(list.as_bytes(), size, 100)
    }

    #[test]
    #[expect(
        clippy::single_range_in_vec_init,
        reason = "lists of one range are meant"
    )]
    fn ranges() {
        let some = |list: &[Range<u64>]| Selection::Parts(list.to_vec());
        assert_eq!(parts("0-0", 5), some(&[0..1]));
        assert_eq!(parts("1-", 5), some(&[1..5]));
        assert_eq!(parts("-2", 5), some(&[3..5]));
        assert_eq!(parts("-9", 5), some(&[0..5]));
        assert_eq!(parts(" 1 - 3 , 4-99", 5), some(&[1..4, 4..5]));
        assert_eq!(parts("7-8, 0-1", 5), some(&[0..2]));
        for none in [
            "",
            "x",
            "1",
            "5-",
            "7-9",
            "-0",
            "1-x",
            "1-2-3",
            "18446744073709551616-",
        ] {
            assert_eq!(parts(none, 5), Selection::Unsatisfiable, "{none}");
        }
        assert_eq!(parts("3-2", 5), Selection::Unsatisfiable);
        assert_eq!(parts("0-4,0-4", 5), Selection::Whole, "more than the file");
        assert_eq!(parts("0-", 0), Selection::Whole, "an empty file");
        assert_eq!(
            parse(b"0-0,2-2", 5, 1),
            Selection::Whole,
            "more than max_ranges"
        );
    }

    #[test]
    fn multipart_bodies() {
        let multipart = Multipart {
            boundary: "B".into(),
        };
        assert_eq!(
            multipart.head(&(1..3), 9, Some(b"text/plain")),
            b"\r\n--B\r\nContent-Type: text/plain\r\nContent-Range: bytes 1-2/9\r\n\r\n"
        );
        assert_eq!(multipart.tail(), b"\r\n--B--\r\n");
        assert_ne!(Multipart::new().boundary, Multipart::new().boundary);
        assert_eq!(Multipart::new().boundary.len(), 20);
    }
}
