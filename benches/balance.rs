//! What choosing and releasing a peer costs, for each method, among 3 and among 1,000 peers.

use std::hint::black_box;
use std::net::IpAddr;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ringway::upstream::{
    Attempt, Group, Inputs, Keepalive, LeastTime, LocalState, Method, Moment, Outcome, PeerAddr,
    Registry, ServerSpec,
};

const LEAST_TIME: LeastTime = LeastTime {
    moment: Moment::LastByte,
    inflight: true,
};
const METHODS: [(&str, Method); 9] = [
    ("round_robin", Method::RoundRobin),
    ("least_conn", Method::LeastConn),
    ("ip_hash", Method::IpHash),
    ("hash", Method::Hash),
    ("hash_consistent", Method::HashConsistent),
    ("random", Method::Random),
    ("random_two", Method::RandomTwo),
    ("random_two_time", Method::RandomTwoTime(Moment::LastByte)),
    ("least_time", Method::LeastTime(LEAST_TIME)),
];

fn pick_and_release(c: &mut Criterion) {
    let registry = Registry::new();
    let mut benches = c.benchmark_group("balance");
    for (name, method) in METHODS {
        for count in [3u32, 1000] {
            let servers: Vec<_> = (0..count).map(server).collect();
            let label = format!("{name}{count}");
            let group = Group::new(&registry, "bench", &label, &servers, method, Keepalive::OFF);
            let mut local = LocalState::default();
            let mut attempt = Attempt::default();
            let mut rng = fastrand::Rng::with_seed(1);
            let mut now_ms = 1_000_000;
            benches.bench_function(BenchmarkId::new(name, count), |bencher| {
                bencher.iter(|| {
                    now_ms += 1;
                    let key = u64::to_le_bytes(now_ms * 0x9e37_79b9);
                    let client = Some(IpAddr::from([key[0], key[1], key[2], key[3]]));
                    let inputs = Inputs {
                        key: &key,
                        client,
                        now_ms,
                    };
                    attempt.reset(0);
                    let pick = group.pick(&mut attempt, &mut local, &inputs, &mut rng);
                    let pick = pick.expect("every peer is open");
                    black_box(pick.index());
                    group.release(pick, Outcome::Ok, &mut attempt, &mut local, now_ms);
                });
            });
        }
    }
}

fn server(n: u32) -> ServerSpec {
    let name = format!("10.0.{}.{}:80", n / 250, n % 250 + 1);
    let addr = PeerAddr::Inet(name.parse().expect("a good address"));
    let mut server = ServerSpec::new(&name, vec![addr]);
    server.params.weight = 1 + n % 3;
    server
}

criterion_group!(benches, pick_and_release);
criterion_main!(benches);
