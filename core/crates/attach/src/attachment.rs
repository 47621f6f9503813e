//! [`Attachment`]: a disk in use, protected by points of which each is a clean, audited cut.
//!
//! It is a [`Protection`] whose disk is observed: the same journal, spool, vault and retention. The
//! programs and their maps are pinned in bpffs, so that the marks go on while no agent runs. The
//! file `attach` in the state directory and the map have a random number in common; only if they
//! agree are the marks all that the journal may lack.
//!
//! Several disks of a machine are attached together if their points shall be one cut. Each keeps its
//! own state directory, journal and volume.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hrl::journal::PointKind;
use hrl::replica::RecoveryPoint;
use hrl::vault::Vault;
use hrl::{
    CaptureContent, Cause, Clock, Error, ErrorKind, Event, EventKind, EventSink, Inspector, Policy,
    Protection, ProtectionOptions, Quiesce, Result, SystemClock, no_events,
};

use crate::clockwork::{Clockwork, Place, Shared};
use crate::cut::{Cut, CutOptions};
use crate::cutter::{AttachmentStats, Cutter, Limits, Member};
use crate::disk::Disk;
use crate::observed::ObservedDisk;
use crate::place::check_elsewhere;
use crate::stopwatch::Stopwatch;
use crate::tracker::{Audit, Tracker};

const PINS: &str = "/sys/fs/bpf";
/// File in the state directory with the number that the maps have too.
const OWNER: &str = "attach";
/// Shortest time between two points by policy.
const INTERVAL_MIN: Duration = Duration::from_secs(5);
/// Disks that are cut together, at most.
const DISKS_MAX: usize = 64;

/// Options to open an [`Attachment`]: required arguments in [`AttachmentOptions::new`], the rest
/// chained.
pub struct AttachmentOptions {
    volume: String,
    disk: PathBuf,
    vault: Vault,
    state: PathBuf,
    policy: Policy,
    events: EventSink,
    inspector: Option<Arc<dyn Inspector>>,
    applications: Option<Arc<dyn Quiesce>>,
    clock: Arc<dyn Clock>,
    take_over: bool,
    adopt_disk: bool,
    cut: CutOptions,
}

impl AttachmentOptions {
    /// Attaches to the block device `disk`, which others write to, as `volume` of `vault`.
    ///
    /// `state` is the state directory of this agent. Neither it nor the vault may lie on the disk.
    pub fn new(
        volume: &str,
        disk: impl Into<PathBuf>,
        vault: Vault,
        state: impl Into<PathBuf>,
    ) -> Self {
        Self {
            volume: volume.to_owned(),
            disk: disk.into(),
            vault,
            state: state.into(),
            policy: Policy::default(),
            events: no_events(),
            inspector: None,
            applications: None,
            clock: SystemClock::shared(),
            take_over: false,
            adopt_disk: false,
            cut: CutOptions::default(),
        }
    }

    /// Sets the policy. Its `crash_point_interval` says how often a point is made: at least 5 s, or
    /// zero for points on demand alone. If no cut is clean within its `cut_limit`, the file systems on
    /// the disk are frozen for at most its `freeze_limit`. Default: [`Policy::default`].
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Sets where events go. Default: nowhere.
    pub fn events(mut self, events: EventSink) -> Self {
        self.events = events;
        self
    }

    /// Sets who sees what the journal records. Default: nobody.
    pub fn inspector(mut self, inspector: Arc<dyn Inspector>) -> Self {
        self.inspector = Some(inspector);
        self
    }

    /// Sets what is quiesced for application-consistent points. Default: nothing.
    pub fn applications(mut self, applications: Arc<dyn Quiesce>) -> Self {
        self.applications = Some(applications);
        self
    }

    /// Takes the volume over if another source owns it. Default: no.
    pub fn take_over(mut self, yes: bool) -> Self {
        self.take_over = yes;
        self
    }

    /// Goes on with another disk than the one that was protected. Default: no.
    pub fn adopt_disk(mut self, yes: bool) -> Self {
        self.adopt_disk = yes;
        self
    }

    /// Sets how a cut is tried. Default: [`CutOptions::default`].
    pub fn cut(mut self, options: CutOptions) -> Self {
        self.cut = options;
        self
    }

    /// Attaches, and begins the first copy or goes on.
    ///
    /// `Unsupported` if the disk cannot be observed or the kernel is too old, `Denied` without the
    /// capabilities, `InvalidInput` if the state directory or the vault lies on the disk; and the
    /// errors of [`ProtectionOptions::open`].
    pub fn open(self) -> Result<Attachment> {
        let mut opened = Self::open_all(None, vec![self])?;
        Ok(opened.pop().expect("as many as there are options"))
    }

    /// Attaches several disks of a machine, whose points are one cut: no disk has a write whose cause
    /// another one lacks. Returns one attachment for each of the options, in their order.
    ///
    /// Each point is one of the group `name`; [`Vault::group_points`] lists those whose volumes are in
    /// one vault. A point that any of the attachments makes is made of all disks. The policies must
    /// agree in the intervals of points and in their limits; the applications of all are quiesced.
    ///
    /// Fails as [`AttachmentOptions::open`] does. If other disks are cut together than before, their
    /// marks are taken over.
    pub fn open_together(name: &str, disks: Vec<Self>) -> Result<Vec<Attachment>> {
        Self::open_all(Some(name.to_owned()).filter(|_| disks.len() != 1), disks)
    }

    fn open_all(group: Option<String>, all: Vec<Self>) -> Result<Vec<Attachment>> {
        Self::check_all(&all)?;
        let (mut protections, mut members, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for (options, known) in all.iter().zip(Self::observe(&all)?) {
            let (protection, member) = options.protect(known)?;
            let (events, volume) = (options.events.clone(), options.volume.clone());
            places.push(Place::new(events, volume, member.stats.clone()));
            members.push(member);
            protections.push(protection);
        }
        let first = all.first().expect("one disk at least");
        let applications: Vec<_> = all.iter().filter_map(|one| one.applications.clone()).collect();
        let cutter = Cutter {
            members,
            group,
            limits: Limits {
                cut: first.policy.cut_limit,
                freeze: first.policy.freeze_limit,
                quiesce: first.policy.quiesce_limit,
                options: first.cut.clone(),
            },
            clock: first.clock.clone(),
            stopping: Arc::default(),
        };
        let shared = Shared::new(cutter, places, applications);
        let clockwork = Arc::new(Clockwork::start(shared, &first.policy)?);
        let handles = protections.into_iter().enumerate().map(|(at, protection)| Attachment {
            protection: Some(protection),
            clockwork: clockwork.clone(),
            at,
        });
        Ok(handles.collect())
    }

    /// Refuses what cannot be attached.
    fn check_all(all: &[Self]) -> Result<()> {
        let [first, others @ ..] = all else {
            return Err(Error::new(ErrorKind::InvalidInput, "attach", "disks")
                .expected("one at least")
                .found("none"));
        };
        if all.len() > DISKS_MAX {
            return Err(Error::new(ErrorKind::InvalidInput, "attach", "disks")
                .expected(format_args!("at most {DISKS_MAX} that are cut together"))
                .found(all.len()));
        }
        let disks: Vec<Disk> =
            all.iter().map(|one| Disk::look_at(&one.disk)).collect::<Result<_>>()?;
        for one in all {
            one.check()?;
            for disk in &disks {
                check_elsewhere(disk, "the state directory", &one.state)?;
                let place = one.vault.objects().name();
                if Path::new(&place).is_absolute() {
                    check_elsewhere(disk, "the vault", Path::new(&place))?;
                }
            }
        }
        for (at, one) in others.iter().enumerate() {
            first.check_agrees(one)?;
            if let Some(same) = disks[..=at].iter().find(|disk| disk.is_same(&disks[at + 1])) {
                return Err(Error::new(ErrorKind::InvalidInput, "attach", one.disk.display())
                    .expected("another disk")
                    .found(format_args!("that of {}", same.path.display())));
            }
            let is_same = |other: &&Self| pins_of(&other.state) == pins_of(&one.state);
            if let Some(same) = all[..=at].iter().find(is_same) {
                return Err(Error::new(ErrorKind::InvalidInput, "attach", one.disk.display())
                    .expected("a state directory of its own")
                    .found(format_args!("that of {}", same.disk.display())));
            }
        }
        Ok(())
    }

    /// Refuses a disk that cannot be cut together with this one.
    fn check_agrees(&self, other: &Self) -> Result<()> {
        let times = |policy: &Policy| {
            [
                ("crash_point_interval", policy.crash_point_interval),
                ("app_point_interval", policy.app_point_interval),
                ("cut_limit", policy.cut_limit),
                ("freeze_limit", policy.freeze_limit),
                ("quiesce_limit", policy.quiesce_limit),
            ]
        };
        let pairs = times(&self.policy).into_iter().zip(times(&other.policy));
        for ((field, here), (_, there)) in pairs {
            if here != there {
                return Err(Error::new(ErrorKind::InvalidInput, "use policy", field)
                    .message("the disks are cut together")
                    .expected(format_args!("{here:?}, as that of {}", self.disk.display()))
                    .found(format_args!("{there:?} of {}", other.disk.display())));
            }
        }
        Ok(())
    }

    /// Opens the trackers that are pinned, or begins new ones. If others are cut together than before,
    /// new ones take over the marks of those that are pinned.
    fn observe(all: &[Self]) -> Result<Vec<Known>> {
        let pinned: Vec<Result<Tracker>> = all.iter().map(Self::reopened).collect();
        let trackers: Vec<&Tracker> = pinned.iter().filter_map(|one| one.as_ref().ok()).collect();
        if trackers.len() == all.len() && Tracker::are_together(&trackers) {
            let known = pinned.into_iter().flatten();
            return Ok(known.map(|tracker| Known { tracker, before: None, doubt: None }).collect());
        }
        let paths: Vec<&Path> = all.iter().map(|one| &*one.disk).collect();
        let group = RandomState::new().hash_one(0).max(1);
        let begun = Tracker::attach_together(&paths, group)?;
        let known = begun.into_iter().zip(pinned).map(|(tracker, before)| match before {
            // From its last audit until now it has missed nothing, and the new one observes already.
            Ok(before) if before.look()?.0 == Audit::Clean => {
                Ok(Known { tracker, before: Some(before), doubt: None })
            }
            Ok(_) => {
                let doubt = "the audit of the programs before failed".to_owned();
                Ok(Known { tracker, before: None, doubt: Some(doubt) })
            }
            Err(error) => Ok(Known { tracker, before: None, doubt: Some(error.to_string()) }),
        });
        known.collect()
    }

    /// Opens the pinned tracker of this state directory, if its marks are all that the journal may
    /// lack.
    fn reopened(&self) -> Result<Tracker> {
        let tracker = Tracker::reopen(&pins_of(&self.state), &self.disk)?;
        match doubt(&tracker, &self.state) {
            None => Ok(tracker),
            Some(why) => {
                Err(Error::new(ErrorKind::Changed, "open tracker", self.disk.display())
                    .message(why))
            }
        }
    }

    /// Opens the protection behind, and returns it with what cuts need.
    fn protect(&self, known: Known) -> Result<(Protection, Member)> {
        let Known { tracker, before, doubt } = known;
        let is_pinned = before.is_none() && doubt.is_none();
        let is_known = ProtectionOptions::knows_vault(&self.state);
        let device = Arc::new(ObservedDisk::open(&self.disk)?);
        let mut options = ProtectionOptions::new(
            &self.volume,
            device.clone(),
            self.vault.clone(),
            self.state.clone(),
        )
        .policy(self.policy.clone())
        .events(self.events.clone())
        .clock(self.clock.clone())
        .take_over(self.take_over)
        .adopt_disk(self.adopt_disk)
        .observed(doubt.is_none());
        if let Some(inspector) = self.inspector.clone() {
            options = options.inspector(inspector);
        }
        if let Some(applications) = self.applications.clone() {
            options = options.applications(applications);
        }
        let protection = options.open()?;
        // From here on no other agent uses the state directory and its marks.
        if let Some(why) = doubt.filter(|_| is_known) {
            let kind =
                EventKind::ResyncStarted { bytes: tracker.disk_bytes(), cause: Cause::Untracked };
            self.event(kind, format!("the whole disk is compared with the replica: {why}"));
        }
        if let Some(before) = &before {
            tracker.remember(&before.recall());
        }
        let pending = tracker.recall();
        let pinned = is_pinned || self.pin(&tracker, &pins_of(&self.state));
        self.own(&tracker)?;
        let stats = AttachmentStats {
            map_bytes: tracker.memory_bytes(),
            read_amplification: 1.0,
            pinned,
            ..AttachmentStats::default()
        };
        let member = Member {
            tracker,
            device,
            observation: protection.observation()?,
            pending,
            stats,
            volume: self.volume.clone(),
            written: vec![self.state.clone(), self.disk.clone()],
            bytes_changed: 0,
            cut: Cut::default(),
            changed: Vec::new(),
        };
        Ok((protection, member))
    }

    fn check(&self) -> Result<()> {
        let interval = self.policy.crash_point_interval;
        if !interval.is_zero() && interval < INTERVAL_MIN {
            return Err(Error::new(ErrorKind::InvalidInput, "use policy", "crash_point_interval")
                .message("the disk is attached: each point is a cut")
                .expected("5s or more, or zero")
                .found(format_args!("{} ms", interval.as_millis())));
        }
        if self.policy.content == CaptureContent::ExtentsOnly {
            return Err(Error::new(ErrorKind::InvalidInput, "use policy", "content")
                .message("the disk is attached: for changed blocks alone use a tracker")
                .expected("data")
                .found("extents-only"));
        }
        Ok(())
    }

    /// Pins the tracker. Returns false, and says why, if that cannot be.
    fn pin(&self, tracker: &Tracker, pins: &Path) -> bool {
        let pinned = Tracker::detach(pins).and_then(|()| tracker.pin(pins));
        if let Err(error) = &pinned {
            let then = "so the whole disk is compared after each restart of the agent";
            self.event(
                EventKind::TaskFailed,
                format!("the programs are not pinned, {then}: {error}"),
            );
        }
        pinned.is_ok()
    }

    /// Records, durably and in the maps, that the marks are what this state directory lacks.
    fn own(&self, tracker: &Tracker) -> Result<()> {
        let owner = RandomState::new().hash_one(0).max(1);
        let path = self.state.join(OWNER);
        let text = format!("hrl attach 1\nowner={owner:016x}\n");
        std::fs::File::create(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
            .map_err(|error| Error::io("write", path.display(), error))?;
        tracker.set_session(owner);
        Ok(())
    }

    fn event(&self, kind: EventKind, message: String) {
        let (time, volume) = (self.clock.now(), self.volume.clone());
        (self.events)(&Event { time, volume, kind, message });
    }
}

/// What is known of the changes of a disk.
struct Known {
    tracker: Tracker,
    /// The tracker that is pinned, if that is another one. Its marks are taken over.
    before: Option<Tracker>,
    /// Why the marks may not be all that the journal lacks.
    doubt: Option<String>,
}

/// Returns why the marks of a pinned tracker may not be all that a state directory lacks.
fn doubt(tracker: &Tracker, state: &Path) -> Option<String> {
    let text = std::fs::read_to_string(state.join(OWNER)).unwrap_or_default();
    let owner = text.lines().nth(1).and_then(|line| line.strip_prefix("owner="));
    let owner = owner.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    let is_own = owner == Some(tracker.session());
    (!is_own).then(|| "the marks belong to another session".to_owned())
}

/// Returns where the programs of a state directory are pinned.
fn pins_of(state: &Path) -> PathBuf {
    let absolute = std::path::absolute(state).unwrap_or_else(|_| state.to_owned());
    let parent = absolute.parent().and_then(|parent| parent.canonicalize().ok());
    let real = match (parent, absolute.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => absolute,
    };
    let hash =
        real.as_os_str().as_encoded_bytes().iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3_u64)
        });
    Path::new(PINS).join(format!("hrl-attach-{hash:016x}"))
}

/// A disk in use, protected by points at intervals. May be used from any thread.
///
/// Nobody is slowed down, stopped or remounted. Dropped without [`Attachment::stop`] it leaves what a
/// killed agent leaves: the programs go on marking, and the next one goes on from their marks. Of
/// several that were attached together, the first that is dropped or stopped ends the points of all.
pub struct Attachment {
    protection: Option<Protection>,
    clockwork: Arc<Clockwork>,
    /// Its number among those that were attached together.
    at: usize,
}

impl Attachment {
    /// Returns the protection behind: its status, timeline and waits. It takes no points itself.
    pub fn protection(&self) -> &Protection {
        self.protection.as_ref().expect("an attachment has it until it is stopped")
    }

    /// Makes a point now: a clean, audited cut of the disk, and of those that were attached together
    /// with it. Returns once it is durable in the local journal. Everything that was completed before
    /// the call is in it.
    ///
    /// `kind` is [`PointKind::Crash`] or [`PointKind::Declared`]; a point of several disks is one of
    /// their group. `NotOrdered` during the first copy or a resync, `Unavailable` if no cut is clean in
    /// time, even with a freeze, or an audit failed.
    pub fn mark(&self, kind: PointKind, label: &str) -> Result<RecoveryPoint> {
        let shared = self.clockwork.shared();
        if !matches!(kind, PointKind::Crash | PointKind::Declared) {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "mark point of",
                shared.volume(self.at),
            )
            .expected("kind crash or declared")
            .found(kind.name()));
        }
        Ok(self.own(shared.points(label, kind, false)?))
    }

    /// Makes an application-consistent point: copies most, quiesces the applications of the options,
    /// cuts and releases. Fails as [`Attachment::mark`] does, and if they do not stay quiesced.
    pub fn mark_app(&self, label: &str) -> Result<RecoveryPoint> {
        Ok(self.own(self.clockwork.shared().points(label, PointKind::App, true)?))
    }

    fn own(&self, mut points: Vec<RecoveryPoint>) -> RecoveryPoint {
        points.swap_remove(self.at)
    }

    /// Returns what cuts have taken, as of the last one.
    pub fn stats(&self) -> AttachmentStats {
        self.clockwork.shared().stats(self.at)
    }

    /// Waits until a point was made in this session. `Unavailable` at the limit.
    pub fn wait_point(&self, limit: Duration) -> Result<()> {
        let shared = self.clockwork.shared();
        let began = Stopwatch::start(shared.clock());
        while self.stats().points == 0 {
            if began.elapsed() >= limit {
                let volume = shared.volume(self.at);
                return Err(Error::new(ErrorKind::Unavailable, "wait for point of", volume)
                    .expected(format_args!("one within {limit:?}"))
                    .found("none"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Makes a last point if one is clean soon, and ends the session as [`Protection::stop`] does. The
    /// programs go on marking, so that the next session reads only what changes until then.
    ///
    /// Of several that were attached together, stop all: the first one makes the last point.
    pub fn stop(mut self, limit: Duration) -> Result<()> {
        self.clockwork.end();
        self.clockwork.shared().last_points();
        self.protection.take().map_or(Ok(()), |protection| protection.stop(limit))
    }

    /// Takes the programs and maps of a state directory away. Does nothing if there are none. The
    /// next session compares the whole disk with the replica.
    pub fn detach(state: &Path) -> Result<()> {
        Tracker::detach(&pins_of(state))
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.clockwork.end();
    }
}
