//! The argument of `proxy_pass` and `grpc_pass`: a URL, and the group of servers that it names.

use crate::config::{ConfigError, Result, Word};
use crate::http::scope::{Compiler, Scope};
use crate::upstream::{PeerAddr, Target};

use super::{Pass, Side, To};

/// How a URL begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheme {
    /// `http://`
    #[default]
    Http,
    /// `https://`
    Https,
    /// `grpc://`
    Grpc,
    /// `grpcs://`
    Grpcs,
}

impl Scheme {
    /// As it is written, with what separates it from the rest.
    pub fn prefix(self) -> &'static str {
        match self {
            Scheme::Http => "http://",
            Scheme::Https => "https://",
            Scheme::Grpc => "grpc://",
            Scheme::Grpcs => "grpcs://",
        }
    }

    /// Whether it means TLS.
    pub fn is_secure(self) -> bool {
        matches!(self, Scheme::Https | Scheme::Grpcs)
    }

    fn is_grpc(self) -> bool {
        matches!(self, Scheme::Grpc | Scheme::Grpcs)
    }

    fn default_port(self) -> u16 {
        if self.is_secure() { 443 } else { 80 }
    }
}

/// Turns the argument of `proxy_pass` or `grpc_pass` into where it leads.
///
/// # Errors
/// As nginx: an invalid URL, a host that is not found.
pub fn compile(word: &Word, side: Side, scope: &Scope, c: &mut Compiler, tag: u64) -> Result<Pass> {
    let text = word.text();
    let replaced = scope.place.name.as_ref().map_or(0, |n| n.bytes.len());
    if text.contains('$') {
        let to = To::Url(c.template(word)?);
        return Ok(Pass {
            to,
            side,
            replaced,
            tag,
        });
    }
    let url = Url::parse(&word.bytes, side).map_err(|e| ConfigError::at(word.span, e))?;
    let group = match (c.groups.place(url.host), url.port) {
        (Some(group), None) => group,
        (Some(_), Some(port)) => return Err(port_of_group(word, url.host, port)),
        (None, _) => implicit_group(&url, word, c)?,
    };
    let to = To::Group {
        group,
        scheme: url.scheme,
        host: url.proxy_host().into(),
        port: url.port_or_default(),
        uri: url.uri.map(Into::into),
    };
    Ok(Pass {
        to,
        side,
        replaced,
        tag,
    })
}

fn port_of_group(word: &Word, name: &[u8], port: u16) -> ConfigError {
    let name = String::from_utf8_lossy(name);
    let message = format!("upstream \"{name}\" may not have port {port}");
    ConfigError::at(word.span, message)
}

fn implicit_group(url: &Url<'_>, word: &Word, c: &mut Compiler) -> Result<u32> {
    if url.port.is_none() && url.unix.is_none() && url.scheme.is_grpc() {
        let host = String::from_utf8_lossy(url.host);
        let message = format!("no port in upstream \"{host}\"");
        return Err(ConfigError::at(word.span, message));
    }
    let name = url.peer_name();
    if let Some(group) = c.groups.place(name.as_bytes()) {
        return Ok(group);
    }
    let addrs = match url.unix {
        Some(path) => vec![PeerAddr::from(std::path::PathBuf::from(path))],
        None => Target::parse(&name, url.scheme.default_port())
            .and_then(|target| target.look_up())
            .map_err(|what| {
                let host = String::from_utf8_lossy(url.host);
                ConfigError::at(word.span, format!("{what} in upstream \"{host}\""))
            })?,
    };
    Ok(c.groups.add_implicit(&name, addrs))
}

/// A URL of `proxy_pass` or `grpc_pass`, taken apart.
pub struct Url<'a> {
    /// How it begins, or would.
    pub scheme: Scheme,
    /// Host name or address; an IPv6 address in brackets; empty for unix sockets.
    pub host: &'a [u8],
    /// The port, if one is written.
    pub port: Option<u16>,
    /// Path of the unix socket.
    pub unix: Option<&'a str>,
    /// What follows the authority, if anything does.
    pub uri: Option<&'a [u8]>,
}

impl<'a> Url<'a> {
    /// Takes a URL apart. The error is nginx's wording.
    pub fn parse(text: &'a [u8], side: Side) -> std::result::Result<Url<'a>, String> {
        let shown = || String::from_utf8_lossy(text).into_owned();
        let begins =
            |s: &str| text.len() >= s.len() && text[..s.len()].eq_ignore_ascii_case(s.as_bytes());
        let (schemes, other) = match side {
            Side::Proxy => ([Scheme::Http, Scheme::Https], None),
            Side::Grpc => ([Scheme::Grpc, Scheme::Grpcs], Some(Scheme::Grpc)),
        };
        let (scheme, rest) = match schemes.into_iter().find(|s| begins(s.prefix())) {
            Some(scheme) => (scheme, &text[scheme.prefix().len()..]),
            None => (other.ok_or("invalid URL prefix")?, text),
        };
        if let Some(path) = rest.strip_prefix(b"unix:") {
            let end = memchr::memchr(b':', path).unwrap_or(path.len());
            let unix = std::str::from_utf8(&path[..end]).map_err(|_| "invalid path".to_string())?;
            if unix.is_empty() {
                return Err(format!(
                    "no path in the unix domain socket in upstream \"{}\"",
                    shown()
                ));
            }
            let uri = path.get(end + 1..).filter(|u| !u.is_empty());
            return Ok(Url {
                scheme,
                host: b"",
                port: None,
                unix: Some(unix),
                uri,
            });
        }
        let end = rest
            .iter()
            .position(|b| matches!(b, b'/' | b'?'))
            .unwrap_or(rest.len());
        let (authority, uri) = rest.split_at(end);
        if side == Side::Grpc && !uri.is_empty() {
            return Err(format!(
                "invalid host in upstream \"{}\"",
                String::from_utf8_lossy(rest)
            ));
        }
        let colon = match memchr::memrchr(b']', authority) {
            Some(bracket) => (authority.get(bracket + 1) == Some(&b':')).then_some(bracket + 1),
            None => memchr::memrchr(b':', authority),
        };
        let (host, port) = match colon {
            Some(at) => (&authority[..at], Some(&authority[at + 1..])),
            None => (authority, None),
        };
        if host.is_empty() {
            return Err(format!(
                "no host in upstream \"{}\"",
                String::from_utf8_lossy(rest)
            ));
        }
        let port = match port {
            None => None,
            Some(port) => {
                let parsed = std::str::from_utf8(port)
                    .ok()
                    .and_then(|p| p.parse::<u16>().ok());
                let invalid = || {
                    format!(
                        "invalid port in upstream \"{}\"",
                        String::from_utf8_lossy(rest)
                    )
                };
                Some(parsed.filter(|p| *p > 0).ok_or_else(invalid)?)
            }
        };
        Ok(Url {
            scheme,
            host,
            port,
            unix: None,
            uri: (!uri.is_empty()).then_some(uri),
        })
    }

    /// `$proxy_port`: the one that is written, or that of the scheme.
    pub fn port_or_default(&self) -> u16 {
        self.port.unwrap_or(self.scheme.default_port())
    }

    /// `$proxy_host`: as written; of a web server without its usual port.
    pub fn proxy_host(&self) -> Vec<u8> {
        match (self.unix, self.port) {
            (Some(_), _) => b"localhost".to_vec(),
            (None, Some(port)) if port != self.scheme.default_port() || self.scheme.is_grpc() => {
                let mut host = self.host.to_vec();
                host.extend_from_slice(format!(":{port}").as_bytes());
                host
            }
            _ => self.host.to_vec(),
        }
    }

    /// The name of the only peer: `host:port` or `unix:path`.
    pub fn peer_name(&self) -> String {
        match self.unix {
            Some(path) => format!("unix:{path}"),
            None => format!(
                "{}:{}",
                String::from_utf8_lossy(self.host),
                self.port_or_default()
            ),
        }
    }
}
