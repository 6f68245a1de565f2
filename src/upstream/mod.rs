//! What both `http` and `stream` proxy to: groups of peers, the choice among them, their health,
//! their idle connections and the names behind them. Knows neither `http` nor `stream`.
//!
//! - [`pool`]: a [`Group`] is one `upstream {}` (or one implicit address); its peers are one
//!   arc-swapped snapshot.
//! - [`peer`]: addresses, parameters and the live counters that survive a reload by identity.
//! - [`balance`]: one pure file per method.
//! - [`times`]: how long a peer takes, for `least_time`.
//! - [`keepalive`]: idle connections of one worker.
//! - [`bind`], [`connect`]: our end of a connection, and what is said of one that failed.
//! - [`directives`]: the language of `upstream {}`.
//! - [`groups`]: all groups of a block.
//! - [`ocsp`]: asking whether certificates were revoked.
//! - [`address`], [`resolve`], [`watch`]: names, looked up while loading and at run time.

pub mod address;
mod background;
pub mod balance;
pub mod bind;
pub mod connect;
pub mod directives;
pub mod groups;
pub mod implicit;
pub mod keepalive;
pub mod ocsp;
pub mod peer;
pub mod pool;
pub mod resolve;
pub mod resolver;
pub mod times;
pub mod watch;

pub use address::Target;
pub use balance::least_time::LeastTime;
pub use bind::{Bind, RawBind};
pub use connect::ConnectFailure;
pub use directives::{Kind, Upstream, UpstreamRaw};
pub use groups::{Groups, NamedGroup};
pub use implicit::DynamicGroups;
pub use keepalive::{Idle, IdlePool, Keepalive, Kept};
pub use peer::{Peer, PeerAddr, PeerConf, PeerState, Registry, ServerParams};
pub use pool::{
    Attempt, Group, Inputs, LocalState, Locals, Method, Outcome, Peers, Pick, ServerSpec,
};
pub use resolve::{ResolveError, Resolver, ResolverConf};
pub use times::Moment;
pub use watch::Watched;

#[cfg(test)]
mod tests;
