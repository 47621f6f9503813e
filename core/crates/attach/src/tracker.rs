//! A tracker: the programs on a disk, their maps, and the audit.
//!
//! A block is marked when a request that changes it is given to the disk, and again when the disk
//! has completed the request. So a change whose completion comes after the block was read is seen
//! again.
//!
//! Marks belong to one of two epochs. [`Tracker::flip`] begins the other one: it changes one number,
//! and waits until no program runs that may have read the number before. From then on nothing is
//! added to the epoch that ended.
//!
//! Invariant: what the maps lack, the audit finds. The kernel counts the sectors that each disk has
//! completed, and so do the programs. They differ if a program was skipped, which happens.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use hrl::{Error, ErrorKind, Extent, Result};

use super::btf::Btf;
use super::disk::{Completed, Disk};
use super::layout::{
    BLOCK_BYTES, BLOCK_SHIFT, COARSE_SHIFT, CONTROL_WORDS, Counter, Layout, MAGIC, SUBMITTED_WORDS,
};
use super::program::{Maps, When, assemble};
use super::sys::{self, SharedMap};

/// Samples of both counters; a request may end between the two of one sample.
const SAMPLES: u32 = 12;
/// More samples, while each of them had such a request.
const SAMPLES_MAX: u32 = 2000;

/// Result of an audit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audit {
    /// Every sector that the kernel has completed since the last clean audit was marked.
    Clean,
    /// This many sectors were completed without a mark.
    Missed(u64),
    /// Operations that may change anything were completed: passed through to the device, or on whole
    /// zones. Or the disk has grown.
    Unknown,
    /// The disk was never quiet for the microseconds of a sample.
    Unproven,
}

/// Observes which blocks of a disk change, whoever changes them. May be used from any thread.
///
/// The disk is neither opened nor slowed down. Dropping the tracker ends the observation.
pub struct Tracker {
    disk: Disk,
    layout: Layout,
    control: SharedMap,
    changed: SharedMap,
    coarse: SharedMap,
    submitted: SharedMap,
    links: [OwnedFd; 2],
}

/// Names in bpffs of what outlives the process.
const MAPS: [&str; 4] = ["control", "changed", "coarse", "submitted"];
const LINKS: [&str; 2] = ["on-completed", "on-submitted"];

impl Tracker {
    /// Begins to observe a whole disk. Nothing that was written before is known.
    ///
    /// `Unsupported` if the kernel does not describe its types, or the disk's requests cannot be
    /// observed or counted. `Io` without the capabilities `CAP_BPF`, `CAP_PERFMON` and
    /// `CAP_SYS_ADMIN`.
    pub fn attach(path: &Path) -> Result<Self> {
        let disk = Disk::look_at(path)?;
        let layout = Layout::of(disk.bytes);
        let (words, coarse) = (layout.words() as usize, layout.coarse_words() as usize);
        let control = SharedMap::create("hrl_control", CONTROL_WORDS)?;
        let changed = SharedMap::create("hrl_changed", 2 * words)?;
        let coarse = SharedMap::create("hrl_coarse", 2 * coarse)?;
        let submitted = SharedMap::create("hrl_submitted", 2 * SUBMITTED_WORDS as usize)?;
        let maps = Maps {
            control: control.fd(),
            changed: changed.fd(),
            coarse: coarse.fd(),
            submitted: submitted.fd(),
        };
        let btf = Btf::of_kernel()?;
        let attached = |when: When, name: &str| {
            let code = assemble(&btf, when, (disk.major, disk.minor), layout, maps)?;
            sys::attach(name, &code, btf.tracepoint(when.tracepoint())?)
        };
        // Completions first: then no request is submitted with a mark and completed without one.
        let completed = attached(When::Completed, "hrl_completed")?;
        let links = [completed, attached(When::Submitted, "hrl_submitted")?];
        let tracker = Self { disk, layout, control, changed, coarse, submitted, links };
        // Requests that were submitted before the programs may end after them.
        sys::wait_for_programs()?;
        tracker.begin_audits()?;
        tracker.set(Counter::DiskBytes, tracker.disk.bytes);
        tracker.set(Counter::DiskNumber, tracker.disk.number);
        tracker.set(Counter::Magic, MAGIC);
        Ok(tracker)
    }

    /// Gives the programs and maps names in `directory`, which is in bpffs, so that the observation
    /// goes on after the process. It ends with [`Tracker::detach`], or when the machine boots.
    ///
    /// The directory must not exist. If this fails, it is removed again.
    pub fn pin(&self, directory: &Path) -> Result<()> {
        std::fs::create_dir(directory)
            .map_err(|error| Error::io("pin tracker as", directory.display(), error))?;
        let maps = [&self.control, &self.changed, &self.coarse, &self.submitted];
        let pinned = MAPS
            .iter()
            .zip(maps)
            .try_for_each(|(name, map)| map.pin(&directory.join(name)))
            .and_then(|()| {
                let mut links = LINKS.iter().zip(&self.links);
                links.try_for_each(|(name, link)| sys::pin(link, &directory.join(name)))
            });
        if pinned.is_err() {
            let _ = Self::detach(directory);
        }
        pinned
    }

    /// Opens a tracker that was pinned: what changed since is marked in it.
    ///
    /// `NotFound` if nothing is pinned there. `Changed` if it observes another disk than the one at
    /// `path` now, or that one has grown: detach it, and compare the disk.
    pub fn reopen(directory: &Path, path: &Path) -> Result<Self> {
        if !directory.join(LINKS[1]).exists() {
            return Err(Error::new(ErrorKind::NotFound, "open tracker", directory.display())
                .message(
                    "nothing is pinned there: the machine has booted since, or it was detached",
                ));
        }
        let disk = Disk::look_at(path)?;
        let layout = Layout::of(disk.bytes);
        let control = SharedMap::pinned(&directory.join(MAPS[0]), CONTROL_WORDS)?;
        let known = |counter: Counter| control.words()[counter.word()].load(Ordering::Acquire);
        let (bytes, number) = (known(Counter::DiskBytes), known(Counter::DiskNumber));
        if (known(Counter::Magic), bytes, number) != (MAGIC, disk.bytes, disk.number) {
            return Err(Error::new(ErrorKind::Changed, "open tracker", directory.display())
                .expected(format_args!("disk {} of {} bytes", disk.number, disk.bytes))
                .found(format_args!("disk {number} of {bytes} bytes")));
        }
        let words = [layout.words(), layout.coarse_words(), SUBMITTED_WORDS];
        let map =
            |at: usize| SharedMap::pinned(&directory.join(MAPS[at]), 2 * words[at - 1] as usize);
        let (changed, coarse, submitted) = (map(1)?, map(2)?, map(3)?);
        let link = |name: &str| sys::opened(&directory.join(name));
        let links = [link(LINKS[0])?, link(LINKS[1])?];
        Ok(Self { disk, layout, control, changed, coarse, submitted, links })
    }

    /// Removes the names of a pinned tracker. Its observation ends with the last process that has it
    /// open. Does nothing if nothing is pinned there.
    pub fn detach(directory: &Path) -> Result<()> {
        let gone = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
        let failed = |error| Error::io("detach", directory.display(), error);
        for name in LINKS.iter().chain(&MAPS) {
            match std::fs::remove_file(directory.join(name)) {
                Err(error) if !gone(&error) => return Err(failed(error)),
                _ => {}
            }
        }
        match std::fs::remove_dir(directory) {
            Err(error) if !gone(&error) => Err(failed(error)),
            _ => Ok(()),
        }
    }

    /// Returns the path of the disk.
    pub fn path(&self) -> &Path {
        &self.disk.path
    }

    /// Returns the size of the disk in bytes, as it was at the beginning.
    pub fn disk_bytes(&self) -> u64 {
        self.disk.bytes
    }

    /// Returns the memory of the maps, in bytes. It is never swapped.
    pub fn memory_bytes(&self) -> u64 {
        let maps = [&self.control, &self.changed, &self.coarse, &self.submitted];
        maps.iter().map(|map| 8 * map.words().len() as u64).sum()
    }

    /// Takes the blocks that were marked in the present epoch: sorted, disjoint, in whole blocks of
    /// [`BLOCK_BYTES`]. What is marked from now on is taken by the next call.
    pub fn take(&self) -> Vec<Extent> {
        self.take_half(self.half())
    }

    /// Begins another epoch, and takes what is left of the one that ended. Every change that was
    /// completed before the call is in it, or was taken before.
    ///
    /// Call it from one thread at a time.
    pub fn flip(&self) -> Result<Vec<Extent>> {
        let (old, new) = (self.half(), 1 - self.half());
        half(&self.submitted, new).iter().for_each(|word| word.store(0, Ordering::Relaxed));
        self.counter(Counter::Epoch).fetch_add(1, Ordering::SeqCst);
        sys::wait_for_programs()?;
        Ok(self.take_half(old))
    }

    /// Returns whether a change of one of these blocks may have been submitted since the epoch
    /// began. False positives are possible, and rare.
    pub fn is_submitted(&self, extents: &[Extent]) -> bool {
        let (submitted, coarse) =
            (half(&self.submitted, self.half()), half(&self.coarse, self.half()));
        let set = |words: &[AtomicU64], bit: u64| {
            words[(bit / 64) as usize % words.len()].load(Ordering::SeqCst) >> (bit % 64) & 1 == 1
        };
        extents.iter().any(|extent| {
            let blocks = extent.offset >> BLOCK_SHIFT..extent.end().div_ceil(BLOCK_BYTES);
            blocks
                .into_iter()
                .any(|block| set(submitted, block) || set(coarse, block >> COARSE_SHIFT))
        })
    }

    /// Compares what was marked with what the kernel has counted, since the last clean audit.
    ///
    /// After [`Audit::Missed`] read everything again that was marked since the clean audit before
    /// the last one, because nobody knows what the requests without a mark have changed; after
    /// [`Audit::Unknown`] the whole disk.
    pub fn audit(&self) -> Result<Audit> {
        if self.unknown() != self.get(Counter::BaseUnknown) {
            self.begin_audits()?;
            return Ok(Audit::Unknown);
        }
        let base = Completed {
            written: self.get(Counter::BaseWritten),
            discarded: self.get(Counter::BaseDiscarded),
        };
        let mut most = None;
        for sample in 0..SAMPLES_MAX {
            let found = self.difference()?;
            let so_far = most.get_or_insert(found);
            so_far.written = so_far.written.max(found.written);
            so_far.discarded = so_far.discarded.max(found.discarded);
            let is_level = so_far.written >= base.written && so_far.discarded >= base.discarded;
            if sample + 1 >= SAMPLES && is_level {
                let missed = (so_far.written - base.written) + (so_far.discarded - base.discarded);
                self.set_base(*so_far);
                return Ok(if missed == 0 { Audit::Clean } else { Audit::Missed(missed) });
            }
        }
        Ok(Audit::Unproven)
    }

    fn begin_audits(&self) -> Result<()> {
        let mut most = self.difference()?;
        for _ in 0..SAMPLES_MAX / 10 {
            let found = self.difference()?;
            most.written = most.written.max(found.written);
            most.discarded = most.discarded.max(found.discarded);
        }
        self.set_base(most);
        self.set(Counter::BaseUnknown, self.unknown());
        Ok(())
    }

    fn set_base(&self, base: Completed) {
        self.set(Counter::BaseWritten, base.written);
        self.set(Counter::BaseDiscarded, base.discarded);
    }

    /// Returns the kernel's counts minus those of the programs. The kernel's are read first, and are
    /// incremented last: a request that ends meanwhile makes the difference smaller, never larger.
    fn difference(&self) -> Result<Completed> {
        let kernel = self.disk.completed()?;
        Ok(Completed {
            written: kernel.written.wrapping_sub(self.get(Counter::Written)),
            discarded: kernel.discarded.wrapping_sub(self.get(Counter::Discarded)),
        })
    }

    fn unknown(&self) -> u64 {
        self.get(Counter::Unknown) + self.get(Counter::Outside)
    }

    fn get(&self, counter: Counter) -> u64 {
        self.counter(counter).load(Ordering::SeqCst)
    }

    fn set(&self, counter: Counter, value: u64) {
        self.counter(counter).store(value, Ordering::SeqCst);
    }

    fn take_half(&self, number: usize) -> Vec<Extent> {
        let mut taken: Vec<Extent> = Vec::new();
        let mut add = |first: u64, blocks: u64| {
            let start = first << BLOCK_SHIFT;
            let end = ((first + blocks) << BLOCK_SHIFT).min(self.disk.bytes);
            match taken.last_mut() {
                _ if start >= end => {}
                Some(last) if last.end() >= start => {
                    last.length = end.max(last.end()) - last.offset;
                }
                _ => taken.push(Extent::from_bounds(start, end)),
            }
        };
        let coarse = half(&self.coarse, number);
        let coarse: Vec<u64> = coarse.iter().map(take_word).collect();
        let mut long = bits(&coarse).peekable();
        let changed = half(&self.changed, number);
        for (at, word) in changed.iter().enumerate() {
            let first = 64 * at as u64;
            while let Some(unit) = long.next_if(|unit| unit << COARSE_SHIFT <= first) {
                add(unit << COARSE_SHIFT, 1 << COARSE_SHIFT);
            }
            if word.load(Ordering::Relaxed) != 0 {
                bits(&[take_word(word)]).for_each(|bit| add(first + bit, 1));
            }
        }
        long.for_each(|unit| add(unit << COARSE_SHIFT, 1 << COARSE_SHIFT));
        debug_assert!(self.layout.blocks() <= 64 * changed.len() as u64);
        taken
    }

    fn half(&self) -> usize {
        self.get(Counter::Epoch) as usize & 1
    }

    fn counter(&self, counter: Counter) -> &AtomicU64 {
        &self.control.words()[counter.word()]
    }
}

impl std::fmt::Debug for Tracker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tracker({})", self.disk.path.display())
    }
}

/// Returns the half of a map that belongs to an epoch.
fn half(map: &SharedMap, number: usize) -> &[AtomicU64] {
    let words = map.words().len() / 2;
    &map.words()[number * words..(number + 1) * words]
}

fn take_word(word: &AtomicU64) -> u64 {
    if word.load(Ordering::Relaxed) == 0 { 0 } else { word.swap(0, Ordering::SeqCst) }
}

/// Returns the numbers of the bits that are set.
fn bits(words: &[u64]) -> impl Iterator<Item = u64> + '_ {
    words.iter().enumerate().filter(|(_, word)| **word != 0).flat_map(|(at, word)| {
        (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| 64 * at as u64 + bit)
    })
}
