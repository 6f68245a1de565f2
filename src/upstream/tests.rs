//! Groups as a whole: many workers at once, new addresses, reloads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::*;

fn spec(port: u16) -> ServerSpec {
    let name = format!("127.0.0.1:{port}");
    ServerSpec::new(&name, vec![PeerAddr::Inet(name.parse().unwrap())])
}

fn inputs(now_ms: u64) -> Inputs<'static> {
    Inputs {
        key: b"key",
        client: None,
        now_ms,
    }
}

/// Takes `count` peers one after the other, each released as good.
fn take(group: &Group, local: &mut LocalState, count: usize) -> Vec<String> {
    let (mut attempt, mut rng) = (Attempt::default(), fastrand::Rng::with_seed(1));
    let one = |_| {
        attempt.reset(0);
        let pick = group
            .pick(&mut attempt, local, &inputs(1), &mut rng)
            .unwrap();
        let name = pick.peer().conf.name.to_string();
        group.release(pick, Outcome::Ok, &mut attempt, local, 1);
        name[10..].to_owned()
    };
    (0..count).map(one).collect()
}

#[test]
fn workers_share_limits_and_health() {
    let registry = Registry::new();
    let limited = |port| {
        let mut server = spec(port);
        server.params.max_conns = 2;
        server.params.fail_timeout_ms = 5;
        server
    };
    let servers: Vec<_> = (1..=4).map(limited).collect();
    let group = Group::new(
        &registry,
        "t",
        "g",
        &servers,
        Method::LeastConn,
        Keepalive::OFF,
    );
    let clock = AtomicU32::new(1000);
    let worker = |seed| {
        let (mut local, mut attempt) = (LocalState::default(), Attempt::default());
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut held = Vec::new();
        for _ in 0..5000 {
            let now_ms = u64::from(clock.fetch_add(1, Relaxed) / 16);
            attempt.reset(0);
            held.extend(group.pick(&mut attempt, &mut local, &inputs(now_ms), &mut rng));
            let full = group.peers().all().any(|peer| peer.state.conns() > 2 + 4);
            assert!(
                !full,
                "a limit may be overshot only for the moment of a lost race"
            );
            while held.len() > rng.usize(..4) {
                let pick = held.swap_remove(rng.usize(..held.len()));
                let outcomes = [
                    Outcome::Ok,
                    Outcome::Ok,
                    Outcome::Failed,
                    Outcome::NotCounted,
                ];
                let outcome = outcomes[rng.usize(..outcomes.len())];
                group.release(pick, outcome, &mut attempt, &mut local, now_ms);
            }
        }
    };
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let worker = &worker;
            scope.spawn(move || worker(seed));
        }
    });
    assert!(group.peers().all().all(|peer| peer.state.conns() == 0));
    let troubled = group.peers().all().any(|peer| peer.state.fails() > 0);
    assert_eq!(group.is_calm(), !troubled);
}

#[test]
fn new_addresses_keep_the_state_and_the_turn_of_those_that_stay() {
    let registry = Registry::new();
    let group = |servers: &[ServerSpec]| {
        Group::new(
            &registry,
            "t",
            "g",
            servers,
            Method::RoundRobin,
            Keepalive::OFF,
        )
    };
    let first = group(&[spec(1), spec(2), spec(3)]);
    let mut local = LocalState::default();
    assert_eq!(take(&first, &mut local, 2), ["1", "2"]);
    first.replace(&registry, &[spec(1), spec(2), spec(3), spec(4)]);
    assert_eq!(take(&first, &mut local, 1), ["3"], "whose turn it was");
    let requests = |group: &Group| -> Vec<u64> {
        group
            .peers()
            .all()
            .map(|peer| peer.state.requests())
            .collect()
    };
    assert_eq!(requests(&first), [1, 1, 1, 0]);

    let reloaded = group(&[spec(2), spec(9)]);
    assert_eq!(requests(&reloaded), [1, 0]);
    assert_eq!(reloaded.id(), first.id());
    assert_eq!(
        take(&reloaded, &mut local, 2),
        ["2", "9"],
        "a new configuration starts anew"
    );
}

#[test]
fn a_request_survives_a_swap_between_two_tries() {
    let registry = Registry::new();
    let servers = [spec(1), spec(2)];
    let group = Group::new(
        &registry,
        "t",
        "g",
        &servers,
        Method::RoundRobin,
        Keepalive::OFF,
    );
    let (mut local, mut attempt) = (LocalState::default(), Attempt::default());
    let mut rng = fastrand::Rng::with_seed(1);
    attempt.reset(0);
    let pick = group
        .pick(&mut attempt, &mut local, &inputs(50_000), &mut rng)
        .unwrap();
    group.replace(&registry, &[spec(2), spec(3), spec(4)]);
    assert!(group.release(pick, Outcome::Failed, &mut attempt, &mut local, 50_000));
    assert_eq!(attempt.tries(), 1, "the swap grants no more tries");
    let pick = group
        .pick(&mut attempt, &mut local, &inputs(50_000), &mut rng)
        .unwrap();
    assert_eq!(&*pick.peer().conf.name, "127.0.0.1:2");
    drop(pick);
    attempt.reset(1);
    let pick = group
        .pick(&mut attempt, &mut local, &inputs(50_000), &mut rng)
        .unwrap();
    group.release(pick, Outcome::Failed, &mut attempt, &mut local, 50_000);
    assert_eq!(attempt.tries(), 0, "proxy_next_upstream_tries 1");
}

#[test]
fn a_pick_that_is_dropped_gives_its_place_back() {
    let registry = Registry::new();
    let mut servers = [spec(1)];
    servers[0].params.max_conns = 1;
    let group = Group::new(
        &registry,
        "t",
        "g",
        &servers,
        Method::RoundRobin,
        Keepalive::OFF,
    );
    let mut locals = Locals::default();
    let mut attempt = Attempt::default();
    let mut rng = fastrand::Rng::with_seed(1);
    let mut pick = |attempt: &mut Attempt| {
        attempt.reset(0);
        group.pick(attempt, locals.of(&group), &inputs(1), &mut rng)
    };
    let held = pick(&mut attempt);
    assert!(held.is_some() && pick(&mut attempt).is_none());
    drop(held);
    let held = pick(&mut attempt).unwrap();
    let state = Arc::clone(&held.peer().state);
    assert_eq!((state.conns(), state.requests()), (1, 2));
}
