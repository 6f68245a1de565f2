//! `limit_conn`: how many requests of one key may be served at a time.

use crate::config::{Arity, ConfigError, Contexts, Node, Reader, Result, Row, value};
use crate::http::exchange::Exchange;
use crate::http::respond::Reply;
use crate::http::scope::{Compiler, Scope};
use crate::inherit;
use crate::limits::conn::{self, Counted, Limited, Verdict};
use crate::vars::Variable;

const HSL: Contexts = Contexts::HTTP.or(Contexts::SERVER).or(Contexts::LOCATION);

/// What `stream` has too.
pub const SHARED_ROWS: &[Row<Scope>] = &conn::rows(Contexts::HTTP, HSL);

/// The directives of this module alone.
pub const ROWS: &[Row<Scope>] = &[
    Row::custom("limit_conn_status", HSL, Arity::One, read_status)
        .default("503")
        .doc("Status of a request above the limit."),
];

type V = Variable<Exchange>;

/// The variables of this module.
pub const VARIABLES: &[Variable<Exchange>] = &[V::new("limit_conn_status", |ex, _, out| {
    ex.limit_conn.verdict().write(out)
})
.doc("What `limit_conn` said: PASSED, REJECTED or REJECTED_DRY_RUN.")];

/// The zones of a configuration.
pub type Zones = conn::Zones<Exchange>;

/// What is written in one block.
#[derive(Default)]
pub struct Raw {
    shared: conn::Raw,
    status: Option<u16>,
}

/// The limits of a location.
pub struct Conf {
    shared: conn::Conf<Exchange>,
    status: u16,
}

impl Limited for Scope {
    fn limit_conn(&mut self) -> &mut conn::Raw {
        &mut self.limit_conn.shared
    }
}

impl Raw {
    /// Fills what is not written here from the enclosing block.
    pub fn inherit(&mut self, parent: &Raw) {
        self.shared.inherit(&parent.shared);
        inherit!(self, parent; status);
    }

    /// The zones of the `http` block.
    ///
    /// # Errors
    /// Names that occur twice, keys that are no values.
    pub fn compile_zones(&self, c: &mut Compiler) -> Result<Zones> {
        self.shared.compile_zones("http", &mut c.vars)
    }

    /// The limits in force in this block.
    ///
    /// # Errors
    /// Zones that are not there.
    pub fn compile(&self, c: &Compiler) -> Result<Conf> {
        Ok(Conf {
            shared: self.shared.compile(&c.limit_conn_zones)?,
            status: self.status.unwrap_or(503),
        })
    }
}

/// Counts the request, once in its life; the answer if it is above a limit.
pub fn check(ex: &mut Exchange) -> Option<Reply> {
    let is_asked = !ex
        .generation
        .location(ex.location)
        .limit_conn
        .shared
        .is_empty();
    if !is_asked || ex.limit_conn.verdict() != Verdict::None {
        return None;
    }
    let generation = ex.generation();
    let conf = &generation.location(ex.location).limit_conn;
    // Out of the exchange, which the keys are read from.
    let mut counted: Counted = std::mem::take(&mut ex.limit_conn);
    let log = |ex: &mut Exchange, level, message: std::fmt::Arguments<'_>| ex.log(level, message);
    let verdict = conf.shared.count(ex, &mut counted, log);
    ex.limit_conn = counted;
    (verdict == Verdict::Rejected).then(|| Reply::status(conf.status))
}

fn read_status(_: &mut Reader, scope: &mut Scope, node: &Node) -> Result<()> {
    let word = &node.args()[0];
    let status = value::number(word)?;
    let status = u16::try_from(status)
        .ok()
        .filter(|s| (400..600).contains(s));
    let status =
        status.ok_or_else(|| ConfigError::at(word.span, "value must be between 400 and 599"))?;
    value::once(&mut scope.limit_conn.status, status, node)
}
