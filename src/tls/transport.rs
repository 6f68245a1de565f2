//! What stands between the bytes of a connection and its socket.

use super::record::{Broken, Records};

/// The record layer of one connection with the buffer for what it sends.
pub struct Transport {
    records: Records,
    wire: Vec<u8>,
    broken: Option<Broken>,
    /// The peer knows why it is broken.
    has_told: bool,
}

/// A buffer above this is not kept for the next records: what 64 KiB take as records.
const KEPT_BYTES_MAX: usize = 65 << 10;

impl Transport {
    /// With records in `wire` that are to leave before everything else.
    pub fn new(records: Records, wire: Vec<u8>) -> Box<Transport> {
        Box::new(Transport {
            records,
            wire,
            broken: None,
            has_told: false,
        })
    }

    /// Opens what was received and appends it to `plain`. See [`Records::open`].
    ///
    /// # Errors
    /// The stream is broken; [`Transport::seal_alert`] has what is to be sent then.
    pub fn open(&mut self, received: &[u8], plain: &mut Vec<u8>) -> Result<(), Broken> {
        let opened = self.records.open(received, plain);
        self.broken = self.broken.or(opened.err());
        opened
    }

    /// Why the stream is broken, if it is.
    pub fn broken(&self) -> Option<Broken> {
        self.broken
    }

    /// Whether there is something to send without being asked, see [`Transport::seal_answer`].
    pub fn has_answer(&self) -> bool {
        self.records.has_answer() || self.broken.is_some() && !self.has_told
    }

    /// The records to send without being asked: an alert of ours.
    pub fn seal_answer(&mut self) -> Option<Vec<u8>> {
        match self.broken {
            Some(broken) if !self.has_told => Some(self.seal_alert(broken)),
            _ => self.records.has_answer().then(|| self.seal(&[])),
        }
    }

    /// See [`Records::begun`].
    pub fn begun(&self) -> (usize, usize) {
        self.records.begun()
    }

    /// The records to send for these bytes, in a buffer that comes back by [`Transport::keep`].
    pub fn seal(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut wire = std::mem::take(&mut self.wire);
        self.records.seal(plain, &mut wire);
        wire
    }

    /// As [`Transport::seal`], in a buffer that is the caller's.
    pub fn seal_into(&mut self, plain: &[u8], wire: &mut Vec<u8>) {
        wire.append(&mut self.wire);
        self.records.seal(plain, wire);
    }

    /// The records to send at the end of our side of the stream.
    pub fn seal_close(&mut self) -> Vec<u8> {
        let mut wire = std::mem::take(&mut self.wire);
        self.records.seal_close(&mut wire);
        wire
    }

    /// The records to send before a connection is closed that the peer has broken; empty if it
    /// says so itself.
    pub fn seal_alert(&mut self, broken: Broken) -> Vec<u8> {
        self.has_told = true;
        let mut wire = std::mem::take(&mut self.wire);
        match broken {
            Broken::Ours(alert, _) => self.records.seal_alert(alert, &mut wire),
            Broken::Alert(_) => wire.clear(),
        }
        wire
    }

    /// Takes a buffer back that was sent.
    pub fn keep(&mut self, mut wire: Vec<u8>) {
        if wire.capacity() <= KEPT_BYTES_MAX {
            wire.clear();
            self.wire = wire;
        }
    }

    /// Gives up a buffer above this size in bytes, if it is not in use.
    pub fn shrink(&mut self, bytes: usize) {
        if self.wire.is_empty() && self.wire.capacity() > bytes {
            self.wire = Vec::new();
        }
    }

    /// The peer has ended its side.
    pub fn is_closed(&self) -> bool {
        self.records.is_closed()
    }

    /// Gives up its buffers; false if there is something in them.
    pub fn rest(&mut self) -> bool {
        if !self.wire.is_empty() || !self.records.is_quiet() {
            return false;
        }
        self.wire = Vec::new();
        true
    }
}
