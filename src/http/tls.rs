//! TLS on a client's connection: the handshake, and what it decides about requests.

use std::io;
use std::rc::Rc;

use crate::base::clock;
use crate::observe::Level;
use crate::ring::Expect;
use crate::ssl::{self, Begun, Failed, Hello, Ocsp, Refused, Secured, Verify, Wire};
use crate::tls::Server;
use crate::upstream;

use super::client::Client;
use super::exchange::Exchange;
use super::route;

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

/// Makes the handshake with a client that has just connected, within `client_header_timeout`.
pub async fn begin(ex: &mut Exchange, client: &mut Client) -> Beginning {
    let timeout_ms = ex.generation.server(ex.server).client.header_timeout_ms;
    client.set_deadline(Some(clock::now_ms() + timeout_ms));
    ex.doing = "SSL handshaking";
    match shake(ex, &mut Unsecured { client, timeout_ms }).await {
        Ok(None) => {
            client.set_deadline(None);
            Beginning::Plain
        }
        Ok(Some(begun)) => {
            client.set_deadline(None);
            take_over(ex, client, begun);
            Beginning::Secured
        }
        Err(failed) => {
            ex.log(Level::Info, format_args!("{failed} while {}", ex.doing));
            Beginning::Over
        }
    }
}

/// The client's connection during the handshake.
struct Unsecured<'c> {
    client: &'c mut Client,
    timeout_ms: u64,
}

impl Wire for Unsecured<'_> {
    fn input(&mut self) -> &mut Vec<u8> {
        &mut self.client.input
    }

    async fn fill(&mut self) -> io::Result<usize> {
        self.client.fill(Expect::Later).await
    }

    async fn take_out(&mut self) -> io::Result<Vec<u8>> {
        self.client.take_out().await
    }

    async fn send(&mut self, out: Vec<u8>) -> io::Result<()> {
        if out.is_empty() {
            self.client.put_out(out);
            return Ok(());
        }
        self.client.send(out, self.timeout_ms).await
    }

    fn timed_out(&self) -> bool {
        self.client.timed_out()
    }
}

/// Chooses the server by the name in the ClientHello, and makes the handshake as it wants it. None
/// without TLS.
async fn shake(ex: &mut Exchange, wire: &mut Unsecured<'_>) -> Result<Option<Begun>, Failed> {
    let Hello::Tls { name } = ssl::hello(wire).await? else {
        return Ok(None);
    };
    let generation = ex.generation();
    route::choose_first_server(ex, &name);
    let listen = &generation.http.listens[ex.listen as usize];
    let own = generation.server(ex.server);
    let settings = match own.ssl.server {
        Some(_) => own,
        None => generation.server(listen.default_server),
    };
    let conf = &settings.ssl;
    let server = if listen.http2 || own.http2.enabled {
        &settings.http2.tls
    } else {
        &conf.server
    };
    let mut begun = ssl::accept_as(ex, wire, conf, server.as_deref(), &name).await?;
    if let (Some(ocsp), Some(server)) = (&conf.ocsp, &conf.server) {
        // Its own future: few connections need the place for it.
        Box::pin(ask_status(ex, ocsp, server, &mut begun.secured)).await;
    }
    Ok(Some(begun))
}

/// Asks whether the client's certificate was revoked; its requests wait for that.
async fn ask_status(ex: &Exchange, ocsp: &Ocsp, server: &Server, secured: &mut Secured) {
    if secured.verified.is_err() || secured.session.certificates.is_empty() {
        return;
    }
    let resolver = &ex.generation.location(ex.location).core.resolver;
    let sent = &secured.session.certificates;
    let ask = async |inquiry| upstream::ocsp::ask(inquiry, resolver.clone()).await;
    let told = |why: &str| ex.log(Level::Error, format_args!("{why}"));
    secured.status = ocsp.check(server, sent, ask, told).await;
}

/// From here on everything goes through the record layer.
fn take_over(ex: &mut Exchange, client: &mut Client, begun: Begun) {
    ex.client.tls = Some(Rc::new(begun.secured));
    let received = std::mem::replace(&mut client.input, begun.plain);
    client.encrypt(begun.transport);
    client.take_in(&received);
}

/// Whether the handshake has settled on HTTP/2.
pub fn agreed_on_h2(ex: &Exchange) -> bool {
    let tls = ex.client.tls.as_ref();
    tls.is_some_and(|tls| *tls.session.alpn == *b"h2")
}

/// Whether a request may go on, by what its server demands of TLS; otherwise the status to refuse
/// it with. Why is in the log.
///
/// # Errors
/// 495, 496 and 497 as in nginx, and 421 for a server whose demands were not made in the handshake.
pub fn admit(ex: &Exchange) -> Result<(), u16> {
    let generation = &ex.generation;
    let refused = |status: u16, why: &dyn std::fmt::Display| {
        ex.log(Level::Info, format_args!("{why} while {}", ex.doing));
        Err(status)
    };
    let Some(tls) = &ex.client.tls else {
        if generation.http.listens[ex.listen as usize].ssl {
            return refused(497, &"client sent plain HTTP request to HTTPS port");
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
        return refused(421, &why);
    }
    match tls.admit(verify) {
        Ok(()) => Ok(()),
        Err(why @ (Refused::Invalid(_) | Refused::Unproven(_))) => refused(495, &why),
        Err(why @ Refused::Missing) => refused(496, &why),
    }
}
