//! Blocks of `stream {}` while they are read, and their way to the compiled form.
//!
//! Reading stores what is written, in a [`Scope`] per block. When the whole file is read,
//! [`compile`] lets each server inherit from `stream {}` (nginx's merge) and turns names into what
//! they mean. So a definition may follow its use.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::listen::{self, Address};
use crate::config::{ConfigError, Contexts, Node, Reader, Result, Row, Span, Word};
use crate::observe::ErrorLog;
use crate::upstream::{Keepalive, PeerAddr, Registry, UpstreamRaw, implicit};
use crate::vars::{Template, Variables};

use super::conf::{Content, Listen, Server, StreamConf, StreamGroup};
use super::modules::{core, log, map, resolver, upstream};
use super::proxy;
use super::session::Session;

/// The `stream` block or one of its servers as it was read.
#[derive(Default)]
pub struct Scope {
    /// Directives of the core module.
    pub core: core::Raw,
    /// `resolver`, `resolver_timeout`.
    pub resolver: resolver::Raw,
    /// `access_log`.
    pub log: log::Raw,
    /// The `proxy_…` directives.
    pub proxy: proxy::Raw,
    /// The servers of `stream {}`, in the order of the file.
    pub servers: Vec<Scope>,
    /// What only `stream {}` has.
    pub stream: StreamRaw,
    /// Where the block of a server begins.
    pub span: Option<Span>,
}

/// What only `stream {}` has.
#[derive(Default)]
pub struct StreamRaw {
    /// `upstream` blocks.
    pub upstreams: Vec<UpstreamRaw>,
    /// `map`, `geo`, `split_clients` blocks, compiled when all variables are known.
    pub maps: Vec<Node>,
    /// `log_format`s.
    pub formats: Vec<log::RawFormat>,
}

/// Every table of directives that may stand in `stream` and its servers.
pub fn tables() -> [&'static [Row<Scope>]; 7] {
    [
        core::ROWS,
        log::ROWS,
        map::ROWS,
        map::NOTICES,
        resolver::ROWS,
        upstream::ROWS,
        proxy::ROWS,
    ]
}

/// Reads the content of one block into `scope`.
///
/// # Errors
/// The first mistake in it.
pub fn read_block(
    reader: &mut Reader,
    node: &Node,
    context: Contexts,
    scope: &mut Scope,
) -> Result<()> {
    reader.read_block(node.children(), &tables(), context, scope)
}

/// What the compile phase looks things up in.
pub struct Compiler<'r, 'a> {
    /// For warnings and paths.
    pub reader: &'r mut Reader<'a>,
    /// All variables there are.
    pub vars: Variables<Session>,
    /// Groups by name; implicit ones as `host:port`.
    group_ids: HashMap<Vec<u8>, u32>,
    groups: Vec<StreamGroup>,
    /// `log_format`s by name.
    pub formats: log::Formats,
    /// The resolvers in use, so that equal ones share a cache.
    pub resolvers: resolver::Table,
    /// Main-context `error_log`, which `stream {}` inherits.
    pub error_log: ErrorLog,
}

/// Turns the `stream {}` block into its compiled form.
///
/// # Errors
/// The first name that means nothing, or combination that nginx refuses, with its place.
pub fn compile(reader: &mut Reader, mut stream: Scope, error_log: ErrorLog) -> Result<StreamConf> {
    let mut c = Compiler {
        reader,
        vars: Variables::new(&super::variables::TABLES),
        group_ids: HashMap::new(),
        groups: Vec::new(),
        formats: log::Formats::default(),
        resolvers: resolver::Table::default(),
        error_log,
    };
    for node in std::mem::take(&mut stream.stream.maps) {
        crate::vars::define(&node, &mut c.vars)?;
    }
    c.formats = log::Formats::compile(std::mem::take(&mut stream.stream.formats), &mut c.vars)?;
    for raw in std::mem::take(&mut stream.stream.upstreams) {
        c.add_group(&stream, &raw)?;
    }
    stream.log.check(&mut c)?;
    let mut scopes = std::mem::take(&mut stream.servers);
    let addresses = listen::gather(scopes.iter().map(|scope| &scope.core.listens[..]))?;
    let mut servers = Vec::with_capacity(scopes.len());
    for scope in &mut scopes {
        scope.inherit(&stream);
        servers.push(c.compile_server(scope)?);
    }
    c.vars.finish()?;
    let listens: Vec<Listen> = addresses.into_iter().map(compile_listen).collect();
    let index = listens.iter().enumerate();
    Ok(StreamConf {
        index: index.map(|(at, l)| (l.addr.clone(), at as u32)).collect(),
        listens,
        servers,
        groups: c.groups,
    })
}

fn compile_listen(address: Address) -> Listen {
    Listen {
        addr: address.addr,
        options: address.options,
        proxy_protocol: address.proxy_protocol,
        default_server: address.default_server,
    }
}

impl Scope {
    fn inherit(&mut self, parent: &Scope) {
        self.core.inherit(&parent.core);
        self.resolver.inherit(&parent.resolver);
        self.log.inherit(&parent.log);
        self.proxy.inherit(&parent.proxy);
    }

    /// An error about a server as a whole.
    fn error(&self, message: &str) -> ConfigError {
        match self.span {
            Some(span) => ConfigError::at(span, message),
            None => ConfigError::bare(message),
        }
    }
}

impl Compiler<'_, '_> {
    /// Compiles a value with variables.
    ///
    /// # Errors
    /// Those of templates.
    pub fn template(&mut self, word: &Word) -> Result<Template<Session>> {
        Template::compile(word, &mut self.vars)
    }

    /// The index of a group by its name, for implicit ones `host:port`.
    pub fn group(&self, name: &[u8]) -> Option<u32> {
        self.group_ids.get(&name.to_ascii_lowercase()).copied()
    }

    /// Adds the group of an address that `proxy_pass` names, and returns its index.
    pub fn add_implicit_group(&mut self, name: &str, addrs: Vec<PeerAddr>) -> u32 {
        let group = implicit::group(Registry::global(), name, addrs, Keepalive::OFF);
        let at = self.groups.len() as u32;
        self.group_ids
            .insert(name.as_bytes().to_ascii_lowercase(), at);
        self.groups.push(StreamGroup {
            name: None,
            group: Arc::new(group),
            key: None,
            upstream: None,
        });
        at
    }

    fn add_group(&mut self, stream: &Scope, raw: &UpstreamRaw) -> Result<()> {
        let resolver = stream.resolver.compile(self)?;
        let upstream = raw.compile(Registry::global(), resolver.as_ref())?;
        let key = upstream
            .hash_key
            .as_ref()
            .map(|w| self.template(w))
            .transpose()?;
        let name = raw.name.bytes.clone();
        self.group_ids
            .insert(name.to_ascii_lowercase(), self.groups.len() as u32);
        self.groups.push(StreamGroup {
            name: Some(name),
            group: Arc::clone(&upstream.group),
            key,
            upstream: Some(upstream),
        });
        Ok(())
    }

    fn compile_server(&mut self, scope: &Scope) -> Result<Server> {
        let content = match &scope.proxy.pass {
            Some(pass) => Content::Proxy(proxy::conf::compile_pass(pass, self)?),
            None => return Err(scope.error("no handler for server")),
        };
        let resolver = scope.resolver.compile(self)?;
        Ok(Server {
            core: scope.core.compile(self)?,
            log: scope.log.compile(self)?,
            proxy: scope.proxy.compile(self, resolver)?,
            content,
        })
    }
}
