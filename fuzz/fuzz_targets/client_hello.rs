//! A ClientHello never panics, and what is known of it does not change as more bytes come.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringway::base::client_hello::{Parsed, parse};

fuzz_target!(|data: (u16, &[u8])| {
    let (cut, bytes) = data;
    let whole = parse(bytes);
    let cut = usize::from(cut) % (bytes.len() + 1);
    let early = parse(&bytes[..cut]);
    assert!(early == Parsed::Partial || early == whole);
    if let Parsed::Hello(hello) = whole {
        assert!(hello.server_name.len() + hello.alpn.len() <= bytes.len());
        hello.version_name();
    }
});
