//! What happens to a protected volume, told to whoever embeds us.
//!
//! Events are for people and alarms; the durable record of gaps is the timeline of the replica.
//! A sink is called from worker threads, never under a lock of ours, and must return soon.

use std::fmt;
use std::sync::Arc;

use crate::units::{PointId, Sequence, Timestamp};

/// How much a volume's capture can promise at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Every write is captured with its data, in order: points can be marked.
    Ordered,
    /// Data is not captured; the dirty map alone grows and the writer goes on.
    Dirty,
    /// Dirty ranges are being read again while new writes are captured.
    Resync,
}

impl Mode {
    /// Stable lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ordered => "ordered",
            Self::Dirty => "dirty",
            Self::Resync => "resync",
        }
    }
}

/// Why an interval of the journal is unordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// The first copy of the disk.
    InitialReplication,
    /// The agent was killed or the power failed.
    Crash,
    /// The memory budget of capture was exhausted.
    MemoryBudget,
    /// The spool reached its limit or its disk is full.
    SpoolFull,
    /// The device failed a write, so its content was unknown.
    DeviceError,
    /// The disk changed while nobody watched.
    Untracked,
    /// The journal could not be written (I/O error).
    JournalError,
    /// Asked for by the operator.
    Requested,
}

impl Cause {
    /// Every cause, in the order of its code in the journal format.
    pub const ALL: [Self; 8] = [
        Self::InitialReplication,
        Self::Crash,
        Self::MemoryBudget,
        Self::SpoolFull,
        Self::DeviceError,
        Self::Untracked,
        Self::JournalError,
        Self::Requested,
    ];

    /// Code in the journal format: 1 and up.
    pub fn code(self) -> u8 {
        Self::ALL.iter().position(|c| *c == self).map_or(0, |at| at as u8 + 1)
    }

    /// The cause with this code.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code).checked_sub(1)?).copied()
    }

    /// Stable lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::InitialReplication => "initial-replication",
            Self::Crash => "crash",
            Self::MemoryBudget => "memory-budget",
            Self::SpoolFull => "spool-full",
            Self::DeviceError => "device-error",
            Self::Untracked => "untracked-change",
            Self::JournalError => "journal-error",
            Self::Requested => "requested",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// Capture changed its mode.
    ModeChanged {
        /// Mode before.
        from: Mode,
        /// Mode now.
        to: Mode,
        /// Why.
        cause: Cause,
    },
    /// A recovery point was marked.
    PointMarked {
        /// Its identity.
        point: PointId,
        /// Its place in the write order.
        sequence: Sequence,
    },
    /// A point was due but the volume was not `Ordered`.
    PointSkipped,
    /// A resync began; `bytes` are to be read.
    ResyncStarted {
        /// Bytes of the regions to read.
        bytes: u64,
        /// Why.
        cause: Cause,
    },
    /// A resync ended.
    ResyncFinished {
        /// Bytes read from the disk.
        bytes_read: u64,
        /// Bytes that differed and were journaled.
        bytes_journaled: u64,
    },
    /// The vault does not take segments; they wait in the spool.
    VaultUnavailable,
    /// The vault takes segments again.
    VaultAvailable,
    /// The newest replicated sequence is older than the policy's RPO threshold.
    RpoExceeded,
    /// The RPO threshold is met again.
    RpoMet,
    /// A torn journal was repaired at start.
    JournalRepaired,
    /// Another agent or a newer epoch owns the volume; this one stopped.
    Fenced,
    /// The source handed the volume over to a planned failover; it is not written to any more.
    HandedOver,
    /// A planned failover was cancelled; the volume is written to as before.
    TakenBack,
    /// What was captured here after the failover is on a branch in the vault.
    LateWrites {
        /// Segments handed in.
        segments: u64,
        /// Records in them.
        records: u64,
    },
    /// A failover was committed: the volume is protected from here.
    FailoverCommitted,
    /// A background task failed and will be tried again.
    TaskFailed,
}

impl EventKind {
    /// Stable lower-case name.
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
        }
    }
}

/// One event of one volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When it happened.
    pub time: Timestamp,
    /// Name of the volume.
    pub volume: String,
    /// What happened.
    pub kind: EventKind,
    /// One sentence for people.
    pub message: String,
}

/// Where events go. Called from worker threads, in order per volume.
pub type EventSink = Arc<dyn Fn(&Event) + Send + Sync>;

/// A sink that drops everything.
pub fn no_events() -> EventSink {
    Arc::new(|_| {})
}
