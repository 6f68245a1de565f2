//! Names looked up at run time: the `resolver` directive, `server … resolve`, and `proxy_pass` with
//! variables.
//!
//! All DNS work happens on one background thread. A worker reads answers from an arc-swapped cache;
//! only a name that is not there costs it a wait, never a lock or a blocking call. The thread
//! starts with the first question, after the process has become what it will be (daemon, worker).

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, OnceLock, mpsc as std_mpsc};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig,
    ResolverOpts,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, Record};
use hickory_resolver::{Resolver as Dns, TokioResolver};
use tokio::sync::{mpsc, oneshot};

use super::background::Background;
use super::peer::Registry;
use super::pool::Group;
use super::watch::{Watch, Watched};

/// The parameters of `resolver` and `resolver_timeout`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolverConf {
    /// The name servers, asked in turn.
    pub servers: Vec<SocketAddr>,
    /// `valid=`: how long an answer holds, in place of its TTL.
    pub valid: Option<Duration>,
    /// `ipv4=off` clears it.
    pub ipv4: bool,
    /// `ipv6=off` clears it.
    pub ipv6: bool,
    /// `resolver_timeout`, 30 seconds by default.
    pub timeout: Duration,
}

/// Looks names up; cheap to clone and to share between workers.
#[derive(Clone)]
pub struct Resolver(Arc<Inner>);

/// Why a name has no addresses, with nginx's number and words for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResolveError {
    /// The name does not exist, or has no address of the wanted families.
    NotFound,
    /// No answer within `resolver_timeout`.
    TimedOut,
    /// The name servers could not say.
    ServerFailure,
    /// This is not a name.
    FormatError,
}

/// One SRV record. The order is that of use: by priority, then by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Service {
    pub priority: u16,
    pub target: Box<str>,
    pub port: u16,
    pub weight: u16,
}

impl Resolver {
    /// A resolver with a cache of its own. Starts nothing yet.
    pub fn new(conf: ResolverConf) -> Self {
        Resolver(Arc::new(Inner {
            conf,
            cache: ArcSwap::default(),
            dns: OnceLock::new(),
        }))
    }

    /// The parameters it was made with.
    pub fn conf(&self) -> &ResolverConf {
        &self.0.conf
    }

    /// The addresses of `name` from the cache, if it knows them at this moment.
    pub fn cached(&self, name: &str) -> Option<Result<Arc<[IpAddr]>, ResolveError>> {
        let answer = self.0.cache.load().get(name)?.clone();
        (answer.until > Instant::now()).then_some(answer.result)
    }

    /// The addresses of `name`, which is best given in lower case. Never empty. Ends within
    /// `resolver_timeout`; dropping the future is harmless.
    pub async fn resolve(&self, name: &str) -> Result<Arc<[IpAddr]>, ResolveError> {
        if let Ok(ip) = name.parse() {
            return Ok(Arc::new([ip]));
        }
        if let Some(result) = self.cached(name) {
            return result;
        }
        let (reply, answer) = oneshot::channel();
        let question = Question {
            resolver: self.clone(),
            name: name.into(),
            reply,
        };
        JOBS.send(Job::Ask(question), work);
        answer.await.unwrap_or(Err(ResolveError::ServerFailure))
    }

    /// Asks the name servers for addresses, whatever the cache knows. The answer never is empty;
    /// with it comes until when it holds. For the background thread.
    pub(super) async fn look_up(
        &self,
        name: &str,
    ) -> (Result<Arc<[IpAddr]>, ResolveError>, Instant) {
        let answer = self.0.look_up(name).await;
        (answer.result, answer.until)
    }

    /// As [`look_up`](Self::look_up), for SRV records.
    pub(super) async fn look_up_service(
        &self,
        name: &str,
    ) -> (Result<Vec<Service>, ResolveError>, Instant) {
        let conf = &self.0.conf;
        let asked = tokio::time::timeout(conf.timeout, self.0.query_service(name)).await;
        match asked.unwrap_or(Err(ResolveError::TimedOut)) {
            Ok((services, ttl)) => (Ok(services), Instant::now() + conf.valid.unwrap_or(ttl)),
            Err(error) => (Err(error), Instant::now() + NEGATIVE_TTL),
        }
    }

    /// Keeps the peers of `group` in step with the names of its servers for as long as the group
    /// lives. The receiver hears once, when every name was looked up for the first time: a starting
    /// process may wait for that a little before it serves. A name that cannot be looked up keeps
    /// its addresses; one that no longer exists loses them.
    pub fn watch(
        &self,
        registry: &'static Registry,
        group: &Arc<Group>,
        servers: Vec<Watched>,
    ) -> std_mpsc::Receiver<()> {
        let (first, receiver) = std_mpsc::channel();
        let resolver = self.clone();
        let group = Arc::downgrade(group);
        let watch = Watch {
            resolver,
            registry,
            group,
            servers,
            first: Some(first),
        };
        JOBS.send(Job::Watch(watch), work);
        receiver
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Resolver").field(&self.0.conf).finish()
    }
}

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ResolveError::FormatError => "1: Format error",
            ResolveError::ServerFailure => "2: Server failure",
            ResolveError::NotFound => "3: Host not found",
            ResolveError::TimedOut => "110: Operation timed out",
        })
    }
}

impl std::error::Error for ResolveError {}

struct Inner {
    conf: ResolverConf,
    cache: ArcSwap<HashMap<Box<str>, Answer>>,
    dns: OnceLock<Option<TokioResolver>>,
}

#[derive(Clone)]
struct Answer {
    result: Result<Arc<[IpAddr]>, ResolveError>,
    until: Instant,
}

struct Question {
    resolver: Resolver,
    name: Box<str>,
    reply: oneshot::Sender<Result<Arc<[IpAddr]>, ResolveError>>,
}

enum Job {
    Ask(Question),
    Watch(Watch),
}

/// Those who wait for an answer under way, by resolver and name.
type Waiting = Rc<RefCell<HashMap<(usize, Box<str>), Vec<Question>>>>;

/// Where names are looked up. Without the thread every question ends in `ServerFailure`.
static JOBS: Background<Job> = Background::new("resolver");

async fn work(mut jobs: mpsc::UnboundedReceiver<Job>) {
    let waiting = Waiting::default();
    while let Some(job) = jobs.recv().await {
        match job {
            Job::Ask(question) => ask(question, &waiting),
            Job::Watch(watch) => drop(tokio::task::spawn_local(watch.run())),
        }
    }
}

/// Answers a question, joining it to one for the same name that is under way.
fn ask(question: Question, waiting: &Waiting) {
    // The answer may have come while the question was on its way.
    if let Some(result) = question.resolver.cached(&question.name) {
        let _ = question.reply.send(result);
        return;
    }
    let resolver = question.resolver.clone();
    let key = (Arc::as_ptr(&resolver.0) as usize, question.name.clone());
    let mut list = waiting.borrow_mut();
    if let Some(others) = list.get_mut(&key) {
        others.push(question);
        return;
    }
    list.insert(key.clone(), vec![question]);
    let waiting = waiting.clone();
    tokio::task::spawn_local(async move {
        let answer = resolver.0.look_up(&key.1).await;
        let questions = waiting.borrow_mut().remove(&key).unwrap_or_default();
        for question in questions {
            let _ = question.reply.send(answer.result.clone());
        }
    });
}

impl Inner {
    /// Asks the name servers and remembers what they say.
    async fn look_up(&self, name: &str) -> Answer {
        let asked = tokio::time::timeout(self.conf.timeout, self.query(name)).await;
        let (result, ttl) = match asked.unwrap_or(Err(ResolveError::TimedOut)) {
            Ok((addrs, ttl)) => (Ok(addrs), self.conf.valid.unwrap_or(ttl)),
            Err(error) => (Err(error), NEGATIVE_TTL),
        };
        let answer = Answer {
            result,
            until: Instant::now() + ttl,
        };
        self.remember(name, answer.clone());
        answer
    }

    async fn query(&self, name: &str) -> Result<(Arc<[IpAddr]>, Duration), ResolveError> {
        let found = self.dns()?.lookup_ip(rooted(name)).await?;
        let addrs: Arc<[IpAddr]> = found.iter().collect();
        if addrs.is_empty() {
            return Err(ResolveError::NotFound);
        }
        Ok((
            addrs,
            found
                .valid_until()
                .saturating_duration_since(Instant::now()),
        ))
    }

    async fn query_service(&self, name: &str) -> Result<(Vec<Service>, Duration), ResolveError> {
        let found = self.dns()?.srv_lookup(rooted(name)).await?;
        let service = |record: &Record| match &record.data {
            RData::SRV(srv) => Some(Service {
                priority: srv.priority,
                target: srv
                    .target
                    .to_lowercase()
                    .to_utf8()
                    .trim_end_matches('.')
                    .into(),
                port: srv.port,
                weight: srv.weight,
            }),
            _ => None,
        };
        let services: Vec<_> = found.answers().iter().filter_map(service).collect();
        if services.is_empty() {
            return Err(ResolveError::NotFound);
        }
        let ttl = found
            .valid_until()
            .saturating_duration_since(Instant::now());
        Ok((services, ttl))
    }

    fn dns(&self) -> Result<&TokioResolver, ResolveError> {
        let dns = self.dns.get_or_init(|| dns(&self.conf)).as_ref();
        dns.ok_or(ResolveError::ServerFailure)
    }

    /// Only the background thread writes, so a copy with one change loses nothing.
    fn remember(&self, name: &str, answer: Answer) {
        let now = Instant::now();
        let mut cache = HashMap::clone(&self.cache.load());
        cache.retain(|_, known| known.until > now);
        if cache.len() >= CACHE_MAX {
            cache.clear();
        }
        cache.insert(name.into(), answer);
        self.cache.store(Arc::new(cache));
    }
}

impl From<NetError> for ResolveError {
    fn from(error: NetError) -> Self {
        match error {
            NetError::Timeout => ResolveError::TimedOut,
            NetError::Proto(_) => ResolveError::FormatError,
            _ if error.is_nx_domain() || error.is_no_records_found() => ResolveError::NotFound,
            _ => ResolveError::ServerFailure,
        }
    }
}

/// A name that no search list is applied to.
fn rooted(name: &str) -> String {
    match name.ends_with('.') {
        true => name.to_owned(),
        false => format!("{name}."),
    }
}

fn dns(conf: &ResolverConf) -> Option<TokioResolver> {
    let server = |addr: &SocketAddr| {
        let with_port = |mut connection: ConnectionConfig| {
            connection.port = addr.port();
            connection
        };
        let connections = vec![
            with_port(ConnectionConfig::udp()),
            with_port(ConnectionConfig::tcp()),
        ];
        NameServerConfig::new(addr.ip(), true, connections)
    };
    let servers = conf.servers.iter().map(server).collect();
    let mut options = ResolverOpts::default();
    // The cache here follows `valid=`; a second one below it would not.
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    options.timeout = QUERY_TIMEOUT.min(conf.timeout);
    options.ip_strategy = match (conf.ipv4, conf.ipv6) {
        (true, false) => LookupIpStrategy::Ipv4Only,
        (false, true) => LookupIpStrategy::Ipv6Only,
        _ => LookupIpStrategy::Ipv4AndIpv6,
    };
    let config = ResolverConfig::from_name_servers(servers);
    let builder = Dns::builder_with_config(config, TokioRuntimeProvider::default());
    builder.with_options(options).build().ok()
}

/// How long "no such name" and failures hold.
const NEGATIVE_TTL: Duration = Duration::from_secs(1);
/// One question to one name server; nginx repeats its questions at this pace.
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);
/// Names known to one resolver at most.
const CACHE_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::sync::Mutex;

    use super::*;
    use crate::upstream::watch::Lookup;
    use crate::upstream::{Keepalive, Method, ServerSpec};

    /// A name server that knows `a.test`, with the addresses and the TTL in the cell, and answers
    /// "no such name" to the rest, except `mute.test`, to which it says nothing.
    #[derive(Clone, Default)]
    struct Server(Arc<Mutex<Cell>>);

    #[derive(Default)]
    struct Cell {
        ips: Vec<[u8; 4]>,
        ttl: u32,
        queries: usize,
    }

    impl Server {
        fn start(ips: &[[u8; 4]], ttl: u32) -> (Server, ResolverConf) {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let conf = ResolverConf {
                servers: vec![socket.local_addr().unwrap()],
                valid: None,
                ipv4: true,
                ipv6: false,
                timeout: Duration::from_secs(5),
            };
            let server = Server(Arc::new(Mutex::new(Cell {
                ips: ips.to_vec(),
                ttl,
                queries: 0,
            })));
            let shared = server.clone();
            std::thread::spawn(move || {
                let mut packet = [0; 1500];
                while let Ok((len, from)) = socket.recv_from(&mut packet) {
                    if let Some(answer) = shared.answer(&packet[..len]) {
                        let _ = socket.send_to(&answer, from);
                    }
                }
            });
            (server, conf)
        }

        fn answer(&self, query: &[u8]) -> Option<Vec<u8>> {
            let mut cell = self.0.lock().unwrap();
            cell.queries += 1;
            let end = 12 + query[12..].iter().position(|&byte| byte == 0)? + 5;
            let name = query[12..end - 4].to_ascii_lowercase();
            let known = name == b"\x01a\x04test\0";
            if name == b"\x04mute\x04test\0" {
                return None;
            }
            let ips = if known { &cell.ips[..] } else { &[] };
            let mut answer = query[..2].to_vec();
            answer.extend([
                0x81,
                if known { 0x80 } else { 0x83 },
                0,
                1,
                0,
                ips.len() as u8,
            ]);
            answer.extend([0; 4]);
            answer.extend(&query[12..end]);
            for ip in ips {
                answer.extend([0xc0, 12, 0, 1, 0, 1]);
                answer.extend(cell.ttl.to_be_bytes());
                answer.extend([0, 4]);
                answer.extend(ip);
            }
            Some(answer)
        }

        fn queries(&self) -> usize {
            self.0.lock().unwrap().queries
        }
    }

    fn block_on<F: Future>(future: F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(future)
    }

    #[test]
    fn answers_are_cached_and_questions_joined() {
        let (server, conf) = Server::start(&[[127, 0, 0, 5], [127, 0, 0, 6]], 60);
        let resolver = Resolver::new(conf);
        let (first, second) = block_on(async {
            tokio::join!(resolver.resolve("a.test"), resolver.resolve("a.test"))
        });
        let first = first.unwrap();
        assert_eq!(first.len(), 2);
        assert_eq!(first, second.unwrap());
        assert_eq!(block_on(resolver.resolve("a.test")).unwrap(), first);
        assert_eq!(server.queries(), 1);
        let literal = block_on(resolver.resolve("::1")).unwrap();
        assert_eq!(*literal, ["::1".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn a_ttl_of_zero_is_asked_again_unless_valid_says_otherwise() {
        let (server, conf) = Server::start(&[[127, 0, 0, 5]], 0);
        let resolver = Resolver::new(conf.clone());
        block_on(resolver.resolve("a.test")).unwrap();
        block_on(resolver.resolve("a.test")).unwrap();
        assert_eq!(server.queries(), 2);
        let valid = Some(Duration::from_secs(60));
        let resolver = Resolver::new(ResolverConf { valid, ..conf });
        block_on(resolver.resolve("a.test")).unwrap();
        block_on(resolver.resolve("a.test")).unwrap();
        assert_eq!(server.queries(), 3);
    }

    #[test]
    fn failures_have_names() {
        let (_server, conf) = Server::start(&[], 60);
        let timeout = Duration::from_millis(100);
        let resolver = Resolver::new(ResolverConf { timeout, ..conf });
        let answers = block_on(async {
            tokio::join!(resolver.resolve("no.test"), resolver.resolve("mute.test"))
        });
        assert_eq!(answers.0, Err(ResolveError::NotFound));
        assert_eq!(answers.1, Err(ResolveError::TimedOut));
    }

    #[test]
    fn watched_servers_follow_their_name() {
        let (server, conf) = Server::start(&[[127, 0, 0, 5], [127, 0, 0, 6]], 0);
        let registry = Registry::global();
        let lookup = Some(Lookup::Host("a.test".into(), 80));
        let spec = ServerSpec::new("a.test", Vec::new());
        let group = Group::new(
            registry,
            "t",
            "watched",
            &[],
            Method::RoundRobin,
            Keepalive::OFF,
        );
        let group = Arc::new(group);
        let names = |group: &Group| -> Vec<String> {
            group
                .peers()
                .all()
                .map(|peer| peer.conf.name.to_string())
                .collect()
        };
        let watched = vec![Watched {
            spec,
            lookup,
            found: Vec::new(),
        }];
        Resolver::new(conf)
            .watch(registry, &group, watched)
            .recv()
            .unwrap();
        assert_eq!(names(&group), ["127.0.0.5:80", "127.0.0.6:80"]);
        let kept = group.peers().primary.list()[1].state.serial();
        server.0.lock().unwrap().ips = vec![[127, 0, 0, 7], [127, 0, 0, 6]];
        let end = Instant::now() + Duration::from_secs(10);
        while names(&group) != ["127.0.0.6:80", "127.0.0.7:80"] {
            assert!(Instant::now() < end, "{:?}", names(&group));
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(group.peers().primary.list()[0].state.serial(), kept);
    }
}
