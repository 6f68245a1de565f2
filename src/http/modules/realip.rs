//! `set_real_ip_from` and its relatives: the client's address as a trusted proxy tells it.

use std::mem;

use crate::base::network::{self, Network};
use crate::config::{Arity, Contexts, Node, Reader, Result, Row, value};
use crate::http::exchange::{Exchange, Remote};
use crate::http::scope::Scope;
use crate::inherit;
use crate::upstream::address::proxies;

const HSL: Contexts = Contexts::HTTP.or(Contexts::SERVER).or(Contexts::LOCATION);

type R = Row<Scope>;

/// The directives of this module.
pub const ROWS: &[Row<Scope>] = &[
    R::custom("set_real_ip_from", HSL, Arity::One, |reader, s, node| {
        proxies(reader, &mut s.realip.from, node)
    })
    .doc("A proxy that is trusted to tell the client's address."),
    R::custom("real_ip_header", HSL, Arity::One, read_header)
        .default("X-Real-IP")
        .doc("The field the client's address is taken from, or the PROXY protocol."),
    R::flag("real_ip_recursive", HSL, |s| &mut s.realip.recursive)
        .default("off")
        .doc("Looks behind all trusted proxies that the field lists."),
];

/// What is written in one block.
#[derive(Default)]
pub struct Raw {
    from: Option<Vec<Network>>,
    header: Option<Source>,
    recursive: Option<bool>,
}

/// Whom a location believes what.
pub struct Conf {
    from: Vec<Network>,
    source: Source,
    recursive: bool,
}

#[derive(Clone)]
enum Source {
    ProxyProtocol,
    Field(Box<[u8]>),
}

/// The end of the connection itself, while a request goes by another address.
#[derive(Default)]
pub struct Peer {
    peer: Option<Remote>,
    text: String,
}

impl Raw {
    /// Fills what is not written here from the enclosing block.
    pub fn inherit(&mut self, parent: &Raw) {
        inherit!(self, parent; from, header, recursive);
    }

    /// The compiled settings.
    pub fn compile(&self) -> Conf {
        let default = || Source::Field(b"X-Real-IP"[..].into());
        Conf {
            from: self.from.clone().unwrap_or_default(),
            source: self.header.clone().unwrap_or_else(default),
            recursive: self.recursive.unwrap_or(false),
        }
    }
}

/// Gives the request the client's address, where a trusted proxy tells it; once per request.
pub fn apply(ex: &mut Exchange) {
    let is_asked = !ex.generation.location(ex.location).realip.from.is_empty();
    if !is_asked || ex.realip.peer.is_some() {
        return;
    }
    let generation = ex.generation();
    let conf = &generation.location(ex.location).realip;
    if !conf.trusts(&ex.client.remote) {
        return;
    }
    let client = match &conf.source {
        Source::ProxyProtocol => ex
            .client
            .proxy_protocol
            .as_ref()
            .map(|header| header.source),
        Source::Field(name) => conf.of_field(ex, name),
    };
    let Some(client) = client else { return };
    use std::fmt::Write;
    let mut text = mem::take(&mut ex.realip.text);
    text.clear();
    // Writing into memory does not fail.
    let _ = write!(text, "{}", client.ip());
    ex.realip.text = mem::replace(&mut ex.client.remote_text, text);
    ex.realip.peer = Some(mem::replace(&mut ex.client.remote, Remote::Inet(client)));
}

/// The end of the connection itself.
pub fn peer(ex: &Exchange) -> &Remote {
    ex.realip.peer.as_ref().unwrap_or(&ex.client.remote)
}

/// Ends what [`apply`] began: the connection goes by its own address again.
pub fn restore(ex: &mut Exchange) {
    if let Some(peer) = ex.realip.peer.take() {
        ex.client.remote = peer;
        mem::swap(&mut ex.client.remote_text, &mut ex.realip.text);
    }
}

impl Conf {
    fn trusts(&self, remote: &Remote) -> bool {
        self.from.iter().any(|from| from.contains(remote.ip()))
    }

    fn of_field(&self, ex: &mut Exchange, name: &[u8]) -> Option<std::net::SocketAddr> {
        let mut list = ex.store.lend();
        for field in ex.request.head.fields.iter() {
            if field.name.of(&ex.request.buf).eq_ignore_ascii_case(name) {
                list.extend_from_slice(field.value.of(&ex.request.buf));
                list.push(b',');
            }
        }
        let is_proxy = |ip| self.from.iter().any(|from| from.contains(Some(ip)));
        let client = network::forwarded(&list, self.recursive, is_proxy);
        ex.store.give_back(list);
        client
    }
}

fn read_header(_: &mut Reader, scope: &mut Scope, node: &Node) -> Result<()> {
    let word = &node.args()[0];
    let source = match word.is("proxy_protocol") {
        true => Source::ProxyProtocol,
        false => Source::Field(word.bytes.clone()),
    };
    value::once(&mut scope.realip.header, source, node)
}
