//! `ringway demo`: a gateway in front of two small application servers, to see it work before
//! writing a line of configuration.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::gateway::LoadOptions;
use crate::master::{self, Origin, SpawnWorker, Start};
use crate::observe::error_log::{TargetSpec, echo_to_stderr};

/// The largest request head an application server reads.
const HEAD_MAX: usize = 64 << 10;

/// How soon a server that is switched off closes its connections.
const NOTICE_OFF: Duration = Duration::from_millis(100);

/// Starts two application servers and a gateway on `listen` in front of them, and runs until told
/// to end.
pub fn run(listen: &str, spawn: SpawnWorker) -> ExitCode {
    match prepare(listen) {
        Ok(demo) => demo.run(spawn),
        Err(error) => {
            eprintln!("ringway: the demo cannot start: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Demo {
    directory: PathBuf,
    configuration: String,
    backends: [Arc<Backend>; 2],
    url: String,
}

fn prepare(listen: &str) -> io::Result<Demo> {
    let backends = [
        Backend::start("one", "#2a7de1")?,
        Backend::start("two", "#d9730d")?,
    ];
    let directory = std::env::temp_dir().join(format!("ringway-demo-{}", std::process::id()));
    fs::create_dir(&directory)?;
    let configuration = configuration(listen, &backends);
    fs::write(directory.join("nginx.conf"), &configuration)?;
    let host = if listen.contains(':') {
        listen.to_owned()
    } else {
        format!("127.0.0.1:{listen}")
    };
    Ok(Demo {
        directory,
        configuration,
        backends,
        url: format!("http://{host}/"),
    })
}

impl Demo {
    fn run(self, spawn: SpawnWorker) -> ExitCode {
        let path = self.directory.join("nginx.conf");
        let options = LoadOptions {
            prefix: self.directory.clone(),
            globals: None,
            error_log: TargetSpec::default_file(&self.directory.join("error.log")),
            pid: self.directory.join("ringway.pid"),
            lenient: false,
        };
        self.introduce(&path);
        // A start that fails takes its error.log with it.
        echo_to_stderr(true);
        let terminal = Terminal::read_keys();
        if terminal.is_some() {
            let backends = self.backends.clone();
            thread::spawn(move || obey_keys(&backends));
        }
        let origin = Origin::File(path);
        let code = master::run(Start {
            origin,
            options,
            attached: true,
            spawn,
        });
        drop(terminal);
        self.clean_up();
        code
    }

    fn introduce(&self, path: &Path) {
        let Demo {
            url,
            backends: [one, two],
            ..
        } = self;
        println!("\n  ringway demo: a gateway and two application servers\n");
        println!("    open           {url}");
        println!("    or             curl {url}name   (again and again: the servers take turns)");
        println!(
            "    servers        one on {}, two on {}",
            one.addr, two.addr
        );
        println!("    configuration  {}", path.display());
        println!("    logs           access.log and error.log beside it\n");
        if io::stdin().is_terminal() {
            println!("  keys: 1 or 2  switch that server off or on, and see the traffic move");
            println!("        r       reload, after you have edited the configuration");
            println!("        q       end (or Ctrl-C)\n");
        } else {
            let pid = std::process::id();
            println!("  reload it with: kill -HUP {pid}     end it with: kill {pid}\n");
        }
    }

    /// Removes the directory unless the configuration was edited: that is somebody's work.
    fn clean_up(&self) {
        let path = self.directory.join("nginx.conf");
        if fs::read_to_string(&path).is_ok_and(|text| text == self.configuration) {
            // What is left in a temporary directory does no harm.
            let _ = fs::remove_dir_all(&self.directory);
        } else {
            println!("  your configuration stays in {}", path.display());
        }
    }
}

fn configuration(listen: &str, backends: &[Arc<Backend>; 2]) -> String {
    format!(
        "# Written by `ringway demo`. Edit it and press r.
daemon off;
# One worker, so that the servers take turns exactly.
worker_processes 1;
error_log error.log info;

events {{
    worker_connections 1024;
}}

http {{
    access_log access.log;

    upstream application {{
        # least_conn;
        server {one} fail_timeout=2s;
        server {two} fail_timeout=2s;
    }}

    server {{
        listen {listen};

        location / {{
            proxy_pass http://application;
            proxy_set_header Host $http_host;
            proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_connect_timeout 1s;
        }}
    }}
}}
",
        one = backends[0].addr,
        two = backends[1].addr,
    )
}

/// Reads keys until standard input ends. The gateway is told by signals, as from outside.
fn obey_keys(backends: &[Arc<Backend>; 2]) {
    for key in io::stdin().lock().bytes().map_while(Result::ok) {
        match key {
            b'1' => backends[0].toggle(),
            b'2' => backends[1].toggle(),
            b'r' => {
                println!("  reloading; error.log tells if the file has a mistake");
                signal_self(libc::SIGHUP);
            }
            b'q' => return signal_self(libc::SIGQUIT),
            _ => {}
        }
    }
}

fn signal_self(signal: i32) {
    // SAFETY: takes plain integers; this process handles the signals it sends itself.
    unsafe { libc::kill(std::process::id() as i32, signal) };
}

/// One application server.
struct Backend {
    name: &'static str,
    color: &'static str,
    addr: SocketAddr,
    on: AtomicBool,
    requests: AtomicU64,
}

impl Backend {
    fn start(name: &'static str, color: &'static str) -> io::Result<Arc<Backend>> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let backend = Arc::new(Backend {
            name,
            color,
            addr: listener.local_addr()?,
            on: AtomicBool::new(true),
            requests: AtomicU64::new(0),
        });
        backend.clone().accept_from(listener);
        Ok(backend)
    }

    /// Switches off as a crash would, listener and connections at once, or on again.
    fn toggle(self: &Arc<Self>) {
        let Backend { name, requests, .. } = &**self;
        let count = requests.load(Ordering::Relaxed);
        if self.on.swap(false, Ordering::Relaxed) {
            // The accepting thread sees it at the next connection: this one.
            let _ = TcpStream::connect(self.addr);
            println!("  server {name} is off, after {count} requests");
            return;
        }
        match TcpListener::bind(self.addr) {
            Ok(listener) => {
                self.on.store(true, Ordering::Relaxed);
                self.clone().accept_from(listener);
                println!("  server {name} is on");
            }
            Err(error) => println!("  server {name} cannot start: {error}"),
        }
    }

    fn accept_from(self: Arc<Self>, listener: TcpListener) {
        thread::spawn(move || {
            for stream in listener.incoming() {
                if !self.on.load(Ordering::Relaxed) {
                    return;
                }
                if let Ok(stream) = stream {
                    let backend = self.clone();
                    // A client that goes away is no news.
                    thread::spawn(move || drop(backend.serve(stream)));
                }
            }
        });
    }

    /// Answers requests until the client or this server ends.
    fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(NOTICE_OFF))?;
        stream.set_nodelay(true)?;
        let mut input = Vec::new();
        while self.on.load(Ordering::Relaxed) {
            let Some(end) = input.windows(4).position(|four| four == b"\r\n\r\n") else {
                if input.len() > HEAD_MAX || !read_more(&mut stream, &mut input)? {
                    return Ok(());
                }
                continue;
            };
            let head: Vec<u8> = input.drain(..end + 4).collect();
            let head = String::from_utf8_lossy(&head);
            let lower = head.to_ascii_lowercase();
            // Bodies are not read, so nothing can follow them on this connection.
            let has_body =
                lower.contains("\r\ncontent-length:") || lower.contains("\r\ntransfer-encoding:");
            stream.write_all(self.answer(&head, has_body).as_bytes())?;
            if has_body {
                return Ok(());
            }
        }
        Ok(())
    }

    fn answer(&self, head: &str, close: bool) -> String {
        let count = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let request = head.lines().next().unwrap_or_default();
        let (kind, body) = match request.split(' ').nth(1) {
            Some("/name") => (
                "text/plain",
                format!("server {}, request {count}\n", self.name),
            ),
            _ => ("text/html; charset=utf-8", self.page(head, count)),
        };
        let connection = if close { "close" } else { "keep-alive" };
        let length = body.len();
        let body = if request.starts_with("HEAD ") {
            ""
        } else {
            &body
        };
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\
             Cache-Control: no-store\r\nConnection: {connection}\r\n\r\n{body}"
        )
    }

    fn page(&self, head: &str, count: u64) -> String {
        let Backend { name, color, .. } = self;
        let mut rows = String::new();
        for line in head.lines().skip(1) {
            if let Some((field, value)) = line.split_once(':') {
                let (field, value) = (escape(field), escape(value.trim()));
                let _ = writeln!(rows, "<tr><th>{field}<td>{value}");
            }
        }
        let request = escape(head.lines().next().unwrap_or_default());
        format!(
            "<!doctype html>
<meta charset=\"utf-8\">
<title>Server {name}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 8vh auto; max-width: 42rem; padding: 0 1rem }}
h1 {{ color: {color} }}
th {{ text-align: left; padding-right: 1.5rem; vertical-align: top }}
td {{ overflow-wrap: anywhere }}
</style>
<h1>Server {name}</h1>
<p>This is request <b>{count}</b> of this server. Reload the page: the servers take turns.</p>
<p><code>{request}</code></p>
<table>
{rows}</table>
"
        )
    }
}

/// False at the end of the connection. A pause is no end.
fn read_more(stream: &mut TcpStream, input: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    match stream.read(&mut buffer) {
        Ok(0) => Ok(false),
        Ok(count) => {
            input.extend_from_slice(&buffer[..count]);
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(error) => Err(error),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// A terminal that gives keys as they are pressed, until dropped.
struct Terminal {
    before: libc::termios,
}

impl Terminal {
    /// None when standard input is no terminal.
    fn read_keys() -> Option<Terminal> {
        let input = io::stdin().as_raw_fd();
        let mut before = std::mem::MaybeUninit::<libc::termios>::uninit();
        // SAFETY: the pointer is valid for the call.
        if unsafe { libc::tcgetattr(input, before.as_mut_ptr()) } != 0 {
            return None;
        }
        // SAFETY: tcgetattr succeeded, so it filled the structure.
        let before = unsafe { before.assume_init() };
        let mut keys = before;
        keys.c_lflag &= !(libc::ICANON | libc::ECHO);
        set_terminal(&keys);
        Some(Terminal { before })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        set_terminal(&self.before);
    }
}

fn set_terminal(settings: &libc::termios) {
    // SAFETY: the reference is valid for the call.
    unsafe { libc::tcsetattr(io::stdin().as_raw_fd(), libc::TCSANOW, settings) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(addr: SocketAddr, path: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect(addr)?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: <x>\r\nContent-Length: 0\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    #[test]
    fn a_server_counts_shows_headers_and_can_be_switched() {
        let backend = Backend::start("one", "red").unwrap();
        let page = get(backend.addr, "/").unwrap();
        assert!(
            page.starts_with("HTTP/1.1 200 OK\r\n") && page.contains("Server one"),
            "{page}"
        );
        assert!(page.contains("<tr><th>Host<td>&lt;x&gt;"), "{page}");
        assert!(
            get(backend.addr, "/name")
                .unwrap()
                .ends_with("\r\n\r\nserver one, request 2\n")
        );
        backend.toggle();
        let off = (0..100).any(|_| {
            thread::sleep(Duration::from_millis(5));
            TcpStream::connect(backend.addr).is_err()
        });
        assert!(off);
        backend.toggle();
        assert!(get(backend.addr, "/name").unwrap().ends_with("request 3\n"));
    }

    #[test]
    fn the_configuration_parses() {
        let backends = [
            Backend::start("one", "").unwrap(),
            Backend::start("two", "").unwrap(),
        ];
        let text = configuration("127.0.0.1:8080", &backends);
        let (nodes, _) = crate::config::parse_text(Path::new("demo"), text.as_bytes());
        assert!(crate::config::failure(&nodes).is_none());
    }
}
