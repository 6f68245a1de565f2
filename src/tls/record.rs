//! The record layer of an established connection (RFC 8446, 5; RFC 5246, 6.2; RFC 5288; RFC 7905).
//!
//! rustls makes the handshake and hands over the keys. From there on records are opened straight
//! out of the buffer they were received into, and sealed straight into the buffer they are sent
//! from, so that a record costs no allocation and no copy beside that, and a connection that waits
//! consists of two keys.

use std::fmt;

use aws_lc_rs::aead::{self, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{ConnectionTrafficSecrets, Error, ExtractedSecrets, ProtocolVersion};

/// The most plain bytes of a record.
pub const PLAIN_MAX: usize = 1 << 14;

const HEADER_LEN: usize = 5;
const TAG_LEN: usize = 16;
/// What TLS 1.2 sends of an AES-GCM nonce with each record.
const EXPLICIT_LEN: usize = 8;

/// What one peer may put around [`PLAIN_MAX`] bytes.
const EXPANSION_MAX: usize = 256;

/// A handshake message after the handshake has at most so many bytes: a ticket of 64 KiB.
const MESSAGE_MAX: usize = 66 << 10;

/// Records sealed with one key, at most (RFC 8446, 5.5 allows 2^24.5 of full size).
const SEALED_MAX: u64 = 1 << 23;

/// Alerts that are only warnings, one after the other, that are put up with.
const WARNINGS_MAX: u8 = 4;

/// New keys and records with nothing in them, one after the other, that are put up with, as in
/// OpenSSL: each costs us more than the peer.
const IDLE_MAX: u8 = 32;

/// New handshakes that a peer of TLS 1.2 may ask for in vain.
const REFUSALS_MAX: u8 = 4;

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

const HELLO_REQUEST: u8 = 0;
const CLIENT_HELLO: u8 = 1;
const KEY_UPDATE: u8 = 24;
const NEW_SESSION_TICKET: u8 = 4;

/// An alert that is a warning.
const NO_RENEGOTIATION: u8 = 100;

/// Why a connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// We say so to the peer, with this alert (RFC 8446, 6.2).
    Ours(u8, &'static str),
    /// The peer has sent this alert.
    Alert(u8),
}

impl Broken {
    /// For the log.
    pub fn reason(self) -> &'static str {
        match self {
            Broken::Ours(_, reason) => reason,
            Broken::Alert(_) => "peer sent a fatal alert",
        }
    }
}

/// As [`Broken::reason`], with the number of the alert.
impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::Ours(_, reason) => f.write_str(reason),
            Broken::Alert(number) => write!(f, "SSL alert number {number}"),
        }
    }
}

const UNEXPECTED: Broken = Broken::Ours(10, "unexpected message");
const FLOOD: Broken = Broken::Ours(10, "too many records without data");
const BAD_MAC: Broken = Broken::Ours(20, "decryption failed or bad record mac");
const OVERFLOW: Broken = Broken::Ours(22, "record too large");
const DECODE: Broken = Broken::Ours(50, "message cannot be decoded");
const INTERNAL: Broken = Broken::Ours(80, "internal error");

/// Who derives the next keys of TLS 1.3.
pub enum Keys {
    /// A server's connection.
    Server(Box<KernelConnection<ServerConnectionData>>),
    /// A client's connection, which also takes tickets.
    Client(Box<KernelConnection<ClientConnectionData>>),
}

/// The protection of one direction.
struct Half {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    sequence: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Tls13,
    /// TLS 1.2 with AES-GCM: a part of the nonce is in the record.
    Explicit,
    /// TLS 1.2 with ChaCha20-Poly1305.
    Implicit,
}

/// Both directions of an established connection: about 1.5 KiB, and the beginning of a record
/// that has not come whole.
pub struct Records {
    shape: Shape,
    opening: Half,
    sealing: Half,
    keys: Option<Keys>,
    /// Plain bytes of the records that are sent.
    record_max: usize,
    /// A record that has begun.
    begun: Vec<u8>,
    /// A handshake message that has begun.
    message: Vec<u8>,
    /// The peer wants our keys changed with the next record.
    owes_update: bool,
    /// The peer wants a new handshake, and is to be told that it gets none.
    owes_refusal: bool,
    closed: bool,
    warnings: u8,
    /// New keys and empty records since the last data.
    idle: u8,
    refusals: u8,
}

impl Records {
    /// Takes over from rustls. `record_max` is how many plain bytes a sent record has.
    ///
    /// # Errors
    /// Secrets of a kind that is not known.
    pub fn new(secrets: ExtractedSecrets, keys: Keys, record_max: usize) -> Result<Records, Error> {
        let version = match &keys {
            Keys::Server(keys) => keys.protocol_version(),
            Keys::Client(keys) => keys.protocol_version(),
        };
        let is_13 = version == ProtocolVersion::TLSv1_3;
        let shape = match &secrets.tx.1 {
            _ if is_13 => Shape::Tls13,
            ConnectionTrafficSecrets::Chacha20Poly1305 { .. } => Shape::Implicit,
            _ => Shape::Explicit,
        };
        Ok(Records {
            shape,
            opening: Half::new(secrets.rx)?,
            sealing: Half::new(secrets.tx)?,
            keys: is_13.then_some(keys),
            record_max: record_max.clamp(64, PLAIN_MAX),
            begun: Vec::new(),
            message: Vec::new(),
            owes_update: false,
            owes_refusal: false,
            closed: false,
            warnings: 0,
            idle: 0,
            refusals: 0,
        })
    }

    /// The peer has said that it sends nothing more.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// The peer has said so before the handshake was over.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Nothing that has begun waits for its end. Gives up buffers.
    pub fn is_quiet(&mut self) -> bool {
        if !self.begun.is_empty() || !self.message.is_empty() {
            return false;
        }
        (self.begun, self.message) = Default::default();
        true
    }

    /// How many bytes are missing of a record that has begun, as far as that is known.
    pub fn missing(&self) -> usize {
        match wire_len(&self.begun) {
            Some(whole) => whole.saturating_sub(self.begun.len()),
            None => 0,
        }
    }

    /// Bytes of a record that has begun, and how many are missing of it as far as that is known.
    pub fn begun(&self) -> (usize, usize) {
        let begun = self.begun.len();
        let whole = wire_len(&self.begun).unwrap_or(begun);
        (begun, whole.saturating_sub(begun))
    }

    /// Opens the records in what was received and appends what is in them to `plain`. The beginning
    /// of a record is kept for the next call.
    ///
    /// # Errors
    /// The connection cannot go on; what was opened before is in `plain`.
    pub fn open(&mut self, mut received: &[u8], plain: &mut Vec<u8>) -> Result<(), Broken> {
        while !self.begun.is_empty() && !received.is_empty() {
            let wanted = wire_len(&self.begun).unwrap_or(HEADER_LEN);
            let missing = wanted.saturating_sub(self.begun.len()).min(received.len());
            let (part, rest) = received.split_at(missing);
            self.begun.extend_from_slice(part);
            received = rest;
            let Some(whole) = whole_record(&self.begun)? else {
                continue;
            };
            debug_assert_eq!(whole, self.begun.len());
            let mut record = std::mem::take(&mut self.begun);
            let opened = self.open_record(&record, plain);
            record.clear();
            self.begun = record;
            opened?;
        }
        while let Some(length) = whole_record(received)? {
            let (record, rest) = received.split_at(length);
            self.open_record(record, plain)?;
            received = rest;
        }
        if !self.closed {
            self.begun.extend_from_slice(received);
        }
        Ok(())
    }

    fn open_record(&mut self, record: &[u8], plain: &mut Vec<u8>) -> Result<(), Broken> {
        if self.closed {
            // What comes behind the end is none of the stream.
            return Ok(());
        }
        let start = plain.len();
        let kind = match self.shape {
            Shape::Tls13 => self.open_13(record, plain)?,
            Shape::Explicit | Shape::Implicit => self.open_12(record, plain)?,
        };
        if plain.len() - start > PLAIN_MAX {
            return Err(OVERFLOW);
        }
        if kind == APPLICATION_DATA && self.message.is_empty() {
            if plain.len() == start {
                return self.count_idle();
            }
            (self.warnings, self.idle) = (0, 0);
            return Ok(());
        }
        let content = plain.split_off(start);
        match kind {
            ALERT => self.take_alert(&content),
            HANDSHAKE => self.take_handshake(&content),
            _ => Err(UNEXPECTED),
        }
    }

    fn open_13(&mut self, record: &[u8], plain: &mut Vec<u8>) -> Result<u8, Broken> {
        let (header, sealed) = record.split_at(HEADER_LEN);
        if header[0] != APPLICATION_DATA {
            return Err(UNEXPECTED);
        }
        let start = plain.len();
        let nonce = self.opening.next_nonce().ok_or(INTERNAL)?;
        self.opening.open(nonce, header, sealed, plain)?;
        // The type is behind the content and before the padding of zeros.
        let end = plain[start..].iter().rposition(|byte| *byte != 0);
        let end = start + end.ok_or(UNEXPECTED)?;
        let kind = plain[end];
        plain.truncate(end);
        Ok(kind)
    }

    fn open_12(&mut self, record: &[u8], plain: &mut Vec<u8>) -> Result<u8, Broken> {
        let (header, mut sealed) = record.split_at(HEADER_LEN);
        let kind = header[0];
        if kind == CHANGE_CIPHER_SPEC {
            return Err(UNEXPECTED);
        }
        let sequence = self.opening.sequence;
        let mut nonce = self.opening.next_nonce().ok_or(INTERNAL)?;
        if self.shape == Shape::Explicit {
            let (explicit, rest) = sealed.split_at_checked(EXPLICIT_LEN).ok_or(BAD_MAC)?;
            nonce[NONCE_LEN - EXPLICIT_LEN..].copy_from_slice(explicit);
            sealed = rest;
        }
        let length = sealed.len().checked_sub(TAG_LEN).ok_or(BAD_MAC)?;
        let aad = aad_12(sequence, kind, length);
        self.opening.open(nonce, &aad, sealed, plain)?;
        Ok(kind)
    }

    fn take_alert(&mut self, content: &[u8]) -> Result<(), Broken> {
        const CLOSE_NOTIFY: u8 = 0;
        const USER_CANCELED: u8 = 90;
        let &[level, description] = content else {
            return Err(DECODE);
        };
        if description == CLOSE_NOTIFY {
            self.closed = true;
            return Ok(());
        }
        let is_warning = description == USER_CANCELED || self.shape != Shape::Tls13 && level == 1;
        if is_warning && self.warnings < WARNINGS_MAX {
            self.warnings += 1;
            return Ok(());
        }
        Err(Broken::Alert(description))
    }

    /// Messages that may come after the handshake; there are none in TLS 1.2, where a new
    /// handshake is refused.
    fn take_handshake(&mut self, content: &[u8]) -> Result<(), Broken> {
        if content.is_empty() {
            return Err(UNEXPECTED);
        }
        if self.keys.is_none() {
            return self.refuse_handshake(content[0]);
        }
        if self.message.len() + content.len() > MESSAGE_MAX {
            return Err(OVERFLOW);
        }
        self.message.extend_from_slice(content);
        let messages = std::mem::take(&mut self.message);
        let mut rest = &*messages;
        while let Some((header, after)) = rest.split_first_chunk::<4>() {
            let length = u32::from_be_bytes([0, header[1], header[2], header[3]]) as usize;
            let Some((body, after)) = after.split_at_checked(length) else {
                break;
            };
            rest = after;
            match (header[0], &mut self.keys) {
                (KEY_UPDATE, _) => {
                    // Its keys begin with a record (RFC 8446, 5.1).
                    if !rest.is_empty() {
                        return Err(UNEXPECTED);
                    }
                    self.take_key_update(body)?;
                }
                (NEW_SESSION_TICKET, Some(Keys::Client(keys))) => {
                    keys.handle_new_session_ticket(body).map_err(|_| DECODE)?;
                }
                _ => return Err(UNEXPECTED),
            }
        }
        self.message = rest.to_vec();
        Ok(())
    }

    /// A peer that wants a new handshake is warned that it gets none (RFC 5246, 7.2.2); it may go
    /// on without.
    fn refuse_handshake(&mut self, message: u8) -> Result<(), Broken> {
        if !matches!(message, HELLO_REQUEST | CLIENT_HELLO) || self.refusals == REFUSALS_MAX {
            return Err(UNEXPECTED);
        }
        self.refusals += 1;
        self.owes_refusal = true;
        Ok(())
    }

    fn count_idle(&mut self) -> Result<(), Broken> {
        self.idle += 1;
        if self.idle > IDLE_MAX {
            return Err(FLOOD);
        }
        Ok(())
    }

    fn take_key_update(&mut self, body: &[u8]) -> Result<(), Broken> {
        const ILLEGAL_PARAMETER: u8 = 47;
        self.count_idle()?;
        match body {
            [0] => {}
            [1] => self.owes_update = true,
            _ => return Err(Broken::Ours(ILLEGAL_PARAMETER, "illegal key update")),
        }
        let secrets = match &mut self.keys {
            Some(Keys::Server(keys)) => keys.update_rx_secret(),
            Some(Keys::Client(keys)) => keys.update_rx_secret(),
            None => return Err(UNEXPECTED),
        };
        self.opening = secrets.and_then(Half::new).map_err(|_| INTERNAL)?;
        Ok(())
    }

    /// Whether there is something to say to the peer that does not wait for data.
    pub fn has_answer(&self) -> bool {
        self.owes_refusal
    }

    /// Appends the records with these bytes to `wire`.
    pub fn seal(&mut self, plain: &[u8], wire: &mut Vec<u8>) {
        if self.owes_update || self.sealing.sequence >= SEALED_MAX {
            self.update_sealing(wire);
        }
        if std::mem::take(&mut self.owes_refusal) {
            self.seal_record(ALERT, &[1, NO_RENEGOTIATION], wire);
        }
        let records = plain.len().div_ceil(self.record_max);
        wire.reserve(plain.len() + records * (HEADER_LEN + EXPLICIT_LEN + TAG_LEN + 1));
        for part in plain.chunks(self.record_max) {
            self.seal_record(APPLICATION_DATA, part, wire);
        }
    }

    /// Appends the alert that ends our side of the stream.
    pub fn seal_close(&mut self, wire: &mut Vec<u8>) {
        self.seal_record(ALERT, &[1, 0], wire);
    }

    /// Appends a fatal alert.
    pub fn seal_alert(&mut self, description: u8, wire: &mut Vec<u8>) {
        self.seal_record(ALERT, &[2, description], wire);
    }

    fn update_sealing(&mut self, wire: &mut Vec<u8>) {
        if self.keys.is_none() {
            return;
        }
        self.seal_record(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 0], wire);
        self.owes_update = false;
        let secrets = match &mut self.keys {
            Some(Keys::Server(keys)) => keys.update_tx_secret(),
            Some(Keys::Client(keys)) => keys.update_tx_secret(),
            None => return,
        };
        if let Ok(half) = secrets.and_then(Half::new) {
            self.sealing = half;
        }
    }

    fn seal_record(&mut self, kind: u8, plain: &[u8], wire: &mut Vec<u8>) {
        let sequence = self.sealing.sequence;
        let nonce = self.sealing.next_nonce();
        let nonce = nonce.expect("2^64 records take longer than any connection lasts");
        let start = wire.len();
        if self.shape == Shape::Tls13 {
            let length = (plain.len() + 1 + TAG_LEN) as u16;
            let [high, low] = length.to_be_bytes();
            let header = [APPLICATION_DATA, 3, 3, high, low];
            wire.extend_from_slice(&header);
            self.sealing.seal(nonce, &header, plain, &[kind], wire);
        } else {
            let explicit = match self.shape {
                Shape::Explicit => &nonce[NONCE_LEN - EXPLICIT_LEN..],
                _ => &[],
            };
            let length = (explicit.len() + plain.len() + TAG_LEN) as u16;
            let [high, low] = length.to_be_bytes();
            wire.extend_from_slice(&[kind, 3, 3, high, low]);
            wire.extend_from_slice(explicit);
            let aad = aad_12(sequence, kind, plain.len());
            self.sealing.seal(nonce, &aad, plain, &[], wire);
        }
        debug_assert_eq!(wire_len(&wire[start..]), Some(wire.len() - start));
    }
}

impl Half {
    fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Half, Error> {
        let (algorithm, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&aead::AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&aead::AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
                (&aead::CHACHA20_POLY1305, key, iv)
            }
            _ => return Err(Error::General("unknown cipher".into())),
        };
        let key = UnboundKey::new(algorithm, key.as_ref())
            .map_err(|_| Error::General("unusable key".into()))?;
        let iv = iv.as_ref().try_into();
        Ok(Half {
            key: LessSafeKey::new(key),
            iv: iv.map_err(|_| Error::General("unusable nonce".into()))?,
            sequence,
        })
    }

    /// The nonce of the next record, which is counted.
    fn next_nonce(&mut self) -> Option<[u8; NONCE_LEN]> {
        let sequence = self.sequence.to_be_bytes();
        self.sequence = self.sequence.checked_add(1)?;
        let mut nonce = self.iv;
        for (to, from) in nonce[NONCE_LEN - sequence.len()..].iter_mut().zip(sequence) {
            *to ^= from;
        }
        Some(nonce)
    }

    fn open(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        sealed: &[u8],
        plain: &mut Vec<u8>,
    ) -> Result<(), Broken> {
        let length = sealed.len().checked_sub(TAG_LEN).ok_or(BAD_MAC)?;
        let (sealed, tag) = sealed.split_at(length);
        let start = plain.len();
        plain.resize(start + length, 0);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let out = &mut plain[start..];
        let opened = self
            .key
            .open_separate_gather(nonce, Aad::from(aad), sealed, tag, out);
        opened.map_err(|_| {
            plain.truncate(start);
            BAD_MAC
        })
    }

    fn seal(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        plain: &[u8],
        more: &[u8],
        wire: &mut Vec<u8>,
    ) {
        let start = wire.len();
        wire.resize(start + plain.len() + more.len() + TAG_LEN, 0);
        let (sealed, end) = wire[start..].split_at_mut(plain.len());
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key
            .seal_out_of_place_scatter(nonce, Aad::from(aad), plain, sealed, more, end)
            .expect("a record is of a size that every cipher takes");
    }
}

/// What TLS 1.2 authenticates beside the content (RFC 5246, 6.2.3.3).
fn aad_12(sequence: u64, kind: u8, length: usize) -> [u8; 13] {
    let mut aad = [0; 13];
    aad[..8].copy_from_slice(&sequence.to_be_bytes());
    aad[8..11].copy_from_slice(&[kind, 3, 3]);
    aad[11..].copy_from_slice(&(length as u16).to_be_bytes());
    aad
}

/// Length of the record that begins here, if its header is there.
pub(super) fn wire_len(bytes: &[u8]) -> Option<usize> {
    let length = u16::from_be_bytes([*bytes.get(3)?, *bytes.get(4)?]);
    Some(HEADER_LEN + usize::from(length))
}

/// Length of the record that begins here, if it is there whole.
fn whole_record(bytes: &[u8]) -> Result<Option<usize>, Broken> {
    let Some(length) = wire_len(bytes) else {
        return Ok(None);
    };
    if bytes[1] != 3 {
        return Err(DECODE);
    }
    if length > HEADER_LEN + PLAIN_MAX + EXPANSION_MAX {
        return Err(OVERFLOW);
    }
    Ok((bytes.len() >= length).then_some(length))
}
