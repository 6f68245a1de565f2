//! Upgrades: WebSockets and any other protocol after a 101.

use std::net::TcpStream;
use std::time::Duration;

use tungstenite::client::IntoClientRequest;
use tungstenite::{Message, WebSocket};

use crate::common::*;

/// nginx's idiom for WebSockets.
const IDIOM: &str = r#"
    map $http_upgrade $connection_upgrade { default upgrade; '' close; }
    server {
        listen 127.0.0.1:%%P0%%;
        location / {
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_read_timeout 60s;
            proxy_pass http://127.0.0.1:%%B0%%;
        }
        location /alive { return 200 alive; }
    }
"#;

/// A WebSocket server that returns every message.
fn ws_backend() -> Backend {
    Backend::raw(|conn, _| {
        let stream = conn.into_tcp();
        let Ok(mut ws) = tungstenite::accept(stream) else {
            return;
        };
        while let Ok(message) = ws.read() {
            if message.is_close() || ws.send(message).is_err() {
                break;
            }
        }
        // Finish the closing handshake.
        while ws.read().is_ok() {}
    })
}

fn ws_connect(s: &Server) -> WebSocket<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", s.port(0))).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("ws://127.0.0.1:{}/ws", s.port(0))
        .into_client_request()
        .unwrap();
    let (ws, response) = tungstenite::client(request, stream).expect("an upgrade");
    assert_eq!(response.status(), 101);
    ws
}

fn echoes(ws: &mut WebSocket<TcpStream>, text: &str) {
    ws.send(Message::text(text)).unwrap();
    assert_eq!(ws.read().unwrap(), Message::text(text));
}

#[test]
fn messages_pass_both_ways() {
    let b = ws_backend();
    let s = http(IDIOM, &[&b]);
    let mut ws = ws_connect(&s);
    for n in 0..50 {
        echoes(&mut ws, &format!("message {n}"));
    }
    let large = Rng(5).bytes(1_000_000);
    ws.send(Message::binary(large.clone())).unwrap();
    assert_eq!(ws.read().unwrap().into_data(), large);
    ws.close(None).unwrap();
    while ws.read().is_ok() {}
    wait_for("the backend's connection to end", || b.open() == 0);
}

#[test]
fn many_at_once() {
    let b = ws_backend();
    let s = http(IDIOM, &[&b]);
    let mut all: Vec<_> = (0..40).map(|_| ws_connect(&s)).collect();
    for round in 0..5 {
        for (n, ws) in all.iter_mut().enumerate() {
            echoes(ws, &format!("{round} of {n}"));
        }
    }
    assert_eq!(b.open(), 40);
}

/// A backend that upgrades to raw bytes: what `script` says after the 101.
fn upgrading(script: impl Fn(Conn) + Send + Sync + 'static) -> Backend {
    Backend::raw(move |mut conn, _| {
        if conn.try_head().is_some() {
            conn.send(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: raw\r\nConnection: upgrade\r\n\
             \r\nhello",
            );
            script(conn);
        }
    })
}

const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: raw\r\nConnection: Upgrade\r\n\r\n";

#[test]
fn the_head_of_a_101() {
    let b = upgrading(|mut conn| conn.drain());
    let s = http(IDIOM, &[&b]);
    let mut c = s.connect();
    c.send(UPGRADE);
    let r = c.response();
    assert_eq!((r.status, r.reason.as_str()), (101, "Switching Protocols"));
    assert_eq!(r.header("upgrade"), Some("raw"));
    assert_eq!(
        r.header("connection")
            .map(str::to_ascii_lowercase)
            .as_deref(),
        Some("upgrade")
    );
    // RFC 9112, 6.1: what follows is no body.
    for name in ["transfer-encoding", "content-length"] {
        assert_eq!(r.header(name), None, "{name}");
    }
    // Bytes that came with the head are the tunnel's first.
    assert_eq!(c.take(5), b"hello");
}

#[test]
fn the_log_knows_how_long_a_tunnel_lasted() {
    let b = upgrading(|mut conn| conn.drain());
    let conf = format!(
        "log_format took $upstream_response_time; access_log %%DIR%%/took.log took;\n{IDIOM}"
    );
    let s = http(&conf, &[&b]);
    let mut c = s.connect();
    c.send(UPGRADE);
    assert_eq!(c.response().status, 101);
    // The tunnel's life.
    std::thread::sleep(Duration::from_millis(200));
    drop(c);
    let took: f64 = s.lines("took.log", 1)[0].parse().unwrap();
    assert!(took >= 0.19, "{took}");
}

#[test]
fn bytes_sent_with_the_request_are_the_tunnel_s_first() {
    let b = upgrading(|mut conn| {
        let early = conn.take(5);
        conn.send(early);
        conn.drain();
    });
    let s = http(IDIOM, &[&b]);
    let mut c = s.connect();
    c.send(format!("{UPGRADE}early"));
    assert_eq!(c.response().status, 101);
    assert_eq!(c.take(10), b"helloearly");
}

#[test]
fn a_half_closed_client_still_receives() {
    if skip_on_nginx("it ends a tunnel with its first half") {
        return;
    }
    let b = upgrading(|mut conn| {
        let got = conn.rest();
        conn.send(format!("got {}", got.len())).finish();
    });
    let s = http(IDIOM, &[&b]);
    let mut c = s.connect();
    c.send(UPGRADE);
    assert_eq!(c.response().status, 101);
    assert_eq!(c.take(5), b"hello");
    c.send("0123456789").finish();
    assert_eq!(String::from_utf8_lossy(&c.rest()), "got 10");
}

#[test]
fn a_half_closed_backend_still_receives() {
    if skip_on_nginx("it ends a tunnel with its first half") {
        return;
    }
    let (tell, told) = std::sync::mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    let b = upgrading(move |mut conn| {
        conn.finish();
        tell.lock().unwrap().send(conn.rest().len()).unwrap();
    });
    let s = http(IDIOM, &[&b]);
    let mut c = s.connect();
    c.send(UPGRADE);
    assert_eq!(c.response().status, 101);
    assert_eq!(c.rest(), b"hello");
    c.send("0123456789").finish();
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), 10);
}

#[test]
fn the_end_of_either_side_ends_the_tunnel() {
    let b = upgrading(|mut conn| {
        conn.take(1);
    });
    let s = http(IDIOM, &[&b]);
    let mut c = s.connect();
    c.send(UPGRADE);
    assert_eq!(c.response().status, 101);
    c.take(5);
    c.send("x").assert_closed();
    let b = upgrading(|mut conn| conn.drain());
    let s = http(IDIOM, &[&b]);
    let mut c = s.connect();
    c.send(UPGRADE);
    assert_eq!(c.response().status, 101);
    drop(c);
    wait_for("the backend's side to end", || b.open() == 0);
}

#[test]
fn a_silent_tunnel_ends_after_the_read_timeout() {
    let b = upgrading(|mut conn| conn.drain());
    let s = http(&IDIOM.replace("60s", "300ms"), &[&b]);
    let mut c = s.connect();
    c.send(UPGRADE);
    assert_eq!(c.response().status, 101);
    assert_eq!(c.rest(), b"hello");
    wait_for("the backend's side to end", || b.open() == 0);
}

#[test]
fn a_refused_upgrade_is_an_ordinary_answer() {
    let b = Backend::http(|req| ok(req.header("upgrade").unwrap_or("-")));
    let s = http(IDIOM, &[&b]);
    let mut c = s.connect();
    assert_eq!(c.send(UPGRADE).response().text(), "raw");
    assert_eq!(
        c.send("GET /alive HTTP/1.1\r\nHost: a\r\n\r\n")
            .response()
            .text(),
        "alive"
    );
    // Without being asked by the proxy's own headers there is no upgrade to pass.
    let plain = http(
        "server { listen 127.0.0.1:%%P0%%; location / { proxy_http_version 1.1; proxy_pass \
         http://127.0.0.1:%%B0%%; } }",
        &[&b],
    );
    assert_eq!(plain.request(UPGRADE).text(), "-");
}

#[test]
fn a_client_that_does_not_wait_for_the_101_smuggles_nothing() {
    // The backend refuses; what the client sent along must be parsed as its next request, not
    // tunnelled.
    let b = Backend::http(|req| resp("403 No", "", &req.target));
    let s = http(IDIOM, &[&b]);
    let mut c = s.connect();
    c.send(format!(
        "{UPGRADE}GET /alive HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    ));
    assert_eq!(c.response().status, 403);
    assert_eq!(c.response().text(), "alive");
    assert_eq!(b.requests(), 1);
}

#[test]
fn tunnels_live_through_a_storm_of_reloads() {
    let b = ws_backend();
    let s = http(IDIOM, &[&b]);
    let mut all: Vec<_> = (0..10).map(|_| ws_connect(&s)).collect();
    // Each generation of nginx's workers would stay until its last tunnel ends.
    let reloads = if is_nginx() { 5 } else { 100 };
    for n in 0..reloads {
        let before = s.reloads();
        s.signal(libc::SIGHUP);
        if is_nginx() {
            // nginx does not tell when it is done.
            std::thread::sleep(Duration::from_millis(20));
        } else {
            wait_for("the end of a reload", || s.reloads() > before);
        }
        let which = n % all.len();
        echoes(&mut all[which], &format!("after {n}"));
    }
    for ws in &mut all {
        echoes(ws, "still here");
    }
    assert_eq!(b.connections(), 10);
    assert_eq!(s.get("/alive").text(), "alive");
}

#[test]
fn a_graceful_quit_waits_for_tunnels_up_to_its_timeout() {
    let b = ws_backend();
    let conf =
        format!("worker_shutdown_timeout 500ms;\nevents {{}}\nhttp {{ %%HTTP%%\n{IDIOM}\n}}\n");
    let mut s = full(&conf, &[&b]);
    let mut ws = ws_connect(&s);
    echoes(&mut ws, "before");
    s.signal(libc::SIGQUIT);
    echoes(&mut ws, "after");
    assert_eq!(s.wait_exit(PATIENCE).unwrap().code(), Some(0));
    assert!(ws.read().is_err());
}

#[test]
fn a_101_that_nobody_asked_for_is_an_error() {
    if skip_on_nginx("the client's wish is enough for it") {
        return;
    }
    let b = upgrading(|mut conn| conn.drain());
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            location / { proxy_pass http://127.0.0.1:%%B0%%; }
            location /set { proxy_set_header Upgrade raw; proxy_pass http://127.0.0.1:%%B0%%; }
        }
    "#,
        &[&b],
    );
    // The upstream does not hear of the client's wish.
    assert_eq!(s.request(UPGRADE).status, 502);
    // The client does not want what the upstream is asked for.
    assert_eq!(s.get("/set").status, 502);
    s.wait_for_text("error.log", "upstream sent unexpected status 101");
    assert_eq!(s.request(UPGRADE.replace("/ ", "/set ")).status, 101);
}
