//! `$ssl_…`: what a connection with TLS is like, and the client's certificate.

use aws_lc_rs::digest;
use rustls::SignatureScheme;

use super::{Secure, Secured};
use crate::base::clock;
use crate::tls::x509::Certificate;
use crate::tls::{Notes, name, offers};
use crate::vars::Variable;

/// The variables of this module, for `http` and `stream`: none has a value on a connection without
/// TLS.
pub const fn variables<S: Secure>() -> [Variable<S>; 27] {
    [
        Variable::new("ssl_alpn_protocol", |s: &mut S, _, out| {
            session(s, out, |tls| &tls.session.alpn)
        })
        .doc("Protocol agreed upon by ALPN."),
        Variable::new("ssl_cipher", |s: &mut S, _, out| {
            session(s, out, |tls| tls.session.cipher.as_bytes())
        })
        .doc("Cipher in use, by OpenSSL's name."),
        Variable::new("ssl_ciphers", |s: &mut S, _, out| {
            list(s, out, |notes| &notes.suites, offers::suite)
        })
        .doc("Ciphers that the client offers, by OpenSSL's names, others as numbers."),
        Variable::new("ssl_client_cert", |s: &mut S, _, out| {
            client_pem(s, out, true)
        })
        .doc("Client's certificate in PEM, its lines indented by a tab."),
        Variable::new("ssl_client_escaped_cert", escaped_cert)
            .doc("Client's certificate in PEM, URL-encoded."),
        Variable::new("ssl_client_fingerprint", |s: &mut S, _, out| {
            client_der(s, |der| {
                let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, der);
                name::write_hex(hash.as_ref(), false, out);
            })
        })
        .doc("SHA-1 of the client's certificate."),
        Variable::new("ssl_client_i_dn", |s: &mut S, _, out| {
            client(s, |own| name::write_rfc2253(own.issuer, out))
        })
        .doc("Issuer of the client's certificate, by RFC 2253."),
        Variable::new("ssl_client_i_dn_legacy", |s: &mut S, _, out| {
            client(s, |own| name::write_legacy(own.issuer, out))
        })
        .doc("Issuer of the client's certificate, as /C=…/CN=…."),
        Variable::new("ssl_client_raw_cert", |s: &mut S, _, out| {
            client_pem(s, out, false)
        })
        .doc("Client's certificate in PEM."),
        Variable::new("ssl_client_s_dn", |s: &mut S, _, out| {
            client(s, |own| name::write_rfc2253(own.subject, out))
        })
        .doc("Subject of the client's certificate, by RFC 2253."),
        Variable::new("ssl_client_s_dn_legacy", |s: &mut S, _, out| {
            client(s, |own| name::write_legacy(own.subject, out))
        })
        .doc("Subject of the client's certificate, as /C=…/CN=…."),
        Variable::new("ssl_client_serial", |s: &mut S, _, out| {
            client(s, |own| name::write_serial(own, out))
        })
        .doc("Serial number of the client's certificate."),
        Variable::new("ssl_client_sigalg", |s: &mut S, _, out| {
            signature(s, out, |notes| notes.peer_signature)
        })
        .doc("What the client has signed with, if it has a certificate."),
        Variable::new("ssl_client_v_end", |s: &mut S, _, out| {
            client(s, |own| name::write_time(own.not_after, out))
        })
        .doc("When the client's certificate ends to be valid."),
        Variable::new("ssl_client_v_remain", |s: &mut S, _, out| {
            client(s, |own| {
                let days = ((own.not_after - clock::wall().secs) / 86_400).max(0);
                out.extend_from_slice(itoa::Buffer::new().format(days).as_bytes());
            })
        })
        .doc("Days until the client's certificate ends to be valid."),
        Variable::new("ssl_client_v_start", |s: &mut S, _, out| {
            client(s, |own| name::write_time(own.not_before, out))
        })
        .doc("When the client's certificate begins to be valid."),
        Variable::new("ssl_client_verify", client_verify).doc("SUCCESS, FAILED:reason or NONE."),
        Variable::new("ssl_curve", |s: &mut S, _, out| {
            session(s, out, |tls| tls.session.curve.as_bytes())
        })
        .doc("Group of the key exchange."),
        Variable::new("ssl_curves", |s: &mut S, _, out| {
            list(s, out, |notes| &notes.groups, offers::group)
        })
        .doc("Groups for key exchange that the client offers, others as numbers."),
        without(
            "ssl_early_data",
            "No value: no request is worked on before the handshake is complete.",
        ),
        without("ssl_ech_outer_server_name", "No value: there is no ECH."),
        without("ssl_ech_status", "No value: there is no ECH."),
        Variable::new("ssl_protocol", |s: &mut S, _, out| {
            session(s, out, |tls| tls.session.protocol.as_bytes())
        })
        .doc("Version of TLS."),
        Variable::new("ssl_server_name", |s: &mut S, _, out| {
            session(s, out, |tls| tls.session.server_name.as_bytes())
        })
        .doc("Server name the client asked for in the handshake."),
        Variable::new("ssl_session_id", |s: &mut S, _, out| {
            let id = s.secured().map(|tls| tls.session.id.as_bytes());
            name::write_hex(id.unwrap_or_default(), false, out);
            id.is_some_and(|id| !id.is_empty())
        })
        .doc("What the session is known by; in TLS 1.3, something unique to the connection."),
        Variable::new("ssl_session_reused", |s: &mut S, _, out| {
            session(s, out, |tls| if tls.session.reused { b"r" } else { b"." })
        })
        .doc("r for a resumed session, otherwise a dot."),
        Variable::new("ssl_sigalg", |s: &mut S, _, out| {
            signature(s, out, |notes| notes.signature)
        })
        .doc("What was signed with for the client."),
    ]
}

const fn without<S: 'static>(name: &'static str, why: &'static str) -> Variable<S> {
    Variable::new(name, |_, _, _| false).doc(why)
}

/// Appends a fact of the session; false if it is empty or there is none.
fn session<'e>(
    s: &'e impl Secure,
    out: &mut Vec<u8>,
    fact: impl Fn(&'e Secured) -> &'e [u8],
) -> bool {
    let Some(tls) = s.secured() else {
        return false;
    };
    let value = fact(tls);
    out.extend_from_slice(value);
    !value.is_empty()
}

/// Appends names for what the client offers, with colons between them.
fn list(
    s: &impl Secure,
    out: &mut Vec<u8>,
    offered: impl Fn(&Notes) -> &[u16],
    name: impl Fn(u16) -> Option<&'static str>,
) -> bool {
    let offered = s.secured().map(|tls| offered(&tls.session.notes));
    let offered = offered.unwrap_or_default();
    for (at, &number) in offered.iter().enumerate() {
        if at > 0 {
            out.push(b':');
        }
        match name(number) {
            Some(name) => out.extend_from_slice(name.as_bytes()),
            None => {
                out.extend_from_slice(b"0x");
                name::write_hex(&number.to_be_bytes(), false, out);
            }
        }
    }
    !offered.is_empty()
}

/// Appends the name of a signature algorithm.
fn signature(
    s: &impl Secure,
    out: &mut Vec<u8>,
    scheme: impl Fn(&Notes) -> Option<SignatureScheme>,
) -> bool {
    let scheme = s.secured().and_then(|tls| scheme(&tls.session.notes));
    let name = scheme.map_or("", offers::signature);
    out.extend_from_slice(name.as_bytes());
    !name.is_empty()
}

fn client_der(s: &impl Secure, write: impl FnOnce(&[u8])) -> bool {
    let certificates = s.secured().map(|tls| &tls.session.certificates);
    let own = certificates.and_then(|sent| sent.first());
    own.map(|der| write(der)).is_some()
}

fn client(s: &impl Secure, write: impl FnOnce(&Certificate<'_>)) -> bool {
    client_der(s, |der| {
        if let Some(own) = Certificate::parse(der) {
            write(&own);
        }
    })
}

/// The certificate in PEM, without the last line end.
fn client_pem(s: &impl Secure, out: &mut Vec<u8>, indented: bool) -> bool {
    client_der(s, |der| {
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

fn escaped_cert(s: &mut impl Secure, _: &[u8], out: &mut Vec<u8>) -> bool {
    let mut text = Vec::new();
    if !client_pem(s, &mut text, false) {
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

fn client_verify(s: &mut impl Secure, _: &[u8], out: &mut Vec<u8>) -> bool {
    let Some(tls) = s.secured() else {
        return false;
    };
    match tls.verified {
        _ if tls.session.certificates.is_empty() => out.extend_from_slice(b"NONE"),
        Err(failure) => write_failed(failure.reason(), out),
        Ok(()) => match tls.status {
            Ok(()) => out.extend_from_slice(b"SUCCESS"),
            Err(unproven) => write_failed(unproven.reason(), out),
        },
    }
    true
}

fn write_failed(reason: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"FAILED:");
    out.extend_from_slice(reason.as_bytes());
}
