//! What a resumed run may believe of its records.
//!
//! Records name commands, and whoever writes to the vault can write records. A vault with a key
//! proves them: they are sealed. Without a key the caller vouches for the run, with the plan itself
//! and the options that it was started with. The points of the volumes and the approvals are
//! believed in any case: whoever forges those forges the volumes too.

use super::definition::{Commit, Plan, RunMode};
use super::log::Log;
use super::state::RunState;
use hrl::{Error, ErrorKind, Result};

/// The word of a caller about a run.
pub(super) struct Word<'a> {
    pub plan: Option<&'a Plan>,
    pub mode: RunMode,
    pub planned: bool,
}

/// Returns the run as the caller vouches for it.
///
/// `Denied` if nobody vouches for the plan. `InvalidInput` if the record names another plan or
/// another kind of run than the caller.
pub(super) fn vouched(mut state: RunState, log: &Log, word: &Word<'_>) -> Result<RunState> {
    let refused = |kind| Error::new(kind, "resume run", log.run());
    let Some(plan) = word.plan else {
        if log.is_sealed() {
            return Ok(state);
        }
        return Err(refused(ErrorKind::Denied)
            .expected("the plan, because a vault without a key proves no record")
            .found("none"));
    };
    if let Some(line) = first_difference(plan, &state.header.text) {
        return Err(refused(ErrorKind::InvalidInput)
            .expected("the plan that the run was started with")
            .found(format_args!("one that differs from the record at line {line}")));
    }
    if word.mode != state.header.mode {
        return Err(refused(ErrorKind::InvalidInput)
            .expected(format_args!("a {} run", word.mode.name()))
            .found(format_args!("the record of a {} run", state.header.mode.name())));
    }
    if word.planned != state.header.planned {
        let kind = |planned| if planned { "a planned run" } else { "a run that is not planned" };
        return Err(refused(ErrorKind::InvalidInput)
            .expected(kind(word.planned))
            .found(format_args!("the record of {}", kind(state.header.planned))));
    }
    if !log.is_sealed() {
        state.header.commit = plan.commit() == Commit::Automatic;
    }
    Ok(state)
}

/// Returns the first line in which the texts differ.
fn first_difference(plan: &Plan, recorded: &str) -> Option<usize> {
    if plan.text() == recorded {
        return None;
    }
    let same = plan.text().lines().zip(recorded.lines()).take_while(|(a, b)| a == b);
    Some(same.count() + 1)
}
