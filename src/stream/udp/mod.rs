//! UDP: what is a session where there are no connections.
//!
//! A session is what comes from one address to one address of ours, with what is answered. It lives
//! in the worker whose socket its first datagram came to; the kernel sends all from one address to
//! the same socket.
//!
//! - [`receiver`]: takes datagrams from a listening socket and finds their sessions.
//! - [`table`]: the sessions of one listening address.
//! - [`flow`]: a session as its datagrams see it, shared by receiver and task.
//! - [`queue`]: datagrams that wait.
//! - [`progress`]: when a session is over, by the count of its datagrams.
//! - [`serve`]: the task of a session, and its phases.
//! - [`relay`]: datagrams between client and upstream.

mod flow;
mod progress;
mod queue;
pub mod receiver;
mod relay;
mod serve;
pub mod table;
