//! The error log: nginx's line format and levels, several targets.

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use arc_swap::{ArcSwap, Guard};

use crate::base::clock;
use crate::config::{self, ConfigError, Node, Reader};

use super::level::Level;
use super::syslog;
use super::writer::{self, Form, Sink};

/// Bytes of one line at most; the rest of a longer one is cut off.
const LINE_MAX: usize = 8 << 10;

/// What a line says about where it happened: a client connection, a request, a session.
pub trait Context {
    /// The number shown as `*17`.
    fn connection(&self) -> u64;

    /// Appends what follows the message: `, client: …, server: …, request: "…"`.
    fn write_suffix(&self, out: &mut Vec<u8>) -> io::Result<()>;
}

/// One `error_log` directive: where to, and which levels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetSpec {
    pub destination: Destination,
    /// The least grave level that is written.
    pub level: Level,
}

/// Where the lines of one `error_log` go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A file; relative paths have been resolved.
    File(PathBuf),
    /// The standard error stream.
    Stderr,
    /// A syslog server.
    Syslog(syslog::Target),
}

impl TargetSpec {
    /// The target of a configuration without `error_log`: `path`, from level `error`.
    pub fn default_file(path: &Path) -> TargetSpec {
        TargetSpec {
            destination: Destination::for_path(path),
            level: Level::Error,
        }
    }

    /// Parses the arguments of `error_log` from a command line or a generated configuration; see
    /// [`parse`] for files. `resolve` makes a relative path absolute. The error is
    /// the message for the configuration error.
    pub fn parse(
        arguments: &[&[u8]],
        resolve: impl FnOnce(&[u8]) -> PathBuf,
    ) -> Result<TargetSpec, String> {
        let [target, levels @ ..] = arguments else {
            return Err("invalid number of arguments in \"error_log\" directive".to_owned());
        };
        let destination = if *target == b"stderr" {
            Destination::Stderr
        } else if let Some(parameters) = target.strip_prefix(b"syslog:") {
            Destination::Syslog(syslog::Target::parse(parameters)?)
        } else if target.starts_with(b"memory:") {
            return Err(
                "\"memory:\" of \"error_log\" is not implemented by ringway yet".to_owned(),
            );
        } else {
            Destination::for_path(&resolve(target))
        };
        let mut level = None;
        for &word in levels {
            let invalid = || format!("invalid log level \"{}\"", String::from_utf8_lossy(word));
            let parsed = Level::parse(word).ok_or_else(invalid)?;
            // Only the masks of the debug log may be combined; they all mean `debug`.
            if level.is_some() && !(parsed == Level::Debug && level == Some(Level::Debug)) {
                return Err(format!(
                    "duplicate log level \"{}\"",
                    String::from_utf8_lossy(word)
                ));
            }
            level = Some(parsed);
        }
        Ok(TargetSpec {
            destination,
            level: level.unwrap_or(Level::Error),
        })
    }

    fn open(&self) -> io::Result<Target> {
        let sink = match &self.destination {
            Destination::File(path) => Sink::file(path)?,
            Destination::Stderr => Sink::stderr()?,
            Destination::Syslog(target) => Sink::syslog(target.clone()),
        };
        Ok(Target {
            level: self.level,
            sink,
        })
    }
}

impl Destination {
    fn for_path(path: &Path) -> Destination {
        match path.to_str() {
            Some("/dev/stderr") => Destination::Stderr,
            _ => Destination::File(path.to_owned()),
        }
    }
}

/// Reads an `error_log` directive. (contexts main, http, server, location, stream)
pub fn parse(reader: &mut Reader<'_>, node: &Node) -> config::Result<TargetSpec> {
    let arguments: Vec<&[u8]> = node.args().iter().map(|word| &*word.bytes).collect();
    TargetSpec::parse(&arguments, |_| reader.path(&node.words[1]))
        .map_err(|message| ConfigError::at(node.span(), message))
}

/// The open targets of one scope of the configuration. Cheap to ask and to clone, never blocks.
#[derive(Clone, Debug)]
pub struct ErrorLog {
    /// The least grave level any target takes.
    level: Level,
    targets: Arc<[Target]>,
}

#[derive(Debug)]
struct Target {
    level: Level,
    sink: Sink,
}

impl ErrorLog {
    /// Opens (and creates) every target. The error names the path as nginx does:
    /// `open() "…" failed (13: Permission denied)`.
    pub fn open(specs: &[TargetSpec]) -> Result<ErrorLog, String> {
        let mut targets = Vec::with_capacity(specs.len());
        for spec in specs {
            targets.push(spec.open().map_err(|error| match &spec.destination {
                Destination::File(path) => {
                    format!(
                        "open() \"{}\" failed {}",
                        path.display(),
                        super::os_error(&error)
                    )
                }
                _ => format!("error_log cannot be opened {}", super::os_error(&error)),
            })?);
        }
        let level = targets
            .iter()
            .map(|target| target.level)
            .max()
            .unwrap_or(Level::Emerg);
        Ok(ErrorLog {
            level,
            targets: targets.into(),
        })
    }

    /// The log before any configuration was read: the standard error stream, from `notice`.
    pub fn stderr() -> ErrorLog {
        let spec = TargetSpec {
            destination: Destination::Stderr,
            level: Level::Notice,
        };
        ErrorLog::open(&[spec]).unwrap_or(ErrorLog {
            level: Level::Emerg,
            targets: Arc::new([]),
        })
    }

    /// Whether any target takes `level`. Ask before building a message.
    #[inline]
    pub fn enabled(&self, level: Level) -> bool {
        level <= self.level
    }

    /// Whether some target is the standard error stream.
    pub fn reaches_stderr(&self) -> bool {
        self.targets.iter().any(|target| target.sink.is_stderr())
    }

    /// Writes one line to every target that takes `level`. Use through [`log_at!`](crate::log_at).
    #[cold]
    pub fn log(&self, level: Level, message: fmt::Arguments<'_>, context: Option<&dyn Context>) {
        let mut line = writer::buffer();
        append_line(&mut line, level, context, message);
        let mut reached_stderr = false;
        for target in self.targets.iter().filter(|target| level <= target.level) {
            let mut copy = writer::buffer();
            copy.extend_from_slice(&line);
            target.sink.write(copy, Form::Severity(level.severity()));
            reached_stderr |= target.sink.is_stderr();
        }
        writer::recycle(line);
        if level <= Level::Warn && !reached_stderr && ECHO.load(Ordering::Relaxed) {
            echo(level, message);
        }
    }
}

/// Writes a message if `log` takes its level: `log_at!(log, Level::Error, Some(&exchange), "…", …)`
/// or with `None` for messages about no connection. Nothing is formatted when the level is off.
#[macro_export]
macro_rules! log_at {
    ($log:expr, $level:expr, $context:expr, $($message:tt)+) => {{
        let log = &$log;
        let level = $level;
        if log.enabled(level) {
            log.log(level, ::std::format_args!($($message)+), $context);
        }
    }};
}

/// Writes a message to the process's own error log, for code that serves no connection:
/// `log_process!(Level::Notice, "…", …)`.
#[macro_export]
macro_rules! log_process {
    ($level:expr, $($message:tt)+) => {
        $crate::log_at!($crate::observe::log(), $level, ::std::option::Option::None, $($message)+)
    };
}

/// The error log of the main configuration level, for code that serves no connection. Standard
/// error until [`set_process_log`] is called.
pub fn process_log() -> Guard<Arc<ErrorLog>> {
    PROCESS_LOG.load()
}

/// Replaces the process's error log: after the configuration was read, and by each reload.
pub fn set_process_log(log: ErrorLog) {
    PROCESS_LOG.store(Arc::new(log));
}

/// While on (from the start until the process serves), messages from `warn` up also appear on
/// standard error as `ringway: [emerg] …`, for the person who starts the process.
pub fn echo_to_stderr(on: bool) {
    ECHO.store(on, Ordering::Relaxed);
}

static PROCESS_LOG: LazyLock<ArcSwap<ErrorLog>> =
    LazyLock::new(|| ArcSwap::from_pointee(ErrorLog::stderr()));
static ECHO: AtomicBool = AtomicBool::new(false);

fn append_line(
    line: &mut Vec<u8>,
    level: Level,
    context: Option<&dyn Context>,
    message: fmt::Arguments<'_>,
) {
    clock::log_time(line);
    let pid = std::process::id();
    // SAFETY: gettid has no preconditions and cannot fail.
    let tid = unsafe { libc::gettid() };
    let _ = write!(line, " [{}] {pid}#{tid}: ", level.name());
    if let Some(context) = context {
        let _ = write!(line, "*{} ", context.connection());
    }
    let _ = line.write_fmt(message);
    if let Some(context) = context {
        let _ = context.write_suffix(line);
    }
    line.truncate(LINE_MAX - 1);
    // A message may quote what a client sent: it must not be able to forge a second line.
    for byte in line.iter_mut().filter(|byte| **byte < 0x20) {
        *byte = b' ';
    }
    line.push(b'\n');
}

fn echo(level: Level, message: fmt::Arguments<'_>) {
    // Standard error may be closed; there is nowhere left to say so.
    let _ = writeln!(io::stderr(), "ringway: [{}] {message}", level.name());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::writer::tests::Scratch;

    fn parse(text: &str) -> Result<TargetSpec, String> {
        let words: Vec<&[u8]> = text.split(' ').map(str::as_bytes).collect();
        TargetSpec::parse(&words, |path| {
            Path::new("/prefix").join(String::from_utf8_lossy(path).as_ref())
        })
    }

    #[test]
    fn parses_targets_and_levels() {
        let spec = parse("logs/error.log").unwrap();
        assert_eq!(
            spec.destination,
            Destination::File("/prefix/logs/error.log".into())
        );
        assert_eq!(spec.level, Level::Error);
        assert_eq!(
            parse("stderr info").unwrap().destination,
            Destination::Stderr
        );
        assert_eq!(
            parse("/dev/stderr warn").unwrap().destination,
            Destination::Stderr
        );
        assert_eq!(
            parse("x debug_core debug_http").unwrap().level,
            Level::Debug
        );
        assert!(matches!(
            parse("syslog:server=127.0.0.1 notice").unwrap().destination,
            Destination::Syslog(_)
        ));
        assert_eq!(parse("x loud").unwrap_err(), "invalid log level \"loud\"");
        assert_eq!(
            parse("x warn error").unwrap_err(),
            "duplicate log level \"error\""
        );
        assert!(
            parse("memory:32m debug")
                .unwrap_err()
                .contains("not implemented")
        );
    }

    struct Request;

    impl Context for Request {
        fn connection(&self) -> u64 {
            17
        }

        fn write_suffix(&self, out: &mut Vec<u8>) -> io::Result<()> {
            write!(out, ", client: 127.0.0.1, request: \"GET / HTTP/1.1\"")
        }
    }

    #[test]
    fn every_target_gets_the_lines_of_its_levels() {
        let scratch = Scratch::new("levels");
        let spec = |file: &str, level| TargetSpec {
            destination: Destination::File(scratch.path(file)),
            level,
        };
        let specs = [
            spec("a", Level::Error),
            spec("b", Level::Error),
            spec("c", Level::Debug),
        ];
        let log = ErrorLog::open(&specs).unwrap();
        assert_eq!(scratch.read("a"), "", "exists from the start");
        let refused = io::Error::from_raw_os_error(111);
        log_at!(
            log,
            Level::Error,
            Some(&Request),
            "connect() failed {} while connecting to upstream",
            crate::observe::os_error(&refused)
        );
        log_at!(log, Level::Debug, None, "two\nlines");
        let expected = format!(
            "[error] {}#{}: *17 connect() failed (111: Connection refused) while connecting to \
             upstream, client: 127.0.0.1, request: \"GET / HTTP/1.1\"\n",
            std::process::id(),
            // SAFETY: gettid has no preconditions and cannot fail.
            unsafe { libc::gettid() },
        );
        let a = scratch.read("a");
        assert_eq!(&a["YYYY/MM/DD HH:MM:SS ".len()..], expected);
        assert_eq!(scratch.read("b")[20..], a[20..]);
        let c = scratch.read("c");
        assert!(
            c.lines().count() == 2 && c.ends_with(": two lines\n"),
            "{c}"
        );
    }

    #[test]
    fn asking_for_a_level_that_is_off_formats_nothing() {
        let scratch = Scratch::new("enabled");
        let spec = TargetSpec::default_file(&scratch.path("a"));
        let log = ErrorLog::open(&[spec]).unwrap();
        assert!(log.enabled(Level::Error) && !log.enabled(Level::Warn));
        let fail = || -> u32 { unreachable!() };
        log_at!(log, Level::Info, None, "{}", fail());
        let missing = TargetSpec::default_file(Path::new("/no/such/error.log"));
        assert_eq!(
            ErrorLog::open(&[missing]).unwrap_err(),
            "open() \"/no/such/error.log\" failed (2: No such file or directory)"
        );
    }
}
