//! `listen` in `stream`: addresses, ranges of ports, parameters, and what nginx says of mistakes.

use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use crate::common::*;

/// Tells the port of the server that took the connection.
fn telling() -> Backend {
    Backend::raw(|mut conn, _| {
        let _ = conn.try_send(b"here");
    })
}

/// A free port with two free ones behind it.
fn three_ports() -> (u16, Vec<ports::Port>) {
    loop {
        let mut reserved: Vec<ports::Port> = (0..3).map(|_| ports::reserve()).collect();
        reserved.sort_by_key(|port| port.number);
        let first = reserved[0].number;
        if reserved[2].number == first + 2 {
            return (first, reserved);
        }
    }
}

#[test]
fn a_range_of_ports() {
    let backend = telling();
    let (first, _reserved) = three_ports();
    let s = Setup::stream(
        "log_format port $server_addr:$server_port;
         access_log %%DIR%%/access.log port;
         server { listen 127.0.0.1:%%FIRST%%-%%LAST%%; proxy_pass 127.0.0.1:%%B0%%; }",
    )
    .backends(&[&backend])
    .value("FIRST", first)
    .value("LAST", first + 2)
    .start();
    for (index, port) in (first..first + 3).enumerate() {
        assert_eq!(Conn::to(port).rest(), b"here");
        assert_eq!(
            s.lines("access.log", index + 1)[index],
            format!("127.0.0.1:{port}")
        );
    }
}

#[test]
fn a_range_of_ports_in_http() {
    let (first, _reserved) = three_ports();
    let _s =
        Setup::http("server { listen 127.0.0.1:%%FIRST%%-%%LAST%%; return 200 $server_port; }")
            .value("FIRST", first)
            .value("LAST", first + 2)
            .start();
    for port in first..first + 3 {
        let answer = Conn::to(port).send("GET / HTTP/1.0\r\n\r\n").response();
        assert_eq!(answer.text(), port.to_string());
    }
}

#[test]
fn every_way_to_write_an_address() {
    let backend = telling();
    let s = stream(
        "log_format place '$server_addr $server_port $remote_addr';
         access_log %%DIR%%/access.log place;
         server {
             listen %%P0%%;
             listen *:%%P1%%;
             listen [::1]:%%P2%%;
             listen localhost:%%P3%%;
             listen unix:%%DIR%%/s;
             proxy_pass 127.0.0.1:%%B0%%;
         }",
        &[&backend],
    );
    for port in [0, 1, 3] {
        assert_eq!(Conn::to(s.port(port)).rest(), b"here");
    }
    let mut v6 = Conn::over(TcpStream::connect(("::1", s.port(2))).unwrap());
    assert_eq!(v6.rest(), b"here");
    assert_eq!(Conn::unix(s.path("s")).rest(), b"here");
    let lines = s.lines("access.log", 5);
    let expected = [0, 1, 3].map(|port| format!("127.0.0.1 {} 127.0.0.1", s.port(port)));
    assert_eq!(lines[..3], expected);
    assert_eq!(lines[3], format!("::1 {} ::1", s.port(2)));
    assert_eq!(lines[4], format!("unix:{}  unix:", s.path("s").display()));
}

#[test]
fn socket_options() {
    let backend = telling();
    let s = stream(
        "server {
             listen 127.0.0.1:%%P0%% bind backlog=7 rcvbuf=64k sndbuf=64k
                    so_keepalive=30:5:3 reuseport fastopen=16;
             listen [::]:%%P1%% ipv6only=off so_keepalive=on;
             proxy_pass 127.0.0.1:%%B0%%;
             tcp_nodelay off;
         }",
        &[&backend],
    );
    assert_eq!(s.connect().rest(), b"here");
    assert_eq!(Conn::to(s.port(1)).rest(), b"here", "both families");
}

#[test]
fn addresses_come_and_go_with_reloads() {
    let backend = telling();
    let server = |listen: &str| {
        format!("server {{ listen 127.0.0.1:{listen}; proxy_pass 127.0.0.1:%%B0%%; }}")
    };
    let mut setup = Setup::stream(&server("%%P0%%"));
    setup.reserve(1);
    let s = setup.backends(&[&backend]).start();
    assert_eq!(s.connect().rest(), b"here");
    assert!(TcpStream::connect(("127.0.0.1", s.port(1))).is_err());
    s.write_stream(&server("%%P1%%"));
    s.signal(libc::SIGHUP);
    wait_for("the new address to be served", || {
        TcpStream::connect(("127.0.0.1", s.port(1))).is_ok()
    });
    wait_for("the old address to close", || {
        TcpStream::connect(("127.0.0.1", s.port(0))).is_err()
    });
    assert_eq!(Conn::to(s.port(1)).rest(), b"here");
}

#[test]
fn an_address_goes_from_http_to_stream_and_back() {
    if skip_on_nginx("it cannot hand an address over") {
        return;
    }
    let backend = telling();
    let conf = |is_http: bool| match is_http {
        true => "events {} http { %%HTTP%% server { listen 127.0.0.1:%%P0%%; return 200; } }",
        false => {
            "events {} stream { server { listen 127.0.0.1:%%P0%%; proxy_pass 127.0.0.1:%%B0%%; } }"
        }
    };
    let s = full(conf(true), &[&backend]);
    for is_http in [false, true, false] {
        s.write_conf(conf(is_http));
        s.signal(libc::SIGHUP);
        wait_for("the other kind of server", || {
            let answer = s.connect().send("GET / HTTP/1.0\r\n\r\n").rest();
            answer.starts_with(if is_http { b"HTTP" } else { b"here" })
        });
    }
}

#[test]
fn a_unix_socket_goes_with_the_process() {
    let backend = telling();
    let mut s = stream(
        "server { listen unix:%%DIR%%/s; proxy_pass 127.0.0.1:%%B0%%; }",
        &[&backend],
    );
    assert!(UnixStream::connect(s.path("s")).is_ok());
    assert!(s.stop().success());
    assert!(!s.path("s").exists());
}

/// The first line of `-t`, with the path of the file as FILE.
fn mistake(conf: &str) -> String {
    let (output, s) = Setup::full(&format!("%%MODULES%% events {{}} {conf}"))
        .globals("")
        .args(&["-t"])
        .run();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let file = s.path("nginx.conf").display().to_string();
    let line = text.lines().next().unwrap_or_default();
    let line = line.replace(&file, "FILE");
    let start = format!("{}: [emerg] ", prog());
    line.strip_prefix(&start).unwrap_or(&line).to_owned()
}

fn all_differ(cases: &[(String, &str)]) {
    let mut wrong = Vec::new();
    for (conf, expected) in cases {
        let got = mistake(conf);
        let expected = format!("{expected} in FILE:1");
        if got != expected {
            wrong.push(format!("{conf}\n  expected {expected}\n       got {got}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn mistakes_in_listen() {
    let listen =
        |text: &str| format!("stream {{ server {{ listen {text}; proxy_pass 127.0.0.1:1; }} }}");
    let cases = [
        (
            "127.0.0.1:7010-7000",
            "invalid port range in \"127.0.0.1:7010-7000\" of the \"listen\" directive",
        ),
        (
            "127.0.0.1:7010-70000",
            "invalid port in \"127.0.0.1:7010-70000\" of the \"listen\" directive",
        ),
        (
            "127.0.0.1:0",
            "invalid port in \"127.0.0.1:0\" of the \"listen\" directive",
        ),
        (
            "unix:",
            "no path in the unix domain socket in \"unix:\" of the \"listen\" directive",
        ),
        (
            "no.such.name:80",
            "host not found in \"no.such.name:80\" of the \"listen\" directive",
        ),
        ("127.0.0.1:7010 wrong", "the invalid \"wrong\" parameter"),
        ("127.0.0.1:7010 backlog=0", "invalid backlog \"backlog=0\""),
        ("127.0.0.1:7010 rcvbuf=x", "invalid rcvbuf \"rcvbuf=x\""),
        ("127.0.0.1:7010 sndbuf=", "invalid sndbuf \"sndbuf=\""),
        (
            "127.0.0.1:7010 fastopen=x",
            "invalid fastopen \"fastopen=x\"",
        ),
        (
            "127.0.0.1:7010 so_keepalive=x",
            "invalid so_keepalive value: \"x\"",
        ),
        (
            "127.0.0.1:7010 so_keepalive=::",
            "invalid so_keepalive value: \"::\"",
        ),
        (
            "[::1]:7010 ipv6only=x",
            "the invalid \"ipv6only=x\" parameter",
        ),
        (
            "127.0.0.1:7010 udp backlog=5",
            "\"listen\" directive \"backlog\" parameter is incompatible with \"udp\"",
        ),
        (
            "127.0.0.1:7010 udp so_keepalive=on",
            "\"listen\" directive \"so_keepalive\" parameter is incompatible with \"udp\"",
        ),
        (
            "127.0.0.1:7010 udp proxy_protocol",
            "\"listen\" directive \"proxy_protocol\" parameter is incompatible with \"udp\"",
        ),
    ];
    all_differ(&cases.map(|(text, expected)| (listen(text), expected)));
}

#[test]
fn mistakes_in_servers() {
    let server = |text: &str| format!("stream {{ server {{ {text} }} }}");
    let pass = |text: &str| server(&format!("listen 7010; proxy_pass 127.0.0.1:1; {text}"));
    all_differ(&[
        (server("listen 127.0.0.1:7010;"), "no handler for server"),
        (
            server("proxy_pass 127.0.0.1:1;"),
            "no \"listen\" is defined for server",
        ),
        (
            pass("proxy_pass 127.0.0.1:2;"),
            "\"proxy_pass\" directive is duplicate",
        ),
        (
            server("listen 1; proxy_pass 127.0.0.1;"),
            "no port in upstream \"127.0.0.1\"",
        ),
        (
            server("listen 1; proxy_pass nope;"),
            "no port in upstream \"nope\"",
        ),
        (
            server("listen 1; proxy_pass nope.invalid:80;"),
            "host not found in upstream \"nope.invalid\"",
        ),
        (
            server("listen 1; proxy_pass unix:;"),
            "no path in the unix domain socket in upstream \"unix:\"",
        ),
        (
            server("listen 1; proxy_pass \"\";"),
            "no host in upstream \"\"",
        ),
        (
            server("listen 1; proxy_pass http://a:80;"),
            "invalid host in upstream \"http://a:80\"",
        ),
        (
            server("listen 1; proxy_pass 127.0.0.1:99999;"),
            "invalid port in upstream \"127.0.0.1:99999\"",
        ),
        (
            server("listen 1; proxy_pass 127.0.0.1:80-90;"),
            "invalid port in upstream \"127.0.0.1:80-90\"",
        ),
        (pass("proxy_bind 1;"), "invalid address \"1\""),
        (
            pass("proxy_bind 127.0.0.1:12x;"),
            "invalid address \"127.0.0.1:12x\"",
        ),
        (pass("proxy_bind 127.0.0.1 y;"), "invalid parameter \"y\""),
        (pass("proxy_bind off x;"), "invalid address \"off\""),
        (
            pass("proxy_upload_rate x;"),
            "\"proxy_upload_rate\" directive invalid value",
        ),
        (
            pass("proxy_timeout x;"),
            "\"proxy_timeout\" directive invalid value",
        ),
        (
            pass("proxy_next_upstream error;"),
            "invalid value \"error\" in \"proxy_next_upstream\" directive, it must be \"on\" or \"off\"",
        ),
        (
            pass("tcp_nodelay x;"),
            "invalid value \"x\" in \"tcp_nodelay\" directive, it must be \"on\" or \"off\"",
        ),
        (pass("access_log /dev/null;"), "log format is not specified"),
        (
            pass("access_log /dev/null combined;"),
            "unknown log format \"combined\"",
        ),
        (pass("root /;"), "\"root\" directive is not allowed here"),
        (
            "stream { } stream { }".into(),
            "\"stream\" directive is duplicate",
        ),
        (
            "stream { upstream a { server 127.0.0.1; } }".into(),
            "no port in upstream \"127.0.0.1\"",
        ),
        (
            "stream { upstream a { server 127.0.0.1:1; } upstream a { server 127.0.0.1:1; } }"
                .into(),
            "duplicate upstream \"a\"",
        ),
    ]);
}

#[test]
fn servers_that_share_an_address() {
    if skip_on_nginx("1.22 has no server names in stream") {
        return;
    }
    let two = |one: &str, other: &str| {
        let server = |listen: &str| format!("server {{ {listen} proxy_pass 127.0.0.1:1; }}");
        format!("stream {{ {} {} }}", server(one), server(other))
    };
    all_differ(&[
        (
            two("listen 7010; listen 7010;", "listen 1;"),
            "a duplicate listen 7010",
        ),
        (
            two("listen 7010-7012; listen 7011;", "listen 1;"),
            "a duplicate listen 7011",
        ),
        (
            two("listen 7010 backlog=5;", "listen 7010 backlog=6;"),
            "duplicate listen options for 0.0.0.0:7010",
        ),
        (
            two(
                "listen 7010 default_server;",
                "listen 7000-7020 default_server;",
            ),
            "a duplicate default server for 0.0.0.0:7010",
        ),
        (
            two("listen 127.0.0.1;", "listen 1;"),
            "no port in \"127.0.0.1\" of the \"listen\" directive",
        ),
    ]);
    let both = "http { server { listen 7010; } }
                stream { server { listen 7000-7020; proxy_pass 127.0.0.1:1; } }";
    assert_eq!(
        mistake(both),
        "duplicate \"0.0.0.0:7010\" address and port pair"
    );
}
