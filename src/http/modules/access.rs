//! `allow` and `deny`: who may come in, by address.

use crate::config::access::{self, Guarded};
use crate::config::{Contexts, Row};
use crate::http::exchange::Exchange;
use crate::http::respond::Reply;
use crate::http::scope::Scope;
use crate::observe::Level;

pub use crate::base::network::Rules as Conf;
pub use crate::config::access::Raw;

const PLACES: Contexts = Contexts::HTTP
    .or(Contexts::SERVER)
    .or(Contexts::LOCATION)
    .or(Contexts::LIMIT_EXCEPT);

/// The directives of this module.
pub const ROWS: &[Row<Scope>] = &access::rows(PLACES);

impl Guarded for Scope {
    fn access(&mut self) -> &mut Raw {
        &mut self.access
    }
}

/// 403 if the rules keep the client out.
pub fn check(ex: &Exchange) -> Option<Reply> {
    let rules = &ex.generation.location(ex.location).access;
    if !rules.deny(ex.client.remote.ip()) {
        return None;
    }
    ex.log(Level::Error, format_args!("access forbidden by rule"));
    Some(Reply::status(403))
}
