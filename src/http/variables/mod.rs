//! nginx's variables of an HTTP exchange.
//!
//! Getters append to the buffer they are given and allocate nothing. What has no value at all
//! answers false (`-` in a log); what is merely empty answers true.

mod client;
mod request;
mod response;
mod time;
mod upstream;

use std::fmt::Display;
use std::io::Write as _;

use crate::http::exchange::Exchange;
use crate::http::modules::{gzip, limit_conn, realip, ssl};
use crate::vars::Variable;

/// All of them, for the registry of a configuration.
pub static TABLES: [&[Variable<Exchange>]; 9] = [
    client::TABLE,
    request::TABLE,
    response::TABLE,
    upstream::TABLE,
    time::TABLE,
    gzip::VARIABLES,
    limit_conn::VARIABLES,
    realip::VARIABLES,
    ssl::VARIABLES,
];

/// Appends a value that is there.
fn found(out: &mut Vec<u8>, value: &[u8]) -> bool {
    out.extend_from_slice(value);
    true
}

/// Appends a value that may be missing.
fn maybe(out: &mut Vec<u8>, value: Option<&[u8]>) -> bool {
    value.is_some_and(|value| found(out, value))
}

/// Appends a number.
fn number(out: &mut Vec<u8>, value: impl itoa::Integer) -> bool {
    found(out, itoa::Buffer::new().format(value).as_bytes())
}

/// Appends milliseconds as seconds with three decimals.
fn seconds(out: &mut Vec<u8>, ms: u64) -> bool {
    number(out, ms / 1000);
    let ms = (ms % 1000) as u16;
    let digit = |n: u16| b'0' + (n % 10) as u8;
    found(out, &[b'.', digit(ms / 100), digit(ms / 10), digit(ms)])
}

/// Appends what only knows how to print itself.
fn display(out: &mut Vec<u8>, value: impl Display) -> bool {
    // Writing to a vector cannot fail.
    let _ = write!(out, "{value}");
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vars::Variables;

    #[test]
    fn names_are_unique() {
        let _ = Variables::new(&TABLES);
    }

    #[test]
    fn milliseconds_are_seconds_with_three_decimals() {
        for (ms, expected) in [
            (0, "0.000"),
            (7, "0.007"),
            (1_042, "1.042"),
            (60_500, "60.500"),
        ] {
            let mut out = Vec::new();
            assert!(seconds(&mut out, ms));
            assert_eq!(out, expected.as_bytes());
        }
    }
}
