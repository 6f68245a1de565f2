//! The compiled form of the `ssl_…` directives of a server.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use rustls::sign::CertifiedKey;

use super::directives::{Raw, Zone};
use super::{Dynamic, Ocsp};
use crate::config::{ConfigError, Result, Span};
use crate::tls::{self, ocsp::Kept};

/// The choices of `ssl_verify_client`, in the order of [`Verify`].
pub const VERIFY: [&str; 4] = ["off", "on", "optional", "optional_no_ca"];

/// The choices of `ssl_ocsp`.
pub const OCSP: [&str; 3] = ["off", "on", "leaf"];

/// The names in `ssl_protocols`, in the order of the bits of [`Protocols`].
pub const PROTOCOLS: [&str; 6] = ["SSLv2", "SSLv3", "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"];

/// How a server speaks TLS.
pub struct Conf<S: 'static> {
    /// Its side of a handshake; `None` without a certificate (nor `ssl_reject_handshake`).
    pub server: Option<Arc<tls::Server>>,
    /// `ssl_verify_client`
    pub verify: Verify,
    /// Its certificates, if variables name them; [`Conf::server`] has none then.
    pub dynamic: Option<Dynamic<S>>,
    /// `ssl_ocsp`
    pub ocsp: Option<Ocsp>,
    /// The certificates that `ssl_stapling` wants OCSP responses for, which somebody has to fetch.
    pub stapled: Vec<Kept>,
}

/// A set of versions: bits in the order of [`PROTOCOLS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Protocols(u8);

/// `ssl_verify_client`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    /// No certificate is asked for.
    #[default]
    Off,
    /// A valid one is required.
    On,
    /// It is asked for, and valid if it is there.
    Optional,
    /// It is asked for, and somebody else looks who signed it.
    OptionalNoCa,
}

/// What the servers of a configuration have in common.
#[derive(Default)]
pub struct Common {
    /// The shared zones: one name has one size.
    zones: Vec<Zone>,
    /// Certificates with keys that were loaded, by their files.
    pub(super) certificates: HashMap<(PathBuf, PathBuf), Arc<CertifiedKey>>,
    /// Where something was written that has been remarked upon.
    pub(super) remarked: HashSet<Span>,
}

impl<S> Default for Conf<S> {
    fn default() -> Self {
        Conf {
            server: None,
            verify: Verify::Off,
            dynamic: None,
            ocsp: None,
            stapled: Vec::new(),
        }
    }
}

impl<S> Conf<S> {
    /// What counts for a handshake: this, or the `default` server's if nothing is said here.
    pub fn or<'c>(&'c self, default: &'c Conf<S>) -> &'c Conf<S> {
        match self.server {
            Some(_) => self,
            None => default,
        }
    }
}

/// Whether there is a certificate for every handshake with an address that is not refused:
/// `default` is of its default server, `all` of each behind it. `span` is where `ssl` is written.
///
/// # Errors
/// nginx's, if there is none.
pub fn check_listen<'c, S>(
    default: &Conf<S>,
    mut all: impl Iterator<Item = &'c Conf<S>>,
    span: Span,
) -> Result<()> {
    let is_complete = match &default.server {
        Some(default) if default.reject => all.all(|conf| conf.server.is_some()),
        default => default.is_some(),
    };
    if is_complete {
        return Ok(());
    }
    let message = "no \"ssl_certificate\" is defined for the \"listen ... ssl\" directive";
    Err(ConfigError::at(span, message))
}

impl Protocols {
    /// TLS 1.2 and 1.3.
    pub const DEFAULT: Protocols = Protocols(0b11_0000);

    /// The version with this name, in a set of its own.
    pub fn named(name: &[u8]) -> Option<Protocols> {
        let is_it = |known: &&str| known.as_bytes().eq_ignore_ascii_case(name);
        let at = PROTOCOLS.iter().position(is_it)?;
        Some(Protocols(1 << at))
    }

    /// Adds versions; false if they are there already.
    pub fn add(&mut self, other: Protocols) -> bool {
        let is_new = self.0 & other.0 != other.0;
        self.0 |= other.0;
        is_new
    }

    /// Takes away all versions but these.
    pub fn retain(&mut self, others: Protocols) {
        self.0 &= others.0;
    }

    /// Takes away versions.
    pub fn remove(&mut self, other: Protocols) {
        self.0 &= !other.0;
    }

    /// Whether all of these versions are in it.
    pub fn has(self, other: Protocols) -> bool {
        self.0 & other.0 == other.0
    }

    /// The versions from this one on.
    pub fn from(self) -> Protocols {
        Protocols(0b11_1111 & !(self.0 - 1))
    }

    /// The versions up to this one.
    pub fn up_to(self) -> Protocols {
        Protocols(self.0 | (self.0 - 1))
    }
}

impl Common {
    fn add(&mut self, zone: &Zone) -> Result<()> {
        match self.zones.iter().find(|known| known.name == zone.name) {
            Some(known) if known.size != zone.size => {
                let message = format!(
                    "the size {} of shared memory zone \"{}\" conflicts with already declared \
                     size {}",
                    zone.size,
                    String::from_utf8_lossy(&zone.name),
                    known.size
                );
                Err(ConfigError::at(zone.word.span, message))
            }
            Some(_) => Ok(()),
            None => {
                self.zones.push(zone.clone());
                Ok(())
            }
        }
    }
}

impl Raw {
    /// Adds the zones named here.
    ///
    /// # Errors
    /// A zone is there already with another size.
    pub fn declare_zones(&self, common: &mut Common) -> Result<()> {
        let mut named = self
            .shared_cache
            .iter()
            .chain(self.ocsp_cache.iter().flatten());
        named.try_for_each(|zone| common.add(zone))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_a_set() {
        let mut set = Protocols::default();
        assert!(set.add(Protocols::named(b"tlsv1.2").unwrap()));
        assert!(set.add(Protocols::named(b"TLSv1.3").unwrap()));
        assert!(!set.add(Protocols::named(b"TLSv1.3").unwrap()));
        assert_eq!(set, Protocols::DEFAULT);
        assert_eq!(Protocols::named(b"TLSv1.2").unwrap().from(), set);
        assert!(
            Protocols::named(b"TLSv1.2")
                .unwrap()
                .up_to()
                .has(Protocols(1))
        );
        set.remove(Protocols::named(b"TLSv1.3").unwrap());
        assert!(!set.has(Protocols::DEFAULT));
        assert_eq!(Protocols::named(b"TLSv1.4"), None);
    }
}
