//! `root` and `alias`: from a URI to a path.

use std::os::unix::ffi::OsStrExt;

use crate::config::{ConfigError, Node, Reader, Result, Word};
use crate::http::conf::LocationKind;
use crate::http::exchange::Exchange;
use crate::http::scope::{Compiler, Scope};
use crate::observe::Level;
use crate::vars::Template;

/// `root` or `alias` as it is written.
#[derive(Clone)]
pub struct RawRoot {
    word: Word,
    alias: Alias,
}

/// What becomes of the URI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Alias {
    /// `root`: all of it follows the path.
    None,
    /// `alias` in a prefix or exact location: what follows this many bytes of it.
    Prefix(usize),
    /// `alias` in a regex location: nothing, the path is complete.
    Whole,
}

/// The compiled form.
pub struct Root {
    value: Value,
    alias: Alias,
}

enum Value {
    /// An absolute path.
    Fixed(Box<[u8]>),
    /// A path with variables; a relative one starts from the prefix.
    Computed {
        template: Template<Exchange>,
        prefix: Box<[u8]>,
    },
}

impl Root {
    /// Compiles what is written, or the default `html`.
    pub fn compile(raw: Option<&RawRoot>, c: &mut Compiler) -> Result<Root> {
        let Some(RawRoot { word, alias }) = raw else {
            let path = c.reader.prefix().join("html");
            let value = Value::Fixed(path.as_os_str().as_bytes().into());
            return Ok(Root {
                value,
                alias: Alias::None,
            });
        };
        let template = c.template(word)?;
        let value = match template.as_constant() {
            Some(_) => {
                let path = c.reader.path(word);
                let mut path = path.as_os_str().as_bytes();
                if *alias == Alias::None {
                    path = path.strip_suffix(b"/").unwrap_or(path);
                }
                Value::Fixed(path.into())
            }
            None => {
                let mut prefix = c.reader.prefix().as_os_str().as_bytes().to_vec();
                if !prefix.ends_with(b"/") {
                    prefix.push(b'/');
                }
                Value::Computed {
                    template,
                    prefix: prefix.into(),
                }
            }
        };
        Ok(Root {
            value,
            alias: *alias,
        })
    }

    /// Appends the path of the root itself.
    pub fn write(&self, ex: &mut Exchange, out: &mut Vec<u8>) {
        match &self.value {
            Value::Fixed(path) => out.extend_from_slice(path),
            Value::Computed { template, prefix } => {
                let start = out.len();
                template.eval(ex, out);
                if out.get(start) != Some(&b'/') {
                    out.splice(start..start, prefix.iter().copied());
                }
            }
        }
    }

    /// Bytes of the exchange's URI that the root replaces. `None`: the URI was rewritten and no
    /// longer begins with the location's prefix, so that no path belongs to it.
    pub fn replaced(&self, ex: &Exchange) -> Option<usize> {
        match self.alias {
            Alias::None => Some(0),
            Alias::Prefix(length) => {
                let valid = !ex.request.rewritten_here && ex.request.uri.len() >= length;
                valid.then_some(length)
            }
            Alias::Whole if ex.request.uri_behind_alias => Some(0),
            Alias::Whole => Some(ex.request.uri.len()),
        }
    }

    /// Whether an `alias` gives complete paths.
    pub fn is_whole(&self) -> bool {
        self.alias == Alias::Whole
    }

    /// Appends the path of the exchange's URI. `false`, with a line in the log: there is none.
    pub fn map(&self, ex: &mut Exchange, out: &mut Vec<u8>) -> bool {
        let Some(replaced) = self.replaced(ex) else {
            let name = ex.generation.location(ex.location).name.clone();
            let name = String::from_utf8_lossy(&name);
            ex.log(
                Level::Alert,
                format_args!(
                    "\"alias\" cannot be used in location \"{name}\" where URI was rewritten"
                ),
            );
            return false;
        };
        self.write(ex, out);
        out.extend_from_slice(&ex.request.uri[replaced..]);
        true
    }
}

/// `$document_root`: appends the value of `root` or `alias` in force.
pub fn document_root(ex: &mut Exchange, out: &mut Vec<u8>) -> bool {
    let generation = ex.generation();
    generation.location(ex.location).statics.root.write(ex, out);
    true
}

/// `$request_filename`: appends the path that the URI leads to.
pub fn request_filename(ex: &mut Exchange, out: &mut Vec<u8>) -> bool {
    let generation = ex.generation();
    generation.location(ex.location).statics.root.map(ex, out)
}

/// `$realpath_root`: appends the root without symbolic links. Looks at the disk each time, as
/// nginx does, so that a link that is switched over takes effect at once.
pub fn realpath_root(ex: &mut Exchange, out: &mut Vec<u8>) -> bool {
    let mut root = ex.store.lend();
    document_root(ex, &mut root);
    let real = std::fs::canonicalize(std::ffi::OsStr::from_bytes(&root));
    if let Err(error) = &real {
        let root = String::from_utf8_lossy(&root);
        let error = crate::observe::os_error(error);
        ex.log(
            Level::Crit,
            format_args!("realpath() \"{root}\" failed {error}"),
        );
    }
    ex.store.give_back(root);
    real.is_ok_and(|path| {
        out.extend_from_slice(path.as_os_str().as_bytes());
        true
    })
}

/// Reads `root` and `alias`.
pub fn set_root(_: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
    let word = node.args()[0].clone();
    let is_alias = node.is("alias");
    if let Some(before) = &s.statics.root {
        let same = is_alias == (before.alias != Alias::None);
        let message = match (same, is_alias) {
            (true, _) => "is duplicate",
            (false, true) => "is duplicate, \"root\" directive was specified earlier",
            (false, false) => "is duplicate, \"alias\" directive was specified earlier",
        };
        return Err(ConfigError::directive(node.span(), message));
    }
    for variable in ["document_root", "realpath_root"] {
        let text = word.text();
        if text.contains(&format!("${variable}")) || text.contains(&format!("${{{variable}}}")) {
            let name = node.name();
            let message =
                format!("the ${variable} variable cannot be used in the \"{name}\" directive");
            return Err(ConfigError::at(word.span, message));
        }
    }
    let alias = match s.place.kind {
        _ if !is_alias => Alias::None,
        Some(LocationKind::Named) => {
            let message = "the \"alias\" directive cannot be used inside the named location";
            return Err(ConfigError::at(node.span(), message));
        }
        Some(LocationKind::Regex) => Alias::Whole,
        _ => Alias::Prefix(s.place.name.as_ref().map_or(0, |name| name.bytes.len())),
    };
    s.statics.root = Some(RawRoot { word, alias });
    Ok(())
}
