//! A volume that failed over to here, running: its disk, its protection, and the copy behind the reads.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::cancel::cancel_in;
use super::options::FailoverOptions;
use super::start::Served;
use crate::agent::state::StateDirectory;
use crate::agent::{Protection, ProtectionOptions};
use crate::capture::Volume;
use crate::clock::Clock;
use crate::device::{BlockDevice, Files};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, EventKind, EventSink};
use crate::replica::{Hydration, InstantDisk};
use crate::sync::lock::{Condvar, Mutex, MutexGuard};
use crate::units::{PointId, Sequence, Timestamp};
use crate::vault::Vault;

const POLL: Duration = Duration::from_millis(20);
/// Pause before copying is tried again after the vault or the disk failed.
const RETRY: Duration = Duration::from_secs(1);

/// How a failover began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// The state that the volume was served as of.
    pub sequence: Sequence,
    /// The recovery point that it is; `None` where it is none.
    pub point: Option<PointId>,
    /// Its time.
    pub time: Timestamp,
    /// From the call until the volume could be read and written: what the library has in the recovery time.
    pub took: Duration,
}

/// A volume that failed over to here. May be used from any thread; one thread ends it.
///
/// Dropping it leaves what a crash would leave: [`FailoverOptions::start`] goes on from there.
pub struct FailedOver {
    copy: Copying,
    protection: Protection,
    disk: Arc<InstantDisk>,
    started: Started,
    volume: String,
    vault: Vault,
    files: Arc<dyn Files>,
    state: PathBuf,
    clock: Arc<dyn Clock>,
    copied: Arc<Copied>,
}

impl FailedOver {
    pub(super) fn run(served: Served) -> Result<Self> {
        let (options, state, hydrator, mut started, begun) = Hydrator::of(served);
        let Hydrator { volume, disk, clock, copied, .. } = &hydrator;
        let (volume, disk) = (volume.clone(), disk.clone());
        let (clock, copied) = (clock.clone(), copied.clone());
        let (vault, files) = (options.vault().clone(), state.files().clone());
        let path = state.path().to_owned();
        let protection = options.open_with(state)?;
        started.took = clock.elapsed().saturating_sub(begun);
        let copy = Copying::begin(hydrator.of_protection(&protection.retention_waits()))?;
        Ok(Self {
            copy,
            protection,
            disk,
            started,
            volume,
            vault,
            files,
            state: path,
            clock,
            copied,
        })
    }

    /// How it began.
    pub fn started(&self) -> &Started {
        &self.started
    }

    /// The protection of the volume from here on. Nothing is shipped before the commit.
    pub fn protection(&self) -> &Protection {
        &self.protection
    }

    /// The volume to read and write.
    pub fn volume(&self) -> &Arc<Volume> {
        self.protection.volume()
    }

    /// How far the disk is a whole copy.
    pub fn hydration(&self) -> Hydration {
        self.disk.hydration()
    }

    /// Waits until the disk is whole. `Unavailable` at the limit, with what the copy last failed with.
    pub fn wait_hydrated(&self, limit: Duration) -> Result<()> {
        let begun = self.clock.elapsed();
        let mut outcome = self.copied.outcome();
        while !outcome.whole {
            if self.clock.elapsed().saturating_sub(begun) > limit {
                let error = Error::new(ErrorKind::Unavailable, "copy", &self.volume)
                    .expected(format_args!("a whole disk within {limit:?}"))
                    .found(format_args!("{} bytes missing", self.disk.hydration().missing_bytes));
                return Err(match outcome.trouble.take() {
                    Some(cause) => error.source(cause),
                    None => error,
                });
            }
            outcome = self.copied.wait(outcome);
        }
        Ok(())
    }

    /// Makes the failover final, see [`Protection::commit_failover`].
    pub fn commit(&self) -> Result<()> {
        self.protection.commit_failover()
    }

    /// Gives the failover up: what was written since is dropped, and the source goes on as before. The disk's content is of
    /// no more use. `InvalidInput` when it was committed.
    pub fn cancel(self) -> Result<()> {
        let Self { copy, protection, disk, volume, vault, files, state, clock, .. } = self;
        if !protection.stats().provisional {
            return Err(Error::new(ErrorKind::InvalidInput, "cancel failover of", &volume)
                .message("it was committed; fail over again to go back"));
        }
        drop((copy, protection, disk));
        cancel_in(&vault, &volume, &StateDirectory::open(files, &state)?, &*clock)
    }

    /// Ends the session cleanly, as [`Protection::stop`] does; the failover and the copy go on with the next
    /// [`FailoverOptions::start`].
    pub fn stop(self, limit: Duration) -> Result<()> {
        let Self { copy, protection, .. } = self;
        drop(copy);
        protection.stop(limit)
    }

    /// Ends the session and leaves the disk as a plain one that holds the volume, for
    /// [`ProtectionOptions`](crate::ProtectionOptions) with the same state directory. Every writer must be gone.
    ///
    /// `Unavailable` when the disk is not whole yet ([`FailedOver::wait_hydrated`]), `InvalidInput` before the commit; then
    /// everything stays as it is, ended cleanly.
    pub fn detach(self, limit: Duration) -> Result<()> {
        let Self { copy, protection, disk, files, state, volume, .. } = self;
        drop(copy);
        let is_committed = !protection.stats().provisional;
        protection.stop(limit)?;
        if !is_committed {
            return Err(Error::new(ErrorKind::InvalidInput, "detach the disk of", &volume)
                .message("the failover is not committed: commit or cancel it first"));
        }
        leave_plain(&disk, files, &state)
    }
}

/// Leaves the disk of a volume that failed over as a plain one. `Unavailable` when it is not whole.
pub(super) fn leave_plain(disk: &InstantDisk, files: Arc<dyn Files>, state: &Path) -> Result<()> {
    disk.detach()?;
    let state = StateDirectory::open(files, state)?;
    state.remove(&state.base())
}

/// The thread that copies; ends with this.
struct Copying {
    thread: Option<JoinHandle<()>>,
    stopping: Arc<AtomicBool>,
}

impl Copying {
    fn begin(mut hydrator: Hydrator) -> Result<Self> {
        let volume = hydrator.volume.clone();
        let stopping = Arc::new(AtomicBool::new(false));
        let ends = stopping.clone();
        let thread = std::thread::Builder::new()
            .name("hrl-hydrate".to_owned())
            .spawn(move || {
                let goes_on = || !ends.load(Ordering::Acquire);
                while goes_on() {
                    let Some(pause) = hydrator.step(&goes_on) else { return };
                    let until = hydrator.clock.elapsed() + pause;
                    while hydrator.clock.elapsed() < until && goes_on() {
                        std::thread::sleep(POLL);
                    }
                }
            })
            .map_err(|error| Error::io("start the copy of", &volume, error))?;
        Ok(Self { thread: Some(thread), stopping })
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // One that panicked left the disk as a crash would.
            let _ = thread.join();
        }
    }
}

/// What came of the copy so far, and who waits for it.
#[derive(Default)]
struct Copied {
    outcome: Mutex<Outcome>,
    changed: Condvar,
}

#[derive(Default)]
struct Outcome {
    whole: bool,
    /// What the last try failed with.
    trouble: Option<Error>,
}

impl Copied {
    fn outcome(&self) -> MutexGuard<'_, Outcome> {
        self.outcome.lock()
    }

    fn wait<'a>(&self, outcome: MutexGuard<'a, Outcome>) -> MutexGuard<'a, Outcome> {
        self.changed.wait_timeout(outcome, POLL).0
    }

    fn end(&self, whole: bool) {
        self.outcome().whole = whole;
        self.changed.notify_all();
    }
}

/// Copies what the disk lacks, until it is whole.
pub(super) struct Hydrator {
    volume: String,
    pub(super) disk: Arc<InstantDisk>,
    events: EventSink,
    clock: Arc<dyn Clock>,
    copied: Arc<Copied>,
    retention_waits: Arc<AtomicBool>,
    /// That it cannot go on was told.
    told: bool,
}

impl Hydrator {
    /// What protects the disk that is served and what makes it whole, with how and when it began.
    pub(super) fn of(
        served: Served,
    ) -> (ProtectionOptions, StateDirectory, Self, Started, Duration) {
        let Served { options, state, disk, started, begun } = served;
        let disk = Arc::new(disk);
        let FailoverOptions { volume, vault, policy, applications, events, clock, .. } = options;
        let path = state.path().to_owned();
        let mut protection = ProtectionOptions::new(&volume, disk.clone(), vault, path)
            .policy(policy)
            .events(events.clone())
            .clock(clock.clone())
            .among(state.files().clone());
        if let Some(applications) = applications {
            protection = protection.applications(applications);
        }
        let (copied, retention_waits) = (Arc::default(), Arc::default());
        let hydrator = Self { volume, disk, events, clock, copied, retention_waits, told: false };
        (protection, state, hydrator, started, begun)
    }

    /// What the copy is read from must stay until it is made.
    pub(super) fn of_protection(self, retention_waits: &Arc<AtomicBool>) -> Self {
        retention_waits.store(true, Ordering::Release);
        Self { retention_waits: retention_waits.clone(), ..self }
    }

    /// Copies until `goes_on` says no; then, and after a failure, how long to wait before the next step. `None`: the disk is
    /// whole.
    pub(super) fn step(&mut self, goes_on: &(dyn Fn() -> bool + Sync)) -> Option<Duration> {
        match self.disk.hydrate(&|_done, _total| goes_on()) {
            Ok(hydration) => {
                let whole = hydration.is_whole();
                self.retention_waits.store(!whole, Ordering::Release);
                self.copied.end(whole);
                (!whole).then_some(Duration::ZERO)
            }
            Err(error) => {
                if !self.told {
                    self.tell(format!("copying the volume to {}: {error}", self.disk.name()));
                }
                self.told = true;
                self.copied.outcome().trouble = Some(error);
                Some(RETRY)
            }
        }
    }

    fn tell(&self, message: String) {
        let (time, volume) = (self.clock.now(), self.volume.clone());
        (self.events)(&Event { time, volume, kind: EventKind::TaskFailed, message });
    }
}
