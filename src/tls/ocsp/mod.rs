//! OCSP (RFC 6960): the question whether a certificate was revoked, and what an answer says.
//!
//! Who is asked, and over what, is not known here.

mod responder;
mod staple;

use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::pki_types::{CertificateDer, UnixTime};

use super::crl::refuse_critical;
use super::der::{self, Reader, Value};
use super::server;
use super::verify::{Signed, Trust};
use super::x509::{self, Certificate};

pub use responder::{HEAD_MAX, Inquiry, RESPONSE_MAX, Responder, body};
pub use staple::{Kept, Staple};

/// Which certificate is meant: by its number, and its issuer's name and key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CertId {
    issuer_name: [u8; HASH_LEN],
    issuer_key: [u8; HASH_LEN],
    serial: Box<[u8]>,
}

/// A question, with what it takes to believe the answer.
#[derive(Clone)]
pub struct Question {
    /// The certificate it is about.
    pub id: CertId,
    /// Who signed that.
    pub issuer: CertificateDer<'static>,
    /// More certificates: one of them may have signed the answer, or the certificate of who did.
    pub others: Vec<CertificateDer<'static>>,
    /// Where the path of the issuer has to end. Without, a right signature of any certificate that
    /// is here or comes with the answer will do, as for nginx without `ssl_stapling_verify`.
    pub trust: Option<Arc<Trust>>,
}

/// What an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// About the certificate.
    pub status: Status,
    /// Until when, in seconds since 1970; `None` if it does not say.
    pub until: Option<i64>,
}

/// What a responder knows of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It was not revoked.
    Good,
    /// It was revoked.
    Revoked,
    /// The responder does not know it.
    Unknown,
}

const HASH_LEN: usize = 20;

/// The content of the identifier of SHA-1, which every responder knows (RFC 5019, 2.1.1); that
/// others can make a colliding name or key is of no use to them.
const SHA1: &[u8] = &[0x06, 5, 0x2b, 0x0e, 3, 2, 0x1a, 0x05, 0];
const SHA1_OID: &[u8] = &[0x2b, 0x0e, 3, 2, 0x1a];

/// id-pkix-ocsp-basic
const BASIC: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1];

/// id-ad-ocsp
const ACCESS_OCSP: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 0x30, 1];

/// `[6]`, a URI among the forms of a name.
const URI: u8 = 0x86;

const ENUMERATED: u8 = 0x0a;

/// How far our clock and the responder's may be apart, in seconds.
const SKEW_SECS: i64 = 300;

/// Certificates and statuses of one answer that are looked at, at most.
const PARTS_MAX: usize = 16;

impl Status {
    /// OpenSSL's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Status::Good => "good",
            Status::Revoked => "revoked",
            Status::Unknown => "unknown",
        }
    }
}

impl CertId {
    /// Of a certificate and who signed it.
    pub fn new(one: &Certificate<'_>, issuer: &Certificate<'_>) -> CertId {
        CertId {
            issuer_name: sha1(issuer.subject),
            issuer_key: sha1(issuer.key),
            serial: one.serial.into(),
        }
    }

    /// The whole of a request about it alone, without a nonce: answers may be ready-made.
    pub fn request(&self) -> Vec<u8> {
        let algorithm = der::encode(der::SEQUENCE, &[SHA1]);
        let name = der::encode(der::OCTET_STRING, &[&self.issuer_name]);
        let key = der::encode(der::OCTET_STRING, &[&self.issuer_key]);
        let serial = der::encode(der::INTEGER, &[&self.serial]);
        let id = der::encode(der::SEQUENCE, &[&algorithm, &name, &key, &serial]);
        // In a request in a list in a request to be signed in a request.
        (0..4).fold(id, |inner, _| der::encode(der::SEQUENCE, &[&inner]))
    }

    /// What tells it from others, in short.
    pub fn key(&self) -> Vec<u8> {
        [&self.issuer_name[..], &self.issuer_key, &self.serial].concat()
    }

    /// Whether a `CertID` is this one.
    fn is(&self, mut id: Reader<'_>) -> Option<bool> {
        let mut algorithm = id.sequence()?;
        let is_sha1 = algorithm.expect(der::OID)?.content == SHA1_OID;
        let name = id.expect(der::OCTET_STRING)?.content;
        let key = id.expect(der::OCTET_STRING)?.content;
        let serial = id.expect(der::INTEGER)?.content;
        let is_same = name == self.issuer_name && key == self.issuer_key && *serial == *self.serial;
        id.is_empty().then_some(is_sha1 && is_same)
    }
}

impl Question {
    /// What a response (RFC 6960, 4.2.1) says.
    ///
    /// # Errors
    /// It is none, nobody can be believed to have signed it, or it is not about this certificate at
    /// this time; in nginx's words.
    pub fn read(&self, response: &[u8], now: UnixTime) -> Result<Answer, String> {
        let basic = basic(response)?;
        let basic = Basic::parse(basic).ok_or("the OCSP response is damaged")?;
        self.believe(&basic, now)
            .map_err(|why| format!("OCSP_basic_verify() failed ({why})"))?;
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let mut statuses = basic.statuses;
        for _ in 0..PARTS_MAX {
            if statuses.is_empty() {
                break;
            }
            let single = statuses.sequence().and_then(Single::parse);
            let single = single.ok_or("the OCSP response is damaged")?;
            if self
                .id
                .is(single.id)
                .ok_or("the OCSP response is damaged")?
            {
                single.check(now)?;
                return Ok(Answer {
                    status: single.status,
                    until: single.next_update,
                });
            }
        }
        Err("certificate status not found in the OCSP response".into())
    }

    /// Whether somebody who may has signed it.
    fn believe(&self, basic: &Basic<'_>, now: UnixTime) -> Result<(), String> {
        let algorithms = server::algorithms();
        let issuer = Certificate::parse(&self.issuer).ok_or("no issuer")?;
        let others = self.others.iter().filter_map(|der| Certificate::parse(der));
        let own = std::iter::once(issuer.clone()).chain(others);
        let sent = basic.certificates.iter().cloned();
        let mut signers = own.chain(sent).filter(|one| basic.is_by(one));
        let signed = Signed {
            algorithm: basic.algorithm,
            message: basic.signed,
            signature: basic.signature,
        };
        let Some(first) = signers.next() else {
            return Err("signer certificate not found".into());
        };
        // A key may have several certificates.
        let mut signers = std::iter::once(first).chain(signers);
        let Some(signer) = signers.find(|one| signed.is_by(one, &algorithms)) else {
            return Err("signature failure".into());
        };
        let Some(trust) = &self.trust else {
            return Ok(());
        };
        let is_own = |der: &CertificateDer<'_>| **der == *signer.whole;
        if is_own(&self.issuer) || self.others.iter().any(is_own) {
            return Ok(());
        }
        let is_delegate = signer.issuer == issuer.subject
            && signer.names_purpose(x509::OCSP_SIGNING)
            && signer.is_signed_by(&issuer, &algorithms);
        if !is_delegate {
            return Err("missing ocspsigning usage".into());
        }
        let path = [signer.whole, &self.issuer];
        let path = path.map(CertificateDer::from);
        let sent = basic.certificates.iter().map(|one| one.whole.into());
        let path: Vec<_> = path
            .into_iter()
            .chain(self.others.iter().cloned())
            .chain(sent)
            .collect();
        trust
            .verify(&path, x509::OCSP_SIGNING, now)
            .map_err(|failure| format!("certificate verify error: {}", failure.reason()))
    }
}

/// Where to ask about a certificate: the URL of the first responder that it names.
pub fn url<'a>(one: &Certificate<'a>) -> Option<&'a [u8]> {
    let mut list = Reader::new(one.extensions.access?);
    while !list.is_empty() {
        let mut description = list.sequence()?;
        let method = description.expect(der::OID)?.content;
        let place = description.next()?;
        if method == ACCESS_OCSP && place.tag == URI {
            return Some(place.content);
        }
    }
    None
}

/// A `BasicOCSPResponse`.
struct Basic<'a> {
    signed: &'a [u8],
    algorithm: &'a [u8],
    signature: &'a [u8],
    responder: Value<'a>,
    statuses: Reader<'a>,
    certificates: Vec<Certificate<'a>>,
}

/// A `SingleResponse`.
struct Single<'a> {
    id: Reader<'a>,
    status: Status,
    this_update: i64,
    next_update: Option<i64>,
}

/// The content of the one kind of successful response that there is.
fn basic(response: &[u8]) -> Result<Reader<'_>, String> {
    let damaged = || "d2i_OCSP_RESPONSE() failed".to_owned();
    let mut whole = Reader::new(response);
    let mut fields = whole.sequence().ok_or_else(damaged)?;
    let status = fields.expect(ENUMERATED).and_then(|value| value.number());
    let status = status.ok_or_else(damaged)?;
    if !whole.is_empty() {
        return Err(damaged());
    }
    if status != 0 {
        let name = match status {
            1 => "malformedrequest",
            2 => "internalerror",
            3 => "trylater",
            5 => "sigrequired",
            6 => "unauthorized",
            _ => "(UNKNOWN)",
        };
        return Err(format!("OCSP response not successful ({status}: {name})"));
    }
    content(fields)
        .map(Reader::new)
        .ok_or_else(|| "OCSP_response_get1_basic() failed".into())
}

fn content(mut fields: Reader<'_>) -> Option<&[u8]> {
    let mut bytes = fields.expect(der::context(0))?.reader().sequence()?;
    let kind = bytes.expect(der::OID)?.content;
    let content = bytes.expect(der::OCTET_STRING)?.content;
    (kind == BASIC && fields.is_empty() && bytes.is_empty()).then_some(content)
}

impl<'a> Basic<'a> {
    fn parse(mut content: Reader<'a>) -> Option<Basic<'a>> {
        let mut fields = content.sequence()?;
        let signed = fields.expect(der::SEQUENCE)?;
        let algorithm = fields.expect(der::SEQUENCE)?.content;
        let signature = fields.expect(der::BIT_STRING)?.bits()?;
        let mut certificates = Vec::new();
        if let Some(list) = fields.optional(der::context(0)) {
            let mut list = list.reader().sequence()?;
            while !list.is_empty() {
                let one = list.expect(der::SEQUENCE)?.whole;
                if certificates.len() < PARTS_MAX {
                    certificates.push(Certificate::parse(one)?);
                }
            }
        }
        let mut data = signed.reader();
        if let Some(version) = data.optional(der::context(0)) {
            // 0 is version 1, and there is no other.
            (version.reader().expect(der::INTEGER)?.number()? == 0).then_some(())?;
        }
        let responder = data.next()?;
        data.expect(der::GENERALIZED_TIME)?.time()?;
        let statuses = data.sequence()?;
        extensions(&mut data)?;
        let is_whole = content.is_empty() && fields.is_empty() && data.is_empty();
        is_whole.then_some(Basic {
            signed: signed.whole,
            algorithm,
            signature,
            responder,
            statuses,
            certificates,
        })
    }

    /// Whether it says that this certificate's owner has signed it.
    fn is_by(&self, one: &Certificate<'_>) -> bool {
        const BY_NAME: u8 = der::context(1);
        const BY_KEY: u8 = der::context(2);
        let mut id = self.responder.reader();
        match self.responder.tag {
            BY_NAME => self.responder.content == one.subject,
            BY_KEY => id
                .expect(der::OCTET_STRING)
                .is_some_and(|hash| hash.content == sha1(one.key)),
            _ => false,
        }
    }
}

impl<'a> Single<'a> {
    fn parse(mut fields: Reader<'a>) -> Option<Single<'a>> {
        const GOOD: u8 = 0x80;
        const REVOKED: u8 = der::context(1);
        const UNKNOWN: u8 = 0x82;
        let id = fields.sequence()?;
        let status = match fields.next()?.tag {
            GOOD => Status::Good,
            REVOKED => Status::Revoked,
            UNKNOWN => Status::Unknown,
            _ => return None,
        };
        let this_update = fields.expect(der::GENERALIZED_TIME)?.time()?;
        let next_update = match fields.optional(der::context(0)) {
            Some(next) => Some(next.reader().expect(der::GENERALIZED_TIME)?.time()?),
            None => None,
        };
        extensions(&mut fields)?;
        fields.is_empty().then_some(Single {
            id,
            status,
            this_update,
            next_update,
        })
    }

    /// Whether it holds at this time.
    fn check(&self, now: i64) -> Result<(), String> {
        let why = match self.next_update {
            _ if self.this_update > now + SKEW_SECS => "status not yet valid",
            Some(next) if next < now - SKEW_SECS => "status expired",
            Some(next) if next < self.this_update => "nextupdate before thisupdate",
            _ => return Ok(()),
        };
        Err(format!("OCSP_check_validity() failed ({why})"))
    }
}

/// Extensions, none of which may be critical: none is known here.
fn extensions(fields: &mut Reader<'_>) -> Option<()> {
    match fields.optional(der::context(1)) {
        Some(list) => refuse_critical(list.reader().sequence()?),
        None => Some(()),
    }
}

fn sha1(bytes: &[u8]) -> [u8; HASH_LEN] {
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, bytes);
    hash.as_ref().try_into().expect("SHA-1 has 20 bytes")
}

#[cfg(test)]
mod tests;
