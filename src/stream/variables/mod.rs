//! nginx's variables of a stream session.
//!
//! Getters append to the buffer they are given and allocate nothing. What has no value at all
//! answers false (`-` in a log); what is merely empty answers true.

mod session;
mod upstream;

use crate::stream::modules::{limit_conn, ssl, ssl_preread};
use crate::stream::session::Session;
use crate::vars::{Variable, common};

/// All of them, for the registry of a configuration.
pub static TABLES: [&[Variable<Session>]; 7] = [
    CONNECTION,
    PROCESS,
    session::TABLE,
    upstream::TABLE,
    limit_conn::VARIABLES,
    ssl::VARIABLES,
    ssl_preread::VARIABLES,
];

const CONNECTION: &[Variable<Session>] = &common::connection();
const PROCESS: &[Variable<Session>] = &common::process();

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vars::Variables;

    #[test]
    fn names_are_unique() {
        let _ = Variables::new(&TABLES);
    }
}
