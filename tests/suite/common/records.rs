//! A TLS client that has finished its handshake and then sends whatever records it is told to.

use std::io::Read;
use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider};
use rustls::{ClientConnection, ConnectionTrafficSecrets, SupportedProtocolVersion};

use super::PATIENCE;
use super::tls::client_with;

/// The type of a record, RFC 8446, 5.1.
pub const ALERT: u8 = 21;
/// See [`ALERT`].
pub const HANDSHAKE: u8 = 22;
/// See [`ALERT`].
pub const DATA: u8 = 23;

/// A connection with AES-128-GCM.
pub struct Records {
    /// The connection.
    pub tcp: TcpStream,
    is_13: bool,
    sealing: Half,
    opening: Half,
}

struct Half {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

/// A record that is not protected.
pub fn plain(kind: u8, content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u16).to_be_bytes();
    [&[kind, 3, 3], &length[..], content].concat()
}

impl Records {
    /// Makes the handshake with `localhost`. The server must send no tickets.
    pub fn to(port: u16, version: &'static SupportedProtocolVersion) -> Records {
        let mut provider = default_provider();
        provider.cipher_suites = vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        ];
        let is_13 = version.version == rustls::ProtocolVersion::TLSv1_3;
        let of_version = |suite: &rustls::SupportedCipherSuite| suite.tls13().is_some() == is_13;
        provider.cipher_suites.retain(of_version);
        let mut config = client_with(provider, None);
        config.enable_secret_extraction = true;
        let mut tcp = TcpStream::connect(("127.0.0.1", port)).unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        tcp.set_nodelay(true).unwrap();
        let name = "localhost".try_into().unwrap();
        let mut conn = ClientConnection::new(Arc::new(config), name).unwrap();
        while conn.is_handshaking() || conn.wants_write() {
            conn.complete_io(&mut tcp).unwrap();
        }
        let secrets = conn.dangerous_extract_secrets().unwrap();
        Records {
            tcp,
            is_13,
            sealing: Half::new(secrets.tx),
            opening: Half::new(secrets.rx),
        }
    }

    /// A record as it goes over the wire.
    pub fn seal(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        let sequence = self.sealing.sequence;
        let nonce = self.sealing.nonce();
        let mut sealed = content.to_vec();
        if self.is_13 {
            sealed.push(kind);
            let length = (sealed.len() + 16) as u16;
            let header = [&[DATA, 3, 3][..], &length.to_be_bytes()].concat();
            self.sealing.seal(nonce, &header, &mut sealed);
            return [header, sealed].concat();
        }
        let mut aad = sequence.to_be_bytes().to_vec();
        aad.extend_from_slice(&[kind, 3, 3]);
        aad.extend_from_slice(&(content.len() as u16).to_be_bytes());
        self.sealing.seal(nonce, &aad, &mut sealed);
        plain(kind, &[&nonce[4..], &sealed].concat())
    }

    /// Sends a record.
    pub fn send(&mut self, kind: u8, content: &[u8]) {
        let record = self.seal(kind, content);
        // The server may have had enough.
        let _ = self.tcp.write_all(&record);
    }

    /// The next record: its type and content. `None` at the end.
    pub fn read(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut header = [0; 5];
        self.tcp.read_exact(&mut header).ok()?;
        let mut content = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
        self.tcp.read_exact(&mut content).ok()?;
        let sequence = self.opening.sequence;
        let mut nonce = self.opening.nonce();
        if self.is_13 {
            self.opening.open(nonce, &header, &mut content);
            let kind = content.pop().unwrap();
            return Some((kind, content));
        }
        nonce[4..].copy_from_slice(&content[..8]);
        content.drain(..8);
        let mut aad = sequence.to_be_bytes().to_vec();
        aad.extend_from_slice(&header[..3]);
        aad.extend_from_slice(&(content.len() as u16 - 16).to_be_bytes());
        self.opening.open(nonce, &aad, &mut content);
        Some((header[0], content))
    }

    /// The fatal alert that ends the connection, with what comes before it dropped.
    #[track_caller]
    pub fn alert(&mut self) -> u8 {
        loop {
            match self.read() {
                Some((ALERT, alert)) if alert[0] == 2 => return alert[1],
                Some(_) => {}
                None => panic!("no alert"),
            }
        }
    }
}

impl Half {
    fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Half {
        let ConnectionTrafficSecrets::Aes128Gcm { key, iv } = secrets else {
            panic!("another cipher");
        };
        Half {
            key: LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key.as_ref()).unwrap()),
            iv: iv.as_ref().try_into().unwrap(),
            sequence,
        }
    }

    fn nonce(&mut self) -> [u8; 12] {
        let mut nonce = self.iv;
        for (to, from) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *to ^= from;
        }
        self.sequence += 1;
        nonce
    }

    fn seal(&self, nonce: [u8; 12], aad: &[u8], content: &mut Vec<u8>) {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let aad = Aad::from(aad);
        self.key
            .seal_in_place_append_tag(nonce, aad, content)
            .unwrap();
    }

    fn open(&self, nonce: [u8; 12], aad: &[u8], content: &mut Vec<u8>) {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let opened = self.key.open_in_place(nonce, Aad::from(aad), content);
        let length = opened.expect("a record with the right keys").len();
        content.truncate(length);
    }
}
