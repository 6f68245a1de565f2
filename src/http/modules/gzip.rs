//! `gzip` and its directives: which responses leave compressed, and what that does to their head.

mod accept;
mod stream;

use std::sync::Arc;

use crate::base::clock;
use crate::base::regex::Regex;
use crate::config::{Arity, ConfigError, Contexts, Node, Reader, Result, Row, value};
use crate::http::exchange::{Exchange, Response};
use crate::http::message::Version;
use crate::http::scope::{Compiler, Scope};
use crate::http::token::Token;
use crate::inherit;
use crate::vars::Variable;

use super::mime_set::MimeSet;

pub use stream::{Stream, Totals};

const HSL: Contexts = Contexts::HTTP.or(Contexts::SERVER).or(Contexts::LOCATION);
const HSLI: Contexts = HSL.or(Contexts::LOCATION_IF);
type R = Row<Scope>;
const BUFFERS: &str = "the compressor's buffers are pooled by each worker";

/// The directives of this module.
pub const ROWS: &[Row<Scope>] = &[
    R::flag("gzip", HSLI, |s| &mut s.gzip.on)
        .default("off")
        .doc("Compress responses to clients that accept it."),
    R::custom("gzip_comp_level", HSL, Arity::One, set_level)
        .default("1")
        .doc("Level of compression, 1 to 9."),
    R::custom("gzip_types", HSL, Arity::AtLeast(1), |reader, s, node| {
        MimeSet::add(&mut s.gzip.types, DEFAULT_TYPES, reader, node);
        Ok(())
    })
    .default("text/html")
    .doc("MIME types to compress besides text/html; * for all."),
    R::size("gzip_min_length", HSL, |s| &mut s.gzip.min_length)
        .default("20")
        .doc("Bodies known to be shorter are not compressed."),
    R::flag("gzip_vary", HSL, |s| &mut s.gzip.vary)
        .default("off")
        .doc("Send Vary: Accept-Encoding with what may be compressed."),
    R::choice("gzip_http_version", HSL, &["1.0", "1.1"], |s| {
        &mut s.gzip.version
    })
    .default("1.1")
    .doc("Oldest version of a request that gets compressed responses."),
    R::custom("gzip_proxied", HSL, Arity::AtLeast(1), set_proxied)
        .default("off")
        .doc("When to compress for requests that came through a proxy (Via)."),
    R::custom("gzip_disable", HSL, Arity::AtLeast(1), set_disable)
        .doc("User agents (regular expressions, or msie6) that get nothing compressed."),
    R::notice("gzip_buffers", HSL, Arity::Two, BUFFERS),
    R::notice("gzip_window", HSL, Arity::One, BUFFERS),
    R::notice("gzip_hash", HSL, Arity::One, BUFFERS),
    R::notice(
        "postpone_gzipping",
        HSL,
        Arity::One,
        "small bodies are compressed whole anyway",
    ),
    R::notice(
        "gzip_no_buffer",
        HSL,
        Arity::Flag,
        "a paused response is flushed anyway",
    ),
];

/// The variables of this module.
pub const VARIABLES: &[Variable<Exchange>] = &[Variable::new("gzip_ratio", gzip_ratio)];

const VARY: &[u8] = b"Accept-Encoding";
const DEFAULT_TYPES: &[&str] = &["text/html"];

/// What is written in one block.
#[derive(Default)]
pub struct Raw {
    on: Option<bool>,
    level: Option<u8>,
    types: Option<Arc<MimeSet>>,
    min_length: Option<u64>,
    vary: Option<bool>,
    version: Option<usize>,
    proxied: Option<Proxied>,
    disable: Option<Arc<Vec<Regex>>>,
    disable_msie6: Option<bool>,
}

/// The compiled form.
pub struct Conf {
    on: bool,
    level: u8,
    types: Arc<MimeSet>,
    min_length: u64,
    vary: bool,
    version_min: Version,
    proxied: Proxied,
    disable: Option<Arc<Vec<Regex>>>,
    disable_msie6: bool,
}

/// The words of `gzip_proxied` as bits, in the order of [`PROXIED`].
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Proxied(u16);

const PROXIED: [&str; 9] = [
    "off",
    "expired",
    "no-cache",
    "no-store",
    "private",
    "no_last_modified",
    "no_etag",
    "auth",
    "any",
];

impl Proxied {
    fn has(self, word: &str) -> bool {
        PROXIED
            .iter()
            .position(|w| *w == word)
            .is_some_and(|bit| self.0 & (1 << bit) != 0)
    }
}

impl Conf {
    /// `gzip_vary`.
    pub fn is_varying(&self) -> bool {
        self.vary
    }
}

impl Raw {
    /// Fills what is not written here from the enclosing block.
    pub fn inherit(&mut self, parent: &Raw) {
        inherit!(self, parent; on, level, types, min_length, vary, version, proxied, disable,
            disable_msie6);
    }

    /// The compiled form.
    pub fn compile(&self, _: &mut Compiler) -> Result<Conf> {
        let types = self.types.clone();
        Ok(Conf {
            on: self.on.unwrap_or(false),
            level: self.level.unwrap_or(1),
            types: types.unwrap_or_else(|| Arc::new(MimeSet::of(DEFAULT_TYPES))),
            min_length: self.min_length.unwrap_or(20),
            vary: self.vary.unwrap_or(false),
            version_min: if self.version == Some(0) {
                Version::Http10
            } else {
                Version::Http11
            },
            // Without the directive every proxied request is left alone.
            proxied: self.proxied.unwrap_or(Proxied(1)),
            disable: self.disable.clone(),
            disable_msie6: self.disable_msie6.unwrap_or(false),
        })
    }
}

/// Decides whether the body is compressed and changes the head accordingly. The stream is what
/// the body has to pass; a `bodiless` response (HEAD) gets the head alone.
#[inline]
pub fn header_filter(ex: &mut Exchange, conf: &Conf, bodiless: bool) -> Option<Box<Stream>> {
    if !conf.on || !is_candidate(&ex.response, conf) {
        return None;
    }
    let compress = is_wanted_by_client(ex, conf);
    change_head(&mut ex.response, conf, compress);
    (compress && !bodiless).then(|| Stream::take(conf.level))
}

/// Whether the response, as it is prepared now, is going to be compressed.
pub fn applies(ex: &Exchange, conf: &Conf) -> bool {
    conf.on && is_candidate(&ex.response, conf) && is_wanted_by_client(ex, conf)
}

/// Whether the client can read gzip and nothing in `gzip_…` speaks against sending it.
pub fn is_wanted_by_client(ex: &Exchange, conf: &Conf) -> bool {
    let request = &ex.request;
    if !request
        .field(Token::AcceptEncoding)
        .is_some_and(accept::accepts_gzip)
        || request.head.version < conf.version_min
        || (request.field(Token::Via).is_some() && !is_wanted_by_proxy(ex, conf.proxied))
    {
        return false;
    }
    match request.field(Token::UserAgent) {
        None => true,
        Some(agent) => {
            let disabled = |regexes: &Arc<Vec<Regex>>| regexes.iter().any(|r| r.is_match(agent));
            let is_old = conf.disable_msie6 && accept::is_msie6(agent);
            !is_old && !conf.disable.as_ref().is_some_and(disabled)
        }
    }
}

/// Whether this response is one to compress for those who want it.
fn is_candidate(response: &Response, conf: &Conf) -> bool {
    matches!(response.status, 200 | 403 | 404)
        && response
            .content_length
            .is_none_or(|length| length >= conf.min_length)
        && conf
            .types
            .contains(response.content_type.map(|t| t.of(&response.buf)))
        && response
            .field(Token::ContentEncoding)
            .is_none_or(<[u8]>::is_empty)
}

/// `gzip_proxied`: nginx takes the first condition that says something about the response; one
/// without Expires and Cache-Control passes unless a validator forbids it.
fn is_wanted_by_proxy(ex: &Exchange, proxied: Proxied) -> bool {
    if proxied.has("off") || proxied.has("any") {
        return !proxied.has("off");
    }
    if proxied.has("auth") && ex.request.field(Token::Authorization).is_some() {
        return true;
    }
    let response = &ex.response;
    if let Some(expires) = response.field(Token::Expires) {
        return proxied.has("expired") && is_expired(response, expires);
    }
    let mut cache_control = response
        .fields
        .iter()
        .filter(|f| f.token == Token::CacheControl);
    if response.field(Token::CacheControl).is_some() {
        return cache_control.any(|field| {
            let value = field.value.of(&response.buf).to_ascii_lowercase();
            ["no-cache", "no-store", "private"]
                .iter()
                .any(|w| proxied.has(w) && memchr::memmem::find(&value, w.as_bytes()).is_some())
        });
    }
    !(proxied.has("no_last_modified") && response.field(Token::LastModified).is_some()
        || proxied.has("no_etag") && response.field(Token::ETag).is_some())
}

/// Whether `Expires` lies before the response's date.
fn is_expired(response: &Response, expires: &[u8]) -> bool {
    let date = if response.keep_date {
        response.upstream_field(Token::Date)
    } else {
        None
    };
    match (parse_date(expires), date.map(parse_date)) {
        (Some(expires), None) => expires < clock::wall().secs,
        (Some(expires), Some(Some(date))) => expires < date,
        _ => false,
    }
}

/// Seconds since 1970 of an HTTP date.
pub fn parse_date(text: &[u8]) -> Option<i64> {
    let time = httpdate::parse_http_date(std::str::from_utf8(text).ok()?).ok()?;
    let since = time.duration_since(std::time::UNIX_EPOCH).ok()?;
    i64::try_from(since.as_secs()).ok()
}

/// What a compressed body means for the head, and what `gzip_vary` adds even to one that is not.
fn change_head(response: &mut Response, conf: &Conf, compress: bool) {
    if conf.vary {
        add_vary(response);
    }
    if !compress {
        return;
    }
    response.content_length = None;
    response.fields.retain(|f| f.token != Token::AcceptRanges);
    weaken_etag(response);
    response.push_field(Token::ContentEncoding, b"Content-Encoding", b"gzip");
}

/// Says that the response depends on `Accept-Encoding`, once.
pub fn add_vary(response: &mut Response) {
    let first = response.fields.first();
    if first.is_none_or(|f| f.token != Token::Vary || f.value.of(&response.buf) != VARY) {
        let field = response.store_field(Token::Vary, b"Vary", VARY);
        response.fields.insert(0, field);
    }
}

/// The validator of a body that is equivalent, no more identical. One that is not quoted goes.
pub fn weaken_etag(response: &mut Response) {
    let Some(at) = response.fields.iter().position(|f| f.token == Token::ETag) else {
        return;
    };
    let range = response.fields[at].value;
    match range.of(&response.buf) {
        [b'W', b'/', ..] => {}
        [b'"', ..] => {
            let mut weak = Vec::with_capacity(range.len() + 2);
            weak.extend_from_slice(b"W/");
            weak.extend_from_slice(range.of(&response.buf));
            response.fields[at] = response.store_field(Token::ETag, b"ETag", &weak);
        }
        _ => drop(response.fields.remove(at)),
    }
}

/// `$gzip_ratio`: how many times larger the body was, with two digits.
fn gzip_ratio(ex: &mut Exchange, _: &[u8], out: &mut Vec<u8>) -> bool {
    let Some(Totals { plain, compressed }) = ex.response.gzip else {
        return false;
    };
    if compressed == 0 {
        return false;
    }
    let thousandths = u128::from(plain) * 1000 / u128::from(compressed);
    let hundredths = (thousandths + 5) / 10;
    out.extend_from_slice(format!("{}.{:02}", hundredths / 100, hundredths % 100).as_bytes());
    true
}

fn set_level(_: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
    let word = &node.args()[0];
    match u8::try_from(value::number(word)?) {
        Ok(level @ 1..=9) => value::once(&mut s.gzip.level, level, node),
        _ => Err(ConfigError::at(word.span, "value must be between 1 and 9")),
    }
}

fn set_proxied(reader: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
    let proxied = s.gzip.proxied.get_or_insert_default();
    for word in node.args() {
        let bit = 1 << value::choice(word, &PROXIED)?;
        if proxied.0 & bit != 0 {
            reader.warn(word.span, format!("duplicate value \"{}\"", word.text()));
        }
        proxied.0 |= bit;
    }
    Ok(())
}

fn set_disable(_: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
    for word in node.args() {
        if word.is("msie6") {
            s.gzip.disable_msie6 = Some(true);
            continue;
        }
        let regex = Regex::new(&word.bytes, true).map_err(|reason| {
            let message = format!("invalid regular expression \"{}\": {reason}", word.text());
            ConfigError::at(word.span, message)
        })?;
        let list = s.gzip.disable.get_or_insert_default();
        // While its block is being read, nobody else has the list.
        if let Some(list) = Arc::get_mut(list) {
            list.push(regex);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxied(words: &[&str]) -> Proxied {
        let bits = words
            .iter()
            .map(|w| 1 << PROXIED.iter().position(|p| p == w).unwrap());
        Proxied(bits.sum())
    }

    #[test]
    fn conditions_of_proxied_requests_are_bits() {
        let some = proxied(&["expired", "any"]);
        assert!(some.has("any") && some.has("expired") && !some.has("off") && !some.has("x"));
        assert!(Proxied(1).has("off"));
    }

    #[test]
    fn etags_are_weakened_once() {
        let cases = [
            ("\"a\"", Some("W/\"a\"")),
            ("W/\"a\"", Some("W/\"a\"")),
            ("a", None),
        ];
        for (before, after) in cases {
            let mut response = Response::default();
            response.push_field(Token::ETag, b"ETag", before.as_bytes());
            weaken_etag(&mut response);
            assert_eq!(response.field(Token::ETag), after.map(str::as_bytes));
        }
        weaken_etag(&mut Response::default());
    }

    #[test]
    fn expiry_is_a_matter_of_the_date() {
        let response = Response::default();
        assert!(is_expired(&response, b"Thu, 01 Jan 1970 00:00:01 GMT"));
        assert!(!is_expired(&response, b"Thu, 01 Jan 2099 00:00:01 GMT"));
        assert!(!is_expired(&response, b"0"));
    }
}
