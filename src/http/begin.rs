//! What comes before the first request of a connection.

use crate::base::{clock, proxy_protocol};
use crate::observe::Level;
use crate::ring::Expect;

use super::client::Client;
use super::exchange::Exchange;
use super::tls::{self, Beginning};

/// What happens once per connection: socket options, the PROXY protocol header, the TLS handshake.
pub async fn begin(ex: &mut Exchange, client: &mut Client) -> bool {
    let generation = ex.generation();
    let listen = &generation.http.listens[ex.listen as usize];
    let root = generation.location(ex.location);
    if !root.core.tcp_nodelay && ex.client.local.is_some() {
        // Connections come with it on.
        client.delay_small_segments();
    }
    if listen.proxy_protocol && !read_proxy_protocol(ex, client).await {
        return false;
    }
    // Its own future: a connection without TLS has no place for a handshake.
    !listen.ssl
        || ex.client.tls.is_some()
        || Box::pin(tls::begin(ex, client)).await != Beginning::Over
}

async fn read_proxy_protocol(ex: &mut Exchange, client: &mut Client) -> bool {
    let generation = ex.generation();
    let timeout = generation.server(ex.server).client.header_timeout_ms;
    client.set_deadline(Some(clock::now_ms() + timeout));
    ex.doing = "reading PROXY protocol";
    loop {
        match proxy_protocol::parse(&client.input) {
            Ok(Some((used, header))) => {
                client.input.drain(..used);
                ex.client.proxy_protocol = header.map(Box::new);
                return true;
            }
            Ok(None) => {}
            Err(_) => {
                let shown = proxy_protocol::shown(&client.input);
                ex.log(
                    Level::Error,
                    format_args!("broken header: \"{shown}\" while {}", ex.doing),
                );
                return false;
            }
        }
        if !matches!(client.fill(Expect::Now).await, Ok(n) if n > 0) {
            return false;
        }
    }
}
