//! A PROXY protocol header never panics, never depends on how it was cut, and survives being
//! written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringway::base::proxy_protocol::{Transport, parse, write_v2};

fuzz_target!(|data: (u16, &[u8])| {
    let (cut, bytes) = data;
    let whole = parse(bytes);
    let cut = usize::from(cut) % (bytes.len() + 1);
    match parse(&bytes[..cut]) {
        Ok(None) => {}
        early => assert_eq!(early, whole),
    }
    let Ok(Some((used, header))) = whole else {
        return;
    };
    assert!(used <= bytes.len());
    let Some(header) = header else {
        return;
    };
    for name in ["alpn", "ssl", "ssl_cn", "ssl_verify", "0x04", "0xff", "x"] {
        let mut out = Vec::new();
        assert!(header.tlv(name.as_bytes(), &mut out) || out.is_empty());
    }
    let mut again = Vec::new();
    let ends = (Some(header.source), Some(header.destination));
    write_v2(&mut again, ends.0, ends.1, Transport::Stream);
    assert!(matches!(parse(&again), Ok(Some((_, Some(_))))));
});
