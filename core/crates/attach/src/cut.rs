//! A cut: the content of a disk between two instants, without stopping anybody.
//!
//! Every change that was completed before the cut is in it, and none that was submitted after it. A
//! request that was under way may be in it, whole or in part, as after a power failure. That is
//! write order: whoever waits for a write before he submits the next one finds the first wherever
//! he finds the second.
//!
//! Blocks that were changed are copied until few are left. Then the epoch is flipped, and what is
//! left of the old one is read. If one of those blocks was submitted in the new epoch before it was
//! read, it may be newer than the cut: the cut is not clean, its blocks are copied again, and
//! another cut is tried.
//!
//! The disk is read with direct I/O, because completed requests are what is observed. A file system
//! may have newer content in the page cache, which it has not written yet.

use std::time::Duration;

use hrl::device::{BlockDevice, Buffer, Operation};
use hrl::{Error, ErrorKind, Extent, Result};

use super::tracker::{Audit, Base, Tracker};

/// Longest extent that is read by one request.
const READ_BYTES: u64 = 1 << 20;
/// Requests in flight, and the bytes that they read at most.
const READS: usize = 32;
const BATCH_BYTES: u64 = 4 << 20;

/// Options of a cut.
#[derive(Clone, Debug)]
pub struct CutOptions {
    /// Copying goes on until at most so many bytes are left, or no longer get fewer. After each try, a
    /// sixteenth of it. Default 1 MiB.
    pub left_bytes: u64,
    /// Rounds of copying before a cut is tried anyway. Default 8.
    pub rounds_max: u32,
    /// Tries before it is given up. Default 100.
    pub tries_max: u32,
    /// Pause after a cut that was not clean. Default 2 ms.
    pub pause: Duration,
}

impl Default for CutOptions {
    fn default() -> Self {
        let pause = Duration::from_millis(2);
        Self { left_bytes: 1 << 20, rounds_max: 8, tries_max: 100, pause }
    }
}

/// What a cut took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// Cuts that were tried, with the clean one.
    pub tries: u32,
    /// Bytes that were copied, some of them several times.
    pub bytes_copied: u64,
    /// Bytes that were read between the clean cut and its end.
    pub bytes_in_cut: u64,
}

/// Receives the content of blocks. A later one of the same block replaces an earlier one.
pub type Receiver<'a> = dyn FnMut(Extent, &[u8]) -> Result<()> + 'a;

/// How a cut that was tried ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Attempt {
    /// What was received is the disk at the cut.
    Clean,
    /// A block that was read had been submitted again.
    Rewritten,
    /// Nobody knows which blocks were changed. The next audit finds it again, unless this is accepted.
    Missed(Base),
    /// The disk was never quiet for the audit.
    Unproven,
}

/// The copy of a disk that follows it from cut to cut.
pub struct Follower<'a> {
    tracker: &'a Tracker,
    device: &'a dyn BlockDevice,
    /// Blocks whose copy may not be that of the last cut.
    pending: Vec<Extent>,
}

impl<'a> Follower<'a> {
    /// Begins with the whole disk. `device` reads it with direct I/O.
    pub fn new(tracker: &'a Tracker, device: &'a dyn BlockDevice) -> Self {
        Self { tracker, device, pending: whole(tracker) }
    }

    /// Goes on with a copy that lacks what is `pending`, beside what is marked.
    pub(crate) fn resume(
        tracker: &'a Tracker,
        device: &'a dyn BlockDevice,
        pending: Vec<Extent>,
    ) -> Self {
        Self { tracker, device, pending }
    }

    /// Returns what the copy lacks beside what is marked.
    pub(crate) fn into_pending(self) -> Vec<Extent> {
        self.pending
    }

    /// Copies what has changed, and ends with a clean cut: everything that was received until then is
    /// the content of the disk at that cut.
    ///
    /// The audit passed, so no change was missed. `Unavailable` if no cut is clean, because blocks
    /// are rewritten all the time; what was received then is of no one time. It may be repeated.
    pub fn cut(&mut self, options: &CutOptions, receive: &mut Receiver<'_>) -> Result<Cut> {
        let mut cut = Cut::default();
        while cut.tries < options.tries_max {
            self.copy_most(options, receive, &mut cut)?;
            match self.attempt(receive, &mut cut)? {
                Attempt::Clean => return Ok(cut),
                Attempt::Rewritten => std::thread::sleep(options.pause),
                Attempt::Missed(base) => {
                    self.tracker.accept(&base);
                    self.pending = whole(self.tracker);
                }
                Attempt::Unproven => {}
            }
        }
        Err(no_cut(self.tracker, cut.tries))
    }

    /// Copies in rounds, until little is left.
    pub(crate) fn copy_most(
        &mut self,
        options: &CutOptions,
        receive: &mut Receiver<'_>,
        cut: &mut Cut,
    ) -> Result<()> {
        let mut before = u64::MAX;
        // After a cut that was not clean, fewer blocks are left, because fewer are rewritten then.
        let left_bytes = options.left_bytes.checked_shr(4 * cut.tries).unwrap_or(0);
        for _ in 0..options.rounds_max {
            self.pending.append(&mut self.tracker.take());
            join(&mut self.pending);
            let bytes = self.pending.iter().map(|extent| extent.length).sum();
            if bytes <= left_bytes || bytes >= before {
                break;
            }
            before = bytes;
            self.copy_pending(receive, &mut cut.bytes_copied)?;
            self.pending.clear();
        }
        Ok(())
    }

    /// Tries a cut: flips the epoch, and copies what is left of the one that ended.
    fn attempt(&mut self, receive: &mut Receiver<'_>, cut: &mut Cut) -> Result<Attempt> {
        self.tracker.begin_epoch()?;
        self.take_left(cut);
        if self.copy_left(receive, cut)? { self.judge() } else { Ok(Attempt::Rewritten) }
    }

    /// Takes what is left of the epoch that ended. Follows each flip, even if nobody copies it yet.
    pub(crate) fn take_left(&mut self, cut: &mut Cut) {
        cut.tries += 1;
        self.pending.append(&mut self.tracker.take_left());
        join(&mut self.pending);
    }

    /// Copies what is left. Returns whether it is what it was at the flip.
    pub(crate) fn copy_left(&mut self, receive: &mut Receiver<'_>, cut: &mut Cut) -> Result<bool> {
        let before = cut.bytes_copied;
        self.copy_pending(receive, &mut cut.bytes_copied)?;
        cut.bytes_in_cut = cut.bytes_copied - before;
        Ok(!self.tracker.is_submitted(&self.pending))
    }

    /// Audits a cut that is clean otherwise. If it is clean, nothing is pending any more.
    pub(crate) fn judge(&mut self) -> Result<Attempt> {
        let (audit, base) = self.tracker.look()?;
        Ok(match audit {
            Audit::Clean => {
                self.tracker.accept(&base);
                self.pending.clear();
                Attempt::Clean
            }
            Audit::Unproven => Attempt::Unproven,
            Audit::Missed(_) | Audit::Unknown => Attempt::Missed(base),
        })
    }

    /// Copies what is pending, and leaves it so: whoever knows that the copy counts clears it.
    fn copy_pending(&self, receive: &mut Receiver<'_>, copied: &mut u64) -> Result<()> {
        let mut buffer = Buffer::zeroed(BATCH_BYTES as usize);
        let mut batch: Vec<Extent> = Vec::new();
        let mut bytes = 0;
        for extent in &self.pending {
            let mut at = extent.offset;
            while at < extent.end() {
                let length = READ_BYTES.min(extent.end() - at);
                if batch.len() == READS || bytes + length > BATCH_BYTES {
                    self.copy_batch(&batch, &mut buffer, receive)?;
                    batch.clear();
                    bytes = 0;
                }
                batch.push(Extent { offset: at, length });
                *copied += length;
                bytes += length;
                at += length;
            }
        }
        self.copy_batch(&batch, &mut buffer, receive)
    }

    fn copy_batch(
        &self,
        batch: &[Extent],
        buffer: &mut [u8],
        receive: &mut Receiver<'_>,
    ) -> Result<()> {
        let mut rest = &mut *buffer;
        let mut reads = Vec::with_capacity(batch.len());
        for extent in batch {
            let (part, after) = rest.split_at_mut(extent.length as usize);
            reads.push(Operation::Read(extent.offset, part));
            rest = after;
        }
        for result in self.device.batch(&mut reads) {
            result.map_err(|error| Error::caused_by(no_copy(self.tracker), error))?;
        }
        let mut at = 0;
        for extent in batch {
            let end = at + extent.length as usize;
            receive(*extent, &buffer[at..end])?;
            at = end;
        }
        Ok(())
    }
}

/// Sorts extents, and joins those that touch or overlap.
pub(crate) fn join(extents: &mut Vec<Extent>) {
    extents.sort_unstable_by_key(|extent| extent.offset);
    extents.dedup_by(|next, last| {
        let joins = next.offset <= last.end();
        if joins {
            last.length = last.end().max(next.end()) - last.offset;
        }
        joins
    });
}

fn whole(tracker: &Tracker) -> Vec<Extent> {
    vec![Extent { offset: 0, length: tracker.disk_bytes() }]
}

fn no_cut(tracker: &Tracker, tries: u32) -> Error {
    Error::new(ErrorKind::Unavailable, "take point of", tracker.path().display())
        .expected(format_args!("a cut within {tries} tries"))
        .found("blocks that are rewritten all the time")
}

fn no_copy(tracker: &Tracker) -> Error {
    Error::new(ErrorKind::Io, "copy changed blocks of", tracker.path().display())
}
