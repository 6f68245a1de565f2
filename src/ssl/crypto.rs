//! Versions, suites and groups as directives say them, `…_conf_command` included.

use rustls::SupportedCipherSuite;
use rustls::crypto::SupportedKxGroup;

use super::build::{Compiler, remark};
use super::conf::Protocols;
use crate::config::{ConfigError, Result, Word, value};
use crate::tls::cipher;
use crate::vars::Subject;

/// What is written.
pub(super) struct Spelled<'a> {
    /// What the directives' names begin with: `ssl`, `proxy_ssl`.
    pub prefix: &'static str,
    /// `…_protocols`
    pub protocols: Option<Protocols>,
    /// `…_ciphers`
    pub ciphers: Option<&'a Word>,
    /// What they are without.
    pub default_ciphers: &'static str,
    /// `ssl_ecdh_curve`
    pub groups: Option<&'a Word>,
    /// `…_conf_command`: names and values.
    pub commands: &'a [(Word, Word)],
}

/// What it means.
pub(super) struct Crypto {
    /// TLS 1.2 is spoken.
    pub tls12: bool,
    /// TLS 1.3 is spoken.
    pub tls13: bool,
    /// Suites of both, in order of preference.
    pub suites: Vec<SupportedCipherSuite>,
    /// Groups for key exchange, in order of preference.
    pub groups: Vec<&'static dyn SupportedKxGroup>,
    /// `NumTickets`
    pub tickets: Option<u64>,
    /// The option `ServerPreference`.
    pub prefer_own: Option<bool>,
    /// The option `SessionTicket`.
    pub session_ticket: Option<bool>,
}

/// What commands change.
#[derive(Default)]
struct Commands {
    ciphers: Option<Word>,
    suites13: Option<Word>,
    groups: Option<Word>,
    tickets: Option<u64>,
    prefer_own: Option<bool>,
    session_ticket: Option<bool>,
}

impl Spelled<'_> {
    /// What it means.
    ///
    /// # Errors
    /// Nothing is left of the protocols or ciphers, or a command is unknown.
    pub fn compile<S: Subject>(&self, c: &mut Compiler<'_, '_, S>) -> Result<Crypto> {
        let mut protocols = self.protocols.unwrap_or(Protocols::DEFAULT);
        let commands = self.commands(&mut protocols, c)?;
        let version = |name: &str| Protocols::named(name.as_bytes()).unwrap_or_default();
        let tls12 = protocols.has(version("TLSv1.2"));
        let tls13 = protocols.has(version("TLSv1.3"));
        if !tls12 && !tls13 {
            let prefix = self.prefix;
            let message = format!("no protocol in \"{prefix}_protocols\" that ringway speaks");
            return Err(ConfigError::bare(message).help("it speaks TLSv1.2 and TLSv1.3"));
        }
        let mut suites = match &commands.suites13 {
            Some(word) => suites13(word, c),
            None => cipher::all_suites13(),
        };
        let tls13 = tls13 && !suites.is_empty();
        suites.extend(self.suites12(commands.ciphers.as_ref().or(self.ciphers), c)?);
        let groups = match commands.groups.as_ref().or(self.groups) {
            Some(word) => groups(word, c)?,
            None => cipher::default_groups(),
        };
        Ok(Crypto {
            tls12,
            tls13,
            suites,
            groups,
            tickets: commands.tickets,
            prefer_own: commands.prefer_own,
            session_ticket: commands.session_ticket,
        })
    }

    fn suites12<S: Subject>(
        &self,
        word: Option<&Word>,
        c: &mut Compiler<'_, '_, S>,
    ) -> Result<Vec<SupportedCipherSuite>> {
        let Some(word) = word else {
            return Ok(cipher::suites(self.default_ciphers).items);
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

    /// `…_conf_command`
    fn commands<S: Subject>(
        &self,
        protocols: &mut Protocols,
        c: &mut Compiler<'_, '_, S>,
    ) -> Result<Commands> {
        let mut commands = Commands::default();
        for (name, given) in self.commands {
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
                    let prefix = self.prefix;
                    let message =
                        format!("\"{prefix}_conf_command {known}\" has no effect in ringway");
                    remark(c, name.span, message);
                }
            }
        }
        Ok(commands)
    }
}

fn suites13<S: Subject>(word: &Word, c: &mut Compiler<'_, '_, S>) -> Vec<SupportedCipherSuite> {
    let chosen = cipher::suites13(&word.text());
    without_meaning(c, word, &chosen.without_meaning);
    chosen.items
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

/// The commands of OpenSSL's configuration files.
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
