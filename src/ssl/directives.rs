//! The rows of the `ssl_…` directives, and what is written by them.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use super::conf::{self, Protocols};
use crate::config::{Arity, ConfigError, Contexts, Node, Reader, Result, Row, Word, value};
use crate::inherit;
use crate::observe::os_error;

/// A block that has `ssl_…` directives.
pub trait Speaks {
    /// What is written in it.
    fn ssl(&mut self) -> &mut Raw;
}

/// Least size of a shared zone in bytes: eight pages, as in nginx.
const ZONE_MIN: u64 = 8 * 4096;

/// The directives that `http` and `stream` have both, in these `places`.
pub const fn rows<S: Speaks + 'static>(places: Contexts) -> [Row<S>; 29] {
    [
        Row::custom(
            "ssl_certificate",
            places,
            Arity::One,
            |_, s: &mut S, node| {
                s.ssl()
                    .certificates
                    .get_or_insert_default()
                    .push(first(node));
                Ok(())
            },
        )
        .doc("File with the server's certificate and its chain, in PEM."),
        Row::custom(
            "ssl_certificate_key",
            places,
            Arity::One,
            |_, s: &mut S, node| {
                s.ssl().keys.get_or_insert_default().push(first(node));
                Ok(())
            },
        )
        .doc("File with the secret key of the certificate, in PEM."),
        Row::custom(
            "ssl_certificate_cache",
            places,
            Arity::Between(1, 3),
            |_, s: &mut S, node| read_certificate_cache(&mut s.ssl().certificate_cache, node),
        )
        .default("off")
        .without_effect("certificates named by variables are read for each handshake")
        .doc("How many certificates named by variables are kept, and how long."),
        Row::flag("ssl_certificate_compression", places, |s: &mut S| {
            &mut s.ssl().certificate_compression
        })
        .default("off")
        .without_effect("certificates are never compressed")
        .doc("Send certificates compressed."),
        Row::custom(
            "ssl_password_file",
            places,
            Arity::One,
            |reader, s: &mut S, node| read_password_file(reader, &mut s.ssl().password_file, node),
        )
        .doc("File with the passphrases of secret keys."),
        Row::custom(
            "ssl_protocols",
            places,
            Arity::AtLeast(1),
            |reader, s: &mut S, node| read_protocols(reader, &mut s.ssl().protocols, node),
        )
        .default("TLSv1.2 TLSv1.3")
        .doc("Versions of TLS to speak."),
        Row::word("ssl_ciphers", places, |s: &mut S| &mut s.ssl().ciphers)
            .default("HIGH:!aNULL:!MD5")
            .doc("Ciphers to offer, in OpenSSL's notation."),
        Row::flag("ssl_prefer_server_ciphers", places, |s: &mut S| {
            &mut s.ssl().prefer_server_ciphers
        })
        .default("off")
        .doc("Choose the cipher by the server's order, not the client's."),
        Row::word("ssl_ecdh_curve", places, |s: &mut S| {
            &mut s.ssl().ecdh_curve
        })
        .default("auto")
        .doc("Curves for key exchange, separated by colons."),
        Row::word("ssl_dhparam", places, |s: &mut S| &mut s.ssl().dhparam)
            .without_effect("there are no DHE ciphers in ringway")
            .doc("File with parameters for DHE ciphers."),
        Row::custom(
            "ssl_conf_command",
            places,
            Arity::Two,
            |_, s: &mut S, node| read_conf_command(&mut s.ssl().conf_commands, node),
        )
        .doc("A configuration command of OpenSSL."),
        Row::custom(
            "ssl_session_cache",
            places,
            Arity::Between(1, 2),
            set_session_cache,
        )
        .default("none")
        .doc("Where sessions are kept for resumption."),
        Row::seconds("ssl_session_timeout", places, |s: &mut S| {
            &mut s.ssl().session_timeout
        })
        .default("5m")
        .doc("How long a session may be resumed."),
        Row::flag("ssl_session_tickets", places, |s: &mut S| {
            &mut s.ssl().session_tickets
        })
        .default("on")
        .doc("Resume sessions by tickets that the client keeps."),
        Row::custom(
            "ssl_session_ticket_key",
            places,
            Arity::One,
            |_, s: &mut S, node| {
                s.ssl()
                    .ticket_keys
                    .get_or_insert_default()
                    .push(first(node));
                Ok(())
            },
        )
        .doc("File of 48 or 80 random bytes that encrypt tickets."),
        Row::flag("ssl_reject_handshake", places, |s: &mut S| {
            &mut s.ssl().reject_handshake
        })
        .default("off")
        .doc("Refuse handshakes for names of this server."),
        Row::choice("ssl_verify_client", places, &conf::VERIFY, |s: &mut S| {
            &mut s.ssl().verify_client
        })
        .default("off")
        .doc("Ask clients for a certificate: on, optional, optional_no_ca or off."),
        Row::number("ssl_verify_depth", places, |s: &mut S| {
            &mut s.ssl().verify_depth
        })
        .default("1")
        .doc("How long a client's chain of certificates may be."),
        Row::word("ssl_client_certificate", places, |s: &mut S| {
            &mut s.ssl().client_certificate
        })
        .doc("File with the authorities of client certificates; clients are told their names."),
        Row::word("ssl_trusted_certificate", places, |s: &mut S| {
            &mut s.ssl().trusted_certificate
        })
        .doc("File with authorities of client certificates and of OCSP responses."),
        Row::word("ssl_crl", places, |s: &mut S| &mut s.ssl().crl)
            .doc("File with revoked client certificates."),
        Row::choice("ssl_ocsp", places, &conf::OCSP, |s: &mut S| {
            &mut s.ssl().ocsp
        })
        .default("off")
        .doc("Ask a responder about client certificates: on, leaf or off."),
        Row::custom("ssl_ocsp_cache", places, Arity::One, set_ocsp_cache)
            .default("off")
            .doc("Where the answers about client certificates are kept."),
        Row::word("ssl_ocsp_responder", places, |s: &mut S| {
            &mut s.ssl().ocsp_responder
        })
        .doc("Responder to ask, in place of the one a certificate names."),
        Row::flag("ssl_stapling", places, |s: &mut S| &mut s.ssl().stapling)
            .default("off")
            .doc("Send the OCSP response for the server's certificate."),
        Row::flag("ssl_stapling_verify", places, |s: &mut S| {
            &mut s.ssl().stapling_verify
        })
        .default("off")
        .doc("Verify OCSP responses before they are sent."),
        Row::word("ssl_stapling_file", places, |s: &mut S| {
            &mut s.ssl().stapling_file
        })
        .doc("File with the OCSP response to send."),
        Row::custom(
            "ssl_key_log",
            places,
            Arity::One,
            |reader, s: &mut S, node| read_key_log(reader, &mut s.ssl().key_log, node),
        )
        .doc("File that gets the secrets of connections, to decrypt what was recorded."),
        Row::word("ssl_stapling_responder", places, |s: &mut S| {
            &mut s.ssl().stapling_responder
        })
        .doc("Responder to ask about the server's certificate."),
    ]
}

/// What is written in one block.
#[derive(Default)]
pub struct Raw {
    pub(super) certificates: Option<Vec<Word>>,
    pub(super) keys: Option<Vec<Word>>,
    pub(super) certificate_cache: Option<()>,
    pub(super) certificate_compression: Option<bool>,
    pub(super) password_file: Option<PathBuf>,
    pub(super) protocols: Option<Protocols>,
    pub(super) ciphers: Option<Word>,
    pub(super) prefer_server_ciphers: Option<bool>,
    pub(super) ecdh_curve: Option<Word>,
    pub(super) dhparam: Option<Word>,
    pub(super) conf_commands: Option<Vec<(Word, Word)>>,
    pub(super) builtin_cache: Option<BuiltinCache>,
    pub(super) shared_cache: Option<Zone>,
    pub(super) session_timeout: Option<Duration>,
    pub(super) session_tickets: Option<bool>,
    pub(super) ticket_keys: Option<Vec<Word>>,
    pub(super) reject_handshake: Option<bool>,
    pub(super) verify_client: Option<usize>,
    pub(super) verify_depth: Option<u64>,
    pub(super) client_certificate: Option<Word>,
    pub(super) trusted_certificate: Option<Word>,
    pub(super) crl: Option<Word>,
    pub(super) ocsp: Option<usize>,
    pub(super) ocsp_cache: Option<Option<Zone>>,
    pub(super) ocsp_responder: Option<Word>,
    pub(super) stapling: Option<bool>,
    pub(super) stapling_verify: Option<bool>,
    pub(super) stapling_file: Option<Word>,
    pub(super) stapling_responder: Option<Word>,
    pub(super) key_log: Option<PathBuf>,
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
    pub(super) word: Word,
}

impl Raw {
    /// Fills what is not written here from the enclosing block.
    pub fn inherit(&mut self, parent: &Raw) {
        inherit!(self, parent;
            certificates, keys, certificate_cache, certificate_compression, password_file,
            protocols, ciphers, prefer_server_ciphers, ecdh_curve, dhparam, conf_commands,
            builtin_cache, shared_cache, session_timeout, session_tickets, ticket_keys,
            reject_handshake, verify_client, verify_depth,
            client_certificate, trusted_certificate, crl, ocsp, ocsp_cache, ocsp_responder,
            stapling, stapling_verify, stapling_file, stapling_responder, key_log,
        );
    }
}

fn first(node: &Node) -> Word {
    node.args()[0].clone()
}

/// Reads a `…_protocols`.
///
/// # Errors
/// A version that nobody knows.
pub fn read_protocols(
    reader: &mut Reader<'_>,
    slot: &mut Option<Protocols>,
    node: &Node,
) -> Result<()> {
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
        let protocols = slot.get_or_insert_default();
        if !protocols.add(bit) {
            reader.warn(word.span, format!("duplicate value \"{}\"", word.text()));
        }
    }
    Ok(())
}

fn set_session_cache<S: Speaks>(_: &mut Reader<'_>, s: &mut S, node: &Node) -> Result<()> {
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
                    s.ssl().shared_cache = Some(zone(word, "session cache", invalid)?);
                    continue;
                }
            },
        };
        s.ssl().builtin_cache = Some(builtin);
    }
    Ok(())
}

fn set_ocsp_cache<S: Speaks>(_: &mut Reader<'_>, s: &mut S, node: &Node) -> Result<()> {
    let word = &node.args()[0];
    if s.ssl().ocsp_cache.is_some() {
        return Err(value::duplicate(node));
    }
    let invalid = || {
        let message = format!("invalid OCSP cache \"{}\"", word.text());
        ConfigError::at(word.span, message).help("off or shared:name:size")
    };
    s.ssl().ocsp_cache = Some(match &*word.bytes {
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

/// Reads a `…_password_file`.
///
/// # Errors
/// It cannot be opened.
pub fn read_password_file(
    reader: &mut Reader<'_>,
    slot: &mut Option<PathBuf>,
    node: &Node,
) -> Result<()> {
    if slot.is_some() {
        return Err(value::duplicate(node));
    }
    let word = &node.args()[0];
    let path = reader.conf_path(word);
    if let Err(error) = File::open(&path) {
        let (path, shown) = (path.display(), os_error(&error));
        let message = format!("open() \"{path}\" failed {shown}");
        return Err(ConfigError::at(word.span, message));
    }
    *slot = Some(path);
    Ok(())
}

/// Reads a `…_key_log`.
///
/// # Errors
/// It is there twice.
pub fn read_key_log(
    reader: &mut Reader<'_>,
    slot: &mut Option<PathBuf>,
    node: &Node,
) -> Result<()> {
    let path = reader.path(&node.args()[0]);
    value::once(slot, path, node)
}

/// Reads a `…_conf_command`.
pub fn read_conf_command(slot: &mut Option<Vec<(Word, Word)>>, node: &Node) -> Result<()> {
    let pair = (node.args()[0].clone(), node.args()[1].clone());
    slot.get_or_insert_default().push(pair);
    Ok(())
}

/// Checks a `…_certificate_cache`.
///
/// # Errors
/// What nginx refuses.
pub fn read_certificate_cache(slot: &mut Option<()>, node: &Node) -> Result<()> {
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
        let message = format!("\"{}\" must have the \"max\" parameter", node.name());
        return Err(ConfigError::at(node.span(), message));
    }
    value::once(slot, (), node)
}

/// A protocol for ALPN has at most so many bytes.
const ALPN_MAX: usize = 255;

/// Protocols for ALPN: the arguments of a directive.
///
/// # Errors
/// One is too long.
pub fn protocols(node: &Node) -> Result<Vec<Vec<u8>>> {
    let too_long = |word: &&Word| word.bytes.len() > ALPN_MAX;
    if let Some(word) = node.args().iter().find(too_long) {
        return Err(ConfigError::at(word.span, "protocol too long"));
    }
    Ok(node.args().iter().map(|word| word.bytes.to_vec()).collect())
}
