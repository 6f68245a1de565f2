//! A client's side of TLS: its settings, compiled, and the handshake as bytes in and out.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use aws_lc_rs::digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, ResolvesClientCert, Resumption, UnbufferedClientConnection};
use rustls::crypto::{SupportedKxGroup, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme,
    SupportedCipherSuite,
};

use super::handshake::{self, Established, Progress, Session, Unread};
use super::host;
use super::key_log::SecretsTo;
use super::record::{Keys, PLAIN_MAX, Records};
use super::resume::{Key, Sessions, Store};
use super::server::{algorithms, provider_with, verify_signature, versions};
use super::verify::{Failure, Trust};
use super::x509::{self, Certificate};

/// What a client offers its servers and demands of them.
pub struct ClientSettings {
    /// Whether TLS 1.2 is spoken.
    pub tls12: bool,
    /// Whether TLS 1.3 is spoken.
    pub tls13: bool,
    /// Suites of both versions, in order of preference.
    pub suites: Vec<SupportedCipherSuite>,
    /// Groups for key exchange, in order of preference.
    pub groups: Vec<&'static dyn SupportedKxGroup>,
    /// Protocols for ALPN, in order of preference; none for no ALPN.
    pub alpn: Vec<Vec<u8>>,
    /// Our certificate, for servers that ask for one.
    pub certificate: Option<Arc<CertifiedKey>>,
    /// Who may have signed a server's certificate. `None`: any certificate will do.
    pub trust: Option<Trust>,
    /// Sessions are resumed.
    pub resumes: bool,
    /// Where the secrets of each connection are written to, in NSS's format.
    pub key_log: Option<std::fs::File>,
}

/// A client's side of TLS, for any number of connections.
///
/// Two that are made of the same settings are one ([`Client::new`]), so that sessions and
/// connections outlive a reload.
pub struct Client {
    config: ClientConfig,
    sessions: Option<Arc<Sessions>>,
    verifies: bool,
}

/// Whom a handshake is with.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The server's name, which its certificate must be for where certificates are verified.
    pub name: &'a [u8],
    /// Whether the server is told the name (SNI). It is not told addresses.
    pub tells_name: bool,
    /// A number of the peer, to which its sessions belong.
    pub peer: u64,
}

/// Why there is no connection. `Display` is nginx's message.
#[derive(Debug)]
pub enum Refused {
    /// The server's certificate is not valid.
    Certificate(Failure),
    /// The server's certificate is for others than this name.
    Name(Box<str>),
    /// One of us has found something else wrong.
    Tls(Error),
}

/// A handshake under way.
pub struct ClientHandshake {
    conn: Box<UnbufferedClientConnection>,
    name: Box<[u8]>,
    verifies: bool,
    unread: Unread,
}

/// What stands for a name that the server is not told.
const NAMELESS: &str = "nameless.invalid";

impl Default for ClientSettings {
    fn default() -> Self {
        let mut suites = super::cipher::all_suites13();
        suites.extend(super::cipher::suites("DEFAULT").items);
        ClientSettings {
            tls12: true,
            tls13: true,
            suites,
            groups: super::cipher::default_groups(),
            alpn: Vec::new(),
            certificate: None,
            trust: None,
            resumes: true,
            key_log: None,
        }
    }
}

impl ClientSettings {
    /// What tells clients apart.
    fn digest(&self) -> [u8; 32] {
        let mut hash = digest::Context::new(&digest::SHA256);
        let mut add = |part: &[u8]| {
            hash.update(&(part.len() as u64).to_be_bytes());
            hash.update(part);
        };
        add(&[self.tls12.into(), self.tls13.into(), self.resumes.into()]);
        for suite in &self.suites {
            add(&u16::from(suite.suite()).to_be_bytes());
        }
        add(b"groups");
        for group in &self.groups {
            add(&u16::from(group.name()).to_be_bytes());
        }
        add(b"alpn");
        self.alpn.iter().for_each(|name| add(name));
        add(b"certificate");
        for der in self.certificate.iter().flat_map(|own| &own.cert) {
            add(der);
        }
        if let Some(trust) = &self.trust {
            add(b"trust");
            add(&trust.depth.to_be_bytes());
            trust.authorities.iter().for_each(|der| add(der));
            for list in trust.revoked.iter().flatten() {
                add(list.signed());
            }
            add(&[trust.revoked.is_some().into()]);
        }
        let mut key = [0; 32];
        key.copy_from_slice(hash.finish().as_ref());
        key
    }
}

impl Client {
    /// The client with these settings: the one that there is already, if somebody uses it, so that
    /// a reload that changes nothing about it leaves it as it is.
    ///
    /// # Errors
    /// The versions and suites do not go together.
    pub fn new(settings: ClientSettings) -> Result<Arc<Client>, Error> {
        type Known = Mutex<HashMap<[u8; 32], Weak<Client>>>;
        static KNOWN: LazyLock<Known> = LazyLock::new(Mutex::default);
        if settings.key_log.is_some() {
            return Client::build(settings).map(Arc::new);
        }
        let key = settings.digest();
        // Locked while a configuration is read, never by a connection.
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = known.get(&key).and_then(Weak::upgrade) {
            return Ok(client);
        }
        known.retain(|_, client| client.strong_count() > 0);
        let client = Arc::new(Client::build(settings)?);
        known.insert(key, Arc::downgrade(&client));
        Ok(client)
    }

    fn build(settings: ClientSettings) -> Result<Client, Error> {
        let provider = provider_with(settings.suites, settings.groups);
        let versions = versions(settings.tls12, settings.tls13);
        let verifies = settings.trust.is_some();
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier {
                trust: settings.trust,
                algorithms: algorithms(),
            }))
            .with_client_cert_resolver(Arc::new(Own(settings.certificate)));
        config.alpn_protocols = settings.alpn;
        config.enable_secret_extraction = true;
        config.resumption = Resumption::disabled();
        if let Some(file) = settings.key_log {
            config.key_log = Arc::new(SecretsTo(file));
        }
        Ok(Client {
            config,
            sessions: settings.resumes.then(Arc::default),
            verifies,
        })
    }

    /// The same with this certificate. Its sessions are not resumed.
    pub fn with_certificate(&self, certificate: Arc<CertifiedKey>) -> Client {
        let mut config = self.config.clone();
        config.client_auth_cert_resolver = Arc::new(Own(Some(certificate)));
        Client {
            config,
            sessions: None,
            verifies: self.verifies,
        }
    }
}

impl ClientHandshake {
    /// Begins a handshake. [`ClientHandshake::advance`] has what is to be sent first.
    ///
    /// # Errors
    /// The settings are of no use.
    pub fn new(client: &Client, target: Target<'_>) -> Result<ClientHandshake, Refused> {
        let told = told_name(target);
        let mut config = client.config.clone();
        config.enable_sni = told.is_some();
        if let Some(sessions) = &client.sessions {
            let key = Key::new(target.peer, told.is_some(), target.name);
            config.resumption = Resumption::store(Arc::new(Store::new(sessions, key)));
        }
        let name = match told {
            Some(name) => name,
            None => ServerName::try_from(NAMELESS).map_err(|_| Error::UnsupportedNameType)?,
        };
        let conn = UnbufferedClientConnection::new(Arc::new(config), name)?;
        Ok(ClientHandshake {
            conn: Box::new(conn),
            name: target.name.into(),
            verifies: client.verifies,
            unread: Unread::default(),
        })
    }

    /// Goes on with what was received: takes from `input` what it has used, and appends to `out`
    /// what is to be sent, an alert on failure included.
    ///
    /// # Errors
    /// The handshake has failed.
    pub fn advance(&mut self, input: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<Progress, Refused> {
        let progress = handshake::drive(&mut self.conn, &mut self.unread, input, out)?;
        if progress == Progress::Done && self.verifies {
            self.check_name()?;
        }
        Ok(progress)
    }

    /// Whether the server's certificate, or that of the session that was resumed, is for the name.
    fn check_name(&self) -> Result<(), Refused> {
        let certificates = self.conn.peer_certificates().unwrap_or_default();
        let own = certificates.first().and_then(|der| Certificate::parse(der));
        match own {
            Some(own) if host::is_for(&own, &self.name) => Ok(()),
            _ => {
                let name = String::from_utf8_lossy(&self.name);
                Err(Refused::Name(name.into()))
            }
        }
    }

    /// Leaves the handshake when it is done. What is left in the `input` of
    /// [`ClientHandshake::advance`] goes to [`Records::open`].
    ///
    /// # Errors
    /// It is not done.
    pub fn finish(self) -> Result<Established, Refused> {
        let name = String::from_utf8_lossy(&self.name);
        let session = Session::of(&self.conn, name.into())?;
        let (secrets, keys) = self.conn.dangerous_into_kernel_connection()?;
        let keys = Keys::Client(Box::new(keys));
        let records = Records::new(secrets, keys, PLAIN_MAX)?;
        Ok(Established::new(records, session, self.unread))
    }
}

/// The name as the server is told it, if it is.
fn told_name(target: Target<'_>) -> Option<ServerName<'static>> {
    let name = std::str::from_utf8(target.name).ok();
    let name = name.filter(|_| target.tells_name)?;
    match ServerName::try_from(name) {
        Ok(name @ ServerName::DnsName(_)) => Some(name.to_owned()),
        _ => None,
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        if let Error::InvalidCertificate(CertificateError::Other(OtherError(other))) = &error
            && let Some(Invalid(failure)) = other.downcast_ref()
        {
            return Refused::Certificate(*failure);
        }
        Refused::Tls(error)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Certificate(failure) => {
                let (number, reason) = (failure.number(), failure.reason());
                write!(
                    f,
                    "upstream SSL certificate verify error: ({number}:{reason})"
                )
            }
            Refused::Name(name) => {
                write!(f, "upstream SSL certificate does not match \"{name}\"")
            }
            Refused::Tls(error) => write!(f, "SSL_do_handshake() failed (SSL: {error})"),
        }
    }
}

/// A failure on its way through rustls.
#[derive(Debug)]
struct Invalid(Failure);

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.reason())
    }
}

impl StdError for Invalid {}

/// Decides about certificates of servers while the handshake is made, so that nobody who is not
/// trusted is told who we are, or leaves a session.
struct Verifier {
    trust: Option<Trust>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = match &self.trust {
            None => Certificate::parse(own).map(drop).ok_or(Failure::Damaged),
            Some(trust) => {
                let chain: Vec<_> = std::iter::once(own).chain(others).cloned().collect();
                trust.verify(&chain, x509::SERVER_AUTH, now)
            }
        };
        match verified {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(failure) => {
                Err(CertificateError::Other(OtherError(Arc::new(Invalid(failure)))).into())
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature(&self.algorithms, message, own, signature, false)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_signature(&self.algorithms, message, own, signature, true)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verifier({})", self.trust.is_some())
    }
}

/// Our certificate. A server that asks for one gets it, whatever authorities it names.
struct Own(Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for Own {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Own({})", self.0.is_some())
    }
}

#[cfg(test)]
mod tests;
