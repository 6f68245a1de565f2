//! `log_format`: text with variables, each escaped on its way into the line.

use super::{Piece, Reference, Subject, Variables, pieces};
use crate::config::{ConfigError, Node, Result, Word};
use crate::observe::escape::Escape;

/// The format of an `access_log` that names none.
pub const COMBINED: &str = "$remote_addr - $remote_user [$time_local] \"$request\" $status \
                            $body_bytes_sent \"$http_referer\" \"$http_user_agent\"";

/// One `log_format` as it was read.
#[derive(Clone, Debug)]
pub struct RawFormat {
    pub(super) name: Word,
    pub(super) escape: Escape,
    pub(super) text: Vec<u8>,
}

impl RawFormat {
    /// Reads `log_format name [escape=default|json|none] string …;` and puts it behind those before
    /// it.
    ///
    /// # Errors
    /// A name used twice, an unknown kind of escaping.
    pub fn read(node: &Node, formats: &mut Vec<RawFormat>) -> Result<()> {
        let name = node.args()[0].clone();
        if &*name.bytes == b"combined" || formats.iter().any(|f| f.name.bytes == name.bytes) {
            let message = format!("duplicate \"log_format\" name \"{}\"", name.text());
            return Err(ConfigError::at(name.span, message));
        }
        let mut words = &node.args()[1..];
        let mut escape = Escape::Default;
        if let Some(kind) = words.first().and_then(|word| word.strip("escape=")) {
            escape = Escape::parse(kind).ok_or_else(|| {
                let kind = String::from_utf8_lossy(kind);
                let message = format!("unknown log format escaping \"{kind}\"");
                ConfigError::at(words[0].span, message).help("default, json or none")
            })?;
            words = &words[1..];
        }
        let text = words
            .iter()
            .flat_map(|word| word.bytes.iter().copied())
            .collect();
        formats.push(RawFormat { name, escape, text });
        Ok(())
    }
}

/// A compiled `log_format`.
pub struct LogFormat<S: 'static> {
    parts: Box<[Part<S>]>,
    escape: Escape,
}

enum Part<S: 'static> {
    Text(Box<[u8]>),
    Variable(Reference<S>),
}

impl<S: Subject> LogFormat<S> {
    /// Compiles the format's text; `word` gives the place for errors.
    ///
    /// # Errors
    /// Those of templates. `$1` and its like are refused: at log time nobody knows of which match.
    pub fn compile(
        text: &[u8],
        escape: Escape,
        word: &Word,
        variables: &mut Variables<S>,
    ) -> Result<LogFormat<S>> {
        let mut parts = Vec::new();
        for piece in pieces(text) {
            parts.push(
                match piece.map_err(|message| ConfigError::at(word.span, message))? {
                    Piece::Text(text) => Part::Text(text.into()),
                    Piece::Variable(name) => Part::Variable(variables.reference(name, word.span)),
                    Piece::Capture(number) => {
                        Part::Variable(variables.reference(&number.to_string(), word.span))
                    }
                },
            );
        }
        Ok(LogFormat {
            parts: parts.into(),
            escape,
        })
    }

    /// Appends the line, without a newline.
    pub fn append(&self, subject: &mut S, line: &mut Vec<u8>) {
        for part in &self.parts {
            match part {
                Part::Text(text) => line.extend_from_slice(text),
                Part::Variable(reference) => {
                    let start = line.len();
                    if reference.eval(subject, line) {
                        self.escape.apply(line, start);
                    } else {
                        line.extend_from_slice(self.escape.absent());
                    }
                }
            }
        }
    }
}
