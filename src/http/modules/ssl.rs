//! What `http` alone has of the `ssl_…` directives; the others are in `ssl/`. `ssl on` is refused.

use std::rc::Rc;

use crate::config::{Arity, ConfigError, Contexts, Node, Reader, Result, Row, value};
use crate::http::exchange::Exchange;
use crate::http::scope::{Compiler, Scope};
use crate::inherit;
use crate::observe::Level;
use crate::ssl::{self, Own, Secure, Secured, Speaks};
use crate::vars::Variable;

pub use crate::ssl::{Common, Verify};

const HS: Contexts = Contexts::HTTP.or(Contexts::SERVER);

type R = Row<Scope>;

/// What `stream` has too.
pub const SHARED_ROWS: &[Row<Scope>] = &ssl::rows(HS);

/// The directives of this module alone.
pub const ROWS: &[Row<Scope>] = &[
    R::custom("ssl", HS, Arity::Flag, set_ssl)
        .default("off")
        .doc("Only off: TLS is asked for by listen … ssl, and not there yet."),
    R::size("ssl_buffer_size", HS, |s| &mut s.ssl.buffer_size)
        .default("16k")
        .doc("Size of the records that are sent."),
    R::flag("ssl_early_data", HS, |s| &mut s.ssl.early_data)
        .default("off")
        .doc("Take requests in TLS 1.3 early data."),
];

/// The variables of this module.
pub const VARIABLES: &[Variable<Exchange>] = &ssl::variables();

/// How a server speaks TLS.
pub type Conf = ssl::Conf<Exchange>;

/// What is written in one block.
#[derive(Default)]
pub struct Raw {
    shared: ssl::Raw,
    buffer_size: Option<u64>,
    early_data: Option<bool>,
}

impl Speaks for Scope {
    fn ssl(&mut self) -> &mut ssl::Raw {
        &mut self.ssl.shared
    }
}

impl Secure for Exchange {
    fn secured(&self) -> Option<&Secured> {
        self.client.tls.as_deref()
    }

    fn set_secured(&mut self, secured: Option<Rc<Secured>>) {
        self.client.tls = secured;
    }

    fn log_error(&self, why: &str) {
        self.log(Level::Error, format_args!("{why} while {}", self.doing));
    }
}

/// What HTTP says in ALPN.
const ALPN: [&[u8]; 2] = [b"http/1.1", b"http/1.0"];

/// The same, where HTTP/2 is spoken.
pub const ALPN_H2: [&[u8]; 3] = [b"h2", b"http/1.1", b"http/1.0"];

impl Raw {
    /// Fills what is not written here from `http {}`.
    pub fn inherit(&mut self, parent: &Raw) {
        self.shared.inherit(&parent.shared);
        inherit!(self, parent; buffer_size, early_data);
    }

    /// Adds the zones named here.
    ///
    /// # Errors
    /// A zone is there already with another size.
    pub fn declare_zones(&self, common: &mut Common) -> Result<()> {
        self.shared.declare_zones(common)
    }

    /// The settings of a server, after inheritance.
    ///
    /// # Errors
    /// Those of [`ssl::Raw::compile`].
    pub fn compile(&self, c: &mut Compiler) -> Result<Conf> {
        let own = Own {
            alpn: ALPN.map(<[u8]>::to_vec).to_vec(),
            record_max: self.buffer_size.unwrap_or(16 << 10) as usize,
            early_data: self.early_data.unwrap_or(false),
        };
        let mut compiler = ssl::Compiler {
            reader: c.reader,
            vars: &mut c.vars,
            common: &mut c.ssl,
        };
        self.shared.compile(own, &mut compiler)
    }
}

fn set_ssl(_: &mut Reader, _: &mut Scope, node: &Node) -> Result<()> {
    if !value::flag(&node.args()[0])? {
        return Ok(());
    }
    let message = "directive \"ssl on\" of nginx is not implemented by ringway";
    Err(ConfigError::at(node.span(), message).help("nginx has given it up too: listen … ssl"))
}
