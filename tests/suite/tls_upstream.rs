//! `proxy_pass https://…`: handshakes with backends, whom to believe, whose connection is whose.

use crate::common::tls::Identity;
use crate::common::tls_front::{TlsFront, server};
use crate::common::*;

/// A proxy on `%%P0%%` to a server on `%%T0%%` that decrypts for `backend`, and what a case adds.
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
    let s = proxy(PASS, &front).start();
    let answer = s.get("/page?a=b");
    assert_eq!(answer.status, 200);
    assert!(answer.text().starts_with("GET /page?a=b HTTP/1.1\r\n"));
    let port = front.port;
    assert_eq!(
        backend.last().header("host"),
        Some(&*format!("127.0.0.1:{port}"))
    );
    let seen = front.seen();
    assert_eq!((seen.len(), &*seen[0].version), (1, "TLSv1_3"));
    // An address is no name, and nobody is told any by default.
    assert_eq!(seen[0].name, "");
    assert!(seen[0].certificate.is_none());
}
