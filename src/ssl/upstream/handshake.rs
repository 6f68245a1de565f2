//! The handshake with an upstream server that has just been connected to.

use std::fmt;
use std::io;

use crate::observe::os_error;
use crate::ring::{Class, Expect, Socket};
use crate::tls::{
    Client, ClientHandshake, Established, Progress, Refused, Session, Target, Transport,
};

/// A connection from its handshake on.
pub struct Begun {
    /// What was agreed.
    pub session: Session,
    /// What encrypts it.
    pub transport: Box<Transport>,
    /// What the server has sent behind its side of the handshake already.
    pub plain: Vec<u8>,
}

/// Why there is no connection with TLS. `Display` is nginx's message, without what was done
/// meanwhile.
#[derive(Debug)]
pub enum Failed {
    /// The server has not said enough in time.
    TimedOut,
    /// The server has closed the connection.
    Closed,
    /// The connection has failed.
    Lost(io::Error),
    /// One of us has found something wrong.
    Refused(Refused),
    /// What the server has sent behind the handshake is broken.
    Broken(&'static str),
}

/// A handshake of a server has at most so many bytes: a long chain of certificates.
const INPUT_MAX: usize = 256 << 10;

/// Makes a handshake. The deadline of the socket is the caller's to set, and to take away.
///
/// # Errors
/// It failed; the server was told why.
pub async fn shake(sock: &Socket, client: &Client, target: Target<'_>) -> Result<Begun, Failed> {
    let mut handshake = Box::new(ClientHandshake::new(client, target)?);
    let (mut input, mut out) = (Vec::new(), Vec::new());
    loop {
        let progress = handshake.advance(&mut input, &mut out);
        if !out.is_empty() {
            let (sent, buffer) = sock.send(out).await;
            out = buffer;
            out.clear();
            // A server that has closed may have said why: that is read first.
            if progress.is_ok() && sent.is_err() && sock.timed_out() {
                return Err(Failed::TimedOut);
            }
        }
        match progress? {
            Progress::Done => break,
            Progress::Waits if input.len() > INPUT_MAX => {
                return Err(Failed::Broken("message too large"));
            }
            Progress::Waits => {}
        }
        match sock.recv(Expect::Later, Class::Small).await {
            Ok(chunk) if !chunk.is_empty() => input.extend_from_slice(&chunk),
            _ if sock.timed_out() => return Err(Failed::TimedOut),
            Ok(_) => return Err(Failed::Closed),
            Err(error) => return Err(Failed::Lost(error)),
        }
    }
    take_over(*handshake, &input)
}

/// Leaves a handshake that is done, with what has come behind it.
fn take_over(handshake: ClientHandshake, input: &[u8]) -> Result<Begun, Failed> {
    let Established {
        records,
        session,
        mut plain,
    } = handshake.finish()?;
    let mut transport = Transport::new(records, Vec::new());
    let opened = transport.open(input, &mut plain);
    opened.map_err(|broken| Failed::Broken(broken.reason()))?;
    if transport.is_closed() {
        return Err(Failed::Closed);
    }
    Ok(Begun {
        session,
        transport,
        plain,
    })
}

impl Failed {
    /// Whether it took too long.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Failed::TimedOut)
    }
}

impl From<Refused> for Failed {
    fn from(refused: Refused) -> Failed {
        Failed::Refused(refused)
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failed::TimedOut => f.write_str("upstream timed out (110: Connection timed out)"),
            Failed::Closed => f.write_str("peer closed connection in SSL handshake"),
            Failed::Lost(error) => {
                let shown = os_error(error);
                write!(f, "peer closed connection in SSL handshake {shown}")
            }
            Failed::Refused(refused) => write!(f, "{refused}"),
            Failed::Broken(why) => write!(f, "SSL_do_handshake() failed (SSL: {why})"),
        }
    }
}
