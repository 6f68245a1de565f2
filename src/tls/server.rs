//! How a server speaks TLS: its settings, compiled.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, SupportedKxGroup, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ServerConfig};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    SupportedCipherSuite, SupportedProtocolVersion, version,
};

use super::cert::Certificates;
use super::key_log::SecretsTo;
use super::ocsp::Staple;
use super::session::{Cache, Tickets};
use super::verify::Trust;
use super::x509::Certificate;
use super::{cipher, notes};

/// What a server demands of its clients and offers them.
pub struct Settings {
    /// Certificates, one for each kind of key.
    pub certificates: Vec<Arc<CertifiedKey>>,
    /// OCSP responses for them that are fetched, in the same order; none for no stapling.
    pub staples: Vec<Option<Arc<Staple>>>,
    /// Whether TLS 1.2 is spoken.
    pub tls12: bool,
    /// Whether TLS 1.3 is spoken.
    pub tls13: bool,
    /// Suites of both versions, in order of preference.
    pub suites: Vec<SupportedCipherSuite>,
    /// Groups for key exchange, in order of preference.
    pub groups: Vec<&'static dyn SupportedKxGroup>,
    /// Our order of suites counts, not the client's.
    pub prefer_own: bool,
    /// Protocols for ALPN, in order of preference; none for no ALPN.
    pub alpn: Vec<Vec<u8>>,
    /// Clients are asked for a certificate.
    pub asks: bool,
    /// Who may have signed those, and how they are verified; `None` if they are not.
    pub trust: Option<Arc<Trust>>,
    /// The authorities that clients are told the names of.
    pub told: Vec<CertificateDer<'static>>,
    /// Sessions that clients keep.
    pub tickets: Option<Tickets>,
    /// Sessions that we keep.
    pub cache: Option<Cache>,
    /// Tickets sent after a handshake of TLS 1.3.
    pub ticket_count: usize,
    /// Bytes of early data that are taken, 0 for none.
    pub early_data_max: u32,
    /// Plain bytes of a record.
    pub record_max: usize,
    /// Where the secrets of each connection are written to.
    pub key_log: Option<std::fs::File>,
    /// Handshakes are refused.
    pub reject: bool,
}

/// A server's side of TLS, for any number of connections.
pub struct Server {
    /// For rustls.
    pub config: Arc<ServerConfig>,
    /// See [`Settings::trust`].
    pub trust: Option<Arc<Trust>>,
    /// See [`Settings::record_max`].
    pub record_max: usize,
    /// See [`Settings::reject`].
    pub reject: bool,
}

/// The cryptography that is used.
pub fn provider() -> CryptoProvider {
    aws_lc_rs::default_provider()
}

/// The same, limited to these suites and groups.
pub(super) fn provider_with(
    suites: Vec<SupportedCipherSuite>,
    groups: Vec<&'static dyn SupportedKxGroup>,
) -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: suites,
        kx_groups: groups,
        ..provider()
    })
}

/// The versions that are spoken, the newest first; never none.
static VERSIONS: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];

/// Those of [`VERSIONS`] that are asked for.
pub(super) fn versions(tls12: bool, tls13: bool) -> &'static [&'static SupportedProtocolVersion] {
    match (tls12, tls13) {
        (true, true) => &VERSIONS,
        (true, false) => &VERSIONS[1..],
        _ => &VERSIONS[..1],
    }
}

/// The algorithms of signatures that are taken.
pub fn algorithms() -> WebPkiSupportedAlgorithms {
    provider().signature_verification_algorithms
}

impl Server {
    /// Compiles the settings.
    ///
    /// # Errors
    /// The versions and suites do not go together.
    pub fn new(settings: Settings) -> Result<Server, Error> {
        let provider = provider_with(settings.suites, settings.groups);
        let versions = versions(settings.tls12, settings.tls13);
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)?
            .with_client_cert_verifier(Arc::new(Ask {
                asks: settings.asks,
                told: settings.told.iter().filter_map(subject).collect(),
                algorithms: algorithms(),
            }));
        let mut config = builder.with_cert_resolver(Arc::new(Certificates {
            own: settings.certificates,
            staples: settings.staples,
        }));
        config.ignore_client_order = settings.prefer_own;
        config.alpn_protocols = settings.alpn;
        config.enable_secret_extraction = true;
        config.send_tls13_tickets = settings.ticket_count;
        config.max_early_data_size = settings.early_data_max;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        if let Some(file) = settings.key_log {
            config.key_log = Arc::new(SecretsTo(file));
        }
        if let Some(cache) = settings.cache {
            config.session_storage = Arc::new(cache);
        }
        if let Some(tickets) = settings.tickets {
            config.ticketer = Arc::new(tickets);
        }
        Ok(Server {
            config: Arc::new(config),
            trust: settings.trust,
            record_max: settings.record_max,
            reject: settings.reject,
        })
    }
}

impl Server {
    /// The same with these protocols for ALPN, in order of preference.
    pub fn with_protocols(&self, alpn: &[&[u8]]) -> Server {
        let mut config = ServerConfig::clone(&self.config);
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Server {
            config: Arc::new(config),
            trust: self.trust.clone(),
            record_max: self.record_max,
            reject: self.reject,
        }
    }

    /// The same with these certificates.
    pub fn with_certificates(&self, certificates: Vec<Arc<CertifiedKey>>) -> Server {
        let mut config = ServerConfig::clone(&self.config);
        config.cert_resolver = Arc::new(Certificates {
            own: certificates,
            staples: Vec::new(),
        });
        Server {
            config: Arc::new(config),
            trust: self.trust.clone(),
            record_max: self.record_max,
            reject: self.reject,
        }
    }
}

fn subject(der: &CertificateDer<'static>) -> Option<DistinguishedName> {
    let subject = Certificate::parse(der)?.subject;
    let content = super::der::Reader::new(subject).next()?.content;
    Some(DistinguishedName::in_sequence(content))
}

/// Asks clients for a certificate and makes sure that they have its key. Whether it is valid
/// decides the request, not the handshake: the client gets an answer with a status.
struct Ask {
    asks: bool,
    told: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for Ask {
    fn offer_client_auth(&self) -> bool {
        self.asks
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.told
    }

    fn verify_client_cert(
        &self,
        own: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match Certificate::parse(own) {
            Some(_) => Ok(ClientCertVerified::assertion()),
            None => Err(CertificateError::BadEncoding.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        notes::signed_by_peer(signature.scheme);
        verify_signature(&self.algorithms, message, own, signature, false)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        notes::signed_by_peer(signature.scheme);
        verify_signature(&self.algorithms, message, own, signature, true)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Whether a peer has signed the handshake with the key of its certificate, which may be of any
/// version. In TLS 1.3 a scheme names one algorithm.
pub(super) fn verify_signature(
    algorithms: &WebPkiSupportedAlgorithms,
    message: &[u8],
    own: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
    is_tls13: bool,
) -> Result<HandshakeSignatureValid, Error> {
    let own = Certificate::parse(own).ok_or(CertificateError::BadEncoding)?;
    let of_scheme = algorithms
        .mapping
        .iter()
        .find(|(scheme, _)| *scheme == signature.scheme)
        .map_or(&[][..], |(_, algorithms)| *algorithms);
    let of_scheme = if is_tls13 {
        &of_scheme[..of_scheme.len().min(1)]
    } else {
        of_scheme
    };
    let mut fitting = of_scheme
        .iter()
        .filter(|algorithm| algorithm.public_key_alg_id().as_ref() == own.key_algorithm);
    let is_valid = fitting.any(|algorithm| {
        let verified = algorithm.verify_signature(own.key, message, signature.signature());
        verified.is_ok()
    });
    if is_valid {
        Ok(HandshakeSignatureValid::assertion())
    } else {
        Err(CertificateError::BadSignature.into())
    }
}

impl fmt::Debug for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ask({}, {} told)", self.asks, self.told.len())
    }
}

impl Settings {
    /// What a server with these certificates does if nothing is said.
    pub fn new(certificates: Vec<Arc<CertifiedKey>>) -> Settings {
        let mut suites = cipher::all_suites13();
        suites.extend(cipher::suites("HIGH").items);
        Settings {
            certificates,
            staples: Vec::new(),
            tls12: true,
            tls13: true,
            suites,
            groups: cipher::default_groups(),
            prefer_own: false,
            alpn: Vec::new(),
            asks: false,
            trust: None,
            told: Vec::new(),
            tickets: None,
            cache: None,
            ticket_count: 2,
            early_data_max: 0,
            record_max: super::record::PLAIN_MAX,
            key_log: None,
            reject: false,
        }
    }
}
