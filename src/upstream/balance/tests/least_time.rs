//! `least_time` and `random two least_time`, in virtual time.

use proptest::prelude::*;

use super::{Bench, servers};
use crate::upstream::balance::least_time::LeastTime;
use crate::upstream::{Inputs, Method, Moment, Outcome, Peer, Pick, ServerSpec};

const LAST_BYTE: LeastTime = LeastTime {
    moment: Moment::LastByte,
    inflight: false,
};
const INFLIGHT: LeastTime = LeastTime {
    inflight: true,
    ..LAST_BYTE
};

impl Bench {
    fn pick(&mut self) -> Pick {
        let inputs = Inputs {
            key: b"",
            client: None,
            now_ms: self.now_ms,
        };
        self.attempt.reset(0);
        let (attempt, local) = (&mut self.attempt, &mut self.local);
        let pick = self.group.pick(attempt, local, &inputs, &mut self.rng);
        pick.expect("a peer is open")
    }

    /// A request that takes `ms` to its last byte.
    fn done(&mut self, mut pick: Pick, ms: u64) {
        pick.note(Moment::LastByte, ms);
        let (attempt, local) = (&mut self.attempt, &mut self.local);
        let outcome = Outcome::Ok;
        self.group
            .release(pick, outcome, attempt, local, self.now_ms);
    }

    /// How many of `count` requests, one after the other, each peer gets, where peer `n` takes
    /// `times_ms[n]`.
    fn shares(&mut self, count: usize, times_ms: &[u64]) -> Vec<usize> {
        let mut shares = vec![0; times_ms.len()];
        for _ in 0..count {
            let pick = self.pick();
            let index = pick.index();
            shares[index] += 1;
            self.now_ms += times_ms[index];
            self.done(pick, times_ms[index]);
        }
        shares
    }

    /// As `shares`, with `clients` that each ask again as soon as they have their answer.
    fn shares_of_many(&mut self, clients: usize, count: usize, times_ms: &[u64]) -> Vec<usize> {
        let mut shares = vec![0; times_ms.len()];
        let mut held: Vec<(u64, u64, Pick)> = Vec::new();
        for _ in 0..count {
            if held.len() == clients {
                let first = (0..held.len()).min_by_key(|&at| held[at].0).unwrap();
                let (end_ms, began_ms, pick) = held.swap_remove(first);
                self.now_ms = end_ms;
                self.done(pick, end_ms - began_ms);
            }
            let pick = self.pick();
            shares[pick.index()] += 1;
            let end_ms = self.now_ms + times_ms[pick.index()];
            held.push((end_ms, self.now_ms, pick));
        }
        shares
    }
}

#[test]
fn close_times_take_turns_by_weight() {
    let mut bench = Bench::new(
        Method::LeastTime(LAST_BYTE),
        &servers("11; 12; 13 weight=2"),
    );
    assert_eq!(bench.shares(400, &[3, 12, 8]), [0, 0, 400]);
    let mut bench = Bench::new(Method::LeastTime(LAST_BYTE), &servers("11; 12; 13"));
    assert_eq!(bench.shares(300, &[3, 12, 8]), [100, 100, 100]);
}

#[test]
fn the_faster_server_is_chosen_and_a_busy_one_is_not() {
    let mut bench = Bench::new(Method::LeastTime(LAST_BYTE), &servers("11; 12; 13"));
    let shares = bench.shares(300, &[70, 200, 10]);
    assert_eq!(shares[0], 1, "one look is enough: {shares:?}");
    assert!((1..4).contains(&shares[1]), "{shares:?}");
    // 20 ms and three in flight cost as much as 80 ms and none.
    let shares = bench.shares_of_many(40, 4000, &[70, 200, 10]);
    assert!(
        shares[2] > 5 * shares[0] && shares[0] > 2 * shares[1],
        "{shares:?}"
    );
    assert!(shares[1] > 0, "{shares:?}");
}

#[test]
fn a_slow_server_is_looked_at_again_and_forgiven() {
    let mut bench = Bench::new(
        Method::LeastTime(LAST_BYTE),
        &servers("11 fail_timeout=2; 12 fail_timeout=2"),
    );
    let shares = bench.shares(10_000, &[1000, 10]);
    assert!((4..8).contains(&shares[0]), "a look every 18 s: {shares:?}");
    let shares = bench.shares(10_000, &[10, 10]);
    assert!(shares[0] < 2000, "{shares:?}");
    let shares = bench.shares(1000, &[10, 10]);
    assert_eq!(shares, [500, 500]);
}

#[test]
fn times_beyond_patience_are_all_alike() {
    let mut bench = Bench::new(Method::LeastTime(LAST_BYTE), &servers("11; 12"));
    let shares = bench.shares_of_many(4, 400, &[6_000, 60_000]);
    assert_eq!(shares.iter().sum::<usize>(), 400);
    let pick = bench.pick();
    let conns = |pick: &Pick| pick.peer().state.conns();
    assert!(conns(&pick) <= 3, "as least_conn: {}", conns(&pick));
}

#[test]
fn inflight_sees_a_server_that_stopped_answering() {
    for (by, lost) in [(LAST_BYTE, 10..2000), (INFLIGHT, 1..4)] {
        let mut bench = Bench::new(Method::LeastTime(by), &servers("11; 12 max_conns=50"));
        bench.shares(100, &[400, 400]);
        // The second server, warmed up as the faster one, hangs from now on.
        let times = &bench.group.peers();
        let hung = times.primary.list()[1].state.clone();
        for _ in 0..200 {
            hung.times().add(Moment::LastByte, 5);
        }
        let mut held = Vec::new();
        for _ in 0..300 {
            let pick = bench.pick();
            bench.now_ms += 100;
            match pick.index() {
                0 => bench.done(pick, 100),
                _ => held.push(pick),
            }
        }
        assert!(lost.contains(&held.len()), "{by:?}: {}", held.len());
        drop(held);
        assert_eq!(hung.waited_ms(bench.now_ms), 0);
    }
}

#[test]
fn failures_and_other_moments_do_not_count() {
    let mut bench = Bench::new(Method::LeastTime(INFLIGHT), &servers("11 max_fails=0; 12"));
    let mut pick = bench.pick();
    let state = pick.peer().state.clone();
    pick.note(Moment::FirstByte, 900);
    assert_eq!(state.average_ms(Moment::FirstByte), None);
    bench.now_ms += 50;
    assert_eq!(state.waited_ms(bench.now_ms), 50);
    let (attempt, local) = (&mut bench.attempt, &mut bench.local);
    bench
        .group
        .release(pick, Outcome::Failed, attempt, local, bench.now_ms);
    assert_eq!(state.average_ms(Moment::LastByte), None);
    assert_eq!(state.waited_ms(bench.now_ms), 0);
}

#[test]
fn two_random_ones_are_compared_by_time() {
    let mut bench = Bench::new(
        Method::RandomTwoTime(Moment::LastByte),
        &servers("11; 12; 13"),
    );
    let shares = bench.shares(1200, &[100, 10, 300]);
    assert!(
        (700..900).contains(&shares[1]),
        "two of three pairs: {shares:?}"
    );
    assert!(
        (300..500).contains(&shares[0]),
        "one of three pairs: {shares:?}"
    );
    assert!(shares[2] < 10, "{shares:?}");
}

/// What the method says of a peer, without its clever order of computing.
fn model(peer: &Peer, by: LeastTime, waits: &[(u64, u64)], now_ms: u64) -> (u64, u64) {
    let state = &peer.state;
    let mut ms = state.average_ms(by.moment).unwrap_or(0);
    let (idle_ms, timeout_ms) = (state.unasked_ms(now_ms), peer.conf.params.fail_timeout_ms);
    if idle_ms > timeout_ms {
        for _ in 0..(idle_ms / (timeout_ms + 1000)).min(64) {
            ms /= 2;
        }
    }
    let own: Vec<u64> = waits
        .iter()
        .filter(|(serial, _)| *serial == state.serial())
        .map(|(_, begun_ms)| now_ms - begun_ms)
        .collect();
    if by.inflight && !own.is_empty() {
        ms = ms.max(own.iter().sum::<u64>() / own.len() as u64);
    }
    let step = (ms / 20 + 1) * 20;
    let cost = step.min(5000) * (1 + u64::from(state.conns()));
    (cost, u64::from(peer.conf.params.weight))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happened before, no open peer costs less for its weight than the chosen one.
    #[test]
    fn the_cheapest_is_chosen(
        full in prop::collection::vec((1u32..6, 0u64..5), 2..8),
        inflight in any::<bool>(),
        steps in prop::collection::vec((0u8..4, any::<u16>(), 0u64..3000), 1..150),
    ) {
        let by = LeastTime { inflight, ..LAST_BYTE };
        let list: Vec<ServerSpec> = full
            .iter()
            .enumerate()
            .map(|(n, (weight, fail_timeout))| {
                let text = format!("{} weight={weight} fail_timeout={fail_timeout}", n + 11);
                super::server(&text)
            })
            .collect();
        let mut bench = Bench::new(Method::LeastTime(by), &list);
        let mut held: Vec<(u64, Pick)> = Vec::new();
        for (action, which, pause_ms) in steps {
            bench.now_ms += pause_ms;
            let now_ms = bench.now_ms;
            if action < 2 || held.is_empty() {
                let waits: Vec<_> = held
                    .iter()
                    .map(|(begun_ms, pick)| (pick.peer().state.serial(), *begun_ms))
                    .collect();
                let peers = bench.group.peers();
                let costs: Vec<_> = peers
                    .all()
                    .map(|peer| model(peer, by, &waits, now_ms))
                    .collect();
                let pick = bench.pick();
                let (cost, weight) = costs[pick.index()];
                let is_least = costs.iter().all(|other| cost * other.1 <= other.0 * weight);
                prop_assert!(is_least, "{} of {costs:?}", pick.index());
                held.push((now_ms, pick));
            } else {
                let (begun_ms, pick) = held.swap_remove(usize::from(which) % held.len());
                match action {
                    2 => bench.done(pick, now_ms - begun_ms),
                    _ => drop(pick),
                }
            }
        }
        drop(held);
        let peers = bench.group.peers();
        prop_assert!(peers.all().all(|peer| peer.state.waited_ms(bench.now_ms) == 0));
    }
}
