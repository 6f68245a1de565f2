//! How TCP sessions of `stream` end, what that looks like on both sides, and what the logs say.

use std::net::Shutdown;
use std::time::{Duration, Instant};

use crate::common::*;

const LOG: &str = "log_format t '$status $bytes_received/$bytes_sent \
                   $upstream_bytes_received/$upstream_bytes_sent';
                   access_log %%DIR%%/access.log t;";

/// Returns what it receives; `BYE` is answered by `bye` and an end, `RST` by a reset, an end of
/// the client by `eof` and an end.
fn scripted() -> Backend {
    Backend::raw(|mut conn, _| {
        while conn.more().is_some() {
            let bytes = conn.take(conn.buffered().len());
            match &*bytes {
                b"BYE" => {
                    let _ = conn.try_send(b"bye");
                    conn.finish();
                    conn.drain();
                    return;
                }
                b"RST" => return conn.reset(),
                _ => {}
            }
            if conn.try_send(&bytes).is_err() {
                return;
            }
        }
        let _ = conn.try_send(b"eof");
        conn.finish();
    })
}

fn server(conf: &str, backend: &Backend) -> Server {
    let conf =
        format!("{LOG} server {{ listen 127.0.0.1:%%P0%%; proxy_pass 127.0.0.1:%%B0%%; {conf} }}");
    stream(&conf, &[backend])
}

/// What the error log says of sessions, without the time, numbers, and ports of clients.
fn told(s: &Server, count: usize) -> Vec<String> {
    let lines = || -> Vec<String> {
        let log = s.error_log();
        let lines = log.lines().filter(|line| line.contains(": *"));
        lines.map(|line| shortened(s, line)).collect()
    };
    wait_for("lines in error.log", || lines().len() >= count);
    lines()
}

fn shortened(s: &Server, line: &str) -> String {
    let (level, rest) = line.split_once(" [").unwrap().1.split_once(']').unwrap();
    let message = rest.split_once(": *").unwrap().1.split_once(' ').unwrap().1;
    let listen = format!("127.0.0.1:{}", s.port(0));
    let backend = s.fill("127.0.0.1:%%B0%%");
    let mut out = format!("{level}: {message}")
        .replace(&listen, "FRONT")
        .replace(&backend, "BACK");
    for mark in ["client 127.0.0.1:", "proxy 127.0.0.1:"] {
        if let Some(at) = out.find(mark) {
            let port = at + mark.len();
            let digits = out[port..].bytes().take_while(u8::is_ascii_digit).count();
            out.replace_range(port..port + digits, "N");
        }
    }
    out
}

const CAME: &str = "info: client 127.0.0.1:N connected to FRONT";
const WENT: &str = "info: proxy 127.0.0.1:N connected to BACK";
const PLACE: &str = "client: 127.0.0.1, server: FRONT, upstream: \"BACK\"";

#[test]
fn the_client_ends_it() {
    let backend = scripted();
    let s = server("", &backend);
    let mut conn = s.connect();
    assert_eq!(conn.send("abc").take(3), b"abc");
    drop(conn);
    let end = "info: client disconnected, bytes from/to client:3/3, bytes from/to upstream:3/3";
    assert_eq!(told(&s, 3), [CAME, WENT, end]);
    assert_eq!(s.lines("access.log", 1), ["200 3/3 3/3"]);
}

#[test]
fn the_upstream_ends_it() {
    let backend = scripted();
    let s = server("", &backend);
    assert_eq!(s.connect().send("BYE").rest(), b"bye");
    let end = "info: upstream disconnected, bytes from/to client:3/3, bytes from/to upstream:3/3";
    assert_eq!(told(&s, 3), [CAME, WENT, end]);
    assert_eq!(s.lines("access.log", 1), ["200 3/3 3/3"]);
}

#[test]
fn the_client_resets_it() {
    let backend = scripted();
    let s = server("", &backend);
    let mut conn = s.connect();
    assert_eq!(conn.send("abc").take(3), b"abc");
    conn.reset();
    let reset = format!(
        "info: recv() failed (104: Connection reset by peer) while proxying and reading from \
         client, {PLACE}, bytes from/to client:3/3, bytes from/to upstream:3/3"
    );
    let end = "info: client disconnected, bytes from/to client:3/3, bytes from/to upstream:3/3";
    assert_eq!(told(&s, 4), [CAME, WENT, &reset, end]);
    assert_eq!(s.lines("access.log", 1), ["200 3/3 3/3"]);
}

#[test]
fn the_upstream_resets_it() {
    let backend = scripted();
    let s = server("", &backend);
    let mut conn = s.connect();
    conn.send("RST");
    let mut end = [0; 8];
    let result = std::io::Read::read(&mut conn.tcp(), &mut end);
    if is_nginx() {
        assert_eq!(result.unwrap(), 0, "nginx ends in order what did not");
    } else {
        let kind = result.unwrap_err().kind();
        assert_eq!(kind, std::io::ErrorKind::ConnectionReset);
    }
    let reset = format!(
        "error: recv() failed (104: Connection reset by peer) while proxying and reading from \
         upstream, {PLACE}, bytes from/to client:3/0, bytes from/to upstream:0/3"
    );
    let end = "info: upstream disconnected, bytes from/to client:3/0, bytes from/to upstream:0/3";
    assert_eq!(told(&s, 4), [CAME, WENT, &reset, end]);
    assert_eq!(s.lines("access.log", 1), ["200 3/0 0/3"]);
}

#[test]
fn nobody_says_anything() {
    let backend = scripted();
    let s = server("proxy_timeout 300ms;", &backend);
    let mut conn = s.connect();
    assert_eq!(conn.send("abc").take(3), b"abc");
    conn.assert_closed();
    let end = format!(
        "info: connection timed out (110: Connection timed out) while proxying connection, \
         {PLACE}, bytes from/to client:3/3, bytes from/to upstream:3/3"
    );
    assert_eq!(told(&s, 3), [CAME, WENT, &end]);
    assert_eq!(s.lines("access.log", 1), ["200 3/3 3/3"]);
}

#[test]
fn half_of_it_ends() {
    let backend = scripted();
    let s = server("proxy_half_close on;", &backend);
    // The client's half first.
    let mut conn = s.connect();
    assert_eq!(conn.send("abc").take(3), b"abc");
    conn.finish();
    assert_eq!(conn.rest(), b"eof");
    // And the upstream's.
    let mut conn = s.connect();
    assert_eq!(conn.send("BYE").rest(), b"bye");
    assert_eq!(backend.open(), 1);
    conn.send("on and on");
    conn.tcp().shutdown(Shutdown::Write).unwrap();
    assert_eq!(s.lines("access.log", 2), ["200 3/6 6/3", "200 12/3 3/12"]);
}

#[test]
fn without_half_close_one_end_is_both() {
    let backend = Backend::silent();
    let s = server("", &backend);
    let mut conn = s.connect();
    conn.send("abc").finish();
    conn.assert_closed();
    assert_eq!(s.lines("access.log", 1), ["200 3/0 0/3"]);
}

#[test]
fn what_came_before_the_end_is_delivered() {
    let big = Backend::raw(|mut conn, _| {
        let bytes = Rng(7).bytes(3 << 20);
        let _ = conn.try_send(&bytes);
        conn.finish();
        conn.drain();
    });
    let s = server("", &big);
    assert_eq!(hash(&s.connect().rest()), hash(&Rng(7).bytes(3 << 20)));
}

#[test]
fn rates_hold_both_directions_back() {
    let backend = scripted();
    let s = stream(
        "map $server_port $rate { default 20k; }
         server { listen 127.0.0.1:%%P0%%; proxy_pass 127.0.0.1:%%B0%%; proxy_upload_rate 20k; }
         server { listen 127.0.0.1:%%P1%%; proxy_pass 127.0.0.1:%%B0%%;
                  proxy_download_rate $rate; }
         server { listen 127.0.0.1:%%P2%%; proxy_pass 127.0.0.1:%%B0%%; }",
        &[&backend],
    );
    let time = |port: usize| {
        let mut conn = Conn::to(s.port(port));
        let begun = Instant::now();
        assert_eq!(
            conn.send(vec![b'x'; 30 << 10]).take(30 << 10).len(),
            30 << 10
        );
        begun.elapsed()
    };
    let least = Duration::from_millis(400);
    assert!(time(0) >= least && time(1) >= least);
    assert!(time(2) < least);
}

#[test]
fn a_proxy_header_goes_first() {
    let backend = scripted();
    let s = server("proxy_protocol on;", &backend);
    let mut conn = s.connect();
    let header = format!(
        "PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n",
        conn.local_port(),
        s.port(0)
    );
    let both = format!("{header}abc");
    let got = conn.send("abc").take(both.len());
    assert_eq!(String::from_utf8_lossy(&got), both);
    drop(conn);
    let (more, all) = (header.len(), both.len());
    assert_eq!(
        s.lines("access.log", 1),
        [format!("200 3/{all} {all}/{}", more + 3)]
    );
}

#[test]
fn a_proxy_header_that_cannot_be_read() {
    let backend = scripted();
    let conf = format!(
        "{LOG} server {{ listen 127.0.0.1:%%P0%% proxy_protocol; proxy_pass 127.0.0.1:%%B0%%;
                         proxy_protocol_timeout 300ms; }}"
    );
    let s = stream(&conf, &[&backend]);
    let place = "while reading PROXY protocol, client: 127.0.0.1, server: FRONT";
    let mut conn = s.connect();
    assert_eq!(
        conn.send("PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\nabc").take(3),
        b"abc"
    );
    drop(conn);
    s.lines("access.log", 1);
    s.connect().send("GET / HTTP/1.0").finish();
    s.lines("access.log", 2);
    s.connect().send("PROXY TCP4 1.2").finish();
    s.lines("access.log", 3);
    s.connect().assert_closed();
    assert_eq!(
        s.lines("access.log", 4),
        ["200 3/3 3/3", "400 0/0 -/-", "400 0/0 -/-", "200 0/0 -/-"]
    );
    let told = told(&s, 9);
    assert_eq!(
        told[4],
        format!("error: broken header: \"GET / HTTP/1.0\" {place}")
    );
    assert_eq!(
        told[6],
        format!("error: broken header: \"PROXY TCP4 1.2\" {place}")
    );
    assert_eq!(
        told[8],
        format!("info: client timed out (110: Connection timed out) {place}")
    );
    assert_eq!(backend.connections(), 1);
}

#[test]
fn the_address_it_goes_out_from() {
    let backend = Backend::raw(|mut conn, _| {
        let ip = conn.tcp().peer_addr().unwrap().ip();
        let _ = conn.try_send(ip.to_string().as_bytes());
    });
    let mut s = stream(
        &format!(
            "{LOG}
            map $server_port $mine {{ default 127.0.0.3; }}
            proxy_bind 127.0.0.2;
            server {{ listen 127.0.0.1:%%P0%%; proxy_pass 127.0.0.1:%%B0%%; }}
            server {{ listen 127.0.0.1:%%P1%%; proxy_pass 127.0.0.1:%%B0%%; proxy_bind $mine; }}
            server {{ listen 127.0.0.1:%%P2%%; proxy_pass 127.0.0.1:%%B0%%; proxy_bind off; }}
            server {{ listen 127.0.0.1:%%P3%%; proxy_pass 127.0.0.1:%%B0%%; proxy_bind 192.0.2.7; }}"
        ),
        &[&backend],
    );
    for (port, expected) in ["127.0.0.2", "127.0.0.3", "127.0.0.1"].iter().enumerate() {
        assert_eq!(Conn::to(s.port(port)).rest(), expected.as_bytes());
    }
    Conn::to(s.port(3)).assert_closed();
    s.wait_for_text(
        "error.log",
        "bind(192.0.2.7) failed (99: Cannot assign requested address) while connecting to upstream",
    );
    s.expect_alerts();
    assert_eq!(s.lines("access.log", 4)[3], "500 0/0 0/0");
}

#[test]
fn as_if_from_the_client() {
    let backend = Backend::raw(|mut conn, _| {
        let ip = conn.tcp().peer_addr().unwrap().ip();
        let _ = conn.try_send(ip.to_string().as_bytes());
    });
    if !is_root() {
        eprintln!("skipped: transparent needs a privilege");
        return;
    }
    // An address of nobody's: only with the privilege may it be bound.
    let s = Setup::stream(
        "server { listen 127.0.0.1:%%P0%%; proxy_pass 127.0.0.1:%%B0%%;
                  proxy_bind 192.0.2.7 transparent; }",
    )
    .globals("daemon off; user nobody nogroup; pid nginx.pid; error_log error.log info;")
    .backends(&[&backend])
    .start();
    let mut conn = s.connect();
    // Nobody routes the answer back, so the connection never stands; what counts is that the bind
    // is not refused.
    conn.send("x");
    assert!(!holds_within(Duration::from_millis(300), || {
        s.error_log().contains("bind(") || s.error_log().contains("setsockopt(")
    }));
}

fn is_root() -> bool {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

#[test]
fn where_variables_lead() {
    let backend = scripted();
    let s = stream(
        &format!(
            "{LOG}
            map $server_port $to {{
                %%P0%% 127.0.0.1:%%B0%%;
                %%P1%% group;
                %%P2%% nowhere;
                %%P3%% no.such.name:80;
                default '';
            }}
            upstream group {{ server 127.0.0.1:%%B0%%; }}
            server {{
                listen 127.0.0.1:%%P0%%;
                listen 127.0.0.1:%%P1%%;
                listen 127.0.0.1:%%P2%%;
                listen 127.0.0.1:%%P3%%;
                proxy_pass $to;
            }}"
        ),
        &[&backend],
    );
    for port in [0, 1] {
        let mut conn = Conn::to(s.port(port));
        assert_eq!(conn.send("abc").take(3), b"abc");
        drop(conn);
        assert_eq!(s.lines("access.log", port + 1)[port], "200 3/3 3/3");
    }
    for (port, message) in [
        (2, "no port in upstream \"nowhere\""),
        (3, "no resolver defined to resolve no.such.name"),
    ] {
        Conn::to(s.port(port)).assert_closed();
        assert_eq!(s.lines("access.log", port + 1)[port], "500 0/0 -/-");
        let place = format!(
            "{message}, client: 127.0.0.1, server: 127.0.0.1:{}, bytes from/to client:0/0, \
             bytes from/to upstream:0/0",
            s.port(port)
        );
        s.wait_for_text("error.log", &place);
    }
}

#[test]
fn sessions_go_with_their_server() {
    if skip_on_nginx("it is in the commercial one") {
        return;
    }
    let dns = Dns::start(1);
    dns.set("db.test", &["127.0.0.1"]);
    let backend = scripted();
    let s = Setup::stream(&format!(
        "{LOG}
        resolver 127.0.0.1:%%DNS%% valid=1s;
        upstream db {{ zone z 64k; server db.test:%%B0%% resolve; }}
        server {{ listen 127.0.0.1:%%P0%%; proxy_pass db; proxy_session_drop on; }}
        server {{ listen 127.0.0.1:%%P1%%; proxy_pass db; }}"
    ))
    .backends(&[&backend])
    .value("DNS", dns.port)
    .start();
    let connected = |port: usize| {
        let mut conn = Conn::to(s.port(port));
        (conn.try_send(b"abc").is_ok() && conn.try_take(3).is_some()).then_some(conn)
    };
    let mut dropped = None;
    wait_for("the name to be known", || {
        dropped = connected(0);
        dropped.is_some()
    });
    let mut kept = connected(1).unwrap();
    dns.set("db.test", &["127.0.0.9"]);
    dropped.unwrap().assert_closed();
    assert_eq!(kept.send("abc").take(3), b"abc");
}
