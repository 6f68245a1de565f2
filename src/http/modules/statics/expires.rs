//! `expires`: how long the response may be kept, as `Expires` and `Cache-Control`.

use crate::base::clock;
use crate::config::{ConfigError, Node, Reader, Result, Word, value};
use crate::http::exchange::{Exchange, Response};
use crate::http::modules::gzip::parse_date;
use crate::http::scope::{Compiler, Scope};
use crate::http::token::{Token, TokenSet};
use crate::vars::Template;

const CACHING: TokenSet = TokenSet::of(&[Token::Expires, Token::CacheControl]);
const DAY: i64 = 86_400;

/// `expires` as it is written.
#[derive(Clone)]
pub struct RawExpires {
    word: Word,
    modified: bool,
}

/// The compiled directive.
pub enum Expires {
    /// The same for every response.
    Fixed(When),
    /// A variable decides.
    Computed {
        /// What it is read from.
        template: Template<Exchange>,
        /// The time counts from the last change.
        modified: bool,
    },
}

/// When a response expires; times are in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Nothing is said.
    Off,
    /// It has expired.
    Epoch,
    /// Never.
    Max,
    /// So long after the response; negative: it has expired.
    Access(i64),
    /// So long after the last change.
    Modified(i64),
    /// At this second of the local day.
    Daily(i64),
}

impl RawExpires {
    /// Reads the directive.
    ///
    /// # Errors
    /// The value is no time.
    pub fn read(_: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
        let (modified, word) = match node.args() {
            [word] => (false, word),
            [first, word] if first.is("modified") => (true, word),
            _ => return Err(ConfigError::directive(node.span(), "invalid value")),
        };
        let raw = RawExpires {
            word: word.clone(),
            modified,
        };
        if !word.bytes.contains(&b'$') {
            raw.fixed()?;
        }
        value::once(&mut s.statics.expires, raw, node)
    }

    /// The compiled form.
    pub fn compile(&self, c: &mut Compiler) -> Result<Expires> {
        if self.word.bytes.contains(&b'$') {
            let template = c.template(&self.word)?;
            return Ok(Expires::Computed {
                template,
                modified: self.modified,
            });
        }
        self.fixed().map(Expires::Fixed)
    }

    fn fixed(&self) -> Result<When> {
        parse(&self.word.bytes, self.modified)
            .map_err(|message| ConfigError::directive(self.word.span, message))
    }
}

impl Expires {
    /// Writes the fields, in place of those that are there, to a response that succeeds.
    pub fn apply(&self, ex: &mut Exchange) {
        let success = matches!(
            ex.response.status,
            200 | 201 | 204 | 206 | 301..=304 | 307 | 308
        );
        let when = match self {
            _ if !success => return,
            Expires::Fixed(when) => *when,
            Expires::Computed { template, modified } => {
                // What is no time means nothing, as in nginx.
                template.with(ex, |_, text| parse(text, *modified).unwrap_or(When::Off))
            }
        };
        write(&mut ex.response, when, clock::wall().secs);
    }
}

fn write(response: &mut Response, when: When, now: i64) {
    if when == When::Off {
        return;
    }
    response.fields.retain(|f| !CACHING.contains(f.token));
    let (date, max_age) = match when {
        When::Off => return,
        When::Epoch => (1, -1),
        When::Max => (2_145_916_555, 315_360_000),
        When::Access(seconds) => (now + seconds, seconds),
        When::Modified(seconds) => {
            let modified = response.field(Token::LastModified).and_then(parse_date);
            let date = modified.unwrap_or(now) + seconds;
            // A negative time means expired, whatever the date is.
            (date, if seconds < 0 { -1 } else { date - now })
        }
        When::Daily(second) => {
            let date = clock::next_local(second);
            (date, date - now)
        }
    };
    let mut text = Vec::with_capacity(32);
    clock::format_http_date(date, &mut text);
    response.push_field(Token::Expires, b"Expires", &text);
    let cache_control = if max_age < 0 {
        "no-cache".to_owned()
    } else {
        format!("max-age={max_age}")
    };
    response.push_field(
        Token::CacheControl,
        b"Cache-Control",
        cache_control.as_bytes(),
    );
}

fn parse(text: &[u8], modified: bool) -> std::result::Result<When, &'static str> {
    const INVALID: &str = "invalid value";
    if !modified {
        match text {
            b"epoch" => return Ok(When::Epoch),
            b"max" => return Ok(When::Max),
            b"off" => return Ok(When::Off),
            _ => {}
        }
    }
    if let Some(time) = text.strip_prefix(b"@") {
        let seconds = parse_seconds(time).filter(|_| !modified).ok_or(INVALID)?;
        return match seconds {
            0..=DAY => Ok(When::Daily(seconds)),
            _ => Err("daily time value must be less than 24 hours"),
        };
    }
    let seconds = match text {
        [b'+', time @ ..] => parse_seconds(time),
        [b'-', time @ ..] => parse_seconds(time).map(|seconds| -seconds),
        time => parse_seconds(time),
    };
    let seconds = seconds.ok_or(INVALID)?;
    Ok(if modified {
        When::Modified(seconds)
    } else {
        When::Access(seconds)
    })
}

fn parse_seconds(text: &[u8]) -> Option<i64> {
    let seconds = value::parse_seconds(text)?.as_secs();
    i64::try_from(seconds).ok().filter(|s| *s < 1 << 40)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, modified, expected) in [
            ("off", false, Ok(When::Off)),
            ("epoch", false, Ok(When::Epoch)),
            ("max", false, Ok(When::Max)),
            ("1h", false, Ok(When::Access(3600))),
            ("-1", false, Ok(When::Access(-1))),
            ("+30d", true, Ok(When::Modified(30 * DAY))),
            ("@15h30m", false, Ok(When::Daily(55_800))),
            (
                "@25h",
                false,
                Err("daily time value must be less than 24 hours"),
            ),
            ("max", true, Err("invalid value")),
            ("@1h", true, Err("invalid value")),
            ("", false, Err("invalid value")),
            ("soon", false, Err("invalid value")),
        ] {
            assert_eq!(parse(text.as_bytes(), modified), expected, "{text}");
        }
    }

    #[test]
    fn fields_are_written_and_replaced() {
        let now = 1_795_248_000;
        let fields = |when: When| {
            let mut response = Response::default();
            response.push_field(Token::CacheControl, b"Cache-Control", b"private");
            let before = b"Thu, 01 Jan 1970 01:00:00 GMT";
            response.push_field(Token::LastModified, b"Last-Modified", before);
            write(&mut response, when, now);
            let text = |t| {
                response
                    .field(t)
                    .map(|v| String::from_utf8_lossy(v).into_owned())
            };
            (
                text(Token::Expires).unwrap_or_default(),
                text(Token::CacheControl).unwrap(),
            )
        };
        assert_eq!(fields(When::Off).1, "private");
        assert_eq!(
            fields(When::Epoch),
            ("Thu, 01 Jan 1970 00:00:01 GMT".into(), "no-cache".into())
        );
        assert_eq!(
            fields(When::Max),
            (
                "Thu, 31 Dec 2037 23:55:55 GMT".into(),
                "max-age=315360000".into()
            )
        );
        assert_eq!(fields(When::Access(0)).1, "max-age=0");
        assert_eq!(fields(When::Access(-1)).1, "no-cache");
        assert_eq!(
            fields(When::Modified(60)),
            ("Thu, 01 Jan 1970 01:01:00 GMT".into(), "no-cache".into())
        );
        assert!(fields(When::Daily(0)).1.starts_with("max-age="));
    }
}
