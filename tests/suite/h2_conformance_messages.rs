//! RFC 9113: 8 (HTTP in HTTP/2). What is malformed must not reach a backend.

use crate::common::frames::{Check, Fields, H2, code::*, equal, flag::*};
use crate::common::hpack::{self, squeezed};
use crate::h2_conformance::{Case, Over, run};

#[test]
fn over_tcp() {
    run(Over::Tcp, CASES);
}

#[test]
fn over_tls() {
    run(Over::Tls, CASES);
}

const CASES: &[Case] = &[
    ("8.1 a request with a body and trailers", |c| {
        c.post(1, "/");
        c.data(1, 0, b"body");
        c.headers(1, WHOLE, &vec![(b"x-a".to_vec(), b"b".to_vec())]);
        equal("body", c.answer(1)?.text().contains("\r\n\r\nbody"), true)
    }),
    ("8.1 malformed: trailers without END_STREAM", |c| {
        c.post(1, "/");
        c.data(1, 0, b"body");
        c.headers(1, END_HEADERS, &vec![(b"x-a".to_vec(), b"b".to_vec())]);
        c.malformed(1)
    }),
    ("8.1 malformed: a second request on a stream", |c| {
        c.post(1, "/");
        c.post(1, "/");
        c.malformed(1)
    }),
    ("8.1 malformed: pseudo-header fields in trailers", |c| {
        c.post(1, "/");
        c.data(1, 0, b"body");
        c.headers(1, WHOLE, &vec![(b":method".to_vec(), b"GET".to_vec())]);
        c.malformed(1)
    }),
    (
        "8.1 malformed: an unknown pseudo-header field in trailers",
        |c| {
            c.post(1, "/");
            c.headers(1, WHOLE, &vec![(b":x".to_vec(), b"GET".to_vec())]);
            c.malformed(1)
        },
    ),
    ("8.1 malformed: a connection's field in trailers", |c| {
        c.post(1, "/");
        c.headers(1, WHOLE, &vec![(b"connection".to_vec(), b"close".to_vec())]);
        c.malformed(1)
    }),
    ("8.1 an answer before the body has come", |c| {
        c.post(1, "/ok");
        c.status(1, 200)?;
        c.data(1, END_STREAM, b"body");
        c.alive()?;
        c.serves()
    }),
    ("8.1 HEAD is answered without DATA", |c| {
        c.headers(1, WHOLE, &c.request("HEAD", "/big", &[]));
        let answer = c.answer(1)?;
        equal("length", answer.field("content-length"), Some("200000"))?;
        equal("body", answer.body.len(), 0)
    }),
    ("8.1 Expect is answered", |c| {
        c.headers(
            1,
            END_HEADERS,
            &c.request("POST", "/", &[("expect", "100-continue")]),
        );
        // Either an interim answer, or none: the body may be sent anyway.
        c.alive()?;
        c.data(1, END_STREAM, b"body");
        c.status(1, 200)
    }),
    ("8.1.1 malformed: more DATA than content-length", |c| {
        length(c, "3", &["bo", "dy"])
    }),
    ("8.1.1 malformed: less DATA than content-length", |c| {
        length(c, "5", &["bo", "dy"])
    }),
    ("8.1.1 malformed: content-length and an empty DATA", |c| {
        length(c, "5", &[""])
    }),
    ("8.1.1 malformed: content-length of 0 and DATA", |c| {
        length(c, "0", &["body"])
    }),
    ("8.1.1 malformed: a negative content-length", |c| {
        length(c, "-4", &["body"])
    }),
    ("8.1.1 malformed: a content-length with a sign", |c| {
        length(c, "+4", &["body"])
    }),
    ("8.1.1 malformed: a content-length in hex", |c| {
        length(c, "0x4", &["body"])
    }),
    ("8.1.1 malformed: a list of lengths", |c| {
        length(c, "4, 4", &["body"])
    }),
    ("8.1.1 malformed: an empty content-length", |c| {
        length(c, "", &["body"])
    }),
    ("8.1.1 malformed: a content-length beyond 64 bits", |c| {
        length(c, "18446744073709551620", &["body"])
    }),
    ("8.1.1 malformed: two lengths", |c| {
        let more = [("content-length", "4"), ("content-length", "5")];
        c.headers(1, END_HEADERS, &c.request("POST", "/", &more));
        c.data(1, END_STREAM, b"body");
        c.malformed(1)
    }),
    ("8.1.1 malformed: content-length without DATA", |c| {
        add(c, "content-length", "4")
    }),
    (
        "8.1.1 malformed: content-length not reached before trailers",
        |c| {
            c.headers(
                1,
                END_HEADERS,
                &c.request("POST", "/", &[("content-length", "5")]),
            );
            c.data(1, 0, b"body");
            c.headers(1, WHOLE, &vec![(b"x-a".to_vec(), b"b".to_vec())]);
            c.malformed(1)
        },
    ),
    ("8.1.1 content-length as it is", |c| {
        c.headers(
            1,
            END_HEADERS,
            &c.request("POST", "/", &[("content-length", "4")]),
        );
        c.data(1, 0, b"bo");
        c.data(1, PADDED, b"\x03d\0\0\0");
        c.data(1, END_STREAM, b"y");
        equal("body", c.answer(1)?.text().ends_with("\r\n\r\nbody"), true)
    }),
    ("8.2.1 malformed: an upper-case name", |c| {
        add(c, "x-Upper", "v")
    }),
    (
        "8.2.1 malformed: an upper-case name in Huffman's code",
        |c| {
            let block = hpack::block(&c.request("GET", "/", &[]));
            let field = [vec![0], squeezed(b"X-a"), squeezed(b"v")].concat();
            c.block(1, WHOLE, &[block, field].concat());
            c.malformed(1)
        },
    ),
    ("8.2.1 malformed: a blank in a name", |c| add(c, "x a", "v")),
    ("8.2.1 malformed: a blank at the end of a name", |c| {
        add(c, "content-length ", "4")
    }),
    ("8.2.1 malformed: a colon in a name", |c| add(c, "x:a", "v")),
    ("8.2.1 malformed: a line feed in a name", |c| {
        add(c, "x\na", "v")
    }),
    ("8.2.1 malformed: a carriage return in a name", |c| {
        add(c, "x\r\na", "v")
    }),
    ("8.2.1 malformed: NUL in a name", |c| add(c, "x\0a", "v")),
    ("8.2.1 malformed: DEL in a name", |c| add(c, "x\x7fa", "v")),
    ("8.2.1 malformed: a name beyond ASCII", |c| {
        add(c, "x-ä", "v")
    }),
    ("8.2.1 malformed: no name", |c| add(c, "", "v")),
    ("8.2.1 malformed: NUL in a value", |c| add(c, "x-a", "a\0b")),
    ("8.2.1 malformed: a line feed in a value", |c| {
        add(c, "x-a", "a\nb")
    }),
    ("8.2.1 malformed: a carriage return in a value", |c| {
        add(c, "x-a", "a\rb")
    }),
    ("8.2.1 malformed: a request in a value", |c| {
        add(
            c,
            "x-a",
            "a\r\n\r\nGET /admin HTTP/1.1\r\nhost: localhost\r\n",
        )
    }),
    ("8.2.1 malformed: a line feed at a value's end", |c| {
        add(c, "x-a", "a\n")
    }),
    ("8.2.1 malformed: a blank before a value", |c| {
        add(c, "x-a", " a")
    }),
    ("8.2.1 malformed: a blank after a value", |c| {
        add(c, "x-a", "a ")
    }),
    ("8.2.1 malformed: a tab before a value", |c| {
        add(c, "x-a", "\ta")
    }),
    ("8.2.1 malformed: a tab after a value", |c| {
        add(c, "x-a", "a\t")
    }),
    ("8.2.1 an empty value, and blanks within one", |c| {
        c.headers(
            1,
            WHOLE,
            &c.request("GET", "/", &[("x-a", ""), ("x-b", "a \tb")]),
        );
        let text = c.answer(1)?.text();
        equal(
            "there",
            text.contains("x-b: a \tb\r\n") && text.contains("x-a:"),
            true,
        )
    }),
    ("8.2.2 malformed: connection", |c| {
        add(c, "connection", "keep-alive")
    }),
    ("8.2.2 malformed: proxy-connection", |c| {
        add(c, "proxy-connection", "keep-alive")
    }),
    ("8.2.2 malformed: keep-alive", |c| {
        add(c, "keep-alive", "timeout=5")
    }),
    ("8.2.2 malformed: transfer-encoding", |c| {
        add(c, "transfer-encoding", "chunked")
    }),
    ("8.2.2 malformed: upgrade", |c| {
        add(c, "upgrade", "websocket")
    }),
    ("8.2.2 malformed: te other than trailers", |c| {
        add(c, "te", "gzip, trailers")
    }),
    ("8.2.2 te: trailers", |c| {
        c.headers(1, WHOLE, &c.request("GET", "/", &[("te", "trailers")]));
        c.status(1, 200)
    }),
    ("8.2.2 malformed: transfer-encoding with a body", |c| {
        let more = [("transfer-encoding", "chunked"), ("content-length", "4")];
        c.headers(1, END_HEADERS, &c.request("POST", "/", &more));
        c.data(1, END_STREAM, b"0\r\n\r\n");
        c.malformed(1)
    }),
    ("8.2.3 pieces of a cookie are joined", |c| {
        let more = [
            ("cookie", "a=b"),
            ("x-a", "1"),
            ("cookie", "c=d"),
            ("cookie", "e=f"),
        ];
        c.headers(1, WHOLE, &c.request("GET", "/", &more));
        let text = c.answer(1)?.text().to_lowercase();
        equal(
            "cookie",
            text.contains("\r\ncookie: a=b; c=d; e=f\r\n"),
            true,
        )
    }),
    ("8.3 malformed: an unknown pseudo-header field", |c| {
        first(c, ":x", "v")
    }),
    ("8.3 malformed: a pseudo-header field of answers", |c| {
        first(c, ":status", "200")
    }),
    ("8.3 malformed: an empty pseudo-header name", |c| {
        first(c, ":", "v")
    }),
    ("8.3 malformed: a pseudo-header field after others", |c| {
        let mut fields = c.request("GET", "/", &[]);
        fields.insert(3, (b"x-a".to_vec(), b"v".to_vec()));
        whole(c, fields)
    }),
    ("8.3 malformed: no :method", |c| without(c, ":method")),
    ("8.3 malformed: no :scheme", |c| without(c, ":scheme")),
    ("8.3 malformed: no :path", |c| without(c, ":path")),
    ("8.3 malformed: no :path and no :authority", |c| {
        let mut fields = c.request("GET", "/", &[]);
        fields.truncate(2);
        whole(c, fields)
    }),
    ("8.3 malformed: no fields", |c| whole(c, Vec::new())),
    ("8.3 malformed: two :method", |c| first(c, ":method", "GET")),
    ("8.3 malformed: two :scheme", |c| {
        first(c, ":scheme", "http")
    }),
    ("8.3 malformed: two :path", |c| first(c, ":path", "/")),
    ("8.3 malformed: two :authority", |c| {
        first(c, ":authority", "localhost")
    }),
    ("8.3.1 malformed: an empty :path", |c| {
        replace(c, ":path", "")
    }),
    ("8.3.1 malformed: a :path without a slash", |c| {
        replace(c, ":path", "path")
    }),
    ("8.3.1 malformed: a whole URI as :path", |c| {
        replace(c, ":path", "http://localhost/")
    }),
    ("8.3.1 malformed: a blank in :path", |c| {
        replace(c, ":path", "/a b")
    }),
    ("8.3.1 malformed: a line feed in :path", |c| {
        replace(c, ":path", "/a\r\nx: y")
    }),
    ("8.3.1 malformed: NUL in :path", |c| {
        replace(c, ":path", "/a\0b")
    }),
    ("8.3.1 malformed: a request line in :path", |c| {
        replace(c, ":path", "/ HTTP/1.1\r\nhost: localhost\r\n\r\n")
    }),
    ("8.3.1 malformed: * as :path of GET", |c| {
        replace(c, ":path", "*")
    }),
    ("8.3.1 malformed: an empty :method", |c| {
        replace(c, ":method", "")
    }),
    ("8.3.1 malformed: a blank in :method", |c| {
        replace(c, ":method", "GET /admin")
    }),
    ("8.3.1 malformed: a line feed in :method", |c| {
        replace(c, ":method", "GET\r\n")
    }),
    ("8.3.1 malformed: an empty :scheme", |c| {
        replace(c, ":scheme", "")
    }),
    ("8.3.1 malformed: a :scheme that is none", |c| {
        replace(c, ":scheme", "http://a/")
    }),
    ("8.3.1 malformed: userinfo in :authority", |c| {
        replace(c, ":authority", "user@localhost")
    }),
    ("8.3.1 malformed: a blank in :authority", |c| {
        replace(c, ":authority", "local host")
    }),
    ("8.3.1 malformed: a line feed in :authority", |c| {
        replace(c, ":authority", "a\r\nx: y")
    }),
    ("8.3.1 malformed: a path in :authority", |c| {
        replace(c, ":authority", "localhost/admin")
    }),
    ("8.3.1 malformed: another host than :authority", |c| {
        add(c, "host", "other")
    }),
    ("8.3.1 malformed: two hosts", |c| {
        let mut fields = c.request("GET", "/", &[("host", "localhost"), ("host", "other")]);
        fields.remove(3);
        whole(c, fields)
    }),
    ("8.3.1 the same host as :authority", |c| {
        c.headers(1, WHOLE, &c.request("GET", "/", &[("host", "localhost")]));
        let text = c.answer(1)?.text().to_lowercase();
        equal("host fields", text.matches("\r\nhost:").count(), 1)
    }),
    ("8.3.1 a host in place of :authority", |c| {
        let mut fields = c.request("GET", "/", &[("host", "localhost")]);
        fields.remove(3);
        c.headers(1, WHOLE, &fields);
        c.status(1, 200)
    }),
    ("8.3.1 OPTIONS *", |c| {
        let fields = c.request("OPTIONS", "*", &[]);
        c.headers(1, WHOLE, &fields);
        // Whatever the server makes of it, it is no error of the protocol.
        c.answer(1).map(drop)
    }),
    ("8.5 CONNECT is not for everybody", |c| {
        let fields = vec![
            pair(":method", "CONNECT"),
            pair(":authority", "localhost:1"),
        ];
        c.headers(1, END_HEADERS, &fields);
        let answer = c.wait("an answer", |c| {
            let s = &c.streams[&1];
            (s.ended || s.reset.is_some()).then(|| s.clone())
        })?;
        equal("refused", matches!(answer.status(), 0 | 400 | 405), true)?;
        c.alive()
    }),
    ("8.5 malformed: CONNECT with :path", |c| {
        whole(c, c.request("CONNECT", "/", &[]))
    }),
    ("8.5 malformed: CONNECT without :authority", |c| {
        whole(c, vec![pair(":method", "CONNECT")])
    }),
    ("8441 4 malformed: :protocol without CONNECT", |c| {
        first(c, ":protocol", "websocket")
    }),
    ("10.5.1 a list of fields that is too large", |c| {
        let value = "v".repeat(1_000);
        let names: Vec<String> = (0..60).map(|at| format!("x-{at}")).collect();
        let more: Vec<_> = names
            .iter()
            .map(|name| (name.as_str(), value.as_str()))
            .collect();
        refused_for_size(c, &more)
    }),
    ("10.5.1 a field that is too large", |c| {
        let value = "v".repeat(40_000);
        refused_for_size(c, &[("x-a", &value)])
    }),
];

fn pair(name: &str, value: &str) -> (Vec<u8>, Vec<u8>) {
    (name.into(), value.into())
}

/// A request of these fields.
fn whole(c: &mut H2, fields: Fields) -> Check {
    c.headers(1, WHOLE, &fields);
    c.malformed(1)
}

/// A request with one more field.
fn add(c: &mut H2, name: &str, value: &str) -> Check {
    whole(c, c.request("GET", "/", &[(name, value)]))
}

/// A request with one more field behind the pseudo-header fields.
fn first(c: &mut H2, name: &str, value: &str) -> Check {
    let mut fields = c.request("GET", "/", &[("x-a", "v")]);
    fields.insert(4, pair(name, value));
    whole(c, fields)
}

fn without(c: &mut H2, name: &str) -> Check {
    let mut fields = c.request("GET", "/", &[]);
    fields.retain(|field| field.0 != name.as_bytes());
    whole(c, fields)
}

fn replace(c: &mut H2, name: &str, value: &str) -> Check {
    let mut fields = c.request("GET", "/", &[]);
    let field = fields.iter_mut().find(|field| field.0 == name.as_bytes());
    field.unwrap().1 = value.into();
    whole(c, fields)
}

/// A body in these pieces, with this content-length.
fn length(c: &mut H2, length: &str, pieces: &[&str]) -> Check {
    c.headers(
        1,
        END_HEADERS,
        &c.request("POST", "/", &[("content-length", length)]),
    );
    for (at, piece) in pieces.iter().enumerate() {
        let last = if at + 1 == pieces.len() {
            END_STREAM
        } else {
            0
        };
        c.data(1, last, piece.as_bytes());
    }
    c.malformed(1)
}

/// 4xx, or an error that says why.
fn refused_for_size(c: &mut H2, more: &[(&str, &str)]) -> Check {
    let block = hpack::block(&c.request("GET", "/", more));
    let pieces: Vec<_> = block.chunks(16_384).collect();
    for (at, piece) in pieces.iter().enumerate() {
        let flags = if at + 1 == pieces.len() {
            END_HEADERS
        } else {
            0
        };
        match at {
            0 => c.block(1, flags | END_STREAM, piece),
            _ => c.frame(crate::common::frames::kind::CONTINUATION, flags, 1, piece),
        }
    }
    let found = c.wait("an answer", |c| {
        let s = &c.streams[&1];
        (s.ended || s.reset.is_some()).then(|| s.status())
    });
    match found {
        Ok(400 | 431) => c.alive(),
        Ok(0) => c.stream_error(1, &[ENHANCE_YOUR_CALM, PROTOCOL_ERROR]),
        Ok(status) => Err(format!("answered with {status}")),
        Err(_) => c.connection_error(&[ENHANCE_YOUR_CALM, PROTOCOL_ERROR, COMPRESSION_ERROR]),
    }
}
