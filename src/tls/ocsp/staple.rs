//! The OCSP response that goes with a certificate in handshakes (RFC 6066, 8).

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use arc_swap::ArcSwapOption;
use aws_lc_rs::digest;
use rustls::sign::CertifiedKey;

use super::Inquiry;
use crate::base::clock;

/// The response of the moment. Handshakes read it without a lock; somebody else puts new ones here.
#[derive(Default)]
pub struct Staple {
    current: ArcSwapOption<Current>,
}

/// A certificate whose OCSP response is to be kept up to date.
#[derive(Clone)]
pub struct Kept {
    /// Where the response goes.
    pub staple: Arc<Staple>,
    /// The certificate with its key.
    pub own: Arc<CertifiedKey>,
    /// What is asked.
    pub inquiry: Inquiry,
}

struct Current {
    own: Arc<CertifiedKey>,
    /// In seconds since 1970.
    until: i64,
}

impl Staple {
    /// The one for a certificate, which outlives the configuration it is in: `identity` is all that
    /// responses depend on.
    pub fn of(identity: &[&[u8]]) -> Arc<Staple> {
        type Known = Mutex<HashMap<Vec<u8>, Weak<Staple>>>;
        static KNOWN: LazyLock<Known> = LazyLock::new(Mutex::default);
        let mut hash = digest::Context::new(&digest::SHA256);
        for part in identity {
            hash.update(&(part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let key = hash.finish().as_ref().to_vec();
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(staple) = known.get(&key).and_then(Weak::upgrade) {
            return staple;
        }
        known.retain(|_, staple| staple.strong_count() > 0);
        let staple = Arc::<Staple>::default();
        known.insert(key, Arc::downgrade(&staple));
        staple
    }

    /// Takes a response for a certificate that holds until then, in seconds since 1970.
    pub fn put(&self, own: &CertifiedKey, response: Vec<u8>, until: i64) {
        let own = CertifiedKey {
            ocsp: Some(response),
            ..own.clone()
        };
        let own = Arc::new(own);
        self.current.store(Some(Arc::new(Current { own, until })));
    }

    /// The certificate with its response, if there is one that holds.
    pub fn current(&self) -> Option<Arc<CertifiedKey>> {
        let current = self.current.load();
        let current = current.as_ref()?;
        (clock::wall().secs <= current.until).then(|| Arc::clone(&current.own))
    }
}

impl fmt::Debug for Staple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Staple")
            .field(&self.current().is_some())
            .finish()
    }
}
