//! Handshakes: bytes in, bytes out, and at the end a record layer. [`Handshake`] is a server's
//! side; a client's is in [`client`](super::client).

use rustls::client::ClientConnectionData;
use rustls::pki_types::CertificateDer;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, ReadEarlyData, UnbufferedConnectionCommon,
    UnbufferedStatus,
};
use rustls::{AlertDescription, CommonState, Error, HandshakeKind, ProtocolVersion};

use super::cipher;
use super::notes::{self, Notes};
use super::record::{self, Keys, Records};
use super::server::Server;

/// A handshake under way.
pub struct Handshake {
    conn: Box<UnbufferedServerConnection>,
    server_name: Box<str>,
    record_max: usize,
    unread: Unread,
    notes: Notes,
    session_id: SessionId,
}

/// What the peer has sent behind its side of the handshake.
#[derive(Default)]
pub(super) struct Unread {
    /// Data, early data of a client included.
    pub plain: Vec<u8>,
    /// The end.
    pub closed: bool,
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
    /// The peer's certificate and what it sent with it.
    pub certificates: Vec<CertificateDer<'static>>,
    /// What else was noted of the handshake; of a server's side alone.
    pub notes: Notes,
    /// What it is known by; of a server's side alone.
    pub id: SessionId,
}

/// What a session is known by: its number in TLS 1.2, which may be empty. In TLS 1.3 sessions have
/// none, so it is what is unique to the handshake.
#[derive(Clone, Copy, Default)]
pub struct SessionId {
    bytes: [u8; 32],
    length: u8,
}

impl SessionId {
    /// Its octets.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// From the ServerHello that begins what is sent, if it does.
    fn in_flight(records: &[u8]) -> Option<SessionId> {
        const HANDSHAKE: u8 = 22;
        const SERVER_HELLO: u8 = 2;
        const LEGACY_VERSION: [u8; 2] = [3, 3];
        // Record and message have headers of 5 and 4 bytes.
        let (header, hello) = records.split_at_checked(9)?;
        if header[0] != HANDSHAKE || header[5] != SERVER_HELLO {
            return None;
        }
        let (version, rest) = hello.split_at_checked(2)?;
        let (random, rest) = rest.split_at_checked(32)?;
        let (&length, rest) = rest.split_first()?;
        let (id, rest) = rest.split_at_checked(usize::from(length))?;
        // Behind suite and compression, TLS 1.3 has a list of extensions with its version.
        let extensions = rest.get(5..).unwrap_or_default();
        let is_13 = version == LEGACY_VERSION && has_version_13(extensions);
        let mut bytes = [0; 32];
        let id = if is_13 { random } else { id };
        bytes.get_mut(..id.len())?.copy_from_slice(id);
        Some(SessionId {
            bytes,
            length: id.len() as u8,
        })
    }
}

/// Whether TLS 1.3 is what these extensions of a ServerHello choose.
fn has_version_13(mut extensions: &[u8]) -> bool {
    const SUPPORTED_VERSIONS: [u8; 2] = [0, 43];
    while let Some((header, rest)) = extensions.split_at_checked(4) {
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let Some((data, rest)) = rest.split_at_checked(length) else {
            return false;
        };
        if header[..2] == SUPPORTED_VERSIONS {
            return data == [3, 4];
        }
        extensions = rest;
    }
    false
}

impl Session {
    /// What rustls says of a handshake that is done, with a server of this name.
    pub(super) fn of(conn: &CommonState, server_name: Box<str>) -> Result<Session, Error> {
        let suite = conn
            .negotiated_cipher_suite()
            .ok_or(Error::HandshakeNotComplete)?;
        let version = conn.protocol_version().ok_or(Error::HandshakeNotComplete)?;
        let group = conn.negotiated_key_exchange_group();
        let certificates = conn.peer_certificates().unwrap_or_default();
        Ok(Session {
            protocol: cipher::version_name(version),
            cipher: cipher::openssl_name(suite.suite()),
            curve: group.map_or("", |group| cipher::group_name(group.name())),
            server_name,
            alpn: conn.alpn_protocol().unwrap_or_default().into(),
            reused: conn.handshake_kind() == Some(HandshakeKind::Resumed),
            certificates: certificates.to_vec(),
            notes: Notes::default(),
            id: SessionId::default(),
        })
    }
}

/// A connection that is established.
pub struct Established {
    /// Its record layer.
    pub records: Records,
    /// What was agreed.
    pub session: Session,
    /// What the peer has sent behind its side of the handshake.
    pub plain: Vec<u8>,
}

impl Established {
    /// With what the peer has sent already.
    pub(super) fn new(mut records: Records, session: Session, unread: Unread) -> Established {
        if unread.closed {
            records.close();
        }
        Established {
            records,
            session,
            plain: unread.plain,
        }
    }
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
            unread: Unread::default(),
            notes: Notes::default(),
            session_id: SessionId::default(),
        })
    }

    /// Goes on with what was received: takes from `input` what it has used, and appends to `out`
    /// what is to be sent, an alert on failure included.
    ///
    /// # Errors
    /// The handshake has failed.
    pub fn advance(&mut self, input: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<Progress, Error> {
        let start = out.len();
        let (conn, unread) = (&mut self.conn, &mut self.unread);
        let progress = notes::keeping(&mut self.notes, || drive(conn, unread, input, out));
        if let Some(id) = SessionId::in_flight(&out[start..]) {
            self.session_id = id;
        }
        progress
    }

    /// Leaves the handshake when it is done. What is left in the `input` of [`Handshake::advance`]
    /// goes to [`Records::open`].
    ///
    /// # Errors
    /// It is not done.
    pub fn finish(self) -> Result<Established, Error> {
        let mut session = Session::of(&self.conn, self.server_name)?;
        session.notes = self.notes;
        session.id = self.session_id;
        let (secrets, keys) = self.conn.dangerous_into_kernel_connection()?;
        let keys = Keys::Server(Box::new(keys));
        let records = Records::new(secrets, keys, self.record_max)?;
        Ok(Established::new(records, session, self.unread))
    }
}

/// A side of a connection, as rustls tells them apart.
pub(super) trait Side: Sized {
    /// One step of rustls.
    fn process<'c, 'i>(
        conn: &'c mut UnbufferedConnectionCommon<Self>,
        input: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self>;

    /// Takes early data.
    fn read_early(traffic: ReadEarlyData<'_, '_, Self>, plain: &mut Vec<u8>) -> Result<(), Error>;
}

impl Side for ServerConnectionData {
    fn process<'c, 'i>(
        conn: &'c mut UnbufferedConnectionCommon<Self>,
        input: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self> {
        conn.process_tls_records(input)
    }

    fn read_early(
        mut traffic: ReadEarlyData<'_, '_, Self>,
        plain: &mut Vec<u8>,
    ) -> Result<(), Error> {
        while let Some(record) = traffic.next_record() {
            plain.extend_from_slice(record?.payload);
        }
        Ok(())
    }
}

impl Side for ClientConnectionData {
    fn process<'c, 'i>(
        conn: &'c mut UnbufferedConnectionCommon<Self>,
        input: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self> {
        conn.process_tls_records(input)
    }

    /// A server sends none.
    fn read_early(_: ReadEarlyData<'_, '_, Self>, _: &mut Vec<u8>) -> Result<(), Error> {
        Ok(())
    }
}

/// What a step of rustls leaves to do.
enum Step {
    GoOn,
    Waits,
    Done,
}

/// Goes on with what was received: takes from `input` what it has used, and appends to `out` what
/// is to be sent, an alert on failure included.
///
/// rustls sees one record after the other, and none behind the handshake's last: those are for our
/// own record layer.
pub(super) fn drive<S: Side>(
    conn: &mut UnbufferedConnectionCommon<S>,
    unread: &mut Unread,
    input: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> Result<Progress, Error> {
    let mut shown = next_end(input, 0);
    let start = out.len();
    loop {
        let status = S::process(conn, &mut input[..shown]);
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
                    unread.plain.extend_from_slice(record?.payload);
                }
                Ok(Step::GoOn)
            }
            Ok(ConnectionState::ReadEarlyData(traffic)) => {
                S::read_early(traffic, &mut unread.plain)?;
                Ok(Step::GoOn)
            }
            Ok(ConnectionState::PeerClosed) => {
                unread.closed = true;
                Ok(Step::GoOn)
            }
            Ok(ConnectionState::BlockedHandshake) => Ok(Step::Waits),
            Ok(_) => Ok(Step::Done),
            Err(error) => Err(error),
        };
        input.drain(..discard);
        shown -= discard;
        match step {
            Ok(Step::GoOn) => {}
            Ok(Step::Done) if !conn.is_handshaking() => return Ok(Progress::Done),
            Ok(Step::Waits | Step::Done) if !unread.closed && shown < input.len() => {
                shown = next_end(input, shown);
            }
            Ok(Step::Waits) if unread.closed => {
                return Err(Error::AlertReceived(AlertDescription::CloseNotify));
            }
            Ok(Step::Waits | Step::Done) => return Ok(Progress::Waits),
            Err(error) => {
                last_words(conn, out);
                if out.len() == start {
                    alert(conn, &error, out);
                }
                return Err(error);
            }
        }
    }
}

/// The end of the record that begins here, or of all there is of it.
fn next_end(input: &[u8], start: usize) -> usize {
    let length = record::wire_len(&input[start..]).unwrap_or(input.len());
    input.len().min(start + length)
}

/// The alert that rustls has left after a failure. It is asked only as long as there is one: it
/// would go on with what it has kept of the input.
fn last_words<S: Side>(conn: &mut UnbufferedConnectionCommon<S>, out: &mut Vec<u8>) {
    while conn.wants_write() {
        match S::process(conn, &mut []).state {
            Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, out),
            _ => return,
        }
    }
}

/// An alert where rustls leaves none: it does not for a message that is too long. Once TLS 1.3 is
/// agreed upon alerts are encrypted, and nobody but rustls could.
fn alert(conn: &CommonState, error: &Error, out: &mut Vec<u8>) {
    if conn.protocol_version() == Some(ProtocolVersion::TLSv1_3) {
        return;
    }
    let alert = match error {
        Error::AlertReceived(_) => return,
        Error::InvalidMessage(_) => AlertDescription::DecodeError,
        _ => AlertDescription::UnexpectedMessage,
    };
    out.extend_from_slice(&[21, 3, 3, 0, 2, 2, alert.into()]);
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
