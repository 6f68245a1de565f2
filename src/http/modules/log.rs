//! `access_log` and `log_format`: one line per finished request.
//!
//! How lines are put together and written is the same for streams and lives in
//! [`vars::access_log`](crate::vars::access_log); here is what is HTTP's own: the rows, the log
//! that is there by default, and when a line is written.

use crate::base::clock;
use crate::config::{Arity, Contexts, Node, Reader, Result, Row, Word};
use crate::http::exchange::Exchange;
use crate::http::scope::{Compiler, Scope};
use crate::observe::Level;
use crate::vars::access_log::{self, AccessLogs, RawLogs};

/// Where access logs may be set.
const PLACES: Contexts = Contexts::HTTP
    .or(Contexts::SERVER)
    .or(Contexts::LOCATION)
    .or(Contexts::LOCATION_IF)
    .or(Contexts::LIMIT_EXCEPT);

/// The directives of this file.
pub const ROWS: &[Row<Scope>] = &[
    Row::custom("access_log", PLACES, Arity::AtLeast(1), set_access_log)
        .default("access.log combined")
        .doc("Where a line per request is written, in which format, and how it is buffered."),
    Row::custom(
        "log_format",
        Contexts::HTTP,
        Arity::AtLeast(2),
        set_log_format,
    )
    .default("combined \"…\"")
    .doc("The format of access log lines."),
    Row::notice(
        "open_log_file_cache",
        Contexts::HTTP.or(Contexts::SERVER).or(Contexts::LOCATION),
        Arity::AtLeast(1),
        "files of logs named by variables are always kept open",
    ),
];

/// A `log_format` as it was read.
pub type RawFormat = access_log::RawFormat;

/// All compiled `log_format`s.
pub type Formats = access_log::Formats<Exchange>;

/// The compiled logs of a location.
pub type Conf = AccessLogs<Exchange>;

/// The `access_log`s of a block as they were read.
#[derive(Clone, Debug, Default)]
pub struct Raw(RawLogs);

impl Raw {
    /// nginx's merge: a block's logs replace those around it.
    pub fn inherit(&mut self, parent: &Raw) {
        self.0.inherit(&parent.0);
    }

    /// Gives an `http {}` without any `access_log` nginx's: `access.log` under the prefix,
    /// combined.
    pub fn finish_root(&mut self, reader: &Reader<'_>, block: &Node) {
        if self.0.is_unset() {
            let word = Word::new("access.log", block.span());
            self.0 = RawLogs::implicit(reader.path(&word), word);
        }
    }

    /// Finds the formats of logs that stand where no request may end.
    ///
    /// # Errors
    /// Unknown names.
    pub fn check(&self, c: &mut Compiler<'_, '_>) -> Result<()> {
        self.0.check(&mut c.formats, &mut c.vars)
    }

    /// Opens the files and finds the formats.
    ///
    /// # Errors
    /// Unknown names, files that cannot be opened.
    pub fn compile(&self, c: &mut Compiler<'_, '_>) -> Result<Conf> {
        self.0.compile(&mut c.formats, &mut c.vars)
    }
}

/// Writes the lines of a finished exchange, with the settings of the location it ended in. An error
/// log at level `debug` gets one, too.
pub fn write(ex: &mut Exchange) {
    ex.log(
        Level::Debug,
        format_args!(
            "request finished with status {}, {} bytes sent",
            ex.response.status, ex.response.bytes_sent
        ),
    );
    let generation = ex.generation();
    let logs = &generation.location(ex.location).log;
    if !logs.is_empty() {
        logs.write(ex, clock::now_ms());
    }
}

fn set_access_log(reader: &mut Reader<'_>, scope: &mut Scope, node: &Node) -> Result<()> {
    scope.log.0.read(reader, node)
}

fn set_log_format(_: &mut Reader<'_>, scope: &mut Scope, node: &Node) -> Result<()> {
    let format = RawFormat::read(node, &scope.http.formats)?;
    scope.http.formats.push(format);
    Ok(())
}
