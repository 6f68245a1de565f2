//! `resolver` and `resolver_timeout`, which `http` and `stream` have alike.

use std::time::Duration;

use super::{Resolver, directives};
use crate::config::{Arity, Contexts, Result, Row, Word};
use crate::inherit;

/// A block that may name resolvers.
pub trait Resolves {
    /// What is written in it.
    fn resolver(&mut self) -> &mut ResolverRaw;
}

/// The directives, for blocks in `places`.
pub const fn rows<S: Resolves + 'static>(places: Contexts) -> [Row<S>; 2] {
    [
        Row::words("resolver", places, Arity::AtLeast(1), |s: &mut S| {
            &mut s.resolver().resolver
        })
        .doc("Name servers for names that are looked up at run time."),
        Row::time("resolver_timeout", places, |s: &mut S| {
            &mut s.resolver().timeout
        })
        .default("30s")
        .doc("How long a name may take to look up."),
    ]
}

/// What is written in one block.
#[derive(Default)]
pub struct ResolverRaw {
    resolver: Option<Vec<Word>>,
    timeout: Option<Duration>,
}

/// The resolvers of a configuration: equal ones share a cache.
#[derive(Default)]
pub struct ResolverTable(Vec<Resolver>);

impl ResolverRaw {
    /// Fills what is not written here from the enclosing block.
    pub fn inherit(&mut self, parent: &ResolverRaw) {
        inherit!(self, parent; resolver, timeout);
    }

    /// The resolver, if one is set.
    ///
    /// # Errors
    /// nginx's, about the addresses and parameters.
    pub fn compile(&self, table: &mut ResolverTable) -> Result<Option<Resolver>> {
        let Some(words) = &self.resolver else {
            return Ok(None);
        };
        let conf = directives::resolver_conf(words, self.timeout)?;
        if let Some(known) = table.0.iter().find(|r| *r.conf() == conf) {
            return Ok(Some(known.clone()));
        }
        let resolver = Resolver::new(conf);
        table.0.push(resolver.clone());
        Ok(Some(resolver))
    }
}
