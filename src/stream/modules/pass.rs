//! `pass`: hands a connection to another listening address of this process, as if it had been
//! accepted there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;

use crate::base::listen::ListenAddr;
use crate::base::remote::Remote;
use crate::config::{ConfigError, Contexts, Result, Row, Word};
use crate::limits::conn::Counted;
use crate::observe::Level;
use crate::ring::{Chunk, Recv, Socket};
use crate::ssl::Secured;
use crate::stream::scope::{Compiler, Scope};
use crate::stream::serve::End;
use crate::stream::session::Session;
use crate::tls::Transport;
use crate::upstream::{PeerAddr, Target};
use crate::vars::Template;

/// The directives of this module.
pub const ROWS: &[Row<Scope>] =
    &[
        Row::word("pass", Contexts::STREAM_SERVER, |s: &mut Scope| &mut s.pass)
            .doc("Hands connections to another listening address of this process."),
    ];

/// Where a connection is handed to.
pub enum Conf {
    /// To an address that is known when the configuration is read.
    Addr(ListenAddr),
    /// To what a text with variables comes to.
    Dynamic(Template<Session>),
}

/// A connection that changes its listening address. Nothing that was read of it is lost.
pub struct Passed {
    /// The connection.
    pub sock: Socket,
    /// Who is at its other end.
    pub remote: Remote,
    /// What was read already and belongs to whoever serves it now.
    pub early: Chunk,
    /// A read that is under way.
    pub recv: Option<Recv>,
    /// What encrypts it, if anything does, and what is known of that. `early` is plain then.
    pub tls: Option<(Rc<Secured>, Box<Transport>)>,
    /// What it is counted for where it came from, as long as it lasts.
    pub held: Counted,
    /// How often it was handed on.
    pub passes: u8,
}

/// Who serves the listening addresses of this process.
pub trait Doors {
    /// Whether somebody listens there.
    fn has(&self, addr: &ListenAddr) -> bool;

    /// Takes a connection that was handed to an address somebody listens at.
    fn take(&self, addr: Rc<ListenAddr>, passed: Passed);
}

/// Connections that go round in circles end after so many, as in nginx.
const PASSES_MAX: u8 = 10;

/// The compiled argument.
///
/// # Errors
/// What is no address with a port.
pub fn compile(word: &Word, c: &mut Compiler) -> Result<Conf> {
    let text = word.text();
    if text.contains('$') {
        return c.template(word).map(Conf::Dynamic);
    }
    match parse(&text) {
        Ok(addr) => Ok(Conf::Addr(addr)),
        Err(what @ (NO_ADDRESSES | NO_PORT)) => {
            let message = format!("\"pass\" directive has {what}");
            Err(ConfigError::at(word.span, message))
        }
        Err(what) => {
            let message = format!("{what} in \"{text}\" of the \"pass\" directive");
            Err(ConfigError::at(word.span, message))
        }
    }
}

/// Finds the listening address that the session's connection goes to.
///
/// # Errors
/// The session's status.
pub fn run(s: &mut Session, conf: &Conf) -> std::result::Result<Rc<ListenAddr>, End> {
    s.doing = "passing connection to port";
    let addr = match conf {
        Conf::Addr(addr) => addr.clone(),
        Conf::Dynamic(template) => template.with(s, |s, value| {
            let text = String::from_utf8_lossy(value);
            parse(&text).map_err(|what| {
                s.log(Level::Error, format_args!("{what} in pass \"{text}\""));
                500u16
            })
        })?,
    };
    if s.passes >= PASSES_MAX {
        s.log(Level::Error, format_args!("stream pass cycle"));
        return Err(500);
    }
    let doors = s.local.doors();
    let found = doors.and_then(|doors| {
        let candidates = [Some(addr.clone()), wildcard(&addr)];
        candidates
            .into_iter()
            .flatten()
            .find(|addr| doors.has(addr))
    });
    found.map(Rc::new).ok_or_else(|| {
        s.log(Level::Error, format_args!("port not found for \"{addr}\""));
        200
    })
}

const NO_ADDRESSES: &str = "no addresses";
const NO_PORT: &str = "no port";

fn parse(text: &str) -> std::result::Result<ListenAddr, &'static str> {
    match Target::parse(text, 0)? {
        Target::Addr(PeerAddr::Unix(path)) => Ok(ListenAddr::Unix(path.to_path_buf())),
        Target::Addr(PeerAddr::Inet(addr)) if addr.port() > 0 => Ok(ListenAddr::Inet(addr)),
        Target::Addr(_) => Err(NO_PORT),
        Target::Name { .. } => Err(NO_ADDRESSES),
    }
}

/// The address that stands for all of the machine's, at the same port.
fn wildcard(addr: &ListenAddr) -> Option<ListenAddr> {
    let addr = addr.inet()?;
    let ip = match addr.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    Some(ListenAddr::Inet(SocketAddr::new(ip, addr.port())))
}
