//! Protection: everything that one protected volume needs, as one handle.

use std::ffi::{c_char, c_void};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use engine::{
    Error, ErrorKind, Event, EventSink, Policy, Protection, ProtectionOptions, Quiesce,
    QuiesceRequest, Result,
};

use crate::boundary::{bad_argument, guard, guard_value, hrl_status};
use crate::callbacks::{User, needed, outcome};
use crate::device::hrl_device;
use crate::handle::{self, In, Out, Text, versioned};
use crate::points::{hrl_point, hrl_timeline_entry, hrl_timeline_fn, kind_of, mode_code, visit};
use crate::quiesce;
use crate::tap::hrl_tap;
use crate::vault::hrl_vault;
use engine::sync::lock::{RwLock, RwLockReadGuard};

/// How to open a protection. Used by one thread at a time.
pub struct hrl_protection_options {
    pub(crate) volume: String,
    pub(crate) state: std::path::PathBuf,
    pub(crate) device: Arc<dyn engine::device::BlockDevice>,
    pub(crate) vault: engine::vault::Vault,
    pub(crate) policy: Policy,
    take_over: bool,
    pub(crate) events: Option<EventSink>,
}

/// Begins the options for protecting `device` as `volume` of `vault`. `state` is the local directory of this agent (dirty
/// map, spool, identity), created when it is absent; it must not be on the protected device. Device and vault may be freed
/// afterwards. Free the options with `hrl_protection_options_free`. Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
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
            device: handle::given(device, "device")?.inner.clone(),
            vault: handle::given(vault, "vault")?.inner.clone(),
            policy: Policy::default(),
            take_over: false,
            events: None,
        };
        out.give(options)
    })
}

/// Sets one field of the policy from text, by the names of policy files: "memory_budget_bytes" "67108864",
/// "crash_point_interval" "60s", "compression" "zstd:1", and so on. The values are checked together by
/// `hrl_protection_open`. Statuses: HRL_ERROR_INVALID_INPUT (the message lists the names). Since 0.1.
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

/// Take the volume over when another source has it. Default: no, that is HRL_ERROR_FENCED. Statuses: HRL_ERROR_INVALID_INPUT.
/// Since 0.1.
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

/// What happened to a protected volume. The texts live until the callback returns.
#[repr(C)]
pub struct hrl_event {
    /// When, in nanoseconds since 1970 in UTC.
    pub time_ns: i64,
    /// Name of the volume.
    pub volume: *const c_char,
    /// Stable name of what happened, such as "mode-changed", "point-marked", "vault-unavailable", "fenced".
    pub kind: *const c_char,
    /// One sentence for people.
    pub message: *const c_char,
}

/// Is told of an event, from a thread of the library; must return soon.
pub type hrl_event_fn = Option<unsafe extern "C" fn(user: *mut c_void, event: *const hrl_event)>;

/// Where events go; NULL: nowhere. `callback` is called until `hrl_protection_free` has returned. Statuses:
/// HRL_ERROR_INVALID_INPUT. Since 0.1.
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
        let [volume, kind, message] = &texts;
        let told = hrl_event {
            time_ns: event.time.0,
            volume: volume.as_ptr(),
            kind: kind.as_ptr(),
            message: message.as_ptr(),
        };
        // SAFETY: a function of this type, called as the header says; event and texts live during the call.
        unsafe { callback(user.pointer(), &raw const told) }
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

/// Runs work with the protection behind a handle; it cannot be stopped meanwhile.
pub(crate) fn with<T>(
    protection: Option<&hrl_protection>,
    work: impl FnOnce(&Protection) -> Result<T>,
) -> Result<T> {
    let guard = handle::given(protection, "protection")?.read();
    work(guard.as_ref().ok_or_else(|| bad_argument("protection").message("it was stopped"))?)
}

/// Opens the volume, finds what must be read again, and starts. The options may be used again and freed. Free the protection
/// with `hrl_protection_free`, after `hrl_protection_stop`.
/// Statuses: HRL_ERROR_FENCED (another agent or source has the volume), HRL_ERROR_CHANGED (not the disk that was protected),
/// HRL_ERROR_WRONG_KEY, HRL_ERROR_UNAVAILABLE (the vault), HRL_ERROR_INVALID_INPUT (the policy), HRL_ERROR_FULL, HRL_ERROR_IO.
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
            given.device.clone(),
            given.vault.clone(),
            given.state.clone(),
        )
        .policy(given.policy.clone())
        .take_over(given.take_over);
        if let Some(events) = &given.events {
            options = options.events(events.clone());
        }
        if let Some(applications) = quiesce::of_policy(&given.policy)? {
            options = options.applications(applications);
        }
        out.give(hrl_protection::of(options.open()?))
    })
}

/// The protected volume as a device: writes to it are captured. From now on nothing else may write to the disk below. Free it
/// with `hrl_device_free`, before `hrl_protection_stop`. Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
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

/// The tap of the volume, for agents that do their own I/O. Free it with `hrl_tap_free`. Statuses: HRL_ERROR_INVALID_INPUT.
/// Since 0.1.
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

/// Marks a recovery point now, and returns once it is durable in the local journal. `kind` is a `hrl_point_kind`:
/// HRL_POINT_CRASH, or HRL_POINT_DECLARED at a transaction boundary of the caller's. `label` may be NULL; `point` too.
/// Statuses: HRL_ERROR_NOT_ORDERED (first copy, resync or overflow), HRL_ERROR_INVALID_INPUT (label above 255 bytes),
/// HRL_ERROR_FENCED. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_protection_mark(
    protection: Option<&hrl_protection>,
    kind: u32,
    label: Text<'_>,
    point: Out<'_, hrl_point>,
) -> hrl_status {
    guard(|| {
        let (kind, label) = (kind_of(kind)?, label.optional("label")?.unwrap_or_default());
        let marked = with(protection, |p| p.mark(kind, label))?;
        point.put_optional(hrl_point::from(&marked));
        Ok(())
    })
}

/// How an application is quiesced around a mark. The functions return 0 or an errno, and must not unwind.
#[repr(C)]
pub struct hrl_quiesce_callbacks<'a> {
    /// `sizeof(hrl_quiesce_callbacks)`, so that later versions can add to it.
    pub struct_bytes: usize,
    /// Name for errors and events; copied. NULL: "application".
    pub name: Text<'a>,
    /// Makes the disk consistent and keeps it so until `release`; to be done within `limit_ms`.
    pub quiesce: Option<unsafe extern "C" fn(user: *mut c_void, limit_ms: u64) -> i32>,
    /// Lets the application go on. Called exactly once for each `quiesce`, also when that failed.
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

/// Marks an application-consistent point: quiesce, flush, mark, release, in this order, with the callbacks on the calling
/// thread. No point, and the application released, when it cannot be quiesced or the mark would come after `limit_ms`
/// (HRL_ERROR_UNAVAILABLE). `label` and `point` may be NULL.
/// Statuses: those of `hrl_protection_mark`, and what the callbacks return. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_protection_mark_quiesced(
    protection: Option<&hrl_protection>,
    callbacks: In<'_, hrl_quiesce_callbacks<'_>>,
    user: *mut c_void,
    label: Text<'_>,
    limit_ms: u64,
    point: Out<'_, hrl_point>,
) -> hrl_status {
    guard(|| {
        let provider = CallbackQuiesce::new(callbacks.read("callbacks")?, user)?;
        let label = label.optional("label")?.unwrap_or_default();
        let limit = Duration::from_millis(limit_ms);
        let marked = with(protection, |p| p.mark_quiesced(&provider, label, limit))?;
        point.put_optional(hrl_point::from(&marked));
        Ok(())
    })
}

/// Marks an application-consistent point with the applications and the limit of the policy: its names "quiesce" (one
/// specification a line, such as "postgresql:dbname=app\nfs:/srv"; core/docs/quiesce.md lists them), "quiesce_limit" and,
/// for points by the clock, "app_point_interval". The program hrl-watchdog quiesces and releases them, also when this process
/// is killed meanwhile. `label` and `point` may be NULL.
/// Statuses: those of `hrl_protection_mark`; HRL_ERROR_UNAVAILABLE and others when they cannot be quiesced or did not stay so:
/// then there is no point and they are released. HRL_ERROR_INVALID_INPUT (the policy names none). Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_protection_mark_app(
    protection: Option<&hrl_protection>,
    label: Text<'_>,
    point: Out<'_, hrl_point>,
) -> hrl_status {
    guard(|| {
        let label = label.optional("label")?.unwrap_or_default();
        let marked = with(protection, |p| p.mark_app(label))?;
        point.put_optional(hrl_point::from(&marked));
        Ok(())
    })
}

/// Says where the program hrl-watchdog is, for this process. Not needed where it is in `libexec` of the prefix that the library
/// was installed into, beside the running program, or named by HRL_WATCHDOG. Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_set_watchdog(path: Text<'_>) -> hrl_status {
    guard(|| quiesce::set_watchdog(path.read("path")?))
}

/// How a protection is doing.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hrl_stats {
    /// A `hrl_mode`.
    pub mode: u32,
    /// Newest sequence captured.
    pub last_sequence: u64,
    /// Newest sequence durable in the local journal.
    pub journaled_sequence: u64,
    /// Newest sequence in the vault.
    pub replicated_sequence: u64,
    /// Age of the oldest captured change that is not in the vault, in milliseconds.
    pub rpo_ms: u64,
    /// Changes captured: writes, zeroes, discards.
    pub changes: u64,
    /// Bytes of data captured.
    pub bytes_captured: u64,
    /// Bytes of closed segments written.
    pub bytes_stored: u64,
    /// Memory of the queue, in bytes.
    pub queue_bytes: u64,
    /// Segments waiting for the vault, in bytes.
    pub spool_bytes: u64,
    /// What is captured and not in the vault, in bytes: queue and spool.
    pub backlog_bytes: u64,
    /// Speed of shipping of late, or the bandwidth allowed now where that is less; 0 when nothing has gone yet.
    pub ship_bytes_per_second: u64,
    /// Milliseconds until the backlog is in the vault at that speed, if nothing more were written; UINT64_MAX when the vault
    /// does not answer or the speed is not known.
    pub eta_ms: u64,
    /// Regions that a crash now would have to read again.
    pub marked_regions: u64,
    /// Bytes that a resync has still to read.
    pub resync_bytes_left: u64,
    /// Bytes that the resync under way, or the last, has read.
    pub resync_bytes_read: u64,
    /// Points marked in this session.
    pub points: u64,
    /// The vault took the last segment.
    pub vault_available: bool,
    /// Another source has the volume now; nothing is replicated any more.
    pub fenced: bool,
    /// A failover to here is not committed: what is written stays in the spool.
    pub provisional: bool,
    /// A planned failover has the volume: writes are refused.
    pub handed_over: bool,
}

impl From<&engine::ProtectionStats> for hrl_stats {
    fn from(now: &engine::ProtectionStats) -> Self {
        Self {
            mode: mode_code(now.mode),
            last_sequence: now.last_sequence.0,
            journaled_sequence: now.journaled_sequence.0,
            replicated_sequence: now.replicated_sequence.0,
            rpo_ms: u64::try_from(now.rpo.as_millis()).unwrap_or(u64::MAX),
            changes: now.changes,
            bytes_captured: now.bytes_captured,
            bytes_stored: now.bytes_stored,
            queue_bytes: now.queue_bytes,
            spool_bytes: now.spool_bytes,
            backlog_bytes: now.backlog_bytes,
            ship_bytes_per_second: now.ship_bytes_per_second,
            eta_ms: now.eta.and_then(|eta| u64::try_from(eta.as_millis()).ok()).unwrap_or(u64::MAX),
            marked_regions: now.marked_regions,
            resync_bytes_left: now.resync_bytes_left,
            resync_bytes_read: now.resync_bytes_read,
            points: now.points,
            vault_available: now.vault_available,
            fenced: now.fenced,
            provisional: now.provisional,
            handed_over: now.handed_over,
        }
    }
}

/// How the protection is doing now. Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_protection_stats(
    protection: Option<&hrl_protection>,
    stats: Out<'_, hrl_stats>,
) -> hrl_status {
    guard(|| {
        let now = with(protection, |p| Ok(p.stats()))?;
        stats.put(hrl_stats::from(&now), "stats")
    })
}

/// Gives the history that the vault knows to `each` on the calling thread. Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
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

/// Waits until the first copy or resync is complete. Statuses: HRL_ERROR_UNAVAILABLE (not within `limit_ms`), HRL_ERROR_FENCED.
/// Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_protection_wait_ordered(
    protection: Option<&hrl_protection>,
    limit_ms: u64,
) -> hrl_status {
    guard(|| with(protection, |p| p.wait_ordered(Duration::from_millis(limit_ms))))
}

/// Waits until everything captured before the call is in the vault. `sequence`, which may be NULL, receives the newest sequence
/// there. Statuses as for `hrl_protection_wait_ordered`. Since 0.1.
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

/// Reads the whole disk again, beside the writes. Older points stay usable; none is marked until it is complete. Statuses:
/// HRL_ERROR_IO, HRL_ERROR_FULL. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_protection_resync(protection: Option<&hrl_protection>) -> hrl_status {
    guard(|| with(protection, Protection::resync))
}

/// Ends the session cleanly: closes and ships what there is (waiting for the vault up to `limit_ms`; the rest stays in the
/// spool), flushes the disk, and leaves a clean dirty map, so that the next session reads nothing again. Every writer must be
/// gone before; calls on other threads are waited for. Afterwards every function but `hrl_protection_free` gives
/// HRL_ERROR_INVALID_INPUT, also when this one failed; a second stop does nothing.
/// Statuses: HRL_ERROR_UNAVAILABLE, HRL_ERROR_FENCED, HRL_ERROR_IO: the next session then reads some regions again. Since 0.1.
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

/// Frees the protection; NULL is fine. One that was not stopped ends as in a crash: the next session reads the marked regions
/// again. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_protection_free(protection: Option<Box<hrl_protection>>) {
    guard_value((), || drop(protection));
}
