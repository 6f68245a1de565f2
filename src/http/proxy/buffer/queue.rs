//! What goes where: the arithmetic of a response that waits, without any of its bytes.

/// How much of a response may wait. Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `proxy_buffers` and `proxy_buffer_size`: in memory. What one read brings may be above it.
    pub memory: usize,
    /// `proxy_busy_buffers_size`: in one send to a client that is slow.
    pub busy: usize,
    /// `proxy_max_temp_file_size`: in the file; 0: no file.
    pub file: u64,
    /// `proxy_temp_file_write_size`: in one write to the file.
    pub write: usize,
}

impl Limits {
    /// `proxy_buffering off`: a read begins when the client has taken the one before.
    pub const UNBUFFERED: Limits = Limits {
        memory: 0,
        busy: usize::MAX,
        file: 0,
        write: usize::MAX,
    };
}

/// What to send next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// There is nothing, or a send is under way.
    Nothing,
    /// So many bytes from the beginning of those in memory.
    Memory(usize),
    /// So many bytes of the file.
    File {
        /// Where they begin.
        offset: u64,
        /// How many.
        length: usize,
    },
}

/// Where the bytes are that the client has not got. Knows their number alone; those in memory
/// (`pending`) are counted by who has them.
#[derive(Debug)]
pub struct Queue {
    limits: Limits,
    in_flight: usize,
    /// Bytes in the file.
    written: u64,
    /// Bytes of the file that have gone on.
    read: u64,
    /// The client did not take one read before the next came.
    slow: bool,
}

impl Queue {
    /// Nothing waits yet.
    pub fn new(limits: Limits) -> Queue {
        Queue {
            limits,
            in_flight: 0,
            written: 0,
            read: 0,
            slow: false,
        }
    }

    /// Whether there may be a file.
    pub fn has_file(&self) -> bool {
        self.limits.file > 0
    }

    /// The client was found to be slow by other means.
    pub fn set_slow(&mut self) {
        self.slow = true;
    }

    /// Whether a send is under way.
    pub fn is_sending(&self) -> bool {
        self.in_flight > 0
    }

    /// Bytes in one write to the file.
    pub fn write_max(&self) -> usize {
        self.limits.write
    }

    /// Whether the upstream may be read, since there is room for what comes.
    pub fn may_read(&self, pending: usize) -> bool {
        let held = self.in_flight + pending;
        held == 0 || held < self.limits.memory || (pending == 0 && self.room() > 0)
    }

    /// How many of the pending bytes, from their beginning, are to go into the file now.
    pub fn spill(&self, pending: usize) -> usize {
        let full = self.in_flight + pending >= self.limits.memory;
        if full || (self.unread() > 0 && pending >= self.limits.write) {
            pending.min(usize::try_from(self.room()).unwrap_or(usize::MAX))
        } else {
            0
        }
    }

    /// What to send next.
    pub fn next(&self, pending: usize) -> Next {
        let most = if self.slow {
            self.limits.busy
        } else {
            usize::MAX
        };
        match self.unread() {
            _ if self.in_flight > 0 => Next::Nothing,
            0 if pending == 0 => Next::Nothing,
            0 => Next::Memory(pending.min(most)),
            unread => Next::File {
                offset: self.read,
                length: self
                    .limits
                    .busy
                    .min(usize::try_from(unread).unwrap_or(usize::MAX)),
            },
        }
    }

    /// Bytes were added to those in memory.
    pub fn pushed(&mut self) {
        self.slow |= self.in_flight > 0;
    }

    /// A send of `n` bytes has begun.
    pub fn started(&mut self, n: usize) {
        debug_assert_eq!(self.in_flight, 0);
        self.in_flight = n;
    }

    /// The send is done.
    pub fn sent(&mut self, pending: usize) {
        self.slow &= pending > 0 || self.unread() > 0;
        self.in_flight = 0;
    }

    /// `n` bytes were added to the file.
    pub fn stored(&mut self, n: usize) {
        self.written += n as u64;
        debug_assert!(self.written <= self.limits.file);
    }

    /// `n` bytes were taken from the file. Once all were, it is used from its beginning.
    pub fn loaded(&mut self, n: usize) {
        self.read += n as u64;
        debug_assert!(self.read <= self.written);
        if self.read == self.written {
            (self.read, self.written) = (0, 0);
        }
    }

    /// Bytes in the file that the client has not got.
    pub fn unread(&self) -> u64 {
        self.written - self.read
    }

    /// Where the next bytes go in the file.
    pub fn end(&self) -> u64 {
        self.written
    }

    /// Bytes that still go into the file.
    fn room(&self) -> u64 {
        self.limits.file - self.written
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    const LIMITS: Limits = Limits {
        memory: 100,
        busy: 30,
        file: 500,
        write: 40,
    };

    #[test]
    fn a_client_that_keeps_up_needs_nothing() {
        let mut queue = Queue::new(LIMITS);
        for n in [1, 1000, 50] {
            assert!(queue.may_read(0));
            queue.pushed();
            assert_eq!(queue.next(n), Next::Memory(n), "all at once");
            queue.started(n);
            assert_eq!(queue.spill(0), 0);
            queue.sent(0);
        }
        assert_eq!(queue.next(0), Next::Nothing);
    }

    #[test]
    fn without_buffering_nothing_is_read_ahead() {
        let mut queue = Queue::new(Limits::UNBUFFERED);
        assert!(queue.may_read(0));
        assert!(!queue.may_read(1));
        queue.started(10);
        assert!(!queue.may_read(0));
        queue.sent(0);
        assert!(queue.may_read(0));
    }

    #[test]
    fn memory_first_then_the_file_then_waiting() {
        let mut queue = Queue::new(LIMITS);
        queue.started(60);
        queue.pushed();
        assert_eq!((queue.spill(39), queue.may_read(39)), (0, true));
        assert_eq!(queue.spill(40), 40);
        queue.stored(40);
        assert!(queue.may_read(0));
        queue.stored(450);
        assert_eq!(queue.spill(100), 10);
        queue.stored(10);
        assert_eq!((queue.spill(90), queue.may_read(90)), (0, false));
        assert!(queue.may_read(30), "memory is free still");
        queue.sent(90);
        let file = Next::File {
            offset: 0,
            length: 30,
        };
        assert_eq!(queue.next(90), file);
    }

    #[test]
    fn random_clients_get_every_byte_once_and_in_order() {
        for seed in 0..300 {
            simulate(seed);
        }
    }

    /// A body of numbered bytes through a queue whose parts are kept as lists.
    fn simulate(seed: u64) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let limits = Limits {
            memory: rng.usize(0..200),
            busy: rng.usize(1..100),
            file: [0, rng.u64(1..1000)][rng.usize(0..2)],
            write: rng.usize(1..100),
        };
        let read_max = 50;
        let mut queue = Queue::new(limits);
        let (mut memory, mut flight): (Vec<u32>, Vec<u32>) = Default::default();
        let mut file: VecDeque<u32> = VecDeque::new();
        let (mut made, mut taken) = (0_u32, 0_u32);
        let total = 20_000;
        while taken < total {
            if made < total && rng.bool() && queue.may_read(memory.len()) {
                let n = rng.u32(1..=read_max).min(total - made);
                memory.extend(made..made + n);
                made += n;
                queue.pushed();
            }
            match queue.next(memory.len()) {
                Next::Nothing => {}
                Next::Memory(n) => {
                    assert!(file.is_empty());
                    flight = memory.drain(..n).collect();
                    queue.started(n);
                }
                Next::File { length, .. } => {
                    flight = file.drain(..length).collect();
                    queue.loaded(length);
                    queue.started(length);
                }
            }
            let n = queue.spill(memory.len());
            file.extend(memory.drain(..n));
            queue.stored(n);
            assert_eq!(queue.unread(), file.len() as u64);
            assert!(memory.len() <= limits.memory + read_max as usize, "{seed}");
            assert!(file.len() as u64 <= limits.file, "{seed}");
            if rng.u8(..4) == 0 && !flight.is_empty() {
                for byte in flight.drain(..) {
                    assert_eq!(byte, taken, "{seed}");
                    taken += 1;
                }
                queue.sent(memory.len());
            }
        }
        assert_eq!(queue.next(memory.len()), Next::Nothing);
    }
}
