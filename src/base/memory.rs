//! Giving memory back to the system. The allocator is the binary's choice; the workers only say
//! when it is worthwhile.

use std::sync::OnceLock;

static COLLECT: OnceLock<fn()> = OnceLock::new();

/// Sets what [`collect`] does, once per process.
pub fn on_collect(collect: fn()) {
    // Whoever comes second means the same allocator.
    let _ = COLLECT.set(collect);
}

/// Returns the calling thread's free memory to the system. An allocator that does so by itself does
/// it while it works, which an idle worker's never does. Takes about a millisecond.
pub fn collect() {
    if let Some(collect) = COLLECT.get() {
        collect();
    }
}
