//! `proxy_bind`: our end of a connection to a peer.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::config::{ConfigError, Node, Result, Word, value};
use crate::observe::Level;
use crate::vars::{Subject, Template, Variables};

/// What a `proxy_bind` says that is not `off`.
#[derive(Clone)]
pub struct RawBind {
    addr: Word,
    transparent: bool,
}

/// A `proxy_bind` in force.
pub struct Bind<S: 'static> {
    addr: Template<S>,
    /// The address may be one that is not ours (`transparent`).
    pub transparent: bool,
}

impl RawBind {
    /// Reads the directive; `None` is `off`.
    ///
    /// # Errors
    /// `invalid address "x"`, `invalid parameter "x"`.
    pub fn read(node: &Node) -> Result<Option<RawBind>> {
        let word = &node.args()[0];
        let parameter = node.args().get(1);
        if parameter.is_none() && word.is("off") {
            return Ok(None);
        }
        let is_constant = !word.bytes.contains(&b'$');
        if is_constant && parse(&word.text()).is_none() {
            let message = format!("invalid address \"{}\"", word.text());
            return Err(ConfigError::at(word.span, message));
        }
        let transparent = match parameter {
            None => false,
            Some(extra) if extra.is("transparent") => true,
            Some(extra) => return Err(value::invalid_parameter(extra)),
        };
        Ok(Some(RawBind {
            addr: word.clone(),
            transparent,
        }))
    }

    /// The compiled form.
    ///
    /// # Errors
    /// Those of templates.
    pub fn compile<S: Subject>(&self, vars: &mut Variables<S>) -> Result<Bind<S>> {
        Ok(Bind {
            addr: Template::compile(&self.addr, vars)?,
            transparent: self.transparent,
        })
    }
}

impl<S: Subject> Bind<S> {
    /// The address; `None` leaves the choice to the kernel. `log` writes to the error log about a
    /// text that is no address.
    pub fn addr(
        &self,
        subject: &mut S,
        log: impl FnOnce(&S, Level, fmt::Arguments<'_>),
    ) -> Option<SocketAddr> {
        self.addr.with(subject, |subject, value| {
            let text = String::from_utf8_lossy(value);
            let addr = parse(&text);
            if addr.is_none() && !text.is_empty() {
                let message = format_args!("invalid local address \"{text}\"");
                log(subject, Level::Error, message);
            }
            addr
        })
    }
}

/// An address with or without a port.
fn parse(text: &str) -> Option<SocketAddr> {
    let addr = text.parse::<SocketAddr>();
    addr.or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 0)))
        .ok()
}
