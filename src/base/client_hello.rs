//! What a TLS client says first: the name, the protocols and the version it asks for, read without
//! taking part in the handshake.
//!
//! Sources: RFC 8446 sections 4.1.2, 4.2 and 5.1; RFC 6066 section 3 (server name); RFC 7301
//! section 3.1 (ALPN); RFC 5246 appendix E.2 (the greeting of SSL 2).

use std::borrow::Cow;

/// How far the bytes at the start of a connection are understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed {
    /// It may be a ClientHello, and more bytes are needed.
    Partial,
    /// It is no ClientHello, or one that contradicts itself.
    NotHello(Flaw),
    /// A whole ClientHello.
    Hello(ClientHello),
}

/// Why bytes are no ClientHello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// They are of another version, or of something else than TLS.
    Version,
    /// A record or message of another kind, or an empty one.
    Unexpected,
    /// A record is longer than any may be.
    Overflow,
    /// A length in it does not fit.
    Damaged,
}

/// What a ClientHello asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The host name of the server name extension as it was sent; empty without one.
    pub server_name: Vec<u8>,
    /// The protocols of the ALPN extension, separated by commas; empty without one.
    pub alpn: Vec<u8>,
    /// The highest version the client offers, as on the wire (`3, 4` is TLS 1.3).
    pub version: [u8; 2],
}

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const RECORD_HEADER: usize = 5;
const MESSAGE_HEADER: usize = 4;

/// The longest record (RFC 8446, 5.1).
const RECORD_MAX: usize = 1 << 14;

const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const SUPPORTED_VERSIONS: u16 = 43;

const TLS_1_3: [u8; 2] = [3, 4];

/// Reads what a client has sent so far. The same bytes give the same answer however they arrived,
/// and an answer other than [`Parsed::Partial`] is not changed by what follows.
pub fn parse(input: &[u8]) -> Parsed {
    match message(input) {
        Ok(Some(Greeting::Ssl2(version))) => Parsed::Hello(ClientHello {
            version,
            ..ClientHello::default()
        }),
        Ok(Some(Greeting::Message(body))) => match hello(&body) {
            Some(hello) => Parsed::Hello(hello),
            None => Parsed::NotHello(Flaw::Damaged),
        },
        Ok(None) => Parsed::Partial,
        Err(flaw) => Parsed::NotHello(flaw),
    }
}

impl ClientHello {
    /// The name of the version as OpenSSL writes it; empty for one it has no name for.
    pub fn version_name(&self) -> &'static str {
        match self.version {
            [0, 2] => "SSLv2",
            [3, 0] => "SSLv3",
            [3, 1] => "TLSv1",
            [3, 2] => "TLSv1.1",
            [3, 3] => "TLSv1.2",
            TLS_1_3 => "TLSv1.3",
            _ => "",
        }
    }
}

enum Greeting<'a> {
    /// SSL 2's, with the version it asks for.
    Ssl2([u8; 2]),
    /// The body of the handshake message, out of one record or several.
    Message(Cow<'a, [u8]>),
}

/// Collects the first handshake message. `None`: it is not complete.
fn message(input: &[u8]) -> Result<Option<Greeting<'_>>, Flaw> {
    if input.first().is_some_and(|first| first & 0x80 != 0) {
        return ssl2(input);
    }
    let mut parts: Cow<[u8]> = Cow::Borrowed(&[]);
    let mut rest = input;
    loop {
        if rest.first().is_some_and(|kind| *kind != HANDSHAKE) {
            return Err(Flaw::Unexpected);
        }
        if rest.get(1).is_some_and(|major| *major != 3) {
            return Err(Flaw::Version);
        }
        let Some((header, body)) = rest.split_at_checked(RECORD_HEADER) else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        match length {
            0 => return Err(Flaw::Unexpected),
            1..=RECORD_MAX => {}
            _ => return Err(Flaw::Overflow),
        }
        let there = length.min(body.len());
        if parts.is_empty() {
            parts = Cow::Borrowed(&body[..there]);
        } else {
            parts.to_mut().extend_from_slice(&body[..there]);
        }
        if parts.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Err(Flaw::Unexpected);
        }
        if let Some(end) = message_end(&parts)
            && end <= parts.len()
        {
            let body = match parts {
                Cow::Borrowed(bytes) => Cow::Borrowed(&bytes[MESSAGE_HEADER..end]),
                Cow::Owned(bytes) => Cow::Owned(bytes[MESSAGE_HEADER..end].to_vec()),
            };
            return Ok(Some(Greeting::Message(body)));
        }
        if there < length {
            return Ok(None);
        }
        rest = &body[length..];
    }
}

/// Where a handshake message ends that begins with these bytes.
fn message_end(bytes: &[u8]) -> Option<usize> {
    let length = bytes.get(1..MESSAGE_HEADER)?;
    let length = u32::from_be_bytes([0, length[0], length[1], length[2]]);
    Some(MESSAGE_HEADER + length as usize)
}

fn ssl2(input: &[u8]) -> Result<Option<Greeting<'_>>, Flaw> {
    if input.get(2).is_some_and(|kind| *kind != CLIENT_HELLO) {
        return Err(Flaw::Unexpected);
    }
    if input.get(3).is_some_and(|major| ![0, 3].contains(major)) {
        return Err(Flaw::Version);
    }
    Ok(input
        .get(3..5)
        .map(|version| Greeting::Ssl2([version[0], version[1]])))
}

/// Reads the body of the message. `None`: a length in it does not fit.
fn hello(body: &[u8]) -> Option<ClientHello> {
    let mut rest = Reader(body);
    let version = rest.take(2)?;
    let mut hello = ClientHello {
        version: [version[0], version[1]],
        ..ClientHello::default()
    };
    rest.take(32)?;
    rest.vector_u8()?;
    rest.vector_u16()?;
    rest.vector_u8()?;
    if rest.0.is_empty() {
        return Some(hello);
    }
    // The length of all extensions says nothing that the message's own length did not say.
    rest.take(2)?;
    let (mut has_name, mut has_alpn) = (false, false);
    while !rest.0.is_empty() {
        let kind = rest.u16()?;
        let data = rest.vector_u16()?;
        match kind {
            SERVER_NAME if !has_name => {
                has_name = true;
                hello.server_name = server_name(data)?.to_vec();
            }
            ALPN if !has_alpn => {
                has_alpn = true;
                hello.alpn = protocols(data)?;
            }
            SUPPORTED_VERSIONS => hello.version = supported_version(data, hello.version)?,
            _ => {}
        }
    }
    Some(hello)
}

/// The first entry of the list, which must be a host name; RFC 6066 allows one name of each type.
fn server_name(data: &[u8]) -> Option<&[u8]> {
    let mut list = Reader(Reader(data).vector_u16()?);
    match list.take(1)? {
        [0] => list.vector_u16(),
        _ => None,
    }
}

fn protocols(data: &[u8]) -> Option<Vec<u8>> {
    let list = Reader(data).vector_u16()?;
    let mut rest = Reader(list);
    let mut out = Vec::with_capacity(list.len());
    loop {
        let name = rest.vector_u8().filter(|name| !name.is_empty())?;
        out.extend_from_slice(name);
        if rest.0.is_empty() {
            return Some(out);
        }
        out.push(b',');
    }
}

/// The highest version of the list that there is (a client may add made-up ones, RFC 8701).
fn supported_version(data: &[u8], legacy: [u8; 2]) -> Option<[u8; 2]> {
    let list = Reader(data).vector_u8()?;
    let known = list
        .chunks_exact(2)
        .map(|pair| [pair[0], pair[1]])
        .filter(|version| version[0] == 3 && *version <= TLS_1_3);
    Some(known.max().unwrap_or(legacy))
}

/// Takes pieces off the front; `None` where there is less than asked for.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (piece, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(piece)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)
            .map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// What follows a length of one byte.
    fn vector_u8(&mut self) -> Option<&'a [u8]> {
        let length = self.take(1)?[0];
        self.take(usize::from(length))
    }

    /// What follows a length of two bytes.
    fn vector_u16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn vector_u8(content: &[u8]) -> Vec<u8> {
        [&[content.len() as u8], content].concat()
    }

    fn vector_u16(content: &[u8]) -> Vec<u8> {
        [&(content.len() as u16).to_be_bytes(), content].concat()
    }

    fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &vector_u16(data)].concat()
    }

    fn server_name_extension(name: &[u8]) -> Vec<u8> {
        let entry = [&[0], &vector_u16(name)[..]].concat();
        extension(SERVER_NAME, &vector_u16(&entry))
    }

    fn alpn_extension(names: &[&[u8]]) -> Vec<u8> {
        let list: Vec<u8> = names.iter().flat_map(|name| vector_u8(name)).collect();
        extension(ALPN, &vector_u16(&list))
    }

    /// The handshake message with these extensions.
    fn hello_with(extensions: &[u8]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend_from_slice(&[7; 32]);
        body.extend_from_slice(&vector_u8(&[9; 32]));
        body.extend_from_slice(&vector_u16(&[0x13, 1, 0x13, 2]));
        body.extend_from_slice(&vector_u8(&[0]));
        body.extend_from_slice(&vector_u16(extensions));
        let length = (body.len() as u32).to_be_bytes();
        [&[CLIENT_HELLO], &length[1..], &body].concat()
    }

    /// The message in records of at most `size` bytes.
    fn records(message: &[u8], size: usize) -> Vec<u8> {
        let record = |part: &[u8]| [&[HANDSHAKE, 3, 1][..], &vector_u16(part)].concat();
        message.chunks(size).flat_map(record).collect()
    }

    fn full_hello() -> Vec<u8> {
        let extensions = [
            extension(0x2a2a, b""),
            server_name_extension(b"One.Example.com"),
            alpn_extension(&[b"h2", b"http/1.1"]),
            extension(
                SUPPORTED_VERSIONS,
                &vector_u8(&[0x7a, 0x7a, 3, 4, 3, 3, 0xfa, 0xfa]),
            ),
            extension(51, &[5; 80]),
        ];
        hello_with(&extensions.concat())
    }

    #[track_caller]
    fn understood(input: &[u8]) -> ClientHello {
        match parse(input) {
            Parsed::Hello(hello) => hello,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_hello_says_what_it_wants() {
        let hello = understood(&records(&full_hello(), 1 << 14));
        assert_eq!(hello.server_name, b"One.Example.com");
        assert_eq!(hello.alpn, b"h2,http/1.1");
        assert_eq!(hello.version_name(), "TLSv1.3");
    }

    #[test]
    fn without_extensions_there_is_a_version() {
        let mut message = hello_with(b"");
        message.truncate(message.len() - 2);
        message[3] -= 2;
        let hello = understood(&records(&message, 1 << 14));
        assert_eq!(
            (hello.version_name(), &*hello.server_name),
            ("TLSv1.2", &b""[..])
        );
        let older = extension(SUPPORTED_VERSIONS, &vector_u8(&[3, 1, 3, 2]));
        let hello = understood(&records(&hello_with(&older), 1 << 14));
        assert_eq!(hello.version_name(), "TLSv1.1");
    }

    #[test]
    fn ssl_2_greets_in_its_own_way() {
        assert_eq!(
            understood(&[0x80, 0x2e, 1, 3, 1, 0]).version_name(),
            "TLSv1"
        );
        assert_eq!(understood(&[0x80, 0x2e, 1, 0, 2]).version_name(), "SSLv2");
        assert_eq!(parse(&[0x80, 0x2e, 1, 3]), Parsed::Partial);
        let other = parse(&[0x80, 0x2e, 2]);
        assert_eq!(other, Parsed::NotHello(Flaw::Unexpected));
        let newer = parse(&[0x80, 0x2e, 1, 4]);
        assert_eq!(newer, Parsed::NotHello(Flaw::Version));
    }

    #[test]
    fn other_protocols_are_told_by_their_first_bytes() {
        for (other, flaw) in [
            (&b"SSH-2.0-OpenSSH_9.2\r\n"[..], Flaw::Unexpected),
            (b"GET / HTTP/1.1\r\n", Flaw::Unexpected),
            (b"P", Flaw::Unexpected),
            (b"\x16\x02", Flaw::Version),
            (b"\x16\x03\x01\x00\x05\x02", Flaw::Unexpected),
            (b"\x16\x03\x01\x00\x00", Flaw::Unexpected),
            (b"\x16\x03\x01\x40\x01", Flaw::Overflow),
            (b"\x15\x03\x01\x00\x02\x02\x28", Flaw::Unexpected),
        ] {
            let shown = other.escape_ascii();
            assert_eq!(parse(other), Parsed::NotHello(flaw), "{shown}");
        }
        assert_eq!(parse(b""), Parsed::Partial);
    }

    #[test]
    fn lengths_that_do_not_fit_are_no_hello() {
        let wrong_name = extension(SERVER_NAME, &[0, 9, 0, 0, 5, b'a']);
        let other_name = extension(SERVER_NAME, &vector_u16(&[1, 0, 1, b'a']));
        let no_protocol = extension(ALPN, &vector_u16(&[0]));
        let no_list = extension(ALPN, &vector_u16(&[]));
        for extensions in [wrong_name, other_name, no_protocol, no_list, vec![0, 0, 9]] {
            let input = records(&hello_with(&extensions), 1 << 14);
            let damaged = Parsed::NotHello(Flaw::Damaged);
            assert_eq!(parse(&input), damaged, "{extensions:?}");
        }
    }

    proptest! {
        #[test]
        fn any_cut_and_any_records_give_the_same_answer(
            name in proptest::collection::vec(any::<u8>(), 0..80),
            padding in 0..2_000usize,
            size in 1..600usize,
            cut in any::<prop::sample::Index>(),
        ) {
            let extensions = [
                extension(21, &vec![0; padding]),
                server_name_extension(&name),
                alpn_extension(&[b"h2"]),
            ];
            let input = records(&hello_with(&extensions.concat()), size);
            let whole = parse(&input);
            let expected = ClientHello {
                server_name: name,
                alpn: b"h2".to_vec(),
                version: [3, 3],
            };
            prop_assert_eq!(&whole, &Parsed::Hello(expected));
            let cut = cut.index(input.len());
            prop_assert_eq!(parse(&input[..cut]), Parsed::Partial);
            prop_assert_eq!(parse(&[&input[..], b"more"].concat()), whole);
        }

        #[test]
        fn damaged_bytes_never_panic_and_an_answer_stays(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            size in 1..600usize,
        ) {
            let mut input = records(&full_hello(), size);
            for (at, value) in changes {
                let at = at.index(input.len());
                input[at] = value;
            }
            answers_are_final(&input)?;
        }

        #[test]
        fn arbitrary_bytes_never_panic(input in proptest::collection::vec(any::<u8>(), 0..300)) {
            answers_are_final(&input)?;
            answers_are_final(&[&[HANDSHAKE, 3, 1][..], &input].concat())?;
            answers_are_final(&records(&hello_with(&input), 1 << 14))?;
        }
    }

    fn answers_are_final(input: &[u8]) -> Result<(), TestCaseError> {
        let mut last = Parsed::Partial;
        for end in 0..=input.len() {
            let now = parse(&input[..end]);
            if last != Parsed::Partial {
                prop_assert_eq!(&now, &last);
            }
            last = now;
        }
        Ok(())
    }
}
