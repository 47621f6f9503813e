//! Outcomes of steps and runs, and decisions of people about steps.

use hrl::Timestamp;
use serde_json::{Value, json};

use super::fields::{flag, text, time};

/// Outcome of a step, or how far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StepOutcome {
    /// Its turn has not come.
    Waiting,
    /// It is under way, or its runner died.
    Running,
    /// It succeeded.
    Done,
    /// It failed.
    Failed,
    /// It took longer than its limit.
    TimedOut,
    /// A person rejected it.
    Rejected,
    /// It was interrupted because the run was stopped; it runs again when the run is resumed.
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

    /// Returns the stable lower-case name.
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

    /// Returns the outcome of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.name() == name)
    }

    /// Returns whether the step ended without success.
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::Failed | Self::TimedOut | Self::Rejected)
    }
}

/// Outcome of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RunOutcome {
    /// It is under way, or its runner died.
    Running,
    /// Every step succeeded.
    Done,
    /// It reached its end, although steps failed.
    DoneWithFailures,
    /// A failed step ended it. A real run can be resumed there.
    Failed,
    /// It was stopped, and can be resumed.
    Stopped,
}

impl RunOutcome {
    const ALL: [Self; 5] =
        [Self::Running, Self::Done, Self::DoneWithFailures, Self::Failed, Self::Stopped];

    /// Returns the stable lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::DoneWithFailures => "done-with-failures",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }

    /// Returns the outcome of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.name() == name)
    }
}

/// A person's decision about a manual step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    /// Whether the person approved; otherwise the step failed.
    pub approved: bool,
    /// Name of the person.
    pub by: String,
    /// Remark of the person.
    pub note: String,
    /// Time of the decision.
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
