//! Writing heads: every function appends to a buffer that the connection reuses.

use std::time::{Duration, UNIX_EPOCH};

use crate::http::status;

/// Appends the status line of an answer of our own, with nginx's reason phrase.
#[inline]
pub fn status_line(out: &mut Vec<u8>, code: u16) {
    if code == 200 {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        return;
    }
    status_line_with(out, code, status::reason(code).as_bytes());
}

/// Appends a status line with a given reason phrase, as an upstream sent it.
///
/// A code without a phrase is followed by one space, as RFC 9112, 4 wants it.
#[inline]
pub fn status_line_with(out: &mut Vec<u8>, code: u16, reason: &[u8]) {
    // `return 0` is nginx's too: any three digits can be written.
    debug_assert!(code < 1000);
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(&[
        b'0' + (code / 100 % 10) as u8,
        b'0' + (code / 10 % 10) as u8,
        b'0' + (code % 10) as u8,
        b' ',
    ]);
    out.extend_from_slice(reason);
    out.extend_from_slice(b"\r\n");
}

/// Appends a request line.
#[inline]
pub fn request_line(out: &mut Vec<u8>, method: &[u8], target: &[u8], version: &[u8]) {
    out.reserve(method.len() + target.len() + version.len() + 4);
    out.extend_from_slice(method);
    out.push(b' ');
    out.extend_from_slice(target);
    out.push(b' ');
    out.extend_from_slice(version);
    out.extend_from_slice(b"\r\n");
}

/// Appends a field line.
#[inline]
pub fn field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Makes a value safe to stand in a field: CR, LF and NUL become spaces. Variables such as `$uri`
/// are decoded, so a configuration that puts them into a field lets clients choose these bytes
/// (RFC 9110, 5.5).
#[inline]
pub fn disarm(value: &mut [u8]) {
    let mut at = 0;
    while let Some(found) = memchr::memchr3(b'\r', b'\n', 0, &value[at..]) {
        at += found;
        value[at] = b' ';
    }
}

/// Appends a field line whose value is a number.
#[inline]
pub fn field_number(out: &mut Vec<u8>, name: &[u8], value: u64) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    number(out, value);
    out.extend_from_slice(b"\r\n");
}

/// Appends `Content-Length`.
#[inline]
pub fn content_length(out: &mut Vec<u8>, length: u64) {
    field_number(out, b"Content-Length", length);
}

/// Appends `value` in decimal.
#[inline]
pub fn number(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Appends the `Keep-Alive` line of `keepalive_timeout TIMEOUT SECONDS`.
pub fn keep_alive_timeout(out: &mut Vec<u8>, seconds: u64) {
    out.extend_from_slice(b"Keep-Alive: timeout=");
    number(out, seconds);
    out.extend_from_slice(b"\r\n");
}

/// Appends the `Server` line; `tokens` is `server_tokens on`.
#[inline]
pub fn server(out: &mut Vec<u8>, tokens: bool) {
    out.extend_from_slice(if tokens { SERVER_FULL } else { SERVER_BARE });
}

/// The value of the `Server` line.
pub fn server_name(tokens: bool) -> &'static str {
    if tokens {
        concat!("ringway/", env!("CARGO_PKG_VERSION"))
    } else {
        "ringway"
    }
}

/// `Connection: close`.
pub const CONNECTION_CLOSE: &[u8] = b"Connection: close\r\n";
/// `Connection: keep-alive`.
pub const CONNECTION_KEEP_ALIVE: &[u8] = b"Connection: keep-alive\r\n";
/// `Connection: upgrade`.
pub const CONNECTION_UPGRADE: &[u8] = b"Connection: upgrade\r\n";
/// `Transfer-Encoding: chunked`.
pub const TRANSFER_ENCODING_CHUNKED: &[u8] = b"Transfer-Encoding: chunked\r\n";
/// The whole interim answer to `Expect: 100-continue`.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

const SERVER_FULL: &[u8] =
    concat!("Server: ringway/", env!("CARGO_PKG_VERSION"), "\r\n").as_bytes();
const SERVER_BARE: &[u8] = b"Server: ringway\r\n";

/// The `Date` line, formatted once per second.
#[derive(Clone, Debug)]
pub struct DateLine {
    /// Seconds since 1970 that `line` shows.
    second: u64,
    line: [u8; DATE_LINE_LEN],
}

const DATE_LINE_LEN: usize = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n".len();

impl DateLine {
    /// The line for `second` since 1970, its line end included.
    #[inline]
    pub fn at(&mut self, second: u64) -> &[u8] {
        if second != self.second {
            *self = Self::new(second);
        }
        &self.line
    }

    /// The date in the line, as `$sent_http_date` shows it.
    pub fn value(&self) -> &[u8] {
        &self.line["Date: ".len()..DATE_LINE_LEN - 2]
    }

    fn new(second: u64) -> Self {
        // Year 9999 is the last that the format can show.
        let date = UNIX_EPOCH + Duration::from_secs(second.min(SECOND_MAX));
        let text = format!("Date: {}\r\n", httpdate::fmt_http_date(date));
        let mut line = [b' '; DATE_LINE_LEN];
        line.copy_from_slice(text.as_bytes());
        Self { second, line }
    }
}

impl Default for DateLine {
    fn default() -> Self {
        Self::new(0)
    }
}

const SECOND_MAX: u64 = 253_402_300_799;

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_are_exact() {
        assert_eq!(written(|o| status_line(o, 200)), "HTTP/1.1 200 OK\r\n");
        assert_eq!(
            written(|o| status_line(o, 302)),
            "HTTP/1.1 302 Moved Temporarily\r\n"
        );
        assert_eq!(written(|o| status_line(o, 599)), "HTTP/1.1 599 \r\n");
        assert_eq!(
            written(|o| status_line_with(o, 200, b"Fine")),
            "HTTP/1.1 200 Fine\r\n"
        );
        assert_eq!(
            written(|o| request_line(o, b"GET", b"/a", b"HTTP/1.1")),
            "GET /a HTTP/1.1\r\n"
        );
        assert_eq!(
            written(|o| content_length(o, u64::MAX)),
            format!("Content-Length: {}\r\n", u64::MAX)
        );
        assert_eq!(
            written(|o| keep_alive_timeout(o, 15)),
            "Keep-Alive: timeout=15\r\n"
        );
        assert_eq!(written(|o| field(o, b"A", b"")), "A: \r\n");
        assert_eq!(written(|o| server(o, false)), "Server: ringway\r\n");
        assert!(written(|o| server(o, true)).starts_with("Server: ringway/"));
    }

    #[test]
    fn dates_change_with_the_second() {
        let mut date = DateLine::default();
        assert_eq!(
            date.at(784_111_777),
            b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
        );
        assert_eq!(
            date.at(784_111_778),
            b"Date: Sun, 06 Nov 1994 08:49:38 GMT\r\n"
        );
        assert_eq!(date.value(), b"Sun, 06 Nov 1994 08:49:38 GMT");
        assert_eq!(date.at(u64::MAX).len(), DATE_LINE_LEN);
    }
}
