//! `map`, `geo` and `split_clients` in `stream {}`: variables that depend on others.

use crate::config::{Contexts, Node, Reader, Result, Row};
use crate::stream::scope::Scope;
use crate::vars;

/// The directives of this module.
pub const ROWS: &[Row<Scope>] = &vars::rows(Contexts::STREAM, keep);

/// Compiled when the whole file is read: values may use variables that are defined later.
fn keep(_: &mut Reader, stream: &mut Scope, node: &Node) -> Result<()> {
    stream.stream.maps.push(node.clone());
    Ok(())
}
