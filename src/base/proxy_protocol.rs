//! The PROXY protocol, versions 1 and 2, as a balancer in front of us sends it.
//!
//! Source: the protocol's specification, "The PROXY protocol, versions 1 & 2" (HAProxy, 2020).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What a header said about the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyProtocol {
    /// The client's address as the balancer in front of us saw it.
    pub source: SocketAddr,
    /// The address the client connected to.
    pub destination: SocketAddr,
}

/// The bytes are not a PROXY protocol header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// A version 1 line, its line end included, is never longer.
const V1_MAX: usize = 107;
/// Address block and TLVs of version 2 that are accepted.
const V2_MAX: usize = 4096;

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
    let body = body.get(..2 * N + 4).ok_or(Broken)?;
    let ip = |bytes: &[u8]| match <[u8; 4]>::try_from(bytes) {
        Ok(v4) => IpAddr::from(v4),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes).unwrap_or_default()),
    };
    let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    Ok(ProxyProtocol {
        source: SocketAddr::new(ip(&body[..N]), port(2 * N)),
        destination: SocketAddr::new(ip(&body[N..2 * N]), port(2 * N + 2)),
    })
}

#[cfg(test)]
mod tests {
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
}
