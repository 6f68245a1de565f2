//! `$ssl_…`: what is known of a handshake.

use std::process::{Command, Stdio};

use crate::common::tls::{Authority, Identity};
use crate::common::*;

/// A server that tells of its clients' handshakes.
fn start(ca: &Authority) -> Server {
    let own = Identity::new(&["localhost"]);
    let fact = |name: &str| format!("{name}=[$ssl_{name}]\\n");
    let facts = ["ciphers", "curves", "curve", "session_id", "early_data"];
    let facts: String = facts.map(fact).concat();
    // nginx has them since 1.29.3.
    let newer = match is_nginx() {
        true => String::new(),
        false => fact("sigalg") + &fact("client_sigalg"),
    };
    Setup::http(&format!(
        "server {{ listen 127.0.0.1:%%P0%% ssl; server_name localhost;
            ssl_protocols TLSv1.2 TLSv1.3; ssl_session_tickets off;
            ssl_session_cache shared:S:1m; ssl_verify_client optional;
            ssl_certificate %%DIR%%/c.pem; ssl_certificate_key %%DIR%%/k.pem;
            ssl_client_certificate %%DIR%%/ca.pem;
            return 200 \"{facts}{newer}\"; }}"
    ))
    .file("c.pem", own.cert)
    .file("k.pem", own.key)
    .file("ca.pem", &ca.cert)
    .start()
}

/// What `openssl s_client` with these arguments prints.
fn ask(s: &Server, arguments: &[&str]) -> String {
    let openssl = Command::new("openssl")
        .current_dir(s.path(""))
        .args(["s_client", "-ign_eof", "-servername", "localhost"])
        .args(["-connect", &format!("127.0.0.1:{}", s.port(0))])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut openssl = openssl.expect("openssl");
    let mut input = openssl.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let output = openssl.wait_with_output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The value of a variable in that.
#[track_caller]
fn value(text: &str, name: &str) -> String {
    let start = format!("{name}=[");
    let mut lines = text.lines();
    let found = lines.find_map(|line| line.strip_prefix(&start)?.strip_suffix(']'));
    found
        .unwrap_or_else(|| panic!("no {name} in {text}"))
        .into()
}

#[test]
fn offers_of_clients_are_named() {
    let s = start(&Authority::new("Test CA"));
    let ciphers = "ECDHE-ECDSA-AES128-GCM-SHA256:AES256-SHA";
    let said = ask(
        &s,
        &[
            "-tls1_2",
            "-cipher",
            ciphers,
            "-groups",
            "P-256:X448:X25519",
        ],
    );
    let scsv = "TLS_EMPTY_RENEGOTIATION_INFO_SCSV";
    assert_eq!(value(&said, "ciphers"), format!("{ciphers}:{scsv}"));
    assert_eq!(value(&said, "curves"), "prime256v1:X448:X25519");
    assert_eq!(value(&said, "curve"), "prime256v1");
    assert_eq!(value(&said, "early_data"), "");
    let ciphers = "TLS_AES_128_GCM_SHA256:TLS_AES_128_CCM_8_SHA256";
    let said = ask(
        &s,
        &[
            "-tls1_3",
            "-ciphersuites",
            ciphers,
            "-groups",
            "X25519:P-521",
        ],
    );
    assert_eq!(value(&said, "ciphers"), format!("{ciphers}:{scsv}"));
    assert_eq!(value(&said, "curves"), "X25519:secp521r1");
}

#[test]
fn sessions_have_numbers() {
    let s = start(&Authority::new("Test CA"));
    let first = ask(&s, &["-tls1_2", "-sess_out", "session"]);
    let number = value(&first, "session_id");
    assert_eq!(number.len(), 64);
    let of_client = format!("Session-ID: {}", number.to_uppercase());
    assert!(first.contains(&of_client), "{first}");
    let second = ask(&s, &["-tls1_2", "-sess_in", "session"]);
    assert_eq!(value(&second, "session_id"), number);
    let number = value(&ask(&s, &["-tls1_3"]), "session_id");
    assert_eq!(number.len(), 64);
    assert_ne!(value(&ask(&s, &["-tls1_3"]), "session_id"), number);
}

#[test]
fn signatures_are_named() {
    if skip_on_nginx("it has them since 1.29.3") {
        return;
    }
    let ca = Authority::new("Test CA");
    let s = start(&ca);
    let client = ca.sign(&["client"]);
    std::fs::write(s.path("client.pem"), client.cert).unwrap();
    std::fs::write(s.path("client.key"), client.key).unwrap();
    for version in ["-tls1_2", "-tls1_3"] {
        let said = ask(&s, &[version]);
        assert_eq!(value(&said, "sigalg"), "ecdsa_secp256r1_sha256");
        assert_eq!(value(&said, "client_sigalg"), "");
        let said = ask(&s, &[version, "-cert", "client.pem", "-key", "client.key"]);
        // In TLS 1.2 any hash goes with any curve.
        let name = value(&said, "client_sigalg");
        assert!(name.starts_with("ecdsa_secp"), "{name}");
        assert!(version == "-tls1_2" || name == "ecdsa_secp256r1_sha256");
    }
    ask(&s, &["-tls1_2", "-sess_out", "session"]);
    let again = ask(&s, &["-tls1_2", "-sess_in", "session"]);
    assert_eq!(value(&again, "sigalg"), "");
}
