//! Conditional requests (RFC 9110, 13): whether the client has the file already, or another one
//! than it thinks.

use crate::config::Result;
use crate::http::exchange::Request;
use crate::http::modules::gzip::parse_date;
use crate::http::token::Token;

/// What the conditions of a request come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send the file.
    Send,
    /// 304: the client's copy is good.
    NotModified,
    /// 412: it is not the file that the client means.
    Failed,
}

/// `if_modified_since`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ModifiedSince {
    /// The field is ignored.
    Off,
    /// Only the very time of the last change counts.
    #[default]
    Exact,
    /// Any time not before the last change counts.
    Before,
}

impl ModifiedSince {
    /// The words of the directive, in the order of the variants.
    pub const WORDS: &[&str] = &["off", "exact", "before"];

    /// The variant of an index into [`ModifiedSince::WORDS`].
    pub fn compile(index: Option<usize>) -> Result<Self> {
        Ok(match index {
            Some(0) => Self::Off,
            Some(2) => Self::Before,
            _ => Self::Exact,
        })
    }
}

/// Decides by the request's conditions, in nginx's order.
pub fn check(
    request: &Request,
    modified: i64,
    etag: Option<&[u8]>,
    since: ModifiedSince,
) -> Verdict {
    if let Some(date) = request.field(Token::IfUnmodifiedSince)
        && parse_date(date).is_some_and(|date| date < modified)
    {
        return Verdict::Failed;
    }
    if let Some(list) = request.field(Token::IfMatch)
        && !matches_etag(list, etag, Comparison::Strong)
    {
        return Verdict::Failed;
    }
    let date = request.field(Token::IfModifiedSince);
    let list = request.field(Token::IfNoneMatch);
    if date.is_none() && list.is_none() {
        return Verdict::Send;
    }
    let is_old_date = date.is_some_and(|date| match (parse_date(date), since) {
        (_, ModifiedSince::Off) | (None, _) => true,
        (Some(date), ModifiedSince::Exact) => date != modified,
        (Some(date), ModifiedSince::Before) => date < modified,
    });
    if is_old_date || list.is_some_and(|list| !matches_etag(list, etag, Comparison::Weak)) {
        return Verdict::Send;
    }
    Verdict::NotModified
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Strong,
    Weak,
}

/// Whether a list of entity tags, or `*`, has this one.
fn matches_etag(list: &[u8], etag: Option<&[u8]>, comparison: Comparison) -> bool {
    if list == b"*" {
        return true;
    }
    let Some(etag) = etag else { return false };
    let opaque = |tag: &'_ [u8]| match comparison {
        Comparison::Weak => tag.strip_prefix(b"W/").unwrap_or(tag).to_vec(),
        Comparison::Strong => tag.to_vec(),
    };
    let etag = opaque(etag);
    // The tags made here have no comma in them, so that a split inside a foreign one does no harm.
    list.split(|b| *b == b',')
        .any(|tag| opaque(tag.trim_ascii()) == etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_compared() {
        let etag = Some(&b"\"a-1\""[..]);
        for list in ["*", "\"a-1\"", "\"x\", \"a-1\"", " \"a-1\" ,"] {
            assert!(
                matches_etag(list.as_bytes(), etag, Comparison::Strong),
                "{list}"
            );
        }
        for list in ["", "a-1", "\"a-1", "W/\"a-1\"", "\"a-11\""] {
            assert!(
                !matches_etag(list.as_bytes(), etag, Comparison::Strong),
                "{list}"
            );
        }
        assert!(matches_etag(b"W/\"a-1\"", etag, Comparison::Weak));
        assert!(!matches_etag(b"\"a-1\"", None, Comparison::Weak));
    }
}
