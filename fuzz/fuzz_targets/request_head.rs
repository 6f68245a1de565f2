//! A request head never panics, never depends on how it was cut, and what is accepted is strict.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringway::http::h1::head::{HeadLimits, Parsed, RequestHead, parse_request};
use ringway::http::h1::{connection, framing, host, target};

fuzz_target!(|data: (u16, &[u8])| {
    let (cut, bytes) = data;
    let limits = HeadLimits::default();
    let mut whole = RequestHead::default();
    let parsed = parse_request(bytes, &limits, &mut whole);
    let mut grown = RequestHead::default();
    let cut = usize::from(cut) % (bytes.len() + 1);
    if let Ok(Parsed::Partial) = parse_request(&bytes[..cut], &limits, &mut grown) {
        let again = parse_request(bytes, &limits, &mut grown);
        if let (Ok(Parsed::Complete), Ok(Parsed::Complete)) = (parsed, again) {
            assert_eq!(whole.len, grown.len);
            assert_eq!(whole.fields.as_slice(), grown.fields.as_slice());
        }
    }
    match parsed {
        Ok(Parsed::Partial) => {}
        Err(error) => assert!(!error.client_message(bytes).is_empty()),
        Ok(Parsed::Complete) => {
            let head = &bytes[..whole.len];
            assert!(head.ends_with(b"\r\n\r\n") && !head.contains(&0));
            let crs = head.iter().filter(|byte| **byte == b'\r').count();
            assert_eq!(crs, head.windows(2).filter(|pair| pair == b"\r\n").count());
            let _ = framing::request(bytes, &whole);
            connection::scan(bytes, &mut whole.fields);
            if let Some(target) = target::parse(bytes, whole.target, whole.method) {
                let _ = host::of_request(bytes, &whole, &target);
            }
        }
    }
});
