//! A client of rustls against our server side, in memory.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::session::{Cache, Tickets};
use super::verify::{Failure, Trust};
use super::*;

/// A certificate for `localhost` in PEM, with its key.
fn localhost() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

fn certified() -> (Arc<rustls::sign::CertifiedKey>, CertificateDer<'static>) {
    let (chain, key) = localhost();
    let provider = server::provider();
    let certified = cert::certified(chain.as_bytes(), key.as_bytes(), &[], &provider).unwrap();
    let own = certified.cert[0].clone();
    (Arc::new(certified), own)
}

fn client(authority: &CertificateDer<'static>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone()).unwrap();
    ClientConfig::builder_with_provider(Arc::new(server::provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// Both ends of a connection.
struct Pair {
    client: ClientConnection,
    input: Vec<u8>,
    server: Established,
}

fn connect(server: &Server, config: &Arc<ClientConfig>) -> Result<Pair, rustls::Error> {
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = ClientConnection::new(Arc::clone(config), name).unwrap();
    client.set_buffer_limit(None);
    let mut handshake = Handshake::new(server, "localhost")?;
    let (mut input, mut out) = (Vec::new(), Vec::new());
    loop {
        while client.wants_write() {
            client.write_tls(&mut input).unwrap();
        }
        let progress = handshake.advance(&mut input, &mut out);
        let mut sent = &out[..];
        while !sent.is_empty() {
            client.read_tls(&mut sent).unwrap();
            client.process_new_packets()?;
        }
        out.clear();
        if progress? == Progress::Done {
            return Ok(Pair {
                client,
                input,
                server: handshake.finish()?,
            });
        }
    }
}

impl Pair {
    /// What the client writes, as the server reads it in pieces of this size.
    fn up(&mut self, bytes: &[u8], piece: usize) -> Vec<u8> {
        self.client.writer().write_all(bytes).unwrap();
        let mut plain = std::mem::take(&mut self.server.plain);
        let mut wire = std::mem::take(&mut self.input);
        while self.client.wants_write() {
            self.client.write_tls(&mut wire).unwrap();
        }
        for piece in wire.chunks(piece) {
            self.server.records.open(piece, &mut plain).unwrap();
        }
        plain
    }

    /// What the server writes, as the client reads it.
    fn down(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut wire = Vec::new();
        self.server.records.seal(bytes, &mut wire);
        self.read(&wire)
    }

    fn read(&mut self, mut wire: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        while !wire.is_empty() {
            self.client.read_tls(&mut wire).unwrap();
            let state = self.client.process_new_packets().unwrap();
            let start = plain.len();
            plain.resize(start + state.plaintext_bytes_to_read(), 0);
            self.client
                .reader()
                .read_exact(&mut plain[start..])
                .unwrap();
        }
        plain
    }
}

#[test]
fn every_suite_carries_bytes_both_ways() {
    let (certified, own) = certified();
    let server = Server::new(Settings::new(vec![certified])).unwrap();
    let large: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
    for suite in rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES {
        let name = cipher::openssl_name(suite.suite());
        if name.starts_with("ECDHE-RSA") {
            continue;
        }
        let mut config = client(&own);
        let mut provider = server::provider();
        provider.cipher_suites = vec![*suite];
        let versions = [suite.version()];
        config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(
                rustls::client::WebPkiServerVerifier::builder_with_provider(
                    Arc::new(RootCertStore {
                        roots: vec![webpki::anchor_from_trusted_cert(&own).unwrap().to_owned()],
                    }),
                    Arc::clone(config.crypto_provider()),
                )
                .build()
                .unwrap(),
            )
            .with_no_client_auth();
        let mut pair = connect(&server, &Arc::new(config)).unwrap();
        assert_eq!(pair.server.session.cipher, name);
        for piece in [1 << 20, 4096, 1000, 1] {
            assert_eq!(pair.up(&large, piece), large, "{name} {piece}");
            assert!(pair.server.records.is_quiet());
        }
        assert_eq!(pair.down(&large), large, "{name}");
        assert_eq!(pair.down(b""), b"");
        let mut wire = Vec::new();
        pair.server.records.seal_close(&mut wire);
        pair.read(&wire);
        assert!(pair.client.process_new_packets().unwrap().peer_has_closed());
        pair.client.send_close_notify();
        assert_eq!(pair.up(b"", 7), b"");
        assert!(pair.server.records.is_closed());
    }
}

#[test]
fn keys_are_updated_when_the_client_asks() {
    let (certified, own) = certified();
    let server = Server::new(Settings::new(vec![certified])).unwrap();
    let mut pair = connect(&server, &Arc::new(client(&own))).unwrap();
    assert_eq!(pair.server.session.protocol, "TLSv1.3");
    for _ in 0..3 {
        pair.client.refresh_traffic_keys().unwrap();
        assert_eq!(pair.up(b"up", 5), b"up");
        assert_eq!(pair.down(b"down"), b"down");
    }
}

#[test]
fn new_keys_and_empty_records_come_with_data() {
    let (certified, own) = certified();
    let server = Server::new(Settings::new(vec![certified])).unwrap();
    let config = Arc::new(client(&own));
    let mut pair = connect(&server, &config).unwrap();
    let mut plain = Vec::new();
    for round in 0..100 {
        pair.client.refresh_traffic_keys().unwrap();
        if round % 20 == 0 {
            pair.client.writer().write_all(b"data").unwrap();
        }
        let mut wire = std::mem::take(&mut pair.input);
        pair.client.write_tls(&mut wire).unwrap();
        pair.server.records.open(&wire, &mut plain).unwrap();
    }
    let broken = (0..40).find_map(|_| {
        pair.client.refresh_traffic_keys().unwrap();
        let mut wire = Vec::new();
        pair.client.write_tls(&mut wire).unwrap();
        pair.server.records.open(&wire, &mut plain).err()
    });
    assert!(matches!(broken, Some(Broken::Ours(10, _))), "{broken:?}");
}

#[test]
fn damaged_records_end_the_connection() {
    let (certified, own) = certified();
    let server = Server::new(Settings::new(vec![certified])).unwrap();
    let config = Arc::new(client(&own));
    type Act = fn(&mut Vec<u8>);
    let damage: [(Act, u8); 4] = [
        (|wire| *wire.last_mut().unwrap() ^= 1, 20),
        (|wire| wire[0] = 20, 10),
        (|wire| wire[1] = 2, 50),
        (|wire| wire[3] = 0x48, 22),
    ];
    for (act, alert) in damage {
        let mut pair = connect(&server, &config).unwrap();
        pair.client.writer().write_all(b"request").unwrap();
        let mut wire = Vec::new();
        pair.client.write_tls(&mut wire).unwrap();
        act(&mut wire);
        let broken = pair.server.records.open(&wire, &mut Vec::new());
        assert!(
            matches!(broken, Err(Broken::Ours(is, _)) if is == alert),
            "{broken:?}"
        );
    }
}

#[test]
fn sessions_are_resumed_by_ticket_and_by_cache() {
    let (certified, own) = certified();
    let hour = Duration::from_secs(3600);
    for (ticket, cache) in [(true, false), (false, true), (false, false)] {
        for versions in [&[&rustls::version::TLS13][..], &[&rustls::version::TLS12]] {
            let made = |context: u8| {
                let mut settings = Settings::new(vec![Arc::clone(&certified)]);
                settings.tickets = ticket.then(|| Tickets::new([context; 16], hour, Vec::new()));
                settings.cache =
                    cache.then(|| Cache::named(b"resumed", 1 << 20, [context; 16], hour));
                Server::new(settings).unwrap()
            };
            let mut roots = RootCertStore::empty();
            roots.add(own.clone()).unwrap();
            let mut config = ClientConfig::builder_with_provider(Arc::new(server::provider()))
                .with_protocol_versions(versions)
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
            config.resumption = Resumption::in_memory_sessions(8);
            let config = Arc::new(config);
            let reused = |server: &Server| {
                let mut pair = connect(server, &config).unwrap();
                pair.down(b"so that tickets are read");
                pair.server.session.reused
            };
            let (first, other) = (made(1), made(2));
            let wanted = ticket || cache;
            assert_eq!([reused(&first), reused(&first)], [false, wanted]);
            // As after a reload.
            assert_eq!(reused(&made(1)), wanted);
            assert!(!reused(&other));
        }
    }
}

#[test]
fn a_mismatched_key_is_found() {
    let ((chain, key), (other, _)) = (localhost(), localhost());
    let provider = server::provider();
    let certified = |chain: &str, key: &str| {
        cert::certified(chain.as_bytes(), key.as_bytes(), &[], &provider).map(drop)
    };
    assert_eq!(certified(&chain, &key), Ok(()));
    assert!(matches!(
        certified(&other, &key),
        Err(cert::Problem::Key(_))
    ));
    assert!(matches!(
        certified(&key, &key),
        Err(cert::Problem::Certificate(_))
    ));
    assert!(matches!(
        certified(&chain, &chain),
        Err(cert::Problem::Key(_))
    ));
}

/// A PEM file of `testdata`, made by `testdata/make`.
fn chain(text: &str) -> Vec<CertificateDer<'static>> {
    cert::parse(text.as_bytes()).unwrap()
}

const ROOT: &str = include_str!("testdata/root.pem");
const ROOT_V1: &str = include_str!("testdata/root-v1.pem");
const MIDDLE: &str = include_str!("testdata/middle.pem");
const LEAF: &str = include_str!("testdata/leaf.pem");
const LEAF_V1: &str = include_str!("testdata/leaf-v1.pem");
const LEAF_OF_V1: &str = include_str!("testdata/leaf-of-v1.pem");
const LEAF_SERVER: &str = include_str!("testdata/leaf-server.pem");
const LIST: &str = include_str!("testdata/list.pem");

fn verify(authorities: &str, depth: usize, lists: Option<&str>, sent: &str) -> Result<(), Failure> {
    let trust = Trust {
        authorities: chain(authorities),
        depth,
        revoked: lists.map(|text| crl::parse(text.as_bytes()).unwrap()),
        algorithms: server::algorithms(),
    };
    // 2026-11-22, when they are valid.
    let now = UnixTime::since_unix_epoch(Duration::from_secs(1_795_305_600));
    trust.verify(&chain(sent), x509::CLIENT_AUTH, now)
}

#[test]
fn chains_are_verified_as_openssl_does() {
    let through_middle = format!("{LEAF}{MIDDLE}");
    assert_eq!(verify(ROOT, 1, None, &through_middle), Ok(()));
    assert_eq!(
        verify(ROOT, 0, None, &through_middle),
        Err(Failure::TooLong)
    );
    assert_eq!(verify(ROOT, 1, None, LEAF), Err(Failure::NoIssuer));
    // The one between may be known here.
    assert_eq!(verify(&format!("{MIDDLE}{ROOT}"), 1, None, LEAF), Ok(()));
    // It is no root itself.
    assert_eq!(verify(MIDDLE, 1, None, LEAF), Err(Failure::NoIssuerInChain));
    assert_eq!(
        verify(ROOT_V1, 1, None, &through_middle),
        Err(Failure::NoIssuerInChain)
    );
    let with_root = format!("{LEAF}{MIDDLE}{ROOT}");
    assert_eq!(
        verify(ROOT_V1, 1, None, &with_root),
        Err(Failure::SelfSignedInChain)
    );
    assert_eq!(verify(ROOT, 1, None, LEAF_V1), Ok(()));
    assert_eq!(verify(ROOT_V1, 1, None, LEAF_OF_V1), Ok(()));
    assert_eq!(verify(ROOT_V1, 1, None, ROOT_V1), Ok(()));
    assert_eq!(verify(ROOT, 1, None, ROOT_V1), Err(Failure::SelfSigned));
    assert_eq!(verify(ROOT, 1, None, LEAF_SERVER), Err(Failure::Purpose));
}

#[test]
fn revoked_certificates_are_found() {
    // The list revokes the second certificate of the first root and names no other.
    assert_eq!(verify(ROOT, 1, Some(LIST), LEAF_V1), Err(Failure::Revoked));
    assert_eq!(
        verify(ROOT, 1, Some(LIST), LEAF_SERVER),
        Err(Failure::Purpose)
    );
    assert_eq!(
        verify(ROOT_V1, 1, Some(LIST), LEAF_OF_V1),
        Err(Failure::NoCrl)
    );
}

#[test]
fn damaged_certificates_lists_and_keys_never_panic() {
    let chain = chain(&format!("{LEAF_V1}{MIDDLE}{ROOT}"));
    let list = pem::parse(LIST).unwrap().into_contents();
    let mut rng = fastrand::Rng::with_seed(1);
    let mut out = Vec::new();
    for round in 0..20_000 {
        let mut der = match round % 4 {
            3 => list.clone(),
            at => chain[at].to_vec(),
        };
        for _ in 0..rng.usize(1..4) {
            let at = rng.usize(..der.len());
            der[at] = rng.u8(..);
        }
        der.truncate(rng.usize(der.len() / 2..=der.len()));
        out.clear();
        if let Some(one) = x509::Certificate::parse(&der) {
            name::write_rfc2253(one.subject, &mut out);
            name::write_legacy(one.issuer, &mut out);
            name::write_serial(&one, &mut out);
            name::write_time(one.not_after, &mut out);
            name::write_time(one.not_before, &mut out);
            one.common_names().count();
        }
        let text = pem::encode(&pem::Pem::new("X509 CRL", der.clone()));
        drop(crl::parse(text.as_bytes()));
        if round % 16 == 0 {
            let trust = Trust {
                authorities: chain.clone(),
                depth: 9,
                revoked: None,
                algorithms: server::algorithms(),
            };
            let sent = [CertificateDer::from(der), chain[1].clone()];
            let _ = trust.verify(&sent, x509::CLIENT_AUTH, UnixTime::now());
        }
    }
    let key = include_str!("testdata/ec-pbes2.key");
    let key = pem::parse(key).unwrap().into_contents();
    // The number of rounds is left as it is, or this takes long.
    let fixed = 36..44;
    for _ in 0..200 {
        let mut der = key.clone();
        let at = rng.usize(..der.len());
        if !fixed.contains(&at) {
            der[at] = rng.u8(..);
        }
        let text = pem::encode(&pem::Pem::new("ENCRYPTED PRIVATE KEY", der));
        drop(key::parse(text.as_bytes(), &[b"secret".to_vec()]));
    }
}

#[test]
fn garbage_instead_of_records_never_panics() {
    let (certified, own) = certified();
    let server = Server::new(Settings::new(vec![certified])).unwrap();
    let config = Arc::new(client(&own));
    let mut rng = fastrand::Rng::with_seed(2);
    for _ in 0..50 {
        let mut pair = connect(&server, &config).unwrap();
        pair.client.writer().write_all(&[7; 300]).unwrap();
        let mut wire = std::mem::take(&mut pair.input);
        pair.client.write_tls(&mut wire).unwrap();
        for _ in 0..rng.usize(1..9) {
            let at = rng.usize(..wire.len());
            wire[at] = rng.u8(..);
        }
        let mut plain = Vec::new();
        for piece in wire.chunks(rng.usize(1..50)) {
            if pair.server.records.open(piece, &mut plain).is_err() {
                break;
            }
        }
    }
}

#[test]
fn damaged_handshakes_end_with_an_alert() {
    let (certified, own) = certified();
    let server = Server::new(Settings::new(vec![certified])).unwrap();
    let config = Arc::new(client(&own));
    let mut rng = fastrand::Rng::with_seed(3);
    for _ in 0..200 {
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = ClientConnection::new(Arc::clone(&config), name).unwrap();
        let mut handshake = Handshake::new(&server, "localhost").unwrap();
        let mut out = Vec::new();
        let mut flight = Vec::new();
        client.write_tls(&mut flight).unwrap();
        // The ClientHello, or what the client says at the end.
        let is_hello = rng.bool();
        if !is_hello {
            handshake.advance(&mut flight, &mut out).unwrap();
            let mut sent = &out[..];
            client.read_tls(&mut sent).unwrap();
            client.process_new_packets().unwrap();
            client.write_tls(&mut flight).unwrap();
            out.clear();
        }
        let at = rng.usize(..flight.len());
        flight[at] ^= 1 << rng.u8(..8);
        let mut input = Vec::new();
        for piece in flight.chunks(rng.usize(1..200)) {
            input.extend_from_slice(piece);
            match handshake.advance(&mut input, &mut out) {
                Ok(Progress::Waits) => {}
                Ok(Progress::Done) => break,
                Err(error) => {
                    let is_plain = matches!(out[..], [.., 21, 3, 3, 0, 2, 2, _]);
                    // Behind a ServerHello it is encrypted.
                    let is_encrypted = !is_hello || out.first() == Some(&22);
                    assert!(is_plain || is_encrypted, "{error} {out:?}");
                    break;
                }
            }
        }
    }
}
