//! Certificates, lists of revoked ones and keys never panic, whatever is in them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringway::tls::x509::Certificate;
use ringway::tls::{cert, crl, key, name};

fuzz_target!(|data: &[u8]| {
    let mut out = Vec::new();
    if let Some(one) = Certificate::parse(data) {
        name::write_rfc2253(one.subject, &mut out);
        name::write_legacy(one.issuer, &mut out);
        name::write_serial(&one, &mut out);
        name::write_time(one.not_before, &mut out);
        name::write_time(one.not_after, &mut out);
        one.common_names().count();
    }
    drop(cert::parse(data));
    drop(crl::parse(data));
    drop(key::parse(data, &[]));
});
