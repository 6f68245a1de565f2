//! What rustls says of a handshake only to those it calls while it goes on.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::server::ClientHello;
use rustls::sign::{Signer, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};

/// Notes about one handshake.
#[derive(Clone, Debug, Default)]
pub struct Notes {
    /// The numbers of the cipher suites that the client offers.
    pub suites: Box<[u16]>,
    /// The numbers of the groups for key exchange that it offers.
    pub groups: Box<[u16]>,
    /// What we have signed with; `None` if we have not, as in a resumed session.
    pub signature: Option<SignatureScheme>,
    /// What the peer has signed with.
    pub peer_signature: Option<SignatureScheme>,
}

thread_local! {
    /// About the handshake that this thread is at.
    static NOTES: RefCell<Notes> = RefCell::default();
}

/// Lets a handshake go on, with its own notes.
pub fn keeping<T>(notes: &mut Notes, step: impl FnOnce() -> T) -> T {
    let swap = |notes: &mut Notes| NOTES.with_borrow_mut(|own| std::mem::swap(own, notes));
    swap(notes);
    let result = step();
    swap(notes);
    result
}

/// Notes what a client offers.
pub fn offered(hello: &ClientHello<'_>) {
    let suites = hello.cipher_suites().iter().map(|suite| u16::from(*suite));
    let groups = hello.named_groups().unwrap_or_default();
    NOTES.with_borrow_mut(|notes| {
        notes.suites = suites.collect();
        notes.groups = groups.iter().map(|group| u16::from(*group)).collect();
    });
}

/// Notes what a peer has signed with.
pub fn signed_by_peer(scheme: SignatureScheme) {
    NOTES.with_borrow_mut(|notes| notes.peer_signature = Some(scheme));
}

/// A key that notes what is signed with it.
pub struct Noting(pub Arc<dyn SigningKey>);

impl SigningKey for Noting {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let signer = self.0.choose_scheme(offered)?;
        Some(Box::new(NotingSigner(signer)))
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        self.0.public_key()
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl fmt::Debug for Noting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[derive(Debug)]
struct NotingSigner(Box<dyn Signer>);

impl Signer for NotingSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        NOTES.with_borrow_mut(|notes| notes.signature = Some(self.0.scheme()));
        self.0.sign(message)
    }

    fn scheme(&self) -> SignatureScheme {
        self.0.scheme()
    }
}
