//! The two timestamps of log lines, in local time. Log lines are written from any thread and before
//! any worker runs, so this does not depend on a worker's cached clock; the broken-down time is
//! kept per thread and second.

use std::cell::Cell;
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// Appends `YYYY/MM/DD HH:MM:SS`, the time of the error log.
pub fn append_log(out: &mut Vec<u8>) {
    let now = now();
    let _ = write!(
        out,
        "{:04}/{:02}/{:02} {:02}:{:02}:{:02}",
        now.year, now.month, now.day, now.hour, now.minute, now.second
    );
}

/// Appends `Mon dd hh:mm:ss`, the time of RFC 3164.
pub fn append_syslog(out: &mut Vec<u8>) {
    let now = now();
    let _ = write!(
        out,
        "{} {:2} {:02}:{:02}:{:02}",
        MONTHS[usize::from(now.month - 1)],
        now.day,
        now.hour,
        now.minute,
        now.second
    );
}

#[derive(Clone, Copy)]
struct Local {
    unix_seconds: i64,
    year: i32,
    month: u8,
    day: u8,
    hour: u8,
    minute: u8,
    second: u8,
}

fn now() -> Local {
    thread_local! {
        static LAST: Cell<Option<Local>> = const { Cell::new(None) };
    }
    let unix_seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs() as i64);
    match LAST.get() {
        Some(last) if last.unix_seconds == unix_seconds => last,
        _ => {
            let fresh = local(unix_seconds);
            LAST.set(Some(fresh));
            fresh
        }
    }
}

fn local(unix_seconds: i64) -> Local {
    let mut parts = std::mem::MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are valid for the call, and an all-zero `tm` is a valid value.
    let parts = unsafe {
        libc::localtime_r(&unix_seconds, parts.as_mut_ptr());
        parts.assume_init()
    };
    Local {
        unix_seconds,
        year: parts.tm_year + 1900,
        month: parts.tm_mon as u8 + 1,
        day: parts.tm_mday as u8,
        hour: parts.tm_hour as u8,
        minute: parts.tm_min as u8,
        second: parts.tm_sec as u8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_have_the_shape_parsers_expect() {
        let mut out = Vec::new();
        append_log(&mut out);
        let shape: Vec<u8> = out
            .iter()
            .map(|byte| if byte.is_ascii_digit() { b'0' } else { *byte })
            .collect();
        assert_eq!(shape, b"0000/00/00 00:00:00");
        out.clear();
        append_syslog(&mut out);
        assert_eq!(out.len(), 15);
        assert_eq!((out[3], out[6], out[9], out[12]), (b' ', b' ', b':', b':'));
    }
}
