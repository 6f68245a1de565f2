//! One thread per core: its ring, its listening sockets, its connections.

pub mod control;
