//! nginx's configuration language: text to tree to typed values. This module knows the grammar and
//! the checks, but no directive's meaning: each directive is a [`Row`] in the module that
//! implements it.
//!
//! In reading order: `lex` (bytes to words), `parse` with `include` (words to [`Node`]s), `schema`
//! (what a row declares), `reader` (nodes and rows to filled scopes), `catalog` with `known` (all
//! directives there are, for suggestions and the documentation), `print` (trees to text), `listen`
//! and `access` (directives that `http` and `stream` read alike).

pub mod access;
mod catalog;
mod error;
mod include;
mod known;
mod lex;
pub mod listen;
pub mod network;
mod parse;
mod print;
mod reader;
mod schema;
mod source;
mod suggest;
mod tree;
pub mod value;

pub use catalog::{Catalog, Meta, Status, markdown};
pub use error::{ConfigError, Level, Remark, Result, os_error};
pub use parse::{INCLUDES_MAX, NESTING_MAX, parse_command_line, parse_text, read_file, read_text};
pub use print::{dump, print};
pub use reader::Reader;
pub use schema::{Arity, Contexts, Row, Set};
pub use source::Sources;
pub use suggest::nearest;
pub use tree::{Node, Span, Word, failure};
