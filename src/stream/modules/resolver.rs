//! `resolver`: who is asked for names that are only known at run time.

use std::time::Duration;

use crate::config::{Arity, Contexts, Result, Row, Word};
use crate::inherit;
use crate::stream::scope::{Compiler, Scope};
use crate::upstream::{Resolver, directives};

const SS: Contexts = Contexts::STREAM.or(Contexts::STREAM_SERVER);

type R = Row<Scope>;

/// The directives of this module.
pub const ROWS: &[Row<Scope>] = &[
    R::words("resolver", SS, Arity::AtLeast(1), |s| {
        &mut s.resolver.resolver
    })
    .doc("Name servers for names that are looked up at run time."),
    R::time("resolver_timeout", SS, |s| &mut s.resolver.timeout)
        .default("30s")
        .doc("How long a name may take to look up."),
];

/// What is written in one block.
#[derive(Default)]
pub struct Raw {
    resolver: Option<Vec<Word>>,
    timeout: Option<Duration>,
}

/// The resolvers of a configuration: equal ones share a cache.
#[derive(Default)]
pub struct Table(Vec<Resolver>);

impl Raw {
    /// Fills what is not written here from the enclosing block.
    pub fn inherit(&mut self, parent: &Raw) {
        inherit!(self, parent; resolver, timeout);
    }

    /// The resolver, if one is set.
    pub fn compile(&self, c: &mut Compiler) -> Result<Option<Resolver>> {
        let Some(words) = &self.resolver else {
            return Ok(None);
        };
        let conf = directives::resolver_conf(words, self.timeout)?;
        if let Some(known) = c.resolvers.0.iter().find(|r| *r.conf() == conf) {
            return Ok(Some(known.clone()));
        }
        let resolver = Resolver::new(conf);
        c.resolvers.0.push(resolver.clone());
        Ok(Some(resolver))
    }
}
