//! A response head never panics, and an accepted one has a status of three digits.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringway::http::h1::framing;
use ringway::http::h1::head::{HeadLimits, Parsed, ResponseHead, parse_response};
use ringway::http::message::Method;

fuzz_target!(|bytes: &[u8]| {
    let mut head = ResponseHead::default();
    match parse_response(bytes, &HeadLimits::response(4096), &mut head) {
        Ok(Parsed::Partial) => assert!(bytes.len() < 4096),
        Err(error) => assert!(!error.upstream_message(bytes).is_empty()),
        Ok(Parsed::Complete) => {
            assert!((100..1000).contains(&head.status));
            assert!(head.len <= bytes.len() && head.reason.end as usize <= head.len);
            for method in [Method::Get, Method::Head, Method::Connect] {
                let _ = framing::response(method, bytes, &head);
            }
        }
    }
});
