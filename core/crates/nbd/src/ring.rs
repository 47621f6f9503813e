//! The io_uring of one connection, and the only unsafe code of the server.
//!
//! The kernel accesses the memory of a request until it has posted the completion. [`Ring`]
//! therefore *owns* that memory. A buffer moves in with the request and out with its completion,
//! and dropping a ring waits for all requests under way.

#![allow(unsafe_code, reason = "submission of requests with raw addresses")]

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use io_uring::{IoUring, opcode, types};

use hrl::device::Buffer;

const ENTRIES: u32 = 256;
/// `MSG_WAITALL | MSG_NOSIGNAL`: sends everything or fails, without a signal if the peer is gone.
const SEND_FLAGS: i32 = 0x4000 | 0x100;
/// `RWF_DSYNC`: the write is durable when it completes.
const WRITE_DURABLE: i32 = 2;

/// Memory that a request under way may access.
pub(crate) enum Memory {
    Buffer(Buffer),
    Bytes(Vec<u8>),
}

impl Memory {
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Buffer(buffer) => buffer,
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// A completed request.
pub(crate) struct Completion {
    pub token: u64,
    /// Bytes done, or the operating system's error.
    pub result: std::io::Result<usize>,
    pub memory: Memory,
}

/// A request.
pub(crate) enum Submit<'a> {
    /// Receive into the memory from `from` on.
    Receive { fd: BorrowedFd<'a>, from: usize },
    /// Send all of the memory.
    Send { fd: BorrowedFd<'a> },
    /// Read into the memory from byte `from` on, at the offset that belongs to that byte.
    Read { fd: BorrowedFd<'a>, offset: u64, from: usize },
    /// Write the memory from byte `from` on.
    Write { fd: BorrowedFd<'a>, offset: u64, from: usize, durable: bool },
    /// Wait until the eventfd is signalled, and read it.
    Event { fd: BorrowedFd<'a> },
}

struct Pending {
    token: u64,
    memory: Memory,
}

/// A ring and the memory of its requests.
pub(crate) struct Ring {
    ring: IoUring,
    pending: Vec<Option<Pending>>,
    free: Vec<usize>,
    under_way: usize,
}

impl Ring {
    /// Makes a ring. Old kernels have none, containers deny it, and limits may be reached.
    pub(crate) fn new() -> std::io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(ENTRIES)
            .or_else(|_| IoUring::builder().build(ENTRIES))?;
        Ok(Self { ring, pending: Vec::new(), free: Vec::new(), under_way: 0 })
    }

    /// Queues a request for the next [`Ring::wait`]. The memory comes back with the completion.
    pub(crate) fn submit(&mut self, token: u64, what: Submit<'_>, mut memory: Memory) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.pending.push(None);
            self.pending.len() - 1
        });
        let (address, length) = match &mut memory {
            Memory::Bytes(bytes) => (bytes.as_mut_ptr(), bytes.len()),
            Memory::Buffer(buffer) => (buffer.as_mut_ptr(), buffer.len()),
        };
        let rest = |from: usize| {
            assert!(from <= length, "a request starts within its memory");
            (address.wrapping_add(from), (length - from) as u32)
        };
        let fd = |fd: BorrowedFd<'_>| -> types::Fd { types::Fd(raw(fd)) };
        let entry = match what {
            Submit::Receive { fd: socket, from } => {
                let (address, length) = rest(from);
                opcode::Recv::new(fd(socket), address, length).build()
            }
            Submit::Send { fd: socket } => {
                let (address, length) = rest(0);
                opcode::Send::new(fd(socket), address, length).flags(SEND_FLAGS).build()
            }
            Submit::Read { fd: file, offset, from } => {
                let (address, length) = rest(from);
                opcode::Read::new(fd(file), address, length).offset(offset + from as u64).build()
            }
            Submit::Write { fd: file, offset, from, durable } => {
                let (address, length) = rest(from);
                opcode::Write::new(fd(file), address, length)
                    .offset(offset + from as u64)
                    .rw_flags(if durable { WRITE_DURABLE } else { 0 })
                    .build()
            }
            Submit::Event { fd: event } => {
                let (address, length) = rest(0);
                opcode::Read::new(fd(event), address, length).build()
            }
        };
        // Moving the owner does not move the memory: a Buffer and a Vec point to the heap.
        self.pending[slot] = Some(Pending { token, memory });
        let entry = entry.user_data(slot as u64);
        loop {
            // SAFETY: the addresses in the entry point into memory that `pending[slot]` owns, which
            // is neither freed nor reallocated before the completion with this slot is taken
            // (`wait`, `drop`); the descriptors are those of the connection, which outlives its
            // ring.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                break;
            }
            // The queue is full, so it goes to the kernel now. A failure would repeat in `wait`,
            // which reports it.
            if self.ring.submit().is_err() {
                std::thread::yield_now();
            }
        }
        self.under_way += 1;
    }

    /// Submits, waits for at least one completion, and appends all there are to `completions`.
    pub(crate) fn wait(&mut self, completions: &mut Vec<Completion>) -> std::io::Result<()> {
        loop {
            match self.ring.submit_and_wait(1) {
                Ok(_) => break,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(16) => break,
                Err(error) => return Err(error),
            }
        }
        let Self { ring, pending, free, under_way } = self;
        for entry in ring.completion() {
            let slot = entry.user_data() as usize;
            let Some(Pending { token, memory }) = pending[slot].take() else { continue };
            free.push(slot);
            *under_way -= 1;
            let result = match usize::try_from(entry.result()) {
                Ok(count) => Ok(count),
                Err(_) => Err(std::io::Error::from_raw_os_error(-entry.result())),
            };
            completions.push(Completion { token, result, memory });
        }
        Ok(())
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let mut completions = Vec::new();
        while self.under_way > 0 {
            if self.wait(&mut completions).is_err() {
                // Memory that the kernel may still write to must not be freed.
                std::mem::forget(std::mem::take(&mut self.pending));
                return;
            }
            completions.clear();
        }
    }
}

fn raw(fd: BorrowedFd<'_>) -> RawFd {
    fd.as_raw_fd()
}
