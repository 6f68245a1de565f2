//! Heads of HTTP/1.x messages: the index over the bytes they were read into.
//!
//! httparse finds the names and values; everything that two parsers could read differently is
//! refused here. A request's lines end in CRLF and nothing else. A response may end its lines in
//! LF alone, as CGI-born servers do and nginx accepts (RFC 9112, 2.2); where a line ends is still
//! beyond doubt then, since a bare CR is refused in both.

use std::mem::MaybeUninit;

use super::diagnose;
pub use super::diagnose::{HeadError, HeadFault};
pub use super::fields::{Field, Fields};
use super::scan::range_in;
use crate::http::message::{Method, Range32, Version};

/// Bounds on a head, in bytes unless named otherwise.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// The longest line with its line end: one buffer of `large_client_header_buffers`.
    pub line_max: usize,
    /// The whole head: `client_header_buffer_size` and all of `large_client_header_buffers`.
    pub head_max: usize,
    /// The number of fields (`max_headers`), at most [`FIELDS_MAX`].
    pub fields_max: usize,
    /// `client_header_buffer_size`: a head that fits in here is within every limit of its lines.
    first_buffer: usize,
    /// `large_client_header_buffers`: how many, and how large each.
    large_buffers: (usize, usize),
}

/// No head has more fields than this, whatever is configured.
pub const FIELDS_MAX: usize = 1024;

impl HeadLimits {
    /// The limits of a server: `client_header_buffer_size`, then the number and size of
    /// `large_client_header_buffers`.
    pub fn new(first_buffer: usize, buffers: usize, buffer_size: usize) -> Self {
        let line_max = first_buffer.max(buffer_size);
        Self {
            line_max,
            head_max: buffers
                .saturating_mul(buffer_size)
                .saturating_add(first_buffer)
                .min(u32::MAX as usize),
            fields_max: 1000,
            first_buffer,
            large_buffers: (buffers, buffer_size),
        }
    }

    /// The limits of an upstream's answer: it must fit into one buffer of `size` bytes
    /// (`proxy_buffer_size`).
    pub fn response(size: usize) -> Self {
        Self {
            line_max: size,
            head_max: size.min(u32::MAX as usize),
            fields_max: FIELDS_MAX,
            first_buffer: size,
            large_buffers: (0, 0),
        }
    }

    /// Whether nginx's buffers hold these lines, whose lengths include their line ends: a line
    /// that does not fit behind the one before it takes a large buffer of its own.
    fn hold(&self, lines: impl Iterator<Item = usize>) -> bool {
        let (mut buffers, size) = self.large_buffers;
        let mut free = self.first_buffer;
        for line in lines {
            if line > free {
                if buffers == 0 || line > size {
                    return false;
                }
                (buffers, free) = (buffers - 1, size);
            }
            free -= line;
        }
        true
    }
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self::new(1024, 4, 8192)
    }
}

/// How far a head has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// More bytes are needed: call again with the old bytes and the new ones behind them.
    Partial,
    /// The head is whole and indexed; its length is in the head.
    Complete,
}

/// A request's head. Reused from request to request: [`RequestHead::clear`] between them.
#[derive(Clone, Debug, Default)]
pub struct RequestHead {
    /// The method, its name in `method_name`.
    pub method: Method,
    pub method_name: Range32,
    /// The request target as it was sent.
    pub target: Range32,
    /// [`Version::Http10`] or [`Version::Http11`]; later minor versions count as 1.1.
    pub version: Version,
    /// The request line as it was sent, without its line end (`$request`).
    pub line: Range32,
    pub fields: Fields,
    /// Bytes the head takes in the buffer, the empty line included: the body starts there.
    pub len: usize,
    progress: Progress,
}

impl RequestHead {
    /// Makes it ready for the next request.
    #[inline]
    pub fn clear(&mut self) {
        self.fields.clear();
        self.len = 0;
        self.target = Range32::default();
        self.line = Range32::default();
        self.progress = Progress::default();
    }
}

/// A response's head. Reused: [`ResponseHead::clear`] between responses.
#[derive(Clone, Debug, Default)]
pub struct ResponseHead {
    /// 100 to 999.
    pub status: u16,
    /// The reason phrase; may be empty.
    pub reason: Range32,
    /// [`Version::Http10`] or [`Version::Http11`].
    pub version: Version,
    pub fields: Fields,
    /// Bytes the head takes in the buffer, the empty line included.
    pub len: usize,
    progress: Progress,
}

impl ResponseHead {
    /// Makes it ready for the next response.
    #[inline]
    pub fn clear(&mut self) {
        self.fields.clear();
        self.len = 0;
        self.progress = Progress::default();
    }
}

/// What earlier calls on a growing head have seen, so that a head sent byte by byte is not parsed
/// from its start for every byte.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// Bytes looked at before.
    scanned: usize,
    /// Where the line begins that was not finished.
    line_start: usize,
}

/// Parses the request head at the start of `buf`.
///
/// One or a few empty lines before it are skipped (RFC 9112, 2.2). `head` must be clear on the
/// first call; after [`Parsed::Partial`] call again with a longer `buf`. Ranges in `head` are valid
/// only after [`Parsed::Complete`].
pub fn parse_request(
    buf: &[u8],
    limits: &HeadLimits,
    head: &mut RequestHead,
) -> Result<Parsed, HeadError> {
    let skipped = leading_empty_lines(buf)?;
    if !head.progress.worth_parsing(buf) {
        return partial_request(buf, skipped, limits, head);
    }
    let mut storage = [const { MaybeUninit::uninit() }; FIELDS_USUAL];
    match request_into(buf, skipped, limits, head, &mut storage) {
        Err(httparse::Error::TooManyHeaders) => many_fields_request(buf, skipped, limits, head),
        other => finish_request(other, buf, skipped, limits, head),
    }
}

/// Holds a head that came another way than as text, and stands in `buf` as if it had, against what
/// one in HTTP/1.1 has to keep to.
///
/// # Errors
/// As [`parse_request`].
pub fn check(buf: &[u8], head: &RequestHead, limits: &HeadLimits) -> Result<(), HeadError> {
    let is_known = head.method != Method::Other;
    let method = head.method_name.of(buf);
    let fault = if !is_known && !method.iter().all(|b| is_nginx_method_byte(*b)) {
        HeadFault::Method
    } else if head.line.len() + 2 > limits.line_max {
        HeadFault::TargetTooLong
    } else if head.fields.len() > limits.fields_max
        || (head.len > limits.first_buffer && !limits.hold(line_lengths(head, 0)))
    {
        HeadFault::TooLarge
    } else {
        return Ok(());
    };
    Err(HeadError::new(fault, Range32::default()))
}

/// Parses the response head at the start of `buf`; used like [`parse_request`].
///
/// Any error is a 502: the answer cannot be framed without doubt.
pub fn parse_response(
    buf: &[u8],
    limits: &HeadLimits,
    head: &mut ResponseHead,
) -> Result<Parsed, HeadError> {
    if !head.progress.worth_parsing(buf) {
        return partial_response(buf, limits, head);
    }
    let mut storage = [const { MaybeUninit::uninit() }; FIELDS_USUAL];
    match response_into(buf, limits, head, &mut storage) {
        Err(httparse::Error::TooManyHeaders) => many_fields_response(buf, limits, head),
        other => finish_response(other, buf, limits, head),
    }
}

/// Fields parsed in the first attempt; their index takes 2 KiB of stack.
const FIELDS_USUAL: usize = 64;
/// Empty lines skipped before a request.
const EMPTY_LINES_MAX: usize = 4;

type Storage<'b> = [MaybeUninit<httparse::Header<'b>>];

impl Progress {
    /// Whether `buf` holds a line end that was not there before.
    fn worth_parsing(&self, buf: &[u8]) -> bool {
        self.scanned == 0 || memchr::memchr(b'\n', buf.get(self.scanned..).unwrap_or(b"")).is_some()
    }

    /// Takes note of `buf` and checks the length of the unfinished line and of the whole.
    fn advance(&mut self, buf: &[u8], limits: &HeadLimits) -> Result<(), HeadFault> {
        let from = self.scanned.min(buf.len());
        if let Some(last) = memchr::memrchr(b'\n', &buf[from..]) {
            self.line_start = from + last + 1;
        }
        self.scanned = buf.len();
        let line_is_full = buf.len() - self.line_start >= limits.line_max;
        if line_is_full {
            return Err(HeadFault::LineTooLong);
        }
        if buf.len() >= limits.head_max {
            return Err(HeadFault::TooLarge);
        }
        Ok(())
    }
}

/// The number of bytes in empty lines before the request line.
#[inline]
fn leading_empty_lines(buf: &[u8]) -> Result<usize, HeadError> {
    let mut skipped = 0;
    while let Some(b'\r' | b'\n') = buf.get(skipped) {
        let is_crlf = buf[skipped] == b'\r' && matches!(buf.get(skipped + 1), Some(b'\n') | None);
        if !is_crlf || skipped == 2 * EMPTY_LINES_MAX {
            return Err(HeadError::new(HeadFault::RequestLine, Range32::new(0, 0)));
        }
        if skipped + 1 == buf.len() {
            break;
        }
        skipped += 2;
    }
    Ok(skipped)
}

/// One attempt with room for `storage.len()` fields.
fn request_into<'b>(
    buf: &'b [u8],
    skipped: usize,
    limits: &HeadLimits,
    head: &mut RequestHead,
    storage: &mut Storage<'b>,
) -> Result<Option<HeadFault>, httparse::Error> {
    let mut request = httparse::Request::new(&mut []);
    let httparse::Status::Complete(len) =
        request.parse_with_uninit_headers(&buf[skipped..], storage)?
    else {
        head.len = 0;
        return Ok(None);
    };
    head.len = skipped + len;
    let method = request.method.unwrap_or_default().as_bytes();
    let target = request.path.unwrap_or_default().as_bytes();
    head.method = Method::from_bytes(method);
    head.method_name = range_in(buf, method);
    head.target = range_in(buf, target);
    head.version = if request.version == Some(0) {
        Version::Http10
    } else {
        Version::Http11
    };
    let line_end = head.target.end as usize + " HTTP/1.1".len();
    head.line = Range32::new(skipped, line_end);
    if buf[line_end] != b'\r' {
        return Ok(Some(HeadFault::BareLineFeed));
    }
    if head.method == Method::Other && !method.iter().all(|b| is_nginx_method_byte(*b)) {
        return Ok(Some(HeadFault::Method));
    }
    if line_end + 2 - skipped > limits.line_max {
        return Ok(Some(HeadFault::LineTooLong));
    }
    let fault = index_fields(buf, request.headers, true, limits, &mut head.fields);
    Ok(fault.or_else(|| {
        if buf[head.len - 2] != b'\r' {
            return Some(HeadFault::BareLineFeed);
        }
        let is_held = len <= limits.first_buffer || limits.hold(line_lengths(head, skipped));
        (!is_held).then_some(HeadFault::TooLarge)
    }))
}

/// The lengths of the request line and the fields, line ends included.
fn line_lengths(head: &RequestHead, skipped: usize) -> impl Iterator<Item = usize> {
    let first = head.line.end as usize + 2;
    let starts = head.fields.iter().map(|field| field.name.start as usize);
    let ends = starts.skip(1).chain([head.len - 2]);
    let mut at = first;
    let fields = ends.map(move |end| end - std::mem::replace(&mut at, end));
    let fields = fields.take(head.fields.iter().len());
    [first - skipped].into_iter().chain(fields)
}

/// One attempt with room for `storage.len()` fields.
fn response_into<'b>(
    buf: &'b [u8],
    limits: &HeadLimits,
    head: &mut ResponseHead,
    storage: &mut Storage<'b>,
) -> Result<Option<HeadFault>, httparse::Error> {
    let mut response = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let httparse::Status::Complete(len) =
        config.parse_response_with_uninit_headers(&mut response, buf, storage)?
    else {
        head.len = 0;
        return Ok(None);
    };
    head.len = len;
    head.status = response.code.unwrap_or_default();
    head.version = if response.version == Some(0) {
        Version::Http10
    } else {
        Version::Http11
    };
    if head.status < 100 {
        return Ok(Some(HeadFault::StatusLine));
    }
    head.reason = reason_range(buf);
    Ok(index_fields(
        buf,
        response.headers,
        false,
        limits,
        &mut head.fields,
    ))
}

/// Writes the index; `None` when every line is as it should be.
#[inline]
fn index_fields(
    buf: &[u8],
    headers: &[httparse::Header<'_>],
    strict: bool,
    limits: &HeadLimits,
    fields: &mut Fields,
) -> Option<HeadFault> {
    fields.clear();
    if headers.len() > limits.fields_max {
        return Some(HeadFault::TooManyFields);
    }
    for header in headers {
        let name = range_in(buf, header.name.as_bytes());
        let value = range_in(buf, header.value);
        let mut end = value.end as usize;
        while matches!(buf[end], b' ' | b'\t') {
            end += 1;
        }
        if strict && buf[end] != b'\r' {
            return Some(HeadFault::BareLineFeed);
        }
        if end + 2 - name.start as usize > limits.line_max {
            return Some(HeadFault::LineTooLong);
        }
        fields.push(buf, name, value);
    }
    None
}

#[cold]
#[inline(never)]
fn many_fields_request(
    buf: &[u8],
    skipped: usize,
    limits: &HeadLimits,
    head: &mut RequestHead,
) -> Result<Parsed, HeadError> {
    let mut storage = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let outcome = request_into(buf, skipped, limits, head, &mut storage);
    finish_request(outcome, buf, skipped, limits, head)
}

#[cold]
#[inline(never)]
fn many_fields_response(
    buf: &[u8],
    limits: &HeadLimits,
    head: &mut ResponseHead,
) -> Result<Parsed, HeadError> {
    let mut storage = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let outcome = response_into(buf, limits, head, &mut storage);
    finish_response(outcome, buf, limits, head)
}

/// Turns an attempt into the answer: limits for a partial head, a diagnosis for a bad one.
#[inline]
fn finish_request(
    outcome: Result<Option<HeadFault>, httparse::Error>,
    buf: &[u8],
    skipped: usize,
    limits: &HeadLimits,
    head: &mut RequestHead,
) -> Result<Parsed, HeadError> {
    match outcome {
        Ok(None) if head.len == 0 => partial_request(buf, skipped, limits, head),
        Ok(None) if head.len > limits.head_max => {
            Err(diagnose::request(buf, skipped, HeadFault::TooLarge, limits))
        }
        Ok(None) => Ok(Parsed::Complete),
        Ok(Some(fault)) => Err(diagnose::request(buf, skipped, fault, limits)),
        Err(error) => bad_request(error, buf, skipped, limits, head),
    }
}

fn finish_response(
    outcome: Result<Option<HeadFault>, httparse::Error>,
    buf: &[u8],
    limits: &HeadLimits,
    head: &mut ResponseHead,
) -> Result<Parsed, HeadError> {
    match outcome {
        Ok(None) if head.len == 0 => partial_response(buf, limits, head),
        Ok(None) if head.len > limits.head_max => {
            Err(diagnose::response(buf, HeadFault::TooLarge, limits))
        }
        Ok(None) => Ok(Parsed::Complete),
        Ok(Some(fault)) => Err(diagnose::response(buf, fault, limits)),
        Err(error) => Err(diagnose::response(buf, diagnose::fault_of(error), limits)),
    }
}

fn partial_request(
    buf: &[u8],
    skipped: usize,
    limits: &HeadLimits,
    head: &mut RequestHead,
) -> Result<Parsed, HeadError> {
    match head.progress.advance(buf, limits) {
        Ok(()) => Ok(Parsed::Partial),
        Err(fault) => Err(diagnose::request(buf, skipped, fault, limits)),
    }
}

fn partial_response(
    buf: &[u8],
    limits: &HeadLimits,
    head: &mut ResponseHead,
) -> Result<Parsed, HeadError> {
    match head.progress.advance(buf, limits) {
        Ok(()) => Ok(Parsed::Partial),
        Err(fault) => Err(diagnose::response(buf, fault, limits)),
    }
}

/// What httparse refused may still be a request: it wants targets in UTF-8 and knows no minor
/// version above 1. Both are tried again on a copy in which these bytes are plain.
#[cold]
fn bad_request(
    error: httparse::Error,
    buf: &[u8],
    skipped: usize,
    limits: &HeadLimits,
    head: &mut RequestHead,
) -> Result<Parsed, HeadError> {
    let fault = diagnose::fault_of(error);
    let Some(copy) = diagnose::plain_request_line(buf, skipped) else {
        return Err(diagnose::request(buf, skipped, fault, limits));
    };
    let mut storage = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    match request_into(&copy, skipped, limits, head, &mut storage) {
        Err(error) => Err(diagnose::request(
            buf,
            skipped,
            diagnose::fault_of(error),
            limits,
        )),
        other => finish_request(other, buf, skipped, limits, head),
    }
}

/// The reason phrase in a status line that httparse accepted. (It hides phrases beyond ASCII.)
fn reason_range(buf: &[u8]) -> Range32 {
    let end = memchr::memchr(b'\n', buf).unwrap_or(buf.len());
    let end = if end > 0 && buf[end - 1] == b'\r' {
        end - 1
    } else {
        end
    };
    let start = buf[..end].iter().position(|&b| b == b'H').unwrap_or(0) + "HTTP/1.1 200".len();
    let start = start.min(end);
    let space = usize::from(buf.get(start) == Some(&b' '));
    Range32::new((start + space).min(end), end)
}

/// nginx takes upper case letters, `_` and `-` in a method.
fn is_nginx_method_byte(byte: u8) -> bool {
    matches!(byte, b'A'..=b'Z' | b'_' | b'-')
}

#[cfg(test)]
mod tests;
