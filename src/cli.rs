//! The command line: nginx's flags, told apart from the subcommands by their dash.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config;
use crate::demo;
use crate::gateway::{self, LoadOptions};
use crate::log_process;
use crate::master::{self, Listeners, Origin, SpawnWorker, Start};
use crate::observe::error_log::{Destination, TargetSpec, echo_to_stderr, set_process_log};
use crate::observe::{ErrorLog, Level, os_error};
use crate::quick::{self, Kind};

/// Where things are when nothing says otherwise: nginx's places, so that an installed nginx can be
/// replaced as it stands.
const DEFAULT_PREFIX: &str = "/usr/share/nginx";
const DEFAULT_CONF: &str = "/etc/nginx/nginx.conf";
const DEFAULT_ERROR_LOG: &str = "/var/log/nginx/error.log";
const DEFAULT_PID: &str = "/run/ringway.pid";

const USAGE: &str = "\
Usage: ringway [-?hvVtTq] [-s signal] [-p prefix] [-e filename] [-c filename]
               [-g directives] [--lenient]
       ringway demo [--listen address]
       ringway http|tcp|udp --listen address --to address [--to address ...]
                    [--balance method] [--print]
       ringway directives

Options:
  -?, -h        : show this help
  -v            : show the version
  -V            : show the version and where files are looked for
  -t            : test the configuration
  -T            : test the configuration and print it
  -q            : while testing, tell errors only
  -s signal     : signal the running ringway: stop, quit, reopen, reload
  -p prefix     : directory that relative paths start from
                  (default: /usr/share/nginx; with a relative -c, the current one)
  -e filename   : error log until the configuration names one (default: error.log)
  -c filename   : configuration file (default: /etc/nginx/nginx.conf)
  -g directives : main-level directives besides those of the file
  --lenient     : skip directives of nginx that ringway does not have yet

Commands:
  demo          : a gateway with two application servers, to play with
  http          : balance HTTP between addresses, without a file
  tcp           : the same for TCP connections, whatever they carry
  udp           : the same for datagrams; for DNS, add --responses 1
  directives    : print the reference of all directives
";

/// Runs what the command line asks for. `spawn` starts a worker.
pub fn main(spawn: SpawnWorker) -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let is_command = arguments.first().is_some_and(|first| {
        ["demo", "http", "tcp", "udp", "directives", "help"]
            .iter()
            .any(|name| first == name)
    });
    if is_command {
        return command(spawn);
    }
    match Flags::parse(&arguments) {
        Ok(flags) => flags.run(spawn),
        Err(message) => {
            eprintln!("ringway: {message}");
            ExitCode::FAILURE
        }
    }
}

/// nginx's flags.
#[derive(Debug, Default, PartialEq, Eq)]
struct Flags {
    help: bool,
    version: bool,
    places: bool,
    test: bool,
    dump: bool,
    quiet: bool,
    lenient: bool,
    signal: Option<String>,
    prefix: Option<PathBuf>,
    conf: Option<PathBuf>,
    error_log: Option<PathBuf>,
    globals: Option<String>,
}

impl Flags {
    /// Parses as nginx does: letters may be joined, and a value may follow its letter directly.
    fn parse(arguments: &[OsString]) -> Result<Flags, String> {
        let mut flags = Flags::default();
        let mut rest = arguments.iter().map(|argument| argument.to_string_lossy());
        while let Some(argument) = rest.next() {
            match &*argument {
                "--lenient" => flags.lenient = true,
                "--help" => flags.help = true,
                "--version" => flags.version = true,
                _ => flags.parse_letters(&argument, &mut || rest.next().map(String::from))?,
            }
        }
        Ok(flags)
    }

    fn parse_letters(
        &mut self,
        argument: &str,
        next: &mut dyn FnMut() -> Option<String>,
    ) -> Result<(), String> {
        let Some(letters) = argument.strip_prefix('-') else {
            return Err(format!("invalid option: \"{argument}\""));
        };
        for (at, letter) in letters.char_indices() {
            let mut value = |what: &str| {
                let joined = &letters[at + letter.len_utf8()..];
                let found = if joined.is_empty() {
                    next()
                } else {
                    Some(joined.to_owned())
                };
                found
                    .filter(|value| !value.is_empty())
                    .ok_or_else(|| format!("option \"-{letter}\" requires {what}"))
            };
            match letter {
                '?' | 'h' => self.help = true,
                'v' => self.version = true,
                'V' => self.places = true,
                't' => self.test = true,
                'T' => (self.test, self.dump) = (true, true),
                'q' => self.quiet = true,
                'p' => self.prefix = Some(value("directory name")?.into()),
                'e' => self.error_log = Some(value("file name")?.into()),
                'c' => self.conf = Some(value("file name")?.into()),
                'g' => self.globals = Some(value("parameter")?),
                's' => {
                    let name = value("parameter")?;
                    if master::signal_by_name(&name).is_none() {
                        return Err(format!("invalid option: \"-s {name}\""));
                    }
                    self.signal = Some(name);
                }
                _ => return Err(format!("invalid option: \"{letter}\"")),
            }
            if matches!(letter, 'p' | 'e' | 'c' | 'g' | 's') {
                break;
            }
        }
        Ok(())
    }

    fn run(self, spawn: SpawnWorker) -> ExitCode {
        if self.help || self.version || self.places {
            self.tell_version();
            if !self.test {
                return ExitCode::SUCCESS;
            }
        }
        let (path, options) = self.places();
        open_log(&options.error_log);
        let start = Start {
            origin: Origin::File(path),
            options,
            attached: false,
            spawn,
        };
        match self.signal {
            _ if self.test => test(&start, self.dump, self.quiet),
            Some(name) => signal(&start, &name),
            None => master::run(start),
        }
    }

    /// The configuration file, and how to read it.
    fn places(&self) -> (PathBuf, LoadOptions) {
        let relative_conf = self.conf.as_ref().is_some_and(|conf| conf.is_relative());
        let prefix = match &self.prefix {
            Some(prefix) => prefix.clone(),
            None if relative_conf => std::env::current_dir().unwrap_or_else(|_| ".".into()),
            None => DEFAULT_PREFIX.into(),
        };
        let is_default = self.prefix.is_none() && !relative_conf;
        let under = |name: &str, default: &str| {
            if is_default {
                PathBuf::from(default)
            } else {
                prefix.join(name)
            }
        };
        let conf = match &self.conf {
            Some(conf) => prefix.join(conf),
            None => under("nginx.conf", DEFAULT_CONF),
        };
        let error_log = match &self.error_log {
            Some(path) if path == Path::new("stderr") => TargetSpec {
                destination: Destination::Stderr,
                level: Level::Error,
            },
            Some(path) => TargetSpec::default_file(&prefix.join(path)),
            None => TargetSpec::default_file(&under("error.log", DEFAULT_ERROR_LOG)),
        };
        let pid = under("ringway.pid", DEFAULT_PID);
        let (globals, lenient) = (self.globals.clone(), self.lenient);
        (
            conf,
            LoadOptions {
                prefix,
                globals,
                error_log,
                pid,
                lenient,
            },
        )
    }

    fn tell_version(&self) {
        eprintln!("ringway version: ringway/{}", env!("CARGO_PKG_VERSION"));
        if self.help {
            eprint!("{USAGE}");
        }
        if self.places {
            eprintln!("event method: io_uring");
            eprintln!(
                "configure arguments: --prefix={DEFAULT_PREFIX} --conf-path={DEFAULT_CONF} \
                 --error-log-path={DEFAULT_ERROR_LOG} --pid-path={DEFAULT_PID}"
            );
        }
    }
}

/// Opens the log for what happens before the configuration names one.
fn open_log(spec: &TargetSpec) {
    let early = TargetSpec {
        level: Level::Notice,
        ..spec.clone()
    };
    match ErrorLog::open(&[early]) {
        Ok(log) => set_process_log(log),
        Err(message) => eprintln!("ringway: [alert] could not open error log file: {message}"),
    }
    echo_to_stderr(true);
}

/// `-t` and `-T`.
fn test(start: &Start, dump: bool, quiet: bool) -> ExitCode {
    let Origin::File(path) = &start.origin else {
        return ExitCode::FAILURE;
    };
    let path = path.display();
    let failed = || {
        eprintln!("ringway: configuration file {path} test failed");
        ExitCode::FAILURE
    };
    let (gateway, report) = match start.load() {
        Ok(loaded) => loaded,
        Err(error) => {
            master::tell_load_error(&error);
            return failed();
        }
    };
    master::tell_warnings(&report);
    if !quiet {
        eprintln!("ringway: the configuration file {path} syntax is ok");
        for notice in &report.notices {
            eprintln!("ringway: {}", notice.render(&report.sources));
        }
    }
    if Listeners::check(&gateway.listens()).is_err() {
        return failed();
    }
    if !quiet {
        eprintln!("ringway: configuration file {path} test is successful");
    }
    if dump && config::dump(&report.sources, &mut io::stdout().lock()).is_err() {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// `-s`: the configuration says where the pid is.
fn signal(start: &Start, name: &str) -> ExitCode {
    log_process!(Level::Notice, "signal process started");
    let sent = match start.load() {
        Ok((gateway, _)) => master::read_pid(&gateway.process.pid),
        Err(error) => {
            master::tell_load_error(&error);
            return ExitCode::FAILURE;
        }
    };
    match (sent, master::signal_by_name(name)) {
        (Ok(pid), Some(number)) => {
            // SAFETY: kill takes plain integers.
            if unsafe { libc::kill(pid, number) } == 0 {
                return ExitCode::SUCCESS;
            }
            let shown = io::Error::last_os_error();
            log_process!(
                Level::Alert,
                "kill({pid}, {number}) failed {}",
                os_error(&shown)
            );
        }
        (Err(message), _) => log_process!(Level::Error, "{message}"),
        (Ok(_), None) => {}
    }
    ExitCode::FAILURE
}

#[derive(Debug, Parser)]
#[command(
    name = "ringway",
    about = "A reverse proxy and load balancer on io_uring"
)]
struct Command {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// A gateway with two application servers, to play with
    Demo(DemoArguments),
    /// Balance HTTP between addresses, without a file
    Http(quick::Arguments),
    /// Balance TCP connections between addresses, without a file
    Tcp(quick::Arguments),
    /// Balance datagrams between addresses, without a file
    Udp(UdpArguments),
    /// Print the reference of all directives, as Markdown
    Directives,
}

#[derive(Debug, Args)]
struct DemoArguments {
    /// Where the gateway listens
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: String,
}

#[derive(Debug, Args)]
struct UdpArguments {
    #[command(flatten)]
    quick: quick::Arguments,
    /// How many datagrams a server answers each with, after which the session ends (DNS: 1)
    #[arg(long)]
    responses: Option<u32>,
}

fn command(spawn: SpawnWorker) -> ExitCode {
    match Command::parse().action {
        Action::Demo(arguments) => demo::run(&arguments.listen, spawn),
        Action::Http(arguments) => quick::run(Kind::Http, &arguments, None, spawn),
        Action::Tcp(arguments) => quick::run(Kind::Tcp, &arguments, None, spawn),
        Action::Udp(UdpArguments { quick, responses }) => {
            quick::run(Kind::Udp, &quick, responses, spawn)
        }
        Action::Directives => {
            let text = config::markdown(&gateway::catalog());
            let written = io::stdout().lock().write_all(text.as_bytes());
            if written.is_ok() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Flags, String> {
        let words = line.split(' ').filter(|word| !word.is_empty());
        Flags::parse(&words.map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn letters_may_be_joined_with_each_other_and_with_values() {
        let apart = parse("-t -q -c n.conf -p /x -e e.log").unwrap();
        assert_eq!(parse("-tq -cn.conf -p/x -ee.log"), Ok(apart));
        let flags = parse("-tqc n.conf").unwrap();
        assert!(flags.test && flags.quiet && flags.conf == Some("n.conf".into()));
        let flags = parse("-T --lenient").unwrap();
        assert!(flags.test && flags.dump && flags.lenient);
        assert_eq!(parse("-sreload").unwrap().signal.as_deref(), Some("reload"));
        assert!(parse("-?").unwrap().help && parse("-h").unwrap().help);
    }

    #[test]
    fn mistakes_are_nginx_s() {
        for (line, message) in [
            ("-x", "invalid option: \"x\""),
            ("foo", "invalid option: \"foo\""),
            ("-s", "option \"-s\" requires parameter"),
            ("-s foo", "invalid option: \"-s foo\""),
            ("-c", "option \"-c\" requires file name"),
            ("-e", "option \"-e\" requires file name"),
            ("-p", "option \"-p\" requires directory name"),
            ("-g", "option \"-g\" requires parameter"),
        ] {
            assert_eq!(parse(line).unwrap_err(), message, "{line}");
        }
    }

    #[test]
    fn everything_relative_starts_from_the_prefix() {
        let (conf, options) = parse("-p /x -c n.conf -e logs/e.log").unwrap().places();
        assert_eq!(conf, Path::new("/x/n.conf"));
        assert_eq!(
            options.error_log,
            TargetSpec::default_file(Path::new("/x/logs/e.log"))
        );
        assert_eq!(options.pid, Path::new("/x/ringway.pid"));
        let (conf, options) = parse("").unwrap().places();
        assert_eq!(
            (&*conf, &*options.pid),
            (Path::new(DEFAULT_CONF), Path::new(DEFAULT_PID))
        );
        let (conf, options) = parse("-c n.conf -e stderr").unwrap().places();
        assert_eq!(conf, std::env::current_dir().unwrap().join("n.conf"));
        assert_eq!(options.error_log.destination, Destination::Stderr);
    }

    #[test]
    fn the_subcommands_are_well_formed() {
        use clap::CommandFactory;
        Command::command().debug_assert();
    }
}
