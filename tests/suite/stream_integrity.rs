//! Two hundred sessions at a time with random bytes both ways, while servers die and the
//! configuration reloads: what arrives is what was sent, and a session that loses its server ends
//! in a way that its client notices.
//!
//! Both ends make the bytes of a session from its number. The server's last word, an
//! acknowledgement, comes after all of the client's bytes: a client that has it lost nothing.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::ports::{self, Port};
use crate::common::*;

const CLIENTS: usize = 200;
/// Sessions that begin at least.
const SESSIONS: usize = 600;
const SERVERS: usize = 3;
/// The number of the session, and how many bytes go up and down.
const HEAD: usize = 24;
const ACKNOWLEDGED: &[u8] = b"all here";

/// The bytes of one direction of one session, in order.
struct Bytes {
    rng: Rng,
    left: usize,
}

impl Bytes {
    fn up(session: u64, length: u64) -> Bytes {
        Bytes {
            rng: Rng(session << 1),
            left: length as usize,
        }
    }

    fn down(session: u64, length: u64) -> Bytes {
        Bytes {
            rng: Rng(session << 1 | 1 << 63),
            left: length as usize,
        }
    }

    /// The next words of eight bytes, or what is left.
    fn next(&mut self, words: usize) -> Vec<u8> {
        let length = self.left.min(words * 8);
        self.left -= length;
        self.rng.bytes(length)
    }

    /// Sends all, in pieces of many sizes. Long ones go out as fast as they are taken; in the
    /// others quiet moments make the relay change between its ways of moving bytes.
    fn send(mut self, mut stream: &TcpStream) -> io::Result<()> {
        let mut rng = Rng(self.rng.0 ^ self.left as u64);
        let is_bulk = self.left > BULK;
        while self.left > 0 {
            let words = 1 + rng.below(if is_bulk { 8192 } else { 1024 });
            stream.write_all(&self.next(words))?;
            if !is_bulk && rng.below(3) == 0 {
                // The quiet moment.
                std::thread::sleep(Duration::from_millis(rng.below(20) as u64));
            }
        }
        Ok(())
    }

    /// Reads all, comparing.
    ///
    /// # Panics
    /// At the first byte that is not what was sent.
    fn receive(mut self, mut stream: &TcpStream, who: &str) -> io::Result<()> {
        let mut buffer = vec![0; 65_536];
        while self.left > 0 {
            let left = self.left;
            let expected = self.next(8192);
            let buffer = &mut buffer[..expected.len()];
            let mut filled = 0;
            while filled < buffer.len() {
                match stream.read(&mut buffer[filled..])? {
                    0 => return Err(ErrorKind::UnexpectedEof.into()),
                    n => {
                        let is_same = buffer[filled..filled + n] == expected[filled..filled + n];
                        assert!(is_same, "{who}: altered with {} to come", left - filled);
                        filled += n;
                    }
                }
            }
        }
        Ok(())
    }
}

/// From so many bytes on a direction does not pause.
const BULK: usize = 300_000;

/// The end, with nothing before it.
fn receive_end(mut stream: &TcpStream, who: &str) -> io::Result<()> {
    match stream.read(&mut [0])? {
        0 => Ok(()),
        _ => panic!("{who}: bytes that nobody sent"),
    }
}

fn limit(stream: &TcpStream) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
}

/// A server that can die as a process does: its port refuses and its connections end, by a FIN or
/// by a reset.
struct Mortal {
    port: Port,
    shared: Arc<Shared>,
    acceptor: Option<std::thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    is_dying: AtomicBool,
    open: Mutex<BTreeMap<u64, Arc<TcpStream>>>,
    /// Sessions cut by a death.
    cut: Mutex<Vec<u64>>,
    /// Sessions acknowledged.
    whole: Mutex<Vec<u64>>,
    /// Connections that ended before their session was named.
    nameless: AtomicUsize,
}

impl Mortal {
    fn start() -> Mortal {
        let mut mortal = Mortal {
            port: ports::reserve(),
            shared: Arc::default(),
            acceptor: None,
        };
        mortal.revive();
        mortal
    }

    fn revive(&mut self) {
        self.shared.is_dying.store(false, Ordering::SeqCst);
        let listener = TcpListener::bind(("127.0.0.1", self.port.number)).unwrap();
        let shared = self.shared.clone();
        self.acceptor = Some(std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if shared.is_dying.load(Ordering::SeqCst) {
                    return;
                }
                let shared = shared.clone();
                std::thread::spawn(move || shared.serve(&Arc::new(stream)));
            }
        }));
    }

    fn die(&mut self) {
        self.shared.is_dying.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port.number));
        self.acceptor.take().unwrap().join().unwrap();
        for (session, stream) in std::mem::take(&mut *self.shared.open.lock().unwrap()) {
            self.shared.cut.lock().unwrap().push(session);
            match session % 2 {
                0 => reset(&stream),
                _ => drop(stream.shutdown(Shutdown::Both)),
            }
        }
    }
}

impl Drop for Mortal {
    fn drop(&mut self) {
        if self.acceptor.is_some() {
            self.die();
        }
    }
}

/// Sends a reset now, whoever else holds the socket.
fn reset(stream: &TcpStream) {
    let unspecified = [0u8; 16];
    let fd = stream.as_raw_fd();
    // SAFETY: AF_UNSPEC is 0; the address is read only for the call, and its length is true.
    unsafe { libc::connect(fd, unspecified.as_ptr().cast(), 16) };
}

impl Shared {
    fn serve(&self, stream: &Arc<TcpStream>) {
        limit(stream);
        let mut head = [0; HEAD];
        if (&mut &**stream).read_exact(&mut head).is_err() {
            self.nameless.fetch_add(1, Ordering::SeqCst);
            return;
        }
        let [session, up, down] =
            [0, 8, 16].map(|at| u64::from_le_bytes(head[at..at + 8].try_into().unwrap()));
        {
            let mut open = self.open.lock().unwrap();
            if self.is_dying.load(Ordering::SeqCst) {
                self.cut.lock().unwrap().push(session);
                return;
            }
            open.insert(session, stream.clone());
        }
        let writer = stream.clone();
        let writer = std::thread::spawn(move || Bytes::down(session, down).send(&writer));
        let who = format!("the server of {session}");
        let received = Bytes::up(session, up).receive(stream, &who);
        let sent = writer.join().unwrap();
        if self.open.lock().unwrap().remove(&session).is_none() {
            return;
        }
        if received.is_err() || sent.is_err() {
            eprintln!("{who}: {received:?} {sent:?}");
            return;
        }
        self.whole.lock().unwrap().push(session);
        let _ = (&mut &**stream).write_all(ACKNOWLEDGED);
        let _ = stream.shutdown(Shutdown::Write);
        let _ = receive_end(stream, &who);
    }
}

/// What became of a session: the ports of the proxy and its client, and how it ended there.
type Ended = (u64, [u16; 2], io::Result<()>);

/// One session of a client. With `half_close` its end goes ahead of the server's bytes.
fn run_session(port: u16, session: u64, half_close: bool) -> Ended {
    let mut rng = Rng(session);
    let lengths: [u64; 2] = std::array::from_fn(|_| match rng.below(10) {
        0 => rng.below(2_000_000) as u64,
        1 => 0,
        _ => rng.below(60_000) as u64,
    });
    let stream = Arc::new(TcpStream::connect(("127.0.0.1", port)).unwrap());
    limit(&stream);
    let own_port = stream.local_addr().unwrap().port();
    let writer = stream.clone();
    let writer = std::thread::spawn(move || -> io::Result<()> {
        let mut out = &*writer;
        for number in [session, lengths[0], lengths[1]] {
            out.write_all(&number.to_le_bytes())?;
        }
        Bytes::up(session, lengths[0]).send(out)?;
        match half_close {
            true => out.shutdown(Shutdown::Write),
            false => Ok(()),
        }
    });
    let read = || -> io::Result<()> {
        let who = format!("the client of {session}");
        Bytes::down(session, lengths[1]).receive(&stream, &who)?;
        let mut last = [0; ACKNOWLEDGED.len()];
        (&mut &*stream).read_exact(&mut last)?;
        assert_eq!(last, ACKNOWLEDGED, "{who}");
        receive_end(&stream, &who)
    };
    let ended = read();
    if ended.is_err() {
        let _ = stream.shutdown(Shutdown::Both);
    }
    let written = writer.join().unwrap();
    if ended.is_ok() {
        assert!(written.is_ok(), "session {session}: {written:?}");
    }
    (session, [port, own_port], ended)
}

/// The sessions of all clients, while `disturb` is called again and again.
fn run_clients(s: &Server, mut disturb: impl FnMut(usize)) -> Vec<Ended> {
    let (next, done, may_end) = (
        AtomicUsize::new(0),
        AtomicUsize::new(0),
        AtomicBool::new(false),
    );
    let ended = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while !may_end.load(Ordering::SeqCst) {
                    let session = next.fetch_add(1, Ordering::SeqCst);
                    let half_close = session % 3 == 0;
                    let port = s.port(usize::from(half_close));
                    let one = run_session(port, session as u64, half_close);
                    ended.lock().unwrap().push(one);
                    done.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for round in 1.. {
            let goal = round * CLIENTS / 2;
            let going_on = holds_within(PATIENCE, || done.load(Ordering::SeqCst) >= goal);
            if !going_on || goal > SESSIONS - CLIENTS {
                may_end.store(true, Ordering::SeqCst);
                break;
            }
            disturb(round);
        }
    });
    ended.into_inner().unwrap()
}

fn conf(method: &str) -> String {
    let servers: String = (0..SERVERS)
        .map(|n| format!("server 127.0.0.1:%%S{n}%% max_fails=0; "))
        .collect();
    format!(
        "%%MODULES%%
         worker_processes 2;
         events {{ worker_connections 4096; }}
         stream {{
             log_format t '$server_port $remote_port $upstream_bytes_received';
             access_log %%DIR%%/access.log t;
             upstream u {{ {method} {servers} }}
             server {{ listen 127.0.0.1:%%P0%%; proxy_pass u; proxy_half_close off; }}
             proxy_half_close on;
             server {{ listen 127.0.0.1:%%P1%%; proxy_pass unix:%%DIR%%/hop; proxy_protocol on; }}
             server {{ listen unix:%%DIR%%/hop proxy_protocol; proxy_pass u; access_log off; }}
         }}"
    )
}

#[test]
fn nothing_is_lost_or_altered_while_servers_die_and_the_configuration_reloads() {
    let mut servers: Vec<Mortal> = (0..SERVERS).map(|_| Mortal::start()).collect();
    let mut setup = Setup::full(&conf(""));
    for (n, server) in servers.iter().enumerate() {
        setup = setup.value(&format!("S{n}"), server.port.number);
    }
    let s = setup.start();
    let ended = run_clients(&s, |round| {
        let server = &mut servers[round % SERVERS];
        server.die();
        s.write_conf(&conf(["least_conn;", "random;", ""][round % 3]));
        s.signal(libc::SIGHUP);
        server.revive();
    });
    let all = |list: fn(&Shared) -> &Mutex<Vec<u64>>| -> Vec<u64> {
        let lists = servers
            .iter()
            .map(|server| list(&server.shared).lock().unwrap().clone());
        lists.flatten().collect()
    };
    let (cut, whole) = (all(|shared| &shared.cut), all(|shared| &shared.whole));
    assert!(
        ended.len() >= SESSIONS - CLIENTS,
        "{} sessions",
        ended.len()
    );
    assert!(!cut.is_empty(), "no session saw its server die");
    for server in &servers {
        assert_eq!(server.shared.nameless.load(Ordering::SeqCst), 0);
    }
    wait_for("the log lines", || {
        s.read("access.log").matches('\n').count() >= ended.len()
    });
    let log = s.read("access.log");
    let mut refused = 0;
    for (session, [port, own_port], end) in &ended {
        let Err(error) = end else {
            assert!(
                whole.contains(session),
                "session {session} was not acknowledged"
            );
            continue;
        };
        let is_noticed = matches!(
            error.kind(),
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
        );
        assert!(is_noticed, "session {session}: {error}");
        if !cut.contains(session) {
            // It waited in the queue of a server that died before it took the connection.
            let start = format!("{port} {own_port} ");
            let lines: Vec<_> = log
                .lines()
                .filter(|line| line.starts_with(&start))
                .collect();
            let is_silent = lines.iter().any(|line| line.ends_with(" 0"));
            let told = whole.contains(session);
            assert!(is_silent, "session {session}: {error} {lines:?} {told}");
            refused += 1;
        }
    }
    let lost = ended.iter().filter(|(_, _, end)| end.is_err()).count();
    eprintln!(
        "{} sessions, {} cut, {lost} lost, {refused} unheard",
        ended.len(),
        cut.len()
    );
    assert!(refused * 3 < ended.len(), "{refused} of {}", ended.len());
}
