//! Whether a client wants gzip: `Accept-Encoding`, and browsers that ask for it wrongly.

/// Whether `Accept-Encoding: value` asks for gzip, read as nginx reads it: the first `gzip` at the
/// start or behind a comma or blank decides, `*` does not mean gzip, and what is malformed is a no.
pub fn accepts_gzip(value: &[u8]) -> bool {
    let Some(rest) = behind_gzip(value) else {
        return false;
    };
    match trim(rest) {
        [] | [b',', ..] => true,
        [b';', parameter @ ..] => match trim(parameter) {
            [] => true,
            [b'q' | b'Q', b'=', weight @ ..] => is_positive(weight),
            _ => false,
        },
        _ => false,
    }
}

/// Whether the browser is one of those that `msie6` stands for: MSIE 4 to 6, but not the later 6
/// that calls itself SV1, nor an Opera in disguise.
pub fn is_msie6(agent: &[u8]) -> bool {
    let find = |text: &[u8], what: &[u8]| memchr::memmem::find(text, what);
    let Some(at) = find(agent, b"MSIE ") else {
        return false;
    };
    let old = match &agent[at + 5..] {
        [b'4' | b'5', b'.', _, ..] => true,
        [b'6', b'.', rest @ ..] => !rest.is_empty() && find(rest, b"SV1").is_none(),
        _ => false,
    };
    old && find(agent, b"Opera").is_none()
}

/// What follows the first `gzip` that is the start of an element.
fn behind_gzip(value: &[u8]) -> Option<&[u8]> {
    const NAME: &[u8] = b"gzip";
    let starts = (0..value.len()).filter(|at| *at == 0 || matches!(value[at - 1], b',' | b' '));
    let mut found = starts.filter_map(|at| {
        let (name, rest) = value[at..].split_at_checked(NAME.len())?;
        name.eq_ignore_ascii_case(NAME).then_some(rest)
    });
    found.next()
}

/// Whether a weight is valid and above nothing: `1`, `0.5`, `1.000`.
fn is_positive(weight: &[u8]) -> bool {
    let end = weight
        .iter()
        .position(|b| matches!(b, b',' | b' '))
        .unwrap_or(weight.len());
    match &weight[..end] {
        [b'1'] => true,
        [b'1', b'.', digits @ ..] => digits.len() <= 3 && digits.iter().all(|d| *d == b'0'),
        [b'0', b'.', digits @ ..] => {
            digits.len() <= 3
                && digits.iter().all(u8::is_ascii_digit)
                && digits.iter().any(|d| *d != b'0')
        }
        _ => false,
    }
}

fn trim(text: &[u8]) -> &[u8] {
    &text[text.iter().take_while(|b| **b == b' ').count()..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_encoding() {
        let yes = [
            "gzip",
            "gzip,",
            "GZip",
            "br, gzip",
            "br,gzip;q=0.1",
            "gzip ; q=1",
            "gzip;q=1.000",
            "gzip;q=0.5, br",
            "x-gzip, gzip",
            "gzip;",
            "deflate gzip",
        ];
        let no = [
            "",
            "*",
            "br",
            "x-gzip",
            "gzipx",
            "gzip;q=0",
            "gzip;q=0.000",
            "gzip;q=",
            "gzip;q=1.5",
            "gzip;q=0.0001",
            "gzip;x=1",
            "gzip;q=0, gzip",
            "gzip;q=2",
            "gzi",
        ];
        for value in yes {
            assert!(accepts_gzip(value.as_bytes()), "{value}");
        }
        for value in no {
            assert!(!accepts_gzip(value.as_bytes()), "{value}");
        }
    }

    #[test]
    fn old_browsers() {
        assert!(is_msie6(
            b"Mozilla/4.0 (compatible; MSIE 6.0; Windows NT 5.1)"
        ));
        assert!(is_msie6(b"Mozilla/4.0 (compatible; MSIE 5.5)"));
        for other in [
            &b"Mozilla/4.0 (compatible; MSIE 6.0; Windows NT 5.1; SV1)"[..],
            b"Mozilla/4.0 (compatible; MSIE 7.0)",
            b"Mozilla/4.0 (compatible; MSIE 6.0; Windows) Opera 8",
            b"MSIE ",
            b"curl",
        ] {
            assert!(!is_msie6(other), "{}", other.escape_ascii());
        }
    }
}
