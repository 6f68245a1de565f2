//! `limit_conn`: how many sessions of one key there may be at a time.

use std::fmt;

use crate::config::{Contexts, Row};
use crate::limits::conn::{self, Limited, Verdict};
use crate::stream::scope::Scope;
use crate::stream::serve::End;
use crate::stream::session::Session;
use crate::vars::Variable;

pub use crate::limits::conn::Raw;

const SS: Contexts = Contexts::STREAM.or(Contexts::STREAM_SERVER);

type V = Variable<Session>;

/// The directives of this module.
pub const ROWS: &[Row<Scope>] = &conn::rows(Contexts::STREAM, SS);

/// The variables of this module.
pub const VARIABLES: &[V] = &[V::new("limit_conn_status", |s, _, out| {
    s.limit_conn.verdict().write(out)
})
.doc("What `limit_conn` said: PASSED, REJECTED or REJECTED_DRY_RUN.")];

/// The zones of a configuration.
pub type Zones = conn::Zones<Session>;

/// The limits of a server.
pub type Conf = conn::Conf<Session>;

impl Limited for Scope {
    fn limit_conn(&mut self) -> &mut Raw {
        &mut self.limit_conn
    }
}

/// Counts the session until it is over.
///
/// # Errors
/// 503 if it is above a limit.
pub fn check(s: &mut Session) -> Result<(), End> {
    let generation = s.generation();
    let conf = &generation.server(s.server).limit_conn;
    if conf.is_empty() {
        return Ok(());
    }
    // Out of the session, which the keys are read from.
    let mut counted = std::mem::take(&mut s.limit_conn);
    let log = |s: &mut Session, level, message: fmt::Arguments<'_>| s.log(level, message);
    let verdict = conf.count(s, &mut counted, log);
    s.limit_conn = counted;
    match verdict {
        Verdict::Rejected => Err(503),
        _ => Ok(()),
    }
}
