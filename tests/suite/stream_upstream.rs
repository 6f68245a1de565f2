//! Groups of servers in `stream`: how sessions are spread, and what happens to a server that fails.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::common::*;

/// Servers that greet with their letter and stay until the client leaves.
fn letters(count: usize) -> Vec<Backend> {
    ["a", "b", "c", "d", "e"][..count]
        .iter()
        .map(|letter| {
            Backend::raw(move |mut conn, _| {
                let _ = conn.try_send(letter.as_bytes());
                conn.drain();
            })
        })
        .collect()
}

/// Start with one listener, on the group `u`.
fn group(body: &str, backends: &[&Backend]) -> Server {
    stream(&conf(body), backends)
}

fn conf(body: &str) -> String {
    format!(
        "log_format t '$status $upstream_addr'; access_log %%DIR%%/access.log t;
         proxy_connect_timeout 500ms;
         upstream u {{ {body} }}
         server {{ listen 127.0.0.1:%%P0%%; proxy_pass u; }}"
    )
}

/// A session that goes on.
fn hold(s: &Server) -> (String, Conn) {
    greeted(s.connect())
}

fn greeted(mut conn: Conn) -> (String, Conn) {
    let letter = conn.try_take(1).unwrap_or_default();
    (String::from_utf8_lossy(&letter).into_owned(), conn)
}

/// The letters that sessions get, one after the other; `-` where the connection is just closed.
fn sequence(s: &Server, count: usize) -> String {
    let one = |_| match hold(s).0.as_str() {
        "" => "-".to_owned(),
        letter => letter.to_owned(),
    };
    (0..count).map(one).collect()
}

/// Wait until the proxy has noticed that sessions are over.
fn settle(backends: &[Backend]) {
    wait_for("the end of the sessions", || {
        backends.iter().all(|backend| backend.open() == 0)
    });
}

#[test]
fn turns_follow_the_weights() {
    let b = letters(3);
    let s = group(
        "server 127.0.0.1:%%B0%% weight=3; server 127.0.0.1:%%B1%%; server 127.0.0.1:%%B2%%;",
        &[&b[0], &b[1], &b[2]],
    );
    assert_eq!(sequence(&s, 10), "abacaabaca");
}

#[test]
fn backup_and_down() {
    let mut b = letters(3);
    let s = group(
        "server 127.0.0.1:%%B0%% down; server 127.0.0.1:%%B1%% backup; server 127.0.0.1:%%B2%%;",
        &[&b[0], &b[1], &b[2]],
    );
    assert_eq!(sequence(&s, 3), "ccc");
    b[2].stop();
    assert_eq!(sequence(&s, 3), "bbb");
    b[1].stop();
    assert_eq!(sequence(&s, 1), "-");
    let unavailable = "upstream server temporarily disabled while connecting to upstream, client:";
    s.wait_for_text("error.log", unavailable);
    assert_eq!(sequence(&s, 1), "-");
    let nobody = format!(
        "no live upstreams while connecting to upstream, client: 127.0.0.1, server: 127.0.0.1:{}, \
         upstream: \"u\", bytes from/to client:0/0, bytes from/to upstream:0/0",
        s.port(0)
    );
    s.wait_for_text("error.log", &nobody);
    assert_eq!(s.lines("access.log", 8)[7], "502 u");
}

#[test]
fn max_conns() {
    let b = letters(2);
    let s = group(
        "zone u 64k;
         server 127.0.0.1:%%B0%% max_conns=2; server 127.0.0.1:%%B1%% max_conns=1;",
        &[&b[0], &b[1]],
    );
    let held: Vec<_> = (0..3).map(|_| hold(&s)).collect();
    let letters: String = held.iter().map(|(letter, _)| letter.as_str()).collect();
    assert_eq!(letters, "aba");
    assert_eq!(sequence(&s, 2), "--");
    drop(held);
    settle(&b);
    let all = sequence(&s, 4);
    assert!(all.contains('a') && !all.contains('-'), "{all}");
}

#[test]
fn max_conns_count_sessions_that_began_before_a_reload() {
    if skip_on_nginx("an old worker keeps sessions that new ones do not count") {
        return;
    }
    let b = letters(2);
    let text = "server 127.0.0.1:%%B0%% max_conns=1; server 127.0.0.1:%%B1%% backup;";
    let s = group(text, &[&b[0], &b[1]]);
    let held = hold(&s);
    assert_eq!(held.0, "a");
    s.write_stream(&conf(&format!("{text} least_conn;")));
    s.signal(libc::SIGHUP);
    s.wait_for_text("error.log", "reconfiguring");
    assert_eq!(sequence(&s, 5), "bbbbb");
    drop(held);
    wait_for("the free place", || sequence(&s, 1) == "a");
}

#[test]
fn a_refusing_server_is_left_alone_for_fail_timeout() {
    let mut b = letters(2);
    let s = group(
        "server 127.0.0.1:%%B0%% fail_timeout=2s; server 127.0.0.1:%%B1%%;",
        &[&b[0], &b[1]],
    );
    b[0].stop();
    let (first, second) = (b[0].port, b[1].port);
    assert_eq!(sequence(&s, 4), "bbbb", "no client notices");
    let stopped = Instant::now();
    let lines = s.lines("access.log", 4);
    assert_eq!(
        lines[0],
        format!("200 127.0.0.1:{first}, 127.0.0.1:{second}")
    );
    assert_eq!(lines[1..4], vec![format!("200 127.0.0.1:{second}"); 3]);
    b[0].restart();
    wait_for("the return of the first server", || sequence(&s, 1) == "a");
    assert!(stopped.elapsed() > Duration::from_secs(1));
    let both = sequence(&s, 6);
    assert_eq!(both.matches('a').count(), 3, "{both}");
}

#[test]
fn a_server_is_back_as_soon_as_it_takes_a_connection() {
    let mut b = letters(2);
    let s = group(
        "server 127.0.0.1:%%B0%% fail_timeout=1s weight=8; server 127.0.0.1:%%B1%%;",
        &[&b[0], &b[1]],
    );
    b[0].stop();
    assert_eq!(sequence(&s, 2), "bb");
    b[0].restart();
    // The session with which the server is tried again goes on; that it was taken is enough.
    let mut trial = None;
    wait_for("the return of the first server", || {
        trial = Some(hold(&s)).filter(|(letter, _)| letter == "a");
        trial.is_some()
    });
    let more = sequence(&s, 9);
    assert!(more.contains('a'), "{more}");
    assert!(trial.is_some_and(|(_, mut conn)| conn.try_send(b"x").is_ok()));
}

#[test]
fn max_fails() {
    let mut b = letters(2);
    let s = group(
        "server 127.0.0.1:%%B0%% max_fails=3 fail_timeout=60s; server 127.0.0.1:%%B1%%;",
        &[&b[0], &b[1]],
    );
    b[0].stop();
    assert_eq!(sequence(&s, 12), "bbbbbbbbbbbb");
    let first = format!("127.0.0.1:{},", b[0].port);
    let tried = |lines: &[String]| lines.iter().filter(|line| line.contains(&first)).count();
    assert_eq!(tried(&s.lines("access.log", 12)), 3);

    let never = group(
        "server 127.0.0.1:%%B0%% max_fails=0; server 127.0.0.1:%%B1%%;",
        &[&b[0], &b[1]],
    );
    assert_eq!(sequence(&never, 12), "bbbbbbbbbbbb");
    assert_eq!(tried(&never.lines("access.log", 12)), 6);
    assert!(!never.error_log().contains("temporarily disabled"));
}

/// A listener that takes no more connections, with those that fill it.
fn full_listener() -> (TcpListener, Vec<Socket>, u16) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    listener.bind(&any.into()).unwrap();
    listener.listen(0).unwrap();
    let listener = TcpListener::from(listener);
    let port = listener.local_addr().unwrap().port();
    let mut held = Vec::new();
    for _ in 0..4 {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let addr: SocketAddr = format!("127.0.0.1:{port}").parse().unwrap();
        let _ = socket.connect_timeout(&addr.into(), Duration::from_millis(100));
        held.push(socket);
    }
    (listener, held, port)
}

#[test]
fn the_next_server_after_a_timeout() {
    let b = letters(1);
    let (_listener, _held, port) = full_listener();
    let text = conf(
        "server 127.0.0.1:%%FULL%%; server 127.0.0.1:%%FULL%% max_fails=0;
         server 127.0.0.1:%%B0%%;",
    );
    let s = Setup::stream(&text)
        .backends(&[&b[0]])
        .value("FULL", port)
        .start();
    let mut conn = s.connect();
    conn.send("early bytes wait for a server");
    let started = Instant::now();
    assert_eq!(conn.take(1), b"a");
    assert!(started.elapsed() > Duration::from_millis(800));
    drop(conn);
    let line = &s.lines("access.log", 1)[0];
    let expected = format!(
        "200 127.0.0.1:{port}, 127.0.0.1:{port}, 127.0.0.1:{}",
        b[0].port
    );
    assert_eq!(*line, expected);
    s.wait_for_text(
        "error.log",
        "upstream timed out (110: Connection timed out) while connecting to upstream, client:",
    );
}

#[test]
fn tries_and_their_time_are_limited() {
    let b = letters(1);
    let (_listener, _held, port) = full_listener();
    let text = "log_format t '$status $upstream_addr'; access_log %%DIR%%/access.log t;
        proxy_connect_timeout 300ms;
        upstream u {
            server 127.0.0.1:%%FULL%% max_fails=0; server 127.0.0.1:%%FULL%% max_fails=0;
            server 127.0.0.1:%%B0%% backup;
        }
        server { listen 127.0.0.1:%%P0%%; proxy_pass u; proxy_next_upstream_tries 2; }
        server { listen 127.0.0.1:%%P1%%; proxy_pass u; proxy_next_upstream_timeout 200ms; }
        server { listen 127.0.0.1:%%P2%%; proxy_pass u; proxy_next_upstream off; }
        server { listen 127.0.0.1:%%P3%%; proxy_pass u; }";
    let s = Setup::stream(text)
        .backends(&[&b[0]])
        .value("FULL", port)
        .start();
    let full = format!("127.0.0.1:{port}");
    for (index, expected) in [
        (0, format!("502 {full}, {full}")),
        (1, format!("502 {full}")),
        (2, format!("502 {full}")),
        (3, format!("200 {full}, {full}, 127.0.0.1:{}", b[0].port)),
    ] {
        drop(greeted(Conn::to(s.port(index))));
        assert_eq!(s.lines("access.log", index + 1)[index], expected);
    }
}

/// A connection to `%%P0%%` from an address of its own.
fn connect_from(s: &Server, host: u8) -> Conn {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let from = SocketAddr::from(([127, 0, 1, host], 0));
    socket.bind(&from.into()).unwrap();
    let to = SocketAddr::from(([127, 0, 0, 1], s.port(0)));
    socket.connect(&to.into()).unwrap();
    Conn::over(TcpStream::from(socket))
}

/// Who serves which of thirty clients, when each asks twice.
fn places(s: &Server) -> BTreeMap<u8, String> {
    let place = |host| {
        let letter = greeted(connect_from(s, host)).0;
        assert_eq!(greeted(connect_from(s, host)).0, letter, "client {host}");
        (host, letter)
    };
    (1..=30).map(place).collect()
}

#[test]
fn a_hash_keeps_clients_on_their_server() {
    for consistent in ["", "consistent"] {
        let mut b = letters(3);
        let s = group(
            &format!(
                "hash $remote_addr {consistent};
                 server 127.0.0.1:%%B0%% fail_timeout=1s; server 127.0.0.1:%%B1%%;
                 server 127.0.0.1:%%B2%%;"
            ),
            &[&b[0], &b[1], &b[2]],
        );
        let before = places(&s);
        for letter in ["a", "b", "c"] {
            let count = before.values().filter(|place| *place == letter).count();
            assert!(count > 0, "{consistent}: {before:?}");
        }
        b[0].stop();
        let without = places(&s);
        for (host, place) in &before {
            match place.as_str() {
                "a" => assert_ne!(without[host], "a"),
                _ => assert_eq!(without[host], *place, "client {host} {consistent}"),
            }
        }
        b[0].restart();
        // It may come back between the two connections that `places` compares.
        wait_for("the return of the first server", || {
            let is_back =
                |(host, place): (&u8, &String)| greeted(connect_from(&s, *host)).0 == *place;
            before.iter().all(is_back)
        });
    }
}

#[test]
fn least_conn() {
    let b = letters(3);
    let s = group(
        "least_conn; server 127.0.0.1:%%B0%%; server 127.0.0.1:%%B1%% weight=2;
         server 127.0.0.1:%%B2%% backup;",
        &[&b[0], &b[1], &b[2]],
    );
    let mut held: Vec<_> = (0..9).map(|_| hold(&s)).collect();
    let count =
        |held: &[(String, Conn)], which| held.iter().filter(|(letter, _)| letter == which).count();
    assert_eq!((count(&held, "a"), count(&held, "b")), (3, 6));
    held.retain(|(letter, _)| letter == "b");
    wait_for("the end of the first server's sessions", || {
        b[0].open() == 0
    });
    assert_eq!(sequence(&s, 3), "aaa");
    assert_eq!(b[2].connections(), 0);
}

#[test]
fn random_ones() {
    let b = letters(3);
    for method in ["random;", "random two;", "random two least_conn;"] {
        let s = group(
            &format!(
                "{method} server 127.0.0.1:%%B0%%; server 127.0.0.1:%%B1%% weight=3;
                 server 127.0.0.1:%%B2%% down;"
            ),
            &[&b[0], &b[1], &b[2]],
        );
        let all = sequence(&s, 40);
        assert!(all.contains('a') && all.contains('b'), "{method} {all}");
        assert!(!all.contains('c') && !all.contains('-'), "{method} {all}");
    }
}

#[test]
fn least_time() {
    if skip_on_nginx("least_time came with nginx 1.31") {
        return;
    }
    let late_first = Backend::raw(|mut conn, _| {
        // What takes long is what the test is about.
        std::thread::sleep(Duration::from_millis(60));
        let _ = conn.try_send(b"a");
    });
    let late_last = Backend::raw(|mut conn, _| {
        let _ = conn.try_send(b"b");
        // Likewise.
        std::thread::sleep(Duration::from_millis(180));
    });
    let servers = "server 127.0.0.1:%%B0%%; server 127.0.0.1:%%B1%%;";
    let expected = [
        ("least_time first_byte", "abbbbbbb"),
        ("least_time last_byte", "abaaaaaa"),
        ("least_time last_byte inflight", "abaaaaaa"),
    ];
    for (method, expected) in expected {
        let s = group(&format!("{method}; {servers}"), &[&late_first, &late_last]);
        let one = |_| String::from_utf8_lossy(&s.connect().rest()).into_owned();
        let all: String = (0..8).map(one).collect();
        assert_eq!(all, expected, "{method}");
    }
    // Sessions that go on have said their first byte, and it counts at once.
    let slow = Backend::raw(|mut conn, _| {
        // Likewise.
        std::thread::sleep(Duration::from_millis(100));
        let _ = conn.try_send(b"a");
        conn.drain();
    });
    let quick = letters(2).remove(1);
    let s = group(
        &format!("least_time first_byte inflight; {servers}"),
        &[&slow, &quick],
    );
    let held: Vec<_> = (0..4).map(|_| hold(&s)).collect();
    let all: String = held.iter().map(|(letter, _)| letter.as_str()).collect();
    assert_eq!(all, "abbb");

    let s = group(
        &format!("least_time connect; {servers}"),
        &[&late_first, &late_last],
    );
    let one = |_| String::from_utf8_lossy(&s.connect().rest()).into_owned();
    let all: String = (0..6).map(one).collect();
    assert!(
        all.contains('a') && all.contains('b'),
        "equally fast: {all}"
    );
}

/// Servers `a` and `b` on one port, at 127.0.0.1 and 127.0.0.2.
fn two_addresses() -> u16 {
    let first = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = first.local_addr().unwrap().port();
    let second = TcpListener::bind(("127.0.0.2", port)).unwrap();
    for (listener, letter) in [(first, "a"), (second, "b")] {
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut conn = Conn::over(stream);
                let _ = conn.try_send(letter.as_bytes());
                std::thread::spawn(move || conn.drain());
            }
        });
    }
    port
}

#[test]
fn names_are_followed() {
    if skip_on_nginx("resolve came with nginx 1.27.3") {
        return;
    }
    let dns = Dns::start(1);
    let port = two_addresses();
    dns.set("db.test", &["127.0.0.1"]);
    let text = format!(
        "resolver 127.0.0.1:%%DNS%% ipv6=off; {}",
        conf("zone u 64k; server db.test:%%PORT%% resolve;")
    );
    let s = Setup::stream(&text)
        .value("DNS", dns.port)
        .value("PORT", port)
        .start();
    wait_for("the first address", || sequence(&s, 1) == "a");
    let (_, mut held) = hold(&s);
    dns.set("db.test", &["127.0.0.2"]);
    wait_for("the new address", || sequence(&s, 1) == "b");
    assert!(held.try_send(b"the session stays where it is").is_ok());
    dns.set("db.test", &["127.0.0.2", "127.0.0.1"]);
    wait_for("both addresses", || {
        let both = sequence(&s, 2);
        both == "ab" || both == "ba"
    });
}

#[test]
fn servers_by_srv_records() {
    if skip_on_nginx("service= came with nginx 1.27.3") {
        return;
    }
    let dns = Dns::start(1);
    let b = letters(3);
    let [first, second, third] = [0, 1, 2].map(|n: usize| b[n].port);
    dns.set("one.test", &["127.0.0.1"]);
    let records = [(1, 2, first, "one.test"), (1, 1, second, "one.test")];
    dns.set_services("_db._tcp.db.test", &records);
    let body = "resolver 127.0.0.1:%%DNS%% ipv6=off; server db.test service=db resolve;";
    let s = Setup::stream(&conf(body)).value("DNS", dns.port).start();
    wait_for("the first answer", || sequence(&s, 1) != "-");
    let sorted = || {
        let mut all: Vec<char> = sequence(&s, 6).chars().collect();
        all.sort_unstable();
        String::from_iter(all)
    };
    assert_eq!(sorted(), "aaaabb", "by the weights of the records");
    dns.set_services(
        "_db._tcp.db.test",
        &[(1, 1, 1, "one.test"), (2, 1, third, "one.test")],
    );
    wait_for("the record for when the first is out", || {
        sorted() == "cccccc"
    });
}

#[test]
fn what_an_upstream_of_stream_must_not_say() {
    for (body, message) in [
        ("server 127.0.0.1;", "no port in upstream \"127.0.0.1\" in "),
        (
            "server unix:;",
            "no path in the unix domain socket in upstream \"unix:\" in ",
        ),
        (
            "ip_hash; server 127.0.0.1:1;",
            "\"ip_hash\" directive is not allowed here in ",
        ),
        (
            "keepalive 4; server 127.0.0.1:1;",
            "\"keepalive\" directive is not allowed here in ",
        ),
        (
            "server 127.0.0.1:1 backup;",
            "no servers in upstream \"u\" in ",
        ),
        (
            "hash $remote_addr; server 127.0.0.1:1 backup;",
            "balancing method does not support parameter \"backup\" in ",
        ),
        (
            "server 127.0.0.1:1 weight=0;",
            "invalid parameter \"weight=0\" in ",
        ),
        ("", "no servers are inside upstream in "),
        (
            "server 127.0.0.1:1; } server { listen 127.0.0.1:%%P1%%; proxy_pass u:80;",
            "upstream \"u\" may not have port 80 in ",
        ),
    ] {
        let (output, s) = Setup::stream(&conf(body)).args(&["-t"]).run();
        assert!(!output.status.success(), "{body}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains(message), "{body}: {text}");
        drop(s);
    }
}
