//! TLS in front of a [`Backend`](super::backend::Backend): a server that decrypts, and remembers
//! what it was told.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    DigitallySignedStruct, DistinguishedName, HandshakeKind, ServerConfig, ServerConnection,
    SignatureScheme,
};

use super::ports::{self, Port};
use super::tls::Identity;

/// What a client has said in a handshake.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The name it asked for; empty without.
    pub name: String,
    /// `TLSv1_3`
    pub version: String,
    /// It resumed a session.
    pub resumed: bool,
    /// Its certificate.
    pub certificate: Option<CertificateDer<'static>>,
}

/// How it behaves.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manners {
    /// It closes connections without saying so in TLS.
    pub rude: bool,
    /// It lets clients wait for its side of the handshake.
    pub silent: bool,
    /// Behind the first bytes of an answer it sends a record that nobody can open.
    pub broken: bool,
}

/// A server on 127.0.0.1, running until dropped.
pub struct TlsFront {
    /// Its port.
    pub port: u16,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
    _reserved: Port,
}

struct Shared {
    config: Arc<ServerConfig>,
    to: u16,
    manners: Manners,
    stopping: AtomicBool,
    accepted: AtomicUsize,
    open: AtomicUsize,
    told: AtomicUsize,
    seen: Mutex<Vec<Seen>>,
}

/// A server's settings: this certificate, whatever it is like; clients are asked for theirs if they
/// are to be `asked`.
pub fn server(identity: &Identity, asked: bool) -> ServerConfig {
    server_with(aws_lc_rs::default_provider(), identity, asked)
}

/// As [`server`], with this cryptography.
pub fn server_with(provider: CryptoProvider, identity: &Identity, asked: bool) -> ServerConfig {
    let chain = CertificateDer::pem_slice_iter(identity.cert.as_bytes());
    let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
    let key = provider.key_provider.load_private_key(key).unwrap();
    let own = Own(Arc::new(CertifiedKey::new(chain, key)));
    let builder = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match asked {
        true => builder.with_client_cert_verifier(Arc::new(Anybody)),
        false => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(own));
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
    config
}

impl TlsFront {
    /// Decrypts for the server on port `to`.
    pub fn new(to: u16, config: ServerConfig) -> TlsFront {
        Self::with(to, config, Manners::default())
    }

    /// With other manners.
    pub fn with(to: u16, config: ServerConfig, manners: Manners) -> TlsFront {
        let reserved = ports::reserve();
        let listener = TcpListener::bind(("127.0.0.1", reserved.number)).unwrap();
        let shared = Arc::new(Shared {
            config: Arc::new(config),
            to,
            manners,
            stopping: AtomicBool::new(false),
            accepted: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            told: AtomicUsize::new(0),
            seen: Mutex::default(),
        });
        let accepting = Arc::clone(&shared);
        let acceptor = std::thread::spawn(move || accepting.accept(&listener));
        TlsFront {
            port: reserved.number,
            shared,
            acceptor: Some(acceptor),
            _reserved: reserved,
        }
    }

    /// Refuses connections from now on.
    pub fn stop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = TcpStream::connect(("127.0.0.1", self.port));
            let _ = acceptor.join();
        }
    }

    /// The handshakes that were made.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// Connections that were accepted.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Connections that are open.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Connections whose client has said that it closes them.
    pub fn told(&self) -> usize {
        self.shared.told.load(Ordering::SeqCst)
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for stream in listener.incoming() {
            if self.stopping.load(Ordering::SeqCst) {
                return;
            }
            let Ok(stream) = stream else { continue };
            self.accepted.fetch_add(1, Ordering::SeqCst);
            self.open.fetch_add(1, Ordering::SeqCst);
            let shared = Arc::clone(self);
            std::thread::spawn(move || {
                // A client that goes away is a case of a test.
                let _ = shared.serve(stream);
                shared.open.fetch_sub(1, Ordering::SeqCst);
            });
        }
    }

    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        if self.manners.silent {
            let mut bytes = [0; 4096];
            while client.read(&mut bytes)? > 0 {}
            return Ok(());
        }
        let config = Arc::clone(&self.config);
        let mut tls = ServerConnection::new(config).map_err(io::Error::other)?;
        tls.set_buffer_limit(None);
        client.set_nodelay(true)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut client)?;
        }
        let version = tls.protocol_version().unwrap();
        self.seen.lock().unwrap().push(Seen {
            name: tls.server_name().unwrap_or_default().to_owned(),
            version: format!("{version:?}"),
            resumed: tls.handshake_kind() == Some(HandshakeKind::Resumed),
            certificate: tls.peer_certificates().map(|chain| chain[0].clone()),
        });
        let mut to = TcpStream::connect(("127.0.0.1", self.to))?;
        to.set_nodelay(true)?;
        self.pump(&mut tls, &mut client, &mut to)
    }

    /// Reads what the client still says, up to its end.
    fn wait_for_end(&self, tls: &mut ServerConnection, client: &mut TcpStream) -> io::Result<()> {
        loop {
            if tls
                .process_new_packets()
                .map_err(io::Error::other)?
                .peer_has_closed()
            {
                self.told.fetch_add(1, Ordering::SeqCst);
                return Ok(());
            }
            if tls.read_tls(client)? == 0 {
                return Ok(());
            }
        }
    }

    /// Bytes both ways until either side has ended.
    fn pump(
        &self,
        tls: &mut ServerConnection,
        client: &mut TcpStream,
        to: &mut TcpStream,
    ) -> io::Result<()> {
        let mut bytes = vec![0; 64 << 10];
        loop {
            let state = match tls.process_new_packets() {
                Ok(state) => state,
                Err(error) => {
                    let _ = tls.write_tls(client);
                    return Err(io::Error::other(error));
                }
            };
            let mut plain = vec![0; state.plaintext_bytes_to_read()];
            tls.reader().read_exact(&mut plain)?;
            to.write_all(&plain)?;
            if state.peer_has_closed() {
                self.told.fetch_add(1, Ordering::SeqCst);
                to.shutdown(Shutdown::Write)?;
                return Ok(());
            }
            while tls.wants_write() {
                tls.write_tls(client)?;
            }
            let [from_client, from_server] = readable([client.as_raw_fd(), to.as_raw_fd()]);
            if from_client && tls.read_tls(client)? == 0 {
                return Ok(());
            }
            if from_server {
                match to.read(&mut bytes) {
                    Ok(count) if count > 0 => {
                        tls.writer().write_all(&bytes[..count])?;
                        if self.manners.broken {
                            while tls.wants_write() {
                                tls.write_tls(client)?;
                            }
                            client.write_all(&[&[23, 3, 3, 0, 40][..], &[7; 40]].concat())?;
                            return self.wait_for_end(tls, client);
                        }
                    }
                    _ => {
                        if !self.manners.rude {
                            tls.send_close_notify();
                        }
                        while tls.wants_write() {
                            tls.write_tls(client)?;
                        }
                        client.shutdown(Shutdown::Write)?;
                        return self.wait_for_end(tls, client);
                    }
                }
            }
        }
    }
}

/// Waits until there is something to read, and says where.
fn readable(fds: [i32; 2]) -> [bool; 2] {
    let mut polled = fds.map(|fd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    });
    // SAFETY: the array is there for as long as the call takes.
    unsafe { libc::poll(polled.as_mut_ptr(), 2, -1) };
    polled.map(|one| one.revents != 0)
}

#[derive(Debug)]
struct Own(Arc<CertifiedKey>);

impl ResolvesServerCert for Own {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// Asks for a certificate and believes it.
#[derive(Debug)]
struct Anybody;

impl ClientCertVerifier for Anybody {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
