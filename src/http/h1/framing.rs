//! Where a message ends: decided here, once, for the whole gateway (RFC 9112, 6).
//!
//! Every doubt is an error. A request whose length two parsers could read differently smuggles
//! another one past one of them; such a response poisons a kept connection.

use super::fields::Fields;
use super::head::{RequestHead, ResponseHead};
use super::scan::list_items;
use crate::http::message::{Method, Version};
use crate::http::token::Token;

/// How the body that follows a head is delimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    #[default]
    None,
    /// Exactly so many bytes; `Length(0)` when the head said so itself.
    Length(u64),
    /// Chunks.
    Chunked,
    /// Everything until the connection closes. Responses only.
    Close,
}

impl Framing {
    /// Whether no body byte will follow.
    pub fn is_empty(self) -> bool {
        matches!(self, Self::None | Self::Length(0))
    }
}

/// Why a message cannot be framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    #[error("\"Content-Length\" and \"Transfer-Encoding\" headers at the same time")]
    LengthAndCoding,
    /// A field that may come only once came again.
    #[error("duplicate header line: \"{0:?}\"")]
    Repeated(Token),
    #[error("invalid \"Content-Length\" header")]
    InvalidLength,
    #[error("unknown \"Transfer-Encoding\"")]
    UnknownCoding,
    #[error("invalid \"Transfer-Encoding\" header")]
    InvalidCoding,
    #[error("\"Transfer-Encoding\" header in an HTTP/1.0 message")]
    CodingInHttp10,
}

impl FramingError {
    /// The status for a request that has it. (For a response it is always 502.)
    pub fn status(self) -> u16 {
        if self == Self::UnknownCoding {
            501
        } else {
            400
        }
    }
}

/// The framing of a request's body.
///
/// `CONNECT` and any other method may have one: what has neither header has none. Fields that
/// nginx refuses to see twice ([`Token::UNIQUE_IN_REQUEST`], `Host` among them) are refused here.
#[inline]
pub fn request(buf: &[u8], head: &RequestHead) -> Result<Framing, FramingError> {
    let fields = &head.fields;
    if fields.repeated().intersects(Token::UNIQUE_IN_REQUEST) {
        return Err(repeated_unique(fields));
    }
    match (
        fields.has(Token::ContentLength),
        fields.has(Token::TransferEncoding),
    ) {
        (false, false) => Ok(Framing::None),
        (true, true) => Err(FramingError::LengthAndCoding),
        (true, false) => length(buf, fields).map(Framing::Length),
        (false, true) => coding(buf, fields, head.version).map(|()| Framing::Chunked),
    }
}

/// The framing of the body of a response to a `method` request.
///
/// Informational responses, 204 and 304, and responses to HEAD have none whatever their fields say
/// (RFC 9112, 6.3); a wrong Content-Length is refused even there. A 2xx to CONNECT and a 101 begin
/// a tunnel: the caller tells them by status, here they are [`Framing::None`].
pub fn response(method: Method, buf: &[u8], head: &ResponseHead) -> Result<Framing, FramingError> {
    let fields = &head.fields;
    let framing = match (
        fields.has(Token::ContentLength),
        fields.has(Token::TransferEncoding),
    ) {
        (false, false) => Framing::Close,
        (true, true) => return Err(FramingError::LengthAndCoding),
        (true, false) => Framing::Length(length(buf, fields)?),
        (false, true) => {
            coding(buf, fields, head.version)?;
            Framing::Chunked
        }
    };
    Ok(if has_body(method, head.status) {
        framing
    } else {
        Framing::None
    })
}

/// The number of bytes a Content-Length `value` stands for: digits only, at most 2^63 − 1.
pub fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let mut length: u64 = 0;
    for &digit in value {
        length = length
            .checked_mul(10)?
            .checked_add(u64::from(digit - b'0'))?;
    }
    (length <= LENGTH_MAX).then_some(length)
}

/// The largest body length: what a file offset can hold.
pub const LENGTH_MAX: u64 = i64::MAX as u64;

/// Whether a response with this status to this method has a body at all.
pub fn has_body(method: Method, status: u16) -> bool {
    let tunnel = method == Method::Connect && (200..300).contains(&status);
    !(method == Method::Head || status < 200 || status == 204 || status == 304 || tunnel)
}

#[cold]
fn repeated_unique(fields: &Fields) -> FramingError {
    let is_guilty = |token: Token| {
        Token::UNIQUE_IN_REQUEST.contains(token) && fields.repeated().contains(token)
    };
    let guilty = fields
        .iter()
        .map(|field| field.token)
        .find(|&token| is_guilty(token));
    FramingError::Repeated(guilty.unwrap_or(Token::Other))
}

fn length(buf: &[u8], fields: &Fields) -> Result<u64, FramingError> {
    if fields.repeated().contains(Token::ContentLength) {
        return Err(FramingError::Repeated(Token::ContentLength));
    }
    let value = fields
        .value(buf, Token::ContentLength)
        .ok_or(FramingError::InvalidLength)?;
    parse_length(value).ok_or(FramingError::InvalidLength)
}

/// Ok if the only transfer coding is `chunked`, once.
fn coding(buf: &[u8], fields: &Fields, version: Version) -> Result<(), FramingError> {
    if version < Version::Http11 {
        return Err(FramingError::CodingInHttp10);
    }
    if fields.repeated().contains(Token::TransferEncoding) {
        return Err(FramingError::Repeated(Token::TransferEncoding));
    }
    let value = fields
        .value(buf, Token::TransferEncoding)
        .ok_or(FramingError::InvalidCoding)?;
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let mut codings = list_items(value);
    let names_chunked = codings.any(|coding| coding.eq_ignore_ascii_case(b"chunked"));
    let is_name = value.iter().all(|&byte| super::scan::is_token_byte(byte));
    // A lone other coding is merely one we do not speak; with chunked somewhere it is a trap.
    if !names_chunked && is_name && !value.is_empty() {
        return Err(FramingError::UnknownCoding);
    }
    Err(FramingError::InvalidCoding)
}

#[cfg(test)]
mod tests {
    use super::super::head::{HeadLimits, Parsed, parse_request, parse_response};
    use super::*;

    fn of_request(version: &str, fields: &str) -> Result<Framing, FramingError> {
        let text = format!("POST / {version}\r\nHost: a\r\n{fields}\r\n");
        let mut head = RequestHead::default();
        let parsed = parse_request(text.as_bytes(), &HeadLimits::default(), &mut head);
        assert_eq!(parsed, Ok(Parsed::Complete), "{text:?}");
        request(text.as_bytes(), &head)
    }

    fn of_response(method: Method, start: &str, fields: &str) -> Result<Framing, FramingError> {
        let text = format!("HTTP/{start}\r\n{fields}\r\n");
        let mut head = ResponseHead::default();
        let parsed = parse_response(text.as_bytes(), &HeadLimits::default(), &mut head);
        assert_eq!(parsed, Ok(Parsed::Complete), "{text:?}");
        response(method, text.as_bytes(), &head)
    }

    #[test]
    fn requests_with_one_reading_are_framed() {
        let cases = [
            ("", Framing::None),
            ("Content-Length: 0\r\n", Framing::Length(0)),
            ("content-length:   42  \r\n", Framing::Length(42)),
            (
                "Content-Length: 9223372036854775807\r\n",
                Framing::Length(LENGTH_MAX),
            ),
            ("Transfer-Encoding: chunked\r\n", Framing::Chunked),
            ("transfer-encoding: CHUNKED\r\n", Framing::Chunked),
        ];
        for (fields, framing) in cases {
            assert_eq!(of_request("HTTP/1.1", fields), Ok(framing), "{fields}");
        }
        assert_eq!(
            of_request("HTTP/1.0", "Content-Length: 3\r\n"),
            Ok(Framing::Length(3))
        );
    }

    #[test]
    fn requests_with_two_readings_are_refused() {
        use FramingError::*;
        let cases = [
            (
                "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
                LengthAndCoding,
            ),
            (
                "Transfer-Encoding: x\r\nContent-Length: 1\r\n",
                LengthAndCoding,
            ),
            (
                "Content-Length: 1\r\nContent-Length: 2\r\n",
                Repeated(Token::ContentLength),
            ),
            (
                "Content-Length: 1\r\ncontent-length: 1\r\n",
                Repeated(Token::ContentLength),
            ),
            ("Content-Length: 1, 1\r\n", InvalidLength),
            ("Content-Length: +1\r\n", InvalidLength),
            ("Content-Length: -1\r\n", InvalidLength),
            ("Content-Length: 1 2\r\n", InvalidLength),
            ("Content-Length: 0x1\r\n", InvalidLength),
            ("Content-Length: 1_000\r\n", InvalidLength),
            ("Content-Length: 1.0\r\n", InvalidLength),
            ("Content-Length: \u{661}\r\n", InvalidLength),
            ("Content-Length:\r\n", InvalidLength),
            ("Content-Length: 9223372036854775808\r\n", InvalidLength),
            ("Content-Length: 18446744073709551617\r\n", InvalidLength),
            (
                "Content-Length: 99999999999999999999999999999\r\n",
                InvalidLength,
            ),
            (
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                Repeated(Token::TransferEncoding),
            ),
            ("Transfer-Encoding: chunked, chunked\r\n", InvalidCoding),
            ("Transfer-Encoding: gzip, chunked\r\n", InvalidCoding),
            ("Transfer-Encoding: chunked, identity\r\n", InvalidCoding),
            ("Transfer-Encoding: chunked,\r\n", InvalidCoding),
            ("Transfer-Encoding: ,chunked\r\n", InvalidCoding),
            ("Transfer-Encoding: chunked;q=1\r\n", InvalidCoding),
            ("Transfer-Encoding: \"chunked\"\r\n", InvalidCoding),
            ("Transfer-Encoding:\r\n", InvalidCoding),
            ("Transfer-Encoding: identity\r\n", UnknownCoding),
            ("Transfer-Encoding: xchunked\r\n", UnknownCoding),
            ("Transfer-Encoding: gzip\r\n", UnknownCoding),
            ("Host: b\r\n", Repeated(Token::Host)),
            ("Expect: a\r\nExpect: a\r\n", Repeated(Token::Expect)),
        ];
        for (fields, error) in cases {
            assert_eq!(of_request("HTTP/1.1", fields), Err(error), "{fields}");
        }
        let chunked = "Transfer-Encoding: chunked\r\n";
        assert_eq!(of_request("HTTP/1.0", chunked), Err(CodingInHttp10));
        assert_eq!(UnknownCoding.status(), 501);
        assert_eq!(LengthAndCoding.status(), 400);
    }

    #[test]
    fn responses_are_framed_by_method_and_status_first() {
        let length = "Content-Length: 5\r\n";
        let chunked = "Transfer-Encoding: chunked\r\n";
        let cases = [
            (Method::Get, "1.1 200 OK", length, Framing::Length(5)),
            (Method::Get, "1.1 200 OK", chunked, Framing::Chunked),
            (Method::Get, "1.1 200 OK", "", Framing::Close),
            (Method::Get, "1.0 200", "", Framing::Close),
            (Method::Head, "1.1 200 OK", length, Framing::None),
            (Method::Head, "1.1 200 OK", chunked, Framing::None),
            (Method::Get, "1.1 204 No Content", length, Framing::None),
            (Method::Get, "1.1 304 Not Modified", length, Framing::None),
            (
                Method::Get,
                "1.1 101 Switching Protocols",
                "",
                Framing::None,
            ),
            (Method::Connect, "1.1 200 OK", length, Framing::None),
            (Method::Connect, "1.1 403 No", length, Framing::Length(5)),
        ];
        for (method, start, fields, framing) in cases {
            assert_eq!(
                of_response(method, start, fields),
                Ok(framing),
                "{start} {fields}"
            );
        }
    }

    #[test]
    fn responses_in_doubt_are_refused_even_without_a_body() {
        use FramingError::*;
        let cases = [
            (
                "1.1 200 OK",
                "Content-Length: 5\r\nContent-Length: 5\r\n",
                Repeated(Token::ContentLength),
            ),
            ("1.1 200 OK", "Content-Length: -5\r\n", InvalidLength),
            ("1.1 304 X", "Content-Length: 5, 5\r\n", InvalidLength),
            (
                "1.1 200 OK",
                "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
                LengthAndCoding,
            ),
            ("1.1 200 OK", "Transfer-Encoding: gzip\r\n", UnknownCoding),
            (
                "1.0 200 OK",
                "Transfer-Encoding: chunked\r\n",
                CodingInHttp10,
            ),
        ];
        for (start, fields, error) in cases {
            assert_eq!(
                of_response(Method::Get, start, fields),
                Err(error),
                "{start} {fields}"
            );
        }
    }
}
