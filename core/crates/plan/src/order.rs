//! The order of a plan: cycles of dependencies, and the steps of a run with their numbers.
//!
//! A step's number is its place in one fixed walk over the plan, which is stored with the run. So
//! records and approvals refer to steps by numbers that never change.

use super::definition::{Group, Plan, RunMode, Task};
use serde_json::json;

/// The kinds of steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StepKind {
    /// Runs the command of an action.
    Command,
    /// Waits for the approval of a person.
    Manual,
    /// Brings a volume up.
    Start,
    /// Starts the program that uses a volume, and waits until it is ready.
    Boot,
    /// Checks a volume.
    Verify,
    /// Commits the failover of a volume.
    Commit,
    /// Takes a test failover down.
    CleanUp,
}

impl StepKind {
    const ALL: [Self; 7] = [
        Self::Command,
        Self::Manual,
        Self::Start,
        Self::Boot,
        Self::Verify,
        Self::Commit,
        Self::CleanUp,
    ];

    /// Returns the stable lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Manual => "manual",
            Self::Start => "start",
            Self::Boot => "boot",
            Self::Verify => "verify",
            Self::Commit => "commit",
            Self::CleanUp => "clean-up",
        }
    }

    /// Returns the kind of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// One step of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Number of the step, from 1.
    pub number: u32,
    /// Name of the step: `GROUP/before/ACTION`, `GROUP/VOLUME/start` (`boot`, `verify`, `commit`,
    /// `clean-up`) or `GROUP/after/ACTION`.
    pub id: String,
    /// Kind of the step.
    pub kind: StepKind,
    /// Index of its group.
    pub group: usize,
    /// Its volume; for an action, the volume of its variables.
    pub volume: Option<String>,
    /// Description for people.
    pub text: String,
    pub(super) part: Part,
}

impl Step {
    /// Returns the step as one line of JSON, with those fields of
    /// [`StepReport::to_json`](super::StepReport::to_json) that a step has.
    pub fn to_json(&self) -> String {
        json!({
            "number": self.number,
            "id": self.id,
            "kind": self.kind.name(),
            "group": self.group,
            "volume": self.volume,
            "text": self.text,
        })
        .to_string()
    }
}

/// The place in its group that a step comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Before(usize),
    Member(usize),
    After(usize),
}

impl Plan {
    /// Returns the steps of a run in the order of the plan, including those that end it. Steps of
    /// different volumes of a group run at the same time, and so do groups that do not wait for
    /// each other.
    pub fn steps(&self, mode: RunMode) -> Vec<Step> {
        let mut steps = Steps(Vec::new());
        let sorted = sorted(&self.groups);
        for at in sorted.iter().copied() {
            steps.group(&self.groups[at], at, mode);
        }
        for at in sorted {
            for index in 0..self.groups[at].members.len() {
                let (kind, text) = match mode {
                    RunMode::Test => (StepKind::CleanUp, "end the test failover"),
                    RunMode::Real => (StepKind::Commit, "commit the failover"),
                };
                steps.member(&self.groups[at], at, index, kind, text.to_owned());
            }
        }
        steps.0
    }
}

struct Steps(Vec<Step>);

impl Steps {
    fn group(&mut self, group: &Group, at: usize, mode: RunMode) {
        self.actions(group, at, mode, true);
        for (index, member) in group.members.iter().enumerate() {
            self.member(group, at, index, StepKind::Start, format!("at {}", member.at));
            if let Some(boot) = &member.boot {
                self.member(group, at, index, StepKind::Boot, boot.command.to_string());
            }
            if let Some(verify) = &member.verify {
                self.member(group, at, index, StepKind::Verify, verify.to_string());
            }
        }
        self.actions(group, at, mode, false);
    }

    fn actions(&mut self, group: &Group, at: usize, mode: RunMode, before: bool) {
        let (actions, place) = if before {
            (&group.before_actions, "before")
        } else {
            (&group.after_actions, "after")
        };
        for (index, action) in actions.iter().enumerate() {
            if action.only.is_some_and(|only| only != mode) {
                continue;
            }
            let (kind, text) = match &action.task {
                Task::Command(program) => (StepKind::Command, program.to_string()),
                Task::Manual(text) => (StepKind::Manual, text.clone()),
            };
            self.0.push(Step {
                number: self.next(),
                id: format!("{}/{place}/{}", group.name, action.name),
                kind,
                group: at,
                volume: action.volume.clone(),
                text,
                part: if before { Part::Before(index) } else { Part::After(index) },
            });
        }
    }

    fn member(&mut self, group: &Group, at: usize, index: usize, kind: StepKind, text: String) {
        let volume = &group.members[index].volume;
        self.0.push(Step {
            number: self.next(),
            id: format!("{}/{volume}/{}", group.name, kind.name()),
            kind,
            group: at,
            volume: Some(volume.clone()),
            text,
            part: Part::Member(index),
        });
    }

    fn next(&self) -> u32 {
        self.0.len() as u32 + 1
    }
}

/// Returns the groups, each after those that it waits for.
fn sorted(groups: &[Group]) -> Vec<usize> {
    let mut order: Vec<usize> = Vec::new();
    while order.len() < groups.len() {
        let ready = |at: &usize| {
            !order.contains(at)
                && groups[*at].depends_on.iter().all(|before| order.contains(before))
        };
        let next = (0..groups.len()).find(ready).expect("a parsed plan has no cycle");
        order.push(next);
    }
    order
}

/// Returns groups that wait for each other, each for the next and the last for the first; `None` if
/// there are none.
pub(super) fn find_cycle(groups: &[Group]) -> Option<Vec<usize>> {
    let mut done = vec![false; groups.len()];
    // Removes groups whose dependencies are all removed. A group that is left waits for another one
    // that is left.
    while let Some(at) = (0..groups.len())
        .find(|at| !done[*at] && groups[*at].depends_on.iter().all(|before| done[*before]))
    {
        done[at] = true;
    }
    let mut at = done.iter().position(|done| !done)?;
    let mut path: Vec<usize> = Vec::new();
    while !path.contains(&at) {
        path.push(at);
        at = *groups[at].depends_on.iter().find(|before| !done[**before])?;
    }
    let begin = path.iter().position(|known| *known == at)?;
    Some(path.split_off(begin))
}
