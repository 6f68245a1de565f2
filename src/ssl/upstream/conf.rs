//! The compiled form: how a block speaks TLS to its upstream, and as whom.

use std::sync::Arc;

use super::Raw;
use crate::config::{ConfigError, Result, Word};
use crate::ssl::Dynamic;
use crate::ssl::build::{self, Compiler};
use crate::ssl::crypto::Spelled;
use crate::tls::verify::Trust;
use crate::tls::{Client, ClientSettings, Target, server};
use crate::vars::{Subject, Template};

/// How a block speaks TLS to its upstream.
pub struct Conf<S: 'static> {
    client: Arc<Client>,
    name: Option<Template<S>>,
    tells_name: bool,
    /// Our certificate, if variables name it.
    dynamic: Option<Dynamic<S>>,
}

/// What a connection was made for, and as whom: only requests of the same identity may use it.
#[derive(Clone)]
pub struct Identity {
    client: Arc<Client>,
    tells_name: bool,
    name_len: usize,
    /// The server's name, then our certificate and its key as variables name them.
    text: Vec<u8>,
}

impl Raw {
    /// The settings for `…_pass` to an upstream with TLS, after inheritance. `prefix` is what the
    /// names of the directives begin with (`proxy_ssl`); `alpn` are the protocols to offer.
    ///
    /// # Errors
    /// What nginx refuses: a file that is missing or something else, a certificate without key or
    /// with another's, verification without authorities, a list of ciphers that leaves none.
    pub fn compile<S: Subject>(
        &self,
        prefix: &'static str,
        alpn: &[&[u8]],
        c: &mut Compiler<'_, '_, S>,
    ) -> Result<Conf<S>> {
        let spelled = Spelled {
            prefix,
            protocols: self.protocols,
            ciphers: self.ciphers.as_ref(),
            default_ciphers: "DEFAULT",
            groups: None,
            commands: self.conf_commands.as_deref().unwrap_or_default(),
        };
        let crypto = spelled.compile(c)?;
        let pair = self.pair(prefix)?;
        let is_dynamic = pair.is_some_and(|pair| {
            let words: [&Word; 2] = pair.into();
            words.iter().any(|word| word.bytes.contains(&b'$'))
        });
        let passphrases = build::passphrases(self.password_file.as_deref());
        let certificate = match pair.filter(|_| !is_dynamic) {
            Some((certificate, key)) => Some(build::load_pair(certificate, key, &passphrases, c)?),
            None => None,
        };
        let dynamic = match pair.filter(|_| is_dynamic) {
            Some((certificate, key)) => Some(Dynamic {
                pairs: vec![(
                    Template::compile(certificate, c.vars)?,
                    Template::compile(key, c.vars)?,
                )],
                prefix: c.reader.conf_path(&Word::new("", certificate.span)),
                passphrases,
            }),
            None => None,
        };
        let settings = ClientSettings {
            tls12: crypto.tls12,
            tls13: crypto.tls13,
            suites: crypto.suites,
            groups: crypto.groups,
            alpn: alpn.iter().map(|name| name.to_vec()).collect(),
            certificate,
            trust: self.trust(prefix, c)?,
            resumes: self.session_reuse.unwrap_or(true),
            key_log: build::key_log(self.key_log.as_deref())?,
        };
        let client = Client::new(settings).map_err(|error| {
            ConfigError::bare(format!(
                "the {prefix}_… directives do not go together: {error}"
            ))
        })?;
        let name = self.name.as_ref();
        Ok(Conf {
            client,
            name: name
                .map(|word| Template::compile(word, c.vars))
                .transpose()?,
            tells_name: self.server_name.unwrap_or(false),
            dynamic,
        })
    }

    /// Our certificate and its key as they are written.
    fn pair(&self, prefix: &str) -> Result<Option<(&Word, &Word)>> {
        let written = self.certificate.as_ref();
        let Some(certificate) = written.filter(|word| !word.bytes.is_empty()) else {
            return Ok(None);
        };
        match &self.certificate_key {
            Some(key) => Ok(Some((certificate, key))),
            None => {
                let text = certificate.text();
                let message = format!(
                    "no \"{prefix}_certificate_key\" is defined for certificate \"{text}\""
                );
                Err(ConfigError::at(certificate.span, message))
            }
        }
    }

    /// Whom to believe; `None` to believe everybody.
    fn trust<S: Subject>(&self, prefix: &str, c: &Compiler<'_, '_, S>) -> Result<Option<Trust>> {
        let authorities = match build::named(&self.trusted_certificate, c) {
            Some((word, path)) => Some(build::authorities(word, &path)?),
            None => None,
        };
        let revoked = build::revoked(&self.crl, c)?;
        if !self.verify.unwrap_or(false) {
            return Ok(None);
        }
        let Some(authorities) = authorities else {
            let message = format!("no {prefix}_trusted_certificate for {prefix}_verify");
            return Err(ConfigError::bare(message).help(
                "name the file with the authorities that the servers' certificates come from",
            ));
        };
        Ok(Some(Trust {
            authorities,
            depth: self.verify_depth.unwrap_or(1) as usize,
            revoked,
            algorithms: server::algorithms(),
        }))
    }
}

impl<S: Subject> Conf<S> {
    /// What `s` wants a connection for. `host` is the name without `…_name`, with or without a
    /// port. The identity borrows its buffer from the store: see [`Identity::give_back`].
    pub fn identity(&self, s: &mut S, host: impl FnOnce(&S, &mut Vec<u8>)) -> Identity {
        let mut text = s.store_mut().lend();
        match &self.name {
            Some(name) => name.eval(s, &mut text),
            None => host(s, &mut text),
        }
        let name_len = without_port(&text).len();
        text.truncate(name_len);
        if let Some(dynamic) = &self.dynamic {
            for (certificate, key) in &dynamic.pairs {
                for part in [certificate, key] {
                    text.push(0);
                    part.eval(s, &mut text);
                }
            }
        }
        Identity {
            client: Arc::clone(&self.client),
            tells_name: self.tells_name,
            name_len,
            text,
        }
    }

    /// The side of TLS to make a handshake with: the certificate that variables name is read now.
    ///
    /// # Errors
    /// It cannot be loaded. The text is for the log, at `error`.
    pub async fn client(&self, s: &mut S) -> std::result::Result<Arc<Client>, String> {
        let Some(dynamic) = &self.dynamic else {
            return Ok(Arc::clone(&self.client));
        };
        match dynamic.load_first(s).await? {
            Some(certificate) => Ok(Arc::new(
                self.client.with_certificate(Arc::new(certificate)),
            )),
            None => Ok(Arc::clone(&self.client)),
        }
    }
}

impl Identity {
    /// Whom a handshake for it is with.
    pub fn target(&self, peer: u64) -> Target<'_> {
        Target {
            name: &self.text[..self.name_len],
            tells_name: self.tells_name,
            peer,
        }
    }

    /// Gives its buffer back to the store it is from.
    pub fn give_back(self, s: &mut impl Subject) {
        s.store_mut().give_back(self.text);
    }
}

impl PartialEq for Identity {
    fn eq(&self, other: &Identity) -> bool {
        Arc::ptr_eq(&self.client, &other.client)
            && self.tells_name == other.tells_name
            && self.name_len == other.name_len
            && self.text == other.text
    }
}

/// A host without its port; an address of IPv6 keeps its brackets.
fn without_port(text: &[u8]) -> &[u8] {
    let start = match text.first() {
        Some(b'[') => memchr::memchr(b']', text).unwrap_or(text.len()),
        _ => 0,
    };
    match memchr::memchr(b':', &text[start..]) {
        Some(at) => &text[..start + at],
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_their_port() {
        for (text, name) in [
            ("a.example:443", "a.example"),
            ("a.example", "a.example"),
            ("[::1]:443", "[::1]"),
            ("[::1]", "[::1]"),
            ("[::1", "[::1"),
            ("", ""),
        ] {
            assert_eq!(without_port(text.as_bytes()), name.as_bytes(), "{text}");
        }
    }
}
