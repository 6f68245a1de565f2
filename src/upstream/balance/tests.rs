//! The choices recorded from nginx, and properties checked against plain models.
//!
//! In the tables a server is the last octet of its address; `12+11` is a request that found 12
//! refusing and then went to 11. The servers with port 18201 refuse.

use std::net::IpAddr;

use proptest::prelude::*;

use super::least_time::LeastTime;
use super::{Tried, View, Weights, round_robin};
use crate::upstream::{
    Attempt, Group, Inputs, Keepalive, LocalState, Method, Moment, Outcome, PeerAddr, Pick,
    Registry, ServerParams, ServerSpec,
};

mod least_time;

/// One worker and one group, fed with requests one after the other.
struct Bench {
    group: Group,
    local: LocalState,
    attempt: Attempt,
    rng: fastrand::Rng,
    now_ms: u64,
}

impl Bench {
    fn new(method: Method, servers: &[ServerSpec]) -> Self {
        Bench {
            group: Group::new(&Registry::new(), "t", "g", servers, method, Keepalive::OFF),
            local: LocalState::default(),
            attempt: Attempt::default(),
            rng: fastrand::Rng::with_seed(7),
            now_ms: 1_000_000,
        }
    }

    /// One request: the peers it tried, the last of which answered. `-` where none was left.
    fn request(&mut self, key: &str, client: Option<IpAddr>) -> String {
        let inputs = Inputs {
            key: key.as_bytes(),
            client,
            now_ms: self.now_ms,
        };
        let mut path = Vec::new();
        self.attempt.reset(0);
        loop {
            let (attempt, local) = (&mut self.attempt, &mut self.local);
            let Some(pick) = self.group.pick(attempt, local, &inputs, &mut self.rng) else {
                path.push("-".to_owned());
                break;
            };
            let name = pick.peer().conf.name.to_string();
            let refuses = name.ends_with(":18201");
            let outcome = if refuses {
                Outcome::Failed
            } else {
                Outcome::Ok
            };
            self.group
                .release(pick, outcome, attempt, local, self.now_ms);
            path.push(short(&name));
            if !refuses || attempt.tries() == 0 {
                break;
            }
        }
        path.join("+")
    }

    fn requests(&mut self, count: usize) -> String {
        (0..count)
            .map(|_| self.request("", None))
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Picks of requests that all go on.
    fn hold(&mut self, count: usize) -> Vec<Pick> {
        let inputs = Inputs {
            key: b"",
            client: None,
            now_ms: 1,
        };
        let mut pick = || {
            self.attempt.reset(0);
            let (attempt, local) = (&mut self.attempt, &mut self.local);
            self.group.pick(attempt, local, &inputs, &mut self.rng)
        };
        (0..count).filter_map(|_| pick()).collect()
    }

    /// How many requests each server has.
    fn conns(&self) -> Vec<u32> {
        let peers = self.group.peers();
        let list = peers.primary.list().iter();
        list.map(|peer| peer.state.conns()).collect()
    }

    /// Checks a table of `key=path` entries.
    fn check_keys(&mut self, table: &str) {
        for entry in table.split_whitespace() {
            let (key, path) = entry.split_once('=').unwrap();
            assert_eq!(self.request(key, None), path, "key {key}");
        }
    }
}

fn short(name: &str) -> String {
    match name {
        "127.0.0.1:18200" => "L4".into(),
        _ if name.starts_with("unix:") => "U".into(),
        _ => name
            .rsplit_once(':')
            .unwrap()
            .0
            .rsplit('.')
            .next()
            .unwrap()
            .into(),
    }
}

/// `11` answers, `12!` refuses; then parameters as nginx writes them.
fn server(text: &str) -> ServerSpec {
    let mut words = text.split(' ');
    let host = words.next().unwrap();
    let port = if host.ends_with('!') { 18201 } else { 18200 };
    let name = format!("127.0.0.{}:{port}", host.trim_end_matches('!'));
    let mut spec = ServerSpec::new(&name, vec![PeerAddr::Inet(name.parse().unwrap())]);
    for word in words {
        match word.split_once('=') {
            Some(("weight", n)) => spec.params.weight = n.parse().unwrap(),
            Some(("max_fails", n)) => spec.params.max_fails = n.parse().unwrap(),
            Some(("max_conns", n)) => spec.params.max_conns = n.parse().unwrap(),
            Some(("fail_timeout", n)) => {
                spec.params.fail_timeout_ms = n.parse::<u64>().unwrap() * 1000
            }
            None if word == "down" => spec.params.down = true,
            None if word == "backup" => spec.params.backup = true,
            _ => panic!("{word}"),
        }
    }
    spec
}

fn servers(text: &str) -> Vec<ServerSpec> {
    text.split("; ").map(server).collect()
}

/// The servers of the hashing tables.
const HASHED: &str = "11 weight=5; 12! max_fails=0; 13 weight=2; 14 down; 15 weight=3; \
                      16! max_fails=0 weight=2";

#[test]
fn round_robin_goes_in_nginx_order() {
    let mut bench = Bench::new(
        Method::RoundRobin,
        &servers("11 weight=5; 12; 13 weight=2; 14 down; 15 weight=3"),
    );
    assert_eq!(
        bench.requests(33),
        "11 15 13 11 12 11 15 11 13 15 11 11 15 13 11 12 11 15 11 13 15 11 11 15 13 11 12 11 15 \
         11 13 15 11"
    );
}

#[test]
fn round_robin_avoids_failing_servers_as_nginx_does() {
    let mut bench = Bench::new(
        Method::RoundRobin,
        &servers(
            "11 weight=5; 12! weight=4 max_fails=3 fail_timeout=600; 13 weight=2; \
             15! weight=9 max_fails=2 fail_timeout=600; 16 backup",
        ),
    );
    assert_eq!(
        bench.requests(40),
        "15+11 12+11 13 15+11 12+11 11 12+11 13 11 11 13 11 11 11 13 11 11 13 11 11 11 13 11 11 \
         13 11 11 11 13 11 11 13 11 11 11 13 11 11 13 11"
    );
}

#[test]
fn backups_serve_when_every_primary_is_out() {
    let mut bench = Bench::new(
        Method::RoundRobin,
        &servers(
            "11! fail_timeout=600; 12! fail_timeout=600; 13 backup weight=2; 14 backup; \
             15! backup max_fails=0",
        ),
    );
    assert_eq!(
        bench.requests(12),
        "11+12+13 14 15+13 13 14 13 15+13 13 14 13 15+13 14"
    );
}

#[test]
fn a_group_without_live_servers_says_so_and_a_single_one_never_goes_out() {
    let mut dead = Bench::new(Method::RoundRobin, &servers("11!; 12!; 13 down"));
    assert_eq!(dead.requests(3), "11+12 - -");
    dead.now_ms += 10_001;
    assert_eq!(dead.requests(2), "12+11 -");
    let mut one = Bench::new(Method::RoundRobin, &servers("11!"));
    assert_eq!(one.requests(2), "11 11");
    let mut down = Bench::new(Method::RoundRobin, &servers("11 down"));
    assert_eq!(down.requests(1), "-");
    let mut backed = Bench::new(Method::RoundRobin, &servers("11 down; 12 backup"));
    assert_eq!(backed.requests(2), "12 12");
}

#[test]
fn least_conn_breaks_ties_as_nginx_does() {
    let mut bench = Bench::new(
        Method::LeastConn,
        &servers("11 weight=5; 12; 13 weight=2; 14 down; 15! weight=3 max_fails=0"),
    );
    assert_eq!(
        bench.requests(33),
        "11 15+13 11 12 11 15+13 11 11 13 15+11 11 12 11 15+13 11 13 11 15+11 11 15+13 11 12 11 \
         13 15+11 11 15+11 13 11 12 11 15+11 13"
    );
}

#[test]
fn least_conn_fills_by_weight() {
    let mut bench = Bench::new(Method::LeastConn, &servers("11 weight=3; 12; 13 weight=2"));
    let held = bench.hold(60);
    assert_eq!(bench.conns(), [30, 10, 20]);
    drop(held);
    assert_eq!(bench.conns(), [0; 3]);
}

#[test]
fn ip_hash_chooses_what_nginx_chooses() {
    let table = "10.1.2.3=13 10.1.2.77=13 10.1.3.3=13 192.168.0.1=16+11 8.8.8.8=16+15 1.1.1.1=13 \
        255.255.255.255=11 172.16.5.4=16+15 203.0.113.9=11 198.51.100.7=16+15 100.64.3.2=15 \
        9.9.9.9=11 ::1=15 2001:db8::1=15 2001:db8::2=15 fe80::1=15 2606:4700::1111=11 \
        2a00:1450:4001:81b::200e=16+11 8.13.29.1=15 15.26.58.2=12+13 22.39.87.3=16+13 \
        29.52.116.4=13 36.65.145.5=16+13 43.78.174.6=13 50.91.203.7=11 57.104.232.8=12+15 \
        64.117.5.9=15 71.130.34.10=11 78.143.63.11=16+11 85.156.92.12=12+11 92.169.121.13=16+11 \
        99.182.150.14=13 106.195.179.15=11 113.208.208.16=13 120.221.237.17=11 127.234.10.18=11 \
        134.247.39.19=16+11 141.4.68.20=15 148.17.97.21=11 155.30.126.22=16+15 162.43.155.23=12+15 \
        169.56.184.24=16+11 176.69.213.25=13 183.82.242.26=11 190.95.15.27=11 197.108.44.28=15 \
        204.121.73.29=11";
    let mut bench = Bench::new(Method::IpHash, &servers(HASHED));
    for entry in table.split_whitespace() {
        let (ip, path) = entry.split_once('=').unwrap();
        assert_eq!(
            bench.request("", Some(ip.parse().unwrap())),
            path,
            "client {ip}"
        );
    }
}

#[test]
fn hash_chooses_what_nginx_chooses() {
    let mut bench = Bench::new(Method::Hash, &servers(HASHED));
    bench.check_keys(
        "k0=12+11 k1=11 k2=15 k3=11 k4=11 k5=16+15 k6=16+15 k7=11 k8=15 k9=11 k10=11 k11=11 \
         k12=12+11 k13=13 k14=11 k15=13 k16=16+11 k17=11 k18=13 k19=15 k20=13 k21=15 k22=15 \
         k23=11 k24=13 k25=11 k26=15 k27=13 k28=15 k29=11 k30=11 k31=11 k32=11 k33=13 k34=13 \
         k35=11 k36=11 k37=13 k38=16+11 k39=16+11 k40=11 k41=11 k42=11 k43=11 k44=11 k45=11 \
         k46=13 k47=11 k48=11 k49=11 k50=11 k51=15 k52=15 k53=11 k54=11 k55=11 k56=15 k57=11 \
         k58=11 k59=15 a=15 session-0001=16+11 %D7%A9=15",
    );
    assert_eq!(bench.request(&"x".repeat(100), None), "16+11");
    // An empty key leaves the choice to round robin.
    assert_eq!(bench.requests(8), "11 15 13 16+11 11 15 12+11 13");
}

#[test]
fn hash_rehashes_until_round_robin_takes_over() {
    let mut bench = Bench::new(
        Method::Hash,
        &servers("11! max_fails=0 weight=50; 12! max_fails=0 weight=50; 13; 14"),
    );
    bench.check_keys(
        "k0=12+11+13 k1=11+12+14 k2=12+11+13 k3=11+12+14 k4=13 k5=12+11+13 k6=11+12+14 \
         k7=12+11+14 k8=12+11+13 k9=11+12+13 k10=11+12+14 k11=11+12+14 k12=12+11+13 k13=11+12+14 \
         k14=11+12+14 k15=11+12+14 k16=12+13 k17=12+11+14 k18=12+11+13 k19=12+11+14 k20=11+12+13 \
         k21=12+11+14 k22=11+12+14 k23=12+11+13",
    );
}

#[test]
fn consistent_hash_chooses_what_nginx_chooses() {
    let mut list = servers("11 weight=5; 12! max_fails=0; 13 weight=2; 14 down");
    let local = "127.0.0.1:18200".parse().unwrap();
    let mut named = ServerSpec::new("localhost:18200", vec![PeerAddr::Inet(local)]);
    named.params.weight = 3;
    list.push(named);
    let path = std::path::PathBuf::from("/tmp/ngx-up/s.sock");
    list.push(ServerSpec::new(
        "unix:/tmp/ngx-up/s.sock",
        vec![path.into()],
    ));
    list.push(server("16! max_fails=0 weight=2"));
    list.push(ServerSpec::new(
        "127.0.0.17",
        vec![PeerAddr::Inet("127.0.0.17:80".parse().unwrap())],
    ));
    let mut bench = Bench::new(Method::HashConsistent, &list);
    bench.check_keys(
        "k0=U k1=L4 k2=17 k3=11 k4=13 k5=16+11 k6=16+L4 k7=U k8=11 k9=11 k10=11 k11=12+11 k12=L4 \
         k13=11 k14=L4 k15=13 k16=13 k17=11 k18=11 k19=17 k20=13 k21=16+L4 k22=L4 k23=11 k24=L4 \
         k25=16+13 k26=L4 k27=L4 k28=L4 k29=U k30=11 k31=12+16+11 k32=13 k33=13 k34=11 k35=16+11 \
         k36=17 k37=12+L4 k38=17 k39=L4 k40=11 k41=L4 k42=U k43=13 k44=13 k45=12+13 k46=L4 k47=11 \
         k48=13 k49=13 k50=11 k51=L4 k52=12+11 k53=U k54=11 k55=L4 k56=16+11 k57=13 k58=U k59=11 \
         a=11 session-0001=U %D7%A9=17",
    );
}

#[test]
fn random_follows_the_weights_and_two_prefers_the_idler() {
    let mut bench = Bench::new(
        Method::Random,
        &servers("11 weight=8; 12 weight=2; 13 down"),
    );
    let mut hits = 0;
    for _ in 0..2000 {
        hits += usize::from(bench.request("", None) == "11");
    }
    assert!((1500..1700).contains(&hits), "{hits} of 2000");

    let mut bench = Bench::new(Method::RandomTwo, &servers("11; 12"));
    let _held = bench.hold(100);
    assert_eq!(bench.conns(), [50, 50]);
}

#[test]
fn every_method_walks_past_64_tried_peers() {
    let list: Vec<_> = (1..=200)
        .map(|n| server(&format!("{n}! max_fails=0")))
        .collect();
    for method in METHODS {
        let mut bench = Bench::new(method, &list);
        let client = Some("10.0.0.1".parse().unwrap());
        let path = bench.request("key", client);
        let mut tried: Vec<_> = path.split('+').collect();
        tried.sort_unstable();
        tried.dedup();
        assert_eq!(tried.len(), 200, "{method:?}");
    }
}

const METHODS: [Method; 9] = [
    Method::RoundRobin,
    Method::LeastConn,
    Method::IpHash,
    Method::Hash,
    Method::HashConsistent,
    Method::Random,
    Method::RandomTwo,
    Method::LeastTime(LeastTime {
        moment: Moment::FirstByte,
        inflight: true,
    }),
    Method::RandomTwoTime(Moment::LastByte),
];

fn any_servers() -> impl Strategy<Value = Vec<ServerSpec>> {
    let one = (
        1u32..6,
        0u32..4,
        0u32..3,
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.15),
    );
    prop::collection::vec(one, 1..9).prop_map(|list| {
        let spec = |(n, (weight, max_conns, max_fails, down, backup)): (usize, _)| {
            let mut server = server(&(n + 1).to_string());
            server.params = ServerParams {
                weight,
                max_conns,
                max_fails,
                down,
                backup,
                ..server.params
            };
            server
        };
        list.into_iter().enumerate().map(spec).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens, a peer that is down, failed or full is never chosen, and a request is
    /// turned away only when no peer could take it.
    #[test]
    fn choices_respect_health_and_limits(
        list in any_servers(),
        method in prop::sample::select(&METHODS[..]),
        steps in prop::collection::vec((0u8..8, any::<u16>(), 0u64..4000), 1..120),
    ) {
        let mut bench = Bench::new(method, &list);
        let peers = bench.group.peers();
        let all: Vec<_> = peers.all().cloned().collect();
        let mut held = Vec::new();
        for (action, key, pause_ms) in steps {
            bench.now_ms += pause_ms;
            let now_ms = bench.now_ms;
            let local = &mut bench.local;
            match action {
                0..=4 => {
                    bench.attempt.reset(0);
                    let could = |peer: &crate::upstream::Peer| {
                        let (params, state) = (&peer.conf.params, &peer.state);
                        !params.down
                            && !state.is_full(params)
                            && (peers.is_single() || !state.is_failed(params, now_ms))
                    };
                    let open = all.iter().filter(|peer| could(peer)).count();
                    let open_primary =
                        peers.primary.list().iter().filter(|peer| could(peer)).count();
                    let key = key.to_string();
                    let inputs = Inputs { key: key.as_bytes(), client: None, now_ms };
                    let before: Vec<_> = all.iter().map(|peer| could(peer)).collect();
                    let pick =
                        bench.group.pick(&mut bench.attempt, local, &inputs, &mut bench.rng);
                    prop_assert_eq!(pick.is_some(), open > 0);
                    if let Some(pick) = pick {
                        let serial = pick.peer().state.serial();
                        let at = all.iter().position(|peer| peer.state.serial() == serial).unwrap();
                        prop_assert!(before[at]);
                        prop_assert!(!pick.peer().conf.params.backup || open_primary == 0);
                        held.push(pick);
                    }
                }
                _ if held.is_empty() => {}
                _ => {
                    let mut pick = held.swap_remove(key as usize % held.len());
                    let outcome = match action {
                        5 => Outcome::Ok,
                        6 => Outcome::Failed,
                        _ => Outcome::NotCounted,
                    };
                    if outcome == Outcome::Ok {
                        pick.note(Moment::FirstByte, u64::from(key));
                        pick.note(Moment::LastByte, u64::from(key));
                    }
                    bench.group.release(pick, outcome, &mut bench.attempt, local, now_ms);
                }
            }
            let conns: u32 = all.iter().map(|peer| peer.state.conns()).sum();
            prop_assert_eq!(conns as usize, held.len());
        }
    }

    /// Undisturbed smooth round robin gives every server exactly its weight in each full turn.
    #[test]
    fn a_turn_of_round_robin_is_exact(weights in prop::collection::vec(1u32..20, 1..12)) {
        let list: Vec<_> = weights
            .iter()
            .enumerate()
            .map(|(n, weight)| server(&format!("{} weight={weight}", n + 11)))
            .collect();
        let mut bench = Bench::new(Method::RoundRobin, &list);
        let total: u32 = weights.iter().sum();
        for _ in 0..3 {
            let mut counts = vec![0; weights.len()];
            for _ in 0..total {
                counts[bench.request("", None).parse::<usize>().unwrap() - 11] += 1;
            }
            prop_assert_eq!(&counts, &weights);
        }
    }

    /// The queue for many peers chooses as the plain walk does, through failures and retries.
    #[test]
    fn many_peers_are_walked_exactly(
        full in prop::collection::vec(1u32..5, 32..40),
        steps in prop::collection::vec((0u8..12, 0usize..32), 1..150),
    ) {
        let list: Vec<_> = full
            .iter()
            .enumerate()
            .map(|(n, weight)| server(&format!("{} weight={weight} max_fails=2", n + 11)))
            .collect();
        let mut bench = Bench::new(Method::RoundRobin, &list);
        let peers = bench.group.peers();
        let mut weights = Weights::new(&peers.primary);
        let mut model: Vec<(i64, i64)> = full.iter().map(|&w| (0, i64::from(w))).collect();
        for (action, index) in steps {
            let mut tried = Tried::default();
            match action {
                0 => {
                    weights.lower(index, &peers.primary.list()[index]);
                    model[index].1 = (model[index].1 - i64::from(full[index] / 2)).max(0);
                    continue;
                }
                1 => tried.set(index),
                _ => {}
            }
            let mut view = View {
                set: &peers.primary,
                weights: &mut weights,
                tried: &mut tried,
                now_ms: bench.now_ms,
                calm: true,
            };
            let picked = round_robin::pick(&mut view);
            let open = |at: usize| action != 1 || at != index;
            let mut total = 0;
            let mut best: Option<usize> = None;
            for at in (0..model.len()).filter(|&at| open(at)) {
                let effective = model[at].1;
                model[at].0 += effective;
                total += effective;
                model[at].1 = (effective + 1).min(i64::from(full[at]));
                if best.is_none_or(|best| model[at].0 > model[best].0) {
                    best = Some(at);
                }
            }
            model[best.unwrap()].0 -= total;
            prop_assert_eq!(picked, best);
            bench.now_ms += 1;
        }
    }
}
