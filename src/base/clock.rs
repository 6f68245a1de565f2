//! Time: monotonic milliseconds for deadlines, and the texts of the current second.

use std::cell::{Cell, RefCell};
use std::fmt::Write;
use std::mem::MaybeUninit;

/// Monotonic milliseconds, a few behind at most (`CLOCK_MONOTONIC_COARSE`). For deadlines.
#[inline]
pub fn now_ms() -> u64 {
    let time = read(libc::CLOCK_MONOTONIC_COARSE);
    time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000
}

/// Monotonic milliseconds, exact. For durations that are reported.
#[inline]
pub fn precise_ms() -> u64 {
    precise_us() / 1000
}

/// Monotonic microseconds, exact.
#[inline]
pub fn precise_us() -> u64 {
    let time = read(libc::CLOCK_MONOTONIC);
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1000
}

/// A moment of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wall {
    /// Seconds since 1970, UTC.
    pub secs: i64,
    /// Milliseconds of the second.
    pub ms: u16,
}

/// The moment of the calendar that it is now, a few milliseconds behind at most.
#[inline]
pub fn wall() -> Wall {
    let time = read(libc::CLOCK_REALTIME_COARSE);
    Wall {
        secs: time.tv_sec,
        ms: (time.tv_nsec / 1_000_000) as u16,
    }
}

/// Appends the local time as the error log has it: `2026/11/21 08:00:00`.
pub fn log_time(out: &mut Vec<u8>) {
    with_texts(|texts| out.extend_from_slice(texts.log_time.as_bytes()));
}

/// Appends the local time as syslog has it (RFC 3164, 4.1.2): `Nov 21 08:00:00`.
pub fn syslog_time(out: &mut Vec<u8>) {
    with_texts(|texts| out.extend_from_slice(texts.syslog_time.as_bytes()));
}

/// Appends the local time in the common log format: `21/Nov/2026:08:00:00 +0000`.
pub fn time_local(out: &mut Vec<u8>) {
    with_texts(|texts| out.extend_from_slice(texts.time_local.as_bytes()));
}

/// Appends the local time by ISO 8601: `2026-11-21T08:00:00+00:00`.
pub fn iso8601(out: &mut Vec<u8>) {
    with_texts(|texts| out.extend_from_slice(texts.iso8601.as_bytes()));
}

/// Appends the time as a `Date` field has it (RFC 9110, 5.6.7): `Sat, 21 Nov 2026 08:00:00 GMT`.
pub fn http_date(out: &mut Vec<u8>) {
    with_texts(|texts| out.extend_from_slice(texts.http_date.as_bytes()));
}

/// Appends any moment, in seconds since 1970, as [`http_date`] does.
pub fn format_http_date(secs: i64, out: &mut Vec<u8>) {
    let mut text = String::new();
    write_http_date(&broken_down(secs, false), &mut text);
    out.extend_from_slice(text.as_bytes());
}

/// Appends a moment as listings of directories show it: `21-Nov-2026 08:00`.
pub fn format_listing(secs: i64, local: bool, out: &mut Vec<u8>) {
    let tm = broken_down(secs, local);
    let month = MONTHS[tm.tm_mon as usize % 12];
    let (day, year, hour, minute) = (tm.tm_mday, tm.tm_year + 1900, tm.tm_hour, tm.tm_min);
    let text = format!("{day:02}-{month}-{year} {hour:02}:{minute:02}");
    out.extend_from_slice(text.as_bytes());
}

/// When it will next be the given second of the local day, in seconds since 1970.
pub fn next_local(second_of_day: i64) -> i64 {
    let now = wall().secs;
    let mut tm = broken_down(now, true);
    tm.tm_hour = (second_of_day / 3600) as libc::c_int;
    tm.tm_min = (second_of_day / 60 % 60) as libc::c_int;
    tm.tm_sec = (second_of_day % 60) as libc::c_int;
    tm.tm_isdst = -1;
    // SAFETY: mktime reads and normalises the struct.
    let today = unsafe { libc::mktime(&raw mut tm) };
    if today > now {
        return today;
    }
    tm.tm_mday += 1;
    tm.tm_isdst = -1;
    // SAFETY: as above.
    unsafe { libc::mktime(&raw mut tm) }
}

/// The texts of one second.
#[derive(Default)]
struct Texts {
    log_time: String,
    syslog_time: String,
    time_local: String,
    iso8601: String,
    http_date: String,
}

thread_local! {
    /// The second that the texts are of.
    static SECOND: Cell<i64> = const { Cell::new(i64::MIN) };
    static TEXTS: RefCell<Texts> = RefCell::default();
}

fn with_texts(act: impl FnOnce(&Texts)) {
    let secs = wall().secs;
    TEXTS.with_borrow_mut(|texts| {
        if SECOND.replace(secs) != secs {
            texts.refresh(secs);
        }
        act(texts);
    });
}

impl Texts {
    /// Allocates only the first time.
    fn refresh(&mut self, secs: i64) {
        let local = broken_down(secs, true);
        let (year, month, day) = (local.tm_year + 1900, local.tm_mon + 1, local.tm_mday);
        let (hour, minute, second) = (local.tm_hour, local.tm_min, local.tm_sec);
        let offset = local.tm_gmtoff / 60;
        let sign = if offset < 0 { '-' } else { '+' };
        let (zone_hour, zone_minute) = (offset.abs() / 60, offset.abs() % 60);
        let name = MONTHS[local.tm_mon as usize % 12];
        let Texts {
            log_time,
            syslog_time,
            time_local,
            iso8601,
            http_date,
        } = self;
        for text in [
            &mut *log_time,
            &mut *syslog_time,
            &mut *time_local,
            &mut *iso8601,
            &mut *http_date,
        ] {
            text.clear();
        }
        // Writing to a String does not fail.
        let _ = write!(
            log_time,
            "{year}/{month:02}/{day:02} {hour:02}:{minute:02}:{second:02}"
        );
        let _ = write!(
            syslog_time,
            "{name} {day:2} {hour:02}:{minute:02}:{second:02}"
        );
        let _ = write!(
            time_local,
            "{day:02}/{name}/{year}:{hour:02}:{minute:02}:{second:02} \
             {sign}{zone_hour:02}{zone_minute:02}"
        );
        let _ = write!(
            iso8601,
            "{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}\
             {sign}{zone_hour:02}:{zone_minute:02}"
        );
        write_http_date(&broken_down(secs, false), http_date);
    }
}

fn write_http_date(utc: &libc::tm, out: &mut String) {
    let (weekday, month) = (
        DAYS[utc.tm_wday as usize % 7],
        MONTHS[utc.tm_mon as usize % 12],
    );
    let (year, day) = (utc.tm_year + 1900, utc.tm_mday);
    let (hour, minute, second) = (utc.tm_hour, utc.tm_min, utc.tm_sec);
    let _ = write!(
        out,
        "{weekday}, {day:02} {month} {year} {hour:02}:{minute:02}:{second:02} GMT"
    );
}

fn broken_down(secs: i64, local: bool) -> libc::tm {
    // SAFETY: a tm consists of integers and a pointer, for which zero is a value; both functions
    // only read the time and write the struct.
    unsafe {
        let mut tm = MaybeUninit::<libc::tm>::zeroed().assume_init();
        if local {
            libc::localtime_r(&raw const secs, &raw mut tm);
        } else {
            libc::gmtime_r(&raw const secs, &raw mut tm);
        }
        tm
    }
}

#[inline]
fn read(clock: libc::clockid_t) -> libc::timespec {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: clock_gettime writes the struct; the clocks that we ask for exist.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time
}

const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn text(format: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        format(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn http_dates_are_exact() {
        assert_eq!(
            text(|out| format_http_date(784_111_777, out)),
            "Sun, 06 Nov 1994 08:49:37 GMT"
        );
        assert_eq!(
            text(|out| format_http_date(0, out)),
            "Thu, 01 Jan 1970 00:00:00 GMT"
        );
        assert_eq!(
            text(|out| format_http_date(951_827_696, out)),
            "Tue, 29 Feb 2000 12:34:56 GMT"
        );
    }

    #[test]
    fn current_texts_have_their_shape() {
        let shape = |text: String| text.replace(|c: char| c.is_ascii_digit(), "0");
        assert_eq!(shape(text(log_time)), "0000/00/00 00:00:00");
        let syslog = text(syslog_time);
        assert_eq!(
            (syslog.len(), shape(syslog[7..].to_owned()).as_str()),
            (15, "00:00:00")
        );
        let zoned = shape(text(time_local));
        assert_eq!(
            (&zoned[..3], &zoned[6..20], zoned.len()),
            ("00/", "/0000:00:00:00", 26)
        );
        assert_eq!(
            shape(text(iso8601)).replace('-', "+"),
            "0000+00+00T00:00:00+00:00"
        );
        assert!(text(http_date).ends_with(" GMT"));
    }

    #[test]
    fn clocks_agree() {
        let (coarse, precise) = (now_ms(), precise_ms());
        assert!(precise.abs_diff(coarse) < 1000);
        assert!(wall().secs > 1_700_000_000 && wall().ms < 1000);
    }
}
