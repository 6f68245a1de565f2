//! `set_real_ip_from`: the client's address as a trusted balancer tells it in its PROXY protocol
//! header.

use crate::base::network::Network;
use crate::base::remote::Remote;
use crate::config::{Arity, Contexts, Row};
use crate::inherit;
use crate::stream::scope::Scope;
use crate::stream::session::Session;
use crate::upstream::address::proxies;

const SS: Contexts = Contexts::STREAM.or(Contexts::STREAM_SERVER);

type R = Row<Scope>;

/// The directives of this module.
pub const ROWS: &[Row<Scope>] =
    &[
        R::custom("set_real_ip_from", SS, Arity::One, |reader, s, node| {
            proxies(reader, &mut s.realip.from, node)
        })
        .doc("A balancer that is trusted to tell the client's address."),
    ];

/// What is written in one block.
#[derive(Default)]
pub struct Raw {
    from: Option<Vec<Network>>,
}

/// Whom a server believes.
pub struct Conf {
    from: Vec<Network>,
}

impl Raw {
    /// Fills what is not written here from the enclosing block.
    pub fn inherit(&mut self, parent: &Raw) {
        inherit!(self, parent; from);
    }

    /// The compiled settings.
    pub fn compile(&self) -> Conf {
        Conf {
            from: self.from.clone().unwrap_or_default(),
        }
    }
}

/// Gives the session the client's address, where a trusted balancer told it.
pub fn apply(s: &mut Session) {
    let generation = s.generation();
    let from = &generation.server(s.server).realip.from;
    let Some(header) = &s.proxy_protocol else {
        return;
    };
    if from.iter().any(|from| from.contains(s.remote.ip())) {
        let client = Remote::Inet(header.source);
        s.peer = Some(std::mem::replace(&mut s.remote, client));
    }
}
