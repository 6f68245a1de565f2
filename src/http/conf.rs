//! The compiled `http {}` block: immutable, shared by all workers, swapped whole on reload.
//!
//! Servers and locations live in flat arenas and refer to each other by index, so that an
//! exchange remembers where it is with two integers and no reference counts.

use std::path::Path;

use crate::base::listen::{ListenAddr, ListenOptions};
use crate::upstream::{Groups, ocsp};
use crate::vars::{Pattern, ServerNames};

use super::exchange::Exchange;
use super::modules::{
    access, core, early_hints, error_page, gzip, headers, http2, limit_conn, log, realip, rewrite,
    ssl, statics,
};
use super::proxy;

/// The whole `http {}` block, ready to serve.
pub struct HttpConf {
    /// Every address that is listened on, in the order of the file.
    pub listens: Vec<Listen>,
    /// Every `server {}`.
    pub servers: Vec<Server>,
    /// Every location, server root and `if` block.
    pub locations: Vec<Location>,
    /// Every upstream group, named and implicit.
    pub groups: Groups<Exchange>,
}

impl HttpConf {
    /// Every directory for temporary files, once.
    pub fn temporary_paths(&self) -> Vec<&Path> {
        let bodies = self
            .locations
            .iter()
            .map(|l| l.core.client_body_temp_path.as_path());
        let responses = self.locations.iter().map(|l| l.proxy.temp_path.as_path());
        let mut paths: Vec<&Path> = bodies.chain(responses).collect();
        paths.sort();
        paths.dedup();
        paths
    }

    /// Has the OCSP responses fetched that are stapled to certificates, from now on.
    pub fn keep_staples(&self) {
        for server in &self.servers {
            let resolver = &self.locations[server.root as usize].core.resolver;
            for kept in &server.ssl.stapled {
                ocsp::keep(kept.clone(), resolver.clone());
            }
        }
    }

    /// The index of a listening address.
    pub fn listen_at(&self, addr: &ListenAddr) -> Option<u32> {
        self.listens
            .iter()
            .position(|listen| listen.addr == *addr)
            .map(|at| at as u32)
    }
}

/// One listening address with the servers behind it.
pub struct Listen {
    /// The address.
    pub addr: ListenAddr,
    /// Options of its socket.
    pub options: ListenOptions,
    /// Connections begin with a PROXY protocol header.
    pub proxy_protocol: bool,
    /// Connections speak TLS.
    pub ssl: bool,
    /// `listen … http2`: connections may speak HTTP/2, whatever `http2` says.
    pub http2: bool,
    /// Server for requests that match no name.
    pub default_server: u32,
    /// Their names.
    pub names: ServerNames,
}

/// One `server {}`.
pub struct Server {
    /// `$server_name`: the first name, or empty.
    pub name: Box<[u8]>,
    /// The location that holds the server's own settings.
    pub root: u32,
    /// What is read before a location is known.
    pub client: core::ClientConf,
    /// The `ssl_…` directives, for listeners that speak TLS.
    pub ssl: ssl::Conf,
    /// The `http2…` directives.
    pub http2: http2::Conf,
    /// `@named` locations.
    pub named: Vec<(Box<[u8]>, u32)>,
}

/// A location, the root of a server, or an `if` block.
pub struct Location {
    /// As it is written: `/api/`, `~ \.php$`, `@fallback`; empty for a server's root.
    pub name: Box<[u8]>,
    /// What sort of location it is.
    pub kind: LocationKind,
    /// Locations directly inside this one.
    pub nested: LocationTree,
    /// Directives of the core module.
    pub core: core::Conf,
    /// `error_page`.
    pub error_page: error_page::Conf,
    /// `add_header`.
    pub headers: headers::Conf,
    /// `allow`, `deny`.
    pub access: access::Conf,
    /// `limit_conn` and friends.
    pub limit_conn: limit_conn::Conf,
    /// `set_real_ip_from` and friends.
    pub realip: realip::Conf,
    /// `access_log`.
    pub log: log::Conf,
    /// `gzip` and friends.
    pub gzip: gzip::Conf,
    /// `set`, `if`, `rewrite`, `return`, `break`.
    pub rewrite: rewrite::Script,
    /// The `proxy_…` directives.
    pub proxy: proxy::Conf,
    /// `root`, `index` and friends.
    pub statics: statics::Conf,
    /// `early_hints`.
    pub early_hints: early_hints::Conf,
    /// `http2_chunk_size`
    pub http2_chunk_size: usize,
    /// What answers here.
    pub content: Content,
}

/// What sort of location it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocationKind {
    /// Settings of a server outside of any location.
    ServerRoot,
    /// `location /x` and `location ^~ /x`.
    Prefix,
    /// `location = /x`.
    Exact,
    /// `location ~ x` and `location ~* x`.
    Regex,
    /// `location @x`.
    Named,
    /// An `if` or `limit_except` block.
    If,
}

/// The content handler of a location.
pub enum Content {
    /// Files below `root`.
    Static,
    /// `proxy_pass`.
    Proxy(proxy::Pass),
}

/// The locations directly inside a server or location.
#[derive(Default)]
pub struct LocationTree {
    /// `location = …`, sorted by name.
    pub exact: Vec<(Box<[u8]>, u32)>,
    /// Prefix locations, sorted by name.
    pub prefixes: Vec<Prefix>,
    /// Regex locations, in the order of the file.
    pub regexes: Vec<RegexLocation>,
}

/// A prefix location in a [`LocationTree`].
pub struct Prefix {
    /// The prefix.
    pub name: Box<[u8]>,
    /// Index of the longest other prefix that is a prefix of this one.
    pub parent: Option<u32>,
    /// `^~`: regexes are not tried.
    pub no_regex: bool,
    /// A request for the name without its last slash is redirected here.
    pub auto_redirect: bool,
    /// The location.
    pub location: u32,
}

/// A regex location in a [`LocationTree`].
pub struct RegexLocation {
    /// Matched against the normalised URI.
    pub pattern: Pattern,
    /// The location.
    pub location: u32,
}
