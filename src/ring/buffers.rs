//! Receive buffers that the kernel picks from when data has come, not when the wait begins.
//!
//! A group is one buffer ring (`IORING_REGISTER_PBUF_RING`). It begins with few buffers in
//! circulation, since the kernel takes them in turn and a small set stays in the cache; each time
//! the kernel finds none (`ENOBUFS`) the set doubles, up to the size that was configured.

use std::cell::Cell;
use std::io;
use std::os::fd::RawFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU16, Ordering};

/// Size and number of one class of buffers.
#[derive(Clone, Copy, Debug)]
pub struct Buffers {
    /// Bytes of one buffer.
    pub size: u32,
    /// Most buffers of the class, a power of two of at most 32768. Memory is used as they come
    /// into circulation.
    pub count: u16,
}

/// Buffers in circulation at the start.
const LIVE_AT_START: u16 = 32;

/// One class of buffers, known to the kernel by the id of its group.
pub(super) struct Group {
    id: u16,
    conf: Buffers,
    entries: NonNull<Entry>,
    memory: NonNull<u8>,
    /// Our end of the ring; the kernel keeps its own.
    tail: Cell<u16>,
    /// Buffers with a lower id are in circulation.
    live: Cell<u16>,
    /// Monotonic ms at which buffers were last brought into circulation.
    grown_ms: Cell<u64>,
    /// Buffers that are with us.
    leased: Cell<u32>,
    /// How many chunks share each buffer.
    shares: Box<[Cell<u8>]>,
}

/// `struct io_uring_buf`. In the first entry of a ring, `tail` is the ring's tail.
#[repr(C)]
struct Entry {
    addr: Cell<u64>,
    len: Cell<u32>,
    bid: Cell<u16>,
    tail: AtomicU16,
}

/// `struct io_uring_buf_reg`.
#[repr(C)]
struct Registration {
    ring_addr: u64,
    ring_entries: u32,
    bgid: u16,
    flags: u16,
    reserved: [u64; 3],
}

const IORING_REGISTER_PBUF_RING: libc::c_uint = 22;

impl Group {
    /// Makes the buffers and gives the first of them to the ring `ring_fd`.
    pub(super) fn register(ring_fd: RawFd, id: u16, conf: Buffers) -> io::Result<Group> {
        if !conf.count.is_power_of_two() || conf.count > 1 << 15 || conf.size == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "buffer count or size",
            ));
        }
        let entries = map(ring_bytes(conf))?.cast::<Entry>();
        let memory = map(memory_bytes(conf))?;
        // Heads lie in a few lines of many buffers: with pages of 4 KiB each would cost a TLB
        // entry. Where huge pages cannot be had, nothing is lost.
        // SAFETY: advice about a mapping that was just made.
        unsafe {
            libc::madvise(
                memory.as_ptr().cast(),
                memory_bytes(conf),
                libc::MADV_HUGEPAGE,
            )
        };
        let group = Group {
            id,
            conf,
            entries,
            memory,
            tail: Cell::new(0),
            live: Cell::new(0),
            grown_ms: Cell::new(0),
            leased: Cell::new(0),
            shares: vec![Cell::new(0); usize::from(conf.count)].into_boxed_slice(),
        };
        let registration = Registration {
            ring_addr: entries.as_ptr() as u64,
            ring_entries: u32::from(conf.count),
            bgid: id,
            flags: 0,
            reserved: [0; 3],
        };
        register(
            ring_fd,
            IORING_REGISTER_PBUF_RING,
            (&raw const registration).cast(),
            1,
        )?;
        group.grow();
        Ok(group)
    }

    pub(super) fn id(&self) -> u16 {
        self.id
    }

    /// Bytes of one buffer.
    pub(super) fn size(&self) -> u32 {
        self.conf.size
    }

    /// Buffers that are with us, not with the kernel.
    pub(super) fn leased(&self) -> u32 {
        self.leased.get()
    }

    /// Buffers in circulation.
    pub(super) fn live(&self) -> u16 {
        self.live.get()
    }

    /// Brings more buffers into circulation, once per tick of the clock: a batch of receives that
    /// found none asks for more all at once. False if all are in circulation.
    pub(super) fn grow_for(&self, now_ms: u64) -> bool {
        if self.grown_ms.replace(now_ms) == now_ms {
            return self.live.get() < self.conf.count;
        }
        self.grow()
    }

    /// Brings more buffers into circulation; false if all are.
    pub(super) fn grow(&self) -> bool {
        let live = self.live.get();
        let more = live.max(LIVE_AT_START).min(self.conf.count - live);
        self.live.set(live + more);
        for id in live..live + more {
            self.give(id);
        }
        more > 0
    }

    /// The kernel has filled buffer `id`: it is ours until released. Returns where it is.
    pub(super) fn lease(&self, id: u16) -> NonNull<u8> {
        let shares = &self.shares[usize::from(id)];
        debug_assert_eq!(shares.get(), 0);
        shares.set(1);
        self.leased.set(self.leased.get() + 1);
        self.address(id)
    }

    /// One more chunk uses buffer `id`; false if too many do.
    pub(super) fn share(&self, id: u16) -> bool {
        let shares = &self.shares[usize::from(id)];
        let more = shares.get().checked_add(1);
        more.inspect(|more| shares.set(*more)).is_some()
    }

    /// One chunk less uses buffer `id`; the last gives it back to the kernel.
    pub(super) fn release(&self, id: u16) {
        let shares = &self.shares[usize::from(id)];
        let left = shares.get() - 1;
        shares.set(left);
        if left == 0 {
            self.leased.set(self.leased.get() - 1);
            self.give(id);
        }
    }

    /// Whether buffer `id` of this group begins at `at`.
    pub(super) fn is_at(&self, id: u16, at: NonNull<u8>) -> bool {
        id < self.conf.count && self.address(id) == at
    }

    fn address(&self, id: u16) -> NonNull<u8> {
        debug_assert!(id < self.conf.count);
        // SAFETY: the mapping has `count` strides.
        unsafe { self.memory.add(usize::from(id) * stride(self.conf.size)) }
    }

    fn give(&self, id: u16) {
        let tail = self.tail.get();
        let index = tail & (self.conf.count - 1);
        // SAFETY: the mapping has `count` entries (a power of two), zeroed at first; the kernel
        // only reads them, up to the tail.
        let (entry, first) = unsafe {
            (
                self.entries.add(usize::from(index)).as_ref(),
                self.entries.as_ref(),
            )
        };
        entry.addr.set(self.address(id).as_ptr() as u64);
        entry.len.set(self.conf.size);
        entry.bid.set(id);
        self.tail.set(tail.wrapping_add(1));
        first.tail.store(tail.wrapping_add(1), Ordering::Release);
    }
}

impl Drop for Group {
    /// Runs after the ring has ended. What is still leased stays readable, at the price of a leak.
    fn drop(&mut self) {
        // SAFETY: both were mapped with these sizes; the kernel's use ended with the ring, and no
        // chunk points into the buffers when none is leased.
        unsafe {
            libc::munmap(self.entries.as_ptr().cast(), ring_bytes(self.conf));
            if self.leased.get() == 0 {
                libc::munmap(self.memory.as_ptr().cast(), memory_bytes(self.conf));
            }
        }
    }
}

/// `io_uring_register(2)`.
pub(super) fn register(
    ring_fd: RawFd,
    opcode: libc::c_uint,
    argument: *const libc::c_void,
    count: libc::c_uint,
) -> io::Result<()> {
    // SAFETY: the caller's argument is what the opcode wants, with `count` elements.
    let result = unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            ring_fd,
            opcode,
            argument,
            count,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn ring_bytes(conf: Buffers) -> usize {
    usize::from(conf.count) * size_of::<Entry>()
}

fn memory_bytes(conf: Buffers) -> usize {
    usize::from(conf.count) * stride(conf.size)
}

/// From one buffer to the next: one cache line more than a multiple of 128, since buffers exactly
/// 4 KiB apart would all begin in the same set of the cache.
fn stride(size: u32) -> usize {
    (size as usize).next_multiple_of(128) + 64
}

/// Fresh zeroed memory, page aligned, not yet backed.
fn map(bytes: usize) -> io::Result<NonNull<u8>> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing of ours.
    let at = unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags, -1, 0) };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(at.cast()).ok_or_else(|| io::Error::other("mapped at address zero"))
}
