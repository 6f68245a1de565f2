//! Nodes and rows to filled scopes: finds the row of each directive, checks context and arguments,
//! and sets the value.

use std::path::{Path, PathBuf};

use super::catalog::{Catalog, Status};
use super::error::{ConfigError, Level, Remark, Result};
use super::schema::{Arity, Contexts, Row, Set};
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

    /// Reads the directives of one block into `scope`. `context` is where they stand (one place); a
    /// row counts if it may stand there. Stops at the first error.
    pub fn read_block<S: 'static>(
        &mut self,
        nodes: &[Node],
        tables: &[&[Row<S>]],
        context: Contexts,
        scope: &mut S,
    ) -> Result<()> {
        for node in nodes {
            self.read_node(node, tables, context, scope)
                .map_err(|error| error.in_directive(node))?;
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

    /// The directory that relative paths start from.
    pub fn prefix(&self) -> &Path {
        &self.prefix
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
            .map_err(|error| first_of(error, node))?;
        if let Some(why) = row.without_effect {
            self.without_effect(node, why);
        }
        Ok(())
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
                if row.arity == Arity::Flag {
                    value::flag(&node.args()[0])?;
                }
                self.without_effect(node, why);
                Ok(())
            }
        }
    }

    fn without_effect(&mut self, node: &Node, why: &str) {
        let message = format!("\"{}\" directive has no effect: {why}", node.name());
        self.notice(node.span(), message);
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

/// A block that is cut off by a syntax error must not be blamed for what comes of the cut: its
/// reader met the node that stands for the failure, or misses what would have followed.
fn first_of(error: ConfigError, node: &Node) -> ConfigError {
    match failure(node.children()) {
        Some(cut) if error.span == cut.span || error.span == Some(node.span()) => cut.clone(),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::parse::parse_text;
    use super::*;

    #[derive(Debug, Default)]
    struct Main {
        daemon: Option<bool>,
        user: Option<Vec<Word>>,
        servers: Vec<Server>,
    }

    #[derive(Debug, Default)]
    struct Server {
        root: Option<Word>,
        backlog: Option<u64>,
        body_max: Option<u64>,
        timeout: Option<Duration>,
        session: Option<Duration>,
        satisfy: Option<usize>,
        listen: Vec<String>,
    }

    const MAIN: &[Row<Main>] = &[
        Row::flag("daemon", Contexts::MAIN, |main| &mut main.daemon),
        Row::words("user", Contexts::MAIN, Arity::Between(1, 2), |main| {
            &mut main.user
        }),
        Row::notice(
            "lock_file",
            Contexts::MAIN,
            Arity::One,
            "there are no locks",
        ),
        Row::block("http", Contexts::MAIN, Arity::None, |reader, main, node| {
            reader.read_block(node.children(), &[HTTP], Contexts::HTTP, main)
        }),
    ];

    const HTTP: &[Row<Main>] = &[Row::block(
        "server",
        Contexts::HTTP,
        Arity::None,
        |reader, main, node| {
            let mut server = Server::default();
            let tables = [SERVER, LISTEN];
            reader.read_block(node.children(), &tables, Contexts::SERVER, &mut server)?;
            if server.listen.is_empty() {
                return Err(ConfigError::at_end(node, "no listen"));
            }
            main.servers.push(server);
            Ok(())
        },
    )];

    const SERVER: &[Row<Server>] = &[
        Row::word("root", Contexts::SERVER, |server| &mut server.root),
        Row::number("backlog", Contexts::SERVER, |server| &mut server.backlog),
        Row::size("client_max_body_size", Contexts::SERVER, |server| {
            &mut server.body_max
        }),
        Row::time("send_timeout", Contexts::SERVER, |server| {
            &mut server.timeout
        }),
        Row::seconds("ssl_session_timeout", Contexts::SERVER, |server| {
            &mut server.session
        }),
        Row::choice("satisfy", Contexts::SERVER, &["all", "any"], |server| {
            &mut server.satisfy
        }),
    ];

    const LISTEN: &[Row<Server>] = &[Row::custom(
        "listen",
        Contexts::SERVER,
        Arity::AtLeast(1),
        |_, server, node| {
            server.listen.push(node.args()[0].text().into_owned());
            Ok(())
        },
    )];

    /// What reading gives: the scope or the rendered error, and the remarks.
    fn read(text: &str, lenient: bool) -> (std::result::Result<Main, String>, Vec<String>) {
        let catalog = Catalog::new(|catalog| {
            catalog.add(MAIN);
            catalog.add(HTTP);
            catalog.add(SERVER);
            catalog.add(LISTEN);
        });
        let (nodes, sources) = parse_text(Path::new("a"), text.as_bytes());
        let mut reader = Reader::new(&sources, &catalog, Path::new("/p"), Path::new("/c"));
        reader.lenient = lenient;
        let mut main = Main::default();
        let result = reader.read_block(&nodes, &[MAIN], Contexts::MAIN, &mut main);
        let remarks = reader.notices.iter().chain(&reader.warnings);
        let remarks = remarks.map(|remark| remark.render(&sources)).collect();
        (
            result
                .map(|()| main)
                .map_err(|error| error.render(&sources)),
            remarks,
        )
    }

    /// First line of the error, and its help.
    fn error(text: &str) -> (String, Option<String>) {
        let text = read(text, false).0.expect_err("an error was expected");
        let first = text.lines().next().unwrap().to_owned();
        let help = text.lines().find_map(|line| line.strip_prefix("help: "));
        (first, help.map(str::to_owned))
    }

    #[test]
    fn every_kind_of_value_is_set() {
        let text = "daemon OFF; user a b; http { server { root /x; backlog 5; satisfy any;
            client_max_body_size 1m; send_timeout 1500ms; ssl_session_timeout 1h; listen 80 x; } }";
        let (result, remarks) = read(text, false);
        let main = result.unwrap();
        assert_eq!((main.daemon, main.user.unwrap().len()), (Some(false), 2));
        let server = &main.servers[0];
        assert!(server.root.as_ref().unwrap().is("/x"));
        assert_eq!((server.backlog, server.body_max), (Some(5), Some(1 << 20)));
        assert_eq!(server.timeout, Some(Duration::from_millis(1500)));
        assert_eq!(server.session, Some(Duration::from_secs(3600)));
        assert_eq!(
            (server.satisfy, &*server.listen),
            (Some(1), &["80".to_owned()][..])
        );
        assert!(remarks.is_empty());
    }

    #[test]
    fn messages_are_those_of_nginx() {
        let cases = [
            ("foo\nbar\n;", "unknown directive \"foo\" in a:3"),
            (
                "listen 80;",
                "\"listen\" directive is not allowed here in a:1",
            ),
            (
                "user a {}",
                "directive \"user\" is not terminated by \";\" in a:1",
            ),
            ("http;", "directive \"http\" has no opening \"{\" in a:1"),
            (
                "user\n;",
                "invalid number of arguments in \"user\" directive in a:2",
            ),
            (
                "daemon on; daemon on;",
                "\"daemon\" directive is duplicate in a:1",
            ),
            (
                "daemon maybe;",
                "invalid value \"maybe\" in \"daemon\" directive, it must be \"on\" or \"off\" in a:1",
            ),
            ("http { server {\n\n} }", "no listen in a:3"),
        ];
        for (text, expected) in cases {
            assert_eq!(error(text).0, format!("[emerg] {expected}"), "{text:?}");
        }
        let cases = [
            (
                "client_max_body_size 1x",
                "\"client_max_body_size\" directive invalid value in a:1",
            ),
            (
                "send_timeout 1x",
                "\"send_timeout\" directive invalid value in a:1",
            ),
            (
                "ssl_session_timeout 5ms",
                "\"ssl_session_timeout\" directive invalid value in a:1",
            ),
            ("backlog x", "\"backlog\" directive invalid number in a:1"),
            ("satisfy some", "invalid value \"some\" in a:1"),
        ];
        for (text, expected) in cases {
            let text = format!("http {{ server {{ {text}; }} }}");
            assert_eq!(error(&text).0, format!("[emerg] {expected}"), "{text:?}");
        }
    }

    #[test]
    fn help_names_the_next_step() {
        let help = |text| error(text).1.unwrap_or_default();
        assert_eq!(help("deamon on;"), "did you mean \"daemon\"?");
        assert_eq!(
            help("http { server { lisen 1; } }"),
            "did you mean \"listen\"?"
        );
        assert_eq!(
            help("root /x;"),
            "it belongs in: http, server, location, if in location"
        );
        assert_eq!(help("user;"), "\"user\" takes 1 to 2 arguments");
    }

    #[test]
    fn what_nginx_has_and_ringway_has_not_is_told_apart() {
        let text = "http { server { listen 1; fastcgi_pass x; } location_hash 1; }";
        assert!(
            error(text)
                .0
                .contains("\"fastcgi_pass\" directive is not allowed here")
        );
        let text = "http {\n fastcgi_index x; }";
        let expected =
            "[emerg] directive \"fastcgi_index\" of nginx is not implemented by ringway yet in a:2";
        assert_eq!(error(text).0, expected);
        let (result, remarks) = read(text, true);
        assert!(result.is_ok());
        let expected = "[warn] directive \"fastcgi_index\" of nginx is not implemented by ringway \
                        yet, skipped in a:2";
        assert_eq!(remarks, [expected]);
    }

    #[test]
    fn a_notice_names_its_place() {
        let (_, remarks) = read("\n lock_file x;", false);
        let expected = "[notice] \"lock_file\" directive has no effect: there are no locks in a:2";
        assert_eq!(remarks, [expected]);
    }

    #[test]
    fn the_first_error_in_reading_order_is_shown() {
        let unknown = "[emerg] unknown directive \"lua_block\" in a:1";
        assert_eq!(error("lua_block { if x then {} } end").0, unknown);
        let cut = "[emerg] unexpected end of file, expecting \"}\" in a:1";
        assert_eq!(error("http { server { root x; ").0, cut);
        assert_eq!(
            read("http { mirror /x; types { a b; ", true)
                .0
                .unwrap_err()
                .lines()
                .next(),
            { Some(cut) }
        );
        assert_eq!(error("lua_block { if x").0, unknown);
        let value = "\"backlog\" directive invalid number in a:1";
        assert_eq!(
            error("http { server { backlog y; root x").0,
            format!("[emerg] {value}")
        );
    }

    #[test]
    fn paths_are_relative_to_their_prefixes() {
        let (nodes, sources) = parse_text(Path::new("a"), b"x logs/a /abs;");
        let catalog = Catalog::new(|_| {});
        let reader = Reader::new(&sources, &catalog, Path::new("/p"), Path::new("/c"));
        let [relative, absolute] = nodes[0].args() else {
            panic!("two arguments expected")
        };
        assert_eq!(reader.path(relative), Path::new("/p/logs/a"));
        assert_eq!(reader.conf_path(relative), Path::new("/c/logs/a"));
        assert_eq!(reader.path(absolute), Path::new("/abs"));
    }
}
