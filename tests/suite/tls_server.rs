//! `listen … ssl`: handshakes, the choice of certificates, requests and their ends.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;

use crate::common::tls::{Identity, TlsConn, client, client_with};
use crate::common::*;

/// A server on `%%P0%%` with the certificate `c.pem`, and what a case adds to it.
fn https(server: &str) -> Setup {
    let own = Identity::new(&["localhost"]);
    Setup::http(&format!(
        "server {{ listen 127.0.0.1:%%P0%% ssl; server_name localhost;
            ssl_certificate %%DIR%%/c.pem; ssl_certificate_key %%DIR%%/k.pem;
            {server}
        }}"
    ))
    .file("c.pem", own.cert)
    .file("k.pem", own.key)
}

const FACTS: &str = "location / { return 200 \"$scheme $https $ssl_protocol $ssl_cipher \
     $ssl_server_name $ssl_session_reused\"; }";

#[test]
fn curl_gets_a_page_with_every_version() {
    let s = https(&format!("ssl_protocols TLSv1.2 TLSv1.3; {FACTS}")).start();
    let url = format!("https://localhost:{}/", s.port(0));
    for (version, protocol) in [("1.2", "TLSv1.2"), ("1.3", "TLSv1.3")] {
        let Some(output) = curl(&["-sk", "--http1.1", "--tls-max", version, &url]) else {
            return;
        };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.starts_with(&format!("https on {protocol} ")), "{text}");
        assert!(text.ends_with(" localhost ."), "{text}");
    }
}

#[test]
fn requests_share_a_connection_and_bodies_go_both_ways() {
    let backend = Backend::http(|req| ok(&req.body));
    let s = https(
        "location / { proxy_pass http://127.0.0.1:%%B0%%; client_max_body_size 8m;
            proxy_http_version 1.1; }
         location /big { alias %%DIR%%/big; } location /small { return 200 small; }",
    )
    .backends(&[&backend])
    .file("big", vec![b'x'; 3 << 20])
    .start();
    let mut conn = TlsConn::to(s.port(0), "localhost", &Arc::new(client()));
    let body = Rng(1).bytes(2 << 20);
    for _ in 0..2 {
        assert_eq!(conn.get("localhost", "/small"), "small");
        conn.send(format!(
            "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
            body.len()
        ));
        let (mut sent, bytes) = (0, body.clone());
        for piece in bytes.chunks(100_000) {
            conn.send(piece);
            sent += piece.len();
        }
        assert_eq!(sent, body.len());
        assert!(conn.response().1 == body);
        assert_eq!(conn.get("localhost", "/big").len(), 3 << 20);
    }
    // Pipelined, and in one record.
    let request = "GET /small HTTP/1.1\r\nHost: localhost\r\n\r\n";
    conn.send(request.repeat(3));
    for _ in 0..3 {
        assert_eq!(conn.response().1, b"small");
    }
    // A record for each byte.
    for byte in request.bytes() {
        conn.send([byte]);
    }
    assert_eq!(conn.response().1, b"small");
}

#[test]
fn an_idle_connection_goes_on() {
    let s = https("ssl_protocols TLSv1.3; location / { return 200 alive; }").start();
    let mut conn = TlsConn::to(s.port(0), "localhost", &Arc::new(client()));
    assert_eq!(conn.get("localhost", "/"), "alive");
    // Longer than a connection waits before it gives up its buffers.
    std::thread::sleep(std::time::Duration::from_millis(1300));
    assert_eq!(conn.get("localhost", "/"), "alive");
    conn.stream.conn.refresh_traffic_keys().unwrap();
    assert_eq!(conn.get("localhost", "/"), "alive");
}

#[test]
fn ends_are_told_apart() {
    if skip_on_nginx("it says that all is well at every end") {
        return;
    }
    let backend = Backend::bytes("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfive!");
    let s = https(
        "location /whole { return 200 whole; }
         location /cut { proxy_pass http://127.0.0.1:%%B0%%; }",
    )
    .backends(&[&backend])
    .start();
    let config = Arc::new(client());
    let request = |path: &str| {
        let mut conn = TlsConn::to(s.port(0), "localhost", &config);
        conn.send(format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        ));
        conn
    };
    assert!(request("/whole").rest().ends_with("whole"));
    let mut text = Vec::new();
    let cut = request("/cut").stream.read_to_end(&mut text);
    assert_eq!(cut.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
    assert!(text.ends_with(b"five!"));
}

#[test]
fn the_name_chooses_certificate_and_server() {
    let names = ["one.example", "*.two.example", "localhost"];
    let identities = names.map(|name| Identity::new(&[name]));
    let mut conf = String::new();
    for (at, name) in names.iter().enumerate() {
        conf += &format!(
            "server {{ listen 127.0.0.1:%%P0%% ssl {}; server_name {name};
                ssl_certificate %%DIR%%/c{at}.pem; ssl_certificate_key %%DIR%%/k{at}.pem;
                return 200 \"$server_name $ssl_server_name\"; }}",
            if at == 2 { "default_server" } else { "" }
        );
    }
    let mut setup = Setup::http(&conf);
    for (at, identity) in identities.iter().enumerate() {
        setup = setup
            .file(&format!("c{at}.pem"), &identity.cert)
            .file(&format!("k{at}.pem"), &identity.key);
    }
    let s = setup.start();
    let config = Arc::new(client());
    for (name, at) in [
        ("one.example", 0),
        ("ONE.example", 0),
        ("www.two.example", 1),
        ("other.example", 2),
        ("127.0.0.1", 2),
    ] {
        let mut conn = TlsConn::to(s.port(0), name, &config);
        assert_eq!(conn.peer(), identities[at].der(), "{name}");
        let text = conn.get("one.example", "/");
        assert!(text.starts_with("one.example "), "{text}");
        // A host that nobody has is the default server's, whoever made the handshake.
        let text = conn.get("nobody", "/");
        assert!(text.starts_with("localhost "), "{name}: {text}");
    }
}

#[test]
fn the_client_chooses_the_kind_of_key() {
    let own = [
        Identity::with(&["localhost"], &rcgen::PKCS_RSA_SHA256),
        Identity::new(&["localhost"]),
    ];
    let s = Setup::http(
        "ssl_certificate %%DIR%%/c0.pem; ssl_certificate_key %%DIR%%/k0.pem;
         ssl_certificate %%DIR%%/c1.pem; ssl_certificate_key %%DIR%%/k1.pem;
         server { listen 127.0.0.1:%%P0%% ssl; return 200 $ssl_cipher; }",
    )
    .file("c0.pem", &own[0].cert)
    .file("k0.pem", &own[0].key)
    .file("c1.pem", &own[1].cert)
    .file("k1.pem", &own[1].key)
    .start();
    for (suite, at) in [
        (
            aws_lc_rs::cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            0,
        ),
        (
            aws_lc_rs::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            1,
        ),
        (
            aws_lc_rs::cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
            0,
        ),
    ] {
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites = vec![suite];
        let mut conn = TlsConn::to(
            s.port(0),
            "localhost",
            &Arc::new(client_with(provider, None)),
        );
        assert_eq!(conn.peer(), own[at].der());
        assert!(conn.get("a", "/").starts_with("ECDHE-"));
    }
}

#[test]
fn versions_and_ciphers_are_limited() {
    let s = https(&format!(
        "ssl_protocols TLSv1.2; ssl_ciphers ECDHE-ECDSA-AES128-GCM-SHA256; {FACTS}"
    ))
    .start();
    let mut conn = TlsConn::to(s.port(0), "localhost", &Arc::new(client()));
    let text = conn.get("a", "/");
    assert!(
        text.starts_with("https on TLSv1.2 ECDHE-ECDSA-AES128-GCM-SHA256 "),
        "{text}"
    );
    let mut provider = aws_lc_rs::default_provider();
    provider
        .cipher_suites
        .retain(|suite| suite.tls13().is_some());
    let refused = TlsConn::try_to(
        s.port(0),
        "localhost",
        &Arc::new(client_with(provider, None)),
    );
    assert!(refused.is_err());
    s.wait_for_text("error.log", "SSL_do_handshake() failed (SSL: ");
    s.wait_for_text(
        "error.log",
        " while SSL handshaking, client: 127.0.0.1, server: ",
    );
}

#[test]
fn handshakes_are_rejected() {
    let own = Identity::new(&["known.example"]);
    let s = Setup::http(
        "server { listen 127.0.0.1:%%P0%% ssl default_server; ssl_reject_handshake on; }
         server { listen 127.0.0.1:%%P0%% ssl; server_name known.example;
            ssl_certificate %%DIR%%/c.pem; ssl_certificate_key %%DIR%%/k.pem;
            return 200 known; }",
    )
    .file("c.pem", own.cert)
    .file("k.pem", own.key)
    .start();
    let config = Arc::new(client());
    let refused = TlsConn::try_to(s.port(0), "other.example", &config)
        .err()
        .unwrap();
    assert!(
        refused.to_string().contains("UnrecognisedName") || is_nginx(),
        "{refused}"
    );
    let mut conn = TlsConn::to(s.port(0), "known.example", &config);
    assert_eq!(conn.get("known.example", "/"), "known");
}

/// Two connections of `openssl s_client`, the second with the session of the first: what the server
/// says about each.
fn resumed(s: &Server, arguments: &[&str], again: impl FnOnce()) -> Option<[String; 2]> {
    let session = s.path("session");
    let port = format!("127.0.0.1:{}", s.port(0));
    let ask = |option: &str| {
        let mut openssl = Command::new("openssl")
            .args([
                "s_client",
                "-connect",
                &port,
                "-ign_eof",
                "-servername",
                "localhost",
            ])
            .args(arguments)
            .arg(option)
            .arg(&session)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut input = openssl.stdin.take().unwrap();
        input.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let output = openssl.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find(|line| line.starts_with("https on"));
        Some(
            line.unwrap_or(&text)
                .split("---")
                .next()
                .unwrap()
                .trim_end()
                .to_owned(),
        )
    };
    let _ = std::fs::remove_file(&session);
    let first = ask("-sess_out")?;
    again();
    if !session.exists() {
        // There was nothing to keep.
        return Some([first, "https on .".into()]);
    }
    Some([first, ask("-sess_in")?])
}

#[test]
fn sessions_are_resumed_across_workers_and_reloads() {
    let facts = "ssl_protocols TLSv1.2 TLSv1.3;
        location / { return 200 \"https on $ssl_session_reused\\n\"; }";
    for (conf, works) in [
        ("", true),
        ("ssl_session_tickets off;", false),
        (
            "ssl_session_tickets off; ssl_session_cache shared:S:1m;",
            true,
        ),
        (
            "ssl_session_cache shared:S:1m; ssl_session_timeout 1h;",
            true,
        ),
        ("ssl_session_ticket_key %%DIR%%/ticket.key;", true),
    ] {
        let s = https(&format!("{conf} {facts}"))
            .globals("daemon off; pid nginx.pid; error_log error.log info; worker_processes 2;")
            .file("ticket.key", Rng(7).bytes(80))
            .start();
        for version in ["-tls1_2", "-tls1_3"] {
            let Some(said) = resumed(&s, &[version], || s.reload()) else {
                return;
            };
            let again = if works { "https on r" } else { "https on ." };
            // nginx forgets its keys with the workers unless they are in a file (since 1.23.2: or
            // a zone).
            if is_nginx() && !conf.contains("tickets off") && !conf.contains("ticket_key") {
                continue;
            }
            assert_eq!(said, ["https on .", again], "{conf} {version}");
        }
    }
}

#[test]
fn a_request_in_early_data_is_answered_once() {
    let s = https("ssl_protocols TLSv1.3; ssl_early_data on; return 200 \"$uri $https\";").start();
    let mut config = client();
    config.resumption = rustls::client::Resumption::in_memory_sessions(8);
    config.enable_early_data = true;
    let config = Arc::new(config);
    let mut first = TlsConn::to(s.port(0), "localhost", &config);
    assert_eq!(first.get("localhost", "/first"), "/first on");
    let name = "localhost".try_into().unwrap();
    let mut conn = rustls::ClientConnection::new(config, name).unwrap();
    let request = b"GET /early HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut early = conn.early_data().expect("a session that allows it");
    assert_eq!(early.write(request).unwrap(), request.len());
    let tcp = TcpStream::connect(("127.0.0.1", s.port(0))).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut second = TlsConn {
        stream: rustls::StreamOwned::new(conn, tcp),
    };
    assert_eq!(second.response().1, b"/early on");
    assert!(second.stream.conn.is_early_data_accepted());
    assert_eq!(second.get("localhost", "/late"), "/late on");
}

#[test]
fn a_proxy_header_comes_before_the_handshake() {
    let own = Identity::new(&["localhost"]);
    let s = Setup::http(
        "server { listen 127.0.0.1:%%P0%% ssl proxy_protocol; ssl_certificate %%DIR%%/c.pem;
            ssl_certificate_key %%DIR%%/k.pem; ssl_protocols TLSv1.2 TLSv1.3;
            return 200 $proxy_protocol_addr; }",
    )
    .file("c.pem", own.cert)
    .file("k.pem", own.key)
    .start();
    let name = "localhost".try_into().unwrap();
    let mut conn = rustls::ClientConnection::new(Arc::new(client()), name).unwrap();
    let mut bytes = b"PROXY TCP4 192.0.2.1 192.0.2.2 1234 443\r\n".to_vec();
    conn.write_tls(&mut bytes).unwrap();
    let mut tcp = TcpStream::connect(("127.0.0.1", s.port(0))).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    // The header and the first message in one piece.
    tcp.write_all(&bytes).unwrap();
    let mut tls = TlsConn {
        stream: rustls::StreamOwned::new(conn, tcp),
    };
    assert_eq!(tls.get("localhost", "/"), "192.0.2.1");
}

#[test]
fn an_idle_connection_ends_in_order() {
    let s = https("keepalive_timeout 1s; return 200 x;").start();
    let mut conn = TlsConn::to(s.port(0), "localhost", &Arc::new(client()));
    assert_eq!(conn.get("localhost", "/"), "x");
    assert_eq!(conn.rest(), "");
}

#[test]
fn requests_on_tls_end_with_a_graceful_shutdown() {
    let mut s = https("return 200 x;").start();
    let mut conn = TlsConn::to(s.port(0), "localhost", &Arc::new(client()));
    assert_eq!(conn.get("localhost", "/"), "x");
    s.signal(libc::SIGQUIT);
    assert_eq!(conn.rest(), "");
    assert!(s.wait_exit(PATIENCE).unwrap().success());
}

#[test]
fn plain_http_on_a_tls_port_is_told_so() {
    let s = https("location / { return 200 never; }").start();
    let answer = s.get("/");
    assert_eq!(answer.status, 400);
    let page = answer.text();
    assert!(
        page.contains("The plain HTTP request was sent to HTTPS port"),
        "{page}"
    );
    s.wait_for_text("error.log", "client sent plain HTTP request to HTTPS port");

    let s = https("error_page 497 =301 https://$host:443$request_uri; return 200 never;").start();
    let answer = s.get("/a?b=c");
    assert_eq!(answer.status, 301);
    assert_eq!(
        answer.header("Location"),
        Some("https://localhost:443/a?b=c")
    );
}

#[test]
fn redirects_keep_the_scheme() {
    let backend = Backend::fixed("x");
    let s = https("location /dir/ { proxy_pass http://127.0.0.1:%%B0%%; }")
        .backends(&[&backend])
        .start();
    let mut conn = TlsConn::to(s.port(0), "localhost", &Arc::new(client()));
    conn.send("GET /dir HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let (head, _) = conn.response();
    let wanted = format!("\r\nLocation: https://localhost:{}/dir/\r\n", s.port(0));
    assert!(head.contains(&wanted), "{head}");
}

#[test]
fn clients_that_do_not_finish_the_handshake_are_dropped() {
    let s = https("client_header_timeout 1s; location / { return 200 alive; }").start();
    let hello_and_no_more = |bytes: &[u8]| {
        let mut tcp = TcpStream::connect(("127.0.0.1", s.port(0))).unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        tcp.write_all(bytes).unwrap();
        let mut rest = Vec::new();
        let _ = tcp.read_to_end(&mut rest);
        rest
    };
    // A record that goes on.
    assert_eq!(hello_and_no_more(&[22, 3, 1, 2, 0, 1, 0, 1, 0xfc]), b"");
    s.wait_for_text(
        "error.log",
        "client timed out (110: Connection timed out) while SSL handshaking",
    );
    // What is none.
    hello_and_no_more(&[22, 3, 1, 0, 4, 2, 0, 0, 0]);
    s.wait_for_text("error.log", "SSL_do_handshake() failed");
    let tcp = TcpStream::connect(("127.0.0.1", s.port(0))).unwrap();
    (&tcp).write_all(&[22, 3, 1]).unwrap();
    tcp.shutdown(Shutdown::Write).unwrap();
    s.wait_for_text("error.log", "peer closed connection in SSL handshake");
    let mut conn = TlsConn::to(s.port(0), "localhost", &Arc::new(client()));
    assert_eq!(conn.get("a", "/"), "alive");
}

#[test]
fn certificates_are_read_again_on_reload() {
    if skip_on_nginx("its reload waits for connections, or ends them") {
        return;
    }
    let s = https("location / { return 200 alive; }").start();
    let config = Arc::new(client());
    let mut before = TlsConn::to(s.port(0), "localhost", &config);
    let other = Identity::new(&["localhost"]);
    std::fs::write(s.path("c.pem"), &other.cert).unwrap();
    std::fs::write(s.path("k.pem"), &other.key).unwrap();
    s.reload();
    let mut after = TlsConn::to(s.port(0), "localhost", &config);
    assert_eq!(after.peer(), other.der());
    assert_eq!(after.get("a", "/"), "alive");
    assert_eq!(before.get("a", "/"), "alive");
}

#[test]
fn certificates_are_named_by_variables() {
    let names = ["one.example", "two.example"];
    let identities = names.map(|name| Identity::new(&[name]));
    let mut setup = Setup::http(
        "server { listen 127.0.0.1:%%P0%% ssl;
            ssl_certificate %%DIR%%/$ssl_server_name.pem;
            ssl_certificate_key %%DIR%%/$ssl_server_name.key;
            return 200 \"$ssl_server_name $ssl_session_reused\"; }",
    );
    for (name, identity) in names.iter().zip(&identities) {
        setup = setup
            .file(&format!("{name}.pem"), &identity.cert)
            .file(&format!("{name}.key"), &identity.key);
    }
    let s = setup.start();
    let config = Arc::new(client());
    for (name, identity) in names.iter().zip(&identities) {
        let mut conn = TlsConn::to(s.port(0), name, &config);
        assert_eq!(conn.peer(), identity.der());
        assert_eq!(conn.get(name, "/"), format!("{name} ."));
    }
    assert!(TlsConn::try_to(s.port(0), "three.example", &config).is_err());
    s.wait_for_text("error.log", "three.example.pem\"");
}

#[test]
fn websockets_go_through() {
    let backend = Backend::raw(|conn, _| {
        let Ok(mut ws) = tungstenite::accept(conn.into_tcp()) else {
            return;
        };
        while let Ok(message) = ws.read() {
            if message.is_close() || ws.send(message).is_err() {
                break;
            }
        }
        while ws.read().is_ok() {}
    });
    let s = https(
        "location / { proxy_pass http://127.0.0.1:%%B0%%; proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; }",
    )
    .backends(&[&backend])
    .start();
    let conn = TlsConn::to(s.port(0), "localhost", &Arc::new(client()));
    let (mut ws, _) = tungstenite::client("ws://localhost/", conn.stream).unwrap();
    for size in [0, 1, 1000, 100_000, 3] {
        let message = tungstenite::Message::binary(Rng(3).bytes(size));
        ws.send(message.clone()).unwrap();
        assert!(ws.read().unwrap() == message, "{size}");
    }
    ws.close(None).unwrap();
    while ws.read().is_ok() {}
}

#[test]
fn old_and_plain_certificates_are_served() {
    // Of version 1, with a common name and nothing else.
    const CERT: &str = include_str!("../../src/tls/testdata/root-v1.pem");
    let Ok(output) = Command::new("openssl").arg("version").output() else {
        return;
    };
    assert!(output.status.success());
    let s = Setup::http("").run_nothing();
    let path = |name: &str| s.path(name).display().to_string();
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    let (key, csr, cert) = (path("k.pem"), path("csr"), path("c.pem"));
    let new_key = [
        "-newkey",
        "rsa:2048",
        "-keyout",
        &key,
        "-passout",
        "pass:secret",
    ];
    openssl(
        &[
            &["req", "-new", "-subj", "/CN=old", "-out", &csr][..],
            &new_key,
        ]
        .concat(),
    );
    openssl(&[
        "x509",
        "-req",
        "-in",
        &csr,
        "-signkey",
        &key,
        "-passin",
        "pass:secret",
        "-out",
        &cert,
    ]);
    let (key, cert) = (s.read("k.pem"), s.read("c.pem"));
    assert!(key.contains("ENCRYPTED") && CERT.contains("CERTIFICATE"));
    let s = Setup::http(
        "server { listen 127.0.0.1:%%P0%% ssl; ssl_password_file %%DIR%%/words;
            ssl_certificate %%DIR%%/c.pem; ssl_certificate_key %%DIR%%/k.pem; return 200 old; }",
    )
    .file("c.pem", &cert)
    .file("k.pem", key)
    .file("words", "wrong\nsecret\n")
    .start();
    let mut conn = TlsConn::to(s.port(0), "old", &Arc::new(client()));
    use rustls::pki_types::pem::PemObject;
    assert_eq!(
        conn.peer(),
        CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()
    );
    assert_eq!(conn.get("old", "/"), "old");
}
