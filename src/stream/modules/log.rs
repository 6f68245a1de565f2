//! `access_log` and `log_format`: one line per finished session.

use crate::base::clock;
use crate::config::{Arity, ConfigError, Contexts, Node, Reader, Result, Row};
use crate::stream::scope::Scope;
use crate::stream::session::Session;
use crate::vars::access_log::{self, AccessLogs};

pub use crate::vars::access_log::{RawFormat, RawLogs as Raw};

const SS: Contexts = Contexts::STREAM.or(Contexts::STREAM_SERVER);

/// The directives of this module.
pub const ROWS: &[Row<Scope>] = &[
    Row::custom("access_log", SS, Arity::AtLeast(1), set_access_log)
        .default("off")
        .doc("Where a line per session is written, in which format, and how it is buffered."),
    Row::custom(
        "log_format",
        Contexts::STREAM,
        Arity::AtLeast(2),
        set_log_format,
    )
    .doc("The format of access log lines."),
    Row::notice(
        "open_log_file_cache",
        SS,
        Arity::AtLeast(1),
        "files of logs named by variables are always kept open",
    ),
];

/// All compiled `log_format`s.
pub type Formats = access_log::Formats<Session>;

/// The compiled logs of a server.
pub type Conf = AccessLogs<Session>;

/// The log phase: writes the lines of a finished session.
pub fn write(s: &mut Session) {
    let generation = s.generation();
    let logs = &generation.server(s.server).log;
    if !logs.is_empty() {
        logs.write(s, clock::now_ms());
    }
}

fn set_access_log(reader: &mut Reader<'_>, scope: &mut Scope, node: &Node) -> Result<()> {
    let target = node.args()[0].span;
    scope.log.read(reader, node)?;
    // There is no format here that goes without saying.
    match scope.log.last_format() {
        Some(None) => Err(ConfigError::at(target, "log format is not specified")),
        Some(Some(name)) if name.is("combined") => {
            let message = "unknown log format \"combined\"";
            Err(ConfigError::at(name.span, message))
        }
        _ => Ok(()),
    }
}

fn set_log_format(_: &mut Reader<'_>, scope: &mut Scope, node: &Node) -> Result<()> {
    RawFormat::read(node, &mut scope.stream.formats)
}
