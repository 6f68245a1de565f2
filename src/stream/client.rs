//! The client's end of a session until it is relayed: the connection, and what was read ahead.

use std::io;

use crate::ring::{Chunk, Class, Expect, Recv, Socket};

/// A client's connection with what was read of it and not passed on.
pub struct Client {
    /// The connection.
    pub sock: Socket,
    /// Bytes that were read and not consumed: looked at by preread, first to be passed on.
    pub input: Vec<u8>,
    /// A read under way.
    recv: Option<Recv>,
}

impl Client {
    /// Takes over an accepted connection.
    pub fn new(sock: Socket) -> Client {
        Client {
            sock,
            input: Vec::new(),
            recv: None,
        }
    }

    /// Takes over a connection of which something was read already.
    pub fn passed(sock: Socket, early: &[u8], recv: Option<Recv>) -> Client {
        Client {
            sock,
            input: early.to_vec(),
            recv,
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
    /// What recv(2) reported. A deadline that expired shows as the end, see `Socket::timed_out`.
    pub async fn fill(&mut self) -> io::Result<usize> {
        let sock = &self.sock;
        let recv = self
            .recv
            .get_or_insert_with(|| sock.recv(Expect::Now, Class::Small));
        let result = recv.await;
        self.recv = None;
        let chunk = result?;
        self.input.extend_from_slice(&chunk);
        Ok(chunk.len())
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
