//! `ssl_preread` and `server_name`: what a client asks for in its first TLS message, read before
//! the session is passed on, and the choice of a server by it.

use crate::base::client_hello::{self, ClientHello, Parsed};
use crate::base::clock;
use crate::config::{Arity, Contexts, Node, Reader, Result, Row, Word};
use crate::inherit;
use crate::observe::Level;
use crate::stream::client::Client;
use crate::stream::scope::Scope;
use crate::stream::serve::End;
use crate::stream::session::Session;
use crate::vars::{Subject, Variable, check_names};

const SS: Contexts = Contexts::STREAM.or(Contexts::STREAM_SERVER);

type R = Row<Scope>;
type V = Variable<Session>;

/// The directives of this file.
pub const ROWS: &[Row<Scope>] = &[
    R::flag("ssl_preread", SS, |s| &mut s.names.preread)
        .default("off")
        .doc("Looks into a session's first TLS message before it is passed on."),
    R::custom(
        "server_name",
        Contexts::STREAM_SERVER,
        Arity::AtLeast(1),
        set_server_name,
    )
    .default("\"\"")
    .doc("Names for which a server is chosen where several listen on one address."),
];

/// The variables of this module.
pub const VARIABLES: &[V] = &[
    V::new("ssl_preread_server_name", |s, _, out| {
        of_hello(s, out, |hello| &hello.server_name)
    })
    .doc("Name that the client asks for through SNI."),
    V::new("ssl_preread_alpn_protocols", |s, _, out| {
        of_hello(s, out, |hello| &hello.alpn)
    })
    .doc("Protocols that the client offers through ALPN, separated by commas."),
    V::new("ssl_preread_protocol", |s, _, out| {
        of_hello(s, out, |hello| hello.version_name().as_bytes())
    })
    .doc("Highest TLS version that the client offers."),
];

/// What is written in one block.
#[derive(Default)]
pub struct Raw {
    preread: Option<bool>,
    /// The arguments of `server_name`.
    pub names: Vec<Word>,
}

impl Raw {
    /// Fills what is not written here from the enclosing block.
    pub fn inherit(&mut self, parent: &Raw) {
        inherit!(self, parent; preread);
    }

    /// `ssl_preread`
    pub fn preread(&self) -> bool {
        self.preread.unwrap_or(false)
    }
}

/// The preread phase.
///
/// # Errors
/// The session's status, where its first bytes do not come or never end.
pub async fn run(s: &mut Session, client: &mut Client) -> std::result::Result<(), End> {
    let generation = s.generation();
    let server = generation.server(s.server);
    if !server.ssl_preread {
        return Ok(());
    }
    let size = server.core.preread_buffer_size;
    let deadline = clock::now_ms() + server.core.preread_timeout_ms;
    client.sock.set_deadline(Some(deadline));
    s.doing = "prereading client data";
    loop {
        let seen = client.input.len().min(size);
        match client_hello::parse(&client.input[..seen]) {
            Parsed::Hello(hello) => {
                choose_server(s, &hello.server_name);
                s.hello = Some(Box::new(hello));
                break;
            }
            Parsed::NotHello(_) => break,
            Parsed::Partial if seen == size => {
                s.log(Level::Error, format_args!("preread buffer full"));
                return Err(400);
            }
            Parsed::Partial => more(s, client).await?,
        }
    }
    client.sock.set_deadline(None);
    s.doing = "";
    Ok(())
}

/// Goes over to the server whose name the client asks for, where several share the address.
pub fn choose_server(s: &mut Session, name: &[u8]) {
    let Some(host) = host_of(name) else {
        return;
    };
    let generation = s.generation();
    let names = &generation.stream.listens[s.listen as usize].names;
    if let Some(server) = names.find(&host, s.store_mut()) {
        s.server = server;
    }
}

/// Waits for more of the first message. A client that goes or stays silent has failed at nothing:
/// like nginx, status 200.
async fn more(s: &mut Session, client: &mut Client) -> std::result::Result<(), End> {
    match client.fill().await {
        // They count as received when they are passed on.
        Ok(count) if count > 0 => return Ok(()),
        _ if client.sock.timed_out() => s.log(
            Level::Info,
            format_args!("client timed out (110: Connection timed out)"),
        ),
        _ => s.log(Level::Info, format_args!("client closed connection")),
    }
    // What it asked for is not known, and yet it has begun to ask.
    s.hello = Some(Box::default());
    Err(200)
}

/// The name as servers are looked up by it: lower case, without a port and a last dot. `None` for
/// what is no name.
fn host_of(name: &[u8]) -> Option<Vec<u8>> {
    let is_odd = |byte: &u8| *byte <= b' ' || matches!(byte, b'/' | 0x7f);
    if name.iter().any(is_odd) || name.windows(2).any(|pair| pair == b"..") {
        return None;
    }
    let is_literal = name.first() == Some(&b'[');
    let end = match is_literal {
        true => name.iter().position(|byte| *byte == b']').map(|at| at + 1),
        false => name.iter().position(|byte| *byte == b':'),
    };
    let host = &name[..end.unwrap_or(name.len())];
    let host = host.strip_suffix(b".").unwrap_or(host);
    (!host.is_empty()).then(|| host.to_ascii_lowercase())
}

fn of_hello(s: &Session, out: &mut Vec<u8>, part: impl Fn(&ClientHello) -> &[u8]) -> bool {
    match &s.hello {
        Some(hello) => {
            out.extend_from_slice(part(hello));
            true
        }
        None => false,
    }
}

fn set_server_name(_: &mut Reader, scope: &mut Scope, node: &Node) -> Result<()> {
    check_names(node.args())?;
    scope.names.names.extend(node.args().iter().cloned());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_brought_into_one_form() {
        for (name, host) in [
            ("Example.COM", Some("example.com")),
            ("example.com.", Some("example.com")),
            ("example.com:443", Some("example.com")),
            ("[::1]:443", Some("[::1]")),
            ("a..b", None),
            ("a b", None),
            ("a/b", None),
            (".", None),
            ("", None),
        ] {
            let found = host_of(name.as_bytes());
            assert_eq!(found.as_deref(), host.map(str::as_bytes), "{name}");
        }
    }
}
