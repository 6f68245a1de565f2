//! The relay between real sockets.

mod endings;
mod switches;

use std::net::{Ipv4Addr, Shutdown, TcpListener};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use super::*;
use crate::ring::{
    self, Addr, Buffers, Class, ConnectOpts, EngineConf, Expect, JoinHandle, Listener, connect,
    spawn, start, usage,
};

const CONF: Conf = Conf {
    idle_ms: 10_000,
    half_close: true,
    upload_rate: 0,
    download_rate: 0,
};

/// Small buffers, so that little makes a direction bulky.
fn run<T>(main: impl Future<Output = T>) -> T {
    let conf = EngineConf {
        entries: 64,
        small: Buffers {
            size: 1024,
            count: 64,
        },
        large: Buffers {
            size: 32 << 10,
            count: 16,
        },
        streams: Buffers {
            size: 1024,
            count: 64,
        },
        sweep: Duration::from_millis(5),
    };
    start(&conf, main).unwrap()
}

/// Two ends of a TCP connection.
async fn tcp_pair() -> (Socket, Socket) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = Addr::Inet(listener.local_addr().unwrap());
    let mut listener = Listener::from_fd(OwnedFd::from(listener)).unwrap();
    let client = connect(&addr, &ConnectOpts::default()).await.unwrap();
    let (server, _) = listener.next().await.unwrap();
    (client, server)
}

/// What a relay under way shares with its test.
#[derive(Default)]
struct Shared {
    flows: Flows,
    stop: Stop,
}

/// A relay that runs, and both peers of it.
struct Rig {
    client: Socket,
    upstream: Socket,
    shared: Rc<Shared>,
    task: JoinHandle<Outcome>,
}

impl Rig {
    async fn new(conf: Conf) -> Rig {
        Rig::gauged(conf, <[Gauge; 2]>::default()).await
    }

    async fn gauged(conf: Conf, gauges: [Gauge; 2]) -> Rig {
        let (client, ours) = tcp_pair().await;
        let (theirs, upstream) = tcp_pair().await;
        let shared = Rc::new(Shared::default());
        let task = spawn({
            let shared = shared.clone();
            async move {
                let ends = [End::new(&ours), End::new(&theirs)];
                let [client, upstream] = ends;
                let Shared { flows, stop } = &*shared;
                relay_gauged(client, upstream, &conf, flows, stop, gauges).await
            }
        });
        Rig {
            client,
            upstream,
            shared,
            task,
        }
    }

    /// Both figures of both directions: up, then down.
    fn counts(&self) -> [u64; 4] {
        let Flows { up, down } = &self.shared.flows;
        [&up.received, &up.sent, &down.received, &down.sent].map(Cell::get)
    }
}

async fn say(socket: &Socket, bytes: &[u8]) {
    socket.send(bytes.to_vec()).await.0.unwrap();
}

/// Receives as many bytes as are expected, and these.
async fn hears(socket: &Socket, bytes: &[u8]) {
    let mut got = Vec::new();
    while got.len() < bytes.len() {
        let chunk = socket.recv(Expect::Now, Class::Small).await.unwrap();
        assert!(!chunk.is_empty(), "an end after {}", got.escape_ascii());
        got.extend_from_slice(&chunk);
    }
    assert_eq!(
        got.escape_ascii().to_string(),
        bytes.escape_ascii().to_string()
    );
}

async fn ends(socket: &Socket) {
    let chunk = socket.recv(Expect::Now, Class::Small).await.unwrap();
    assert!(chunk.is_empty(), "instead of the end: {chunk:?}");
}

async fn is_reset(socket: &Socket) {
    let error = socket.recv(Expect::Now, Class::Small).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

async fn receive_all(socket: &Socket) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let chunk = socket.recv(Expect::Now, Class::Large).await.unwrap();
        if chunk.is_empty() {
            return all;
        }
        all.extend_from_slice(&chunk);
    }
}

/// Bytes of which no part looks like another.
fn noise(seed: u64, count: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..count).map(|_| random.u8(..)).collect()
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let end = clock::now_ms() + 5000;
    while !condition() {
        assert!(clock::now_ms() < end, "{what}: {:?}", usage());
        ring::sleep(Duration::from_millis(1)).await;
    }
}
