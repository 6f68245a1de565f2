//! File name patterns of `include`, as glob(3) matches them.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Whether a name is a pattern rather than the name of one file.
pub fn is_glob(path: &Path) -> bool {
    has_meta(path.as_os_str().as_bytes())
}

/// The existing paths that match an absolute or relative pattern, sorted by bytes. Names that begin
/// with a dot match only a pattern that begins with one.
pub fn glob(pattern: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for component in pattern.components() {
        let Component::Normal(part) = component else {
            found.iter_mut().for_each(|path| path.push(component));
            continue;
        };
        let part = part.as_bytes();
        found = found
            .into_iter()
            .flat_map(|base| step(base, part))
            .collect();
    }
    found.retain(|path| path.symlink_metadata().is_ok());
    found.sort_by(|a, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
    found
}

/// Whether one path component matches a pattern of `*`, `?`, `[a-z]`, `[!a-z]` and `\x`.
pub fn matches(pattern: &[u8], name: &[u8]) -> bool {
    if name.first() == Some(&b'.') && pattern.first() != Some(&b'.') {
        return false;
    }
    let (mut p, mut n) = (0, 0);
    // Where to go on when a mismatch comes after a star: the star takes one byte more.
    let mut retry: Option<(usize, usize)> = None;
    while n < name.len() {
        if pattern.get(p) == Some(&b'*') {
            retry = Some((p, n));
            p += 1;
            continue;
        }
        if let Some(len) = match_one(&pattern[p..], name[n]) {
            p += len;
            n += 1;
            continue;
        }
        let Some((star, taken)) = retry else {
            return false;
        };
        retry = Some((star, taken + 1));
        p = star + 1;
        n = taken + 1;
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

fn has_meta(bytes: &[u8]) -> bool {
    bytes.iter().any(|byte| matches!(byte, b'*' | b'?' | b'['))
}

fn step(base: PathBuf, part: &[u8]) -> Vec<PathBuf> {
    if !has_meta(part) {
        return vec![base.join(Path::new(std::ffi::OsStr::from_bytes(part)))];
    }
    let dir = if base.as_os_str().is_empty() {
        Path::new(".")
    } else {
        &base
    };
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let names = entries.filter_map(|entry| entry.ok().map(|entry| entry.file_name()));
    names
        .filter(|name| matches(part, name.as_bytes()))
        .map(|name| base.join(name))
        .collect()
}

/// The length of the pattern's first element if it matches `byte`.
fn match_one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [b'?', ..] => Some(1),
        [b'\\', literal, ..] => (*literal == byte).then_some(2),
        [b'[', rest @ ..] => match bracket(rest, byte) {
            Some((matched, len)) => matched.then_some(len + 1),
            // Without its `]` the bracket is an ordinary character.
            None => (byte == b'[').then_some(1),
        },
        [literal, ..] => (*literal == byte).then_some(1),
        [] => None,
    }
}

/// Matches what follows `[`; gives the verdict and the length up to and with `]`.
fn bracket(rest: &[u8], byte: u8) -> Option<(bool, usize)> {
    let negated = matches!(rest.first(), Some(b'!' | b'^'));
    let mut at = usize::from(negated);
    let first = at;
    let mut matched = false;
    loop {
        match rest.get(at..)? {
            [] => return None,
            [b']', ..] if at > first => return Some((matched != negated, at + 1)),
            [low, b'-', high, ..] if *high != b']' => {
                matched |= (*low..=*high).contains(&byte);
                at += 3;
            }
            [literal, ..] => {
                matched |= *literal == byte;
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_glob_does() {
        let yes = [
            ("*.conf", "a.conf"),
            ("*", "x"),
            ("a*b*c", "aXbYbZc"),
            ("?.conf", "a.conf"),
            ("[a-c]x", "bx"),
            ("[!a-c]x", "dx"),
            ("[]]x", "]x"),
            ("a[", "a["),
            ("\\*", "*"),
            (".h*", ".hidden"),
        ];
        for (pattern, name) in yes {
            assert!(
                matches(pattern.as_bytes(), name.as_bytes()),
                "{pattern} {name}"
            );
        }
        let no = [
            ("*.conf", "a.conf~"),
            ("*", ".hidden"),
            ("?", ""),
            ("[a-c]x", "dx"),
            ("[!a-c]x", "bx"),
            ("\\*", "a"),
            ("a*b", "a"),
        ];
        for (pattern, name) in no {
            assert!(
                !matches(pattern.as_bytes(), name.as_bytes()),
                "{pattern} {name}"
            );
        }
    }

    #[test]
    fn many_stars_stay_fast() {
        let pattern = "*a".repeat(500);
        assert!(!matches(pattern.as_bytes(), &[b'b'; 5000]));
    }
}
