//! Verifying the certificate of a peer as OpenSSL does for nginx.
//!
//! webpki refuses what is common inside companies: certificates of version 1, certificates that
//! are their own authority. So the path to a trusted authority is found here; webpki is asked too
//! where an authority on it constrains names.

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, UnixTime};

use super::crl::{self, Crl};
use super::x509::{self, Certificate};

/// Who is trusted, and how far.
pub struct Trust {
    /// Certificates of authorities. Only those that signed themselves end a path.
    pub authorities: Vec<CertificateDer<'static>>,
    /// Most certificates between the peer's own and the authority that ends the path.
    pub depth: usize,
    /// Lists of what was revoked; `None` if nobody is to look.
    pub revoked: Option<Vec<Crl>>,
    /// Algorithms of signatures that are taken.
    pub algorithms: WebPkiSupportedAlgorithms,
}

/// Why a certificate is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It signed itself, and nobody trusts it.
    SelfSigned,
    /// The path ends with one that signed itself, and nobody trusts that.
    SelfSignedInChain,
    /// Nobody knows who signed it.
    NoIssuer,
    /// Nobody knows who signed the last of its path.
    NoIssuerInChain,
    /// A signature is not right.
    Signature,
    /// Its time has not come.
    NotYet,
    /// Its time is over.
    Expired,
    /// The path is longer than `ssl_verify_depth` says.
    TooLong,
    /// One on the path is none of an authority.
    NoAuthority,
    /// An authority on the path may not have so many below it.
    PathLength,
    /// It is not made for this.
    Purpose,
    /// It was revoked.
    Revoked,
    /// There is no list that says whether it was revoked.
    NoCrl,
    /// The list that says whether it was revoked is too old.
    CrlExpired,
    /// It has a critical extension that nobody here understands.
    Extension,
    /// It is no certificate.
    Damaged,
}

impl Failure {
    /// What OpenSSL calls it, and so `$ssl_client_verify`.
    pub fn reason(self) -> &'static str {
        match self {
            Failure::SelfSigned => "self-signed certificate",
            Failure::SelfSignedInChain => "self-signed certificate in certificate chain",
            Failure::NoIssuer => "unable to verify the first certificate",
            Failure::NoIssuerInChain => "unable to get local issuer certificate",
            Failure::Signature => "certificate signature failure",
            Failure::NotYet => "certificate is not yet valid",
            Failure::Expired => "certificate has expired",
            Failure::TooLong => "certificate chain too long",
            Failure::NoAuthority => "invalid CA certificate",
            Failure::PathLength => "path length constraint exceeded",
            Failure::Purpose => "unsuitable certificate purpose",
            Failure::Revoked => "certificate revoked",
            Failure::NoCrl => "unable to get certificate CRL",
            Failure::CrlExpired => "CRL has expired",
            Failure::Extension => "unhandled critical extension",
            Failure::Damaged => "certificate cannot be read",
        }
    }

    /// Whether `optional_no_ca` puts up with it: only the authority is not known.
    pub fn is_about_authority(self) -> bool {
        matches!(
            self,
            Failure::SelfSigned
                | Failure::SelfSignedInChain
                | Failure::NoIssuer
                | Failure::NoIssuerInChain
        )
    }

    /// The number by which OpenSSL's messages know it.
    pub fn number(self) -> u32 {
        match self {
            Failure::NoCrl => 3,
            Failure::Signature => 7,
            Failure::NotYet => 9,
            Failure::Expired => 10,
            Failure::CrlExpired => 12,
            Failure::SelfSigned => 18,
            Failure::SelfSignedInChain => 19,
            Failure::NoIssuerInChain => 20,
            Failure::NoIssuer => 21,
            Failure::TooLong => 22,
            Failure::Revoked => 23,
            Failure::NoAuthority => 79,
            Failure::PathLength => 25,
            Failure::Purpose => 26,
            Failure::Extension => 34,
            Failure::Damaged => 1,
        }
    }
}

/// Signatures that one verification looks at, at most: a chain can be made to have many paths.
const SIGNATURES_MAX: u32 = 64;

/// Certificates of a path, at most.
const PATH_MAX: usize = 16;

/// Certificates that a peer sends, at most; what follows is not looked at.
const SENT_MAX: usize = 16;

struct Search<'a> {
    trust: &'a Trust,
    sent: Vec<Certificate<'a>>,
    budget: u32,
}

impl Trust {
    /// Verifies the chain that a peer sent, its own certificate first, for a `purpose`
    /// ([`x509::CLIENT_AUTH`], [`x509::SERVER_AUTH`], or [`x509::OCSP_SIGNING`]).
    ///
    /// # Errors
    /// Why it is not valid.
    pub fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        purpose: &[u8],
        now: UnixTime,
    ) -> Result<(), Failure> {
        self.path(chain, purpose, now).map(drop)
    }

    /// As [`Trust::verify`], and gives the path from the peer's certificate to the authority that
    /// signed itself.
    ///
    /// # Errors
    /// Why it is not valid.
    pub fn path<'a>(
        &'a self,
        chain: &'a [CertificateDer<'_>],
        purpose: &[u8],
        now: UnixTime,
    ) -> Result<Vec<Certificate<'a>>, Failure> {
        let parse = |der| Certificate::parse(der).ok_or(Failure::Damaged);
        let sent = chain.iter().take(SENT_MAX).map(|der| parse(der));
        let mut sent = sent.collect::<Result<Vec<_>, _>>()?;
        if sent.is_empty() {
            return Err(Failure::Damaged);
        }
        let own = sent.remove(0);
        let mut search = Search {
            trust: self,
            sent,
            budget: SIGNATURES_MAX,
        };
        let mut path = vec![own];
        search.extend(&mut path)?;
        self.check(&path, purpose, now)?;
        if path.iter().any(|one| one.extensions.constrains_names) {
            self.check_by_webpki(chain, &path, purpose, now)?;
        }
        Ok(path)
    }

    /// What holds for every certificate of a path whose signatures are right.
    fn check(
        &self,
        path: &[Certificate<'_>],
        purpose: &[u8],
        now: UnixTime,
    ) -> Result<(), Failure> {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        // The certificate itself and the authority at the end do not count.
        if path.len().saturating_sub(2) > self.depth {
            return Err(Failure::TooLong);
        }
        for (at, one) in path.iter().enumerate() {
            if one.extensions.has_unknown_critical {
                return Err(Failure::Extension);
            }
            if at > 0 && !one.is_authority() {
                return Err(Failure::NoAuthority);
            }
            let below = path[1..at.max(1)]
                .iter()
                .filter(|one| !one.is_self_issued())
                .count();
            if let Some((true, Some(most))) = one.extensions.constraints
                && at > 0
                && below > most as usize
            {
                return Err(Failure::PathLength);
            }
            // Authorities may sign responders whatever their own keys are for.
            let is_checked = at == 0 || purpose != x509::OCSP_SIGNING;
            if is_checked && !one.is_for(purpose) {
                return Err(Failure::Purpose);
            }
            if now < one.not_before {
                return Err(Failure::NotYet);
            }
            if now > one.not_after {
                return Err(Failure::Expired);
            }
        }
        let signs = x509::DIGITAL_SIGNATURE | x509::KEY_AGREEMENT;
        if path[0]
            .extensions
            .key_usage
            .is_some_and(|usage| usage & signs == 0)
        {
            return Err(Failure::Purpose);
        }
        match &self.revoked {
            Some(lists) => crl::check(lists, path, now, &self.algorithms),
            None => Ok(()),
        }
    }

    /// Lets webpki look at a path on which names are constrained.
    fn check_by_webpki(
        &self,
        chain: &[CertificateDer<'_>],
        path: &[Certificate<'_>],
        purpose: &[u8],
        now: UnixTime,
    ) -> Result<(), Failure> {
        let own = webpki::EndEntityCert::try_from(&chain[0]).map_err(|_| Failure::NoAuthority)?;
        let root = path.last().map(|root| root.signed);
        let is_root =
            |der: &&CertificateDer<'_>| Certificate::parse(der).map(|one| one.signed) == root;
        let anchors = self.authorities.iter().filter(is_root);
        let anchors: Vec<_> = anchors
            .filter_map(|der| webpki::anchor_from_trusted_cert(der).ok())
            .collect();
        let usage = match purpose {
            x509::CLIENT_AUTH => webpki::KeyUsage::client_auth(),
            x509::OCSP_SIGNING => webpki::KeyUsage::required(x509::OCSP_SIGNING),
            _ => webpki::KeyUsage::server_auth(),
        };
        let between: Vec<_> = chain[1..]
            .iter()
            .chain(&self.authorities)
            .take(SENT_MAX)
            .cloned()
            .collect();
        own.verify_for_usage(
            self.algorithms.all,
            &anchors,
            &between,
            now,
            usage,
            None,
            None,
        )
        .map(drop)
        .map_err(|_| Failure::NoAuthority)
    }
}

impl<'a> Search<'a> {
    /// Goes on from the end of the path to an authority that is trusted and signed itself.
    fn extend(&mut self, path: &mut Vec<Certificate<'a>>) -> Result<(), Failure> {
        let last = path.last().expect("a path has a beginning").clone();
        if last.is_self_issued() && self.is_trusted(&last) {
            return Ok(());
        }
        if last.is_self_issued() && self.is_signed_by(&last, &last) {
            return Err(if path.len() == 1 {
                Failure::SelfSigned
            } else {
                Failure::SelfSignedInChain
            });
        }
        let mut failure = if path.len() == 1 {
            Failure::NoIssuer
        } else {
            Failure::NoIssuerInChain
        };
        if path.len() == PATH_MAX {
            return Err(Failure::TooLong);
        }
        let trusted = self.trust.authorities.len();
        for at in 0..trusted + self.sent.len() {
            let candidate = match self.trust.authorities.get(at) {
                Some(der) => x509::parse_subject(der, last.issuer),
                None => Some(&self.sent[at - trusted])
                    .filter(|sent| sent.subject == last.issuer)
                    .cloned(),
            };
            let is_new = |candidate: &Certificate<'_>| !path.iter().any(|one| one.is(candidate));
            let Some(candidate) = candidate.filter(is_new) else {
                continue;
            };
            if !self.is_signed_by(&last, &candidate) {
                // A namesake with another key is no one's fault if the right one is there too.
                failure = Failure::Signature;
                continue;
            }
            path.push(candidate);
            match self.extend(path) {
                Ok(()) => return Ok(()),
                Err(why) => failure = why,
            }
            path.pop();
        }
        Err(failure)
    }

    fn is_trusted(&self, one: &Certificate<'_>) -> bool {
        let mut all = self.trust.authorities.iter();
        all.any(|der| x509::parse_subject(der, one.subject).is_some_and(|known| known.is(one)))
    }

    fn is_signed_by(&mut self, one: &Certificate<'_>, by: &Certificate<'_>) -> bool {
        let Some(left) = self.budget.checked_sub(1) else {
            return false;
        };
        self.budget = left;
        one.is_signed_by(by, &self.trust.algorithms)
    }
}

impl Certificate<'_> {
    /// Whether its signature is right and of this certificate's key.
    pub fn is_signed_by(
        &self,
        by: &Certificate<'_>,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> bool {
        let signed = Signed {
            algorithm: self.signature_algorithm,
            message: self.signed,
            signature: self.signature,
        };
        signed.is_by(by, algorithms)
    }

    fn is(&self, other: &Certificate<'_>) -> bool {
        self.signed == other.signed && self.signature == other.signature
    }
}

/// Something with a signature.
pub struct Signed<'a> {
    /// The content of the identifier of the signature's algorithm.
    pub algorithm: &'a [u8],
    /// What was signed.
    pub message: &'a [u8],
    /// The signature.
    pub signature: &'a [u8],
}

impl Signed<'_> {
    /// Whether the signature is right and of this certificate's key.
    pub fn is_by(&self, signer: &Certificate<'_>, algorithms: &WebPkiSupportedAlgorithms) -> bool {
        let fitting = algorithms.all.iter().filter(|algorithm| {
            algorithm.signature_alg_id().as_ref() == self.algorithm
                && algorithm.public_key_alg_id().as_ref() == signer.key_algorithm
        });
        fitting.into_iter().any(|algorithm| {
            let verified = algorithm.verify_signature(signer.key, self.message, self.signature);
            verified.is_ok()
        })
    }
}
