//! Field names the gateway has rules for, interned once per field while a head is parsed.
//!
//! After that a rule is a look-up of one byte or one bit, never a comparison of strings.

use std::fmt;

/// A set of tokens as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenSet(u128);

impl TokenSet {
    /// No token.
    pub const EMPTY: Self = Self(0);

    /// The set of `tokens`.
    pub const fn of(tokens: &[Token]) -> Self {
        let mut bits = 0;
        let mut index = 0;
        while index < tokens.len() {
            bits |= 1 << tokens[index] as u8;
            index += 1;
        }
        Self(bits)
    }

    /// Adds `token`.
    #[inline]
    pub fn insert(&mut self, token: Token) {
        self.0 |= 1 << token as u8;
    }

    /// Whether `token` is in the set.
    #[inline]
    pub const fn contains(self, token: Token) -> bool {
        self.0 & (1 << token as u8) != 0
    }

    /// Whether the sets share a token.
    #[inline]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// Declares the tokens and their names.
macro_rules! tokens {
    ($($variant:ident $name:literal)*) => {
        /// An interned field name.
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Token {
            $(#[doc = $name] $variant,)*
            /// Any other name.
            Other,
        }

        /// Every token but `Other`; a token's number is its place here.
        const ALL: &[Token] = &[$(Token::$variant),*];
        /// Their names as usually written.
        const NAMES: &[&str] = &[$($name),*];
    };
}

tokens! {
    Accept "Accept"
    AcceptCharset "Accept-Charset"
    AcceptEncoding "Accept-Encoding"
    AcceptLanguage "Accept-Language"
    AcceptRanges "Accept-Ranges"
    AccessControlAllowOrigin "Access-Control-Allow-Origin"
    Age "Age"
    Allow "Allow"
    AltSvc "Alt-Svc"
    Authorization "Authorization"
    CacheControl "Cache-Control"
    Connection "Connection"
    ContentDisposition "Content-Disposition"
    ContentEncoding "Content-Encoding"
    ContentLanguage "Content-Language"
    ContentLength "Content-Length"
    ContentLocation "Content-Location"
    ContentRange "Content-Range"
    ContentType "Content-Type"
    Cookie "Cookie"
    Date "Date"
    ETag "ETag"
    Expect "Expect"
    Expires "Expires"
    Forwarded "Forwarded"
    From "From"
    Host "Host"
    HttpTwoSettings "HTTP2-Settings"
    IfMatch "If-Match"
    IfModifiedSince "If-Modified-Since"
    IfNoneMatch "If-None-Match"
    IfRange "If-Range"
    IfUnmodifiedSince "If-Unmodified-Since"
    KeepAlive "Keep-Alive"
    LastModified "Last-Modified"
    Link "Link"
    Location "Location"
    MaxForwards "Max-Forwards"
    Origin "Origin"
    Pragma "Pragma"
    ProxyAuthenticate "Proxy-Authenticate"
    ProxyAuthenticationInfo "Proxy-Authentication-Info"
    ProxyAuthorization "Proxy-Authorization"
    ProxyConnection "Proxy-Connection"
    Range "Range"
    Referer "Referer"
    Refresh "Refresh"
    RetryAfter "Retry-After"
    SecWebSocketKey "Sec-WebSocket-Key"
    Server "Server"
    SetCookie "Set-Cookie"
    Status "Status"
    StrictTransportSecurity "Strict-Transport-Security"
    Te "TE"
    Trailer "Trailer"
    TransferEncoding "Transfer-Encoding"
    Upgrade "Upgrade"
    UserAgent "User-Agent"
    Vary "Vary"
    Via "Via"
    WwwAuthenticate "WWW-Authenticate"
    XAccelBuffering "X-Accel-Buffering"
    XAccelCharset "X-Accel-Charset"
    XAccelExpires "X-Accel-Expires"
    XAccelLimitRate "X-Accel-Limit-Rate"
    XAccelRedirect "X-Accel-Redirect"
    XForwardedFor "X-Forwarded-For"
    XForwardedHost "X-Forwarded-Host"
    XForwardedPort "X-Forwarded-Port"
    XForwardedProto "X-Forwarded-Proto"
    XPoweredBy "X-Powered-By"
    XRealIp "X-Real-IP"
    XRequestId "X-Request-ID"
}

impl Token {
    /// Fields that concern one connection only (RFC 9110, 7.6.1): never forwarded as they came.
    ///
    /// `Trailer`, `TE` and `Upgrade` are among them; the proxy sends its own when it means them.
    pub const HOP_BY_HOP: TokenSet = TokenSet::of(&[
        Token::Connection,
        Token::KeepAlive,
        Token::ProxyConnection,
        Token::TransferEncoding,
        Token::Te,
        Token::Trailer,
        Token::Upgrade,
        Token::HttpTwoSettings,
    ]);

    /// Fields that frame, route, authenticate or describe a message and so must not come after it
    /// (RFC 9110, 6.5.1).
    pub const FORBIDDEN_IN_TRAILER: TokenSet = TokenSet::of(&[
        Token::AcceptCharset,
        Token::AcceptEncoding,
        Token::Age,
        Token::Authorization,
        Token::CacheControl,
        Token::Connection,
        Token::ContentEncoding,
        Token::ContentLength,
        Token::ContentRange,
        Token::ContentType,
        Token::Cookie,
        Token::Expect,
        Token::Forwarded,
        Token::Host,
        Token::HttpTwoSettings,
        Token::IfMatch,
        Token::IfModifiedSince,
        Token::IfNoneMatch,
        Token::IfRange,
        Token::IfUnmodifiedSince,
        Token::KeepAlive,
        Token::Location,
        Token::MaxForwards,
        Token::ProxyAuthenticate,
        Token::ProxyAuthorization,
        Token::ProxyConnection,
        Token::Range,
        Token::RetryAfter,
        Token::SetCookie,
        Token::Status,
        Token::Te,
        Token::Trailer,
        Token::TransferEncoding,
        Token::Upgrade,
        Token::Vary,
        Token::WwwAuthenticate,
        Token::XAccelBuffering,
        Token::XAccelCharset,
        Token::XAccelExpires,
        Token::XAccelLimitRate,
        Token::XAccelRedirect,
        Token::XForwardedFor,
        Token::XForwardedHost,
        Token::XForwardedPort,
        Token::XForwardedProto,
        Token::XRealIp,
    ]);

    /// Request fields that nginx refuses to see twice.
    pub const UNIQUE_IN_REQUEST: TokenSet = TokenSet::of(&[
        Token::Authorization,
        Token::ContentLength,
        Token::ContentRange,
        Token::Expect,
        Token::Host,
        Token::IfMatch,
        Token::IfModifiedSince,
        Token::IfNoneMatch,
        Token::IfRange,
        Token::IfUnmodifiedSince,
        Token::TransferEncoding,
    ]);

    /// Fields no `Connection` field can take away: they are for every recipient, and a client
    /// naming them there wants the next server to misread the request.
    pub const NOT_NOMINABLE: TokenSet = TokenSet::of(&[
        Token::Authorization,
        Token::CacheControl,
        Token::ContentLength,
        Token::ContentType,
        Token::Cookie,
        Token::Host,
        Token::SetCookie,
    ]);

    /// The token of a field name, compared without case; [`Token::Other`] for an unknown one.
    #[inline]
    pub fn from_name(name: &[u8]) -> Self {
        if name.len() > LENGTH_MAX || name.is_empty() {
            return Self::Other;
        }
        let first = name[0] | 0x20;
        let last = name[name.len() - 1] | 0x20;
        let (from, to) = (FIRST_OF_LENGTH[name.len()], FIRST_OF_LENGTH[name.len() + 1]);
        for entry in &BY_LENGTH[from as usize..to as usize] {
            if entry.first == first
                && entry.last == last
                && NAMES[entry.token as usize]
                    .as_bytes()
                    .eq_ignore_ascii_case(name)
            {
                return entry.token;
            }
        }
        Self::Other
    }

    /// The name as usually written; empty for [`Token::Other`].
    pub fn name(self) -> &'static str {
        NAMES.get(self as usize).copied().unwrap_or("")
    }

    /// Whether the field concerns one connection only.
    #[inline]
    pub const fn is_hop_by_hop(self) -> bool {
        Self::HOP_BY_HOP.contains(self)
    }

    /// Whether the field must not stand in a trailer.
    #[inline]
    pub const fn forbidden_in_trailer(self) -> bool {
        Self::FORBIDDEN_IN_TRAILER.contains(self)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Other {
            "Other"
        } else {
            self.name()
        })
    }
}

/// The longest known name.
const LENGTH_MAX: usize = {
    let mut max = 0;
    let mut index = 0;
    while index < NAMES.len() {
        if NAMES[index].len() > max {
            max = NAMES[index].len();
        }
        index += 1;
    }
    max
};

/// One known name: two letters in lower case settle most comparisons.
#[derive(Clone, Copy)]
struct Entry {
    first: u8,
    last: u8,
    token: Token,
}

/// `FIRST_OF_LENGTH[n]` is where the names of `n` bytes start in [`BY_LENGTH`].
const FIRST_OF_LENGTH: [u8; LENGTH_MAX + 2] = {
    let mut first = [0; LENGTH_MAX + 2];
    let mut index = 0;
    while index < NAMES.len() {
        let mut longer = NAMES[index].len() + 1;
        while longer < first.len() {
            first[longer] += 1;
            longer += 1;
        }
        index += 1;
    }
    first
};

/// The known names, shortest first.
static BY_LENGTH: [Entry; NAMES.len()] = {
    let mut sorted = [Entry {
        first: 0,
        last: 0,
        token: Token::Other,
    }; NAMES.len()];
    let mut next = FIRST_OF_LENGTH;
    let mut index = 0;
    while index < NAMES.len() {
        let name = NAMES[index].as_bytes();
        sorted[next[name.len()] as usize] = Entry {
            first: name[0] | 0x20,
            last: name[name.len() - 1] | 0x20,
            token: ALL[index],
        };
        next[name.len()] += 1;
        index += 1;
    }
    sorted
};

// A set is 128 bits wide.
const _: () = assert!((Token::Other as u8) < 128 && ALL.len() == Token::Other as usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_finds_its_token_in_any_case() {
        for (&token, name) in ALL.iter().zip(NAMES) {
            assert_eq!(Token::from_name(name.as_bytes()), token);
            assert_eq!(
                Token::from_name(name.to_ascii_uppercase().as_bytes()),
                token
            );
            assert_eq!(
                Token::from_name(name.to_ascii_lowercase().as_bytes()),
                token
            );
            assert_eq!(token.name(), *name);
        }
    }

    #[test]
    fn other_names_are_other() {
        let long = [b'a'; 300];
        for name in [
            &b""[..],
            b"X-Y",
            b"Hos",
            b"Hosts",
            b"h\x2fst",
            b"CONTENT_LENGTH",
            &long,
        ] {
            assert_eq!(Token::from_name(name), Token::Other);
        }
        // Setting bit 5 folds more than letters: such names must not be taken for known ones.
        assert_eq!(Token::from_name(b"\x14e"), Token::Other);
        assert_eq!(Token::from_name(b"content\x0dtype"), Token::Other);
    }

    #[test]
    fn sets_answer_by_bit() {
        assert!(Token::Te.is_hop_by_hop() && !Token::Host.is_hop_by_hop());
        assert!(Token::ContentLength.forbidden_in_trailer() && !Token::ETag.forbidden_in_trailer());
        assert!(!Token::Other.is_hop_by_hop() && !Token::Other.forbidden_in_trailer());
        let mut set = TokenSet::EMPTY;
        set.insert(Token::Host);
        assert!(set.intersects(Token::UNIQUE_IN_REQUEST) && !set.intersects(Token::HOP_BY_HOP));
    }
}
