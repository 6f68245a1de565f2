//! `upstream` in `http {}`: groups of servers to balance among.

use crate::config::{Arity, Contexts, Node, Reader, Result, Row};
use crate::http::scope::Scope;
use crate::upstream::{Kind, directives};

/// The directives of this module; those inside the block are `upstream::directives::ROWS`.
pub const ROWS: &[Row<Scope>] = &[Row::block("upstream", Contexts::HTTP, Arity::One, read)
    .doc("A group of servers to balance among.")];

fn read(reader: &mut Reader, http: &mut Scope, node: &Node) -> Result<()> {
    directives::read_upstream(reader, node, Kind::Http, &mut http.http.upstreams)
}
