//! From the `ssl_…` directives to a server's side of TLS: files are read, OpenSSL's notations
//! understood.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use rustls::crypto::SupportedKxGroup;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use rustls::{Error, SupportedCipherSuite};

use super::Dynamic;
use super::conf::{Common, Conf, Protocols, Verify};
use super::directives::{BuiltinCache, Raw};
use crate::config::{ConfigError, Reader, Result, Span, Word, value};
use crate::observe::os_error;
use crate::tls::cert::{self, Problem};
use crate::tls::ocsp::Kept;
use crate::tls::session::{Cache, Context, TicketKey, Tickets};
use crate::tls::verify::Trust;
use crate::tls::{Server, Settings, cipher, crl, key, server};
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

/// What `ssl_conf_command` changes.
#[derive(Default)]
struct Commands {
    ciphers: Option<Word>,
    suites13: Option<Word>,
    groups: Option<Word>,
    tickets: Option<u64>,
    prefer_own: Option<bool>,
    session_ticket: Option<bool>,
}

impl Raw {
    /// The settings of a server, after inheritance. As in nginx, files are looked at only if the
    /// server has a certificate.
    ///
    /// # Errors
    /// What nginx refuses: a file that is missing or something else, a certificate without key or
    /// with another's, a list of ciphers that leaves none, an unknown variable or command.
    pub fn compile<S: Subject>(&self, own: Own, c: &mut Compiler<'_, '_, S>) -> Result<Conf<S>> {
        self.declare_zones(&mut c.common)?;
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
        match &self.password_file {
            Some(path) => key::passphrases(&cert::read(path).unwrap_or_default()),
            None => Vec::new(),
        }
    }

    fn certificates<S: Subject>(
        &self,
        pairs: &[(&Word, &Word)],
        c: &mut Compiler<'_, '_, S>,
    ) -> Result<Vec<Arc<CertifiedKey>>> {
        let passphrases = self.passphrases();
        let provider = server::provider();
        let mut loaded = Vec::with_capacity(pairs.len());
        for (certificate, key) in pairs {
            let files = (
                file(certificate, "certificate", c)?,
                file(key, "certificate key", c)?,
            );
            let known = c.common.certificates.get(&files).cloned();
            let one = match known {
                Some(known) => known,
                None => {
                    let chain = read(&files.0, "certificate", certificate)?;
                    let secret = read(&files.1, "certificate key", key)?;
                    let one = cert::certified(&chain, &secret, &passphrases, &provider);
                    let one = one.map_err(|problem| match problem {
                        Problem::Certificate(why) => {
                            cannot_load("certificate", certificate, &files.0, &why)
                        }
                        Problem::Key(why) => {
                            let why = format!("{why} (certificate \"{}\")", files.0.display());
                            cannot_load("certificate key", key, &files.1, &why)
                        }
                    })?;
                    let one = Arc::new(one);
                    c.common.certificates.insert(files, Arc::clone(&one));
                    one
                }
            };
            loaded.push(one);
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
        let mut protocols = self.protocols.unwrap_or(Protocols::DEFAULT);
        let commands = self.commands(&mut protocols, c)?;
        let version = |name: &str| Protocols::named(name.as_bytes()).unwrap_or_default();
        settings.tls12 = protocols.has(version("TLSv1.2"));
        settings.tls13 = protocols.has(version("TLSv1.3"));
        if !settings.tls12 && !settings.tls13 {
            let message = "no protocol in \"ssl_protocols\" that ringway speaks";
            return Err(ConfigError::bare(message).help("it speaks TLSv1.2 and TLSv1.3"));
        }
        let mut suites = match &commands.suites13 {
            Some(word) => self.suites13(word, c),
            None => cipher::all_suites13(),
        };
        settings.tls13 &= !suites.is_empty();
        suites.extend(self.suites12(commands.ciphers.as_ref().or(self.ciphers.as_ref()), c)?);
        settings.suites = suites;
        settings.prefer_own = commands
            .prefer_own
            .or(self.prefer_server_ciphers)
            .unwrap_or(false);
        if let Some(word) = commands.groups.as_ref().or(self.ecdh_curve.as_ref()) {
            settings.groups = groups(word, c)?;
        }
        if let Some(count) = commands.tickets {
            settings.ticket_count = count.min(16) as usize;
        }
        if commands.session_ticket == Some(false) {
            settings.ticket_count = 0;
        }
        if let Some((word, path)) = named(&self.dhparam, c) {
            read(&path, "file", word)?;
        }
        Ok(())
    }

    fn suites12<S: Subject>(
        &self,
        word: Option<&Word>,
        c: &mut Compiler<'_, '_, S>,
    ) -> Result<Vec<SupportedCipherSuite>> {
        let Some(word) = word else {
            return Ok(cipher::suites("HIGH:!aNULL:!MD5").items);
        };
        let chosen = cipher::suites(&word.text());
        if chosen.items.is_empty() {
            let message = format!("no cipher in \"{}\" that ringway has", word.text());
            return Err(ConfigError::at(word.span, message)
                .help("it has those with ECDHE and AES-GCM or CHACHA20-POLY1305"));
        }
        without_meaning(c, word, &chosen.without_meaning);
        Ok(chosen.items)
    }

    fn suites13<S: Subject>(
        &self,
        word: &Word,
        c: &mut Compiler<'_, '_, S>,
    ) -> Vec<SupportedCipherSuite> {
        let chosen = cipher::suites13(&word.text());
        without_meaning(c, word, &chosen.without_meaning);
        chosen.items
    }

    /// `ssl_conf_command`
    fn commands<S: Subject>(
        &self,
        protocols: &mut Protocols,
        c: &mut Compiler<'_, '_, S>,
    ) -> Result<Commands> {
        let mut commands = Commands::default();
        for (name, given) in self.conf_commands.iter().flatten() {
            let is_it = |known: &&&str| known.as_bytes().eq_ignore_ascii_case(&name.bytes);
            let failed = |why: &str| {
                let (shown, value) = (name.text(), given.text());
                let message = format!("SSL_CONF_cmd(\"{shown}\", \"{value}\") failed: {why}");
                Err(ConfigError::at(name.span, message))
            };
            let Some(known) = COMMANDS.iter().find(is_it) else {
                return failed("unknown name");
            };
            match *known {
                "CipherString" => commands.ciphers = Some(given.clone()),
                "Ciphersuites" => commands.suites13 = Some(given.clone()),
                "Curves" | "Groups" => commands.groups = Some(given.clone()),
                "NumTickets" => match value::parse_number(&given.bytes) {
                    Some(count) => commands.tickets = Some(count),
                    None => return failed("no number"),
                },
                "MinProtocol" | "MaxProtocol" => {
                    let Some(version) = Protocols::named(&given.bytes) else {
                        return failed("unknown version");
                    };
                    protocols.retain(if *known == "MinProtocol" {
                        version.from()
                    } else {
                        version.up_to()
                    });
                }
                "Protocol" => set_protocols(&given.text(), protocols),
                "Options" => set_options(&given.text(), &mut commands),
                _ => {
                    let message = format!("\"ssl_conf_command {known}\" has no effect in ringway");
                    remark(c, name.span, message);
                }
            }
        }
        Ok(commands)
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
        let revoked = match named(&self.crl, c) {
            Some((word, path)) => {
                let lists = crl::parse(&read(&path, "file", word)?);
                Some(lists.map_err(|why| cannot_load("file", word, &path, &why))?)
            }
            None => None,
        };
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

fn set_protocols(list: &str, protocols: &mut Protocols) {
    for (index, word) in list.split(',').map(str::trim).enumerate() {
        let (adds, name) = match word.as_bytes().first() {
            Some(b'-') => (false, &word[1..]),
            Some(b'+') => (true, &word[1..]),
            _ => (true, word),
        };
        if index == 0 && name.len() == word.len() {
            *protocols = Protocols::default();
        }
        let named = match name {
            "ALL" => Some(Protocols::DEFAULT),
            _ => Protocols::named(name.as_bytes()),
        };
        match named {
            Some(named) if adds => drop(protocols.add(named)),
            Some(named) => protocols.remove(named),
            None => {}
        }
    }
}

fn set_options(list: &str, commands: &mut Commands) {
    for word in list.split(',').map(str::trim) {
        let on = !word.starts_with('-');
        match word.trim_start_matches(['-', '+']) {
            "ServerPreference" => commands.prefer_own = Some(on),
            "SessionTicket" => commands.session_ticket = Some(on),
            // The others ask for what is always so, or is never done.
            _ => {}
        }
    }
}

fn groups<S: Subject>(
    word: &Word,
    c: &mut Compiler<'_, '_, S>,
) -> Result<Vec<&'static dyn SupportedKxGroup>> {
    if *word.bytes == *b"auto" {
        return Ok(cipher::default_groups());
    }
    let chosen = cipher::groups(&word.text());
    if chosen.items.is_empty() {
        let message = format!("no curve in \"{}\" that ringway has", word.text());
        return Err(ConfigError::at(word.span, message)
            .help("it has X25519MLKEM768, X25519, prime256v1 and secp384r1"));
    }
    without_meaning(c, word, &chosen.without_meaning);
    Ok(chosen.items)
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

fn authorities(word: &Word, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
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

fn unusable(error: &Error) -> ConfigError {
    ConfigError::bare(format!("the ssl_… directives do not go together: {error}"))
}

fn without_meaning<S: Subject>(c: &mut Compiler<'_, '_, S>, word: &Word, names: &[String]) {
    if names.is_empty() {
        return;
    }
    remark(
        c,
        word.span,
        format!("ringway does not have {}: ignored", names.join(", ")),
    );
}

/// Says something once for a place, however many servers inherit it.
fn remark<S: Subject>(c: &mut Compiler<'_, '_, S>, span: Span, message: String) {
    if c.common.remarked.insert(span) {
        c.reader.notice(span, message);
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
