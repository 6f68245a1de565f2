//! As much HTTP/1.1 as a generator and a dummy server need: targets, reply heads, framing.

use std::net::{SocketAddr, ToSocketAddrs};

/// A reply head longer than this is an error.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Where requests go.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// The address connected to.
    pub addr: SocketAddr,
    /// The Host field.
    pub host: String,
    /// Path and query.
    pub path: String,
    /// Whether it is behind TLS.
    pub tls: bool,
}

impl Target {
    /// Parses `http://host[:port][/path]`, or `https://`, and resolves the host.
    ///
    /// # Errors
    /// A message for the user.
    pub fn parse(url: &str) -> Result<Self, String> {
        let (tls, rest) = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err(format!("\"{url}\" does not begin with http:// or https://")),
        };
        let (host, path) = match rest.find('/') {
            Some(slash) => (&rest[..slash], &rest[slash..]),
            None => (rest, "/"),
        };
        let port_given = host
            .rsplit_once(':')
            .is_some_and(|(_, port)| !port.ends_with(']'));
        let authority = if port_given {
            host.to_owned()
        } else {
            format!("{host}:{}", if tls { 443 } else { 80 })
        };
        let addr = authority
            .to_socket_addrs()
            .map_err(|error| format!("cannot resolve \"{host}\": {error}"))?
            .next()
            .ok_or_else(|| format!("\"{host}\" has no address"))?;
        Ok(Self {
            addr,
            host: host.to_owned(),
            path: path.to_owned(),
            tls,
        })
    }

    /// The bytes of one GET request.
    pub fn request(&self, close: bool) -> Vec<u8> {
        let close = if close { "Connection: close\r\n" } else { "" };
        format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: ringway-loadtest\r\nAccept: */*\r\n{close}\r\n",
            self.path, self.host
        )
        .into_bytes()
    }
}

/// Why a reply was not a complete 200.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ReplyError {
    /// A status other than 200.
    Status(u16),
    /// A malformed head, no Content-Length, another length than expected, or bytes after the end.
    Framing,
}

/// Reads one reply after the other from the pieces in which they arrive.
#[derive(Debug)]
pub struct ReplyReader {
    /// The length every body must have, if known beforehand.
    expect: Option<u64>,
    /// The beginning of a head that came in pieces.
    head: Vec<u8>,
    body_left: u64,
    in_body: bool,
    close: bool,
}

impl ReplyReader {
    /// A reader at the beginning of a reply.
    pub fn new(expect: Option<u64>) -> Self {
        Self {
            expect,
            head: Vec::new(),
            body_left: 0,
            in_body: false,
            close: false,
        }
    }

    /// Forgets an unfinished reply; for a new connection.
    pub fn reset(&mut self) {
        self.head.clear();
        (self.body_left, self.in_body, self.close) = (0, false, false);
    }

    /// Whether the last head announced that the connection ends.
    pub fn closes(&self) -> bool {
        self.close
    }

    /// Bytes of the body that are still to come: they may be passed to [`ReplyReader::skip`]
    /// without having been looked at.
    pub fn body_left(&self) -> u64 {
        self.body_left
    }

    /// Takes `n` bytes of body, at most [`ReplyReader::body_left`]; true when that ends the reply.
    pub fn skip(&mut self, n: u64) -> bool {
        debug_assert!(self.in_body && n <= self.body_left);
        self.body_left -= n;
        self.in_body = self.body_left > 0;
        !self.in_body
    }

    /// Takes bytes from the wire; true when they end the reply.
    ///
    /// # Errors
    /// The reply is not what was asked for; the connection is of no more use.
    pub fn feed(&mut self, data: &[u8]) -> Result<bool, ReplyError> {
        if self.in_body {
            return match data.len() as u64 <= self.body_left {
                true => Ok(self.skip(data.len() as u64)),
                false => Err(ReplyError::Framing),
            };
        }
        if self.head.is_empty() {
            // The usual case: the whole head is in one piece and need not be kept.
            return match head_end(data) {
                Some(end) => self.start_body(&data[..end], &data[end..]),
                None => self.keep(data),
            };
        }
        self.keep(data)?;
        let Some(end) = head_end(&self.head) else {
            return Ok(false);
        };
        let head = std::mem::take(&mut self.head);
        self.start_body(&head[..end], &head[end..])
    }

    fn keep(&mut self, data: &[u8]) -> Result<bool, ReplyError> {
        self.head.extend_from_slice(data);
        if self.head.len() > HEAD_BYTES_MAX {
            Err(ReplyError::Framing)
        } else {
            Ok(false)
        }
    }

    fn start_body(&mut self, head: &[u8], body: &[u8]) -> Result<bool, ReplyError> {
        let head = ReplyHead::parse(head).ok_or(ReplyError::Framing)?;
        if head.status != 200 {
            return Err(ReplyError::Status(head.status));
        }
        let length = head.content_length.ok_or(ReplyError::Framing)?;
        if self.expect.is_some_and(|expect| expect != length) {
            return Err(ReplyError::Framing);
        }
        self.close = head.close;
        (self.body_left, self.in_body) = (length, true);
        self.feed(body)
    }
}

/// What counts of a reply's head.
#[derive(Debug, PartialEq)]
struct ReplyHead {
    status: u16,
    content_length: Option<u64>,
    close: bool,
}

impl ReplyHead {
    fn parse(head: &[u8]) -> Option<Self> {
        let mut lines = head.split(|&b| b == b'\n');
        let first = lines.next()?.strip_prefix(b"HTTP/1.")?;
        let [minor @ (b'0' | b'1'), b' ', digits @ ..] = first else {
            return None;
        };
        let status = decimal(digits.get(..3)?)? as u16;
        let mut parsed = Self {
            status,
            content_length: None,
            close: *minor == b'0',
        };
        for (name, value) in lines.filter_map(field) {
            if name.eq_ignore_ascii_case(b"content-length") {
                parsed.content_length = Some(decimal(value)?);
            } else if name.eq_ignore_ascii_case(b"connection") {
                parsed.close = if value.eq_ignore_ascii_case(b"close") {
                    true
                } else if value.eq_ignore_ascii_case(b"keep-alive") {
                    false
                } else {
                    parsed.close
                };
            } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
                return None;
            }
        }
        Some(parsed)
    }
}

/// Where the head that begins `data` ends, its empty line included.
pub fn head_end(data: &[u8]) -> Option<usize> {
    data.windows(4)
        .position(|four| four == b"\r\n\r\n")
        .map(|at| at + 4)
}

/// Name and trimmed value of one header line.
pub fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|&b| b == b':')?;
    Some((&line[..colon], line[colon + 1..].trim_ascii()))
}

/// A non-empty run of decimal digits below 2^63.
pub fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 18 {
        return None;
    }
    digits.iter().try_fold(0, |value, &digit| match digit {
        b'0'..=b'9' => Some(value * 10 + u64::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPLY: &[u8] = b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 5\r\n\r\nhello";

    #[test]
    fn targets() {
        let target = Target::parse("http://127.0.0.1:8080/100?a=b").unwrap();
        assert_eq!(target.addr, "127.0.0.1:8080".parse().unwrap());
        assert_eq!(
            (target.host.as_str(), target.path.as_str()),
            ("127.0.0.1:8080", "/100?a=b")
        );
        assert_eq!(Target::parse("http://127.0.0.1").unwrap().addr.port(), 80);
        assert_eq!(
            Target::parse("http://[::1]:81/").unwrap().addr,
            "[::1]:81".parse().unwrap()
        );
        assert_eq!(
            Target::parse("http://[::1]").unwrap().addr,
            "[::1]:80".parse().unwrap()
        );
        let secure = Target::parse("https://127.0.0.1/").unwrap();
        assert!(secure.tls && secure.addr.port() == 443);
        assert!(Target::parse("ftp://127.0.0.1/").is_err());
    }

    #[test]
    fn a_reply_in_any_two_pieces() {
        for cut in 0..REPLY.len() {
            let mut reader = ReplyReader::new(Some(5));
            assert_eq!(reader.feed(&REPLY[..cut]), Ok(false), "cut at {cut}");
            assert_eq!(reader.feed(&REPLY[cut..]), Ok(true), "cut at {cut}");
            assert!(!reader.closes() && reader.body_left() == 0);
        }
    }

    #[test]
    fn bodies_can_be_skipped() {
        let mut reader = ReplyReader::new(None);
        assert_eq!(
            reader.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab"),
            Ok(false)
        );
        assert_eq!(reader.body_left(), 7);
        assert!(!reader.skip(6));
        assert!(reader.skip(1));
        assert_eq!(reader.feed(REPLY), Ok(true));
    }

    #[test]
    fn what_is_not_a_complete_200() {
        let fed = |bytes: &[u8]| ReplyReader::new(Some(5)).feed(bytes);
        assert_eq!(
            fed(b"HTTP/1.1 502 Bad\r\n\r\n"),
            Err(ReplyError::Status(502))
        );
        assert_eq!(fed(b"HTTP/1.1 200 OK\r\n\r\n"), Err(ReplyError::Framing));
        assert_eq!(
            fed(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n"),
            Err(ReplyError::Framing)
        );
        assert_eq!(fed(b"HTTP/2 200 OK\r\n\r\n"), Err(ReplyError::Framing));
        assert_eq!(fed(&[REPLY, b"x"].concat()), Err(ReplyError::Framing));
    }

    #[test]
    fn announced_closes() {
        let close = |head: &str| ReplyHead::parse(head.as_bytes()).unwrap().close;
        assert!(close("HTTP/1.1 200 OK\r\nConnection: Close\r\n\r\n"));
        assert!(close("HTTP/1.0 200 OK\r\n\r\n"));
        assert!(!close("HTTP/1.0 200 OK\r\nconnection: keep-alive\r\n\r\n"));
        assert!(!close("HTTP/1.1 200 OK\r\n\r\n"));
    }

    #[test]
    fn decimals() {
        assert_eq!(decimal(b"0"), Some(0));
        assert_eq!(decimal(b"1048576"), Some(1_048_576));
        assert_eq!(decimal(b""), None);
        assert_eq!(decimal(b"-1"), None);
        assert_eq!(decimal(b"99999999999999999999"), None);
    }
}
