//! Certificates as text: distinguished names, serial numbers, times.

use std::fmt::Write as _;

use super::der::{self, Reader, Value};
use super::x509::{self, Certificate};

/// Appends a name as RFC 2253 writes it: `CN=a,O=b`, the last part first. So are
/// `$ssl_client_s_dn` and `$ssl_client_i_dn`.
pub fn write_rfc2253(name: &[u8], out: &mut Vec<u8>) {
    let mut sets = Vec::new();
    let mut reader = Reader::new(name).sequence().unwrap_or(Reader::new(&[]));
    while let Some(set) = reader.expect(der::SET) {
        sets.push(set);
    }
    for (at, set) in sets.iter().rev().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        let mut set = set.reader();
        let mut is_first = true;
        while let Some(mut pair) = set.sequence() {
            let (Some(oid), Some(value)) = (pair.expect(der::OID), pair.next()) else {
                break;
            };
            if !is_first {
                out.push(b'+');
            }
            is_first = false;
            write_type(oid.content, out);
            out.push(b'=');
            write_escaped(&value, out);
        }
    }
}

/// Appends a name as it was written before: `/O=b/CN=a` (`$ssl_client_s_dn_legacy`).
pub fn write_legacy(name: &[u8], out: &mut Vec<u8>) {
    for (oid, value) in x509::attributes(name) {
        out.push(b'/');
        write_type(oid, out);
        out.push(b'=');
        for byte in value.content {
            if (b' '..=b'~').contains(byte) {
                out.push(*byte);
            } else {
                out.extend_from_slice(format!("\\x{byte:02X}").as_bytes());
            }
        }
    }
}

fn write_type(oid: &[u8], out: &mut Vec<u8>) {
    let name = match oid {
        [0x55, 4, last] => match last {
            3 => "CN",
            4 => "SN",
            5 => "serialNumber",
            6 => "C",
            7 => "L",
            8 => "ST",
            9 => "street",
            10 => "O",
            11 => "OU",
            12 => "title",
            13 => "description",
            15 => "businessCategory",
            17 => "postalCode",
            42 => "GN",
            43 => "initials",
            46 => "dnQualifier",
            97 => "organizationIdentifier",
            _ => "",
        },
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1] => "emailAddress",
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25] => "DC",
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1] => "UID",
        _ => "",
    };
    if name.is_empty() {
        write_oid(oid, out);
    } else {
        out.extend_from_slice(name.as_bytes());
    }
}

/// `1.2.3`
fn write_oid(oid: &[u8], out: &mut Vec<u8>) {
    let mut text = String::new();
    let mut number: u64 = 0;
    for byte in oid {
        number = number << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 != 0 {
            continue;
        }
        if text.is_empty() {
            let first = (number / 40).min(2);
            let _ = write!(text, "{first}.{}", number - first * 40);
        } else {
            let _ = write!(text, ".{number}");
        }
        number = 0;
    }
    out.extend_from_slice(text.as_bytes());
}

/// A value with RFC 2253's escapes; what is not ASCII as the octets of its UTF-8.
fn write_escaped(value: &Value<'_>, out: &mut Vec<u8>) {
    const BMP_STRING: u8 = 0x1e;
    const T61_STRING: u8 = 0x14;
    let utf8;
    let bytes = match value.tag {
        BMP_STRING => {
            let units = value
                .content
                .chunks_exact(2)
                .map(|two| u16::from_be_bytes([two[0], two[1]]));
            utf8 = char::decode_utf16(units)
                .map(|c| c.unwrap_or('?'))
                .collect::<String>();
            utf8.as_bytes()
        }
        T61_STRING => {
            utf8 = value
                .content
                .iter()
                .copied()
                .map(char::from)
                .collect::<String>();
            utf8.as_bytes()
        }
        _ => value.content,
    };
    for (at, byte) in bytes.iter().enumerate() {
        let is_edge = at == 0 || at + 1 == bytes.len();
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => {
                out.extend_from_slice(&[b'\\', *byte])
            }
            b' ' if is_edge => out.extend_from_slice(b"\\ "),
            b'#' if at == 0 => out.extend_from_slice(b"\\#"),
            b' '..=b'~' => out.push(*byte),
            _ => out.extend_from_slice(format!("\\{byte:02X}").as_bytes()),
        }
    }
}

/// Appends the serial number in hexadecimal digits.
pub fn write_serial(certificate: &Certificate<'_>, out: &mut Vec<u8>) {
    let mut octets = certificate.serial;
    while let [0, rest @ ..] = octets
        && !rest.is_empty()
    {
        octets = rest;
    }
    write_hex(octets, true, out);
}

/// Appends octets in hexadecimal digits.
pub fn write_hex(octets: &[u8], upper: bool, out: &mut Vec<u8>) {
    let digits = if upper {
        b"0123456789ABCDEF"
    } else {
        b"0123456789abcdef"
    };
    for octet in octets {
        out.push(digits[usize::from(octet >> 4)]);
        out.push(digits[usize::from(octet & 15)]);
    }
}

/// Appends a moment as OpenSSL prints it: `Nov 21 08:00:00 2026 GMT`.
pub fn write_time(secs: i64, out: &mut Vec<u8>) {
    let mut date = Vec::new();
    crate::base::clock::format_http_date(secs, &mut date);
    if date.len() != "Sat, 21 Nov 2026 08:00:00 GMT".len() {
        // A year of some other number of digits.
        out.extend_from_slice(b"Bad time value");
        return;
    }
    // `Sat, 21 Nov 2026 08:00:00 GMT`
    let part = |range: std::ops::Range<usize>| &date[range];
    let day = if date[5] == b'0' {
        [b' ', date[6]]
    } else {
        [date[5], date[6]]
    };
    for piece in [
        part(8..11),
        b" ",
        &day,
        b" ",
        part(17..25),
        b" ",
        part(12..16),
        b" GMT",
    ] {
        out.extend_from_slice(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::cert;

    const LEAF: &str = include_str!("testdata/leaf-v1.pem");

    #[test]
    fn names_are_written_as_openssl_writes_them() {
        let chain = cert::parse(LEAF.as_bytes()).unwrap();
        let leaf = Certificate::parse(&chain[0]).unwrap();
        let text = |write: fn(&[u8], &mut Vec<u8>), name| {
            let mut out = Vec::new();
            write(name, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            text(write_rfc2253, leaf.subject),
            "emailAddress=a@b.example,CN=leaf v1,O=Old\\, Inc.,C=DE"
        );
        assert_eq!(
            text(write_legacy, leaf.subject),
            "/C=DE/O=Old, Inc./CN=leaf v1/emailAddress=a@b.example"
        );
        assert_eq!(text(write_rfc2253, leaf.issuer), "CN=Test Root,O=Ringway");
        let mut out = Vec::new();
        write_oid(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1], &mut out);
        assert_eq!(out, b"1.2.840.113549.1.9.1");
        out.clear();
        write_time(1_795_278_745, &mut out);
        assert_eq!(out, b"Nov 21 16:32:25 2026 GMT");
    }
}
