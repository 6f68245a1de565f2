//! What is no TLS, or TLS that breaks its rules: an alert as RFC 8446 and RFC 5246 name it, a line
//! in the log, and the end.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, ClientConnection, Error};

use crate::common::records::{ALERT, DATA, HANDSHAKE, Records, plain};
use crate::common::tls::{Identity, client};
use crate::common::*;

/// A server whose sessions are not resumed, so that it sends no tickets.
fn https(server: &str) -> Server {
    let own = Identity::new(&["localhost"]);
    Setup::http(&format!(
        "server {{ listen 127.0.0.1:%%P0%% ssl; server_name localhost;
            ssl_certificate %%DIR%%/c.pem; ssl_certificate_key %%DIR%%/k.pem;
            ssl_protocols TLSv1.2 TLSv1.3; ssl_session_tickets off;
            ssl_conf_command NumTickets 0;
            {server} location / {{ return 200 ok; }} }}"
    ))
    .file("c.pem", own.cert)
    .file("k.pem", own.key)
    .start()
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32).to_be_bytes();
    [&[kind], &length[1..], body].concat()
}

/// A client that can do everything, and the record with its ClientHello.
fn hello() -> (ClientConnection, Vec<u8>) {
    let name = ServerName::try_from("localhost").unwrap();
    let mut conn = ClientConnection::new(Arc::new(client()), name).unwrap();
    let mut out = Vec::new();
    conn.write_tls(&mut out).unwrap();
    (conn, out)
}

fn connect(s: &Server) -> TcpStream {
    let tcp = TcpStream::connect(("127.0.0.1", s.port(0))).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    tcp
}

/// Sends this, and gives what comes back until the connection ends or is reset.
#[track_caller]
fn answered(s: &Server, bytes: &[u8]) -> Vec<u8> {
    let mut tcp = connect(s);
    let _ = tcp.write_all(bytes);
    let mut out = Vec::new();
    let mut piece = [0; 4096];
    loop {
        match tcp.read(&mut piece) {
            Ok(0) => return out,
            Ok(count) => out.extend_from_slice(&piece[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return out,
            Err(error) => panic!("{error}"),
        }
    }
}

/// A fatal alert before anything is encrypted.
fn fatal(alert: u8) -> Vec<u8> {
    plain(ALERT, &[2, alert])
}

#[test]
fn what_is_no_client_hello_is_told_why() {
    let mut s = https("");
    let (_, hello) = hello();
    let body = &hello[5..];
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut body = body.to_vec();
        change(&mut body);
        let length = (body.len() as u32 - 4).to_be_bytes();
        body[1..4].copy_from_slice(&length[1..]);
        plain(HANDSHAKE, &body)
    };
    let hello_of = |version: &[u8], suites: &[u8]| {
        let body = [version, &[7; 32], &[0], suites, &[1, 0]].concat();
        plain(HANDSHAKE, &message(1, &body))
    };
    let ssl2 = [
        &[0x80, 46, 1, 3, 1, 0, 3, 0, 0, 0, 16, 1, 2, 3][..],
        &[7; 34],
    ]
    .concat();
    let too_long = message(1, &vec![0; 40_000]);
    let too_long: Vec<u8> = too_long
        .chunks(16_000)
        .flat_map(|part| plain(HANDSHAKE, part))
        .collect();
    // The alert of nginx is another one where two are given.
    for (what, sent, alert, of_nginx) in [
        ("too long a record", vec![22, 3, 1, 0x40, 1, 1], 22, 0),
        ("an endless record", vec![22, 3, 1, 255, 255, 1], 22, 22),
        (
            "another message",
            plain(HANDSHAKE, &message(2, &[0; 40])),
            10,
            10,
        ),
        (
            "its own end",
            plain(HANDSHAKE, &message(20, &[0; 12])),
            10,
            10,
        ),
        (
            "a cut message",
            plain(HANDSHAKE, &message(1, &[3, 3, 7])),
            50,
            50,
        ),
        ("a byte too many", with(&|body| body.push(0)), 50, 50),
        (
            "a byte too few",
            with(&|body| body.truncate(body.len() - 1)),
            50,
            50,
        ),
        ("too long a session", with(&|body| body[38] = 33), 50, 50),
        ("no suites", hello_of(&[3, 3], &[0, 0]), 50, 47),
        (
            "unknown suites",
            hello_of(&[3, 3], &[0, 2, 0x0a, 0x0a]),
            40,
            40,
        ),
        ("TLS 1.0", hello_of(&[3, 1], &[0, 2, 0, 0x2f]), 70, 70),
        ("SSL 2", ssl2, 70, 50),
        (
            "another version",
            vec![22, 2, 0, 0, 5, 1, 0, 0, 1, 0],
            70,
            0,
        ),
        ("SSH", b"\x16SH-2.0-OpenSSH_9.2\r\n".to_vec(), 70, 0),
        ("empty records", plain(HANDSHAKE, &[]).repeat(40), 10, 10),
        ("too long a message", too_long, 47, 0),
    ] {
        if is_nginx() && of_nginx == 0 {
            continue;
        }
        let got = answered(&s, &sent);
        let expected = if is_nginx() { of_nginx } else { alert };
        // The version in the record's header is no matter.
        assert_eq!(got.first(), Some(&ALERT), "{what}: {got:?}");
        assert_eq!(got[3..], fatal(expected)[3..], "{what}");
    }
    s.wait_for_text("error.log", "SSL_do_handshake() failed (SSL: ");
    s.wait_for_text("error.log", " while SSL handshaking, client: 127.0.0.1, ");
    s.expect_alerts();
}

/// What a client of rustls finds in the answer to its ClientHello and what follows it.
fn told(s: &Server, more: &[u8]) -> Error {
    let (mut conn, hello) = hello();
    let bytes = answered(s, &[&hello, more].concat());
    let mut bytes = &bytes[..];
    while !bytes.is_empty() {
        conn.read_tls(&mut bytes).unwrap();
        if let Err(error) = conn.process_new_packets() {
            return error;
        }
    }
    panic!("no alert");
}

#[test]
fn what_follows_the_hello_is_checked_too() {
    let mut s = https("");
    let (_, hello) = hello();
    for (what, more, alert) in [
        (
            "no ciphertext",
            plain(DATA, &[7; 40]),
            AlertDescription::BadRecordMac,
        ),
        (
            "an unknown type",
            plain(99, &[7; 40]),
            AlertDescription::DecodeError,
        ),
        (
            "a wrong CCS",
            plain(20, &[2]),
            AlertDescription::UnexpectedMessage,
        ),
    ] {
        let told = told(&s, &more);
        if !is_nginx() {
            assert_eq!(told, Error::AlertReceived(alert), "{what}");
        }
    }
    for (what, more) in [
        ("another hello", hello),
        ("too long a record", vec![23, 3, 3, 0x50, 0]),
        ("an empty record", plain(HANDSHAKE, &[])),
    ] {
        let told = told(&s, &more);
        assert!(matches!(told, Error::AlertReceived(_)), "{what}: {told}");
    }
    // Somebody gives up.
    assert!(answered(&s, &fatal(40)).starts_with(b"HTTP/1.1 400 "));
    s.expect_alerts();
}

#[test]
fn a_hello_in_single_bytes_is_one() {
    let s = https("");
    let (mut conn, hello) = hello();
    let mut tcp = connect(&s);
    for byte in &hello[5..] {
        tcp.write_all(&plain(HANDSHAKE, &[*byte])).unwrap();
    }
    while conn.is_handshaking() || conn.wants_write() {
        conn.complete_io(&mut tcp).unwrap();
    }
    conn.writer().write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    let mut stream = rustls::Stream::new(&mut conn, &mut tcp);
    stream.read_to_string(&mut text).unwrap();
    assert!(text.ends_with("ok"), "{text}");
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[test]
fn records_that_break_the_rules_end_the_connection() {
    let mut s = https("");
    for version in [&TLS12, &TLS13] {
        let is_13 = version == &TLS13;
        let case = |what: &str, alert: u8, act: &dyn Fn(&mut Records)| {
            let mut conn = Records::to(s.port(0), version);
            act(&mut conn);
            let alert_sent = conn.alert();
            // OpenSSL calls some of it errors of its own.
            if !is_nginx() {
                assert_eq!(alert_sent, alert, "{what} {is_13}");
            }
        };
        case("a damaged record", 20, &|conn| {
            let mut record = conn.seal(DATA, GET);
            *record.last_mut().unwrap() ^= 1;
            conn.tcp.write_all(&record).unwrap();
        });
        case("too short a record", 20, &|conn| {
            conn.tcp.write_all(&plain(DATA, &[0; 10])).unwrap();
        });
        case("too long a record", 22, &|conn| {
            conn.tcp.write_all(&[23, 3, 3, 0x48, 1]).unwrap();
        });
        case("too much in a record", 22, &|conn| {
            conn.send(DATA, &[b'x'; (1 << 14) + 1]);
        });
        case("a message of the handshake", 10, &|conn| {
            conn.send(HANDSHAKE, &message(20, &[0; 12]));
        });
        case("an unknown type", 10, &|conn| conn.send(99, b"x"));
        case("an alert without end", 50, &|conn| conn.send(ALERT, &[2]));
        case("empty records", 10, &|conn| {
            for _ in 0..100 {
                conn.send(DATA, &[]);
            }
        });
    }
    s.wait_for_text("error.log", "SSL_read() failed (SSL: ");
    s.wait_for_text(
        "error.log",
        " while waiting for request, client: 127.0.0.1, ",
    );
    s.expect_alerts();
}

#[test]
fn new_keys_are_not_for_nothing() {
    let mut s = https("");
    let mut conn = Records::to(s.port(0), &TLS13);
    conn.send(HANDSHAKE, &message(24, &[2]));
    assert_eq!(conn.alert(), 47);
    let mut conn = Records::to(s.port(0), &TLS13);
    conn.send(HANDSHAKE, &message(24, &[]));
    assert!(matches!(conn.alert(), 47 | 50));
    s.expect_alerts();
}

#[test]
fn a_new_handshake_is_refused_and_the_old_goes_on() {
    let mut s = https("");
    let mut conn = Records::to(s.port(0), &TLS12);
    let (_, hello) = hello();
    conn.send(HANDSHAKE, &hello[5..]);
    // A warning: no_renegotiation.
    assert_eq!(conn.read(), Some((ALERT, vec![1, 100])));
    conn.send(DATA, GET);
    let (kind, answer) = conn.read().unwrap();
    assert_eq!(kind, DATA);
    assert!(answer.starts_with(b"HTTP/1.1 200 "));
    if is_nginx() {
        return;
    }
    for _ in 0..10 {
        conn.send(HANDSHAKE, &hello[5..]);
    }
    assert_eq!(conn.alert(), 10);
    s.wait_for_text("error.log", "SSL_read() failed (SSL: unexpected message)");
    s.expect_alerts();
}

#[test]
fn alerts_of_clients_end_the_connection() {
    let mut s = https("");
    for version in [&TLS12, &TLS13] {
        let mut conn = Records::to(s.port(0), version);
        conn.send(ALERT, &[2, 42]);
        // It has been said already.
        assert!(!matches!(conn.read(), Some((ALERT, alert)) if alert[0] == 2));
        s.wait_for_text(
            "error.log",
            "SSL alert number 42) while waiting for request",
        );
        // What follows the end is none of the stream.
        let mut conn = Records::to(s.port(0), version);
        let request = conn.seal(DATA, GET);
        let end = conn.seal(ALERT, &[1, 0]);
        let behind = conn.seal(DATA, b"GET /behind HTTP/1.1\r\n\r\n");
        conn.tcp
            .write_all(&[request, end, behind].concat())
            .unwrap();
        let mut kinds = Vec::new();
        while let Some((kind, _)) = conn.read() {
            kinds.push(kind);
        }
        let last = if is_nginx() { DATA } else { ALERT };
        assert_eq!(kinds.last(), Some(&last), "{kinds:?}");
        assert!(!s.read("access.log").contains("/behind"));
    }
    s.expect_alerts();
}

#[test]
fn tls_on_a_plain_port_is_a_bad_request() {
    let s = http("server { listen 127.0.0.1:%%P0%%; return 200 ok; }", &[]);
    let answer = answered(&s, &hello().1);
    assert!(answer.starts_with(b"HTTP/1.1 400 "), "{answer:?}");
    s.wait_for_text(
        "error.log",
        "client sent invalid method while reading client request line",
    );
}
