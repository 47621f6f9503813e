//! A volume that failed over to here, running: its disk, its protection, and the copy of the volume
//! to the disk.
//!
//! While the copy is incomplete, retention waits: what the disk still lacks is read from the vault.
//!
//! Behaviour on failure: the copy retries for as long as it takes. Its first failure is an event,
//! and [`FailedOver::wait_hydrated`] returns the newest one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::cancel::cancel_in;
use super::options::FailoverOptions;
use super::serve::{Served, Started};
use crate::agent::state::StateDirectory;
use crate::agent::{Protection, ProtectionOptions, check_applications};
use crate::capture::Volume;
use crate::clock::Clock;
use crate::device::{BlockDevice, Files};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, EventKind, EventSink};
use crate::replica::{Hydration, InstantDisk};
use crate::sync::lock::{Condvar, Mutex};
use crate::vault::Vault;

const POLL: Duration = Duration::from_millis(20);
/// Pause of the copy after the vault or the disk failed.
const RETRY: Duration = Duration::from_secs(1);

impl FailoverOptions {
    /// Fails over. Returns once the volume can be read and written as of the recovery state, while
    /// the copy to the disk goes on.
    ///
    /// A failover under way in the state directory goes on as it was. If its recovery state is gone
    /// and the volume was never served, the state is chosen again.
    ///
    /// `Fenced` if another failover is under way or was committed, `NotFound` and `NotOrdered` for
    /// the recovery state, `InvalidInput` for a disk that is too small. `Unavailable` if the vault
    /// does not answer, or if the source did not hand over in time; the request is taken back then.
    pub fn start(self) -> Result<FailedOver> {
        self.policy.validate()?;
        check_applications(self.applications.as_ref(), &self.policy)?;
        FailedOver::run(self.serve()?)
    }
}

/// A volume that failed over to here. May be used from any thread; one thread ends it.
///
/// Dropping it leaves what a crash would leave, and [`FailoverOptions::start`] goes on from there.
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

    /// Returns how the failover began.
    pub fn started(&self) -> &Started {
        &self.started
    }

    /// Returns the protection of the volume. It ships nothing before the commit.
    pub fn protection(&self) -> &Protection {
        &self.protection
    }

    /// Returns the volume to read and write.
    pub fn volume(&self) -> &Arc<Volume> {
        self.protection.volume()
    }

    /// Returns how much of the volume the disk holds.
    pub fn hydration(&self) -> Hydration {
        self.disk.hydration()
    }

    /// Waits until the disk holds the whole volume. `Unavailable` at the limit, caused by the last
    /// failure of the copy.
    pub fn wait_hydrated(&self, limit: Duration) -> Result<()> {
        let begun = self.clock.elapsed();
        let mut outcome = self.copied.outcome.lock();
        while !outcome.whole {
            if self.clock.elapsed().saturating_sub(begun) > limit {
                let error = Error::new(ErrorKind::Unavailable, "copy", &self.volume)
                    .expected(format_args!("a whole disk within {limit:?}"))
                    .found(format_args!("{} bytes missing", self.disk.hydration().missing_bytes));
                return Err(match outcome.failure.take() {
                    Some(cause) => error.caused_by(cause),
                    None => error,
                });
            }
            outcome = self.copied.changed.wait_timeout(outcome, POLL).0;
        }
        Ok(())
    }

    /// Makes the failover final, as [`Protection::commit_failover`] does.
    pub fn commit(&self) -> Result<()> {
        self.protection.commit_failover()
    }

    /// Cancels the failover: what was written since is dropped, and the source goes on as before.
    /// The content of the disk is of no more use. `InvalidInput` if the failover was committed.
    pub fn cancel(self) -> Result<()> {
        let Self { copy, protection, disk, volume, vault, files, state, clock, .. } = self;
        if !protection.stats().provisional {
            return Err(Error::new(ErrorKind::InvalidInput, "cancel failover of", &volume)
                .message("it was committed; fail over again to go back"));
        }
        drop((copy, protection, disk));
        cancel_in(&vault, &volume, &StateDirectory::open(files, &state)?, &*clock)
    }

    /// Ends the session cleanly, as [`Protection::stop`] does. Failover and copy go on with the
    /// next [`FailoverOptions::start`].
    pub fn stop(self, limit: Duration) -> Result<()> {
        let Self { copy, protection, .. } = self;
        drop(copy);
        protection.stop(limit)
    }

    /// Ends the session and leaves a plain disk that holds the volume. Every writer must be gone.
    ///
    /// From then on [`ProtectionOptions`](crate::ProtectionOptions) opens the disk, with the same
    /// state directory. `Unavailable` while the disk is not whole ([`FailedOver::wait_hydrated`]),
    /// `InvalidInput` before the commit. After either the session has ended cleanly, and nothing
    /// else has changed.
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

/// Makes the disk of a failover a plain one. `Unavailable` if it is not whole.
pub(super) fn leave_plain(disk: &InstantDisk, files: Arc<dyn Files>, state: &Path) -> Result<()> {
    disk.detach()?;
    let state = StateDirectory::open(files, state)?;
    state.remove(&state.base())
}

/// Runs the copy on a thread, until it is dropped.
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
            // A thread that panicked left the disk as a crash would.
            let _ = thread.join();
        }
    }
}

/// The outcome of the copy, for those who wait for it.
#[derive(Default)]
struct Copied {
    outcome: Mutex<Outcome>,
    changed: Condvar,
}

#[derive(Default)]
struct Outcome {
    whole: bool,
    /// Failure of the last attempt.
    failure: Option<Error>,
}

impl Copied {
    fn end(&self, whole: bool) {
        self.outcome.lock().whole = whole;
        self.changed.notify_all();
    }
}

/// Copies what the disk lacks, step by step, until it is whole.
pub(super) struct Hydrator {
    volume: String,
    pub(super) disk: Arc<InstantDisk>,
    events: EventSink,
    clock: Arc<dyn Clock>,
    copied: Arc<Copied>,
    retention_waits: Arc<AtomicBool>,
    /// A failure was reported already.
    reported: bool,
}

impl Hydrator {
    /// Returns the options that protect the served disk, and the copy that makes it whole.
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
        let hydrator =
            Self { volume, disk, events, clock, copied, retention_waits, reported: false };
        (protection, state, hydrator, started, begun)
    }

    /// Makes retention wait until the copy is made, because the copy reads what retention would
    /// remove.
    pub(super) fn of_protection(self, retention_waits: &Arc<AtomicBool>) -> Self {
        retention_waits.store(true, Ordering::Release);
        Self { retention_waits: retention_waits.clone(), ..self }
    }

    /// Copies until `goes_on` returns false. Returns the pause before the next step; `None` once
    /// the disk is whole.
    pub(super) fn step(&mut self, goes_on: &(dyn Fn() -> bool + Sync)) -> Option<Duration> {
        match self.disk.hydrate(&|_done, _total| goes_on()) {
            Ok(hydration) => {
                let whole = hydration.is_whole();
                self.retention_waits.store(!whole, Ordering::Release);
                self.copied.end(whole);
                (!whole).then_some(Duration::ZERO)
            }
            Err(error) => {
                if !self.reported {
                    self.report(format!("copying the volume to {}: {error}", self.disk.name()));
                }
                self.reported = true;
                self.copied.outcome.lock().failure = Some(error);
                Some(RETRY)
            }
        }
    }

    fn report(&self, message: String) {
        let (time, volume) = (self.clock.now(), self.volume.clone());
        (self.events)(&Event { time, volume, kind: EventKind::TaskFailed, message });
    }
}
