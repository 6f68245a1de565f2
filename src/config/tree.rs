//! The directive tree: what a configuration file says, before anyone knows what it means.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::error::ConfigError;

/// A place in a configuration file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// Index of the file in [`Sources`](super::Sources).
    pub file: u32,
    /// Line, from 1.
    pub line: u32,
    /// Column in bytes, from 1.
    pub column: u32,
}

impl Span {
    /// Where the first file begins: for what is about a configuration as a whole.
    pub const START: Span = Span {
        file: 0,
        line: 1,
        column: 1,
    };

    /// Of what no file says.
    pub const NOWHERE: Span = Span {
        file: 0,
        line: 0,
        column: 0,
    };
}

/// One word of a directive after quotes and escapes are taken away.
#[derive(Debug, Clone)]
pub struct Word {
    /// The value; any bytes, not necessarily UTF-8.
    pub bytes: Box<[u8]>,
    /// Whether the word was written in quotes.
    pub quoted: bool,
    /// Where the word begins (its quote, if it has one).
    pub span: Span,
}

impl Word {
    /// A word that no file contains, such as a default value; `span` says on whose behalf it
    /// speaks.
    pub fn new(text: impl AsRef<[u8]>, span: Span) -> Self {
        Self {
            bytes: text.as_ref().into(),
            quoted: false,
            span,
        }
    }

    /// The value for messages and for names that are ASCII by nature.
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.bytes)
    }

    /// The value as a file name, byte for byte.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.bytes))
    }

    /// Whether the value is exactly `text`.
    pub fn is(&self, text: &str) -> bool {
        &*self.bytes == text.as_bytes()
    }

    /// The rest of a `name=value` parameter: `word.strip("weight=")`.
    pub fn strip(&self, prefix: &str) -> Option<&[u8]> {
        self.bytes.strip_prefix(prefix.as_bytes())
    }
}

/// One directive with its block, if it has one. `include` lines are already replaced by what they
/// name.
#[derive(Debug, Clone)]
pub struct Node {
    /// Name and arguments; never empty.
    pub words: Vec<Word>,
    /// The directives between `{` and `}`; `None` for a directive that ends in `;`.
    pub block: Option<Vec<Node>>,
    /// The `;` or `{` after the last word. nginx reports a directive's errors at this line.
    pub terminator: Span,
    /// The `;` or the closing `}`.
    pub end: Span,
    /// Set on the node that stands where reading the text failed: it is the last one of its block
    /// and so are its ancestors. Directives before it are still read first, so that the error a
    /// user sees is the first one in reading order.
    pub(super) failure: Option<Box<ConfigError>>,
}

impl Node {
    /// A directive without a block.
    pub(super) fn new(words: Vec<Word>, terminator: Span) -> Self {
        Self {
            words,
            block: None,
            terminator,
            end: terminator,
            failure: None,
        }
    }

    /// The node that stands for text which could not be read.
    pub(super) fn failed(error: ConfigError, span: Span) -> Self {
        let words = vec![Word::new("", span)];
        Self {
            failure: Some(Box::new(error)),
            ..Self::new(words, span)
        }
    }

    /// The directive's name.
    pub fn name(&self) -> Cow<'_, str> {
        self.words[0].text()
    }

    /// Whether the directive's name is exactly `name`.
    pub fn is(&self, name: &str) -> bool {
        self.words[0].is(name)
    }

    /// The words after the name.
    pub fn args(&self) -> &[Word] {
        &self.words[1..]
    }

    /// The directives of the block; empty without one.
    pub fn children(&self) -> &[Node] {
        self.block.as_deref().unwrap_or_default()
    }

    /// Where the directive begins.
    pub fn span(&self) -> Span {
        self.words[0].span
    }

    /// The error that ended reading inside this node, if one did.
    pub fn failure(&self) -> Option<&ConfigError> {
        failure(std::slice::from_ref(self))
    }
}

/// The error that ended reading somewhere in `nodes`: only last nodes can hold it.
pub fn failure(nodes: &[Node]) -> Option<&ConfigError> {
    let mut last = nodes.last();
    while let Some(node) = last {
        if let Some(error) = &node.failure {
            return Some(error);
        }
        last = node.children().last();
    }
    None
}
