//! Where a responder is, and what is said to it over HTTP (RFC 6960, appendix A).

use super::{CertId, Question};

/// A responder, by its URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Responder {
    /// The name or address in the URL, an IPv6 address without brackets.
    pub host: Box<str>,
    /// The port.
    pub port: u16,
    /// The host as it is written, with the port if that is written too.
    authority: Box<str>,
    path: Box<str>,
}

/// A question and where to ask it.
#[derive(Clone)]
pub struct Inquiry {
    /// The question.
    pub question: Question,
    /// Who is asked.
    pub responder: Responder,
    /// The file of the certificate it is about, for the log; empty for a client's.
    pub certificate: Box<str>,
}

/// The head of an answer, at most, in bytes.
pub const HEAD_MAX: usize = 16 << 10;

/// The response in an answer, at most, in bytes: one for one certificate has some hundred, and some
/// thousand with certificates in it.
pub const RESPONSE_MAX: usize = 64 << 10;

const CONTENT_TYPE: &str = "application/ocsp-response";

impl Responder {
    /// From its URL.
    ///
    /// # Errors
    /// Why not, as nginx says it in front of "in OCSP responder".
    pub fn parse(url: &[u8]) -> Result<Responder, &'static str> {
        const SCHEME: &str = "http://";
        let url = std::str::from_utf8(url).map_err(|_| "invalid URL prefix")?;
        let (scheme, rest) = url
            .split_at_checked(SCHEME.len())
            .ok_or("invalid URL prefix")?;
        if !scheme.eq_ignore_ascii_case(SCHEME) || rest.is_empty() {
            return Err("invalid URL prefix");
        }
        if !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("invalid URL");
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => rest.split_once(']').ok_or("invalid host")?,
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().map_err(|_| "invalid port")?,
            None if port.is_empty() => 80,
            None => return Err("invalid host"),
        };
        if host.is_empty() {
            return Err("no host");
        }
        Ok(Responder {
            host: host.into(),
            port,
            authority: authority.into(),
            path: path.split('#').next().unwrap_or_default().into(),
        })
    }

    /// The HTTP request with a question.
    pub fn request(&self, id: &CertId) -> String {
        let (slash, path) = match &*self.path {
            path if path.ends_with('/') => ("", path),
            path => ("/", path),
        };
        let question = base64_url(&id.request());
        let host = &self.authority;
        format!(
            "GET {path}{slash}{question} HTTP/1.0\r\nHost: {host}\r\nAccept: {CONTENT_TYPE}\r\n\r\n"
        )
    }
}

/// The response in what a responder has sent. `None`: there is more to come, if `is_end` does not
/// say otherwise.
///
/// # Errors
/// It is none, in nginx's words.
pub fn body(sent: &[u8], is_end: bool) -> Result<Option<&[u8]>, String> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut fields);
    let start = match head.parse(sent) {
        Ok(httparse::Status::Complete(start)) => start,
        Ok(httparse::Status::Partial) if is_end => {
            return Err("OCSP responder prematurely closed connection".into());
        }
        Ok(httparse::Status::Partial) if sent.len() < HEAD_MAX => return Ok(None),
        _ => return Err("OCSP responder sent invalid response".into()),
    };
    let status = head.code.unwrap_or_default();
    if status != 200 {
        return Err(format!("OCSP responder sent status {status}"));
    }
    let field = |name: &str| {
        let mut all = head.headers.iter();
        let found = all.find(|field| field.name.eq_ignore_ascii_case(name))?;
        Some(found.value.trim_ascii())
    };
    let kind = field("Content-Type").unwrap_or_default();
    let bare = kind.split(|byte| *byte == b';').next().unwrap_or_default();
    if !bare
        .trim_ascii()
        .eq_ignore_ascii_case(CONTENT_TYPE.as_bytes())
    {
        let shown = kind.escape_ascii();
        return Err(format!(
            "OCSP responder sent invalid \"Content-Type\" header: \"{shown}\""
        ));
    }
    if field("Transfer-Encoding").is_some() {
        return Err("OCSP responder sent a \"Transfer-Encoding\" header to HTTP/1.0".into());
    }
    let body = &sent[start..];
    let length = match field("Content-Length") {
        None => None,
        Some(length) => {
            let length = std::str::from_utf8(length).ok();
            let length = length.and_then(|length| length.parse::<usize>().ok());
            Some(length.ok_or("OCSP responder sent invalid \"Content-Length\" header")?)
        }
    };
    if length.unwrap_or(body.len()) > RESPONSE_MAX {
        return Err("OCSP responder sent too large response".into());
    }
    match length {
        Some(length) if length <= body.len() => Ok(Some(&body[..length])),
        Some(_) if is_end => Err("OCSP responder prematurely closed connection".into()),
        None if is_end => Ok(Some(body)),
        _ => Ok(None),
    }
}

/// Base64 (RFC 4648, 4), with what has a meaning in URLs escaped.
fn base64_url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len() * 3 / 2);
    for group in bytes.chunks(3) {
        let octet = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = octet(0) << 16 | octet(1) << 8 | octet(2);
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at) & 63) as usize];
            match digit {
                _ if at > group.len() => out.push_str("%3D"),
                b'+' => out.push_str("%2B"),
                b'/' => out.push_str("%2F"),
                digit => out.push(char::from(digit)),
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_nginx_reads_them() {
        let parse = |url: &str| Responder::parse(url.as_bytes());
        let full = parse("http://ocsp.example.com:8080/a/b").unwrap();
        assert_eq!((&*full.host, full.port), ("ocsp.example.com", 8080));
        assert_eq!(
            (&*full.authority, &*full.path),
            ("ocsp.example.com:8080", "/a/b")
        );
        let bare = parse("HTTP://ocsp.example.com").unwrap();
        assert_eq!(
            (&*bare.host, bare.port, &*bare.path),
            ("ocsp.example.com", 80, "")
        );
        let six = parse("http://[::1]:81/").unwrap();
        assert_eq!((&*six.host, six.port), ("::1", 81));
        for wrong in [
            "https://ocsp.example.com/",
            "ocsp.example.com",
            "http://",
            "http:///path",
            "http://a:port/",
            "http://a:99999/",
            "http://[::1/",
            "http://a b/",
            "http://a/\r\nHost: b",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn base64_is_escaped() {
        assert_eq!(base64_url(b""), "");
        assert_eq!(base64_url(b"f"), "Zg%3D%3D");
        assert_eq!(base64_url(b"fo"), "Zm8%3D");
        assert_eq!(base64_url(b"foobar"), "Zm9vYmFy");
        assert_eq!(base64_url(&[0xfb, 0xff, 0xfe]), "%2B%2F%2F%2B");
    }

    #[test]
    fn answers_of_responders_are_read() {
        let head = "HTTP/1.0 200 OK\r\nContent-Type: application/ocsp-response\r\n";
        let with_length = format!("{head}Content-Length: 3\r\n\r\nabc");
        assert_eq!(body(with_length.as_bytes(), false), Ok(Some(&b"abc"[..])));
        let shorter = &with_length.as_bytes()[..with_length.len() - 1];
        assert_eq!(body(shorter, false), Ok(None));
        assert!(body(shorter, true).is_err());
        assert!(body(&with_length.as_bytes()[..20], true).is_err());
        let to_the_end = format!("{head}\r\nabc");
        assert_eq!(body(to_the_end.as_bytes(), false), Ok(None));
        assert_eq!(body(to_the_end.as_bytes(), true), Ok(Some(&b"abc"[..])));
        let large = format!("{head}Content-Length: 1000000\r\n\r\n");
        let endless = [b"HTTP/1.0 200 OK\r\nX: ", &[b'x'; HEAD_MAX][..]].concat();
        for wrong in [
            b"HTTP/1.1 404 Not Found\r\n\r\n",
            &b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n"[..],
            b"HTTP/1.0 200 OK\r\n\r\nabc",
            b"no HTTP at all\r\n\r\n",
            large.as_bytes(),
            &endless,
        ] {
            assert!(body(wrong, true).is_err(), "{}", wrong.escape_ascii());
        }
    }
}
