//! TLS on a client's connection: the handshake, and what it decides about requests.

use std::rc::Rc;

use rustls::pki_types::UnixTime;

use crate::base::client_hello::{self, ClientHello, Parsed};
use crate::base::clock;
use crate::observe::Level;
use crate::ring::Expect;
use crate::tls::verify::Failure;
use crate::tls::{Established, Handshake, Progress, Server, Session, Transport, x509};

use super::client::Client;
use super::exchange::Exchange;
use super::modules::ssl::Verify;
use super::route;

/// What is known of a connection with TLS.
pub struct Secured {
    /// What was agreed.
    pub session: Session,
    /// Whether the client's certificate is valid, if it has one.
    pub verified: Result<(), Failure>,
}

impl Secured {
    /// What is known when the client has said which server it wants.
    fn named(name: &str) -> Secured {
        Secured {
            session: Session {
                server_name: name.into(),
                ..Session::default()
            },
            verified: Ok(()),
        }
    }
}

/// How a connection to an address with `listen … ssl` begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// With TLS, which stands.
    Secured,
    /// Without TLS; its requests are refused.
    Plain,
    /// It is over.
    Over,
}

/// A ClientHello has at most so many bytes, post-quantum keys and all.
const HELLO_MAX: usize = 32 << 10;

/// The first byte of a TLS record with a handshake message.
const HANDSHAKE: u8 = 22;

/// A fatal alert in plain text: nobody is here under this name.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// Makes the handshake with a client that has just connected, within `client_header_timeout`.
pub async fn begin(ex: &mut Exchange, client: &mut Client) -> Beginning {
    let generation = ex.generation();
    let timeout = generation.server(ex.server).client.header_timeout_ms;
    client.set_deadline(Some(clock::now_ms() + timeout));
    ex.doing = "SSL handshaking";
    let hello = match hello(ex, client).await {
        Ok(hello) => hello,
        Err(beginning) => return beginning,
    };
    let name = String::from_utf8_lossy(&hello.server_name).into_owned();
    if name.contains(['/', '\0']) || name.starts_with('.') {
        return failed(ex, "bad server name");
    }
    route::choose_first_server(ex, &name);
    let listen = &generation.http.listens[ex.listen as usize];
    let own = &generation.server(ex.server).ssl;
    let default = &generation.server(listen.default_server).ssl;
    let conf = if own.server.is_some() { own } else { default };
    let Some(server) = &conf.server else {
        return failed(ex, "no certificate for this name");
    };
    if server.reject {
        let _ = client.send(UNRECOGNIZED_NAME.to_vec(), timeout).await;
        return failed(ex, "handshake rejected");
    }
    let loaded;
    let server = match &conf.dynamic {
        None => &**server,
        Some(dynamic) => {
            // For the variables in the paths.
            ex.client.tls = Some(Rc::new(Secured::named(&name)));
            let with_certificates = dynamic.load(ex, server).await;
            ex.client.tls = None;
            let Some(with_certificates) = with_certificates else {
                return failed(ex, "no certificate");
            };
            loaded = with_certificates;
            &loaded
        }
    };
    let Some(established) = shake(ex, client, server, &name, timeout).await else {
        return Beginning::Over;
    };
    client.set_deadline(None);
    take_over(ex, client, server, established);
    Beginning::Secured
}

/// Reads the ClientHello, which stays in the client's input.
async fn hello(ex: &Exchange, client: &mut Client) -> Result<ClientHello, Beginning> {
    loop {
        if let Some(&first) = client.input.first()
            && first != HANDSHAKE
            && first & 0x80 == 0
        {
            client.set_deadline(None);
            return Err(Beginning::Plain);
        }
        match client_hello::parse(&client.input) {
            Parsed::Hello(hello) => return Ok(hello),
            Parsed::NotHello => return Err(failed(ex, "no ClientHello")),
            Parsed::Partial if client.input.len() > HELLO_MAX => {
                return Err(failed(ex, "ClientHello too large"));
            }
            Parsed::Partial => more(ex, client).await.ok_or(Beginning::Over)?,
        }
    }
}

/// Waits for more of the handshake. `None`: the connection is over, which is in the log.
async fn more(ex: &Exchange, client: &mut Client) -> Option<()> {
    match client.fill(Expect::Later).await {
        Ok(1..) => return Some(()),
        _ if client.timed_out() => ex.log(
            Level::Info,
            format_args!(
                "client timed out (110: Connection timed out) while {}",
                ex.doing
            ),
        ),
        Ok(_) => ex.log(
            Level::Info,
            format_args!("peer closed connection in SSL handshake while {}", ex.doing),
        ),
        Err(error) => ex.log(
            Level::Info,
            format_args!(
                "peer closed connection in SSL handshake {} while {}",
                crate::observe::os_error(&error),
                ex.doing
            ),
        ),
    }
    None
}

fn failed(ex: &Exchange, why: &str) -> Beginning {
    let doing = ex.doing;
    ex.log(
        Level::Info,
        format_args!("SSL_do_handshake() failed (SSL: {why}) while {doing}"),
    );
    Beginning::Over
}

/// The handshake from the ClientHello to the client's last word. `None`: it failed, which is in
/// the log.
async fn shake(
    ex: &Exchange,
    client: &mut Client,
    server: &Server,
    name: &str,
    timeout_ms: u64,
) -> Option<Established> {
    let mut handshake = match Handshake::new(server, name) {
        Ok(handshake) => handshake,
        Err(error) => {
            failed(ex, &error.to_string());
            return None;
        }
    };
    loop {
        let mut out = client.take_out().await.ok()?;
        let mut input = std::mem::take(&mut client.input);
        let progress = handshake.advance(&mut input, &mut out);
        client.input = input;
        if out.is_empty() {
            client.put_out(out);
        } else if client.send(out, timeout_ms).await.is_err() {
            return None;
        }
        match progress {
            Ok(Progress::Waits) => more(ex, client).await?,
            Ok(Progress::Done) => break,
            Err(error) => {
                failed(ex, &error.to_string());
                return None;
            }
        }
    }
    match handshake.finish() {
        Ok(established) => Some(established),
        Err(error) => {
            failed(ex, &error.to_string());
            None
        }
    }
}

/// From here on everything goes through the record layer.
fn take_over(ex: &mut Exchange, client: &mut Client, server: &Server, established: Established) {
    let Established {
        records,
        session,
        plain,
        peer_closed,
    } = established;
    let verified = match &server.trust {
        Some(trust) if !session.certificates.is_empty() => {
            trust.verify(&session.certificates, x509::CLIENT_AUTH, UnixTime::now())
        }
        _ => Ok(()),
    };
    ex.client.tls = Some(Rc::new(Secured { session, verified }));
    let received = std::mem::replace(&mut client.input, plain);
    client.encrypt(Transport::new(records, Vec::new()));
    client.take_in(&received);
    client.closed |= peer_closed;
}

/// Whether a request may go on, by what its server demands of TLS; otherwise the status to refuse
/// it with. Why is in the log.
///
/// # Errors
/// 495, 496 and 497 as in nginx, and 421 for a server whose demands were not made in the handshake.
pub fn admit(ex: &Exchange) -> Result<(), u16> {
    let generation = &ex.generation;
    let refused = |status: u16, why: &str| {
        ex.log(Level::Info, format_args!("{why} while {}", ex.doing));
        Err(status)
    };
    let Some(tls) = &ex.client.tls else {
        if generation.http.listens[ex.listen as usize].ssl {
            return refused(497, "client sent plain HTTP request to HTTPS port");
        }
        return Ok(());
    };
    let verify = generation.server(ex.server).ssl.verify;
    if verify == Verify::Off {
        return Ok(());
    }
    let name = tls.session.server_name.as_bytes();
    if !name.is_empty()
        && !ex.request.host.is_empty()
        && !name.eq_ignore_ascii_case(&ex.request.host)
    {
        let why = "client attempted to request the server name different from the one that was \
                   negotiated";
        return refused(421, why);
    }
    match tls.verified {
        Err(failure) if verify == Verify::OptionalNoCa && failure.is_about_authority() => {}
        Err(failure) => {
            let (number, reason) = (failure.number(), failure.reason());
            let why = format!("client SSL certificate verify error: ({number}:{reason})");
            return refused(495, &why);
        }
        Ok(()) => {}
    }
    if verify == Verify::On && tls.session.certificates.is_empty() {
        return refused(496, "client sent no required SSL certificate");
    }
    Ok(())
}
