//! A server's side of the handshake: bytes in, bytes out, and at its end a record layer.

use rustls::pki_types::CertificateDer;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData};
use rustls::{AlertDescription, Error, HandshakeKind};

use super::cipher;
use super::record::{Keys, Records};
use super::server::Server;

/// A handshake under way.
pub struct Handshake {
    conn: Box<UnbufferedServerConnection>,
    server_name: Box<str>,
    record_max: usize,
    /// What the client has sent behind its side of the handshake, or as early data.
    plain: Vec<u8>,
    peer_closed: bool,
}

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More has to come from the client.
    Waits,
    /// [`Handshake::finish`] it.
    Done,
}

/// What a handshake has come to.
#[derive(Default)]
pub struct Session {
    /// OpenSSL's name of the version.
    pub protocol: &'static str,
    /// OpenSSL's name of the cipher suite.
    pub cipher: &'static str,
    /// OpenSSL's name of the group of the key exchange; empty if there was none.
    pub curve: &'static str,
    /// The name the client asked for; empty without.
    pub server_name: Box<str>,
    /// The protocol agreed upon; empty without.
    pub alpn: Box<[u8]>,
    /// It was resumed.
    pub reused: bool,
    /// The client's certificate and what it sent with it.
    pub certificates: Vec<CertificateDer<'static>>,
}

/// A connection that is established.
pub struct Established {
    /// Its record layer.
    pub records: Records,
    /// What was agreed.
    pub session: Session,
    /// What the client has sent behind its side of the handshake.
    pub plain: Vec<u8>,
    /// The client has ended its side already.
    pub peer_closed: bool,
}

/// What a step of rustls leaves to do.
enum Step {
    GoOn,
    Waits,
    Done,
}

impl Handshake {
    /// Begins a handshake with a client that asks for a server of this name.
    ///
    /// # Errors
    /// The configuration is of no use.
    pub fn new(server: &Server, name: &str) -> Result<Handshake, Error> {
        let conn = UnbufferedServerConnection::new(server.config.clone())?;
        Ok(Handshake {
            conn: Box::new(conn),
            server_name: name.into(),
            record_max: server.record_max,
            plain: Vec::new(),
            peer_closed: false,
        })
    }

    /// Goes on with what was received: takes from `input` what it has used, and appends to `out`
    /// what is to be sent, an alert on failure included.
    ///
    /// # Errors
    /// The handshake has failed.
    pub fn advance(&mut self, input: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<Progress, Error> {
        loop {
            let status = self.conn.process_tls_records(input);
            let discard = status.discard;
            let step = match status.state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(&mut data, out);
                    Ok(Step::GoOn)
                }
                // It leaves before anything else is read.
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    Ok(Step::GoOn)
                }
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        self.plain.extend_from_slice(record?.payload);
                    }
                    Ok(Step::GoOn)
                }
                Ok(ConnectionState::ReadEarlyData(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        self.plain.extend_from_slice(record?.payload);
                    }
                    Ok(Step::GoOn)
                }
                Ok(ConnectionState::PeerClosed) => {
                    self.peer_closed = true;
                    Ok(Step::GoOn)
                }
                Ok(ConnectionState::BlockedHandshake) => Ok(Step::Waits),
                Ok(_) => Ok(Step::Done),
                Err(error) => Err(error),
            };
            input.drain(..discard);
            match step {
                Ok(Step::GoOn) => {}
                Ok(Step::Waits) if self.peer_closed => {
                    return Err(Error::AlertReceived(AlertDescription::CloseNotify));
                }
                Ok(Step::Waits) => return Ok(Progress::Waits),
                Ok(Step::Done) if self.conn.is_handshaking() => return Ok(Progress::Waits),
                Ok(Step::Done) => return Ok(Progress::Done),
                Err(error) => {
                    self.last_words(out);
                    return Err(error);
                }
            }
        }
    }

    /// The alert that rustls has left after a failure.
    fn last_words(&mut self, out: &mut Vec<u8>) {
        while let Ok(ConnectionState::EncodeTlsData(mut data)) =
            self.conn.process_tls_records(&mut []).state
        {
            encode(&mut data, out);
        }
    }

    /// Leaves the handshake when it is done. What is left in the `input` of [`Handshake::advance`]
    /// goes to [`Records::open`].
    ///
    /// # Errors
    /// It is not done.
    pub fn finish(self) -> Result<Established, Error> {
        let conn = &self.conn;
        let suite = conn
            .negotiated_cipher_suite()
            .ok_or(Error::HandshakeNotComplete)?;
        let version = conn.protocol_version().ok_or(Error::HandshakeNotComplete)?;
        let group = conn.negotiated_key_exchange_group();
        let certificates = conn.peer_certificates().unwrap_or_default();
        let session = Session {
            protocol: cipher::version_name(version),
            cipher: cipher::openssl_name(suite.suite()),
            curve: group.map_or("", |group| cipher::group_name(group.name())),
            server_name: self.server_name,
            alpn: conn.alpn_protocol().unwrap_or_default().into(),
            reused: conn.handshake_kind() == Some(HandshakeKind::Resumed),
            certificates: certificates.to_vec(),
        };
        let (secrets, keys) = self.conn.dangerous_into_kernel_connection()?;
        let keys = Keys::Server(Box::new(keys));
        Ok(Established {
            records: Records::new(secrets, keys, self.record_max)?,
            session,
            plain: self.plain,
            peer_closed: self.peer_closed,
        })
    }
}

fn encode<Data>(data: &mut EncodeTlsData<'_, Data>, out: &mut Vec<u8>) {
    let start = out.len();
    let mut room = 4096;
    loop {
        out.resize(start + room, 0);
        match data.encode(&mut out[start..]) {
            Ok(written) => return out.truncate(start + written),
            Err(EncodeError::InsufficientSize(needed)) => room = needed.required_size,
            Err(EncodeError::AlreadyEncoded) => return out.truncate(start),
        }
    }
}
