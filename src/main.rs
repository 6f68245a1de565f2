//! The `ringway` binary.

use std::process::ExitCode;

/// Workers allocate when connections come and go; mimalloc does that without locks.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

// SAFETY: this is the function as mimalloc.h declares it, and it has no preconditions.
unsafe extern "C" {
    /// mimalloc's: frees what the calling thread keeps for later, `force` all of it at once.
    safe fn mi_collect(force: bool);
}

fn main() -> ExitCode {
    ringway::base::memory::on_collect(|| mi_collect(true));
    ringway::cli::main(ringway::worker::spawn)
}
