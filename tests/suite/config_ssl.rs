//! `ssl_…` is checked as nginx checks it, files and all.

use crate::common::*;

/// A certificate for nobody, which nginx loads too.
const CERTIFICATE: &str = "\
-----BEGIN CERTIFICATE-----
MIIBgzCCASmgAwIBAgIUEajeu6q1kfI/K5T8t6siZY3cnrkwCgYIKoZIzj0EAwIw
FzEVMBMGA1UEAwwMcmluZ3dheS50ZXN0MB4XDTI2MTEyMTE2MzIyNVoXDTQ2MTEx
NjE2MzIyNVowFzEVMBMGA1UEAwwMcmluZ3dheS50ZXN0MFkwEwYHKoZIzj0CAQYI
KoZIzj0DAQcDQgAEsopRcLG4PdAzJaUvP59mAgmr1IKw+4x+qpfzhP6o+TA/Afw3
SL4U4luCmoFiRsSobrDlZRT+F1FAN3aY1DS/uqNTMFEwHQYDVR0OBBYEFIS/phr0
BRw2hz59CF4y5gtCcMu1MB8GA1UdIwQYMBaAFIS/phr0BRw2hz59CF4y5gtCcMu1
MA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDSAAwRQIgVQPi1SaSMSJLZxU0
pl7T0diXKJt6/YRhqtxtFUl+ky0CIQDnDRpai1m8cUnjD6FLgq8ZO7kGlk7jog6Z
W6mpet5XGg==
-----END CERTIFICATE-----
";

const KEY: &str = "\
-----BEGIN EC PRIVATE KEY-----
MHcCAQEEIKBsd6/lsC2Gl/Hpy1zJ+72L8DoRd9i+8z5e8M3xiSjcoAoGCCqGSM49
AwEHoUQDQgAEsopRcLG4PdAzJaUvP59mAgmr1IKw+4x+qpfzhP6o+TA/Afw3SL4U
4luCmoFiRsSobrDlZRT+F1FAN3aY1DS/ug==
-----END EC PRIVATE KEY-----
";

/// A certificate with its key, before what a case adds.
const PAIR: &str = "ssl_certificate c.pem; ssl_certificate_key k.pem;";

/// What `-t` says about a server block with this content: the exit code and the lines.
fn check(server: &str) -> (Option<i32>, Vec<String>) {
    check_all(&format!(
        "events {{}} http {{ server {{ listen 127.0.0.1:1; {server} }} }}"
    ))
}

/// What `-t` says about a configuration.
fn check_all(conf: &str) -> (Option<i32>, Vec<String>) {
    let setup = Setup::full(conf)
        .globals("")
        .args(&["-t"])
        .file("c.pem", CERTIFICATE)
        .file("k.pem", KEY)
        .file("short", "not 48 bytes");
    let (output, s) = setup.run();
    let text = String::from_utf8_lossy(&output.stderr);
    let text = text.replace(&s.prefix.display().to_string(), "DIR");
    (
        output.status.code(),
        text.lines().map(String::from).collect(),
    )
}

#[test]
fn values_are_checked() {
    let mut differ = Vec::new();
    for (server, expected) in [
        ("ssl_protocols TLSv1.4;", "invalid value \"TLSv1.4\""),
        (
            "ssl_ciphers a; ssl_ciphers a;",
            "\"ssl_ciphers\" directive is duplicate",
        ),
        ("ssl_session_cache foo;", "invalid session cache \"foo\""),
        (
            "ssl_session_cache builtin:x;",
            "invalid session cache \"builtin:x\"",
        ),
        (
            "ssl_session_cache shared:A;",
            "invalid session cache \"shared:A\"",
        ),
        (
            "ssl_session_cache shared::1m;",
            "invalid session cache \"shared::1m\"",
        ),
        (
            "ssl_session_cache shared:A:1k;",
            "session cache \"shared:A:1k\" is too small",
        ),
        (
            "ssl_session_timeout 500ms;",
            "\"ssl_session_timeout\" directive invalid value",
        ),
        ("ssl_verify_client maybe;", "invalid value \"maybe\""),
        (
            "ssl_verify_depth -1;",
            "\"ssl_verify_depth\" directive invalid number",
        ),
        (
            "ssl_ocsp_cache shared:A;",
            "invalid OCSP cache \"shared:A\"",
        ),
        (
            "ssl_password_file /no;",
            "open() \"/no\" failed (2: No such file or directory)",
        ),
        (
            "location / { ssl_ciphers a; }",
            "\"ssl_ciphers\" directive is not allowed here",
        ),
    ] {
        let (code, lines) = check(server);
        let wanted = format!("{}: [emerg] {expected} in DIR/nginx.conf:1", prog());
        if code != Some(1) || lines[0] != wanted {
            differ.push(format!("{server}: wanted {wanted}, got {lines:?}"));
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}

#[test]
fn files_are_looked_at_once_there_is_a_certificate() {
    for files in [
        "ssl_certificate_key /no; ssl_dhparam /no; ssl_crl /no; ssl_session_ticket_key /no;",
        "ssl_certificate $ssl_server_name.pem; ssl_certificate_key $ssl_server_name.key;",
        PAIR,
    ] {
        let (code, lines) = check(files);
        assert_eq!(code, Some(0), "{files}: {lines:?}");
    }
    for (server, expected) in [
        (
            "ssl_certificate c.pem;",
            "no \"ssl_certificate_key\" is defined for certificate \"c.pem\"",
        ),
        (
            "ssl_certificate no.pem; ssl_certificate_key k.pem;",
            "cannot load certificate \"DIR/no.pem\":",
        ),
        (
            "ssl_certificate c.pem; ssl_certificate_key c.pem;",
            "cannot load certificate key \"DIR/c.pem\":",
        ),
        (
            "ssl_verify_client on;",
            "no ssl_client_certificate for ssl_verify_client",
        ),
        (
            "ssl_session_ticket_key short;",
            "\"DIR/short\" must be 48 or 80 bytes",
        ),
        (
            "ssl_conf_command Foo x;",
            "SSL_CONF_cmd(\"Foo\", \"x\") failed",
        ),
    ] {
        let pair = if server.starts_with("ssl_certificate") {
            ""
        } else {
            PAIR
        };
        let (code, lines) = check(&format!("{pair} {server}"));
        let wanted = format!("{}: [emerg] {expected}", prog());
        assert_eq!(code, Some(1), "{server}");
        assert!(
            lines[0].starts_with(&wanted),
            "{server}: wanted {wanted}, got {lines:?}"
        );
    }
}

#[test]
fn what_is_said_about_upstreams_is_checked_where_they_speak_tls() {
    let pass = |url: &str, with: &str| format!("location / {{ proxy_pass {url}; {with} }}");
    for with in [
        "proxy_ssl_verify on;",
        "proxy_ssl_certificate no.pem; proxy_ssl_certificate_key no.pem;",
        "proxy_ssl_trusted_certificate no.pem; proxy_ssl_crl no.pem;",
        "proxy_ssl_ciphers nonsense;",
    ] {
        let (code, lines) = check(&pass("http://127.0.0.1:1", with));
        assert_eq!(code, Some(0), "{with}: {lines:?}");
    }
    for with in [
        "",
        "proxy_ssl_certificate c.pem; proxy_ssl_certificate_key k.pem;",
        "proxy_ssl_certificate $host.pem; proxy_ssl_certificate_key $host.key;",
        "proxy_ssl_verify on; proxy_ssl_trusted_certificate c.pem; proxy_ssl_name $host;",
        "proxy_ssl_protocols TLSv1.2; proxy_ssl_conf_command MinProtocol TLSv1.2;",
    ] {
        for url in [
            "https://127.0.0.1:1",
            "https://$host",
            "$scheme://127.0.0.1",
        ] {
            let (code, lines) = check(&pass(url, with));
            assert_eq!(code, Some(0), "{url} {with}: {lines:?}");
        }
    }
    for (with, expected) in [
        (
            "proxy_ssl_verify on;",
            "no proxy_ssl_trusted_certificate for proxy_ssl_verify",
        ),
        (
            "proxy_ssl_certificate c.pem;",
            "no \"proxy_ssl_certificate_key\" is defined for certificate \"c.pem\"",
        ),
        (
            "proxy_ssl_certificate no.pem; proxy_ssl_certificate_key k.pem;",
            "cannot load certificate \"DIR/no.pem\":",
        ),
        (
            "proxy_ssl_certificate c.pem; proxy_ssl_certificate_key c.pem;",
            "cannot load certificate key \"DIR/c.pem\":",
        ),
        (
            "proxy_ssl_conf_command Foo x;",
            "SSL_CONF_cmd(\"Foo\", \"x\") failed",
        ),
        ("proxy_ssl_protocols TLSv9;", "invalid value \"TLSv9\""),
    ] {
        let (code, lines) = check(&pass("https://127.0.0.1:1", with));
        let wanted = format!("{}: [emerg] {expected}", prog());
        assert_eq!(code, Some(1), "{with}");
        assert!(
            lines[0].starts_with(&wanted),
            "{with}: wanted {wanted}, got {lines:?}"
        );
    }
}

#[test]
fn a_key_of_another_certificate_is_found() {
    let other = crate::common::tls::Identity::new(&["other"]);
    let setup = Setup::full(
        "events {} http { server { listen 127.0.0.1:1; ssl_certificate c.pem;
         ssl_certificate_key other.pem; } }",
    );
    let setup = setup
        .globals("")
        .args(&["-t"])
        .file("c.pem", CERTIFICATE)
        .file("other.pem", other.key);
    let (output, _s) = setup.run();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().next().unwrap();
    assert!(line.contains("other.pem\""), "{line}");
    assert!(line.contains("c.pem\"") || is_nginx(), "{line}");
}

#[test]
fn a_tls_listener_wants_a_certificate() {
    let message = "no \"ssl_certificate\" is defined for the \"listen ... ssl\" directive";
    let (code, lines) = check("listen 127.0.0.1:2 ssl;");
    assert_eq!(code, Some(1));
    assert!(lines[0].contains(message), "{lines:?}");
    assert_eq!(
        check("listen 127.0.0.1:2 ssl; ssl_reject_handshake on;").0,
        Some(0)
    );
    assert_eq!(check(&format!("listen 127.0.0.1:2 ssl; {PAIR}")).0, Some(0));
}

#[test]
fn what_has_no_meaning_is_told() {
    if skip_on_nginx("it has more, and says less") {
        return;
    }
    for (server, expected) in [
        (
            "ssl_ciphers HIGH:AES128-SHA:DHE-RSA-AES128-SHA;",
            "ringway does not have AES128-SHA, DHE-RSA-AES128-SHA: ignored",
        ),
        (
            "ssl_ecdh_curve secp521r1:X25519;",
            "ringway does not have secp521r1: ignored",
        ),
        (
            "ssl_protocols TLSv1 TLSv1.2;",
            "\"TLSv1\" ignored: ringway does not speak it",
        ),
        (
            "ssl_conf_command Ciphersuites TLS_AES_128_CCM_SHA256:TLS_AES_128_GCM_SHA256;",
            "ringway does not have TLS_AES_128_CCM_SHA256: ignored",
        ),
        (
            "ssl_conf_command RecordPadding 512;",
            "\"ssl_conf_command RecordPadding\" has no effect in ringway",
        ),
        (
            "ssl_certificate_compression on;",
            "\"ssl_certificate_compression\" directive has no effect",
        ),
    ] {
        let (code, lines) = check(&format!("{PAIR} {server}"));
        assert_eq!(code, Some(0), "{server}: {lines:?}");
        let notice = format!("ringway: [notice] {expected}");
        let is_told = lines.iter().any(|line| line.starts_with(&notice));
        assert!(is_told, "{server}: wanted {notice}, got {lines:?}");
    }
    for (server, expected) in [
        (
            "ssl_ciphers kRSA:AES128-SHA;",
            "no cipher in \"kRSA:AES128-SHA\"",
        ),
        ("ssl_ecdh_curve sect571r1;", "no curve in \"sect571r1\""),
        ("ssl_protocols TLSv1 TLSv1.1;", "no protocol in"),
        ("ssl_conf_command MinProtocol TLSv2;", "SSL_CONF_cmd("),
        ("ssl_conf_command MaxProtocol TLSv1.1;", "no protocol in"),
        (
            "ssl on;",
            "directive \"ssl on\" of nginx is not implemented",
        ),
    ] {
        let (code, lines) = check(&format!("{PAIR} {server}"));
        assert_eq!(code, Some(1), "{server}: {lines:?}");
        let wanted = format!("ringway: [emerg] {expected}");
        assert!(lines[0].starts_with(&wanted), "{server}: {lines:?}");
    }
    assert_eq!(check("ssl off; http2 off;").0, Some(0));
}

#[test]
fn stream_is_checked_alike() {
    let upstream = "proxy_pass 127.0.0.1:2; proxy_ssl on;";
    for (server, expected) in [
        (
            "listen 127.0.0.1:1 ssl; return x;",
            "no \"ssl_certificate\" is defined for the \"listen ... ssl\" directive in ",
        ),
        (
            "listen 127.0.0.1:1 ssl; ssl_certificate c.pem; return x;",
            "no \"ssl_certificate_key\" is defined for certificate ",
        ),
        (
            "listen 127.0.0.1:1 udp ssl; return x;",
            "\"listen\" directive \"ssl\" parameter is incompatible with \"udp\"",
        ),
        (
            "listen 127.0.0.1:1 ssl; ssl_verify_client on; return x;",
            "no ssl_client_certificate for ssl_verify_client",
        ),
        (
            "listen 127.0.0.1:1; ssl_handshake_timeout x; return x;",
            "\"ssl_handshake_timeout\" directive invalid value",
        ),
        (
            "listen 127.0.0.1:1; ssl_alpn a; ssl_alpn b; return x;",
            "\"ssl_alpn\" directive is duplicate",
        ),
        (
            "listen 127.0.0.1:1; ssl_buffer_size 4k; return x;",
            "\"ssl_buffer_size\" directive is not allowed here",
        ),
        (
            &format!("listen 127.0.0.1:1; {upstream} proxy_ssl_verify on;"),
            "no proxy_ssl_trusted_certificate for proxy_ssl_verify",
        ),
        (
            &format!("listen 127.0.0.1:1; {upstream} proxy_ssl_certificate c.pem;"),
            "no \"proxy_ssl_certificate_key\" is defined for certificate ",
        ),
    ] {
        let pair = match server.contains("verify_client") {
            true => PAIR,
            false => "",
        };
        let (code, lines) = check_all(&format!(
            "%%MODULES%% events {{}} stream {{ {pair} server {{ {server} }} }}"
        ));
        let is_said = lines.iter().any(|line| line.contains(expected));
        // nginx 1.22 has other words for some, and takes two.
        let is_taken = server.contains("ssl_alpn") || server.contains("udp");
        let is_refused = code == Some(1) && (is_said || is_nginx());
        assert!(is_refused || is_nginx() && is_taken, "{server}: {lines:?}");
    }
    let (code, lines) = check_all(&format!(
        "%%MODULES%% events {{}} stream {{ server {{ listen 127.0.0.1:1 ssl; {PAIR} return x; }} }}"
    ));
    assert_eq!(code, Some(0), "{lines:?}");
}
