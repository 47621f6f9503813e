//! Reports of runs, made from their records alone: while a run goes on, when it has ended, and
//! years later.
//!
//! Times across steps are by the wall clocks of the runners' machines. Lengths of steps are by a
//! clock that never jumps.

use std::time::Duration;

use super::definition::RunMode;
use super::fields::millis;
use super::host::Started;
use super::log::Log;
use super::order::{Step, StepKind};
use super::outcome::{Approval, RunOutcome, StepOutcome};
use super::record::started_json;
use super::state::{RunState, StepState};
use hrl::vault::Vault;
use hrl::{Result, Timestamp};
use serde_json::{Value, json};

/// How a run goes or went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunReport {
    /// Identity of the run.
    pub run: String,
    /// Name of the plan.
    pub plan: String,
    /// Test or real.
    pub mode: RunMode,
    /// The source was still running.
    pub planned: bool,
    /// Outcome; `Running` even if the runner died.
    pub outcome: RunOutcome,
    /// Explanation of the outcome, if there is one.
    pub message: String,
    /// When the run began.
    pub began: Timestamp,
    /// When the run ended.
    pub ended: Option<Timestamp>,
    /// When the source failed, from which RPO counts back. Default: when the run began.
    pub failed_at: Timestamp,
    /// Runners so far: one, plus one for each resume.
    pub runners: u32,
    /// Whether volumes are up and not committed.
    pub commit_is_due: bool,
    /// From the run's begin until the last volume was usable and its boot ready. `None` until then.
    pub rto: Option<Duration>,
    /// Largest loss among the volumes that are up. `None` if none is up.
    pub rpo: Option<Duration>,
    /// RTO that the plan intends.
    pub rto_target: Option<Duration>,
    /// RPO that the plan intends.
    pub rpo_target: Option<Duration>,
    /// How long the run waited for approvals; overlaps count once.
    pub waited: Duration,
    /// The groups, in the order of the plan.
    pub groups: Vec<GroupReport>,
    /// The volumes, in the order of the plan.
    pub members: Vec<MemberReport>,
    /// The steps.
    pub steps: Vec<StepReport>,
    /// Names of actions that only runs of the other mode do.
    pub left_out: Vec<String>,
}

/// A group of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupReport {
    /// Name of the group.
    pub name: String,
    /// From the run's begin until the group's last volume was ready. `None` until then, and for a
    /// group without volumes.
    pub rto: Option<Duration>,
    /// Largest loss among the group's volumes.
    pub rpo: Option<Duration>,
}

/// A volume of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberReport {
    /// Name of the volume.
    pub volume: String,
    /// Index of its group.
    pub group: usize,
    /// The consistency group, if the volume came up at one of its points.
    pub consistency_group: Option<String>,
    /// Where the volume is served, and at which state.
    pub started: Option<Started>,
    /// From the volume's own start until it was served.
    pub usable: Option<Duration>,
    /// From the run's begin until the volume was served.
    pub usable_since_run: Option<Duration>,
    /// From the volume's own start until its boot was ready; without a boot, as `usable`.
    pub ready: Option<Duration>,
    /// From the run's begin until the boot was ready: the volume's RTO.
    pub ready_since_run: Option<Duration>,
    /// From the time of the volume's state to the failure.
    pub rpo: Option<Duration>,
    /// Whether the check was good; `None` without a check.
    pub verified: Option<bool>,
}

/// A step of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepReport {
    /// Number of the step.
    pub number: u32,
    /// Name of the step.
    pub id: String,
    /// Kind of the step.
    pub kind: StepKind,
    /// Index of its group.
    pub group: usize,
    /// Its volume.
    pub volume: Option<String>,
    /// Description for people.
    pub text: String,
    /// Outcome of the step.
    pub outcome: StepOutcome,
    /// When the newest try began.
    pub began: Option<Timestamp>,
    /// When the step ended.
    pub ended: Option<Timestamp>,
    /// How long the newest try took.
    pub took: Option<Duration>,
    /// Tries so far.
    pub tries: u32,
    /// Tries whose runner died.
    pub interrupted: u32,
    /// Explanation of the outcome.
    pub message: String,
    /// Last bytes of the output.
    pub output: String,
    /// Decision about a manual step.
    pub approval: Option<Approval>,
}

/// Returns the report of a run; `NotFound` if there is no such run.
pub fn report(vault: &Vault, run: &str) -> Result<RunReport> {
    Ok(report_of(run, &RunState::load(&Log::new(vault, run)?)?))
}

pub(super) fn report_of(run: &str, state: &RunState) -> RunReport {
    let header = &state.header;
    let failed_at = header.failed_at.unwrap_or(header.time);
    let members: Vec<_> = state
        .plan
        .members()
        .map(|(group, member)| MemberReport::of(&member.volume, group, failed_at, state))
        .collect();
    let (outcome, message, ended) = match &state.ended {
        Some((outcome, message, time)) => (*outcome, message.clone(), Some(*time)),
        None => (RunOutcome::Running, String::new(), None),
    };
    let other = match header.mode {
        RunMode::Test => RunMode::Real,
        RunMode::Real => RunMode::Test,
    };
    let is_left_out = |step: &Step| {
        !RunState::is_last(step.kind) && !state.steps.iter().any(|known| known.id == step.id)
    };
    let left_out = state.plan.steps(other).into_iter().filter(is_left_out);
    let groups = state.plan.groups().iter().enumerate();
    RunReport {
        run: run.to_owned(),
        plan: header.plan.clone(),
        mode: header.mode,
        planned: header.planned,
        outcome,
        message,
        began: header.time,
        ended,
        failed_at,
        runners: state.runners,
        commit_is_due: ended.is_some() && state.commit_is_due(),
        rto: all(members.iter().map(|member| member.ready_since_run)),
        rpo: members.iter().filter_map(|member| member.rpo).max(),
        rto_target: state.plan.rto_target(),
        rpo_target: state.plan.rpo_target(),
        waited: waited(state),
        groups: groups
            .map(|(at, group)| {
                let own = || members.iter().filter(move |member| member.group == at);
                GroupReport {
                    name: group.name.clone(),
                    rto: all(own().map(|member| member.ready_since_run)),
                    rpo: own().filter_map(|member| member.rpo).max(),
                }
            })
            .collect(),
        steps: state.steps.iter().map(|step| StepReport::of(step, state)).collect(),
        members,
        left_out: left_out.map(|step| step.id).collect(),
    }
}

/// Returns the longest time, if all are known.
fn all(times: impl Iterator<Item = Option<Duration>>) -> Option<Duration> {
    times.collect::<Option<Vec<_>>>()?.into_iter().max()
}

/// Returns how long at least one manual step waited.
fn waited(state: &RunState) -> Duration {
    let mut spans: Vec<_> = state
        .steps
        .iter()
        .filter(|step| step.kind == StepKind::Manual)
        .filter_map(|step| {
            let known = state.state(step);
            Some((known.first_begin?, known.end.as_ref()?.time))
        })
        .collect();
    spans.sort_unstable();
    let mut nanos = 0;
    let mut until = Timestamp(i64::MIN);
    for (begin, end) in spans {
        nanos += end.nanos_since(begin.max(until));
        until = until.max(end);
    }
    Duration::from_nanos(nanos)
}

fn since(later: Timestamp, earlier: Timestamp) -> Duration {
    Duration::from_nanos(later.nanos_since(earlier))
}

impl MemberReport {
    fn of(volume: &str, group: usize, failed_at: Timestamp, state: &RunState) -> Self {
        let known = |kind| state.step_of(volume, kind).map(|step| state.state(step));
        let start = known(StepKind::Start);
        let done = |kind| {
            let end = known(kind)?.end.as_ref()?;
            (end.outcome == StepOutcome::Done).then_some(end.time)
        };
        let served = done(StepKind::Start);
        let ready = if known(StepKind::Boot).is_some() { done(StepKind::Boot) } else { served };
        let began = start.and_then(|start| start.first_begin);
        let of_run = |time| since(time, state.header.time);
        let own = |time: Option<Timestamp>| Some(since(time?, began?));
        let started = state.started(volume).cloned();
        let chosen = state.header.points.iter().find(|chosen| chosen.volume == volume);
        let verify = known(StepKind::Verify).map(StepState::outcome);
        Self {
            volume: volume.to_owned(),
            group,
            consistency_group: chosen.and_then(|chosen| chosen.group.clone()),
            usable: own(served),
            usable_since_run: served.map(of_run),
            ready: own(ready),
            ready_since_run: ready.map(of_run),
            rpo: started.as_ref().map(|started| since(failed_at, started.point_time)),
            verified: verify.and_then(|outcome| match outcome {
                StepOutcome::Done => Some(true),
                failed if failed.is_failure() => Some(false),
                _ => None,
            }),
            started,
        }
    }

    fn to_json(&self, groups: &[GroupReport]) -> Value {
        json!({
            "volume": self.volume,
            "group": groups[self.group].name,
            "consistency_group": self.consistency_group,
            "started": self.started.as_ref().map(started_json),
            "usable_ms": millis(self.usable),
            "usable_since_run_ms": millis(self.usable_since_run),
            "ready_ms": millis(self.ready),
            "ready_since_run_ms": millis(self.ready_since_run),
            "rpo_ms": millis(self.rpo),
            "verified": self.verified,
        })
    }
}

impl StepReport {
    pub(super) fn of(step: &Step, state: &RunState) -> Self {
        let known = state.state(step);
        let mut outcome = known.outcome();
        if outcome == StepOutcome::Waiting && state.ended.is_some() {
            let due = step.kind == StepKind::Commit
                && step.volume.as_deref().is_some_and(|volume| state.started(volume).is_some());
            outcome = if due { outcome } else { StepOutcome::Skipped };
        }
        let end = known.end.as_ref();
        Self {
            number: step.number,
            id: step.id.clone(),
            kind: step.kind,
            group: step.group,
            volume: step.volume.clone(),
            text: step.text.clone(),
            outcome,
            began: known.begin,
            ended: end.map(|end| end.time),
            took: end.map(|end| Duration::from_millis(end.ms)),
            tries: known.attempts,
            interrupted: known.interrupted,
            message: end.map(|end| end.message.clone()).unwrap_or_default(),
            output: end.map(|end| end.output.clone()).unwrap_or_default(),
            approval: end.and_then(|end| end.approval.clone()),
        }
    }

    /// Returns one line of JSON, as in `steps` of [`RunReport::to_json`]; `group` is an index here.
    pub fn to_json(&self) -> String {
        self.json().to_string()
    }

    fn json(&self) -> Value {
        json!({
            "number": self.number,
            "id": self.id,
            "kind": self.kind.name(),
            "group": self.group,
            "volume": self.volume,
            "text": self.text,
            "outcome": self.outcome.name(),
            "began": self.began.map(|time| time.to_string()),
            "ended": self.ended.map(|time| time.to_string()),
            "took_ms": millis(self.took),
            "tries": self.tries,
            "interrupted": self.interrupted,
            "message": self.message,
            "output": self.output,
            "approval": self.approval.as_ref().map(Approval::to_json),
        })
    }
}

impl RunReport {
    /// Returns the report as one line of JSON; `core/docs/plans.md` lists its fields. Times are RFC
    /// 3339 in UTC, lengths are milliseconds (`…_ms`), names are those of the enums, and unknown
    /// values are null. New fields may be added; existing ones stay.
    pub fn to_json(&self) -> String {
        let met = |found: Option<Duration>, target: Option<Duration>| Some(found? <= target?);
        let groups = self.groups.iter().map(|group| {
            json!({
                "name": group.name,
                "rto_ms": millis(group.rto),
                "rpo_ms": millis(group.rpo),
            })
        });
        json!({
            "run": self.run,
            "plan": self.plan,
            "mode": self.mode.name(),
            "planned": self.planned,
            "outcome": self.outcome.name(),
            "message": self.message,
            "began": self.began.to_string(),
            "ended": self.ended.map(|time| time.to_string()),
            "took_ms": millis(self.ended.map(|ended| since(ended, self.began))),
            "failed_at": self.failed_at.to_string(),
            "runners": self.runners,
            "commit_is_due": self.commit_is_due,
            "rto_ms": millis(self.rto),
            "rto_target_ms": millis(self.rto_target),
            "rto_met": met(self.rto, self.rto_target),
            "rpo_ms": millis(self.rpo),
            "rpo_target_ms": millis(self.rpo_target),
            "rpo_met": met(self.rpo, self.rpo_target),
            "waited_ms": millis(Some(self.waited)),
            "groups": groups.collect::<Vec<_>>(),
            "members": self.members.iter().map(|m| m.to_json(&self.groups)).collect::<Vec<_>>(),
            "steps": self.steps.iter().map(StepReport::json).collect::<Vec<_>>(),
            "left_out": self.left_out,
        })
        .to_string()
    }
}
