//! Certificates with their keys, and the choice among those of a server.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::key;
use super::notes::{self, Noting};
use super::ocsp::Staple;
use super::x509::Certificate;

/// The most that is read of a PEM file, in bytes; the bundle of all public authorities has 250 KB.
const PEM_MAX: u64 = 8 << 20;

/// Why a certificate and its key cannot be used: which of the two files it is about, and the end of
/// a sentence.
#[derive(Debug, PartialEq, Eq)]
pub enum Problem {
    /// The file of the certificate.
    Certificate(String),
    /// The file of the key.
    Key(String),
}

/// Reads a file in PEM.
///
/// # Errors
/// What the system reported.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(PEM_MAX).read_to_end(&mut text)?;
    Ok(text)
}

/// The certificates in a PEM text, in their order.
///
/// # Errors
/// What is wrong with it, as the end of a sentence.
pub fn parse(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let sections = pem::parse_many(text).map_err(|error| error.to_string())?;
    let mut found = Vec::new();
    for section in sections {
        let is_one = matches!(
            section.tag(),
            "CERTIFICATE" | "X509 CERTIFICATE" | "TRUSTED CERTIFICATE"
        );
        if !is_one {
            continue;
        }
        let mut der = section.into_contents();
        // What OpenSSL puts behind a trusted one is not part of it.
        let whole = super::der::Reader::new(&der).next().map(|v| v.whole.len());
        der.truncate(whole.unwrap_or(0));
        if Certificate::parse(&der).is_none() {
            return Err(format!("certificate {} in it is damaged", found.len() + 1));
        }
        found.push(CertificateDer::from(der));
    }
    if found.is_empty() {
        return Err("no \"-----BEGIN CERTIFICATE-----\" in it".into());
    }
    Ok(found)
}

/// The certificate and chain in one PEM text with the key in another, checked to belong together.
/// Certificates of any version will do, and whatever names they have.
///
/// # Errors
/// Which of the two is wrong, and why.
pub fn certified(
    chain: &[u8],
    key: &[u8],
    passphrases: &[Vec<u8>],
    provider: &CryptoProvider,
) -> Result<CertifiedKey, Problem> {
    let chain = parse(chain).map_err(Problem::Certificate)?;
    let key = key::parse(key, passphrases).map_err(Problem::Key)?;
    let key = provider
        .key_provider
        .load_private_key(key)
        .map_err(|_| Problem::Key("this kind of key is not supported".into()))?;
    let leaf = Certificate::parse(&chain[0]).expect("parsed before");
    let public = key.public_key();
    let own = public.as_ref().and_then(|info| public_bits(info));
    if own.is_some_and(|own| own != leaf.key) {
        return Err(Problem::Key("it is not the key of the certificate".into()));
    }
    Ok(CertifiedKey::new(chain, Arc::new(Noting(key))))
}

/// The public key in a `SubjectPublicKeyInfo`.
fn public_bits(info: &[u8]) -> Option<&[u8]> {
    let mut info = super::der::Reader::new(info).sequence()?;
    info.sequence()?;
    info.expect(super::der::BIT_STRING)?.bits()
}

/// The certificates of a server: at most one of each kind of key is of use.
pub struct Certificates {
    /// With their keys.
    pub own: Vec<Arc<CertifiedKey>>,
    /// The OCSP response for each of them, where one is asked for.
    pub staples: Vec<Option<Arc<Staple>>>,
}

impl Certificates {
    /// The first that can sign as the client likes best. A client that likes none of them gets the
    /// first one, and the handshake fails.
    fn choose(&self, hello: &ClientHello<'_>) -> usize {
        if self.own.len() == 1 {
            return 0;
        }
        let mut schemes = hello.signature_schemes().iter();
        let found = schemes.find_map(|scheme| {
            let mut all = self.own.iter();
            all.position(|own| own.key.choose_scheme(&[*scheme]).is_some())
        });
        found.unwrap_or(0)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        notes::offered(&hello);
        let chosen = self.choose(&hello);
        let staple = self.staples.get(chosen).and_then(Option::as_ref);
        let with_response = staple.and_then(|staple| staple.current());
        with_response.or_else(|| self.own.get(chosen).cloned())
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificates({})", self.own.len())
    }
}
