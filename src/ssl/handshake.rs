//! The handshake with a client that has just connected.

use std::fmt;
use std::io;
use std::rc::Rc;

use rustls::pki_types::UnixTime;

use super::{Conf, Secure, Secured, gate};
use crate::base::client_hello::{self, Flaw, Parsed};
use crate::observe::os_error;
use crate::tls::{Established, Handshake, Progress, Server, Transport, x509};

/// A client's connection before it is encrypted. Whoever owns it has set the deadline.
pub trait Wire {
    /// What was received and not used.
    fn input(&mut self) -> &mut Vec<u8>;

    /// Waits for more, and appends it to the input. 0 is the end.
    fn fill(&mut self) -> impl Future<Output = io::Result<usize>>;

    /// An empty buffer for [`Wire::send`].
    fn take_out(&mut self) -> impl Future<Output = io::Result<Vec<u8>>>;

    /// Sends all of it, and keeps the buffer for [`Wire::take_out`]; nothing may be in it.
    fn send(&mut self, out: Vec<u8>) -> impl Future<Output = io::Result<()>>;

    /// Its deadline is over.
    fn timed_out(&self) -> bool;
}

/// How a connection to an address with `listen … ssl` begins.
pub enum Hello {
    /// With a ClientHello, which stays in the input.
    Tls {
        /// The server it asks for; empty if it does not say.
        name: String,
    },
    /// Without TLS.
    Plain,
}

/// A connection from its handshake on.
pub struct Begun {
    /// What is known of it.
    pub secured: Secured,
    /// What encrypts it. What is left of the input goes through it.
    pub transport: Box<Transport>,
    /// What the client has sent behind its side of the handshake already.
    pub plain: Vec<u8>,
}

/// Why there is no connection with TLS. `Display` is nginx's message for its log at `info`, without
/// what was done meanwhile.
#[derive(Debug)]
pub enum Failed {
    /// The client has not said enough in time.
    TimedOut,
    /// The client has closed the connection.
    Closed,
    /// The connection has failed.
    Lost(io::Error),
    /// One of us has found something wrong.
    Refused(String),
}

impl Failed {
    /// For a reason that is not the client's.
    pub fn because(why: impl fmt::Display) -> Failed {
        Failed::Refused(why.to_string())
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failed::TimedOut => f.write_str("client timed out (110: Connection timed out)"),
            Failed::Closed => f.write_str("peer closed connection in SSL handshake"),
            Failed::Lost(error) => {
                let shown = os_error(error);
                write!(f, "peer closed connection in SSL handshake {shown}")
            }
            Failed::Refused(why) => write!(f, "SSL_do_handshake() failed (SSL: {why})"),
        }
    }
}

/// A ClientHello has at most so many bytes, post-quantum keys and all.
const HELLO_MAX: usize = 32 << 10;

/// The first byte of a TLS record with a handshake message.
const HANDSHAKE: u8 = 22;

/// The least version that is spoken, as on the wire.
const TLS_1_2: [u8; 2] = [3, 3];

/// A fatal alert: nobody is here under this name.
const UNRECOGNIZED_NAME: u8 = 112;

/// Reads the ClientHello, which stays in the input.
///
/// # Errors
/// None comes, or it is none.
pub async fn hello(wire: &mut impl Wire) -> Result<Hello, Failed> {
    loop {
        let input = wire.input();
        if let Some(&first) = input.first()
            && first != HANDSHAKE
            && first & 0x80 == 0
        {
            return Ok(Hello::Plain);
        }
        match client_hello::parse(input) {
            Parsed::Hello(hello) if hello.version < TLS_1_2 => {
                return refuse(wire, 70, "unsupported protocol").await;
            }
            Parsed::Hello(hello) => {
                let name = String::from_utf8_lossy(&hello.server_name).into_owned();
                if name.contains(['/', '\0']) || name.starts_with('.') {
                    return refuse(wire, UNRECOGNIZED_NAME, "bad server name").await;
                }
                return Ok(Hello::Tls { name });
            }
            Parsed::NotHello(flaw) => {
                return match flaw {
                    Flaw::Version => refuse(wire, 70, "wrong version number").await,
                    Flaw::Unexpected => refuse(wire, 10, "unexpected message").await,
                    Flaw::Overflow => refuse(wire, 22, "record too large").await,
                    Flaw::Damaged => refuse(wire, 50, "ClientHello cannot be decoded").await,
                };
            }
            Parsed::Partial if input.len() > HELLO_MAX => {
                return refuse(wire, 47, "ClientHello too large").await;
            }
            Parsed::Partial => more(wire).await?,
        }
    }
}

/// Ends a handshake that has not begun, with an alert (RFC 8446, 6.2).
async fn refuse<T>(wire: &mut impl Wire, alert: u8, why: &str) -> Result<T, Failed> {
    let _ = wire.send(vec![21, 3, 3, 0, 2, 2, alert]).await;
    Err(Failed::because(why))
}

/// Makes the handshake as a server wants it that the client knows by this name. `s` is who is
/// served.
///
/// # Errors
/// It failed; the client was told why.
pub async fn accept<S: Secure>(
    s: &mut S,
    wire: &mut impl Wire,
    conf: &Conf<S>,
    name: &str,
) -> Result<Begun, Failed> {
    accept_as(s, wire, conf, conf.server.as_deref(), name).await
}

/// As [`accept`], as another form of the same server: `server` is in the place of its own.
///
/// # Errors
/// It failed; the client was told why.
pub async fn accept_as<S: Secure>(
    s: &mut S,
    wire: &mut impl Wire,
    conf: &Conf<S>,
    server: Option<&Server>,
    name: &str,
) -> Result<Begun, Failed> {
    let Some(server) = server else {
        return Err(Failed::because("no certificate for this name"));
    };
    let Some(dynamic) = conf.dynamic.as_ref().filter(|_| !server.reject) else {
        return shake(wire, server, name).await;
    };
    // For the variables in the paths.
    s.set_secured(Some(Rc::new(Secured::named(name))));
    let loaded = dynamic.load(s, server).await;
    s.set_secured(None);
    let server = loaded.map_err(|why| {
        s.log_error(&why);
        Failed::because("no certificate")
    })?;
    shake(wire, &server, name).await
}

/// The handshake from the ClientHello to the client's last word.
async fn shake(wire: &mut impl Wire, server: &Server, name: &str) -> Result<Begun, Failed> {
    if server.reject {
        return refuse(wire, UNRECOGNIZED_NAME, "handshake rejected").await;
    }
    let mut handshake = Handshake::new(server, name).map_err(Failed::because)?;
    gate::pass().await;
    loop {
        let mut out = wire.take_out().await.map_err(Failed::Lost)?;
        let progress = handshake.advance(wire.input(), &mut out);
        wire.send(out).await.map_err(Failed::Lost)?;
        match progress {
            Ok(Progress::Waits) => more(wire).await?,
            Ok(Progress::Done) => break,
            Err(error) => return Err(Failed::because(error)),
        }
    }
    let established = handshake.finish().map_err(Failed::because)?;
    Ok(take_over(server, established))
}

/// Leaves a handshake that is done.
fn take_over(server: &Server, established: Established) -> Begun {
    let Established {
        records,
        session,
        plain,
    } = established;
    let verified = match &server.trust {
        Some(trust) if !session.certificates.is_empty() => {
            trust.verify(&session.certificates, x509::CLIENT_AUTH, UnixTime::now())
        }
        _ => Ok(()),
    };
    Begun {
        secured: Secured {
            session,
            verified,
            status: Ok(()),
        },
        transport: Transport::new(records, Vec::new()),
        plain,
    }
}

async fn more(wire: &mut impl Wire) -> Result<(), Failed> {
    match wire.fill().await {
        Ok(1..) => Ok(()),
        _ if wire.timed_out() => Err(Failed::TimedOut),
        Ok(_) => Err(Failed::Closed),
        Err(error) => Err(Failed::Lost(error)),
    }
}
