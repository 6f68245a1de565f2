//! Bodies of random size and framing in both directions, compared by hash.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::*;

/// Answers with a body of the size and framing in the query, and the hash of the body it received
/// in a field.
fn mirror() -> Backend {
    Backend::http(|req| {
        let number = |name: &str| -> usize {
            let at = req.target.find(&format!("{name}=")).unwrap() + name.len() + 1;
            let digits = req.target[at..]
                .bytes()
                .take_while(u8::is_ascii_digit)
                .count();
            req.target[at..at + digits].parse().unwrap()
        };
        let body = Rng(number("seed") as u64).bytes(number("size"));
        let received = format!(
            "X-Received: {}\r\nX-Size: {}\r\n",
            hash(&req.body),
            req.body.len()
        );
        match number("framing") {
            0 => resp("200 OK", &received, body),
            1 => {
                let head =
                    format!("HTTP/1.1 200 OK\r\n{received}Transfer-Encoding: chunked\r\n\r\n");
                [head.into_bytes(), chunked(&body, number("seed") as u64)].concat()
            }
            _ => {
                let head = format!("HTTP/1.1 200 OK\r\n{received}Connection: close\r\n\r\n");
                [head.into_bytes(), body].concat()
            }
        }
    })
}

/// `body` in chunks of random size, some with extensions.
fn chunked(body: &[u8], seed: u64) -> Vec<u8> {
    let mut rng = Rng(seed ^ 0xc0ffee);
    let mut out = Vec::with_capacity(body.len() + 1000);
    let mut rest = body;
    while !rest.is_empty() {
        let most = if rng.below(4) == 0 { 10 } else { 30_000 };
        let (chunk, tail) = rest.split_at((1 + rng.below(most)).min(rest.len()));
        let extension = if rng.below(8) == 0 { ";ext=1" } else { "" };
        out.extend_from_slice(format!("{:x}{extension}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
        rest = tail;
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

/// Mostly small, sometimes around buffer sizes, sometimes large.
fn size(rng: &mut Rng) -> usize {
    match rng.below(10) {
        0 => 0,
        1..=5 => rng.below(2_000),
        6 => [4_095, 4_096, 4_097, 8_192, 16_384, 65_535, 65_536, 65_537][rng.below(8)],
        7 | 8 => rng.below(70_000),
        _ => rng.below(400_000),
    }
}

/// `count` exchanges over one client connection after another.
fn exchanges(s: &Server, path: &str, seed: u64, count: usize) {
    let mut rng = Rng(seed);
    let mut conn: Option<Conn> = None;
    for n in 0..count {
        let what = format!("{path} seed {seed} exchange {n}");
        let upload = {
            let n = size(&mut rng);
            rng.bytes(n)
        };
        let (seed, size, framing) = (rng.below(1 << 30), size(&mut rng), rng.below(3));
        let mut request = format!(
            "POST {path}?seed={seed}&size={size}&framing={framing} HTTP/1.1\r\nHost: a\r\n"
        )
        .into_bytes();
        if rng.below(2) == 0 {
            request.extend(format!("Content-Length: {}\r\n\r\n", upload.len()).bytes());
            request.extend(&upload);
        } else {
            request.extend(b"Transfer-Encoding: chunked\r\n\r\n");
            request.extend(chunked(&upload, seed as u64));
        }
        let c = conn.get_or_insert_with(|| s.connect());
        // In pieces, so that boundaries fall anywhere.
        for piece in request.chunks(1 + rng.below(100_000)) {
            c.send(piece);
        }
        let r = c.response();
        assert_eq!(r.status, 200, "{what}");
        assert_eq!(
            r.header("x-size"),
            Some(upload.len().to_string().as_str()),
            "{what}"
        );
        assert_eq!(
            r.header("x-received"),
            Some(hash(&upload).to_string().as_str()),
            "{what}"
        );
        assert_eq!(r.body.len(), size, "{what}");
        assert!(r.complete, "{what}");
        assert_eq!(hash(&r.body), hash(&Rng(seed as u64).bytes(size)), "{what}");
        if r.header("connection") == Some("close") || rng.below(20) == 0 {
            conn = None;
        }
    }
}

#[test]
fn two_thousand_bodies() {
    let b = mirror();
    let s = http(
        r#"
        client_max_body_size 0;
        upstream u { server 127.0.0.1:%%B0%%; keepalive 8; }
        server {
            listen 127.0.0.1:%%P0%%;
            keepalive_requests 100000;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            location /both { proxy_pass http://u; }
            location /off { proxy_buffering off; proxy_request_buffering off; proxy_pass http://u; }
            location /small {
                proxy_buffers 2 4k;
                proxy_buffer_size 4k;
                proxy_busy_buffers_size 4k;
                client_body_buffer_size 1k;
                proxy_pass http://u;
            }
            location /plain { proxy_max_temp_file_size 0; proxy_pass http://127.0.0.1:%%B0%%; }
        }
    "#,
        &[&b],
    );
    let s = Arc::new(s);
    let threads: Vec<_> = ["/both", "/off", "/small", "/plain"]
        .into_iter()
        .enumerate()
        .map(|(n, path)| {
            let s = s.clone();
            std::thread::spawn(move || exchanges(&s, path, n as u64 + 1, 500))
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    s.assert_clean();
}

#[test]
fn a_large_download_is_whole() {
    let body = Rng(9).bytes(30_000_000);
    let sum = hash(&body);
    let b = Backend::http(move |_| ok(&body));
    let s = http(
        "server { listen 127.0.0.1:%%P0%%; location / { proxy_pass http://127.0.0.1:%%B0%%; } }",
        &[&b],
    );
    let r = s.get("/");
    assert_eq!((r.body.len(), hash(&r.body)), (30_000_000, sum));
}

#[test]
fn a_large_upload_is_whole() {
    let b = Backend::http(|req| ok(format!("{} {}", req.body.len(), hash(&req.body))));
    let s = http(
        r#"
        client_max_body_size 0;
        server {
            listen 127.0.0.1:%%P0%%;
            location / { proxy_pass http://127.0.0.1:%%B0%%; }
            location /off {
                proxy_request_buffering off;
                proxy_http_version 1.1;
                proxy_pass http://127.0.0.1:%%B0%%;
            }
        }
    "#,
        &[&b],
    );
    let body = Rng(11).bytes(8_000_000);
    for path in ["/", "/off"] {
        let mut c = s.connect();
        c.send(format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
            body.len()
        ));
        c.send(&body);
        assert_eq!(
            c.response().text(),
            format!("{} {}", body.len(), hash(&body))
        );
    }
}

/// Resident memory of a process and its children, in KiB.
fn resident_kib(pid: u32) -> usize {
    let of = |pid: u32| -> usize {
        let status = read(format!("/proc/{pid}/status"));
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap_or("");
        line.split_whitespace()
            .nth(1)
            .and_then(|kib| kib.parse().ok())
            .unwrap_or(0)
    };
    let children = read(format!("/proc/{pid}/task/{pid}/children"));
    of(pid)
        + children
            .split_whitespace()
            .map(|child| of(child.parse().unwrap()))
            .sum::<usize>()
}

#[test]
fn slow_readers_cost_bounded_memory() {
    const EACH: usize = 20_000_000;
    const READERS: usize = 20;
    let b = Backend::http(|_| ok(vec![b'x'; EACH]));
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            proxy_max_temp_file_size 0;
            location / { proxy_pass http://127.0.0.1:%%B0%%; }
            location /off { proxy_buffering off; proxy_pass http://127.0.0.1:%%B0%%; }
        }
    "#,
        &[&b],
    );
    s.get("/");
    let before = resident_kib(s.pid());
    let readers: Vec<Conn> = (0..READERS)
        .map(|n| {
            let mut c = s.connect();
            let path = ["/", "/off"][n % 2];
            c.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
            c.take(1000);
            c
        })
        .collect();
    // Long enough for a proxy without bounds to swallow everything.
    let end = Instant::now() + Duration::from_millis(500);
    let mut most = 0;
    while Instant::now() < end {
        most = most.max(resident_kib(s.pid()).saturating_sub(before));
        // How often the memory is looked at.
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(most < READERS * 512, "{most} KiB for {READERS} readers");
    drop(readers);
    wait_for("the backend to be left", || b.open() == 0);
    assert_eq!(s.get("/off").body.len(), EACH);
}
