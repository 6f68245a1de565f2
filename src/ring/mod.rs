//! The engine: every I/O operation that the rest of the program awaits.
//!
//! A worker is one thread with one io_uring, driven by tokio-uring; [`start`] makes both. What is
//! here belongs to the thread that made it and stays there. This is the only module that names
//! tokio-uring or io_uring, so that another engine can take its place.
//!
//! - An operation is submitted when it is called for, not when it is first polled: a send and the
//!   receive of its answer go to the kernel together, and the first may be awaited after the
//!   second. The kernel gets all that a turn of the loop has queued in one system call.
//! - A receive that waits holds no buffer ([`Socket::recv`]).
//! - A socket that proves to exchange small messages is received from by one operation that goes
//!   on ([`Class::Stream`]), on a second ring.
//! - Nothing is cancelled but such a stream. A deadline ([`Socket::set_deadline`]) or the
//!   socket's drop shuts the socket down, which completes what is pending.

mod addr;
mod buffers;
mod chunk;
mod connect;
mod datagram;
mod engine;
mod file;
mod listener;
mod op;
mod pipe;
mod poll;
mod probe;
mod recv;
mod send;
mod slots;
mod socket;
mod spare;
mod splice;
mod stream;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tests;

pub use addr::Addr;
pub use buffers::Buffers;
pub use chunk::Chunk;
pub use connect::{ConnectOpts, bind_error, connect};
pub use datagram::{BATCH, Batch, DatagramSocket, Datagrams, Replies, Route};
pub use engine::{
    EngineConf, Usage, blocking, on_sweep, sleep, spawn, start, usage, wake_at_sweep, yield_now,
};
pub use file::{File, FileKind, Metadata, stat};
pub use listener::Listener;
pub use pipe::Pipe;
pub use poll::Readiness;
pub use probe::{Unavailable, probe};
pub use recv::{Class, Expect, Recv};
pub use send::{Payload, Send};
pub use socket::Socket;
pub use spare::spare_buffer;
pub use splice::{Side, SpliceError, SpliceLimits, Spliced, Stalled, splice_body, splice_file};
pub use tokio::task::JoinHandle;
