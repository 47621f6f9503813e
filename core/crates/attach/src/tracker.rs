//! A tracker: the programs on a disk, their maps, and the audit.
//!
//! A block is marked when a request that changes it is given to the disk, and again when the disk
//! has completed the request. So a change whose completion comes after the block was read is seen
//! again.
//!
//! Marks belong to one of two epochs. [`Tracker::flip`] begins the other one: it changes one number,
//! and waits until no program runs that may have read the number before. From then on nothing is
//! added to the epoch that ended. Trackers of several disks may have that number in common
//! ([`Tracker::attach_together`]). Then one store begins the epoch of all of them, so nothing comes
//! between their cuts.
//!
//! Invariant: what the maps lack, the audit finds. The kernel counts the sectors that each disk has
//! completed, and so do the programs. They differ if a program was skipped, which happens.

use std::fs::{DirBuilder, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hrl::{Error, ErrorKind, Extent, Result};

use super::btf::Btf;
use super::disk::{Completed, Counters, Disk};
use super::layout::{
    BLOCK_BYTES, BLOCK_SHIFT, COARSE_SHIFT, CONTROL_WORDS, Counter, Layout, MAGIC, SUBMITTED_WORDS,
    WORD_SHIFT,
};
use super::preflight;
use super::program::{Fault, Maps, Observed, When, assemble};
use super::sys::{self, SharedMap};

/// Samples of both counters during which no request was completed.
const SAMPLES: u32 = 12;
/// Samples that are tried, while requests are completed during most of them.
const SAMPLES_MAX: u32 = 2000;

/// Result of an audit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audit {
    /// Every sector that the kernel has completed since the last clean audit was marked.
    Clean,
    /// This many sectors were completed without a mark.
    Missed(u64),
    /// Operations that may change anything were completed: passed through to the device, or on whole
    /// zones. Or the disk has another size or place than at the beginning.
    Unknown,
    /// The disk was never quiet for the microseconds of a sample.
    Unproven,
}

/// Observes which blocks of a disk or partition change, whoever changes them. May be used from any
/// thread.
///
/// The disk is neither opened nor slowed down. Dropping the tracker ends the observation. Offsets are
/// those of what is observed: a partition begins at zero. What is written to it through its whole
/// disk is seen, too.
pub struct Tracker {
    disk: Disk,
    counters: Counters,
    layout: Layout,
    control: SharedMap,
    /// Has the number of the epoch if several trackers share it; else the control map has it.
    epoch: Option<Arc<SharedMap>>,
    changed: SharedMap,
    coarse: SharedMap,
    submitted: SharedMap,
    /// Blocks whose marks were taken, and that are to be taken again if the process dies.
    taken: Option<SharedMap>,
    links: [OwnedFd; 2],
    fault: Fault,
}

/// Names in bpffs of what outlives the process.
const MAPS: [&str; 4] = ["control", "changed", "coarse", "submitted"];
const LINKS: [&str; 2] = ["on-completed", "on-submitted"];
const TAKEN: &str = "taken";
const EPOCH: &str = "epoch";

impl Tracker {
    /// Begins to observe a disk or partition. Nothing that was written before is known.
    ///
    /// `Unsupported` if the kernel does not describe its types, or the disk's requests cannot be
    /// observed or counted. `Denied` without the capabilities `CAP_BPF`, `CAP_PERFMON` and
    /// `CAP_SYS_ADMIN`. `ReadOnly` if nothing can change. The message says what helps.
    pub fn attach(path: &Path) -> Result<Self> {
        Self::attach_with(path, Fault::None)
    }

    /// Does the same as `attach`, with programs that have a fault, for tests that must find it.
    #[doc(hidden)]
    pub fn attach_with(path: &Path, fault: Fault) -> Result<Self> {
        Self::begin(path, fault, None)
    }

    fn begin(path: &Path, fault: Fault, epoch: Option<Arc<SharedMap>>) -> Result<Self> {
        preflight::check(path)?;
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
            epoch: epoch.as_deref().map_or(control.fd(), SharedMap::fd),
        };
        let btf = Btf::of_kernel()?;
        let (major, minor) = (disk.major, disk.minor);
        let observed = Observed { major, minor, partition: disk.partition() };
        let attached = |when: When, name: &str| {
            let code = assemble(&btf, when, &observed, layout, maps, fault)?;
            sys::attach(name, &code, btf.tracepoint(when.tracepoint())?)
        };
        // Completions first: then no request is submitted with a mark and completed without one.
        let completed = attached(When::Completed, "hrl_completed")?;
        let links = [completed, attached(When::Submitted, "hrl_submitted")?];
        let counters = disk.counters()?;
        let taken = None;
        let tracker = Self {
            disk,
            counters,
            layout,
            control,
            epoch,
            changed,
            coarse,
            submitted,
            taken,
            links,
            fault,
        };
        // Requests that were submitted before the programs may end after them.
        sys::wait_for_programs()?;
        tracker.begin_audits()?;
        tracker.set(Counter::DiskBytes, tracker.disk.bytes);
        tracker.set(Counter::DiskNumber, tracker.disk.number);
        tracker.set(Counter::Start, tracker.disk.start);
        tracker.set(Counter::Magic, MAGIC);
        Ok(tracker)
    }

    /// Does what [`Tracker::attach`] does for each disk. If they are several, their epochs are one,
    /// and `group` is the number by which they are known. Marks that were taken are kept until
    /// [`Tracker::forget`].
    pub(crate) fn attach_together(paths: &[&Path], group: u64) -> Result<Vec<Self>> {
        let is_alone = paths.len() == 1;
        let epoch =
            (!is_alone).then(|| SharedMap::create("hrl_epoch", CONTROL_WORDS)).transpose()?;
        let epoch = epoch.map(Arc::new);
        let attached = paths.iter().map(|path| {
            let mut tracker = Self::begin(path, Fault::None, epoch.clone())?;
            tracker.taken = Some(SharedMap::create("hrl_taken", tracker.layout.words() as usize)?);
            if !is_alone {
                tracker.set(Counter::Group, group);
                tracker.set(Counter::Members, paths.len() as u64);
            }
            Ok(tracker)
        });
        attached.collect()
    }

    /// Returns whether these trackers, all of them and no other, have their epochs in common; or a
    /// single one has an epoch of its own.
    pub(crate) fn are_together(trackers: &[&Self]) -> bool {
        let known = |tracker: &&Self| (tracker.get(Counter::Group), tracker.get(Counter::Members));
        match trackers {
            [] => false,
            [tracker] => known(tracker) == (0, 0),
            [first, ..] => {
                let (group, members) = known(first);
                group != 0
                    && members == trackers.len() as u64
                    && trackers.iter().all(|tracker| known(tracker) == (group, members))
            }
        }
    }

    /// Gives the programs and maps names in `directory`, which is in bpffs, so that the observation
    /// goes on after the process. It ends with [`Tracker::detach`], or when the machine boots.
    ///
    /// The directory must not exist. Its owner alone may enter it. If this fails, it is removed again.
    pub fn pin(&self, directory: &Path) -> Result<()> {
        let failed = |error| Error::io("pin tracker as", directory.display(), error);
        preflight::check_pins(directory.parent().unwrap_or(Path::new("/")))?;
        DirBuilder::new().mode(0o700).create(directory).map_err(failed)?;
        let maps = [&self.control, &self.changed, &self.coarse, &self.submitted];
        // A umask takes rights of the owner away, too.
        let pinned = std::fs::set_permissions(directory, Permissions::from_mode(0o700))
            .map_err(failed)
            .and_then(|()| {
                let mut maps = MAPS.iter().zip(maps);
                maps.try_for_each(|(name, map)| map.pin(&directory.join(name)))
            })
            .and_then(|()| {
                let mut links = LINKS.iter().zip(&self.links);
                links.try_for_each(|(name, link)| sys::pin(link, &directory.join(name)))
            })
            .and_then(|()| {
                self.taken.as_ref().map_or(Ok(()), |map| map.pin(&directory.join(TAKEN)))
            })
            .and_then(|()| {
                self.epoch.as_ref().map_or(Ok(()), |map| map.pin(&directory.join(EPOCH)))
            });
        if pinned.is_err() {
            let _ = Self::detach(directory);
        }
        pinned
    }

    /// Opens a tracker that was pinned: what changed since is marked in it.
    ///
    /// `NotFound` if nothing is pinned there. `Changed` if it observes another disk than the one at
    /// `path` now, or that one has another size or place: detach it, and compare the disk.
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
        let start = known(Counter::Start);
        if (known(Counter::Magic), bytes, number, start)
            != (MAGIC, disk.bytes, disk.number, disk.start)
        {
            let text = |number: u64, bytes: u64, start: u64| match start {
                0 => format!("disk {number} of {bytes} bytes"),
                _ => format!("{bytes} bytes at {start} of disk {number}"),
            };
            return Err(Error::new(ErrorKind::Changed, "open tracker", directory.display())
                .expected(text(disk.number, disk.bytes, disk.start))
                .found(text(number, bytes, start)));
        }
        let words = [layout.words(), layout.coarse_words(), SUBMITTED_WORDS];
        let map =
            |at: usize| SharedMap::pinned(&directory.join(MAPS[at]), 2 * words[at - 1] as usize);
        let (changed, coarse, submitted) = (map(1)?, map(2)?, map(3)?);
        let link = |name: &str| sys::opened(&directory.join(name));
        let links = [link(LINKS[0])?, link(LINKS[1])?];
        let counters = disk.counters()?;
        let taken = directory.join(TAKEN);
        let words = layout.words() as usize;
        let taken = taken.exists().then(|| SharedMap::pinned(&taken, words)).transpose()?;
        let epoch = (known(Counter::Group) != 0)
            .then(|| SharedMap::pinned(&directory.join(EPOCH), CONTROL_WORDS).map(Arc::new))
            .transpose()?;
        let fault = Fault::None;
        Ok(Self {
            disk,
            counters,
            layout,
            control,
            epoch,
            changed,
            coarse,
            submitted,
            taken,
            links,
            fault,
        })
    }

    /// Removes the names of a pinned tracker. Its observation ends with the last process that has it
    /// open. Does nothing if nothing is pinned there.
    pub fn detach(directory: &Path) -> Result<()> {
        let gone = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
        let failed = |error| Error::io("detach", directory.display(), error);
        for name in LINKS.iter().chain(&MAPS).chain([&TAKEN, &EPOCH]) {
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

    /// Returns the size of the disk or partition in bytes, as it was at the beginning.
    pub fn disk_bytes(&self) -> u64 {
        self.disk.bytes
    }

    /// Returns the memory of the maps, in bytes. It is never swapped.
    pub fn memory_bytes(&self) -> u64 {
        let maps = [&self.control, &self.changed, &self.coarse, &self.submitted];
        maps.into_iter().chain(&self.taken).map(|map| 8 * map.words().len() as u64).sum()
    }

    /// Returns what the programs cost since they were attached: of each, how often it ran, and for how
    /// many nanoseconds. Zero unless `kernel.bpf_stats_enabled` was 1.
    pub fn run_counts(&self) -> Result<[(u64, u64); 2]> {
        let [completed, submitted] = &self.links;
        Ok([sys::run_counts(completed)?, sys::run_counts(submitted)?])
    }

    /// Returns the memory of the maps for a disk of this size, in bytes.
    pub fn memory_bytes_for(disk_bytes: u64) -> u64 {
        let layout = Layout::of(disk_bytes);
        let words = CONTROL_WORDS as u64
            + 2 * u64::from(layout.words() + layout.coarse_words() + SUBMITTED_WORDS);
        8 * words
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
        self.begin_epoch()?;
        Ok(self.take_left())
    }

    /// Takes what is left of the epoch before.
    pub(crate) fn take_left(&self) -> Vec<Extent> {
        self.take_half(1 - self.half())
    }

    /// Begins another epoch. Nothing is marked any more in the one that ended, and nothing of it is
    /// taken.
    pub(crate) fn begin_epoch(&self) -> Result<()> {
        Self::begin_epoch_of(&[self])
    }

    /// Does the same for trackers that [are together](Self::are_together).
    pub(crate) fn begin_epoch_of(trackers: &[&Self]) -> Result<()> {
        for tracker in trackers {
            let new = 1 - tracker.half();
            half(&tracker.submitted, new).iter().for_each(|word| word.store(0, Ordering::Relaxed));
        }
        if let Some(first) = trackers.first() {
            first.epoch_word().fetch_add(1, Ordering::SeqCst);
        }
        sys::wait_for_programs()
    }

    /// Returns what was marked in the present epoch, and leaves it marked.
    pub(crate) fn marked(&self) -> Vec<Extent> {
        self.collect(self.half(), look_at, look_at)
    }

    /// Returns what is left of the epoch before, and leaves it.
    pub(crate) fn left(&self) -> Vec<Extent> {
        self.collect(1 - self.half(), look_at, look_at)
    }

    /// Clears what is left of the epoch before.
    pub(crate) fn clear_left(&self) {
        let old = 1 - self.half();
        for map in [&self.changed, &self.coarse] {
            half(map, old).iter().map(take_word).for_each(drop);
        }
    }

    /// Marks in the present epoch what is left of the one before, and clears it there.
    pub(crate) fn move_left(&self) {
        let (now, old) = (self.half(), 1 - self.half());
        for map in [&self.changed, &self.coarse] {
            for (from, to) in half(map, old).iter().zip(half(map, now)) {
                let bits = from.load(Ordering::SeqCst);
                if bits != 0 {
                    to.fetch_or(bits, Ordering::SeqCst);
                    from.store(0, Ordering::SeqCst);
                }
            }
        }
    }

    /// Returns the number of the present epoch.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch_word().load(Ordering::SeqCst)
    }

    fn epoch_word(&self) -> &AtomicU64 {
        let map = self.epoch.as_deref().unwrap_or(&self.control);
        &map.words()[Counter::Epoch.word()]
    }

    /// Returns the number that was given to this observation.
    pub(crate) fn session(&self) -> u64 {
        self.get(Counter::Session)
    }

    pub(crate) fn set_session(&self, session: u64) {
        self.set(Counter::Session, session);
    }

    pub(crate) fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Returns whether a change of one of these blocks may have been submitted since the epoch
    /// began. False positives are possible, and rare.
    pub fn is_submitted(&self, extents: &[Extent]) -> bool {
        let (submitted, coarse) =
            (half(&self.submitted, self.half()), half(&self.coarse, self.half()));
        let set = |words: &[AtomicU64], bit: u64| {
            words[(bit / 64) as usize % words.len()].load(Ordering::SeqCst) >> (bit % 64) & 1 == 1
        };
        self.fault != Fault::NoConflictCheck
            && extents.iter().any(|extent| {
                let blocks = extent.offset >> BLOCK_SHIFT..extent.end().div_ceil(BLOCK_BYTES);
                blocks
                    .into_iter()
                    .any(|block| set(submitted, block) || set(coarse, block >> COARSE_SHIFT))
            })
    }

    /// Compares what was marked with what the kernel has counted, since the last audit that was
    /// proved.
    ///
    /// After [`Audit::Missed`] read everything again that was marked since the clean audit before
    /// the last one, because nobody knows what the requests without a mark have changed; after
    /// [`Audit::Unknown`] the whole disk.
    pub fn audit(&self) -> Result<Audit> {
        let (audit, base) = self.look()?;
        self.accept(&base);
        Ok(audit)
    }

    /// Does the same as `audit`, and leaves what it found to be found again, until it is accepted.
    pub(crate) fn look(&self) -> Result<(Audit, Base)> {
        let unknown = self.unknown();
        let is_unknown = unknown != self.get(Counter::BaseUnknown) || !self.disk.is_as_it_was();
        let base = self.base();
        let level =
            self.level(|found| found.written >= base.written && found.discarded >= base.discarded)?;
        let audit = match level {
            _ if self.fault == Fault::SkippedUnaudited => Audit::Clean,
            _ if is_unknown => Audit::Unknown,
            None => Audit::Unproven,
            Some(found) if found == base => Audit::Clean,
            Some(found) => {
                Audit::Missed((found.written - base.written) + (found.discarded - base.discarded))
            }
        };
        Ok((audit, Base { level, unknown }))
    }

    /// Lets later audits begin at what one has found.
    pub(crate) fn accept(&self, base: &Base) {
        if let Some(level) = base.level {
            self.set(Counter::BaseWritten, level.written);
            self.set(Counter::BaseDiscarded, level.discarded);
        }
        self.set(Counter::BaseUnknown, base.unknown);
    }

    fn begin_audits(&self) -> Result<()> {
        let unknown = self.unknown();
        let level = match self.level(|_| true)? {
            Some(level) => level,
            // Too low a level makes the next audit find what nobody missed, which is safe.
            None => self.difference()?,
        };
        self.accept(&Base { level: Some(level), unknown });
        Ok(())
    }

    fn base(&self) -> Completed {
        Completed {
            written: self.get(Counter::BaseWritten),
            discarded: self.get(Counter::BaseDiscarded),
        }
    }

    /// Returns by how much the kernel's counts are above those of the programs, once that is
    /// `possible`; `None` if the disk is never quiet for the microseconds of a sample.
    ///
    /// A request that is completed during a sample would hide one that was missed, so such samples
    /// are not used. The kernel counts a request just after the programs do, so a sample may still be
    /// too low, but not all of them.
    fn level(&self, possible: impl Fn(&Completed) -> bool) -> Result<Option<Completed>> {
        let mut most = Completed::default();
        let mut samples = 0;
        for _ in 0..SAMPLES_MAX {
            let before = self.counted();
            let found = self.difference()?;
            if self.counted() != before {
                continue;
            }
            most.written = most.written.max(found.written);
            most.discarded = most.discarded.max(found.discarded);
            samples += 1;
            if samples >= SAMPLES && possible(&most) {
                return Ok(Some(most));
            }
        }
        Ok(None)
    }

    /// Returns what the programs have counted.
    fn counted(&self) -> Completed {
        Completed { written: self.get(Counter::Written), discarded: self.get(Counter::Discarded) }
    }

    /// Returns the kernel's counts minus those of the programs.
    fn difference(&self) -> Result<Completed> {
        let kernel = self.counters.read()?;
        let counted = self.counted();
        Ok(Completed {
            written: kernel.written.wrapping_sub(counted.written),
            discarded: kernel.discarded.wrapping_sub(counted.discarded),
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
        self.collect(
            number,
            |at, word| self.take_word(at, word),
            |at, word| self.take_coarse(at, word),
        )
    }

    /// Takes a word of changed blocks. A kept one is kept before it is taken.
    fn take_word(&self, at: usize, word: &AtomicU64) -> u64 {
        let Some(taken) = &self.taken else { return take_word(word) };
        let bits = word.load(Ordering::SeqCst);
        taken.words()[at].fetch_or(bits, Ordering::SeqCst);
        word.fetch_and(!bits, Ordering::SeqCst);
        bits
    }

    fn take_coarse(&self, at: usize, word: &AtomicU64) -> u64 {
        let Some(taken) = &self.taken else { return take_word(word) };
        let found = word.load(Ordering::SeqCst);
        let words = taken.words();
        for unit in bits(&[found]) {
            let first = ((64 * at as u64 + unit) << (COARSE_SHIFT - WORD_SHIFT)) as usize;
            let end = (first + (1 << (COARSE_SHIFT - WORD_SHIFT))).min(words.len());
            let filled = words.get(first..end).unwrap_or_default();
            filled.iter().for_each(|word| word.store(u64::MAX, Ordering::SeqCst));
        }
        word.fetch_and(!found, Ordering::SeqCst);
        found
    }

    /// Takes every mark of both epochs, and returns it with all that was taken and not forgotten.
    pub(crate) fn recall(&self) -> Vec<Extent> {
        let mut known = self.take_half(0);
        known.append(&mut self.take_half(1));
        let words: Vec<u64> = self.taken.iter().flat_map(SharedMap::words).map(loaded).collect();
        for bit in bits(&words) {
            let start = bit << BLOCK_SHIFT;
            let end = (start + BLOCK_BYTES).min(self.disk.bytes);
            match known.last_mut() {
                Some(last) if last.end() == start => last.length += end.saturating_sub(start),
                _ if start < end => known.push(Extent::from_bounds(start, end)),
                _ => {}
            }
        }
        known
    }

    /// Adds to the marks that were taken, as if they were of this tracker.
    pub(crate) fn remember(&self, extents: &[Extent]) {
        let Some(taken) = &self.taken else { return };
        for extent in extents {
            for block in extent.offset >> BLOCK_SHIFT..extent.end().div_ceil(BLOCK_BYTES) {
                if let Some(word) = taken.words().get((block >> WORD_SHIFT) as usize) {
                    word.fetch_or(1 << (block & 63), Ordering::SeqCst);
                }
            }
        }
    }

    /// Forgets the marks that were taken: what they stood for is durable elsewhere.
    pub(crate) fn forget(&self) {
        let words = self.taken.iter().flat_map(SharedMap::words);
        words.filter(|word| loaded(word) != 0).for_each(|word| word.store(0, Ordering::SeqCst));
    }

    /// Returns the blocks of one half. `fine` and `long` read the words of its two maps, each of which
    /// they get with its number.
    fn collect(
        &self,
        number: usize,
        fine: impl Fn(usize, &AtomicU64) -> u64,
        long: impl Fn(usize, &AtomicU64) -> u64,
    ) -> Vec<Extent> {
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
        let coarse = half(&self.coarse, number).iter().enumerate();
        let coarse: Vec<u64> = coarse.map(|(at, word)| long(at, word)).collect();
        let mut long = bits(&coarse).peekable();
        let changed = half(&self.changed, number);
        for (at, word) in changed.iter().enumerate() {
            let first = 64 * at as u64;
            while let Some(unit) = long.next_if(|unit| unit << COARSE_SHIFT <= first) {
                add(unit << COARSE_SHIFT, 1 << COARSE_SHIFT);
            }
            if word.load(Ordering::Relaxed) != 0 {
                bits(&[fine(at, word)]).for_each(|bit| add(first + bit, 1));
            }
        }
        long.for_each(|unit| add(unit << COARSE_SHIFT, 1 << COARSE_SHIFT));
        debug_assert!(self.layout.blocks() <= 64 * changed.len() as u64);
        taken
    }

    fn half(&self) -> usize {
        self.epoch() as usize & 1
    }

    fn counter(&self, counter: Counter) -> &AtomicU64 {
        &self.control.words()[counter.word()]
    }
}

/// What an audit has found, for later ones to begin at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Base {
    /// `None` if it found nothing that is certain.
    level: Option<Completed>,
    unknown: u64,
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

fn look_at(_: usize, word: &AtomicU64) -> u64 {
    loaded(word)
}

fn loaded(word: &AtomicU64) -> u64 {
    word.load(Ordering::SeqCst)
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
