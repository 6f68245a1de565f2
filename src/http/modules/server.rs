//! `server`, `listen`, `server_name` and `location`: which block a request belongs to.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use crate::base::capability;
use crate::base::listen::{KeepaliveOption, ListenAddr, ListenOptions};
use crate::config::{Arity, ConfigError, Contexts, Node, Reader, Result, Row, Span, Word, value};
use crate::http::conf::{Listen, LocationKind, RegexName};
use crate::http::scope::{self, Compiler, Scope};
use crate::vars::{HostTable, NameError, Pattern};

/// The directives of this file.
pub const ROWS: &[Row<Scope>] = &[
    Row::block("server", Contexts::HTTP, Arity::None, read_server).doc("A virtual server."),
    Row::custom("listen", Contexts::SERVER, Arity::AtLeast(1), set_listen)
        .default("*:80 | *:8000")
        .doc("Address and port, or unix socket, of a server."),
    Row::custom(
        "server_name",
        Contexts::SERVER,
        Arity::AtLeast(1),
        set_server_name,
    )
    .default("\"\"")
    .doc("Names of a virtual server."),
    Row::block(
        "location",
        Contexts::SERVER.or(Contexts::LOCATION),
        Arity::Between(1, 2),
        read_location,
    )
    .doc("Settings for a part of the URIs."),
];

/// What only `server {}` has.
#[derive(Default)]
pub struct Raw {
    listens: Vec<RawListen>,
    names: Vec<Word>,
}

struct RawListen {
    addr: ListenAddr,
    options: ListenOptions,
    has_options: bool,
    default_server: bool,
    proxy_protocol: bool,
    word: Word,
}

impl Raw {
    /// `$server_name`: the first name, without a leading dot.
    pub fn first_name(&self) -> Box<[u8]> {
        let name = self.names.first().map_or(&b""[..], |w| &w.bytes);
        name.strip_prefix(b".")
            .unwrap_or(name)
            .to_ascii_lowercase()
            .into_boxed_slice()
    }

    /// The empty name of a server that has no other: requests without a host are for it.
    fn nameless(&self) -> Option<Word> {
        let listen = self.listens.first();
        let span = listen.map_or(default_listen().word.span, |listen| listen.word.span);
        self.names.is_empty().then(|| Word::new("", span))
    }
}

fn regex_name(word: &Word, c: &mut Compiler) -> Result<Pattern> {
    if word.bytes.len() == 1 {
        let message = format!("empty regex in server name \"{}\"", word.text());
        return Err(ConfigError::at(word.span, message));
    }
    c.pattern(word, &word.bytes[1..], true)
}

/// Gathers the listening addresses of all servers, each with the names behind it.
pub fn compile_listens(c: &mut Compiler, servers: &[Scope]) -> Result<Vec<Listen>> {
    let mut listens: Vec<Building> = Vec::new();
    let mut index: HashMap<ListenAddr, usize> = HashMap::new();
    for (id, scope) in servers.iter().enumerate() {
        let implicit;
        let written = if scope.server.listens.is_empty() {
            implicit = [default_listen()];
            &implicit[..]
        } else {
            &scope.server.listens[..]
        };
        for raw in written {
            let at = *index.entry(raw.addr.clone()).or_insert_with(|| {
                listens.push(Building::new(raw.addr.clone(), id as u32));
                listens.len() - 1
            });
            listens[at].add(raw, id as u32)?;
        }
    }
    let finish = |l: Building| l.finish(servers, c);
    listens.into_iter().map(finish).collect()
}

/// A listening address while its servers are gathered.
struct Building {
    addr: ListenAddr,
    options: ListenOptions,
    has_options: bool,
    proxy_protocol: bool,
    default_server: u32,
    explicit_default: bool,
    servers: Vec<u32>,
}

impl Building {
    fn new(addr: ListenAddr, first: u32) -> Self {
        Building {
            addr,
            options: ListenOptions::default(),
            has_options: false,
            proxy_protocol: false,
            default_server: first,
            explicit_default: false,
            servers: Vec::new(),
        }
    }

    fn add(&mut self, raw: &RawListen, server: u32) -> Result<()> {
        let text = raw.word.text();
        if self.servers.contains(&server) {
            return Err(ConfigError::at(
                raw.word.span,
                format!("a duplicate listen {text}"),
            ));
        }
        if raw.has_options {
            if self.has_options {
                let message = format!("duplicate listen options for {}", self.addr);
                return Err(ConfigError::at(raw.word.span, message));
            }
            self.has_options = true;
            self.options = raw.options.clone();
        }
        if raw.default_server {
            if self.explicit_default {
                let message = format!("a duplicate default server for {}", self.addr);
                return Err(ConfigError::at(raw.word.span, message));
            }
            self.explicit_default = true;
            self.default_server = server;
        }
        self.proxy_protocol |= raw.proxy_protocol;
        self.servers.push(server);
        Ok(())
    }

    fn finish(self, servers: &[Scope], c: &mut Compiler) -> Result<Listen> {
        let mut names = HostTable::new();
        let mut regexes = Vec::new();
        let is_alone = self.servers.len() == 1;
        for &id in &self.servers {
            let server = &servers[id as usize].server;
            let nameless = server.nameless();
            for word in server.names.iter().chain(&nameless) {
                if word.bytes.starts_with(b"~") {
                    let pattern = regex_name(word, c)?;
                    regexes.push(RegexName {
                        pattern,
                        server: id,
                    });
                    continue;
                }
                match names.insert(&word.bytes, id) {
                    Ok(()) => {}
                    Err(_) if is_alone => {}
                    Err(NameError::Conflict) => {
                        let message = format!(
                            "conflicting server name \"{}\" on {}, ignored",
                            word.text(),
                            self.addr
                        );
                        c.reader.warn(word.span, message);
                    }
                    Err(NameError::Invalid) => {
                        let message =
                            format!("invalid server name or wildcard \"{}\"", word.text());
                        return Err(ConfigError::at(word.span, message));
                    }
                }
            }
        }
        if is_alone && regexes.is_empty() {
            // There is nothing to choose from.
            names = HostTable::new();
        }
        Ok(Listen {
            addr: self.addr,
            options: self.options,
            proxy_protocol: self.proxy_protocol,
            default_server: self.default_server,
            names,
            regexes,
        })
    }
}

fn default_listen() -> RawListen {
    // Not by the user of the moment: a reload comes after root was given up.
    let port = if capability::privileged() { 80 } else { 8000 };
    RawListen {
        addr: ListenAddr::Inet(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)),
        options: ListenOptions::default(),
        has_options: false,
        default_server: false,
        proxy_protocol: false,
        word: Word::new(
            "*:80",
            Span {
                file: 0,
                line: 0,
                column: 0,
            },
        ),
    }
}

fn read_server(reader: &mut Reader, http: &mut Scope, node: &Node) -> Result<()> {
    let mut scope = Scope::new(LocationKind::ServerRoot);
    scope::read_block(reader, node, Contexts::SERVER, &mut scope)?;
    http.children.push(scope);
    Ok(())
}

fn set_server_name(_: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
    for word in node.args() {
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
    s.server.names.extend(node.args().iter().cloned());
    Ok(())
}

fn read_location(reader: &mut Reader, parent: &mut Scope, node: &Node) -> Result<()> {
    let mut scope = Scope::default();
    let (modifier, name) = split_location(node)?;
    let kind = match modifier {
        "=" => LocationKind::Exact,
        "~" | "~*" => LocationKind::Regex,
        _ if name.bytes.starts_with(b"@") => LocationKind::Named,
        _ => LocationKind::Prefix,
    };
    check_nesting(parent, kind, &name, node)?;
    scope.place.kind = Some(kind);
    scope.place.modifier = modifier;
    scope.place.name = Some(name);
    scope::read_block(reader, node, Contexts::LOCATION, &mut scope)?;
    parent.children.push(scope);
    Ok(())
}

/// Modifier and name; nginx also takes them written together (`=/x`, `~*\.php$`).
fn split_location(node: &Node) -> Result<(&'static str, Word)> {
    const MODIFIERS: [&str; 4] = ["^~", "~*", "=", "~"];
    let args = node.args();
    if args.len() == 2 {
        let written = args[0].text();
        return match MODIFIERS.iter().find(|m| **m == written) {
            Some(modifier) => Ok((modifier, args[1].clone())),
            None => Err(ConfigError::at(
                args[0].span,
                format!("invalid location modifier \"{written}\""),
            )
            .help("one of =, ^~, ~, ~*")),
        };
    }
    for modifier in MODIFIERS {
        if let Some(rest) = args[0].bytes.strip_prefix(modifier.as_bytes()) {
            let mut name = args[0].clone();
            name.bytes = rest.into();
            return Ok((modifier, name));
        }
    }
    Ok(("", args[0].clone()))
}

fn check_nesting(parent: &Scope, kind: LocationKind, name: &Word, node: &Node) -> Result<()> {
    let text = name.text();
    let error = |message: String| Err(ConfigError::at(node.words[0].span, message));
    let duplicate = parent.children.iter().any(|other| {
        let same_name = other
            .place
            .name
            .as_ref()
            .is_some_and(|n| n.bytes == name.bytes);
        let may_repeat = matches!(kind, LocationKind::Regex | LocationKind::Named);
        same_name && !may_repeat && other.place.kind == Some(kind)
    });
    if duplicate {
        return error(format!("duplicate location \"{text}\""));
    }
    let outer = match parent.place.kind {
        Some(LocationKind::ServerRoot) | None => return Ok(()),
        Some(outer) => outer,
    };
    let outer_name = parent
        .place
        .name
        .as_ref()
        .map(|n| n.text())
        .unwrap_or_default();
    if outer == LocationKind::Exact {
        return error(format!(
            "location \"{text}\" cannot be inside the exact location \"{outer_name}\""
        ));
    }
    if outer == LocationKind::Named {
        return error(format!(
            "location \"{text}\" cannot be inside the named location \"{outer_name}\""
        ));
    }
    if kind == LocationKind::Named {
        return error(format!(
            "named location \"{text}\" can be on the server level only"
        ));
    }
    let inside = parent
        .place
        .name
        .as_ref()
        .is_some_and(|n| name.bytes.starts_with(&n.bytes));
    if kind != LocationKind::Regex && outer == LocationKind::Prefix && !inside {
        return error(format!(
            "location \"{text}\" is outside location \"{outer_name}\""
        ));
    }
    Ok(())
}

fn set_listen(_: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
    let word = &node.args()[0];
    let mut raw = RawListen {
        addr: parse_addr(word)?,
        word: word.clone(),
        ..default_listen()
    };
    for parameter in &node.args()[1..] {
        set_parameter(&mut raw, parameter)?;
    }
    if s.server.listens.iter().any(|l| l.addr == raw.addr) {
        let message = format!("a duplicate listen {}", word.text());
        return Err(ConfigError::at(word.span, message));
    }
    s.server.listens.push(raw);
    Ok(())
}

fn set_parameter(raw: &mut RawListen, word: &Word) -> Result<()> {
    let text = word.text();
    let invalid = || ConfigError::at(word.span, format!("invalid parameter \"{text}\""));
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
            raw.default_server = true;
            return Ok(());
        }
        ("proxy_protocol", None) => {
            raw.proxy_protocol = true;
            return Ok(());
        }
        ("ssl" | "quic" | "http2" | "spdy", None) => {
            let message = format!(
                "the \"{name}\" parameter of the \"listen\" directive of nginx is not implemented by ringway yet"
            );
            return Err(ConfigError::at(word.span, message));
        }
        ("bind", None) => {}
        ("deferred", None) => raw.options.deferred = true,
        ("reuseport", None) => raw.options.reuseport = true,
        ("backlog", Some(_)) => raw.options.backlog = Some(number()?),
        ("fastopen", Some(_)) => raw.options.fastopen = Some(number()?),
        ("rcvbuf", Some(_)) => raw.options.rcvbuf = Some(bytes()?),
        ("sndbuf", Some(_)) => raw.options.sndbuf = Some(bytes()?),
        ("ipv6only", Some("on")) => raw.options.ipv6only = Some(true),
        ("ipv6only", Some("off")) => raw.options.ipv6only = Some(false),
        ("so_keepalive", Some(v)) => {
            raw.options.so_keepalive = Some(keepalive_option(v).ok_or_else(|| {
                ConfigError::at(word.span, format!("invalid so_keepalive value: \"{v}\""))
            })?);
        }
        ("setfib" | "accept_filter", Some(_)) => {
            return Err(ConfigError::at(
                word.span,
                format!(
                    "{name} \"{}\" is not supported on this platform",
                    given.unwrap_or("")
                ),
            ));
        }
        _ => return Err(invalid()),
    }
    raw.has_options = true;
    Ok(())
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

/// `port`, `address`, `address:port`, `*:port`, `[v6]:port`, `name:port` or `unix:path`.
fn parse_addr(word: &Word) -> Result<ListenAddr> {
    let text = word.text();
    let error = |what: &str| {
        ConfigError::at(
            word.span,
            format!("{what} in \"{text}\" of the \"listen\" directive"),
        )
    };
    if let Some(path) = text.strip_prefix("unix:") {
        if path.is_empty() {
            return Err(error("no path"));
        }
        return Ok(ListenAddr::Unix(PathBuf::from(path)));
    }
    let port_of = |port: &str| match port.parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(error("invalid port")),
    };
    if text.bytes().all(|b| b.is_ascii_digit()) {
        let ip = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        return Ok(ListenAddr::Inet(SocketAddr::new(ip, port_of(&text)?)));
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest
            .split_once(']')
            .ok_or_else(|| error("invalid IPv6 address"))?;
        let ip: Ipv6Addr = host.parse().map_err(|_| error("invalid IPv6 address"))?;
        let port = match port.strip_prefix(':') {
            Some(port) => port_of(port)?,
            None if port.is_empty() => 80,
            None => return Err(error("invalid port")),
        };
        return Ok(ListenAddr::Inet(SocketAddr::new(IpAddr::V6(ip), port)));
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, port_of(port)?),
        None => (&*text, 80),
    };
    let ip = match host {
        "" => return Err(error("no host")),
        "*" => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        _ => match host.parse() {
            Ok(ip) => ip,
            Err(_) => {
                use std::net::ToSocketAddrs;
                let found = (host, port)
                    .to_socket_addrs()
                    .ok()
                    .and_then(|mut a| a.next());
                found.ok_or_else(|| error("host not found"))?.ip()
            }
        },
    };
    Ok(ListenAddr::Inet(SocketAddr::new(ip, port)))
}
