//! The `ringway` binary.

use std::process::ExitCode;

/// Workers allocate when connections come and go; mimalloc does that without locks.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ringway::cli::main(ringway::worker::spawn)
}
