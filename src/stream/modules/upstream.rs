//! `upstream` in `stream {}`: groups of servers to balance among.

use crate::config::{Arity, Contexts, Node, Reader, Result, Row};
use crate::stream::scope::Scope;
use crate::upstream::{Kind, directives};

/// The directives of this module; those inside the block are `upstream::directives::ROWS`.
pub const ROWS: &[Row<Scope>] = &[Row::block("upstream", Contexts::STREAM, Arity::One, read)
    .doc("A group of servers to balance among.")];

fn read(reader: &mut Reader, stream: &mut Scope, node: &Node) -> Result<()> {
    directives::read_upstream(reader, node, Kind::Stream, &mut stream.stream.upstreams)
}
