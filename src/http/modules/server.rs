//! `server`, `listen`, `server_name` and `location`: which block a request belongs to.

use crate::config::listen::{self, Address, Kind, RawListen};
use crate::config::{Arity, ConfigError, Contexts, Node, Reader, Result, Row, Span, Word};
use crate::http::conf::{Listen, LocationKind};
use crate::http::scope::{self, Compiler, Scope};
use crate::ssl;
use crate::vars::{Named, ServerNames, check_names};

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

impl Raw {
    /// `$server_name`: the first name, without a leading dot.
    pub fn first_name(&self) -> Box<[u8]> {
        let name = self.names.first().map_or(&b""[..], |w| &w.bytes);
        name.strip_prefix(b".")
            .unwrap_or(name)
            .to_ascii_lowercase()
            .into_boxed_slice()
    }

    /// Where the server is said to listen.
    fn span(&self) -> Span {
        let listen = self.listens.first();
        listen.map_or_else(|| RawListen::default_http().word.span, |l| l.word.span)
    }
}

/// Gathers the listening addresses of all servers, each with the names behind it.
pub fn compile_listens(c: &mut Compiler, servers: &[Scope]) -> Result<Vec<Listen>> {
    let implicit = [RawListen::default_http()];
    let written = servers.iter().map(|scope| match &scope.server.listens[..] {
        [] => &implicit[..],
        listens => listens,
    });
    let addresses = listen::gather(written)?;
    let finish = |address| finish(address, servers, c);
    addresses.into_iter().map(finish).collect()
}

/// Finds the names behind an address.
fn finish(address: Address, servers: &[Scope], c: &mut Compiler) -> Result<Listen> {
    if let Some(span) = address.ssl {
        let ssl = |id: &u32| &c.server(*id).ssl;
        let all = address.servers.iter().map(ssl);
        ssl::check_listen(ssl(&address.default_server), all, span)?;
    }
    let named = |id: &u32| {
        let server = &servers[*id as usize].server;
        Named {
            server: *id,
            names: &server.names,
            span: server.span(),
        }
    };
    let behind: Vec<Named> = address.servers.iter().map(named).collect();
    let (vars, reader) = (&mut c.vars, &mut c.reader);
    let warn = |span, message| reader.warn(span, message);
    Ok(Listen {
        names: ServerNames::compile(&address.addr, &behind, vars, warn)?,
        addr: address.addr,
        options: address.options,
        proxy_protocol: address.proxy_protocol,
        ssl: address.ssl.is_some(),
        http2: address.http2,
        default_server: address.default_server,
    })
}

fn read_server(reader: &mut Reader, http: &mut Scope, node: &Node) -> Result<()> {
    let mut scope = Scope::new(LocationKind::ServerRoot);
    scope::read_block(reader, node, Contexts::SERVER, &mut scope)?;
    http.children.push(scope);
    Ok(())
}

fn set_server_name(_: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
    check_names(node.args())?;
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

fn set_listen(reader: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
    let raw = RawListen::read(node, Kind::Http, &s.server.listens)?;
    if raw.http2 {
        let message = "the \"listen ... http2\" directive is deprecated, use the \"http2\" \
                       directive instead";
        reader.warn(node.span(), message);
    }
    s.server.listens.push(raw);
    Ok(())
}
