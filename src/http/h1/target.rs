//! The four forms of a request target (RFC 9112, 3.2).

use crate::http::message::{Method, Range32};

/// A request target; all ranges are in the head's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// `/path?query`
    Origin { path: Range32 },
    /// `http://authority/path?query`. `path` is empty if the target has none: it stands for `/`.
    Absolute {
        scheme: Range32,
        authority: Range32,
        path: Range32,
    },
    /// `*`, for OPTIONS only.
    Asterisk,
    /// `host:port`, for CONNECT only.
    Authority { authority: Range32 },
}

impl Target {
    /// The host and port named in the target itself.
    pub fn authority(&self) -> Option<Range32> {
        match *self {
            Self::Absolute { authority, .. } | Self::Authority { authority } => Some(authority),
            Self::Origin { .. } | Self::Asterisk => None,
        }
    }

    /// The path with its query (and fragment, should one have been sent), if the form has one.
    pub fn path(&self) -> Option<Range32> {
        match *self {
            Self::Origin { path } | Self::Absolute { path, .. } => Some(path),
            Self::Asterisk | Self::Authority { .. } => None,
        }
    }
}

/// Tells the form of the target at `range` in `buf`; `None` (400) if it has none of the four or one
/// that the method does not allow.
///
/// The authority is not looked into; [`super::host::parse`] does that.
pub fn parse(buf: &[u8], range: Range32, method: Method) -> Option<Target> {
    let target = range.of(buf);
    if method == Method::Connect {
        let is_authority = !target.is_empty() && !target.contains(&b'/');
        return is_authority.then_some(Target::Authority { authority: range });
    }
    match target.first()? {
        b'/' => Some(Target::Origin { path: range }),
        b'*' => (target.len() == 1 && method == Method::Options).then_some(Target::Asterisk),
        b'a'..=b'z' | b'A'..=b'Z' => absolute(target, range),
        _ => None,
    }
}

fn absolute(target: &[u8], range: Range32) -> Option<Target> {
    let scheme_len = target.iter().position(|&byte| byte == b':')?;
    let is_scheme_byte = |&b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
    if !target[..scheme_len].iter().all(is_scheme_byte) {
        return None;
    }
    let rest = target[scheme_len..].strip_prefix(b"://")?;
    let authority_len = rest.iter().position(|b| matches!(b, b'/' | b'?' | b'#'));
    let authority_len = authority_len.unwrap_or(rest.len());
    // An empty host, or credentials that would be forwarded and logged, are not for a gateway.
    if authority_len == 0 || rest[..authority_len].contains(&b'@') {
        return None;
    }
    let start = range.start as usize;
    let authority_start = start + scheme_len + "://".len();
    let authority_end = authority_start + authority_len;
    Some(Target::Absolute {
        scheme: Range32::new(start, start + scheme_len),
        authority: Range32::new(authority_start, authority_end),
        path: Range32::new(authority_end, range.end as usize),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(target: &str, method: Method) -> Option<(String, String)> {
        let buf = format!("GET {target}");
        let range = Range32::new(4, buf.len());
        let target = parse(buf.as_bytes(), range, method)?;
        let text = |r: Option<Range32>| {
            r.map_or("-".into(), |r| {
                String::from_utf8_lossy(r.of(buf.as_bytes())).into_owned()
            })
        };
        Some((text(target.authority()), text(target.path())))
    }

    #[test]
    fn forms_are_told_apart() {
        let get = |t: &str| parts(t, Method::Get);
        let pair = |a: &str, p: &str| Some((a.to_owned(), p.to_owned()));
        assert_eq!(get("/a?b"), pair("-", "/a?b"));
        assert_eq!(get("http://a.b:80/c?d"), pair("a.b:80", "/c?d"));
        assert_eq!(get("HTTP://a"), pair("a", ""));
        assert_eq!(get("http://a?q"), pair("a", "?q"));
        assert_eq!(get("https://[::1]:1/"), pair("[::1]:1", "/"));
        assert_eq!(parts("*", Method::Options), pair("-", "-"));
        assert_eq!(parts("a:443", Method::Connect), pair("a:443", "-"));
    }

    #[test]
    fn other_targets_are_refused() {
        for target in [
            "*",
            "a",
            "a/b",
            "http:/a",
            "http:a",
            "http:///p",
            "?q",
            "#",
            "1http://a/",
        ] {
            assert_eq!(parts(target, Method::Get), None, "{target}");
        }
        assert_eq!(parts("http://u:p@a/", Method::Get), None);
        assert_eq!(parts("**", Method::Options), None);
        assert_eq!(parts("/", Method::Connect), None);
        assert_eq!(parts("http://a/", Method::Connect), None);
    }
}
