//! Tokens to the tree, with `include` replaced by what it names.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::error::{ConfigError, Result, os_error};
use super::include;
use super::lex::{Lexer, Token, unexpected};
use super::source::Sources;
use super::tree::{Node, Span, Word};

/// Blocks and includes inside one another; deeper is refused, so that no recursion is without bound.
pub const NESTING_MAX: usize = 100;

/// Files one configuration may include, each counted as often as it is included.
pub const INCLUDES_MAX: usize = 100_000;

/// Reads a configuration file and everything it includes. Relative names of `include` are taken from
/// `conf_prefix`, the directory of the main file.
///
/// Only a main file that cannot be read is an error here. An error further inside is kept in the tree
/// and returned by [`Reader`](super::Reader) when it comes to that place, so that of several errors
/// the first in reading order is the one shown, as in nginx.
pub fn read_file(path: &Path, conf_prefix: &Path) -> Result<(Vec<Node>, Sources)> {
    let text = load(path).map_err(ConfigError::bare)?;
    let mut sources = Sources::new();
    let nodes = parse_main(path, text, conf_prefix, &mut sources);
    Ok((nodes, sources))
}

/// As [`read_file`] for a text at hand, such as a generated configuration; `path` is its name in
/// messages.
pub fn read_text(path: &Path, text: &[u8], conf_prefix: &Path) -> (Vec<Node>, Sources) {
    let mut sources = Sources::new();
    let nodes = parse_main(path, text.to_vec(), conf_prefix, &mut sources);
    (nodes, sources)
}

/// Parses one text and opens no file: `include` stays an ordinary directive.
pub fn parse_text(path: &Path, text: &[u8]) -> (Vec<Node>, Sources) {
    let mut sources = Sources::new();
    let file = sources.add_file(path, text.to_vec());
    let nodes = Parser::new(None, &mut sources).source(file);
    (nodes, sources)
}

/// Parses the argument of `-g`: directives without blocks, the last `;` included.
pub fn parse_command_line(text: &str, conf_prefix: &Path, sources: &mut Sources) -> Vec<Node> {
    let file = sources.add_command_line(text);
    let mut parser = Parser::new(Some(conf_prefix), sources);
    parser.command_line = Some(file);
    parser.source(file)
}

fn parse_main(path: &Path, text: Vec<u8>, prefix: &Path, sources: &mut Sources) -> Vec<Node> {
    let file = sources.add_file(path, text);
    let mut parser = Parser::new(Some(prefix), sources);
    parser.open_files.extend(fs::canonicalize(path));
    parser.source(file)
}

struct Parser<'a> {
    sources: &'a mut Sources,
    /// `None` leaves includes alone.
    conf_prefix: Option<&'a Path>,
    command_line: Option<u32>,
    depth: usize,
    includes: usize,
    /// The files being read right now, outermost first, by their real paths.
    open_files: Vec<PathBuf>,
}

/// Parsing a list of directives ended at a failure, which is its last node.
struct Failed;

impl<'a> Parser<'a> {
    fn new(conf_prefix: Option<&'a Path>, sources: &'a mut Sources) -> Self {
        Self {
            sources,
            conf_prefix,
            command_line: None,
            depth: 0,
            includes: 0,
            open_files: Vec::new(),
        }
    }

    fn source(&mut self, file: u32) -> Vec<Node> {
        let mut nodes = Vec::new();
        // A failure is in the tree already.
        let _ = self.file(file, &mut nodes);
        nodes
    }

    fn file(&mut self, file: u32, out: &mut Vec<Node>) -> std::result::Result<(), Failed> {
        let text = self.sources.text(file);
        let mut lexer = Lexer::new(&text, file);
        self.list(&mut lexer, false, out).map(|_| ())
    }

    /// Directives up to the end of the block (or text); gives the place of that end.
    fn list(
        &mut self,
        lexer: &mut Lexer<'_>,
        in_block: bool,
        out: &mut Vec<Node>,
    ) -> std::result::Result<Span, Failed> {
        loop {
            match self.directive(lexer, in_block, out) {
                Ok(Step::Continue) => {}
                Ok(Step::End(span)) => return Ok(span),
                Err(Stop::Failed) => return Err(Failed),
                Err(Stop::Error(error)) => return Err(fail(*error, out)),
            }
        }
    }

    fn directive(
        &mut self,
        lexer: &mut Lexer<'_>,
        in_block: bool,
        out: &mut Vec<Node>,
    ) -> std::result::Result<Step, Stop> {
        let mut words = Vec::new();
        loop {
            match lexer.token()? {
                Token::Word(word) => words.push(word),
                Token::Semicolon(span) if words.is_empty() => Err(unexpected(b';', span))?,
                Token::Open(span) if words.is_empty() => Err(unexpected(b'{', span)
                    .help("a block needs the name of its directive before the \"{\""))?,
                Token::Semicolon(span) => {
                    self.simple(Node::new(words, span), out)?;
                    return Ok(Step::Continue);
                }
                Token::Open(span) => {
                    self.block(lexer, Node::new(words, span), out)?;
                    return Ok(Step::Continue);
                }
                Token::Close(span) => return close(&words, in_block, span),
                Token::End(span) => return self.end(&words, in_block, span),
            }
        }
    }

    fn end(&self, words: &[Word], in_block: bool, span: Span) -> std::result::Result<Step, Stop> {
        let message = if let Some(word) = words.first() {
            if self.command_line == Some(span.file) {
                let message = "unexpected end of parameter, expecting \";\"";
                return Err(ConfigError::at(span, message).into());
            }
            let help = format!("\"{}\" has no \";\" or \"{{\" after it", word.text());
            let message = "unexpected end of file, expecting \";\" or \"}\"";
            return Err(ConfigError::at(word.span, message)
                .reported_at(span)
                .help(help)
                .into());
        } else if in_block {
            "unexpected end of file, expecting \"}\""
        } else {
            return Ok(Step::End(span));
        };
        Err(ConfigError::at(span, message).into())
    }

    fn simple(&mut self, node: Node, out: &mut Vec<Node>) -> std::result::Result<(), Stop> {
        match self.conf_prefix {
            Some(prefix) if node.is("include") => self.include(&node, prefix, out),
            _ => {
                out.push(node);
                Ok(())
            }
        }
    }

    fn block(
        &mut self,
        lexer: &mut Lexer<'_>,
        mut node: Node,
        out: &mut Vec<Node>,
    ) -> std::result::Result<(), Stop> {
        if self.command_line == Some(node.terminator.file) {
            let message = "block directives are not supported in -g option";
            return Err(ConfigError::at(node.terminator, message).into());
        }
        let mut children = Vec::new();
        self.enter(node.span())?;
        let end = self.list(lexer, true, &mut children);
        self.depth -= 1;
        let result = match end {
            Ok(span) => {
                node.end = span;
                Ok(())
            }
            Err(Failed) => {
                node.end = children.last().map_or(node.end, |failed| failed.end);
                Err(Stop::Failed)
            }
        };
        // The common cause of a missing brace is worth naming: which block it was.
        if let Some(error) = children.last_mut().and_then(|node| node.failure.as_mut())
            && error.help.is_none()
            && error.message == "unexpected end of file, expecting \"}\""
        {
            let line = node.span().line;
            error.help = Some(format!(
                "the block of \"{}\" in line {line} is open",
                node.name()
            ));
        }
        node.block = Some(children);
        out.push(node);
        result
    }

    fn enter(&mut self, span: Span) -> Result<()> {
        if self.depth >= NESTING_MAX {
            let message = format!("blocks are nested too deeply, the limit is {NESTING_MAX}");
            return Err(ConfigError::at(span, message));
        }
        self.depth += 1;
        Ok(())
    }

    fn include(
        &mut self,
        node: &Node,
        conf_prefix: &Path,
        out: &mut Vec<Node>,
    ) -> std::result::Result<(), Stop> {
        let [name] = node.args() else {
            let message = "invalid number of arguments in \"include\" directive";
            let error = ConfigError::at(node.span(), message).reported_at(node.terminator);
            return Err(error
                .help("\"include\" takes one argument, a file name or a glob")
                .into());
        };
        let path = conf_prefix.join(name.as_path());
        let paths = if include::is_glob(&path) {
            include::glob(&path)
        } else {
            vec![path]
        };
        for path in paths {
            let result = self.include_file(&path, name.span, out);
            result.map_err(|stop| match stop {
                Stop::Error(error) => {
                    let reported = error.reported.unwrap_or(node.terminator);
                    Stop::Error(Box::new(error.reported_at(reported)))
                }
                Stop::Failed => Stop::Failed,
            })?;
        }
        Ok(())
    }

    fn include_file(
        &mut self,
        path: &Path,
        span: Span,
        out: &mut Vec<Node>,
    ) -> std::result::Result<(), Stop> {
        self.includes += 1;
        if self.includes > INCLUDES_MAX {
            let message = format!("too many files are included, the limit is {INCLUDES_MAX}");
            return Err(ConfigError::at(span, message).into());
        }
        let file = match self.sources.find(path) {
            Some(file) => file,
            None => {
                let text = load(path).map_err(|message| ConfigError::at(span, message))?;
                self.sources.add_file(path, text)
            }
        };
        let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if self.open_files.contains(&real) {
            let message = format!("\"{}\" includes itself", path.display());
            return Err(ConfigError::at(span, message).into());
        }
        self.enter(span)?;
        self.open_files.push(real);
        let result = self.file(file, out);
        self.open_files.pop();
        self.depth -= 1;
        result.map_err(|Failed| Stop::Failed)
    }
}

/// What came of reading one directive.
enum Step {
    Continue,
    /// The end of the block or text.
    End(Span),
}

/// Why reading directives stops.
enum Stop {
    /// An error not yet in the tree.
    Error(Box<ConfigError>),
    /// The error is the last node of the tree.
    Failed,
}

impl From<ConfigError> for Stop {
    fn from(error: ConfigError) -> Self {
        Stop::Error(Box::new(error))
    }
}

fn close(words: &[Word], in_block: bool, span: Span) -> std::result::Result<Step, Stop> {
    if let Some(word) = words.last() {
        let help = format!("a \";\" may be missing after \"{}\"", word.text());
        return Err(unexpected(b'}', span).help(help).into());
    }
    if !in_block {
        return Err(unexpected(b'}', span).help("no block is open here").into());
    }
    Ok(Step::End(span))
}

fn fail(error: ConfigError, out: &mut Vec<Node>) -> Failed {
    let nowhere = Span {
        file: 0,
        line: 1,
        column: 1,
    };
    let span = error.span.unwrap_or(nowhere);
    out.push(Node::failed(error, span));
    Failed
}

/// The bytes of a file, or nginx's message why not.
fn load(path: &Path) -> std::result::Result<Vec<u8>, String> {
    let failed = |what: &str, error: io::Error| {
        format!(
            "{what}() \"{}\" failed {}",
            path.display(),
            os_error(&error)
        )
    };
    let mut text = Vec::new();
    let mut file = File::open(path).map_err(|error| failed("open", error))?;
    file.read_to_end(&mut text)
        .map_err(|error| failed("pread", error))?;
    Ok(text)
}
