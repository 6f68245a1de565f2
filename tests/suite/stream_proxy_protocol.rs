//! PROXY protocol headers in `stream`: read from clients, sent to upstreams.

use crate::common::*;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A backend that sends back what it gets, and a gateway before it.
fn gateway(conf: &str) -> (Server, Backend) {
    let backend = Backend::raw(|mut conn, _| {
        while conn.more().is_some() {
            let bytes = conn.take(conn.buffered().len());
            let _ = conn.try_send(&bytes);
        }
    });
    let s = stream(
        &format!(
            "log_format t '$status $bytes_received $upstream_bytes_sent';
             access_log %%DIR%%/access.log t;
             {conf}"
        ),
        &[&backend],
    );
    (s, backend)
}

#[test]
fn version_1_is_sent() {
    let (s, _backend) = gateway(
        "server { listen 127.0.0.1:%%P0%%; proxy_pass 127.0.0.1:%%B0%%; proxy_protocol on; }",
    );
    let mut conn = s.connect();
    let head = format!(
        "PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n",
        conn.local_port(),
        s.port(0)
    );
    let expected = format!("{head}hello");
    assert_eq!(conn.send("hello").take(expected.len()), expected.as_bytes());
    drop(conn);
    assert_eq!(
        s.lines("access.log", 1),
        [format!("200 5 {}", expected.len())]
    );
}

#[test]
fn version_2_is_sent() {
    if skip_on_nginx("v2 came with 1.31.4") {
        return;
    }
    let (s, _backend) = gateway(
        "proxy_protocol v2;
         server { listen 127.0.0.1:%%P0%%; proxy_pass 127.0.0.1:%%B0%%; }
         server { listen unix:%%DIR%%/in; proxy_pass 127.0.0.1:%%B0%%; }
         server { listen 127.0.0.1:%%P1%%; proxy_pass 127.0.0.1:%%B0%%; proxy_protocol off; }",
    );
    let mut conn = s.connect();
    let ports = [conn.local_port(), s.port(0)]
        .map(u16::to_be_bytes)
        .concat();
    let addrs = [127, 0, 0, 1, 127, 0, 0, 1];
    let expected = [SIGNATURE, &[0x21, 0x11, 0, 12], &addrs, &ports, b"hello"].concat();
    assert_eq!(conn.send("hello").take(expected.len()), expected);
    // Nobody knows the ends of a unix socket.
    let expected = [SIGNATURE, &[0x21, 0, 0, 0], b"hello"].concat();
    let mut conn = Conn::unix(s.path("in"));
    assert_eq!(conn.send("hello").take(expected.len()), expected);
    assert_eq!(Conn::to(s.port(1)).send("hello").take(5), b"hello");
}

#[test]
fn what_was_told_is_told_on() {
    let (s, _backend) = gateway(
        "server {
             listen 127.0.0.1:%%P0%% proxy_protocol; set_real_ip_from 127.0.0.1;
             proxy_pass 127.0.0.1:%%B0%%; proxy_protocol on;
         }",
    );
    let head = format!("PROXY TCP4 192.0.2.1 127.0.0.1 12 {}\r\n", s.port(0));
    let expected = format!("{head}hello");
    let mut conn = s.connect();
    // In pieces, and with what follows in the last of them.
    conn.send("PROXY TCP4 192.0.2.1 ")
        .send("192.0.2.2 12 34\r\nhello");
    assert_eq!(conn.take(expected.len()), expected.as_bytes());
}

#[test]
fn headers_that_are_none_end_the_session() {
    let (s, backend) = gateway(
        "proxy_protocol_timeout 200ms;
         server { listen 127.0.0.1:%%P0%% proxy_protocol; proxy_pass 127.0.0.1:%%B0%%; }",
    );
    let broken: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 9\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 9 99999\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c............",
    ];
    for (number, bytes) in broken.iter().enumerate() {
        s.connect().send(bytes).assert_closed();
        let line = &s.lines("access.log", number + 1)[number];
        assert!(line.starts_with("400 "), "{line}");
    }
    s.wait_for_text("error.log", "broken header: \"GET / HTTP/1.1");
    // Half of one, and then nothing.
    s.connect().send("PROXY TCP4 1.2").assert_closed();
    s.lines("access.log", 5);
    s.connect().assert_closed();
    s.wait_for_text(
        "error.log",
        "client timed out (110: Connection timed out) while reading PROXY",
    );
    assert_eq!(backend.connections(), 0);
}
