//! Host names with wildcards: exact, `*.example.com`, `.example.com`, `www.example.*`.

use std::collections::HashMap;
use std::fmt;

use crate::base::hash::FastHasher;

/// Values by host name, as `server_name` and `map … { hostnames; }` look them up: the exact name
/// first, then the longest wildcard at the front, then the longest wildcard at the end. Looking up
/// costs one hash per label of the host at most.
#[derive(Clone)]
pub struct HostTable<T> {
    exact: Names,
    /// What follows `*` in a leading wildcard, with its dot: `.example.com`.
    leading: Names,
    /// What precedes `*` in a trailing wildcard, with its dot: `www.example.`.
    trailing: Names,
    values: Vec<T>,
}

type Names = HashMap<Box<[u8]>, usize, FastHasher>;

/// Why a name cannot be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    /// It is no host name and no supported wildcard.
    Invalid,
    /// It is there already.
    Conflict,
}

/// Where a name goes.
enum Form<'a> {
    Exact(&'a [u8]),
    Leading(&'a [u8]),
    /// `.example.com`: the name itself and everything below it.
    Both(&'a [u8]),
    Trailing(&'a [u8]),
}

impl<T> HostTable<T> {
    /// An empty table.
    pub fn new() -> Self {
        Self {
            exact: Names::default(),
            leading: Names::default(),
            trailing: Names::default(),
            values: Vec::new(),
        }
    }

    /// Adds a name or wildcard, in any case.
    ///
    /// # Errors
    /// The name is not valid, or it is in the table already; the table is unchanged then.
    pub fn insert(&mut self, name: &[u8], value: T) -> Result<(), NameError> {
        let name = name.to_ascii_lowercase();
        let form = Form::of(&name).ok_or(NameError::Invalid)?;
        let taken = match &form {
            Form::Exact(key) => self.exact.contains_key(*key),
            Form::Leading(key) => self.leading.contains_key(*key),
            Form::Both(key) => {
                self.leading.contains_key(*key) || self.exact.contains_key(&key[1..])
            }
            Form::Trailing(key) => self.trailing.contains_key(*key),
        };
        if taken {
            return Err(NameError::Conflict);
        }
        let index = self.values.len();
        self.values.push(value);
        match form {
            Form::Exact(key) => self.exact.insert(key.into(), index),
            Form::Leading(key) => self.leading.insert(key.into(), index),
            Form::Both(key) => {
                self.exact.insert(key[1..].into(), index);
                self.leading.insert(key.into(), index)
            }
            Form::Trailing(key) => self.trailing.insert(key.into(), index),
        };
        Ok(())
    }

    /// Adds a name that stands for itself, whatever it looks like.
    ///
    /// # Errors
    /// The name is in the table already.
    pub fn insert_exact(&mut self, name: &[u8], value: T) -> Result<(), NameError> {
        let name = name.to_ascii_lowercase();
        if self.exact.contains_key(&*name) {
            return Err(NameError::Conflict);
        }
        self.exact.insert(name.into(), self.values.len());
        self.values.push(value);
        Ok(())
    }

    /// Finds the value for `host`, which must be in lower case.
    pub fn get(&self, host: &[u8]) -> Option<&T> {
        debug_assert!(
            !host.iter().any(u8::is_ascii_uppercase),
            "hosts are looked up in lower case"
        );
        let index = self
            .exact(host)
            .or_else(|| self.leading(host))
            .or_else(|| self.trailing(host));
        Some(&self.values[*index?])
    }

    /// The names added, `.example.com` counted once.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    fn exact(&self, host: &[u8]) -> Option<&usize> {
        if self.exact.is_empty() {
            None
        } else {
            self.exact.get(host)
        }
    }

    /// The first dot gives the longest suffix. The wildcard may stand for nothing, but the dot must
    /// be there.
    fn leading(&self, host: &[u8]) -> Option<&usize> {
        if self.leading.is_empty() {
            return None;
        }
        memchr::memchr_iter(b'.', host).find_map(|dot| self.leading.get(&host[dot..]))
    }

    /// The last dot gives the longest prefix.
    fn trailing(&self, host: &[u8]) -> Option<&usize> {
        if self.trailing.is_empty() {
            return None;
        }
        memchr::memrchr_iter(b'.', host).find_map(|dot| self.trailing.get(&host[..=dot]))
    }
}

impl<'a> Form<'a> {
    /// Sorts a name in lower case; None when it is not valid.
    fn of(name: &'a [u8]) -> Option<Self> {
        let stars = name.iter().filter(|byte| **byte == b'*').count();
        if stars > 1 || name.contains(&0) || name.windows(2).any(|pair| pair == b"..") {
            return None;
        }
        if name.len() > 1 && name[0] == b'.' {
            // A star further on is an ordinary letter; no host will have it.
            return Some(Self::Both(name));
        }
        if name.len() > 2 && name.starts_with(b"*.") {
            return Some(Self::Leading(&name[1..]));
        }
        if name.len() > 2 && name.ends_with(b".*") {
            return Some(Self::Trailing(&name[..name.len() - 1]));
        }
        (stars == 0).then_some(Self::Exact(name))
    }
}

impl<T> Default for HostTable<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for HostTable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostTable")
            .field("exact", &self.exact.len())
            .field("leading", &self.leading.len())
            .field("trailing", &self.trailing.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(names: &[&'static str]) -> HostTable<&'static str> {
        let mut table = HostTable::new();
        for name in names {
            table
                .insert(name.as_bytes(), *name)
                .unwrap_or_else(|error| panic!("{name}: {error:?}"));
        }
        table
    }

    #[test]
    fn exact_names_win_over_leading_over_trailing_wildcards() {
        let table = table(&[
            "*.ex.com", ".dot.com", "www.t.*", "EX.com", "www.*", "*.com", "a",
        ]);
        let cases = [
            ("ex.com", Some("EX.com")),
            ("a.ex.com", Some("*.ex.com")),
            ("a.b.ex.com", Some("*.ex.com")),
            (".ex.com", Some("*.ex.com")),
            ("dot.com", Some(".dot.com")),
            ("x.dot.com", Some(".dot.com")),
            ("www.t.x", Some("www.t.*")),
            ("www.t.x.y", Some("www.t.*")),
            ("www.t.com", Some("*.com")),
            ("www.t", Some("www.*")),
            ("www.", Some("www.*")),
            ("www", None),
            ("com", None),
            (".com", Some("*.com")),
            ("", None),
            ("b", None),
        ];
        for (host, expected) in cases {
            assert_eq!(table.get(host.as_bytes()).copied(), expected, "{host}");
        }
    }

    #[test]
    fn names_are_checked() {
        let invalid = [
            "*.a.*", "a*b", "a..com", "*.", "*", ".*", "a.*.b", "*a", "\0",
        ];
        for name in invalid {
            let result = HostTable::new().insert(name.as_bytes(), ());
            // `.*` is a name below which everything lies, odd as it is.
            let expected = if name == ".*" {
                Ok(())
            } else {
                Err(NameError::Invalid)
            };
            assert_eq!(result, expected, "{name}");
        }
    }

    #[test]
    fn a_name_can_be_added_once() {
        for (first, second) in [
            ("a.com", "A.com"),
            (".a.com", "a.com"),
            ("a.com", ".a.com"),
            ("*.a.com", ".a.com"),
            (".a.com", "*.a.com"),
            ("a.*", "a.*"),
        ] {
            let mut table = table(&[first]);
            assert_eq!(
                table.insert(second.as_bytes(), second),
                Err(NameError::Conflict),
                "{second}"
            );
            assert_eq!(table.len(), 1);
        }
    }

    #[test]
    fn an_exact_name_may_look_like_a_wildcard() {
        let mut table = table(&["*.a"]);
        table
            .insert_exact(b"*.a", "literal")
            .expect("it is not there");
        assert_eq!(table.get(b"*.a"), Some(&"literal"));
        assert_eq!(table.get(b"x.a"), Some(&"*.a"));
    }

    /// What the names mean, in the plainest words.
    fn model<'a>(names: &[&'a str], host: &str) -> Option<&'a str> {
        let exact = |name: &&&str| **name == host || name.strip_prefix('.') == Some(host);
        if let Some(name) = names.iter().find(exact) {
            return Some(name);
        }
        let suffix = |name: &str| {
            let rest = name
                .strip_prefix('*')
                .or(name.starts_with('.').then_some(name))?;
            host.ends_with(rest).then_some(rest.len())
        };
        let prefix = |name: &str| {
            let rest = name.strip_suffix('*')?;
            host.starts_with(rest).then_some(rest.len())
        };
        let longest = |length: &dyn Fn(&str) -> Option<usize>| {
            let rated = names.iter().filter_map(|name| Some((length(name)?, *name)));
            rated
                .max_by_key(|(length, _)| *length)
                .map(|(_, name)| name)
        };
        longest(&suffix).or_else(|| longest(&prefix))
    }

    proptest! {
        #[test]
        fn the_table_agrees_with_the_plain_model(
            candidates in proptest::collection::vec(
                r"(\*\.|\.|)([ab]{1,2}\.){0,2}[ab]{1,2}|([ab]{1,2}\.){1,3}\*", 0..12),
            hosts in proptest::collection::vec(r"\.?([ab]{1,2}\.){0,3}[ab]{0,2}", 1..20),
        ) {
            let mut table = HostTable::new();
            let mut names: Vec<&str> = Vec::new();
            for name in &candidates {
                if table.insert(name.as_bytes(), name.as_str()).is_ok() {
                    names.push(name);
                }
            }
            for host in &hosts {
                let found = table.get(host.as_bytes()).copied();
                prop_assert_eq!(found, model(&names, host), "{} in {:?}", host, &names);
            }
        }

        #[test]
        fn adding_never_panics(
            name in proptest::collection::vec(any::<u8>(), 0..10),
            text in r"[*.a]{0,6}",
        ) {
            let mut table = HostTable::new();
            let _ = table.insert(&name, ());
            let _ = table.insert(text.as_bytes(), ());
            table.get(text.as_bytes());
        }
    }
}
