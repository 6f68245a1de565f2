//! The binary under test, started on a configuration in a temporary prefix and stopped when
//! dropped.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::backend::Backend;
use super::client::{Conn, Response};
use super::ports::{self, Port};
use super::{PATIENCE, binary, holds_within, is_nginx, read, wait_for};

static NUMBER: AtomicUsize = AtomicUsize::new(0);

/// Start on the content of an `http` block.
///
/// `%%P0%%`, `%%P1%%` … are free ports to listen on, `%%B0%%`, `%%B1%%` … the ports of `backends`,
/// `%%DIR%%` the prefix.
#[track_caller]
pub fn http(conf: &str, backends: &[&Backend]) -> Server {
    Setup::http(conf).backends(backends).start()
}

/// Start on the content of a `stream` block; see [`http`] for what is replaced in it.
#[track_caller]
pub fn stream(conf: &str, backends: &[&Backend]) -> Server {
    Setup::stream(conf).backends(backends).start()
}

/// Start on a whole configuration.
#[track_caller]
pub fn full(conf: &str, backends: &[&Backend]) -> Server {
    Setup::full(conf).backends(backends).start()
}

/// What to start.
pub struct Setup {
    prefix: PathBuf,
    conf: String,
    values: BTreeMap<String, String>,
    ports: Vec<Port>,
    globals: String,
    args: Vec<String>,
    daemon: bool,
}

impl Setup {
    /// The content of an `http` block.
    pub fn http(conf: &str) -> Setup {
        Self::full(&format!("events {{}}\nhttp {{\n%%HTTP%%\n{conf}\n}}\n"))
    }

    /// The content of a `stream` block.
    pub fn stream(conf: &str) -> Setup {
        Self::full(&format!(
            "%%MODULES%%\nevents {{}}\nstream {{\n{conf}\n}}\n"
        ))
    }

    /// A whole configuration; `%%HTTP%%` in its http block keeps temporary files and the access log
    /// inside the prefix. `%%MODULES%%` loads what an nginx has in modules (`stream`).
    pub fn full(conf: &str) -> Setup {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("ringway-test-{}-{number}", std::process::id());
        let prefix = std::env::temp_dir().join(name);
        fs::create_dir_all(&prefix).unwrap();
        // Workers that gave up root connect to sockets in here.
        fs::set_permissions(&prefix, fs::Permissions::from_mode(0o755)).unwrap();
        let mut setup = Setup {
            prefix,
            conf: conf.to_owned(),
            values: BTreeMap::new(),
            ports: Vec::new(),
            globals: "daemon off; pid nginx.pid; error_log error.log info;".into(),
            args: Vec::new(),
            daemon: false,
        };
        let dir = setup.prefix.display().to_string();
        let mut in_http = format!("access_log {dir}/access.log;");
        if is_nginx() {
            for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
                in_http += &format!(" {kind}_temp_path {dir}/{kind}_temp;");
            }
        }
        let modules = match is_nginx() {
            true => "load_module /usr/lib/nginx/modules/ngx_stream_module.so;",
            false => "",
        };
        setup.values.insert("MODULES".into(), modules.into());
        setup.values.insert("HTTP".into(), in_http);
        setup.values.insert("DIR".into(), dir);
        setup
    }

    /// `%%B0%%` … are the ports of these.
    pub fn backends(mut self, backends: &[&Backend]) -> Setup {
        for (index, backend) in backends.iter().enumerate() {
            self.values
                .insert(format!("B{index}"), backend.port.to_string());
        }
        self
    }

    /// `%%NAME%%` is `value`.
    pub fn value(mut self, name: &str, value: impl ToString) -> Setup {
        self.values.insert(name.into(), value.to_string());
        self
    }

    /// Write a file into the prefix.
    pub fn file(self, name: &str, content: impl AsRef<[u8]>) -> Setup {
        let path = self.prefix.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    /// A path in the prefix.
    pub fn path(&self, name: &str) -> PathBuf {
        self.prefix.join(name)
    }

    /// Reserve the port behind `%%P<index>%%` now, for a file that must contain it.
    pub fn reserve(&mut self, index: usize) -> u16 {
        let port = ports::reserve();
        let number = port.number;
        self.values.insert(format!("P{index}"), number.to_string());
        self.ports.push(port);
        number
    }

    /// The directives given by `-g`, which are otherwise `daemon off`, `pid` and `error_log …
    /// info`.
    pub fn globals(mut self, globals: &str) -> Setup {
        self.globals = globals.into();
        self
    }

    /// Let it become a daemon. (nginx takes no USR2 while its first parent lives.)
    pub fn daemon(mut self) -> Setup {
        self.globals = self.globals.replace("daemon off;", "");
        self.daemon = true;
        self
    }

    /// Further command line arguments.
    pub fn args(mut self, args: &[&str]) -> Setup {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// Start and wait until it serves.
    #[track_caller]
    pub fn start(self) -> Server {
        let mut server = self.prepare();
        server.spawn();
        if let Err(message) = server.wait_until_ready() {
            panic!("no start: {message}\n{}", server.error_log());
        }
        server
    }

    /// Run to its end, as for `-t` or a start that must fail. The prefix goes with the returned
    /// server.
    #[track_caller]
    pub fn run(self) -> (Output, Server) {
        let mut server = self.prepare();
        let child = server
            .command()
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        server.child = Some(child.expect("spawn"));
        let ended = server.wait_exit(PATIENCE);
        assert!(ended.is_some(), "it runs on: {}", server.error_log());
        let output = server.child.take().unwrap().wait_with_output().unwrap();
        server.clean = false;
        (output, server)
    }

    /// Write the files and start nothing: [`Server::run`] does.
    pub fn run_nothing(self) -> Server {
        self.prepare()
    }

    fn prepare(mut self) -> Server {
        for index in 0..64 {
            let key = format!("P{index}");
            if self.conf.contains(&format!("%%{key}%%")) && !self.values.contains_key(&key) {
                let port = ports::reserve();
                self.values.insert(key, port.number.to_string());
                self.ports.push(port);
            }
        }
        let server = Server {
            prefix: self.prefix,
            values: self.values,
            globals: self.globals,
            args: self.args,
            child: None,
            daemon: self.daemon,
            clean: true,
            _ports: self.ports,
        };
        server.write_conf(&self.conf);
        server
    }
}

/// A running proxy.
pub struct Server {
    /// Its `-p`: nginx.conf, error.log and access.log are in here.
    pub prefix: PathBuf,
    values: BTreeMap<String, String>,
    globals: String,
    args: Vec<String>,
    child: Option<Child>,
    daemon: bool,
    clean: bool,
    _ports: Vec<Port>,
}

impl Server {
    /// The number behind `%%P<index>%%`.
    #[track_caller]
    pub fn port(&self, index: usize) -> u16 {
        self.values[&format!("P{index}")].parse().unwrap()
    }

    /// Connect to `%%P0%%`.
    #[track_caller]
    pub fn connect(&self) -> Conn {
        Conn::to(self.port(0))
    }

    /// GET `path` with `Host: localhost` on a connection of its own.
    #[track_caller]
    pub fn get(&self, path: &str) -> Response {
        self.get_with(path, "")
    }

    /// GET with further header lines, each ending with CRLF; a Host among them replaces
    /// `localhost`.
    #[track_caller]
    pub fn get_with(&self, path: &str, headers: &str) -> Response {
        let named = headers.to_ascii_lowercase();
        let host = if named.starts_with("host:") || named.contains("\r\nhost:") {
            ""
        } else {
            "Host: localhost\r\n"
        };
        self.request(format!(
            "GET {path} HTTP/1.1\r\n{host}Connection: close\r\n{headers}\r\n"
        ))
    }

    /// Send these bytes to `%%P0%%` and read one answer.
    #[track_caller]
    pub fn request(&self, bytes: impl AsRef<[u8]>) -> Response {
        self.connect().send(bytes).response()
    }

    /// Send these bytes to `%%P0%%` and read until the connection ends.
    #[track_caller]
    pub fn exchange(&self, bytes: impl AsRef<[u8]>) -> String {
        let rest = self.connect().send(bytes).rest();
        String::from_utf8_lossy(&rest).into_owned()
    }

    /// Replace nginx.conf, with the same substitutions.
    pub fn write_conf(&self, conf: &str) {
        // At once: a reload under way may be reading it.
        let next = self.prefix.join("nginx.conf.next");
        fs::write(&next, self.fill(conf)).unwrap();
        fs::rename(next, self.prefix.join("nginx.conf")).unwrap();
    }

    /// Replace the content of the `http` block.
    pub fn write_http(&self, conf: &str) {
        self.write_conf(&format!("events {{}}\nhttp {{\n%%HTTP%%\n{conf}\n}}\n"));
    }

    /// Replace the content of the `stream` block.
    pub fn write_stream(&self, conf: &str) {
        self.write_conf(&format!(
            "%%MODULES%%\nevents {{}}\nstream {{\n{conf}\n}}\n"
        ));
    }

    /// `text` with its `%%NAME%%`s replaced.
    pub fn fill(&self, text: &str) -> String {
        let mut out = text.to_owned();
        for key in ["HTTP"]
            .into_iter()
            .chain(self.values.keys().map(String::as_str))
        {
            out = out.replace(&format!("%%{key}%%"), &self.values[key]);
        }
        assert!(!out.contains("%%"), "unknown %%NAME%% in {out}");
        out
    }

    /// A path in the prefix.
    pub fn path(&self, name: &str) -> PathBuf {
        self.prefix.join(name)
    }

    /// A file of the prefix, empty if it does not exist.
    pub fn read(&self, name: &str) -> String {
        read(self.prefix.join(name))
    }

    /// The error log so far.
    pub fn error_log(&self) -> String {
        self.read("error.log")
    }

    /// Wait until a file of the prefix contains `text`.
    #[track_caller]
    pub fn wait_for_text(&self, file: &str, text: &str) {
        if !holds_within(PATIENCE, || self.read(file).contains(text)) {
            panic!("{file} has no {text:?}:\n{}", self.read(file));
        }
    }

    /// Wait until a file has `count` whole lines and return them.
    #[track_caller]
    pub fn lines(&self, file: &str, count: usize) -> Vec<String> {
        wait_for(&format!("{count} lines in {file}"), || {
            self.read(file).matches('\n').count() >= count
        });
        self.read(file).lines().map(str::to_owned).collect()
    }

    /// The process id of the master.
    pub fn pid(&self) -> u32 {
        self.read("nginx.pid").trim().parse().expect("a pid file")
    }

    /// Send a signal to the process that was started.
    #[track_caller]
    pub fn signal(&self, signal: i32) {
        if self.daemon {
            return send_signal(self.pid(), signal);
        }
        send_signal(self.child.as_ref().expect("it runs").id(), signal);
    }

    /// Reload and wait until the old generation has gone.
    #[track_caller]
    pub fn reload(&self) {
        let before = self.reloads();
        self.signal(libc::SIGHUP);
        wait_for("the end of a reload", || self.reloads() > before);
    }

    /// Finished reloads, by their line in the error log.
    pub fn reloads(&self) -> usize {
        self.error_log().matches("exited with code 0").count()
    }

    /// TERM, and the exit status.
    #[track_caller]
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(libc::SIGTERM);
        self.wait_exit(PATIENCE).expect("no end after TERM")
    }

    /// Wait for the end of the process.
    pub fn wait_exit(&mut self, limit: Duration) -> Option<ExitStatus> {
        let child = self.child.as_mut()?;
        let deadline = Instant::now() + limit;
        loop {
            match child.try_wait().unwrap() {
                Some(status) => return Some(status),
                None if Instant::now() > deadline => return None,
                // waitpid cannot wait for a limited time: poll.
                None => std::thread::sleep(Duration::from_millis(3)),
            }
        }
    }

    /// Start (again) in the same prefix; does not wait.
    pub fn spawn(&mut self) {
        let stderr = fs::File::create(self.prefix.join("stderr.log")).unwrap();
        let child = self.command().stdout(Stdio::null()).stderr(stderr).spawn();
        self.child = Some(child.unwrap_or_else(|e| panic!("{}: {e}", binary().display())));
    }

    /// Wait for the pid file, which appears once every socket listens.
    pub fn wait_until_ready(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            // A daemon is ready once the process that was started has gone, too.
            let settled = !self.daemon || ended.is_some();
            if settled && !self.read("nginx.pid").trim().is_empty() {
                return Ok(());
            }
            if let Some(status) = ended.filter(|status| !self.daemon || !status.success()) {
                return Err(format!("{status}: {}", self.read("stderr.log")));
            }
            if Instant::now() > deadline {
                return Err("no pid file".into());
            }
            // The pid file tells nobody that it is there: poll.
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Run the binary on this prefix with further arguments, as `-s reload` would be.
    pub fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(binary());
        command.arg("-p").arg(prefix_arg(&self.prefix)).args([
            "-c",
            "nginx.conf",
            "-e",
            "error.log",
        ]);
        command.args(args).output().expect("run")
    }

    /// Do not insist on an error log without alerts when dropped.
    pub fn expect_alerts(&mut self) {
        self.clean = false;
    }

    /// Assert that the error log has no alert, no crit and no panic.
    #[track_caller]
    pub fn assert_clean(&self) {
        let log = self.error_log() + &self.read("stderr.log");
        let bad = |line: &&str| {
            ["[alert]", "[crit]", "[emerg]", "panicked"]
                .iter()
                .any(|mark| line.contains(mark))
        };
        let lines: Vec<_> = log.lines().filter(bad).collect();
        assert!(lines.is_empty(), "not clean: {lines:#?}");
    }

    fn command(&self) -> Command {
        let mut command = Command::new(binary());
        command.arg("-p").arg(prefix_arg(&self.prefix)).args([
            "-c",
            "nginx.conf",
            "-e",
            "error.log",
        ]);
        if !self.globals.is_empty() {
            command.arg("-g").arg(&self.globals);
        }
        command.args(&self.args).stdin(Stdio::null());
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut failure = None;
        if self.daemon
            && let Ok(pid) = self.read("nginx.pid").trim().parse()
        {
            send_signal(pid, libc::SIGTERM);
            if !holds_within(PATIENCE, || !lives(pid)) {
                failure = Some("no end of the daemon after TERM");
            }
        }
        if let Some(mut child) = self.child.take()
            && child.try_wait().unwrap().is_none()
        {
            send_signal(child.id(), libc::SIGTERM);
            if !holds_within(PATIENCE, || child.try_wait().unwrap().is_some()) {
                let _ = child.kill();
                let _ = child.wait();
                failure = Some("no end after TERM");
            }
        }
        if std::thread::panicking() {
            let log = self.error_log();
            let telling: Vec<_> = log
                .lines()
                .filter(|line| !line.contains("[notice]"))
                .collect();
            eprintln!(
                "kept {}; its error.log: {telling:#?}",
                self.prefix.display()
            );
            return;
        }
        if self.clean {
            self.assert_clean();
        }
        assert!(failure.is_none(), "{failure:?}");
        let _ = fs::remove_dir_all(&self.prefix);
    }
}

/// Whether a process exists and is no zombie.
pub fn lives(pid: u32) -> bool {
    let stat = read(format!("/proc/{pid}/stat"));
    stat.rsplit(')')
        .next()
        .is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

/// Send a signal to a process of ours.
pub fn send_signal(pid: u32, signal: i32) {
    // SAFETY: kill(2) takes no pointers.
    unsafe { libc::kill(pid as libc::pid_t, signal) };
}

fn prefix_arg(prefix: &Path) -> String {
    format!("{}/", prefix.display())
}
