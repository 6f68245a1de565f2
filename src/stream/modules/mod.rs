//! One file for each of nginx's stream modules: its rows, its compiled settings, its phase.

pub mod core;
pub mod log;
pub mod map;
pub mod resolver;
pub mod upstream;
