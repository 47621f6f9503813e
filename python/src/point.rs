//! Recovery points, alone and of groups, and what retention, checks and history say of them.

use crate::value::mirror;
use hrl::Timestamp;
use hrl::vault::{PinUntil, VerdictKind};

mirror! {
    /// A recovery point of one volume.
    ///
    /// Two points are equal when their `id` is, whatever is pinned or checked meanwhile.
    RecoveryPoint(point: hrl::replica::RecoveryPoint) {
        /// Identity: 32 hexadecimal digits.
        id: String,
        /// Consistency that it promises.
        kind: &'static str,
        /// Last change that its recovery state holds.
        sequence: u64,
        /// Time of its mark in UTC, for people.
        time: String,
        /// Time of its mark in nanoseconds since 1970.
        time_ns: i64 = point.time,
        /// Free text; may be empty.
        label: String,
        /// Epoch of the volume.
        epoch: u32,
        /// Identity of the group point that it belongs to, if any; see `Vault.group_points`.
        group: Option<String>,
        /// Chain hash of the segment that holds the mark.
        chain: String,
        /// Pins and legal holds that keep it through retention.
        pins: Vec<Pin>,
        /// Verdicts of checks: the newest of each kind.
        verdicts: Vec<Verdict>,
    }
    shows label id kind sequence time;
    same by id;
}

mirror! {
    /// A pin or legal hold, which keeps a recovery point through retention.
    Pin(pin: hrl::vault::Pin) {
        /// Identity of the point.
        point: String,
        /// Time in UTC at which it ends; None for one that stays until it is removed.
        until: Option<String> = match pin.until {
            PinUntil::Time(until) => Some(until),
            PinUntil::Forever | PinUntil::LegalHold => None,
        },
        /// Whether it is a legal hold, which `unpin` removes with `hold=True` only.
        hold: bool = matches!(pin.until, PinUntil::LegalHold),
        /// Reason, for people.
        reason: String,
        /// Time in UTC at which it was set.
        since: String,
    }
}

mirror! {
    /// The result of a check of a recovery point.
    Verdict(verdict: hrl::vault::Verdict) {
        /// Identity of the point.
        point: String,
        /// Kind of the check.
        kind: &'static str,
        /// Whether the check found nothing wrong.
        ok: bool,
        /// Time of the check in UTC.
        time: String,
        /// Details, for people.
        text: String,
    }
}

mirror! {
    /// A stretch of a volume's history, either in write order or a gap.
    TimelineEntry(entry: hrl::vault::TimelineEntry) {
        /// First sequence.
        first: u64 = entry.from,
        /// Last sequence.
        last: u64 = entry.to,
        /// Time of the first change in UTC.
        from_time: String,
        /// Time of the last change in UTC.
        to_time: String,
        /// Cause of the gap, in which no state can be restored; None for a stretch in write
        /// order.
        unordered: Option<&'static str>,
        /// Whether retention folded it, so that only the last sequence of each fold can be
        /// restored.
        folded: bool,
    }
}

mirror! {
    /// The place of a group point in one member.
    GroupMark(mark: hrl::GroupMark) {
        /// Name of the volume.
        volume: String,
        /// Identity of the recovery point in this volume.
        point: String,
        /// Place in the write order of the volume.
        sequence: u64,
        /// Time of the mark in UTC, by the clock of the member's machine.
        time: String,
    }
}

mirror! {
    /// One cut across the volumes of a consistency group.
    ///
    /// Two group points are equal when their `id` is.
    GroupPoint(point: hrl::GroupPoint) {
        /// Identity; every member can be restored or served at it.
        id: String,
        /// Consistency that it promises: "group-crash" or "group-app".
        kind: &'static str,
        /// Time in UTC at which the coordinator began it.
        time: String,
        /// Name of the group.
        group: String = point.group.clone(),
        /// Free text; may be empty.
        label: String = point.label.clone(),
        /// Number of members in the cut.
        members: u16,
        /// Whether every member's mark is known, so that all can be restored to this cut.
        complete: bool = point.is_complete(),
        /// Place of the cut in each known member.
        marks: Vec<GroupMark> = point.marks.clone(),
        /// Longest barrier of a member in seconds; None for a point read from a vault.
        held_seconds: Option<f64> = point.held,
    }
    shows group label id kind members time;
    same by id;
}

/// How long a pin is to stay.
pub(crate) fn pin_until(until: Option<Timestamp>, hold: bool) -> hrl::Result<PinUntil> {
    match (until, hold) {
        (None, false) => Ok(PinUntil::Forever),
        (None, true) => Ok(PinUntil::LegalHold),
        (Some(until), false) => Ok(PinUntil::Time(until)),
        (Some(until), true) => Err(hrl::Error::new(hrl::ErrorKind::InvalidInput, "pin", "point")
            .expected("a legal hold without a time")
            .found(until)),
    }
}

/// The kind of a verdict by its name.
pub(crate) fn verdict_kind(name: &str) -> hrl::Result<VerdictKind> {
    VerdictKind::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
        hrl::Error::new(hrl::ErrorKind::InvalidInput, "record verdict", name)
            .expected(format_args!("one of {}", VerdictKind::ALL.map(VerdictKind::name).join(", ")))
            .found(name)
    })
}
