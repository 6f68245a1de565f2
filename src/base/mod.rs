//! Facts of time, text and bytes that everything else may use.

pub mod capability;
pub mod client_hello;
pub mod clock;
pub mod hash;
pub mod listen;
pub mod memory;
pub mod network;
pub mod places;
pub mod proxy_protocol;
pub mod regex;
pub mod remote;
