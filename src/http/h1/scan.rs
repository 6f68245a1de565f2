//! Character classes and list splitting of RFC 9110.

use crate::http::message::Range32;

/// Whether `byte` may stand in a token (RFC 9110, 5.6.2).
#[inline]
pub(crate) fn is_token_byte(byte: u8) -> bool {
    matches!(byte,
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9'
        | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_'
        | b'`' | b'|' | b'~')
}

/// Whether `byte` may stand in a field value: no control characters but the tab.
#[inline]
pub(crate) fn is_value_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// `bytes` without spaces and tabs at both ends.
#[inline]
pub(crate) fn trim(bytes: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = bytes
        .iter()
        .position(|b| !is_space(b))
        .unwrap_or(bytes.len());
    let end = bytes
        .iter()
        .rposition(|b| !is_space(b))
        .map_or(start, |last| last + 1);
    &bytes[start..end]
}

/// The members of a comma-separated list, trimmed; empty ones are left out (RFC 9110, 5.6.1.2).
pub(crate) fn list_items(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|&byte| byte == b',')
        .map(trim)
        .filter(|item| !item.is_empty())
}

/// The range of `part`, a slice of `buf`.
#[inline]
pub(super) fn range_in(buf: &[u8], part: &[u8]) -> Range32 {
    let start = (part.as_ptr() as usize).wrapping_sub(buf.as_ptr() as usize);
    debug_assert!(start <= buf.len() && start + part.len() <= buf.len());
    Range32::new(start, start + part.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_lose_space_and_empty_members() {
        let items: Vec<&[u8]> = list_items(b" a ,, \tb,c d ,").collect();
        assert_eq!(items, [&b"a"[..], b"b", b"c d"]);
        assert_eq!(list_items(b" , ,").count(), 0);
        assert_eq!(trim(b"  "), b"");
    }
}
