//! Heads between `h2`, which has them as maps, and the rest of `http`, which has them as text with
//! an index over it.
//!
//! What comes out of here reads as if it had been sent in HTTP/1.1, so everything that holds
//! there is to hold here first (RFC 9113, 8.2 and 10.3): `h2` has refused upper case, pseudo-fields
//! out of place and fields of the connection; values, `Host` and the path are looked at here.

use h2::ext::Protocol;
use http::header::{COOKIE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method as HttpMethod, request};

use crate::http::h1::head::{FIELDS_MAX, Fields, RequestHead, ResponseHead};
use crate::http::message::{Method, Range32, Version};

/// Why a head cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A value begins or ends with a blank: PROTOCOL_ERROR.
    #[error("header value with leading or trailing white space")]
    Blank,
    /// There is no `:path`: PROTOCOL_ERROR.
    #[error("no \":path\" header")]
    NoPath,
    /// `:scheme` is empty: PROTOCOL_ERROR.
    #[error("an empty \":scheme\" header")]
    NoScheme,
    /// `:authority` and `Host` do not name the same: 400.
    #[error("different \":authority\" and \"Host\" headers")]
    HostConflict,
    /// Too many fields: 400.
    #[error("too many header lines")]
    TooMany,
}

/// Writes a request into `buf` as HTTP/1.1 would have it, and its index into `head`. Both are to
/// be clear. `:authority` becomes `Host`; several `Cookie` fields become one.
///
/// # Errors
/// See [`Fault`]. What was written until then is left, the request line at least.
pub fn request(
    parts: &request::Parts,
    buf: &mut Vec<u8>,
    head: &mut RequestHead,
) -> Result<(), Fault> {
    request_line(parts, buf, head);
    upgrade(parts, buf, &mut head.fields);
    let is_connect = parts.method == HttpMethod::CONNECT;
    if !is_connect && parts.uri.path_and_query().is_none() {
        return Err(Fault::NoPath);
    }
    // Without an authority h2 does not tell.
    if !is_connect && parts.uri.scheme_str() == Some("") {
        return Err(Fault::NoScheme);
    }
    let authority = parts.uri.authority().map(|a| a.as_str().as_bytes());
    if let Some(authority) = authority {
        push(buf, &mut head.fields, b"host", authority);
    }
    if parts.headers.len() > FIELDS_MAX {
        return Err(Fault::TooMany);
    }
    for (name, value) in &parts.headers {
        let value = value.as_bytes();
        if is_padded(value) {
            return Err(Fault::Blank);
        }
        match authority {
            Some(authority) if name == HOST => {
                if !authority.eq_ignore_ascii_case(value) {
                    return Err(Fault::HostConflict);
                }
            }
            _ if name == COOKIE || (name == "sec-websocket-key" && is_websocket(parts)) => {}
            _ => push(buf, &mut head.fields, name.as_str().as_bytes(), value),
        }
    }
    cookies(&parts.headers, buf, &mut head.fields);
    buf.extend_from_slice(b"\r\n");
    head.len = buf.len();
    Ok(())
}

/// Writes the head of an answer into `buf`, and its index into `head`. Both are to be clear.
///
/// # Errors
/// [`Fault::Blank`] and [`Fault::TooMany`]: the answer is not sound.
pub fn response(
    status: u16,
    headers: &HeaderMap,
    buf: &mut Vec<u8>,
    head: &mut ResponseHead,
) -> Result<(), Fault> {
    head.status = status;
    head.version = Version::Http2;
    head.reason = Range32::default();
    trailers(headers, buf, &mut head.fields)?;
    head.len = buf.len();
    Ok(())
}

/// Appends fields to `buf` as lines, and to the index.
///
/// # Errors
/// [`Fault::Blank`] and [`Fault::TooMany`].
pub fn trailers(headers: &HeaderMap, buf: &mut Vec<u8>, fields: &mut Fields) -> Result<(), Fault> {
    if headers.len() > FIELDS_MAX {
        return Err(Fault::TooMany);
    }
    for (name, value) in headers {
        let value = value.as_bytes();
        if is_padded(value) {
            return Err(Fault::Blank);
        }
        push(buf, fields, name.as_str().as_bytes(), value);
    }
    Ok(())
}

/// Adds a field to a map, its name in lower case. False if it cannot be in one: the name is none,
/// or the value has control characters.
pub fn add(map: &mut HeaderMap, name: &[u8], value: &[u8]) -> bool {
    let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
    else {
        return false;
    };
    map.try_append(name, value).is_ok()
}

fn request_line(parts: &request::Parts, buf: &mut Vec<u8>, head: &mut RequestHead) {
    let method = match is_websocket(parts) {
        // What it is in HTTP/1.1 (RFC 8441, 5).
        true => b"GET",
        false => parts.method.as_str().as_bytes(),
    };
    let authority = parts.uri.authority().map_or("", |a| a.as_str());
    let target = parts.uri.path_and_query().map_or(authority, |p| p.as_str());
    buf.reserve(method.len() + target.len() + 64 + 48 * parts.headers.len());
    buf.extend_from_slice(method);
    head.method = Method::from_bytes(method);
    head.method_name = Range32::new(0, buf.len());
    buf.push(b' ');
    let start = buf.len();
    buf.extend_from_slice(target.as_bytes());
    head.target = Range32::new(start, buf.len());
    buf.extend_from_slice(b" HTTP/2.0");
    head.line = Range32::new(0, buf.len());
    head.version = Version::Http2;
    buf.extend_from_slice(b"\r\n");
}

/// Whether this is the extended CONNECT of RFC 8441 for WebSocket.
pub fn is_websocket(parts: &request::Parts) -> bool {
    let protocol = parts.extensions.get::<Protocol>();
    protocol.is_some_and(|p| p.as_str().eq_ignore_ascii_case("websocket"))
}

/// What a WebSocket client says in HTTP/1.1. The key serves no purpose any more; the server is to
/// get one all the same.
fn upgrade(parts: &request::Parts, buf: &mut Vec<u8>, fields: &mut Fields) {
    if is_websocket(parts) {
        push(buf, fields, b"connection", b"upgrade");
        push(buf, fields, b"upgrade", b"websocket");
        push(buf, fields, b"sec-websocket-key", &websocket_key());
    }
}

/// Sixteen random bytes in base64.
fn websocket_key() -> [u8; 24] {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits = fastrand::u128(..);
    let mut key = [b'='; 24];
    for (at, digit) in key[..22].iter_mut().enumerate() {
        let bits = bits.rotate_left(6 * (at as u32 + 1)) as usize;
        *digit = DIGITS[bits & if at == 21 { 0x30 } else { 0x3f }];
    }
    key
}

/// RFC 9113, 8.2.3: crumbs become one field where the next hop speaks HTTP/1.1.
fn cookies(headers: &HeaderMap, buf: &mut Vec<u8>, fields: &mut Fields) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    let Some(first) = crumbs.next() else {
        return;
    };
    let start = buf.len();
    buf.extend_from_slice(b"cookie: ");
    let value_start = buf.len();
    buf.extend_from_slice(first.as_bytes());
    for crumb in crumbs {
        buf.extend_from_slice(b"; ");
        buf.extend_from_slice(crumb.as_bytes());
    }
    let value = Range32::new(value_start, buf.len());
    fields.push(buf, Range32::new(start, start + "cookie".len()), value);
    buf.extend_from_slice(b"\r\n");
}

fn push(buf: &mut Vec<u8>, fields: &mut Fields, name: &[u8], value: &[u8]) {
    let start = buf.len();
    buf.extend_from_slice(name);
    buf.extend_from_slice(b": ");
    let value_start = buf.len();
    buf.extend_from_slice(value);
    let name = Range32::new(start, start + name.len());
    fields.push(buf, name, Range32::new(value_start, buf.len()));
    buf.extend_from_slice(b"\r\n");
}

/// RFC 9113, 8.2.1
fn is_padded(value: &[u8]) -> bool {
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    is_blank(value.first()) || is_blank(value.last())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::token::Token;

    fn parts(uri: &str, fields: &[(&str, &str)]) -> request::Parts {
        let mut builder = http::Request::get(uri);
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    fn written(parts: &request::Parts) -> Result<(String, RequestHead), Fault> {
        let (mut buf, mut head) = (Vec::new(), RequestHead::default());
        request(parts, &mut buf, &mut head)?;
        Ok((String::from_utf8(buf).unwrap(), head))
    }

    #[test]
    fn a_request_reads_as_in_http_1() {
        let fields = [
            ("cookie", "a=1"),
            ("x-one", "1"),
            ("cookie", "b=2"),
            ("accept", "*/*"),
        ];
        let (text, head) = written(&parts("https://a.test:8443/x?y=z", &fields)).unwrap();
        assert_eq!(
            text,
            "GET /x?y=z HTTP/2.0\r\nhost: a.test:8443\r\nx-one: 1\r\naccept: */*\r\n\
             cookie: a=1; b=2\r\n\r\n"
        );
        let buf = text.as_bytes();
        assert_eq!(head.line.of(buf), b"GET /x?y=z HTTP/2.0");
        assert_eq!(head.target.of(buf), b"/x?y=z");
        assert_eq!(head.method_name.of(buf), b"GET");
        assert_eq!((head.method, head.version), (Method::Get, Version::Http2));
        assert_eq!(head.len, buf.len());
        let value = |token| head.fields.value(buf, token);
        assert_eq!(value(Token::Cookie), Some(&b"a=1; b=2"[..]));
        assert_eq!(value(Token::Host), Some(&b"a.test:8443"[..]));
    }

    #[test]
    fn a_host_beside_the_authority_must_be_the_same() {
        let same = parts("http://a.test/", &[("host", "A.test")]);
        let (text, _) = written(&same).unwrap();
        assert_eq!(text, "GET / HTTP/2.0\r\nhost: a.test\r\n\r\n");
        let other = parts("http://a.test/", &[("host", "b.test")]);
        assert_eq!(written(&other).unwrap_err(), Fault::HostConflict);
        let (text, _) = written(&parts("/", &[("host", "b.test")])).unwrap();
        assert_eq!(text, "GET / HTTP/2.0\r\nhost: b.test\r\n\r\n");
    }

    #[test]
    fn padded_values_are_refused() {
        for value in [" a", "a ", "\ta", "a\t", " "] {
            let padded = parts("http://a.test/", &[("x", value)]);
            assert_eq!(written(&padded).unwrap_err(), Fault::Blank, "{value:?}");
        }
        assert!(written(&parts("http://a.test/", &[("x", "")])).is_ok());
    }

    #[test]
    fn an_answer_is_indexed() {
        let mut headers = HeaderMap::new();
        assert!(add(&mut headers, b"Content-Length", b"3"));
        assert!(add(&mut headers, b"X-Two", b"a"));
        assert!(add(&mut headers, b"x-two", b"b"));
        assert!(!add(&mut headers, b"x two", b"b"));
        assert!(!add(&mut headers, b"x-two", b"b\r\nx: y"));
        let (mut buf, mut head) = (Vec::new(), ResponseHead::default());
        response(200, &headers, &mut buf, &mut head).unwrap();
        assert_eq!(buf, b"content-length: 3\r\nx-two: a\r\nx-two: b\r\n");
        assert_eq!(head.status, 200);
        assert_eq!(
            head.fields.value(&buf, Token::ContentLength),
            Some(&b"3"[..])
        );
        assert_eq!(head.len, buf.len());
    }
}
