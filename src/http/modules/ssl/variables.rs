//! `$ssl_…`: what a connection with TLS is like, and the client's certificate.

use aws_lc_rs::digest;

use crate::base::clock;
use crate::http::exchange::Exchange;
use crate::http::tls::Secured;
use crate::tls::name;
use crate::tls::x509::Certificate;
use crate::vars::Variable;

type V = Variable<Exchange>;

/// The variables of this module: none has a value on a connection without TLS.
pub const VARIABLES: &[V] = &[
    V::new("ssl_alpn_protocol", |ex, _, out| {
        session(ex, out, |tls| &tls.session.alpn)
    })
    .doc("Protocol agreed upon by ALPN."),
    V::new("ssl_cipher", |ex, _, out| {
        session(ex, out, |tls| tls.session.cipher.as_bytes())
    })
    .doc("Cipher in use, by OpenSSL's name."),
    without(
        "ssl_ciphers",
        "No value: the client's ciphers are not kept.",
    ),
    V::new("ssl_client_cert", |ex, _, out| client_pem(ex, out, true))
        .doc("Client's certificate in PEM, its lines indented by a tab."),
    V::new("ssl_client_escaped_cert", escaped_cert)
        .doc("Client's certificate in PEM, URL-encoded."),
    V::new("ssl_client_fingerprint", |ex, _, out| {
        client_der(ex, |der| {
            let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, der);
            name::write_hex(hash.as_ref(), false, out);
        })
    })
    .doc("SHA-1 of the client's certificate."),
    V::new("ssl_client_i_dn", |ex, _, out| {
        client(ex, |own| name::write_rfc2253(own.issuer, out))
    })
    .doc("Issuer of the client's certificate, by RFC 2253."),
    V::new("ssl_client_i_dn_legacy", |ex, _, out| {
        client(ex, |own| name::write_legacy(own.issuer, out))
    })
    .doc("Issuer of the client's certificate, as /C=…/CN=…."),
    V::new("ssl_client_raw_cert", |ex, _, out| {
        client_pem(ex, out, false)
    })
    .doc("Client's certificate in PEM."),
    V::new("ssl_client_s_dn", |ex, _, out| {
        client(ex, |own| name::write_rfc2253(own.subject, out))
    })
    .doc("Subject of the client's certificate, by RFC 2253."),
    V::new("ssl_client_s_dn_legacy", |ex, _, out| {
        client(ex, |own| name::write_legacy(own.subject, out))
    })
    .doc("Subject of the client's certificate, as /C=…/CN=…."),
    V::new("ssl_client_serial", |ex, _, out| {
        client(ex, |own| name::write_serial(own, out))
    })
    .doc("Serial number of the client's certificate."),
    without("ssl_client_sigalg", "No value: it is not kept."),
    V::new("ssl_client_v_end", |ex, _, out| {
        client(ex, |own| name::write_time(own.not_after, out))
    })
    .doc("When the client's certificate ends to be valid."),
    V::new("ssl_client_v_remain", |ex, _, out| {
        client(ex, |own| {
            let days = ((own.not_after - clock::wall().secs) / 86_400).max(0);
            out.extend_from_slice(itoa::Buffer::new().format(days).as_bytes());
        })
    })
    .doc("Days until the client's certificate ends to be valid."),
    V::new("ssl_client_v_start", |ex, _, out| {
        client(ex, |own| name::write_time(own.not_before, out))
    })
    .doc("When the client's certificate begins to be valid."),
    V::new("ssl_client_verify", client_verify).doc("SUCCESS, FAILED:reason or NONE."),
    V::new("ssl_curve", |ex, _, out| {
        session(ex, out, |tls| tls.session.curve.as_bytes())
    })
    .doc("Group of the key exchange."),
    without("ssl_curves", "No value: the client's groups are not kept."),
    without(
        "ssl_early_data",
        "No value: requests in early data wait for the end of the handshake.",
    ),
    without("ssl_ech_outer_server_name", "No value: there is no ECH."),
    without("ssl_ech_status", "No value: there is no ECH."),
    V::new("ssl_protocol", |ex, _, out| {
        session(ex, out, |tls| tls.session.protocol.as_bytes())
    })
    .doc("Version of TLS."),
    V::new("ssl_server_name", |ex, _, out| {
        session(ex, out, |tls| tls.session.server_name.as_bytes())
    })
    .doc("Server name the client asked for in the handshake."),
    without("ssl_session_id", "No value: rustls keeps it to itself."),
    V::new("ssl_session_reused", |ex, _, out| {
        session(ex, out, |tls| if tls.session.reused { b"r" } else { b"." })
    })
    .doc("r for a resumed session, otherwise a dot."),
    without("ssl_sigalg", "No value: it is not kept."),
];

const fn without(name: &'static str, why: &'static str) -> V {
    V::new(name, |_, _, _| false).doc(why)
}

/// Appends a fact of the session; false if it is empty or there is none.
fn session<'e>(
    ex: &'e Exchange,
    out: &mut Vec<u8>,
    fact: impl Fn(&'e Secured) -> &'e [u8],
) -> bool {
    let Some(tls) = &ex.client.tls else {
        return false;
    };
    let value = fact(tls);
    out.extend_from_slice(value);
    !value.is_empty()
}

fn client_der(ex: &Exchange, write: impl FnOnce(&[u8])) -> bool {
    let certificates = ex.client.tls.as_ref().map(|tls| &tls.session.certificates);
    let own = certificates.and_then(|sent| sent.first());
    own.map(|der| write(der)).is_some()
}

fn client(ex: &Exchange, write: impl FnOnce(&Certificate<'_>)) -> bool {
    client_der(ex, |der| {
        if let Some(own) = Certificate::parse(der) {
            write(&own);
        }
    })
}

/// The certificate in PEM, without the last line end.
fn client_pem(ex: &Exchange, out: &mut Vec<u8>, indented: bool) -> bool {
    client_der(ex, |der| {
        let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
        let text = pem::encode_config(&pem::Pem::new("CERTIFICATE", der), config);
        for byte in text.trim_end().bytes() {
            out.push(byte);
            if byte == b'\n' && indented {
                out.push(b'\t');
            }
        }
        if !indented {
            out.push(b'\n');
        }
    })
}

fn escaped_cert(ex: &mut Exchange, _: &[u8], out: &mut Vec<u8>) -> bool {
    let mut text = Vec::new();
    if !client_pem(ex, &mut text, false) {
        return false;
    }
    for byte in text {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte);
        } else {
            out.push(b'%');
            name::write_hex(&[byte], true, out);
        }
    }
    true
}

fn client_verify(ex: &mut Exchange, _: &[u8], out: &mut Vec<u8>) -> bool {
    let Some(tls) = &ex.client.tls else {
        return false;
    };
    match tls.verified {
        _ if tls.session.certificates.is_empty() => out.extend_from_slice(b"NONE"),
        Ok(()) => out.extend_from_slice(b"SUCCESS"),
        Err(failure) => {
            out.extend_from_slice(b"FAILED:");
            out.extend_from_slice(failure.reason().as_bytes());
        }
    }
    true
}
