//! ringway, an L4/L7 reverse proxy on io_uring. The layers are listed in `docs/architecture.md`.

pub mod base;
pub mod cli;
pub mod config;
pub mod demo;
pub mod gateway;
pub mod http;
pub mod limits;
pub mod master;
pub mod observe;
pub mod quick;
pub mod relay;
pub mod ring;
pub mod ssl;
pub mod stream;
pub mod tls;
pub mod upstream;
pub mod vars;
pub mod worker;
