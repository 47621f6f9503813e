//! Reprotection: the disk at the old site follows the volume, so that failing back writes little.
//!
//! A [`Follower`] knows a recovery state of the disk, and in which extents the disk differs from it
//! ([`divergence`](super::divergence)). Catching up writes a newer one where the disk differs or
//! the volume changed, and nothing else. It can run any number of times while the volume is in use
//! elsewhere.
//!
//! Invariant: `STATE/follow` lists every extent before it is written, as one that may differ.
//!
//! Behaviour on failure: the next run writes the listed extents again.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::cancel::cancel_in;
use super::chosen::chosen;
use super::divergence::{self, Divergence};
use super::keep::Old;
use super::prepare::{prepare, take_identity};
use super::request::{Wait, by_sleeping, request, requested_id};
use crate::agent::anchor::End;
use crate::agent::provisional::Provisional;
use crate::agent::state::{StateDirectory, lines_after};
use crate::agent::witness::{self, Moment, Seen};
use crate::agent::{Protection, ProtectionOptions, check_applications};
use crate::bytes::{hex, parse_hex};
use crate::clock::Clock;
use crate::device::{BlockDevice, Durability, Files, SystemFiles, Unmap};
use crate::error::{Error, ErrorKind, Result};
use crate::event::EventSink;
use crate::extent::{Extent, ExtentSet, block_runs};
use crate::point::Quiesce;
use crate::policy::Policy;
use crate::replica::{At, Progress, Replica, ViewOptions, is_zero};
use crate::units::{ChainHash, Epoch, PointId, Sequence};
use crate::vault::{Step, StepKind, Vault};

const FILE: &str = "follow";
const FIRST_LINE: &str = "hrl follow 1";
/// Bytes read and written at once.
const CHUNK_BYTES: u64 = 1 << 20;
/// Shortest run of zeroes that is zeroed rather than written.
const HOLE_BYTES: usize = 64 << 10;

/// What catching up did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CatchUp {
    /// Recovery state of the disk before, apart from the extents in which it differed.
    pub from: Sequence,
    /// Recovery state of the disk now.
    pub to: Sequence,
    /// Bytes in which the disk may have differed from the recovery state before.
    pub bytes_diverged: u64,
    /// Bytes written or zeroed: those that differed, and those that changed between the two states.
    pub bytes_written: u64,
}

/// A disk at the old site that follows the volume. For use by one thread.
pub struct Follower {
    vault: Vault,
    replica: Replica,
    disk: Arc<dyn BlockDevice>,
    state: StateDirectory,
    known: Divergence,
    clock: Arc<dyn Clock>,
    applications: Option<Arc<dyn Quiesce>>,
    wait: Wait,
}

impl Follower {
    /// Makes the disk of an old source follow. `state` is the state directory of the agent that
    /// protected it, which must have ended. Nothing else may write to the disk.
    ///
    /// What the spool still contains is handed in to the branch of its epoch first.
    ///
    /// `InvalidInput` if no agent used the directory, or its agent still owns the volume.
    /// `AlreadyExists` if a failback took it home already: [`ProtectionOptions::open`] goes on. `Fenced`
    /// if the agent is running, `Changed` for another volume, another disk or one of another size,
    /// `Unavailable` if the vault does not answer. `Diverged` if the vault has not come as far as the
    /// disk, which followed it before it went back.
    pub fn open(
        volume: &str,
        vault: Vault,
        state: impl AsRef<Path>,
        disk: Arc<dyn BlockDevice>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        Self::open_in(Arc::new(SystemFiles), volume, vault, state, disk, clock)
    }

    /// Opens as [`Follower::open`] does, with the state directory among `files`.
    pub(super) fn open_in(
        files: Arc<dyn Files>,
        volume: &str,
        vault: Vault,
        state: impl AsRef<Path>,
        disk: Arc<dyn BlockDevice>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let state = StateDirectory::open(files, state.as_ref())?;
        if let Some(under_way) = Provisional::read(&state)? {
            leave(&under_way, &vault, volume, &state, &*clock)?;
        }
        let replica = vault.replica(volume)?;
        if disk.size_bytes() != replica.info().device_bytes {
            return Err(Error::new(ErrorKind::Changed, "follow with", disk.name())
                .expected(format_args!("{} bytes", replica.info().device_bytes))
                .found(disk.size_bytes()));
        }
        let left = read(&state)?.map(|known| as_left(known, &state, &*disk)).transpose()?;
        let known = match left {
            Some(known) if !known.is_lacking_in(&replica) => known,
            left => {
                let old = Old { disk: &*disk, state: &state, clock: &*clock };
                let found = divergence::of_old_source(&vault, volume, &old, left.as_ref())?;
                write(&state, &found)?;
                witness::leave(&state, &*disk, Moment::Followed(found.at))?;
                found
            }
        };
        let known = divergence::rebased(&replica, &state, known)?;
        // STATE/follow has all of it now, so the disk is a plain one from here on.
        state.remove(&state.presence_log())?;
        state.remove(&state.base())?;
        state.sync_names()?;
        let (applications, wait) = (None, by_sleeping());
        Ok(Self { vault, replica, disk, state, known, clock, applications, wait })
    }

    /// Sets what is quiesced for application-consistent points once the volume is home again, as
    /// [`ProtectionOptions::applications`] does. Default: none.
    pub fn applications(mut self, applications: Arc<dyn Quiesce>) -> Self {
        self.applications = Some(applications);
        self
    }

    /// Returns the recovery state of the disk, apart from [`Follower::differs`].
    pub fn sequence(&self) -> Sequence {
        self.known.at
    }

    /// Returns the extents in which the disk may differ from its recovery state.
    pub fn differs(&self) -> &ExtentSet {
        &self.known.differs
    }

    /// Returns why the whole disk is taken to differ; `None` if journals and dirty map show the
    /// extents.
    pub fn why_everywhere(&self) -> Option<&str> {
        self.known.everywhere.as_deref()
    }

    /// Returns the bytes that catching up to `at` would write now.
    pub fn bytes_behind(&mut self, at: &At) -> Result<u64> {
        Ok(self.outstanding(at)?.1.total_bytes())
    }

    /// Brings the disk to the recovery state `at`, durably. After a failure, call it again to go
    /// on.
    ///
    /// `InvalidInput` if the disk is beyond that state already, `Diverged` as [`Follower::open`] says,
    /// `Unavailable` if `progress` returns false.
    pub fn catch_up(&mut self, at: &At, progress: Progress<'_>) -> Result<CatchUp> {
        let (to, all) = self.outstanding(at)?;
        let from = self.known.at;
        let bytes_diverged = self.known.differs.total_bytes();
        if all.is_empty() {
            self.save_progress(to)?;
            return Ok(CatchUp { from, to, bytes_diverged, bytes_written: 0 });
        }
        let planned = Divergence { differs: all.clone(), kept: None, ..self.known.clone() };
        write(&self.state, &planned)?;
        witness::unleave(&self.state, &*self.disk)?;
        self.known = planned;
        let view = self.replica.view(&At::Sequence(to), &ViewOptions::default())?;
        let total = all.total_bytes();
        let mut done = 0;
        let mut buffer = vec![0; CHUNK_BYTES as usize];
        for Extent { offset, length } in all.iter().flat_map(|extent| extent.chunks(CHUNK_BYTES)) {
            let chunk = &mut buffer[..length as usize];
            view.read(offset, chunk)?;
            put(&*self.disk, offset, chunk)?;
            done += length;
            if !progress(done, total) {
                let name = &self.replica.info().name;
                return Err(Error::new(ErrorKind::Unavailable, "follow", name)
                    .message("the caller stopped it; the next run goes on"));
            }
        }
        self.disk.flush()?;
        self.save_progress(to)?;
        Ok(CatchUp { from, to, bytes_diverged, bytes_written: total })
    }

    /// Records in the catalog that the disk follows the volume, and at which recovery state it is.
    pub fn record(&mut self) -> Result<()> {
        let lifecycle = self.replica.catalog().lifecycle();
        let Some(current) = lifecycle.current().cloned() else { return Ok(()) };
        let shown = chosen(&self.replica, self.known.at);
        let step = Step {
            at: shown.sequence,
            point: shown.point,
            at_time: shown.time,
            epoch: current.epoch,
            note: current.note,
            ..Step::new(StepKind::Reprotect, current.failover, &*self.clock)
        };
        self.replica.catalog_mut().record_step(&step)
    }

    /// Takes the volume home: catches up while it is in use, asks the source to hand it over,
    /// catches up with the rest, and commits. Returns the protection on this disk; the other site
    /// is fenced.
    ///
    /// Without a `planned` limit the source is not asked. The disk takes over as of the newest
    /// recovery state, and what the source has not shipped becomes a branch.
    pub fn fail_back(
        self,
        planned: Option<Duration>,
        policy: Policy,
        events: EventSink,
        progress: Progress<'_>,
    ) -> Result<(Protection, CatchUp)> {
        policy.validate()?;
        check_applications(self.applications.as_ref(), &policy)?;
        let (options, state, done) = self.come_home(planned, policy, events, progress)?;
        let protection = options.open_with(state)?;
        protection.commit_failover()?;
        Ok((protection, done))
    }

    /// Fails back up to the protection, which commits it.
    pub(super) fn come_home(
        mut self,
        planned: Option<Duration>,
        policy: Policy,
        events: EventSink,
        progress: Progress<'_>,
    ) -> Result<(ProtectionOptions, StateDirectory, CatchUp)> {
        let mut done = self.catch_up(&At::Newest, progress)?;
        let failover = requested_id(&self.state, &self.replica, &*self.clock)?;
        let at = match planned {
            Some(limit) => {
                let (clock, wait) = (&*self.clock, &self.wait);
                let replica = &mut self.replica;
                let at = request(&self.vault, replica, failover, limit, clock, wait)?;
                // A source that was killed after it handed over may have journaled its disk again:
                // a later state with the same content.
                At::Sequence(at.max(self.known.at))
            }
            None => At::Newest,
        };
        let last = self.catch_up(&at, progress)?;
        done.to = last.to;
        done.bytes_written += last.bytes_written;
        self.begin(failover, &policy)?;
        let Self { vault, replica, disk, state, clock, applications, .. } = self;
        let volume = replica.info().name.clone();
        let mut options = ProtectionOptions::new(&volume, disk, vault, state.path().to_owned())
            .policy(policy)
            .events(events)
            .clock(clock)
            .among(state.files().clone());
        if let Some(applications) = applications {
            options = options.applications(applications);
        }
        Ok((options, state, done))
    }

    /// Sets how to wait between two looks at whether the source handed over.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn waits(&mut self, wait: Wait) {
        self.wait = wait;
    }

    /// Makes the state directory that of a failover to here.
    fn begin(&mut self, failover: PointId, policy: &Policy) -> Result<()> {
        let chosen = chosen(&self.replica, self.known.at);
        let under_way = prepare(
            &self.state,
            &self.replica,
            failover,
            chosen,
            true,
            policy.region_bytes,
            &*self.clock,
        )?;
        take_identity(&self.state, &self.replica, &under_way)?;
        self.replica.catalog_mut().record_step(&under_way.step(StepKind::Start, &*self.clock))?;
        self.state.remove(&self.state.file(FILE))?;
        self.state.sync_names()
    }

    /// Returns the sequence that `at` chooses, and the extents to write for it.
    fn outstanding(&mut self, at: &At) -> Result<(Sequence, ExtentSet)> {
        self.replica.refresh()?;
        self.known = divergence::rebased(&self.replica, &self.state, self.known.clone())?;
        let to = self.replica.resolve(at)?;
        if to < self.known.at {
            return Err(Error::new(ErrorKind::InvalidInput, "follow to", at)
                .message("the disk is beyond it")
                .expected(format_args!("a recovery state at sequence {} or later", self.known.at))
                .found(format_args!("sequence {to}")));
        }
        let mut all = self.replica.touched(self.known.at, to)?;
        self.known.differs.iter().for_each(|extent| all.insert(extent));
        Ok((to, all))
    }

    fn save_progress(&mut self, at: Sequence) -> Result<()> {
        let epoch = self.replica.catalog().epoch();
        let now = Divergence::new(&self.replica, (epoch, at), ExtentSet::new(), None);
        write(&self.state, &now)?;
        self.known = now;
        witness::leave(&self.state, &*self.disk, Moment::Followed(at))
    }
}

/// Ends the failover to here that the state directory records: removes the record of a committed
/// one, and cancels a failback that was not committed.
///
/// After such a failback the whole disk counts as different, because nothing records what was
/// written to it meanwhile.
fn leave(
    under_way: &Provisional,
    vault: &Vault,
    volume: &str,
    state: &StateDirectory,
    clock: &dyn Clock,
) -> Result<()> {
    let replica = vault.replica(volume)?;
    if under_way.is_owner(replica.catalog()) {
        return Err(divergence::has_volume(state, &replica)
            .found(format_args!("epoch {}", under_way.epoch)));
    }
    if under_way.is_committed(replica.catalog()) {
        return Provisional::forget(state);
    }
    if !under_way.home {
        // divergence::of_old_source refuses it.
        return Ok(());
    }
    let whole = Extent { offset: 0, length: replica.info().device_bytes };
    let at = (replica.catalog().epoch(), under_way.at);
    let why = "a failback was cancelled".to_owned();
    write(state, &divergence::everywhere(&replica, at, whole, why))?;
    cancel_in(vault, volume, state, clock)
}

/// Returns what is known of a disk that followed the volume: nothing, if it was written meanwhile.
/// `Changed` if it is another disk.
fn as_left(
    known: Divergence,
    state: &StateDirectory,
    disk: &dyn BlockDevice,
) -> Result<Divergence> {
    let seen = Seen::of(state, disk)?;
    if let Some(other) = seen.other_than_left(Moment::Followed(known.at))? {
        return Err(seen.refused("follow with", other, "restore the volume to it"));
    }
    let Some(why) = seen.touched_since_followed(known.at) else { return Ok(known) };
    let whole = Extent { offset: 0, length: disk.size_bytes() };
    let differs = std::iter::once(whole).collect();
    let known = Divergence { differs, everywhere: Some(why), ..known };
    write(state, &known)?;
    Ok(known)
}

/// Writes a chunk, and zeroes its long runs of zeroes.
fn put(disk: &dyn BlockDevice, offset: u64, chunk: &[u8]) -> Result<()> {
    for (run, is_hole) in block_runs(chunk, HOLE_BYTES, |_, block| is_zero(block)) {
        let (offset, data) = (offset + run.start as u64, &chunk[run]);
        if is_hole {
            let hole = Extent { offset, length: data.len() as u64 };
            disk.zero(hole, Unmap::Allowed, Durability::Cached)?;
        } else {
            disk.write(offset, data, Durability::Cached)?;
        }
    }
    Ok(())
}

fn write(state: &StateDirectory, known: &Divergence) -> Result<()> {
    state.write_text(&state.file(FILE), print(known))
}

fn print(known: &Divergence) -> String {
    let why = known.everywhere.as_deref().unwrap_or("").replace('\n', " ");
    let mut lines = vec![
        FIRST_LINE.to_owned(),
        format!("epoch={}", known.epoch),
        format!("at={}", known.at.0),
        format!("everywhere={why}"),
    ];
    let line = |name, end: End| format!("{name}={} {}", end.sequence.0, hex(&end.chain.0));
    lines.extend(known.history.map(|end| line("history", end)));
    lines.extend(known.kept.map(|end| line("kept", end)));
    lines.extend(known.differs.iter().map(|e| format!("{} {}", e.offset, e.length)));
    lines.push("end\n".to_owned());
    lines.join("\n")
}

/// Parses the text of `STATE/follow` and prints it again; `None` if it is not valid. Feature
/// `testing`.
#[cfg(any(test, feature = "testing"))]
pub fn reprint_follow(text: &str) -> Option<String> {
    parse(text).map(|known| print(&known))
}

fn read(state: &StateDirectory) -> Result<Option<Divergence>> {
    state.read_text(&state.file(FILE), "a recovery state and where the disk differs from it", parse)
}

fn parse(text: &str) -> Option<Divergence> {
    let mut lines = lines_after(FIRST_LINE, text)?;
    let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix('=');
    let epoch = Epoch(field("epoch")?.parse().ok()?);
    let at = Sequence(field("at")?.parse().ok()?);
    let why = field("everywhere")?.to_owned();
    let everywhere = Some(why).filter(|why| !why.is_empty());
    let (mut differs, mut history, mut kept) = (ExtentSet::new(), None, None);
    loop {
        let line = lines.next()?;
        if line == "end" {
            break;
        }
        if let Some(end) = line.strip_prefix("history=").filter(|_| history.is_none()) {
            history = Some(parse_end(end)?);
            continue;
        }
        if let Some(end) = line.strip_prefix("kept=").filter(|_| kept.is_none()) {
            kept = Some(parse_end(end)?);
            continue;
        }
        let (offset, length) = line.split_once(' ')?;
        differs.insert(Extent::new(offset.parse().ok()?, length.parse().ok()?).ok()?);
    }
    lines.next().is_none().then_some(Divergence { epoch, at, history, differs, everywhere, kept })
}

fn parse_end(text: &str) -> Option<End> {
    let (sequence, chain) = text.split_once(' ')?;
    Some(End { sequence: Sequence(sequence.parse().ok()?), chain: ChainHash(parse_hex(chain)?) })
}
