//! A connection in plain TCP or TLS on which reading and writing do not wait for each other.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use super::{PATIENCE, tls};

/// A client's connection.
pub struct Wire {
    sock: TcpStream,
    tls: Option<Box<ClientConnection>>,
    out: Vec<u8>,
    /// What came and was not taken yet.
    pub inp: Vec<u8>,
    /// Nothing more will come.
    pub ended: bool,
    /// The end of our patience for all that happens here.
    deadline: Instant,
}

impl Wire {
    /// Connect in plain TCP.
    #[track_caller]
    pub fn tcp(port: u16) -> Wire {
        let sock = TcpStream::connect(("127.0.0.1", port)).expect("connect");
        sock.set_nodelay(true).unwrap();
        sock.set_nonblocking(true).unwrap();
        Wire {
            sock,
            tls: None,
            out: Vec::new(),
            inp: Vec::new(),
            ended: false,
            deadline: Instant::now() + PATIENCE,
        }
    }

    /// Connect in TLS and agree on one of `alpn`.
    #[track_caller]
    pub fn tls(port: u16, alpn: &[&str]) -> Wire {
        let mut config = tls::client();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Self::tls_with(port, config)
    }

    /// Connect in TLS with these settings.
    #[track_caller]
    pub fn tls_with(port: u16, config: ClientConfig) -> Wire {
        let name = ServerName::try_from("localhost").unwrap();
        let mut conn = ClientConnection::new(Arc::new(config), name).unwrap();
        conn.set_buffer_limit(None);
        let mut wire = Self::tcp(port);
        wire.tls = Some(Box::new(conn));
        let deadline = wire.deadline;
        while wire.tls.as_ref().unwrap().is_handshaking() {
            assert!(!wire.ended && wire.turn(deadline), "a handshake");
        }
        wire
    }

    /// Whether it is TLS.
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Send all of `bytes`, reading meanwhile. If the peer has gone they are forgotten: what it
    /// said before tells more.
    pub fn send(&mut self, bytes: &[u8]) {
        match &mut self.tls {
            Some(tls) => tls.writer().write_all(bytes).unwrap(),
            None => self.out.extend_from_slice(bytes),
        }
        while self.has_output() && !self.ended {
            if !self.turn(self.deadline) {
                return;
            }
        }
    }

    /// Close our sending direction.
    pub fn finish(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            self.send(b"");
        }
        let _ = self.sock.shutdown(Shutdown::Write);
    }

    /// Read until there are `count` bytes; false if they do not come within `limit`.
    pub fn read_until(&mut self, count: usize, limit: Duration) -> bool {
        let deadline = self.deadline.min(Instant::now() + limit);
        while self.inp.len() < count {
            if self.ended || !self.turn(deadline) {
                return false;
            }
        }
        true
    }

    fn has_output(&self) -> bool {
        !self.out.is_empty() || self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Write and read what can be; waits until something can, or says that nothing could.
    fn turn(&mut self, deadline: Instant) -> bool {
        loop {
            // Also where there is always something to do.
            if Instant::now() > self.deadline {
                return false;
            }
            match self.progress() {
                Ok(true) => return true,
                Ok(false) => {}
                Err(_) => {
                    self.ended = true;
                    return true;
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let events = match self.has_output() {
                true => libc::POLLIN | libc::POLLOUT,
                false => libc::POLLIN,
            };
            let mut poll = libc::pollfd {
                fd: self.sock.as_raw_fd(),
                events,
                revents: 0,
            };
            let limit = left.as_millis() as i32 + 1;
            // SAFETY: poll points to one pollfd that outlives the call.
            unsafe { libc::poll(&mut poll, 1, limit) };
        }
    }

    fn progress(&mut self) -> io::Result<bool> {
        let mut moved = false;
        if let Some(tls) = &mut self.tls {
            while tls.wants_write() {
                tls.write_tls(&mut self.out)?;
            }
        }
        while !self.out.is_empty() {
            match self.sock.write(&self.out) {
                Ok(sent) => moved |= self.out.drain(..sent).len() > 0,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                // What the peer said before it went is still to be read.
                Err(_) => self.out.clear(),
            }
        }
        let mut chunk = [0; 65_536];
        match self.sock.read(&mut chunk) {
            Ok(0) => self.ended = true,
            Ok(got) => self.take_in(&chunk[..got])?,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(moved),
            Err(e) => return Err(e),
        }
        Ok(true)
    }

    fn take_in(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            self.inp.extend_from_slice(bytes);
            return Ok(());
        };
        while !bytes.is_empty() {
            tls.read_tls(&mut bytes)?;
            let state = tls.process_new_packets().map_err(io::Error::other)?;
            let at = self.inp.len();
            self.inp.resize(at + state.plaintext_bytes_to_read(), 0);
            tls.reader().read_exact(&mut self.inp[at..])?;
            self.ended |= state.peer_has_closed();
        }
        Ok(())
    }
}
