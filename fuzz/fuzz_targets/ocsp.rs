//! OCSP responses, answers of responders and URLs never panic, whatever is in them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringway::tls::ocsp::{CertId, Question, Responder, body, url};
use ringway::tls::x509::Certificate;
use rustls_pki_types::{CertificateDer, UnixTime};

fuzz_target!(|data: (&[u8], &[u8], bool)| {
    let (certificate, sent, is_end) = data;
    let _ = Responder::parse(sent);
    let _ = body(sent, is_end);
    let Some(one) = Certificate::parse(certificate) else {
        return;
    };
    url(&one);
    let id = CertId::new(&one, &one);
    assert!(id.request().len() > id.key().len());
    let issuer = CertificateDer::from(certificate.to_vec());
    let question = Question {
        id,
        issuer,
        others: Vec::new(),
        trust: None,
    };
    let _ = question.read(sent, UnixTime::now());
});
