//! The proxies that are compared: how they start and how they end.

mod conf;

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::process::ProcessTree;
use crate::scenario::Conf;
use crate::{Outcome, sys, tls};
use conf::Place;

const START_TIMEOUT: Duration = Duration::from_secs(10);
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// Ports for proxies, below the range from which the kernel takes the ports of clients.
const PORTS: std::ops::Range<u16> = 18_000..32_000;

/// Whose configuration language and command line a proxy has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Family {
    /// This project.
    Ringway,
    /// nginx 1.x.
    Nginx,
    /// HAProxy 2.2 or later.
    Haproxy,
}

impl Family {
    /// The word `--proxies` uses.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ringway => "ringway",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
        }
    }
}

/// One program to be measured: a column of the report.
#[derive(Clone, Debug)]
pub struct Program {
    /// What it is.
    pub family: Family,
    /// Its executable.
    pub path: PathBuf,
    /// Name and version, for the report.
    pub label: String,
    /// Whether ringway's targets speak of it; the others are for orientation.
    pub counts: bool,
    /// HAProxy with `option splice-auto`, for streams only.
    pub splice: bool,
    /// nginx: what `-g` has to say for `stream` to be there.
    stream_module: Option<String>,
}

impl Program {
    /// Asks the executable for its version.
    ///
    /// # Errors
    /// A message for the user when it cannot be run.
    pub fn find(family: Family, path: &Path, counts: bool) -> Result<Self, String> {
        let flag = if family == Family::Nginx { "-V" } else { "-v" };
        let output = Command::new(path)
            .arg(flag)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("{} cannot be run: {error}", path.display()))?;
        let text = [output.stderr, output.stdout].concat();
        let text = String::from_utf8_lossy(&text);
        let version = parse_version(&text);
        let name = if family == Family::Haproxy {
            "HAProxy"
        } else {
            family.word()
        };
        let label = version.map_or_else(|| name.to_owned(), |version| format!("{name} {version}"));
        Ok(Self {
            path: path.to_owned(),
            counts,
            stream_module: stream_module(&text),
            ..Self::named(family, &label)
        })
    }

    /// A column without a program behind it.
    pub fn named(family: Family, label: &str) -> Self {
        Self {
            family,
            path: PathBuf::new(),
            label: label.to_owned(),
            counts: true,
            splice: false,
            stream_module: None,
        }
    }

    /// The same HAProxy, told to splice.
    #[must_use]
    pub fn with_splice(mut self) -> Self {
        self.label += " splice-auto";
        self.splice = true;
        self
    }

    /// Whether it has a column in scenarios with this configuration.
    pub fn runs(&self, conf: Conf) -> bool {
        !self.splice || conf == Conf::Stream
    }

    /// Starts it on a free port with one worker bound to `core`, and waits until `answers` says
    /// that it does. `directory` is made and holds its files.
    ///
    /// # Errors
    /// A message for the user, with what the proxy itself said.
    pub fn start(
        &self,
        conf: Conf,
        backends: &[SocketAddr],
        directory: &Path,
        core: usize,
        answers: impl Fn(SocketAddr) -> io::Result<bool>,
    ) -> Outcome<Proxy> {
        fs::create_dir_all(directory)?;
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        if conf.is_tls() {
            fs::write(directory.join(conf::CERTIFICATE), tls::certificate()?)?;
        }
        let place = Place {
            address,
            backends,
            directory,
        };
        let mut command = Command::new(&self.path);
        if self.family == Family::Haproxy {
            let file = directory.join("haproxy.cfg");
            fs::write(&file, conf::haproxy_cfg(conf, self.splice, &place))?;
            command.arg("-db").arg("-f").arg(file);
        } else {
            let file = directory.join("nginx.conf");
            fs::write(&file, conf::nginx_conf(conf, &place))?;
            if conf == Conf::Reference {
                let proxy_conf = conf::reference_proxy_conf(&place);
                fs::write(directory.join("proxy.conf"), proxy_conf)?;
            }
            command.arg("-p").arg(directory).arg("-c").arg(file);
            if let (Conf::Stream, Some(module)) = (conf, &self.stream_module) {
                command.arg("-g").arg(module);
            }
        }
        let log = File::create(directory.join("output.log"))?;
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        // SAFETY: between fork and exec only two system calls are made, no memory is allocated.
        unsafe {
            command.pre_exec(move || {
                sys::die_with_parent(libc::SIGTERM)?;
                sys::pin(core)
            });
        }
        let child = command.spawn()?;
        let mut proxy = Proxy {
            child,
            address,
            directory: directory.to_owned(),
        };
        proxy.wait_until_ready(answers)?;
        Ok(proxy)
    }
}

/// A running proxy; ends when dropped.
#[derive(Debug)]
pub struct Proxy {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    directory: PathBuf,
}

impl Proxy {
    /// Its processes as they are now.
    ///
    /// # Errors
    /// It has ended.
    pub fn tree(&self) -> io::Result<ProcessTree> {
        ProcessTree::of(self.child.id())
    }

    /// What it wrote to its logs, the last lines only.
    pub fn last_words(&self) -> String {
        let mut text = String::new();
        for name in ["output.log", "error.log"] {
            text += &fs::read_to_string(self.directory.join(name)).unwrap_or_default();
        }
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }

    fn wait_until_ready(
        &mut self,
        answers: impl Fn(SocketAddr) -> io::Result<bool>,
    ) -> Outcome<()> {
        let end = Instant::now() + START_TIMEOUT;
        loop {
            sys::interrupted()?;
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("ended at once ({status}):\n{}", self.last_words()).into());
            }
            match answers(self.address) {
                Ok(true) => return Ok(()),
                _ if Instant::now() < end => std::thread::sleep(Duration::from_millis(20)),
                _ => return Err(format!("does not answer:\n{}", self.last_words()).into()),
            }
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let pids = self
            .tree()
            .map(|tree| tree.pids().to_vec())
            .unwrap_or_default();
        // The process is our unreaped child, so the pid cannot have become someone else's.
        let _ = sys::kill(self.child.id(), libc::SIGTERM);
        let end = Instant::now() + STOP_TIMEOUT;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > end {
                pids.iter()
                    .for_each(|&pid| drop(sys::kill(pid, libc::SIGKILL)));
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The backend process; ends when dropped.
#[derive(Debug)]
pub struct BackendProcess {
    child: Child,
    /// Where it listens.
    pub addresses: Vec<SocketAddr>,
}

impl BackendProcess {
    /// Starts this program's `backend` with `count` listeners on free ports. It inherits the
    /// cores of the caller.
    ///
    /// # Errors
    /// It could not be started or did not say where it listens.
    pub fn start(count: usize) -> Outcome<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("backend")
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        for _ in 0..count {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        // SAFETY: between fork and exec only one system call is made, no memory is allocated.
        unsafe { command.pre_exec(|| sys::die_with_parent(libc::SIGKILL)) };
        let mut child = command.spawn()?;
        let stdout = child.stdout.take();
        let mut backend = Self {
            child,
            addresses: Vec::new(),
        };
        let lines = BufReader::new(stdout.ok_or("the backend has no output")?).lines();
        for line in lines.take(count) {
            let line = line?;
            let address = line.strip_prefix("listening on ").unwrap_or(&line);
            backend.addresses.push(address.parse()?);
        }
        match backend.addresses.len() == count {
            true => Ok(backend),
            false => Err("the backend did not start".into()),
        }
    }
}

impl BackendProcess {
    /// CPU time it has used.
    ///
    /// # Errors
    /// It has ended.
    pub fn cpu_time(&self) -> io::Result<Duration> {
        Ok(Duration::from_nanos(sys::process_cpu_nanos(
            self.child.id(),
        )?))
    }
}

impl Drop for BackendProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a request to the proxy comes back with status 200.
///
/// # Errors
/// It does not accept, or ends the connection without an answer.
pub fn answers(address: SocketAddr) -> io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(b"GET /100 HTTP/1.1\r\nHost: ready\r\nConnection: close\r\n\r\n")?;
    let mut first = [0; 12];
    stream.read_exact(&mut first)?;
    stream.read_to_end(&mut Vec::new())?;
    Ok(first.ends_with(b" 200"))
}

fn free_port() -> io::Result<u16> {
    let span = u32::from(PORTS.end - PORTS.start);
    let offset = std::process::id() * 7 % span;
    let mut candidates = (0..span).map(|i| PORTS.start + ((offset + i) % span) as u16);
    candidates
        .find(|&port| TcpListener::bind(("127.0.0.1", port)).is_ok())
        .ok_or_else(|| io::Error::other("no free port"))
}

/// The first thing in `text` that looks like a version.
fn parse_version(text: &str) -> Option<String> {
    let line = text.lines().find(|line| line.contains("ersion"))?;
    line.split([' ', '/', '-'])
        .find(|word| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit()))
        .map(str::to_owned)
}

/// Debian's nginx has `stream` in a module of its own; others have it built in or not at all.
fn stream_module(configured: &str) -> Option<String> {
    let mut words = configured.split_whitespace();
    let directory = words.find_map(|word| word.strip_prefix("--modules-path="))?;
    configured
        .contains("--with-stream=dynamic")
        .then(|| format!("load_module {directory}/ngx_stream_module.so;"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let version = |text| parse_version(text).unwrap_or_default();
        assert_eq!(version("nginx version: nginx/1.22.1\n"), "1.22.1");
        assert_eq!(
            version("HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://x/\n"),
            "2.6.12"
        );
        assert_eq!(version("ringway version: ringway/0.1.0"), "0.1.0");
        assert_eq!(version("usage"), "");
    }

    #[test]
    fn the_module_for_streams() {
        let debian = "--prefix=/usr/share/nginx --modules-path=/usr/lib/nginx/modules \
                      --with-stream=dynamic --with-stream_ssl_module";
        let loaded = "load_module /usr/lib/nginx/modules/ngx_stream_module.so;";
        assert_eq!(stream_module(debian).as_deref(), Some(loaded));
        assert_eq!(stream_module("--modules-path=/x --with-stream"), None);
        assert_eq!(stream_module("--with-stream"), None);
    }

    #[test]
    fn a_free_port_is_free_and_not_a_clients() {
        let port = free_port().unwrap();
        assert!(PORTS.contains(&port));
        assert!(TcpListener::bind(("127.0.0.1", port)).is_ok());
    }
}
