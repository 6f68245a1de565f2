//! Expanding templates and looking values up, as a request does.

use std::hint::black_box;
use std::path::Path;

use criterion::{Criterion, criterion_group, criterion_main};
use ringway::config::{Span, Word, parse_text};
use ringway::vars::{HostTable, Pattern, Store, Subject, Template, Variable, Variables, define};

/// A request with a host and a URI.
struct Request {
    store: Store,
    host: &'static [u8],
    uri: &'static [u8],
}

impl Subject for Request {
    fn store(&self) -> &Store {
        &self.store
    }
    fn store_mut(&mut self) -> &mut Store {
        &mut self.store
    }
}

const HERE: Span = Span {
    file: 0,
    line: 1,
    column: 1,
};

const TABLE: &[Variable<Request>] = &[
    Variable::new("host", |request: &mut Request, _, out| {
        out.extend_from_slice(request.host);
        true
    }),
    Variable::new("uri", |request: &mut Request, _, out| {
        out.extend_from_slice(request.uri);
        true
    }),
    Variable::family("http_", |_, name, out| {
        out.extend_from_slice(name);
        true
    }),
];

fn variables(definitions: &str) -> Variables<Request> {
    let mut variables = Variables::new(&[TABLE]);
    let (nodes, _) = parse_text(Path::new("bench.conf"), definitions.as_bytes());
    for node in &nodes {
        define(node, &mut variables).expect("the definitions compile");
    }
    variables
}

fn expansion(c: &mut Criterion, name: &str, definitions: &str, text: &str) {
    let mut variables = variables(definitions);
    let template = Template::compile(&Word::new(text, HERE), &mut variables).expect("it compiles");
    variables.finish().expect("all names are known");
    let mut request = Request {
        store: Store::new(),
        host: b"www.host500.example.com",
        uri: b"/api/v2/items/12345",
    };
    let mut out = Vec::new();
    c.bench_function(name, |b| {
        b.iter(|| {
            out.clear();
            request.store.reset();
            template.eval(&mut request, &mut out);
            black_box(out.len())
        });
    });
}

fn templates(c: &mut Criterion) {
    expansion(
        c,
        "template/forwarded",
        "",
        "for=$http_client;host=$host;path=$uri",
    );
    let upgrade = "map $http_upgrade $connection { default upgrade; '' close; }";
    expansion(c, "map/upgrade", upgrade, "$connection");
    let entries: String = (0..1000)
        .map(|n| format!("*.host{n}.example.com site{n};"))
        .collect();
    let hosts = format!("map $host $site {{ hostnames; {entries} }}");
    expansion(c, "map/hostnames of 1000", &hosts, "$site");
    let regex = r"map $uri $item { default -; ~^/api/v(\d+)/items/(?<id>\d+)$ $1:$id; }";
    expansion(c, "map/regex with captures", regex, "$item");
}

fn hosts(c: &mut Criterion) {
    let mut table = HostTable::new();
    for n in 0..1000 {
        let name = format!("host{n}.example.com");
        table.insert(name.as_bytes(), n).expect("names differ");
    }
    c.bench_function("hosts/exact of 1000", |b| {
        b.iter(|| table.get(black_box(b"host500.example.com")));
    });
}

fn patterns(c: &mut Criterion) {
    let mut variables = variables("");
    let mut bench = |name: &str, source: &[u8]| {
        let pattern = Pattern::compile(source, false, HERE, &mut variables).expect("it compiles");
        let mut store = Store::new();
        c.bench_function(name, |b| {
            b.iter(|| pattern.exec(&mut store, black_box(b"/static/app/main.js")));
        });
    };
    bench("pattern/extension", br"\.(?:css|js|png|jpg)$");
    bench("pattern/groups", br"^/static/(\w+)/(.*)$");
    bench("pattern/look-ahead", br"^/(?!admin)(.*)$");
}

criterion_group!(benches, templates, hosts, patterns);
criterion_main!(benches);
