//! `ssl_verify_client`: which certificates are asked for, believed and shown.

use std::io::Read;
use std::sync::Arc;

use crate::common::tls::{Authority, Identity, TlsConn, client, client_as};
use crate::common::*;

const SHOWN: &str = "return 200 \"$ssl_client_verify|$ssl_client_s_dn|$ssl_client_i_dn|\
     $ssl_client_serial|$ssl_client_fingerprint|$ssl_client_escaped_cert|\";";

/// A server that trusts `ca` and says what it knows of the client, and what a case adds to it.
fn start(ca: &Authority, server: &str) -> Server {
    let own = Identity::new(&["localhost"]);
    Setup::http(&format!(
        "server {{ listen 127.0.0.1:%%P0%% ssl; server_name localhost;
            ssl_certificate %%DIR%%/c.pem; ssl_certificate_key %%DIR%%/k.pem;
            ssl_client_certificate %%DIR%%/ca.pem; {server} }}"
    ))
    .file("c.pem", own.cert)
    .file("k.pem", own.key)
    .file("ca.pem", &ca.cert)
    .start()
}

/// The status and body that a client with this certificate gets.
fn ask(s: &Server, identity: Option<&Identity>) -> (u16, String) {
    let config = identity.map_or_else(client, client_as);
    let mut conn = TlsConn::to(s.port(0), "localhost", &Arc::new(config));
    conn.send("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let mut text = Vec::new();
    conn.stream.read_to_end(&mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

#[test]
fn a_required_certificate_is_required() {
    let ca = Authority::new("Test CA");
    let s = start(&ca, &format!("ssl_verify_client on; {SHOWN}"));
    let own = ca.sign(&["the client"]);
    let (status, body) = ask(&s, Some(&own));
    assert_eq!(status, 200);
    let parts: Vec<_> = body.split('|').collect();
    assert_eq!(parts[..3], ["SUCCESS", "CN=the client", "CN=Test CA"]);
    assert!(parts[3].len() >= 16 && parts[3].bytes().all(|b| b.is_ascii_hexdigit()));
    assert_eq!(parts[4].len(), 40);
    let pem = parts[5].replace("%0A", "\n").replace("%20", " ");
    let pem = pem
        .replace("%2B", "+")
        .replace("%2F", "/")
        .replace("%3D", "=");
    assert_eq!(pem.replace('\r', ""), own.cert.replace('\r', ""));

    let (status, body) = ask(&s, None);
    assert_eq!(status, 400);
    assert!(
        body.contains("No required SSL certificate was sent"),
        "{body}"
    );
    s.wait_for_text("error.log", "client sent no required SSL certificate");

    let stranger = Identity::new(&["stranger"]);
    let (status, body) = ask(&s, Some(&stranger));
    assert_eq!(status, 400);
    assert!(body.contains("The SSL certificate error"), "{body}");
    s.wait_for_text(
        "error.log",
        "client SSL certificate verify error: (18:self-signed certificate)",
    );
    let other = Authority::new("Other CA").sign(&["client"]);
    assert_eq!(ask(&s, Some(&other)).0, 400);
    s.wait_for_text(
        "error.log",
        "client SSL certificate verify error: (21:unable to verify the first certificate)",
    );
}

#[test]
fn error_pages_have_their_own_codes() {
    let ca = Authority::new("Test CA");
    let s = start(
        &ca,
        "ssl_verify_client on; error_page 495 =403 /no; error_page 496 =401 /no;
         location = /no { return 200 sorry; } location / { return 200 x; }",
    );
    assert_eq!(ask(&s, None).0, 401);
    assert_eq!(ask(&s, Some(&Identity::new(&["stranger"]))).0, 403);
}

#[test]
fn an_optional_certificate_is_optional() {
    let ca = Authority::new("Test CA");
    let s = start(&ca, &format!("ssl_verify_client optional; {SHOWN}"));
    assert!(ask(&s, None).1.starts_with("NONE|||"));
    assert!(
        ask(&s, Some(&ca.sign(&["a"])))
            .1
            .starts_with("SUCCESS|CN=a|")
    );
    assert_eq!(ask(&s, Some(&Identity::new(&["stranger"]))).0, 400);

    let s = start(&ca, &format!("ssl_verify_client optional_no_ca; {SHOWN}"));
    assert!(ask(&s, None).1.starts_with("NONE|||"));
    let (status, body) = ask(&s, Some(&Identity::new(&["stranger"])));
    assert_eq!(status, 200);
    assert!(
        body.starts_with("FAILED:self-signed certificate|CN=stranger|"),
        "{body}"
    );
}

#[test]
fn a_server_that_demands_a_certificate_is_not_reached_under_another_name() {
    let ca = Authority::new("Test CA");
    let own = Identity::new(&["localhost"]);
    let s = Setup::http(
        "ssl_certificate %%DIR%%/c.pem; ssl_certificate_key %%DIR%%/k.pem;
         ssl_session_cache shared:S:1m;
         server { listen 127.0.0.1:%%P0%% ssl; server_name open.example; return 200 open; }
         server { listen 127.0.0.1:%%P0%% ssl; server_name closed.example;
            ssl_verify_client on; ssl_client_certificate %%DIR%%/ca.pem; return 200 closed; }",
    )
    .file("c.pem", own.cert)
    .file("k.pem", own.key)
    .file("ca.pem", &ca.cert)
    .start();
    let mut conn = TlsConn::to(s.port(0), "open.example", &Arc::new(client()));
    assert_eq!(conn.get("open.example", "/"), "open");
    conn.send("GET / HTTP/1.1\r\nHost: closed.example\r\n\r\n");
    let (head, _) = conn.response();
    assert!(head.starts_with("HTTP/1.1 421 "), "{head}");
    s.wait_for_text("error.log", "different from the one that was negotiated");
    let config = Arc::new(client_as(&ca.sign(&["a"])));
    let mut conn = TlsConn::to(s.port(0), "closed.example", &config);
    assert_eq!(conn.get("closed.example", "/"), "closed");
}
