//! Events: what happens to a protected volume, reported to the embedding program.
//!
//! Events are for people and alarms; the durable record of gaps is the timeline of the replica. A
//! sink is called from worker threads, never under a lock of this crate, and must return soon.
//!
//! An event prints as one line and has a [`Severity`], so a bridge to a logging library is a
//! closure. With the crates `log` and `tracing` it has three arms: `log::error!("{event}")`,
//! `log::warn!` and `log::info!`.

use std::fmt;
use std::sync::Arc;

use crate::macros::{coded, named};
use crate::units::{PointId, Sequence, Timestamp};

named! {
    /// What the capture of a volume can promise at this moment.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub enum Mode {
        /// Every write is captured with its data, in order: points can be taken.
        #[default]
        Ordered = "ordered",
        /// Data is not captured: writes only set regions dirty, and writers go on.
        Dirty = "dirty",
        /// Dirty regions are read again while new writes are captured.
        Resync = "resync",
    }
}

named! {
    /// The cause of an unordered interval.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    #[non_exhaustive]
    pub enum Cause {
        /// The first copy of the disk.
        InitialReplication = "initial-replication",
        /// The agent was killed or the power failed.
        Crash = "crash",
        /// The memory budget of capture was exhausted.
        MemoryBudget = "memory-budget",
        /// The spool reached its limit or its disk is full.
        SpoolFull = "spool-full",
        /// The device failed a write, so its content was unknown.
        DeviceError = "device-error",
        /// The disk changed while it was not protected.
        Untracked = "untracked-change",
        /// The journal could not be written (I/O error).
        JournalError = "journal-error",
        /// The operator requested it.
        #[default]
        Requested = "requested",
        /// The vault lacks what was published from here: it went back, or it is another copy.
        VaultWentBack = "vault-went-back",
        /// The vault has more of this source than its state directory: the machine went back.
        StateWentBack = "state-went-back",
        /// Another session has used a copy of the state directory.
        OtherInstance = "other-instance",
        /// The disk is attached: its changes are known block by block, and in order at points only.
        Observed = "observed",
        /// An outside writer, such as a copy onto the volume, is not in sync.
        OutsideWriter = "outside-writer",
    }
}

coded!(pub Cause);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The kind of an event, with its details.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// Capture changed its mode.
    ModeChanged {
        /// Mode before.
        from: Mode,
        /// Mode after.
        to: Mode,
        /// Cause of the change.
        cause: Cause,
    },
    /// A recovery point was taken.
    PointMarked {
        /// Its identity.
        point: PointId,
        /// Its place in the write order.
        sequence: Sequence,
    },
    /// A point was due but the volume was not `Ordered`.
    PointSkipped,
    /// A resync began.
    ResyncStarted {
        /// Bytes of the regions to read.
        bytes: u64,
        /// Cause of the unordered interval.
        cause: Cause,
    },
    /// A resync ended.
    ResyncFinished {
        /// Bytes read from the disk.
        bytes_read: u64,
        /// Bytes that differed and were journaled.
        bytes_journaled: u64,
    },
    /// The vault does not accept segments; they wait in the spool.
    VaultUnavailable,
    /// The vault accepts segments again.
    VaultAvailable,
    /// The oldest change that the vault lacks is older than the policy's RPO threshold.
    RpoExceeded,
    /// The RPO threshold is met again.
    RpoMet,
    /// A torn journal was repaired at start, or what a lost catalog version said was published again.
    JournalRepaired,
    /// Another agent or a newer epoch owns the volume; this agent stopped.
    Fenced,
    /// The source handed the volume over to a planned failover; its disk takes no writes any more.
    HandedOver,
    /// A planned failover was cancelled; the disk takes writes again.
    TakenBack,
    /// Changes captured here after the failover are on a branch in the vault.
    LateWrites {
        /// Segments on the branch.
        segments: u64,
        /// Records in them.
        records: u64,
    },
    /// A failover was committed: the volume is protected from here.
    FailoverCommitted,
    /// A background task failed and will be tried again. Each cause is reported at most once a
    /// minute.
    TaskFailed,
    /// A background task that failed works again.
    TaskRecovered,
    /// Disk, state directory and vault are not of one history. What cannot be proven equal is read
    /// again.
    Diverged {
        /// What went back or is another.
        cause: Cause,
    },
    /// The policy has retention and the source may not delete from the vault: a maintainer carries
    /// retention out. Reported once.
    RetentionLeft,
    /// The vault has no record of the volume any more; nothing is replicated until it is restarted.
    VolumeLost,
    /// The vault has an object under the name of a catalog version that nobody with the key has made.
    /// It is ignored.
    VersionIgnored,
    /// What is written changed suddenly, as it does when data is encrypted; later points are
    /// [`VerdictKind::Suspicious`](crate::vault::VerdictKind::Suspicious).
    SuspiciousChange,
}

impl EventKind {
    /// Returns the stable lower-case name.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::ModeChanged { .. } => "mode-changed",
            Self::PointMarked { .. } => "point-marked",
            Self::PointSkipped => "point-skipped",
            Self::ResyncStarted { .. } => "resync-started",
            Self::ResyncFinished { .. } => "resync-finished",
            Self::VaultUnavailable => "vault-unavailable",
            Self::VaultAvailable => "vault-available",
            Self::RpoExceeded => "rpo-exceeded",
            Self::RpoMet => "rpo-met",
            Self::JournalRepaired => "journal-repaired",
            Self::Fenced => "fenced",
            Self::HandedOver => "handed-over",
            Self::TakenBack => "taken-back",
            Self::LateWrites { .. } => "late-writes",
            Self::FailoverCommitted => "failover-committed",
            Self::TaskFailed => "task-failed",
            Self::TaskRecovered => "task-recovered",
            Self::Diverged { .. } => "diverged",
            Self::RetentionLeft => "retention-left",
            Self::VolumeLost => "volume-lost",
            Self::VersionIgnored => "version-ignored",
            Self::SuspiciousChange => "suspicious-change",
        }
    }

    /// Returns how much attention the event needs.
    pub const fn severity(&self) -> Severity {
        match self {
            Self::Fenced
            | Self::Diverged { .. }
            | Self::VolumeLost
            | Self::VersionIgnored
            | Self::SuspiciousChange => Severity::Error,
            // The first copy, and a resync that was requested, are normal.
            Self::ModeChanged { to: Mode::Ordered, .. }
            | Self::ModeChanged { cause: Cause::InitialReplication | Cause::Requested, .. } => {
                Severity::Info
            }
            Self::ModeChanged { .. }
            | Self::PointSkipped
            | Self::VaultUnavailable
            | Self::RpoExceeded
            | Self::JournalRepaired
            | Self::LateWrites { .. }
            | Self::TaskFailed => Severity::Warning,
            Self::PointMarked { .. }
            | Self::ResyncStarted { .. }
            | Self::ResyncFinished { .. }
            | Self::VaultAvailable
            | Self::RpoMet
            | Self::HandedOver
            | Self::TakenBack
            | Self::FailoverCommitted
            | Self::TaskRecovered
            | Self::RetentionLeft => Severity::Info,
        }
    }
}

/// How much attention an event needs; the levels of the usual logging libraries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Severity {
    /// A normal step.
    Info,
    /// Protection is worse than the policy asks for, and recovers by itself.
    Warning,
    /// Protection ended, or the history has a break that an operator must know of.
    Error,
}

/// One event of one volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Time of the event.
    pub time: Timestamp,
    /// Name of the volume.
    pub volume: String,
    /// Kind and details.
    pub kind: EventKind,
    /// One sentence for people.
    pub message: String,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.volume, self.kind.name(), self.message)
    }
}

/// Receives events. Called from worker threads, in order for each volume.
pub type EventSink = Arc<dyn Fn(&Event) + Send + Sync>;

/// Returns a sink that ignores all events.
pub fn no_events() -> EventSink {
    Arc::new(|_| {})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::lock::Mutex;

    #[test]
    fn a_sink_can_pass_events_to_a_logger_by_severity() {
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = log.clone();
        let sink: EventSink = Arc::new(move |event| {
            lines.lock().push((event.kind.severity(), event.to_string()));
        });
        for kind in [EventKind::RpoMet, EventKind::RpoExceeded, EventKind::Fenced] {
            let message = "as it is".to_owned();
            sink(&Event { time: Timestamp(0), volume: "disk".to_owned(), kind, message });
        }
        let expected = [
            (Severity::Info, "disk: rpo-met: as it is".to_owned()),
            (Severity::Warning, "disk: rpo-exceeded: as it is".to_owned()),
            (Severity::Error, "disk: fenced: as it is".to_owned()),
        ];
        assert_eq!(*log.lock(), expected);
    }
}
