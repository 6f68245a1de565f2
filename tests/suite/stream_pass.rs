//! `pass`: connections that change their listening address.

use std::sync::Arc;

use crate::common::tls::{Identity, TlsConn, client};
use crate::common::*;

const GET: &str = "GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

#[test]
fn to_http_and_to_stream_with_all_that_was_read() {
    if skip_on_nginx("pass came with 1.25.5") {
        return;
    }
    let s = full(
        "events {}
        stream {
            log_format t '$server_port $status'; access_log %%DIR%%/stream.log t;
            server { listen 127.0.0.1:%%P0%%; pass 127.0.0.1:%%P2%%; }
            server { listen 127.0.0.1:%%P1%%; ssl_preread on; pass 127.0.0.1:%%P2%%; }
            server { listen 127.0.0.1:%%P3%%; set $to unix:%%DIR%%/in; pass $to; }
            server { listen unix:%%DIR%%/in; return \"$remote_addr\"; }
            server { listen 127.0.0.1:%%P4%%; pass 127.0.0.1:%%P5%%; }
        }
        http {
            %%HTTP%%
            server { listen 127.0.0.1:%%P2%%; return 200 \"web $remote_addr $server_port $uri\"; }
            server { listen *:%%P5%%; return 200 \"any $uri\"; }
        }",
        &[],
    );
    let web = format!("web 127.0.0.1 {} /a", s.port(2));
    // What preread looked at has been read, and is there all the same.
    for index in [0, 1, 2] {
        let mut conn = Conn::to(s.port(index));
        conn.send(&GET[..9]).send(&GET[9..]);
        assert_eq!(conn.response().text(), web);
    }
    assert_eq!(Conn::to(s.port(3)).rest(), b"127.0.0.1");
    assert_eq!(Conn::to(s.port(4)).send(GET).response().text(), "any /a");
    // One line: the session that was handed on has none of its own.
    assert_eq!(s.lines("stream.log", 1), [" 200"]);
    let mut keepalive = Conn::to(s.port(1));
    for _ in 0..3 {
        let request = "GET /a HTTP/1.1\r\nHost: x\r\n\r\n";
        assert_eq!(keepalive.send(request).response().text(), web);
    }
}

#[test]
fn nowhere_and_in_circles() {
    if skip_on_nginx("pass came with 1.25.5") {
        return;
    }
    let s = stream(
        "log_format t '$status'; access_log %%DIR%%/access.log t;
         server { listen 127.0.0.1:%%P0%%; pass 127.0.0.1:1; }
         server { listen 127.0.0.1:%%P1%%; pass 127.0.0.1:%%P1%%; }
         server { listen 127.0.0.1:%%P2%%; set $to nowhere; pass $to; }",
        &[],
    );
    s.connect().assert_closed();
    let line = "port not found for \"127.0.0.1:1\" while passing connection to port, client: ";
    s.wait_for_text("error.log", line);
    Conn::to(s.port(1)).assert_closed();
    s.wait_for_text(
        "error.log",
        "stream pass cycle while passing connection to port",
    );
    Conn::to(s.port(2)).assert_closed();
    s.wait_for_text("error.log", "no addresses in pass \"nowhere\"");
    assert_eq!(s.lines("access.log", 3), ["200", "500", "500"]);
}

#[test]
fn by_the_name_the_client_asks_for() {
    if skip_on_nginx("pass came with 1.25.5") {
        return;
    }
    let s = stream(
        "map $remote_addr $to { default 127.0.0.1:%%P1%%; }
         server { listen 127.0.0.1:%%P0%% proxy_protocol; pass $to; }
         server { listen 127.0.0.1:%%P1%%; return \"$proxy_protocol_addr at $remote_addr\"; }",
        &[],
    );
    let text = s
        .connect()
        .send("PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\n")
        .rest();
    assert_eq!(text, b" at 127.0.0.1");
}

#[test]
fn limits_go_along() {
    if skip_on_nginx("pass came with 1.25.5") {
        return;
    }
    let s = full(
        "events {}
        stream {
            limit_conn_zone $remote_addr zone=addr:1m;
            server { listen 127.0.0.1:%%P0%%; limit_conn addr 1; pass 127.0.0.1:%%P1%%; }
        }
        http { %%HTTP%% server { listen 127.0.0.1:%%P1%%; return 200 web; } }",
        &[],
    );
    let request = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut conn = s.connect();
    assert_eq!(conn.send(request).response().text(), "web");
    s.connect().assert_closed();
    assert_eq!(conn.send(request).response().text(), "web");
    drop(conn);
    wait_for("a free place", || {
        let mut conn = s.connect();
        conn.try_send(request.as_bytes()).is_ok() && conn.try_response("GET").is_ok()
    });
}

#[test]
fn to_tls_with_the_hello_that_was_looked_at() {
    if skip_on_nginx("pass came with 1.25.5") {
        return;
    }
    let own = Identity::new(&["a.example"]);
    let s = Setup::full(
        "events {}
        stream {
            map $ssl_preread_server_name $to {
                a.example 127.0.0.1:%%P1%%; default 127.0.0.1:%%P2%%;
            }
            server { listen 127.0.0.1:%%P0%%; ssl_preread on; pass $to; }
            server { listen 127.0.0.1:%%P2%%; return nobody; }
        }
        http {
            %%HTTP%%
            server {
                listen 127.0.0.1:%%P1%% ssl; ssl_certificate c.pem; ssl_certificate_key k.pem;
                return 200 \"$ssl_server_name $ssl_protocol\";
            }
        }",
    )
    .file("c.pem", own.cert)
    .file("k.pem", own.key)
    .start();
    let mut conn = TlsConn::to(s.port(0), "a.example", &Arc::new(client()));
    for _ in 0..2 {
        assert_eq!(conn.get("a.example", "/"), "a.example TLSv1.3");
    }
    assert_eq!(s.connect().send("no TLS at all").rest(), b"nobody");
}

#[test]
fn mistakes_are_told() {
    if skip_on_nginx("pass came with 1.25.5") {
        return;
    }
    for (conf, message) in [
        ("pass 127.0.0.1;", "\"pass\" directive has no port"),
        ("pass name:80;", "\"pass\" directive has no addresses"),
        (
            "pass [::x]:80;",
            "in \"[::x]:80\" of the \"pass\" directive",
        ),
        (
            "pass 1.2.3.4:5; pass 1.2.3.4:6;",
            "\"pass\" directive is duplicate",
        ),
    ] {
        let conf = format!("server {{ listen 127.0.0.1:%%P0%%; {conf} }}");
        let (output, _) = Setup::stream(&conf).args(&["-t"]).run();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(message), "{message}: {text}");
    }
}
