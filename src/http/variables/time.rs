//! The time of day.

use super::{number, seconds};
use crate::base::clock;
use crate::http::exchange::Exchange;
use crate::vars::Variable;

type V = Variable<Exchange>;

pub(super) static TABLE: &[V] = &[
    V::new("msec", |_, _, out| {
        let wall = clock::wall();
        match u64::try_from(wall.secs) {
            Ok(secs) => seconds(out, secs * 1000 + u64::from(wall.ms)),
            // A clock before 1970.
            Err(_) => number(out, wall.secs),
        }
    })
    .doc("Seconds since 1970 with milliseconds."),
    V::new("time_local", |_, _, out| {
        clock::time_local(out);
        true
    })
    .doc("Local time in the format of common logs."),
    V::new("time_iso8601", |_, _, out| {
        clock::iso8601(out);
        true
    })
    .doc("Local time in the format of ISO 8601."),
];
