//! `map`, `geo` and `split_clients` in `stream {}`: variables that depend on others.

use crate::config::{Arity, Contexts, Node, Reader, Result, Row};
use crate::stream::scope::Scope;
use crate::vars;

const HASHES: &str = "sizes nginx's hash tables; ringway's grow as needed";

/// The blocks.
pub const ROWS: &[Row<Scope>] = &vars::rows(Contexts::STREAM, keep);

/// What only tunes nginx.
pub const NOTICES: &[Row<Scope>] = &[
    Row::notice("map_hash_max_size", Contexts::STREAM, Arity::One, HASHES),
    Row::notice("map_hash_bucket_size", Contexts::STREAM, Arity::One, HASHES),
];

/// Compiled when the whole file is read: values may use variables that are defined later.
fn keep(_: &mut Reader, stream: &mut Scope, node: &Node) -> Result<()> {
    stream.stream.maps.push(node.clone());
    Ok(())
}
