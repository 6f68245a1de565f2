//! `grpc_pass`

use crate::common::*;

fn gateway(backend: &H2Backend) -> Server {
    Setup::http(
        "server {
            listen 127.0.0.1:%%P0%%;
            location / { grpc_pass grpc://127.0.0.1:%%H0%%; }
        }",
    )
    .value("H0", backend.port)
    .start()
}

#[test]
fn unary_over_http_1() {
    let b = H2Backend::start(|mut call| async move {
        let message = call.whole().await;
        call.grpc(message, "0").await;
    });
    let s = gateway(&b);
    let r = s.request(
        "POST /pkg.Service/Method HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\
         Content-Type: application/grpc\r\nContent-Length: 9\r\n\r\n\0\0\0\0\x04ping",
    );
    assert_eq!(r.status, 200);
    assert_eq!(r.header("content-type"), Some("application/grpc"));
    assert_eq!(r.body, b"\0\0\0\0\x04ping");
    let seen = b.last();
    assert_eq!(seen.header("te"), Some("trailers"));
    assert_eq!(seen.header("content-type"), Some("application/grpc"));
}
