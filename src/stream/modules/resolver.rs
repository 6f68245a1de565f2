//! `resolver`: who is asked for names that are only known at run time.

use crate::config::{Contexts, Row};
use crate::stream::scope::Scope;
use crate::upstream::resolver::{self, Resolves};

pub use crate::upstream::resolver::{ResolverRaw as Raw, ResolverTable as Table};

const SS: Contexts = Contexts::STREAM.or(Contexts::STREAM_SERVER);

/// The directives of this module.
pub const ROWS: &[Row<Scope>] = &resolver::rows(SS);

impl Resolves for Scope {
    fn resolver(&mut self) -> &mut Raw {
        &mut self.resolver
    }
}
