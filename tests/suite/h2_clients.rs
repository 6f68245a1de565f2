//! Clients of the world that speak HTTP/2 and TLS: curl, openssl, the h2 crate, WebSockets in
//! either version, and a browser.

use std::io::{self, Read, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use tungstenite::client::IntoClientRequest;
use tungstenite::protocol::Role;
use tungstenite::{Message, WebSocket};

use crate::common::frames::{H2, flag, setting};
use crate::common::tls::{Identity, TlsConn, client};
use crate::common::wire::Wire;
use crate::common::*;

/// A server for plain TCP (`%%P0%%`) and TLS (`%%P1%%`), in HTTP/1.1 and HTTP/2.
fn both(locations: &str) -> Setup {
    let own = Identity::new(&["localhost"]);
    let (listen, http2) = match is_nginx() {
        true => ("http2", ""),
        false => ("", "http2 on;"),
    };
    // An nginx of that age speaks only HTTP/2 on such a port.
    let plain = if is_nginx() { "" } else { listen };
    Setup::http(&format!(
        "log_format versions '$server_protocol $request_method $uri $status';
        map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
        server {{
            listen 127.0.0.1:%%P0%% {plain};
            listen 127.0.0.1:%%P1%% ssl {listen};
            {http2}
            access_log %%DIR%%/versions.log versions;
            ssl_certificate %%DIR%%/c.pem; ssl_certificate_key %%DIR%%/k.pem;
            client_max_body_size 0;
            proxy_http_version 1.1;
            {locations}
        }}"
    ))
    .file("c.pem", own.cert)
    .file("k.pem", own.key)
}

#[test]
fn curl_in_each_version() {
    let b = Backend::http(|req| ok(format!("{} {}", req.method, req.body.len())));
    let s = both(
        "location / { proxy_pass http://127.0.0.1:%%B0%%; }
         location /big { alias %%DIR%%/big; }",
    );
    let upload = Rng(3).bytes(2_000_000);
    let s = s.backends(&[&b]).file("big", &upload).start();
    let plain = format!("http://127.0.0.1:{}", s.port(0));
    let secret = format!("https://localhost:{}", s.port(1));
    let file = s.path("big").display().to_string();
    let body = format!("@{file}");
    let mut ways = vec![
        (&plain, vec!["--http1.1"], "1.1"),
        (&secret, vec!["--http1.1"], "1.1"),
        (&secret, vec!["--http2", "--tls-max", "1.2"], "2"),
        (&secret, vec!["--http2", "--tlsv1.3"], "2"),
    ];
    if !skip_on_nginx("it has no HTTP/1.1 beside HTTP/2 on one port") {
        ways.push((&plain, vec!["--http2-prior-knowledge"], "2"));
        // An offer to upgrade (h2c), which is not taken: RFC 9113 has it no more.
        ways.push((&plain, vec!["--http2"], "1.1"));
    }
    for (base, way, version) in ways {
        for (args, path, text) in [
            (&[][..], "/", "GET 0"),
            (&["-d", "abc"], "/", "POST 3"),
            (&["--data-binary", &body], "/", "POST 2000000"),
            (&["-T", &file], "/x", "PUT 2000000"),
            (&["-H", "Expect: 100-continue", "-d", "abc"], "/", "POST 3"),
            (&["-I", "-o", "/dev/null"], "/", ""),
            (
                &["-o", "/dev/null", "-w", "%{size_download} "],
                "/big",
                "2000000 ",
            ),
        ] {
            let url = format!("{base}{path}");
            let all = [
                &["-k", "-w", " %{http_version}"],
                &way[..],
                args,
                &[url.as_str()],
            ]
            .concat();
            let Some(output) = curl(&all) else { return };
            let found = String::from_utf8_lossy(&output.stdout).into_owned();
            let wanted = match args.contains(&"-w") {
                true => text.to_owned(),
                false => format!("{text} {version}"),
            };
            assert_eq!(
                found,
                wanted,
                "{all:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
}

#[test]
fn curl_asks_for_many_at_once() {
    let b = Backend::http(|req| ok(&req.target));
    let s = both("location / { proxy_pass http://127.0.0.1:%%B0%%; }")
        .backends(&[&b])
        .start();
    let url = format!("https://localhost:{}/[1-60]", s.port(1));
    let out = format!("{}/got-#1", s.prefix.display());
    let args = [
        "-k",
        "--http2",
        "--parallel",
        "--parallel-max",
        "30",
        "-o",
        &out,
        &url,
    ];
    if curl(&args).is_none() {
        return;
    }
    for number in 1..=60 {
        assert_eq!(s.read(&format!("got-{number}")), format!("/{number}"));
    }
}

#[test]
fn openssl_agrees_on_a_protocol() {
    let s = both("location / { return 200 ok; }").start();
    for version in ["-tls1_2", "-tls1_3"] {
        for (offer, agreed) in [
            (&["-alpn", "h2,http/1.1"][..], "ALPN protocol: h2"),
            (&["-alpn", "http/1.1"], "ALPN protocol: http/1.1"),
            (&["-alpn", "http/1.1,h2"], "ALPN protocol: h2"),
            (&[], "No ALPN negotiated"),
        ] {
            let child = Command::new("openssl")
                .args([
                    "s_client",
                    "-connect",
                    &format!("127.0.0.1:{}", s.port(1)),
                    version,
                ])
                .args(offer)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn();
            let Ok(child) = child else {
                eprintln!("skipped: no openssl on this machine");
                return;
            };
            let output = child.wait_with_output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(text.contains(agreed), "{version} {offer:?}: {text}");
        }
    }
}

#[test]
fn the_h2_crate_has_many_streams() {
    if skip_on_nginx("it has no HTTP/1.1 beside HTTP/2 on one port") {
        return;
    }
    let b = Backend::http(|req| ok(&req.body));
    let s = both("location / { proxy_pass http://127.0.0.1:%%B0%%; }")
        .backends(&[&b])
        .start();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let tcp = tokio::net::TcpStream::connect(("127.0.0.1", s.port(0)))
            .await
            .unwrap();
        let (sender, connection) = h2::client::handshake(tcp).await.unwrap();
        tokio::spawn(connection);
        let all = (0..100).map(|at| tokio::spawn(echo(sender.clone(), at)));
        for one in all.collect::<Vec<_>>() {
            tokio::time::timeout(PATIENCE, one)
                .await
                .expect("an answer")
                .unwrap();
        }
    });
}

/// Send a body in pieces, and expect to get it back.
async fn echo(sender: h2::client::SendRequest<Bytes>, at: usize) {
    let body = Rng(at as u64).bytes(100 * at * at / 10);
    let request = http::Request::post("http://localhost/").body(()).unwrap();
    let (answer, mut out) = sender
        .ready()
        .await
        .unwrap()
        .send_request(request, false)
        .unwrap();
    for piece in body.chunks(10_000) {
        out.send_data(Bytes::copy_from_slice(piece), false).unwrap();
    }
    out.send_data(Bytes::new(), true).unwrap();
    let mut answer = answer.await.unwrap();
    assert_eq!(answer.status(), 200);
    let mut got = Vec::new();
    while let Some(piece) = answer.body_mut().data().await {
        let piece = piece.unwrap();
        answer
            .body_mut()
            .flow_control()
            .release_capacity(piece.len())
            .unwrap();
        got.extend_from_slice(&piece);
    }
    assert!(got == body, "{at}");
}

const UPGRADE: &str = "location / {
    proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;
    proxy_pass http://127.0.0.1:%%B0%%;
}";

/// A WebSocket server that returns every message.
fn ws_backend() -> Backend {
    Backend::raw(|conn, _| {
        let Ok(mut ws) = tungstenite::accept(conn.into_tcp()) else {
            return;
        };
        while let Ok(message) = ws.read() {
            if message.is_close() || ws.send(message).is_err() {
                break;
            }
        }
        while ws.read().is_ok() {}
    })
}

#[track_caller]
fn echoes<S: Read + Write>(ws: &mut WebSocket<S>) {
    for length in [0, 1, 1000, 60_000] {
        let message = Message::binary(Rng(length as u64).bytes(length));
        ws.send(message.clone()).unwrap();
        assert!(ws.read().unwrap() == message, "{length}");
    }
    ws.close(None).unwrap();
    while ws.read().is_ok() {}
}

#[test]
fn websockets_over_tls() {
    let b = ws_backend();
    let s = both(UPGRADE).backends(&[&b]).start();
    let stream = TlsConn::to(s.port(1), "localhost", &Arc::new(client())).stream;
    let request = "wss://localhost/ws".into_client_request().unwrap();
    let (mut ws, response) = tungstenite::client(request, stream).expect("an upgrade");
    assert_eq!(response.status(), 101);
    echoes(&mut ws);
    wait_for("the backend's connection to end", || b.open() == 0);
}

/// What a stream of HTTP/2 carries, as if it were a connection.
struct Tunnel {
    client: H2,
    read: usize,
}

impl Read for Tunnel {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.read;
        let ready = |c: &mut H2| {
            let answer = &c.streams[&1];
            (answer.body.len() > read || answer.ended).then_some(())
        };
        self.client.wait("DATA", ready).map_err(io::Error::other)?;
        let got = (&self.client.streams[&1].body[read..]).read(into)?;
        self.read += got;
        Ok(got)
    }
}

impl Write for Tunnel {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        bytes
            .chunks(16_384)
            .for_each(|piece| self.client.data(1, 0, piece));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn websockets_in_a_stream() {
    if skip_on_nginx("it has no extended CONNECT") {
        return;
    }
    let b = ws_backend();
    let s = both(UPGRADE).backends(&[&b]).start();
    for wire in [Wire::tcp(s.port(0)), Wire::tls(s.port(1), &["h2"])] {
        let mut c = H2::over(wire);
        c.start(&[]).unwrap();
        assert_eq!(
            c.theirs.get(&setting::ENABLE_CONNECT_PROTOCOL),
            Some(&1),
            "RFC 8441, 3"
        );
        let mut fields = c.request("CONNECT", "/ws", &[("sec-websocket-version", "13")]);
        fields.insert(1, (b":protocol".to_vec(), b"websocket".to_vec()));
        c.headers(1, flag::END_HEADERS, &fields);
        c.wait("an answer", |c| (c.streams[&1].status() > 0).then_some(()))
            .unwrap();
        assert_eq!(c.streams[&1].status(), 200);
        c.grant(0, 1 << 20);
        c.grant(1, 1 << 20);
        let tunnel = Tunnel { client: c, read: 0 };
        echoes(&mut WebSocket::from_raw_socket(tunnel, Role::Client, None));
        wait_for("the backend's connection to end", || b.open() == 0);
    }
}

/// A page that says what it could load.
const PAGE: &str = r#"<!doctype html><html><head><link rel="stylesheet" href="/style.css">
<script src="/script.js"></script></head><body onload="told()"><p id="p">waiting</p>
<img src="/a.svg" width="1"><img src="/b.svg" width="1"><img src="/c.svg" width="1">
</body></html>"#;

const SCRIPT: &str = r#"function told() {
    const images = [...document.images].filter(image => image.complete && image.naturalWidth == 7);
    const color = getComputedStyle(document.getElementById("p")).color;
    const paths = performance.getEntriesByType("resource").map(e => e.nextHopProtocol).sort();
    document.getElementById("p").textContent = images.length + " images, " + color + ", " + paths;
}"#;

const IMAGE: &str = r#"<svg xmlns="http://www.w3.org/2000/svg" width="7" height="7"></svg>"#;

#[test]
fn chromium_loads_a_page() {
    let s = both(
        "root %%DIR%%/site; index index.html;
         types { text/html html; text/css css; text/javascript js; image/svg+xml svg; }",
    );
    let s = s
        .file("site/index.html", PAGE)
        .file("site/style.css", "#p { color: rgb(1, 2, 3) }")
        .file("site/script.js", SCRIPT)
        .file("site/a.svg", IMAGE)
        .file("site/b.svg", IMAGE)
        .file("site/c.svg", IMAGE)
        .start();
    let output = Command::new("chromium")
        .args("--headless --no-sandbox --disable-gpu --disable-quic --no-first-run".split(' '))
        .args("--disable-background-networking --disable-component-update".split(' '))
        .args("--disable-sync --disable-dev-shm-usage --ignore-certificate-errors".split(' '))
        .arg(format!("--user-data-dir={}", s.path("profile").display()))
        .args(["--dump-dom", &format!("https://localhost:{}/", s.port(1))])
        .output();
    let Ok(output) = output else {
        eprintln!("skipped: no chromium on this machine");
        return;
    };
    let dom = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let wanted = "3 images, rgb(1, 2, 3), h2,h2,h2,h2,h2";
    assert!(
        dom.contains(wanted),
        "{dom}\n{errors}\n{}",
        s.read("versions.log")
    );
    let log = s.read("versions.log");
    for path in [
        "/index.html",
        "/style.css",
        "/script.js",
        "/a.svg",
        "/b.svg",
        "/c.svg",
    ] {
        let line = format!("HTTP/2.0 GET {path} 200\n");
        assert!(log.contains(&line), "{line}{log}");
    }
    assert!(!log.contains("HTTP/1"), "{log}");
}
