//! `listen … ssl`: the handshake with a client, and what `stream` alone has of the `ssl_…`
//! directives; the others are in `ssl/`.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use crate::base::clock;
use crate::config::{Arity, Contexts, Node, Reader, Result, Row, value};
use crate::inherit;
use crate::observe::Level;
use crate::ssl::{self, Begun, Failed, Hello, Ocsp, Own, Secure, Secured, Speaks, Wire};
use crate::stream::client::Client;
use crate::stream::scope::{Compiler, Scope};
use crate::stream::serve::End;
use crate::stream::session::Session;
use crate::tls::Server;
use crate::tls::record::PLAIN_MAX;
use crate::upstream;
use crate::vars::Variable;

use super::ssl_preread;

const SS: Contexts = Contexts::STREAM.or(Contexts::STREAM_SERVER);

type R = Row<Scope>;

/// What `http` has too.
pub const SHARED_ROWS: &[Row<Scope>] = &ssl::rows(SS);

/// The directives of this module alone.
pub const ROWS: &[Row<Scope>] = &[
    R::time("ssl_handshake_timeout", SS, |s| {
        &mut s.ssl.handshake_timeout
    })
    .default("60s")
    .doc("Time for the whole handshake."),
    R::custom("ssl_alpn", SS, Arity::AtLeast(1), set_alpn)
        .doc("Protocols for ALPN, in order of preference; clients that offer others are refused."),
];

/// The variables of this module.
pub const VARIABLES: &[Variable<Session>] = &ssl::variables();

/// What is written in one block.
#[derive(Default)]
pub struct Raw {
    shared: ssl::Raw,
    handshake_timeout: Option<Duration>,
    alpn: Option<Vec<Vec<u8>>>,
}

/// How a server speaks TLS.
pub struct Conf {
    shared: ssl::Conf<Session>,
    handshake_timeout_ms: u64,
}

impl Speaks for Scope {
    fn ssl(&mut self) -> &mut ssl::Raw {
        &mut self.ssl.shared
    }
}

impl Secure for Session {
    fn secured(&self) -> Option<&Secured> {
        self.tls.as_deref()
    }

    fn set_secured(&mut self, secured: Option<Rc<Secured>>) {
        self.tls = secured;
    }

    fn log_error(&self, why: &str) {
        self.log(Level::Error, format_args!("{why}"));
    }
}

impl Raw {
    /// Fills what is not written here from `stream {}`.
    pub fn inherit(&mut self, parent: &Raw) {
        self.shared.inherit(&parent.shared);
        inherit!(self, parent; handshake_timeout, alpn);
    }

    /// Adds the zones named here.
    ///
    /// # Errors
    /// A zone is there already with another size.
    pub fn declare_zones(&self, common: &mut ssl::Common) -> Result<()> {
        self.shared.declare_zones(common)
    }

    /// The settings of a server, after inheritance.
    ///
    /// # Errors
    /// Those of [`ssl::Raw::compile`].
    pub fn compile(&self, c: &mut Compiler) -> Result<Conf> {
        let own = Own {
            alpn: self.alpn.clone().unwrap_or_default(),
            record_max: PLAIN_MAX,
            early_data: false,
        };
        let mut compiler = ssl::Compiler {
            reader: c.reader,
            vars: &mut c.vars,
            common: &mut c.ssl,
        };
        let timeout = self.handshake_timeout.unwrap_or(Duration::from_secs(60));
        Ok(Conf {
            shared: self.shared.compile(own, &mut compiler)?,
            handshake_timeout_ms: timeout.as_millis() as u64,
        })
    }
}

impl Conf {
    /// What `http` has too.
    pub fn shared(&self) -> &ssl::Conf<Session> {
        &self.shared
    }
}

/// The phase of TLS, where the session's listener has it: the handshake, and whether the client's
/// certificate is as the server wants it.
///
/// # Errors
/// 500, as in nginx: there is no session with this client. Why is in the log.
pub async fn run(s: &mut Session, client: &mut Client) -> std::result::Result<(), End> {
    let generation = s.generation();
    let timeout_ms = generation.server(s.server).ssl.handshake_timeout_ms;
    client
        .sock
        .set_deadline(Some(clock::now_ms().saturating_add(timeout_ms)));
    s.doing = "SSL handshaking";
    match shake(s, client).await {
        Ok(begun) => take_over(s, client, begun)?,
        Err(failed) => {
            s.log(Level::Info, format_args!("{failed}"));
            return Err(500);
        }
    }
    client.sock.set_deadline(None);
    // The name may have chosen another server.
    let verify = generation.server(s.server).ssl.shared.verify;
    if let Some(tls) = &s.tls
        && let Err(refused) = tls.admit(verify)
    {
        s.log(Level::Info, format_args!("{refused}"));
        return Err(500);
    }
    s.doing = "";
    Ok(())
}

/// Chooses the server by the name in the ClientHello, and makes the handshake as it wants it.
async fn shake(s: &mut Session, client: &mut Client) -> std::result::Result<Begun, Failed> {
    let Hello::Tls { name } = ssl::hello(client).await? else {
        return Err(Failed::because("wrong version number"));
    };
    ssl_preread::choose_server(s, name.as_bytes());
    let generation = s.generation();
    let listen = &generation.stream.listens[s.listen as usize];
    let default = generation.server(listen.default_server).ssl.shared();
    let conf = generation.server(s.server).ssl.shared.or(default);
    let mut begun = ssl::accept(s, client, conf, &name).await?;
    if let (Some(ocsp), Some(server)) = (&conf.ocsp, &conf.server) {
        ask_status(s, ocsp, server, &mut begun.secured).await;
    }
    Ok(begun)
}

/// Asks whether the client's certificate was revoked; its session waits for that.
async fn ask_status(s: &Session, ocsp: &Ocsp, server: &Server, secured: &mut Secured) {
    if secured.verified.is_err() || secured.session.certificates.is_empty() {
        return;
    }
    let resolver = &s.generation.server(s.server).proxy.resolver;
    let sent = &secured.session.certificates;
    let ask = async |inquiry| upstream::ocsp::ask(inquiry, resolver.clone()).await;
    let told = |why: &str| s.log(Level::Error, format_args!("{why}"));
    secured.status = ocsp.check(server, sent, ask, told).await;
}

/// From here on everything goes through the record layer.
fn take_over(s: &mut Session, client: &mut Client, begun: Begun) -> std::result::Result<(), End> {
    s.tls = Some(Rc::new(begun.secured));
    let received = std::mem::replace(&mut client.input, begun.plain);
    client.tls = Some(begun.transport);
    client.take_in(&received).map_err(|error| {
        s.log(
            Level::Info,
            format_args!("SSL_read() failed (SSL: {error})"),
        );
        500
    })
}

impl Wire for Client {
    fn input(&mut self) -> &mut Vec<u8> {
        &mut self.input
    }

    async fn fill(&mut self) -> io::Result<usize> {
        Client::fill(self).await
    }

    async fn take_out(&mut self) -> io::Result<Vec<u8>> {
        Ok(Vec::new())
    }

    async fn send(&mut self, out: Vec<u8>) -> io::Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        self.sock.send(out).await.0.map(drop)
    }

    fn timed_out(&self) -> bool {
        self.sock.timed_out()
    }
}

fn set_alpn(_: &mut Reader, s: &mut Scope, node: &Node) -> Result<()> {
    let protocols = ssl::protocols(node)?;
    value::once(&mut s.ssl.alpn, protocols, node)
}
