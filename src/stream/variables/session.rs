//! The session.

use std::net::SocketAddr;

use crate::base::listen::ListenAddr;
use crate::base::proxy_protocol::ProxyProtocol;
use crate::base::remote::Remote;
use crate::stream::session::Session;
use crate::vars::Variable;
use crate::vars::common::{self, Connected, found, number, seconds};

type V = Variable<Session>;

pub(super) static TABLE: &[V] = &[
    V::new("remote_addr", |s, _, out| {
        s.remote.write_ip(out);
        true
    })
    .doc("Client address."),
    V::new("bytes_sent", |s, _, out| number(out, s.sent)).doc("Bytes sent to the client."),
    V::new("bytes_received", |s, _, out| number(out, s.received))
        .doc("Bytes received from the client."),
    V::new("session_time", |s, _, out| seconds(out, s.elapsed_ms()))
        .doc("Age of the session in seconds."),
    V::new("status", |s, _, out| common::status(out, s.status))
        .doc("How the session ended: 200, 400, 403, 500, 502 or 503."),
    V::new("connection", |s, _, out| number(out, s.number)).doc("Number of the session."),
    V::new("protocol", |s, _, out| {
        let name: &[u8] = if s.listen_addr.is_udp() {
            b"UDP"
        } else {
            b"TCP"
        };
        found(out, name)
    })
    .doc("TCP or UDP."),
];

impl Connected for Session {
    fn remote(&self) -> &Remote {
        &self.remote
    }

    fn peer(&self) -> &Remote {
        self.peer.as_ref().unwrap_or(&self.remote)
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        self.local_addr
    }

    fn listen_addr(&self) -> &ListenAddr {
        &self.listen_addr
    }

    fn proxy_protocol(&self) -> Option<&ProxyProtocol> {
        self.proxy_protocol.as_deref()
    }
}
