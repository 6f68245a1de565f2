//! From the `ssl_…` directives to a server's side of TLS: files are read, OpenSSL's notations
//! understood.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use rustls::Error;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;

use super::Dynamic;
use super::conf::{Common, Conf, Verify};
use super::crypto::Spelled;
use super::directives::{BuiltinCache, Raw};
use crate::config::{ConfigError, Reader, Result, Span, Word};
use crate::observe::os_error;
use crate::tls::cert::{self, Problem};
use crate::tls::ocsp::Kept;
use crate::tls::session::{Cache, Context, TicketKey, Tickets};
use crate::tls::verify::Trust;
use crate::tls::{Server, Settings, crl, key, server};
use crate::vars::{Subject, Template, Variables};

/// Early data that is taken of a connection, in bytes (as nginx with OpenSSL).
const EARLY_DATA_MAX: u32 = 16 << 10;

/// What a session of the cache `builtin` is thought to take, in bytes.
const SESSION_BYTES: u64 = 1024;

/// What the compile phase needs of the block.
pub struct Compiler<'c, 'r, S: 'static> {
    /// For warnings and paths.
    pub reader: &'c mut Reader<'r>,
    /// All variables there are.
    pub vars: &'c mut Variables<S>,
    /// What several servers have in common.
    pub common: &'c mut Common,
}

/// What `http` and `stream` each say by themselves.
pub struct Own {
    /// Protocols for ALPN, in order of preference; none for no ALPN.
    pub alpn: Vec<Vec<u8>>,
    /// Plain bytes of a record that is sent.
    pub record_max: usize,
    /// Whether early data is taken.
    pub early_data: bool,
}

impl Raw {
    /// The settings of a server, after inheritance. As in nginx, files are looked at only if the
    /// server has a certificate.
    ///
    /// # Errors
    /// What nginx refuses: a file that is missing or something else, a certificate without key or
    /// with another's, a list of ciphers that leaves none, an unknown variable or command.
    pub fn compile<S: Subject>(&self, own: Own, c: &mut Compiler<'_, '_, S>) -> Result<Conf<S>> {
        self.declare_zones(c.common)?;
        let words = self.pairs()?;
        let reject = self.reject_handshake.unwrap_or(false);
        if words.is_empty() && !reject {
            return Ok(Conf::default());
        }
        let dynamic = self.dynamic(&words, c)?;
        let verify = match self.verify_client {
            Some(1) => Verify::On,
            Some(2) => Verify::Optional,
            Some(3) => Verify::OptionalNoCa,
            _ => Verify::Off,
        };
        let certificates = match dynamic {
            Some(_) => Vec::new(),
            None => self.certificates(&words, c)?,
        };
        let mut settings = Settings::new(certificates);
        settings.reject = reject;
        settings.alpn = own.alpn;
        settings.record_max = own.record_max;
        settings.key_log = key_log(self.key_log.as_deref())?;
        self.set_crypto(&mut settings, c)?;
        let authorities = self.set_verification(&mut settings, verify, c)?;
        self.set_sessions(&mut settings, verify, own.early_data, c)?;
        let ocsp = self.ocsp(verify, &authorities)?;
        let stapled = self.stapled(&settings.certificates, &authorities, c);
        let staple = |kept: &Option<Kept>| kept.as_ref().map(|kept| Arc::clone(&kept.staple));
        settings.staples = stapled.iter().map(staple).collect();
        let server = Server::new(settings).map_err(|error| unusable(&error))?;
        Ok(Conf {
            server: Some(Arc::new(server)),
            verify,
            dynamic,
            ocsp,
            stapled: stapled.into_iter().flatten().collect(),
        })
    }

    /// The certificates with their keys as they are written.
    fn pairs(&self) -> Result<Vec<(&Word, &Word)>> {
        let certificates = self.certificates.as_deref().unwrap_or_default();
        let keys = self.keys.as_deref().unwrap_or_default();
        if let Some(last) = certificates
            .last()
            .filter(|_| keys.len() < certificates.len())
        {
            let text = last.text();
            let message =
                format!("no \"ssl_certificate_key\" is defined for certificate \"{text}\"");
            return Err(ConfigError::at(last.span, message));
        }
        Ok(certificates.iter().zip(keys).collect())
    }

    /// The certificates if variables name one of them.
    fn dynamic<S: Subject>(
        &self,
        pairs: &[(&Word, &Word)],
        c: &mut Compiler<'_, '_, S>,
    ) -> Result<Option<Dynamic<S>>> {
        let has_variables = |(certificate, key): &(&Word, &Word)| {
            certificate.bytes.contains(&b'$') || key.bytes.contains(&b'$')
        };
        if !pairs.iter().any(has_variables) {
            return Ok(None);
        }
        let mut templates = Vec::with_capacity(pairs.len());
        for (certificate, key) in pairs {
            let certificate = Template::compile(certificate, c.vars)?;
            templates.push((certificate, Template::compile(key, c.vars)?));
        }
        Ok(Some(Dynamic {
            pairs: templates,
            prefix: c.reader.conf_path(&Word::new("", pairs[0].0.span)),
            passphrases: self.passphrases(),
        }))
    }

    /// The lines of `ssl_password_file`.
    fn passphrases(&self) -> Vec<Vec<u8>> {
        passphrases(self.password_file.as_deref())
    }

    fn certificates<S: Subject>(
        &self,
        pairs: &[(&Word, &Word)],
        c: &mut Compiler<'_, '_, S>,
    ) -> Result<Vec<Arc<CertifiedKey>>> {
        let passphrases = self.passphrases();
        let mut loaded = Vec::with_capacity(pairs.len());
        for (certificate, key) in pairs {
            loaded.push(load_pair(certificate, key, &passphrases, c)?);
        }
        self.staple(loaded, c)
    }

    /// Puts the OCSP response of `ssl_stapling_file` to the certificates.
    fn staple<S: Subject>(
        &self,
        mut certificates: Vec<Arc<CertifiedKey>>,
        c: &mut Compiler<'_, '_, S>,
    ) -> Result<Vec<Arc<CertifiedKey>>> {
        if !self.stapling.unwrap_or(false) {
            return Ok(certificates);
        }
        let Some((word, path)) = named(&self.stapling_file, c) else {
            return Ok(certificates);
        };
        let response = read(&path, "file", word)?;
        for one in &mut certificates {
            Arc::make_mut(one).ocsp = Some(response.clone());
        }
        Ok(certificates)
    }

    /// Versions, suites and groups.
    fn set_crypto<S: Subject>(
        &self,
        settings: &mut Settings,
        c: &mut Compiler<'_, '_, S>,
    ) -> Result<()> {
        let spelled = Spelled {
            prefix: "ssl",
            protocols: self.protocols,
            ciphers: self.ciphers.as_ref(),
            default_ciphers: "HIGH:!aNULL:!MD5",
            groups: self.ecdh_curve.as_ref(),
            commands: self.conf_commands.as_deref().unwrap_or_default(),
        };
        let crypto = spelled.compile(c)?;
        (settings.tls12, settings.tls13) = (crypto.tls12, crypto.tls13);
        (settings.suites, settings.groups) = (crypto.suites, crypto.groups);
        let own = crypto.prefer_own.or(self.prefer_server_ciphers);
        settings.prefer_own = own.unwrap_or(false);
        if let Some(count) = crypto.tickets {
            settings.ticket_count = count.min(16) as usize;
        }
        if crypto.session_ticket == Some(false) {
            settings.ticket_count = 0;
        }
        if let Some((word, path)) = named(&self.dhparam, c) {
            read(&path, "file", word)?;
        }
        Ok(())
    }

    /// Who may have signed the certificates of clients. The authorities are those of OCSP responses
    /// too, of however long a path.
    fn set_verification<S: Subject>(
        &self,
        settings: &mut Settings,
        verify: Verify,
        c: &mut Compiler<'_, '_, S>,
    ) -> Result<Arc<Trust>> {
        let client = named(&self.client_certificate, c);
        let trusted = named(&self.trusted_certificate, c);
        let asks = matches!(verify, Verify::On | Verify::Optional);
        if asks && client.is_none() && trusted.is_none() {
            let message = "no ssl_client_certificate for ssl_verify_client";
            return Err(ConfigError::bare(message)
                .help("name the file with the authorities that clients' certificates come from"));
        }
        let load = |found: Option<(&Word, PathBuf)>| match found {
            Some((word, path)) => authorities(word, &path),
            None => Ok(Vec::new()),
        };
        let told = load(client)?;
        let trusted = load(trusted)?;
        let revoked = revoked(&self.crl, c)?;
        let authorities: Vec<_> = told.iter().chain(&trusted).cloned().collect();
        let responders = Arc::new(Trust {
            authorities: authorities.clone(),
            depth: usize::MAX,
            revoked: None,
            algorithms: server::algorithms(),
        });
        if verify == Verify::Off {
            return Ok(responders);
        }
        settings.asks = true;
        settings.trust = Some(Arc::new(Trust {
            authorities,
            depth: self.verify_depth.unwrap_or(1) as usize,
            revoked,
            algorithms: server::algorithms(),
        }));
        settings.told = told;
        Ok(responders)
    }

    /// What sessions are resumed.
    fn set_sessions<S: Subject>(
        &self,
        settings: &mut Settings,
        verify: Verify,
        early_data: bool,
        c: &mut Compiler<'_, '_, S>,
    ) -> Result<()> {
        let words = self.certificates.as_deref().unwrap_or_default();
        let context = context(settings, verify, words);
        let lifetime = self.session_timeout.unwrap_or(Duration::from_secs(300));
        let keys = self.ticket_keys(c)?;
        settings.cache = match (&self.shared_cache, self.builtin_cache) {
            (Some(zone), _) => Some(Cache::named(&zone.name, zone.size, context, lifetime)),
            (None, Some(BuiltinCache::Sessions(most))) => {
                let most = if most == 0 { 20 << 10 } else { most };
                let bytes = most.max(32).saturating_mul(SESSION_BYTES);
                Some(Cache::named(b"", bytes, context, lifetime))
            }
            _ => None,
        };
        if early_data {
            settings.early_data_max = EARLY_DATA_MAX;
            // A ticket could be sent twice; what is in the cache is given out once.
            settings.cache.get_or_insert_with(|| {
                Cache::named(b"", (20 << 10) * SESSION_BYTES, context, lifetime)
            });
        } else if self.session_tickets.unwrap_or(true) && settings.ticket_count > 0 {
            settings.tickets = Some(Tickets::new(context, lifetime, keys));
        }
        if settings.tickets.is_none() && settings.cache.is_none() {
            settings.ticket_count = 0;
        }
        Ok(())
    }

    fn ticket_keys<S: Subject>(&self, c: &mut Compiler<'_, '_, S>) -> Result<Vec<TicketKey>> {
        let mut keys = Vec::new();
        for word in self.ticket_keys.iter().flatten() {
            let path = c.reader.conf_path(word);
            let shown = path.display();
            let message = match cert::read(&path) {
                Ok(text) if matches!(text.len(), 48 | 80) => {
                    keys.extend(TicketKey::from_file(&text));
                    continue;
                }
                Ok(_) => format!("\"{shown}\" must be 48 or 80 bytes"),
                Err(error) => format!("open() \"{shown}\" failed {}", os_error(&error)),
            };
            return Err(
                ConfigError::at(word.span, message).help("openssl rand 80 > ticket.key makes one")
            );
        }
        Ok(keys)
    }
}

/// What the server demands of a client, in short, so that no session is resumed by another that
/// demands something else.
fn context(settings: &Settings, verify: Verify, words: &[Word]) -> Context {
    let mut hash = digest::Context::new(&digest::SHA256);
    let mut add = |der: &[u8]| {
        hash.update(&(der.len() as u64).to_be_bytes());
        hash.update(der);
    };
    for one in &settings.certificates {
        add(one.cert.first().map_or(&[][..], |der| der));
    }
    if settings.certificates.is_empty() {
        // Those that variables name are not known yet.
        words.iter().for_each(|word| add(&word.bytes));
    }
    add(&[verify as u8]);
    if let Some(trust) = &settings.trust {
        trust.authorities.iter().for_each(|der| add(der));
        add(&trust.depth.to_be_bytes());
    }
    let mut context = Context::default();
    let length = context.len();
    context.copy_from_slice(&hash.finish().as_ref()[..length]);
    context
}

/// The lines of a `…_password_file`.
pub(super) fn passphrases(path: Option<&Path>) -> Vec<Vec<u8>> {
    match path {
        Some(path) => key::passphrases(&cert::read(path).unwrap_or_default()),
        None => Vec::new(),
    }
}

/// The certificate with its key in these files, which are read once.
pub(super) fn load_pair<S: Subject>(
    certificate: &Word,
    key: &Word,
    passphrases: &[Vec<u8>],
    c: &mut Compiler<'_, '_, S>,
) -> Result<Arc<CertifiedKey>> {
    let files = (
        file(certificate, "certificate", c)?,
        file(key, "certificate key", c)?,
    );
    if let Some(known) = c.common.certificates.get(&files) {
        return Ok(Arc::clone(known));
    }
    let chain = read(&files.0, "certificate", certificate)?;
    let secret = read(&files.1, "certificate key", key)?;
    let one = cert::certified(&chain, &secret, passphrases, &server::provider());
    let one = one.map_err(|problem| match problem {
        Problem::Certificate(why) => cannot_load("certificate", certificate, &files.0, &why),
        Problem::Key(why) => {
            let why = format!("{why} (certificate \"{}\")", files.0.display());
            cannot_load("certificate key", key, &files.1, &why)
        }
    })?;
    let one = Arc::new(one);
    c.common.certificates.insert(files, Arc::clone(&one));
    Ok(one)
}

/// The lists of revoked certificates in the file that a directive names, if it does.
pub(super) fn revoked<S>(
    word: &Option<Word>,
    c: &Compiler<'_, '_, S>,
) -> Result<Option<Vec<crl::Crl>>> {
    let Some((word, path)) = named(word, c) else {
        return Ok(None);
    };
    let lists = crl::parse(&read(&path, "file", word)?);
    let lists = lists.map_err(|why| cannot_load("file", word, &path, &why))?;
    Ok(Some(lists))
}

pub(super) fn authorities(word: &Word, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let text = read(path, "file", word)?;
    cert::parse(&text).map_err(|why| cannot_load("file", word, path, &why))
}

/// The file a directive names; an empty name is none.
pub(super) fn named<'w, S>(
    word: &'w Option<Word>,
    c: &Compiler<'_, '_, S>,
) -> Option<(&'w Word, PathBuf)> {
    let word = word.as_ref().filter(|word| !word.bytes.is_empty())?;
    Some((word, c.reader.conf_path(word)))
}

/// The file that `ssl_certificate` or its key names: `what` is it called in messages.
fn file<S: Subject>(word: &Word, what: &str, c: &Compiler<'_, '_, S>) -> Result<PathBuf> {
    let text = word.text();
    for scheme in ["engine:", "store:", "data:"] {
        if text.starts_with(scheme) {
            let message = format!("cannot load {what} \"{text}\": \"{scheme}\" is not supported");
            return Err(ConfigError::at(word.span, message).help("name a file in PEM"));
        }
    }
    Ok(c.reader.conf_path(word))
}

fn read(path: &Path, what: &str, word: &Word) -> Result<Vec<u8>> {
    cert::read(path).map_err(|error| {
        let why = format!("it cannot be read {}", os_error(&error));
        cannot_load(what, word, path, &why)
    })
}

fn cannot_load(what: &str, word: &Word, path: &Path, why: &str) -> ConfigError {
    let message = format!("cannot load {what} \"{}\": {why}", path.display());
    ConfigError::at(word.span, message)
}

/// Opens the file of a `…_key_log`.
pub(super) fn key_log(path: Option<&Path>) -> Result<Option<File>> {
    let Some(path) = path else {
        return Ok(None);
    };
    let opened = OpenOptions::new().append(true).create(true).open(path);
    opened.map(Some).map_err(|error| {
        let (path, shown) = (path.display(), os_error(&error));
        ConfigError::bare(format!("open() \"{path}\" failed {shown}"))
    })
}

fn unusable(error: &Error) -> ConfigError {
    ConfigError::bare(format!("the ssl_… directives do not go together: {error}"))
}

/// Says something once for a place, however many servers inherit it.
pub(super) fn remark<S: Subject>(c: &mut Compiler<'_, '_, S>, span: Span, message: String) {
    if c.common.remarked.insert(span) {
        c.reader.notice(span, message);
    }
}
