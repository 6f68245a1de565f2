//! `access_log` and `log_format`: one line per finished request.
//!
//! How lines are put together and written is the same for streams and lives in
//! [`vars::access_log`](crate::vars::access_log); here is what is HTTP's own: the rows, the log
//! that is there by default, and when a line is written.

use crate::base::clock;
use crate::config::{Arity, Contexts, Node, Reader, Result, Row};
use crate::http::exchange::Exchange;
use crate::http::scope::Scope;
use crate::observe::Level;
use crate::vars::access_log::{self, AccessLogs};

pub use crate::vars::access_log::{RawFormat, RawLogs as Raw};

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

/// All compiled `log_format`s.
pub type Formats = access_log::Formats<Exchange>;

/// The compiled logs of a location.
pub type Conf = AccessLogs<Exchange>;

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
    scope.log.read(reader, node)
}

fn set_log_format(_: &mut Reader<'_>, scope: &mut Scope, node: &Node) -> Result<()> {
    RawFormat::read(node, &mut scope.http.formats)
}
