//! Nodes and rows to filled scopes: finds the row of each directive, checks context and arguments, and
//! sets the value.

use std::path::{Path, PathBuf};

use super::catalog::{Catalog, Status};
use super::error::{ConfigError, Level, Remark, Result};
use super::schema::{Contexts, Row, Set};
use super::source::Sources;
use super::suggest;
use super::tree::{Node, Span, Word, failure};
use super::value;

/// Reads blocks by tables of rows, and gathers what is to be told about them.
pub struct Reader<'a> {
    /// The texts, for messages.
    pub sources: &'a Sources,
    /// All directives there are.
    pub catalog: &'a Catalog,
    /// Whether a directive of nginx's that is not implemented is skipped with a warning.
    pub lenient: bool,
    /// What is accepted without effect, in reading order; told by `-t`.
    pub notices: Vec<Remark>,
    /// What is accepted and probably not meant, in reading order.
    pub warnings: Vec<Remark>,
    prefix: PathBuf,
    conf_prefix: PathBuf,
}

impl<'a> Reader<'a> {
    /// `prefix` is `-p`'s directory, `conf_prefix` that of the main configuration file.
    pub fn new(
        sources: &'a Sources,
        catalog: &'a Catalog,
        prefix: &Path,
        conf_prefix: &Path,
    ) -> Self {
        Self {
            sources,
            catalog,
            lenient: false,
            notices: Vec::new(),
            warnings: Vec::new(),
            prefix: prefix.to_owned(),
            conf_prefix: conf_prefix.to_owned(),
        }
    }

    /// Reads the directives of one block into `scope`. `context` is where they stand (one place); a row
    /// counts if it may stand there. Stops at the first error.
    pub fn read_block<S: 'static>(
        &mut self,
        nodes: &[Node],
        tables: &[&[Row<S>]],
        context: Contexts,
        scope: &mut S,
    ) -> Result<()> {
        for node in nodes {
            self.read_node(node, tables, context, scope)
                .map_err(|error| error.in_directive(node))
                .or_else(|error| Err(first_of(error, node)))?;
            if let Some(error) = node.failure() {
                return Err(error.clone());
            }
        }
        Ok(())
    }

    /// Tells that something is accepted without effect.
    pub fn notice(&mut self, span: Span, message: impl Into<String>) {
        let message = message.into();
        self.notices.push(Remark {
            level: Level::Notice,
            message,
            span,
        });
    }

    /// Tells that something is accepted and probably not meant.
    pub fn warn(&mut self, span: Span, message: impl Into<String>) {
        self.warnings.push(Remark {
            level: Level::Warn,
            message: message.into(),
            span,
        });
    }

    /// A file named relative to the prefix (logs, roots, pid).
    pub fn path(&self, word: &Word) -> PathBuf {
        self.prefix.join(word.as_path())
    }

    /// A file named relative to the main configuration file (certificates, password files).
    pub fn conf_path(&self, word: &Word) -> PathBuf {
        self.conf_prefix.join(word.as_path())
    }

    fn read_node<S: 'static>(
        &mut self,
        node: &Node,
        tables: &[&[Row<S>]],
        context: Contexts,
        scope: &mut S,
    ) -> Result<()> {
        if let Some(error) = &node.failure {
            return Err((**error).clone());
        }
        let mut named = tables
            .iter()
            .copied()
            .flatten()
            .filter(|row| node.is(row.name));
        let Some(row) = named.find(|row| row.contexts.overlaps(context)) else {
            return self.unreadable(node, context);
        };
        check_form(node, row)?;
        self.set(node, row, scope)
    }

    fn set<S>(&mut self, node: &Node, row: &Row<S>, scope: &mut S) -> Result<()> {
        match row.set {
            Set::Flag(slot) => put(node, slot(scope), value::flag),
            Set::Number(slot) => put(node, slot(scope), value::number),
            Set::Size(slot) => put(node, slot(scope), value::size),
            Set::Time(slot) => put(node, slot(scope), value::time),
            Set::Seconds(slot) => put(node, slot(scope), value::seconds),
            Set::Word(slot) => put(node, slot(scope), |word| Ok(word.clone())),
            Set::Words(slot) => put(node, slot(scope), |_| Ok(node.args().to_vec())),
            Set::Choice(choices, slot) => {
                put(node, slot(scope), |word| value::choice(word, choices))
            }
            Set::Custom(read) | Set::Block(read) => read(self, scope, node),
            Set::Notice(why) => {
                let message = format!("\"{}\" directive has no effect: {why}", row.name);
                self.notice(node.span(), message);
                Ok(())
            }
        }
    }

    /// A directive without a row for this context.
    fn unreadable(&mut self, node: &Node, context: Contexts) -> Result<()> {
        let name = node.name();
        let known = self.catalog.find(&name);
        if known.is_empty() {
            let error = ConfigError::at(node.span(), format!("unknown directive \"{name}\""));
            return Err(match self.suggestion(&name, context) {
                Some(help) => error.help(help),
                None => error,
            });
        }
        let here = known.iter().find(|meta| meta.contexts.overlaps(context));
        match here {
            Some(meta) if meta.status == Status::NotYet => {
                let message =
                    format!("directive \"{name}\" of nginx is not implemented by ringway yet");
                if self.lenient {
                    self.warn(node.span(), message + ", skipped");
                    return Ok(());
                }
                let help = format!(
                    "remove it if the rest works without it; --lenient skips such directives ({})",
                    meta.doc
                );
                Err(ConfigError::at(node.span(), message).help(help))
            }
            _ => {
                let places = known
                    .iter()
                    .fold(Contexts::NONE, |all, meta| all | meta.contexts);
                let places = places.names().collect::<Vec<_>>().join(", ");
                let message = format!("\"{name}\" directive is not allowed here");
                Err(ConfigError::at(node.span(), message).help(format!("it belongs in: {places}")))
            }
        }
    }

    fn suggestion(&self, name: &str, context: Contexts) -> Option<String> {
        let here = self
            .catalog
            .iter()
            .filter(|meta| meta.contexts.overlaps(context));
        let near = suggest::nearest(name, here.map(|meta| meta.name))
            .or_else(|| suggest::nearest(name, self.catalog.iter().map(|meta| meta.name)))?;
        Some(format!("did you mean \"{near}\"?"))
    }
}

/// Context is right; checks terminator and number of arguments, in nginx's order.
fn check_form<S>(node: &Node, row: &Row<S>) -> Result<()> {
    let name = row.name;
    let error = |message| Err(ConfigError::at(node.span(), message));
    if !row.is_block() && node.block.is_some() {
        return error(format!("directive \"{name}\" is not terminated by \";\""));
    }
    if row.is_block() && node.block.is_none() {
        return error(format!("directive \"{name}\" has no opening \"{{\""));
    }
    if !row.arity.accepts(node.args().len()) {
        let message = format!("invalid number of arguments in \"{name}\" directive");
        let help = format!("\"{name}\" takes {}", row.arity.describe());
        return error(message).map_err(|error| error.help(help));
    }
    Ok(())
}

/// Parses the first argument into an empty slot.
fn put<T>(node: &Node, slot: &mut Option<T>, parse: impl FnOnce(&Word) -> Result<T>) -> Result<()> {
    if slot.is_some() {
        return Err(ConfigError::directive(node.span(), "is duplicate"));
    }
    // A row of `words` may take none; the name then stands in for the place.
    let word = node.args().first().unwrap_or(&node.words[0]);
    *slot = Some(parse(word)?);
    Ok(())
}

/// A block that is cut off by a syntax error must not be blamed for what comes of the cut: its reader
/// met the node that stands for the failure, or misses what would have followed.
fn first_of(error: ConfigError, node: &Node) -> ConfigError {
    match failure(node.children()) {
        Some(cut) if error.span == cut.span || error.span == Some(node.span()) => cut.clone(),
        _ => error,
    }
}
