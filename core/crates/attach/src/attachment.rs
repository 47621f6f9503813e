//! [`Attachment`]: a disk in use, protected by points of which each is a clean, audited cut.
//!
//! It is a [`Protection`] whose disk is observed: the same journal, spool, vault and retention. The
//! programs and their maps are pinned in bpffs, so that the marks go on while no agent runs. The
//! file `attach` in the state directory and the map have a random number in common; only if they
//! agree are the marks all that the journal may lack.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use hrl::journal::PointKind;
use hrl::replica::RecoveryPoint;
use hrl::sync::lock::{Condvar, Mutex};
use hrl::vault::Vault;
use hrl::{
    CaptureContent, Cause, Clock, Error, ErrorKind, Event, EventKind, EventSink, Inspector, Policy,
    Protection, ProtectionOptions, Quiesce, Result, SystemClock, Timestamp, no_events,
};

use crate::cut::CutOptions;
use crate::cutter::{AttachmentStats, Cutter, Limits, Wanted};
use crate::disk::Disk;
use crate::observed::ObservedDisk;
use crate::place::check_elsewhere;
use crate::stopwatch::Stopwatch;
use crate::tracker::Tracker;

const PINS: &str = "/sys/fs/bpf";
/// File in the state directory with the number that the maps have too.
const OWNER: &str = "attach";
/// Shortest time between two points by policy.
const INTERVAL_MIN: Duration = Duration::from_secs(5);
/// Pause while the disk is read for the first time, or compared.
const RESYNC_PAUSE: Duration = Duration::from_millis(500);
const LAST_CUT: Duration = Duration::from_secs(5);

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
    cut_limit: Duration,
    freeze_limit: Duration,
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
            cut_limit: Duration::from_secs(10),
            freeze_limit: Duration::from_millis(500),
            cut: CutOptions::default(),
        }
    }

    /// Sets the policy. Its `crash_point_interval` says how often a point is made: at least 5 s, or
    /// zero for points on demand alone. Default: [`Policy::default`].
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

    /// Limits the time in which cuts are tried for a point without a freeze. Default 10 s.
    pub fn cut_limit(mut self, limit: Duration) -> Self {
        self.cut_limit = limit;
        self
    }

    /// Limits the freeze of the file systems on the disk after that; zero: none is frozen. Default
    /// 500 ms.
    pub fn freeze_limit(mut self, limit: Duration) -> Self {
        self.freeze_limit = limit;
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
        self.check()?;
        let disk = Disk::look_at(&self.disk)?;
        check_elsewhere(&disk, "the state directory", &self.state)?;
        let place = self.vault.objects().name();
        if Path::new(&place).is_absolute() {
            check_elsewhere(&disk, "the vault", Path::new(&place))?;
        }
        let pins = pins_of(&self.state);
        let reopened = Tracker::reopen(&pins, &self.disk);
        let is_known = ProtectionOptions::knows_vault(&self.state);
        let (tracker, doubt) = match reopened {
            Ok(tracker) => {
                let doubt = doubt(&tracker, &self.state);
                (tracker, doubt)
            }
            Err(error) => (Tracker::attach_keeping(&self.disk)?, Some(error.to_string())),
        };
        let was_pinned = pins.exists() && doubt.is_none();
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
        let pending = tracker.recall();
        let pinned = was_pinned || self.pin(&tracker, &pins);
        self.own(&tracker)?;
        let stopping = Arc::new(AtomicBool::new(false));
        let stats = AttachmentStats {
            map_bytes: tracker.memory_bytes(),
            read_amplification: 1.0,
            pinned,
            ..AttachmentStats::default()
        };
        let cutter = Cutter {
            tracker,
            device,
            observation: protection.observation()?,
            limits: Limits {
                cut: self.cut_limit,
                freeze: self.freeze_limit,
                quiesce: self.policy.quiesce_limit,
                options: self.cut.clone(),
            },
            clock: self.clock.clone(),
            pending,
            stats: stats.clone(),
            stopping: stopping.clone(),
            volume: self.volume.clone(),
            written: vec![self.state.clone(), self.disk.clone()],
            bytes_changed: 0,
        };
        let shared = Arc::new(Shared {
            cutter: Mutex::new(cutter),
            stats: Mutex::new(stats),
            applications: self.applications.clone(),
            clock: self.clock.clone(),
            events: self.events.clone(),
            volume: self.volume.clone(),
            ended: Mutex::new(false),
            ending: Condvar::new(),
            stopping,
        });
        let (of_thread, policy) = (shared.clone(), self.policy.clone());
        let thread = std::thread::Builder::new()
            .name("hrl-cut".to_owned())
            .spawn(move || of_thread.run(&policy))
            .map_err(|error| Error::io("start", "thread", error))?;
        Ok(Attachment { protection: Some(protection), shared, thread: Some(thread) })
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

/// What the thread and the callers share.
struct Shared {
    cutter: Mutex<Cutter>,
    /// As of the last cut, so that nobody waits for one under way.
    stats: Mutex<AttachmentStats>,
    applications: Option<Arc<dyn Quiesce>>,
    clock: Arc<dyn Clock>,
    events: EventSink,
    volume: String,
    ended: Mutex<bool>,
    ending: Condvar,
    stopping: Arc<AtomicBool>,
}

impl Shared {
    /// Makes points by policy until the end.
    fn run(&self, policy: &Policy) {
        let mut crash = Due::new(policy.crash_point_interval, &self.clock);
        let mut app = Due::new(policy.app_point_interval, &self.clock);
        loop {
            let pause = crash.left().min(app.left());
            if self.wait(pause) {
                return;
            }
            let is_app = app.left().is_zero();
            let due = if is_app { &mut app } else { &mut crash };
            if !due.left().is_zero() {
                continue;
            }
            let asked = self.clock.now();
            match self.point("", PointKind::Crash, is_app) {
                Ok(_) => due.done(),
                // The disk is read for the first time, or compared.
                Err(error) if error.kind() == ErrorKind::NotOrdered => {
                    if self.wait(RESYNC_PAUSE) {
                        return;
                    }
                }
                Err(error) => {
                    if self.is_ended() {
                        return;
                    }
                    due.done();
                    self.skipped(asked, &error);
                    if matches!(error.kind(), ErrorKind::Fenced | ErrorKind::Diverged) {
                        return;
                    }
                }
            }
        }
    }

    fn point(&self, label: &str, kind: PointKind, is_app: bool) -> Result<RecoveryPoint> {
        let applications = match (is_app, &self.applications) {
            (false, _) => None,
            (true, Some(applications)) => Some(&**applications),
            (true, None) => {
                return Err(Error::new(ErrorKind::InvalidInput, "mark point of", &self.volume)
                    .expected("applications to quiesce, such as the policy's")
                    .found("none"));
            }
        };
        let kind = if is_app { PointKind::App } else { kind };
        let mut cutter = self.cutter.lock();
        let point = cutter.point(Wanted { label, kind, applications });
        let skipped = self.stats.lock().skipped;
        *self.stats.lock() = AttachmentStats { skipped, ..cutter.stats.clone() };
        point
    }

    fn skipped(&self, asked: Timestamp, error: &Error) {
        self.stats.lock().skipped += 1;
        let message = format!("no point for {asked}: {error}");
        let (time, volume) = (self.clock.now(), self.volume.clone());
        (self.events)(&Event { time, volume, kind: EventKind::PointSkipped, message });
    }

    /// Waits. Returns whether the end has come.
    fn wait(&self, pause: Duration) -> bool {
        let ended = self.ended.lock();
        if *ended {
            return true;
        }
        let (ended, _) = self.ending.wait_timeout_while(ended, pause, |ended| !*ended);
        *ended
    }

    fn is_ended(&self) -> bool {
        *self.ended.lock()
    }
}

/// When a point is due.
struct Due {
    interval: Duration,
    clock: Arc<dyn Clock>,
    next: Duration,
}

impl Due {
    fn new(interval: Duration, clock: &Arc<dyn Clock>) -> Self {
        Self { interval, clock: clock.clone(), next: clock.elapsed() }
    }

    fn left(&self) -> Duration {
        if self.interval.is_zero() {
            return Duration::from_secs(3600);
        }
        self.next.saturating_sub(self.clock.elapsed())
    }

    fn done(&mut self) {
        self.next = (self.next + self.interval).max(self.clock.elapsed());
    }
}

/// A disk in use, protected by points at intervals. May be used from any thread.
///
/// Nobody is slowed down, stopped or remounted. Dropped without [`Attachment::stop`] it leaves what a
/// killed agent leaves: the programs go on marking, and the next one goes on from their marks.
pub struct Attachment {
    protection: Option<Protection>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Attachment {
    /// Returns the protection behind: its status, timeline and waits. It takes no points itself.
    pub fn protection(&self) -> &Protection {
        self.protection.as_ref().expect("an attachment has it until it is stopped")
    }

    /// Makes a point now: a clean, audited cut of the disk. Returns once it is durable in the local
    /// journal. Everything that was completed before the call is in it.
    ///
    /// `kind` is [`PointKind::Crash`] or [`PointKind::Declared`]. `NotOrdered` during the first copy or a
    /// resync, `Unavailable` if no cut is clean in time, even with a freeze, or an audit failed.
    pub fn mark(&self, kind: PointKind, label: &str) -> Result<RecoveryPoint> {
        if !matches!(kind, PointKind::Crash | PointKind::Declared) {
            return Err(Error::new(ErrorKind::InvalidInput, "mark point of", &self.shared.volume)
                .expected("kind crash or declared")
                .found(kind.name()));
        }
        self.shared.point(label, kind, false)
    }

    /// Makes an application-consistent point: copies most, quiesces the applications of the options,
    /// cuts and releases. Fails as [`Attachment::mark`] does, and if they do not stay quiesced.
    pub fn mark_app(&self, label: &str) -> Result<RecoveryPoint> {
        self.shared.point(label, PointKind::App, true)
    }

    /// Returns what cuts have taken, as of the last one.
    pub fn stats(&self) -> AttachmentStats {
        self.shared.stats.lock().clone()
    }

    /// Waits until a point was made in this session. `Unavailable` at the limit.
    pub fn wait_point(&self, limit: Duration) -> Result<()> {
        let began = Stopwatch::start(&self.shared.clock);
        while self.stats().points == 0 {
            if began.elapsed() >= limit {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    "wait for point of",
                    &self.shared.volume,
                )
                .expected(format_args!("one within {limit:?}"))
                .found("none"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Makes a last point if one is clean soon, and ends the session as [`Protection::stop`] does. The
    /// programs go on marking, so that the next session reads only what changes until then.
    pub fn stop(mut self, limit: Duration) -> Result<()> {
        self.end_thread();
        {
            let mut cutter = self.shared.cutter.lock();
            cutter.stopping.store(false, Ordering::Relaxed);
            cutter.limits.cut = cutter.limits.cut.min(LAST_CUT);
            cutter.limits.freeze = Duration::ZERO;
            // The next session goes on from the marks all the same.
            let _ = cutter.point(Wanted { label: "", kind: PointKind::Crash, applications: None });
        }
        self.protection.take().map_or(Ok(()), |protection| protection.stop(limit))
    }

    /// Takes the programs and maps of a state directory away. Does nothing if there are none. The
    /// next session compares the whole disk with the replica.
    pub fn detach(state: &Path) -> Result<()> {
        Tracker::detach(&pins_of(state))
    }

    fn end_thread(&mut self) {
        *self.shared.ended.lock() = true;
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.shared.ending.notify_all();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked made no wrong point, and std printed why.
            let _ = thread.join();
        }
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.end_thread();
    }
}
