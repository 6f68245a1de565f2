//! The client's end of one connection: a socket, with or without TLS.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use crate::sys;
use crate::tls::{self, Handshake};

/// A connection that was started.
pub struct Wire {
    /// The socket, which does not block.
    pub fd: OwnedFd,
    tls: Option<tls::Session>,
    /// What is to be sent, and how much of it has been.
    out: Vec<u8>,
    sent: usize,
    /// The beginning of a record that came in pieces.
    partial: Vec<u8>,
}

impl Wire {
    /// Starts to connect.
    ///
    /// # Errors
    /// Those of `connect(2)`.
    pub fn connect(address: SocketAddr, tls: Option<&tls::Settings>) -> io::Result<Self> {
        let mut wire = Self {
            fd: sys::connect(address)?,
            tls: None,
            out: Vec::new(),
            sent: 0,
            partial: Vec::new(),
        };
        if let Some(settings) = tls {
            let session = tls::Session::new(settings, &mut wire.out).map_err(io::Error::other)?;
            wire.tls = Some(session);
        }
        Ok(wire)
    }

    /// Takes bytes to send; [`Wire::flush`] sends them.
    ///
    /// # Errors
    /// TLS has failed.
    pub fn write(&mut self, plain: &[u8]) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => tls.write(plain, &mut self.out).map_err(io::Error::other),
            None => {
                self.out.extend_from_slice(plain);
                Ok(())
            }
        }
    }

    /// Sends what the socket takes; true when that is all.
    ///
    /// # Errors
    /// Those of `send(2)`, `WouldBlock` excepted.
    pub fn flush(&mut self) -> io::Result<bool> {
        while self.sent < self.out.len() {
            match sys::send(&self.fd, &self.out[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.sent = 0;
        Ok(true)
    }

    /// Whether there is something to send.
    pub fn has_output(&self) -> bool {
        !self.out.is_empty()
    }

    /// Receives once and passes on what came, as it was before TLS. 0 is the end of the stream.
    /// What TLS has to say to it waits for [`Wire::flush`].
    ///
    /// # Errors
    /// Those of `recv(2)`, `WouldBlock` included; TLS has failed.
    pub fn receive(
        &mut self,
        scratch: &mut [u8],
        mut plain: impl FnMut(&[u8]),
    ) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            let n = sys::receive(&self.fd, scratch)?;
            plain(&scratch[..n]);
            return Ok(n);
        };
        let kept = self.partial.len();
        let n = sys::receive(&self.fd, &mut scratch[kept..])?;
        scratch[..kept].copy_from_slice(&self.partial);
        self.partial.clear();
        let received = &mut scratch[..kept + n];
        let used = tls
            .advance(received, &mut self.out, plain)
            .map_err(io::Error::other)?;
        self.partial.extend_from_slice(&received[used..]);
        Ok(n)
    }

    /// Whether bytes go as they are, so that they may be discarded unseen.
    pub fn is_plain(&self) -> bool {
        self.tls.is_none()
    }

    /// How its TLS was made; `None` without TLS.
    pub fn handshake(&self) -> Option<Handshake> {
        self.tls.as_ref().map(tls::Session::handshake)
    }
}
