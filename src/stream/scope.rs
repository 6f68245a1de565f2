//! Blocks of `stream {}` while they are read, and their way to the compiled form.
//!
//! Reading stores what is written, in a [`Scope`] per block. When the whole file is read,
//! [`compile`] lets each server inherit from `stream {}` (nginx's merge) and turns names into what
//! they mean. So a definition may follow its use.

use crate::config::listen::{self, Address};
use crate::config::{ConfigError, Contexts, Node, Reader, Result, Row, Span, Word};
use crate::observe::ErrorLog;
use crate::upstream::{Groups, Kind, UpstreamRaw};
use crate::vars::{Named, ServerNames, Template, Variables};

use super::conf::{Content, Listen, Server, StreamConf};
use super::modules::{
    access, core, limit_conn, log, map, pass, realip, resolver, returns, set, ssl, ssl_preread,
    upstream,
};
use super::proxy;
use super::session::Session;

/// The `stream` block or one of its servers as it was read.
#[derive(Default)]
pub struct Scope {
    /// Directives of the core module.
    pub core: core::Raw,
    /// `resolver`, `resolver_timeout`.
    pub resolver: resolver::Raw,
    /// `allow`, `deny`.
    pub access: access::Raw,
    /// `limit_conn` and friends.
    pub limit_conn: limit_conn::Raw,
    /// `set_real_ip_from`.
    pub realip: realip::Raw,
    /// `set`; never inherited.
    pub set: set::Raw,
    /// `ssl_preread`, `server_name`.
    pub names: ssl_preread::Raw,
    /// `return`
    pub returns: Option<Word>,
    /// `pass`
    pub pass: Option<Word>,
    /// The `ssl_…` directives.
    pub ssl: ssl::Raw,
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
pub fn tables() -> [&'static [Row<Scope>]; 16] {
    [
        core::ROWS,
        access::ROWS,
        limit_conn::ROWS,
        realip::ROWS,
        set::ROWS,
        ssl::SHARED_ROWS,
        ssl::ROWS,
        ssl_preread::ROWS,
        returns::ROWS,
        pass::ROWS,
        log::ROWS,
        map::ROWS,
        resolver::ROWS,
        upstream::ROWS,
        proxy::ROWS,
        proxy::SSL_ROWS,
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
    /// Upstream groups, named and implicit.
    pub groups: Groups<Session>,
    /// `log_format`s by name.
    pub formats: log::Formats,
    /// The zones of `limit_conn`.
    pub limit_conn_zones: limit_conn::Zones,
    /// What the `ssl_…` directives of several servers have in common.
    pub ssl: crate::ssl::Common,
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
        groups: Groups::new(Kind::Stream),
        formats: log::Formats::default(),
        limit_conn_zones: limit_conn::Zones::default(),
        ssl: crate::ssl::Common::default(),
        resolvers: resolver::Table::default(),
        error_log,
    };
    for node in std::mem::take(&mut stream.stream.maps) {
        crate::vars::define(&node, &mut c.vars)?;
    }
    c.formats = log::Formats::compile(std::mem::take(&mut stream.stream.formats), &mut c.vars)?;
    for raw in std::mem::take(&mut stream.stream.upstreams) {
        let resolver = stream.resolver.compile(&mut c.resolvers)?;
        c.groups.add(&raw, resolver.as_ref(), &mut c.vars)?;
    }
    c.limit_conn_zones = stream.limit_conn.compile_zones("stream", &mut c.vars)?;
    stream.log.check(&mut c.formats, &mut c.vars)?;
    stream.ssl.declare_zones(&mut c.ssl)?;
    let mut scopes = std::mem::take(&mut stream.servers);
    let addresses = listen::gather(scopes.iter().map(|scope| &scope.core.listens[..]))?;
    let mut servers = Vec::with_capacity(scopes.len());
    for scope in &mut scopes {
        scope.inherit(&stream);
        servers.push(c.compile_server(scope)?);
    }
    let listens = addresses.into_iter();
    let listens = listens.map(|address| compile_listen(address, &scopes, &servers, &mut c));
    let listens = listens.collect::<Result<Vec<Listen>>>()?;
    c.vars.finish()?;
    let index = listens.iter().enumerate();
    Ok(StreamConf {
        index: index.map(|(at, l)| (l.addr.clone(), at as u32)).collect(),
        listens,
        servers,
        groups: c.groups,
    })
}

fn compile_listen(
    address: Address,
    scopes: &[Scope],
    servers: &[Server],
    c: &mut Compiler,
) -> Result<Listen> {
    if let Some(span) = address.ssl {
        let ssl = |id: &u32| servers[*id as usize].ssl.shared();
        let all = address.servers.iter().map(ssl);
        crate::ssl::check_listen(ssl(&address.default_server), all, span)?;
    }
    let named = |id: &u32| {
        let server = &scopes[*id as usize];
        Named {
            server: *id,
            names: &server.names.names,
            span: server
                .span
                .unwrap_or_else(|| server.core.listens[0].word.span),
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
        default_server: address.default_server,
    })
}

impl Scope {
    fn inherit(&mut self, parent: &Scope) {
        self.core.inherit(&parent.core);
        self.resolver.inherit(&parent.resolver);
        self.access.inherit(&parent.access);
        self.limit_conn.inherit(&parent.limit_conn);
        self.realip.inherit(&parent.realip);
        self.names.inherit(&parent.names);
        self.ssl.inherit(&parent.ssl);
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

    fn compile_server(&mut self, scope: &Scope) -> Result<Server> {
        let content = self.compile_content(scope)?;
        let resolver = scope.resolver.compile(&mut self.resolvers)?;
        Ok(Server {
            core: scope.core.compile(self)?,
            access: scope.access.compile(),
            limit_conn: scope.limit_conn.compile(&self.limit_conn_zones)?,
            realip: scope.realip.compile(),
            set: scope.set.compile(self)?,
            ssl_preread: scope.names.preread(),
            ssl: scope.ssl.compile(self)?,
            log: scope.log.compile(&mut self.formats, &mut self.vars)?,
            proxy: scope.proxy.compile(self, resolver)?,
            content,
        })
    }

    fn compile_content(&mut self, scope: &Scope) -> Result<Content> {
        if let Some(word) = &scope.pass {
            return pass::compile(word, self).map(Content::Pass);
        }
        if let Some(word) = &scope.returns {
            return self.template(word).map(Content::Return);
        }
        match &scope.proxy.pass {
            Some(pass) => proxy::conf::compile_pass(pass, self).map(Content::Proxy),
            None => Err(scope.error("no handler for server")),
        }
    }
}
