//! `proxy_pass https://…`: handshakes with servers, whom to believe, whose connection is whose.

use std::process::Command;

use rcgen::{CertificateParams, date_time_ymd};

use crate::common::tls::{Authority, Identity};
use crate::common::tls_front::{Manners, TlsFront, server, server_with};
use crate::common::*;

/// A proxy on `%%P0%%` to a server on `%%T0%%` that decrypts, and what a case adds.
fn proxy(conf: &str, front: &TlsFront) -> Setup {
    Setup::http(&format!(
        "server {{ listen 127.0.0.1:%%P0%%; proxy_http_version 1.1;
            proxy_set_header Connection \"\"; {conf} }}"
    ))
    .value("T0", front.port)
}

const PASS: &str = "location / { proxy_pass https://127.0.0.1:%%T0%%; }";

#[test]
fn a_page_comes_from_a_server_with_tls() {
    let backend = Backend::echo();
    let front = TlsFront::new(backend.port, server(&Identity::new(&["localhost"]), false));
    let dead = ports::reserve();
    let gone = "location /gone { proxy_pass https://127.0.0.1:%%DEAD%%; }";
    let setup = proxy(&format!("{PASS} {gone}"), &front).value("DEAD", dead.number);
    let s = setup.start();
    let answer = s.get("/page?a=b");
    assert_eq!(answer.status, 200);
    assert!(answer.text().starts_with("GET /page?a=b HTTP/1.1\r\n"));
    let host = format!("127.0.0.1:{}", front.port);
    assert_eq!(backend.last().header("host"), Some(&*host));
    let seen = front.seen();
    assert_eq!(seen.len(), 1);
    if !is_nginx() {
        // nginx 1.22 has no TLS 1.3 by default.
        assert_eq!(seen[0].version, "TLSv1_3");
    }
    // An address is no name, and nobody is told any by default.
    assert_eq!(seen[0].name, "");
    assert!(seen[0].certificate.is_none());
    // In the log, the upstream has its scheme.
    assert_eq!(s.get("/gone").status, 502);
    let upstream = format!("upstream: \"https://127.0.0.1:{}/gone\"", dead.number);
    s.wait_for_text("error.log", &upstream);
}

/// The status that comes with these directives, from a server with this certificate.
fn status_with(identity: &Identity, conf: &str, files: &[(&str, &str)]) -> (u16, Server) {
    let backend = Backend::fixed("hello");
    let front = TlsFront::new(backend.port, server(identity, false));
    let mut setup = proxy(&format!("{PASS} {conf}"), &front);
    for (name, content) in files {
        setup = setup.file(name, content);
    }
    let s = setup.start();
    (s.get("/").status, s)
}

#[test]
fn certificates_are_verified_where_that_is_asked_for() {
    let ca = Authority::new("Test CA");
    let between = ca.authority("Between", |_| ());
    let deeper = between.authority("Deeper", |_| ());
    let good = ca.sign(&["good.example"]);
    let chained = |leaf: Identity, chain: &[&Authority]| Identity {
        cert: chain.iter().fold(leaf.cert, |text, one| text + &one.cert),
        key: leaf.key,
    };
    let through_one = chained(between.sign(&["good.example"]), &[&between]);
    let through_two = chained(deeper.sign(&["good.example"]), &[&deeper, &between]);
    let expired = ca.sign_with(&["good.example"], |params: &mut CertificateParams| {
        params.not_before = date_time_ymd(2001, 1, 1);
        params.not_after = date_time_ymd(2002, 1, 1);
    });
    let for_clients = ca.sign_with(&["good.example"], |params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    });
    let other = Authority::new("Other CA").sign(&["good.example"]);
    let strange = Identity::new(&["good.example"]);
    let on = "proxy_ssl_verify on; proxy_ssl_trusted_certificate %%DIR%%/ca.pem;";
    // nginx goes on, and says what it finds last.
    let too_long = if is_nginx() {
        "(20:"
    } else {
        "(22:certificate chain too long)"
    };
    let verify = "upstream SSL certificate verify error:";
    for (identity, conf, expected) in [
        (&good, "proxy_ssl_name good.example;", ""),
        (&good, "proxy_ssl_name GOOD.Example;", ""),
        (&good, "proxy_ssl_name good.example:8443;", ""),
        (&good, "set $n good.example; proxy_ssl_name $n;", ""),
        (
            &good,
            "proxy_ssl_name bad.example;",
            "does not match \"bad.example\"",
        ),
        // Without a name it is the host of proxy_pass.
        (
            &good,
            "",
            "upstream SSL certificate does not match \"127.0.0.1\"",
        ),
        (&through_one, "proxy_ssl_name good.example;", ""),
        (&through_two, "proxy_ssl_name good.example;", too_long),
        (
            &through_two,
            "proxy_ssl_name good.example; proxy_ssl_verify_depth 2;",
            "",
        ),
        (
            &through_one,
            "proxy_ssl_name good.example; proxy_ssl_verify_depth 0;",
            too_long,
        ),
        (
            &expired,
            "proxy_ssl_name good.example;",
            "(10:certificate has expired)",
        ),
        (&for_clients, "proxy_ssl_name good.example;", "(26:"),
        (
            &other,
            "proxy_ssl_name good.example;",
            "(21:unable to verify the first certificate)",
        ),
        (
            &strange,
            "proxy_ssl_name good.example;",
            "(18:self-signed certificate)",
        ),
    ] {
        let files = [("ca.pem", &*ca.cert)];
        let (status, s) = status_with(identity, &format!("{on} {conf}"), &files);
        if expected.is_empty() {
            assert_eq!(status, 200, "{conf} {}", s.error_log());
            continue;
        }
        assert_eq!(status, 502, "{conf}");
        s.wait_for_text("error.log", expected);
        if expected.starts_with('(') {
            s.wait_for_text("error.log", verify);
        }
        s.wait_for_text("error.log", " while SSL handshaking to upstream, client: ");
    }
    // Nobody looks by default.
    for identity in [&expired, &other, &strange] {
        assert_eq!(status_with(identity, "", &[]).0, 200);
    }
}

/// A certificate with this configuration of `openssl`, self-signed.
fn by_openssl(arguments: &[&str]) -> Identity {
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let dir = std::env::temp_dir().join(format!("ringway-x509-{}", hash(key.as_bytes())));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("k.pem"), &key).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new("openssl");
        let output = command.current_dir(&dir).args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    run(&[
        "req",
        "-new",
        "-key",
        "k.pem",
        "-subj",
        "/O=Inc/CN=old.example",
        "-out",
        "csr.pem",
    ]);
    let sign = [
        "x509", "-req", "-in", "csr.pem", "-signkey", "k.pem", "-out", "c.pem",
    ];
    run(&[&sign, arguments].concat());
    let cert = read(dir.join("c.pem"));
    std::fs::remove_dir_all(dir).unwrap();
    Identity { cert, key }
}

#[test]
fn certificates_of_version_1_are_good_enough() {
    let old = by_openssl(&["-days", "2"]);
    let on = "proxy_ssl_verify on; proxy_ssl_trusted_certificate %%DIR%%/ca.pem;";
    for (name, status) in [("old.example", 200), ("new.example", 502)] {
        let conf = format!("{on} proxy_ssl_name {name};");
        let (got, s) = status_with(&old, &conf, &[("ca.pem", &old.cert)]);
        assert_eq!(got, status, "{name} {}", s.error_log());
    }
    let (status, _) = status_with(&old, "", &[]);
    assert_eq!(status, 200);
}

#[test]
fn revoked_certificates_are_refused() {
    let ca = Authority::new("Test CA");
    let number = |number: u8| {
        ca.sign_with(&["good.example"], |params| {
            params.serial_number = Some(vec![number].into());
        })
    };
    let list = ca.revoking(&[7]);
    let conf = "proxy_ssl_verify on; proxy_ssl_trusted_certificate %%DIR%%/ca.pem;
        proxy_ssl_crl %%DIR%%/crl.pem; proxy_ssl_name good.example;";
    let files = [("ca.pem", &*ca.cert), ("crl.pem", &*list)];
    assert_eq!(status_with(&number(6), conf, &files).0, 200);
    let (status, s) = status_with(&number(7), conf, &files);
    assert_eq!(status, 502);
    s.wait_for_text(
        "error.log",
        "(23:certificate revoked) while SSL handshaking",
    );
}

#[test]
fn servers_are_told_names_where_that_is_asked_for() {
    let backend = Backend::fixed("hello");
    let front = TlsFront::new(backend.port, server(&Identity::new(&["localhost"]), false));
    let s = proxy(
        "proxy_ssl_session_reuse off; keepalive_timeout 0;
         location /off { proxy_pass https://localhost:%%T0%%; }
         location /on { proxy_pass https://localhost:%%T0%%; proxy_ssl_server_name on; }
         location /address { proxy_pass https://127.0.0.1:%%T0%%; proxy_ssl_server_name on; }
         location /named { proxy_pass https://127.0.0.1:%%T0%%; proxy_ssl_server_name on;
            proxy_ssl_name name.example; }
         location /variable { proxy_pass https://127.0.0.1:%%T0%%; proxy_ssl_server_name on;
            proxy_ssl_name $arg_name; }
         location /host { proxy_pass https://127.0.0.1:%%T0%%; proxy_ssl_server_name on;
            proxy_ssl_name $http_host; }",
        &front,
    )
    .start();
    for (path, name) in [
        ("/off", ""),
        ("/on", "localhost"),
        ("/address", ""),
        ("/named", "name.example"),
        ("/variable?name=a.example", "a.example"),
        ("/variable?name=b.example", "b.example"),
        ("/variable?name=", ""),
    ] {
        assert_eq!(s.get(path).status, 200, "{path} {}", s.error_log());
        assert_eq!(front.seen().last().unwrap().name, name, "{path}");
    }
    let answer = s.get_with("/host", "Host: c.example:8080\r\n");
    assert_eq!(answer.status, 200);
    assert_eq!(front.seen().last().unwrap().name, "c.example");
}

#[test]
fn our_certificate_is_for_those_who_ask() {
    let own = Identity::new(&["client.example"]);
    let backend = Backend::http(|_| resp("200 OK", "Connection: close\r\n", "hello"));
    let front = TlsFront::new(backend.port, server(&Identity::new(&["localhost"]), true));
    // nginx resumes the sessions of another certificate.
    let s = proxy(
        "proxy_ssl_session_reuse off;
         location /none { proxy_pass https://127.0.0.1:%%T0%%; }
         location / { proxy_pass https://127.0.0.1:%%T0%%;
            proxy_ssl_certificate %%DIR%%/c.pem; proxy_ssl_certificate_key %%DIR%%/k.pem; }
         location /variable { proxy_pass https://127.0.0.1:%%T0%%;
            proxy_ssl_certificate %%DIR%%/$arg_c.pem; proxy_ssl_certificate_key %%DIR%%/k.pem; }",
        &front,
    )
    .file("c.pem", &own.cert)
    .file("k.pem", &own.key)
    .start();
    let shown = || front.seen().last().unwrap().certificate.clone();
    for (path, expected) in [
        ("/none", None),
        ("/", Some(own.der())),
        ("/none", None),
        ("/variable?c=c", Some(own.der())),
    ] {
        assert_eq!(s.get(path).status, 200, "{path} {}", s.error_log());
        assert_eq!(shown(), expected, "{path}");
    }
    assert_eq!(s.get("/variable?c=missing").status, 500);
    s.wait_for_text("error.log", "cannot load certificate \"");
}

#[test]
fn a_server_that_demands_a_certificate_says_so() {
    let ca = Authority::new("Test CA");
    let openssl = SServer::start(&ca, &["-Verify", "1", "-verify_return_error"]);
    let own = ca.sign(&["client.example"]);
    let conf = "location /none { proxy_pass https://127.0.0.1:%%T0%%; }
         location /some { proxy_pass https://127.0.0.1:%%T0%%;
            proxy_ssl_certificate %%DIR%%/c.pem; proxy_ssl_certificate_key %%DIR%%/k.pem; }";
    let s = Setup::http(&format!(
        "server {{ listen 127.0.0.1:%%P0%%; proxy_ssl_session_reuse off;
            proxy_ssl_protocols TLSv1.3; {conf} }}"
    ))
    .value("T0", openssl.port.number)
    .file("c.pem", &own.cert)
    .file("k.pem", &own.key)
    .start();
    let answer = s.get("/some");
    assert_eq!(answer.status, 200, "{}", s.error_log());
    assert!(answer.text().contains("CN=client.example") || answer.text().contains("s_server"));
    if !is_nginx() {
        // It calls this critical.
        assert_eq!(s.get("/none").status, 502);
        // In TLS 1.3 the handshake is over when the server finds out.
        s.wait_for_text(
            "error.log",
            "SSL_read() failed (SSL: SSL alert number 116) while",
        );
    }
}

#[test]
fn sessions_with_openssl_are_resumed() {
    let ca = Authority::new("Test CA");
    for arguments in [&["-tls1_3"][..], &["-tls1_2"], &["-tls1_2", "-no_ticket"]] {
        let openssl = SServer::start(&ca, arguments);
        let s = Setup::http(
            "server { listen 127.0.0.1:%%P0%%; location / { proxy_pass https://127.0.0.1:%%T0%%;
                proxy_ssl_protocols TLSv1.2 TLSv1.3; proxy_ssl_name localhost;
                proxy_ssl_verify on; proxy_ssl_trusted_certificate %%DIR%%/ca.pem; } }",
        )
        .value("T0", openssl.port.number)
        .file("ca.pem", &ca.cert)
        .start();
        for expected in ["New, ", "Reused, ", "Reused, ", "Reused, "] {
            let answer = s.get("/");
            assert!(answer.complete && answer.status == 200);
            let page = answer.text();
            assert!(page.contains(expected), "{arguments:?} {expected} {page}");
        }
    }
}

/// `openssl s_server -www`
struct SServer {
    port: ports::Port,
    dir: std::path::PathBuf,
    child: std::process::Child,
}

impl SServer {
    fn start(ca: &Authority, arguments: &[&str]) -> SServer {
        let own = ca.sign(&["localhost"]);
        let port = ports::reserve();
        let dir = std::env::temp_dir().join(format!(
            "ringway-s_server-{}-{}",
            std::process::id(),
            port.number
        ));
        std::fs::create_dir_all(&dir).unwrap();
        for (name, text) in [
            ("ca.pem", &ca.cert),
            ("c.pem", &own.cert),
            ("k.pem", &own.key),
        ] {
            std::fs::write(dir.join(name), text).unwrap();
        }
        let child = Command::new("openssl")
            .current_dir(&dir)
            .args(["s_server", "-www", "-quiet", "-CAfile", "ca.pem"])
            .args(["-cert", "c.pem", "-key", "k.pem"])
            .args(["-accept", &format!("127.0.0.1:{}", port.number)])
            .args(arguments)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        wait_for("openssl s_server", || {
            std::net::TcpStream::connect(("127.0.0.1", port.number)).is_ok()
        });
        SServer { port, dir, child }
    }
}

impl Drop for SServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

#[test]
fn versions_and_ciphers_are_those_that_are_named() {
    let backend = Backend::fixed("hello");
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider
        .cipher_suites
        .retain(|suite| format!("{:?}", suite.suite()).contains("CHACHA20"));
    let config = server_with(provider, &Identity::new(&["localhost"]), false);
    let front = TlsFront::new(backend.port, config);
    let s = proxy(
        "location /12 { proxy_pass https://127.0.0.1:%%T0%%; proxy_ssl_protocols TLSv1.2; }
         location /13 { proxy_pass https://127.0.0.1:%%T0%%; proxy_ssl_protocols TLSv1.3; }
         location /ciphers { proxy_pass https://127.0.0.1:%%T0%%; proxy_ssl_protocols TLSv1.2;
            proxy_ssl_ciphers ECDHE-ECDSA-AES128-GCM-SHA256; }
         location /command { proxy_pass https://127.0.0.1:%%T0%%;
            proxy_ssl_conf_command MaxProtocol TLSv1.2; }",
        &front,
    )
    .start();
    for (path, version) in [
        ("/12", "TLSv1_2"),
        ("/13", "TLSv1_3"),
        ("/command", "TLSv1_2"),
    ] {
        assert_eq!(s.get(path).status, 200, "{path}");
        assert_eq!(front.seen().last().unwrap().version, version);
    }
    assert_eq!(s.get("/ciphers").status, 502);
    s.wait_for_text("error.log", "SSL_do_handshake() failed (SSL: ");
    s.wait_for_text("error.log", " while SSL handshaking to upstream, client: ");
}

/// A server that has no idea of TLS.
fn without_tls() -> Backend {
    Backend::raw(|mut conn, _| {
        if conn.try_take(1).is_some() {
            let _ = conn.try_send(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            conn.finish();
            conn.drain();
        }
    })
}

#[test]
fn the_next_server_gets_what_a_handshake_kept_from_the_first() {
    let backend = Backend::fixed("hello");
    let plain = without_tls();
    let closing = Backend::raw(|mut conn, _| drop(conn.try_take(1)));
    let ca = Authority::new("Test CA");
    let good = TlsFront::new(backend.port, server(&ca.sign(&["good.example"]), false));
    let strange = TlsFront::new(
        backend.port,
        server(&Identity::new(&["good.example"]), false),
    );
    for (first, said) in [
        (plain.port, "SSL_do_handshake() failed (SSL: "),
        (closing.port, "peer closed connection in SSL handshake"),
        (strange.port, "(18:self-signed certificate)"),
    ] {
        let s = Setup::http(
            "upstream u { server 127.0.0.1:%%T1%%; server 127.0.0.1:%%T0%% backup; }
             log_format u '$upstream_addr $upstream_status';
             access_log %%DIR%%/u.log u;
             server { listen 127.0.0.1:%%P0%%; location / { proxy_pass https://u;
                proxy_ssl_verify on; proxy_ssl_trusted_certificate %%DIR%%/ca.pem;
                proxy_ssl_name good.example; } }",
        )
        .value("T0", good.port)
        .value("T1", first)
        .file("ca.pem", &ca.cert)
        .start();
        // Nothing of it was sent: this may be done twice.
        let answer = s.request("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
        assert_eq!((answer.status, &*answer.text()), (200, "hello"), "{said}");
        s.wait_for_text("error.log", said);
        s.wait_for_text("error.log", "while SSL handshaking to upstream");
        let line = &s.lines("u.log", 1)[0];
        let expected = format!("127.0.0.1:{first}, 127.0.0.1:{} 502, 200", good.port);
        assert_eq!(*line, expected);
    }
}

#[test]
fn a_handshake_has_the_time_to_connect() {
    let manners = Manners {
        silent: true,
        ..Manners::default()
    };
    let config = server(&Identity::new(&["localhost"]), false);
    let front = TlsFront::with(1, config, manners);
    let s = proxy(&format!("{PASS} proxy_connect_timeout 300ms;"), &front).start();
    let started = std::time::Instant::now();
    assert_eq!(s.get("/").status, 504);
    let took = started.elapsed().as_millis();
    assert!((250..5000).contains(&took), "{took}");
    s.wait_for_text(
        "error.log",
        "upstream timed out (110: Connection timed out) while SSL handshaking to upstream",
    );
    wait_for("the end of the connection", || front.open() == 0);
}

#[test]
fn a_client_that_goes_away_ends_the_handshake() {
    let manners = Manners {
        silent: true,
        ..Manners::default()
    };
    let config = server(&Identity::new(&["localhost"]), false);
    let front = TlsFront::with(1, config, manners);
    let s = proxy(PASS, &front).start();
    let mut conn = s.connect();
    conn.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    wait_for("the connection", || front.open() == 1);
    drop(conn);
    wait_for("its end", || front.open() == 0);
}

#[test]
fn sessions_are_resumed() {
    if skip_on_nginx("it shows a ticket of rustls once in two times") {
        return;
    }
    let backend = Backend::fixed("hello");
    for version in ["TLSv1.2", "TLSv1.3"] {
        let front = TlsFront::new(backend.port, server(&Identity::new(&["localhost"]), false));
        let s = Setup::http(&format!(
            "upstream u {{ server 127.0.0.1:%%T0%%; keepalive 4; keepalive_requests 1; }}
             server {{ listen 127.0.0.1:%%P0%%; proxy_ssl_protocols {version};
                location / {{ proxy_pass https://u; }}
                location /off {{ proxy_pass https://u; proxy_ssl_session_reuse off; }} }}"
        ))
        .value("T0", front.port)
        .start();
        let resumed = |path: &str| {
            assert_eq!(s.get(path).status, 200);
            front.seen().last().unwrap().resumed
        };
        assert!(!resumed("/"));
        assert!(resumed("/") && resumed("/") && resumed("/"));
        assert!(!resumed("/off") && !resumed("/off"));
        // Each connection was ended in the words of TLS, or the server would forget the session.
        wait_for("close_notify", || front.told() == 6);
        s.reload();
        assert!(resumed("/"), "after a reload");
    }
}

#[test]
fn a_session_of_one_server_is_not_shown_to_another() {
    if skip_on_nginx("it shows a ticket of rustls once in two times") {
        return;
    }
    let backend = Backend::http(|_| resp("200 OK", "Connection: close\r\n", "hello"));
    let identity = Identity::new(&["localhost"]);
    let fronts = [1, 2].map(|_| TlsFront::new(backend.port, server(&identity, false)));
    let s = Setup::http(
        "upstream u { server 127.0.0.1:%%T0%%; server 127.0.0.1:%%T1%%; }
         server { listen 127.0.0.1:%%P0%%; location / { proxy_pass https://u; } }",
    )
    .value("T0", fronts[0].port)
    .value("T1", fronts[1].port)
    .start();
    for _ in 0..6 {
        assert_eq!(s.get("/").status, 200);
    }
    for front in &fronts {
        let resumed: Vec<_> = front.seen().iter().map(|seen| seen.resumed).collect();
        assert_eq!(resumed, [false, true, true]);
    }
}

#[test]
fn connections_are_kept_for_requests_of_the_same_identity() {
    if skip_on_nginx("it shares connections between names") {
        return;
    }
    let own = Identity::new(&["client.example"]);
    let backend = Backend::fixed("hello");
    let front = TlsFront::new(backend.port, server(&Identity::new(&["localhost"]), true));
    let s = Setup::http(
        "upstream u { server 127.0.0.1:%%T0%%; keepalive 16; }
         server { listen 127.0.0.1:%%P0%%; proxy_ssl_server_name on;
            location / { proxy_pass https://u; proxy_ssl_name $arg_name; }
            location /same { proxy_pass https://u; proxy_ssl_name $arg_name; }
            location /silent { proxy_pass https://u; proxy_ssl_name $arg_name;
                proxy_ssl_server_name off; }
            location /certificate { proxy_pass https://u; proxy_ssl_name $arg_name;
                proxy_ssl_certificate %%DIR%%/c.pem; proxy_ssl_certificate_key %%DIR%%/k.pem; }
            location /variable { proxy_pass https://u; proxy_ssl_name $arg_name;
                proxy_ssl_certificate $arg_c; proxy_ssl_certificate_key $arg_c; }
            location /version { proxy_pass https://u; proxy_ssl_name $arg_name;
                proxy_ssl_protocols TLSv1.2; }
            location /plain { proxy_pass http://u; } }",
    )
    .value("T0", front.port)
    .file("c.pem", &own.cert)
    .file("k.pem", &own.key)
    .file("both.pem", own.cert.clone() + &own.key)
    .start();
    let both = s.path("both.pem").display().to_string();
    let with_variable = format!("/variable?name=a.example&c={both}");
    for (path, connections) in [
        ("/?name=a.example", 1),
        ("/?name=a.example", 1),
        ("/same?name=a.example", 1),
        ("/?name=b.example", 2),
        ("/?name=a.example", 2),
        ("/silent?name=a.example", 3),
        ("/certificate?name=a.example", 4),
        ("/certificate?name=a.example", 4),
        ("/version?name=a.example", 5),
        (&with_variable, 6),
        (&with_variable, 6),
        ("/variable?name=a.example", 7),
        ("/same?name=b.example", 7),
    ] {
        assert_eq!(s.get(path).status, 200, "{path} {}", s.error_log());
        assert_eq!(front.accepted(), connections, "{path}");
    }
    // What is plain never goes where TLS is.
    assert_ne!(s.get("/plain").status, 200);
    assert_eq!(front.accepted(), 8);
    s.reload();
    assert_eq!(s.get("/?name=a.example").status, 200);
    assert_eq!(front.accepted(), 8, "after a reload");
}

#[test]
fn urls_with_variables_say_whether_there_is_tls() {
    let backend = Backend::echo();
    let front = TlsFront::new(backend.port, server(&Identity::new(&["localhost"]), false));
    let s = proxy(
        "location / { proxy_pass $arg_scheme://127.0.0.1:$arg_port/x; }",
        &front,
    )
    .start();
    for (scheme, port) in [
        ("https", front.port),
        ("http", backend.port),
        ("HTTPS", front.port),
    ] {
        let answer = s.get(&format!("/?scheme={scheme}&port={port}"));
        assert_eq!(answer.status, 200, "{scheme} {}", s.error_log());
        let host = format!("\r\nHost: 127.0.0.1:{port}\r\n");
        assert!(answer.text().contains(&host), "{}", answer.text());
    }
    assert_eq!(front.seen().len(), 2);
    let plain = without_tls();
    let wrong = format!("/?scheme=https&port={}", plain.port);
    assert_eq!(s.get(&wrong).status, 502);
}

#[test]
fn secrets_are_logged_where_that_is_asked_for() {
    if skip_on_nginx("1.22 does not know proxy_ssl_key_log") {
        return;
    }
    let backend = Backend::fixed("hello");
    let front = TlsFront::new(backend.port, server(&Identity::new(&["localhost"]), false));
    let s = proxy(
        &format!("{PASS} proxy_ssl_key_log %%DIR%%/keys.log;"),
        &front,
    )
    .start();
    assert_eq!(s.get("/").status, 200);
    let lines = s.lines("keys.log", 4);
    assert!(lines.iter().all(|line| line.split(' ').count() == 3));
    assert!(
        lines[0].starts_with("CLIENT_HANDSHAKE_TRAFFIC_SECRET "),
        "{}",
        lines[0]
    );
}
