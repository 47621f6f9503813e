//! Opening a protection: whose the volume is, how the last session ended, and what must be read again.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use super::provisional::Provisional;
use super::shipper::Shipper;
use super::spool::Spool;
use super::{
    JournalState, Protection, Shared, applications, hand_over, recover, resync, state, surrender,
    task, tasks,
};
use crate::capture::{Tap, Volume};
use crate::clock::{Clock, SystemClock};
use crate::device::{BlockDevice, Files, SystemFiles};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{EventKind, EventSink, no_events};
use crate::point::Quiesce;
use crate::policy::{CaptureContent, Policy};
use crate::replica::Replica;
use crate::sync;
use crate::sync::lock::{Condvar, Mutex};
use crate::vault::{CatalogEdit, SourceIdentity, Vault, VolumeInfo};

/// How to open a [`Protection`]: required arguments in [`ProtectionOptions::new`], the rest chained.
pub struct ProtectionOptions {
    volume: String,
    device: Arc<dyn BlockDevice>,
    vault: Vault,
    pub(super) state: PathBuf,
    policy: Policy,
    events: EventSink,
    clock: Arc<dyn Clock>,
    applications: Option<Arc<dyn Quiesce>>,
    take_over: bool,
    pub(super) files: Arc<dyn Files>,
}

impl ProtectionOptions {
    /// Protects `device` as `volume` of `vault`. `state` is the local directory of this agent (dirty map, spool,
    /// identity), created when it is absent; it must not be on the protected device.
    pub fn new(
        volume: &str,
        device: Arc<dyn BlockDevice>,
        vault: Vault,
        state: impl Into<PathBuf>,
    ) -> Self {
        Self {
            volume: volume.to_owned(),
            device,
            vault,
            state: state.into(),
            policy: Policy::default(),
            events: no_events(),
            clock: SystemClock::shared(),
            applications: None,
            take_over: false,
            files: Arc::new(SystemFiles),
        }
    }

    /// Limits and choices. Default: [`Policy::default`].
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Where events go. Default: nowhere.
    pub fn events(mut self, sink: EventSink) -> Self {
        self.events = sink;
        self
    }

    /// Sets what is quiesced for application-consistent points ([`Protection::mark_app`], and by the policy's interval).
    /// Required if [`Policy::quiesce`] names applications; `hrl_quiesce::Applications::of_policy` makes their provider.
    /// Default: none.
    pub fn applications(mut self, applications: Arc<dyn Quiesce>) -> Self {
        self.applications = Some(applications);
        self
    }

    /// Time and entropy. Default: those of the system.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Take the volume over when another source has it. Default: no, that is a `Fenced` error which names it.
    pub fn take_over(mut self, yes: bool) -> Self {
        self.take_over = yes;
        self
    }

    /// Where the state directory is. Default: the files of the system. Feature `testing`.
    #[cfg(any(test, feature = "testing"))]
    pub fn files(self, files: Arc<dyn Files>) -> Self {
        self.among(files)
    }

    pub(crate) fn among(mut self, files: Arc<dyn Files>) -> Self {
        self.files = files;
        self
    }

    pub(crate) fn vault(&self) -> &Vault {
        &self.vault
    }

    /// Opens the volume, finds what must be read again, and starts.
    ///
    /// `Fenced` when another agent or source has the volume, `Changed` when the disk is not the one that was
    /// protected, `WrongKey`, `Unavailable` when the vault cannot be reached.
    pub fn open(self) -> Result<Protection> {
        let state = state::StateDirectory::open(self.files.clone(), &self.state)?;
        self.check_whole(&state)?;
        self.open_with(state)
    }

    /// Refuses a disk that failed over to here and lacks some of the volume.
    pub(super) fn check_whole(&self, state: &state::StateDirectory) -> Result<()> {
        let not_whole = state.presence_log();
        if !self.files.exists(&not_whole) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::InvalidInput, "protect", self.device.name())
            .message("the disk failed over to here and is not whole: go on with the failover, or detach it")
            .found(not_whole.display()))
    }

    /// As [`ProtectionOptions::open`], with a state directory that is open already.
    pub(crate) fn open_with(self, state: state::StateDirectory) -> Result<Protection> {
        self.policy.validate()?;
        let (shared, baseline) = self.recover(state)?;
        let tasks = tasks(&shared, baseline);
        Ok(Protection {
            tasks: tasks.into_iter().map(|task| task::spawn(&shared, task)).collect(),
            shared,
        })
    }

    /// Opens the volume and finds what must be read again, for tasks that are to be started.
    pub(super) fn recover(
        self,
        state: state::StateDirectory,
    ) -> Result<(Arc<Shared>, resync::Baseline)> {
        applications::check(self.applications.as_ref(), &self.policy)?;
        let applications = self.applications.clone();
        let Claim { mut replica, source, provisional } = self.claim(&state)?;
        let info = replica.info().clone();
        let mut left = recover::journal(&state, &replica, &*self.clock)?;
        if provisional.is_none() && left.may_lack_what_was_named(&state) {
            replica = self.with_late_versions(replica, &source)?;
            left = left.again(recover::journal(&state, &replica, &*self.clock)?);
        }
        let mut needed = recover::disk(&state, &*self.device, &info, &self.policy, &left)?;
        needed.map.begin_session_in(&**state.files())?;
        let baseline = recover::baseline(&state, &replica, &left, &needed);
        let tap = Arc::new(Tap::new(
            info.device_bytes,
            left.last_sequence,
            &self.policy,
            self.clock.clone(),
        ));
        let spool = Spool::new(self.files.clone(), self.policy.spool_bytes_max);
        let keys = replica.keys().clone();
        let epoch = replica.catalog().epoch();
        let replicated = replica.catalog().last_sequence();
        let catalog = replica.into_catalog();
        let shipper = Shipper::new(
            self.vault.store().clone(),
            self.files.clone(),
            self.volume.clone(),
            catalog,
            source,
            &self.policy,
            self.clock.clone(),
        );
        let shared = Arc::new(Shared {
            vault: self.vault,
            volume: Arc::new(Volume::new(self.device.clone(), tap.clone())),
            tap,
            info,
            epoch,
            keys,
            policy: self.policy,
            clock: self.clock,
            events: self.events,
            state,
            dirty: sync::Mutex::new(needed.map),
            spool,
            shipper,
            journal: Mutex::new(JournalState::new(left.last_sequence, left.chain)),
            journal_changed: Condvar::new(),
            quiescing: Mutex::new(()),
            applications,
            replicated: AtomicU64::new(replicated.0),
            points: AtomicU64::new(0),
            resync_read: AtomicU64::new(0),
            resync_journaled: AtomicU64::new(0),
            vault_available: AtomicBool::new(true),
            fenced: AtomicBool::new(false),
            drained: AtomicBool::new(false),
            provisional: Mutex::new(provisional),
            committing: Mutex::new(()),
            retention_waits: Arc::default(),
            handed_over: Mutex::new(None),
            seal_now: AtomicBool::new(false),
            name_now: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        });
        for note in &left.notes {
            shared.event(EventKind::JournalRepaired, note.clone());
        }
        left.spooled.into_iter().for_each(|spooled| shared.spool.push(spooled));
        // An interval that was left open needs its end, also when nothing is left to read.
        if !needed.regions.is_empty() || left.open_unordered.is_some() {
            shared.tap.require_resync(&needed.regions, needed.cause);
        }
        hand_over::resume(&shared);
        Ok((shared, baseline))
    }

    /// The volume with the version that this source put last, should its put arrive late: the next one of the catalog is put here,
    /// without an edit, so a late one is there before or never will be. `Fenced` when another source took the volume meanwhile.
    fn with_late_versions(&self, replica: Replica, source: &SourceIdentity) -> Result<Replica> {
        replica.into_catalog().append(source, Vec::new())?;
        self.vault.replica(&self.volume)
    }

    /// Finds or creates the volume in the vault and makes sure that it is ours.
    fn claim(&self, state: &state::StateDirectory) -> Result<Claim> {
        let known = state.identity()?;
        if self.vault.volume(&self.volume).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            if let Some(known) = known.as_ref().filter(|known| known.volume_name == self.volume) {
                return Err(Error::new(ErrorKind::Changed, "protect", &self.volume)
                    .message("this agent has replicated the volume before, and the vault does not have it")
                    .expected(format_args!("volume {}", known.volume))
                    .found("none"));
            }
            let extents_only = self.policy.content == CaptureContent::ExtentsOnly;
            let (size, block) = (self.device.size_bytes(), self.device.block_bytes());
            match self.vault.create_volume(&self.volume, size, block, extents_only) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        let replica = self.vault.replica(&self.volume)?;
        self.check_disk(replica.info())?;
        let source = match known {
            Some(known) => {
                known.check_volume(replica.info(), "protect")?;
                known.source
            }
            None => state::new_source(&*self.clock),
        };
        if let Some(provisional) = Provisional::read(state)? {
            let source = provisional.source.clone();
            if !provisional.is_committed(replica.catalog()) {
                provisional.check_current(replica.catalog())?;
                let division = provisional.division(state, &replica, self.clock.now())?;
                let replica = replica.divided(&division)?;
                return Ok(Claim { replica, source, provisional: Some(provisional) });
            }
            Provisional::forget(state)?;
        }
        match replica.catalog().source() {
            Some(owner) if owner.id != source.id && !self.take_over => {
                return Err(self.refused(state, &replica, &source, owner));
            }
            _ => {}
        }
        state.set_identity(&state::Identity {
            volume_name: self.volume.clone(),
            volume: replica.info().id,
            source: source.clone(),
        })?;
        if replica.catalog().source() == Some(&source) {
            return Ok(Claim { replica, source, provisional: None });
        }
        // Disk and volume went different ways while another source had it: no mark says where they differ.
        state.forget_dirty_map()?;
        // Taken before the catalog is looked at: from here on no other source can add to it.
        let taken = vec![CatalogEdit::Source(source.clone())];
        replica.into_catalog().append(&source, taken)?;
        Ok(Claim { replica: self.vault.replica(&self.volume)?, source, provisional: None })
    }

    /// Another source has the volume. What this one still had after a failover is handed in first.
    fn refused(
        &self,
        state: &state::StateDirectory,
        replica: &Replica,
        source: &SourceIdentity,
        owner: &SourceIdentity,
    ) -> Error {
        let fenced = Error::new(ErrorKind::Fenced, "protect", &self.volume);
        let Some(branch) = replica.catalog().branch_of(source) else {
            return fenced.message(format_args!(
                "the source on {} has it since {}; take it over only when that one is gone",
                owner.host, owner.since
            ));
        };
        let late = match surrender::hand_in(state, replica, source, &*self.clock) {
            Ok(done) => format!(
                "{} segments with {} records were handed in now",
                done.segments, done.records
            ),
            Err(error) => format!("what the spool still has could not be handed in: {error}"),
        };
        fenced.message(format_args!(
            "it failed over to {} at sequence {} (epoch {} ended {}); what was written here later is kept as the branch of \
             epoch {}: {late}",
            owner.host, branch.at, branch.epoch, branch.time, branch.epoch
        ))
    }

    fn check_disk(&self, info: &VolumeInfo) -> Result<()> {
        let changed = || Error::new(ErrorKind::Changed, "protect", &self.volume);
        if self.device.size_bytes() != info.device_bytes {
            return Err(changed()
                .message(format_args!(
                    "{} is not the disk that was protected, or was resized",
                    self.device.name()
                ))
                .expected(format_args!("{} bytes", info.device_bytes))
                .found(format_args!("{} bytes", self.device.size_bytes())));
        }
        if info.extents_only != (self.policy.content == CaptureContent::ExtentsOnly) {
            let name = |only| if only { "extents only" } else { "data" };
            return Err(changed()
                .expected(format_args!("a policy that captures {}", name(info.extents_only)))
                .found(format_args!("one that captures {}", name(!info.extents_only))));
        }
        Ok(())
    }
}

/// The volume in the vault as this agent has it.
struct Claim {
    replica: Replica,
    source: SourceIdentity,
    /// A failover to here that is not committed; the replica is as if it were.
    provisional: Option<Provisional>,
}
