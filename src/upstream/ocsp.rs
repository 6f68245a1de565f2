//! Asking OCSP responders: about our own certificates, for stapling, and about those of clients.
//!
//! All of it happens on one background thread, which starts with the first question. A connection
//! waits for the answer about its client; handshakes find what is stapled in memory.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustls::pki_types::UnixTime;
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};

use super::background::Background;
use super::resolve::Resolver;
use crate::log_process;
use crate::observe::{Level, os_error};
use crate::tls::ocsp::{self, Answer, HEAD_MAX, Inquiry, Kept, RESPONSE_MAX, Staple, Status};

/// How long one question may take, as in nginx.
const TIMEOUT: Duration = Duration::from_secs(60);

/// After a failure, and after an answer that holds longer than that, at least so many seconds pass.
const PAUSE_SECS: i64 = 300;

/// After this many seconds, an answer is asked for again whether it still holds or not.
const REFRESH_SECS: i64 = 3600;

/// Between two looks whether a certificate is still in use.
const LOOK: Duration = Duration::from_secs(1);

/// Questions under way at the same time; more of them wait.
const ASKED_MAX: usize = 64;

/// Asks, and waits for the answer: a minute at most. Dropping the future is harmless.
///
/// # Errors
/// The message about it for the log.
pub async fn ask(inquiry: Inquiry, resolver: Option<Resolver>) -> Result<Answer, String> {
    let (reply, answer) = oneshot::channel();
    let asked = Asked {
        inquiry,
        resolver,
        reply,
    };
    JOBS.send(Job::Ask(Box::new(asked)), work);
    let gone = || "OCSP responders cannot be asked".into();
    answer.await.unwrap_or_else(|_| Err(gone()))
}

/// Keeps the response for a certificate up to date for as long as its staple is in use. Again for
/// the same one, as by a reload: from now on with this resolver.
pub fn keep(kept: Kept, resolver: Option<Resolver>) {
    JOBS.send(Job::Keep(Box::new(kept), resolver), work);
}

struct Asked {
    inquiry: Inquiry,
    resolver: Option<Resolver>,
    reply: oneshot::Sender<Result<Answer, String>>,
}

enum Job {
    Ask(Box<Asked>),
    Keep(Box<Kept>, Option<Resolver>),
}

/// Where responders are asked.
static JOBS: Background<Job> = Background::new("ocsp");

async fn work(mut jobs: mpsc::UnboundedReceiver<Job>) {
    let places = Arc::new(Semaphore::new(ASKED_MAX));
    let mut keepers = HashMap::<usize, Keeper>::new();
    while let Some(job) = jobs.recv().await {
        match job {
            Job::Ask(asked) => {
                let places = Arc::clone(&places);
                tokio::task::spawn_local(async move {
                    let _place = places.acquire().await;
                    if asked.reply.is_closed() {
                        return;
                    }
                    let answer = fetch(&asked.inquiry, asked.resolver.as_ref()).await;
                    let _ = asked.reply.send(answer.map(|(answer, _)| answer));
                });
            }
            Job::Keep(kept, resolver) => {
                keepers.retain(|_, keeper| keeper.staple.strong_count() > 0);
                let key = Arc::as_ptr(&kept.staple) as usize;
                match keepers.get(&key) {
                    Some(keeper) => keeper.again(resolver),
                    None => drop(keepers.insert(key, Keeper::start(*kept, resolver))),
                }
            }
        }
    }
}

/// The task that keeps one response up to date, seen from outside.
struct Keeper {
    staple: Weak<Staple>,
    shared: Arc<Shared>,
}

/// What a reload tells the task.
struct Shared {
    resolver: arc_swap::ArcSwapOption<Resolver>,
    /// Somebody has changed the configuration: maybe it works now.
    changed: Notify,
}

impl Keeper {
    fn start(kept: Kept, resolver: Option<Resolver>) -> Keeper {
        let shared = Arc::new(Shared {
            resolver: arc_swap::ArcSwapOption::from_pointee(resolver),
            changed: Notify::new(),
        });
        let Kept {
            staple,
            own,
            inquiry,
        } = kept;
        let keeper = Keeper {
            staple: Arc::downgrade(&staple),
            shared: Arc::clone(&shared),
        };
        drop(staple);
        tokio::task::spawn_local(keep_up(keeper.staple.clone(), own, inquiry, shared));
        keeper
    }

    fn again(&self, resolver: Option<Resolver>) {
        self.shared.resolver.store(resolver.map(Arc::new));
        let has_one = self.staple.upgrade().is_some_and(|s| s.current().is_some());
        if !has_one {
            self.shared.changed.notify_one();
        }
    }
}

/// Asks again and again for as long as the staple is in use.
async fn keep_up(
    staple: Weak<Staple>,
    own: Arc<CertifiedKey>,
    inquiry: Inquiry,
    shared: Arc<Shared>,
) {
    while staple.strong_count() > 0 {
        let resolver = shared.resolver.load_full();
        let fetched = fetch(&inquiry, resolver.as_deref()).await;
        let now = now_secs();
        let pause = match (fetched, staple.upgrade()) {
            (_, None) => return,
            (Err(why), Some(_)) => {
                log_process!(Level::Error, "{why}");
                PAUSE_SECS
            }
            (Ok((answer, _)), Some(_)) if answer.status != Status::Good => {
                let status = answer.status.name();
                let message = format!("certificate status \"{status}\" in the OCSP response");
                log_process!(Level::Error, "{}", about(&inquiry, None, &message));
                PAUSE_SECS
            }
            (Ok((answer, response)), Some(staple)) => {
                let until = answer.until.unwrap_or(i64::MAX);
                staple.put(&own, response, until);
                refresh_after(until.saturating_sub(now))
            }
        };
        let mut left = Duration::from_secs(pause.unsigned_abs());
        while !left.is_zero() && staple.strong_count() > 0 {
            let step = left.min(LOOK);
            left -= step;
            if tokio::time::timeout(step, shared.changed.notified())
                .await
                .is_ok()
            {
                break;
            }
        }
    }
}

/// How many seconds to wait before an answer that holds for so many is asked for again.
fn refresh_after(holds_secs: i64) -> i64 {
    REFRESH_SECS.min(holds_secs - PAUSE_SECS).max(PAUSE_SECS)
}

fn now_secs() -> i64 {
    i64::try_from(UnixTime::now().as_secs()).unwrap_or(i64::MAX)
}

/// A message with what it is about, as nginx has it in its log.
fn about(inquiry: &Inquiry, peer: Option<SocketAddr>, message: &str) -> String {
    let host = &inquiry.responder.host;
    let peer = peer
        .map(|peer| format!(", peer: {peer}"))
        .unwrap_or_default();
    let certificate = match &*inquiry.certificate {
        "" => String::new(),
        name => format!(", certificate: \"{name}\""),
    };
    format!("{message} while requesting certificate status, responder: {host}{peer}{certificate}")
}

/// Asks once: the answer, and the response it is in.
async fn fetch(
    inquiry: &Inquiry,
    resolver: Option<&Resolver>,
) -> Result<(Answer, Vec<u8>), String> {
    let mut peer = None;
    let response = tokio::time::timeout(TIMEOUT, exchange(inquiry, resolver, &mut peer));
    let response = response
        .await
        .unwrap_or_else(|_| Err("OCSP responder timed out (110: Connection timed out)".into()));
    let read = response.and_then(|response| {
        let answer = inquiry.question.read(&response, UnixTime::now())?;
        Ok((answer, response))
    });
    read.map_err(|why| about(inquiry, peer, &why))
}

/// The response that the first address of the responder gives that can be connected to.
async fn exchange(
    inquiry: &Inquiry,
    resolver: Option<&Resolver>,
    peer: &mut Option<SocketAddr>,
) -> Result<Vec<u8>, String> {
    let responder = &inquiry.responder;
    let addrs = addresses(&responder.host, responder.port, resolver).await?;
    let mut failure = "no address".to_owned();
    for addr in addrs {
        *peer = Some(addr);
        let mut stream = match TcpStream::connect(addr).await {
            Ok(stream) => stream,
            Err(error) => {
                failure = format!("connect() failed {}", os_error(&error));
                continue;
            }
        };
        let request = responder.request(&inquiry.question.id);
        let written = stream.write_all(request.as_bytes()).await;
        written.map_err(|error| format!("send() failed {}", os_error(&error)))?;
        let mut sent = Vec::new();
        loop {
            let read = (&mut stream)
                .take(4096)
                .read_buf(&mut sent)
                .await
                .map_err(|error| format!("recv() failed {}", os_error(&error)))?;
            if let Some(response) = ocsp::body(&sent, read == 0)? {
                return Ok(response.to_vec());
            }
            if sent.len() > HEAD_MAX + RESPONSE_MAX {
                return Err("OCSP responder sent too large response".into());
            }
        }
    }
    Err(failure)
}

/// The addresses of a responder: as the `resolver` says, otherwise as the system does.
async fn addresses(
    host: &str,
    port: u16,
    resolver: Option<&Resolver>,
) -> Result<Vec<SocketAddr>, String> {
    let failed = |why: &dyn std::fmt::Display| format!("{host} could not be resolved ({why})");
    if let Ok(ip) = host.parse() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    match resolver {
        Some(resolver) => {
            let (found, _) = resolver.look_up(&host.to_ascii_lowercase()).await;
            let found = found.map_err(|why| failed(&why))?;
            Ok(found.iter().map(|ip| SocketAddr::new(*ip, port)).collect())
        }
        None => {
            let found = tokio::net::lookup_host((host, port)).await;
            Ok(found.map_err(|why| failed(&why))?.collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_asked_for_again_before_it_ends() {
        assert_eq!(refresh_after(86_400), 3600);
        assert_eq!(refresh_after(3000), 2700);
        assert_eq!(refresh_after(400), 300);
        assert_eq!(refresh_after(-5), 300);
        assert_eq!(refresh_after(i64::MAX), 3600);
    }
}
