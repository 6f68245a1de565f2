//! nginx's variables of an HTTP exchange.
//!
//! Getters append to the buffer they are given and allocate nothing. What has no value at all
//! answers false (`-` in a log); what is merely empty answers true.

mod client;
mod request;
mod response;
mod upstream;

use crate::http::exchange::Exchange;
use crate::http::modules::{gzip, limit_conn, ssl};
use crate::vars::{Variable, common};

/// All of them, for the registry of a configuration.
pub static TABLES: [&[Variable<Exchange>]; 9] = [
    CONNECTION,
    PROCESS,
    client::TABLE,
    request::TABLE,
    response::TABLE,
    upstream::TABLE,
    gzip::VARIABLES,
    limit_conn::VARIABLES,
    ssl::VARIABLES,
];

const CONNECTION: &[Variable<Exchange>] = &common::connection();
const PROCESS: &[Variable<Exchange>] = &common::process();

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vars::Variables;

    #[test]
    fn names_are_unique() {
        let _ = Variables::new(&TABLES);
    }
}
