//! The `Connection` field: whether the connection lives on, and which fields are for it alone
//! (RFC 9110, 7.6.1).

use super::fields::Fields;
use super::scan::list_items;
use crate::http::message::Version;
use crate::http::token::Token;

/// What the `Connection` fields of a head asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub close: bool,
    pub keep_alive: bool,
    /// `upgrade` was named; what to, says the `Upgrade` field.
    pub upgrade: bool,
}

impl Options {
    /// Whether the sender keeps the connection open after this message: by default in HTTP/1.1, on
    /// demand in HTTP/1.0.
    pub fn persistent(self, version: Version) -> bool {
        !self.close && (version >= Version::Http11 || self.keep_alive)
    }
}

/// Reads the `Connection` fields and marks the fields they name as hop-by-hop.
///
/// At most [`NOMINATIONS_MAX`] names are honoured, so that a head full of them costs no time.
#[inline]
pub fn scan(buf: &[u8], fields: &mut Fields) -> Options {
    let mut options = Options::default();
    if !fields.has(Token::Connection) {
        return options;
    }
    let mut nominations = 0;
    let mut index = 0;
    while index < fields.len() {
        let field = fields.as_slice()[index];
        index += 1;
        if field.token != Token::Connection {
            continue;
        }
        for item in list_items(field.value.of(buf)) {
            if item.eq_ignore_ascii_case(b"close") {
                options.close = true;
            } else if item.eq_ignore_ascii_case(b"keep-alive") {
                options.keep_alive = true;
            } else if item.eq_ignore_ascii_case(b"upgrade") {
                options.upgrade = true;
            } else if nominations < NOMINATIONS_MAX {
                nominations += 1;
                fields.nominate(buf, item);
            }
        }
    }
    options
}

/// The number of fields that `Connection` may take along.
pub const NOMINATIONS_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::super::head::{HeadLimits, Parsed, RequestHead, parse_request};
    use super::*;

    fn scanned(fields: &str) -> (Options, Vec<String>) {
        let text = format!("GET / HTTP/1.1\r\n{fields}\r\n");
        let buf = text.as_bytes();
        let mut head = RequestHead::default();
        let parsed = parse_request(buf, &HeadLimits::default(), &mut head);
        assert_eq!(parsed, Ok(Parsed::Complete));
        let options = scan(buf, &mut head.fields);
        let names = head.fields.iter().filter(|field| field.is_hop_by_hop());
        let names = names
            .map(|f| String::from_utf8_lossy(f.name.of(buf)).into_owned())
            .collect();
        (options, names)
    }

    #[test]
    fn options_are_read_from_every_field() {
        let (options, _) = scanned("Connection: Keep-Alive\r\nConnection: foo, CLOSE ,\r\n");
        assert_eq!(
            options,
            Options {
                close: true,
                keep_alive: true,
                upgrade: false
            }
        );
        assert!(!options.persistent(Version::Http11));
        assert!(Options::default().persistent(Version::Http11));
        assert!(!Options::default().persistent(Version::Http10));
    }

    #[test]
    fn named_fields_are_for_the_hop() {
        let (_, hop) = scanned("X-A: 1\r\nConnection: x-a, x-b\r\nX-B: 2\r\nX-C: 3\r\nTE: x\r\n");
        assert_eq!(hop, ["X-A", "Connection", "X-B", "TE"]);
    }

    #[test]
    fn fields_for_everybody_cannot_be_named() {
        let (_, hop) =
            scanned("Host: a\r\nConnection: host, content-length, cookie\r\nCookie: c\r\n");
        assert_eq!(hop, ["Connection"]);
    }
}
