//! Approvals of manual steps. Anyone who can write to the vault decides, once for each time that a
//! step waits.

use super::log::Log;
use super::order::{Step, StepKind};
use super::outcome::{Approval, StepOutcome};
use super::state::RunState;
use hrl::vault::Vault;
use hrl::{Error, ErrorKind, Result};

/// Approves or rejects a waiting manual step, given by its name or number. The runner acts on the
/// decision within [`RunOptions::poll`](super::RunOptions::poll), or once the run is resumed.
///
/// `NotFound` lists the steps that do wait; `AlreadyExists` if the step was decided before.
pub fn approve(
    vault: &Vault,
    run: &str,
    step: &str,
    approved: bool,
    by: &str,
    note: &str,
) -> Result<Approval> {
    let log = Log::new(vault, run)?;
    let state = RunState::load(&log)?;
    let waits = |step: &&Step| {
        step.kind == StepKind::Manual && state.state(step).outcome() == StepOutcome::Running
    };
    let waiting: Vec<_> = state.steps.iter().filter(waits).collect();
    let named = |known: &&&Step| known.id == step || known.number.to_string() == step;
    let Some(found) = waiting.iter().find(named) else {
        let waiting: Vec<_> = waiting.iter().map(|step| step.id.as_str()).collect();
        return Err(Error::new(
            ErrorKind::NotFound,
            "approve step",
            format_args!("{step} of {run}"),
        )
        .expected(format_args!("a step that waits for an approval, of [{}]", waiting.join(", "))));
    };
    let time = vault.clock().now();
    let approval = Approval { approved, by: by.to_owned(), note: note.to_owned(), time };
    let waited = state.state(found).ends;
    match log.put_approval(found.number, waited, &approval.to_json()) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let before = log.approval_of(found.number, waited)?.as_ref().and_then(Approval::read);
            let before = before.map_or_else(String::new, |known| {
                let word = if known.approved { "approved" } else { "rejected" };
                format!("{word} by {} at {}", known.by, known.time)
            });
            Err(Error::new(ErrorKind::AlreadyExists, "approve step", &found.id).found(before))
        }
        result => result.map(|()| approval),
    }
}
