//! Listening sockets: families, several servers on one, the PROXY protocol.

use std::net::TcpListener;
use std::os::unix::fs::FileTypeExt;

use crate::common::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// IPv6 may be switched off where the tests run.
fn has_ipv6() -> bool {
    let has = TcpListener::bind("[::1]:0").is_ok();
    if !has {
        eprintln!("skipped: no IPv6 on this machine");
    }
    has
}

#[test]
fn ipv6() {
    if !has_ipv6() {
        return;
    }
    let s = http(
        r#"
        server { listen [::1]:%%P0%%; return 200 "$server_addr $remote_addr $server_port"; }
        server { listen [::]:%%P1%% ipv6only=on; return 200 six; }
        server { listen 127.0.0.1:%%P1%%; return 200 four; }
        server { listen [::]:%%P2%% ipv6only=off; return 200 "$remote_addr"; }
    "#,
        &[],
    );
    let ask = |addr: String| Conn::to_addr(&addr).send(GET).response().text();
    assert_eq!(
        ask(format!("[::1]:{}", s.port(0))),
        format!("::1 ::1 {}", s.port(0))
    );
    assert_eq!(ask(format!("[::1]:{}", s.port(1))), "six");
    assert_eq!(ask(format!("127.0.0.1:{}", s.port(1))), "four");
    assert_eq!(ask(format!("[::1]:{}", s.port(2))), "::1");
    assert_eq!(ask(format!("127.0.0.1:{}", s.port(2))), "::ffff:127.0.0.1");
}

#[test]
fn unix_sockets() {
    let mut s = http(
        r#"
        server {
            listen unix:%%DIR%%/one.sock;
            server_name a;
            return 200 "a $remote_addr $server_addr";
        }
        server { listen unix:%%DIR%%/one.sock; server_name b; return 200 b; }
        server { listen unix:%%DIR%%/two.sock; return 200 two; }
    "#,
        &[],
    );
    let ask = |socket: &str, host: &str| {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        Conn::unix(s.path(socket)).send(request).response().text()
    };
    let expected = format!("a unix: unix:{}", s.path("one.sock").display());
    assert_eq!(ask("one.sock", "a"), expected);
    assert_eq!(ask("one.sock", "b"), "b");
    assert_eq!(ask("two.sock", "b"), "two");
    assert!(
        s.path("one.sock")
            .metadata()
            .unwrap()
            .file_type()
            .is_socket()
    );
    s.reload();
    assert_eq!(
        Conn::unix(s.path("two.sock")).send(GET).response().text(),
        "two",
        "the socket survives a reload"
    );
    s.stop();
    assert!(!s.path("one.sock").exists());
}

#[test]
fn several_servers_and_addresses() {
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%%;
            listen 127.0.0.1:%%P1%%;
            server_name a;
            return 200 "a $server_port";
        }
        server {
            listen 127.0.0.1:%%P1%% default_server;
            server_name b;
            return 200 "b $server_port";
        }
        server { listen 127.0.0.2:%%P0%%; return 200 "other address"; }
        server { listen %%P2%%; return 200 "any $server_addr"; }
        server { listen 127.0.0.3:%%P2%%; return 200 "three"; }
        server { listen *:%%P3%%; return 200 star; }
        server { listen localhost:%%P4%%; return 200 name; }
    "#,
        &[],
    );
    let ask = |ip: &str, n: usize, host: &str| {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        Conn::to_addr(&format!("{ip}:{}", s.port(n)))
            .send(request)
            .response()
            .text()
    };
    assert_eq!(ask("127.0.0.1", 0, "x"), format!("a {}", s.port(0)));
    assert_eq!(ask("127.0.0.1", 1, "x"), format!("b {}", s.port(1)));
    assert_eq!(ask("127.0.0.1", 1, "a"), format!("a {}", s.port(1)));
    assert_eq!(ask("127.0.0.2", 0, "a"), "other address");
    assert_eq!(ask("127.0.0.1", 2, "x"), "any 127.0.0.1");
    assert_eq!(ask("127.0.0.4", 2, "x"), "any 127.0.0.4");
    assert_eq!(ask("127.0.0.3", 2, "x"), "three");
    assert_eq!(ask("127.0.0.1", 3, "x"), "star");
    assert_eq!(ask("127.0.0.1", 4, "x"), "name");
}

#[test]
fn socket_options_are_accepted() {
    let s = http(
        r#"
        server {
            listen 127.0.0.1:%%P0%% default_server backlog=64 rcvbuf=64k sndbuf=64k
                so_keepalive=on deferred;
            listen 127.0.0.1:%%P1%% so_keepalive=30m::10 reuseport;
            listen 127.0.0.1:%%P2%% fastopen=16 so_keepalive=off;
            return 200 x;
        }
    "#,
        &[],
    );
    for n in 0..3 {
        assert_eq!(Conn::to(s.port(n)).send(GET).response().text(), "x");
    }
}

#[test]
fn reuseport_with_several_workers() {
    let conf = r#"
        worker_processes 2;
        events {}
        http { %%HTTP%% server { listen 127.0.0.1:%%P0%% reuseport; return 200 $pid; } }
    "#;
    let s = full(conf, &[]);
    for _ in 0..50 {
        assert_eq!(s.get("/").status, 200);
    }
}

const PROXIED: &str = r#"
    server {
        listen 127.0.0.1:%%P0%% proxy_protocol;
        set $client "$proxy_protocol_addr $proxy_protocol_port";
        set $server "$proxy_protocol_server_addr $proxy_protocol_server_port";
        return 200 "$client $server $remote_addr";
    }
"#;

#[test]
fn proxy_protocol_v1() {
    let s = http(PROXIED, &[]);
    let ask = |line: &str| s.exchange(format!("{line}{GET}"));
    let body = |line: &str| {
        ask(line)
            .rsplit("\r\n\r\n")
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    assert_eq!(
        body("PROXY TCP4 192.0.2.1 192.0.2.2 1234 5678\r\n"),
        "192.0.2.1 1234 192.0.2.2 5678 127.0.0.1"
    );
    assert_eq!(
        body("PROXY TCP6 2001:db8::1 2001:db8::2 1234 5678\r\n"),
        "2001:db8::1 1234 2001:db8::2 5678 127.0.0.1"
    );
    assert_eq!(body("PROXY UNKNOWN\r\n"), "    127.0.0.1");
    assert_eq!(body("PROXY UNKNOWN and more\r\n"), "    127.0.0.1");
    for bad in [
        "",
        "PROXY TCP4 192.0.2.1\r\n",
        "PROXY TCP5 1 2 3 4\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 123456 5678\r\n",
        "proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
    ] {
        assert_eq!(ask(bad), "", "{bad:?}");
    }
    s.wait_for_text("error.log", "broken header: \"GET / HTTP/1.1");
}

#[test]
fn proxy_protocol_v2() {
    let s = http(PROXIED, &[]);
    const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
    let ask = |header: &[u8]| {
        let bytes = [SIGNATURE, header, GET.as_bytes()].concat();
        s.exchange(bytes)
            .rsplit("\r\n\r\n")
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    let v4 = [
        0x21, 0x11, 0, 12, 192, 0, 2, 1, 192, 0, 2, 2, 4, 210, 22, 46,
    ];
    assert_eq!(ask(&v4), "192.0.2.1 1234 192.0.2.2 5678 127.0.0.1");
    let mut v6 = vec![0x21, 0x21, 0, 36];
    v6.extend(
        "2001:db8::1"
            .parse::<std::net::Ipv6Addr>()
            .unwrap()
            .octets(),
    );
    v6.extend(
        "2001:db8::2"
            .parse::<std::net::Ipv6Addr>()
            .unwrap()
            .octets(),
    );
    v6.extend([4, 210, 22, 46]);
    assert_eq!(ask(&v6), "2001:db8::1 1234 2001:db8::2 5678 127.0.0.1");
    // With a TLV behind the addresses; LOCAL, which has none.
    let mut tlv = v4.to_vec();
    tlv[3] = 12 + 4;
    tlv.extend([4, 0, 1, 9]);
    assert_eq!(ask(&tlv), "192.0.2.1 1234 192.0.2.2 5678 127.0.0.1");
    assert_eq!(ask(&[0x20, 0, 0, 0]), "    127.0.0.1");
    assert_eq!(ask(&[0x31, 0x11, 0, 0]), "", "version 3");
}

#[test]
fn proxy_protocol_in_pieces() {
    let s = http(PROXIED, &[]);
    let line = "PROXY TCP4 192.0.2.1 192.0.2.2 1234 5678\r\n";
    let mut c = s.connect();
    c.send(format!("{line}GET / HT"));
    // So that the header is a read of its own.
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert!(
        c.send(&GET[8..])
            .response()
            .text()
            .starts_with("192.0.2.1 1234")
    );
}

#[test]
fn defaults_of_listen() {
    // As root, a server without listen is on port 80, which may be taken: -t says enough.
    let (output, _s) = Setup::http("server { return 200; }").args(&["-t"]).run();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success() || text.contains("bind() to 0.0.0.0:80"),
        "{text}"
    );
}

#[test]
fn worker_connections_are_a_limit() {
    let conf = r#"
        events { worker_connections 16; }
        http { %%HTTP%% server { listen 127.0.0.1:%%P0%%; location / { return 200 x; } } }
    "#;
    let mut s = full(conf, &[]);
    s.expect_alerts();
    assert_eq!(s.get("/").status, 200);
    let many: Vec<Conn> = (0..40).map(|_| s.connect()).collect();
    s.wait_for_text("error.log", "16 worker_connections are not enough");
    drop(many);
    // Once they are gone there is room again.
    wait_for("an answer", || {
        let mut c = s.connect();
        c.set_read_timeout(std::time::Duration::from_secs(1));
        let sent = c.try_send(GET.as_bytes());
        sent.is_ok() && c.try_response("GET").is_ok_and(|r| r.status == 200)
    });
}

#[test]
fn idle_connections_make_room_for_new_ones() {
    let conf = r#"
        events { worker_connections 16; }
        http { %%HTTP%% server { listen 127.0.0.1:%%P0%%; location / { return 200 x; } } }
    "#;
    let mut s = full(conf, &[]);
    s.expect_alerts();
    // Three times as many as fit, each idle once it was served: all get their answer.
    let many: Vec<Conn> = (0..48)
        .map(|n| {
            let mut c = s.connect();
            c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(c.response().status, 200, "{n}");
            c
        })
        .collect();
    s.wait_for_text(
        "error.log",
        "16 worker_connections are not enough, reusing connections",
    );
    drop(many);
}

#[test]
fn connections_to_upstreams_count() {
    let b = Backend::silent();
    let conf = r#"
        events { worker_connections 16; }
        http {
            %%HTTP%%
            server { listen 127.0.0.1:%%P0%%; location / { proxy_pass http://127.0.0.1:%%B0%%; } }
        }
    "#;
    let mut s = full(conf, &[&b]);
    s.expect_alerts();
    let mut busy: Vec<Conn> = (0..15)
        .map(|_| {
            let mut c = s.connect();
            c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            c
        })
        .collect();
    s.wait_for_text(
        "error.log",
        "16 worker_connections are not enough while connecting to upstream",
    );
    // Those that found no room have their answer; the others wait for theirs.
    let mut refused = 0;
    for c in &mut busy {
        c.set_read_timeout(std::time::Duration::from_millis(20));
        if let Ok(r) = c.try_response("GET") {
            assert_eq!(r.status, 500);
            refused += 1;
        }
    }
    assert!((1..15).contains(&refused), "{refused}");
    assert!(b.connections() <= 8, "{}", b.connections());
}

#[test]
fn a_late_request_behind_the_proxy_protocol() {
    let s = http(PROXIED, &[]);
    let mut c = s.connect();
    c.send("PROXY TCP4 192.0.2.1 192.0.2.2 1234 5678\r\n");
    // Longer than a connection keeps its buffers while nothing comes.
    std::thread::sleep(std::time::Duration::from_millis(1700));
    let text = c.send(GET).response().text();
    assert_eq!(text, "192.0.2.1 1234 192.0.2.2 5678 127.0.0.1");
}
