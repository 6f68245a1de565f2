//! A server's side of TLS never panics: garbage in place of a ClientHello, behind a real one, and
//! in place of records.
#![no_main]

use std::sync::{Arc, OnceLock};

use libfuzzer_sys::fuzz_target;
use ringway::tls::{Established, Handshake, Progress, Server, Settings, cert, server};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

type Sides = (Server, Arc<ClientConfig>);

fn sides() -> &'static Sides {
    static SIDES: OnceLock<Sides> = OnceLock::new();
    SIDES.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let provider = server::provider();
        let own = cert::certified(chain.as_bytes(), key.as_bytes(), &[], &provider).unwrap();
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from(own.cert[0].to_vec()))
            .unwrap();
        let client = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let server = Server::new(Settings::new(vec![Arc::new(own)])).unwrap();
        (server, Arc::new(client))
    })
}

fn hello(client: &mut ClientConnection) -> Vec<u8> {
    let mut flight = Vec::new();
    client.write_tls(&mut flight).unwrap();
    flight
}

fn client() -> ClientConnection {
    let name = ServerName::try_from("localhost").unwrap();
    ClientConnection::new(Arc::clone(&sides().1), name).unwrap()
}

fn established() -> Established {
    let (mut client, mut out) = (client(), Vec::new());
    let mut handshake = Handshake::new(&sides().0, "localhost").unwrap();
    loop {
        let mut flight = hello(&mut client);
        if handshake.advance(&mut flight, &mut out).unwrap() == Progress::Done {
            return handshake.finish().unwrap();
        }
        client.read_tls(&mut &out[..]).unwrap();
        client.process_new_packets().unwrap();
        out.clear();
    }
}

fuzz_target!(|data: (u8, u16, &[u8])| {
    let (kind, piece, bytes) = data;
    let piece = usize::from(piece).max(1);
    if kind % 3 == 2 {
        let (mut records, mut plain) = (established().records, Vec::new());
        let mut pieces = bytes.chunks(piece);
        while pieces
            .next()
            .is_some_and(|piece| records.open(piece, &mut plain).is_ok())
        {}
        return;
    }
    let mut handshake = Handshake::new(&sides().0, "localhost").unwrap();
    let mut input = match kind % 3 {
        0 => Vec::new(),
        _ => hello(&mut client()),
    };
    let mut out = Vec::new();
    for piece in bytes.chunks(piece) {
        input.extend_from_slice(piece);
        if !matches!(handshake.advance(&mut input, &mut out), Ok(Progress::Waits)) {
            break;
        }
    }
});
