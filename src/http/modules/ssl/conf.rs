//! The compiled form of the `ssl_…` directives of a server.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::time::Duration;

use super::{BuiltinCache, Raw, Zone};
use crate::config::{ConfigError, Result, Word};
use crate::http::exchange::Exchange;
use crate::http::scope::Compiler;
use crate::observe::os_error;
use crate::vars::Template;

/// The choices of `ssl_verify_client`, in the order of [`Verify`].
pub const VERIFY: [&str; 4] = ["off", "on", "optional", "optional_no_ca"];

/// The choices of `ssl_ocsp`, in the order of [`Ocsp`].
pub const OCSP: [&str; 3] = ["off", "on", "leaf"];

/// The names in `ssl_protocols`, in the order of the bits of [`Protocols`].
pub const PROTOCOLS: [&str; 6] = ["SSLv2", "SSLv3", "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"];

/// The most that is read of a PEM file, in bytes; the bundle of all public authorities has 250 KB.
const PEM_MAX: u64 = 8 << 20;

/// How a server is to speak TLS.
pub struct Conf {
    /// Certificates with their keys, one for each kind of key.
    pub certificates: Vec<KeyPair>,
    /// `ssl_certificate_cache`
    pub certificate_cache: Option<CertificateCache>,
    /// `ssl_certificate_compression`
    pub certificate_compression: bool,
    /// `ssl_password_file`
    pub password_file: Option<PathBuf>,
    /// `ssl_protocols`
    pub protocols: Protocols,
    /// `ssl_ciphers`, in OpenSSL's notation.
    pub ciphers: Box<[u8]>,
    /// `ssl_prefer_server_ciphers`
    pub prefer_server_ciphers: bool,
    /// `ssl_ecdh_curve`; `None` for `auto`.
    pub curves: Option<Vec<Box<[u8]>>>,
    /// `ssl_dhparam`
    pub dhparam: Option<PathBuf>,
    /// `ssl_conf_command`: names and values.
    pub conf_commands: Vec<(Word, Word)>,
    /// `ssl_session_cache` inside a worker.
    pub builtin_cache: BuiltinCache,
    /// `ssl_session_cache shared`
    pub shared_cache: Option<Zone>,
    /// `ssl_session_timeout`
    pub session_timeout: Duration,
    /// `ssl_session_tickets`
    pub session_tickets: bool,
    /// `ssl_session_ticket_key`: the first encrypts, all decrypt.
    pub ticket_keys: Vec<PathBuf>,
    /// `ssl_buffer_size`, bytes.
    pub buffer_size: usize,
    /// `ssl_early_data`
    pub early_data: bool,
    /// `ssl_reject_handshake`
    pub reject_handshake: bool,
    /// `ssl_verify_client`
    pub verify: Verify,
    /// `ssl_verify_depth`
    pub verify_depth: u64,
    /// `ssl_client_certificate`
    pub client_certificate: Option<PathBuf>,
    /// `ssl_trusted_certificate`
    pub trusted_certificate: Option<PathBuf>,
    /// `ssl_crl`
    pub crl: Option<PathBuf>,
    /// `ssl_ocsp`
    pub ocsp: Ocsp,
    /// `ssl_ocsp_cache`
    pub ocsp_cache: Option<Zone>,
    /// `ssl_ocsp_responder`
    pub ocsp_responder: Option<Box<[u8]>>,
    /// `ssl_stapling` and the directives around it; `None` if it is off.
    pub stapling: Option<Stapling>,
}

/// A certificate and its key.
pub struct KeyPair {
    /// The certificate and its chain.
    pub certificate: Source,
    /// The secret key.
    pub key: Source,
}

/// Where something in PEM comes from.
pub enum Source {
    /// A file.
    File(PathBuf),
    /// A value with variables, expanded for each handshake: a path, or the PEM itself behind
    /// `data:`.
    Variable(Template<Exchange>),
}

/// `ssl_certificate_cache`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CertificateCache {
    /// Most certificates that are kept.
    pub max: u64,
    /// A certificate not used for so long is dropped.
    pub inactive: Duration,
    /// A certificate is read again after so long.
    pub valid: Duration,
}

/// A set of versions: bits in the order of [`PROTOCOLS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Protocols(u8);

/// `ssl_verify_client`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// No certificate is asked for.
    Off,
    /// A valid one is required.
    On,
    /// It is asked for, and valid if it is there.
    Optional,
    /// It is asked for, and somebody else looks who signed it.
    OptionalNoCa,
}

/// `ssl_ocsp`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ocsp {
    /// Nobody is asked.
    Off,
    /// Every certificate of a client's chain is asked about.
    Chain,
    /// The client's own certificate is asked about.
    Leaf,
}

/// `ssl_stapling on`
pub struct Stapling {
    /// `ssl_stapling_verify`
    pub verify: bool,
    /// `ssl_stapling_file`
    pub file: Option<PathBuf>,
    /// `ssl_stapling_responder`
    pub responder: Option<Box<[u8]>>,
}

/// The shared zones of a configuration: one name has one size.
#[derive(Default)]
pub struct Zones(Vec<Zone>);

impl Protocols {
    /// TLS 1.2 and 1.3.
    pub const DEFAULT: Protocols = Protocols(0b11_0000);

    /// The version with this name, in a set of its own.
    pub fn named(name: &[u8]) -> Option<Protocols> {
        let is_it = |known: &&str| known.as_bytes().eq_ignore_ascii_case(name);
        let at = PROTOCOLS.iter().position(is_it)?;
        Some(Protocols(1 << at))
    }

    /// Adds versions; false if they are there already.
    pub fn add(&mut self, other: Protocols) -> bool {
        let is_new = self.0 & other.0 != other.0;
        self.0 |= other.0;
        is_new
    }
}

impl Zones {
    fn add(&mut self, zone: &Zone) -> Result<()> {
        match self.0.iter().find(|known| known.name == zone.name) {
            Some(known) if known.size != zone.size => {
                let message = format!(
                    "the size {} of shared memory zone \"{}\" conflicts with already declared \
                     size {}",
                    zone.size,
                    String::from_utf8_lossy(&zone.name),
                    known.size
                );
                Err(ConfigError::at(zone.word.span, message))
            }
            Some(_) => Ok(()),
            None => {
                self.0.push(zone.clone());
                Ok(())
            }
        }
    }
}

impl Raw {
    /// Adds the zones named here.
    ///
    /// # Errors
    /// A zone is there already with another size.
    pub fn declare_zones(&self, zones: &mut Zones) -> Result<()> {
        let mut named = self
            .shared_cache
            .iter()
            .chain(self.ocsp_cache.iter().flatten());
        named.try_for_each(|zone| zones.add(zone))
    }

    /// The settings of a server, after inheritance. As in nginx, files are looked at only if the
    /// server has a certificate.
    ///
    /// # Errors
    /// What nginx refuses: a file that is missing or something else, a certificate without key, an
    /// unknown variable or command.
    pub fn compile(&self, c: &mut Compiler) -> Result<Conf> {
        self.declare_zones(&mut c.ssl_zones)?;
        let conf = Conf {
            certificates: self.key_pairs(c)?,
            certificate_cache: self.certificate_cache.flatten(),
            certificate_compression: self.certificate_compression.unwrap_or(false),
            password_file: self.password_file.clone(),
            protocols: self.protocols.unwrap_or(Protocols::DEFAULT),
            ciphers: match &self.ciphers {
                Some(word) => word.bytes.clone(),
                None => b"HIGH:!aNULL:!MD5".as_slice().into(),
            },
            prefer_server_ciphers: self.prefer_server_ciphers.unwrap_or(false),
            curves: self.curves(),
            dhparam: path(&self.dhparam, c),
            conf_commands: self.conf_commands.clone().unwrap_or_default(),
            builtin_cache: self.builtin_cache.unwrap_or(BuiltinCache::None),
            shared_cache: self.shared_cache.clone(),
            session_timeout: self.session_timeout.unwrap_or(Duration::from_secs(300)),
            session_tickets: self.session_tickets.unwrap_or(true),
            ticket_keys: {
                let words = self.ticket_keys.iter().flatten();
                words.map(|word| c.reader.conf_path(word)).collect()
            },
            buffer_size: self.buffer_size.unwrap_or(16 << 10) as usize,
            early_data: self.early_data.unwrap_or(false),
            reject_handshake: self.reject_handshake.unwrap_or(false),
            verify: match self.verify_client {
                Some(1) => Verify::On,
                Some(2) => Verify::Optional,
                Some(3) => Verify::OptionalNoCa,
                _ => Verify::Off,
            },
            verify_depth: self.verify_depth.unwrap_or(1),
            client_certificate: path(&self.client_certificate, c),
            trusted_certificate: path(&self.trusted_certificate, c),
            crl: path(&self.crl, c),
            ocsp: match self.ocsp {
                Some(1) => Ocsp::Chain,
                Some(2) => Ocsp::Leaf,
                _ => Ocsp::Off,
            },
            ocsp_cache: self.ocsp_cache.clone().flatten(),
            ocsp_responder: self.ocsp_responder.as_ref().map(|word| word.bytes.clone()),
            stapling: self.stapling.unwrap_or(false).then(|| Stapling {
                verify: self.stapling_verify.unwrap_or(false),
                file: path(&self.stapling_file, c),
                responder: self.stapling_responder.as_ref().map(|w| w.bytes.clone()),
            }),
        };
        if !conf.certificates.is_empty() {
            self.check(&conf)?;
        }
        Ok(conf)
    }

    fn key_pairs(&self, c: &mut Compiler) -> Result<Vec<KeyPair>> {
        let certificates = self.certificates.as_deref().unwrap_or_default();
        let keys = self.keys.as_deref().unwrap_or_default();
        if let Some(last) = certificates
            .last()
            .filter(|_| keys.len() < certificates.len())
        {
            let message = format!(
                "no \"ssl_certificate_key\" is defined for certificate \"{}\"",
                last.text()
            );
            return Err(ConfigError::at(last.span, message));
        }
        let mut pairs = Vec::with_capacity(certificates.len());
        for (certificate, key) in certificates.iter().zip(keys) {
            pairs.push(KeyPair {
                certificate: source(certificate, "certificate", "CERTIFICATE-----", c)?,
                key: source(key, "certificate key", "PRIVATE KEY-----", c)?,
            });
        }
        Ok(pairs)
    }

    fn curves(&self) -> Option<Vec<Box<[u8]>>> {
        let word = self
            .ecdh_curve
            .as_ref()
            .filter(|word| *word.bytes != *b"auto")?;
        let names = word.bytes.split(|byte| *byte == b':');
        Some(names.map(Box::from).collect())
    }

    /// What nginx finds out when it gives the values to OpenSSL.
    fn check(&self, conf: &Conf) -> Result<()> {
        let no_name = |list: &[u8]| {
            list.split(|byte| b":, ".contains(byte))
                .all(<[u8]>::is_empty)
        };
        if let Some(word) = self.ciphers.as_ref().filter(|word| no_name(&word.bytes)) {
            let message = format!("no cipher in \"{}\"", word.text());
            return Err(ConfigError::at(word.span, message));
        }
        let asks = matches!(conf.verify, Verify::On | Verify::Optional);
        let known = conf
            .client_certificate
            .as_ref()
            .or(conf.trusted_certificate.as_ref());
        if asks && known.is_none() {
            let message = "no ssl_client_certificate for ssl_verify_client";
            return Err(ConfigError::bare(message)
                .help("name the file with the authorities that clients' certificates come from"));
        }
        let authorities = self.client_certificate.as_ref().filter(|_| asks);
        let files = [
            (authorities, &conf.client_certificate, "CERTIFICATE-----"),
            (
                self.trusted_certificate.as_ref(),
                &conf.trusted_certificate,
                "CERTIFICATE-----",
            ),
            (self.crl.as_ref(), &conf.crl, "X509 CRL-----"),
            (self.dhparam.as_ref(), &conf.dhparam, "DH PARAMETERS-----"),
        ];
        for (word, path, kind) in files {
            if let (Some(word), Some(path)) = (word, path) {
                check_pem(path, kind).map_err(|why| cannot_load("file", word, path, &why))?;
            }
        }
        self.check_commands()?;
        self.check_ocsp(conf)?;
        self.check_ticket_keys(conf)
    }

    fn check_commands(&self) -> Result<()> {
        for (name, value) in self.conf_commands.iter().flatten() {
            let is_it = |known: &&str| known.as_bytes().eq_ignore_ascii_case(&name.bytes);
            if !COMMANDS.iter().any(is_it) {
                let message = format!(
                    "SSL_CONF_cmd(\"{}\", \"{}\") failed: unknown name",
                    name.text(),
                    value.text()
                );
                return Err(ConfigError::at(name.span, message));
            }
        }
        Ok(())
    }

    fn check_ocsp(&self, conf: &Conf) -> Result<()> {
        if let Some(word) = self
            .ocsp_responder
            .as_ref()
            .filter(|_| conf.ocsp != Ocsp::Off)
            && !word.bytes.starts_with(b"http://")
        {
            let message = format!(
                "invalid URL prefix in OCSP responder \"{}\" in \"ssl_ocsp_responder\"",
                word.text()
            );
            return Err(ConfigError::at(word.span, message));
        }
        if let Some(stapling) = &conf.stapling
            && let (Some(word), Some(path)) = (&self.stapling_file, &stapling.file)
        {
            read(path).map_err(|why| cannot_load("file", word, path, &why))?;
        }
        Ok(())
    }

    fn check_ticket_keys(&self, conf: &Conf) -> Result<()> {
        let words = self.ticket_keys.iter().flatten();
        for (word, path) in words.zip(&conf.ticket_keys) {
            let shown = path.display();
            let message = match File::open(path).and_then(|file| file.metadata()) {
                Ok(file) if matches!(file.len(), 48 | 80) => continue,
                Ok(_) => format!("\"{shown}\" must be 48 or 80 bytes"),
                Err(error) => format!("open() \"{shown}\" failed {}", os_error(&error)),
            };
            return Err(
                ConfigError::at(word.span, message).help("openssl rand 80 > ticket.key makes one")
            );
        }
        Ok(())
    }
}

/// The commands of OpenSSL's configuration files for servers.
const COMMANDS: &[&str] = &[
    "CipherString",
    "Ciphersuites",
    "Certificate",
    "PrivateKey",
    "ChainCAFile",
    "ChainCAPath",
    "ClientCAFile",
    "ClientCAPath",
    "ClientSignatureAlgorithms",
    "Curves",
    "DHParameters",
    "ECDHParameters",
    "Groups",
    "MaxProtocol",
    "MinProtocol",
    "NumTickets",
    "Options",
    "Protocol",
    "RecordPadding",
    "RequestCAFile",
    "RequestCAPath",
    "ServerInfoFile",
    "SignatureAlgorithms",
    "VerifyCAFile",
    "VerifyCAPath",
    "VerifyMode",
];

/// The file a directive names; an empty name is none.
fn path(word: &Option<Word>, c: &Compiler) -> Option<PathBuf> {
    let word = word.as_ref().filter(|word| !word.bytes.is_empty())?;
    Some(c.reader.conf_path(word))
}

/// What `ssl_certificate` and `ssl_certificate_key` name: `what` is it called in messages, `kind`
/// is the end of its PEM label.
fn source(word: &Word, what: &str, kind: &str, c: &mut Compiler) -> Result<Source> {
    if word.bytes.contains(&b'$') {
        return c.template(word).map(Source::Variable);
    }
    let text = word.text();
    for scheme in ["engine:", "store:", "data:"] {
        if text.starts_with(scheme) {
            let message = format!("cannot load {what} \"{text}\": \"{scheme}\" is not supported");
            return Err(ConfigError::at(word.span, message).help("name a file in PEM"));
        }
    }
    let path = c.reader.conf_path(word);
    check_pem(&path, kind).map_err(|why| cannot_load(what, word, &path, &why))?;
    Ok(Source::File(path))
}

fn cannot_load(what: &str, word: &Word, path: &std::path::Path, why: &str) -> ConfigError {
    let message = format!("cannot load {what} \"{}\": {why}", path.display());
    ConfigError::at(word.span, message)
}

fn read(path: &std::path::Path) -> std::result::Result<Vec<u8>, String> {
    let read = || -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        File::open(path)?.take(PEM_MAX).read_to_end(&mut text)?;
        Ok(text)
    };
    read().map_err(|error| format!("it cannot be read {}", os_error(&error)))
}

/// Whether the file has something with a label that ends in `kind`.
fn check_pem(path: &std::path::Path, kind: &str) -> std::result::Result<(), String> {
    let text = read(path)?;
    let found = memchr::memmem::find_iter(&text, b"-----BEGIN ").any(|at| {
        let line = text[at..].split(|byte| *byte == b'\n').next();
        line.unwrap_or_default()
            .trim_ascii_end()
            .ends_with(kind.as_bytes())
    });
    if found {
        return Ok(());
    }
    Err(format!("no \"-----BEGIN … {kind}\" in it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_a_set() {
        let mut set = Protocols::default();
        assert!(set.add(Protocols::named(b"tlsv1.2").unwrap()));
        assert!(set.add(Protocols::named(b"TLSv1.3").unwrap()));
        assert!(!set.add(Protocols::named(b"TLSv1.3").unwrap()));
        assert_eq!(set, Protocols::DEFAULT);
        assert_eq!(Protocols::named(b"TLSv1.4"), None);
    }
}
