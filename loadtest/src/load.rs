//! The load generator: HTTP/1.1 over N connections from one epoll thread, with or without TLS.
//! Closed loop (each connection sends its next request when the reply is complete) or open loop
//! (requests are due at a fixed rate, and their latency counts from the moment they were due).
//! HTTP/2 in a closed loop: each connection has so many requests under way.

mod engine;
mod multiplex;
mod tally;
mod wire;

use std::io;
use std::time::Duration;

use crate::args::Args;
use crate::histogram::Histogram;
use crate::http::Target;
use crate::process::{CpuTime, ProcessTree};
use crate::{Outcome, sys, tls};

use engine::Engine;
use multiplex::Multiplex;
use tally::Tally;

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
    /// How TLS is spoken, if it is.
    pub tls: Option<tls::Settings>,
    /// HTTP/2 with prior knowledge, or as agreed in TLS; HTTP/1.1 if `None`.
    pub streams: Option<Streams>,
    /// Time before anything is counted.
    pub warmup: Duration,
    /// Time in which everything is counted.
    pub duration: Duration,
}

/// What goes over a connection with HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Streams {
    /// Requests under way at a time on each connection.
    pub count: usize,
    /// Unary calls of gRPC, whose message comes back; else GET.
    pub grpc: bool,
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
    /// TLS failed.
    pub tls: u64,
}

impl Errors {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.connect + self.status + self.framing + self.closed + self.stalled + self.tls
    }
}

/// Handshakes of TLS, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Handshakes {
    /// With a certificate.
    pub full: u64,
    /// With a ticket.
    pub resumed: u64,
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
    /// Of connections that had their first reply in the counted time.
    pub handshakes: Handshakes,
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
    let target = Target::parse(args.one("URL")?)?;
    let count: Option<usize> = args.get("streams")?;
    let grpc = args.has("grpc");
    let streams = (count.is_some() || grpc).then(|| Streams {
        count: count.unwrap_or(1),
        grpc,
    });
    let tls = match target.tls {
        true => {
            let protocol = protocol(streams.is_some());
            Some(tls::Settings::new(protocol, args.has("resume"))?)
        }
        false => None,
    };
    let options = LoadOptions {
        target,
        connections: args.get("connections")?.unwrap_or(64),
        new_connections: args.has("new-connections"),
        rate: args.get("rate")?,
        expect: args.get("expect")?,
        tls,
        streams,
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
    match options.streams {
        None => drive(Engine::new(options)?, options, watch),
        Some(streams) => drive(Multiplex::new(options, streams)?, options, watch),
    }
}

/// The name of the protocol in ALPN.
pub fn protocol(is_h2: bool) -> &'static str {
    if is_h2 { "h2" } else { "http/1.1" }
}

/// What makes a load.
trait Generator {
    /// Makes it for some time.
    fn run_for(&mut self, length: Duration) -> io::Result<()>;

    /// What was counted.
    fn tally(&mut self) -> &mut Tally;

    /// Waits for what is still owed, then counts what stalled.
    fn finish(self) -> io::Result<Tally>;
}

fn drive(
    mut generator: impl Generator,
    options: &LoadOptions,
    watch: Option<&ProcessTree>,
) -> io::Result<LoadReport> {
    let cpu_time = || watch.map(ProcessTree::cpu_time).transpose();
    generator.run_for(options.warmup)?;
    let cpu_before = cpu_time()?;
    generator.tally().start_counting();
    generator.run_for(options.duration)?;
    let (requests, elapsed) = generator.tally().stop_counting();
    let cpu_after = cpu_time()?;
    let tally = generator.finish()?;
    let cpu = cpu_before
        .zip(cpu_after)
        .map(|(before, after)| after.since(before));
    Ok(LoadReport {
        requests,
        elapsed,
        latencies: tally.latencies,
        errors: tally.errors,
        handshakes: tally.handshakes,
        cpu,
    })
}

fn check(options: &LoadOptions) -> io::Result<()> {
    let refuse = |why: String| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    if options.connections == 0 || options.rate == Some(0) || options.duration.is_zero() {
        return refuse("connections, rate and seconds must not be 0".to_owned());
    }
    if let Some(streams) = options.streams {
        if options.new_connections || options.rate.is_some() {
            return refuse("HTTP/2 is for closed loops on lasting connections".to_owned());
        }
        if streams.count == 0 || (streams.grpc && options.expect.is_none()) {
            return refuse("HTTP/2 needs a stream, gRPC the length of its message".to_owned());
        }
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
        tls,
    } = report.errors;
    println!(
        "errors: {} (connect {connect}, status {status}, framing {framing}, closed {closed}, \
         stalled {stalled}, TLS {tls})",
        report.errors.total()
    );
    if options.tls.is_some() {
        let Handshakes { full, resumed } = report.handshakes;
        println!("handshakes: {full} full, {resumed} resumed");
    }
    if let (Some(cpu), Some(micros)) = (report.cpu, report.cpu_micros()) {
        println!(
            "proxy: {micros:.2} CPU µs per request, {:.0} % of it user, core {:.0} % busy",
            cpu.user_share() * 100.0,
            cpu.total.as_secs_f64() / report.elapsed.as_secs_f64() * 100.0
        );
    }
}
