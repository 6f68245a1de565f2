//! What a proxy's processes cost: CPU time and memory, read from /proc.

use std::fs;
use std::io;
use std::time::Duration;

use crate::sys;

/// A process and all its descendants at one moment.
#[derive(Clone, Debug)]
pub struct ProcessTree {
    pids: Vec<u32>,
}

/// CPU time used up to one moment, or between two.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CpuTime {
    /// User and system time together, exact to the scheduler's accounting.
    pub total: Duration,
    /// Clock ticks in user mode and in the kernel; only their proportion is used.
    ticks: (u64, u64),
}

impl ProcessTree {
    /// The tree below `root` as it is now.
    ///
    /// # Errors
    /// `NotFound` when there is no such process.
    pub fn of(root: u32) -> io::Result<Self> {
        let mut parents = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            // A process may end between the listing and this read.
            if let Some(stat) = Stat::read(pid) {
                parents.push((pid, stat.parent));
            }
        }
        if !parents.iter().any(|(pid, _)| *pid == root) {
            let message = format!("there is no process {root}");
            return Err(io::Error::new(io::ErrorKind::NotFound, message));
        }
        Ok(Self {
            pids: descendants(root, &parents),
        })
    }

    /// The processes, the root first.
    pub fn pids(&self) -> &[u32] {
        &self.pids
    }

    /// CPU time all of them have used.
    ///
    /// # Errors
    /// `NotFound` or `ESRCH` when one of them is gone.
    pub fn cpu_time(&self) -> io::Result<CpuTime> {
        let mut sum = CpuTime::default();
        for &pid in &self.pids {
            let stat = Stat::read(pid)
                .ok_or_else(|| io::Error::other(format!("the proxy's process {pid} ended")))?;
            sum.total += Duration::from_nanos(sys::process_cpu_nanos(pid)?);
            sum.ticks.0 += stat.user_ticks;
            sum.ticks.1 += stat.system_ticks;
        }
        Ok(sum)
    }

    /// Proportional set size of all of them, in bytes.
    ///
    /// # Errors
    /// Those of reading `/proc/PID/smaps_rollup`, permission above all.
    pub fn pss_bytes(&self) -> io::Result<u64> {
        let mut sum = 0;
        for pid in &self.pids {
            let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
            sum += parse_pss(&rollup)
                .ok_or_else(|| io::Error::other(format!("no Pss line for process {pid}")))?;
        }
        Ok(sum)
    }
}

impl CpuTime {
    /// What was used since `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            total: self.total.saturating_sub(earlier.total),
            ticks: (
                self.ticks.0.saturating_sub(earlier.ticks.0),
                self.ticks.1.saturating_sub(earlier.ticks.1),
            ),
        }
    }

    /// The part of it spent in user mode, 0 to 1; a guess by ticks.
    pub fn user_share(self) -> f64 {
        let all = self.ticks.0 + self.ticks.1;
        if all == 0 {
            0.0
        } else {
            self.ticks.0 as f64 / all as f64
        }
    }
}

/// How long the given cores have been busy, with anything, since the machine started. Time the
/// hypervisor took away counts as busy.
///
/// # Errors
/// Those of reading `/proc/stat`; a core that is not in it.
pub fn cores_busy(cores: &[usize]) -> io::Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    let ticks = cores
        .iter()
        .try_fold(0, |sum, core| Some(sum + parse_busy(&stat, *core)?));
    // The kernel reports in hundredths of a second on every architecture of today.
    ticks
        .map(|ticks| Duration::from_millis(ticks * 10))
        .ok_or_else(|| io::Error::other("a core is missing in /proc/stat"))
}

/// The fields of `/proc/PID/stat` that are used here.
#[derive(Debug, PartialEq)]
struct Stat {
    parent: u32,
    user_ticks: u64,
    system_ticks: u64,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(line: &str) -> Option<Self> {
        // The name, in parentheses, may itself hold spaces and parentheses.
        let fields: Vec<&str> = line[line.rfind(')')? + 1..].split_whitespace().collect();
        Some(Self {
            parent: fields.get(1)?.parse().ok()?,
            user_ticks: fields.get(11)?.parse().ok()?,
            system_ticks: fields.get(12)?.parse().ok()?,
        })
    }
}

fn descendants(root: u32, parents: &[(u32, u32)]) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() {
        let children = parents.iter().filter(|(_, parent)| *parent == found[next]);
        let children: Vec<u32> = children.map(|(pid, _)| *pid).collect();
        found.extend(children.into_iter().filter(|pid| *pid != root));
        next += 1;
    }
    found
}

/// Ticks of one core in all states but idle and waiting for a disk.
fn parse_busy(stat: &str, core: usize) -> Option<u64> {
    let name = format!("cpu{core}");
    let line = stat
        .lines()
        .find(|line| line.split(' ').next() == Some(&name))?;
    let fields = line.split_whitespace().skip(1).map(str::parse::<u64>);
    let fields: Vec<u64> = fields.collect::<Result<_, _>>().ok()?;
    let [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = fields[..] else {
        return None;
    };
    Some(user + nice + system + irq + softirq + steal)
}

fn parse_pss(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines() {
        let line = "42 (a) b (c)) S 7 42 42 0 -1 4194560 1 2 3 4 50 60 0 0 20 0 1 0 5 6 7";
        let expected = Stat {
            parent: 7,
            user_ticks: 50,
            system_ticks: 60,
        };
        assert_eq!(Stat::parse(line), Some(expected));
        assert_eq!(Stat::parse("42"), None);
    }

    #[test]
    fn trees() {
        let parents = [(1, 0), (5, 1), (6, 5), (7, 6), (8, 1), (9, 5)];
        assert_eq!(descendants(5, &parents), [5, 6, 9, 7]);
        assert_eq!(descendants(8, &parents), [8]);
    }

    #[test]
    fn pss_lines() {
        let rollup = "5-7 ---p 0 00:00 0 [rollup]\nRss:   9 kB\nPss:    12 kB\nPss_Anon: 3 kB\n";
        assert_eq!(parse_pss(rollup), Some(12 * 1024));
        assert_eq!(parse_pss("Rss: 1 kB\n"), None);
    }

    #[test]
    fn busy_cores() {
        let stat = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu1 1 2 3 90 80 4 5 6 0 0\ncpu11 7 7 7 7 7 7 7 7\n";
        assert_eq!(parse_busy(stat, 1), Some(21));
        assert_eq!(parse_busy(stat, 2), None);
        assert!(cores_busy(&[0]).unwrap() > Duration::ZERO);
    }

    #[test]
    fn reads_this_process() {
        let tree = ProcessTree::of(std::process::id()).unwrap();
        assert!(tree.pss_bytes().unwrap() > 0);
        assert!(tree.cpu_time().unwrap().total > Duration::ZERO);
        assert!(ProcessTree::of(u32::MAX).is_err());
    }
}
