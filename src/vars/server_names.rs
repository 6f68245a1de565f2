//! `server_name`: which of the servers behind one listening address a host name means.

use std::fmt::Display;

use super::{HostTable, NameError, Pattern, Store, Subject, Variables};
use crate::config::{ConfigError, Result, Span, Word};

/// The names of the servers that share a listening address.
pub struct ServerNames {
    names: HostTable<u32>,
    /// In the order of the file, matched against the lower-case host.
    regexes: Vec<(Pattern, u32)>,
}

/// A server with its names.
pub struct Named<'a> {
    /// Its index.
    pub server: u32,
    /// The arguments of its `server_name`s; without any it has the empty name.
    pub names: &'a [Word],
    /// Where to complain about the empty name.
    pub span: Span,
}

impl ServerNames {
    /// The table for the servers at `address`. `warn` hears of names that an earlier server has
    /// already.
    ///
    /// # Errors
    /// Names that are none, regexes that do not compile.
    pub fn compile<S: Subject>(
        address: &impl Display,
        servers: &[Named<'_>],
        vars: &mut Variables<S>,
        mut warn: impl FnMut(Span, String),
    ) -> Result<ServerNames> {
        let mut table = ServerNames {
            names: HostTable::new(),
            regexes: Vec::new(),
        };
        let is_alone = servers.len() == 1;
        for Named {
            server,
            names,
            span,
        } in servers
        {
            if names.is_empty() && table.names.insert(b"", *server).is_err() && !is_alone {
                let message = format!("conflicting server name \"\" on {address}, ignored");
                warn(*span, message);
            }
            for word in *names {
                if word.bytes.starts_with(b"~") {
                    table.regexes.push((regex_name(word, vars)?, *server));
                    continue;
                }
                match table.names.insert(&word.bytes, *server) {
                    Ok(()) => {}
                    Err(_) if is_alone => {}
                    Err(NameError::Conflict) => {
                        let name = word.text();
                        let message =
                            format!("conflicting server name \"{name}\" on {address}, ignored");
                        warn(word.span, message);
                    }
                    Err(NameError::Invalid) => {
                        let message =
                            format!("invalid server name or wildcard \"{}\"", word.text());
                        return Err(ConfigError::at(word.span, message));
                    }
                }
            }
        }
        if is_alone && table.regexes.is_empty() {
            // There is nothing to choose from.
            table.names = HostTable::new();
        }
        Ok(table)
    }

    /// The server for `host`, which is in lower case, by nginx's precedence: exact name, longest
    /// leading wildcard, longest trailing wildcard, first matching regex, whose groups are set.
    /// `None`: the default server's.
    pub fn find(&self, host: &[u8], store: &mut Store) -> Option<u32> {
        if let Some(&server) = self.names.get(host) {
            return Some(server);
        }
        if host.is_empty() {
            return None;
        }
        let matches = |(pattern, _): &&(Pattern, u32)| pattern.exec(store, host);
        self.regexes.iter().find(matches).map(|(_, server)| *server)
    }
}

/// Refuses what `server_name` cannot take even before it is known which servers share an address.
///
/// # Errors
/// `server name "x" is invalid`.
pub fn check_names(words: &[Word]) -> Result<()> {
    for word in words {
        let is_invalid = match &*word.bytes {
            b"." => true,
            [b'*', rest @ ..] => rest.len() < 2 || rest[0] != b'.',
            _ => false,
        };
        if is_invalid {
            let message = format!("server name \"{}\" is invalid", word.text());
            return Err(ConfigError::at(word.span, message));
        }
    }
    Ok(())
}

fn regex_name<S: Subject>(word: &Word, vars: &mut Variables<S>) -> Result<Pattern> {
    if word.bytes.len() == 1 {
        let message = format!("empty regex in server name \"{}\"", word.text());
        return Err(ConfigError::at(word.span, message));
    }
    Pattern::compile(&word.bytes[1..], true, word.span, vars)
}
