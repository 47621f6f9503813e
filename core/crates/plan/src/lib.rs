//! Recovery plans: many volumes failed over in order, in parallel where possible, with actions and
//! approvals between.
//!
//! A [`Plan`] is parsed from TOML, [`Plan::check`]ed against a vault, and [`run`] as a test or for
//! real. A [`PlanHost`] brings up each volume. Every step is recorded in the vault before it acts
//! and after it ended (`plans/RUN/NNNNNN`, put-if-absent). So any machine can [`resume`] a run that
//! was killed at any instant, and [`report`] describes a run at any time.
//!
//! Invariants:
//! - A step recorded as done never runs again. A step that was under way when its runner died is
//!   reported as interrupted and runs again, so *actions must be repeatable* (`HRL_TRY` counts).
//! - Of two runners of one run, the first to write the next record continues. The other kills its
//!   programs and ends with `Fenced`, within [`RunOptions::poll`] and no later than at its next
//!   record.
//! - A group point that members share is chosen once, when the run begins. It stays the same over
//!   every resume and is pinned until the run ends, for at most 7 days.
//!
//! If a step fails, the run follows the step's `on_failure`. A test is cleaned up even then; a real
//! run stays as it is, to be resumed.

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
mod vouch;

pub use approval::approve;
pub use check::{PlanCheck, PredictedMember};
pub use definition::{
    ACTIONS_MAX, Action, Boot, Commit, GROUPS_MAX, Group, MEMBERS_MAX, Member, OnFailure, Only,
    Plan, PlanAt, Program, RunMode, TRIES_MAX, Task,
};
pub use host::{PlanHost, StartRequest, Started, StopFlag};
pub use log::runs;
pub use order::{Step, StepKind};
pub use outcome::{Approval, RunOutcome, StepOutcome};
pub use report::{GroupReport, MemberReport, RunReport, StepReport, report};
pub use run::{RunOptions, resume, run};
