//! Values that C gets whole: points, stretches of history, volumes, and their enumerations.

use std::ffi::{c_char, c_void};

use engine::journal::PointKind;
use engine::replica::RecoveryPoint;
use engine::vault::{Pin, PinUntil, TimelineEntry, VolumeInfo};
use engine::{Cause, Mode};

use crate::report::{Shown, report};

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
    /// Write order, nothing more: what a power failure would leave.
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

report! {
    /// A recovery point. Times are nanoseconds since 1970 in UTC.
    pub struct hrl_point from point: RecoveryPoint {
        /// Identity, in hexadecimal digits.
        id: [c_char; HRL_ID_CHARS],
        /// A `hrl_point_kind`.
        kind: u32,
        /// Its place in the write order.
        sequence: u64,
        /// Time of the mark.
        time_ns: i64 = point.time,
        /// Epoch of the source.
        epoch: u32,
        /// Label that it was marked with.
        label: [c_char; HRL_LABEL_CHARS],
        /// Chain hash of the segment that ends with it, in hexadecimal digits.
        chain: [c_char; HRL_HASH_CHARS],
        /// Whether a pin keeps it through retention.
        pinned: bool = point.pins.iter().any(|pin| !pin.is_legal_hold()),
        /// Whether it is under legal hold.
        held: bool = point.pins.iter().any(Pin::is_legal_hold),
        /// End of its pin; 0 for a pin without an end, and without a pin.
        pinned_until_ns: i64 = pinned_until_ns(point),
        /// Checks that found it good. Of each kind of check the newest counts.
        checks_good: u32 = checks(point, true),
        /// Checks that found it bad.
        checks_bad: u32 = checks(point, false),
    }
}

fn pinned_until_ns(point: &RecoveryPoint) -> i64 {
    let ends = point.pins.iter().filter_map(|pin| match pin.until {
        PinUntil::Time(until) => Some(until.0),
        _ => None,
    });
    ends.into_iter().next().unwrap_or(0)
}

fn checks(point: &RecoveryPoint, ok: bool) -> u32 {
    point.verdicts.iter().filter(|verdict| verdict.ok == ok).count() as u32
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

impl Shown<u32> for PointKind {
    fn shown(&self) -> u32 {
        kind_code(*self)
    }
}

/// Returns the kind with this code.
pub(crate) fn kind_of(code: u32) -> engine::Result<PointKind> {
    let found = KINDS.iter().find(|(_, known)| *known as u32 == code).map(|(kind, _)| *kind);
    found.ok_or_else(|| {
        crate::boundary::bad_argument("kind").expected("a hrl_point_kind").found(code)
    })
}

/// How much the capture of a volume can promise.
#[repr(C)]
#[derive(Clone, Copy)]
pub enum hrl_mode {
    /// Every write is captured with its data, in order: points can be marked.
    HRL_MODE_ORDERED = 0,
    /// Data is not captured. Only the dirty map grows, and the writer goes on.
    HRL_MODE_DIRTY = 1,
    /// Dirty regions are being read again while new writes are captured.
    HRL_MODE_RESYNC = 2,
}

pub(crate) fn mode_code(mode: Mode) -> u32 {
    match mode {
        Mode::Ordered => hrl_mode::HRL_MODE_ORDERED as u32,
        Mode::Dirty => hrl_mode::HRL_MODE_DIRTY as u32,
        Mode::Resync => hrl_mode::HRL_MODE_RESYNC as u32,
    }
}

impl Shown<u32> for Mode {
    fn shown(&self) -> u32 {
        mode_code(*self)
    }
}

report! {
    /// A stretch of a volume's history, from one sequence to another, both included.
    pub struct hrl_timeline_entry from entry: TimelineEntry {
        /// First sequence.
        first_sequence: u64 = entry.from,
        /// Last sequence.
        last_sequence: u64 = entry.to,
        /// Time of the first, in nanoseconds since 1970 in UTC.
        first_time_ns: i64 = entry.from_time,
        /// Time of the last.
        last_time_ns: i64 = entry.to_time,
        /// Cause, such as "crash", for which no state inside the stretch can be restored. Static.
        /// NULL for an ordered stretch.
        unordered: *const c_char = entry.unordered.map_or(std::ptr::null(), cause_text),
        /// Whether retention folded the stretch. Then only the last sequence of the fold can be
        /// restored.
        folded: bool,
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
        Cause::Observed => c"observed",
        Cause::OutsideWriter => c"outside-writer",
        _ => c"unknown",
    };
    text.as_ptr()
}

report! {
    /// A volume of a vault.
    pub struct hrl_volume_info from info: VolumeInfo {
        /// Name in the vault.
        name: [c_char; HRL_NAME_CHARS],
        /// Identity, in hexadecimal digits.
        id: [c_char; HRL_ID_CHARS],
        /// Size in bytes.
        size_bytes: u64 = info.device_bytes,
        /// Block size in bytes.
        block_bytes: u32,
        /// Time of its creation, in nanoseconds since 1970 in UTC.
        created_ns: i64 = info.created,
        /// Whether its data is encrypted.
        encrypted: bool = info.key_id.is_some(),
        /// Whether it is tracked without data. Then it has change sets, but no states.
        extents_only: bool,
        /// Whether its keys were deleted. Then nothing of it can be read any more.
        shredded: bool,
    }
}

/// Receives one point, which lives until it returns; returns false to stop.
pub type hrl_point_fn =
    Option<unsafe extern "C" fn(user: *mut c_void, point: *const hrl_point) -> bool>;
/// Receives one stretch of history; returns false to stop.
pub type hrl_timeline_fn =
    Option<unsafe extern "C" fn(user: *mut c_void, entry: *const hrl_timeline_entry) -> bool>;
/// Receives one volume; returns false to stop.
pub type hrl_volume_fn =
    Option<unsafe extern "C" fn(user: *mut c_void, volume: *const hrl_volume_info) -> bool>;

/// Passes values to a callback until it returns false.
pub(crate) fn visit<T>(
    values: impl IntoIterator<Item = T>,
    callback: Option<unsafe extern "C" fn(user: *mut c_void, value: *const T) -> bool>,
    user: *mut c_void,
) -> engine::Result<()> {
    let callback = callback.ok_or_else(|| {
        crate::boundary::bad_argument("visit").expected("a function").found("NULL")
    })?;
    for value in values {
        // SAFETY: a function of this type, called as the header says; the value lives during the
        // call.
        if !unsafe { callback(user, &raw const value) } {
            break;
        }
    }
    Ok(())
}
