//! How steps and runs end, and what people decide about steps.

use hrl::Timestamp;
use serde_json::{Value, json};

use super::fields::{flag, text, time};

/// How a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StepOutcome {
    /// Its turn has not come.
    Waiting,
    /// It is under way; or its runner died meanwhile.
    Running,
    /// It ended well.
    Done,
    /// It failed.
    Failed,
    /// It took longer than its limit.
    TimedOut,
    /// A person rejected it.
    Rejected,
    /// It was cut off because the run was asked to stop; it runs again when the run is resumed.
    Stopped,
    /// The run ended before its turn.
    Skipped,
}

impl StepOutcome {
    const ALL: [Self; 8] = [
        Self::Waiting,
        Self::Running,
        Self::Done,
        Self::Failed,
        Self::TimedOut,
        Self::Rejected,
        Self::Stopped,
        Self::Skipped,
    ];

    /// Stable lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::TimedOut => "timed-out",
            Self::Rejected => "rejected",
            Self::Stopped => "stopped",
            Self::Skipped => "skipped",
        }
    }

    /// The outcome of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.name() == name)
    }

    /// It ended, and not well.
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::Failed | Self::TimedOut | Self::Rejected)
    }
}

/// How a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RunOutcome {
    /// It is under way; or its runner died meanwhile.
    Running,
    /// Everything went well.
    Done,
    /// It went on to its end over steps that failed.
    DoneWithFailures,
    /// A step that failed ended it. A real run can be resumed there.
    Failed,
    /// It was asked to stop, and can be resumed.
    Stopped,
}

impl RunOutcome {
    const ALL: [Self; 5] =
        [Self::Running, Self::Done, Self::DoneWithFailures, Self::Failed, Self::Stopped];

    /// Stable lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::DoneWithFailures => "done-with-failures",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }

    /// The outcome of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.name() == name)
    }
}

/// What a person decided about a manual step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    /// It was done; false: it was rejected, and the step failed.
    pub approved: bool,
    /// Who decided.
    pub by: String,
    /// What they had to say.
    pub note: String,
    /// When.
    pub time: Timestamp,
}

impl Approval {
    pub(super) fn to_json(&self) -> Value {
        json!({
            "approved": self.approved,
            "by": self.by,
            "note": self.note,
            "time": self.time.to_string(),
        })
    }

    pub(super) fn read(value: &Value) -> Option<Self> {
        Some(Self {
            approved: flag(value, "approved")?,
            by: text(value, "by")?,
            note: text(value, "note")?,
            time: time(value, "time")?,
        })
    }
}
