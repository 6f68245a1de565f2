//! `allow` and `deny`: who may come in, by address.

use crate::config::access::{self, Guarded};
use crate::config::{Contexts, Row};
use crate::observe::Level;
use crate::stream::scope::Scope;
use crate::stream::serve::End;
use crate::stream::session::Session;

pub use crate::base::network::Rules as Conf;
pub use crate::config::access::Raw;

const SS: Contexts = Contexts::STREAM.or(Contexts::STREAM_SERVER);

/// The directives of this module.
pub const ROWS: &[Row<Scope>] = &access::rows(SS);

impl Guarded for Scope {
    fn access(&mut self) -> &mut Raw {
        &mut self.access
    }
}

/// The access phase.
///
/// # Errors
/// 403 if the rules keep the client out.
pub fn check(s: &Session) -> Result<(), End> {
    let rules = &s.generation.server(s.server).access;
    if !rules.deny(s.remote.ip()) {
        return Ok(());
    }
    s.log(Level::Error, format_args!("access forbidden by rule"));
    Err(403)
}
