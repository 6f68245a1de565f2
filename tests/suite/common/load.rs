//! A load of small requests on keepalive connections that counts what goes wrong.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Clients that ask until told to stop.
pub struct Load {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicUsize>,
    failures: Arc<Mutex<Vec<String>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// `clients` connections asking for `path`. Anything but a whole 200 is a failure; a connection
    /// that the proxy closes between two answers is opened again, as HTTP permits.
    pub fn start(port: u16, path: &str, clients: usize) -> Load {
        Self::start_with(port, path, "Host: localhost\r\n", clients)
    }

    /// The same with other header lines, each ending with CRLF.
    pub fn start_with(port: u16, path: &str, headers: &str, clients: usize) -> Load {
        let load = Load {
            stop: Arc::default(),
            answers: Arc::default(),
            failures: Arc::default(),
            threads: Vec::new(),
        };
        let request = format!("GET {path} HTTP/1.1\r\n{headers}\r\n");
        let threads = (0..clients).map(|_| {
            let (stop, answers) = (load.stop.clone(), load.answers.clone());
            let (failures, request) = (load.failures.clone(), request.clone());
            std::thread::spawn(move || {
                let mut stream = None;
                while !stop.load(Ordering::Relaxed) {
                    match ask(port, &mut stream, &request) {
                        Ok(()) => {
                            answers.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(e) => {
                            failures.lock().unwrap().push(e);
                            stream = None;
                            // Not a busy loop while nobody listens.
                            std::thread::sleep(Duration::from_millis(10));
                        }
                    }
                }
            })
        });
        let threads = threads.collect();
        Load { threads, ..load }
    }

    /// Whole answers so far.
    pub fn answers(&self) -> usize {
        self.answers.load(Ordering::Relaxed)
    }

    /// Wait until `count` more answers have come.
    #[track_caller]
    pub fn wait_for_more(&self, count: usize) {
        let before = self.answers();
        super::wait_for("answers under load", || self.answers() >= before + count);
    }

    /// Stop and assert that not one request failed.
    #[track_caller]
    pub fn assert_none_failed(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let failures = self.failures.lock().unwrap();
        let total = self.answers.load(Ordering::Relaxed);
        assert!(
            failures.is_empty(),
            "{} of {total} failed: {failures:?}",
            failures.len()
        );
    }
}

/// One request. A kept connection which ends before a byte of the answer is replaced once.
fn ask(port: u16, stream: &mut Option<TcpStream>, request: &str) -> Result<(), String> {
    if let Some(kept) = stream.as_mut() {
        match exchange(kept, request) {
            Ok(Exchange::Whole { keep: true }) => return Ok(()),
            Ok(Exchange::Whole { keep: false }) => {
                *stream = None;
                return Ok(());
            }
            Ok(Exchange::ClosedBefore) => {}
            Err(e) => return Err(e),
        }
    }
    let addr = SocketAddr::from(([127, 0, 0, 1], port));
    let mut fresh =
        TcpStream::connect_timeout(&addr, super::PATIENCE).map_err(|e| e.to_string())?;
    fresh.set_read_timeout(Some(super::PATIENCE)).unwrap();
    fresh.set_nodelay(true).unwrap();
    match exchange(&mut fresh, request)? {
        Exchange::Whole { keep } => {
            *stream = keep.then_some(fresh);
            Ok(())
        }
        Exchange::ClosedBefore => Err("a new connection was closed without an answer".into()),
    }
}

enum Exchange {
    Whole { keep: bool },
    ClosedBefore,
}

fn exchange(stream: &mut TcpStream, request: &str) -> Result<Exchange, String> {
    if stream.write_all(request.as_bytes()).is_err() {
        return Ok(Exchange::ClosedBefore);
    }
    let mut got = Vec::new();
    let mut chunk = [0u8; 16_384];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) if got.is_empty() => return Ok(Exchange::ClosedBefore),
            Err(e) if got.is_empty() && e.kind() == std::io::ErrorKind::ConnectionReset => {
                return Ok(Exchange::ClosedBefore);
            }
            Ok(0) => return Err(format!("cut: {}", String::from_utf8_lossy(&got))),
            Err(e) => return Err(format!("{e} after {} bytes", got.len())),
            Ok(n) => got.extend_from_slice(&chunk[..n]),
        }
        let Some(end) = super::client::find(&got, b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8_lossy(&got[..end]).to_ascii_lowercase();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok())
            .ok_or_else(|| format!("no length in {head}"))?;
        if got.len() >= end + 4 + length {
            if !head.starts_with("http/1.1 200 ") {
                return Err(head.lines().next().unwrap_or_default().to_owned());
            }
            return Ok(Exchange::Whole {
                keep: !head.contains("connection: close"),
            });
        }
    }
}
