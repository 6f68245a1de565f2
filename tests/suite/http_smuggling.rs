//! Messages whose length or meaning two parsers could read differently are refused.

use crate::common::*;

/// The request as sent, and whether nginx 1.22 refuses it too.
struct Case {
    name: &'static str,
    bytes: &'static [u8],
    nginx_too: bool,
}

/// Refused by nginx as well.
const fn both(name: &'static str, bytes: &'static [u8]) -> Case {
    Case {
        name,
        bytes,
        nginx_too: true,
    }
}

/// Stricter than nginx 1.22.
const fn ours(name: &'static str, bytes: &'static [u8]) -> Case {
    Case {
        name,
        bytes,
        nginx_too: false,
    }
}

const CASES: &[Case] = &[
    // Lengths.
    both(
        "CL and TE",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\
      Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    both(
        "TE and CL",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\
      Content-Length: 3\r\n\r\n0\r\n\r\n",
    ),
    both(
        "two different CL",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\
      Content-Length: 4\r\n\r\nabcd",
    ),
    both(
        "two equal CL",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\
      Content-Length: 3\r\n\r\nabc",
    ),
    both(
        "CL list",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc",
    ),
    both(
        "negative CL",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    ),
    both(
        "signed CL",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc",
    ),
    both(
        "hex CL",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\nabc",
    ),
    both(
        "CL with a word",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3 x\r\n\r\nabc",
    ),
    both(
        "CL with a space inside",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1 2\r\n\r\nabc",
    ),
    both(
        "empty CL",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\nabc",
    ),
    both(
        "CL past 64 bits",
        b"POST / HTTP/1.1\r\nHost: a\r\n\
      Content-Length: 99999999999999999999999\r\n\r\n",
    ),
    // Transfer-Encoding.
    both(
        "TE identity",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n",
    ),
    both(
        "TE gzip, chunked",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\
      \r\n0\r\n\r\n",
    ),
    both(
        "TE chunked, identity",
        b"POST / HTTP/1.1\r\nHost: a\r\n\
      Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    ),
    both(
        "TE chunked, chunked",
        b"POST / HTTP/1.1\r\nHost: a\r\n\
      Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    ),
    both(
        "TE twice",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\
      Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    both(
        "TE xchunked",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\
      \r\n",
    ),
    both(
        "TE quoted",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\
      \r\n",
    ),
    both(
        "TE with a parameter",
        b"POST / HTTP/1.1\r\nHost: a\r\n\
      Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
    ),
    both(
        "TE with a vertical tab",
        b"POST / HTTP/1.1\r\nHost: a\r\n\
      Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    ),
    both(
        "empty TE",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n",
    ),
    both(
        "TE in HTTP/1.0",
        b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
      0\r\n\r\n",
    ),
    // Line ends.
    both(
        "bare CR in a value",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
    ),
    both("CR CR LF", b"GET / HTTP/1.1\r\r\nHost: a\r\n\r\n"),
    both(
        "bare CR ends a field",
        b"GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n",
    ),
    ours(
        "bare LF after the request line",
        b"GET / HTTP/1.1\nHost: a\r\n\r\n",
    ),
    ours(
        "bare LF after a field",
        b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
    ),
    ours("bare LF ends the head", b"GET / HTTP/1.1\r\nHost: a\r\n\n"),
    // Fields.
    both(
        "space before the colon",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length : 3\r\n\r\nabc",
    ),
    both(
        "tab before the colon",
        b"GET / HTTP/1.1\r\nHost: a\r\nX\t: y\r\n\r\n",
    ),
    both(
        "folded field",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n  folded\r\n\r\n",
    ),
    both(
        "space before the first field",
        b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
    ),
    both(
        "no colon",
        b"GET / HTTP/1.1\r\nHost: a\r\nno colon here\r\n\r\n",
    ),
    both(
        "empty name",
        b"GET / HTTP/1.1\r\nHost: a\r\n: value\r\n\r\n",
    ),
    both(
        "NUL in a value",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
    ),
    both(
        "NUL in a name",
        b"GET / HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n",
    ),
    ours(
        "brackets in a name",
        b"GET / HTTP/1.1\r\nHost: a\r\nX(y): b\r\n\r\n",
    ),
    ours(
        "8-bit name",
        b"GET / HTTP/1.1\r\nHost: a\r\nX\xe9: b\r\n\r\n",
    ),
    // Host.
    both("no Host", b"GET / HTTP/1.1\r\n\r\n"),
    both("two Hosts", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
    both(
        "two equal Hosts",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    ),
    both("empty Host", b"GET / HTTP/1.1\r\nHost:\r\n\r\n"),
    both("Host with a path", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    both(
        "Host with dots alone",
        b"GET / HTTP/1.1\r\nHost: ..\r\n\r\n",
    ),
    both("Host with a space", b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
    ours(
        "Host with a word for a port",
        b"GET / HTTP/1.1\r\nHost: a:http\r\n\r\n",
    ),
    ours(
        "Host with user information",
        b"GET / HTTP/1.1\r\nHost: user@a\r\n\r\n",
    ),
    both(
        "Host with an open bracket",
        b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
    ),
    ours("Host list", b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n"),
    // Request line.
    both("no target", b"GET HTTP/1.1\r\nHost: a\r\n\r\n"),
    both("lower-case method", b"get / HTTP/1.1\r\nHost: a\r\n\r\n"),
    both("relative target", b"GET x HTTP/1.1\r\nHost: a\r\n\r\n"),
    both("lower-case version", b"GET / http/1.1\r\nHost: a\r\n\r\n"),
    both("HTTP/1.1 with more", b"GET / HTTP/1.1x\r\nHost: a\r\n\r\n"),
    both(
        "space in the target",
        b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    both(
        "NUL in the target",
        b"GET /a\0b HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    both(
        "tab in the target",
        b"GET /a\tb HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    both(
        "control character in the target",
        b"GET /a\x01b HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    ours("several spaces", b"GET  /  HTTP/1.1\r\nHost: a\r\n\r\n"),
    ours(
        "tab between the words",
        b"GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    both(
        "garbage",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ),
    // Chunks: the head is fine, the body is not.
    both(
        "chunk size in words",
        b"POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\
      \r\nxyz\r\nabc\r\n0\r\n\r\n",
    ),
    both(
        "chunk size 0x3",
        b"POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
      0x3\r\nabc\r\n0\r\n\r\n",
    ),
    both(
        "negative chunk size",
        b"POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\
      \r\n-3\r\nabc\r\n0\r\n\r\n",
    ),
    both(
        "empty chunk size",
        b"POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
      \r\nabc\r\n0\r\n\r\n",
    ),
    both(
        "chunk size past 64 bits",
        b"POST /p HTTP/1.1\r\nHost: a\r\n\
      Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nabc\r\n0\r\n\r\n",
    ),
    both(
        "chunk without its CRLF",
        b"POST /p HTTP/1.1\r\nHost: a\r\n\
      Transfer-Encoding: chunked\r\n\r\n3\r\nabcde\r\n0\r\n\r\n",
    ),
    both(
        "chunk ended by XX",
        b"POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
      3\r\nabcXX0\r\n\r\n",
    ),
    ours(
        "chunk size ended by LF",
        b"POST /p HTTP/1.1\r\nHost: a\r\n\
      Transfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n",
    ),
    ours(
        "chunk ended by LF",
        b"POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
      3\r\nabc\n0\r\n\r\n",
    ),
    ours(
        "bare LF in a chunk extension",
        b"POST /p HTTP/1.1\r\nHost: a\r\n\
      Transfer-Encoding: chunked\r\n\r\n3;a\nb\r\nabc\r\n0\r\n\r\n",
    ),
    ours(
        "bare CR in a chunk extension",
        b"POST /p HTTP/1.1\r\nHost: a\r\n\
      Transfer-Encoding: chunked\r\n\r\n3;a\rb\r\nabc\r\n0\r\n\r\n",
    ),
    ours(
        "space before the chunk size",
        b"POST /p HTTP/1.1\r\nHost: a\r\n\
      Transfer-Encoding: chunked\r\n\r\n 3\r\nabc\r\n0\r\n\r\n",
    ),
    ours(
        "trailer Content-Length",
        b"POST /p HTTP/1.1\r\nHost: a\r\n\
      Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 3\r\n\r\n",
    ),
    ours(
        "trailer Host",
        b"POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\
      Host: b\r\n\r\n",
    ),
    ours(
        "trailer Transfer-Encoding",
        b"POST /p HTTP/1.1\r\nHost: a\r\n\
      Transfer-Encoding: chunked\r\n\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
    ),
    ours(
        "trailer without a colon",
        b"POST /p HTTP/1.1\r\nHost: a\r\n\
      Transfer-Encoding: chunked\r\n\r\n0\r\nnothing\r\n\r\n",
    ),
];

#[test]
fn refused() {
    let b = Backend::fixed("passed");
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            location / { proxy_pass http://127.0.0.1:%%B0%%; }
        }
    "#,
        &[&b],
    );
    let mut wrong = Vec::new();
    for case in CASES {
        if is_nginx() && !case.nginx_too {
            continue;
        }
        let mut c = s.connect();
        let _ = c.try_send(case.bytes);
        // What would be the smuggled request must not be answered either.
        let _ = c.try_send(b"GET /smuggled HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        c.finish();
        let got = String::from_utf8_lossy(&c.rest()).into_owned();
        let refused = ["HTTP/1.1 400 ", "HTTP/1.1 501 ", "HTTP/1.1 505 ", "<html>"];
        let good = got.is_empty() || refused.iter().any(|start| got.starts_with(start));
        if !good || got.matches("HTTP/1.1 ").count() > 1 || got.contains("passed") {
            wrong.push(format!("{}: {got:?}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{} accepted: {wrong:#?}", wrong.len());
    for req in b.log() {
        assert_ne!(req.target, "/smuggled");
    }
}

/// Each of these must pass, or the strictness above is worth nothing.
#[test]
fn accepted() {
    let b = Backend::http(|req| ok(&req.body));
    let s = http(
        "server { listen 127.0.0.1:%%P0%%; location / { proxy_pass http://127.0.0.1:%%B0%%; } }",
        &[&b],
    );
    let chunked =
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (request, body) in [
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_owned(),
            "",
        ),
        (
            "GET / HTTP/1.1\r\nhOST:a\r\nConnection: close\r\n\r\n".to_owned(),
            "",
        ),
        (
            "GET / HTTP/1.1\r\nHost:   a   \r\nConnection: close\r\n\r\n".to_owned(),
            "",
        ),
        (
            "GET / HTTP/1.1\r\nHost: [::1]:8080\r\nConnection: close\r\n\r\n".to_owned(),
            "",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a:8080\r\nConnection: close\r\n\r\n".to_owned(),
            "",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nX: \u{e9}\u{4f60}\r\nConnection: close\r\n\r\n"
                .to_owned(),
            "",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nX: \r\nY:\t\r\nConnection: close\r\n\r\n".to_owned(),
            "",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nX: a\tb\r\nConnection: close\r\n\r\n".to_owned(),
            "",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 003\r\nConnection: close\r\n\r\nabc"
                .to_owned(),
            "abc",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:3  \r\nConnection: close\r\n\r\nabc"
                .to_owned(),
            "abc",
        ),
        (format!("{chunked}3\r\nabc\r\n0\r\n\r\n"), "abc"),
        (format!("{chunked}03\r\nabc\r\n000\r\n\r\n"), "abc"),
        (
            format!("{chunked}A\r\n0123456789\r\n0\r\n\r\n"),
            "0123456789",
        ),
        (
            format!("{chunked}a\r\n0123456789\r\n0\r\n\r\n"),
            "0123456789",
        ),
        (
            format!("{chunked}3;ext=\"quoted\"\r\nabc\r\n0;last\r\n\r\n"),
            "abc",
        ),
        (
            format!("{chunked}3\r\nabc\r\n0\r\nX-Trailer: 1\r\n\r\n"),
            "abc",
        ),
        (format!("{chunked}0\r\n\r\n"), ""),
    ] {
        let r = s.request(&request);
        assert_eq!((r.status, r.text().as_str()), (200, body), "{request:?}");
    }
}

#[test]
fn odd_names_are_dropped_not_passed() {
    let b = Backend::echo();
    let s = http(
        r#"
        server { listen 127.0.0.1:%%P0%%; location / { proxy_pass http://127.0.0.1:%%B0%%; } }
        server {
            listen 127.0.0.1:%%P1%%;
            underscores_in_headers on;
            location / { proxy_pass http://127.0.0.1:%%B0%%; }
        }
        server {
            listen 127.0.0.1:%%P2%%;
            ignore_invalid_headers off;
            location / { proxy_pass http://127.0.0.1:%%B0%%; }
        }
    "#,
        &[&b],
    );
    let request = "GET / HTTP/1.1\r\nHost: a\r\nContent_Length: 5\r\nX.dot: 1\r\nX-Good: 1\r\n\r\n";
    for (port, underscore, dot) in [
        (0, None, None),
        (1, Some("5"), None),
        (2, Some("5"), Some("1")),
    ] {
        Conn::to(s.port(port)).send(request).response();
        let req = b.last();
        assert_eq!(req.header("content_length"), underscore, "server {port}");
        assert_eq!(req.header("x.dot"), dot, "server {port}");
        assert_eq!(req.header("x-good"), Some("1"));
    }
}

#[test]
fn versions() {
    let s = http("server { listen 127.0.0.1:%%P0%%; return 200 x; }", &[]);
    let status = |version: &str| {
        let mut c = s.connect();
        c.send(format!(
            "GET / {version}\r\nHost: a\r\nConnection: close\r\n\r\n"
        ));
        c.finish();
        let got = String::from_utf8_lossy(&c.rest()).into_owned();
        got.split(' ').nth(1).unwrap_or("closed").to_owned()
    };
    assert_eq!(status("HTTP/1.1"), "200");
    assert_eq!(status("HTTP/1.0"), "200");
    assert_eq!(status("HTTP/2.0"), "505");
    assert_eq!(status("HTTP/3.1"), "505");
    assert_eq!(status("HTTP/0.9"), "400");
    assert_eq!(status("HTTQ/1.1"), "400");
}

#[test]
fn decoded_variables_end_no_line() {
    if skip_on_nginx("it sends them as they are") {
        return;
    }
    let b = Backend::http(|req| ok(&req.head));
    let s = http(
        "server { listen 127.0.0.1:%%P0%%;
            location /redirect { return 302 http://a$uri; }
            location /field { add_header X-Own $uri; return 200 ok; }
            location /pass { proxy_pass http://127.0.0.1:%%B0%%; proxy_set_header X-Uri $uri; }
            location /url { set $to 127.0.0.1:%%B0%%; proxy_pass http://$to$uri; }
            location /args { set $args a=$uri; proxy_pass http://127.0.0.1:%%B0%%; }
        }",
        &[&b],
    );
    for path in ["/redirect", "/field", "/pass", "/url", "/args"] {
        let r = s.get(&format!("{path}%20x%0d%0aX-Evil:%201"));
        let all = format!("{}{}", r.head, r.text());
        assert!(!all.contains("\nX-Evil"), "{path}: {all}");
        assert_ne!(r.status, 502, "{path}");
    }
}
