//! Blocks of the configuration while they are read, and their way to the compiled form.
//!
//! Reading stores what is written, in a [`Scope`] per block. When the whole file is read,
//! [`compile`] lets each scope inherit from its parent (nginx's merge) and turns names into
//! what they mean: variables, upstream groups, regexes. So a definition may follow its use.

use crate::config::{Contexts, Node, Reader, Result, Row, Word};
use crate::upstream::{Groups, Kind, UpstreamRaw};
use crate::vars::{Pattern, Template, Variables};

use super::conf::{
    Content, HttpConf, Location, LocationKind, LocationTree, Prefix, RegexLocation, Server,
};
use super::exchange::Exchange;
use super::modules::{
    access, core, early_hints, error_page, gzip, headers, http2, later, limit_conn, log, map,
    realip, resolver, rewrite, server, ssl, statics, upstream,
};
use super::proxy;

/// One `http`, `server`, `location` or `if` block as it was read.
#[derive(Default)]
pub struct Scope {
    /// Directives of the core module.
    pub core: core::Raw,
    /// `resolver`, `resolver_timeout`.
    pub resolver: resolver::Raw,
    /// `error_page`.
    pub error_page: error_page::Raw,
    /// `add_header`.
    pub headers: headers::Raw,
    /// `allow`, `deny`.
    pub access: access::Raw,
    /// `limit_conn` and friends.
    pub limit_conn: limit_conn::Raw,
    /// `set_real_ip_from` and friends.
    pub realip: realip::Raw,
    /// `access_log`.
    pub log: log::Raw,
    /// `gzip` and friends.
    pub gzip: gzip::Raw,
    /// `set`, `if`, `rewrite`, `return`, `break`; never inherited.
    pub rewrite: rewrite::Raw,
    /// The `proxy_…` directives.
    pub proxy: proxy::conf::Raw,
    /// The `grpc_…` directives.
    pub grpc: proxy::conf::Raw,
    /// `root` and friends.
    pub statics: statics::Raw,
    /// What only `server {}` has.
    pub server: server::Raw,
    /// The `ssl_…` directives.
    pub ssl: ssl::Raw,
    /// `early_hints`.
    pub early_hints: early_hints::Raw,
    /// The `http2…` directives.
    pub http2: http2::Raw,
    /// What the block is, and where it stands.
    pub place: Place,
    /// Locations and `if` blocks inside this one, in the order of the file.
    pub children: Vec<Scope>,
    /// What only `http {}` has.
    pub http: HttpRaw,
}

/// What only `http {}` has.
#[derive(Default)]
pub struct HttpRaw {
    /// `upstream` blocks.
    pub upstreams: Vec<UpstreamRaw>,
    /// `map`, `geo`, `split_clients` blocks, compiled when all variables are known.
    pub maps: Vec<Node>,
    /// `log_format`s.
    pub formats: Vec<log::RawFormat>,
}

/// What a location-like block is.
#[derive(Default)]
pub struct Place {
    /// `None` for `http {}`.
    pub kind: Option<LocationKind>,
    /// Modifier of a location: `=`, `^~`, `~`, `~*`, or empty.
    pub modifier: &'static str,
    /// Name or pattern.
    pub name: Option<Word>,
}

/// Every table of directives that may stand in `http`, `server`, `location` and `if`.
pub fn tables() -> [&'static [Row<Scope>]; 26] {
    [
        core::ROWS,
        server::ROWS,
        ssl::SHARED_ROWS,
        ssl::ROWS,
        http2::ROWS,
        early_hints::ROWS,
        error_page::ROWS,
        headers::ROWS,
        access::ROWS,
        limit_conn::SHARED_ROWS,
        limit_conn::ROWS,
        realip::ROWS,
        log::ROWS,
        gzip::ROWS,
        rewrite::ROWS,
        proxy::conf::COMMON_ROWS,
        proxy::conf::SSL_ROWS,
        proxy::conf::ROWS,
        proxy::conf::GRPC_COMMON_ROWS,
        proxy::conf::GRPC_SSL_ROWS,
        proxy::conf::GRPC_ROWS,
        statics::ROWS,
        map::ROWS,
        resolver::ROWS,
        upstream::ROWS,
        later::ROWS,
    ]
}

/// Reads the content of one block into `scope`.
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
    pub vars: Variables<Exchange>,
    /// Upstream groups, named and implicit.
    pub groups: Groups<Exchange>,
    servers: Vec<Server>,
    locations: Vec<Location>,
    /// `log_format`s by name.
    pub formats: log::Formats,
    /// The zones of `limit_conn`.
    pub limit_conn_zones: limit_conn::Zones,
    /// What the `ssl_…` directives of several servers have in common.
    pub ssl: ssl::Common,
    /// The resolvers in use, so that equal ones share a cache.
    pub resolvers: resolver::Table,
    /// Main-context `error_log`, which `http {}` inherits.
    pub error_log: crate::observe::ErrorLog,
}

/// Turns the `http {}` block into its compiled form.
///
/// # Errors
/// The first name that means nothing, or combination that nginx refuses, with its place.
pub fn compile(
    reader: &mut Reader,
    mut http: Scope,
    error_log: crate::observe::ErrorLog,
) -> Result<HttpConf> {
    let vars = Variables::new(&super::variables::TABLES);
    let mut c = Compiler {
        reader,
        vars,
        groups: Groups::new(Kind::Http),
        servers: Vec::new(),
        locations: Vec::new(),
        formats: log::Formats::default(),
        limit_conn_zones: limit_conn::Zones::default(),
        ssl: ssl::Common::default(),
        resolvers: resolver::Table::default(),
        error_log,
    };
    for node in std::mem::take(&mut http.http.maps) {
        crate::vars::define(&node, &mut c.vars)?;
    }
    c.formats = log::Formats::compile(std::mem::take(&mut http.http.formats), &mut c.vars)?;
    for raw in std::mem::take(&mut http.http.upstreams) {
        let resolver = http.resolver.compile(&mut c.resolvers)?;
        c.groups.add(&raw, resolver.as_ref(), &mut c.vars)?;
    }
    c.limit_conn_zones = http.limit_conn.compile_zones(&mut c)?;
    http.log.check(&mut c.formats, &mut c.vars)?;
    http.core.finish_root();
    http.ssl.declare_zones(&mut c.ssl)?;
    let mut servers = std::mem::take(&mut http.children);
    for scope in &mut servers {
        scope.inherit(&http);
        let id = c.servers.len() as u32;
        let name = scope.server.first_name();
        let client = scope.core.compile_client();
        scope.ssl.inherit(&http.ssl);
        let ssl = scope.ssl.compile(&mut c)?;
        let http2 = scope.http2.compile(&ssl);
        let root = c.compile_location(scope)?;
        let named = c.named_of(root);
        debug_assert_eq!(id, c.servers.len() as u32);
        c.servers.push(Server {
            name,
            root,
            client,
            ssl,
            http2,
            named,
        });
    }
    let listens = server::compile_listens(&mut c, &servers)?;
    c.vars.finish()?;
    Ok(HttpConf {
        listens,
        servers: c.servers,
        locations: c.locations,
        groups: c.groups,
    })
}

impl Scope {
    /// An empty block of this kind.
    pub fn new(kind: LocationKind) -> Self {
        Scope {
            place: Place {
                kind: Some(kind),
                ..Place::default()
            },
            ..Scope::default()
        }
    }

    /// The directives that lead to an upstream from here.
    fn upstream(&self) -> (proxy::conf::Side, &proxy::conf::Raw) {
        match self.grpc.pass {
            Some(_) => (proxy::conf::Side::Grpc, &self.grpc),
            None => (proxy::conf::Side::Proxy, &self.proxy),
        }
    }

    fn inherit(&mut self, parent: &Scope) {
        self.core.inherit(&parent.core);
        self.resolver.inherit(&parent.resolver);
        self.error_page.inherit(&parent.error_page);
        self.headers.inherit(&parent.headers);
        self.access.inherit(&parent.access);
        self.limit_conn.inherit(&parent.limit_conn);
        self.realip.inherit(&parent.realip);
        self.log.inherit(&parent.log);
        self.gzip.inherit(&parent.gzip);
        self.rewrite.inherit(&parent.rewrite);
        let is_passed = self.proxy.pass.is_some() || self.grpc.pass.is_some();
        let into_if = self.place.kind == Some(LocationKind::If) && !is_passed;
        self.proxy.inherit(&parent.proxy, into_if);
        self.grpc.inherit(&parent.grpc, into_if);
        self.statics.inherit(&parent.statics);
        self.http2.inherit(&parent.http2);
        self.early_hints.inherit(&parent.early_hints);
    }
}

impl Compiler<'_, '_> {
    /// A server that has been compiled.
    pub fn server(&self, id: u32) -> &Server {
        &self.servers[id as usize]
    }

    /// Compiles a value with variables.
    pub fn template(&mut self, word: &Word) -> Result<Template<Exchange>> {
        Template::compile(word, &mut self.vars)
    }

    /// Compiles a regex; its named groups become variables.
    pub fn pattern(&mut self, word: &Word, source: &[u8], caseless: bool) -> Result<Pattern> {
        Pattern::compile(source, caseless, word.span, &mut self.vars)
    }

    /// Compiles `scope`, whose inheritance is settled, and all that is inside it.
    fn compile_location(&mut self, scope: &mut Scope) -> Result<u32> {
        let mut nested = LocationTree::default();
        let mut children = std::mem::take(&mut scope.children);
        let mut ids = Vec::with_capacity(children.len());
        for child in &mut children {
            child.inherit(scope);
            let id = self.compile_location(child)?;
            ids.push(id);
            self.add_to_tree(&mut nested, child, id)?;
        }
        scope.children = children;
        nested.finish();
        let (side, upstream) = scope.upstream();
        let content = match self.compile_content(scope)? {
            Some(pass) => Content::Proxy(pass),
            None => Content::Static,
        };
        let location = Location {
            name: scope
                .place
                .name
                .as_ref()
                .map(|w| w.bytes.clone())
                .unwrap_or_default(),
            kind: scope.place.kind.unwrap_or(LocationKind::ServerRoot),
            nested,
            core: scope.core.compile(self, &scope.resolver)?,
            error_page: scope.error_page.compile(self)?,
            headers: scope.headers.compile(self)?,
            access: scope.access.compile(),
            limit_conn: scope.limit_conn.compile(self)?,
            realip: scope.realip.compile(),
            log: scope.log.compile(&mut self.formats, &mut self.vars)?,
            gzip: scope.gzip.compile(self)?,
            rewrite: scope.rewrite.compile(self, &ids)?,
            proxy: upstream.compile(self, scope, side)?,
            statics: scope.statics.compile(self)?,
            early_hints: scope.early_hints.compile(self)?,
            http2_chunk_size: scope.http2.chunk_size(),
            content,
        };
        self.locations.push(location);
        Ok(self.locations.len() as u32 - 1)
    }

    fn compile_content(&mut self, scope: &Scope) -> Result<Option<proxy::Pass>> {
        let (side, upstream) = scope.upstream();
        match &upstream.pass {
            Some(pass) => {
                let tag = self.locations.len() as u64;
                proxy::conf::compile_pass(pass, side, scope, self, tag).map(Some)
            }
            None => Ok(None),
        }
    }

    fn add_to_tree(&mut self, tree: &mut LocationTree, child: &Scope, id: u32) -> Result<()> {
        let Some(word) = &child.place.name else {
            return Ok(());
        };
        let name = word.bytes.clone();
        match child.place.kind {
            Some(LocationKind::Exact) => tree.exact.push((name, id)),
            Some(LocationKind::Prefix) => tree.prefixes.push(Prefix {
                auto_redirect: name.ends_with(b"/") && child.upstream().1.pass.is_some(),
                name,
                parent: None,
                no_regex: child.place.modifier == "^~",
                location: id,
            }),
            Some(LocationKind::Regex) => {
                let caseless = child.place.modifier == "~*";
                let pattern = self.pattern(word, &word.bytes, caseless)?;
                tree.regexes.push(RegexLocation {
                    pattern,
                    location: id,
                });
            }
            _ => {}
        }
        Ok(())
    }

    /// The named locations of the server just compiled: its part of the arena ends at its root.
    fn named_of(&self, root: u32) -> Vec<(Box<[u8]>, u32)> {
        let first = self.servers.last().map_or(0, |s| s.root + 1);
        (first..root)
            .filter(|id| self.locations[*id as usize].kind == LocationKind::Named)
            .map(|id| (self.locations[id as usize].name.clone(), id))
            .collect()
    }
}
