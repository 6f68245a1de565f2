//! The compiled `stream {}` block: immutable, shared by all workers, swapped whole on reload.

use std::collections::HashMap;

use crate::base::listen::{ListenAddr, ListenOptions};
use crate::upstream::{Groups, ocsp};
use crate::vars::{ServerNames, Template};

use super::modules::{access, core, limit_conn, log, pass, realip, set, ssl};
use super::proxy;
use super::session::Session;

/// The whole `stream {}` block, ready to serve.
pub struct StreamConf {
    /// Every address that is listened on, in the order of the file.
    pub listens: Vec<Listen>,
    /// Every `server {}`.
    pub servers: Vec<Server>,
    /// Every upstream group, named and implicit.
    pub groups: Groups<Session>,
    /// Where an address stands in `listens`: a range of ports makes many.
    pub(super) index: HashMap<ListenAddr, u32>,
}

impl StreamConf {
    /// Has the OCSP responses fetched that are stapled to certificates, from now on.
    pub fn keep_staples(&self) {
        for server in &self.servers {
            for kept in &server.ssl.shared().stapled {
                ocsp::keep(kept.clone(), server.proxy.resolver.clone());
            }
        }
    }

    /// The index of a listening address.
    pub fn listen_at(&self, addr: &ListenAddr) -> Option<u32> {
        self.index.get(addr).copied()
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
    /// Clients speak TLS.
    pub ssl: bool,
    /// The server that sessions begin with.
    pub default_server: u32,
    /// The names of the servers that share it.
    pub names: ServerNames,
}

/// One `server {}`.
pub struct Server {
    /// Directives of the core module.
    pub core: core::Conf,
    /// `allow`, `deny`.
    pub access: access::Conf,
    /// `limit_conn` and friends.
    pub limit_conn: limit_conn::Conf,
    /// `set_real_ip_from`.
    pub realip: realip::Conf,
    /// `set`
    pub set: set::Conf,
    /// `ssl_preread`
    pub ssl_preread: bool,
    /// The `ssl_…` directives, for listeners that speak TLS.
    pub ssl: ssl::Conf,
    /// `access_log`.
    pub log: log::Conf,
    /// The `proxy_…` directives.
    pub proxy: proxy::Conf,
    /// What answers here.
    pub content: Content,
}

/// The content handler of a server.
pub enum Content {
    /// `proxy_pass`
    Proxy(proxy::Pass),
    /// `return`
    Return(Template<Session>),
    /// `pass`
    Pass(pass::Conf),
}
