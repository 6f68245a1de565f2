//! The client's side of TLS, bytes in and bytes out, and the certificate the proxies serve.
//!
//! Every client offers the same alone, so that all proxies do the same work: TLS 1.3 with
//! TLS_AES_256_GCM_SHA384 and X25519. It does not look at certificates.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
    UnbufferedClientConnection,
};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, HandshakeKind, NamedGroup, SignatureScheme, version,
};

/// Tickets kept for connections to come.
const TICKETS_MAX: usize = 4096;
/// What a record or a message of a handshake takes at the first try.
const ROOM: usize = 1024;
/// What a record is longer than its content: header, type and tag, rounded up.
const RECORD_OVERHEAD: usize = 64;
const RECORD_PLAIN_MAX: usize = 16 << 10;
const NAME: &str = "loadtest.test";

/// How connections of a run speak TLS.
#[derive(Clone, Debug)]
pub struct Settings {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Settings {
    /// With the protocol for ALPN (`http/1.1` or `h2`). Handshakes may resume earlier ones with
    /// these settings, as soon as there are tickets.
    ///
    /// # Errors
    /// The cryptography refuses, which it does not.
    pub fn new(protocol: &str, resumes: bool) -> io::Result<Self> {
        let provider = CryptoProvider {
            cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384],
            kx_groups: vec![aws_lc_rs::kx_group::X25519],
            ..aws_lc_rs::default_provider()
        };
        let schemes = provider
            .signature_verification_algorithms
            .supported_schemes();
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&version::TLS13])
            .map_err(io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone { schemes }))
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        config.resumption = match resumes {
            true => Resumption::store(Arc::new(Tickets::default())),
            false => Resumption::disabled(),
        };
        Ok(Self {
            config: Arc::new(config),
            name: ServerName::try_from(NAME).map_err(io::Error::other)?,
        })
    }
}

/// How a connection was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// It is not over.
    Unfinished,
    /// With a certificate.
    Full,
    /// With a ticket.
    Resumed,
}

/// One connection.
pub struct Session {
    conn: Box<UnbufferedClientConnection>,
    /// What is to be said as soon as the handshake is over.
    early: Vec<u8>,
    open: bool,
}

impl Session {
    /// The first words are appended to `out`.
    ///
    /// # Errors
    /// The cryptography refuses, which it does not.
    pub fn new(settings: &Settings, out: &mut Vec<u8>) -> Result<Self, Error> {
        let conn = UnbufferedClientConnection::new(settings.config.clone(), settings.name.clone())?;
        let mut session = Self {
            conn: Box::new(conn),
            early: Vec::new(),
            open: false,
        };
        session.advance(&mut [], out, |_| {})?;
        Ok(session)
    }

    /// Appends the records with these bytes to `out`, or keeps them until the handshake is over.
    ///
    /// # Errors
    /// The connection is of no more use.
    pub fn write(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        if !self.open {
            self.early.extend_from_slice(plain);
            return Ok(());
        }
        match self.conn.process_tls_records(&mut []).state? {
            ConnectionState::WriteTraffic(mut traffic) => {
                seal(plain, out, |plain, room| traffic.encrypt(plain, room))
            }
            _ => Err(Error::HandshakeNotComplete),
        }
    }

    /// Takes what was received and says how much of it was used; the rest must be there again the
    /// next time. Content goes to `plain`, what is to be sent to `out`.
    ///
    /// # Errors
    /// The connection is of no more use.
    pub fn advance(
        &mut self,
        received: &mut [u8],
        out: &mut Vec<u8>,
        mut plain: impl FnMut(&[u8]),
    ) -> Result<usize, Error> {
        let mut used = 0;
        loop {
            let status = self.conn.process_tls_records(&mut received[used..]);
            let mut discard = status.discard;
            let waits = match status.state? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        plain(record.payload);
                    }
                    false
                }
                ConnectionState::EncodeTlsData(mut data) => {
                    encode(&mut data, out)?;
                    false
                }
                ConnectionState::TransmitTlsData(data) => {
                    data.done();
                    false
                }
                ConnectionState::WriteTraffic(mut traffic) => {
                    let early = std::mem::take(&mut self.early);
                    self.open = true;
                    seal(&early, out, |plain, room| traffic.encrypt(plain, room))?;
                    true
                }
                ConnectionState::BlockedHandshake | ConnectionState::Closed => true,
                _ => false,
            };
            used += discard;
            if waits {
                return Ok(used);
            }
        }
    }

    /// How it was made.
    pub fn handshake(&self) -> Handshake {
        match self.conn.handshake_kind() {
            _ if self.conn.is_handshaking() => Handshake::Unfinished,
            Some(HandshakeKind::Resumed) => Handshake::Resumed,
            _ => Handshake::Full,
        }
    }
}

/// Records with `plain`, none if there is nothing to say.
fn seal(
    plain: &[u8],
    out: &mut Vec<u8>,
    mut encrypt: impl FnMut(&[u8], &mut [u8]) -> Result<usize, EncryptError>,
) -> Result<(), Error> {
    for piece in plain.chunks(RECORD_PLAIN_MAX) {
        let start = out.len();
        out.resize(start + piece.len() + RECORD_OVERHEAD, 0);
        let written =
            encrypt(piece, &mut out[start..]).map_err(|error| Error::General(error.to_string()))?;
        out.truncate(start + written);
    }
    Ok(())
}

fn encode<Data>(data: &mut EncodeTlsData<'_, Data>, out: &mut Vec<u8>) -> Result<(), Error> {
    let start = out.len();
    let mut room = ROOM;
    loop {
        out.resize(start + room, 0);
        match data.encode(&mut out[start..]) {
            Ok(written) => {
                out.truncate(start + written);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(needed)) => room = needed.required_size,
            Err(error) => return Err(Error::General(error.to_string())),
        }
    }
}

/// A certificate signed by itself and its key (ECDSA P-256), both in PEM, one after the other. The
/// same for everything this process starts.
///
/// # Errors
/// The cryptography refuses, which it does not.
pub fn certificate() -> io::Result<&'static str> {
    static CERTIFICATE: OnceLock<String> = OnceLock::new();
    if let Some(made) = CERTIFICATE.get() {
        return Ok(made);
    }
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).map_err(io::Error::other)?;
    let made = made.cert.pem() + &made.signing_key.serialize_pem();
    Ok(CERTIFICATE.get_or_init(|| made))
}

/// Takes every certificate, unseen.
#[derive(Debug)]
struct Anyone {
    schemes: Vec<SignatureScheme>,
}

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}

/// Tickets of the one server, the oldest first; each is used once.
#[derive(Default)]
struct Tickets(Mutex<VecDeque<Tls13ClientSessionValue>>);

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        let mut tickets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tickets.len() < TICKETS_MAX {
            tickets.push_back(ticket);
        }
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let mut tickets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tickets.pop_front()
    }
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tickets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        write!(f, "Tickets({})", tickets.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::PrivateKeyDer;
    use rustls::pki_types::pem::PemObject;
    use rustls::{ServerConfig, ServerConnection};

    fn server() -> Arc<ServerConfig> {
        let pem = certificate().unwrap();
        let chain = CertificateDer::pem_slice_iter(pem.as_bytes());
        let chain = chain.map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])
            .unwrap();
        let mut config = builder
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        config.ticketer = aws_lc_rs::Ticketer::new().unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    }

    /// Says `hello` to a server that says it back; what comes back arrives in pieces.
    fn echo(server: &Arc<ServerConfig>, settings: &Settings, piece: usize) -> Handshake {
        let mut server = ServerConnection::new(server.clone()).unwrap();
        let mut out = Vec::new();
        let mut session = Session::new(settings, &mut out).unwrap();
        session.write(b"hello", &mut out).unwrap();
        let (mut heard, mut left) = (Vec::new(), Vec::new());
        for _ in 0..8 {
            let mut sent = &std::mem::take(&mut out)[..];
            while !sent.is_empty() {
                server.read_tls(&mut sent).unwrap();
                server.process_new_packets().unwrap();
            }
            let mut said = [0; 16];
            if let Ok(n) = io::Read::read(&mut server.reader(), &mut said) {
                io::Write::write_all(&mut server.writer(), &said[..n]).unwrap();
            }
            let mut wire = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut wire).unwrap();
            }
            for part in wire.chunks(piece) {
                left.extend_from_slice(part);
                let hear = |bytes: &[u8]| heard.extend_from_slice(bytes);
                let used = session.advance(&mut left, &mut out, hear).unwrap();
                left.drain(..used);
            }
        }
        assert_eq!(heard, b"hello");
        assert_eq!(session.conn.alpn_protocol(), Some(&b"h2"[..]));
        session.handshake()
    }

    #[test]
    fn handshakes_are_full_or_resumed() {
        let server = server();
        let resuming = Settings::new("h2", true).unwrap();
        assert_eq!(echo(&server, &resuming, 1 << 20), Handshake::Full);
        assert_eq!(echo(&server, &resuming, 7), Handshake::Resumed);
        let plain = Settings::new("h2", false).unwrap();
        assert_eq!(echo(&server, &plain, 1 << 20), Handshake::Full);
        assert_eq!(echo(&server, &plain, 1), Handshake::Full);
    }
}
