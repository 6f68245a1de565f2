//! Tokens to the tree, with `include` replaced by what it names.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::error::{ConfigError, Result, os_error};
use super::include;
use super::lex::{Lexer, Token, unexpected};
use super::source::Sources;
use super::tree::{Node, Span, Word};

/// Blocks and includes inside one another; deeper is refused, so that no recursion is without
/// bound.
pub const NESTING_MAX: usize = 100;

/// Files one configuration may include, each counted as often as it is included.
pub const INCLUDES_MAX: usize = 100_000;

/// Reads a configuration file and everything it includes. Relative names of `include` are taken
/// from `conf_prefix`, the directory of the main file.
///
/// Only a main file that cannot be read is an error here. An error further inside is kept in the
/// tree and returned by [`Reader`](super::Reader) when it comes to that place, so that of several
/// errors the first in reading order is the one shown, as in nginx.
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
    let span = error.span.unwrap_or(Span::START);
    let reported = error.reported.unwrap_or(span);
    out.push(Node::failed(error.reported_at(reported), span));
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

#[cfg(test)]
mod tests {
    use std::env;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::super::tree::failure;
    use super::*;

    /// A directory of files that is removed at the end of its test.
    struct Dir(PathBuf);

    impl Dir {
        fn new(files: &[(&str, &str)]) -> Self {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let id = std::process::id();
            let dir = Self(env::temp_dir().join(format!("ringway-config-{id}-{count}")));
            for (name, text) in files {
                let path = dir.0.join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            dir
        }

        /// The names of all directives in order, then the error's text with `DIR` for the
        /// directory.
        fn read(&self) -> Vec<String> {
            let (nodes, sources) = read_file(&self.0.join("main"), &self.0).unwrap();
            let mut out = names(&nodes);
            let dir = format!("{}/", self.0.display());
            let error = failure(&nodes).map(|error| error.render(&sources).replace(&dir, "DIR/"));
            out.extend(error.map(|text| text.lines().next().unwrap().to_owned()));
            out
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn names(nodes: &[Node]) -> Vec<String> {
        let each = nodes
            .iter()
            .filter(|node| node.failure.is_none())
            .flat_map(|node| {
                let mut out = vec![node.name().into_owned()];
                out.extend(names(node.children()));
                out
            });
        each.collect()
    }

    /// The first line of the error that `text` has.
    fn error(text: &str) -> String {
        let (nodes, sources) = parse_text(Path::new("a"), text.as_bytes());
        let text = failure(&nodes)
            .expect("an error was expected")
            .render(&sources);
        text.lines().next().unwrap().to_owned()
    }

    #[test]
    fn syntax_errors_have_the_words_and_lines_of_nginx() {
        let cases = [
            ("e {\n", "unexpected end of file, expecting \"}\" in a:2"),
            (
                "e {}\nuser a",
                "unexpected end of file, expecting \";\" or \"}\" in a:2",
            ),
            (
                "user \"a\nb\n",
                "unexpected end of file, expecting \";\" or \"}\" in a:3",
            ),
            ("e {}\n}\n", "unexpected \"}\" in a:2"),
            ("e {}\n;\n", "unexpected \";\" in a:2"),
            ("e {}\n{\n", "unexpected \"{\" in a:2"),
            ("user a\n }\n", "unexpected \"}\" in a:2"),
            ("user \"a\"}\n", "unexpected \"}\" in a:1"),
            ("user \"a\"b;\n", "unexpected \"b\" in a:1"),
        ];
        for (text, expected) in cases {
            assert_eq!(error(text), format!("[emerg] {expected}"), "{text:?}");
        }
    }

    #[test]
    fn an_open_block_is_named() {
        let (nodes, _) = parse_text(Path::new("a"), b"http {\n server {\n}\n");
        let help = failure(&nodes).unwrap().help.as_deref();
        assert_eq!(help, Some("the block of \"http\" in line 1 is open"));
    }

    #[test]
    fn what_comes_before_an_error_is_in_the_tree() {
        let (nodes, _) = parse_text(Path::new("a"), b"a; b { c; d { e } } f;");
        assert_eq!(names(&nodes), ["a", "b", "c", "d"]);
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = |count: usize| "a{".repeat(count) + &"}".repeat(count);
        let (nodes, _) = parse_text(Path::new("a"), deep(NESTING_MAX).as_bytes());
        assert_eq!(failure(&nodes), None);
        assert!(error(&deep(NESTING_MAX + 1)).contains("nested too deeply"));
        assert!(error(&"a{".repeat(1_000_000)).contains("nested too deeply"));
    }

    #[test]
    fn includes_come_sorted_and_in_place() {
        let dir = Dir::new(&[
            (
                "main",
                "a; h { include conf.d/*.conf; z; } include \"none/*\"; include one;",
            ),
            ("conf.d/b.conf", "b1; b2;"),
            ("conf.d/a.conf", "a1 { include one; }"),
            ("conf.d/.hidden.conf", "hidden;"),
            ("conf.d/c.txt", "txt;"),
            ("one", "# nothing\none;"),
        ]);
        assert_eq!(dir.read(), ["a", "h", "a1", "one", "b1", "b2", "z", "one"]);
        let (_, sources) = read_file(&dir.0.join("main"), &dir.0).unwrap();
        let files: Vec<_> = sources
            .files()
            .map(|(path, _)| path.file_name().unwrap())
            .collect();
        assert_eq!(files, ["main", "a.conf", "one", "b.conf"]);
    }

    #[test]
    fn a_glob_may_be_in_any_part_of_the_path() {
        let dir = Dir::new(&[
            ("main", "include sites/*/x?.conf;"),
            ("sites/b/x1.conf", "b1;"),
            ("sites/a/x2.conf", "a2;"),
            ("sites/a/x10.conf", "a10;"),
        ]);
        assert_eq!(dir.read(), ["a2", "b1"]);
    }

    #[test]
    fn a_missing_file_is_an_error_where_it_is_included() {
        let dir = Dir::new(&[
            ("main", "a;\nh { include x/y; }\nb;"),
            ("x/y", "c;\ninclude no;\nd;"),
        ]);
        let expected =
            "[emerg] open() \"DIR/no\" failed (2: No such file or directory) in DIR/x/y:2";
        assert_eq!(dir.read(), ["a", "h", "c", expected]);
    }

    #[test]
    fn a_block_cannot_span_files() {
        let dir = Dir::new(&[("main", "h { include x; }"), ("x", "a {\n b;\n")]);
        let expected = "[emerg] unexpected end of file, expecting \"}\" in DIR/x:3";
        assert_eq!(dir.read(), ["h", "a", "b", expected]);
        let dir = Dir::new(&[("main", "h { include x;"), ("x", "a; }")]);
        assert_eq!(
            dir.read(),
            ["h", "a", "[emerg] unexpected \"}\" in DIR/x:1"]
        );
    }

    #[test]
    fn cycles_end() {
        let dir = Dir::new(&[
            ("main", "a; include x;"),
            ("x", "b; include y;"),
            ("y", "include ./x;"),
        ]);
        let expected = "[emerg] \"DIR/./x\" includes itself in DIR/y:1";
        let read = dir.read();
        assert_eq!(read[..2], ["a", "b"]);
        assert_eq!(read[2], expected);
        let dir = Dir::new(&[("main", "include *;")]);
        assert_eq!(
            dir.read(),
            ["[emerg] \"DIR/main\" includes itself in DIR/main:1"]
        );
    }

    #[test]
    fn a_directory_is_no_file() {
        let dir = Dir::new(&[("main", "include sub;"), ("sub/a", "")]);
        assert_eq!(
            dir.read(),
            ["[emerg] pread() \"DIR/sub\" failed (21: Is a directory) in DIR/main:1"]
        );
    }

    #[test]
    fn a_missing_main_file_has_no_place() {
        let error = read_file(Path::new("/no/such.conf"), Path::new("/no")).unwrap_err();
        let expected = "[emerg] open() \"/no/such.conf\" failed (2: No such file or directory)";
        assert_eq!(error.render(&Sources::new()), expected);
    }

    #[test]
    fn the_command_line_has_directives_only() {
        let message = |text: &str| {
            let mut sources = Sources::new();
            let nodes = parse_command_line(text, Path::new("/"), &mut sources);
            let error = failure(&nodes).map(|error| error.render(&sources));
            error.map(|text| text.lines().next().unwrap().to_owned())
        };
        assert_eq!(message("daemon off; user a;"), None);
        let expected = "[emerg] unexpected end of parameter, expecting \";\" in command line";
        assert_eq!(message("user a").as_deref(), Some(expected));
        let expected = "[emerg] block directives are not supported in -g option in command line";
        assert_eq!(message("events {}").as_deref(), Some(expected));
    }
}
