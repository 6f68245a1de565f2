//! `allow` and `deny`: who may come in, by address.

use crate::base::network::Rules;
use crate::config::network::rule;
use crate::config::{Arity, Contexts, Row};
use crate::http::exchange::Exchange;
use crate::http::respond::Reply;
use crate::http::scope::Scope;
use crate::inherit;
use crate::observe::Level;

const PLACES: Contexts = Contexts::HTTP
    .or(Contexts::SERVER)
    .or(Contexts::LOCATION)
    .or(Contexts::LIMIT_EXCEPT);

type R = Row<Scope>;

/// The directives of this module.
pub const ROWS: &[Row<Scope>] = &[
    R::custom("allow", PLACES, Arity::One, |reader, s, node| {
        rule(reader, &mut s.access.rules, node, true)
    })
    .doc("Lets an address or network in."),
    R::custom("deny", PLACES, Arity::One, |reader, s, node| {
        rule(reader, &mut s.access.rules, node, false)
    })
    .doc("Keeps an address or network out."),
];

/// What is written in one block; inherited only where a block has neither directive.
#[derive(Default)]
pub struct Raw {
    rules: Option<Rules>,
}

/// The rules of a location.
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

/// 403 if the rules keep the client out.
pub fn check(ex: &Exchange) -> Option<Reply> {
    let rules = &ex.generation.location(ex.location).access.0;
    if !rules.deny(ex.client.remote.ip()) {
        return None;
    }
    ex.log(Level::Error, format_args!("access forbidden by rule"));
    Some(Reply::status(403))
}
