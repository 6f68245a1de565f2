//! What every session passes before its first byte is looked at, whatever carries it.

use super::modules::{access, limit_conn, realip, set};
use super::serve::End;
use super::session::Session;

/// `realip` → `set` → `limit_conn` → `access`.
///
/// # Errors
/// The session's status, where it is not let in.
pub fn enter(s: &mut Session) -> Result<(), End> {
    s.doing = "initializing session";
    realip::apply(s);
    set::run(s);
    limit_conn::check(s)?;
    access::check(s)?;
    s.doing = "";
    Ok(())
}
