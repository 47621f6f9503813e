//! Recovery plans: many volumes failed over in order, in parallel where they may, with actions and approvals between.
//!
//! A [`Plan`] is read from TOML, [`Plan::check`]ed against a vault, and [`run`] as a test or for real through a [`PlanHost`],
//! which is how one volume is brought up. Every step is recorded in the vault before it acts and after it ended
//! (`plans/RUN/NNNNNN`, put-if-absent), so a run that was killed at any instant is [`resume`]d where it was, by anybody, and
//! [`report`] tells of it at any time.
//!
//! Invariants:
//! - a step that was recorded as ended well never runs again; one that was under way when its runner died is told as such and
//!   runs again, so *actions have to be repeatable* (`HRL_TRY` counts);
//! - of two runners of one run the one that writes the next record first goes on; the other kills what it runs and ends with
//!   `Fenced`. That is seen within [`RunOptions::poll`], and no later than at its next record;
//! - a group point that members share is chosen once, when the run begins, stays the same over every resume, and is pinned until
//!   the run ends (for 7 days at most).
//!
//! On failure of a step the run follows its `on_failure`. A test is cleaned up also then; a real run is left as it is, to be
//! resumed.

mod approval;
mod check;
mod command;
mod definition;
mod fields;
mod host;
mod log;
mod order;
mod outcome;
mod parse;
#[cfg(test)]
mod parse_tests;
mod record;
mod report;
mod run;
mod state;
mod step;
mod table;

pub use approval::approve;
pub use check::{PlanCheck, PredictedMember};
pub use definition::{
    ACTIONS_MAX, Action, Boot, Commit, GROUPS_MAX, Group, MEMBERS_MAX, Member, OnFailure, Only,
    Plan, PlanState, Program, RunMode, TRIES_MAX, Task,
};
pub use host::{PlanHost, StartRequest, Started, StopFlag};
pub use log::runs;
pub use order::{Step, StepKind};
pub use outcome::{Approval, RunOutcome, StepOutcome};
pub use report::{GroupReport, MemberReport, RunReport, StepReport, report};
pub use run::{RunOptions, resume, run};
