//! Variables: `"text with $variables"` → compiled template → bytes.
//!
//! The layer knows neither HTTP nor TCP. Whatever has variables (an exchange, a session) is a
//! [`Subject`]; modules above declare theirs as tables of [`Variable`]; a configuration collects
//! them, with those the file itself defines (`set`, `map`, named groups of regular expressions), in
//! [`Variables`], against which every [`Template`] is compiled.
//!
//! The order of definitions in a file does not matter: a template may name a variable that a later
//! `map` defines. The link is made by [`Variables::finish`], which also reports the names nothing
//! defines.

pub mod access_log;
pub mod common;
mod geo;
mod hostnames;
mod log_format;
mod map;
mod pattern;
mod registry;
mod server_names;
mod split_clients;
mod store;
mod template;

use crate::config::{Arity, Contexts, Node, Reader, Result, Row};

pub use hostnames::{HostTable, NameError};
pub use map::variable_name;
pub use pattern::Pattern;
pub use registry::{Compute, Reference, Target, Variables};
pub use server_names::{Named, ServerNames, check_names};
pub use store::{Slot, Store, Stored};
pub use template::{Piece, Template, pieces};

/// What variables are asked of: an HTTP exchange or a stream session.
pub trait Subject: Sized + 'static {
    /// The values kept for this subject.
    fn store(&self) -> &Store;
    /// The values kept for this subject, for writing.
    fn store_mut(&mut self) -> &mut Store;
    /// A variable of `set` is read and nothing was written to it yet. Told once per request and
    /// variable.
    fn uninitialized(&mut self, _name: &str) {}
}

/// Appends the value of a variable to `out` and says whether there is one.
///
/// `name` is the full variable name, or, for a prefix variable, what follows the prefix; always in
/// lower case. "No value" (false) reads as an empty string in templates and as `-` in logs; a
/// getter that answers false has appended nothing.
pub type Get<S> = fn(&mut S, name: &[u8], out: &mut Vec<u8>) -> bool;

/// Takes the value that `set` assigns to a built-in variable (`$args`, `$limit_rate`).
pub type Put<S> = fn(&mut S, value: &[u8]);

/// One built-in variable, or a family of them (`http_`, `arg_` …); modules declare const tables of
/// these.
pub struct Variable<S: 'static> {
    /// The name without `$`, in lower case; a family's prefix ends with `_`.
    pub name: &'static str,
    /// Whether `name` is a prefix.
    pub prefix: bool,
    /// Whether a configuration may define it anew (`map`, named groups).
    pub changeable: bool,
    /// Reads it.
    pub get: Get<S>,
    /// What `set` does instead of shadowing it.
    pub put: Option<Put<S>>,
    /// One line for the reference.
    pub doc: &'static str,
}

impl<S: 'static> Variable<S> {
    /// A variable of its own.
    pub const fn new(name: &'static str, get: Get<S>) -> Self {
        Self {
            name,
            prefix: false,
            changeable: false,
            get,
            put: None,
            doc: "",
        }
    }

    /// A family of variables which share a prefix; `get` receives what follows it.
    pub const fn family(prefix: &'static str, get: Get<S>) -> Self {
        Self {
            name: prefix,
            prefix: true,
            changeable: false,
            get,
            put: None,
            doc: "",
        }
    }

    /// Lets a configuration define a variable of the same name in its place.
    pub const fn changeable(mut self) -> Self {
        self.changeable = true;
        self
    }

    /// Makes `set` call `put`; such a variable is changeable.
    pub const fn settable(mut self, put: Put<S>) -> Self {
        self.put = Some(put);
        self.changeable()
    }

    /// The line for the reference.
    pub const fn doc(mut self, doc: &'static str) -> Self {
        self.doc = doc;
        self
    }
}

/// The rows of `map`, `geo` and `split_clients` for `top`, the block where variables are defined.
/// `keep` puts the block aside until [`define`] compiles it, after the whole file is read.
pub const fn rows<Scope: 'static>(
    top: Contexts,
    keep: fn(&mut Reader<'_>, &mut Scope, &Node) -> Result<()>,
) -> [Row<Scope>; 5] {
    [
        Row::block("map", top, Arity::Exactly(2), keep)
            .doc("Defines a variable whose value depends on another string."),
        Row::block("geo", top, Arity::Between(1, 2), keep)
            .doc("Defines a variable whose value depends on an IP address."),
        Row::block("split_clients", top, Arity::Exactly(2), keep)
            .doc("Defines a variable that splits clients into shares by a hash of a string."),
        Row::notice("map_hash_max_size", top, Arity::One, HASHES),
        Row::notice("map_hash_bucket_size", top, Arity::One, HASHES),
    ]
}

const HASHES: &str = "sizes nginx's hash tables; ringway's grow as needed";

/// Defines the variable of a `map`, `geo` or `split_clients` block.
///
/// # Errors
/// nginx's, at the word they are about.
pub fn define<S: Subject>(node: &Node, variables: &mut Variables<S>) -> Result<()> {
    if let Some(error) = node.failure() {
        return Err(error.clone());
    }
    match &*node.name() {
        "geo" => geo::define(node, variables),
        "split_clients" => split_clients::define(node, variables),
        name => {
            debug_assert_eq!(name, "map");
            map::define(node, variables)
        }
    }
}
