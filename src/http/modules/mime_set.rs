//! The sets of MIME types that `gzip_types`, `charset_types` and their like give.

use std::sync::Arc;

use crate::config::{Node, Reader};

/// Which content types a filter is for.
#[derive(Debug)]
pub struct MimeSet {
    /// `*`: every response, also one without a type.
    all: bool,
    types: Vec<Box<[u8]>>,
}

impl MimeSet {
    /// The set of these types.
    pub fn of(types: &[&str]) -> Self {
        MimeSet {
            all: false,
            types: types.iter().map(|t| t.as_bytes().into()).collect(),
        }
    }

    /// Adds the types of one directive to those of its block; `defaults` are in every set.
    pub fn add(
        slot: &mut Option<Arc<MimeSet>>,
        defaults: &[&str],
        reader: &mut Reader,
        node: &Node,
    ) {
        let set = slot.get_or_insert_with(|| Arc::new(Self::of(defaults)));
        // While its block is being read, nobody else has the set.
        let Some(set) = Arc::get_mut(set) else { return };
        for word in node.args() {
            if word.is("*") {
                set.all = true;
                continue;
            }
            if set
                .types
                .iter()
                .any(|t| t.eq_ignore_ascii_case(&word.bytes))
            {
                reader.warn(
                    word.span,
                    format!("duplicate MIME type \"{}\"", word.text()),
                );
                continue;
            }
            set.types.push(word.bytes.clone());
        }
    }

    /// Whether a response with this `Content-Type` is in the set. A charset in it does not count.
    pub fn contains(&self, content_type: Option<&[u8]>) -> bool {
        if self.all {
            return true;
        }
        let Some(essence) = content_type.map(without_charset) else {
            return false;
        };
        self.types.iter().any(|t| t.eq_ignore_ascii_case(essence))
    }
}

/// A content type up to its charset. As in nginx, any other parameter belongs to the type.
pub fn without_charset(content_type: &[u8]) -> &[u8] {
    match charset_at(content_type) {
        Some((end, _)) => &content_type[..end],
        None => content_type,
    }
}

/// The charset that a content type names, without quotes.
pub fn charset(content_type: &[u8]) -> Option<&[u8]> {
    let value = &content_type[charset_at(content_type)?.1..];
    let value = value.strip_prefix(b"\"").unwrap_or(value);
    Some(value.strip_suffix(b"\"").unwrap_or(value))
}

/// Where the parameter `charset` begins (its semicolon) and where its value does.
fn charset_at(content_type: &[u8]) -> Option<(usize, usize)> {
    const NAME: &[u8] = b"charset=";
    memchr::memchr_iter(b';', content_type).find_map(|semicolon| {
        let rest = &content_type[semicolon + 1..];
        let blanks = rest.iter().take_while(|b| **b == b' ').count();
        let name = rest[blanks..].get(..NAME.len())?;
        let value = semicolon + 1 + blanks + NAME.len();
        name.eq_ignore_ascii_case(NAME)
            .then_some((semicolon, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charset_is_no_part_of_the_type() {
        let set = MimeSet::of(&["text/html", "application/JSON"]);
        for yes in [
            "text/html",
            "TEXT/html; charset=utf-8",
            "application/json;charset=\"x\"",
        ] {
            assert!(set.contains(Some(yes.as_bytes())), "{yes}");
        }
        for no in [
            "",
            "text/htm",
            "text/html; level=1",
            "text/html ; charset=utf-8",
        ] {
            assert!(!set.contains(Some(no.as_bytes())), "{no}");
        }
        assert!(!set.contains(None));
        assert!(
            MimeSet {
                all: true,
                types: Vec::new()
            }
            .contains(None)
        );
    }

    #[test]
    fn charsets_are_found() {
        assert_eq!(
            charset(b"text/html; a=b; Charset=\"koi8-r\""),
            Some(&b"koi8-r"[..])
        );
        assert_eq!(charset(b"text/html;charset=utf-8"), Some(&b"utf-8"[..]));
        assert_eq!(
            (charset(b"text/html;"), charset(b"text/html; char")),
            (None, None)
        );
    }
}
