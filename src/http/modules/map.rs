//! `map`, `geo` and `split_clients` in `http {}`: variables that depend on others.

use crate::config::{Contexts, Node, Reader, Result, Row};
use crate::http::scope::Scope;
use crate::vars;

/// The directives of this module.
pub const ROWS: &[Row<Scope>] = &vars::rows(Contexts::HTTP, keep);

/// Compiled when the whole file is read: values may use variables that are defined later.
fn keep(_: &mut Reader, http: &mut Scope, node: &Node) -> Result<()> {
    http.http.maps.push(node.clone());
    Ok(())
}
