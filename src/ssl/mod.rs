//! `listen … ssl`: the `ssl_…` directives that `http` and `stream` have both, handshakes with
//! clients, and the `$ssl_…` variables; in [`upstream`], TLS to servers.
//!
//! What is written is checked as nginx checks it and becomes a [`Conf`] per server, whether one of
//! its listeners speaks TLS or not. What TLS is stands in `tls/`, which knows no directive.

mod build;
mod conf;
mod crypto;
mod directives;
mod dynamic;
mod gate;
mod handshake;
mod ocsp;
pub mod upstream;
mod variables;

pub use build::{Compiler, Own};
pub use conf::{Common, Conf, Protocols, Verify, check_listen};
pub use directives::{Raw, Speaks, protocols, rows};
pub use dynamic::Dynamic;
pub use handshake::{Begun, Failed, Hello, Wire, accept, accept_as, hello};
pub use ocsp::{Ocsp, Unproven};
pub use variables::variables;

use std::rc::Rc;

use crate::tls::Session;
use crate::tls::verify::Failure;
use crate::vars::Subject;

/// What is known of a client's connection with TLS.
pub struct Secured {
    /// What was agreed.
    pub session: Session,
    /// Whether the client's certificate is valid, if it has one.
    pub verified: Result<(), Failure>,
    /// What OCSP responders say of it, if they are asked.
    pub status: Result<(), Unproven>,
}

impl Secured {
    /// What is known when the client has said which server it wants.
    pub fn named(name: &str) -> Secured {
        Secured {
            session: Session {
                server_name: name.into(),
                ..Session::default()
            },
            verified: Ok(()),
            status: Ok(()),
        }
    }

    /// What a client has done that `verify` does not allow, as nginx says it.
    ///
    /// # Errors
    /// [`Refused`]
    pub fn admit(&self, verify: Verify) -> Result<(), Refused> {
        match self.verified {
            _ if verify == Verify::Off => return Ok(()),
            Err(failure) if verify == Verify::OptionalNoCa && failure.is_about_authority() => {}
            Err(failure) => return Err(Refused::Invalid(failure)),
            Ok(()) => {}
        }
        if verify == Verify::On && self.session.certificates.is_empty() {
            return Err(Refused::Missing);
        }
        self.status.map_err(Refused::Unproven)
    }
}

/// What is wrong with a client's certificate. `Display` is nginx's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is not valid.
    Invalid(Failure),
    /// There is none.
    Missing,
    /// Nobody vouches for it.
    Unproven(Unproven),
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refused::Invalid(failure) => {
                let (number, reason) = (failure.number(), failure.reason());
                write!(
                    f,
                    "client SSL certificate verify error: ({number}:{reason})"
                )
            }
            Refused::Unproven(why) => {
                let reason = why.reason();
                write!(f, "client SSL certificate verify error: {reason}")
            }
            Refused::Missing => f.write_str("client sent no required SSL certificate"),
        }
    }
}

/// A request or session whose client may speak TLS.
pub trait Secure: Subject {
    /// What is known of it; none without TLS.
    fn secured(&self) -> Option<&Secured>;

    /// Says what is known of it from now on.
    fn set_secured(&mut self, secured: Option<Rc<Secured>>);

    /// Tells the error log why there is no certificate for a client.
    fn log_error(&self, why: &str);
}
