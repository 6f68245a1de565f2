//! The PROXY protocol, versions 1 and 2: read from a balancer in front of us, written to servers
//! behind us.
//!
//! Source: the protocol's specification, "The PROXY protocol, versions 1 & 2" (HAProxy, 2020).

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What a header said about the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyProtocol {
    /// The client's address as the balancer in front of us saw it.
    pub source: SocketAddr,
    /// The address the client connected to.
    pub destination: SocketAddr,
    /// The extensions of a version 2 header as they came; see [`ProxyProtocol::tlv`].
    pub tlvs: Box<[u8]>,
}

/// What the announced connection carries; version 2 says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP, or a unix stream socket.
    Stream,
    /// UDP.
    Datagram,
}

/// The bytes are not a PROXY protocol header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// A version 1 line, its line end included, is never longer.
const V1_MAX: usize = 107;
/// Address block and TLVs of version 2 that are accepted.
const V2_MAX: usize = 4096;

/// The extension that holds those about TLS.
const TLV_SSL: u8 = 0x20;
/// What stands in it before they begin: flags of one byte, the result of verifying in four.
const TLV_SSL_HEAD: usize = 5;

/// The extensions `$proxy_protocol_tlv_NAME` knows by name.
const TLV_NAMES: [(&[u8], u8); 5] = [
    (b"alpn", 0x01),
    (b"authority", 0x02),
    (b"unique_id", 0x05),
    (b"ssl", TLV_SSL),
    (b"netns", 0x30),
];

/// Those inside of the one about TLS.
const TLV_SSL_NAMES: [(&[u8], u8); 5] = [
    (b"version", 0x21),
    (b"cn", 0x22),
    (b"cipher", 0x23),
    (b"sig_alg", 0x24),
    (b"key_alg", 0x25),
];

/// Parses the header at the start of `input`: its length and, unless it says that the connection
/// is the balancer's own or of an unknown kind, the addresses. `None`: more bytes are needed.
///
/// # Errors
/// [`Broken`] as soon as the bytes cannot become a header any more.
pub fn parse(input: &[u8]) -> Result<Option<(usize, Option<ProxyProtocol>)>, Broken> {
    let common = input.len().min(V2_SIGNATURE.len());
    if input[..common] == V2_SIGNATURE[..common] {
        return if common < V2_SIGNATURE.len() {
            Ok(None)
        } else {
            parse_v2(input)
        };
    }
    parse_v1(input)
}

/// What an error says of a broken header: its first line.
pub fn shown(input: &[u8]) -> String {
    let is_end = |byte: &u8| matches!(byte, b'\r' | b'\n');
    let end = input.iter().position(is_end).unwrap_or(input.len());
    let line = String::from_utf8_lossy(&input[..end.min(V1_MAX)]);
    line.escape_debug().to_string()
}

/// Appends a version 1 header for a connection from `source` to `destination`. Without two IP
/// addresses it says that the connection is of an unknown kind.
pub fn write_v1(out: &mut Vec<u8>, source: Option<SocketAddr>, destination: Option<SocketAddr>) {
    let (family, from, to) = match ends(source, destination) {
        Ends::V4(from, to) => ("TCP4", SocketAddr::from(from), SocketAddr::from(to)),
        Ends::V6(from, to) => ("TCP6", SocketAddr::from(from), SocketAddr::from(to)),
        Ends::Unknown => {
            out.extend_from_slice(b"PROXY UNKNOWN\r\n");
            return;
        }
    };
    let (from_port, to_port) = (from.port(), to.port());
    // Writing into memory does not fail.
    let _ = write!(
        out,
        "PROXY {family} {} {} {from_port} {to_port}\r\n",
        from.ip(),
        to.ip()
    );
}

/// Appends a version 2 header for a connection from `source` to `destination`. Without two IP
/// addresses it says that the connection is of an unknown kind.
pub fn write_v2(
    out: &mut Vec<u8>,
    source: Option<SocketAddr>,
    destination: Option<SocketAddr>,
    transport: Transport,
) {
    let transport = match transport {
        Transport::Stream => 1,
        Transport::Datagram => 2,
    };
    out.extend_from_slice(V2_SIGNATURE);
    out.push(0x21);
    match ends(source, destination) {
        Ends::V4((from, from_port), (to, to_port)) => {
            out.extend_from_slice(&[0x10 | transport, 0, 12]);
            out.extend_from_slice(&from.octets());
            out.extend_from_slice(&to.octets());
            out.extend_from_slice(&from_port.to_be_bytes());
            out.extend_from_slice(&to_port.to_be_bytes());
        }
        Ends::V6((from, from_port), (to, to_port)) => {
            out.extend_from_slice(&[0x20 | transport, 0, 36]);
            out.extend_from_slice(&from.octets());
            out.extend_from_slice(&to.octets());
            out.extend_from_slice(&from_port.to_be_bytes());
            out.extend_from_slice(&to_port.to_be_bytes());
        }
        Ends::Unknown => out.extend_from_slice(&[0, 0, 0]),
    }
}

impl ProxyProtocol {
    /// Appends the value of an extension and says whether there is one. `name` is what follows
    /// `$proxy_protocol_tlv_`: `alpn`, `authority`, `unique_id`, `netns`, `ssl`, `ssl_version`,
    /// `ssl_cn`, `ssl_cipher`, `ssl_sig_alg`, `ssl_key_alg`, `ssl_verify` (a number), or a type in
    /// hexadecimal digits after `0x`.
    pub fn tlv(&self, name: &[u8], out: &mut Vec<u8>) -> bool {
        if let Some(about_tls) = name.strip_prefix(b"ssl_") {
            let Some(ssl) = find_tlv(&self.tlvs, TLV_SSL) else {
                return false;
            };
            let Some((head, inner)) = ssl.split_at_checked(TLV_SSL_HEAD) else {
                return false;
            };
            if about_tls == b"verify" {
                let result = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
                // Writing into memory does not fail.
                let _ = write!(out, "{result}");
                return true;
            }
            let kind = kind_named(&TLV_SSL_NAMES, about_tls);
            return append(kind.and_then(|kind| find_tlv(inner, kind)), out);
        }
        let kind = match name.strip_prefix(b"0x") {
            Some(digits) => std::str::from_utf8(digits)
                .ok()
                .and_then(|digits| u8::from_str_radix(digits, 16).ok()),
            None => kind_named(&TLV_NAMES, name),
        };
        append(kind.and_then(|kind| find_tlv(&self.tlvs, kind)), out)
    }
}

/// Both ends of a connection, in one family.
enum Ends {
    V4((Ipv4Addr, u16), (Ipv4Addr, u16)),
    V6((Ipv6Addr, u16), (Ipv6Addr, u16)),
    Unknown,
}

/// IPv4 where both are, also as a socket for both families shows them; else IPv6.
fn ends(source: Option<SocketAddr>, destination: Option<SocketAddr>) -> Ends {
    let (Some(source), Some(destination)) = (source, destination) else {
        return Ends::Unknown;
    };
    let (from_port, to_port) = (source.port(), destination.port());
    match (source.ip().to_canonical(), destination.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => Ends::V4((from, from_port), (to, to_port)),
        (from, to) => Ends::V6((to_v6(from), from_port), (to_v6(to), to_port)),
    }
}

fn to_v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

fn append(value: Option<&[u8]>, out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(value.unwrap_or_default());
    value.is_some()
}

fn kind_named(names: &[(&[u8], u8)], name: &[u8]) -> Option<u8> {
    names
        .iter()
        .find(|(n, _)| *n == name)
        .map(|(_, kind)| *kind)
}

/// The value of the first extension of this type.
fn find_tlv(mut tlvs: &[u8], kind: u8) -> Option<&[u8]> {
    loop {
        let (head, rest) = tlvs.split_at_checked(3)?;
        let length = u16::from_be_bytes([head[1], head[2]]);
        let (value, rest) = rest.split_at_checked(usize::from(length))?;
        if head[0] == kind {
            return Some(value);
        }
        tlvs = rest;
    }
}

fn parse_v1(input: &[u8]) -> Result<Option<(usize, Option<ProxyProtocol>)>, Broken> {
    let prefix = b"PROXY ";
    let common = input.len().min(prefix.len());
    if input[..common] != prefix[..common] {
        return Err(Broken);
    }
    let window = &input[..input.len().min(V1_MAX)];
    let Some(end) = memchr::memchr(b'\n', window) else {
        return if input.len() >= V1_MAX {
            Err(Broken)
        } else {
            Ok(None)
        };
    };
    let line = window[..end].strip_suffix(b"\r").ok_or(Broken)?;
    let line = std::str::from_utf8(line).map_err(|_| Broken)?;
    let mut parts = line.split(' ').skip(1);
    let used = end + 1;
    let family = parts.next().ok_or(Broken)?;
    if family == "UNKNOWN" {
        return Ok(Some((used, None)));
    }
    let mut ip = || -> Result<IpAddr, Broken> {
        let text = parts.next().ok_or(Broken)?;
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().map(IpAddr::V4).map_err(|_| Broken),
            "TCP6" => text.parse::<Ipv6Addr>().map(IpAddr::V6).map_err(|_| Broken),
            _ => Err(Broken),
        }
    };
    let (source, destination) = (ip()?, ip()?);
    let mut port = || {
        parts
            .next()
            .and_then(|p| p.parse::<u16>().ok())
            .ok_or(Broken)
    };
    let (source_port, destination_port) = (port()?, port()?);
    if parts.next().is_some() {
        return Err(Broken);
    }
    let header = ProxyProtocol {
        source: SocketAddr::new(source, source_port),
        destination: SocketAddr::new(destination, destination_port),
        tlvs: Box::default(),
    };
    Ok(Some((used, Some(header))))
}

fn parse_v2(input: &[u8]) -> Result<Option<(usize, Option<ProxyProtocol>)>, Broken> {
    let Some(head) = input.get(12..16) else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
    if head[0] >> 4 != 2 || head[0] & 0xf > 1 || length > V2_MAX {
        return Err(Broken);
    }
    let used = 16 + length;
    let Some(body) = input.get(16..used) else {
        return Ok(None);
    };
    let is_local = head[0] & 0xf == 0;
    let header = match head[1] {
        _ if is_local => None,
        0x11 => Some(addresses::<4>(body)?),
        0x21 => Some(addresses::<16>(body)?),
        _ => None,
    };
    Ok(Some((used, header)))
}

fn addresses<const N: usize>(body: &[u8]) -> Result<ProxyProtocol, Broken> {
    let (body, tlvs) = body.split_at_checked(2 * N + 4).ok_or(Broken)?;
    let ip = |bytes: &[u8]| match <[u8; 4]>::try_from(bytes) {
        Ok(v4) => IpAddr::from(v4),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes).unwrap_or_default()),
    };
    let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    Ok(ProxyProtocol {
        source: SocketAddr::new(ip(&body[..N]), port(2 * N)),
        destination: SocketAddr::new(ip(&body[N..2 * N]), port(2 * N + 2)),
        tlvs: tlvs.into(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn version_1_is_read() {
        let input = b"PROXY TCP4 192.0.2.1 192.0.2.2 1234 80\r\nGET";
        let (used, header) = parse(input).unwrap().unwrap();
        assert_eq!(&input[used..], b"GET");
        let header = header.unwrap();
        assert_eq!(header.source, "192.0.2.1:1234".parse().unwrap());
        assert_eq!(header.destination, "192.0.2.2:80".parse().unwrap());
        assert_eq!(parse(b"PROXY UNKNOWN\r\n"), Ok(Some((15, None))));
        for end in 0..38 {
            assert_eq!(parse(&input[..end]), Ok(None), "{end}");
        }
    }

    #[test]
    fn version_2_is_read() {
        let mut input = V2_SIGNATURE.to_vec();
        input.extend_from_slice(&[0x21, 0x11, 0, 12, 1, 2, 3, 4, 5, 6, 7, 8, 0, 80, 1, 0]);
        for end in 0..input.len() {
            assert_eq!(parse(&input[..end]), Ok(None), "{end}");
        }
        let (used, header) = parse(&input).unwrap().unwrap();
        assert_eq!(used, input.len());
        assert_eq!(header.unwrap().source, "1.2.3.4:80".parse().unwrap());
        input[12] = 0x20;
        assert_eq!(parse(&input), Ok(Some((28, None))));
    }

    #[test]
    fn what_is_no_header_is_refused_at_once() {
        let long = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat();
        for bad in [
            b"GET / HTTP/1.1\r\n".as_slice(),
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
            b"PROXY TCP4 ::1 ::1 1 2\r\n",
            b"PROXY TCP4 1.2.3.4 1.2.3.4 1 99999\r\n",
            b"PROXY UNKNOWN\n",
            &long,
        ] {
            assert_eq!(parse(bad), Err(Broken), "{}", bad.escape_ascii());
        }
    }

    fn written(version: u8, source: &str, destination: &str) -> Vec<u8> {
        let (source, destination) = (source.parse().ok(), destination.parse().ok());
        let mut out = Vec::new();
        match version {
            1 => write_v1(&mut out, source, destination),
            _ => write_v2(&mut out, source, destination, Transport::Stream),
        }
        out
    }

    #[test]
    fn version_1_is_written() {
        for (source, destination, expected) in [
            (
                "192.0.2.1:5",
                "192.0.2.2:80",
                "TCP4 192.0.2.1 192.0.2.2 5 80",
            ),
            ("[2001:db8::1]:5", "[::1]:80", "TCP6 2001:db8::1 ::1 5 80"),
            (
                "[::ffff:192.0.2.1]:5",
                "192.0.2.2:80",
                "TCP4 192.0.2.1 192.0.2.2 5 80",
            ),
            (
                "[2001:db8::1]:5",
                "192.0.2.2:80",
                "TCP6 2001:db8::1 ::ffff:192.0.2.2 5 80",
            ),
            ("unix:", "192.0.2.2:80", "UNKNOWN"),
        ] {
            let expected = format!("PROXY {expected}\r\n");
            assert_eq!(written(1, source, destination), expected.as_bytes());
        }
    }

    #[test]
    fn version_2_is_written() {
        let head = [V2_SIGNATURE.as_slice(), &[0x21]].concat();
        let v4 = [0x11, 0, 12, 192, 0, 2, 1, 192, 0, 2, 2, 0, 5, 1, 0];
        let expected = [&head[..], &v4].concat();
        assert_eq!(written(2, "192.0.2.1:5", "192.0.2.2:256"), expected);
        assert_eq!(
            written(2, "unix:", "unix:"),
            [&head[..], &[0, 0, 0]].concat()
        );
        let mut out = Vec::new();
        let end = "[::1]:1".parse().ok();
        write_v2(&mut out, end, end, Transport::Datagram);
        assert_eq!((out[13], out[15], out.len()), (0x22, 36, 52));
    }

    #[test]
    fn extensions_are_found_by_name_and_number() {
        let tlv = |kind: u8, value: &[u8]| {
            [&[kind], &(value.len() as u16).to_be_bytes()[..], value].concat()
        };
        let inside = [tlv(0x21, b"TLSv1.3"), tlv(0x22, b"me")].concat();
        let ssl = [&[1, 0, 0, 1, 2][..], &inside].concat();
        let tlvs = [
            tlv(1, b"h2"),
            tlv(TLV_SSL, &ssl),
            tlv(0xea, b"vpce"),
            vec![9, 9],
        ]
        .concat();
        let mut input = written(2, "1.2.3.4:5", "6.7.8.9:10");
        input[14..16].copy_from_slice(&(12 + tlvs.len() as u16).to_be_bytes());
        input.extend_from_slice(&tlvs);
        let (used, header) = parse(&input).unwrap().unwrap();
        assert_eq!(used, input.len());
        let header = header.unwrap();
        let value = |name: &str| {
            let mut out = Vec::new();
            header.tlv(name.as_bytes(), &mut out).then_some(out)
        };
        assert_eq!(value("alpn").unwrap(), b"h2");
        assert_eq!(value("0x1").unwrap(), b"h2");
        assert_eq!(value("0xea").unwrap(), b"vpce");
        assert_eq!(value("ssl").unwrap(), ssl);
        assert_eq!(value("ssl_version").unwrap(), b"TLSv1.3");
        assert_eq!(value("ssl_cn").unwrap(), b"me");
        assert_eq!(value("ssl_verify").unwrap(), b"258");
        for missing in [
            "authority",
            "ssl_cipher",
            "netns",
            "0x9",
            "0x",
            "0x100",
            "0xzz",
            "no",
        ] {
            assert_eq!(value(missing), None, "{missing}");
        }
    }

    #[test]
    fn a_broken_header_is_shown_to_its_first_line_end() {
        assert_eq!(
            shown(b"GET /\x01 HTTP/1.1\r\nHost: x"),
            "GET /\\u{1} HTTP/1.1"
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            from: (IpAddr, u16),
            to: (IpAddr, u16),
            version in 1..3u8,
            cut in any::<prop::sample::Index>(),
        ) {
            let (from, to) = (SocketAddr::from(from), SocketAddr::from(to));
            let mut input = Vec::new();
            match version {
                1 => write_v1(&mut input, Some(from), Some(to)),
                _ => write_v2(&mut input, Some(from), Some(to), Transport::Stream),
            }
            prop_assert!(input.len() <= V1_MAX);
            prop_assert_eq!(parse(&input[..cut.index(input.len())]), Ok(None));
            let length = input.len();
            input.extend_from_slice(b"more");
            let (used, header) = parse(&input).unwrap().unwrap();
            let header = header.unwrap();
            prop_assert_eq!(used, length);
            prop_assert_eq!(header.source.ip().to_canonical(), from.ip().to_canonical());
            prop_assert_eq!(header.destination.ip().to_canonical(), to.ip().to_canonical());
            prop_assert_eq!(header.source.port(), from.port());
            prop_assert_eq!(header.destination.port(), to.port());
        }

        #[test]
        fn any_bytes_are_read_without_panic(
            tail in proptest::collection::vec(any::<u8>(), 0..200),
            start in prop_oneof![
                Just(&b""[..]),
                Just(&b"PROXY "[..]),
                Just(&b"PROXY TCP4 "[..]),
                Just(&V2_SIGNATURE[..]),
                Just(&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0"[..]),
            ],
        ) {
            let input = [start, &tail].concat();
            let mut last = Ok(None);
            for end in 0..=input.len() {
                let now = parse(&input[..end]);
                if last != Ok(None) {
                    prop_assert_eq!(&now, &last);
                }
                if let Ok(Some((used, Some(header)))) = &now {
                    prop_assert!(*used <= end);
                    header.tlv(b"ssl_cn", &mut Vec::new());
                }
                last = now;
            }
        }
    }
}
