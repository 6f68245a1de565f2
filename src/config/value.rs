//! Typed values of words: sizes, times, flags, numbers, choices.
//!
//! The functions taking a [`Word`] fail with nginx's text for a directive's argument, completed
//! with the directive's name by the reader. Those named `parse_*` take bytes and give `None`, for
//! parts of words (`max_size=10g`).

use std::time::Duration;

use super::error::{ConfigError, Result};
use super::tree::{Node, Word};

/// Bytes: a number with an optional `k`, `m` or `g` of either case.
pub fn size(word: &Word) -> Result<u64> {
    parse_size(&word.bytes).ok_or_else(|| {
        invalid(
            word,
            "a size is a number with an optional k, m or g, such as 8k or 10m",
        )
    })
}

/// A time with nginx's units, such as `1h30m`, `90s`, `500ms`; a bare number is seconds.
pub fn time(word: &Word) -> Result<Duration> {
    parse_time(&word.bytes).ok_or_else(|| {
        invalid(
            word,
            "a time is a number with ms, s, m, h, d, w, M or y, largest unit first",
        )
    })
}

/// As [`time`] without `ms`.
pub fn seconds(word: &Word) -> Result<Duration> {
    parse_seconds(&word.bytes).ok_or_else(|| {
        invalid(
            word,
            "a time in seconds is a number with s, m, h, d, w, M or y, largest unit first",
        )
    })
}

/// A number without sign or unit.
pub fn number(word: &Word) -> Result<u64> {
    parse_number(&word.bytes).ok_or_else(|| ConfigError::directive(word.span, "invalid number"))
}

/// `on` or `off`, case ignored.
pub fn flag(word: &Word) -> Result<bool> {
    parse_flag(&word.bytes).ok_or_else(|| ConfigError::flag(word.span, word.text()))
}

/// The index of the word among `choices`, case ignored.
pub fn choice(word: &Word, choices: &[&str]) -> Result<usize> {
    let found = choices
        .iter()
        .position(|c| word.bytes.eq_ignore_ascii_case(c.as_bytes()));
    found.ok_or_else(|| {
        let message = format!("invalid value \"{}\"", word.text());
        ConfigError::at(word.span, message)
            .help(format!("it must be one of: {}", choices.join(", ")))
    })
}

/// Sets an option that a directive may set once.
///
/// # Errors
/// `"x" directive is duplicate`.
pub fn once<T>(slot: &mut Option<T>, value: T, node: &Node) -> Result<()> {
    if slot.is_some() {
        return Err(duplicate(node));
    }
    *slot = Some(value);
    Ok(())
}

/// `"x" directive is duplicate`.
pub fn duplicate(node: &Node) -> ConfigError {
    ConfigError::directive(node.span(), "is duplicate")
}

/// `"x" directive invalid value`.
pub fn invalid_value(node: &Node) -> ConfigError {
    ConfigError::directive(node.span(), "invalid value")
}

/// `invalid value "y"`.
pub fn invalid_word(word: &Word) -> ConfigError {
    ConfigError::at(word.span, format!("invalid value \"{}\"", word.text()))
}

/// `invalid parameter "y"`.
pub fn invalid_parameter(word: &Word) -> ConfigError {
    ConfigError::at(word.span, format!("invalid parameter \"{}\"", word.text()))
}

/// See [`size`]. Values of 2^63 and more do not fit.
pub fn parse_size(bytes: &[u8]) -> Option<u64> {
    let (digits, shift) = match bytes {
        [digits @ .., b'k' | b'K'] => (digits, 10),
        [digits @ .., b'm' | b'M'] => (digits, 20),
        [digits @ .., b'g' | b'G'] => (digits, 30),
        digits => (digits, 0),
    };
    fit(parse_number(digits)?.checked_mul(1 << shift)?)
}

/// See [`time`].
pub fn parse_time(bytes: &[u8]) -> Option<Duration> {
    parse_units(bytes, true).map(Duration::from_millis)
}

/// See [`seconds`].
pub fn parse_seconds(bytes: &[u8]) -> Option<Duration> {
    parse_units(bytes, false).map(Duration::from_millis)
}

/// See [`number`]. Values of 2^63 and more do not fit.
pub fn parse_number(bytes: &[u8]) -> Option<u64> {
    if bytes.is_empty() {
        return None;
    }
    let mut value = 0u64;
    for byte in bytes {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        value = value.checked_mul(10)?.checked_add(digit.into())?;
    }
    fit(value)
}

/// See [`flag`].
pub fn parse_flag(bytes: &[u8]) -> Option<bool> {
    if bytes.eq_ignore_ascii_case(b"on") {
        Some(true)
    } else if bytes.eq_ignore_ascii_case(b"off") {
        Some(false)
    } else {
        None
    }
}

/// nginx's numbers are signed.
fn fit(value: u64) -> Option<u64> {
    i64::try_from(value).is_ok().then_some(value)
}

fn invalid(word: &Word, help: &str) -> ConfigError {
    ConfigError::directive(word.span, "invalid value").help(help)
}

/// The units from large to small; a unit may only follow a larger one.
const UNITS: [(&[u8], u64); 8] = [
    (b"y", 365 * 86_400_000),
    (b"M", 30 * 86_400_000),
    (b"w", 7 * 86_400_000),
    (b"d", 86_400_000),
    (b"h", 3_600_000),
    (b"m", 60_000),
    (b"s", 1000),
    (b"ms", 1),
];

const SECONDS: usize = 6;
const MILLISECONDS: usize = 7;

/// Milliseconds of a combined time. Blanks may stand between the parts and a number without a unit
/// is seconds. Like nginx this takes a unit without a number as none of it, if there is a number at
/// all.
fn parse_units(bytes: &[u8], with_ms: bool) -> Option<u64> {
    if !bytes.iter().any(u8::is_ascii_digit) {
        return None;
    }
    let mut rest = bytes;
    let mut next = 0;
    let mut total = 0u64;
    while !rest.is_empty() {
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let value = if digits == 0 {
            0
        } else {
            parse_number(&rest[..digits])?
        };
        rest = &rest[digits..];
        let (unit, len) = match rest {
            // At the very end a number of seconds may follow anything.
            [] => (SECONDS.max(next), 0),
            [b' ', ..] => (SECONDS, 0),
            _ => unit_at(rest)?,
        };
        if unit < next || (unit == MILLISECONDS && len > 0 && !with_ms) {
            return None;
        }
        next = if len == 0 { UNITS.len() } else { unit + 1 };
        let ms = if len == 0 {
            UNITS[SECONDS].1
        } else {
            UNITS[unit].1
        };
        total = total.checked_add(value.checked_mul(ms)?)?;
        rest = rest[len..].trim_ascii_start();
    }
    fit(total)
}

/// The index and length of the longest unit at the start of `rest`.
fn unit_at(rest: &[u8]) -> Option<(usize, usize)> {
    let found = (0..UNITS.len()).filter(|&index| rest.starts_with(UNITS[index].0));
    found
        .map(|index| (index, UNITS[index].0.len()))
        .max_by_key(|(_, len)| *len)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes() {
        let cases = [
            ("0", 0),
            ("1k", 1024),
            ("8K", 8192),
            ("10m", 10 << 20),
            ("2G", 2 << 30),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse_size(text.as_bytes()), Some(bytes), "{text}");
        }
        for text in [
            "",
            "k",
            "-1",
            "1kk",
            "1 k",
            "0x1",
            "1t",
            "9223372036854775807k",
        ] {
            assert_eq!(parse_size(text.as_bytes()), None, "{text}");
        }
        assert_eq!(parse_size(b"9223372036854775807"), Some(i64::MAX as u64));
        assert_eq!(parse_size(b"9223372036854775808"), None);
    }

    #[test]
    fn times() {
        let cases = [
            ("0", 0),
            ("60", 60_000),
            ("500ms", 500),
            ("1h30m", 5_400_000),
            ("1h 30m", 5_400_000),
            ("1h 30", 3_630_000),
            ("1m30", 90_000),
            ("1s30", 31_000),
            ("1s500ms", 1500),
            ("1y1M1w1d", (365 + 30 + 7 + 1) * 86_400_000),
            ("1hm", 3_600_000),
        ];
        for (text, ms) in cases {
            let expected = Some(Duration::from_millis(ms));
            assert_eq!(parse_time(text.as_bytes()), expected, "{text}");
        }
        for text in [
            "",
            "s",
            "1x",
            "30m1h",
            "1m1m",
            "1ss",
            "-1",
            "1.5s",
            "5 m",
            "30 1h",
            "99999999999y",
        ] {
            assert_eq!(parse_time(text.as_bytes()), None, "{text}");
        }
        assert_eq!(parse_seconds(b"5ms"), None);
        assert_eq!(parse_seconds(b"5m"), Some(Duration::from_secs(300)));
    }

    #[test]
    fn flags_and_choices_ignore_case() {
        assert_eq!(
            (parse_flag(b"ON"), parse_flag(b"off"), parse_flag(b"yes")),
            { (Some(true), Some(false), None) }
        );
        let span = crate::config::Span::START;
        assert_eq!(choice(&Word::new("Any", span), &["all", "any"]), Ok(1));
        let error = choice(&Word::new("some", span), &["all", "any"]).unwrap_err();
        assert_eq!(error.message, "invalid value \"some\"");
    }

    /// The time in nginx's shortest spelling, such as `1h30m`; reads back as the same time.
    fn format_time(time: Duration) -> String {
        let mut rest = time.as_millis();
        if rest == 0 {
            return "0s".into();
        }
        let mut out = String::new();
        for (name, ms) in [
            ("d", 86_400_000),
            ("h", 3_600_000),
            ("m", 60_000),
            ("s", 1000),
            ("ms", 1),
        ] {
            if rest >= ms {
                out.push_str(&format!("{}{name}", rest / ms));
                rest %= ms;
            }
        }
        out
    }

    /// The size in nginx's shortest spelling, such as `8k`; reads back as the same size.
    fn format_size(bytes: u64) -> String {
        for (name, shift) in [("g", 30), ("m", 20), ("k", 10)] {
            let whole = bytes >> shift;
            if whole > 0 && whole << shift == bytes {
                return format!("{whole}{name}");
            }
        }
        bytes.to_string()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn sizes_round_trip(bytes in 0..=i64::MAX as u64) {
            prop_assert_eq!(parse_size(format_size(bytes).as_bytes()), Some(bytes));
            prop_assert_eq!(parse_number(bytes.to_string().as_bytes()), Some(bytes));
        }

        #[test]
        fn times_round_trip(ms in 0..=i64::MAX as u64) {
            let time = Duration::from_millis(ms);
            prop_assert_eq!(parse_time(format_time(time).as_bytes()), Some(time));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..24)) {
            let _ = (parse_size(&bytes), parse_time(&bytes), parse_seconds(&bytes));
        }
    }
}
