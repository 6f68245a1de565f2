//! `map`, `geo` and `split_clients` in `http {}`: variables that depend on others.

use crate::config::{Arity, Contexts, Node, Reader, Result, Row};
use crate::http::scope::Scope;
use crate::vars;

const HASHES: &str = "sizes nginx's hash tables; ringway's grow as needed";

/// The blocks.
pub const ROWS: &[Row<Scope>] = &vars::rows(Contexts::HTTP, keep);

/// What only tunes nginx.
pub const NOTICES: &[Row<Scope>] = &[
    Row::notice("map_hash_max_size", Contexts::HTTP, Arity::One, HASHES),
    Row::notice("map_hash_bucket_size", Contexts::HTTP, Arity::One, HASHES),
];

/// Compiled when the whole file is read: values may use variables that are defined later.
fn keep(_: &mut Reader, http: &mut Scope, node: &Node) -> Result<()> {
    http.http.maps.push(node.clone());
    Ok(())
}
