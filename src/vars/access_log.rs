//! `log_format` and `access_log` for any subject: how they are read, compiled and written.
//!
//! What they mean is the same for HTTP exchanges and stream sessions; the rows are declared by the
//! modules of each.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use super::log_format::{COMBINED, LogFormat, RawFormat};
use super::{Subject, Template, Variables};
use crate::config::{ConfigError, Node, Reader, Result, Word, value};
use crate::observe::access::{Buffering, Writer};
use crate::observe::escape::Escape;
use crate::observe::{os_error, syslog};

/// Files named by variables that one thread keeps at hand. (nginx: `open_log_file_cache`)
const NAMED_FILES_MAX: usize = 64;

/// The `access_log`s of one block as they were read. Inherited whole.
#[derive(Clone, Debug, Default)]
pub struct RawLogs {
    /// None until the block says something.
    logs: Option<Vec<RawLog>>,
    off: bool,
}

#[derive(Clone, Debug)]
struct RawLog {
    target: Word,
    path: PathBuf,
    format: Option<Word>,
    buffering: Buffering,
    condition: Option<Word>,
}

impl RawLogs {
    /// Gives a block without any `access_log` nginx's: `access.log` under the prefix, combined.
    pub fn finish_root(&mut self, reader: &Reader<'_>, block: &Node) {
        if self.logs.is_none() {
            let target = Word::new("access.log", block.span());
            self.logs = Some(vec![RawLog::new(reader, target)]);
        }
    }

    /// Reads one `access_log` of the block.
    ///
    /// # Errors
    /// Unknown or contradicting parameters, as nginx words them.
    pub fn read(&mut self, reader: &Reader<'_>, node: &Node) -> Result<()> {
        let target = node.args()[0].clone();
        let logs = self.logs.get_or_insert_default();
        if &*target.bytes == b"off" {
            self.off = true;
            return match node.args().get(1) {
                Some(extra) => Err(invalid(extra, "parameter", &extra.bytes)),
                None => Ok(()),
            };
        }
        let mut log = RawLog::new(reader, target);
        for (index, word) in node.args().iter().enumerate().skip(1) {
            log.read_parameter(word, index)?;
        }
        log.check()?;
        logs.push(log);
        Ok(())
    }

    /// Takes the logs of the enclosing block if this one says nothing.
    pub fn inherit(&mut self, parent: &RawLogs) {
        if self.logs.is_none() {
            self.clone_from(parent);
        }
    }

    /// The name of the format that the `access_log` read last gives; `None` if it was `off`.
    pub fn last_format(&self) -> Option<Option<&Word>> {
        let last = self.logs.as_ref()?.last()?;
        (!self.off).then_some(last.format.as_ref())
    }

    /// Checks the names of formats, for logs that no server may write to.
    ///
    /// # Errors
    /// Unknown formats.
    pub fn check<S: Subject>(
        &self,
        formats: &mut Formats<S>,
        variables: &mut Variables<S>,
    ) -> Result<()> {
        let named = self
            .logs
            .iter()
            .flatten()
            .filter_map(|log| log.format.as_ref());
        for name in named {
            formats.find(name, variables)?;
        }
        Ok(())
    }

    /// Opens the files and resolves the names.
    ///
    /// # Errors
    /// Unknown formats and variables, files that cannot be opened, one file with different
    /// buffering.
    pub fn compile<S: Subject>(
        &self,
        formats: &mut Formats<S>,
        variables: &mut Variables<S>,
    ) -> Result<AccessLogs<S>> {
        let raw = if self.off {
            &[]
        } else {
            self.logs.as_deref().unwrap_or_default()
        };
        let logs = raw.iter().map(|log| log.compile(formats, variables));
        Ok(AccessLogs {
            logs: logs.collect::<Result<_>>()?,
        })
    }
}

impl RawLog {
    fn new(reader: &Reader<'_>, target: Word) -> RawLog {
        RawLog {
            path: reader.path(&target),
            target,
            format: None,
            buffering: Buffering::default(),
            condition: None,
        }
    }

    fn read_parameter(&mut self, word: &Word, index: usize) -> Result<()> {
        if let Some(size) = word.strip("buffer=") {
            let parsed = value::parse_size(size).filter(|&size| size > 0);
            let size = parsed.ok_or_else(|| invalid(word, "buffer size", size))?;
            self.buffering.size = Some(size as usize);
        } else if let Some(age) = word.strip("flush=") {
            let parsed = value::parse_time(age).filter(|age| !age.is_zero());
            self.buffering.flush = Some(parsed.ok_or_else(|| invalid(word, "flush time", age))?);
        } else if let Some(level) = word.strip("gzip=") {
            let parsed = value::parse_number(level).filter(|level| (1..=9).contains(level));
            let level = parsed.ok_or_else(|| invalid(word, "compression level", level))?;
            self.buffering.gzip = Some(level as u8);
        } else if word.is("gzip") {
            self.buffering.gzip = Some(1);
        } else if word.strip("if=").is_some() {
            self.condition = Some(word.clone());
        } else if index == 1 {
            self.format = Some(word.clone());
        } else {
            return Err(invalid(word, "parameter", &word.bytes));
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        let Buffering { size, flush, gzip } = self.buffering;
        let buffered = size.is_some() || gzip.is_some();
        let message = if flush.is_some() && !buffered {
            format!(
                "no buffer is defined for access_log \"{}\"",
                self.target.text()
            )
        } else if buffered && self.target.bytes.contains(&b'$') {
            "buffered logs cannot have variables in name".to_owned()
        } else if buffered && self.target.bytes.starts_with(b"syslog:") {
            "logs to syslog cannot be buffered".to_owned()
        } else {
            return Ok(());
        };
        Err(ConfigError::at(self.target.span, message))
    }

    fn compile<S: Subject>(
        &self,
        formats: &mut Formats<S>,
        variables: &mut Variables<S>,
    ) -> Result<AccessLog<S>> {
        let condition = match &self.condition {
            Some(word) => Some(Template::compile_bytes(&word.bytes[3..], word, variables)?),
            None => None,
        };
        let output = self.open(formats, variables)?;
        let combined = Word::new("combined", self.target.span);
        let format = formats.find(self.format.as_ref().unwrap_or(&combined), variables)?;
        Ok(AccessLog {
            output,
            format,
            condition,
        })
    }

    fn open<S: Subject>(
        &self,
        formats: &mut Formats<S>,
        variables: &mut Variables<S>,
    ) -> Result<Output<S>> {
        let error = |message| Err(ConfigError::at(self.target.span, message));
        if let Some(parameters) = self.target.strip("syslog:") {
            return match syslog::Target::parse(parameters) {
                Ok(target) => Ok(Output::Open(Writer::syslog(target))),
                Err(message) => error(message),
            };
        }
        if self.target.bytes.contains(&b'$') {
            let path = self.path.as_os_str().as_bytes();
            return Template::compile_bytes(path, &self.target, variables).map(Output::Named);
        }
        let known = formats
            .opened
            .entry(self.path.clone())
            .or_insert(self.buffering);
        if *known != self.buffering {
            let target = self.target.text();
            return error(format!(
                "access_log \"{target}\" already defined with conflicting parameters"
            ));
        }
        match Writer::file(&self.path, self.buffering) {
            Ok(writer) => Ok(Output::Open(writer)),
            Err(failed) => {
                let path = self.path.display();
                error(format!("open() \"{path}\" failed {}", os_error(&failed)))
            }
        }
    }
}

/// All `log_format`s of a configuration, and the files its logs opened so far.
pub struct Formats<S: 'static> {
    named: Vec<(Word, Arc<LogFormat<S>>)>,
    opened: HashMap<PathBuf, Buffering>,
}

impl<S: 'static> Default for Formats<S> {
    fn default() -> Self {
        Formats {
            named: Vec::new(),
            opened: HashMap::new(),
        }
    }
}

impl<S: Subject> Formats<S> {
    /// Compiles every format, used or not, so that a mistake shows in `-t`.
    ///
    /// # Errors
    /// Those of templates.
    pub fn compile(raw: Vec<RawFormat>, variables: &mut Variables<S>) -> Result<Formats<S>> {
        let mut named = Vec::with_capacity(raw.len());
        for RawFormat { name, escape, text } in raw {
            let format = LogFormat::compile(&text, escape, &name, variables)?;
            named.push((name, Arc::new(format)));
        }
        Ok(Formats {
            named,
            opened: HashMap::new(),
        })
    }

    /// The format called `name`, with the combined one made when it is first asked for.
    fn find(&mut self, name: &Word, variables: &mut Variables<S>) -> Result<Arc<LogFormat<S>>> {
        let found = self
            .named
            .iter()
            .find(|(known, _)| known.bytes == name.bytes);
        if let Some((_, format)) = found {
            return Ok(Arc::clone(format));
        }
        if !name.is("combined") {
            let message = format!("unknown log format \"{}\"", name.text());
            return Err(ConfigError::at(name.span, message));
        }
        let combined = LogFormat::compile(COMBINED.as_bytes(), Escape::Default, name, variables)?;
        let combined = Arc::new(combined);
        self.named.push((name.clone(), Arc::clone(&combined)));
        Ok(combined)
    }
}

/// The compiled `access_log`s of one block.
pub struct AccessLogs<S: 'static> {
    logs: Box<[AccessLog<S>]>,
}

struct AccessLog<S: 'static> {
    output: Output<S>,
    format: Arc<LogFormat<S>>,
    condition: Option<Template<S>>,
}

enum Output<S: 'static> {
    Open(Writer),
    /// A path with variables.
    Named(Template<S>),
}

impl<S: Subject> AccessLogs<S> {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.logs.is_empty()
    }

    /// Writes the lines of one finished exchange. `now_ms` is the monotonic time. Does not allocate
    /// once buffers are warm, and never blocks.
    pub fn write(&self, subject: &mut S, now_ms: u64) {
        for log in &self.logs {
            if log
                .condition
                .as_ref()
                .is_some_and(|condition| !condition.is_true(subject))
            {
                continue;
            }
            match &log.output {
                Output::Open(writer) => {
                    writer.append(now_ms, |line| log.format.append(subject, line));
                }
                Output::Named(path) => {
                    let writer = path.with(subject, |_, path| named_file(path));
                    writer.append(now_ms, |line| log.format.append(subject, line));
                }
            }
        }
    }
}

/// This thread's writer for a file named by variables. The file is opened by the log writer.
fn named_file(path: &[u8]) -> Writer {
    thread_local! {
        static FILES: RefCell<Vec<Writer>> = const { RefCell::new(Vec::new()) };
    }
    FILES.with_borrow_mut(|files| {
        let known = files
            .iter()
            .position(|writer| writer.name().as_bytes() == path);
        // The latest used stands last, and the first is the one to forget.
        let writer = match known {
            Some(index) => files.remove(index),
            None => {
                if files.len() == NAMED_FILES_MAX {
                    files.remove(0);
                }
                Writer::file_later(Path::new(OsStr::from_bytes(path)))
            }
        };
        files.push(writer.clone());
        writer
    })
}

fn invalid(word: &Word, what: &str, value: &[u8]) -> ConfigError {
    let value = String::from_utf8_lossy(value);
    ConfigError::at(word.span, format!("invalid {what} \"{value}\""))
}

#[cfg(test)]
mod tests {
    use super::super::registry::tests::{Probe, variables};
    use super::*;
    use crate::config::{Catalog, Sources, parse_text};

    struct Logs {
        raw: RawLogs,
        formats: Vec<RawFormat>,
    }

    fn read(text: &str) -> Result<Logs> {
        let (sources, catalog) = (Sources::new(), Catalog::new(|_| {}));
        let reader = Reader::new(&sources, &catalog, Path::new("/prefix"), Path::new("/conf"));
        let mut logs = Logs {
            raw: RawLogs::default(),
            formats: Vec::new(),
        };
        for node in nodes(text) {
            if node.is("log_format") {
                RawFormat::read(&node, &mut logs.formats)?;
            } else {
                logs.raw.read(&reader, &node)?;
            }
        }
        Ok(logs)
    }

    fn nodes(text: &str) -> Vec<Node> {
        parse_text(Path::new("test"), text.as_bytes()).0
    }

    fn compile(text: &str) -> Result<AccessLogs<Probe>> {
        let logs = read(text)?;
        let mut variables = variables();
        let mut formats = Formats::compile(logs.formats, &mut variables)?;
        let compiled = logs.raw.compile(&mut formats, &mut variables)?;
        variables.finish()?;
        Ok(compiled)
    }

    fn message(text: &str) -> String {
        compile(text).err().expect("the text is wrong").message
    }

    fn line(format: &str, probe: &mut Probe) -> String {
        let logs = read(format).expect("the format reads");
        let mut variables = variables();
        let formats = Formats::compile(logs.formats, &mut variables).expect("it compiles");
        variables.finish().expect("all names are known");
        let mut line = Vec::new();
        formats.named[0].1.append(probe, &mut line);
        String::from_utf8_lossy(&line).into_owned()
    }

    #[test]
    fn values_are_escaped_and_absent_ones_marked() {
        let mut probe = Probe {
            uri: b"/a\"b".into(),
            ..Probe::default()
        };
        let text = "log_format x '[$uri] ' '$absent' ' \"$args\"';";
        assert_eq!(line(text, &mut probe), "[/a\\x22b] - \"\"");
        let text = "log_format x escape=json '{\"u\":\"$uri\",\"a\":\"$absent\"}';";
        assert_eq!(line(text, &mut probe), "{\"u\":\"/a\\\"b\",\"a\":\"\"}");
        assert_eq!(line("log_format x escape=none $uri;", &mut probe), "/a\"b");
    }

    #[test]
    fn mistakes_have_nginx_s_messages() {
        for (text, expected) in [
            ("access_log /dev/null nope;", "unknown log format \"nope\""),
            ("access_log a x buffer=q;", "invalid buffer size \"q\""),
            ("access_log a x flush=q;", "invalid flush time \"q\""),
            (
                "access_log a x gzip=10;",
                "invalid compression level \"10\"",
            ),
            ("access_log a x y;", "invalid parameter \"y\""),
            ("access_log off x;", "invalid parameter \"x\""),
            (
                "access_log a x flush=1s;",
                "no buffer is defined for access_log \"a\"",
            ),
            (
                "access_log a$uri x buffer=1k;",
                "buffered logs cannot have variables in name",
            ),
            (
                "access_log syslog:server=127.0.0.1 x gzip;",
                "logs to syslog cannot be buffered",
            ),
            (
                "log_format x escape=xml a;",
                "unknown log format escaping \"xml\"",
            ),
            (
                "log_format x a; log_format x b;",
                "duplicate \"log_format\" name \"x\"",
            ),
            (
                "log_format combined a;",
                "duplicate \"log_format\" name \"combined\"",
            ),
            (
                "log_format x $nope; access_log /dev/null x;",
                "unknown \"nope\" variable",
            ),
            (
                "log_format x a; access_log /dev/null x; access_log /dev/null x buffer=1k;",
                "access_log \"/dev/null\" already defined with conflicting parameters",
            ),
            (
                "log_format x a; access_log /no/such/file x;",
                "open() \"/no/such/file\" failed (2: No such file or directory)",
            ),
        ] {
            assert_eq!(message(text), expected, "{text}");
        }
    }

    #[test]
    fn conditions_off_and_inheritance_decide_what_is_written() {
        let directory = std::env::temp_dir().join(format!("ringway-logs-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let at = directory.display();
        let text = format!(
            "log_format x '$uri'; access_log {at}/all x; access_log {at}/some x if=$args; \
             access_log {at}/of-$args x;"
        );
        let logs = compile(&text).unwrap();
        for (uri, args) in [("/a", "1"), ("/b", "0"), ("/c", "")] {
            let mut probe = Probe {
                uri: uri.into(),
                args: args.into(),
                ..Probe::default()
            };
            logs.write(&mut probe, 0);
        }
        crate::observe::access::flush_all();
        crate::observe::writer::flush_and_wait(std::time::Duration::from_secs(5));
        for (file, expected) in [
            ("all", "/a\n/b\n/c\n"),
            ("some", "/a\n"),
            ("of-1", "/a\n"),
            ("of-0", "/b\n"),
        ] {
            let text = std::fs::read_to_string(directory.join(file)).unwrap();
            assert_eq!(text, expected, "{file}");
        }
        std::fs::remove_dir_all(&directory).unwrap();

        let mut inner = RawLogs::default();
        let outer = read("access_log a;").unwrap().raw;
        inner.inherit(&outer);
        assert_eq!(inner.logs.as_ref().map(Vec::len), Some(1));
        let mut off = read("access_log off;").unwrap().raw;
        off.inherit(&outer);
        let mut formats = Formats::compile(Vec::new(), &mut variables()).unwrap();
        assert!(
            off.compile(&mut formats, &mut variables())
                .unwrap()
                .is_empty()
        );
        let (sources, catalog) = (Sources::new(), Catalog::new(|_| {}));
        let reader = Reader::new(&sources, &catalog, Path::new("/prefix"), Path::new("/conf"));
        let block = &nodes("http {}")[0];
        off.finish_root(&reader, block);
        assert_eq!(off.logs.as_ref().map(Vec::len), Some(0));
        let mut unset = RawLogs::default();
        unset.finish_root(&reader, block);
        let implicit = &unset.logs.unwrap()[0];
        assert_eq!(implicit.path, Path::new("/prefix/access.log"));
        assert!(implicit.format.is_none());
    }
}
