//! Opens a protection: claims the volume, recovers what the last session left, and starts the
//! tasks.
//!
//! Behaviour on failure: an open that fails may be repeated. It leaves the volume to its source,
//! unless it was about to take the volume over.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::anchor::{Anchor, AnchorFile, Difference, new_instance};
use super::baseline::Baseline;
use super::failures::Failures;
use super::inspector::Inspector;
use super::journal_progress::JournalProgress;
use super::points::Points;
use super::progress::Progress;
use super::protection::Protection;
use super::provisional::Provisional;
use super::requests::Requests;
use super::resync_progress::ResyncProgress;
use super::session::Session;
use super::shared::Shared;
use super::shipments::Shipments;
use super::shipper::{Sender, Shipper};
use super::spool::Spool;
use super::task::Task;
use super::witness::Seen;
use super::{
    applications, away, hand_over, journaling, recover, resync, retention, rewind, shipping, state,
    surrender, task, timer,
};
use crate::capture::{Tap, Volume};
use crate::clock::{Clock, SystemClock};
use crate::device::{BlockDevice, Files, SystemFiles};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, EventKind, EventSink, no_events};
use crate::journal::KeyRing;
use crate::macros::setters;
use crate::point::Quiesce;
use crate::policy::{CaptureContent, Policy};
use crate::replica::Replica;
use crate::sync;
use crate::vault::{Catalog, CatalogEdit, SourceIdentity, Vault, VolumeInfo, check_marker};

/// Options to open a [`Protection`]: required arguments in [`ProtectionOptions::new`], the rest
/// chained.
pub struct ProtectionOptions {
    volume: String,
    device: Arc<dyn BlockDevice>,
    vault: Vault,
    pub(super) state: PathBuf,
    policy: Policy,
    events: EventSink,
    inspector: Option<Arc<dyn Inspector>>,
    clock: Arc<dyn Clock>,
    applications: Option<Arc<dyn Quiesce>>,
    take_over: bool,
    adopt_disk: bool,
    /// Whether an observer of the disk knows all its changes since the last session.
    observed: Option<bool>,
    outside_writer: bool,
    pub(super) files: Arc<dyn Files>,
}

impl ProtectionOptions {
    /// Protects `device` as `volume` of `vault`.
    ///
    /// `state` is the state directory of this agent, with its dirty map, spool and identity. It is
    /// created if it is absent, and must not be on the protected device.
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
            inspector: None,
            clock: SystemClock::shared(),
            applications: None,
            take_over: false,
            adopt_disk: false,
            observed: None,
            outside_writer: false,
            files: Arc::new(SystemFiles),
        }
    }

    /// Returns whether an agent has used the state directory, so that the vault of its volume exists.
    /// Whoever opens that must not make a vault then ([`Vault::awaited`]).
    pub fn knows_vault(state: &Path) -> bool {
        state::identity_path(state).exists()
    }

    setters! {
        /// Sets the policy. Default: [`Policy::default`].
        policy: Policy;

        /// Sets where events go. Default: nowhere.
        events: EventSink;

        /// Sets who sees what the journal records. Default: nobody.
        inspector: Arc<dyn Inspector> => Some;

        /// Sets what is quiesced for application-consistent points, on demand
        /// ([`Protection::mark_app`]) and by the policy's interval.
        ///
        /// Required if [`Policy::quiesce`] names applications: `hrl_quiesce::Applications::of_policy`
        /// makes their provider. Default: none.
        applications: Arc<dyn Quiesce> => Some;

        /// Sets the source of time and entropy. Default: the system's.
        clock: Arc<dyn Clock>;

        /// Takes the volume over if another source owns it. Default: no, `open` fails with `Fenced`
        /// then.
        take_over: bool;

        /// Goes on with another disk than the one that was protected, and compares all of it. Does
        /// nothing if the disk is the same. Default: no, `open` fails with `Changed` then.
        adopt_disk: bool;

        /// Says that a copy writes to the volume, such as the mirror of a running machine. The volume is
        /// unordered until its driver calls [`Protection::set_writer_in_sync`].
        /// Default: writers keep their order by themselves.
        outside_writer: bool;
    }

    /// Leaves what is captured to an observer of a disk that others write to ([`Observation`](super::Observation)).
    ///
    /// `knows_all`: the observer knows every block that was changed since it was journaled. Without that,
    /// the whole disk is compared with the replica. Default: writes go through [`Protection::volume`].
    pub fn observed(mut self, knows_all: bool) -> Self {
        self.observed = Some(knows_all);
        self
    }

    /// Sets the files that the state directory is among. Default: the system's. Feature `testing`.
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

    /// Opens the volume, finds what must be read again, and starts the tasks.
    ///
    /// If the vault does not answer and the state directory knows the volume, the session begins all
    /// the same. Writes are captured and spooled, points are taken, and nothing is shipped before the
    /// vault was compared with the state directory ([`ProtectionStats::vault_away`]). A volume that
    /// another source has taken over meanwhile is `Fenced` only then. A take-over needs the vault.
    ///
    /// `Fenced` if another agent runs with the state directory or another source owns the volume,
    /// `Changed` if the disk is not the one that was protected, `Unavailable` if the vault does not
    /// answer and the state directory is new, `WrongKey`.
    ///
    /// [`ProtectionStats::vault_away`]: super::ProtectionStats::vault_away
    pub fn open(self) -> Result<Protection> {
        let state = state::StateDirectory::open(self.files.clone(), &self.state)?;
        self.check_whole(&state)?;
        self.open_with(state)
    }

    /// Refuses a disk that failed over to here and is not a whole copy yet.
    pub(super) fn check_whole(&self, state: &state::StateDirectory) -> Result<()> {
        let not_whole = state.presence_log();
        if !self.files.exists(&not_whole) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::InvalidInput, "protect", self.device.name())
            .message("the volume failed over to this disk, and the copy is not complete: go on with the failover, or detach the disk")
            .found(not_whole.display()))
    }

    /// Opens as [`ProtectionOptions::open`] does, with a state directory that is open already.
    pub(crate) fn open_with(self, state: state::StateDirectory) -> Result<Protection> {
        self.policy.validate()?;
        let (shared, baseline) = self.recover(state)?;
        let tasks = tasks(&shared, baseline);
        Ok(Protection {
            tasks: tasks.into_iter().map(|task| task::spawn(&shared, task)).collect(),
            shared,
        })
    }

    /// Opens the volume and finds what must be read again. The caller starts the tasks.
    pub(super) fn recover(self, state: state::StateDirectory) -> Result<(Arc<Shared>, Baseline)> {
        applications::check(self.applications.as_ref(), &self.policy)?;
        let applications = self.applications.clone();
        let begun = match self.vault.check_seen() {
            Err(error) if away::is_away(&error) => self.begin_away(&state, error)?,
            seen => match seen.and_then(|()| self.begin_there(&state)) {
                Err(error) if error.kind() == ErrorKind::Unavailable => {
                    self.begin_away(&state, error)?
                }
                begun => begun?,
            },
        };
        let Begun { info, keys, source, provisional, replica, anchor, mut left, away } = begun;
        let seen = Seen::of(&state, &*self.device)?;
        recover::leave_to_observer(&state, self.observed)?;
        let how = (self.adopt_disk, self.observed.is_some());
        let mut needed = recover::disk(&state, &seen, how, &info, &self.policy, &left)?;
        needed.map.begin_session(&**state.files())?;
        seen.begin(&state)?;
        let baseline = recover::baseline(&state, replica.as_ref(), &left, &needed);
        let tap = Arc::new(Tap::new(
            info.device_bytes,
            left.last_sequence,
            &self.policy,
            self.clock.clone(),
        ));
        if self.observed.is_some() {
            tap.observe();
        }
        if self.outside_writer {
            tap.await_driver();
        }
        let spool = Spool::new(self.files.clone(), self.policy.spool_bytes_max);
        // Nothing counts as replicated while the vault is away.
        let mut catalog = match replica {
            Some(replica) => replica.into_catalog(),
            None => Catalog::unread(&self.vault, &info, &keys),
        };
        let replicated = catalog.last_sequence();
        let instance = new_instance(&*self.clock, anchor.as_ref(), &catalog);
        let (anchor, epoch) = match (&away, anchor) {
            (Some(_), Some(anchor)) => (anchor.begin_away(&instance, left.end), anchor.epoch),
            (_, anchor) => {
                let before = anchor.as_ref();
                let begun = Anchor::begin(&catalog, &source, &instance, left.end, before);
                (begun, catalog.epoch())
            }
        };
        // Before the anchor agrees with the vault again: a start that dies here reports it anew.
        self.report(left.difference.take());
        catalog.begin_session(instance, &anchor.sessions);
        let anchor = Arc::new(AnchorFile::begin(&state, anchor)?);
        if away.is_none() && provisional.is_none() {
            away::keep(&state, &self.vault, &info, &keys)?;
        }
        left.remove_listed(&state)?;
        let shipper = Shipper::new(
            self.vault.store().clone(),
            self.files.clone(),
            catalog,
            Sender { volume: self.volume.clone(), source, anchor: anchor.clone() },
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
            inspector: self.inspector,
            state,
            anchor,
            dirty: sync::Mutex::new(needed.map),
            journal: JournalProgress::new(left.last_sequence, left.chain),
            points: Points::new(applications),
            resync: ResyncProgress::default(),
            shipping: Shipments::new(spool, shipper, replicated),
            session: Session::new(provisional, away.as_ref().map(|_| left.broken)),
            requests: Requests::default(),
            progress: Progress::default(),
            failures: Failures::default(),
        });
        if let Some(why) = away {
            shared.shipping.vault_failed();
            let message = format!(
                "the vault {} is away: {why}; writes are captured into the spool, and nothing is shipped until the vault \
                 answers and was compared with what is known here",
                shared.vault.objects().name()
            );
            shared.event(EventKind::VaultUnavailable, message);
        }
        for repair in left.repairs {
            shared.event(EventKind::JournalRepaired, repair);
        }
        left.spooled.into_iter().for_each(|spooled| shared.shipping.spool.push(spooled));
        // An open unordered interval needs its end, even if nothing is left to read.
        if !needed.regions.is_empty() || left.open_unordered.is_some() {
            let since = shared.unknown_since();
            shared.tap.require_resync(&needed.regions, needed.cause, since);
        }
        shared.tap.writer_lost_sync();
        hand_over::resume(&shared);
        Ok((shared, baseline))
    }

    /// Claims the volume in the vault, and compares vault and state directory.
    fn begin_there(&self, state: &state::StateDirectory) -> Result<Begun> {
        let Claim { mut replica, source, provisional, has_gap } = self.claim(state)?;
        let mut left = recover::journal(state, &replica, &*self.clock)?;
        let before = Anchor::read_forgotten(state)?;
        let anchor = before.as_ref().filter(|anchor| anchor.knows_vault());
        if let Some(anchor) = anchor {
            left.compare(anchor, &replica, &source);
        }
        if provisional.is_none()
            && let Some(anchor) = anchor.filter(|_| has_gap || left.vault_went_back())
        {
            let known = (anchor.version, anchor.hash);
            // Once this start has gone beyond, the next one finds nothing amiss.
            self.report(left.difference.take_if(|found| !found.content));
            rewind::go_beyond(replica.catalog_mut(), known, &source)?;
        } else if provisional.is_none() && left.may_lack_what_was_published(state) {
            replica = self.with_late_versions(replica, &source)?;
            left = left.again(recover::journal(state, &replica, &*self.clock)?);
            if let Some(anchor) = anchor {
                left.compare(anchor, &replica, &source);
            }
        }
        Ok(Begun {
            info: replica.info().clone(),
            keys: replica.keys().clone(),
            source,
            provisional,
            replica: Some(replica),
            anchor: before,
            left,
            away: None,
        })
    }

    /// Reports that vault and state directory differ, if they do.
    fn report(&self, difference: Option<Difference>) {
        let Some(Difference { cause, message, content }) = difference else { return };
        let then = if content { "; the disk is compared with the replica" } else { "" };
        let kind = EventKind::Diverged { cause };
        let (time, volume) = (self.clock.now(), self.volume.clone());
        (self.events)(&Event { time, volume, kind, message: format!("{message}{then}") });
    }

    /// Begins by what the state directory knows, because the vault is away for the reason `why`. Fails
    /// with that if it does not know enough.
    fn begin_away(&self, state: &state::StateDirectory, why: Error) -> Result<Begun> {
        if self.take_over {
            return Err(why);
        }
        let Some(known) = away::recall(state, &self.vault, &self.volume)? else { return Err(why) };
        self.check_disk(&known.info)?;
        let left = known.journal(state, &*self.clock)?;
        Ok(Begun {
            info: known.info,
            keys: known.keys,
            source: known.identity.source,
            provisional: None,
            replica: None,
            anchor: Some(known.anchor),
            left,
            away: Some(why),
        })
    }

    /// Returns the volume with every catalog version of this source, even one whose put is still on
    /// its way.
    ///
    /// Puts the next version, without an edit. A late put of that version either came first, and is
    /// read here, or fails. `Fenced` if another source took the volume over meanwhile.
    fn with_late_versions(&self, replica: Replica, source: &SourceIdentity) -> Result<Replica> {
        replica.into_catalog().append(source, Vec::new())?;
        self.vault.replica(&self.volume)
    }

    /// Opens the replica, and returns whether its catalog ends before a gap. It does if the vault went
    /// back, and this source had put a version on top of those that are gone.
    fn replica(&self, state: &state::StateDirectory) -> Result<(Replica, bool)> {
        let error = match self.vault.replica(&self.volume) {
            Err(error) if error.kind() == ErrorKind::Corrupt => error,
            replica => return Ok((replica?, false)),
        };
        let Some(anchor) = Anchor::read(state)? else { return Err(error) };
        let info = self.vault.volume(&self.volume)?;
        let keys = self.vault.keys(&info)?;
        Ok((rewind::up_to_gap(&self.vault, &info, &keys, &anchor, error)?, true))
    }

    /// Finds or creates the volume in the vault, and makes sure that this source owns it.
    fn claim(&self, state: &state::StateDirectory) -> Result<Claim> {
        let known = state.identity()?;
        away::put_back_keys(state, &self.vault, &self.volume)?;
        if self.vault.volume(&self.volume).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            if let Some(known) = known.as_ref().filter(|known| known.volume_name == self.volume) {
                check_marker(&**self.vault.objects())?;
                return Err(Error::new(ErrorKind::Changed, "protect", &self.volume)
                    .message("this agent has replicated the volume before, but the vault does not contain it")
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
        let (replica, has_gap) = self.replica(state)?;
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
                return Ok(Claim { replica, source, provisional: Some(provisional), has_gap });
            }
            Provisional::forget(state)?;
        }
        let other = replica.catalog().source().filter(|owner| owner.id != source.id);
        if let Some(owner) = other.filter(|_| !self.take_over) {
            away::forget(state)?;
            return Err(self.refused(state, &replica, &source, owner));
        }
        state.set_identity(&state::Identity {
            volume_name: self.volume.clone(),
            volume: replica.info().id,
            source: source.clone(),
        })?;
        if replica.catalog().source() == Some(&source) {
            return Ok(Claim { replica, source, provisional: None, has_gap });
        }
        // Another source has changed the volume: the dirty map does not show where the disk
        // differs, and the anchor is of the history before.
        state.forget_dirty_map()?;
        Anchor::forget(state)?;
        // Before the catalog is read: from here on no other source can add to it.
        let taken = vec![CatalogEdit::Source(source.clone())];
        let mut catalog = replica.into_catalog();
        if has_gap {
            catalog.go_beyond(catalog.version(), &source, &taken)?;
        } else {
            catalog.append(&source, taken)?;
        }
        let replica = self.vault.replica(&self.volume)?;
        Ok(Claim { replica, source, provisional: None, has_gap: false })
    }

    /// Returns the error for a volume that another source owns. After a failover, hands in first
    /// what this source still has.
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
                "the source on {} owns it since {}; take it over only if that source is gone",
                owner.host, owner.since
            ));
        };
        let late = match surrender::hand_in(state, replica, source, &*self.clock) {
            Ok(done) => format!(
                "{} segments with {} records were handed in now",
                done.segments, done.records
            ),
            Err(error) => format!("the rest of the spool could not be handed in: {error}"),
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

/// A session that begins.
struct Begun {
    info: VolumeInfo,
    keys: KeyRing,
    source: SourceIdentity,
    /// A failover to here that is not committed.
    provisional: Option<Provisional>,
    /// The volume in the vault; `None` while that is away.
    replica: Option<Replica>,
    /// The anchor of the last session, perhaps forgotten.
    anchor: Option<Anchor>,
    left: recover::Left,
    /// Why the vault is away.
    away: Option<Error>,
}

/// The volume in the vault, as claimed by this agent.
struct Claim {
    replica: Replica,
    source: SourceIdentity,
    /// A failover to here that is not committed. The replica is as if it were.
    provisional: Option<Provisional>,
    /// The vault has versions of the catalog after a gap, which nobody can read.
    has_gap: bool,
}

/// Returns the tasks of a protection.
pub(super) fn tasks(shared: &Shared, baseline: Baseline) -> Vec<Box<dyn Task>> {
    vec![
        Box::new(journaling::Journaling::new(shared)),
        Box::new(timer::Keeper),
        Box::new(resync::Resync::new(baseline)),
        Box::new(shipping::Shipping::new(shared)),
        Box::new(retention::Retention::new(shared)),
        Box::new(timer::Timer::new(shared)),
        Box::new(applications::AppPoints::default()),
    ]
}
