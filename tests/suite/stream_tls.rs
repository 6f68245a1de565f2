//! `listen … ssl` in `stream`: handshakes, who is let in, sessions and their ends.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;

use crate::common::ocsp::Responder;
use crate::common::tls::{Authority, Identity, TlsConn, client, client_as, client_with};
use crate::common::*;

/// A server on `%%P0%%` with the certificate `c.pem`, and what a case adds to it. Its log has the
/// facts of each session.
fn tls(server: &str) -> Setup {
    let own = Identity::new(&["localhost"]);
    Setup::stream(&format!(
        "log_format facts '$ssl_protocol $ssl_cipher $ssl_server_name $ssl_session_reused '
                          '$bytes_received $bytes_sent $status';
         ssl_protocols TLSv1.2 TLSv1.3;
         ssl_certificate %%DIR%%/c.pem; ssl_certificate_key %%DIR%%/k.pem;
         server {{ listen 127.0.0.1:%%P0%% ssl; access_log %%DIR%%/facts.log facts; {server} }}"
    ))
    .file("c.pem", own.cert)
    .file("k.pem", own.key)
}

fn config() -> Arc<ClientConfig> {
    Arc::new(client())
}

/// Sends back what comes, as it comes.
fn echo() -> Backend {
    Backend::raw(|mut conn, _| {
        while conn.more().is_some() {
            let bytes = conn.buffered().to_vec();
            conn.take(bytes.len());
            if conn.try_send(&bytes).is_err() {
                return;
            }
        }
    })
}

/// What comes until the end, which must be one of TLS, except from nginx: it says nothing to a
/// client that has ended its side.
fn rest(conn: &mut TlsConn) -> String {
    if !is_nginx() {
        return conn.rest();
    }
    let mut text = Vec::new();
    let _ = conn.stream.read_to_end(&mut text);
    String::from_utf8(text).unwrap()
}

/// A client that speaks TLS 1.2 or 1.3 alone.
pub fn only(is_13: bool) -> Arc<ClientConfig> {
    let mut provider = aws_lc_rs::default_provider();
    provider
        .cipher_suites
        .retain(|suite| suite.tls13().is_some() == is_13);
    Arc::new(client_with(provider, None))
}

#[test]
fn a_client_with_tls_reaches_a_plain_server() {
    let backend = echo();
    let s = tls("proxy_pass 127.0.0.1:%%B0%%;")
        .backends(&[&backend])
        .start();
    for (at, protocol) in ["TLSv1.2 ", "TLSv1.3 "].into_iter().enumerate() {
        let mut conn = TlsConn::to(s.port(0), "localhost", &only(at == 1));
        for round in 0..20 {
            let bytes = Rng(round + 1).bytes(1 + 977 * round as usize);
            conn.send(&bytes);
            let mut back = vec![0; bytes.len()];
            conn.stream.read_exact(&mut back).unwrap();
            assert!(back == bytes);
        }
        drop(conn);
        let lines = s.lines("facts.log", at + 1);
        assert!(lines[at].starts_with(protocol), "{lines:?}");
        let rest = " localhost . 185650 185650 200";
        assert!(lines[at].ends_with(rest), "{lines:?}");
    }
}

#[test]
fn openssl_is_served() {
    let backend = echo();
    let s = tls("proxy_pass 127.0.0.1:%%B0%%;")
        .backends(&[&backend])
        .start();
    for version in ["-tls1_2", "-tls1_3"] {
        let port = format!("127.0.0.1:{}", s.port(0));
        let spawned = Command::new("openssl")
            .args(["s_client", "-quiet", "-connect", &port, version])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let Ok(mut openssl) = spawned else {
            return;
        };
        let (mut input, mut output) = (
            openssl.stdin.take().unwrap(),
            openssl.stdout.take().unwrap(),
        );
        for text in [&b"hello there\n"[..], b"and again\n"] {
            input.write_all(text).unwrap();
            let mut back = vec![0; text.len()];
            output.read_exact(&mut back).unwrap();
            assert_eq!(back, text);
        }
        drop(input);
        openssl.kill().unwrap();
        openssl.wait().unwrap();
    }
}

#[test]
fn a_server_that_closes_is_heard_to_close() {
    let backend = Backend::raw(|mut conn, _| {
        conn.take(5);
        conn.send("that is all");
    });
    let s = tls("proxy_pass 127.0.0.1:%%B0%%;")
        .backends(&[&backend])
        .start();
    for is_13 in [false, true] {
        let mut conn = TlsConn::to(s.port(0), "localhost", &only(is_13));
        conn.send("begin");
        // Reads up to close_notify, and fails without.
        assert_eq!(conn.rest(), "that is all");
    }
    s.wait_for_text(
        "error.log",
        "upstream disconnected, bytes from/to client:5/11",
    );
}

#[test]
fn a_client_that_closes_is_heard_to_close() {
    let backend = Backend::raw(|mut conn, _| {
        assert_eq!(conn.rest(), b"all of it");
    });
    let s = tls("proxy_pass 127.0.0.1:%%B0%%;")
        .backends(&[&backend])
        .start();
    for is_13 in [false, true] {
        let mut conn = TlsConn::to(s.port(0), "localhost", &only(is_13));
        conn.send("all of it");
        conn.stream.conn.send_close_notify();
        conn.stream.flush().unwrap();
        // The connection stays open below: the end is that of TLS, and is answered with one.
        assert_eq!(rest(&mut conn), "");
    }
    s.wait_for_text("error.log", "client disconnected, bytes from/to client:9/0");
    s.lines("facts.log", 2);
}

#[test]
fn each_direction_ends_by_itself_if_it_may() {
    let backend = Backend::raw(|mut conn, _| {
        let all = conn.rest();
        conn.send(format!("{} bytes came", all.len()));
    });
    let s = tls("proxy_pass 127.0.0.1:%%B0%%; proxy_half_close on;")
        .backends(&[&backend])
        .start();
    for is_13 in [false, true] {
        let mut conn = TlsConn::to(s.port(0), "localhost", &only(is_13));
        conn.send(Rng(3).bytes(300_000));
        conn.stream.conn.send_close_notify();
        conn.stream.flush().unwrap();
        assert_eq!(rest(&mut conn), "300000 bytes came");
    }
}

#[test]
fn a_reset_is_no_end() {
    let backend = Backend::raw(|mut conn, _| {
        conn.take(1);
        conn.send("the first half");
        conn.take(1);
        conn.reset();
    });
    let s = tls("proxy_pass 127.0.0.1:%%B0%%;")
        .backends(&[&backend])
        .start();
    let mut conn = TlsConn::to(s.port(0), "localhost", &config());
    conn.send("x");
    let mut half = [0; 14];
    conn.stream.read_exact(&mut half).unwrap();
    assert_eq!(&half, b"the first half");
    conn.send("y");
    let end = conn.stream.read_to_end(&mut Vec::new());
    // nginx says that all is well.
    assert!(end.is_err() || is_nginx());
    s.wait_for_text("error.log", "recv() failed (104: ");
}

#[test]
fn protocols_are_chosen_or_refused() {
    let s = tls("ssl_alpn h2 http/1.1; return \"<$ssl_alpn_protocol>\";").start();
    let offering = |protocols: &[&str]| {
        let mut config = client();
        config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
        TlsConn::try_to(s.port(0), "localhost", &Arc::new(config))
    };
    assert_eq!(offering(&["http/1.1", "h2"]).unwrap().rest(), "<h2>");
    assert_eq!(offering(&["http/1.1"]).unwrap().rest(), "<http/1.1>");
    assert_eq!(offering(&[]).unwrap().rest(), "<>");
    let refused = offering(&["spdy/1"]).err().unwrap();
    assert!(
        refused.to_string().contains("NoApplicationProtocol"),
        "{refused}"
    );
    s.wait_for_text("error.log", "SSL_do_handshake() failed (SSL: ");
    let lines = s.lines("facts.log", 4);
    assert!(lines[3].ends_with(" 500"), "{lines:?}");
}

#[test]
fn the_name_chooses_certificate_and_server() {
    if skip_on_nginx("its 1.22 knows no server names in stream") {
        return;
    }
    let names = ["one.example", "*.two.example", "localhost"];
    let identities = names.map(|name| Identity::new(&[name]));
    let mut conf = String::new();
    for (at, name) in names.iter().enumerate() {
        conf += &format!(
            "server {{ listen 127.0.0.1:%%P0%% ssl {}; server_name {name};
                ssl_certificate %%DIR%%/c{at}.pem; ssl_certificate_key %%DIR%%/k{at}.pem;
                return \"{at} $ssl_server_name\"; }}",
            if at == 2 { "default_server" } else { "" }
        );
    }
    conf += "server { listen 127.0.0.1:%%P0%% ssl; server_name bad.example;
                ssl_reject_handshake on; return x; }";
    let mut setup = Setup::stream(&conf);
    for (at, identity) in identities.iter().enumerate() {
        setup = setup
            .file(&format!("c{at}.pem"), &identity.cert)
            .file(&format!("k{at}.pem"), &identity.key);
    }
    let s = setup.start();
    for (name, at) in [
        ("one.example", 0),
        ("ONE.example", 0),
        ("x.two.example", 1),
        ("localhost", 2),
        ("other.example", 2),
    ] {
        let mut conn = TlsConn::to(s.port(0), name, &config());
        assert!(conn.peer() == identities[at].der(), "{name}");
        let text = conn.rest();
        assert!(text.eq_ignore_ascii_case(&format!("{at} {name}")), "{text}");
    }
    let refused = TlsConn::try_to(s.port(0), "bad.example", &config()).err();
    let refused = refused.unwrap().to_string();
    assert!(refused.contains("UnrecognisedName"), "{refused}");
}

#[test]
fn certificates_are_named_by_variables() {
    let names = ["one.example", "two.example"];
    let identities = names.map(|name| Identity::new(&[name]));
    let mut setup = Setup::stream(
        "server { listen 127.0.0.1:%%P0%% ssl;
            ssl_certificate %%DIR%%/$ssl_server_name.pem;
            ssl_certificate_key %%DIR%%/$ssl_server_name.key;
            return \"$ssl_server_name\"; }",
    );
    for (name, identity) in names.iter().zip(&identities) {
        setup = setup
            .file(&format!("{name}.pem"), &identity.cert)
            .file(&format!("{name}.key"), &identity.key);
    }
    let s = setup.start();
    for (name, identity) in names.iter().zip(&identities) {
        let mut conn = TlsConn::to(s.port(0), name, &config());
        assert!(conn.peer() == identity.der());
        assert_eq!(conn.rest(), *name);
    }
    assert!(TlsConn::try_to(s.port(0), "three.example", &config()).is_err());
    s.wait_for_text("error.log", "three.example.pem\"");
}

#[test]
fn clients_are_let_in_by_their_certificates() {
    let ca = Authority::new("Test CA");
    let (own, stranger) = (ca.sign(&["the client"]), Identity::new(&["stranger"]));
    let shown = "return \"$ssl_client_verify|$ssl_client_s_dn|$ssl_client_i_dn\";";
    let start = |verify: &str| {
        tls(&format!(
            "ssl_verify_client {verify}; ssl_client_certificate %%DIR%%/ca.pem; {shown}"
        ))
        .file("ca.pem", &ca.cert)
        .start()
    };
    let ask = |s: &Server, identity: Option<&Identity>| {
        let config = Arc::new(identity.map_or_else(client, client_as));
        let mut conn = TlsConn::to(s.port(0), "localhost", &config);
        let mut text = Vec::new();
        let _ = conn.stream.read_to_end(&mut text);
        String::from_utf8(text).unwrap()
    };
    let welcome = "SUCCESS|CN=the client|CN=Test CA";
    let s = start("on");
    assert_eq!(ask(&s, Some(&own)), welcome);
    assert_eq!(ask(&s, None), "");
    s.wait_for_text(
        "error.log",
        "client sent no required SSL certificate while SSL handshaking, client: 127.0.0.1, server: ",
    );
    assert_eq!(ask(&s, Some(&stranger)), "");
    s.wait_for_text(
        "error.log",
        "client SSL certificate verify error: (18:self-signed certificate) while SSL handshaking",
    );
    let lines = s.lines("facts.log", 3);
    assert!(
        lines[1].ends_with(" 500") && lines[2].ends_with(" 500"),
        "{lines:?}"
    );

    let s = start("optional");
    assert_eq!(ask(&s, Some(&own)), welcome);
    assert_eq!(ask(&s, None), "NONE||");
    assert_eq!(ask(&s, Some(&stranger)), "");

    let s = start("optional_no_ca");
    let text = ask(&s, Some(&stranger));
    assert_eq!(
        text,
        "FAILED:self-signed certificate|CN=stranger|CN=stranger"
    );
}

#[test]
fn responders_say_which_clients_are_good() {
    if skip_on_nginx("its 1.22 asks nobody in stream") {
        return;
    }
    let ca = Authority::new("Test CA");
    let responder = Responder::start(&ca);
    responder.set(1, 'V');
    responder.set(2, 'R');
    let s = tls(
        "ssl_verify_client on; ssl_client_certificate %%DIR%%/ca.pem; ssl_ocsp on;
        return $ssl_client_verify;",
    )
    .file("ca.pem", &ca.cert)
    .start();
    for (serial, shown) in [(1, "SUCCESS"), (2, "")] {
        let own = ca.sign_for(&["client"], serial, &responder.url());
        let mut conn = TlsConn::to(s.port(0), "localhost", &Arc::new(client_as(&own)));
        assert_eq!(rest(&mut conn), shown);
    }
    s.wait_for_text(
        "error.log",
        "client SSL certificate verify error: certificate revoked while SSL handshaking",
    );
}

#[test]
fn responses_are_stapled() {
    if skip_on_nginx("its 1.22 staples nothing in stream") {
        return;
    }
    let ca = Authority::new("Test CA");
    let responder = Responder::start(&ca);
    responder.set(7, 'V');
    let own = ca.sign_for(&["localhost"], 7, &responder.url());
    let s = tls("ssl_stapling on; return x;")
        .file("c.pem", format!("{}{}", own.cert, ca.cert))
        .file("k.pem", own.key)
        .start();
    wait_for("a response to staple", || responder.asked() == 1);
    wait_for("a stapled response", || {
        let output = Command::new("openssl")
            .args(["s_client", "-status", "-connect"])
            .arg(format!("127.0.0.1:{}", s.port(0)))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).contains("Cert Status: good")
    });
}

/// What comes back for these bytes, which then end if they are to.
fn says(s: &Server, bytes: &[u8], ends: bool) -> Vec<u8> {
    let mut tcp = TcpStream::connect(("127.0.0.1", s.port(0))).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    tcp.write_all(bytes).unwrap();
    if ends {
        tcp.shutdown(Shutdown::Write).unwrap();
    }
    let mut rest = Vec::new();
    let _ = tcp.read_to_end(&mut rest);
    rest
}

#[test]
fn what_is_no_handshake_is_refused() {
    let s = tls("return alive;").start();
    let failed = "SSL_do_handshake() failed (SSL: ";
    let doing = " while SSL handshaking, client: 127.0.0.1, server: 127.0.0.1:";
    let count = |text: &str| s.error_log().matches(text).count();
    let kinds: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        // One that is no hello, a record of another kind, a hello of no length, one without end.
        &[22, 3, 1, 0, 4, 2, 0, 0, 0],
        &[23, 3, 3, 0, 4, 2, 0, 0, 0],
        &[22, 3, 1, 0, 4, 1, 0, 0, 0],
        &[22, 3, 1, 0xff, 0xff, 1, 0, 0, 0],
    ];
    // The others are critical to nginx.
    let kinds = if is_nginx() { &kinds[..3] } else { &kinds };
    for (at, bytes) in kinds.iter().enumerate() {
        says(&s, bytes, true);
        let ended = "peer closed connection in SSL handshake";
        wait_for("a line", || count(failed) + count(ended) > at);
        assert!(s.error_log().contains(doing), "{}", s.error_log());
    }
    assert!(count(failed) + 1 >= kinds.len(), "{}", s.error_log());
    // Cut short, anywhere.
    let hello = first_flight();
    for end in [1, 5, 6, 40, hello.len() - 1] {
        let before = count("peer closed connection in SSL handshake");
        says(&s, &hello[..end], true);
        wait_for("a line", || {
            count("peer closed connection in SSL handshake") > before
        });
    }
    // In the middle of the handshake, and behind it.
    let before = count("peer closed connection in SSL handshake");
    assert!(says(&s, &hello, true).len() > 100);
    wait_for("a line", || {
        count("peer closed connection in SSL handshake") > before
    });
    let before = count(failed);
    let mut broken = hello.clone();
    broken.extend_from_slice(&[23, 3, 3, 0, 20]);
    broken.extend_from_slice(&[0xab; 20]);
    says(&s, &broken, false);
    wait_for("a line", || count(failed) > before);
    for line in s.lines("facts.log", kinds.len() + 7) {
        assert!(line.ends_with(" 500"), "{line}");
    }
    assert_eq!(
        TlsConn::to(s.port(0), "localhost", &config()).rest(),
        "alive"
    );
}

/// The first bytes of a client.
fn first_flight() -> Vec<u8> {
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let mut conn = rustls::ClientConnection::new(config(), name).unwrap();
    let mut bytes = Vec::new();
    while conn.wants_write() {
        conn.write_tls(&mut bytes).unwrap();
    }
    bytes
}

#[test]
fn a_broken_record_ends_the_session() {
    if skip_on_nginx("it takes that for critical") {
        return;
    }
    let backend = echo();
    let s = tls("proxy_pass 127.0.0.1:%%B0%%;")
        .backends(&[&backend])
        .start();
    for is_13 in [false, true] {
        let mut conn = TlsConn::to(s.port(0), "localhost", &only(is_13));
        conn.send("fine");
        conn.stream.read_exact(&mut [0; 4]).unwrap();
        let mut record = vec![23, 3, 3, 0, 32];
        record.extend_from_slice(&[7; 32]);
        conn.stream.sock.write_all(&record).unwrap();
        let error = conn.stream.read_to_end(&mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("BadRecordMac"), "{error}");
    }
    s.wait_for_text("error.log", "SSL_read() failed (SSL: ");
    s.lines("facts.log", 2);
}

#[test]
fn handshakes_have_their_time() {
    let s = tls("ssl_handshake_timeout 1s; return alive;").start();
    let begin = Instant::now();
    let hello = first_flight();
    std::thread::scope(|scope| {
        for length in [0, 3, 50, hello.len()] {
            let (s, hello) = (&s, &hello);
            scope.spawn(move || says(s, &hello[..length], false));
        }
    });
    let took = begin.elapsed();
    assert!(took > Duration::from_millis(900), "{took:?}");
    for line in s.lines("facts.log", 4) {
        assert!(line.ends_with(" 500"), "{line}");
    }
}

#[test]
fn sessions_are_resumed_after_a_reload() {
    for (conf, is_nginx_able) in [
        ("ssl_session_tickets on;", false),
        (
            "ssl_session_tickets off; ssl_session_cache shared:T:1m;",
            false,
        ),
        ("ssl_session_ticket_key %%DIR%%/ticket.key;", true),
    ] {
        if is_nginx() && !is_nginx_able {
            continue;
        }
        let s = tls(&format!("{conf} return \"$ssl_session_reused\";"))
            .file("ticket.key", Rng(7).bytes(80))
            .start();
        let mut config = client();
        config.resumption = rustls::client::Resumption::in_memory_sessions(8);
        let config = Arc::new(config);
        let ask = || TlsConn::to(s.port(0), "localhost", &config).rest();
        assert_eq!(ask(), ".", "{conf}");
        s.reload();
        assert_eq!(ask(), "r", "{conf}");
    }
}

#[test]
fn a_proxy_protocol_header_comes_before_the_handshake() {
    let backend = Backend::raw(|mut conn, _| {
        let head = conn.take_until("\r\n");
        conn.send(head);
    });
    let s = tls("proxy_pass 127.0.0.1:%%B0%%; proxy_protocol on; }
         server { listen 127.0.0.1:%%P1%% ssl proxy_protocol;
            return \"$proxy_protocol_addr $ssl_protocol\";")
    .backends(&[&backend])
    .start();
    let text = TlsConn::to(s.port(0), "localhost", &config()).rest();
    assert!(
        text.starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 "),
        "{text}"
    );
    let mut tcp = TcpStream::connect(("127.0.0.1", s.port(1))).unwrap();
    tcp.write_all(b"PROXY TCP4 10.1.2.3 10.0.0.1 1 2\r\n")
        .unwrap();
    let mut conn = TlsConn::over(tcp, "localhost", &config()).unwrap();
    assert_eq!(conn.rest(), "10.1.2.3 TLSv1.3");
}

#[test]
fn bytes_have_their_rate() {
    let backend = Backend::raw(|mut conn, _| {
        let up = conn.take(30_000);
        conn.send(&up).send(up);
    });
    let s = tls("proxy_pass 127.0.0.1:%%B0%%; proxy_upload_rate 20k; proxy_download_rate 40k;")
        .backends(&[&backend])
        .start();
    let begin = Instant::now();
    let mut conn = TlsConn::to(s.port(0), "localhost", &config());
    let bytes = Rng(9).bytes(30_000);
    conn.send(&bytes);
    let text = {
        let mut all = Vec::new();
        conn.stream.read_to_end(&mut all).unwrap();
        all
    };
    assert!(text[..30_000] == bytes && text[30_000..] == bytes);
    let took = begin.elapsed();
    let (least, most) = (Duration::from_millis(1800), Duration::from_secs(6));
    assert!(took > least && took < most, "{took:?}");
}

#[test]
fn a_session_is_silent_no_longer_than_it_may() {
    let backend = Backend::silent();
    let s = tls("proxy_pass 127.0.0.1:%%B0%%; proxy_timeout 1s;")
        .backends(&[&backend])
        .start();
    let mut conn = TlsConn::to(s.port(0), "localhost", &config());
    conn.send("hello");
    let _ = conn.stream.read_to_end(&mut Vec::new());
    s.wait_for_text(
        "error.log",
        "connection timed out (110: Connection timed out) while ",
    );
}

#[test]
fn no_server_is_an_end_in_order() {
    let s = tls("proxy_pass 127.0.0.1:%%P9%%;").start();
    assert_eq!(TlsConn::to(s.port(0), "localhost", &config()).rest(), "");
    let lines = s.lines("facts.log", 1);
    assert!(lines[0].ends_with(" 502"), "{lines:?}");
}

#[test]
fn connections_are_passed_on_opened() {
    if skip_on_nginx("its 1.22 passes nothing") {
        return;
    }
    let own = Identity::new(&["localhost"]);
    let s = Setup::full(
        "%%MODULES%% events {} http { %%HTTP%%
            server { listen 127.0.0.1:%%P1%%;
                location / { return 200 \"$scheme $ssl_protocol $ssl_server_name $uri\"; } } }
         stream {
            ssl_certificate %%DIR%%/c.pem; ssl_certificate_key %%DIR%%/k.pem;
            server { listen 127.0.0.1:%%P0%% ssl; pass 127.0.0.1:%%P1%%; }
            server { listen 127.0.0.1:%%P2%% ssl; pass 127.0.0.1:%%P3%%; }
            server { listen 127.0.0.1:%%P3%%; return \"$ssl_protocol $server_port\"; } }",
    )
    .file("c.pem", own.cert)
    .file("k.pem", own.key)
    .start();
    let mut conn = TlsConn::to(s.port(0), "localhost", &config());
    for path in ["/one", "/two"] {
        let text = conn.get("localhost", path);
        assert_eq!(text, format!("https TLSv1.3 localhost {path}"));
    }
    let port = s.port(2);
    let text = TlsConn::to(port, "localhost", &config()).rest();
    assert_eq!(text, format!("TLSv1.3 {}", s.port(3)));
}

/// Both ends of a session send and compare pieces by turns, with quiet moments.
pub fn converse(stream: &mut (impl Read + Write), session: u64, is_client: bool) {
    let mut sizes = Rng(session * 2 + 1);
    for round in 0..ROUNDS {
        let [up, down] = [0, 1].map(|direction| {
            let most = [64, 4_000, 50_000][sizes.below(3)];
            let length = 1 + sizes.below(most);
            Rng(session << 20 | round << 1 | direction | 1 << 60).bytes(length)
        });
        let pause = sizes.below(8);
        let (own, other) = if is_client { (up, down) } else { (down, up) };
        stream.write_all(&own).unwrap();
        stream.flush().unwrap();
        let mut came = vec![0; other.len()];
        let read = stream.read_exact(&mut came);
        assert!(
            read.is_ok(),
            "session {session}, round {round}, client {is_client}: {read:?}"
        );
        assert!(came == other, "session {session}, round {round}");
        if pause == 0 {
            // The quiet moment.
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

const ROUNDS: u64 = 30;

#[test]
fn bytes_arrive_as_they_were_sent_while_the_configuration_reloads() {
    let backend = Backend::raw(|mut conn, _| {
        let number = u64::from_be_bytes(conn.take(8).try_into().unwrap());
        conn.send("!");
        let mut tcp = conn.into_tcp();
        converse(&mut tcp, number, false);
    });
    let s = tls("proxy_pass 127.0.0.1:%%B0%%;")
        .globals("daemon off; pid nginx.pid; error_log error.log info; worker_processes 2;")
        .backends(&[&backend])
        .start();
    let port = s.port(0);
    let clients: Vec<_> = (0..100_u64)
        .map(|number| {
            std::thread::spawn(move || {
                let config = only(number % 2 == 0);
                let mut conn = TlsConn::to(port, "localhost", &config);
                conn.send(number.to_be_bytes());
                conn.stream.read_exact(&mut [0]).unwrap();
                converse(&mut conn.stream, number, true);
                assert_eq!(conn.rest(), "");
            })
        })
        .collect();
    while !clients.iter().all(std::thread::JoinHandle::is_finished) {
        s.reload();
    }
    for client in clients {
        client.join().unwrap();
    }
    s.lines("facts.log", 100);
}
