//! Errors in a configuration: nginx's first line, then the source line and what to do.

use std::fmt::{self, Write as _};
use std::io;

use super::source::Sources;
use super::tree::{Node, Span};

/// The result of reading any part of a configuration.
pub type Result<T> = std::result::Result<T, ConfigError>;

/// Why a configuration is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// nginx's message without level and place.
    pub message: String,
    /// What the caret points at.
    pub span: Option<Span>,
    /// The place the first line names, where that is not `span`: nginx names the line on which the
    /// directive was terminated.
    pub reported: Option<Span>,
    /// How to fix it.
    pub help: Option<String>,
    shape: Shape,
}

/// How the message is completed with the directive's name, which a value parser does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Complete,
    /// `"NAME" directive MESSAGE`
    Directive,
    /// `invalid value "MESSAGE" in "NAME" directive, it must be "on" or "off"`
    Flag,
}

impl ConfigError {
    /// An error at a word.
    pub fn at(span: Span, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            message,
            span: Some(span),
            reported: None,
            help: None,
            shape: Shape::Complete,
        }
    }

    /// An error that has no place in a file.
    pub fn bare(message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            message,
            span: None,
            reported: None,
            help: None,
            shape: Shape::Complete,
        }
    }

    /// An error about a whole block, known only at its end: reported at its `}`.
    pub fn at_end(node: &Node, message: impl Into<String>) -> Self {
        Self::at(node.span(), message).reported_at(node.end)
    }

    /// An error that becomes `"name" directive MESSAGE` (`is duplicate`, `invalid value`) when the
    /// reader passes it on from the directive.
    pub fn directive(span: Span, message: impl Into<String>) -> Self {
        Self {
            shape: Shape::Directive,
            ..Self::at(span, message)
        }
    }

    /// The error of a value that is neither `on` nor `off`.
    pub(super) fn flag(span: Span, value: impl Into<String>) -> Self {
        Self {
            shape: Shape::Flag,
            ..Self::at(span, value)
        }
    }

    /// Adds the `help:` line.
    pub fn help(self, help: impl Into<String>) -> Self {
        Self {
            help: Some(help.into()),
            ..self
        }
    }

    /// Sets the place which the first line names.
    pub fn reported_at(self, span: Span) -> Self {
        Self {
            reported: Some(span),
            ..self
        }
    }

    /// Fills in what only the reader knows: the directive's name and the line nginx reports.
    pub(super) fn in_directive(mut self, node: &Node) -> Self {
        let name = node.name();
        match self.shape {
            Shape::Complete => {}
            Shape::Directive => self.message = format!("\"{name}\" directive {}", self.message),
            Shape::Flag => {
                self.message = format!(
                    "invalid value \"{}\" in \"{name}\" directive, it must be \"on\" or \"off\"",
                    self.message
                );
            }
        }
        self.shape = Shape::Complete;
        self.span.get_or_insert(node.span());
        self.reported.get_or_insert(node.terminator);
        self
    }

    /// The whole message: `[emerg] … in FILE:LINE`, the source line with a caret, `help: …`. Lines
    /// are separated by newlines, without one at the end.
    pub fn render(&self, sources: &Sources) -> String {
        let mut out = render_line("emerg", &self.message, self.reported.or(self.span), sources);
        if let Some(span) = self.span {
            excerpt(&mut out, sources, span);
        }
        if let Some(help) = &self.help {
            let _ = write!(out, "\nhelp: {help}");
        }
        out
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}

/// How loud a [`Remark`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Something will not work as written.
    Warn,
    /// Something has no effect here, and that is all right.
    Notice,
}

/// Something to tell about a configuration that is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// How loud.
    pub level: Level,
    /// The message without level and place.
    pub message: String,
    /// What it is about.
    pub span: Span,
}

impl Remark {
    /// `[warn] … in FILE:LINE`
    pub fn render(&self, sources: &Sources) -> String {
        let level = match self.level {
            Level::Warn => "warn",
            Level::Notice => "notice",
        };
        render_line(level, &self.message, Some(self.span), sources)
    }
}

/// An operating system's error in nginx's form: `(2: No such file or directory)`.
pub fn os_error(error: &io::Error) -> String {
    let text = error.to_string();
    match error.raw_os_error() {
        Some(code) => {
            let end = text.rfind(" (os error").unwrap_or(text.len());
            format!("({code}: {})", &text[..end])
        }
        None => format!("({text})"),
    }
}

/// Characters of a source line that are shown; longer lines are cut around the caret.
const EXCERPT_CHARS_MAX: usize = 120;

fn render_line(level: &str, message: &str, span: Option<Span>, sources: &Sources) -> String {
    match span {
        Some(span) => format!("[{level}] {message} {}", sources.place(span)),
        None => format!("[{level}] {message}"),
    }
}

fn excerpt(out: &mut String, sources: &Sources, span: Span) {
    let Some(line) = sources.line(span) else {
        return;
    };
    let column = (span.column as usize - 1).min(line.len());
    let before = printable(&line[..column]);
    let word = printable(&line[column..column + word_len(&line[column..])]);
    let after = printable(&line[column + word_len(&line[column..])..]);

    let skipped = before.chars().count().saturating_sub(EXCERPT_CHARS_MAX / 2);
    let before: String = before.chars().skip(skipped).collect();
    let room = EXCERPT_CHARS_MAX - before.chars().count();
    let shown: String = word.chars().chain(after.chars()).take(room).collect();
    let carets = word.chars().count().clamp(1, room);

    let gutter = span.line.to_string();
    let blank = " ".repeat(gutter.len());
    let indent = " ".repeat(before.chars().count());
    let text = format!("{before}{shown}");
    let _ = write!(out, "\n {gutter} | {}", text.trim_end());
    let _ = write!(out, "\n {blank} | {indent}{}", "^".repeat(carets));
}

/// How much of `rest` the word at its start covers, for the length of the caret only.
fn word_len(rest: &[u8]) -> usize {
    let end = match rest.first() {
        Some(quote @ (b'"' | b'\'')) => rest[1..]
            .iter()
            .position(|byte| byte == quote)
            .map(|at| at + 2),
        _ => rest
            .iter()
            .position(|byte| matches!(byte, b' ' | b'\t' | b';' | b'{')),
    };
    end.unwrap_or(rest.len()).max(rest.len().min(1))
}

/// Text that moves no cursor: tabs as one blank, other control characters as `?`.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let chars = text.chars().map(|c| match c {
        '\t' => ' ',
        c if c.is_control() => '?',
        c => c,
    });
    chars.collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn render(text: &str, line: u32, column: u32) -> String {
        let mut sources = Sources::new();
        let file = sources.add_file(Path::new("/etc/x/a.conf"), text.into());
        let error = ConfigError::at(Span { file, line, column }, "unknown directive \"foo\"");
        error.help("did you mean \"bar\"?").render(&sources)
    }

    #[test]
    fn an_error_shows_its_line_and_points_at_the_word() {
        let expected = "[emerg] unknown directive \"foo\" in /etc/x/a.conf:2\n \
                        2 |  foo bär;\n   |  ^^^\nhelp: did you mean \"bar\"?";
        assert_eq!(render("a;\r\n\tfoo bär;\r\n", 2, 2), expected);
    }

    #[test]
    fn a_caret_stands_below_its_character_not_its_byte() {
        let text = render("ä foo;", 1, 4);
        assert!(text.contains(" 1 | ä foo;\n   |   ^^^\n"), "{text}");
    }

    #[test]
    fn long_lines_are_cut_around_the_caret() {
        let text = render(
            &format!("{} foo {}", "x".repeat(5000), "y".repeat(5000)),
            1,
            5002,
        );
        let longest = text.lines().map(|line| line.chars().count()).max();
        assert!(longest < Some(140) && text.contains("x foo y"), "{text}");
    }

    #[test]
    fn a_place_beyond_the_text_is_no_panic() {
        render("", 1, 1);
        render("", 7, 9);
        render("ab", 1, 900);
    }

    #[test]
    fn system_errors_look_like_nginx() {
        let error = io::Error::from_raw_os_error(libc::ENOENT);
        assert_eq!(os_error(&error), "(2: No such file or directory)");
    }
}
