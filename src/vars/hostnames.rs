//! Host names with wildcards: exact, `*.example.com`, `.example.com`, `www.example.*`.

use std::collections::HashMap;
use std::fmt;

use crate::base::hash::FastHasher;

/// Values by host name, as `server_name` and `map … { hostnames; }` look them up: the exact name first, then the longest wildcard at
/// the front, then the longest wildcard at the end. Looking up costs one hash per label of the host at most.
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

    /// Whether there is any wildcard.
    pub fn has_wildcards(&self) -> bool {
        !self.leading.is_empty() || !self.trailing.is_empty()
    }

    fn exact(&self, host: &[u8]) -> Option<&usize> {
        if self.exact.is_empty() {
            None
        } else {
            self.exact.get(host)
        }
    }

    /// The first dot gives the longest suffix. The wildcard stands for one byte at least.
    fn leading(&self, host: &[u8]) -> Option<&usize> {
        if self.leading.is_empty() {
            return None;
        }
        memchr::memchr_iter(b'.', host)
            .filter(|dot| *dot > 0)
            .find_map(|dot| self.leading.get(&host[dot..]))
    }

    /// The last dot gives the longest prefix.
    fn trailing(&self, host: &[u8]) -> Option<&usize> {
        if self.trailing.is_empty() {
            return None;
        }
        memchr::memrchr_iter(b'.', host)
            .filter(|dot| dot + 1 < host.len())
            .find_map(|dot| self.trailing.get(&host[..=dot]))
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
            return (stars == 0).then_some(Self::Both(name));
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
