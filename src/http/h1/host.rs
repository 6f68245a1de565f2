//! `Host = uri-host [ ":" port ]` (RFC 9110, 7.2; RFC 3986, 3.2.2).

use super::head::RequestHead;
use super::target::Target;
use crate::http::message::{Range32, Version};
use crate::http::token::Token;

/// A valid host, as ranges in the value it was read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostPort {
    /// The name or address without port and without one trailing dot; an IPv6 address with its
    /// brackets. Not yet in lower case: [`HostPort::write_name`].
    pub name: Range32,
    /// The digits of the port; empty if there are none.
    pub port: Range32,
    /// Whether the name has an upper case letter.
    pub has_upper: bool,
}

impl HostPort {
    /// Appends the name in lower case, as `$host` and the choice of the server want it.
    pub fn write_name(&self, value: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(self.name.of(value));
        if self.has_upper {
            out[start..].make_ascii_lowercase();
        }
    }

    /// The same ranges seen from a buffer in which the value lies at `offset`.
    pub fn shifted(self, offset: usize) -> Self {
        Self {
            name: self.name.shifted(offset),
            port: self.port.shifted(offset),
            ..self
        }
    }
}

/// Why a request names no host to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    #[error("client sent HTTP/1.1 request without \"Host\" header")]
    Missing,
    #[error("client sent neither \":authority\" nor \"Host\" header")]
    NoAuthority,
    #[error("client sent duplicate host header")]
    Repeated,
    #[error("client sent invalid host header")]
    Invalid,
    #[error("client sent invalid host in request line")]
    InvalidInTarget,
}

/// The host a request is for, as ranges in `buf`: from the target if it is in absolute form, else
/// from the Host field, which must be there once in HTTP/1.1 and be valid in any case (RFC 9112,
/// 3.2).
///
/// `None` when an HTTP/1.0 request names none. An empty Host field is refused, as nginx does. Every
/// error is a 400.
pub fn of_request(
    buf: &[u8],
    head: &RequestHead,
    target: &Target,
) -> Result<Option<HostPort>, HostError> {
    if head.fields.repeated().contains(Token::Host) {
        return Err(HostError::Repeated);
    }
    let from_field = match head.fields.find(Token::Host) {
        None if head.version >= Version::Http2 => return Err(HostError::NoAuthority),
        None if head.version >= Version::Http11 => return Err(HostError::Missing),
        None => None,
        Some(field) => {
            let host = parse(field.value.of(buf)).ok_or(HostError::Invalid)?;
            Some(host.shifted(field.value.start as usize))
        }
    };
    match target.authority() {
        None => Ok(from_field),
        Some(authority) => {
            let host = parse(authority.of(buf)).ok_or(HostError::InvalidInTarget)?;
            Ok(Some(host.shifted(authority.start as usize)))
        }
    }
}

/// Reads `uri-host [ ":" port ]`; `None` if it is anything else.
///
/// As in nginx one trailing dot of a name is not part of it and two dots in a row are refused. So
/// is what RFC 3986 allows and nobody has: an empty name, an IP literal of a future version.
pub fn parse(value: &[u8]) -> Option<HostPort> {
    let (name_end, has_upper) = if value.first() == Some(&b'[') {
        (ip_literal(value)?, false)
    } else {
        reg_name(value)?
    };
    let port = match value.get(name_end) {
        None => Range32::new(name_end, name_end),
        Some(b':') => port_range(value, name_end + 1)?,
        Some(_) => return None,
    };
    let dotted = value[..name_end].last() == Some(&b'.');
    let name = Range32::new(0, name_end - usize::from(dotted));
    (!name.is_empty()).then_some(HostPort {
        name,
        port,
        has_upper,
    })
}

/// The end of the name at the start of `value`, and whether it has upper case letters.
fn reg_name(value: &[u8]) -> Option<(usize, bool)> {
    let mut has_upper = false;
    let mut previous = 0;
    for (index, &byte) in value.iter().enumerate() {
        match byte {
            b'A'..=b'Z' => has_upper = true,
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'~' => {}
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' => {}
            // `..` is in no name, and is a path to somebody.
            b'.' if previous != b'.' => {}
            b'%' if is_hex(value.get(index + 1)) && is_hex(value.get(index + 2)) => {}
            b':' => return Some((index, has_upper)),
            _ => return None,
        }
        previous = byte;
    }
    Some((value.len(), has_upper))
}

fn is_hex(byte: Option<&u8>) -> bool {
    byte.is_some_and(u8::is_ascii_hexdigit)
}

/// The end of the IPv6 address in brackets at the start of `value`.
fn ip_literal(value: &[u8]) -> Option<usize> {
    let close = memchr::memchr(b']', value)?;
    let address = std::str::from_utf8(&value[1..close]).ok()?;
    address.parse::<std::net::Ipv6Addr>().ok()?;
    Some(close + 1)
}

/// The digits from `start` to the end. An empty port is allowed (RFC 3986, 3.2.3).
fn port_range(value: &[u8], start: usize) -> Option<Range32> {
    let digits = &value[start..];
    let number = digits.iter().try_fold(0u32, |number, &byte| {
        let digit = byte.is_ascii_digit().then(|| u32::from(byte - b'0'))?;
        Some(number.saturating_mul(10).saturating_add(digit))
    })?;
    (number <= u32::from(u16::MAX)).then(|| Range32::new(start, value.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_hosts_split_into_name_and_port() {
        let cases = [
            ("example.com", "example.com", ""),
            ("example.com.", "example.com", ""),
            ("example.com.:80", "example.com", "80"),
            ("Example.COM:8080", "example.com", "8080"),
            ("a_b-c.d:", "a_b-c.d", ""),
            ("127.0.0.1:3000", "127.0.0.1", "3000"),
            ("[::1]", "[::1]", ""),
            ("[::FFFF:1.2.3.4]:65535", "[::FFFF:1.2.3.4]", "65535"),
            ("localhost", "localhost", ""),
            (".a", ".a", ""),
            ("%c3%a9.org", "%c3%a9.org", ""),
        ];
        for (value, name, port) in cases {
            let host = parse(value.as_bytes()).unwrap_or_else(|| panic!("{value}"));
            let mut lower = Vec::new();
            host.write_name(value.as_bytes(), &mut lower);
            assert_eq!(lower, name.as_bytes(), "{value}");
            assert_eq!(host.port.of(value.as_bytes()), port.as_bytes(), "{value}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let cases = [
            "",
            ".",
            ":80",
            "a b",
            "a/b",
            "a?b",
            "a#b",
            "user@a",
            "a:b",
            "a:80:80",
            "a:-1",
            "a:+1",
            "a:65536",
            "a:99999999999999",
            "a..b",
            "..",
            "a\tb",
            "a%4",
            "a,b c",
            "http://a",
            "[::1",
            "::1",
            "[]",
            "[::1]a",
            "[::g]",
            "[v1.a]",
            "[fe80::1%eth0]",
            "[127.0.0.1]",
            "a\\b",
            "a\"b",
            "a<b",
            "\u{e9}",
            "a\0",
            "[::1]:x",
            "a|b",
            "a^b",
            "a{b}",
        ];
        for value in cases {
            assert_eq!(parse(value.as_bytes()), None, "{value:?}");
        }
    }
}
