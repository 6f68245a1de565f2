//! Our client against our server, in memory.

use std::time::Duration;

use super::super::server::provider;
use super::super::session::Tickets;
use super::super::{Handshake, Server, Settings, cert};
use super::*;

/// A certificate that signed itself for these names, with its key.
fn certified(names: &[&str]) -> Arc<CertifiedKey> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let one = cert::certified(chain.as_bytes(), key.as_bytes(), &[], &provider());
    Arc::new(one.unwrap())
}

fn trusting(certificate: &CertifiedKey) -> Option<Trust> {
    Some(Trust {
        authorities: vec![certificate.cert[0].clone()],
        depth: 1,
        revoked: None,
        algorithms: algorithms(),
    })
}

fn serving(certificate: &Arc<CertifiedKey>) -> Settings {
    let mut settings = Settings::new(vec![Arc::clone(certificate)]);
    settings.tickets = Some(Tickets::new([1; 16], Duration::from_secs(60), Vec::new()));
    settings
}

/// Both ends of a connection, the client's first.
fn connect(
    client: &Client,
    server: &Server,
    target: Target<'_>,
) -> Result<[Established; 2], Refused> {
    let mut ours = ClientHandshake::new(client, target)?;
    let mut theirs = Handshake::new(server, "")?;
    let (mut up, mut down, mut done) = (Vec::new(), Vec::new(), [false; 2]);
    while !done[0] || !done[1] {
        if !done[0] {
            done[0] = ours.advance(&mut down, &mut up)? == Progress::Done;
        }
        if !done[1] {
            done[1] = theirs.advance(&mut up, &mut down)? == Progress::Done;
        }
    }
    let mut ends = [ours.finish()?, theirs.finish()?];
    let [ours, theirs] = &mut ends;
    ours.records.open(&down, &mut ours.plain).unwrap();
    theirs.records.open(&up, &mut theirs.plain).unwrap();
    Ok(ends)
}

fn exchange([ours, theirs]: &mut [Established; 2]) {
    let large: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
    for bytes in [&b"request"[..], &large] {
        for _ in 0..2 {
            let (mut wire, mut plain) = (Vec::new(), Vec::new());
            ours.records.seal(bytes, &mut wire);
            theirs.records.open(&wire, &mut plain).unwrap();
            assert_eq!(plain, bytes);
            std::mem::swap(ours, theirs);
        }
    }
}

const LOCALHOST: Target<'_> = Target {
    name: b"localhost",
    tells_name: true,
    peer: 1,
};

fn versions(settings: &mut ClientSettings, name: &str) {
    settings.tls12 = name == "TLSv1.2";
    settings.tls13 = name == "TLSv1.3";
}

#[test]
fn bytes_go_both_ways_and_sessions_are_resumed() {
    let certificate = certified(&["localhost"]);
    let server = Server::new(serving(&certificate)).unwrap();
    for version in ["TLSv1.2", "TLSv1.3"] {
        for (resumes, expected) in [(true, [false, true, true]), (false, [false; 3])] {
            let mut settings = ClientSettings {
                trust: trusting(&certificate),
                resumes,
                ..ClientSettings::default()
            };
            versions(&mut settings, version);
            let client = Client::new(settings).unwrap();
            let reused = [1, 2, 3].map(|_| {
                let mut ends = connect(&client, &server, LOCALHOST).unwrap();
                exchange(&mut ends);
                assert_eq!(ends[0].session.protocol, version);
                assert_eq!(ends[1].session.reused, ends[0].session.reused);
                ends[0].session.reused
            });
            assert_eq!(reused, expected, "{version}");
            // Another peer, or another name, has sessions of its own.
            let others = [
                Target {
                    peer: 2,
                    ..LOCALHOST
                },
                Target {
                    tells_name: false,
                    ..LOCALHOST
                },
            ];
            for target in others {
                let [ours, _] = connect(&client, &server, target).unwrap();
                assert!(!ours.session.reused, "{version} {target:?}");
            }
        }
    }
}

#[test]
fn a_client_with_the_same_settings_is_the_same() {
    let certificate = certified(&["localhost"]);
    let settings = |depth| ClientSettings {
        trust: trusting(&certificate).map(|trust| Trust { depth, ..trust }),
        ..ClientSettings::default()
    };
    let first = Client::new(settings(1)).unwrap();
    assert!(Arc::ptr_eq(&first, &Client::new(settings(1)).unwrap()));
    assert!(!Arc::ptr_eq(&first, &Client::new(settings(2)).unwrap()));
    let any = Client::new(ClientSettings::default()).unwrap();
    assert!(!Arc::ptr_eq(&first, &any));
    let with_certificate = ClientSettings {
        certificate: Some(Arc::clone(&certificate)),
        ..ClientSettings::default()
    };
    assert!(!Arc::ptr_eq(&any, &Client::new(with_certificate).unwrap()));
}

#[test]
fn servers_that_are_not_to_be_trusted_are_refused() {
    let (certificate, other) = (certified(&["localhost"]), certified(&["localhost"]));
    let server = Server::new(serving(&certificate)).unwrap();
    for version in ["TLSv1.2", "TLSv1.3"] {
        let client = |trust| {
            let mut settings = ClientSettings {
                trust,
                ..ClientSettings::default()
            };
            versions(&mut settings, version);
            Client::new(settings).unwrap()
        };
        let said = |client: &Client, target| match connect(client, &server, target) {
            Ok(_) => String::new(),
            Err(refused) => refused.to_string(),
        };
        let wrong_name = Target {
            name: b"other",
            ..LOCALHOST
        };
        let unknown = "upstream SSL certificate verify error: (18:self-signed certificate)";
        let mismatch = "upstream SSL certificate does not match \"other\"";
        let strict = client(trusting(&certificate));
        // The second time too, when there would be a session.
        for _ in 0..2 {
            assert_eq!(said(&client(trusting(&other)), LOCALHOST), unknown);
            assert_eq!(said(&strict, wrong_name), mismatch);
        }
        assert_eq!(said(&strict, LOCALHOST), "");
        assert_eq!(said(&client(None), wrong_name), "");
    }
}

#[test]
fn a_server_that_asks_gets_our_certificate() {
    let (certificate, own) = (certified(&["localhost"]), certified(&["client"]));
    let mut settings = serving(&certificate);
    settings.asks = true;
    let server = Server::new(settings).unwrap();
    for certificate in [None, Some(&own)] {
        let client = Client::new(ClientSettings {
            certificate: certificate.cloned(),
            ..ClientSettings::default()
        });
        let [_, theirs] = connect(&client.unwrap(), &server, LOCALHOST).unwrap();
        let expected = certificate.map_or(&[][..], |own| &own.cert);
        assert_eq!(theirs.session.certificates, expected);
    }
    let client = Client::new(ClientSettings::default()).unwrap();
    let client = client.with_certificate(Arc::clone(&own));
    let [_, theirs] = connect(&client, &server, LOCALHOST).unwrap();
    assert_eq!(theirs.session.certificates, own.cert);
}

#[test]
fn a_name_that_cannot_be_told_is_not() {
    for name in [&b""[..], b"127.0.0.1", b"[::1]", b"two words", b"\xff"] {
        let target = Target { name, ..LOCALHOST };
        assert!(told_name(target).is_none(), "{}", name.escape_ascii());
    }
    assert!(told_name(LOCALHOST).is_some());
    let certificate = certified(&["localhost", "127.0.0.1"]);
    let server = Server::new(serving(&certificate)).unwrap();
    let client = Client::new(ClientSettings {
        trust: trusting(&certificate),
        ..ClientSettings::default()
    });
    let target = Target {
        name: b"127.0.0.1",
        ..LOCALHOST
    };
    connect(&client.unwrap(), &server, target)
        .map(drop)
        .unwrap();
}

#[test]
fn what_is_no_handshake_is_refused() {
    let client = Client::new(ClientSettings::default()).unwrap();
    for answer in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        &[21, 3, 3, 0, 2, 2, 40],
    ] {
        let mut handshake = ClientHandshake::new(&client, LOCALHOST).unwrap();
        let mut out = Vec::new();
        let begun = handshake.advance(&mut Vec::new(), &mut out).unwrap();
        assert!(begun == Progress::Waits && !out.is_empty());
        let refused = handshake
            .advance(&mut answer.to_vec(), &mut out)
            .unwrap_err();
        let said = refused.to_string();
        assert!(
            said.starts_with("SSL_do_handshake() failed (SSL: "),
            "{said}"
        );
    }
}

#[test]
fn damaged_handshakes_of_servers_never_panic() {
    let certificate = certified(&["localhost"]);
    let server = Server::new(serving(&certificate)).unwrap();
    let mut rng = fastrand::Rng::with_seed(4);
    for round in 0..400 {
        let mut settings = ClientSettings::default();
        versions(&mut settings, ["TLSv1.2", "TLSv1.3"][round % 2]);
        let client = Client::new(settings).unwrap();
        let mut ours = ClientHandshake::new(&client, LOCALHOST).unwrap();
        let mut theirs = Handshake::new(&server, "").unwrap();
        let (mut up, mut down, mut input) = (Vec::new(), Vec::new(), Vec::new());
        let damaged_turn = rng.usize(..2);
        for turn in 0..3 {
            if ours.advance(&mut input, &mut up).is_err() {
                break;
            }
            if theirs.advance(&mut up, &mut down).is_err() {
                break;
            }
            if turn == damaged_turn && !down.is_empty() {
                for _ in 0..rng.usize(1..4) {
                    let at = rng.usize(..down.len());
                    down[at] = rng.u8(..);
                }
                down.truncate(rng.usize(down.len() / 2..=down.len()));
            }
            let mut pieces = down.chunks(rng.usize(1..2000)).peekable();
            while let Some(piece) = pieces.next() {
                input.extend_from_slice(piece);
                let is_last = pieces.peek().is_none();
                if !is_last && ours.advance(&mut input, &mut up).is_err() {
                    break;
                }
            }
            down.clear();
        }
    }
}
