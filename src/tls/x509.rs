//! Reading certificates (RFC 5280) of any version: what TLS and the variables about them need.

use super::der::{self, Reader, Value};

/// A certificate, as ranges of its DER.
#[derive(Clone, Debug)]
pub struct Certificate<'a> {
    /// All of it.
    pub whole: &'a [u8],
    /// What was signed.
    pub signed: &'a [u8],
    /// 1, 2 or 3.
    pub version: u32,
    /// The serial number's octets.
    pub serial: &'a [u8],
    /// The algorithm of the signature: the content of its identifier.
    pub signature_algorithm: &'a [u8],
    /// Who signed: a whole `Name`.
    pub issuer: &'a [u8],
    /// It is valid from this second since 1970 on …
    pub not_before: i64,
    /// … to this one.
    pub not_after: i64,
    /// Whose it is: a whole `Name`.
    pub subject: &'a [u8],
    /// The public key with its algorithm: a whole `SubjectPublicKeyInfo`.
    pub key_info: &'a [u8],
    /// The algorithm of the key: the content of its identifier.
    pub key_algorithm: &'a [u8],
    /// The public key itself.
    pub key: &'a [u8],
    /// The signature.
    pub signature: &'a [u8],
    /// The extensions that are understood.
    pub extensions: Extensions<'a>,
}

/// Extensions of version 3.
#[derive(Clone, Debug, Default)]
pub struct Extensions<'a> {
    /// basicConstraints, if there: whether it is an authority, and how many more may follow.
    pub constraints: Option<(bool, Option<u32>)>,
    /// keyUsage, if there: its first octet.
    pub key_usage: Option<u8>,
    /// extKeyUsage, if there: its object identifiers.
    pub extended_usage: Option<&'a [u8]>,
    /// subjectAltName, if there: its names.
    pub names: Option<&'a [u8]>,
    /// authorityInfoAccess, if there: its descriptions.
    pub access: Option<&'a [u8]>,
    /// It says which names the certificates below it may have.
    pub constrains_names: bool,
    /// It has a critical extension that nothing here knows.
    pub has_unknown_critical: bool,
}

/// keyUsage, RFC 5280, 4.2.1.3.
pub const DIGITAL_SIGNATURE: u8 = 0x80;
/// See [`DIGITAL_SIGNATURE`].
pub const KEY_AGREEMENT: u8 = 0x08;
/// See [`DIGITAL_SIGNATURE`].
pub const CERTIFICATE_SIGN: u8 = 0x04;
/// See [`DIGITAL_SIGNATURE`].
pub const CRL_SIGN: u8 = 0x02;

/// id-kp-serverAuth, RFC 5280, 4.2.1.12.
pub const SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
/// id-kp-clientAuth.
pub const CLIENT_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];
/// id-kp-OCSPSigning.
pub const OCSP_SIGNING: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 9];

impl<'a> Certificate<'a> {
    /// Reads a certificate; `None` if it is none.
    pub fn parse(der: &'a [u8]) -> Option<Certificate<'a>> {
        let certificate = Reader::new(der).expect(der::SEQUENCE)?;
        let mut whole = certificate.reader();
        let signed = whole.expect(der::SEQUENCE)?;
        let signature_algorithm = whole.expect(der::SEQUENCE)?.content;
        let signature = whole.expect(der::BIT_STRING)?.bits()?;
        let mut fields = signed.reader();
        let version = match fields.optional(der::context(0)) {
            Some(version) => version.reader().expect(der::INTEGER)?.number()? + 1,
            None => 1,
        };
        let serial = fields.expect(der::INTEGER)?.content;
        if fields.expect(der::SEQUENCE)?.content != signature_algorithm {
            return None;
        }
        let issuer = fields.expect(der::SEQUENCE)?.whole;
        let mut validity = fields.sequence()?;
        let (not_before, not_after) = (validity.next()?.time()?, validity.next()?.time()?);
        let subject = fields.expect(der::SEQUENCE)?.whole;
        let key_info = fields.expect(der::SEQUENCE)?;
        let mut key = key_info.reader();
        let key_algorithm = key.expect(der::SEQUENCE)?.content;
        let key = key.expect(der::BIT_STRING)?.bits()?;
        fields.optional(0x81);
        fields.optional(0x82);
        let extensions = match fields.optional(der::context(3)) {
            Some(extensions) => Extensions::parse(extensions.reader().sequence()?)?,
            None => Extensions::default(),
        };
        Some(Certificate {
            whole: certificate.whole,
            signed: signed.whole,
            version,
            serial,
            signature_algorithm,
            issuer,
            not_before,
            not_after,
            subject,
            key_info: key_info.whole,
            key_algorithm,
            key,
            signature,
            extensions,
        })
    }

    /// Whether it claims to have signed itself.
    pub fn is_self_issued(&self) -> bool {
        self.issuer == self.subject
    }

    /// Whether its key may sign certificates, by what it says of itself. As OpenSSL, a certificate
    /// of version 1 may if it signed itself.
    pub fn is_authority(&self) -> bool {
        let extensions = &self.extensions;
        let may_sign = |usage: u8| usage & CERTIFICATE_SIGN != 0;
        match (extensions.constraints, extensions.key_usage) {
            (Some((is_authority, _)), usage) => is_authority && usage.is_none_or(may_sign),
            (None, Some(usage)) => may_sign(usage),
            (None, None) => self.version == 1 && self.is_self_issued(),
        }
    }

    /// Whether it may be used for `purpose` ([`SERVER_AUTH`], [`CLIENT_AUTH`]) by its extKeyUsage.
    pub fn is_for(&self, purpose: &[u8]) -> bool {
        self.extensions.extended_usage.is_none() || self.names_purpose(purpose)
    }

    /// Whether its extKeyUsage has this purpose.
    pub fn names_purpose(&self, purpose: &[u8]) -> bool {
        let mut list = Reader::new(self.extensions.extended_usage.unwrap_or_default());
        std::iter::from_fn(|| list.next()).any(|oid| oid.content == purpose)
    }

    /// The common names of the subject (`CN`), in their order.
    pub fn common_names(&self) -> impl Iterator<Item = &'a [u8]> {
        attributes(self.subject)
            .filter(|(oid, _)| *oid == [0x55, 4, 3])
            .map(|(_, value)| value.content)
    }
}

/// As [`Certificate::parse`] for a certificate of this subject; `None`, and soon, for others: a
/// file with all public authorities has 150, which a handshake goes through.
pub fn parse_subject<'a>(der: &'a [u8], subject: &[u8]) -> Option<Certificate<'a>> {
    let mut fields = Reader::new(der).sequence()?.sequence()?;
    fields.optional(der::context(0));
    // Serial number, algorithm, issuer, validity.
    for _ in 0..4 {
        fields.next()?;
    }
    if fields.next()?.whole != subject {
        return None;
    }
    Certificate::parse(der)
}

/// The attributes of a `Name`: the type and the value of each.
pub fn attributes(name: &[u8]) -> impl Iterator<Item = (&[u8], Value<'_>)> {
    let mut relative = Reader::new(name).sequence().unwrap_or(Reader::new(&[]));
    let mut current = Reader::new(&[]);
    std::iter::from_fn(move || {
        while current.is_empty() {
            current = relative.expect(der::SET)?.reader();
        }
        let mut pair = current.sequence()?;
        Some((pair.expect(der::OID)?.content, pair.next()?))
    })
}

impl<'a> Extensions<'a> {
    fn parse(mut list: Reader<'a>) -> Option<Extensions<'a>> {
        let mut found = Extensions::default();
        while !list.is_empty() {
            let mut extension = list.sequence()?;
            let oid = extension.expect(der::OID)?.content;
            let critical = extension
                .optional(der::BOOLEAN)
                .is_some_and(|value| value.content == [0xff]);
            let mut value = extension.expect(der::OCTET_STRING)?.reader();
            match oid {
                [0x55, 0x1d, 19] => {
                    let mut constraints = value.sequence()?;
                    let is_authority = constraints
                        .optional(der::BOOLEAN)
                        .is_some_and(|value| value.content == [0xff]);
                    let length = match constraints.optional(der::INTEGER) {
                        Some(length) => Some(length.number()?),
                        None => None,
                    };
                    found.constraints = Some((is_authority, length));
                }
                [0x55, 0x1d, 15] => {
                    let bits = value.expect(der::BIT_STRING)?.content;
                    found.key_usage = Some(bits.get(1).copied().unwrap_or(0));
                }
                [0x55, 0x1d, 37] => {
                    found.extended_usage = Some(value.expect(der::SEQUENCE)?.content)
                }
                [0x55, 0x1d, 17] => found.names = Some(value.expect(der::SEQUENCE)?.content),
                [0x55, 0x1d, 30] => found.constrains_names = true,
                [0x2b, 6, 1, 5, 5, 7, 1, 1] => {
                    found.access = Some(value.expect(der::SEQUENCE)?.content);
                }
                // certificatePolicies: none is required of anyone here.
                [0x55, 0x1d, 32] => {}
                _ => found.has_unknown_critical |= critical,
            }
        }
        Some(found)
    }
}
