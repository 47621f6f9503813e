//! Progress of a run, computed from its records alone.

use super::command::Process;
use super::definition::{Plan, RunMode};
use super::host::Started;
use super::log::Log;
use super::order::{Part, Step, StepKind};
use super::outcome::{RunOutcome, StepOutcome};
use super::record::{End, Header, Record};
use hrl::{Result, Timestamp};

/// Progress of a step.
#[derive(Clone, Debug, Default)]
pub(super) struct StepState {
    /// Tries that began.
    pub attempts: u32,
    /// Tries that ended.
    pub ends: u32,
    /// Tries whose runner died.
    pub interrupted: u32,
    pub first_begin: Option<Timestamp>,
    pub begin: Option<Timestamp>,
    /// How the newest try ended; `None` while it is under way.
    pub end: Option<End>,
    /// The program that it started last.
    pub process: Option<Process>,
}

impl StepState {
    pub(super) fn outcome(&self) -> StepOutcome {
        match &self.end {
            Some(end) => end.outcome,
            None if self.attempts > 0 => StepOutcome::Running,
            None => StepOutcome::Waiting,
        }
    }

    pub(super) fn begun(&mut self, attempt: u32, time: Timestamp) {
        if self.attempts > 0 && self.end.is_none() {
            self.interrupted += 1;
        }
        self.attempts = attempt;
        self.first_begin.get_or_insert(time);
        self.begin = Some(time);
        self.end = None;
    }

    pub(super) fn ended(&mut self, end: End) {
        self.ends += 1;
        self.end = Some(end);
    }
}

/// Progress of a run.
pub(super) struct RunState {
    pub header: Header,
    pub plan: Plan,
    pub steps: Vec<Step>,
    pub states: Vec<StepState>,
    /// The current or last runner.
    pub runner: Option<Process>,
    pub ended: Option<(RunOutcome, String, Timestamp)>,
    /// Number of the next record.
    pub next: u32,
    /// Runners so far.
    pub runners: u32,
}

impl RunState {
    pub(super) fn new(header: Header, plan: Plan) -> Self {
        let steps = plan.steps(header.mode);
        let states = vec![StepState::default(); steps.len()];
        Self { header, plan, steps, states, runner: None, ended: None, next: 2, runners: 0 }
    }

    /// Reads a run. `NotFound` if there is no such run, `Corrupt` if its records make no sense.
    pub(super) fn load(log: &Log) -> Result<Self> {
        let values = log.read()?;
        let records = values.iter().enumerate();
        let mut records = records.map(|(at, value)| {
            Record::read(value).ok_or_else(|| log.bad(at as u32 + 1, "a record of a run"))
        });
        let Some(Record::Run(header)) = records.next().transpose()? else {
            return Err(log.bad(1, "what is run"));
        };
        let plan = Plan::parse(&header.text, &format!("plan of run {}", log.run()))?;
        let mut state = Self::new(header, plan);
        for record in records {
            let number = state.next;
            state
                .apply(record?)
                .ok_or_else(|| log.bad(number, "a record of a step of the plan"))?;
            state.next += 1;
        }
        Ok(state)
    }

    /// Applies a record; `None` if it cannot belong to this run.
    fn apply(&mut self, record: Record) -> Option<()> {
        match record {
            Record::Run(_) => return None,
            Record::Runner { process, .. } => {
                self.runner = Some(process);
                self.runners += 1;
                self.ended = None;
            }
            Record::Begin { step, attempt, time } => self.step(step)?.begun(attempt, time),
            Record::Process { step, process } => self.step(step)?.process = Some(process),
            Record::End { step, end } => self.step(step)?.ended(end),
            Record::Ended { outcome, message, time } => self.ended = Some((outcome, message, time)),
        }
        Some(())
    }

    pub(super) fn step(&mut self, number: u32) -> Option<&mut StepState> {
        self.states.get_mut((number as usize).checked_sub(1)?)
    }

    pub(super) fn state(&self, step: &Step) -> &StepState {
        &self.states[step.number as usize - 1]
    }

    /// Returns how a volume came up, if it did.
    pub(super) fn started(&self, volume: &str) -> Option<&Started> {
        let step = self.step_of(volume, StepKind::Start)?;
        self.state(step).end.as_ref()?.started.as_ref()
    }

    /// Returns a step of a volume.
    pub(super) fn step_of(&self, volume: &str, kind: StepKind) -> Option<&Step> {
        let is_it = |step: &&Step| {
            step.kind == kind
                && matches!(step.part, Part::Member(_))
                && step.volume.as_deref() == Some(volume)
        };
        self.steps.iter().find(is_it)
    }

    /// Returns whether a step is one of those that end the run.
    pub(super) fn is_last(kind: StepKind) -> bool {
        matches!(kind, StepKind::Commit | StepKind::CleanUp)
    }

    /// Returns whether nothing is left to do: a test has ended and is clean, or a real run reached
    /// its end and, with `commit`, is committed.
    pub(super) fn is_over(&self, commit: bool) -> bool {
        match &self.ended {
            None | Some((RunOutcome::Stopped | RunOutcome::Running, ..)) => false,
            Some(_) if self.header.mode == RunMode::Test => {
                let cleaned =
                    |step: &&Step| step.kind == StepKind::CleanUp && self.needs_clean_up(step);
                !self.steps.iter().any(|step| cleaned(&step))
            }
            Some((RunOutcome::Failed, ..)) => false,
            Some(_) => !commit || !self.commit_is_due(),
        }
    }

    /// Returns whether some volume came up and was not committed.
    pub(super) fn commit_is_due(&self) -> bool {
        self.steps.iter().any(|step| {
            step.kind == StepKind::Commit
                && self.state(step).outcome() != StepOutcome::Done
                && step.volume.as_deref().is_some_and(|volume| self.started(volume).is_some())
        })
    }

    /// Returns whether the test failover of a clean-up step began and was not taken down.
    pub(super) fn needs_clean_up(&self, step: &Step) -> bool {
        let start = step.volume.as_deref().and_then(|v| self.step_of(v, StepKind::Start));
        let began = start.is_some_and(|start| self.state(start).attempts > 0);
        began && self.state(step).outcome() != StepOutcome::Done
    }
}
