//! The texts a configuration was read from, kept for messages and for `-T`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::tree::Span;

/// Every text read so far, each once; a [`Span`] names its text by index.
#[derive(Debug, Default)]
pub struct Sources {
    list: Vec<Source>,
}

#[derive(Debug)]
struct Source {
    origin: Origin,
    text: Arc<[u8]>,
}

#[derive(Debug, PartialEq, Eq)]
enum Origin {
    File(PathBuf),
    /// The argument of `-g`, which has no name and no lines.
    CommandLine,
}

impl Sources {
    /// No text yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the content of a file; gives its id.
    pub fn add_file(&mut self, path: &Path, text: Vec<u8>) -> u32 {
        self.add(Origin::File(path.to_owned()), text)
    }

    /// Adds the argument of `-g`; gives its id.
    pub fn add_command_line(&mut self, text: &str) -> u32 {
        self.add(Origin::CommandLine, text.as_bytes().to_vec())
    }

    /// The id of a file read before.
    pub fn find(&self, path: &Path) -> Option<u32> {
        let found = self.list.iter().position(|source| match &source.origin {
            Origin::File(name) => name == path,
            Origin::CommandLine => false,
        });
        found.map(|index| index as u32)
    }

    /// The exact bytes of a text; empty for an unknown id.
    pub fn text(&self, id: u32) -> Arc<[u8]> {
        self.list
            .get(id as usize)
            .map_or_else(|| Arc::from([]), |source| source.text.clone())
    }

    /// The files with their exact bytes, in the order they were first read.
    pub fn files(&self) -> impl Iterator<Item = (&Path, &[u8])> {
        self.list.iter().filter_map(|source| match &source.origin {
            Origin::File(path) => Some((path.as_path(), &*source.text)),
            Origin::CommandLine => None,
        })
    }

    /// `in /etc/ringway/a.conf:12`, or `in command line`, as nginx ends its messages.
    pub fn place(&self, span: Span) -> String {
        match self
            .list
            .get(span.file as usize)
            .map(|source| &source.origin)
        {
            Some(Origin::File(path)) => format!("in {}:{}", path.display(), span.line),
            Some(Origin::CommandLine) => "in command line".into(),
            None => format!("in line {}", span.line),
        }
    }

    /// The bytes of the line at `span`, without its end.
    pub fn line(&self, span: Span) -> Option<&[u8]> {
        let text = &self.list.get(span.file as usize)?.text;
        let line = text
            .split(|&byte| byte == b'\n')
            .nth(span.line as usize - 1)?;
        let bom = b"\xef\xbb\xbf";
        let line = if span.line == 1 {
            line.strip_prefix(bom).unwrap_or(line)
        } else {
            line
        };
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }

    fn add(&mut self, origin: Origin, text: Vec<u8>) -> u32 {
        self.list.push(Source {
            origin,
            text: text.into(),
        });
        self.list.len() as u32 - 1
    }
}
