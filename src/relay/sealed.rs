//! TLS at the ends of a relay: what comes is opened, what goes is sealed, in buffers that the
//! worker's relays take turns with, so that a relay that waits has none.

use std::cell::RefCell;
use std::io;

use crate::ring::{Chunk, Send};
use crate::tls::{Broken, Transport};

use super::{Side, Way};

/// What encrypts the connections of a relay.
pub struct Seals {
    client: Option<Seal>,
    upstream: Option<Seal>,
}

/// What encrypts a connection.
struct Seal {
    transport: Box<Transport>,
    /// How the peer has broken it.
    broken: Option<Broken>,
    /// Plain bytes in the records on their way; none if those are the last word.
    sending: u32,
    /// We have said that nothing more will come.
    said_end: bool,
}

/// Buffers that are kept for the relays of a worker.
const SPARE_MAX: usize = 8;

/// A buffer above this is not kept: what a large chunk takes as records.
const SPARE_BYTES_MAX: usize = 40 << 10;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

impl Seals {
    /// Of the client's connection and of the upstream's; none if neither is encrypted.
    pub fn new([client, upstream]: [Option<Box<Transport>>; 2]) -> Option<Box<RefCell<Seals>>> {
        if client.is_none() && upstream.is_none() {
            return None;
        }
        let seal = |transport| Seal {
            transport,
            broken: None,
            sending: 0,
            said_end: false,
        };
        Some(Box::new(RefCell::new(Seals {
            client: client.map(seal),
            upstream: upstream.map(seal),
        })))
    }

    /// Gives up what buffers there are, while nothing moves.
    pub fn rest(&mut self) {
        for seal in [&mut self.client, &mut self.upstream].into_iter().flatten() {
            seal.transport.rest();
        }
    }

    fn at(&mut self, side: Side) -> Option<&mut Seal> {
        match side {
            Side::Client => self.client.as_mut(),
            Side::Upstream => self.upstream.as_mut(),
        }
    }
}

impl Way<'_> {
    /// What is in the bytes received, and whether and how the source has ended with them. There may
    /// be nothing yet.
    pub fn open(self, received: Chunk) -> (Chunk, Option<io::Result<()>>) {
        let Some(seals) = &self.link.seals else {
            return (received, None);
        };
        let mut seals = seals.borrow_mut();
        let Some(seal) = seals.at(self.side) else {
            return (received, None);
        };
        let mut plain = spare();
        let ended = match seal.transport.open(&received, &mut plain) {
            Ok(()) => seal.transport.is_closed().then_some(Ok(())),
            Err(broken) => {
                seal.broken = Some(broken);
                let reason = broken.reason();
                Some(Err(io::Error::new(io::ErrorKind::InvalidData, reason)))
            }
        };
        (plain.into(), ended)
    }

    /// Whether the source has said in TLS that nothing more will come.
    pub fn is_closed(self) -> bool {
        let Some(seals) = &self.link.seals else {
            return false;
        };
        let mut seals = seals.borrow_mut();
        seals
            .at(self.side)
            .is_some_and(|source| source.transport.is_closed())
    }

    /// Sends bytes to the destination, as records if it is encrypted.
    pub fn send(self, plain: Chunk) -> Send<Chunk> {
        let Some(seals) = &self.link.seals else {
            return self.to.send(plain);
        };
        let mut seals = seals.borrow_mut();
        let Some(seal) = seals.at(self.side.other()) else {
            return self.to.send(plain);
        };
        let mut wire = spare();
        seal.transport.seal_into(&plain, &mut wire);
        seal.sending = plain.len() as u32;
        keep(plain);
        self.to.send(wire.into())
    }

    /// A send has ended: counts what it sent, and takes its buffer back.
    pub fn sent(self, result: io::Result<usize>, bytes: Chunk) -> io::Result<()> {
        let Some(seals) = &self.link.seals else {
            self.has_sent(result? as u64);
            return Ok(());
        };
        keep(bytes);
        let sending = seals
            .borrow_mut()
            .at(self.side.other())
            .map(|to| to.sending);
        match sending {
            None => self.has_sent(result? as u64),
            // Nothing is lost without the last word.
            Some(0) => {}
            Some(count) => result.map(|_| self.has_sent(count.into()))?,
        }
        Ok(())
    }

    /// What tells the destination that the source has ended, if it is encrypted and was not told
    /// yet. Nothing if the source did not say so itself: both may think what they like of that.
    pub fn end(self) -> Option<Chunk> {
        let mut seals = self.link.seals.as_ref()?.borrow_mut();
        let source = seals.at(self.side);
        if source.is_some_and(|source| !source.transport.is_closed()) {
            return None;
        }
        seals.at(self.side.other())?.say_end()
    }

    /// The last that the destination hears when the relay is over: what it has broken, or that
    /// nothing more will come.
    pub fn farewell(self) -> Option<Chunk> {
        let mut seals = self.link.seals.as_ref()?.borrow_mut();
        let seal = seals.at(self.side.other())?;
        match seal.broken {
            Some(broken) => Some(seal.transport.seal_alert(broken).into()),
            None => seal.say_end(),
        }
    }
}

impl Seal {
    fn say_end(&mut self) -> Option<Chunk> {
        if self.said_end {
            return None;
        }
        self.said_end = true;
        self.sending = 0;
        Some(self.transport.seal_close().into())
    }
}

/// An empty buffer.
fn spare() -> Vec<u8> {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Keeps the buffer of these bytes for the next ones.
fn keep(bytes: Chunk) {
    let Some(buffer) = bytes.into_buffer() else {
        return;
    };
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < SPARE_MAX && buffer.capacity() <= SPARE_BYTES_MAX {
            spare.push(buffer);
        }
    });
}
