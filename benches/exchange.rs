//! What an exchange costs between its heads: finding server and location, and writing the heads
//! that go on to the upstream and to the client. No sockets are involved.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use criterion::{Criterion, criterion_group, criterion_main};
use ringway::base::listen::ListenAddr;
use ringway::base::places::Places;
use ringway::gateway::{Gateway, LoadOptions};
use ringway::http::accept;
use ringway::http::conf::Content;
use ringway::http::exchange::{ClientInfo, Exchange, Remote};
use ringway::http::h1::head::{HeadLimits, Parsed, parse_request, parse_response};
use ringway::http::local::Local;
use ringway::http::proxy::head::{BodyOut, take_response, write_request};
use ringway::http::respond::Output;
use ringway::http::route;
use ringway::observe::TargetSpec;

const REQUEST: &[u8] = b"GET /api/v1/items/42?fields=name HTTP/1.1\r\n\
Host: gateway.example.com\r\n\
User-Agent: oha/1.4.5 (linux; x86_64)\r\n\
Accept: application/json, text/plain, */*\r\n\
Accept-Encoding: gzip, br\r\n\
Connection: keep-alive\r\n\r\n";

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
Server: backend\r\n\
Content-Type: application/json; charset=utf-8\r\n\
Content-Length: 100\r\n\
ETag: W/\"64-abcdef\"\r\n\
Date: Sat, 21 Nov 2026 15:00:00 GMT\r\n\
Connection: keep-alive\r\n\
Keep-Alive: timeout=5\r\n\r\n";

fn routing(c: &mut Criterion) {
    let prefixes: String = (0..97)
        .map(|n| format!("location /api/v{n}/items {{ return 204; }}\n"))
        .collect();
    let regexes = r"
        location ~ \.(?:css|js|png)$ { return 204; }
        location ~* ^/old/(.*)$ { return 204; }
        location = /exact { return 204; }";
    let servers: String = (0..1000)
        .map(|n| {
            let wildcard = if n % 10 == 0 { "*." } else { "" };
            format!("server {{ listen 8080; server_name {wildcard}host{n}.example.com; {prefixes} {regexes} }}\n")
        })
        .collect();
    let mut ex = exchange(&servers);
    let mut group = c.benchmark_group("routing among 1000 servers of 100 locations");
    for (name, host, uri) in [
        (
            "exact name, exact location",
            "host501.example.com",
            "/exact",
        ),
        (
            "exact name, prefix",
            "host501.example.com",
            "/api/v42/items/1",
        ),
        (
            "wildcard, regex",
            "www.host500.example.com",
            "/static/app.js",
        ),
        ("default server, none", "unknown.test", "/"),
    ] {
        group.bench_function(name, |b| {
            b.iter(|| {
                ex.request.host.clear();
                ex.request
                    .host
                    .extend_from_slice(black_box(host.as_bytes()));
                ex.request.uri.clear();
                ex.request.uri.extend_from_slice(black_box(uri.as_bytes()));
                route::choose_server(&mut ex);
                black_box(route::choose_location(&mut ex))
            })
        });
    }
}

fn heads(c: &mut Criterion) {
    let mut ex = exchange(
        r#"upstream backend { server 127.0.0.1:9000; keepalive 32; }
        server {
            listen 8080;
            proxy_set_header Host $host;
            proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            add_header X-Frame-Options SAMEORIGIN;
            location / { proxy_pass http://backend; }
        }"#,
    );
    let mut out = Vec::with_capacity(4096);
    c.bench_function("head of a request: parse, accept, route", |b| {
        b.iter(|| receive(&mut ex));
    });
    receive(&mut ex);
    let generation = ex.generation();
    let location = generation.location(ex.location);
    let Content::Proxy(pass) = &location.content else {
        panic!("the location has a proxy_pass");
    };
    c.bench_function("head of a request to the upstream", |b| {
        b.iter(|| {
            out.clear();
            write_request(&mut ex, &location.proxy, pass, BodyOut::None, &mut out);
            black_box(out.len())
        });
    });
    let limits = HeadLimits::response(4096);
    c.bench_function("head of a response: parse, rewrite, encode", |b| {
        b.iter(|| {
            out.clear();
            ex.response.clear_head();
            ex.response.buf.extend_from_slice(black_box(RESPONSE));
            let response = &mut ex.response;
            let parsed = parse_response(&response.buf, &limits, &mut response.upstream);
            assert_eq!(parsed, Ok(Parsed::Complete));
            take_response(&mut ex, &location.proxy);
            ex.response.content_length = Some(100);
            black_box(Output::encode(&mut ex, &mut out).is_plain())
        });
    });
}

/// What happens to a request between its last byte and its location.
fn receive(ex: &mut Exchange) {
    ex.begin();
    ex.request.buf.clear();
    ex.request.buf.extend_from_slice(black_box(REQUEST));
    let limits = HeadLimits::default();
    let parsed = parse_request(&ex.request.buf, &limits, &mut ex.request.head);
    assert_eq!(parsed, Ok(Parsed::Complete));
    assert_eq!(accept::head(ex), Ok(()));
    black_box(route::choose_location(ex));
}

/// An exchange on a connection to port 8080 of the gateway with these blocks.
fn exchange(blocks: &str) -> Exchange {
    let conf = format!("events {{}} http {{ access_log off; {blocks} }}");
    let options = LoadOptions {
        prefix: std::env::temp_dir(),
        globals: None,
        error_log: TargetSpec::default_file(Path::new("/dev/stderr")),
        pid: PathBuf::from("unused.pid"),
        lenient: false,
    };
    let loaded = Gateway::load_text(Path::new("bench.conf"), &conf, &options);
    let (gateway, _) = loaded.unwrap_or_else(|error| panic!("{error}"));
    let listen = gateway.listens().remove(0).addr;
    let local = Local::new(gateway.http, Places::new(1024));
    Exchange::new(local, client(listen))
}

fn client(listen: ListenAddr) -> ClientInfo {
    let remote = "192.0.2.7:50000".parse().expect("a good address");
    ClientInfo {
        number: 1,
        requests: 1,
        accepted_at: 0,
        remote: Remote::Inet(remote),
        remote_text: remote.ip().to_string(),
        local: Some("192.0.2.1:8080".parse().expect("a good address")),
        listen: Rc::new(listen),
        proxy_protocol: None,
        tls: None,
    }
}

criterion_group!(benches, routing, heads);
criterion_main!(benches);
