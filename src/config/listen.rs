//! `listen`, which `http` and `stream` read alike: addresses, ports and their ranges, parameters,
//! and which servers share an address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use super::error::{ConfigError, Result};
use super::tree::{Node, Span, Word};
use super::value;
use crate::base::capability;
use crate::base::listen::{KeepaliveOption, ListenAddr, ListenOptions};

/// Which kind of server listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `http { server { … } }`
    Http,
    /// `stream { server { … } }`
    Stream,
}

/// One `listen` directive as it was read.
#[derive(Debug)]
pub struct RawListen {
    /// Every address it means: a range of ports and a name may mean several.
    pub addrs: Vec<ListenAddr>,
    /// What it says about the sockets.
    pub options: ListenOptions,
    /// Whether anything was said about the sockets.
    pub has_options: bool,
    /// `default_server`
    pub default_server: bool,
    /// `proxy_protocol`
    pub proxy_protocol: bool,
    /// `ssl`
    pub ssl: bool,
    /// `http2`
    pub http2: bool,
    /// The address as written.
    pub word: Word,
    /// `udp`
    udp: bool,
}

/// One address with what all servers together say about it.
#[derive(Debug)]
pub struct Address {
    /// The address.
    pub addr: ListenAddr,
    /// The options of its socket.
    pub options: ListenOptions,
    /// Some server asked for PROXY protocol headers.
    pub proxy_protocol: bool,
    /// Where some server asked for TLS first.
    pub ssl: Option<Span>,
    /// Some server asked for HTTP/2.
    pub http2: bool,
    /// Index of the server for what matches no name.
    pub default_server: u32,
    /// Indexes of the servers that share the address, in the order of the file.
    pub servers: Vec<u32>,
    has_options: bool,
    explicit_default: bool,
}

impl RawListen {
    /// Reads a `listen` directive of a server that has those `before` it.
    ///
    /// # Errors
    /// As nginx words them.
    pub fn read(node: &Node, kind: Kind, before: &[RawListen]) -> Result<RawListen> {
        let word = &node.args()[0];
        let mut raw = RawListen::new(parse_addrs(word, kind)?, word.clone());
        for parameter in &node.args()[1..] {
            raw.set_parameter(parameter, kind)?;
        }
        if raw.udp {
            raw.make_udp(node)?;
        }
        let mut others = before.iter().flat_map(|other| &other.addrs);
        if others.any(|other| raw.addrs.contains(other)) {
            let message = format!("a duplicate listen {}", word.text());
            return Err(ConfigError::at(word.span, message));
        }
        Ok(raw)
    }

    /// What an HTTP server without `listen` has: port 80, or 8000 for who is not privileged.
    pub fn default_http() -> RawListen {
        // Not by the user of the moment: a reload comes after root was given up.
        let port = if capability::privileged() { 80 } else { 8000 };
        let addr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
        let word = Word::new("*:80", Span::NOWHERE);
        RawListen::new(vec![ListenAddr::Inet(addr)], word)
    }

    fn new(addrs: Vec<ListenAddr>, word: Word) -> RawListen {
        RawListen {
            addrs,
            options: ListenOptions::default(),
            has_options: false,
            default_server: false,
            proxy_protocol: false,
            ssl: false,
            http2: false,
            word,
            udp: false,
        }
    }

    fn set_parameter(&mut self, word: &Word, kind: Kind) -> Result<()> {
        let text = word.text();
        let (name, given) = match text.split_once('=') {
            Some((name, given)) => (name, Some(given)),
            None => (&*text, None),
        };
        let bad = || ConfigError::at(word.span, format!("invalid {name} \"{text}\""));
        let number = || {
            let number = given.and_then(|v| v.parse::<i32>().ok());
            number.filter(|n| *n > 0).ok_or_else(bad)
        };
        let bytes = || {
            let bytes = given.and_then(|v| value::parse_size(v.as_bytes()));
            bytes.map(|n| n as usize).ok_or_else(bad)
        };
        match (name, given) {
            ("default_server" | "default", None) => {
                self.default_server = true;
                return Ok(());
            }
            ("proxy_protocol", None) => {
                self.proxy_protocol = true;
                return Ok(());
            }
            ("udp", None) if kind == Kind::Stream => {
                self.udp = true;
                return Ok(());
            }
            ("ssl", None) => {
                self.ssl = true;
                return Ok(());
            }
            ("http2", None) if kind == Kind::Http => {
                self.http2 = true;
                return Ok(());
            }
            ("quic" | "spdy", None) if kind == Kind::Http => return Err(later(word)),
            ("bind", None) => {}
            ("deferred", None) => self.options.deferred = true,
            ("reuseport", None) => self.options.reuseport = true,
            ("backlog", Some(_)) => self.options.backlog = Some(number()?),
            ("fastopen", Some(_)) => self.options.fastopen = Some(number()?),
            ("rcvbuf", Some(_)) => self.options.rcvbuf = Some(bytes()?),
            ("sndbuf", Some(_)) => self.options.sndbuf = Some(bytes()?),
            ("ipv6only", Some("on")) => self.options.ipv6only = Some(true),
            ("ipv6only", Some("off")) => self.options.ipv6only = Some(false),
            ("so_keepalive", Some(v)) => {
                self.options.so_keepalive = Some(keepalive_option(v).ok_or_else(|| {
                    ConfigError::at(word.span, format!("invalid so_keepalive value: \"{v}\""))
                })?);
            }
            ("setfib" | "accept_filter", Some(v)) => {
                let message = format!("{name} \"{v}\" is not supported on this platform");
                return Err(ConfigError::at(word.span, message));
            }
            _ if kind == Kind::Http => return Err(value::invalid_parameter(word)),
            _ => {
                let message = format!("the invalid \"{text}\" parameter");
                return Err(ConfigError::at(word.span, message));
            }
        }
        self.has_options = true;
        Ok(())
    }

    /// Turns the addresses into those of datagrams, for which some parameters mean nothing.
    fn make_udp(&mut self, node: &Node) -> Result<()> {
        let wrong = node.args()[1..].iter().find_map(|word| {
            let text = word.text();
            let name = text.split('=').next().unwrap_or_default().to_owned();
            let is_tcp = [
                "backlog",
                "so_keepalive",
                "fastopen",
                "deferred",
                "proxy_protocol",
                "ssl",
            ];
            is_tcp.contains(&&*name).then_some((name, word.span))
        });
        if let Some((name, span)) = wrong {
            let message =
                format!("\"listen\" directive \"{name}\" parameter is incompatible with \"udp\"");
            return Err(ConfigError::at(span, message));
        }
        for addr in &mut self.addrs {
            match addr {
                ListenAddr::Inet(inet) => *addr = ListenAddr::Udp(*inet),
                ListenAddr::Udp(_) => {}
                ListenAddr::Unix(_) => {
                    let message = "datagrams over unix sockets are not implemented by ringway yet";
                    return Err(ConfigError::at(self.word.span, message));
                }
            }
        }
        Ok(())
    }
}

fn later(word: &Word) -> ConfigError {
    let name = word.text();
    let message = format!(
        "the \"{name}\" parameter of the \"listen\" directive of nginx is not implemented by \
         ringway yet"
    );
    ConfigError::at(word.span, message)
}

/// Gathers the addresses of all servers, in the order of the file.
///
/// # Errors
/// What servers say about one address contradicts.
pub fn gather<'a>(servers: impl Iterator<Item = &'a [RawListen]>) -> Result<Vec<Address>> {
    let mut addresses: Vec<Address> = Vec::new();
    let mut index: HashMap<ListenAddr, usize> = HashMap::new();
    for (id, listens) in servers.enumerate() {
        for raw in listens {
            for addr in &raw.addrs {
                let at = *index.entry(addr.clone()).or_insert_with(|| {
                    addresses.push(Address::new(addr.clone(), id as u32));
                    addresses.len() - 1
                });
                addresses[at].add(raw, id as u32)?;
            }
        }
    }
    Ok(addresses)
}

impl Address {
    fn new(addr: ListenAddr, first: u32) -> Self {
        Address {
            addr,
            options: ListenOptions::default(),
            has_options: false,
            proxy_protocol: false,
            ssl: None,
            http2: false,
            default_server: first,
            explicit_default: false,
            servers: Vec::new(),
        }
    }

    fn add(&mut self, raw: &RawListen, server: u32) -> Result<()> {
        let error = |message: String| Err(ConfigError::at(raw.word.span, message));
        if self.servers.contains(&server) {
            return error(format!("a duplicate listen {}", raw.word.text()));
        }
        if raw.has_options {
            if self.has_options {
                return error(format!("duplicate listen options for {}", self.addr));
            }
            self.has_options = true;
            self.options = raw.options.clone();
        }
        if raw.default_server {
            if self.explicit_default {
                return error(format!("a duplicate default server for {}", self.addr));
            }
            self.explicit_default = true;
            self.default_server = server;
        }
        self.proxy_protocol |= raw.proxy_protocol;
        self.ssl = self.ssl.or(raw.ssl.then_some(raw.word.span));
        self.http2 |= raw.http2;
        self.servers.push(server);
        Ok(())
    }
}

fn keepalive_option(text: &str) -> Option<KeepaliveOption> {
    match text {
        "on" => return Some(KeepaliveOption::Switch(true)),
        "off" => return Some(KeepaliveOption::Switch(false)),
        _ => {}
    }
    let mut parts = text.split(':');
    let mut seconds = || match parts.next()? {
        "" => Some(None),
        part => value::parse_time(part.as_bytes()).map(|d| Some(d.as_secs() as u32)),
    };
    let (idle, interval) = (seconds()?, seconds()?);
    let count = match parts.next()? {
        "" => None,
        part => Some(part.parse().ok()?),
    };
    (parts.next().is_none() && (idle, interval, count) != (None, None, None)).then_some(
        KeepaliveOption::Tuned {
            idle,
            interval,
            count,
        },
    )
}

/// `port`, `address`, `address:port`, `*:port`, `[v6]:port`, `name:port` or `unix:path`; a port may
/// be a range `first-last`.
fn parse_addrs(word: &Word, kind: Kind) -> Result<Vec<ListenAddr>> {
    let text = word.text();
    let error = |what: &str| {
        let message = format!("{what} in \"{text}\" of the \"listen\" directive");
        ConfigError::at(word.span, message)
    };
    if let Some(path) = text.strip_prefix("unix:") {
        if path.is_empty() {
            return Err(error("no path in the unix domain socket"));
        }
        return Ok(vec![ListenAddr::Unix(PathBuf::from(path))]);
    }
    let is_port = |part: &str| part.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    let (host, port) = if is_port(&text) {
        ("*", Some(&*text))
    } else if let Some(rest) = text.strip_prefix('[') {
        let end = rest.find(']').ok_or_else(|| error("invalid host"))?;
        match &rest[end + 1..] {
            "" => (&text[..end + 2], None),
            port => {
                let port = port
                    .strip_prefix(':')
                    .ok_or_else(|| error("invalid port"))?;
                (&text[..end + 2], Some(port))
            }
        }
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (&*text, None),
        }
    };
    let (first, last) = match (port, kind) {
        (Some(port), _) => parse_ports(port).map_err(error)?,
        (None, Kind::Http) => (80, 80),
        (None, Kind::Stream) => return Err(error("no port")),
    };
    let ips = parse_host(host).map_err(error)?;
    let addrs = ips.iter().flat_map(|ip| {
        let addr = |port| ListenAddr::Inet(SocketAddr::new(*ip, port));
        (first..=last).map(addr)
    });
    Ok(addrs.collect())
}

/// `port` or `first-last`, the last included.
fn parse_ports(text: &str) -> std::result::Result<(u16, u16), &'static str> {
    let port = |text: &str| match text.parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err("invalid port"),
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    if first > last {
        return Err("invalid port range");
    }
    Ok((first, last))
}

/// The addresses of `*`, an address, `[address]`, or a name that the system knows.
fn parse_host(host: &str) -> std::result::Result<Vec<IpAddr>, &'static str> {
    if let Some(rest) = host.strip_prefix('[') {
        let ip = rest.trim_end_matches(']').parse::<Ipv6Addr>();
        return Ok(vec![ip.map_err(|_| "invalid IPv6 address")?.into()]);
    }
    match host {
        "" => return Err("no host"),
        "*" => return Ok(vec![Ipv4Addr::UNSPECIFIED.into()]),
        _ => {}
    }
    if let Ok(ip) = host.parse() {
        return Ok(vec![ip]);
    }
    let mut ips: Vec<IpAddr> = Vec::new();
    for found in (host, 0).to_socket_addrs().map_err(|_| "host not found")? {
        if !ips.contains(&found.ip()) {
            ips.push(found.ip());
        }
    }
    match ips.is_empty() {
        true => Err("host not found"),
        false => Ok(ips),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addrs(text: &str, kind: Kind) -> std::result::Result<Vec<String>, String> {
        let found = parse_addrs(&Word::new(text, Span::START), kind).map_err(|e| e.message)?;
        Ok(found.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn addresses_and_ranges_of_ports() {
        for (text, expected) in [
            ("7000", &["0.0.0.0:7000"][..]),
            (
                "127.0.0.1:7000-7002",
                &["127.0.0.1:7000", "127.0.0.1:7001", "127.0.0.1:7002"],
            ),
            ("[::1]:80-81", &["[::1]:80", "[::1]:81"]),
            ("unix:/run/a.sock", &["unix:/run/a.sock"]),
        ] {
            assert_eq!(addrs(text, Kind::Stream).unwrap(), expected, "{text}");
        }
        assert_eq!(addrs("*", Kind::Http).unwrap(), ["0.0.0.0:80"]);
        assert_eq!(addrs("[::]", Kind::Http).unwrap(), ["[::]:80"]);
    }

    #[test]
    fn mistakes_have_nginx_s_words() {
        for (text, what) in [
            ("127.0.0.1:7010-7000", "invalid port range"),
            ("127.0.0.1:7010-70000", "invalid port"),
            ("127.0.0.1:0", "invalid port"),
            ("127.0.0.1", "no port"),
            ("unix:", "no path in the unix domain socket"),
            (":80", "no host"),
            ("[::x]:80", "invalid IPv6 address"),
        ] {
            let expected = format!("{what} in \"{text}\" of the \"listen\" directive");
            assert_eq!(addrs(text, Kind::Stream).unwrap_err(), expected);
        }
    }
}
