//! Lists of revoked certificates (RFC 5280, 5) of version 1 and 2.

use std::collections::HashSet;

use rustls::crypto::WebPkiSupportedAlgorithms;

use super::der::{self, Reader};
use super::verify::{Failure, Signed};
use super::x509::{self, Certificate};

/// A list.
pub struct Crl {
    signed: Box<[u8]>,
    algorithm: Box<[u8]>,
    signature: Box<[u8]>,
    issuer: Box<[u8]>,
    next_update: Option<i64>,
    serials: HashSet<Box<[u8]>>,
}

impl Crl {
    /// What was signed, which says everything there is in it.
    pub fn signed(&self) -> &[u8] {
        &self.signed
    }
}

/// The lists in a PEM text.
///
/// # Errors
/// What is wrong with it, as the end of a sentence.
pub fn parse(text: &[u8]) -> Result<Vec<Crl>, String> {
    let sections = pem::parse_many(text).map_err(|error| error.to_string())?;
    let lists = sections
        .iter()
        .filter(|section| section.tag() == "X509 CRL");
    let lists =
        lists.map(|section| Crl::parse(section.contents()).ok_or("a list in it is damaged"));
    let lists: Vec<Crl> = lists.collect::<Result<_, _>>()?;
    if lists.is_empty() {
        return Err("no \"-----BEGIN X509 CRL-----\" in it".into());
    }
    Ok(lists)
}

/// Looks whether a certificate of the path was revoked. As nginx, it wants a list of every
/// authority on the path.
///
/// # Errors
/// One was, or nobody knows.
pub fn check(
    lists: &[Crl],
    path: &[Certificate<'_>],
    now: i64,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<(), Failure> {
    for (at, one) in path.iter().enumerate() {
        let issuer = path.get(at + 1).unwrap_or(one);
        let mut own = lists
            .iter()
            .filter(|list| *list.issuer == *one.issuer)
            .peekable();
        if own.peek().is_none() {
            return Err(Failure::NoCrl);
        }
        let mut current = own
            .filter(|list| list.next_update.is_none_or(|end| now <= end))
            .peekable();
        if current.peek().is_none() {
            return Err(Failure::CrlExpired);
        }
        let may_sign = |usage: u8| usage & x509::CRL_SIGN != 0;
        let mut valid = current
            .filter(|list| {
                issuer.extensions.key_usage.is_none_or(may_sign)
                    && list.signature().is_by(issuer, algorithms)
            })
            .peekable();
        if valid.peek().is_none() {
            return Err(Failure::NoCrl);
        }
        if valid.any(|list| list.serials.contains(one.serial)) {
            return Err(Failure::Revoked);
        }
    }
    Ok(())
}

impl Crl {
    fn parse(der: &[u8]) -> Option<Crl> {
        let mut whole = Reader::new(der).sequence()?;
        let signed = whole.expect(der::SEQUENCE)?;
        let algorithm = whole.expect(der::SEQUENCE)?.content;
        let signature = whole.expect(der::BIT_STRING)?.bits()?;
        let mut fields = signed.reader();
        fields.optional(der::INTEGER);
        if fields.expect(der::SEQUENCE)?.content != algorithm {
            return None;
        }
        let issuer = fields.expect(der::SEQUENCE)?.whole;
        fields.next()?.time()?;
        let next = fields
            .optional(der::UTC_TIME)
            .or_else(|| fields.optional(der::GENERALIZED_TIME));
        let next_update = match next {
            Some(next) => Some(next.time()?),
            None => None,
        };
        let mut serials = HashSet::new();
        if let Some(list) = fields.optional(der::SEQUENCE) {
            let mut list = list.reader();
            while !list.is_empty() {
                let serial = list.sequence()?.expect(der::INTEGER)?.content;
                serials.insert(serial.into());
            }
        }
        if let Some(extensions) = fields.optional(der::context(0)) {
            refuse_critical(extensions.reader().sequence()?)?;
        }
        Some(Crl {
            signed: signed.whole.into(),
            algorithm: algorithm.into(),
            signature: signature.into(),
            issuer: issuer.into(),
            next_update,
            serials,
        })
    }

    fn signature(&self) -> Signed<'_> {
        Signed {
            algorithm: &self.algorithm,
            message: &self.signed,
            signature: &self.signature,
        }
    }
}

/// A critical extension limits a list to some certificates, or to changes of another list; to read
/// such a list as a whole one would be wrong.
pub(super) fn refuse_critical(mut extensions: Reader<'_>) -> Option<()> {
    while !extensions.is_empty() {
        let mut extension = extensions.sequence()?;
        extension.expect(der::OID)?;
        if extension
            .optional(der::BOOLEAN)
            .is_some_and(|value| value.content == [0xff])
        {
            return None;
        }
    }
    Some(())
}
