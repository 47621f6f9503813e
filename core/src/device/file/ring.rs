//! Many requests at once by io_uring.
//!
//! A batch borrows an idle ring, or makes one; a few are kept. The caller runs one by one what the
//! ring cannot end: short or interrupted requests, or all of them if the system forbids io_uring.
//!
//! Invariant: when [`Rings::run`] returns, the kernel has no pointer into the requests, whatever
//! failed.

#![allow(unsafe_code, reason = "the kernel reads and writes memory of the requests")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use io_uring::{IoUring, opcode, squeue, types};
use rustix::io::Errno;

use crate::device::Operation;
use crate::sync::lock::Mutex;

/// Most requests in flight in one ring.
const IN_FLIGHT_MAX: u32 = 64;
/// Most idle rings kept for the next batches.
const IDLE_RINGS_MAX: usize = 4;
/// Longest request that goes to a ring. The kernel would end longer ones short.
pub(super) const REQUEST_BYTES_MAX: usize = 1 << 30;
/// Interval at which completions are polled for after the kernel refused to be entered.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// How a request of a batch ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Completed in full.
    Done,
    /// Ended with an error of the device.
    Failed(io::Error),
    /// Not done, or not in full. The caller must run it again.
    Left,
}

/// The rings of a device.
#[derive(Default)]
pub(super) struct Rings {
    idle: Mutex<Vec<IoUring>>,
    unavailable: AtomicBool,
}

impl std::fmt::Debug for Rings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rings")
    }
}

impl Rings {
    /// Runs the operations marked in `suited`, each of 1 to [`REQUEST_BYTES_MAX`] bytes. Returns
    /// one outcome for each operation.
    pub(super) fn run(
        &self,
        file: &File,
        operations: &mut [Operation<'_>],
        suited: &[bool],
    ) -> Vec<Outcome> {
        let mut outcomes: Vec<Outcome> = operations.iter().map(|_| Outcome::Left).collect();
        if let Some(mut ring) = self.take() {
            if drive(&mut ring, file, operations, suited, &mut outcomes) {
                self.give_back(ring);
            }
        }
        outcomes
    }

    fn take(&self) -> Option<IoUring> {
        if self.unavailable.load(Ordering::Relaxed) {
            return None;
        }
        let idle = self.idle.lock().pop();
        idle.or_else(|| match IoUring::new(IN_FLIGHT_MAX) {
            Ok(ring) => Some(ring),
            Err(error) => {
                // Forbidden for good (containers often do), unless memory or descriptors ran out.
                let forbidden = matches!(
                    Errno::from_io_error(&error),
                    Some(Errno::NOSYS | Errno::PERM | Errno::ACCESS)
                );
                self.unavailable.store(forbidden, Ordering::Relaxed);
                None
            }
        })
    }

    fn give_back(&self, ring: IoUring) {
        let mut idle = self.idle.lock();
        if idle.len() < IDLE_RINGS_MAX {
            idle.push(ring);
        }
    }
}

/// Runs the requests, keeping the ring full. Returns false if the ring must not be used again.
fn drive(
    ring: &mut IoUring,
    file: &File,
    operations: &mut [Operation<'_>],
    suited: &[bool],
    outcomes: &mut [Outcome],
) -> bool {
    let fd = types::Fd(file.as_raw_fd());
    let lengths: Vec<usize> = operations.iter().map(|o| o.extent().length as usize).collect();
    let mut waiting = operations
        .iter_mut()
        .zip(suited)
        .enumerate()
        .filter(|(_, (_, suited))| **suited)
        .map(|(index, (operation, _))| entry(fd, operation).user_data(index as u64))
        .peekable();
    let mut in_flight = 0_u32;
    let mut broken = false;
    // Between the first push and the last completion nothing may panic or return: the kernel uses
    // the memory.
    loop {
        while let Some(entry) = waiting.next_if(|_| !broken && in_flight < IN_FLIGHT_MAX) {
            // SAFETY: `operations` borrows the memory until this function returns, which it does
            // only once nothing is in flight. `file` is borrowed as long, so the descriptor stays
            // open.
            if unsafe { ring.submission().push(&entry) }.is_ok() {
                in_flight += 1;
            }
        }
        if in_flight == 0 {
            return !broken;
        }
        // While more requests wait, a half-empty ring is worth filling.
        let wanted =
            if waiting.peek().is_some() { in_flight.div_ceil(2) } else { in_flight } as usize;
        if broken {
            std::thread::sleep(POLL_INTERVAL);
        } else if let Err(error) = ring.submit_and_wait(wanted) {
            let again = [Errno::INTR, Errno::AGAIN, Errno::BUSY];
            broken = !Errno::from_io_error(&error).is_some_and(|errno| again.contains(&errno));
            if broken {
                // The kernel is not entered again, so it never sees what it has not taken yet.
                in_flight -= ring.submission().len() as u32;
            }
        }
        for completion in ring.completion() {
            in_flight -= 1;
            let index = completion.user_data() as usize;
            if let Some((outcome, length)) = outcomes.get_mut(index).zip(lengths.get(index)) {
                *outcome = judge(completion.result(), *length);
            }
        }
    }
}

fn entry(fd: types::Fd, operation: &mut Operation<'_>) -> squeue::Entry {
    let length = operation.extent().length as u32;
    match operation {
        Operation::Read(offset, buffer) => {
            opcode::Read::new(fd, buffer.as_mut_ptr(), length).offset(*offset).build()
        }
        Operation::Write(offset, data) => {
            opcode::Write::new(fd, data.as_ptr(), length).offset(*offset).build()
        }
    }
}

fn judge(result: i32, length: usize) -> Outcome {
    if usize::try_from(result).is_ok_and(|count| count == length) {
        return Outcome::Done;
    }
    let again = [Errno::INTR, Errno::AGAIN, Errno::CANCELED].map(Errno::raw_os_error);
    match result {
        // Short, or an error of the ring itself. The plain call that follows ends it or reports why
        // not.
        0.. => Outcome::Left,
        error if again.contains(&-error) => Outcome::Left,
        error => Outcome::Failed(io::Error::from_raw_os_error(-error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_larger_than_the_ring_is_done_and_short_reads_are_left() {
        const LENGTH: usize = 512;
        let file = tempfile::tempfile().expect("file");
        file.set_len(300 * LENGTH as u64 - 1).expect("size");
        let rings = Rings::default();
        let data: Vec<Vec<u8>> = (0..299_u32).map(|at| vec![at as u8; LENGTH]).collect();
        let mut writes: Vec<Operation<'_>> = data
            .iter()
            .enumerate()
            .map(|(at, bytes)| Operation::Write((at * LENGTH) as u64, bytes))
            .collect();
        let suited = vec![true; writes.len()];
        let outcomes = rings.run(&file, &mut writes, &suited);
        if rings.unavailable.load(Ordering::Relaxed) {
            return;
        }
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Done)));
        let mut found = vec![vec![0; LENGTH]; 300];
        let mut reads: Vec<Operation<'_>> = found
            .iter_mut()
            .enumerate()
            .map(|(at, bytes)| Operation::Read((at * LENGTH) as u64, bytes))
            .collect();
        let mut suited = vec![true; reads.len()];
        suited[7] = false;
        let outcomes = rings.run(&file, &mut reads, &suited);
        for (at, outcome) in outcomes.iter().enumerate() {
            let left = at == 7 || at == 299;
            assert_eq!(matches!(outcome, Outcome::Left), left, "request {at}: {outcome:?}");
        }
        for (at, bytes) in data.iter().enumerate().filter(|(at, _)| *at != 7) {
            assert!(found[at] == *bytes, "request {at}");
        }
    }

    /// Lets `io_uring_setup` fail in this thread, as containers do by default.
    fn deny_io_uring() {
        let statement =
            |code: u32, no: u8, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: no, k };
        let mut filter = [
            statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
            statement(
                libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
                1,
                libc::SYS_io_uring_setup as u32,
            ),
            statement(
                libc::BPF_RET | libc::BPF_K,
                0,
                libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned(),
            ),
            statement(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
        ];
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        let mode = libc::SECCOMP_MODE_FILTER;
        // SAFETY: the kernel copies the filter, which lives until the call returns.
        unsafe {
            assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
            assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program), 0);
        }
    }

    #[test]
    fn where_io_uring_is_denied_batches_are_done_one_by_one() {
        use crate::device::{BlockDevice, FileDevice, FileDeviceOptions};

        const LENGTH: usize = 4096;
        let directory = tempfile::tempdir().expect("directory");
        let options =
            FileDeviceOptions { create_bytes: Some(4 * LENGTH as u64), ..Default::default() };
        let disk = FileDevice::open(&directory.path().join("disk"), &options).expect("disk");
        let denied = std::thread::spawn(move || {
            deny_io_uring();
            let data = [1, 2, 3].map(|byte| vec![byte; LENGTH]);
            let mut writes: Vec<_> = data
                .iter()
                .enumerate()
                .map(|(at, bytes)| Operation::Write((at * LENGTH) as u64, bytes))
                .collect();
            assert!(disk.batch(&mut writes).iter().all(Result::is_ok));
            let mut found = [0_u64; 3].map(|_| crate::device::Buffer::zeroed(LENGTH));
            let mut reads: Vec<_> = found
                .iter_mut()
                .enumerate()
                .map(|(at, bytes)| Operation::Read((at * LENGTH) as u64, bytes))
                .collect();
            assert!(disk.batch(&mut reads).iter().all(Result::is_ok));
            for (found, data) in found.iter().zip(&data) {
                assert!(found[..] == data[..]);
            }
            assert!(disk.rings.unavailable.load(Ordering::Relaxed), "no ring is asked for again");
        });
        denied.join().expect("without io_uring");
    }
}
