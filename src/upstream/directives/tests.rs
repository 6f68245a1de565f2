//! What an upstream block says, and what it must not say.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::config::{Catalog, parse_text};
use crate::upstream::{Attempt, Inputs, LocalState, Outcome, Pick};

#[derive(Default)]
struct Outer(Vec<UpstreamRaw>);

const OUTER: &[Row<Outer>] = &[
    Row::block(
        "upstream",
        Contexts::HTTP,
        Arity::One,
        |reader, outer, node| read_upstream(reader, node, Kind::Http, &mut outer.0),
    ),
    Row::block(
        "stream_upstream",
        Contexts::HTTP,
        Arity::One,
        |reader, outer, node| read_upstream(reader, node, Kind::Stream, &mut outer.0),
    ),
];

/// The upstreams of a text and the warnings about it, or the first error.
fn read(text: &str) -> std::result::Result<(Vec<UpstreamRaw>, Vec<String>), String> {
    let (nodes, sources) = parse_text(Path::new("t.conf"), text.as_bytes());
    let catalog = Catalog::new(|catalog| {
        catalog.add(OUTER);
        catalog.add(ROWS);
    });
    let root = Path::new("/");
    let mut reader = Reader::new(&sources, &catalog, root, root);
    let mut outer = Outer::default();
    reader
        .read_block(&nodes, &[OUTER], Contexts::HTTP, &mut outer)
        .map_err(|error| error.message)?;
    let warnings = reader
        .warnings
        .iter()
        .map(|remark| remark.message.clone())
        .collect();
    Ok((outer.0, warnings))
}

fn compile(text: &str) -> std::result::Result<Upstream, String> {
    let raw = read(text)?.0.remove(0);
    raw.compile(&Registry::new(), None)
        .map_err(|error| error.message)
}

#[test]
fn every_parameter_reaches_the_peer() {
    let upstream = compile(
        "upstream a { zone z 64k; server 127.0.0.1:81 weight=3 max_conns=4 max_fails=5 \
         fail_timeout=1m; server unix:/run/a.sock down; server [::1] backup; }",
    )
    .unwrap();
    let peers = upstream.group.peers();
    let conf: Vec<_> = peers.all().map(|peer| peer.conf.clone()).collect();
    assert_eq!(&*conf[0].name, "127.0.0.1:81");
    assert_eq!(
        (
            conf[0].params.weight,
            conf[0].params.max_conns,
            conf[0].params.max_fails
        ),
        (3, 4, 5)
    );
    assert_eq!(conf[0].params.fail_timeout_ms, 60_000);
    assert_eq!(
        (&*conf[1].name, conf[1].params.down),
        ("unix:/run/a.sock", true)
    );
    assert_eq!(
        (
            conf[1].params.weight,
            conf[1].params.max_fails,
            conf[1].params.fail_timeout_ms
        ),
        (1, 1, 10_000)
    );
    assert_eq!((&*conf[2].name, &*conf[2].server), ("[::1]:80", "[::1]"));
    assert!(conf[2].params.backup && peers.backup.is_some());
    assert_eq!(*upstream.group.keepalive(), Keepalive::DEFAULT);
    assert!(upstream.watch(Registry::global()).is_none());
}

#[test]
fn methods_and_keepalive() {
    let method = |line: &str| {
        let text = format!("upstream a {{ {line} server 127.0.0.1; }}");
        compile(&text).map(|upstream| upstream.group.method())
    };
    assert_eq!(method(""), Ok(Method::RoundRobin));
    assert_eq!(method("least_conn;"), Ok(Method::LeastConn));
    assert_eq!(method("ip_hash;"), Ok(Method::IpHash));
    assert_eq!(method("hash $uri;"), Ok(Method::Hash));
    assert_eq!(method("hash $uri consistent;"), Ok(Method::HashConsistent));
    assert_eq!(method("random;"), Ok(Method::Random));
    assert_eq!(method("random two;"), Ok(Method::RandomTwo));
    assert_eq!(method("random two least_conn;"), Ok(Method::RandomTwo));
    let by = |moment, inflight| Ok(Method::LeastTime(LeastTime { moment, inflight }));
    assert_eq!(method("least_time header;"), by(Moment::FirstByte, false));
    assert_eq!(
        method("least_time last_byte inflight;"),
        by(Moment::LastByte, true)
    );
    let two = Ok(Method::RandomTwoTime(Moment::LastByte));
    assert_eq!(method("random two least_time=last_byte;"), two);
    let stream = |line: &str| {
        let text = format!("stream_upstream a {{ {line} server 127.0.0.1:1; }}");
        compile(&text).map(|upstream| upstream.group.method())
    };
    assert_eq!(
        stream("least_time connect inflight;"),
        by(Moment::Connect, true)
    );
    assert_eq!(
        stream("least_time first_byte;"),
        by(Moment::FirstByte, false)
    );
    assert_eq!(stream("least_time last_byte;"), by(Moment::LastByte, false));
    let two = Ok(Method::RandomTwoTime(Moment::Connect));
    assert_eq!(stream("random two least_time=connect;"), two);
    let text = "upstream a { hash $a; server 127.0.0.1; keepalive 7; keepalive_requests 9; \
                keepalive_time 2m; keepalive_timeout 3; }";
    let upstream = compile(text).unwrap();
    assert_eq!(upstream.hash_key.unwrap().text(), "$a");
    let expected = Keepalive {
        connections: 7,
        local: false,
        requests: 9,
        time_ms: 120_000,
        timeout_ms: 3000,
    };
    assert_eq!(*upstream.group.keepalive(), expected);
    let off = compile("upstream a { server 127.0.0.1; keepalive 0; }").unwrap();
    assert_eq!(off.group.keepalive().connections, 0);
    let warned = read("upstream a { least_conn; random; server 127.0.0.1; }")
        .unwrap()
        .1;
    assert_eq!(warned, ["load balancing method redefined"]);
}

#[test]
fn errors_are_in_nginx_words() {
    let error = |body: &str| compile(&format!("upstream a {{ {body} }}")).unwrap_err();
    let server = |rest: &str| error(&format!("server 127.0.0.1{rest};"));
    assert_eq!(error(""), "no servers are inside upstream");
    for bad in [
        "weight=0",
        "weight=x",
        "foo",
        "foo=1",
        "max_fails=-1",
        "fail_timeout=x",
    ] {
        assert_eq!(
            server(&format!(" {bad}")),
            format!("invalid parameter \"{bad}\"")
        );
    }
    assert_eq!(server(":0"), "invalid port in upstream \"127.0.0.1:0\"");
    assert_eq!(server("/x"), "invalid host in upstream \"127.0.0.1/x\"");
    assert_eq!(error("server '';"), "no host in upstream \"\"");
    let unknown = "host not found in upstream \"no such host\"";
    assert_eq!(error("server 'no such host';"), unknown);
    assert_eq!(server(" backup"), "no servers in upstream \"a\"");
    for method in ["ip_hash", "hash $a", "random"] {
        let message = "balancing method does not support parameter \"backup\"";
        assert_eq!(
            error(&format!("{method}; server 127.0.0.1 backup;")),
            message
        );
    }
    assert_eq!(error("hash $a foo;"), "invalid parameter \"foo\"");
    assert_eq!(error("random two foo;"), "invalid parameter \"foo\"");
    assert_eq!(
        error("random two least_time;"),
        "invalid parameter \"least_time\""
    );
    let foreign = "invalid parameter \"least_time=connect\"";
    assert_eq!(error("random two least_time=connect;"), foreign);
    assert_eq!(error("least_time connect;"), "invalid value \"connect\"");
    assert_eq!(error("least_time header foo;"), "invalid parameter \"foo\"");
    assert_eq!(
        error("least_time header; least_time header;"),
        "\"least_time\" directive is duplicate"
    );
    assert_eq!(
        error("keepalive x;"),
        "invalid value \"x\" in \"keepalive\" directive"
    );
    assert_eq!(
        error("keepalive 1; keepalive 2;"),
        "\"keepalive\" directive is duplicate"
    );
    assert_eq!(error("zone '' 64k;"), "invalid zone name \"\"");
    assert_eq!(error("zone z 1k;"), "zone \"z\" is too small");
    let twice = "upstream a { server 127.0.0.1; } upstream a { server 127.0.0.1; }";
    assert_eq!(read(twice).unwrap_err(), "duplicate upstream \"a\"");
    let zones = |second: &str| {
        let one = "upstream a { zone z 64k; server 127.0.0.1; }";
        read(&format!(
            "{one} upstream b {{ zone {second}; server 127.0.0.1; }}"
        ))
    };
    assert!(zones("z 64k").is_ok() && zones("z").is_ok() && zones("y 1m").is_ok());
    assert_eq!(
        zones("z 128k").unwrap_err(),
        "the size 131072 of shared memory zone \"z\" conflicts with already declared size 65536"
    );
    let no_port = "stream_upstream a { server 127.0.0.1; }";
    assert_eq!(
        compile(no_port).unwrap_err(),
        "no port in upstream \"127.0.0.1\""
    );
    assert!(error("hash $a consistent; server 127.0.0.1 weight=200000;").contains("too large"));
    let service = |rest: &str| error(&format!("server {rest};"));
    assert_eq!(service("a.test service= resolve"), "service is empty");
    assert_eq!(
        service("a.test service=http"),
        "service upstream \"a.test\" requires \"resolve\" parameter"
    );
    assert_eq!(
        service("a.test:80 service=http resolve"),
        "service upstream \"a.test:80\" may not have port"
    );
    assert_eq!(
        service("127.0.0.1 service=http resolve"),
        "service upstream \"127.0.0.1\" requires domain name"
    );
    assert!(server(" slow_start=30s").ends_with("not implemented by ringway yet"));
}

#[test]
fn resolve_wants_a_resolver_and_looks_nothing_up_while_loading() {
    let message = "no resolver defined to resolve names at run time in upstream \"a\"";
    let text = "upstream a { server no.such.host:81 resolve; }";
    assert_eq!(compile(text).unwrap_err(), message);
    let text = "upstream a { resolver 127.0.0.1 valid=5s ipv6=off; resolver_timeout 2s; \
                server no.such.host:81 resolve; server 127.0.0.1:82; }";
    let upstream = compile(text).unwrap();
    assert_eq!(upstream.group.peers().all().count(), 1);
    let (resolver, servers) = upstream.watched.unwrap();
    assert_eq!(resolver.conf().servers, ["127.0.0.1:53".parse().unwrap()]);
    assert_eq!(resolver.conf().valid, Some(Duration::from_secs(5)));
    assert_eq!(resolver.conf().timeout, Duration::from_secs(2));
    assert!(resolver.conf().ipv4 && !resolver.conf().ipv6);
    let lookup = Some(Lookup::Host("no.such.host".into(), 81));
    assert_eq!(servers[0].lookup, lookup);
    assert_eq!(servers[1].lookup, None);
    let text = "stream_upstream a { resolver 127.0.0.1; server a.Test service=db resolve; }";
    let (_, servers) = compile(text).unwrap().watched.unwrap();
    let lookup = Some(Lookup::Service("_db._tcp.a.test".into()));
    assert_eq!(servers[0].lookup, lookup);
}

/// The body of an upstream block that both halves of the configuration understand.
fn any_body() -> impl Strategy<Value = String> {
    let methods = [
        "",
        "least_conn;",
        "hash $key;",
        "hash $key consistent;",
        "random;",
        "random two;",
        "random two least_time=last_byte;",
        "least_time last_byte;",
        "least_time last_byte inflight;",
    ];
    let server = (1u32..5, 0u32..3, 0u32..3, 0u8..8).prop_map(|(weight, conns, fails, kind)| {
        let kind = match kind {
            0 => "down",
            1 => "backup",
            _ => "",
        };
        format!("weight={weight} max_conns={conns} max_fails={fails} {kind};")
    });
    let servers = prop::collection::vec(server, 1..8);
    (prop::sample::select(methods.to_vec()), servers).prop_map(|(method, servers)| {
        let has_backups = method.is_empty() || method.starts_with("least");
        let mut body = method.to_owned();
        for (n, server) in servers.iter().enumerate() {
            let server = match n == 0 || !has_backups {
                true => server.replace("backup", ""),
                false => server.clone(),
            };
            body += &format!(" server 10.0.0.{}:{} {server}", n + 1, 1000 + n);
        }
        body
    })
}

/// The peers that a group chooses in a life of requests, failures and pauses.
fn choices(upstream: &Upstream, life: &[(u8, u16, u64)]) -> Vec<Option<String>> {
    let (mut attempt, mut local) = (Attempt::default(), LocalState::default());
    let mut rng = fastrand::Rng::with_seed(3);
    let mut now_ms = 1_000_000;
    let mut held: Vec<Pick> = Vec::new();
    let mut chosen = Vec::new();
    for &(action, key, pause_ms) in life {
        now_ms += pause_ms;
        if action > 2 && !held.is_empty() {
            let mut pick = held.swap_remove(usize::from(key) % held.len());
            let outcome = if action == 3 {
                Outcome::Failed
            } else {
                pick.note(Moment::LastByte, u64::from(key));
                Outcome::Ok
            };
            let group = &upstream.group;
            group.release(pick, outcome, &mut attempt, &mut local, now_ms);
            continue;
        }
        let key = key.to_string();
        let inputs = Inputs {
            key: key.as_bytes(),
            client: None,
            now_ms,
        };
        attempt.reset(0);
        let group = &upstream.group;
        let pick = group.pick(&mut attempt, &mut local, &inputs, &mut rng);
        chosen.push(pick.as_ref().map(|pick| pick.peer().conf.name.to_string()));
        held.extend(pick);
    }
    chosen
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A block means the same in `http` and in `stream`, to the last choice.
    #[test]
    fn http_and_stream_balance_alike(
        body in any_body(),
        life in prop::collection::vec((0u8..6, any::<u16>(), 0u64..4000), 1..100),
    ) {
        let http = compile(&format!("upstream a {{ {body} }}")).unwrap();
        let stream = compile(&format!("stream_upstream a {{ {body} }}")).unwrap();
        prop_assert_eq!(http.group.needs_key(), stream.group.needs_key());
        prop_assert_eq!(choices(&http, &life), choices(&stream, &life));
    }
}
