//! `ssl_stapling` and `ssl_ocsp`: responses for our certificates, and questions about those of
//! clients.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::Arc;

use crate::common::ocsp::{Responder, answer};
use crate::common::tls::{Authority, Identity, TlsConn, client_as};
use crate::common::*;

/// A server with a certificate of `ca` and stapling, and what a case adds to it.
fn stapling(ca: &Authority, own: &Identity, server: &str) -> Setup {
    Setup::http(&format!(
        "server {{ listen 127.0.0.1:%%P0%% ssl; server_name localhost;
            ssl_certificate %%DIR%%/c.pem; ssl_certificate_key %%DIR%%/k.pem;
            ssl_stapling on; {server} return 200 ok; }}"
    ))
    .file("c.pem", format!("{}{}", own.cert, ca.cert))
    .file("leaf.pem", &own.cert)
    .file("k.pem", &own.key)
    .file("ca.pem", &ca.cert)
}

/// What `openssl s_client -status` says about the stapled response.
fn stapled(s: &Server) -> String {
    let output = Command::new("openssl")
        .args(["s_client", "-status", "-servername", "localhost"])
        .args(["-connect", &format!("127.0.0.1:{}", s.port(0))])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut lines = text.lines().map(str::trim);
    let found = lines.find_map(|line| {
        let is_none = line == "OCSP response: no response sent";
        let status = line.strip_prefix("Cert Status: ");
        status.or(is_none.then_some("none"))
    });
    found.unwrap_or(&text).to_owned()
}

#[track_caller]
fn wait_for_staple(s: &Server) {
    wait_for("a stapled response", || stapled(s) == "good");
}

#[test]
fn a_response_is_fetched_and_stapled() {
    let ca = Authority::new("Test CA");
    let responder = Responder::start(&ca);
    responder.set(7, 'V');
    let own = ca.sign_for(&["localhost"], 7, &responder.url());
    for conf in [
        "",
        "ssl_stapling_verify on; ssl_trusted_certificate %%DIR%%/ca.pem;",
        "ssl_stapling_verify on; ssl_trusted_certificate %%DIR%%/ca.pem; resolver 127.0.0.1:1;
         ssl_stapling_responder http://127.0.0.1:%%B0%%/some/where;",
    ] {
        let s = stapling(&ca, &own, conf)
            .backends(&[&responder.backend])
            .globals("daemon off; pid nginx.pid; error_log error.log info; worker_processes 2;")
            .start();
        wait_for_staple(&s);
        if is_nginx() {
            continue;
        }
        // It is there from now on, on every worker and after a reload.
        let asked = responder.asked();
        for _ in 0..4 {
            assert_eq!(stapled(&s), "good");
        }
        s.reload();
        assert_eq!(stapled(&s), "good");
        assert_eq!(responder.asked(), asked);
    }
}

#[test]
fn the_resolver_finds_the_responder_and_the_trusted_the_issuer() {
    if skip_on_nginx("it wants the system to know the name when it starts") {
        return;
    }
    let ca = Authority::new("Test CA");
    let responder = Responder::start(&ca);
    responder.set(7, 'V');
    let dns = Dns::start(60);
    dns.set("ocsp.test", &["127.0.0.1"]);
    let url = format!("http://ocsp.test:{}/", responder.backend.port);
    let own = ca.sign_for(&["localhost"], 7, &url);
    let s = stapling(
        &ca,
        &own,
        "ssl_certificate %%DIR%%/leaf.pem; ssl_certificate_key %%DIR%%/k.pem;
         ssl_trusted_certificate %%DIR%%/ca.pem; resolver 127.0.0.1:%%DNS%% ipv6=off;",
    )
    .value("DNS", dns.port)
    .start();
    wait_for_staple(&s);
    assert!(dns.queries() > 0);
}

#[test]
fn delegates_of_the_issuer_may_sign() {
    let ca = Authority::new("Test CA");
    let responder = Responder::start(&ca);
    responder.set(7, 'V');
    let own = ca.sign_for(&["localhost"], 7, &responder.url());
    let verify = "ssl_stapling_verify on; ssl_trusted_certificate %%DIR%%/ca.pem;";
    let delegate = ca.sign_with(&["delegate"], |params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::OcspSigning];
    });
    responder.sign_as(&delegate.cert, &delegate.key);
    let s = stapling(&ca, &own, verify).start();
    wait_for_staple(&s);
    // Somebody else with a certificate of the issuer, and the same from another issuer.
    let other = ca.sign(&["other"]);
    let stranger = Authority::new("Other CA").sign_with(&["delegate"], |params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::OcspSigning];
    });
    for wrong in [&other, &stranger] {
        responder.sign_as(&wrong.cert, &wrong.key);
        let s = stapling(&ca, &own, verify).start();
        stapled(&s);
        s.wait_for_text("error.log", "OCSP_basic_verify() failed");
        s.wait_for_text("error.log", "while requesting certificate status");
        assert_eq!(stapled(&s), "none");
    }
}

#[test]
fn what_is_not_good_is_not_stapled() {
    let ca = Authority::new("Test CA");
    let responder = Responder::start(&ca);
    let own = ca.sign_for(&["localhost"], 7, &responder.url());
    let said = |why: &str| {
        let s = stapling(&ca, &own, "").start();
        stapled(&s);
        s.wait_for_text("error.log", why);
        assert_eq!(stapled(&s), "none", "{why}");
    };
    responder.set(7, 'R');
    said("certificate status \"revoked\" in the OCSP response");
    responder.set(7, 'V');
    responder.answer_with(answer(b"nonsense"));
    said("d2i_OCSP_RESPONSE() failed");
    // tryLater
    responder.answer_with(answer(&[0x30, 3, 10, 1, 3]));
    said("OCSP response not successful (3: trylater)");
    responder.answer_with(resp("200 OK", "Content-Type: text/html\r\n", "x"));
    said("OCSP responder sent invalid \"Content-Type\" header: \"text/html\"");
}

#[test]
fn a_certificate_nobody_can_be_asked_about_is_remarked_upon() {
    let ca = Authority::new("Test CA");
    let with = ca.sign_for(&["localhost"], 7, "http://localhost:1");
    let https = ca.sign_for(&["localhost"], 7, "https://localhost:1");
    let without = ca.sign_for(&["localhost"], 7, "");
    let leaf = "ssl_certificate %%DIR%%/leaf.pem; ssl_certificate_key %%DIR%%/k.pem;";
    for (own, conf, why) in [
        (&with, leaf, "issuer certificate not found for certificate"),
        (&without, "", "no OCSP responder URL in the certificate"),
        (
            &https,
            "",
            "invalid URL prefix in OCSP responder \"https://localhost:1\" in the certificate",
        ),
    ] {
        let conf = conf.replace(leaf, "");
        let mut setup = stapling(&ca, own, &conf);
        if why.starts_with("issuer") {
            setup = setup.file("c.pem", &own.cert);
        }
        let (output, s) = setup.args(&["-t"]).run();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let path = s.path("c.pem").display().to_string();
        let line = format!("[warn] \"ssl_stapling\" ignored, {why} \"{path}\"");
        let said = text.replace(&warn_place(&text), "[warn] ");
        assert!(said.contains(&line), "{text}");
        assert!(output.status.success());
    }
}

/// What nginx puts between the level and the message.
fn warn_place(text: &str) -> String {
    let start = text.find("[warn] ").unwrap_or(0);
    let end = text[start..].find('"').unwrap_or(0);
    text[start..start + end].to_owned()
}

/// A server that asks about its clients, and what a case adds to it.
fn asking(ca: &Authority, server: &str) -> Setup {
    let own = Identity::new(&["localhost"]);
    Setup::http(&format!(
        "server {{ listen 127.0.0.1:%%P0%% ssl; server_name localhost;
            ssl_certificate %%DIR%%/c.pem; ssl_certificate_key %%DIR%%/k.pem;
            ssl_verify_client on; ssl_client_certificate %%DIR%%/ca.pem;
            error_page 495 =403 @refused; location @refused {{ return 403 $ssl_client_verify; }}
            location / {{ return 200 $ssl_client_verify; }} {server} }}"
    ))
    .file("c.pem", own.cert)
    .file("k.pem", own.key)
    .file("ca.pem", &ca.cert)
}

/// The status and body that a client with this certificate gets.
fn ask(s: &Server, identity: &Identity) -> (u16, String) {
    let config = Arc::new(client_as(identity));
    let mut conn = TlsConn::to(s.port(0), "localhost", &config);
    conn.send("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let mut text = Vec::new();
    conn.stream.read_to_end(&mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

#[test]
fn responders_say_which_clients_are_good() {
    let ca = Authority::new("Test CA");
    let responder = Responder::start(&ca);
    responder.set(1, 'V');
    responder.set(2, 'R');
    let [good, revoked, unknown] =
        [1, 2, 3].map(|serial| ca.sign_for(&["client"], serial, &responder.url()));
    // The name in the certificate is looked up, and nobody answers there.
    let elsewhere = ca.sign_for(&["client"], 1, "http://ocsp.test/");
    let s = asking(
        &ca,
        "ssl_ocsp on; resolver 127.0.0.1:1; resolver_timeout 1s;",
    )
    .start();
    assert_eq!(
        ask(&s, &elsewhere),
        (403, "FAILED:certificate status request failed".into())
    );
    s.wait_for_text("error.log", "ocsp.test could not be resolved");

    let s = asking(
        &ca,
        "ssl_ocsp on; ssl_ocsp_responder http://127.0.0.1:%%OCSP%%/;",
    )
    .value("OCSP", responder.backend.port)
    .start();
    assert_eq!(ask(&s, &good), (200, "SUCCESS".into()));
    assert_eq!(
        ask(&s, &revoked),
        (403, "FAILED:certificate revoked".into())
    );
    assert_eq!(
        ask(&s, &unknown),
        (403, "FAILED:certificate status unknown".into())
    );
    s.wait_for_text(
        "error.log",
        "client SSL certificate verify error: certificate revoked",
    );
    s.wait_for_text(
        "error.log",
        "client SSL certificate verify error: certificate status unknown",
    );
    // There is no cache.
    let asked = responder.asked();
    ask(&s, &good);
    assert_eq!(responder.asked(), asked + 1);
    // Whoever is not trusted is not asked about.
    let stranger = Authority::new("Other CA").sign_for(&["client"], 1, &responder.url());
    assert_eq!(ask(&s, &stranger).0, 403);
    assert_eq!(responder.asked(), asked + 1);

    responder.answer_with(resp("500 Oh", "", ""));
    assert_eq!(
        ask(&s, &good),
        (403, "FAILED:certificate status request failed".into())
    );
    if !is_nginx() {
        s.wait_for_text(
            "error.log",
            "OCSP responder sent status 500 while requesting",
        );
    }
}

#[test]
fn answers_about_clients_are_cached() {
    let ca = Authority::new("Test CA");
    let responder = Responder::start(&ca);
    responder.set(1, 'V');
    responder.set(2, 'R');
    let [good, revoked] = [1, 2].map(|serial| ca.sign_for(&["client"], serial, &responder.url()));
    let s = asking(
        &ca,
        "ssl_ocsp on; ssl_ocsp_responder http://127.0.0.1:%%OCSP%%;
         ssl_ocsp_cache shared:OCSP:1m;",
    )
    .value("OCSP", responder.backend.port)
    .start();
    for _ in 0..3 {
        assert_eq!(ask(&s, &good).0, 200);
        assert_eq!(ask(&s, &revoked).0, 403);
    }
    assert_eq!(responder.asked(), 2);
    if !is_nginx() {
        s.reload();
    }
    assert_eq!(ask(&s, &good).0, 200);
    assert_eq!(responder.asked(), 2);
    // An answer that does not say how long it holds.
    responder.set(3, 'V');
    responder.options(&[]);
    let third = ca.sign_for(&["client"], 3, &responder.url());
    for _ in 0..2 {
        assert_eq!(ask(&s, &third).0, 200);
    }
    assert_eq!(responder.asked(), 3);
}

#[test]
fn every_certificate_of_the_path_or_the_leaf_alone_is_asked_about() {
    let root = Authority::new("Root");
    let responder = Responder::start(&root);
    let between = root.below("Between", 9, &responder.url());
    let issued = Responder::start(&between);
    issued.set(1, 'V');
    let leaf = between.sign_for(&["client"], 1, &issued.url());
    let client = Identity {
        cert: format!("{}{}", leaf.cert, between.cert),
        key: leaf.key.clone(),
    };
    for (kind, status, expected) in [("leaf", 'R', 200), ("on", 'R', 403), ("on", 'V', 200)] {
        responder.set(9, status);
        let conf =
            format!("ssl_ocsp {kind}; ssl_verify_depth 2; resolver 127.0.0.1:%%DNS%% ipv6=off;");
        let dns = Dns::start(60);
        dns.set("localhost", &["127.0.0.1"]);
        let s = asking(&root, &conf).value("DNS", dns.port).start();
        assert_eq!(ask(&s, &client).0, expected, "{kind} {status}");
    }
}

#[test]
fn mistakes_are_found() {
    let ca = Authority::new("Test CA");
    for (conf, why) in [
        (
            "ssl_ocsp on; ssl_ocsp_responder https://x/;",
            "invalid URL prefix in OCSP responder \"https://x/\" in \"ssl_ocsp_responder\"",
        ),
        (
            "ssl_ocsp on; ssl_ocsp_responder http://127.0.0.1:port/;",
            "invalid port in OCSP responder \"",
        ),
        (
            "ssl_ocsp_cache shared:OCSP:1k;",
            "OCSP cache \"shared:OCSP:1k\" is too small",
        ),
    ] {
        let (output, _s) = asking(&ca, conf).args(&["-t"]).run();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(why) && !output.status.success(), "{text}");
    }
    let own = Identity::new(&["localhost"]);
    let (output, _s) = Setup::http(
        "server { listen 127.0.0.1:%%P0%% ssl; ssl_certificate %%DIR%%/c.pem;
            ssl_certificate_key %%DIR%%/k.pem; ssl_verify_client optional_no_ca; ssl_ocsp on; }",
    )
    .file("c.pem", own.cert)
    .file("k.pem", own.key)
    .args(&["-t"])
    .run();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let why = "\"ssl_ocsp\" is incompatible with \"ssl_verify_client optional_no_ca\"";
    assert!(text.contains(why) && !output.status.success(), "{text}");
}
