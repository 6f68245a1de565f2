//! `ssl_…`: certificates, and how TLS is to be spoken on `listen … ssl`.
//!
//! What is written is checked as nginx checks it and becomes a [`Conf`] per server, whether one of
//! its listeners speaks TLS or not. `ssl on` and `http2 on` are refused.

mod build;
mod conf;
mod dynamic;
mod variables;

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::{Arity, ConfigError, Contexts, Node, Reader, Result, Row, Word, value};
use crate::http::scope::Scope;
use crate::inherit;
use crate::observe::os_error;

pub use conf::{Common, Conf, Protocols, Verify};
pub use dynamic::Dynamic;
pub use variables::VARIABLES;

const HS: Contexts = Contexts::HTTP.or(Contexts::SERVER);
const NO_OCSP: &str = "nobody is asked about client certificates yet";
const NO_FETCH: &str = "OCSP responses come from ssl_stapling_file alone";

/// Least size of a shared zone in bytes: eight pages, as in nginx.
const ZONE_MIN: u64 = 8 * 4096;

type R = Row<Scope>;

/// The directives of this module.
pub const ROWS: &[Row<Scope>] = &[
    R::custom("ssl", HS, Arity::Flag, set_ssl)
        .default("off")
        .doc("Only off: TLS is asked for by listen … ssl, and not there yet."),
    R::custom("http2", HS, Arity::Flag, set_http2)
        .default("off")
        .doc("Only off: HTTP/2 is not there yet."),
    R::custom("ssl_certificate", HS, Arity::One, |_, s, node| {
        s.ssl.certificates.get_or_insert_default().push(first(node));
        Ok(())
    })
    .doc("File with the server's certificate and its chain, in PEM."),
    R::custom("ssl_certificate_key", HS, Arity::One, |_, s, node| {
        s.ssl.keys.get_or_insert_default().push(first(node));
        Ok(())
    })
    .doc("File with the secret key of the certificate, in PEM."),
    R::custom(
        "ssl_certificate_cache",
        HS,
        Arity::Between(1, 3),
        set_certificate_cache,
    )
    .default("off")
    .without_effect("certificates named by variables are read for each handshake")
    .doc("How many certificates named by variables are kept, and how long."),
    R::flag("ssl_certificate_compression", HS, |s| {
        &mut s.ssl.certificate_compression
    })
    .default("off")
    .without_effect("certificates are never compressed")
    .doc("Send certificates compressed."),
    R::custom("ssl_password_file", HS, Arity::One, set_password_file)
        .doc("File with the passphrases of secret keys."),
    R::custom("ssl_protocols", HS, Arity::AtLeast(1), set_protocols)
        .default("TLSv1.2 TLSv1.3")
        .doc("Versions of TLS to speak."),
    R::word("ssl_ciphers", HS, |s| &mut s.ssl.ciphers)
        .default("HIGH:!aNULL:!MD5")
        .doc("Ciphers to offer, in OpenSSL's notation."),
    R::flag("ssl_prefer_server_ciphers", HS, |s| {
        &mut s.ssl.prefer_server_ciphers
    })
    .default("off")
    .doc("Choose the cipher by the server's order, not the client's."),
    R::word("ssl_ecdh_curve", HS, |s| &mut s.ssl.ecdh_curve)
        .default("auto")
        .doc("Curves for key exchange, separated by colons."),
    R::word("ssl_dhparam", HS, |s| &mut s.ssl.dhparam)
        .without_effect("there are no DHE ciphers in ringway")
        .doc("File with parameters for DHE ciphers."),
    R::custom("ssl_conf_command", HS, Arity::Two, set_conf_command)
        .doc("A configuration command of OpenSSL."),
    R::custom(
        "ssl_session_cache",
        HS,
        Arity::Between(1, 2),
        set_session_cache,
    )
    .default("none")
    .doc("Where sessions are kept for resumption."),
    R::seconds("ssl_session_timeout", HS, |s| &mut s.ssl.session_timeout)
        .default("5m")
        .doc("How long a session may be resumed."),
    R::flag("ssl_session_tickets", HS, |s| &mut s.ssl.session_tickets)
        .default("on")
        .doc("Resume sessions by tickets that the client keeps."),
    R::custom("ssl_session_ticket_key", HS, Arity::One, |_, s, node| {
        s.ssl.ticket_keys.get_or_insert_default().push(first(node));
        Ok(())
    })
    .doc("File of 48 or 80 random bytes that encrypt tickets."),
    R::size("ssl_buffer_size", HS, |s| &mut s.ssl.buffer_size)
        .default("16k")
        .doc("Size of the records that are sent."),
    R::flag("ssl_early_data", HS, |s| &mut s.ssl.early_data)
        .default("off")
        .doc("Take requests in TLS 1.3 early data."),
    R::flag("ssl_reject_handshake", HS, |s| &mut s.ssl.reject_handshake)
        .default("off")
        .doc("Refuse handshakes for names of this server."),
    R::choice("ssl_verify_client", HS, &conf::VERIFY, |s| {
        &mut s.ssl.verify_client
    })
    .default("off")
    .doc("Ask clients for a certificate: on, optional, optional_no_ca or off."),
    R::number("ssl_verify_depth", HS, |s| &mut s.ssl.verify_depth)
        .default("1")
        .doc("How long a client's chain of certificates may be."),
    R::word("ssl_client_certificate", HS, |s| {
        &mut s.ssl.client_certificate
    })
    .doc("File with the authorities of client certificates; clients are told their names."),
    R::word("ssl_trusted_certificate", HS, |s| {
        &mut s.ssl.trusted_certificate
    })
    .doc("File with authorities of client certificates and of OCSP responses."),
    R::word("ssl_crl", HS, |s| &mut s.ssl.crl).doc("File with revoked client certificates."),
    R::choice("ssl_ocsp", HS, &conf::OCSP, |s| &mut s.ssl.ocsp)
        .default("off")
        .without_effect(NO_OCSP)
        .doc("Ask a responder about client certificates: on, leaf or off."),
    R::custom("ssl_ocsp_cache", HS, Arity::One, set_ocsp_cache)
        .default("off")
        .without_effect(NO_OCSP)
        .doc("Where the answers about client certificates are kept."),
    R::word("ssl_ocsp_responder", HS, |s| &mut s.ssl.ocsp_responder)
        .without_effect(NO_OCSP)
        .doc("Responder to ask, in place of the one a certificate names."),
    R::flag("ssl_stapling", HS, |s| &mut s.ssl.stapling)
        .default("off")
        .doc("Send the OCSP response for the server's certificate."),
    R::flag("ssl_stapling_verify", HS, |s| &mut s.ssl.stapling_verify)
        .default("off")
        .without_effect(NO_FETCH)
        .doc("Verify OCSP responses before they are sent."),
    R::word("ssl_stapling_file", HS, |s| &mut s.ssl.stapling_file)
        .doc("File with the OCSP response to send."),
    R::word("ssl_stapling_responder", HS, |s| {
        &mut s.ssl.stapling_responder
    })
    .without_effect(NO_FETCH)
    .doc("Responder to ask about the server's certificate."),
];

/// What is written in one block.
#[derive(Default)]
pub struct Raw {
    certificates: Option<Vec<Word>>,
    keys: Option<Vec<Word>>,
    certificate_cache: Option<()>,
    certificate_compression: Option<bool>,
    password_file: Option<PathBuf>,
    protocols: Option<Protocols>,
    ciphers: Option<Word>,
    prefer_server_ciphers: Option<bool>,
    ecdh_curve: Option<Word>,
    dhparam: Option<Word>,
    conf_commands: Option<Vec<(Word, Word)>>,
    builtin_cache: Option<BuiltinCache>,
    shared_cache: Option<Zone>,
    session_timeout: Option<Duration>,
    session_tickets: Option<bool>,
    ticket_keys: Option<Vec<Word>>,
    buffer_size: Option<u64>,
    early_data: Option<bool>,
    reject_handshake: Option<bool>,
    verify_client: Option<usize>,
    verify_depth: Option<u64>,
    client_certificate: Option<Word>,
    trusted_certificate: Option<Word>,
    crl: Option<Word>,
    ocsp: Option<usize>,
    ocsp_cache: Option<Option<Zone>>,
    ocsp_responder: Option<Word>,
    stapling: Option<bool>,
    stapling_verify: Option<bool>,
    stapling_file: Option<Word>,
    stapling_responder: Option<Word>,
}

/// The cache of sessions inside each worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuiltinCache {
    /// Clients are told that sessions cannot be resumed.
    Off,
    /// Clients are told that they may be, and they are not.
    None,
    /// So many sessions; 0 for no limit.
    Sessions(u64),
}

/// A cache that all workers share.
#[derive(Clone, Debug)]
pub struct Zone {
    /// Its name.
    pub name: Box<[u8]>,
    /// Its size in bytes.
    pub size: u64,
    /// Where it is written.
    word: Word,
}

impl Raw {
    /// Fills what is not written here from `http {}`.
    pub fn inherit(&mut self, parent: &Raw) {
        inherit!(self, parent;
            certificates, keys, certificate_cache, certificate_compression, password_file,
            protocols, ciphers, prefer_server_ciphers, ecdh_curve, dhparam, conf_commands,
            builtin_cache, shared_cache, session_timeout, session_tickets, ticket_keys,
            buffer_size, early_data, reject_handshake, verify_client, verify_depth,
            client_certificate, trusted_certificate, crl, ocsp, ocsp_cache, ocsp_responder,
            stapling, stapling_verify, stapling_file, stapling_responder,
        );
    }
}

fn first(node: &Node) -> Word {
    node.args()[0].clone()
}

fn set_ssl(_: &mut Reader, _: &mut Scope, node: &Node) -> Result<()> {
    if !value::flag(&node.args()[0])? {
        return Ok(());
    }
    let message = "directive \"ssl on\" of nginx is not implemented by ringway";
    Err(ConfigError::at(node.span(), message).help("nginx has given it up too: listen … ssl"))
}

/// Without HTTP/2 every client falls back to HTTP/1.1, so here `--lenient` may skip.
fn set_http2(reader: &mut Reader, _: &mut Scope, node: &Node) -> Result<()> {
    if !value::flag(&node.args()[0])? {
        return Ok(());
    }
    let message = "directive \"http2 on\" of nginx is not implemented by ringway yet";
    if reader.lenient {
        reader.warn(node.span(), format!("{message}, skipped"));
        return Ok(());
    }
    Err(ConfigError::at(node.span(), message).help("HTTP/2 is not there yet; --lenient skips it"))
}

fn set_protocols(reader: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
    for word in node.args() {
        let Some(bit) = Protocols::named(&word.bytes) else {
            let message = format!("invalid value \"{}\"", word.text());
            return Err(ConfigError::at(word.span, message)
                .help(format!("it must be one of: {}", conf::PROTOCOLS.join(", "))));
        };
        if !Protocols::DEFAULT.has(bit) {
            let message = format!("\"{}\" ignored: ringway does not speak it", word.text());
            reader.notice(word.span, message);
        }
        let protocols = s.ssl.protocols.get_or_insert_default();
        if !protocols.add(bit) {
            reader.warn(word.span, format!("duplicate value \"{}\"", word.text()));
        }
    }
    Ok(())
}

fn set_session_cache(_: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
    for word in node.args() {
        let text = &*word.bytes;
        let invalid = || {
            let message = format!("invalid session cache \"{}\"", word.text());
            ConfigError::at(word.span, message)
                .help("off, none, builtin, builtin:sessions or shared:name:size")
        };
        let builtin = match text {
            b"off" => BuiltinCache::Off,
            b"none" => BuiltinCache::None,
            // The number OpenSSL takes when none is given.
            b"builtin" => BuiltinCache::Sessions(20 << 10),
            _ => match text.strip_prefix(b"builtin:") {
                Some(count) => {
                    let count = value::parse_number(count).ok_or_else(invalid)?;
                    BuiltinCache::Sessions(count)
                }
                None => {
                    s.ssl.shared_cache = Some(zone(word, "session cache", invalid)?);
                    continue;
                }
            },
        };
        s.ssl.builtin_cache = Some(builtin);
    }
    Ok(())
}

fn set_ocsp_cache(_: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
    let word = &node.args()[0];
    if s.ssl.ocsp_cache.is_some() {
        return Err(value::duplicate(node));
    }
    let invalid = || {
        let message = format!("invalid OCSP cache \"{}\"", word.text());
        ConfigError::at(word.span, message).help("off or shared:name:size")
    };
    s.ssl.ocsp_cache = Some(match &*word.bytes {
        b"off" => None,
        _ => Some(zone(word, "OCSP cache", invalid)?),
    });
    Ok(())
}

/// `shared:name:size`
fn zone(word: &Word, what: &str, invalid: impl Fn() -> ConfigError) -> Result<Zone> {
    let rest = word.bytes.strip_prefix(b"shared:").ok_or_else(&invalid)?;
    let colon = memchr::memchr(b':', rest).ok_or_else(&invalid)?;
    let (name, size) = (&rest[..colon], &rest[colon + 1..]);
    let size = value::parse_size(size).ok_or_else(&invalid)?;
    if name.is_empty() {
        return Err(invalid());
    }
    if size < ZONE_MIN {
        let message = format!("{what} \"{}\" is too small", word.text());
        return Err(ConfigError::at(word.span, message).help("it takes 32k at least"));
    }
    Ok(Zone {
        name: name.into(),
        size,
        word: word.clone(),
    })
}

fn set_password_file(reader: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
    if s.ssl.password_file.is_some() {
        return Err(value::duplicate(node));
    }
    let word = &node.args()[0];
    let path = reader.conf_path(word);
    if let Err(error) = File::open(&path) {
        let (path, shown) = (path.display(), os_error(&error));
        let message = format!("open() \"{path}\" failed {shown}");
        return Err(ConfigError::at(word.span, message));
    }
    s.ssl.password_file = Some(path);
    Ok(())
}

fn set_conf_command(_: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
    let pair = (node.args()[0].clone(), node.args()[1].clone());
    s.ssl.conf_commands.get_or_insert_default().push(pair);
    Ok(())
}

fn set_certificate_cache(_: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
    let mut has_max = false;
    let mut off = false;
    for word in node.args() {
        let text = &*word.bytes;
        let invalid = || value::invalid_parameter(word);
        if let Some(text) = text.strip_prefix(b"max=") {
            let number = value::parse_number(text).filter(|number| *number > 0);
            number.ok_or_else(invalid)?;
            has_max = true;
        } else if let Some(text) = [&b"inactive="[..], b"valid="]
            .iter()
            .find_map(|name| text.strip_prefix(*name))
        {
            value::parse_seconds(text).ok_or_else(invalid)?;
        } else if text == b"off" {
            off = true;
        } else {
            return Err(invalid());
        }
    }
    if !has_max && !off {
        let message = "\"ssl_certificate_cache\" must have the \"max\" parameter";
        return Err(ConfigError::at(node.span(), message));
    }
    value::once(&mut s.ssl.certificate_cache, (), node)
}
