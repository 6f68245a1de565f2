//! `proxy_ssl` in `stream`: handshakes with servers, whom to believe, sessions and their ends.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::tls::{Authority, Identity, TlsConn, client};
use crate::common::tls_front::{Manners, TlsFront, server};
use crate::common::*;
use crate::stream_tls::{converse, only};

/// A proxy on `%%P0%%` to the server on `%%T0%%`, which decrypts, and what a case adds to it.
fn proxy(conf: &str, front: &TlsFront) -> Setup {
    Setup::stream(&format!(
        "log_format facts '$status $bytes_received $bytes_sent $upstream_bytes_sent '
                          '$upstream_bytes_received $upstream_addr';
         server {{ listen 127.0.0.1:%%P0%%; access_log %%DIR%%/facts.log facts;
            proxy_ssl on; {conf} }}"
    ))
    .value("T0", front.port)
}

const PASS: &str = "proxy_pass 127.0.0.1:%%T0%%;";

/// Sends back what comes, with a word before it.
fn greeter() -> Backend {
    Backend::raw(|mut conn, _| {
        if let Some(all) = conn.try_until("\n") {
            conn.send(format!("you said {all}"));
            conn.rest();
        }
    })
}

fn front(backend: &Backend) -> TlsFront {
    TlsFront::new(backend.port, server(&Identity::new(&["localhost"]), false))
}

#[test]
fn a_plain_client_reaches_a_server_with_tls() {
    let backend = greeter();
    let front = front(&backend);
    let s = proxy(PASS, &front).start();
    let mut conn = s.connect();
    conn.send("hello\n");
    assert_eq!(conn.take(15), b"you said hello\n");
    conn.finish();
    assert_eq!(conn.rest(), b"");
    let lines = s.lines("facts.log", 1);
    assert_eq!(lines[0], format!("200 6 15 6 15 127.0.0.1:{}", front.port));
    // It was told in TLS that nothing more comes.
    wait_for("the end", || front.told() == 1);
    let seen = front.seen();
    // An address is no name, and nobody is told any by default.
    assert_eq!((&*seen[0].name, seen[0].resumed), ("", false));
    assert!(seen[0].certificate.is_none());
}

#[test]
fn a_server_that_speaks_first_is_heard() {
    let backend = Backend::raw(|mut conn, _| {
        conn.send("220 ready\r\n");
        conn.rest();
    });
    let front = front(&backend);
    let s = proxy(PASS, &front).start();
    assert_eq!(s.connect().take_until("\r\n"), "220 ready\r\n");
}

#[test]
fn names_are_told_and_verified() {
    let backend = greeter();
    let ca = Authority::new("Test CA");
    let own = ca.sign(&["inside.example"]);
    let front = TlsFront::new(backend.port, server(&own, false));
    let start = |conf: &str| {
        proxy(
            &format!(
                "proxy_ssl_verify on; proxy_ssl_trusted_certificate %%DIR%%/ca.pem; {conf} }}
                 upstream inside.example {{ server 127.0.0.1:%%T0%%; }}
                 server {{ listen 127.0.0.1:%%P7%%; return x;"
            ),
            &front,
        )
        .file("ca.pem", &ca.cert)
        .start()
    };
    let ask = |s: &Server| {
        let mut conn = s.connect();
        let _ = conn.try_send(b"hello\n");
        conn.try_take(15)
            .map(|said| String::from_utf8(said).unwrap())
    };
    let welcome = Some("you said hello\n".to_owned());
    // The name of the group, and one that is written.
    let s = start("proxy_pass inside.example; proxy_ssl_server_name on;");
    assert_eq!(ask(&s), welcome);
    assert_eq!(front.seen().last().unwrap().name, "inside.example");
    let s = start(
        "set $who inside; proxy_pass 127.0.0.1:%%T0%%; proxy_ssl_name $who.example:443;
         proxy_ssl_server_name on;",
    );
    assert_eq!(ask(&s), welcome);
    assert_eq!(front.seen().last().unwrap().name, "inside.example");

    let s = start("proxy_pass 127.0.0.1:%%T0%%; proxy_ssl_name other.example;");
    assert_eq!(ask(&s), None);
    s.wait_for_text(
        "error.log",
        "upstream SSL certificate does not match \"other.example\" while SSL handshaking to upstream, \
         client: 127.0.0.1, server: 127.0.0.1:",
    );
    assert!(s.lines("facts.log", 1)[0].starts_with("502 "));

    let stranger = Authority::new("Other CA");
    let s = proxy(
        "proxy_ssl_verify on; proxy_ssl_trusted_certificate %%DIR%%/ca.pem;
         proxy_ssl_name inside.example; proxy_pass 127.0.0.1:%%T0%%;",
        &front,
    )
    .file("ca.pem", stranger.cert)
    .start();
    assert_eq!(ask(&s), None);
    s.wait_for_text(
        "error.log",
        "upstream SSL certificate verify error: (21:unable to verify the first certificate) while \
         SSL handshaking to upstream",
    );
}

#[test]
fn a_server_that_asks_gets_our_certificate() {
    let backend = greeter();
    let own = Identity::new(&["the proxy"]);
    let front = TlsFront::new(backend.port, server(&Identity::new(&["localhost"]), true));
    for name in ["own", "$who"] {
        let s = proxy(
            &format!(
                "set $who own; proxy_ssl_certificate %%DIR%%/{name}.pem;
                 proxy_ssl_certificate_key %%DIR%%/{name}.key; {PASS}"
            ),
            &front,
        )
        .file("own.pem", &own.cert)
        .file("own.key", &own.key)
        .start();
        let mut conn = s.connect();
        conn.send("hello\n").take(15);
        assert!(front.seen().last().unwrap().certificate == Some(own.der()));
    }
}

#[test]
fn sessions_are_resumed_if_they_may_be() {
    let backend = greeter();
    for (conf, resumed) in [("", true), ("proxy_ssl_session_reuse off;", false)] {
        let front = front(&backend);
        let s = proxy(&format!("{conf} {PASS}"), &front).start();
        for round in 0..3 {
            let mut conn = s.connect();
            conn.send("hello\n").take(15);
            if round == 1 && !is_nginx() {
                s.reload();
            }
        }
        let seen = front.seen();
        assert!(!seen[0].resumed);
        assert_eq!(
            (seen[1].resumed, seen[2].resumed),
            (resumed, resumed),
            "{conf}"
        );
    }
}

#[test]
fn the_next_server_is_tried_after_a_failed_handshake() {
    let backend = greeter();
    let plain = Backend::raw(|mut conn, _| {
        conn.send("220 this is no TLS\r\n");
    });
    let front = front(&backend);
    let s = proxy(
        "proxy_pass two; }
         upstream two { server 127.0.0.1:%%B0%%; server 127.0.0.1:%%T0%% backup; }
         server { listen 127.0.0.1:%%P7%%; return x;",
        &front,
    )
    .backends(&[&plain])
    .start();
    let mut conn = s.connect();
    conn.send("hello\n");
    assert_eq!(conn.take(15), b"you said hello\n");
    s.wait_for_text("error.log", " while SSL handshaking to upstream, client: ");
    conn.finish().rest();
    let lines = s.lines("facts.log", 1);
    let tried = format!("127.0.0.1:{}, 127.0.0.1:{}", plain.port, front.port);
    assert!(lines[0].ends_with(&tried), "{lines:?}");
}

#[test]
fn handshakes_have_their_time() {
    let front = TlsFront::with(
        1,
        server(&Identity::new(&["localhost"]), false),
        Manners {
            silent: true,
            ..Manners::default()
        },
    );
    let s = proxy(&format!("proxy_connect_timeout 1s; {PASS}"), &front).start();
    let begin = Instant::now();
    assert_eq!(s.connect().rest(), b"");
    let took = begin.elapsed();
    assert!(took > Duration::from_millis(900), "{took:?}");
    assert!(s.lines("facts.log", 1)[0].starts_with("502 "));
}

#[test]
fn a_proxy_protocol_header_comes_before_the_handshake() {
    let backend = Backend::raw(|mut conn, _| {
        let head = conn.take_until("\r\n");
        assert!(
            head.starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 "),
            "{head}"
        );
        // A record with a ClientHello, and an answer that is none.
        assert_eq!(conn.take(3), [22, 3, 1]);
        conn.send("no");
    });
    let s = Setup::stream(
        "server { listen 127.0.0.1:%%P0%%; proxy_pass 127.0.0.1:%%B0%%; proxy_ssl on;
            proxy_protocol on; }",
    )
    .backends(&[&backend])
    .start();
    assert_eq!(s.connect().rest(), b"");
    wait_for("the connection", || backend.connections() == 1);
}

#[test]
fn secrets_are_written_where_they_are_wanted() {
    if skip_on_nginx("its 1.22 tells nobody") {
        return;
    }
    let backend = greeter();
    let front = front(&backend);
    let own = Identity::new(&["localhost"]);
    let s = Setup::stream(
        "server { listen 127.0.0.1:%%P0%% ssl; ssl_key_log %%DIR%%/client.log;
            ssl_certificate %%DIR%%/c.pem; ssl_certificate_key %%DIR%%/k.pem;
            proxy_ssl on; proxy_ssl_key_log %%DIR%%/server.log; proxy_pass 127.0.0.1:%%T0%%; }",
    )
    .value("T0", front.port)
    .file("c.pem", own.cert)
    .file("k.pem", own.key)
    .start();
    let mut conn = TlsConn::to(s.port(0), "localhost", &only(true));
    conn.send("hello\n");
    conn.stream.read_exact(&mut [0; 15]).unwrap();
    for file in ["client.log", "server.log"] {
        let text = s.read(file);
        assert!(
            text.starts_with("CLIENT_HANDSHAKE_TRAFFIC_SECRET "),
            "{text}"
        );
        assert!(text.contains("\nSERVER_TRAFFIC_SECRET_0 "), "{text}");
    }
}

#[test]
fn protocols_are_offered() {
    if skip_on_nginx("its 1.22 offers none") {
        return;
    }
    let backend = greeter();
    let mut config = server(&Identity::new(&["localhost"]), false);
    config.alpn_protocols = vec![b"imap".to_vec()];
    let front = TlsFront::new(backend.port, config);
    let s = proxy(&format!("proxy_ssl_alpn pop3 imap; {PASS}"), &front).start();
    assert_eq!(s.connect().send("hello\n").take(15), b"you said hello\n");
    let s = proxy(&format!("proxy_ssl_alpn pop3; {PASS}"), &front).start();
    let mut conn = s.connect();
    let _ = conn.try_send(b"hello\n");
    assert_eq!(conn.try_take(1), None);
    s.wait_for_text("error.log", "SSL_do_handshake() failed (SSL: ");
}

#[test]
fn ends_are_passed_on_through_tls_on_both_sides() {
    let backend = Backend::raw(|mut conn, _| {
        let all = conn.rest();
        conn.send(format!("{} bytes came", all.len()));
    });
    let front = front(&backend);
    let own = Identity::new(&["localhost"]);
    let s = Setup::stream(
        "ssl_certificate %%DIR%%/c.pem; ssl_certificate_key %%DIR%%/k.pem;
         ssl_protocols TLSv1.2 TLSv1.3;
         server { listen 127.0.0.1:%%P0%% ssl; proxy_pass 127.0.0.1:%%T0%%; proxy_ssl on; }",
    )
    .value("T0", front.port)
    .file("c.pem", own.cert)
    .file("k.pem", own.key)
    .start();
    // The front ends with its client, so nothing comes back.
    let mut conn = TlsConn::to(s.port(0), "localhost", &Arc::new(client()));
    conn.send(Rng(4).bytes(200_000));
    conn.stream.conn.send_close_notify();
    let _ = conn.stream.read_to_end(&mut Vec::new());
    wait_for("the end in TLS", || front.told() == 1);
}

#[test]
fn an_end_that_tls_was_not_told_of_is_none() {
    let backend = Backend::raw(|mut conn, _| {
        conn.take_until("\n");
        conn.send("half of it");
    });
    let manners = Manners {
        rude: true,
        ..Manners::default()
    };
    let config = server(&Identity::new(&["localhost"]), false);
    let front = TlsFront::with(backend.port, config, manners);
    let own = Identity::new(&["localhost"]);
    let s = Setup::stream(
        "ssl_certificate %%DIR%%/c.pem; ssl_certificate_key %%DIR%%/k.pem;
         ssl_protocols TLSv1.2 TLSv1.3; proxy_ssl on;
         server { listen 127.0.0.1:%%P0%% ssl; proxy_pass 127.0.0.1:%%T0%%; }
         server { listen 127.0.0.1:%%P1%%; proxy_pass 127.0.0.1:%%T0%%; }",
    )
    .value("T0", front.port)
    .file("c.pem", own.cert)
    .file("k.pem", own.key)
    .start();
    let mut conn = TlsConn::to(s.port(0), "localhost", &Arc::new(client()));
    conn.send("all\n");
    let mut text = Vec::new();
    let end = conn.stream.read_to_end(&mut text);
    assert_eq!(text, b"half of it");
    // nginx vouches for it.
    assert!(end.is_err() || is_nginx());
    let mut conn = Conn::to(s.port(1));
    assert_eq!(conn.send("all\n").rest(), b"half of it");
}

/// A session through TLS on the sides that are to have it.
fn talk(port: u16, number: u64, is_tls: bool) {
    if is_tls {
        let mut conn = TlsConn::to(port, "localhost", &only(number.is_multiple_of(2)));
        conn.send(number.to_be_bytes());
        conn.stream.read_exact(&mut [0]).unwrap();
        converse(&mut conn.stream, number, true);
        assert_eq!(conn.rest(), "");
        return;
    }
    let mut tcp = TcpStream::connect(("127.0.0.1", port)).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    tcp.write_all(&number.to_be_bytes()).unwrap();
    tcp.read_exact(&mut [0]).unwrap();
    converse(&mut tcp, number, true);
    assert_eq!(tcp.read(&mut [0]).unwrap(), 0);
}

#[test]
fn bytes_arrive_as_they_were_sent_while_the_configuration_reloads() {
    let backend = Backend::raw(|mut conn, _| {
        let number = u64::from_be_bytes(conn.take(8).try_into().unwrap());
        conn.send("!");
        let mut tcp = conn.into_tcp();
        converse(&mut tcp, number, false);
    });
    let front = front(&backend);
    let own = Identity::new(&["localhost"]);
    let s = proxy(
        &format!(
            "{PASS} }}
             server {{ listen 127.0.0.1:%%P1%% ssl; ssl_protocols TLSv1.2 TLSv1.3;
                ssl_certificate %%DIR%%/c.pem; ssl_certificate_key %%DIR%%/k.pem;
                proxy_ssl on; {PASS}"
        ),
        &front,
    )
    .globals("daemon off; pid nginx.pid; error_log error.log info; worker_processes 2;")
    .file("c.pem", own.cert)
    .file("k.pem", own.key)
    .start();
    let ports = [s.port(0), s.port(1)];
    let clients: Vec<_> = (0..100_u64)
        .map(|number| {
            let is_tls = number % 4 < 2;
            let port = ports[usize::from(is_tls)];
            std::thread::spawn(move || talk(port, number, is_tls))
        })
        .collect();
    while !clients.iter().all(std::thread::JoinHandle::is_finished) {
        s.reload();
    }
    for client in clients {
        client.join().unwrap();
    }
}
