//! The fields of a head or a trailer, indexed by range and by interned name.

use super::scan;
use crate::http::message::Range32;
use crate::http::token::{Token, TokenSet};

/// One header field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// The name as it was sent.
    pub name: Range32,
    /// The value without surrounding white space; may be empty.
    pub value: Range32,
    /// The interned name.
    pub token: Token,
    flags: u8,
}

/// The name holds `_` (`underscores_in_headers`).
const UNDERSCORE: u8 = 1;
/// The name holds bytes that RFC 9110 allows and nginx does not (`ignore_invalid_headers`).
const ODD: u8 = 2;
/// The `Connection` field named this field.
const NOMINATED: u8 = 4;

impl Field {
    /// A field of our own making, whose name is known.
    pub fn new(name: Range32, value: Range32, token: Token) -> Self {
        Self {
            name,
            value,
            token,
            flags: 0,
        }
    }

    /// Whether nginx would drop the field for its name: with `ignore_invalid_headers on`, names
    /// hold letters, digits and `-` only, and `_` with `underscores_in_headers on`.
    #[inline]
    pub fn is_ignored(&self, ignore_invalid: bool, underscores: bool) -> bool {
        ignore_invalid && (self.flags & ODD != 0 || (self.flags & UNDERSCORE != 0 && !underscores))
    }

    /// Whether the field concerns this connection only, by its name or because `Connection` names
    /// it (after [`super::connection::scan`]).
    #[inline]
    pub fn is_hop_by_hop(&self) -> bool {
        self.flags & NOMINATED != 0 || self.token.is_hop_by_hop()
    }
}

/// The fields of a head or a trailer, in the order they came; reused from message to message.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    list: Vec<Field>,
    seen: TokenSet,
    repeated: TokenSet,
}

impl Fields {
    /// An empty list with room for the fields of an ordinary message.
    pub fn with_capacity(fields: usize) -> Self {
        Self {
            list: Vec::with_capacity(fields),
            ..Self::default()
        }
    }

    /// Forgets all fields and keeps the memory.
    #[inline]
    pub fn clear(&mut self) {
        self.list.clear();
        self.seen = TokenSet::EMPTY;
        self.repeated = TokenSet::EMPTY;
    }

    /// Appends a field; its name is looked up here.
    #[inline]
    pub fn push(&mut self, buf: &[u8], name: Range32, value: Range32) {
        let bytes = name.of(buf);
        let token = Token::from_name(bytes);
        let mut flags = 0;
        if token == Token::Other {
            flags = name_flags(bytes);
        } else {
            if self.seen.contains(token) {
                self.repeated.insert(token);
            }
            self.seen.insert(token);
        }
        self.list.push(Field {
            name,
            value,
            token,
            flags,
        });
    }

    /// Marks as hop-by-hop every field called `name`, which the `Connection` field named.
    pub(super) fn nominate(&mut self, buf: &[u8], name: &[u8]) {
        let token = Token::from_name(name);
        if Token::NOT_NOMINABLE.contains(token) {
            return;
        }
        for field in &mut self.list {
            if field.token == token && field.name.of(buf).eq_ignore_ascii_case(name) {
                field.flags |= NOMINATED;
            }
        }
    }

    /// Keeps only the fields for which `keep` is true.
    ///
    /// [`Fields::has`] goes on answering true for the dropped ones; [`Fields::find`] does not.
    pub fn retain(&mut self, keep: impl FnMut(&Field) -> bool) {
        self.list.retain(keep);
    }

    /// The fields in order.
    #[inline]
    pub fn iter(&self) -> std::slice::Iter<'_, Field> {
        self.list.iter()
    }

    /// The fields in order, as a slice.
    #[inline]
    pub fn as_slice(&self) -> &[Field] {
        &self.list
    }

    /// The number of fields.
    #[inline]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether a field with this (known) name came: one bit, no search.
    #[inline]
    pub fn has(&self, token: Token) -> bool {
        self.seen.contains(token)
    }

    /// The names which came more than once.
    #[inline]
    pub fn repeated(&self) -> TokenSet {
        self.repeated
    }

    /// The first field with this (known) name.
    #[inline]
    pub fn find(&self, token: Token) -> Option<&Field> {
        if !self.seen.contains(token) {
            return None;
        }
        self.list.iter().find(|field| field.token == token)
    }

    /// The value of the first field with this (known) name.
    #[inline]
    pub fn value<'a>(&self, buf: &'a [u8], token: Token) -> Option<&'a [u8]> {
        self.find(token).map(|field| field.value.of(buf))
    }

    /// All fields with this (known) name.
    pub fn all(&self, token: Token) -> impl Iterator<Item = &Field> {
        let none = !self.seen.contains(token);
        let list = if none { &[][..] } else { &self.list[..] };
        list.iter().filter(move |field| field.token == token)
    }
}

impl<'a> IntoIterator for &'a Fields {
    type Item = &'a Field;
    type IntoIter = std::slice::Iter<'a, Field>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

fn name_flags(name: &[u8]) -> u8 {
    let mut flags = 0;
    for &byte in name {
        if byte == b'_' {
            flags |= UNDERSCORE;
        } else if !(byte.is_ascii_alphanumeric() || byte == b'-') {
            debug_assert!(scan::is_token_byte(byte));
            flags |= ODD;
        }
    }
    flags
}
