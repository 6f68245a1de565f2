//! The client's end of a session until it is relayed: the connection, and what was read ahead.

use std::io;

use crate::ring::{Chunk, Class, Expect, Recv, Socket};
use crate::tls::Transport;

/// A client's connection with what was read of it and not passed on.
pub struct Client {
    /// The connection.
    pub sock: Socket,
    /// Bytes that were read and not consumed: looked at by preread, first to be passed on.
    pub input: Vec<u8>,
    /// What encrypts the connection, once the handshake is over.
    pub tls: Option<Box<Transport>>,
    /// A read under way.
    recv: Option<Recv>,
}

impl Client {
    /// Takes over an accepted connection.
    pub fn new(sock: Socket) -> Client {
        Client {
            sock,
            input: Vec::new(),
            tls: None,
            recv: None,
        }
    }

    /// Takes over a connection of which something was read already.
    pub fn passed(
        sock: Socket,
        early: &[u8],
        recv: Option<Recv>,
        tls: Option<Box<Transport>>,
    ) -> Client {
        Client {
            input: early.to_vec(),
            tls,
            recv,
            ..Client::new(sock)
        }
    }

    /// Starts the read that will deliver what comes next, if none is under way.
    pub fn listen(&mut self) {
        let sock = &self.sock;
        self.recv
            .get_or_insert_with(|| sock.recv(Expect::Later, Class::Small));
    }

    /// Waits for bytes and appends them to `input`. Returns how many came; 0 is the end.
    ///
    /// # Errors
    /// What recv(2) reported, or [`crate::relay::is_broken`]. A deadline that expired shows as the
    /// end, see `Socket::timed_out`.
    pub async fn fill(&mut self) -> io::Result<usize> {
        loop {
            if self.tls.as_ref().is_some_and(|tls| tls.is_closed()) {
                return Ok(0);
            }
            let sock = &self.sock;
            let recv = self
                .recv
                .get_or_insert_with(|| sock.recv(Expect::Now, Class::Small));
            let result = recv.await;
            self.recv = None;
            let chunk = result?;
            let before = self.input.len();
            self.take_in(&chunk)?;
            let more = self.input.len() - before;
            // Of a record that has not come whole there is nothing yet.
            if more > 0 || chunk.is_empty() {
                return Ok(more);
            }
        }
    }

    /// Appends to `input` what is in the bytes received.
    ///
    /// # Errors
    /// It is no TLS, where there should be some. The client is told so.
    pub fn take_in(&mut self, received: &[u8]) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            self.input.extend_from_slice(received);
            return Ok(());
        };
        let opened = tls.open(received, &mut self.input);
        opened.map_err(|broken| {
            // It goes on by itself, and the connection closes behind it.
            drop(self.sock.send(tls.seal_alert(broken)));
            io::Error::new(io::ErrorKind::InvalidData, broken.reason())
        })
    }

    /// Sends all of it.
    ///
    /// # Errors
    /// What send(2) reported.
    pub async fn send(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        let bytes = match &mut self.tls {
            Some(tls) => tls.seal(&bytes),
            None => bytes,
        };
        self.sock.send(bytes).await.0.map(drop)
    }

    /// Tells the client that nothing more will come, where TLS has a word for it.
    pub fn say_end(&mut self) {
        if let Some(mut tls) = self.tls.take() {
            // It goes on by itself, and the connection closes behind it.
            drop(self.sock.send(tls.seal_close()));
        }
    }

    /// What the relay goes on with: the bytes read ahead, and the read under way.
    pub fn take_input(&mut self) -> (Chunk, Option<Recv>) {
        let input = std::mem::take(&mut self.input);
        let early = match input.is_empty() {
            true => Chunk::empty(),
            false => Chunk::from(input),
        };
        (early, self.recv.take())
    }
}
