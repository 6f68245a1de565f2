//! The load generator: HTTP/1.1 over N connections from one epoll thread. Closed loop (each
//! connection sends its next request when the reply is complete) or open loop (requests are due
//! at a fixed rate, and their latency counts from the moment they were due).

mod engine;

use std::io;
use std::time::Duration;

use crate::args::Args;
use crate::histogram::Histogram;
use crate::http::Target;
use crate::process::{CpuTime, ProcessTree};
use crate::{Outcome, sys};

use engine::Engine;

/// What to run.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Where requests go.
    pub target: Target,
    /// Connections open at a time.
    pub connections: usize,
    /// Whether every request gets a connection of its own.
    pub new_connections: bool,
    /// Requests per second in open loop; closed loop if `None`.
    pub rate: Option<u32>,
    /// The length of every body, if known; else Content-Length alone is believed.
    pub expect: Option<u64>,
    /// Time before anything is counted.
    pub warmup: Duration,
    /// Time in which everything is counted.
    pub duration: Duration,
}

/// What failed, by kind. Every failure also ends its connection.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Errors {
    /// The connection could not be made.
    pub connect: u64,
    /// A status other than 200.
    pub status: u64,
    /// A malformed reply or a wrong length.
    pub framing: u64,
    /// The connection ended before the reply was complete.
    pub closed: u64,
    /// No complete reply within the time allowed.
    pub stalled: u64,
}

impl Errors {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.connect + self.status + self.framing + self.closed + self.stalled
    }
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct LoadReport {
    /// Complete replies in the counted time.
    pub requests: u64,
    /// The counted time.
    pub elapsed: Duration,
    /// Latencies of requests in the counted time, in nanoseconds.
    pub latencies: Histogram,
    /// Failures, those of the warm-up included.
    pub errors: Errors,
    /// CPU time of the watched processes in the counted time.
    pub cpu: Option<CpuTime>,
}

impl LoadReport {
    /// Complete replies per second.
    pub fn per_second(&self) -> f64 {
        self.requests as f64 / self.elapsed.as_secs_f64()
    }

    /// CPU µs of the watched processes per complete reply.
    pub fn cpu_micros(&self) -> Option<f64> {
        let cpu = self.cpu?;
        Some(cpu.total.as_secs_f64() * 1e6 / self.requests.max(1) as f64)
    }
}

/// `load URL …`: runs once and prints the report.
///
/// # Errors
/// Bad options; a proxy that ended; an interrupt.
pub fn main(args: &Args) -> Outcome<()> {
    if let Some(core) = args.get("core")? {
        sys::pin(core)?;
    }
    let options = LoadOptions {
        target: Target::parse(args.one("URL")?)?,
        connections: args.get("connections")?.unwrap_or(64),
        new_connections: args.has("new-connections"),
        rate: args.get("rate")?,
        expect: args.get("expect")?,
        warmup: args.seconds("warmup", 1.0)?,
        duration: args.seconds("seconds", 10.0)?,
    };
    let tree = args.get("pid")?.map(ProcessTree::of).transpose()?;
    print_report(&options, &run(&options, tree.as_ref())?);
    Ok(())
}

/// Runs a load; `watch` names the processes whose CPU time is counted.
///
/// # Errors
/// Options that cannot work; too few descriptors; a watched process that ended; an interrupt.
/// Failed requests are no error but counted.
pub fn run(options: &LoadOptions, watch: Option<&ProcessTree>) -> io::Result<LoadReport> {
    check(options)?;
    sys::exact_timers();
    let cpu_time = || watch.map(ProcessTree::cpu_time).transpose();
    let mut engine = Engine::new(options)?;
    engine.run_for(options.warmup)?;
    let cpu_before = cpu_time()?;
    engine.start_counting();
    engine.run_for(options.duration)?;
    let (requests, elapsed) = engine.stop_counting();
    let cpu_after = cpu_time()?;
    let (latencies, errors) = engine.finish()?;
    let cpu = cpu_before
        .zip(cpu_after)
        .map(|(before, after)| after.since(before));
    Ok(LoadReport {
        requests,
        elapsed,
        latencies,
        errors,
        cpu,
    })
}

fn check(options: &LoadOptions) -> io::Result<()> {
    let refuse = |why: String| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    if options.connections == 0 || options.rate == Some(0) || options.duration.is_zero() {
        return refuse("connections, rate and seconds must not be 0".to_owned());
    }
    let limit = sys::raise_descriptor_limit()?;
    if options.connections as u64 + 32 > limit {
        return refuse(format!(
            "{} connections need more than the {limit} descriptors allowed (ulimit -n)",
            options.connections
        ));
    }
    Ok(())
}

fn print_report(options: &LoadOptions, report: &LoadReport) {
    let latency = |fraction| report.latencies.micros(fraction);
    println!(
        "{} requests in {:.2} s over {} connections: {:.0}/s",
        report.requests,
        report.elapsed.as_secs_f64(),
        options.connections,
        report.per_second()
    );
    println!(
        "latency µs: p50 {:.0}  p90 {:.0}  p99 {:.0}  p99.9 {:.0}  max {:.0}",
        latency(0.5),
        latency(0.9),
        latency(0.99),
        latency(0.999),
        report.latencies.largest() as f64 / 1e3
    );
    let Errors {
        connect,
        status,
        framing,
        closed,
        stalled,
    } = report.errors;
    println!(
        "errors: {} (connect {connect}, status {status}, framing {framing}, closed {closed}, \
         stalled {stalled})",
        report.errors.total()
    );
    if let (Some(cpu), Some(micros)) = (report.cpu, report.cpu_micros()) {
        println!(
            "proxy: {micros:.2} CPU µs per request, {:.0} % of it user, core {:.0} % busy",
            cpu.user_share() * 100.0,
            cpu.total.as_secs_f64() / report.elapsed.as_secs_f64() * 100.0
        );
    }
}
