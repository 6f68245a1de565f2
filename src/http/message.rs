//! The words every HTTP version shares: byte ranges into a head, methods, versions.

use std::fmt;

/// A range of bytes in the buffer a head was read into.
///
/// Offsets instead of slices, so that the buffer may grow or move while the index lives on.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Range32 {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Range32 {
    /// The range `start..end`. Heads are bounded far below 4 GiB, so the narrowing loses nothing.
    #[inline]
    pub fn new(start: usize, end: usize) -> Self {
        debug_assert!(start <= end && end <= u32::MAX as usize);
        Self {
            start: start as u32,
            end: end as u32,
        }
    }

    /// The bytes this range names in `buf`, which must be the buffer it was made for.
    #[inline]
    pub fn of<'a>(&self, buf: &'a [u8]) -> &'a [u8] {
        &buf[self.start as usize..self.end as usize]
    }

    /// The number of bytes.
    #[inline]
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// Whether it holds no byte.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The same bytes seen from a buffer in which they lie `by` bytes later.
    #[inline]
    pub fn shifted(&self, by: usize) -> Self {
        Self::new(self.start as usize + by, self.end as usize + by)
    }
}

impl fmt::Debug for Range32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

/// Request methods that mean something to a gateway; the rest are [`Method::Other`].
///
/// Method names are case-sensitive (RFC 9110, 9.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Method {
    #[default]
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Connect,
    Trace,
    Patch,
    Mkcol,
    Copy,
    Move,
    Propfind,
    Proppatch,
    Lock,
    Unlock,
    /// Valid but unknown; its name is in the head.
    Other,
}

impl Method {
    /// The method called exactly `name`.
    #[inline]
    pub fn from_bytes(name: &[u8]) -> Self {
        match name {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"DELETE" => Self::Delete,
            b"OPTIONS" => Self::Options,
            b"CONNECT" => Self::Connect,
            b"TRACE" => Self::Trace,
            b"PATCH" => Self::Patch,
            b"MKCOL" => Self::Mkcol,
            b"COPY" => Self::Copy,
            b"MOVE" => Self::Move,
            b"PROPFIND" => Self::Propfind,
            b"PROPPATCH" => Self::Proppatch,
            b"LOCK" => Self::Lock,
            b"UNLOCK" => Self::Unlock,
            _ => Self::Other,
        }
    }

    /// The method's name; `None` for [`Method::Other`].
    pub fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
            Self::Connect => "CONNECT",
            Self::Trace => "TRACE",
            Self::Patch => "PATCH",
            Self::Mkcol => "MKCOL",
            Self::Copy => "COPY",
            Self::Move => "MOVE",
            Self::Propfind => "PROPFIND",
            Self::Proppatch => "PROPPATCH",
            Self::Lock => "LOCK",
            Self::Unlock => "UNLOCK",
            Self::Other => return None,
        })
    }

    /// Whether `proxy_next_upstream` needs `non_idempotent` to repeat it: POST, LOCK and PATCH, as
    /// nginx has it.
    pub fn needs_non_idempotent(self) -> bool {
        matches!(self, Self::Post | Self::Lock | Self::Patch)
    }
}

/// The version of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Version {
    Http10,
    #[default]
    Http11,
    Http2,
    Http3,
}

impl Version {
    /// The version as `$server_protocol` spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2.0",
            Self::Http3 => "HTTP/3.0",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_methods_agree() {
        for name in ["GET", "POST", "PROPPATCH", "UNLOCK", "CONNECT"] {
            assert_eq!(Method::from_bytes(name.as_bytes()).name(), Some(name));
        }
        assert_eq!(Method::from_bytes(b"get"), Method::Other);
        assert_eq!(Method::Other.name(), None);
    }

    #[test]
    fn ranges_shift_with_their_buffer() {
        let range = Range32::new(1, 3);
        assert_eq!(range.of(b"abcd"), b"bc");
        assert_eq!(range.shifted(2).of(b"xxabcd"), b"bc");
    }
}
