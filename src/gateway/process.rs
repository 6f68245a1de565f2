//! The main level of a configuration: the process, its workers and its files. nginx's core and
//! events modules.

use std::ffi::CString;
use std::path::PathBuf;
use std::time::Duration;

use crate::base::capability::{is_root, privileged};
use crate::config::{Arity, ConfigError, Contexts, Node, Reader, Result, Row, Word, value};
use crate::observe::error_log::{self, TargetSpec};

/// More workers than any machine has cores are a mistake.
const WORKERS_MAX: u64 = 1024;

/// nginx's default of `worker_connections`.
const DEFAULT_CONNECTIONS: u64 = 512;

/// What the main level and `events {}` say, as it was read.
#[derive(Debug, Default)]
pub struct ProcessRaw {
    daemon: Option<bool>,
    pid: Option<Word>,
    user: Option<Account>,
    error_logs: Option<Vec<TargetSpec>>,
    workers: Option<usize>,
    affinity: Option<Vec<Word>>,
    rlimit_nofile: Option<u64>,
    shutdown_timeout: Option<Duration>,
    priority: Option<i32>,
    connections: Option<u64>,
    has_events: bool,
}

/// The scope of the main level, which is more than the process: it has `http {}` too.
pub trait Main: 'static {
    /// The part of this file.
    fn process(&mut self) -> &mut ProcessRaw;
}

/// What the configuration says about the process.
#[derive(Clone, Debug)]
pub struct ProcessConf {
    /// `daemon`: leave the terminal.
    pub daemon: bool,
    /// `pid`: where the process id is kept.
    pub pid: PathBuf,
    /// `user`: whom to become after binding; None when not started as root.
    pub user: Option<Account>,
    /// `error_log` of the main level.
    pub error_logs: Vec<TargetSpec>,
    /// `worker_processes`: the number of worker threads.
    pub workers: usize,
    /// `worker_cpu_affinity`: the cores of each worker; workers beyond the end have the last.
    pub affinity: Vec<Vec<usize>>,
    /// `worker_rlimit_nofile`.
    pub rlimit_nofile: Option<u64>,
    /// `worker_shutdown_timeout`: how long a graceful end may take.
    pub shutdown_timeout: Option<Duration>,
    /// `worker_priority`: the nice value of workers.
    pub priority: i32,
    /// `worker_connections`: connections a worker may have, to clients and upstreams together.
    pub connections: usize,
    /// Some `proxy_bind` is `transparent`: workers need a privilege.
    pub transparent: bool,
}

/// A user to run as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The name, for the supplementary groups.
    pub name: CString,
    /// The user id.
    pub uid: u32,
    /// The group id: the named group's or the user's own.
    pub gid: u32,
}

impl Default for ProcessConf {
    /// One worker in the foreground; what an empty configuration would say.
    fn default() -> Self {
        ProcessConf {
            daemon: false,
            pid: PathBuf::new(),
            user: None,
            error_logs: Vec::new(),
            workers: 1,
            affinity: Vec::new(),
            rlimit_nofile: None,
            shutdown_timeout: None,
            priority: 0,
            connections: DEFAULT_CONNECTIONS as usize,
            transparent: false,
        }
    }
}

impl ProcessConf {
    /// The cores of worker `index`; None means all.
    pub fn cores(&self, index: usize) -> Option<&[usize]> {
        self.affinity
            .get(index)
            .or(self.affinity.last())
            .map(|cores| &cores[..])
    }
}

/// The directives of this file, in whatever scope the main level has.
pub struct Rows<M>(std::marker::PhantomData<M>);

const MAIN: Contexts = Contexts::MAIN;
const EVENTS: Contexts = Contexts::EVENTS;

impl<M: Main> Rows<M> {
    /// All of them.
    pub const ALL: &'static [Row<M>] = &[
        Row::flag("daemon", MAIN, |m: &mut M| &mut m.process().daemon)
            .default("on")
            .doc("Whether ringway leaves the terminal and runs in the background."),
        Row::word("pid", MAIN, |m: &mut M| &mut m.process().pid)
            .default("ringway.pid")
            .doc("The file that holds the process id."),
        Row::custom("user", MAIN, Arity::Between(1, 2), set_user::<M>)
            .default("nobody nobody")
            .doc("The user, and group, to run as after the sockets are bound; for root only."),
        Row::custom("error_log", MAIN, Arity::AtLeast(1), add_error_log::<M>)
            .default("error.log error")
            .doc("Where messages go, and from which level on."),
        Row::custom("worker_processes", MAIN, Arity::One, set_workers::<M>)
            .default("1")
            .doc("Worker threads, each with its own ring; auto is one per core."),
        Row::words(
            "worker_cpu_affinity",
            MAIN,
            Arity::AtLeast(1),
            |m: &mut M| &mut m.process().affinity,
        )
        .doc("The cores each worker may run on: a bit mask each, or auto."),
        Row::number("worker_rlimit_nofile", MAIN, |m: &mut M| {
            &mut m.process().rlimit_nofile
        })
        .doc("The limit of open files."),
        Row::time("worker_shutdown_timeout", MAIN, |m: &mut M| {
            &mut m.process().shutdown_timeout
        })
        .doc("How long a graceful shutdown may take before connections are closed."),
        Row::custom("worker_priority", MAIN, Arity::One, set_priority::<M>)
            .default("0")
            .doc("The nice value of the workers."),
        Row::block("events", MAIN, Arity::None, read_events::<M>)
            .doc("Settings of connection processing."),
        Row::custom(
            "worker_connections",
            EVENTS,
            Arity::One,
            set_connections::<M>,
        )
        .default("512")
        .doc("Connections a worker may have open, upstream ones included."),
        Row::notice(
            "master_process",
            MAIN,
            Arity::Flag,
            "workers are threads of one process",
        ),
        Row::notice("load_module", MAIN, Arity::One, "all modules are built in"),
        Row::notice(
            "working_directory",
            MAIN,
            Arity::One,
            "it only says where cores are dumped",
        ),
        Row::notice(
            "worker_rlimit_core",
            MAIN,
            Arity::One,
            "core dumps follow the system's limit",
        ),
        Row::notice("env", MAIN, Arity::One, "the whole environment is kept"),
        Row::notice("lock_file", MAIN, Arity::One, "there is no accept mutex"),
        Row::notice(
            "pcre_jit",
            MAIN,
            Arity::Flag,
            "regular expressions are always compiled",
        ),
        Row::notice(
            "thread_pool",
            MAIN,
            Arity::Between(2, 3),
            "files go through the ring",
        ),
        Row::notice(
            "timer_resolution",
            MAIN,
            Arity::One,
            "time is cached by itself",
        ),
        Row::notice(
            "debug_points",
            MAIN,
            Arity::One,
            "it is for debugging nginx",
        ),
        Row::notice("use", EVENTS, Arity::One, "the event method is io_uring"),
        Row::notice(
            "multi_accept",
            EVENTS,
            Arity::Flag,
            "several accepts are always in flight",
        ),
        Row::notice(
            "accept_mutex",
            EVENTS,
            Arity::Flag,
            "each worker has its own sockets",
        ),
        Row::notice(
            "accept_mutex_delay",
            EVENTS,
            Arity::One,
            "there is no accept mutex",
        ),
        Row::notice(
            "worker_aio_requests",
            EVENTS,
            Arity::One,
            "files go through the ring",
        ),
        Row::notice(
            "debug_connection",
            EVENTS,
            Arity::One,
            "error_log debug logs every connection",
        ),
    ];
}

impl ProcessRaw {
    /// Checks what belongs together and fills in defaults. `default_pid` and `default_log` are used
    /// where the file says nothing.
    ///
    /// # Errors
    /// A missing `events {}`, a malformed affinity mask.
    pub fn compile(
        self,
        reader: &mut Reader<'_>,
        default_pid: PathBuf,
        default_log: TargetSpec,
    ) -> Result<ProcessConf> {
        if !self.has_events {
            return Err(ConfigError::bare("no \"events\" section in configuration"));
        }
        let workers = self.workers.unwrap_or(1);
        Ok(ProcessConf {
            daemon: self.daemon.unwrap_or(true),
            pid: self.pid.map_or(default_pid, |word| reader.path(&word)),
            user: if is_root() { self.user } else { None },
            error_logs: self.error_logs.unwrap_or_else(|| vec![default_log]),
            affinity: compile_affinity(self.affinity.as_deref(), workers, reader)?,
            workers,
            rlimit_nofile: self.rlimit_nofile,
            shutdown_timeout: self.shutdown_timeout,
            priority: self.priority.unwrap_or(0),
            connections: self.connections.unwrap_or(DEFAULT_CONNECTIONS) as usize,
            transparent: false,
        })
    }
}

fn set_user<M: Main>(reader: &mut Reader<'_>, main: &mut M, node: &Node) -> Result<()> {
    if main.process().user.is_some() {
        return Err(ConfigError::directive(node.span(), "is duplicate"));
    }
    let name = &node.args()[0];
    if !is_root() {
        // A reload or a new binary after root was given up is no mistake.
        if privileged() {
            return Ok(());
        }
        reader.warn(
            node.span(),
            "the \"user\" directive makes sense only if ringway is started by root, ignored",
        );
        return Ok(());
    }
    let missing = |call: &str, word: &Word| {
        ConfigError::at(word.span, format!("{call}(\"{}\") failed", word.text()))
            .help(format!("there is no \"{}\" on this machine", word.text()))
    };
    let user = c_string(name)?;
    let (uid, mut gid) = find_user(&user).ok_or_else(|| missing("getpwnam", name))?;
    // As nginx: without a group, the group with the user's name, if there is one.
    let group = node.args().get(1);
    match (find_group(&c_string(group.unwrap_or(name))?), group) {
        (Some(found), _) => gid = found,
        (None, Some(word)) => return Err(missing("getgrnam", word)),
        (None, None) => {}
    }
    main.process().user = Some(Account {
        name: user,
        uid,
        gid,
    });
    Ok(())
}

fn c_string(word: &Word) -> Result<CString> {
    CString::new(&word.bytes[..]).map_err(|_| ConfigError::directive(word.span, "invalid value"))
}

fn find_user(name: &CString) -> Option<(u32, u32)> {
    // SAFETY: the name is NUL-terminated; configurations are read by one thread at a time.
    let entry = unsafe { libc::getpwnam(name.as_ptr()) };
    // SAFETY: getpwnam gives NULL or a pointer that is valid until its next call.
    unsafe { entry.as_ref() }.map(|entry| (entry.pw_uid, entry.pw_gid))
}

fn find_group(name: &CString) -> Option<u32> {
    // SAFETY: the name is NUL-terminated; configurations are read by one thread at a time.
    let entry = unsafe { libc::getgrnam(name.as_ptr()) };
    // SAFETY: getgrnam gives NULL or a pointer that is valid until its next call.
    unsafe { entry.as_ref() }.map(|entry| entry.gr_gid)
}

fn add_error_log<M: Main>(reader: &mut Reader<'_>, main: &mut M, node: &Node) -> Result<()> {
    let spec = error_log::parse(reader, node)?;
    main.process().error_logs.get_or_insert_default().push(spec);
    Ok(())
}

fn set_connections<M: Main>(_: &mut Reader<'_>, main: &mut M, node: &Node) -> Result<()> {
    let word = &node.args()[0];
    let number = value::parse_number(&word.bytes)
        .ok_or_else(|| ConfigError::at(word.span, format!("invalid number \"{}\"", word.text())))?;
    value::once(&mut main.process().connections, number, node)
}

fn set_workers<M: Main>(_: &mut Reader<'_>, main: &mut M, node: &Node) -> Result<()> {
    let word = &node.args()[0];
    if main.process().workers.is_some() {
        return Err(ConfigError::directive(node.span(), "is duplicate"));
    }
    let count = if word.is("auto") {
        cores() as u64
    } else {
        value::parse_number(&word.bytes).unwrap_or(0)
    };
    if !(1..=WORKERS_MAX).contains(&count) {
        return Err(ConfigError::directive(word.span, "invalid value"));
    }
    main.process().workers = Some(count as usize);
    Ok(())
}

fn set_priority<M: Main>(_: &mut Reader<'_>, main: &mut M, node: &Node) -> Result<()> {
    let word = &node.args()[0];
    if main.process().priority.is_some() {
        return Err(ConfigError::directive(node.span(), "is duplicate"));
    }
    let parsed = word
        .text()
        .parse()
        .ok()
        .filter(|nice| (-20..=20).contains(nice));
    let nice = parsed.ok_or_else(|| ConfigError::directive(word.span, "invalid value"))?;
    main.process().priority = Some(nice);
    Ok(())
}

fn read_events<M: Main>(reader: &mut Reader<'_>, main: &mut M, node: &Node) -> Result<()> {
    if std::mem::replace(&mut main.process().has_events, true) {
        return Err(ConfigError::directive(node.span(), "is duplicate"));
    }
    reader.read_block(node.children(), &[Rows::<M>::ALL], EVENTS, main)
}

fn compile_affinity(
    words: Option<&[Word]>,
    workers: usize,
    reader: &mut Reader<'_>,
) -> Result<Vec<Vec<usize>>> {
    let Some([first, rest @ ..]) = words else {
        return Ok(Vec::new());
    };
    if first.is("auto") {
        let allowed = match rest {
            [] => (0..cores()).collect(),
            [mask] => parse_mask(mask)?,
            [_, extra, ..] => {
                return Err(ConfigError::at(
                    extra.span,
                    "invalid number of arguments in \"worker_cpu_affinity\" directive",
                ));
            }
        };
        return Ok((0..workers)
            .map(|index| vec![allowed[index % allowed.len()]])
            .collect());
    }
    let masks = [first]
        .into_iter()
        .chain(rest)
        .map(parse_mask)
        .collect::<Result<Vec<_>>>()?;
    if masks.len() != workers {
        reader.warn(
            first.span,
            "the number of \"worker_processes\" is not equal to the number of \
             \"worker_cpu_affinity\" masks, using last mask for remaining worker processes",
        );
    }
    Ok(masks)
}

/// The numbers of the bits set, the last digit being core 0.
fn parse_mask(word: &Word) -> Result<Vec<usize>> {
    let mut cores = Vec::new();
    for (bit, digit) in word
        .bytes
        .iter()
        .rev()
        .filter(|digit| **digit != b' ')
        .enumerate()
    {
        match digit {
            b'0' => {}
            b'1' => cores.push(bit),
            _ => {
                let message = format!(
                    "invalid character \"{}\" in \"worker_cpu_affinity\"",
                    char::from(*digit)
                );
                return Err(ConfigError::at(word.span, message));
            }
        }
    }
    if cores.is_empty() || word.bytes.len() > 1024 {
        return Err(ConfigError::directive(word.span, "invalid value"));
    }
    Ok(cores)
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
