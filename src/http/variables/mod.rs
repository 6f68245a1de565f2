//! nginx's variables of an HTTP exchange.
//!
//! Getters append to the buffer they are given and allocate nothing. What has no value at all
//! answers false (`-` in a log); what is merely empty answers true.

mod client;
mod request;
mod response;
mod upstream;

use crate::http::exchange::Exchange;
use crate::http::h1::head::Field;
use crate::http::modules::{gzip, limit_conn, ssl};
use crate::http::token::Token;
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

/// The values of the fields that `variable` names in the spelling of `$http_NAME` (lower case, `_`
/// for `-`), as one list; false if there is none.
fn join(fields: &[Field], buf: &[u8], variable: &[u8], out: &mut Vec<u8>) -> bool {
    let mut found = false;
    for field in fields {
        if !is_variable_of(field.name.of(buf), variable) {
            continue;
        }
        if found {
            let separator: &[u8] = match field.token {
                Token::Cookie => b"; ",
                _ => b", ",
            };
            out.extend_from_slice(separator);
        }
        out.extend_from_slice(field.value.of(buf));
        found = true;
    }
    found
}

/// Whether `variable` is what `$http_NAME` calls the field `name`.
fn is_variable_of(name: &[u8], variable: &[u8]) -> bool {
    let fold = |byte: &u8| match byte {
        b'-' => b'_',
        _ => byte.to_ascii_lowercase(),
    };
    name.len() == variable.len() && name.iter().map(fold).eq(variable.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::h1::head::Fields;
    use crate::http::message::Range32;
    use crate::vars::Variables;

    #[test]
    fn names_are_unique() {
        let _ = Variables::new(&TABLES);
    }

    #[test]
    fn fields_of_one_name_are_one_list() {
        let buf = b"X-A: 1\r\nCookie: a\r\nx-a: 2\r\nX_A: 3\r\nX-Ab: 4\r\nCookie: b\r\n";
        let mut fields = Fields::default();
        let mut at = 0;
        for line in buf.split_inclusive(|byte| *byte == b'\n') {
            let colon = at + line.iter().position(|byte| *byte == b':').unwrap();
            let end = at + line.len();
            fields.push(
                buf,
                Range32::new(at, colon),
                Range32::new(colon + 2, end - 2),
            );
            at = end;
        }
        for (variable, expected) in [
            (&b"x_a"[..], Some(&b"1, 2, 3"[..])),
            (b"cookie", Some(b"a; b")),
            (b"x", None),
        ] {
            let mut out = Vec::new();
            let is_there = join(fields.as_slice(), buf, variable, &mut out);
            assert_eq!(is_there.then_some(&out[..]), expected);
        }
    }
}
