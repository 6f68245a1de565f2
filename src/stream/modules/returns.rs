//! `return`: a text for the client, and the end.

use crate::config::{Contexts, Row};
use crate::observe::Level;
use crate::stream::client::Client;
use crate::stream::scope::Scope;
use crate::stream::serve::End;
use crate::stream::session::Session;
use crate::vars::Template;

/// The directives of this module.
pub const ROWS: &[Row<Scope>] = &[
    Row::word("return", Contexts::STREAM_SERVER, |s: &mut Scope| {
        &mut s.returns
    })
    .doc("Sends a text to the client and closes the connection."),
];

/// The content of `return`.
///
/// # Errors
/// The session's status.
pub async fn run(
    s: &mut Session,
    client: &mut Client,
    text: &Template<Session>,
) -> Result<(), End> {
    let mut out = Vec::new();
    text.eval(s, &mut out);
    if out.is_empty() {
        return Ok(());
    }
    let count = out.len() as u64;
    match client.send(out).await {
        Ok(()) => s.sent += count,
        Err(_) => s.log(
            Level::Info,
            format_args!("client prematurely closed connection"),
        ),
    }
    Ok(())
}
