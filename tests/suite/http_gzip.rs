//! The gzip filter: what is compressed, how the head changes, when bytes flow.

use std::io::Read;

use crate::common::*;

/// What `bytes` say without gzip.
fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    flate2::read::GzDecoder::new(bytes)
        .read_to_end(&mut out)
        .expect("valid gzip");
    out
}

/// Answers with 5,000 bytes; fields from the query, `%20` for a space, `&` between fields.
fn backend() -> Backend {
    Backend::http(|req| {
        let (path, query) = req.target.split_once('?').unwrap_or((&req.target, ""));
        let fields: String = query
            .split('&')
            .filter(|field| !field.is_empty())
            .map(|field| format!("{}\r\n", field.replace("%20", " ").replacen(':', ": ", 1)))
            .collect();
        let status = if path.ends_with("403") || path.ends_with("404") || path.ends_with("500") {
            &path[path.len() - 3..]
        } else {
            "200"
        };
        let body = if path.ends_with("small") {
            "x".repeat(19)
        } else {
            "x".repeat(5_000)
        };
        let typed = if query.contains("Content-Type:") {
            ""
        } else {
            "Content-Type: text/html\r\n"
        };
        resp(&format!("{status} x"), &format!("{typed}{fields}"), body)
    })
}

const ACCEPT: &str = "Accept-Encoding: gzip\r\n";

/// Whether the answer to `path` is compressed.
fn compressed(s: &Server, path: &str, headers: &str) -> bool {
    let r = s.get_with(path, headers);
    match r.header("content-encoding") {
        Some("gzip") => {
            let plain = gunzip(&r.body);
            assert!(plain.iter().all(|&b| b == b'x') && r.header("content-length").is_none());
            true
        }
        _ => false,
    }
}

#[test]
fn what_is_compressed() {
    let b = backend();
    let s = http(
        r#"
        gzip on;
        server {
            listen 127.0.0.1:%%P0%%;
            location / { proxy_pass http://127.0.0.1:%%B0%%; }
            location /types {
                gzip_types text/plain application/*;
                proxy_pass http://127.0.0.1:%%B0%%;
            }
            location /alltypes { gzip_types *; proxy_pass http://127.0.0.1:%%B0%%; }
            location /min { gzip_min_length 6000; proxy_pass http://127.0.0.1:%%B0%%; }
            location /old { gzip_http_version 1.0; proxy_pass http://127.0.0.1:%%B0%%; }
            location /off { gzip off; proxy_pass http://127.0.0.1:%%B0%%; }
            location /disable { gzip_disable "msie6" Odd; proxy_pass http://127.0.0.1:%%B0%%; }
        }
    "#,
        &[&b],
    );
    assert!(compressed(&s, "/", ACCEPT));
    assert!(!compressed(&s, "/", ""));
    for accept in [
        "*",
        "gzip, br",
        "deflate,gzip",
        "gzip;q=0.5",
        "gzip; q=1",
        "GZIP",
        "br, gzip;q=0.001",
    ] {
        let yes = accept != "*";
        assert_eq!(
            compressed(&s, "/", &format!("Accept-Encoding: {accept}\r\n")),
            yes,
            "{accept}"
        );
    }
    for accept in [
        "identity",
        "gzip;q=0",
        "gzip;q=0.0",
        "xgzip",
        "gzipx",
        "",
        "br",
    ] {
        assert!(
            !compressed(&s, "/", &format!("Accept-Encoding: {accept}\r\n")),
            "{accept}"
        );
    }
    for (path, expected) in [
        ("/small", false),
        ("/403", true),
        ("/404", true),
        ("/500", false),
        ("/?Content-Type:text/html;%20charset=utf-8", true),
        ("/?Content-Type:text/plain", false),
        ("/?Content-Encoding:br", false),
        ("/types?Content-Type:text/plain", true),
        ("/types", true),
        ("/types?Content-Type:text/css", false),
        ("/alltypes?Content-Type:image/png", true),
        ("/min", false),
        ("/off", false),
        ("/disable", true),
    ] {
        assert_eq!(compressed(&s, path, ACCEPT), expected, "{path}");
    }
    assert!(!compressed(
        &s,
        "/disable",
        &format!("{ACCEPT}User-Agent: an Odd one\r\n")
    ));
    assert!(!compressed(
        &s,
        "/disable",
        &format!("{ACCEPT}User-Agent: Mozilla/4.0 (compatible; MSIE 6.0; W)\r\n")
    ));
    let old = |path: &str| {
        let request = format!("GET {path} HTTP/1.0\r\nHost: a\r\n{ACCEPT}\r\n");
        s.request(request).header("content-encoding").is_some()
    };
    assert_eq!((old("/"), old("/old")), (false, true));
}

#[test]
fn proxied_requests() {
    let b = backend();
    let conditions = [
        "off",
        "expired",
        "no-cache",
        "no-store",
        "private",
        "no_last_modified",
        "no_etag",
        "auth",
        "any",
    ];
    let locations: String = conditions
        .iter()
        .map(|c| {
            format!("location /{c}/ {{ gzip_proxied {c}; proxy_pass http://127.0.0.1:%%B0%%; }}\n")
        })
        .collect();
    let s = http(
        &format!(
            "gzip on; server {{ listen 127.0.0.1:%%P0%%; {locations} location / {{ proxy_pass \
             http://127.0.0.1:%%B0%%; }} }}"
        ),
        &[&b],
    );
    let via = format!("{ACCEPT}Via: 1.1 proxy\r\n");
    let yes = |path: &str| compressed(&s, path, &via);
    let marked = "Last-Modified:x&ETag:x";
    assert!(!yes("/"));
    assert!(!yes("/off/"));
    assert!(yes("/any/"));
    assert!(yes(&format!("/no-cache/?{marked}&Cache-Control:no-cache")));
    assert!(!yes(&format!("/no-cache/?{marked}&Cache-Control:private")));
    assert!(yes(&format!("/no-store/?{marked}&Cache-Control:no-store")));
    assert!(yes(&format!("/private/?{marked}&Cache-Control:private")));
    assert!(yes("/no_last_modified/?ETag:x"));
    assert!(!yes(&format!("/no_last_modified/?{marked}")));
    assert!(yes("/no_etag/?Last-Modified:x"));
    assert!(!yes(&format!("/no_etag/?{marked}")));
    assert!(yes(
        "/expired/?Expires:Thu,%2001%20Jan%201970%2000:00:01%20GMT&Date:Thu,\
         %2001%20Jan%201970%2000:00:02%20GMT"
    ));
    assert!(!yes("/auth/?Cache-Control:public"));
    let authorized = format!("{via}Authorization: x\r\n");
    assert!(compressed(&s, "/auth/?Cache-Control:public", &authorized));
}

#[test]
fn the_head_of_a_compressed_answer() {
    let b = backend();
    let s = http(
        r#"
        gzip on;
        server {
            listen 127.0.0.1:%%P0%%;
            location / { gzip_vary on; proxy_pass http://127.0.0.1:%%B0%%; }
            location /novary { proxy_pass http://127.0.0.1:%%B0%%; }
        }
    "#,
        &[&b],
    );
    let r = s.get_with(
        "/?ETag:%22strong%22&Accept-Ranges:bytes"
            .replace("%22", "\"")
            .as_str(),
        ACCEPT,
    );
    assert_eq!(r.header("etag"), Some("W/\"strong\""));
    assert_eq!(
        (r.header("content-length"), r.header("accept-ranges")),
        (None, None)
    );
    assert_eq!(r.header("transfer-encoding"), Some("chunked"));
    assert_eq!(r.header("vary"), Some("Accept-Encoding"));
    assert_eq!(s.get("/").header("vary"), Some("Accept-Encoding"));
    assert_eq!(s.get("/?Content-Type:text/css").header("vary"), None);
    assert_eq!(s.get_with("/novary", ACCEPT).header("vary"), None);
    let mut c = s.connect();
    c.send(format!(
        "HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{ACCEPT}\r\n"
    ));
    let r = c.head_response();
    assert_eq!(
        (r.header("content-encoding"), r.header("content-length")),
        (Some("gzip"), None)
    );
    c.assert_closed();
    let r = s.get_with("/?ETag:W/%22weak%22".replace("%22", "\"").as_str(), ACCEPT);
    assert_eq!(r.header("etag"), Some("W/\"weak\""));
}

#[test]
fn levels_and_sizes() {
    let text: String = (0..20_000)
        .map(|n| format!("{} ", n * 7919 % 1009))
        .collect();
    let copy = text.clone();
    let b = Backend::http(move |_| resp("200 OK", "Content-Type: text/html\r\n", &copy));
    let s = http(
        r#"
        gzip on;
        server {
            listen 127.0.0.1:%%P0%%;
            location /1 { gzip_comp_level 1; proxy_pass http://127.0.0.1:%%B0%%; }
            location /9 {
                gzip_comp_level 9;
                gzip_buffers 4 4k;
                proxy_pass http://127.0.0.1:%%B0%%;
            }
        }
    "#,
        &[&b],
    );
    let mut sizes = Vec::new();
    for path in ["/1", "/9"] {
        let r = s.get_with(path, ACCEPT);
        assert_eq!(gunzip(&r.body), text.as_bytes());
        sizes.push(r.body.len());
    }
    assert!(sizes[1] < sizes[0], "{sizes:?}");
}

#[test]
fn a_stream_is_flushed() {
    let b = Backend::raw(|mut conn, _| {
        if conn.try_head().is_none() {
            return;
        }
        conn.send("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\nfirst part");
        // The rest only once the client has seen the first part, which it says by closing.
        conn.drain();
    });
    let s = http(
        "gzip on; server { listen 127.0.0.1:%%P0%%; location / { proxy_buffering off; proxy_pass \
         http://127.0.0.1:%%B0%%; } }",
        &[&b],
    );
    let mut c = s.connect();
    c.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{ACCEPT}\r\n"));
    let head = c.take_until("\r\n\r\n");
    assert!(head.contains("Content-Encoding: gzip"), "{head}");
    let size = c.take_until("\r\n");
    let mut bytes = Vec::new();
    let mut next = usize::from_str_radix(size.trim(), 16).unwrap();
    let mut plain: Vec<u8> = Vec::new();
    while plain != b"first part" {
        bytes.extend(c.take(next));
        c.take(2);
        let mut out = [0u8; 64];
        let mut decoder = flate2::read::GzDecoder::new(&bytes[..]);
        plain.clear();
        while let Ok(n @ 1..) = decoder.read(&mut out) {
            plain.extend(&out[..n]);
        }
        if plain != b"first part" {
            next = usize::from_str_radix(c.take_until("\r\n").trim(), 16).unwrap();
        }
    }
}

#[test]
fn local_answers_and_error_pages() {
    let s = http(
        r#"
        gzip on;
        gzip_min_length 0;
        server {
            listen 127.0.0.1:%%P0%%;
            location / { default_type text/html; return 200 "some text to compress"; }
            location /404 { return 404; }
        }
    "#,
        &[],
    );
    let r = s.get_with("/", ACCEPT);
    assert_eq!(gunzip(&r.body), b"some text to compress");
    let r = s.get_with("/404", ACCEPT);
    assert_eq!(r.header("content-encoding"), Some("gzip"));
    assert!(
        String::from_utf8(gunzip(&r.body))
            .unwrap()
            .contains("404 Not Found")
    );
}
