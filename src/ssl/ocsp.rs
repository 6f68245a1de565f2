//! `ssl_stapling` and `ssl_ocsp`: which certificates somebody is asked about, and whom.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::StoresServerSessions;
use rustls::sign::CertifiedKey;

use super::build::{Compiler, named};
use super::conf::Verify;
use super::directives::Raw;
use crate::config::{ConfigError, Result, Word};
use crate::tls::ocsp::{self, Answer, CertId, Inquiry, Kept, Question, Responder, Staple, Status};
use crate::tls::session::Cache;
use crate::tls::verify::Trust;
use crate::tls::x509::{self, Certificate};
use crate::tls::{Server, server};

/// How long an answer is kept that does not say how long it holds, in seconds.
const UNSAID_SECS: i64 = 3600;

/// Tells statuses from sessions in a zone.
const CONTEXT: [u8; 16] = *b"status of client";

/// `ssl_ocsp`: somebody is asked about the certificates of clients.
pub struct Ocsp {
    /// About the client's own alone, not about those that signed it.
    leaf: bool,
    /// `ssl_ocsp_responder`
    responder: Option<Responder>,
    /// `ssl_ocsp_cache`
    cache: Option<Cache>,
    /// Who is believed to sign answers.
    trust: Arc<Trust>,
}

/// Why a client's certificate is not taken though it is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unproven {
    /// A responder says so.
    Revoked,
    /// A responder does not know it.
    Unknown,
    /// No responder has answered, or it is not to be believed.
    Failed,
}

impl Unproven {
    /// nginx's word for it.
    pub fn reason(self) -> &'static str {
        match self {
            Unproven::Revoked => "certificate revoked",
            Unproven::Unknown => "certificate status unknown",
            Unproven::Failed => "certificate status request failed",
        }
    }

    fn of(status: Status) -> std::result::Result<(), Unproven> {
        match status {
            Status::Good => Ok(()),
            Status::Revoked => Err(Unproven::Revoked),
            Status::Unknown => Err(Unproven::Unknown),
        }
    }
}

impl Ocsp {
    /// Asks about the certificates that a client of `server` has sent, which are valid: the cache
    /// first, then whoever `ask` asks. What goes wrong is `told`, in nginx's words.
    ///
    /// # Errors
    /// They are not to be taken.
    pub async fn check(
        &self,
        server: &Server,
        sent: &[CertificateDer<'static>],
        ask: impl AsyncFn(Inquiry) -> std::result::Result<Answer, String>,
        told: impl Fn(&str),
    ) -> std::result::Result<(), Unproven> {
        let inquiries = self.inquiries(server, sent).map_err(|why| {
            told(&why);
            Unproven::Failed
        })?;
        for inquiry in inquiries {
            let id = inquiry.question.id.key();
            if let Some(status) = self.known(&id) {
                Unproven::of(status)?;
                continue;
            }
            let answer = ask(inquiry).await.map_err(|why| {
                told(&why);
                Unproven::Failed
            })?;
            self.remember(&id, answer);
            Unproven::of(answer.status)?;
        }
        Ok(())
    }

    /// One for each certificate on the path to the authority, or for the client's own.
    fn inquiries(
        &self,
        server: &Server,
        sent: &[CertificateDer<'static>],
    ) -> std::result::Result<Vec<Inquiry>, String> {
        let Some(trust) = &server.trust else {
            return Ok(Vec::new());
        };
        let path = trust
            .path(sent, x509::CLIENT_AUTH, UnixTime::now())
            .map_err(|failure| failure.reason().to_owned())?;
        let pairs = path.windows(2).take(if self.leaf { 1 } else { usize::MAX });
        let inquiry = |pair: &[Certificate<'_>]| {
            let (one, issuer) = (&pair[0], &pair[1]);
            let responder = match &self.responder {
                Some(responder) => responder.clone(),
                None => {
                    let url = ocsp::url(one).ok_or("no OCSP responder URL in certificate")?;
                    Responder::parse(url).map_err(|why| {
                        let url = url.escape_ascii();
                        format!("{why} in OCSP responder \"{url}\" in certificate")
                    })?
                }
            };
            Ok(Inquiry {
                question: Question {
                    id: CertId::new(one, issuer),
                    issuer: owned(issuer),
                    others: path.iter().skip(1).map(owned).collect(),
                    trust: Some(Arc::clone(&self.trust)),
                },
                responder,
                certificate: "".into(),
            })
        };
        pairs.map(inquiry).collect()
    }

    fn known(&self, id: &[u8]) -> Option<Status> {
        match *self.cache.as_ref()?.get(id)? {
            [0] => Some(Status::Good),
            [1] => Some(Status::Revoked),
            [2] => Some(Status::Unknown),
            _ => None,
        }
    }

    fn remember(&self, id: &[u8], answer: Answer) {
        let Some(cache) = &self.cache else {
            return;
        };
        let now = i64::try_from(UnixTime::now().as_secs()).unwrap_or(i64::MAX);
        let holds = answer.until.map_or(UNSAID_SECS, |until| until - now);
        let Some(holds_secs) = u64::try_from(holds).ok().filter(|secs| *secs > 0) else {
            return;
        };
        let status = match answer.status {
            Status::Good => 0,
            Status::Revoked => 1,
            Status::Unknown => 2,
        };
        cache.keep(id, vec![status], holds_secs.saturating_mul(1000));
    }
}

fn owned(one: &Certificate<'_>) -> CertificateDer<'static> {
    CertificateDer::from(one.whole.to_vec())
}

impl Raw {
    /// `ssl_ocsp`
    ///
    /// # Errors
    /// nginx's, about the responder, and `optional_no_ca`.
    pub(super) fn ocsp(&self, verify: Verify, trust: &Arc<Trust>) -> Result<Option<Ocsp>> {
        let Some(kind @ (1 | 2)) = self.ocsp else {
            return Ok(None);
        };
        if verify == Verify::OptionalNoCa {
            let message = "\"ssl_ocsp\" is incompatible with \"ssl_verify_client optional_no_ca\"";
            return Err(ConfigError::bare(message)
                .help("who does not look who signed a certificate cannot know whom to ask"));
        }
        let responder = match self.ocsp_responder.as_ref().filter(|w| !w.bytes.is_empty()) {
            None => None,
            Some(word) => Some(Responder::parse(&word.bytes).map_err(|why| {
                let message = format!(
                    "{why} in OCSP responder \"{}\" in \"ssl_ocsp_responder\"",
                    word.text()
                );
                ConfigError::at(word.span, message).help("as in http://ocsp.example.com/")
            })?),
        };
        let zone = self.ocsp_cache.as_ref().and_then(Option::as_ref);
        let named = |zone: &super::directives::Zone| {
            Cache::named(&zone.name, zone.size, CONTEXT, Duration::ZERO)
        };
        Ok(Some(Ocsp {
            leaf: kind == 2,
            responder,
            cache: zone.map(named),
            trust: Arc::clone(trust),
        }))
    }

    /// `ssl_stapling` without a file: the responses to fetch for these certificates. As in nginx, a
    /// certificate for which there is nobody to ask is only remarked upon.
    pub(super) fn stapled<S>(
        &self,
        certificates: &[Arc<CertifiedKey>],
        trust: &Arc<Trust>,
        c: &mut Compiler<'_, '_, S>,
    ) -> Vec<Option<Kept>> {
        let has_file = named(&self.stapling_file, c).is_some();
        if has_file || !self.stapling.unwrap_or(false) {
            return Vec::new();
        }
        let words = self.certificates.as_deref().unwrap_or_default();
        let mut all = Vec::with_capacity(certificates.len());
        for (own, word) in certificates.iter().zip(words) {
            let name = c.reader.conf_path(word).display().to_string();
            match self.kept(own, trust, &name) {
                Ok(kept) => all.push(Some(kept)),
                Err(why) => {
                    if c.common.remarked.insert(word.span) {
                        let message = format!("\"ssl_stapling\" ignored, {why} \"{name}\"");
                        c.reader.warn(word.span, message);
                    }
                    all.push(None);
                }
            }
        }
        all
    }

    /// What to ask about a certificate of ours, or why there is nobody.
    fn kept(
        &self,
        own: &Arc<CertifiedKey>,
        trust: &Arc<Trust>,
        name: &str,
    ) -> std::result::Result<Kept, String> {
        let algorithms = server::algorithms();
        let leaf = own.cert.first().and_then(|der| Certificate::parse(der));
        let leaf = leaf.ok_or("no certificate in")?;
        let others = own.cert.get(1..).unwrap_or_default();
        let is_issuer = |der: &&CertificateDer<'static>| {
            Certificate::parse(der).is_some_and(|one| {
                one.subject == leaf.issuer && leaf.is_signed_by(&one, &algorithms)
            })
        };
        let mut known = others.iter().chain(&trust.authorities);
        let issuer = known
            .find(is_issuer)
            .ok_or("issuer certificate not found for certificate")?;
        let parsed = Certificate::parse(issuer).ok_or("no issuer of")?;
        let written = self.stapling_responder.as_ref();
        let written = written.filter(|word: &&Word| !word.bytes.is_empty());
        let url = match written {
            Some(word) => &*word.bytes,
            None => ocsp::url(&leaf).ok_or("no OCSP responder URL in the certificate")?,
        };
        let responder = Responder::parse(url).map_err(|why| {
            let url = url.escape_ascii();
            format!("{why} in OCSP responder \"{url}\" in the certificate")
        })?;
        let verify = self.stapling_verify.unwrap_or(false);
        let mut identity: Vec<&[u8]> = vec![url, if verify { b"verified" } else { b"" }, issuer];
        identity.extend(own.cert.iter().map(|der| &**der));
        if verify {
            identity.extend(trust.authorities.iter().map(|der| &**der));
        }
        Ok(Kept {
            staple: Staple::of(&identity),
            own: Arc::clone(own),
            inquiry: Inquiry {
                question: Question {
                    id: CertId::new(&leaf, &parsed),
                    issuer: issuer.clone(),
                    others: others.to_vec(),
                    trust: verify.then(|| Arc::clone(trust)),
                },
                responder,
                certificate: name.into(),
            },
        })
    }
}
