//! `allow` and `deny`: who may come in, by address.

use crate::base::network::Rules;
use crate::config::network::rule;
use crate::config::{Arity, Contexts, Row};
use crate::inherit;
use crate::observe::Level;
use crate::stream::scope::Scope;
use crate::stream::serve::End;
use crate::stream::session::Session;

const SS: Contexts = Contexts::STREAM.or(Contexts::STREAM_SERVER);

type R = Row<Scope>;

/// The directives of this module.
pub const ROWS: &[Row<Scope>] = &[
    R::custom("allow", SS, Arity::One, |reader, s, node| {
        rule(reader, &mut s.access.rules, node, true)
    })
    .doc("Lets an address or network in."),
    R::custom("deny", SS, Arity::One, |reader, s, node| {
        rule(reader, &mut s.access.rules, node, false)
    })
    .doc("Keeps an address or network out."),
];

/// What is written in one block; inherited only where a block has neither directive.
#[derive(Default)]
pub struct Raw {
    rules: Option<Rules>,
}

/// The rules of a server.
pub struct Conf(Rules);

impl Raw {
    /// Takes the enclosing block's rules where there are none here.
    pub fn inherit(&mut self, parent: &Raw) {
        inherit!(self, parent; rules);
    }

    /// The compiled rules.
    pub fn compile(&self) -> Conf {
        Conf(self.rules.clone().unwrap_or_default())
    }
}

/// The access phase.
///
/// # Errors
/// 403 if the rules keep the client out.
pub fn check(s: &Session) -> Result<(), End> {
    let rules = &s.generation.server(s.server).access.0;
    if !rules.deny(s.remote.ip()) {
        return Ok(());
    }
    s.log(Level::Error, format_args!("access forbidden by rule"));
    Err(403)
}
