//! The relay between real sockets.

mod endings;
mod switches;

use std::net::Shutdown;
use std::rc::Rc;
use std::time::Duration;

use super::*;
use crate::ring::testing::*;
use crate::ring::{self, Buffers, Class, EngineConf, Expect, JoinHandle, spawn, start, usage};

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

async fn is_reset(socket: &Socket) {
    let error = socket.recv(Expect::Now, Class::Small).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}
