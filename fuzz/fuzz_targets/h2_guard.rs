//! What a client sends in HTTP/2 never panics the guard, and its verdict does not depend on how the
//! bytes are cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringway::http::h2::guard::Guard;

const BEGIN: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

fuzz_target!(|data: (u8, &[u8])| {
    let (size, bytes) = data;
    let bytes = [BEGIN, bytes].concat();
    let whole = Guard::new(16_384).feed(&bytes, 0);
    let mut guard = Guard::new(16_384);
    let cut = bytes
        .chunks(usize::from(size) + 1)
        .try_for_each(|piece| guard.feed(piece, 0));
    assert_eq!(whole, cut);
});
