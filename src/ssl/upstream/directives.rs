//! The rows of the directives, by prefix, and what is written by them.

use std::path::PathBuf;

use super::super::Protocols;
use crate::config::Word;
use crate::inherit;

pub use super::super::directives::{
    read_certificate_cache, read_conf_command, read_key_log, read_password_file, read_protocols,
};

/// The directives whose names begin with `$prefix`, for `$places`; a scope keeps a [`Raw`] at
/// `$side`:
///
/// `const SSL_ROWS: &[Row<Scope>] = ssl::upstream::rows!(Scope, "grpc_ssl", HSL, grpc.ssl, "host …");`
///
/// The last argument documents what the name is without `…_name`.
macro_rules! rows {
    ($scope:ty, $prefix:literal, $places:expr, $($side:ident).+, $name:literal) => {{
        use $crate::config::{Arity, Row};
        use $crate::ssl::upstream;
        &[
            Row::flag(concat!($prefix, "_server_name"), $places, |s: &mut $scope| {
                &mut s.$($side).+.server_name
            })
            .default("off")
            .doc("Tell the server the name it is wanted under (SNI)."),
            Row::word(concat!($prefix, "_name"), $places, |s: &mut $scope| &mut s.$($side).+.name)
                .default($name)
                .doc("The name that the server's certificate must be for, and that it is told."),
            Row::flag(concat!($prefix, "_verify"), $places, |s: &mut $scope| &mut s.$($side).+.verify)
                .default("off")
                .doc("Verify the server's certificate."),
            Row::number(concat!($prefix, "_verify_depth"), $places, |s: &mut $scope| {
                &mut s.$($side).+.verify_depth
            })
            .default("1")
            .doc("How long the server's chain of certificates may be."),
            Row::word(concat!($prefix, "_trusted_certificate"), $places, |s: &mut $scope| {
                &mut s.$($side).+.trusted_certificate
            })
            .doc("File with the authorities of the servers' certificates, in PEM."),
            Row::word(concat!($prefix, "_crl"), $places, |s: &mut $scope| &mut s.$($side).+.crl)
                .doc("File with revoked certificates of servers."),
            Row::word(concat!($prefix, "_certificate"), $places, |s: &mut $scope| {
                &mut s.$($side).+.certificate
            })
            .doc("File with our certificate, for servers that ask for one."),
            Row::word(concat!($prefix, "_certificate_key"), $places, |s: &mut $scope| {
                &mut s.$($side).+.certificate_key
            })
            .doc("File with the secret key of our certificate."),
            Row::custom(
                concat!($prefix, "_certificate_cache"),
                $places,
                Arity::Between(1, 3),
                |_, s: &mut $scope, node| {
                    upstream::read_certificate_cache(&mut s.$($side).+.certificate_cache, node)
                },
            )
            .default("off")
            .without_effect("certificates named by variables are read for each handshake")
            .doc("How many certificates named by variables are kept, and how long."),
            Row::custom(
                concat!($prefix, "_password_file"),
                $places,
                Arity::One,
                |reader, s: &mut $scope, node| {
                    upstream::read_password_file(reader, &mut s.$($side).+.password_file, node)
                },
            )
            .doc("File with the passphrases of secret keys."),
            Row::custom(
                concat!($prefix, "_protocols"),
                $places,
                Arity::AtLeast(1),
                |reader, s: &mut $scope, node| {
                    upstream::read_protocols(reader, &mut s.$($side).+.protocols, node)
                },
            )
            .default("TLSv1.2 TLSv1.3")
            .doc("Versions of TLS to speak."),
            Row::word(concat!($prefix, "_ciphers"), $places, |s: &mut $scope| &mut s.$($side).+.ciphers)
                .default("DEFAULT")
                .doc("Ciphers to offer, in OpenSSL's notation."),
            Row::custom(
                concat!($prefix, "_conf_command"),
                $places,
                Arity::Two,
                |_, s: &mut $scope, node| {
                    upstream::read_conf_command(&mut s.$($side).+.conf_commands, node)
                },
            )
            .doc("A configuration command of OpenSSL."),
            Row::flag(concat!($prefix, "_session_reuse"), $places, |s: &mut $scope| {
                &mut s.$($side).+.session_reuse
            })
            .default("on")
            .doc("Resume sessions with servers."),
            Row::custom(
                concat!($prefix, "_key_log"),
                $places,
                Arity::One,
                |reader, s: &mut $scope, node| {
                    upstream::read_key_log(reader, &mut s.$($side).+.key_log, node)
                },
            )
            .doc("File that gets the secrets of connections, to decrypt what was recorded."),
        ]
    }};
}

pub(crate) use rows;

/// What is written in one block.
#[derive(Default)]
pub struct Raw {
    pub(crate) server_name: Option<bool>,
    pub(crate) name: Option<Word>,
    pub(crate) verify: Option<bool>,
    pub(crate) verify_depth: Option<u64>,
    pub(crate) trusted_certificate: Option<Word>,
    pub(crate) crl: Option<Word>,
    pub(crate) certificate: Option<Word>,
    pub(crate) certificate_key: Option<Word>,
    pub(crate) certificate_cache: Option<()>,
    pub(crate) password_file: Option<PathBuf>,
    pub(crate) protocols: Option<Protocols>,
    pub(crate) ciphers: Option<Word>,
    pub(crate) conf_commands: Option<Vec<(Word, Word)>>,
    pub(crate) session_reuse: Option<bool>,
    pub(crate) key_log: Option<PathBuf>,
}

impl Raw {
    /// Fills what is not written here from the enclosing block.
    pub fn inherit(&mut self, parent: &Raw) {
        inherit!(self, parent;
            server_name, name, verify, verify_depth, trusted_certificate, crl, certificate,
            certificate_key, certificate_cache, password_file, protocols, ciphers, conf_commands,
            session_reuse, key_log);
    }
}
