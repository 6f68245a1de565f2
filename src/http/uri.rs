//! Request URIs as nginx sees them: `$uri` out of what the client sent, and back into a request
//! line.

use crate::http::message::Range32;

/// A target split into path and query; the ranges are in the bytes given to [`normalize`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uri {
    /// The path as it was sent, without query and fragment.
    pub path: Range32,
    /// `$args`: what follows the first `?`, without the fragment. `None` if there is no `?`.
    pub args: Option<Range32>,
    /// The path is normal as it was sent; nothing was appended to the output.
    pub simple: bool,
}

/// A path that leads nowhere: it is answered with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    #[error("client sent invalid request while reading client request line: path above the root")]
    AboveRoot,
    #[error("client sent invalid request while reading client request line: invalid escape")]
    InvalidEscape,
    #[error("client sent invalid request while reading client request line: NUL in the path")]
    Nul,
    #[error("client sent invalid request while reading client request line: no path")]
    NoPath,
}

/// Splits `target`, which begins with `/` or is the rest of an absolute form (empty or `?…`), and
/// brings its path into the form locations are matched with: escapes decoded once, `.` and `..`
/// resolved, `//` made one with `merge_slashes`.
///
/// Appends the path to `out` unless it is [`Uri::simple`] already.
#[inline]
pub fn normalize(target: &[u8], merge_slashes: bool, out: &mut Vec<u8>) -> Result<Uri, UriError> {
    match target.first() {
        Some(b'/') => {}
        None | Some(b'?' | b'#') => return Ok(root(target, out)),
        _ => return Err(UriError::NoPath),
    }
    let mut simple = true;
    let mut previous = 0;
    let mut end = target.len();
    for (index, &byte) in target.iter().enumerate() {
        match CLASS[byte as usize] {
            ORDINARY => {}
            ENDING => {
                end = index;
                break;
            }
            AFTER_SLASH => simple &= previous != b'/',
            _ => simple = false,
        }
        previous = byte;
    }
    let uri = Uri {
        path: Range32::new(0, end),
        args: args_after(target, end),
        simple,
    };
    if !simple {
        decode(&target[..end], merge_slashes, out)?;
    }
    Ok(uri)
}

/// Which bytes of a text are written as `%XX`; the sets are nginx's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escape {
    /// A path: for `proxy_pass` with a URI, and for redirects to a normalised path.
    Path,
    /// A value inside a query: for captures that `rewrite` puts behind a `?`.
    Args,
    /// Anything but unreserved characters: for one component of a URI.
    Component,
}

/// Appends `text` with the bytes of the set escaped.
pub fn escape(text: &[u8], set: Escape, out: &mut Vec<u8>) {
    let mut clean = 0;
    for (index, &byte) in text.iter().enumerate() {
        if needs_escape(byte, set) {
            out.extend_from_slice(&text[clean..index]);
            out.extend_from_slice(&[b'%', hex_digit(byte >> 4), hex_digit(byte & 15)]);
            clean = index + 1;
        }
    }
    out.extend_from_slice(&text[clean..]);
}

/// Escapes what is blank or a control character in `out` from `start` on: the last guard of a
/// request line into which a configuration put decoded variables.
#[inline]
pub fn escape_blanks(out: &mut Vec<u8>, start: usize) {
    let is_blank = |byte: &u8| *byte <= b' ' || *byte == 0x7f;
    if !out[start..].iter().any(is_blank) {
        return;
    }
    let text = out.split_off(start);
    for byte in text {
        if is_blank(&byte) {
            out.extend_from_slice(&[b'%', hex_digit(byte >> 4), hex_digit(byte & 15)]);
        } else {
            out.push(byte);
        }
    }
}

/// Appends `text` with every valid escape decoded; what only looks like one stays as it is.
pub fn unescape(text: &[u8], out: &mut Vec<u8>) {
    let mut rest = text;
    while let Some(percent) = memchr::memchr(b'%', rest) {
        out.extend_from_slice(&rest[..percent]);
        let decoded = rest
            .get(percent + 1..percent + 3)
            .and_then(|pair| hex_pair(pair[0], pair[1]));
        match decoded {
            Some(byte) => {
                out.push(byte);
                rest = &rest[percent + 3..];
            }
            None => {
                out.push(b'%');
                rest = &rest[percent + 1..];
            }
        }
    }
    out.extend_from_slice(rest);
}

/// The value of the first argument called `name` in a query (`$arg_NAME`), compared without case as
/// nginx does. It is not decoded.
pub fn argument<'a>(args: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    args.split(|&byte| byte == b'&').find_map(|pair| {
        let equals = memchr::memchr(b'=', pair)?;
        pair[..equals]
            .eq_ignore_ascii_case(name)
            .then(|| &pair[equals + 1..])
    })
}

const ORDINARY: u8 = 0;
/// Ends the path.
const ENDING: u8 = 1;
/// Means something after a slash.
const AFTER_SLASH: u8 = 2;
/// Has to be decoded.
const PERCENT: u8 = 3;

static CLASS: [u8; 256] = {
    let mut class = [ORDINARY; 256];
    class[b'?' as usize] = ENDING;
    class[b'#' as usize] = ENDING;
    class[b'.' as usize] = AFTER_SLASH;
    class[b'/' as usize] = AFTER_SLASH;
    class[b'%' as usize] = PERCENT;
    class
};

/// The URI of an absolute form without a path.
fn root(target: &[u8], out: &mut Vec<u8>) -> Uri {
    out.push(b'/');
    Uri {
        path: Range32::new(0, 0),
        args: args_after(target, 0),
        simple: false,
    }
}

/// The query that starts at `end`, if a query does.
fn args_after(target: &[u8], end: usize) -> Option<Range32> {
    if target.get(end) != Some(&b'?') {
        return None;
    }
    let args = &target[end + 1..];
    let len = memchr::memchr(b'#', args).unwrap_or(args.len());
    Some(Range32::new(end + 1, end + 1 + len))
}

/// Appends the normal form of `path`, which starts with a slash.
///
/// Dots and slashes count whether they were escaped or not, and a decoded `%` is not decoded again.
fn decode(path: &[u8], merge_slashes: bool, out: &mut Vec<u8>) -> Result<(), UriError> {
    let root = out.len();
    let mut at = 0;
    while at < path.len() {
        let byte = match path[at] {
            b'%' => {
                let pair = path.get(at + 1..at + 3).ok_or(UriError::InvalidEscape)?;
                at += 3;
                match hex_pair(pair[0], pair[1]).ok_or(UriError::InvalidEscape)? {
                    0 => return Err(UriError::Nul),
                    byte => byte,
                }
            }
            byte => {
                at += 1;
                byte
            }
        };
        if byte != b'/' {
            out.push(byte);
            continue;
        }
        let resolved = end_segment(root, out)?;
        let merged = merge_slashes && out.len() > root && out.last() == Some(&b'/');
        if !resolved && !merged {
            out.push(b'/');
        }
    }
    end_segment(root, out)?;
    debug_assert_eq!(out.get(root), Some(&b'/'));
    Ok(())
}

/// Resolves a last segment `.` or `..`: true if it was one, and a slash is the last byte then.
fn end_segment(root: usize, out: &mut Vec<u8>) -> Result<bool, UriError> {
    let written = &out[root..];
    if written.ends_with(b"/.") {
        out.pop();
        Ok(true)
    } else if written.ends_with(b"/..") {
        out.truncate(out.len() - "/..".len());
        let parent = memchr::memrchr(b'/', &out[root..]).ok_or(UriError::AboveRoot)?;
        out.truncate(root + parent + 1);
        Ok(true)
    } else {
        Ok(false)
    }
}

fn needs_escape(byte: u8, set: Escape) -> bool {
    let unsafe_everywhere = byte <= b' ' || byte >= 0x7f || matches!(byte, b'%' | b'#');
    let unsafe_in_uri = matches!(
        byte,
        b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}'
    );
    match set {
        Escape::Path => unsafe_everywhere || unsafe_in_uri || byte == b'?',
        Escape::Args => {
            unsafe_everywhere || unsafe_in_uri || matches!(byte, b'&' | b'+' | b';' | b'?')
        }
        Escape::Component => {
            !(byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~'))
        }
    }
}

fn hex_digit(nibble: u8) -> u8 {
    b"0123456789ABCDEF"[nibble as usize]
}

fn hex_pair(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    Some(digit(high)? << 4 | digit(low)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `$uri` and `$args` of a target.
    fn seen(target: &[u8], merge_slashes: bool) -> Result<(Vec<u8>, Option<Vec<u8>>), UriError> {
        let mut out = b"kept".to_vec();
        let uri = normalize(target, merge_slashes, &mut out)?;
        assert!(out.starts_with(b"kept"));
        let path = if uri.simple {
            assert_eq!(out, b"kept");
            uri.path.of(target).to_vec()
        } else {
            out[4..].to_vec()
        };
        Ok((path, uri.args.map(|args| args.of(target).to_vec())))
    }

    /// Target, `$uri`, and `$uri` with `merge_slashes off`, as nginx 1.22 answers.
    const PATHS: &[(&[u8], &[u8], &[u8])] = &[
        (b"/", b"/", b"/"),
        (b"/a/b", b"/a/b", b"/a/b"),
        (b"/a/./b", b"/a/b", b"/a/b"),
        (b"/a/../b", b"/b", b"/b"),
        (b"/a/..", b"/", b"/"),
        (b"/a/.", b"/a/", b"/a/"),
        (b"/a/b/..", b"/a/", b"/a/"),
        (b"/a/b/../", b"/a/", b"/a/"),
        (b"/a%2f..%2fb", b"/b", b"/b"),
        (b"/a%2523", b"/a%23", b"/a%23"),
        (b"/%3f", b"/?", b"/?"),
        (b"/%23", b"/#", b"/#"),
        (b"//a//b", b"/a/b", b"//a//b"),
        (b"/a//../b", b"/b", b"/a/b"),
        (b"/...", b"/...", b"/..."),
        (b"/.a", b"/.a", b"/.a"),
        (b"/a/.b/..c", b"/a/.b/..c", b"/a/.b/..c"),
        (b"/a/b/...", b"/a/b/...", b"/a/b/..."),
        (b"/a+b", b"/a+b", b"/a+b"),
        (b"/\xe9", b"/\xe9", b"/\xe9"),
        (b"/a\\..\\b", b"/a\\..\\b", b"/a\\..\\b"),
        (b"/%2e", b"/", b"/"),
        (b"/%2e%2f", b"/", b"/"),
        (b"/a/;x/../b", b"/a/b", b"/a/b"),
        (b"/a%0a", b"/a\n", b"/a\n"),
        (b"/%7E", b"/~", b"/~"),
        (b"/a//", b"/a/", b"/a//"),
        (b"/a///b/./", b"/a/b/", b"/a///b/"),
        (b"/a/b/c/../../..", b"/", b"/"),
        (b"/a//..", b"/", b"/a/"),
        (b"/a///../b", b"/b", b"/a//b"),
        (b"", b"/", b"/"),
    ];

    #[test]
    fn paths_are_what_nginx_makes_of_them() {
        for &(target, merged, kept) in PATHS {
            let shown = String::from_utf8_lossy(target);
            assert_eq!(seen(target, true), Ok((merged.to_vec(), None)), "{shown}");
            assert_eq!(seen(target, false), Ok((kept.to_vec(), None)), "{shown}");
        }
        assert_eq!(seen(b"//..", true), Err(UriError::AboveRoot));
        assert_eq!(seen(b"//..", false), Ok((b"/".to_vec(), None)));
        assert_eq!(seen(b"//../a", false), Ok((b"/a".to_vec(), None)));
    }

    #[test]
    fn queries_end_at_a_fragment() {
        type Case = (&'static [u8], &'static [u8], Option<&'static [u8]>);
        let cases: &[Case] = &[
            (b"/a?b#c", b"/a", Some(b"b")),
            (b"/a#b?c", b"/a", None),
            (b"/a?", b"/a", Some(b"")),
            (b"/a/.?x", b"/a/", Some(b"x")),
            (b"/a/..?x=1", b"/", Some(b"x=1")),
            (b"/a?%00", b"/a", Some(b"%00")),
            (b"/a?b?c/../d", b"/a", Some(b"b?c/../d")),
            (b"/a/%2e?x#y", b"/a/", Some(b"x")),
            (b"?x", b"/", Some(b"x")),
            (b"#x", b"/", None),
        ];
        for &(target, path, args) in cases {
            assert_eq!(
                seen(target, true),
                Ok((path.to_vec(), args.map(<[u8]>::to_vec)))
            );
        }
    }

    #[test]
    fn paths_that_lead_nowhere_are_refused() {
        let cases: &[(&[u8], UriError)] = &[
            (b"/..", UriError::AboveRoot),
            (b"/../a", UriError::AboveRoot),
            (b"/%2e%2e/a", UriError::AboveRoot),
            (b"/a/%2e%2e/%2E%2e/x", UriError::AboveRoot),
            (b"/a/../../b", UriError::AboveRoot),
            (b"/a/b/c/../../../..", UriError::AboveRoot),
            (b"/%00", UriError::Nul),
            (b"/a%zz", UriError::InvalidEscape),
            (b"/a%4", UriError::InvalidEscape),
            (b"/a%", UriError::InvalidEscape),
            (b"/a%?41", UriError::InvalidEscape),
            (b"/%u0041", UriError::InvalidEscape),
            (b"a", UriError::NoPath),
            (b"*", UriError::NoPath),
        ];
        for &(target, error) in cases {
            assert_eq!(
                seen(target, true),
                Err(error),
                "{}",
                String::from_utf8_lossy(target)
            );
        }
    }

    #[test]
    fn only_paths_in_need_are_copied() {
        let simple = |target: &[u8]| normalize(target, true, &mut Vec::new()).unwrap().simple;
        assert!(simple(b"/a/b.html?x=%20//..") && simple(b"/a.b/c..") && simple(b"/\xe9"));
        assert!(!simple(b"/a//b") && !simple(b"/.a") && !simple(b"/a%20") && !simple(b"?"));
    }

    #[test]
    fn sets_escape_what_nginx_escapes() {
        let raw = |set| -> String {
            let raw = (1..=255u8).filter(|&byte| !needs_escape(byte, set));
            raw.map(char::from).collect()
        };
        let alphanumeric = "ABCDEFGHIJKLMNOPQRSTUVWXYZ[]_abcdefghijklmnopqrstuvwxyz~";
        assert_eq!(
            raw(Escape::Path),
            format!("!$&'()*+,-./0123456789:;=@{alphanumeric}")
        );
        assert_eq!(
            raw(Escape::Args),
            format!("!$'()*,-./0123456789:=@{alphanumeric}")
        );
        let mut out = Vec::new();
        escape(b"/a b%\xe9?", Escape::Path, &mut out);
        assert_eq!(out, b"/a%20b%25%E9%3F");
    }

    #[test]
    fn broken_escapes_stay() {
        let mut out = Vec::new();
        unescape(b"a%20b%2%zz%41%", &mut out);
        assert_eq!(out, b"a b%2%zzA%");
    }

    #[test]
    fn arguments_are_found_by_name() {
        let args = b"a=1&B=2&c&aa=3&b=4&d=";
        assert_eq!(argument(args, b"a"), Some(&b"1"[..]));
        assert_eq!(argument(args, b"b"), Some(&b"2"[..]));
        assert_eq!(argument(args, b"c"), None);
        assert_eq!(argument(args, b"d"), Some(&b""[..]));
        assert_eq!(argument(args, b"x"), None);
    }

    proptest! {
        #[test]
        fn normal_paths_stay_below_the_root_and_are_normal(
            pieces in prop::collection::vec(prop::sample::select(
                &["/", ".", "..", "%2e", "%2F", "a", "%25", "?", "#", "%4", "//"][..]), 0..12),
            merge in any::<bool>(),
        ) {
            let target = format!("/{}", pieces.concat());
            if let Ok((path, _)) = seen(target.as_bytes(), merge) {
                prop_assert!(path.starts_with(b"/"));
                let text = String::from_utf8(path.clone()).unwrap();
                prop_assert!(text.split('/').all(|part| part != "." && part != ".."));
                prop_assert!(!merge || !text.contains("//"));
                // What was normalised and escaped again means the same.
                let mut escaped = Vec::new();
                escape(&path, Escape::Path, &mut escaped);
                prop_assert_eq!(seen(&escaped, merge), Ok((path, None)));
            }
        }

        #[test]
        fn escapes_come_back(text in prop::collection::vec(any::<u8>(), 0..60)) {
            for set in [Escape::Path, Escape::Args, Escape::Component] {
                let (mut escaped, mut back) = (Vec::new(), Vec::new());
                escape(&text, set, &mut escaped);
                unescape(&escaped, &mut back);
                prop_assert_eq!(&back, &text);
            }
        }

        #[test]
        fn no_target_panics(target in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = seen(&target, true);
            let _ = seen(&target, false);
        }
    }
}
