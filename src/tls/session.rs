//! Resuming sessions: tickets that clients keep, and caches that servers keep.
//!
//! Keys and caches belong to the process, not to a configuration or a worker, so that a session
//! made before a reload, or with another worker, is resumed. Every session belongs to a context, a
//! hash of what the server demands of its clients: one that a server would not have made cannot be
//! resumed there.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{digest, rand};
use rustls::server::{ProducesTickets, StoresServerSessions};

use crate::base::clock;

/// What a server demands of its clients, in short.
pub type Context = [u8; 16];

/// A random key encrypts tickets for this long …
const KEY_ROTATION_SECS: u64 = 3600;
/// … and so many older ones still decrypt them.
const OLD_KEYS_MAX: usize = 24;

const NAME_LEN: usize = 16;
const TIME_LEN: usize = 8;

/// A key that encrypts tickets, and its name in them.
pub struct TicketKey {
    name: [u8; NAME_LEN],
    key: LessSafeKey,
    born_secs: u64,
}

/// Makes and takes tickets for the servers of one context.
pub struct Tickets {
    context: Context,
    lifetime_secs: u64,
    /// From files; empty for the process's own.
    fixed: Vec<TicketKey>,
}

impl TicketKey {
    /// From the content of an `ssl_session_ticket_key` file: a name and a secret.
    pub fn from_file(content: &[u8]) -> Option<TicketKey> {
        let (name, secret) = content.split_at_checked(NAME_LEN)?;
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(b"ringway session ticket");
        hash.update(secret);
        TicketKey::new(name.try_into().ok()?, hash.finish().as_ref())
    }

    fn random() -> Option<TicketKey> {
        let (mut name, mut secret) = ([0; NAME_LEN], [0; 32]);
        rand::fill(&mut name).ok()?;
        rand::fill(&mut secret).ok()?;
        TicketKey::new(name, &secret)
    }

    fn new(name: [u8; NAME_LEN], secret: &[u8]) -> Option<TicketKey> {
        let key = UnboundKey::new(&aead::AES_256_GCM, secret).ok()?;
        Some(TicketKey {
            name,
            key: LessSafeKey::new(key),
            born_secs: now_secs(),
        })
    }

    /// A ticket: the key's name, a nonce, and sealed the time and the session.
    fn seal(&self, context: &Context, session: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; aead::NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let mut sealed = Vec::with_capacity(TIME_LEN + session.len() + aead::MAX_TAG_LEN);
        sealed.extend_from_slice(&now_secs().to_be_bytes());
        sealed.extend_from_slice(session);
        let (at, aad) = (Nonce::assume_unique_for_key(nonce), Aad::from(context));
        self.key
            .seal_in_place_append_tag(at, aad, &mut sealed)
            .ok()?;
        Some([&self.name[..], &nonce, &sealed].concat())
    }

    /// The time a ticket was made, and the session in it.
    fn open(&self, context: &Context, ticket: &[u8]) -> Option<(u64, Vec<u8>)> {
        let (nonce, sealed) = ticket[NAME_LEN..].split_at_checked(aead::NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut plain = sealed.to_vec();
        let length = self
            .key
            .open_in_place(nonce, Aad::from(context), &mut plain)
            .ok()?
            .len();
        plain.truncate(length);
        let time = u64::from_be_bytes(plain.get(..TIME_LEN)?.try_into().ok()?);
        plain.drain(..TIME_LEN);
        Some((time, plain))
    }
}

impl Tickets {
    /// Tickets that are taken for `lifetime`, encrypted with the first of `fixed` or, if there is
    /// none, with random keys of the process.
    pub fn new(context: Context, lifetime: Duration, fixed: Vec<TicketKey>) -> Tickets {
        Tickets {
            context,
            lifetime_secs: lifetime.as_secs(),
            fixed,
        }
    }

    fn opened(&self, keys: &[impl AsRef<TicketKey>], ticket: &[u8]) -> Option<(u64, Vec<u8>)> {
        let name = ticket.get(..NAME_LEN)?;
        let mut keys = keys.iter().map(AsRef::as_ref);
        let key = keys.find(|key| key.name == name)?;
        key.open(&self.context, ticket)
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(self.lifetime_secs).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        match self.fixed.first() {
            Some(key) => key.seal(&self.context, plain),
            None => process_keys().first()?.seal(&self.context, plain),
        }
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (made, session) = if self.fixed.is_empty() {
            self.opened(&process_keys(), ticket)?
        } else {
            self.opened(&self.fixed, ticket)?
        };
        (now_secs().saturating_sub(made) <= self.lifetime_secs).then_some(session)
    }
}

impl AsRef<TicketKey> for TicketKey {
    fn as_ref(&self) -> &TicketKey {
        self
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tickets({} keys)", self.fixed.len())
    }
}

/// The random keys of the process, the newest first.
fn process_keys() -> Arc<Vec<Arc<TicketKey>>> {
    static KEYS: LazyLock<ArcSwap<Vec<Arc<TicketKey>>>> = LazyLock::new(ArcSwap::default);
    let keys = KEYS.load_full();
    let is_current = |key: &Arc<TicketKey>| now_secs() < key.born_secs + KEY_ROTATION_SECS;
    if keys.first().is_some_and(is_current) {
        return keys;
    }
    let Some(new) = TicketKey::random().map(Arc::new) else {
        return keys;
    };
    KEYS.rcu(|keys| {
        if keys.first().is_some_and(is_current) {
            return Arc::clone(keys);
        }
        let old = keys.iter().take(OLD_KEYS_MAX).cloned();
        Arc::new(std::iter::once(Arc::clone(&new)).chain(old).collect())
    });
    KEYS.load_full()
}

fn now_secs() -> u64 {
    clock::wall().secs.max(0) as u64
}

/// A part of a cache that has its own lock.
#[derive(Default)]
struct Shard {
    sessions: HashMap<Box<[u8]>, Session>,
    /// Keys in the order they came; those taken since are still in it.
    order: VecDeque<Box<[u8]>>,
    bytes: usize,
}

struct Session {
    expires_ms: u64,
    value: Vec<u8>,
}

/// What the tables cost for each session, in bytes.
const OVERHEAD: usize = 160;

const SHARDS: usize = 16;

/// `ssl_session_cache shared:name:size` or `builtin:sessions`: sessions by their ids.
struct Store {
    /// Locked twice by a handshake that asks for a session or leaves one, never by a request; with
    /// so many parts two workers seldom meet.
    shards: [Mutex<Shard>; SHARDS],
    bytes_max: usize,
}

/// The sessions of one context in a cache of the process.
pub struct Cache {
    context: Context,
    lifetime_ms: u64,
    store: Arc<Store>,
}

impl Cache {
    /// The cache of the process with this name and size in bytes.
    pub fn named(name: &[u8], bytes: u64, context: Context, lifetime: Duration) -> Cache {
        type Stores = Mutex<HashMap<(Box<[u8]>, u64), Arc<Store>>>;
        static STORES: LazyLock<Stores> = LazyLock::new(Mutex::default);
        let mut stores = STORES.lock().unwrap_or_else(PoisonError::into_inner);
        let store = stores.entry((name.into(), bytes)).or_insert_with(|| {
            Arc::new(Store {
                shards: Default::default(),
                bytes_max: usize::try_from(bytes).unwrap_or(usize::MAX) / SHARDS,
            })
        });
        Cache {
            context,
            lifetime_ms: u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX),
            store: Arc::clone(store),
        }
    }

    /// Keeps a value for a time of its own.
    pub fn keep(&self, id: &[u8], value: Vec<u8>, lifetime_ms: u64) -> bool {
        let session = Session {
            expires_ms: clock::now_ms().saturating_add(lifetime_ms),
            value,
        };
        let bytes_max = self.store.bytes_max;
        self.with(id, |shard, key| shard.put(key, session, bytes_max))
    }

    /// Works on the part of the cache that a session with this id is in.
    fn with<R>(&self, id: &[u8], act: impl FnOnce(&mut Shard, Box<[u8]>) -> R) -> R {
        let key: Box<[u8]> = [&self.context[..], id].concat().into();
        let at = usize::from(id.last().copied().unwrap_or(0)) % SHARDS;
        let shard = &self.store.shards[at];
        act(
            &mut shard.lock().unwrap_or_else(PoisonError::into_inner),
            key,
        )
    }
}

impl Shard {
    fn put(&mut self, key: Box<[u8]>, session: Session, bytes_max: usize) -> bool {
        let size = key.len() + session.value.len() + OVERHEAD;
        if size > bytes_max {
            return false;
        }
        self.take(&key);
        while self.bytes + size > bytes_max || self.order.len() > self.sessions.len() * 2 + 64 {
            let Some(oldest) = self.order.pop_front() else {
                break;
            };
            self.take(&oldest);
        }
        self.bytes += size;
        self.order.push_back(key.clone());
        self.sessions.insert(key, session);
        true
    }

    fn take(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        let session = self.sessions.remove(key)?;
        self.bytes -= key.len() + session.value.len() + OVERHEAD;
        (clock::now_ms() < session.expires_ms).then_some(session.value)
    }
}

impl StoresServerSessions for Cache {
    fn put(&self, id: Vec<u8>, value: Vec<u8>) -> bool {
        self.keep(&id, value, self.lifetime_ms)
    }

    fn get(&self, id: &[u8]) -> Option<Vec<u8>> {
        self.with(id, |shard, key| {
            let session = shard.sessions.get(&key)?;
            (clock::now_ms() < session.expires_ms).then(|| session.value.clone())
        })
    }

    fn take(&self, id: &[u8]) -> Option<Vec<u8>> {
        self.with(id, |shard, key| shard.take(&key))
    }

    fn can_cache(&self) -> bool {
        true
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cache({} bytes)", self.store.bytes_max * SHARDS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_ticket_is_of_use_in_its_context_alone() {
        let own = Tickets::new([1; 16], HOUR, Vec::new());
        let ticket = own.encrypt(b"session").unwrap();
        assert_eq!(own.decrypt(&ticket).unwrap(), b"session");
        // As after a reload.
        let again = Tickets::new([1; 16], HOUR, Vec::new());
        assert_eq!(again.decrypt(&ticket).unwrap(), b"session");
        let other = Tickets::new([2; 16], HOUR, Vec::new());
        assert_eq!(other.decrypt(&ticket), None);
        let mut damaged = ticket.clone();
        *damaged.last_mut().unwrap() ^= 1;
        assert_eq!(own.decrypt(&damaged), None);
        for end in 0..ticket.len() {
            assert_eq!(own.decrypt(&ticket[..end]), None);
        }
    }

    #[test]
    fn keys_from_files_are_shared_and_rolled() {
        let key = |byte: u8| TicketKey::from_file(&[byte; 80]).unwrap();
        let first = Tickets::new([0; 16], HOUR, vec![key(1)]);
        let rolled = Tickets::new([0; 16], HOUR, vec![key(2), key(1)]);
        let ticket = first.encrypt(b"session").unwrap();
        assert_eq!(rolled.decrypt(&ticket).unwrap(), b"session");
        assert_eq!(first.decrypt(&rolled.encrypt(b"x").unwrap()), None);
        assert!(TicketKey::from_file(b"short").is_none());
    }

    #[test]
    fn a_cache_is_bounded_and_outlives_its_configuration() {
        let cache = |context| Cache::named(b"test", 64 << 10, [context; 16], HOUR);
        let first = cache(1);
        assert!(first.put(b"a".to_vec(), b"session".to_vec()));
        assert_eq!(cache(1).get(b"a").unwrap(), b"session");
        assert_eq!(cache(2).get(b"a"), None);
        assert_eq!(first.take(b"a").unwrap(), b"session");
        assert_eq!(first.take(b"a"), None);
        for number in 0..10_000_u32 {
            assert!(first.put(number.to_le_bytes().to_vec(), vec![0; 100]));
        }
        let shards = first.store.shards.iter().map(|shard| {
            let shard = shard.lock().unwrap();
            assert!(shard.order.len() <= shard.sessions.len() * 2 + 65);
            shard.bytes
        });
        assert!(shards.sum::<usize>() <= 64 << 10);
        assert!(!first.put(b"b".to_vec(), vec![0; 64 << 10]));
    }
}
