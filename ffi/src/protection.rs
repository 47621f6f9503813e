//! Protection: everything that one protected volume needs, as one handle.

use std::ffi::{CString, c_char, c_void};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use engine::{
    Error, ErrorKind, Event, EventSink, Policy, Protection, ProtectionOptions, ProtectionStats,
    Quiesce, QuiesceRequest, Result,
};

use crate::boundary::{bad_argument, guard, guard_value, hrl_status};
use crate::callbacks::{User, needed, outcome};
use crate::device::hrl_device;
use crate::handle::{self, In, Out, Room, Text, versioned};
use crate::points::{hrl_point, hrl_timeline_entry, hrl_timeline_fn, kind_of, visit};
use crate::quiesce;
use crate::report::{millis, report};
use crate::tap::hrl_tap;
use crate::vault::hrl_vault;
use engine::sync::lock::{RwLock, RwLockReadGuard};
use hrl_suspicion::Suspicion;

/// Options for opening a protection. Used by one thread at a time.
pub struct hrl_protection_options {
    pub(crate) volume: String,
    pub(crate) state: std::path::PathBuf,
    pub(crate) device: Option<Arc<dyn engine::device::BlockDevice>>,
    pub(crate) vault: engine::vault::Vault,
    pub(crate) policy: Policy,
    pub(crate) take_over: bool,
    pub(crate) adopt_disk: bool,
    pub(crate) outside_writer: bool,
    pub(crate) suspicion: bool,
    pub(crate) events: Option<EventSink>,
}

impl hrl_protection_options {
    /// Returns the disk; `InvalidInput` if C gave none.
    pub(crate) fn device(&self) -> Result<Arc<dyn engine::device::BlockDevice>> {
        handle::given(self.device.clone(), "device of the options")
    }
}

/// Begins the options for protecting `device` as `volume` of `vault`. `state` is the state
/// directory of this agent: dirty map, spool, identity. It is created if it is absent, and must not
/// be on the protected device. `device` is NULL for `hrl_attach_open`. Device and vault may be freed
/// afterwards. Free the options with `hrl_protection_options_free`.
/// Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_protection_options_new(
    volume: Text<'_>,
    device: Option<&hrl_device>,
    vault: Option<&hrl_vault>,
    state: Text<'_>,
    out: Out<'_, *mut hrl_protection_options>,
) -> hrl_status {
    guard(|| {
        out.check("out")?;
        let options = hrl_protection_options {
            volume: volume.read("volume")?.to_owned(),
            state: Path::new(state.read("state")?).to_owned(),
            device: device.map(|device| device.inner.clone()),
            vault: handle::given(vault, "vault")?.inner.clone(),
            policy: Policy::default(),
            take_over: false,
            adopt_disk: false,
            outside_writer: false,
            suspicion: true,
            events: None,
        };
        out.give(options)
    })
}

/// Sets one field of the policy from text, by the names of policy files. For example
/// "memory_budget_bytes" "67108864", "crash_point_interval" "60s", "compression" "zstd:1".
/// `hrl_protection_open` checks the values together.
/// Statuses: HRL_ERROR_INVALID_INPUT (the message lists the names). Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_protection_options_set(
    options: Option<&mut hrl_protection_options>,
    name: Text<'_>,
    value: Text<'_>,
) -> hrl_status {
    guard(|| {
        let (name, value) = (name.read("name")?, value.read("value")?);
        handle::given(options, "options")?.policy.set(name, value)
    })
}

/// Takes the volume over if another source has it. By default that is HRL_ERROR_FENCED.
/// Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_protection_options_take_over(
    options: Option<&mut hrl_protection_options>,
    take_over: bool,
) -> hrl_status {
    guard(|| {
        handle::given(options, "options")?.take_over = take_over;
        Ok(())
    })
}

/// Goes on with another disk than the one that was protected, and compares all of it. Has no effect
/// if the disk is the same. By default another disk is HRL_ERROR_CHANGED.
/// Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_protection_options_adopt_disk(
    options: Option<&mut hrl_protection_options>,
    adopt_disk: bool,
) -> hrl_status {
    guard(|| {
        handle::given(options, "options")?.adopt_disk = adopt_disk;
        Ok(())
    })
}

/// Says that a copy writes to the volume, such as the mirror of a running machine. The volume is
/// unordered until its driver says by `hrl_protection_set_writer_in_sync` that the copy is in sync. By
/// default writers keep their order by themselves. `hrl_attach_open` ignores it.
/// Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_protection_options_outside_writer(
    options: Option<&mut hrl_protection_options>,
    outside_writer: bool,
) -> hrl_status {
    guard(|| {
        handle::given(options, "options")?.outside_writer = outside_writer;
        Ok(())
    })
}

/// Sets whether a sudden change of what is written, as when data is encrypted, is noticed. By default
/// it is: it raises the event "suspicious-change", and points from then on have a bad verdict until
/// they are trusted (`hrl_replica_trust`).
/// Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_protection_options_suspicion(
    options: Option<&mut hrl_protection_options>,
    suspicion: bool,
) -> hrl_status {
    guard(|| {
        handle::given(options, "options")?.suspicion = suspicion;
        Ok(())
    })
}

report! {
    /// Describes an event of a protected volume. The texts live until the callback returns.
    pub struct hrl_event from (event, texts): (&Event, &[CString; 3]) {
        /// Time of the event, in nanoseconds since 1970 in UTC.
        time_ns: i64 = event.time,
        /// Name of the volume.
        volume: *const c_char = texts[0].as_ptr(),
        /// Stable name of the event, such as "mode-changed", "point-marked", "vault-unavailable",
        /// "fenced".
        kind: *const c_char = texts[1].as_ptr(),
        /// One sentence for people.
        message: *const c_char = texts[2].as_ptr(),
    }
}

/// Receives an event, on a thread of the library; must return soon.
pub type hrl_event_fn = Option<unsafe extern "C" fn(user: *mut c_void, event: *const hrl_event)>;

/// Sets the callback that receives events; NULL: events are dropped. It is called until
/// `hrl_protection_free` has returned.
/// Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_protection_options_on_event(
    options: Option<&mut hrl_protection_options>,
    callback: hrl_event_fn,
    user: *mut c_void,
) -> hrl_status {
    guard(|| {
        handle::given(options, "options")?.events = callback.map(|call| sink(call, User(user)));
        Ok(())
    })
}

fn sink(
    callback: unsafe extern "C" fn(user: *mut c_void, event: *const hrl_event),
    user: User,
) -> EventSink {
    Arc::new(move |event: &Event| {
        let texts = [&event.volume, event.kind.name(), &event.message].map(handle::c_text);
        let shown = hrl_event::from(&(event, &texts));
        // SAFETY: a function of this type, called as the header says; event and texts live during
        // the call.
        unsafe { callback(user.pointer(), &raw const shown) }
    })
}

/// Frees the options; NULL is fine. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_protection_options_free(options: Option<Box<hrl_protection_options>>) {
    guard_value((), || drop(options));
}

/// One protected volume, running. All threads may use it at once.
pub struct hrl_protection {
    inner: RwLock<Option<Protection>>,
}

impl hrl_protection {
    pub(crate) fn of(protection: Protection) -> Self {
        Self { inner: RwLock::new(Some(protection)) }
    }

    fn read(&self) -> RwLockReadGuard<'_, Option<Protection>> {
        self.inner.read()
    }
}

/// Runs work with the protection behind a handle. It cannot be stopped meanwhile.
pub(crate) fn with<T>(
    protection: Option<&hrl_protection>,
    work: impl FnOnce(&Protection) -> Result<T>,
) -> Result<T> {
    let guard = handle::given(protection, "protection")?.read();
    work(guard.as_ref().ok_or_else(|| bad_argument("protection").message("it was stopped"))?)
}

/// Opens the volume, finds the regions to read again, and starts. The options may be used again and
/// freed. Free the protection with `hrl_protection_free`, after `hrl_protection_stop`.
/// Statuses: HRL_ERROR_FENCED (another agent or source has the volume), HRL_ERROR_CHANGED (not the
/// disk that was protected), HRL_ERROR_WRONG_KEY, HRL_ERROR_UNAVAILABLE (the vault),
/// HRL_ERROR_INVALID_INPUT (the policy), HRL_ERROR_FULL, HRL_ERROR_IO. While the vault is away, a
/// state directory that knows the volume suffices, with a vault of `hrl_vault_open_for_agent`.
/// Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_protection_open(
    options: Option<&hrl_protection_options>,
    out: Out<'_, *mut hrl_protection>,
) -> hrl_status {
    guard(|| {
        out.check("out")?;
        let given = handle::given(options, "options")?;
        let mut options = ProtectionOptions::new(
            &given.volume,
            given.device()?,
            given.vault.clone(),
            given.state.clone(),
        )
        .policy(given.policy.clone())
        .take_over(given.take_over)
        .adopt_disk(given.adopt_disk)
        .outside_writer(given.outside_writer);
        if let Some(events) = &given.events {
            options = options.events(events.clone());
        }
        if let Some(applications) = quiesce::of_policy(&given.policy)? {
            options = options.applications(applications);
        }
        if given.suspicion {
            let events = given.events.clone().unwrap_or_else(engine::no_events);
            let vault = given.vault.clone();
            let watched = Suspicion::begin(&given.volume, vault, &given.state, events);
            options = options.inspector(watched);
        }
        out.give(hrl_protection::of(options.open()?))
    })
}

/// Returns the protected volume as a device: writes to it are captured. From now on nothing else
/// may write to the disk below. Free it with `hrl_device_free`, before `hrl_protection_stop`.
/// Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_protection_device(
    protection: Option<&hrl_protection>,
    out: Out<'_, *mut hrl_device>,
) -> hrl_status {
    guard(|| {
        out.check("out")?;
        let volume = with(protection, |p| Ok(p.volume().clone()))?;
        out.give(hrl_device::of_volume(volume))
    })
}

/// Returns the tap of the volume, for agents that do their own I/O. Free it with `hrl_tap_free`.
/// The protection flushes its device itself before it relies on what you wrote. This covers your
/// writes through any descriptor of the same file, even if the device is read-only.
/// Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_protection_tap(
    protection: Option<&hrl_protection>,
    out: Out<'_, *mut hrl_tap>,
) -> hrl_status {
    guard(|| {
        out.check("out")?;
        let inner = with(protection, |p| {
            let tap = p.volume().tap().cloned();
            tap.ok_or_else(|| Error::new(ErrorKind::Unsupported, "tap", &p.info().name))
        })?;
        out.give(hrl_tap { inner })
    })
}

/// Marks a recovery point now, and returns once it is durable in the local journal. `kind` is a
/// `hrl_point_kind`: HRL_POINT_CRASH, or HRL_POINT_DECLARED at a transaction boundary of the
/// caller's. The other kinds need a quiesced application or a group. `label` and `point` may be NULL.
/// A mark needs no flush: the journal has the writes.
/// Statuses: HRL_ERROR_NOT_ORDERED (first copy, resync or overflow), HRL_ERROR_INVALID_INPUT (another
/// kind, a label above 255 bytes), HRL_ERROR_FENCED. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_protection_mark(
    protection: Option<&hrl_protection>,
    kind: u32,
    label: Text<'_>,
    point: Room<'_, hrl_point>,
) -> hrl_status {
    guard(|| {
        let point = point.optional()?;
        let (kind, label) = (kind_of(kind)?, label.optional("label")?.unwrap_or_default());
        let marked = with(protection, |p| p.mark(kind, label))?;
        point.fill(hrl_point::from(&marked));
        Ok(())
    })
}

/// Quiesces an application around a mark. The functions return 0 or an errno, and must not unwind.
#[repr(C)]
pub struct hrl_quiesce_callbacks<'a> {
    /// `sizeof(hrl_quiesce_callbacks)`, so that later versions can add to it.
    pub struct_bytes: usize,
    /// Name for errors and events; copied. NULL: "application".
    pub name: Text<'a>,
    /// Makes the data on disk consistent and keeps it so until `release`. Should be done within
    /// `limit_ms`.
    pub quiesce: Option<unsafe extern "C" fn(user: *mut c_void, limit_ms: u64) -> i32>,
    /// Lets the application go on. Called exactly once for each `quiesce`, even if that failed.
    pub release: Option<unsafe extern "C" fn(user: *mut c_void) -> i32>,
}

versioned!(hrl_quiesce_callbacks<'_>);

pub(crate) struct CallbackQuiesce {
    name: String,
    quiesce: unsafe extern "C" fn(*mut c_void, u64) -> i32,
    release: unsafe extern "C" fn(*mut c_void) -> i32,
    user: User,
}

impl CallbackQuiesce {
    pub(crate) fn new(callbacks: &hrl_quiesce_callbacks<'_>, user: *mut c_void) -> Result<Self> {
        let name = callbacks.name.optional("callbacks.name")?.unwrap_or_default();
        Ok(Self {
            name: if name.is_empty() { "application" } else { name }.to_owned(),
            quiesce: needed(callbacks.quiesce, "callbacks.quiesce")?,
            release: needed(callbacks.release, "callbacks.release")?,
            user: User(user),
        })
    }
}

impl Quiesce for CallbackQuiesce {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn quiesce(&self, request: &QuiesceRequest) -> Result<()> {
        let limit_ms = u64::try_from(request.limit.as_millis()).unwrap_or(u64::MAX);
        // SAFETY: a function of this type, called as the header says.
        outcome(unsafe { (self.quiesce)(self.user.pointer(), limit_ms) }, "quiesce", &self.name)
    }

    fn release(&self) -> Result<()> {
        // SAFETY: a function of this type, called as the header says.
        outcome(unsafe { (self.release)(self.user.pointer()) }, "release", &self.name)
    }
}

/// Marks an application-consistent point: quiesce, flush, mark, release, in this order. The
/// callbacks run on the calling thread. If the application cannot be quiesced, or the mark would
/// come after `limit_ms`, there is no point (HRL_ERROR_UNAVAILABLE), and the application is
/// released. `label` and `point` may be NULL.
/// Statuses: those of `hrl_protection_mark`, and those of the callbacks. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_protection_mark_quiesced(
    protection: Option<&hrl_protection>,
    callbacks: In<'_, hrl_quiesce_callbacks<'_>>,
    user: *mut c_void,
    label: Text<'_>,
    limit_ms: u64,
    point: Room<'_, hrl_point>,
) -> hrl_status {
    guard(|| {
        let point = point.optional()?;
        let provider = CallbackQuiesce::new(callbacks.read("callbacks")?, user)?;
        let label = label.optional("label")?.unwrap_or_default();
        let limit = Duration::from_millis(limit_ms);
        let marked = with(protection, |p| p.mark_quiesced(&provider, label, limit))?;
        point.fill(hrl_point::from(&marked));
        Ok(())
    })
}

/// Marks an application-consistent point with the applications and the limit of the policy. Its
/// name "quiesce" takes one specification a line, such as "postgresql:dbname=app\nfs:/srv";
/// core/docs/quiesce.md lists them. "quiesce_limit" is the limit, and "app_point_interval" makes
/// such points by the clock. The program hrl-watchdog quiesces and releases them, even if this
/// process is killed meanwhile. `label` and `point` may be NULL.
/// Statuses: those of `hrl_protection_mark`; HRL_ERROR_UNAVAILABLE and others if they cannot be
/// quiesced or did not stay so. Then there is no point, and they are released.
/// HRL_ERROR_INVALID_INPUT (the policy lists none). Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_protection_mark_app(
    protection: Option<&hrl_protection>,
    label: Text<'_>,
    point: Room<'_, hrl_point>,
) -> hrl_status {
    guard(|| {
        let point = point.optional()?;
        let label = label.optional("label")?.unwrap_or_default();
        let marked = with(protection, |p| p.mark_app(label))?;
        point.fill(hrl_point::from(&marked));
        Ok(())
    })
}

/// Sets the path of the program hrl-watchdog for this process. By default it is searched in
/// `libexec` of the library's prefix, beside the running program, and by HRL_WATCHDOG.
/// Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_set_watchdog(path: Text<'_>) -> hrl_status {
    guard(|| quiesce::set_watchdog(path.read("path")?))
}

report! {
    /// Reports the condition of a protection.
    pub struct hrl_stats from now: ProtectionStats {
        /// A `hrl_mode`.
        mode: u32,
        /// Newest sequence captured.
        last_sequence: u64,
        /// Newest sequence durable in the local journal.
        journaled_sequence: u64,
        /// Newest sequence in the vault.
        replicated_sequence: u64,
        /// Age of the oldest change that the vault lacks, captured or not, in milliseconds.
        rpo_ms: u64 = millis(now.rpo),
        /// Changes captured: writes, zeroes, discards.
        changes: u64,
        /// Bytes of data captured.
        bytes_captured: u64,
        /// Bytes of closed segments written.
        bytes_stored: u64,
        /// Memory of the queue, in bytes.
        queue_bytes: u64,
        /// Segments waiting for the vault, in bytes.
        spool_bytes: u64,
        /// Bytes captured that are not in the vault: queue and spool.
        backlog_bytes: u64,
        /// Recent throughput of shipping, in bytes per second, or the bandwidth allowed now if that
        /// is less. 0 before anything was shipped.
        ship_bytes_per_second: u64,
        /// Milliseconds until the backlog is in the vault at that throughput, if nothing more is
        /// written. UINT64_MAX if the vault does not answer or the throughput is unknown.
        eta_ms: u64 = now.eta.map_or(u64::MAX, millis),
        /// Dirty regions, which would be read again after a crash now.
        marked_regions: u64,
        /// Bytes that a resync has still to read.
        resync_bytes_left: u64,
        /// Bytes that the current resync, or the last one, has read.
        resync_bytes_read: u64,
        /// Points marked in this session.
        points: u64,
        /// Whether the vault took the last segment.
        vault_available: bool,
        /// Whether another source has the volume now. Then nothing is replicated any more.
        fenced: bool,
        /// Whether the failover to here is not committed. Then changes stay in the spool.
        provisional: bool,
        /// Whether a planned failover has the volume. Then writes are refused.
        handed_over: bool,
        /// Newest version of the catalog, as this agent knows it.
        catalog_version: u64,
        /// Time of the newest record or heartbeat that the version lists, in nanoseconds since 1970;
        /// 0 before both.
        catalog_time_ns: i64 = now.catalog_time.unwrap_or_default(),
        /// Whether the vault has not answered since the start. Then nothing is shipped, and nothing
        /// counts as replicated.
        vault_away: bool,
    }
}

/// Reports the condition of the protection now.
/// Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_protection_stats(
    protection: Option<&hrl_protection>,
    stats: Room<'_, hrl_stats>,
) -> hrl_status {
    guard(|| {
        let stats = stats.needed("stats")?;
        stats.fill(hrl_stats::from(&with(protection, |p| Ok(p.stats()))?));
        Ok(())
    })
}

/// Passes the history that the vault knows to `each` on the calling thread.
/// Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_protection_timeline(
    protection: Option<&hrl_protection>,
    each: hrl_timeline_fn,
    user: *mut c_void,
) -> hrl_status {
    guard(|| {
        let timeline = with(protection, |p| Ok(p.timeline()))?;
        visit(timeline.iter().map(hrl_timeline_entry::from), each, user)
    })
}

/// Waits until the first copy or resync is complete.
/// Statuses: HRL_ERROR_UNAVAILABLE (not within `limit_ms`), HRL_ERROR_FENCED. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_protection_wait_ordered(
    protection: Option<&hrl_protection>,
    limit_ms: u64,
) -> hrl_status {
    guard(|| with(protection, |p| p.wait_ordered(Duration::from_millis(limit_ms))))
}

/// Waits until everything captured before the call is in the vault. `sequence`, which may be NULL,
/// receives the newest sequence there.
/// Statuses: those of `hrl_protection_wait_ordered`. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_protection_wait_replicated(
    protection: Option<&hrl_protection>,
    limit_ms: u64,
    sequence: Out<'_, u64>,
) -> hrl_status {
    guard(|| {
        let limit = Duration::from_millis(limit_ms);
        let newest = with(protection, |p| p.wait_replicated(limit))?;
        sequence.put_optional(newest.0);
        Ok(())
    })
}

/// Reads the whole disk again, beside the writes. Older points stay usable; none is marked until it
/// is complete.
/// Statuses: HRL_ERROR_IO, HRL_ERROR_FULL. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_protection_resync(protection: Option<&hrl_protection>) -> hrl_status {
    guard(|| with(protection, Protection::resync))
}

/// Says whether the outside writer is in sync (`hrl_protection_options_outside_writer`). From true on
/// its writes are in order, and points can be marked once what must be read again is read; false begins
/// an unordered interval. Call it with true after the writer's driver has said so, such as QEMU by
/// "actively-synced". An NBD server begins an interval by itself when a client that wrote goes away or
/// a change fails.
/// Statuses: HRL_ERROR_INVALID_INPUT if the volume has no outside writer. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_protection_set_writer_in_sync(
    protection: Option<&hrl_protection>,
    in_sync: bool,
) -> hrl_status {
    guard(|| with(protection, |protection| protection.set_writer_in_sync(in_sync)))
}

/// Ends the session cleanly. Closes and ships what was captured, flushes the disk, and leaves a
/// clean dirty map, so that the next session reads nothing again. It waits for the vault up to
/// `limit_ms`; the rest stays in the spool. Every writer must be gone before. Calls on other
/// threads are waited for. Afterwards every function but `hrl_protection_free` returns
/// HRL_ERROR_INVALID_INPUT, even if this one failed. A second stop does nothing.
/// Statuses: HRL_ERROR_UNAVAILABLE, HRL_ERROR_FENCED, HRL_ERROR_IO. The next session then reads
/// some regions again. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_protection_stop(
    protection: Option<&hrl_protection>,
    limit_ms: u64,
) -> hrl_status {
    guard(|| {
        let handle = handle::given(protection, "protection")?;
        let taken = handle.inner.write().take();
        taken.map_or(Ok(()), |running| running.stop(Duration::from_millis(limit_ms)))
    })
}

/// Frees the protection; NULL is fine. Without a stop before it ends as in a crash: the next
/// session reads the dirty regions again. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_protection_free(protection: Option<Box<hrl_protection>>) {
    guard_value((), || drop(protection));
}
