//! What is wrong with a head: the status to answer and the line for the error log.
//!
//! Only heads already known to be bad come here, so it may be slow.

use super::head::HeadLimits;
use super::scan;
use crate::http::message::Range32;

/// Why a head was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadFault {
    /// The request line is not `method SP target SP version`.
    RequestLine,
    /// The method is not a word of upper case letters.
    Method,
    /// Not a version this is to be answered in, but shaped like one: HTTP/2.0 and above.
    Version,
    /// The status line is not `version SP three digits`.
    StatusLine,
    /// A field line is not `name: value`.
    FieldLine,
    /// A line ends in LF without CR.
    BareLineFeed,
    /// A line is longer than one buffer.
    LineTooLong,
    /// The request line is longer than one buffer.
    TargetTooLong,
    /// The head is longer than all buffers.
    TooLarge,
    /// More fields than `max_headers`.
    TooManyFields,
}

/// A head that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadError {
    pub fault: HeadFault,
    /// The line at fault in the buffer, without its line end; empty if there is none.
    pub line: Range32,
}

impl HeadError {
    pub(super) fn new(fault: HeadFault, line: Range32) -> Self {
        Self { fault, line }
    }

    /// The status to finish the request with, nginx's own ones included: 494 goes out as 400.
    pub fn status(&self) -> u16 {
        match self.fault {
            HeadFault::Version => 505,
            HeadFault::TargetTooLong => 414,
            HeadFault::LineTooLong | HeadFault::TooLarge => 494,
            HeadFault::StatusLine => 502,
            _ => 400,
        }
    }

    /// What the error log says of a client's head, without the context behind it. `buf` is the
    /// buffer that was parsed.
    pub fn client_message(&self, buf: &[u8]) -> String {
        let in_line = "while reading client request line";
        let in_fields = "while reading client request headers";
        match self.fault {
            HeadFault::RequestLine | HeadFault::StatusLine => {
                format!("client sent invalid request {in_line}")
            }
            HeadFault::Method => format!("client sent invalid method {in_line}"),
            HeadFault::Version => format!("client sent invalid version {in_line}"),
            HeadFault::TargetTooLong => format!("client sent too long URI {in_line}"),
            HeadFault::FieldLine | HeadFault::BareLineFeed => {
                format!(
                    "client sent invalid header line: \"{}\" {in_fields}",
                    self.excerpt(buf)
                )
            }
            HeadFault::LineTooLong => {
                format!(
                    "client sent too long header line: \"{}\" {in_fields}",
                    self.excerpt(buf)
                )
            }
            HeadFault::TooLarge => format!("client sent too large request {in_fields}"),
            HeadFault::TooManyFields => format!("client sent too many header lines {in_fields}"),
        }
    }

    /// What the error log says of an upstream's head, without the context behind it.
    pub fn upstream_message(&self, buf: &[u8]) -> String {
        match self.fault {
            HeadFault::StatusLine | HeadFault::RequestLine | HeadFault::Version => {
                "upstream sent no valid HTTP/1.0 header".to_owned()
            }
            HeadFault::LineTooLong | HeadFault::TooLarge => {
                "upstream sent too big header".to_owned()
            }
            HeadFault::TooManyFields => "upstream sent too many header lines".to_owned(),
            _ => format!("upstream sent invalid header: \"{}\"", self.excerpt(buf)),
        }
    }

    /// The start of the line at fault with control characters as nginx logs them (`\x0d`).
    fn excerpt(&self, buf: &[u8]) -> String {
        let line = self.line.of(buf);
        let mut text = String::new();
        for &byte in &line[..line.len().min(EXCERPT_MAX)] {
            match byte {
                b' '..=b'~' if byte != b'"' && byte != b'\\' => text.push(byte as char),
                _ => text.push_str(&format!("\\x{byte:02x}")),
            }
        }
        if line.len() > EXCERPT_MAX {
            text.push_str("...");
        }
        text
    }
}

/// Bytes of a bad line that go to the log.
const EXCERPT_MAX: usize = 256;

/// The fault behind an error of httparse, before the lines are looked at.
pub(super) fn fault_of(error: httparse::Error) -> HeadFault {
    match error {
        httparse::Error::HeaderName | httparse::Error::HeaderValue => HeadFault::FieldLine,
        httparse::Error::NewLine => HeadFault::BareLineFeed,
        httparse::Error::Status => HeadFault::StatusLine,
        httparse::Error::Token => HeadFault::RequestLine,
        httparse::Error::Version => HeadFault::Version,
        httparse::Error::TooManyHeaders => HeadFault::TooManyFields,
    }
}

/// Finds the line at fault in a request head and what is to be said of it.
#[cold]
pub(super) fn request(
    buf: &[u8],
    skipped: usize,
    fault: HeadFault,
    limits: &HeadLimits,
) -> HeadError {
    let line = line_at(buf, skipped);
    let first = Range32::new(skipped, line);
    if line + 1 - skipped > limits.line_max || (line == buf.len() && is_length(fault)) {
        return HeadError::new(HeadFault::TargetTooLong, first);
    }
    match fault {
        HeadFault::TooLarge | HeadFault::TooManyFields | HeadFault::Method => {
            HeadError::new(fault, first)
        }
        HeadFault::RequestLine | HeadFault::Version => {
            HeadError::new(request_line_fault(first.of(buf)), first)
        }
        _ if !is_request_line(first.of(buf)) => HeadError::new(HeadFault::RequestLine, first),
        _ => field_line(buf, line + 1, fault, true, limits),
    }
}

/// Finds the line at fault in a response head.
#[cold]
pub(super) fn response(buf: &[u8], fault: HeadFault, limits: &HeadLimits) -> HeadError {
    let line = line_at(buf, 0);
    match fault {
        HeadFault::FieldLine | HeadFault::BareLineFeed | HeadFault::LineTooLong => {
            field_line(buf, (line + 1).min(buf.len()), fault, false, limits)
        }
        _ => HeadError::new(fault, Range32::new(0, line)),
    }
}

/// A copy of `buf` with a request line httparse can read, if its only faults are bytes beyond
/// ASCII in the target and a minor version above 1. No range moves.
#[cold]
pub(super) fn plain_request_line(buf: &[u8], skipped: usize) -> Option<Vec<u8>> {
    let end = line_at(buf, skipped);
    if end == buf.len() || end < skipped + " HTTP/1.x\r".len() {
        return None;
    }
    let minor = end - 2;
    let later_minor = buf[..minor].ends_with(b" HTTP/1.") && matches!(buf[minor], b'2'..=b'9');
    let beyond_ascii = buf[skipped..end].iter().any(|byte| *byte >= 0x80);
    if !later_minor && !beyond_ascii {
        return None;
    }
    let target = skipped + memchr::memchr(b' ', &buf[skipped..end])?;
    let mut copy = buf.to_vec();
    for byte in copy[target..end].iter_mut().filter(|byte| **byte >= 0x80) {
        *byte = b'x';
    }
    if later_minor {
        copy[minor] = b'1';
    }
    Some(copy)
}

fn is_length(fault: HeadFault) -> bool {
    matches!(fault, HeadFault::LineTooLong | HeadFault::TooLarge)
}

/// Where the line that starts at `start` has its LF; the end of `buf` if it has none.
fn line_at(buf: &[u8], start: usize) -> usize {
    memchr::memchr(b'\n', &buf[start..]).map_or(buf.len(), |at| start + at)
}

/// Which part of a bad request line is the bad one, reading from its start as nginx does.
fn request_line_fault(line: &[u8]) -> HeadFault {
    let method_len = line.iter().position(|&b| b == b' ').unwrap_or(line.len());
    let method = &line[..method_len];
    let is_upper = |byte: &u8| matches!(byte, b'A'..=b'Z' | b'_' | b'-');
    if method.is_empty() || !method.iter().all(is_upper) {
        return HeadFault::Method;
    }
    let Some(version) = line
        .rsplit(|&b| b == b' ')
        .next()
        .and_then(|w| w.strip_prefix(b"HTTP/"))
    else {
        return HeadFault::RequestLine;
    };
    let version = version.strip_suffix(b"\r").unwrap_or(version);
    let words = line.split(|&b| b == b' ').count();
    let clean = line[..line.len() - 1]
        .iter()
        .all(|&b| b > 0x1f && b != 0x7f);
    match version {
        [major @ b'2'..=b'9', b'.', minor] if minor.is_ascii_digit() && words == 3 && clean => {
            debug_assert!(major.is_ascii_digit());
            HeadFault::Version
        }
        _ => HeadFault::RequestLine,
    }
}

/// Whether `line` (its CR included) is a request line of HTTP/1.x.
fn is_request_line(line: &[u8]) -> bool {
    let Some((version, words)) = line
        .split_last_chunk::<9>()
        .map(|(words, last)| (last, words))
    else {
        return false;
    };
    version.starts_with(b"HTTP/1.")
        && version[7].is_ascii_digit()
        && version[8] == b'\r'
        && words.ends_with(b" ")
        && words.iter().filter(|byte| **byte == b' ').count() == 2
}

/// The first bad field line from `start` on.
fn field_line(
    buf: &[u8],
    start: usize,
    fault: HeadFault,
    strict: bool,
    limits: &HeadLimits,
) -> HeadError {
    let mut at = start;
    while at < buf.len() {
        let end = line_at(buf, at);
        let range = Range32::new(at, end);
        if end + 1 - at > limits.line_max || (end == buf.len() && fault == HeadFault::LineTooLong) {
            return HeadError::new(HeadFault::LineTooLong, range);
        }
        if !is_field_line(range.of(buf), strict) {
            return HeadError::new(HeadFault::FieldLine, range);
        }
        at = end + 1;
    }
    HeadError::new(fault, Range32::new(start, line_at(buf, start)))
}

fn is_field_line(line: &[u8], strict: bool) -> bool {
    let content = match line.strip_suffix(b"\r") {
        Some(content) => content,
        None if strict => return false,
        None => line,
    };
    if content.is_empty() {
        return true;
    }
    let colon = content.iter().position(|&b| b == b':').unwrap_or(0);
    colon > 0
        && content[..colon].iter().all(|&b| scan::is_token_byte(b))
        && content[colon + 1..].iter().all(|&b| scan::is_value_byte(b))
}
