//! Whether a certificate is for a name, as OpenSSL's `X509_check_host` decides it (RFC 6125).

use std::net::IpAddr;

use super::der::Reader;
use super::x509::Certificate;

/// The tags of names in subjectAltName (RFC 5280, 4.2.1.6).
const DNS_NAME: u8 = 0x82;
const IP_ADDRESS: u8 = 0x87;

/// Whether the certificate is for a server of this name. The common name of its subject counts if
/// it has no DNS names.
pub fn is_for(certificate: &Certificate<'_>, name: &[u8]) -> bool {
    if name.is_empty() {
        return false;
    }
    let address = std::str::from_utf8(name)
        .ok()
        .and_then(|text| text.trim_matches(['[', ']']).parse::<IpAddr>().ok());
    let mut has_names = false;
    let mut names = Reader::new(certificate.extensions.names.unwrap_or_default());
    while let Some(one) = names.next() {
        match one.tag {
            DNS_NAME => {
                has_names = true;
                if matches(one.content, name) {
                    return true;
                }
            }
            IP_ADDRESS if address.is_some_and(|address| is_address(one.content, address)) => {
                return true;
            }
            _ => {}
        }
    }
    !has_names && certificate.common_names().any(|own| matches(own, name))
}

fn is_address(octets: &[u8], address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => octets == v4.octets(),
        IpAddr::V6(v6) => octets == v6.octets(),
    }
}

/// Whether a name in a certificate, which may have an asterisk in its first label, means this one.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match asterisk(pattern) {
        Some(at) => is_wildcard_for(&pattern[..at], &pattern[at + 1..], name),
        None => pattern.eq_ignore_ascii_case(name),
    }
}

/// Where the asterisk of a valid pattern is: at an end of its first label, which is none of an
/// internationalised name and has at least two others behind it.
fn asterisk(pattern: &[u8]) -> Option<usize> {
    let mut all = memchr::memchr_iter(b'*', pattern);
    let at = all.next()?;
    if all.next().is_some() {
        return None;
    }
    let first_end = memchr::memchr(b'.', pattern)?;
    let rest = &pattern[first_end + 1..];
    let is_at_end = at == 0 || at + 1 == first_end;
    let labels = rest.split(|byte| *byte == b'.');
    let are_sound = labels.clone().all(is_label) && labels.count() >= 2;
    let is_international = is_prefix(b"xn--", &pattern[..first_end]);
    (at < first_end && is_at_end && are_sound && !is_international).then_some(at)
}

fn is_label(label: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
    !label.is_empty()
        && label.iter().all(is_part)
        && !label.starts_with(b"-")
        && !label.ends_with(b"-")
}

/// Whether the asterisk between these two stands for a part of the first label of `name`.
fn is_wildcard_for(before: &[u8], behind: &[u8], name: &[u8]) -> bool {
    if name.len() < before.len() + behind.len() {
        return false;
    }
    let (start, rest) = name.split_at(before.len());
    let (part, end) = rest.split_at(rest.len() - behind.len());
    if !start.eq_ignore_ascii_case(before) || !end.eq_ignore_ascii_case(behind) {
        return false;
    }
    let is_whole_label = before.is_empty() && behind.starts_with(b".");
    if is_whole_label {
        return !part.is_empty() && part.iter().all(is_host_byte);
    }
    // A part of an internationalised label says nothing of what is read.
    !is_prefix(b"xn--", name) && part.iter().all(is_host_byte)
}

fn is_host_byte(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || *byte == b'-'
}

fn is_prefix(prefix: &[u8], name: &[u8]) -> bool {
    let start = name.get(..prefix.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `openssl x509 -checkhost` says.
    #[test]
    fn names_are_compared_as_openssl_does() {
        for (pattern, name, expected) in [
            ("a.example", "A.Example", true),
            ("a.example", "a.example.", false),
            ("a_b.example", "a_b.example", true),
            ("a.example", "b.example", false),
            ("*.example.com", "a.example.com", true),
            ("*.example.com", "a.b.example.com", false),
            ("*.example.com", "example.com", false),
            ("*.com", "example.com", false),
            ("*", "a", false),
            ("a*.example.com", "ab.example.com", true),
            ("a*.example.com", "a.example.com", true),
            ("*a.example.com", "ba.example.com", true),
            ("a*b.example.com", "axb.example.com", false),
            ("a.*.example.com", "a.b.example.com", false),
            ("*.*.example.com", "a.b.example.com", false),
            ("*.example.com", "xn--a.example.com", true),
            ("x*.example.com", "xn--a.example.com", false),
            ("xn--*.example.com", "xn--a.example.com", false),
            ("*.example.com", "a_b.example.com", false),
            ("127.0.0.1", "127.0.0.1", true),
        ] {
            let is = matches(pattern.as_bytes(), name.as_bytes());
            assert_eq!(is, expected, "{pattern} {name}");
        }
    }
}
