//! The gateway: everything a configuration says, checked and compiled, ready to be served. It is
//! built whole and never changed; a reload builds another.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::listen::ListenSpec;
use crate::config::{
    Arity, Catalog, ConfigError, Contexts, Node, Reader, Remark, Result, Row, Sources,
    parse_command_line, read_file, read_text, value,
};
use crate::http::conf::HttpConf;
use crate::http::scope::{self as http, Scope as HttpScope};
use crate::observe::{ErrorLog, TargetSpec, os_error};
use crate::stream::conf::StreamConf;
use crate::stream::scope::{self as stream, Scope as StreamScope};
use crate::upstream::directives;

pub mod process;

use process::{Main, ProcessConf, ProcessRaw, Rows};

/// One whole configuration.
pub struct Gateway {
    /// The process and its workers.
    pub process: ProcessConf,
    /// The error log of the main level.
    pub error_log: ErrorLog,
    /// The `http {}` block; without servers where there is none.
    pub http: Arc<HttpConf>,
    /// The `stream {}` block; without servers where there is none.
    pub stream: Arc<StreamConf>,
}

/// Where to find what a configuration does not say, and how strict to be.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// `-p`: what relative paths start from.
    pub prefix: PathBuf,
    /// `-g`: directives besides those of the file.
    pub globals: Option<String>,
    /// The error log of a file that names none (`-e`).
    pub error_log: TargetSpec,
    /// The pid file of a file that names none.
    pub pid: PathBuf,
    /// `--lenient`: skip directives of nginx that ringway does not have yet.
    pub lenient: bool,
}

/// What came of reading a configuration, besides the gateway.
#[derive(Debug)]
pub struct Report {
    /// The files that were read, for `-T`.
    pub sources: Sources,
    /// What is accepted and probably not meant.
    pub warnings: Vec<Remark>,
    /// What is accepted without effect.
    pub notices: Vec<Remark>,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct LoadError {
    /// `[emerg] … in FILE:LINE`, the source line with a caret, a suggestion.
    pub text: String,
    /// The message with its place, without the level: nginx's line.
    pub message: String,
    /// The files that were read.
    pub sources: Sources,
}

impl Gateway {
    /// Reads and compiles the file at `path`.
    ///
    /// # Errors
    /// The first mistake in reading order.
    pub fn load(
        path: &Path,
        options: &LoadOptions,
    ) -> std::result::Result<(Gateway, Report), Box<LoadError>> {
        let directory = path.parent().unwrap_or(Path::new("/"));
        match read_file(path, directory) {
            Ok((nodes, sources)) => build(&nodes, sources, directory, options),
            Err(error) => Err(Box::new(LoadError::new(&error, Sources::new()))),
        }
    }

    /// As [`Gateway::load`] for a generated configuration; `path` is its name in messages.
    ///
    /// # Errors
    /// The first mistake in reading order.
    pub fn load_text(
        path: &Path,
        text: &str,
        options: &LoadOptions,
    ) -> std::result::Result<(Gateway, Report), Box<LoadError>> {
        let (nodes, sources) = read_text(path, text.as_bytes(), &options.prefix);
        build(&nodes, sources, &options.prefix, options)
    }

    /// What a configuration needs once it is to serve, in the process that serves: the directories
    /// for temporary files, owned by the workers' user, and names and OCSP responses that are
    /// followed at run time.
    ///
    /// # Errors
    /// The message about a directory that cannot be made.
    pub fn go_live(&self) -> std::result::Result<(), String> {
        for path in self.http.temporary_paths() {
            make_directory(path, self.process.user.as_ref()).map_err(|error| {
                format!("mkdir() \"{}\" failed {}", path.display(), os_error(&error))
            })?;
        }
        self.http.groups.watch();
        self.stream.groups.watch();
        self.http.keep_staples();
        self.stream.keep_staples();
        Ok(())
    }

    /// Every address that is listened on.
    pub fn listens(&self) -> Vec<ListenSpec> {
        let http = self.http.listens.iter().map(|l| (&l.addr, &l.options));
        let stream = self.stream.listens.iter().map(|l| (&l.addr, &l.options));
        http.chain(stream)
            .map(|(addr, options)| ListenSpec {
                addr: addr.clone(),
                options: options.clone(),
            })
            .collect()
    }
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway")
            .field("process", &self.process)
            .finish_non_exhaustive()
    }
}

/// Makes a directory that may be there already; only the workers' user may use it.
fn make_directory(path: &Path, user: Option<&process::Account>) -> io::Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(error),
    }
    match user {
        Some(account) => std::os::unix::fs::chown(path, Some(account.uid), Some(account.gid)),
        None => Ok(()),
    }
}

impl LoadError {
    fn new(error: &ConfigError, sources: Sources) -> LoadError {
        let text = error.render(&sources);
        let first = text.lines().next().unwrap_or_default();
        let message = first.trim_start_matches("[emerg] ").to_owned();
        LoadError {
            text,
            message,
            sources,
        }
    }
}

/// All directives ringway knows of.
pub fn catalog() -> Catalog {
    Catalog::new(|catalog| {
        catalog.add(Rows::<MainScope>::ALL);
        catalog.add(BLOCKS);
        for table in http::tables() {
            catalog.add(table);
        }
        for table in stream::tables() {
            catalog.add(table);
        }
        catalog.add(directives::ROWS);
    })
}

/// The main level while it is read.
#[derive(Default)]
struct MainScope {
    process: ProcessRaw,
    http: Option<HttpScope>,
    stream: Option<StreamScope>,
}

/// The blocks of the main level.
const BLOCKS: &[Row<MainScope>] = &[
    Row::block("http", Contexts::MAIN, Arity::None, read_http).doc("Everything about HTTP."),
    Row::block("stream", Contexts::MAIN, Arity::None, read_stream)
        .doc("Everything about TCP and UDP."),
];

fn read_http(reader: &mut Reader<'_>, main: &mut MainScope, node: &Node) -> Result<()> {
    if main.http.is_some() {
        return Err(value::duplicate(node));
    }
    let mut http = HttpScope::default();
    http::read_block(reader, node, Contexts::HTTP, &mut http)?;
    http.log.finish_root(reader, node);
    main.http = Some(http);
    Ok(())
}

fn read_stream(reader: &mut Reader<'_>, main: &mut MainScope, node: &Node) -> Result<()> {
    if main.stream.is_some() {
        return Err(value::duplicate(node));
    }
    let mut stream = StreamScope::default();
    stream::read_block(reader, node, Contexts::STREAM, &mut stream)?;
    main.stream = Some(stream);
    Ok(())
}

impl Main for MainScope {
    fn process(&mut self) -> &mut ProcessRaw {
        &mut self.process
    }
}

fn build(
    nodes: &[Node],
    mut sources: Sources,
    directory: &Path,
    options: &LoadOptions,
) -> std::result::Result<(Gateway, Report), Box<LoadError>> {
    let globals = options.globals.as_deref().unwrap_or_default();
    let globals = parse_command_line(globals, directory, &mut sources);
    let catalog = catalog();
    let mut reader = Reader::new(&sources, &catalog, &options.prefix, directory);
    reader.lenient = options.lenient;
    let built = compile(&[&globals, nodes], &mut reader, options);
    let (warnings, notices) = (reader.warnings, reader.notices);
    match built {
        Ok(gateway) => Ok((
            gateway,
            Report {
                sources,
                warnings,
                notices,
            },
        )),
        Err(error) => Err(Box::new(LoadError::new(&error, sources))),
    }
}

fn compile(parts: &[&[Node]], reader: &mut Reader<'_>, options: &LoadOptions) -> Result<Gateway> {
    let mut main = MainScope::default();
    for nodes in parts {
        reader.read_block(
            nodes,
            &[Rows::<MainScope>::ALL, BLOCKS],
            Contexts::MAIN,
            &mut main,
        )?;
    }
    let mut process =
        main.process
            .compile(reader, options.pid.clone(), options.error_log.clone())?;
    let error_log = ErrorLog::open(&process.error_logs).map_err(ConfigError::bare)?;
    let http = http::compile(reader, main.http.unwrap_or_default(), error_log.clone())?;
    let stream = stream::compile(reader, main.stream.unwrap_or_default(), error_log.clone())?;
    if let Some(twice) = stream
        .listens
        .iter()
        .find(|l| http.listen_at(&l.addr).is_some())
    {
        let message = format!("duplicate \"{}\" address and port pair", twice.addr);
        return Err(ConfigError::bare(message).help("http and stream cannot share an address"));
    }
    let http_binds = http.locations.iter().map(|l| &l.proxy.bind);
    let stream_binds = stream.servers.iter().map(|s| &s.proxy.bind);
    process.transparent = http_binds.flatten().any(|bind| bind.transparent)
        || stream_binds.flatten().any(|bind| bind.transparent);
    Ok(Gateway {
        process,
        error_log,
        http: Arc::new(http),
        stream: Arc::new(stream),
    })
}
