//! From samples to tables: medians over rounds, ratios by round, targets met or missed.

use std::fmt::Write;
use std::time::Duration;

use crate::bulk::BulkReport;
use crate::load::LoadReport;
use crate::process::CpuTime;
use crate::proxies::{Family, Program};
use crate::scenario::{Kind, Scenario, Target};

/// Latencies closer than this are the same: two buckets of the histogram.
const LATENCY_TOLERANCE: f64 = 1.016;

/// When processes outside the test take more than this of the two cores, the report warns.
const DISTURBED_PERCENT: f64 = 5.0;

/// Everything measured.
#[derive(Clone, Debug, Default)]
pub struct Results {
    /// Names of the proxies: the columns.
    pub labels: Vec<String>,
    /// One row per scenario.
    pub rows: Vec<Row>,
}

/// What was measured in one scenario.
#[derive(Clone, Debug)]
pub struct Row {
    /// Which one.
    pub scenario: Scenario,
    /// By proxy, then by round.
    pub samples: Vec<Vec<Sample>>,
    /// Proxies (by index) that failed, and why; they have no samples from then on.
    pub notes: Vec<(usize, String)>,
}

/// One run against one proxy.
#[derive(Clone, Copy, Debug)]
pub enum Sample {
    /// A load. Its unit of work is a request or, of bulk flows, a megabyte.
    Load {
        per_second: f64,
        /// CPU time of the proxy per unit.
        cpu_micros: f64,
        /// Part of the CPU time spent in user mode, 0 to 1.
        user_share: f64,
        /// Part of the time the proxy's core worked for it, 0 to 1.
        busy: f64,
        /// Part of the two cores' time that went to processes not in the test, 0 to 1.
        foreign: f64,
        p50_micros: f64,
        p99_micros: f64,
        p999_micros: f64,
        errors: u64,
    },
    /// Idle connections.
    Memory { bytes_each: f64, lost: u64 },
}

impl Sample {
    /// The figures of a load whose proxy was watched. `unwanted` handshakes were not of the kind
    /// that was to be measured.
    pub fn load(report: &LoadReport, unwanted: u64, foreign: f64) -> Self {
        let cpu = report.cpu.unwrap_or_default();
        Self::Load {
            per_second: report.per_second(),
            cpu_micros: report.cpu_micros().unwrap_or_default(),
            user_share: cpu.user_share(),
            busy: busy(cpu, report.elapsed),
            foreign,
            p50_micros: report.latencies.micros(0.5),
            p99_micros: report.latencies.micros(0.99),
            p999_micros: report.latencies.micros(0.999),
            errors: report.errors.total() + unwanted,
        }
    }

    /// The figures of bulk flows through a proxy that was watched; they have no latencies.
    pub fn bulk(report: &BulkReport, foreign: f64) -> Self {
        let cpu = report.cpu.unwrap_or_default();
        Self::Load {
            per_second: report.megabytes() / report.elapsed.as_secs_f64(),
            cpu_micros: report.cpu_micros().unwrap_or_default(),
            user_share: cpu.user_share(),
            busy: busy(cpu, report.elapsed),
            foreign,
            p50_micros: f64::NAN,
            p99_micros: f64::NAN,
            p999_micros: f64::NAN,
            errors: report.errors,
        }
    }

    /// The figure that is compared: CPU µs per unit of work, or bytes per connection. Less is
    /// better.
    pub fn cost(&self) -> f64 {
        match self {
            Self::Load { cpu_micros, .. } => *cpu_micros,
            Self::Memory { bytes_each, .. } => *bytes_each,
        }
    }

    /// The columns of the TSV after scenario, proxy and round, in the order of [`TSV_COLUMNS`].
    fn columns(&self) -> [f64; COLUMNS] {
        match *self {
            Self::Load {
                per_second,
                cpu_micros,
                user_share,
                busy,
                foreign,
                p50_micros,
                p99_micros,
                p999_micros,
                errors,
            } => [
                per_second,
                cpu_micros,
                user_share * 100.0,
                busy * 100.0,
                foreign * 100.0,
                p50_micros,
                p99_micros,
                p999_micros,
                f64::NAN,
                errors as f64,
            ],
            Self::Memory { bytes_each, lost } => {
                let mut columns = [f64::NAN; COLUMNS];
                (columns[8], columns[9]) = (bytes_each, lost as f64);
                columns
            }
        }
    }
}

const COLUMNS: usize = 10;
/// The column of work per second.
const PER_SECOND: usize = 0;
const TSV_COLUMNS: &str = "scenario\tproxy\tround\tunit\tper_second\tcpu_us_each\t\
    user_percent\tcore_busy_percent\tothers_percent\tp50_us\tp99_us\tp99.9_us\tpss_bytes_per_connection\terrors";

impl Row {
    /// A row without samples for so many proxies.
    pub fn new(scenario: Scenario, proxies: usize) -> Self {
        Self {
            scenario,
            samples: vec![Vec::new(); proxies],
            notes: Vec::new(),
        }
    }

    /// The median over rounds of [`Sample::cost`].
    pub fn median_cost(&self, proxy: usize) -> Option<f64> {
        median(self.samples[proxy].iter().map(Sample::cost))
    }

    fn median_column(&self, proxy: usize, column: usize) -> Option<f64> {
        median(
            self.samples[proxy]
                .iter()
                .map(|sample| sample.columns()[column]),
        )
    }

    fn errors(&self, proxy: usize) -> u64 {
        let errors = |sample: &Sample| match sample {
            Sample::Load { errors, .. } => *errors,
            Sample::Memory { lost, .. } => *lost,
        };
        self.samples[proxy].iter().map(errors).sum()
    }

    /// Median over rounds of how much more work per CPU-second `ours` does than `theirs`: both
    /// figures of a ratio come from the same round, so that slow phases of the machine cancel.
    fn ratio(&self, ours: usize, theirs: usize) -> Option<f64> {
        let pairs = self.samples[ours].iter().zip(&self.samples[theirs]);
        median(pairs.map(|(ours, theirs)| theirs.cost() / ours.cost()))
    }

    /// The same of work per second.
    fn speed_ratio(&self, ours: usize, theirs: usize) -> Option<f64> {
        let pairs = self.samples[ours].iter().zip(&self.samples[theirs]);
        median(
            pairs.map(|(ours, theirs)| ours.columns()[PER_SECOND] / theirs.columns()[PER_SECOND]),
        )
    }
}

/// What [`Sample::cost`] is, for a scenario's bars and tables.
pub fn unit_of_cost(kind: Kind) -> &'static str {
    match kind {
        Kind::Bulk => "CPU µs/MB",
        _ if kind.is_memory() => "bytes each",
        _ => "CPU µs/request",
    }
}

fn unit(kind: Kind) -> &'static str {
    match kind {
        Kind::Bulk => "MB",
        _ if kind.is_memory() => "connection",
        _ => "request",
    }
}

fn busy(cpu: CpuTime, elapsed: Duration) -> f64 {
    cpu.total.as_secs_f64() / elapsed.as_secs_f64()
}

/// The table of one scenario, in Markdown.
pub fn scenario_table(labels: &[String], row: &Row) -> String {
    let mut text = format!("### {}: {}\n\n", row.scenario.name, row.scenario.title);
    text += match row.scenario.kind {
        Kind::Bulk => {
            "| proxy | GB/s | GB per CPU-second | CPU µs/MB | of it user | core busy | others \
             | errors |\n|---|--:|--:|--:|--:|--:|--:|--:|\n"
        }
        kind if kind.is_memory() => {
            "| proxy | bytes per connection | connections lost |\n|---|--:|--:|\n"
        }
        _ => {
            "| proxy | requests/s | CPU µs/request | of it user | core busy | others | p50 µs | p99 µs \
             | p99.9 µs | errors |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n"
        }
    };
    for (proxy, label) in labels.iter().enumerate() {
        if !row.samples[proxy].is_empty() {
            add_line(&mut text, label, row, proxy);
        }
    }
    let disturbed = (0..labels.len())
        .filter_map(|proxy| row.median_column(proxy, 4))
        .any(|percent| percent > DISTURBED_PERCENT);
    if disturbed {
        text +=
            "\nOther processes used the two cores meanwhile: measure again on a quiet machine.\n";
    }
    for (proxy, why) in &row.notes {
        let _ = writeln!(text, "\n{} failed: {why}", labels[*proxy]);
    }
    text
}

/// The medians of one proxy.
fn add_line(text: &mut String, label: &str, row: &Row, proxy: usize) {
    let cell = |column| row.median_column(proxy, column).unwrap_or(f64::NAN);
    let errors = row.errors(proxy);
    let shares = || {
        let [user, busy, others] = [cell(2), cell(3), cell(4)];
        format!("{user:.0} % | {busy:.0} % | {others:.0} %")
    };
    let _ = match row.scenario.kind {
        Kind::Bulk => writeln!(
            text,
            "| {label} | {:.2} | {:.2} | {:.0} | {} | {errors} |",
            cell(PER_SECOND) / 1e3,
            1e3 / cell(1),
            cell(1),
            shares()
        ),
        kind if kind.is_memory() => writeln!(text, "| {label} | {:.0} | {errors} |", cell(8)),
        _ => writeln!(
            text,
            "| {label} | {:.0} | {:.2} | {} | {:.0} | {:.0} | {:.0} | {errors} |",
            cell(PER_SECOND),
            cell(1),
            shares(),
            cell(5),
            cell(6),
            cell(7)
        ),
    };
}

/// The verdicts over all scenarios.
pub struct Summary {
    /// A Markdown table.
    pub text: String,
    /// Whether every target was measured and reached, and without errors.
    pub all_met: bool,
}

/// ringway's ratio to each of the others, beside its targets.
pub fn summary(programs: &[Program], results: &Results) -> Summary {
    let mut summary = Summary {
        text: String::new(),
        all_met: true,
    };
    let Some(ours) = programs
        .iter()
        .position(|program| program.family == Family::Ringway)
    else {
        summary.text = "ringway was not measured: no ratios.\n".to_owned();
        summary.all_met = false;
        return summary;
    };
    summary.text = format!(
        "### {} in each scenario\n\n\
         | scenario | against | figure | ringway | theirs | ratio | target | reached |\n\
         |---|---|---|--:|--:|--:|--:|---|\n",
        results.labels[ours]
    );
    for row in &results.rows {
        let measured = row
            .samples
            .get(ours)
            .is_some_and(|samples| !samples.is_empty());
        let failed = row.notes.iter().any(|(proxy, _)| *proxy == ours);
        if !measured || failed || row.errors(ours) > 0 {
            summary.all_met = false;
            let why = match (measured, failed) {
                (true, false) => "errors",
                (_, true) => "failed",
                _ => "not measured",
            };
            let _ = writeln!(
                summary.text,
                "| {} | | {why} | | | | | no |",
                row.scenario.name
            );
        }
        if measured {
            add_verdicts(&mut summary, programs, row, ours);
        }
    }
    summary
}

fn add_verdicts(summary: &mut Summary, programs: &[Program], row: &Row, ours: usize) {
    let Some(cost) = row.median_cost(ours) else {
        return;
    };
    let name = row.scenario.name;
    if let Target::Memory(limit) | Target::MemoryBelowNginx(limit) = row.scenario.target {
        let met = cost <= limit;
        summary.all_met &= met;
        let _ = writeln!(
            summary.text,
            "| {name} | – | bytes each | {cost:.0} | | | ≤ {limit:.0} | {} |",
            yes(met)
        );
    }
    for (theirs, program) in programs
        .iter()
        .enumerate()
        .filter(|(index, program)| *index != ours && program.runs(row.scenario.conf))
    {
        let Some((their_cost, ratio)) = row.median_cost(theirs).zip(row.ratio(ours, theirs)) else {
            summary.all_met &= !program.counts;
            continue;
        };
        let target = work_target(row.scenario.target, program);
        let figure = unit_of_cost(row.scenario.kind);
        let (wanted, reached) = verdict(summary, ratio, target);
        let _ = writeln!(
            summary.text,
            "| {name} | {} | {figure} | {cost:.2} | {their_cost:.2} | {ratio:.2} | {wanted} | {reached} |",
            program.label
        );
        match row.scenario.target {
            Target::WorkAndLatency { .. } => add_latencies(summary, program, row, (ours, theirs)),
            Target::WorkAndSpeed { speed, .. } => {
                add_speed(summary, program, row, (ours, theirs), speed);
            }
            _ => {}
        }
    }
}

/// What a ratio had to be, if anything, and whether it is.
fn verdict(summary: &mut Summary, ratio: f64, target: Option<f64>) -> (String, &'static str) {
    let Some(target) = target else {
        return (String::new(), "");
    };
    summary.all_met &= ratio >= target;
    (format!("≥ {target:.2}"), yes(ratio >= target))
}

/// Work per second, where the proxy and not the generator is what limits it.
fn add_speed(
    summary: &mut Summary,
    program: &Program,
    row: &Row,
    (ours, theirs): (usize, usize),
    target: f64,
) {
    let cell = |proxy| row.median_column(proxy, PER_SECOND).unwrap_or(f64::NAN);
    let ratio = row.speed_ratio(ours, theirs).unwrap_or(f64::NAN);
    let (wanted, reached) = verdict(summary, ratio, program.counts.then_some(target));
    let _ = writeln!(
        summary.text,
        "| {} | {} | {}/s | {:.0} | {:.0} | {ratio:.2} | {wanted} | {reached} |",
        row.scenario.name,
        program.label,
        unit(row.scenario.kind),
        cell(ours),
        cell(theirs)
    );
}

/// p99 and p99.9 must not be above the other's.
fn add_latencies(summary: &mut Summary, program: &Program, row: &Row, pair: (usize, usize)) {
    for (figure, column) in [("p99 µs", 6), ("p99.9 µs", 7)] {
        let cell = |proxy| row.median_column(proxy, column).unwrap_or(f64::NAN);
        let (mine, their) = (cell(pair.0), cell(pair.1));
        let met = mine <= their * LATENCY_TOLERANCE;
        summary.all_met &= met || !program.counts;
        let (wanted, reached) = if program.counts {
            ("≥ 1.00", yes(met))
        } else {
            ("", "")
        };
        let _ = writeln!(
            summary.text,
            "| {} | {} | {figure} | {mine:.0} | {their:.0} | {:.2} | {wanted} | {reached} |",
            row.scenario.name,
            program.label,
            their / mine
        );
    }
}

/// What the ratio of costs has to be.
fn work_target(target: Target, program: &Program) -> Option<f64> {
    if !program.counts {
        return None;
    }
    let (nginx, haproxy) = match target {
        Target::Work { nginx, haproxy } | Target::WorkAndLatency { nginx, haproxy } => {
            (Some(nginx), Some(haproxy))
        }
        Target::WorkBesideNginx(nginx) => (Some(nginx), None),
        Target::WorkAndSpeed { work, .. } => (work, work),
        Target::Memory(_) => (None, None),
        Target::MemoryBelowNginx(_) | Target::LessMemoryThanNginx => (Some(1.0), None),
    };
    match program.family {
        Family::Ringway => None,
        Family::Nginx => nginx,
        Family::Haproxy => haproxy,
    }
}

fn yes(met: bool) -> &'static str {
    if met { "yes" } else { "**no**" }
}

/// Every sample as tab-separated values with a line of names.
pub fn tsv(results: &Results) -> String {
    let mut text = format!("{TSV_COLUMNS}\n");
    for row in &results.rows {
        for (label, samples) in results.labels.iter().zip(&row.samples) {
            for (round, sample) in samples.iter().enumerate() {
                let (name, unit) = (row.scenario.name, unit(row.scenario.kind));
                let _ = write!(text, "{name}\t{label}\t{}\t{unit}", round + 1);
                for value in sample.columns() {
                    let _ = match value.is_nan() {
                        true => write!(text, "\t"),
                        false => write!(text, "\t{value:.2}"),
                    };
                }
                text.push('\n');
            }
        }
    }
    text
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario;

    fn load(cpu_micros: f64) -> Sample {
        Sample::Load {
            per_second: 1e6 / cpu_micros,
            cpu_micros,
            user_share: 0.25,
            busy: 1.0,
            foreign: 0.0,
            p50_micros: 100.0,
            p99_micros: 200.0,
            p999_micros: 300.0,
            errors: 0,
        }
    }

    fn program(family: Family) -> Program {
        Program::named(family, family.word())
    }

    fn results(name: &str, ours: &[f64], theirs: &[f64]) -> (Vec<Program>, Results) {
        let programs = vec![program(Family::Ringway), program(Family::Nginx)];
        let mut row = Row::new(scenario::select(&[name], &[]).unwrap()[0], 2);
        row.samples[0] = ours.iter().copied().map(load).collect();
        row.samples[1] = theirs.iter().copied().map(load).collect();
        let labels = programs
            .iter()
            .map(|program| program.label.clone())
            .collect();
        (
            programs,
            Results {
                labels,
                rows: vec![row],
            },
        )
    }

    #[test]
    fn medians() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0].into_iter()), Some(2.5));
        assert_eq!(median(std::iter::empty()), None);
    }

    #[test]
    fn ratios_pair_the_samples_of_a_round() {
        let (_, results) = results("small100-64", &[10.0, 20.0, 10.0], &[15.0, 30.0, 15.0]);
        assert_eq!(results.rows[0].ratio(0, 1), Some(1.5));
    }

    #[test]
    fn targets_reached_and_missed() {
        let (programs, good) = results("small100-64", &[10.0], &[12.5]);
        assert!(summary(&programs, &good).all_met);
        let (programs, bad) = results("small100-64", &[10.0], &[11.0]);
        let summary = summary(&programs, &bad);
        assert!(!summary.all_met);
        assert!(summary.text.contains(
            "| small100-64 | nginx | CPU µs/request | 10.00 | 11.00 | 1.10 | ≥ 1.20 | **no** |"
        ));
    }

    #[test]
    fn bulk_flows_are_judged_by_work_and_by_speed() {
        let (programs, good) = results("stream-bulk-8", &[100.0], &[210.0]);
        let good = summary(&programs, &good);
        assert!(good.all_met, "{}", good.text);
        let line = "| stream-bulk-8 | nginx | MB/s | 10000 | 4762 | 2.10 | ≥ 1.80 | yes |";
        assert!(good.text.contains(line), "{}", good.text);
        let (programs, slow) = results("stream-bulk-1", &[100.0], &[120.0]);
        let slow = summary(&programs, &slow);
        assert!(
            !slow.all_met
                && slow
                    .text
                    .contains("| CPU µs/MB | 100.00 | 120.00 | 1.20 |  |  |")
        );
    }

    #[test]
    fn memory_is_judged_by_its_limit_and_beside_nginx() {
        let sample = |bytes_each| Sample::Memory {
            bytes_each,
            lost: 0,
        };
        let (programs, mut both) = results("stream-idle", &[], &[]);
        both.rows[0].samples = vec![vec![sample(1000.0)], vec![sample(900.0)]];
        let above_nginx = summary(&programs, &both);
        assert!(!above_nginx.all_met);
        let line = "| stream-idle | – | bytes each | 1000 | | | ≤ 2048 | yes |";
        assert!(above_nginx.text.contains(line), "{}", above_nginx.text);
        both.rows[0].samples[0] = vec![sample(800.0)];
        assert!(summary(&programs, &both).all_met);
    }

    #[test]
    fn a_missing_figure_is_not_a_reached_target() {
        let (programs, results) = results("small100-64", &[], &[11.0]);
        assert!(!summary(&programs, &results).all_met);
    }

    #[test]
    fn tsv_has_a_field_per_column() {
        let (_, results) = results("rate10k", &[10.0], &[11.0]);
        let text = tsv(&results);
        let fields: Vec<usize> = text.lines().map(|line| line.split('\t').count()).collect();
        assert_eq!(fields, [14, 14, 14]);
    }
}
