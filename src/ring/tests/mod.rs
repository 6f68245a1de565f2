//! The engine against real sockets.

mod datagram;
mod engine;
mod listener;
mod socket;
mod splice;
mod stream;

use std::time::Duration;

use super::testing::*;
use super::*;
use crate::base::clock;

/// Small and quick, so that tests reach its limits.
fn conf() -> EngineConf {
    EngineConf {
        entries: 64,
        small: Buffers {
            size: 1024,
            count: 64,
        },
        large: Buffers {
            size: 8192,
            count: 4,
        },
        streams: Buffers {
            size: 1024,
            count: 64,
        },
        sweep: Duration::from_millis(5),
    }
}

fn run<T>(main: impl Future<Output = T>) -> T {
    start(&conf(), main).unwrap()
}
