//! The directives inside `upstream { }`, for `http` and for `stream`, and `resolver`.
//!
//! Reading fills an [`UpstreamRaw`], with the names of its servers looked up as nginx does;
//! [`UpstreamRaw::compile`] makes it a [`Group`].

use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::address::Target;
use super::balance::consistent::WEIGHT_MAX;
use super::balance::least_time::LeastTime;
use super::keepalive::Keepalive;
use super::peer::{Registry, ServerParams};
use super::pool::{Group, Method, ServerSpec};
use super::resolve::{Resolver, ResolverConf};
use super::times::Moment;
use super::watch::{Lookup, Watched};
use crate::config::{Arity, ConfigError, Contexts, Node, Reader, Result, Row, Span, Word, value};

/// One `upstream { }` as read.
#[derive(Debug)]
pub struct UpstreamRaw {
    /// Its name.
    pub name: Word,
    /// Its servers in the order of the file.
    pub servers: Vec<ServerRaw>,
    /// The balancing method, the last one given.
    pub method: Option<Method>,
    /// The key of `hash`, to be compiled by whoever knows the variables.
    pub hash_key: Option<Word>,
    /// `keepalive`: how many connections, and whether `local`.
    pub keepalive: Option<(u32, bool)>,
    /// `keepalive_requests`
    pub keepalive_requests: Option<u64>,
    /// `keepalive_time`
    pub keepalive_time: Option<Duration>,
    /// `keepalive_timeout`
    pub keepalive_timeout: Option<Duration>,
    /// `resolver`
    pub resolver: Option<Vec<Word>>,
    /// `resolver_timeout`
    pub resolver_timeout: Option<Duration>,
    zone: Option<(Word, Option<u64>)>,
    kind: Kind,
    terminator: Span,
}

/// One `server` line as read.
#[derive(Debug)]
pub struct ServerRaw {
    /// The server with its parameters and the addresses found.
    pub spec: ServerSpec,
    /// With `resolve`: what to look up at run time.
    pub resolve: Option<Lookup>,
}

/// Which half of the configuration an upstream belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `http { upstream … }`
    Http,
    /// `stream { upstream … }`
    Stream,
}

/// A group ready to serve.
#[derive(Debug)]
pub struct Upstream {
    /// The group.
    pub group: Arc<Group>,
    /// The key of `hash`, not compiled yet.
    pub hash_key: Option<Word>,
    /// What [`Upstream::watch`] follows.
    watched: Option<(Resolver, Vec<Watched>)>,
}

type R = Row<UpstreamRaw>;

/// The directives inside `upstream { }`.
pub const ROWS: &[Row<UpstreamRaw>] = &[
    R::custom("server", BOTH, Arity::AtLeast(1), read_server)
        .doc("A server of the group: address and parameters."),
    R::custom("zone", BOTH, Arity::Between(1, 2), read_zone)
        .doc("Names shared memory; the state of servers is always shared by all workers."),
    R::custom("least_conn", BOTH, Arity::None, read_least_conn)
        .doc("Chooses the server with the fewest active connections for its weight."),
    R::custom("least_time", BOTH, Arity::Between(1, 2), read_least_time)
        .doc("Chooses the server with the least average time and fewest active connections."),
    R::custom("ip_hash", Contexts::UPSTREAM, Arity::None, read_ip_hash)
        .doc("Chooses the server by the client's address."),
    R::custom("hash", BOTH, Arity::Between(1, 2), read_hash)
        .doc("Chooses the server by a key, optionally with consistent (ketama) hashing."),
    R::custom("random", BOTH, Arity::Between(0, 2), read_random)
        .doc("Chooses a random server, or the less busy one of two."),
    R::custom(
        "keepalive",
        Contexts::UPSTREAM,
        Arity::Between(1, 2),
        read_keepalive,
    )
    .default("32 local")
    .doc("Idle connections kept open per worker."),
    R::number("keepalive_requests", Contexts::UPSTREAM, |raw| {
        &mut raw.keepalive_requests
    })
    .default("1000")
    .doc("Requests one upstream connection may serve."),
    R::time("keepalive_time", Contexts::UPSTREAM, |raw| {
        &mut raw.keepalive_time
    })
    .default("1h")
    .doc("How long one upstream connection may be used."),
    R::time("keepalive_timeout", Contexts::UPSTREAM, |raw| {
        &mut raw.keepalive_timeout
    })
    .default("60s")
    .doc("How long an upstream connection may lie idle."),
    R::words("resolver", BOTH, Arity::AtLeast(1), |raw| &mut raw.resolver)
        .doc("Name servers for the servers of this group marked resolve."),
    R::time("resolver_timeout", BOTH, |raw| &mut raw.resolver_timeout)
        .default("30s")
        .doc("How long a name may take to look up."),
];

/// Reads the `upstream` block `node` and adds it to those before it.
pub fn read_upstream(
    reader: &mut Reader<'_>,
    node: &Node,
    kind: Kind,
    upstreams: &mut Vec<UpstreamRaw>,
) -> Result<()> {
    let name = &node.args()[0];
    if upstreams.iter().any(|other| other.name.bytes == name.bytes) {
        let message = format!("duplicate upstream \"{}\"", name.text());
        return Err(ConfigError::at(name.span, message));
    }
    let mut raw = UpstreamRaw::new(name.clone(), kind, node.terminator);
    reader.read_block(node.children(), &[ROWS], kind.context(), &mut raw)?;
    if raw.servers.is_empty() {
        return Err(ConfigError::at_end(node, "no servers are inside upstream"));
    }
    check_zone(&raw, upstreams)?;
    upstreams.push(raw);
    Ok(())
}

/// Groups that share a zone must agree on its size.
fn check_zone(raw: &UpstreamRaw, others: &[UpstreamRaw]) -> Result<()> {
    let Some((name, Some(size))) = &raw.zone else {
        return Ok(());
    };
    let named = others.iter().filter_map(|other| other.zone.as_ref());
    let mut sizes = named.filter_map(|(other, size)| size.filter(|_| other.bytes == name.bytes));
    match sizes.find(|other| other != size) {
        None => Ok(()),
        Some(other) => {
            let message = format!(
                "the size {size} of shared memory zone \"{}\" conflicts with already declared \
                 size {other}",
                name.text()
            );
            Err(ConfigError::at(name.span, message))
        }
    }
}

/// The parameters of `resolver` with those of `resolver_timeout`. A name server given by name is
/// looked up now.
pub fn resolver_conf(words: &[Word], timeout: Option<Duration>) -> Result<ResolverConf> {
    let mut conf = ResolverConf {
        servers: Vec::new(),
        valid: None,
        ipv4: true,
        ipv6: true,
        timeout: timeout.unwrap_or(RESOLVER_TIMEOUT),
    };
    for word in words {
        if let Some(valid) = word.strip("valid=") {
            let valid = value::parse_seconds(valid).ok_or_else(|| invalid(word))?;
            conf.valid = Some(valid);
        } else if let Some(flag) = word.strip("ipv4=") {
            conf.ipv4 = value::parse_flag(flag).ok_or_else(|| invalid(word))?;
        } else if let Some(flag) = word.strip("ipv6=") {
            conf.ipv6 = value::parse_flag(flag).ok_or_else(|| invalid(word))?;
        } else if word.strip("status_zone=").is_none() {
            let found = Target::parse(&word.text(), DNS_PORT).and_then(|target| target.look_up());
            let addrs = found.map_err(|phrase| {
                let message = format!("{phrase} in resolver \"{}\"", word.text());
                ConfigError::at(word.span, message)
            })?;
            conf.servers
                .extend(addrs.iter().filter_map(|addr| addr.socket_addr()));
        }
    }
    if !conf.ipv4 && !conf.ipv6 {
        let span = words[0].span;
        return Err(ConfigError::at(
            span,
            "\"ipv4\" and \"ipv6\" cannot both be \"off\"",
        ));
    }
    if conf.servers.is_empty() {
        return Err(ConfigError::at(words[0].span, "no name servers defined"));
    }
    Ok(conf)
}

impl UpstreamRaw {
    fn new(name: Word, kind: Kind, terminator: Span) -> Self {
        UpstreamRaw {
            name,
            servers: Vec::new(),
            method: None,
            hash_key: None,
            keepalive: None,
            keepalive_requests: None,
            keepalive_time: None,
            keepalive_timeout: None,
            resolver: None,
            resolver_timeout: None,
            zone: None,
            kind,
            terminator,
        }
    }

    /// Makes the group. `resolver` is the one of the enclosing block, for servers marked `resolve`
    /// where the upstream names none itself. Starts nothing: see [`Upstream::watch`].
    pub fn compile(&self, registry: &Registry, resolver: Option<&Resolver>) -> Result<Upstream> {
        let name = self.name.text();
        if self.servers.iter().all(|server| server.spec.params.backup) {
            return Err(self.error(format!("no servers in upstream \"{name}\"")));
        }
        let method = self.method.unwrap_or_default();
        let weights = self.servers.iter().map(|server| {
            let addrs = server.spec.addrs.len().max(1) as u64;
            u64::from(server.spec.params.weight) * addrs
        });
        if method == Method::HashConsistent && weights.sum::<u64>() > WEIGHT_MAX {
            let help = format!("each unit takes 160 points; the most is {WEIGHT_MAX}");
            let message = format!("too large weights in consistent upstream \"{name}\"");
            return Err(self.error(message).help(help));
        }
        let watched = self.watched(registry, resolver)?;
        let specs: Vec<_> = match &watched {
            Some((_, servers)) => servers.iter().flat_map(Watched::specs).collect(),
            None => self
                .servers
                .iter()
                .map(|server| server.spec.clone())
                .collect(),
        };
        let group = Group::new(
            registry,
            self.kind.as_str(),
            &name,
            &specs,
            method,
            self.keepalive(),
        );
        Ok(Upstream {
            group: Arc::new(group),
            hash_key: self.hash_key.clone(),
            watched,
        })
    }

    fn keepalive(&self) -> Keepalive {
        let default = self.kind.keepalive();
        let ms = |time: Option<Duration>, default| time.map_or(default, |t| t.as_millis() as u64);
        let (connections, local) = self
            .keepalive
            .unwrap_or((default.connections, default.local));
        Keepalive {
            connections,
            local,
            requests: self.keepalive_requests.unwrap_or(default.requests),
            time_ms: ms(self.keepalive_time, default.time_ms),
            timeout_ms: ms(self.keepalive_timeout, default.timeout_ms),
        }
    }

    /// The servers to follow, with the addresses that an earlier configuration left behind.
    fn watched(
        &self,
        registry: &Registry,
        resolver: Option<&Resolver>,
    ) -> Result<Option<(Resolver, Vec<Watched>)>> {
        if self.servers.iter().all(|server| server.resolve.is_none()) {
            return Ok(None);
        }
        let own = match &self.resolver {
            Some(words) => Some(Resolver::new(resolver_conf(words, self.resolver_timeout)?)),
            None => None,
        };
        let Some(resolver) = own.or_else(|| resolver.cloned()) else {
            let name = self.name.text();
            return Err(self
                .error(format!(
                    "no resolver defined to resolve names at run time in upstream \"{name}\""
                ))
                .help("add a \"resolver\" to the upstream or to the block around it"));
        };
        let group = registry.group_id(self.kind.as_str(), &self.name.text());
        let servers = self.servers.iter().map(|server| {
            let found = match &server.resolve {
                Some(_) => registry.recall(group, &server.spec.name),
                None => Vec::new(),
            };
            Watched {
                spec: server.spec.clone(),
                lookup: server.resolve.clone(),
                found,
            }
        });
        Ok(Some((resolver, servers.collect())))
    }

    fn error(&self, message: String) -> ConfigError {
        ConfigError::at(self.name.span, message).reported_at(self.terminator)
    }
}

impl Upstream {
    /// Starts to follow the names of servers marked `resolve`; `None` where there are none. Only
    /// for a configuration that goes into service, in the process that serves. The receiver hears
    /// when each name was looked up once.
    pub fn watch(&self, registry: &'static Registry) -> Option<mpsc::Receiver<()>> {
        let (resolver, servers) = self.watched.as_ref()?;
        Some(resolver.watch(registry, &self.group, servers.clone()))
    }
}

impl Kind {
    /// The name under which groups of this kind are registered.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Http => "http",
            Kind::Stream => "stream",
        }
    }

    /// What groups of this kind do with idle connections where nothing is said.
    pub fn keepalive(self) -> Keepalive {
        match self {
            Kind::Http => Keepalive::DEFAULT,
            Kind::Stream => Keepalive::OFF,
        }
    }

    /// The moment that `least_time` calls by this name.
    fn moment(self, name: &[u8]) -> Option<Moment> {
        match (self, name) {
            (Kind::Http, b"header") | (Kind::Stream, b"first_byte") => Some(Moment::FirstByte),
            (Kind::Stream, b"connect") => Some(Moment::Connect),
            (_, b"last_byte") => Some(Moment::LastByte),
            _ => None,
        }
    }

    fn context(self) -> Contexts {
        match self {
            Kind::Http => Contexts::UPSTREAM,
            Kind::Stream => Contexts::STREAM_UPSTREAM,
        }
    }
}

fn read_server(reader: &mut Reader<'_>, raw: &mut UpstreamRaw, node: &Node) -> Result<()> {
    let (word, parameters) = node
        .args()
        .split_first()
        .expect("the row asks for one at least");
    let text = word.text();
    let mut spec = ServerSpec::new(&text, Vec::new());
    let mut dynamic = Dynamic::default();
    for parameter in parameters {
        read_parameter(reader, raw, &mut spec.params, &mut dynamic, parameter)?;
    }
    let failed = |phrase: &str| {
        let message = format!("{phrase} in upstream \"{text}\"");
        ConfigError::at(word.span, message)
    };
    if let Some(service) = &dynamic.service {
        let resolve = Some(service_lookup(word, service, dynamic.resolve)?);
        raw.servers.push(ServerRaw { spec, resolve });
        return Ok(());
    }
    let default_port = if raw.kind == Kind::Http { 80 } else { 0 };
    let target = Target::parse(&text, default_port).map_err(failed)?;
    if target.port() == Some(0) {
        return Err(failed("no port"));
    }
    let resolve = match target {
        Target::Name { ref host, port } if dynamic.resolve => {
            Some(Lookup::Host(host.clone(), port))
        }
        _ => None,
    };
    if resolve.is_none() {
        spec.addrs = target.look_up().map_err(failed)?;
    }
    raw.servers.push(ServerRaw { spec, resolve });
    Ok(())
}

/// The parameters about names that are looked up at run time.
#[derive(Default)]
struct Dynamic {
    resolve: bool,
    service: Option<Box<str>>,
}

/// What `service=` looks up for the server named by `word`.
fn service_lookup(word: &Word, service: &str, resolve: bool) -> Result<Lookup> {
    let text = word.text();
    let refused = |what: &str| {
        let message = format!("service upstream \"{text}\" {what}");
        Err(ConfigError::at(word.span, message))
    };
    if !resolve {
        return refused("requires \"resolve\" parameter");
    }
    let target = Target::parse(&text, 0).map_err(|phrase| {
        let message = format!("{phrase} in upstream \"{text}\"");
        ConfigError::at(word.span, message)
    })?;
    match target {
        Target::Name { host, port: 0 } => Ok(Lookup::service(service, &host)),
        _ if target.port() != Some(0) => refused("may not have port"),
        _ => refused("requires domain name"),
    }
}

fn read_parameter(
    reader: &mut Reader<'_>,
    raw: &UpstreamRaw,
    params: &mut ServerParams,
    dynamic: &mut Dynamic,
    word: &Word,
) -> Result<()> {
    let number = |bytes| value::parse_number(bytes).ok_or_else(|| invalid(word));
    let small = |bytes| Ok(number(bytes)?.try_into().unwrap_or(u32::MAX));
    if let Some(weight) = word.strip("weight=") {
        params.weight = small(weight)?;
        if params.weight == 0 {
            return Err(invalid(word).help("a weight is 1 or more; \"down\" takes a server out"));
        }
    } else if let Some(limit) = word.strip("max_conns=") {
        params.max_conns = small(limit)?;
    } else if let Some(limit) = word.strip("max_fails=") {
        params.max_fails = small(limit)?;
    } else if let Some(time) = word.strip("fail_timeout=") {
        let time = value::parse_seconds(time).ok_or_else(|| invalid(word))?;
        params.fail_timeout_ms = time.as_millis() as u64;
    } else if word.is("backup") {
        if !raw.method.unwrap_or_default().has_backups() {
            let message = "balancing method does not support parameter \"backup\"";
            return Err(ConfigError::at(word.span, message));
        }
        params.backup = true;
    } else if word.is("down") {
        params.down = true;
    } else if word.is("resolve") {
        dynamic.resolve = true;
    } else if let Some(service) = word.strip("service=") {
        if service.is_empty() {
            return Err(ConfigError::at(word.span, "service is empty"));
        }
        dynamic.service = Some(String::from_utf8_lossy(service).into());
    } else if let Some(name) = NOT_YET.iter().find(|name| {
        let rest = word.strip(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"="))
    }) {
        let message =
            format!("parameter \"{name}\" of nginx's \"server\" is not implemented by ringway yet");
        if !reader.lenient {
            return Err(ConfigError::at(word.span, message));
        }
        reader.warn(word.span, message + ", skipped");
    } else {
        return Err(invalid(word));
    }
    Ok(())
}

fn read_zone(_: &mut Reader<'_>, raw: &mut UpstreamRaw, node: &Node) -> Result<()> {
    let name = &node.args()[0];
    if name.bytes.is_empty() {
        return Err(ConfigError::at(name.span, "invalid zone name \"\""));
    }
    let mut declared = None;
    if let Some(word) = node.args().get(1) {
        let size = value::parse_size(&word.bytes).ok_or_else(|| {
            ConfigError::at(word.span, format!("invalid zone size \"{}\"", word.text()))
        })?;
        if size < ZONE_SIZE_MIN {
            let message = format!("zone \"{}\" is too small", name.text());
            return Err(ConfigError::at(word.span, message));
        }
        declared = Some(size);
    }
    raw.zone = Some((name.clone(), declared));
    Ok(())
}

fn read_least_conn(reader: &mut Reader<'_>, raw: &mut UpstreamRaw, node: &Node) -> Result<()> {
    set_method(reader, raw, node, Method::LeastConn);
    Ok(())
}

fn read_least_time(reader: &mut Reader<'_>, raw: &mut UpstreamRaw, node: &Node) -> Result<()> {
    let is_given_before = matches!(raw.method, Some(Method::LeastTime(_)));
    let word = &node.args()[0];
    let inflight = match node.args().get(1) {
        None => false,
        Some(word) if word.is("inflight") => true,
        Some(word) => return Err(invalid(word)),
    };
    if is_given_before {
        return Err(ConfigError::directive(node.span(), "is duplicate"));
    }
    let Some(moment) = raw.kind.moment(&word.bytes) else {
        let message = format!("invalid value \"{}\"", word.text());
        return Err(ConfigError::at(word.span, message));
    };
    let by = LeastTime { moment, inflight };
    set_method(reader, raw, node, Method::LeastTime(by));
    Ok(())
}

fn read_ip_hash(reader: &mut Reader<'_>, raw: &mut UpstreamRaw, node: &Node) -> Result<()> {
    set_method(reader, raw, node, Method::IpHash);
    Ok(())
}

fn read_hash(reader: &mut Reader<'_>, raw: &mut UpstreamRaw, node: &Node) -> Result<()> {
    let method = match node.args() {
        [_, word] if word.is("consistent") => Method::HashConsistent,
        [_, word] => return Err(invalid(word)),
        _ => Method::Hash,
    };
    set_method(reader, raw, node, method);
    raw.hash_key = Some(node.args()[0].clone());
    Ok(())
}

fn read_random(reader: &mut Reader<'_>, raw: &mut UpstreamRaw, node: &Node) -> Result<()> {
    let method = match node.args() {
        [] => Method::Random,
        [two] if two.is("two") => Method::RandomTwo,
        [two, by] if two.is("two") && by.is("least_conn") => Method::RandomTwo,
        [two, word] if two.is("two") => {
            let moment = word.strip("least_time=");
            let moment = moment.and_then(|name| raw.kind.moment(name));
            Method::RandomTwoTime(moment.ok_or_else(|| invalid(word))?)
        }
        [word, ..] => return Err(invalid(word)),
    };
    set_method(reader, raw, node, method);
    Ok(())
}

fn set_method(reader: &mut Reader<'_>, raw: &mut UpstreamRaw, node: &Node, method: Method) {
    if raw.method.replace(method).is_some() {
        reader.warn(node.span(), "load balancing method redefined");
    }
    raw.hash_key = None;
}

fn read_keepalive(_: &mut Reader<'_>, raw: &mut UpstreamRaw, node: &Node) -> Result<()> {
    if raw.keepalive.is_some() {
        return Err(ConfigError::directive(node.span(), "is duplicate"));
    }
    let word = &node.args()[0];
    let count = value::parse_number(&word.bytes).and_then(|count| u32::try_from(count).ok());
    let Some(count) = count else {
        let message = format!(
            "invalid value \"{}\" in \"keepalive\" directive",
            word.text()
        );
        return Err(ConfigError::at(word.span, message));
    };
    let local = match node.args().get(1) {
        None => false,
        Some(word) if word.is("local") => true,
        Some(word) => return Err(invalid(word)),
    };
    raw.keepalive = Some((count, local));
    Ok(())
}

fn invalid(word: &Word) -> ConfigError {
    ConfigError::at(word.span, format!("invalid parameter \"{}\"", word.text()))
}

const BOTH: Contexts = Contexts::UPSTREAM.or(Contexts::STREAM_UPSTREAM);
/// Parameters of `server` that nginx has.
const NOT_YET: [&str; 3] = ["slow_start", "route", "drain"];
const RESOLVER_TIMEOUT: Duration = Duration::from_secs(30);
const DNS_PORT: u16 = 53;
/// nginx wants eight pages at least.
const ZONE_SIZE_MIN: u64 = 8 * 4096;

#[cfg(test)]
mod tests;
