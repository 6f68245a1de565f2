//! The client's connection.

use std::net::SocketAddr;

use crate::base::clock;
use crate::base::listen::ListenAddr;
use crate::base::proxy_protocol::ProxyProtocol;
use crate::http::exchange::{Exchange, Remote};
use crate::http::message::Version;
use crate::http::modules::realip;
use crate::http::token::Token;
use crate::vars::Variable;
use crate::vars::common::{Connected, found, number, seconds};

type V = Variable<Exchange>;

pub(super) static TABLE: &[V] = &[
    V::new("remote_addr", |ex, _, out| {
        found(out, ex.client.remote_text.as_bytes())
    })
    .doc("Client address."),
    V::new("proxy_add_x_forwarded_for", proxy_add_x_forwarded_for)
        .doc("X-Forwarded-For of the request with the client address added."),
    V::new("scheme", |ex, _, out| {
        found(out, ex.client.scheme().as_bytes())
    })
    .doc("http or https."),
    V::new("https", |ex, _, out| match ex.client.tls {
        Some(_) => found(out, b"on"),
        None => true,
    })
    .doc("\"on\" for TLS connections, otherwise empty."),
    V::new("http2", |ex, _, out| {
        if ex.request.head.version != Version::Http2 {
            return true;
        }
        found(
            out,
            if ex.client.tls.is_some() {
                b"h2"
            } else {
                b"h2c"
            },
        )
    })
    .doc("\"h2\" over TLS and \"h2c\" without for HTTP/2, otherwise empty."),
    V::new("connection", |ex, _, out| number(out, ex.client.number))
        .doc("Number of the connection."),
    V::new("connection_requests", |ex, _, out| {
        number(out, ex.client.requests)
    })
    .doc("Requests begun on this connection."),
    V::new("connection_time", |ex, _, out| {
        seconds(
            out,
            clock::precise_ms().saturating_sub(ex.client.accepted_at),
        )
    })
    .doc("Age of the connection in seconds."),
];

impl Connected for Exchange {
    fn remote(&self) -> &Remote {
        &self.client.remote
    }

    fn peer(&self) -> &Remote {
        realip::peer(self)
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        self.client.local
    }

    fn listen_addr(&self) -> &ListenAddr {
        &self.client.listen
    }

    fn proxy_protocol(&self) -> Option<&ProxyProtocol> {
        self.client.proxy_protocol.as_deref()
    }
}

fn proxy_add_x_forwarded_for(ex: &mut Exchange, _: &[u8], out: &mut Vec<u8>) -> bool {
    for field in ex.request.head.fields.all(Token::XForwardedFor) {
        out.extend_from_slice(field.value.of(&ex.request.buf));
        out.extend_from_slice(b", ");
    }
    found(out, ex.client.remote_text.as_bytes())
}
