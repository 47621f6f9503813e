//! Values that are given to C whole: points, stretches of history, volumes, and their enumerations.

use std::ffi::{c_char, c_void};

use engine::journal::PointKind;
use engine::replica::RecoveryPoint;
use engine::vault::{PinUntil, TimelineEntry, VolumeInfo};
use engine::{Cause, Mode};

use crate::handle;

/// Room for an identity: 32 hexadecimal digits and the end.
pub const HRL_ID_CHARS: usize = 33;
/// Room for a chain hash: 64 hexadecimal digits and the end.
pub const HRL_HASH_CHARS: usize = 65;
/// Room for a label.
pub const HRL_LABEL_CHARS: usize = 256;
/// Room for the name of a volume.
pub const HRL_NAME_CHARS: usize = 129;

/// What a recovery point promises.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum hrl_point_kind {
    /// Write order held, nothing more: what a power failure would leave.
    HRL_POINT_CRASH = 1,
    /// Applications were quiesced and flushed.
    HRL_POINT_APP = 2,
    /// One cut across the volumes of a group, crash-consistent.
    HRL_POINT_GROUP_CRASH = 3,
    /// One cut across a group whose applications were quiesced.
    HRL_POINT_GROUP_APP = 4,
    /// The application declared it at a transaction boundary of its own, without a freeze.
    HRL_POINT_DECLARED = 5,
}

/// A recovery point. Times are nanoseconds since 1970 in UTC.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hrl_point {
    /// Identity, in hexadecimal digits.
    pub id: [c_char; HRL_ID_CHARS],
    /// A `hrl_point_kind`.
    pub kind: u32,
    /// Its place in the write order.
    pub sequence: u64,
    /// When it was marked.
    pub time_ns: i64,
    /// Epoch of the source.
    pub epoch: u32,
    /// Text of who marked it.
    pub label: [c_char; HRL_LABEL_CHARS],
    /// Chain hash of the segment that ends with it, in hexadecimal digits.
    pub chain: [c_char; HRL_HASH_CHARS],
    /// It has a pin, which keeps it through retention.
    pub pinned: bool,
    /// It is under legal hold.
    pub held: bool,
    /// When its pin ends, in nanoseconds since 1970 in UTC; 0 for a pin without an end, and without one.
    pub pinned_until_ns: i64,
    /// Checks that found it good, of those kept: the newest of each kind.
    pub checks_good: u32,
    /// Checks that found it bad.
    pub checks_bad: u32,
}

impl From<&RecoveryPoint> for hrl_point {
    fn from(point: &RecoveryPoint) -> Self {
        let until = point.pins.iter().find_map(|pin| match pin.until {
            PinUntil::Time(until) => Some(until.0),
            _ => None,
        });
        let checks = |ok| point.verdicts.iter().filter(|v| v.ok == ok).count() as u32;
        Self {
            pinned: point.pins.iter().any(|pin| !pin.is_legal_hold()),
            held: point.pins.iter().any(engine::vault::Pin::is_legal_hold),
            pinned_until_ns: until.unwrap_or(0),
            checks_good: checks(true),
            checks_bad: checks(false),
            id: handle::fixed_text(&point.id.to_string()),
            kind: kind_code(point.kind),
            sequence: point.sequence.0,
            time_ns: point.time.0,
            epoch: point.epoch.0,
            label: handle::fixed_text(&point.label),
            chain: handle::fixed_text(&point.chain.to_string()),
        }
    }
}

const KINDS: [(PointKind, hrl_point_kind); 5] = [
    (PointKind::Crash, hrl_point_kind::HRL_POINT_CRASH),
    (PointKind::App, hrl_point_kind::HRL_POINT_APP),
    (PointKind::GroupCrash, hrl_point_kind::HRL_POINT_GROUP_CRASH),
    (PointKind::GroupApp, hrl_point_kind::HRL_POINT_GROUP_APP),
    (PointKind::Declared, hrl_point_kind::HRL_POINT_DECLARED),
];

pub(crate) fn kind_code(kind: PointKind) -> u32 {
    KINDS.iter().find(|(known, _)| *known == kind).map_or(0, |(_, code)| *code as u32)
}

/// The kind with this code.
pub(crate) fn kind_of(code: u32) -> engine::Result<PointKind> {
    let found = KINDS.iter().find(|(_, known)| *known as u32 == code).map(|(kind, _)| *kind);
    found.ok_or_else(|| {
        crate::boundary::bad_argument("kind").expected("a hrl_point_kind").found(code)
    })
}

/// How much a volume's capture can promise.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum hrl_mode {
    /// Every write is captured with its data, in order: points can be marked.
    HRL_MODE_ORDERED = 0,
    /// Data is not captured; the dirty map alone grows and the writer goes on.
    HRL_MODE_DIRTY = 1,
    /// Dirty ranges are being read again while new writes are captured.
    HRL_MODE_RESYNC = 2,
}

pub(crate) fn mode_code(mode: Mode) -> u32 {
    match mode {
        Mode::Ordered => hrl_mode::HRL_MODE_ORDERED as u32,
        Mode::Dirty => hrl_mode::HRL_MODE_DIRTY as u32,
        Mode::Resync => hrl_mode::HRL_MODE_RESYNC as u32,
    }
}

/// A stretch of a volume's history, from one sequence to another, both included.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hrl_timeline_entry {
    /// First sequence.
    pub first_sequence: u64,
    /// Last sequence.
    pub last_sequence: u64,
    /// Time of the first, in nanoseconds since 1970 in UTC.
    pub first_time_ns: i64,
    /// Time of the last.
    pub last_time_ns: i64,
    /// NULL for an ordered stretch; otherwise why no state inside it can be restored, such as "crash". Static.
    pub unordered: *const c_char,
    /// Retention folded the stretch into one state: only the last sequence of the fold can be restored.
    pub folded: bool,
}

impl From<&TimelineEntry> for hrl_timeline_entry {
    fn from(entry: &TimelineEntry) -> Self {
        Self {
            first_sequence: entry.from.0,
            last_sequence: entry.to.0,
            first_time_ns: entry.from_time.0,
            last_time_ns: entry.to_time.0,
            unordered: entry.unordered.map_or(std::ptr::null(), cause_text),
            folded: entry.folded,
        }
    }
}

fn cause_text(cause: Cause) -> *const c_char {
    let text = match cause {
        Cause::InitialReplication => c"initial-replication",
        Cause::Crash => c"crash",
        Cause::MemoryBudget => c"memory-budget",
        Cause::SpoolFull => c"spool-full",
        Cause::DeviceError => c"device-error",
        Cause::Untracked => c"untracked-change",
        Cause::JournalError => c"journal-error",
        Cause::Requested => c"requested",
        Cause::VaultWentBack => c"vault-went-back",
        Cause::StateWentBack => c"state-went-back",
        Cause::OtherInstance => c"other-instance",
        _ => c"unknown",
    };
    text.as_ptr()
}

/// A volume of a vault.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hrl_volume_info {
    /// Name in the vault.
    pub name: [c_char; HRL_NAME_CHARS],
    /// Identity, in hexadecimal digits.
    pub id: [c_char; HRL_ID_CHARS],
    /// Size in bytes.
    pub size_bytes: u64,
    /// Block size in bytes.
    pub block_bytes: u32,
    /// When it was created, in nanoseconds since 1970 in UTC.
    pub created_ns: i64,
    /// Its data is encrypted.
    pub encrypted: bool,
    /// Tracked without data: change sets alone can be had.
    pub extents_only: bool,
    /// Its keys were deleted: nothing of it can be read any more.
    pub shredded: bool,
}

impl From<&VolumeInfo> for hrl_volume_info {
    fn from(info: &VolumeInfo) -> Self {
        Self {
            name: handle::fixed_text(&info.name),
            id: handle::fixed_text(&info.id.to_string()),
            size_bytes: info.device_bytes,
            block_bytes: info.block_bytes,
            created_ns: info.created.0,
            encrypted: info.key_id.is_some(),
            extents_only: info.extents_only,
            shredded: info.shredded,
        }
    }
}

/// Is given one point, which lives until it returns; returns false to stop.
pub type hrl_point_fn =
    Option<unsafe extern "C" fn(user: *mut c_void, point: *const hrl_point) -> bool>;
/// Is given one stretch of history; returns false to stop.
pub type hrl_timeline_fn =
    Option<unsafe extern "C" fn(user: *mut c_void, entry: *const hrl_timeline_entry) -> bool>;
/// Is given one volume; returns false to stop.
pub type hrl_volume_fn =
    Option<unsafe extern "C" fn(user: *mut c_void, volume: *const hrl_volume_info) -> bool>;

/// Gives values to a callback until it has enough.
pub(crate) fn visit<T>(
    values: impl IntoIterator<Item = T>,
    callback: Option<unsafe extern "C" fn(user: *mut c_void, value: *const T) -> bool>,
    user: *mut c_void,
) -> engine::Result<()> {
    let callback = callback.ok_or_else(|| {
        crate::boundary::bad_argument("visit").expected("a function").found("NULL")
    })?;
    for value in values {
        // SAFETY: a function of this type, called as the header says; the value lives during the call.
        if !unsafe { callback(user, &raw const value) } {
            break;
        }
    }
    Ok(())
}
