//! `compare`: every scenario against every proxy, interleaved, and the report of it.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::args::Args;
use crate::bulk::{self, BulkOptions, Sink};
use crate::http::Target;
use crate::idle::{self, IdleOptions};
use crate::load::{self, LoadOptions, LoadReport, Streams};
use crate::process::{self, ProcessTree};
use crate::proxies::{self, BackendProcess, Family, Program, Proxy};
use crate::report::{self, Results, Row, Sample};
use crate::scenario::{self, Conf, Kind, Scenario};
use crate::{Outcome, svg, sys, tls};

/// The options of `compare` that take a value.
pub const OPTIONS: &[&str] = &[
    "rounds",
    "seconds",
    "warmup",
    "settle",
    "scenario",
    "group",
    "binary",
    "nginx",
    "haproxy",
    "proxies",
    "out",
    "proxy-core",
    "load-core",
];

/// Between two runs, in which a proxy closes what the last run left.
const PAUSE: Duration = Duration::from_millis(200);
/// Long enough to see whether a proxy answers.
const PROBE: Duration = Duration::from_millis(50);
/// The upstream servers of every scenario; one process serves them all.
const BACKENDS: usize = 2;

/// `compare …`: measures, prints the report and writes it to the results directory.
///
/// # Errors
/// Bad options; an interrupt; no proxy at all. A proxy that fails costs only its own figures.
pub fn main(args: &Args) -> Outcome<ExitCode> {
    args.none()?;
    let plan = Plan::new(args)?;
    sys::raise_descriptor_limit()?;
    sys::pin(plan.load_core)
        .map_err(|error| format!("core {} cannot be used: {error}", plan.load_core))?;
    let servers = Servers {
        backend: BackendProcess::start(BACKENDS)?,
        sink: Sink::open(&["127.0.0.1:0"; BACKENDS])?,
    };
    let scratch = Scratch::new()?;
    let mut results = Results {
        labels: plan.labels(),
        ..Results::default()
    };
    for scenario in &plan.scenarios {
        let row = plan.measure(scenario, &servers, scratch.path())?;
        println!("{}", report::scenario_table(&results.labels, &row));
        results.rows.push(row);
    }
    let summary = report::summary(&plan.programs, &results);
    println!("{}", summary.text);
    plan.write(&results, &summary.text)?;
    let failed = args.has("check") && !summary.all_met;
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// What is behind the proxies.
struct Servers {
    backend: BackendProcess,
    /// For bulk flows.
    sink: Sink,
}

/// What the options ask for.
struct Plan {
    scenarios: Vec<Scenario>,
    programs: Vec<Program>,
    rounds: usize,
    duration: Duration,
    warmup: Duration,
    settle: Duration,
    proxy_core: usize,
    load_core: usize,
    out: PathBuf,
}

impl Plan {
    fn new(args: &Args) -> Outcome<Self> {
        let rounds = args.get("rounds")?.unwrap_or(5);
        let duration = args.seconds("seconds", 3.0)?;
        if rounds == 0 || duration.is_zero() {
            return Err("rounds and seconds must not be 0".into());
        }
        let out = args.all("out").last().map(PathBuf::from);
        let scenarios = scenario::select(&args.all("scenario"), &args.all("group"))?;
        let mut programs = find_programs(args)?;
        programs.retain(|program| scenarios.iter().any(|s| program.runs(s.conf)));
        Ok(Self {
            scenarios,
            programs,
            rounds,
            duration,
            warmup: args.seconds("warmup", 0.5)?,
            settle: args.seconds("settle", 5.0)?,
            proxy_core: args.get("proxy-core")?.unwrap_or(0),
            load_core: args.get("load-core")?.unwrap_or(1),
            out: out.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("results")),
        })
    }

    fn labels(&self) -> Vec<String> {
        self.programs
            .iter()
            .map(|program| program.label.clone())
            .collect()
    }

    /// All rounds of one scenario. In each round every proxy has its turn, in an order that
    /// moves on by one per round, so that a slow phase of the machine hits all alike.
    ///
    /// # Errors
    /// An interrupt.
    fn measure(&self, scenario: &Scenario, servers: &Servers, scratch: &Path) -> Outcome<Row> {
        let mut row = Row::new(*scenario, self.programs.len());
        let mut running: Vec<Option<Proxy>> = self.programs.iter().map(|_| None).collect();
        for round in 0..self.rounds {
            for turn in 0..self.programs.len() {
                let index = (round + turn) % self.programs.len();
                let program = &self.programs[index];
                let has_failed = row.notes.iter().any(|(column, _)| *column == index);
                if has_failed || !program.runs(scenario.conf) {
                    continue;
                }
                eprintln!(
                    "{} round {}/{}: {}",
                    scenario.name,
                    round + 1,
                    self.rounds,
                    program.label
                );
                let directory = scratch.join(format!("{}-{index}", scenario.name));
                let start = || self.start(program, scenario, servers, &directory);
                // Memory is measured on a process that has done nothing else.
                let fresh = scenario.kind.is_memory() || running[index].is_none();
                let sample = match fresh {
                    true => start().map(|proxy| running[index].insert(proxy)),
                    false => running[index].as_mut().ok_or_else(|| "it is gone".into()),
                }
                .and_then(|proxy| self.sample(scenario, servers, proxy));
                match sample {
                    Ok(sample) => row.samples[index].push(sample),
                    Err(error) => {
                        sys::interrupted()?;
                        let words = running[index].as_ref().map(Proxy::last_words);
                        let note = format!("{error} {}", words.unwrap_or_default());
                        row.notes.push((index, note.trim().to_owned()));
                    }
                }
                if scenario.kind.is_memory() {
                    running[index] = None;
                }
                sys::pause(PAUSE)?;
            }
        }
        Ok(row)
    }

    fn start(
        &self,
        program: &Program,
        scenario: &Scenario,
        servers: &Servers,
        directory: &Path,
    ) -> Outcome<Proxy> {
        let (conf, core) = (scenario.conf, self.proxy_core);
        match scenario.kind {
            Kind::Bulk => {
                let backends = servers.sink.addresses()?;
                let answers = |proxy| servers.sink.answers(proxy);
                program.start(conf, &backends, directory, core, answers)
            }
            _ => {
                let backends = &servers.backend.addresses;
                let answers = |proxy| self.answers(scenario, proxy);
                program.start(conf, backends, directory, core, answers)
            }
        }
    }

    /// Whether a proxy answers as its scenario wants.
    fn answers(&self, scenario: &Scenario, proxy: SocketAddr) -> io::Result<bool> {
        if matches!(scenario.conf, Conf::Tuned | Conf::Reference | Conf::Stream) {
            return proxies::answers(proxy);
        }
        let mut options = self.load_options(scenario, proxy)?;
        (options.connections, options.warmup, options.duration) = (1, Duration::ZERO, PROBE);
        Ok(load::run(&options, None)?.requests > 0)
    }

    fn load_options(&self, scenario: &Scenario, proxy: SocketAddr) -> io::Result<LoadOptions> {
        let streams = scenario.conf.is_h2().then_some(Streams {
            count: match scenario.kind {
                Kind::Streams(count) => count,
                _ => 1,
            },
            grpc: scenario.conf == Conf::Grpc,
        });
        Ok(LoadOptions {
            target: target(scenario, proxy),
            connections: scenario.connections,
            new_connections: matches!(scenario.kind, Kind::NewConnection | Kind::Resumed),
            rate: match scenario.kind {
                Kind::Rate(rate) => Some(rate),
                _ => None,
            },
            expect: Some(scenario.body_bytes),
            tls: client_tls(scenario)?,
            streams,
            warmup: self.warmup,
            duration: self.duration,
        })
    }

    fn sample(&self, scenario: &Scenario, servers: &Servers, proxy: &Proxy) -> Outcome<Sample> {
        let tree = proxy.tree()?;
        if scenario.kind.is_memory() {
            return self.memory_sample(scenario, proxy, &tree);
        }
        let usage = || {
            let cores = [self.proxy_core, self.load_core];
            Usage::now(&cores, &tree, &servers.backend)
        };
        let before = usage()?;
        if scenario.kind == Kind::Bulk {
            let options = BulkOptions {
                target: proxy.address,
                flows: scenario.connections,
                warmup: self.warmup,
                duration: self.duration,
            };
            let report = bulk::run(&options, &servers.sink, Some(&tree))?;
            return match report.bytes {
                0 => Err("no byte arrived".into()),
                _ => Ok(Sample::bulk(&report, usage()?.foreign_share(&before))),
            };
        }
        let options = self.load_options(scenario, proxy.address)?;
        let report = load::run(&options, Some(&tree))?;
        match report.requests {
            0 => Err(format!("no request succeeded ({:?})", report.errors).into()),
            _ => {
                let unwanted = unwanted_handshakes(scenario.kind, &report);
                let foreign = usage()?.foreign_share(&before);
                Ok(Sample::load(&report, unwanted, foreign))
            }
        }
    }

    fn memory_sample(
        &self,
        scenario: &Scenario,
        proxy: &Proxy,
        tree: &ProcessTree,
    ) -> Outcome<Sample> {
        let options = IdleOptions {
            target: target(scenario, proxy.address),
            tls: client_tls(scenario)?,
            h2: scenario.conf.is_h2(),
            untouched: scenario.kind == Kind::Untouched,
            connections: scenario.connections,
            settle: self.settle,
        };
        let report = idle::run(&options, tree)?;
        Ok(Sample::Memory {
            bytes_each: report.bytes_each(),
            lost: report.lost as u64,
        })
    }

    fn write(&self, results: &Results, summary: &str) -> Outcome<()> {
        fs::create_dir_all(&self.out)?;
        let tables: Vec<String> = results
            .rows
            .iter()
            .map(|row| report::scenario_table(&results.labels, row))
            .collect();
        let markdown = format!("{}\n{summary}", tables.join("\n"));
        fs::write(self.out.join("compare.md"), markdown)?;
        fs::write(self.out.join("compare.tsv"), report::tsv(results))?;
        fs::write(self.out.join("compare.svg"), svg::chart(results))?;
        eprintln!(
            "written: compare.md, compare.tsv and compare.svg in {}",
            self.out.display()
        );
        Ok(())
    }
}

/// What a scenario asks a proxy for.
fn target(scenario: &Scenario, proxy: SocketAddr) -> Target {
    Target {
        addr: proxy,
        host: proxy.to_string(),
        path: match scenario.conf {
            Conf::Grpc => "/loadtest.Echo/Unary".to_owned(),
            _ => format!("/{}", scenario.body_bytes),
        },
        tls: scenario.conf.is_tls(),
    }
}

/// How clients speak TLS, if they do. Tickets are those of one run.
fn client_tls(scenario: &Scenario) -> io::Result<Option<tls::Settings>> {
    let resumes = scenario.kind == Kind::Resumed;
    let settings = || tls::Settings::new(load::protocol(scenario.conf.is_h2()), resumes);
    scenario.conf.is_tls().then(settings).transpose()
}

/// Handshakes of a kind that was not to be measured.
fn unwanted_handshakes(kind: Kind, report: &LoadReport) -> u64 {
    match kind {
        Kind::Resumed => report.handshakes.full,
        _ => report.handshakes.resumed,
    }
}

/// Who used the cores, up to one moment.
struct Usage {
    when: Instant,
    cores: usize,
    busy: Duration,
    /// The proxy, the backend and this process.
    ours: Duration,
}

impl Usage {
    fn now(cores: &[usize], proxy: &ProcessTree, backend: &BackendProcess) -> io::Result<Self> {
        let generator = sys::process_cpu_nanos(std::process::id())?;
        let ours = proxy.cpu_time()?.total + backend.cpu_time()? + Duration::from_nanos(generator);
        let busy = process::cores_busy(cores)?;
        Ok(Self {
            when: Instant::now(),
            cores: cores.len(),
            busy,
            ours,
        })
    }

    /// The part of the cores' time since `before` that went to processes not in the test.
    fn foreign_share(&self, before: &Self) -> f64 {
        let seconds = |now: Duration, then: Duration| now.as_secs_f64() - then.as_secs_f64();
        let foreign = seconds(self.busy, before.busy) - seconds(self.ours, before.ours);
        let elapsed = (self.when - before.when).as_secs_f64() * self.cores as f64;
        (foreign / elapsed).clamp(0.0, 1.0)
    }
}

/// The programs to measure, ringway first. One that is missing is named and left out.
fn find_programs(args: &Args) -> Outcome<Vec<Program>> {
    let ringway = args
        .all("binary")
        .last()
        .copied()
        .unwrap_or("target/release/ringway");
    let mut candidates = vec![
        (Family::Ringway, ringway, true),
        (Family::Nginx, "/usr/sbin/nginx", true),
        (Family::Haproxy, "/usr/sbin/haproxy", true),
    ];
    candidates.extend(
        args.all("nginx")
            .into_iter()
            .map(|path| (Family::Nginx, path, false)),
    );
    candidates.extend(
        args.all("haproxy")
            .into_iter()
            .map(|path| (Family::Haproxy, path, false)),
    );
    let wanted: Vec<&str> = match args.all("proxies").last() {
        Some(list) => list.split(',').collect(),
        None => vec!["ringway", "nginx", "haproxy"],
    };
    let mut programs = Vec::new();
    for (family, path, counts) in candidates {
        if !wanted.contains(&family.word()) {
            continue;
        }
        match Program::find(family, Path::new(path), counts) {
            Ok(program) if family == Family::Haproxy => {
                programs.extend([program.clone(), program.with_splice()]);
            }
            Ok(program) => programs.push(program),
            Err(why) => eprintln!("{} is left out: {why}", family.word()),
        }
    }
    match programs.is_empty() {
        true => Err("there is no proxy to measure".into()),
        false => Ok(programs),
    }
}

/// A directory for the proxies' files, removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Outcome<Self> {
        // Not below the results: workers that gave up root must be able to reach it.
        let path = std::env::temp_dir().join(format!("ringway-loadtest-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
