//! What an upstream block says, and what it must not say.

use std::path::Path;

use super::*;
use crate::config::{Catalog, parse_text};

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
        (conf[0].weight, conf[0].max_conns, conf[0].max_fails),
        (3, 4, 5)
    );
    assert_eq!(conf[0].fail_timeout_ms, 60_000);
    assert_eq!((&*conf[1].name, conf[1].down), ("unix:/run/a.sock", true));
    assert_eq!(
        (conf[1].weight, conf[1].max_fails, conf[1].fail_timeout_ms),
        (1, 1, 10_000)
    );
    assert_eq!((&*conf[2].name, &*conf[2].server), ("[::1]:80", "[::1]"));
    assert!(conf[2].backup && peers.backup.is_some());
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
    let no_port = "stream_upstream a { server 127.0.0.1; }";
    assert_eq!(
        compile(no_port).unwrap_err(),
        "no port in upstream \"127.0.0.1\""
    );
    assert!(error("hash $a consistent; server 127.0.0.1 weight=200000;").contains("too large"));
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
    assert_eq!(servers[0].name, Some(("no.such.host".into(), 81)));
    assert_eq!(servers[1].name, None);
}
