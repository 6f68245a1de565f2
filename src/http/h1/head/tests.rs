use proptest::prelude::*;

use super::*;
use crate::http::token::Token;

fn request(text: &[u8]) -> Result<(Parsed, RequestHead), HeadError> {
    let mut head = RequestHead::default();
    parse_request(text, &HeadLimits::default(), &mut head).map(|parsed| (parsed, head))
}

fn whole(text: &[u8]) -> RequestHead {
    let (parsed, head) = request(text).unwrap();
    assert_eq!(parsed, Parsed::Complete);
    head
}

fn response(text: &[u8]) -> Result<(Parsed, ResponseHead), HeadError> {
    let mut head = ResponseHead::default();
    parse_response(text, &HeadLimits::response(4096), &mut head).map(|parsed| (parsed, head))
}

#[test]
fn a_request_is_indexed_where_it_lies() {
    let buf = b"\r\nPOST /a?b HTTP/1.0\r\nhost: x\r\nX-Empty:  \r\nCookie: a=b; c \t\r\nx_y: z\r\n\r\nBODY";
    let head = whole(buf);
    assert_eq!(head.method, Method::Post);
    assert_eq!(head.method_name.of(buf), b"POST");
    assert_eq!(head.target.of(buf), b"/a?b");
    assert_eq!(head.version, Version::Http10);
    assert_eq!(head.line.of(buf), b"POST /a?b HTTP/1.0");
    assert_eq!(&buf[head.len..], b"BODY");
    let fields = &head.fields;
    assert_eq!(fields.len(), 4);
    assert_eq!(fields.value(buf, Token::Host), Some(&b"x"[..]));
    assert_eq!(fields.value(buf, Token::Cookie), Some(&b"a=b; c"[..]));
    let empty = fields.iter().find(|field| field.name.of(buf) == b"X-Empty");
    assert_eq!(empty.unwrap().value.of(buf), b"");
    assert!(!fields.has(Token::Te) && fields.find(Token::Te).is_none());
    let ignored = |field: &&Field| field.is_ignored(true, false);
    assert_eq!(
        fields
            .iter()
            .filter(ignored)
            .map(|f| f.name.of(buf))
            .collect::<Vec<_>>(),
        [b"x_y"]
    );
    assert_eq!(
        fields
            .iter()
            .filter(|field| field.is_ignored(true, true))
            .count(),
        0
    );
}

#[test]
fn repeated_names_are_known_without_a_search() {
    let buf = b"GET / HTTP/1.1\r\nVia: a\r\nHost: a\r\nvia: b\r\nX: 1\r\nX: 2\r\n\r\n";
    let head = whole(buf);
    assert!(head.fields.repeated().contains(Token::Via));
    assert!(!head.fields.repeated().contains(Token::Host));
    let values: Vec<&[u8]> = head
        .fields
        .all(Token::Via)
        .map(|f| f.value.of(buf))
        .collect();
    assert_eq!(values, [b"a", b"b"]);
}

#[test]
fn odd_requests_that_are_sound() {
    let buf = b"GET /\xe9\xff HTTP/1.1\r\nA: \xe9\r\n\r\n";
    assert_eq!(whole(buf).target.of(buf), b"/\xe9\xff");
    let buf = b"GET / HTTP/1.7\r\nA!#: b\r\n\r\n";
    let head = whole(buf);
    assert_eq!(head.version, Version::Http11);
    assert!(head.fields.as_slice()[0].is_ignored(true, true));
    let buf = b"VERSION-CONTROL * HTTP/1.1\r\n\r\n";
    assert_eq!(whole(buf).method_name.of(buf), b"VERSION-CONTROL");
    // Latin-1 in the target must not hide a fault further on.
    assert!(request(b"GET /\xe9 HTTP/1.1\r\nA : b\r\n\r\n").is_err());
    assert!(request(b"GET /\xe9 HTTP/1.1\n\r\n").is_err());
}

/// What is wrong, the status, the log line without its context.
const BAD_REQUESTS: &[(&[u8], HeadFault, u16)] = &[
    (b"\nGET / HTTP/1.1\r\n\r\n", HeadFault::RequestLine, 400),
    (b"\r\rGET / HTTP/1.1\r\n\r\n", HeadFault::RequestLine, 400),
    (
        b"\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        HeadFault::RequestLine,
        400,
    ),
    (b" GET / HTTP/1.1\r\n\r\n", HeadFault::Method, 400),
    (b"get / HTTP/1.1\r\n\r\n", HeadFault::Method, 400),
    (b"G3T / HTTP/1.1\r\n\r\n", HeadFault::Method, 400),
    (b"G\0T / HTTP/1.1\r\n\r\n", HeadFault::Method, 400),
    (b"\x16\x03\x01\x00\xf0", HeadFault::Method, 400),
    (b"GET\t/ HTTP/1.1\r\n\r\n", HeadFault::Method, 400),
    (b"GET  / HTTP/1.1\r\n\r\n", HeadFault::RequestLine, 400),
    (b"GET /  HTTP/1.1\r\n\r\n", HeadFault::RequestLine, 400),
    (b"GET / HTTP/1.1 \r\n\r\n", HeadFault::RequestLine, 400),
    (b"GET / HTTP/1.1\t\r\n\r\n", HeadFault::RequestLine, 400),
    (b"GET / HTTP/1.1\n\r\n", HeadFault::RequestLine, 400),
    (b"GET / HTTP/1.1\rX\r\n\r\n", HeadFault::RequestLine, 400),
    (b"GET /a b HTTP/1.1\r\n\r\n", HeadFault::RequestLine, 400),
    (b"GET /a\x7f HTTP/1.1\r\n\r\n", HeadFault::RequestLine, 400),
    (b"GET /a\0 HTTP/1.1\r\n\r\n", HeadFault::RequestLine, 400),
    (b"GET /a\t HTTP/1.1\r\n\r\n", HeadFault::RequestLine, 400),
    (b"GET /\r\n\r\n", HeadFault::RequestLine, 400),
    (b"GET / \r\n\r\n", HeadFault::RequestLine, 400),
    (b"GET\r\n\r\n", HeadFault::Method, 400),
    (b"GET / http/1.1\r\n\r\n", HeadFault::RequestLine, 400),
    (b"GET / HTTP/0.9\r\n\r\n", HeadFault::RequestLine, 400),
    (b"GET / HTTP/1.10\r\n\r\n", HeadFault::RequestLine, 400),
    (b"GET / HTTP/1,1\r\n\r\n", HeadFault::RequestLine, 400),
    (b"GET / HTTPS/1.1\r\n\r\n", HeadFault::RequestLine, 400),
    (b"GET / HTTP/1.\xb2\r\n\r\n", HeadFault::RequestLine, 400),
    (b"GET / HTTP/2.0\r\n\r\n", HeadFault::Version, 505),
    (b"GET / HTTP/3.7\r\n\r\n", HeadFault::Version, 505),
    (b"GET / HTTP/1.1\r\nA: b\n\r\n", HeadFault::FieldLine, 400),
    (b"GET / HTTP/1.1\r\nA: b \n\r\n", HeadFault::FieldLine, 400),
    (b"GET / HTTP/1.1\r\nA:\n\r\n", HeadFault::FieldLine, 400),
    (b"GET / HTTP/1.1\r\nA: b\r\n\n", HeadFault::FieldLine, 400),
    (b"GET / HTTP/1.1\r\nA: b\r\n\rX", HeadFault::FieldLine, 400),
    (
        b"GET / HTTP/1.1\r\nA: b\rc\r\n\r\n",
        HeadFault::FieldLine,
        400,
    ),
    (
        b"GET / HTTP/1.1\r\nA: b\r\r\n\r\n",
        HeadFault::FieldLine,
        400,
    ),
    (
        b"GET / HTTP/1.1\r\nA: b\0c\r\n\r\n",
        HeadFault::FieldLine,
        400,
    ),
    (
        b"GET / HTTP/1.1\r\nA: b\x01\r\n\r\n",
        HeadFault::FieldLine,
        400,
    ),
    (
        b"GET / HTTP/1.1\r\nA: b\x7f\r\n\r\n",
        HeadFault::FieldLine,
        400,
    ),
    (
        b"GET / HTTP/1.1\r\nA: b\x0b\r\n\r\n",
        HeadFault::FieldLine,
        400,
    ),
    (
        b"GET / HTTP/1.1\r\nA : b\r\n\r\n",
        HeadFault::FieldLine,
        400,
    ),
    (
        b"GET / HTTP/1.1\r\nA\t: b\r\n\r\n",
        HeadFault::FieldLine,
        400,
    ),
    (
        b"GET / HTTP/1.1\r\nA B: c\r\n\r\n",
        HeadFault::FieldLine,
        400,
    ),
    (b"GET / HTTP/1.1\r\n: b\r\n\r\n", HeadFault::FieldLine, 400),
    (b"GET / HTTP/1.1\r\nA\r\n\r\n", HeadFault::FieldLine, 400),
    (
        b"GET / HTTP/1.1\r\n A: b\r\n\r\n",
        HeadFault::FieldLine,
        400,
    ),
    (
        b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
        HeadFault::FieldLine,
        400,
    ),
    (
        b"GET / HTTP/1.1\r\nA: b\r\n\tc\r\n\r\n",
        HeadFault::FieldLine,
        400,
    ),
    (
        b"GET / HTTP/1.1\r\nA@B: c\r\n\r\n",
        HeadFault::FieldLine,
        400,
    ),
    (
        b"GET / HTTP/1.1\r\n\xc3\xa9: c\r\n\r\n",
        HeadFault::FieldLine,
        400,
    ),
    (
        b"GET / HTTP/1.1\r\nA\0B: c\r\n\r\n",
        HeadFault::FieldLine,
        400,
    ),
    (
        b"GET / HTTP/1.1\r\n\0A: c\r\n\r\n",
        HeadFault::FieldLine,
        400,
    ),
    (
        b"GET / HTTP/1.1\r\n\"A\": c\r\n\r\n",
        HeadFault::FieldLine,
        400,
    ),
];

#[test]
fn malformed_requests_are_refused_with_a_reason() {
    for &(text, fault, status) in BAD_REQUESTS {
        let shown = String::from_utf8_lossy(text);
        let error = request(text).map(|(parsed, _)| parsed).expect_err(&shown);
        assert_eq!((error.fault, error.status()), (fault, status), "{shown:?}");
        assert!(
            error.client_message(text).starts_with("client sent "),
            "{shown:?}"
        );
    }
}

#[test]
fn the_log_shows_the_line_at_fault() {
    let text = b"GET / HTTP/1.1\r\nHost: a\r\nX-A : b\r\n\r\n";
    assert_eq!(
        request(text).unwrap_err().client_message(text),
        "client sent invalid header line: \"X-A : b\\x0d\" while reading client request headers"
    );
}

#[test]
fn every_start_of_a_request_wants_more() {
    let text = b"\r\nGET /a HTTP/1.1\r\nHost: a\r\nA: b\r\n\r\n";
    let mut grown = RequestHead::default();
    for end in 0..text.len() {
        let (parsed, _) = request(&text[..end]).unwrap();
        assert_eq!(parsed, Parsed::Partial, "{end}");
        let parsed = parse_request(&text[..end], &HeadLimits::default(), &mut grown);
        assert_eq!(parsed, Ok(Parsed::Partial), "{end}");
    }
    let parsed = parse_request(text, &HeadLimits::default(), &mut grown);
    assert_eq!(parsed, Ok(Parsed::Complete));
    assert_eq!((grown.len, grown.fields.len()), (text.len(), 2));
}

#[test]
fn long_request_lines_are_414_to_the_byte() {
    for (len, complete) in [(8192, true), (8193, false)] {
        let target = "a".repeat(len - "GET / HTTP/1.1\r\n".len());
        let text = format!("GET /{target} HTTP/1.1\r\n\r\n");
        let result = request(text.as_bytes()).map(|(parsed, _)| parsed);
        if complete {
            assert_eq!(result, Ok(Parsed::Complete));
        } else {
            assert_eq!(result.unwrap_err().status(), 414);
        }
    }
    let unfinished = format!("GET /{}", "a".repeat(8192));
    assert_eq!(request(unfinished.as_bytes()).unwrap_err().status(), 414);
    assert_eq!(
        request(&unfinished.as_bytes()[..8191]).unwrap().0,
        Parsed::Partial
    );
}

#[test]
fn long_fields_and_heads_are_494() {
    let line = |len: usize| format!("X: {}\r\n", "a".repeat(len - 5));
    let text = |lines: &str| format!("GET / HTTP/1.1\r\n{lines}\r\n").into_bytes();
    assert!(request(&text(&line(8192))).is_ok());
    let error = request(&text(&line(8193))).unwrap_err();
    assert_eq!((error.fault, error.status()), (HeadFault::LineTooLong, 494));
    let unfinished = text(&line(9000));
    assert_eq!(
        request(&unfinished[..8300]).unwrap_err().fault,
        HeadFault::LineTooLong
    );

    assert!(request(&text(&line(8000).repeat(4))).is_ok());
    let large = text(&line(7000).repeat(5));
    let error = request(&large).unwrap_err();
    assert_eq!((error.fault, error.status()), (HeadFault::TooLarge, 494));
    assert_eq!(
        request(&large[..34000]).unwrap_err().fault,
        HeadFault::TooLarge
    );
}

#[test]
fn many_fields_are_bounded() {
    let text = |count: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(count));
    for count in [FIELDS_USUAL, FIELDS_USUAL + 1, 1000] {
        assert_eq!(whole(text(count).as_bytes()).fields.len(), count);
    }
    for count in [1001, FIELDS_MAX + 1, 3000] {
        let error = request(text(count).as_bytes()).unwrap_err();
        assert_eq!(
            (error.fault, error.status()),
            (HeadFault::TooManyFields, 400),
            "{count}"
        );
    }
}

#[test]
fn responses_are_indexed() {
    let buf = b"HTTP/1.1 200 Very \xe9 fine\r\nServer: x\r\n\r\nrest";
    let (parsed, head) = response(buf).unwrap();
    assert_eq!(parsed, Parsed::Complete);
    assert_eq!((head.status, head.version), (200, Version::Http11));
    assert_eq!(head.reason.of(buf), b"Very \xe9 fine");
    assert_eq!(head.fields.value(buf, Token::Server), Some(&b"x"[..]));
    assert_eq!(&buf[head.len..], b"rest");
    for (text, status, reason) in [
        (&b"HTTP/1.0 999 LinkedIn\n\n"[..], 999, &b"LinkedIn"[..]),
        (b"HTTP/1.1 204\r\n\r\n", 204, b""),
        (b"HTTP/1.1 204 \r\n\r\n", 204, b""),
        (b"HTTP/1.1 200 OK\nA: b\nC: d \r\n\n", 200, b"OK"),
    ] {
        let (parsed, head) = response(text).unwrap();
        assert_eq!(
            (parsed, head.status, head.reason.of(text)),
            (Parsed::Complete, status, reason)
        );
    }
}

#[test]
fn responses_in_doubt_are_refused() {
    let cases: &[&[u8]] = &[
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 099 X\r\n\r\n",
        b"HTTP/1.1 000 X\r\n\r\n",
        b"HTTP/1.1 +20 X\r\n\r\n",
        b"HTTP/1.1 0x2 X\r\n\r\n",
        b"HTTP/1.1  200 X\r\n\r\n",
        b"HTTP/1.1\t200 X\r\n\r\n",
        b"HTTP/2.0 200 X\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"http/1.1 200 X\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b" HTTP/1.1 200 X\r\n\r\n",
        b"<html>",
        b"HTTP/1.1 200 O\0K\r\n\r\n",
        b"HTTP/1.1 200 O\rK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: \0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA\r\n\r\n",
    ];
    for text in cases {
        let error = response(text).map(|(parsed, _)| parsed);
        let error = error.expect_err(&String::from_utf8_lossy(text));
        assert!(error.upstream_message(text).starts_with("upstream sent "));
    }
    let large = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "a".repeat(4096));
    let error = response(large.as_bytes()).unwrap_err();
    assert_eq!(
        error.upstream_message(large.as_bytes()),
        "upstream sent too big header"
    );
    assert!(response(&large.as_bytes()[..4096]).is_err());
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = request(&bytes);
        let _ = response(&bytes);
    }

    #[test]
    fn near_requests_do_not_panic_and_accepted_ones_are_strict(
        pieces in prop::collection::vec(prop::sample::select(&[
            "GET", " ", "/", "HTTP/1.1", "HTTP/1.0", "\r\n", "\n", "\r", "A", ":", ": ", "b", "\t",
            "\u{e9}", "\0", "Host: a\r\n", "GET / HTTP/1.1\r\n", "\r\n\r\n",
        ][..]), 0..16),
    ) {
        let text = pieces.concat().into_bytes();
        if let Ok((Parsed::Complete, head)) = request(&text) {
            let bytes = &text[..head.len];
            prop_assert!(bytes.ends_with(b"\r\n"));
            for (index, byte) in bytes.iter().enumerate() {
                match byte {
                    b'\n' => prop_assert_eq!(bytes[index - 1], b'\r'),
                    b'\r' => prop_assert_eq!(bytes[index + 1], b'\n'),
                    0 => prop_assert!(false),
                    _ => {}
                }
            }
        }
        if let Err(error) = request(&text) {
            prop_assert!(!error.client_message(&text).is_empty());
        }
        if let Err(error) = response(&text) {
            prop_assert!(!error.upstream_message(&text).is_empty());
        }
    }

    #[test]
    fn growing_and_whole_heads_agree(
        names in prop::collection::vec("[A-Za-z][A-Za-z-]{0,9}", 0..6),
        cut in prop::collection::vec(1usize..40, 1..40),
    ) {
        let fields: String = names.iter().map(|name| format!("{name}: value\r\n")).collect();
        let text = format!("GET /x HTTP/1.1\r\n{fields}\r\n").into_bytes();
        let expected = whole(&text);
        let mut head = RequestHead::default();
        let mut end = 0;
        for step in cut.iter().chain(std::iter::repeat(&7)) {
            end = (end + step).min(text.len());
            let parsed = parse_request(&text[..end], &HeadLimits::default(), &mut head).unwrap();
            prop_assert_eq!(parsed == Parsed::Complete, end == text.len());
            if end == text.len() {
                break;
            }
        }
        prop_assert_eq!(head.len, expected.len);
        prop_assert_eq!(head.fields.as_slice(), expected.fields.as_slice());
    }
}
