//! Responses made by hand, and what is wrong with them.

use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SigningKey};

use super::*;

/// 2026-11-21 16:32:25 UTC.
const NOW: u64 = 1_795_278_745;

/// ecdsa-with-SHA256
const ALGORITHM: &[u8] = &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];

struct Setting {
    issuer: CertificateDer<'static>,
    key: KeyPair,
    leaf: CertificateDer<'static>,
}

/// What a response says.
struct Saying {
    status: Vec<u8>,
    this_update: &'static str,
    next_update: &'static str,
    /// In place of the number of the certificate.
    serial: Option<u8>,
    /// More of the statuses' list, in front.
    extensions: Vec<u8>,
}

fn saying() -> Saying {
    Saying {
        status: vec![0x80, 0],
        this_update: "20261121160000Z",
        next_update: "20261122160000Z",
        serial: None,
        extensions: Vec::new(),
    }
}

fn setting() -> Setting {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = params.self_signed(&key).unwrap().der().clone();
    let signer = Issuer::new(params, &key);
    let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let leaf = params.signed_by(&KeyPair::generate().unwrap(), &signer);
    let leaf = leaf.unwrap().der().clone();
    Setting { issuer, key, leaf }
}

impl Setting {
    fn question(&self) -> Question {
        let issuer = Certificate::parse(&self.issuer).unwrap();
        Question {
            id: CertId::new(&Certificate::parse(&self.leaf).unwrap(), &issuer),
            issuer: self.issuer.clone(),
            others: Vec::new(),
            trust: None,
        }
    }

    fn response(&self, saying: &Saying) -> Vec<u8> {
        let sequence = |parts: &[&[u8]]| der::encode(der::SEQUENCE, parts);
        let time = |text: &str| der::encode(der::GENERALIZED_TIME, &[text.as_bytes()]);
        let mut id = self.question().id;
        id.serial = saying.serial.map_or(id.serial, |one| [one].into());
        // Out of the request with it.
        let request = id.request();
        let mut id = Reader::new(&request);
        for _ in 0..4 {
            id = id.sequence().unwrap();
        }
        let id = id.next().unwrap().whole;
        let next = match saying.next_update {
            "" => Vec::new(),
            next => der::encode(der::context(0), &[&time(next)]),
        };
        let this = time(saying.this_update);
        let single = sequence(&[id, &saying.status, &this, &next, &saying.extensions]);
        let issuer = Certificate::parse(&self.issuer).unwrap();
        let by_name = der::encode(der::context(1), &[issuer.subject]);
        let produced = time("20261121160000Z");
        let signed = sequence(&[&by_name, &produced, &sequence(&[&single])]);
        let signature = self.key.sign(&signed).unwrap();
        let signature = der::encode(der::BIT_STRING, &[&[0], &signature]);
        let basic = sequence(&[&signed, &sequence(&[ALGORITHM]), &signature]);
        let basic = der::encode(der::OCTET_STRING, &[&basic]);
        let kind = der::encode(der::OID, &[BASIC]);
        let bytes = der::encode(der::context(0), &[&sequence(&[&kind, &basic])]);
        sequence(&[&[ENUMERATED, 1, 0], &bytes])
    }
}

fn now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(NOW))
}

#[test]
fn answers_are_read() {
    let setting = setting();
    let read = |saying: &Saying| setting.question().read(&setting.response(saying), now());
    let good = read(&saying()).unwrap();
    let until = NOW as i64 + 86_400 - 32 * 60 - 25;
    assert_eq!(
        good,
        Answer {
            status: Status::Good,
            until: Some(until)
        }
    );
    let unlimited = Saying {
        next_update: "",
        ..saying()
    };
    assert_eq!(read(&unlimited).unwrap().until, None);
    let time = der::encode(der::GENERALIZED_TIME, &[b"20260101000000Z"]);
    let revoked = der::encode(der::context(1), &[&time]);
    let revoked = Saying {
        status: revoked,
        ..saying()
    };
    assert_eq!(read(&revoked).unwrap().status, Status::Revoked);
    let unknown = Saying {
        status: vec![0x82, 0],
        ..saying()
    };
    assert_eq!(read(&unknown).unwrap().status, Status::Unknown);
    let remark = der::encode(der::SEQUENCE, &[&[6, 1, 42, 4, 0]]);
    let extensions = der::encode(der::SEQUENCE, &[&remark]);
    let extensions = der::encode(der::context(1), &[&extensions]);
    let harmless = Saying {
        extensions,
        ..saying()
    };
    assert_eq!(read(&harmless), Ok(good));
}

#[test]
fn what_does_not_hold_is_refused() {
    let setting = setting();
    let refused = |saying: &Saying, why: &str| {
        let read = setting.question().read(&setting.response(saying), now());
        assert!(
            read.as_ref().is_err_and(|error| error.contains(why)),
            "{read:?}"
        );
    };
    let early = Saying {
        this_update: "20261121170000Z",
        ..saying()
    };
    refused(&early, "status not yet valid");
    let late = Saying {
        next_update: "20261121162000Z",
        ..saying()
    };
    refused(&late, "status expired");
    let other = Saying {
        serial: Some(7),
        ..saying()
    };
    refused(&other, "certificate status not found");
    let critical = der::encode(der::SEQUENCE, &[&[6, 1, 42, 1, 1, 0xff, 4, 0]]);
    let critical = der::encode(der::SEQUENCE, &[&critical]);
    let extensions = der::encode(der::context(1), &[&critical]);
    refused(
        &Saying {
            extensions,
            ..saying()
        },
        "damaged",
    );
    let other = self::setting();
    let foreign = other.response(&saying());
    let read = setting.question().read(&foreign, now());
    assert!(read.unwrap_err().contains("OCSP_basic_verify() failed"));
}

#[test]
fn damaged_responses_say_nothing() {
    let setting = setting();
    let question = setting.question();
    let whole = setting.response(&saying());
    let answer = question.read(&whole, now()).unwrap();
    for end in 0..whole.len() {
        assert!(question.read(&whole[..end], now()).is_err());
    }
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        // Not every bit means something, but none changes what is said.
        let read = question.read(&damaged, now());
        assert!(read.is_err() || read == Ok(answer), "{at}");
    }
    assert!(question.read(&[whole, vec![0]].concat(), now()).is_err());
}
