//! Limits that all workers count together, for `http` and `stream` alike.
//!
//! - [`zone`]: connections by key, in a table of fixed size.
//! - [`conn`]: `limit_conn` and its relatives, from the directive to the verdict.

pub mod conn;
pub mod zone;
