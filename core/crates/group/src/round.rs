//! One round of a coordinator: every member holds, then every member marks, then all let go; the marks become a point of
//! the group once each is durable. A state machine without I/O: messages and time in, messages and an outcome out.
//!
//! Why this is one cut. All marks are made while all members hold, and a member that holds begins no change. Let a writer make
//! B after it saw A acknowledged, and let B be before its member's mark: then B began before that member held, so A was
//! acknowledged before some member held, hence before any mark was made, so A is before its own member's mark. A member
//! whose hold ended early refuses to mark, so it does not matter whether its clock or the network was late.
//!
//! Invariants: `Mark` goes out only after each member has said that it holds; `Commit` only after each has said that its
//! mark is durable; whatever else happens all members get `Revoke`, and there is no point. A message of another round is
//! ignored. Nothing waits longer than the limit of its phase.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hrl::journal::PointKind;
use hrl::{Error, ErrorKind, GroupMark, GroupPoint, PointId, Result};

use crate::wire::{Marked, RoundNumber, Step, ToCoordinator, ToMember};

/// Members make their marks durable within this, or there is no point.
const SEAL_LIMIT: Duration = Duration::from_secs(30);

/// What a round is to do.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub number: RoundNumber,
    /// Identity of the group point.
    pub id: PointId,
    /// Name of the group.
    pub name: String,
    /// Quiesce the members' applications first.
    pub app: bool,
    pub label: String,
    pub members: Vec<String>,
    /// From the first hold to the last mark.
    pub budget: Duration,
    /// From the first quiesce to the last hold.
    pub quiesce_limit: Duration,
}

/// What a round wants done.
#[derive(Debug)]
pub(crate) enum Output {
    /// Tell this member.
    Send(String, ToMember),
    /// The round is over.
    Ended(Result<GroupPoint>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Preparing,
    Holding,
    Marking,
    Sealing,
    Over,
}

impl Phase {
    const fn name(self) -> &'static str {
        match self {
            Self::Preparing => "quiesce",
            Self::Holding => "hold its writers",
            Self::Marking => "mark",
            Self::Sealing => "make its mark durable",
            Self::Over => "end",
        }
    }
}

/// A round under way.
#[derive(Debug)]
pub(crate) struct Round {
    plan: Plan,
    phase: Phase,
    /// Members that have not answered in this phase.
    waiting: BTreeSet<String>,
    deadline: Duration,
    marks: BTreeMap<String, Marked>,
    held_max: Duration,
}

impl Round {
    /// Begins a round at `now`, of a monotonic clock.
    pub(crate) fn start(plan: Plan, now: Duration) -> (Self, Vec<Output>) {
        let mut round = Self {
            plan,
            phase: Phase::Over,
            waiting: BTreeSet::new(),
            deadline: now,
            marks: BTreeMap::new(),
            held_max: Duration::ZERO,
        };
        let mut out = Vec::new();
        if round.plan.members.is_empty() {
            out.push(Output::Ended(Err(round.failed("the group has no members"))));
        } else if round.plan.app {
            let limit_ms = u32::try_from(round.plan.quiesce_limit.as_millis()).unwrap_or(u32::MAX);
            let limit = round.plan.quiesce_limit;
            let number = round.plan.number;
            let prepare = ToMember::Prepare { round: number, limit_ms };
            round.enter(Phase::Preparing, now + limit, &prepare, &mut out);
        } else {
            round.hold(now, &mut out);
        }
        (round, out)
    }

    /// Its number.
    pub(crate) fn number(&self) -> RoundNumber {
        self.plan.number
    }

    /// It has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// When [`Round::tick`] wants to be called.
    pub(crate) fn deadline(&self) -> Duration {
        self.deadline
    }

    /// A member said something.
    pub(crate) fn heard(
        &mut self,
        member: &str,
        message: &ToCoordinator,
        now: Duration,
    ) -> Vec<Output> {
        let mut out = self.tick(now);
        if self.is_over() || !self.waiting.contains(member) {
            return out;
        }
        match (self.phase, message) {
            (Phase::Preparing, ToCoordinator::Prepared { round, done })
            | (Phase::Holding, ToCoordinator::Held { round, done })
                if *round == self.plan.number =>
            {
                self.step(member, done.clone(), now, &mut out);
            }
            (Phase::Marking, ToCoordinator::Marked { round, done })
                if *round == self.plan.number =>
            {
                if let Ok(marked) = done {
                    self.marks.insert(member.to_owned(), *marked);
                }
                self.step(member, done.clone().map(drop), now, &mut out);
            }
            (Phase::Sealing, ToCoordinator::Sealed { round, held_us, done })
                if *round == self.plan.number =>
            {
                self.held_max = self.held_max.max(Duration::from_micros(u64::from(*held_us)));
                self.step(member, done.clone(), now, &mut out);
            }
            _ => {}
        }
        out
    }

    /// A member is gone.
    pub(crate) fn lost(&mut self, member: &str, now: Duration) -> Vec<Output> {
        let mut out = self.tick(now);
        let needed = match self.phase {
            Phase::Over => false,
            // It has done all that it has to; its commitment waits for it.
            Phase::Sealing => self.waiting.contains(member),
            _ => self.plan.members.iter().any(|known| known == member),
        };
        if needed {
            self.abort(
                format_args!("{member} was lost before all could {}", self.phase.name()),
                &mut out,
            );
        }
        out
    }

    /// Time passes.
    pub(crate) fn tick(&mut self, now: Duration) -> Vec<Output> {
        let mut out = Vec::new();
        if !self.is_over() && now >= self.deadline {
            let late: Vec<_> = self.waiting.iter().map(String::as_str).collect();
            let reason = format!("{} did not {} in time", late.join(", "), self.phase.name());
            self.abort(format_args!("{reason}"), &mut out);
        }
        out
    }

    fn step(&mut self, member: &str, done: Step, now: Duration, out: &mut Vec<Output>) {
        if let Err(reason) = done {
            let phase = self.phase.name();
            return self.abort(format_args!("{member} could not {phase}: {reason}"), out);
        }
        self.waiting.remove(member);
        if !self.waiting.is_empty() {
            return;
        }
        let round = self.plan.number;
        match self.phase {
            Phase::Preparing => self.hold(now, out),
            Phase::Holding => {
                let (group, app) = (self.plan.id, self.plan.app);
                let mark = ToMember::Mark { round, group, app, label: self.plan.label.clone() };
                // The budget began with the hold.
                self.enter(Phase::Marking, self.deadline, &mark, out);
            }
            Phase::Marking => {
                self.enter(Phase::Sealing, now + SEAL_LIMIT, &ToMember::Release { round }, out);
            }
            Phase::Sealing => self.commit(out),
            Phase::Over => {}
        }
    }

    fn hold(&mut self, now: Duration, out: &mut Vec<Output>) {
        let hold = ToMember::Hold { round: self.plan.number };
        self.enter(Phase::Holding, now + self.plan.budget, &hold, out);
    }

    fn enter(&mut self, phase: Phase, deadline: Duration, say: &ToMember, out: &mut Vec<Output>) {
        self.phase = phase;
        self.deadline = deadline;
        self.waiting = self.plan.members.iter().cloned().collect();
        self.tell_all(say, out);
    }

    fn tell_all(&self, say: &ToMember, out: &mut Vec<Output>) {
        out.extend(self.plan.members.iter().map(|m| Output::Send(m.clone(), say.clone())));
    }

    fn commit(&mut self, out: &mut Vec<Output>) {
        self.phase = Phase::Over;
        let Plan { number: round, id, name, app, label, members, .. } = &self.plan;
        let count = u16::try_from(members.len()).unwrap_or(u16::MAX);
        let commit = ToMember::Commit {
            round: *round,
            group: *id,
            app: *app,
            name: name.clone(),
            members: count,
        };
        let marks = std::mem::take(&mut self.marks);
        let marks = marks.into_iter().map(|(volume, marked)| GroupMark {
            volume,
            point: marked.point,
            sequence: marked.sequence,
            time: marked.time,
        });
        let point = GroupPoint {
            id: *id,
            kind: if *app { PointKind::GroupApp } else { PointKind::GroupCrash },
            time: id.group_time(),
            group: name.clone(),
            label: label.clone(),
            members: count,
            marks: marks.collect(),
            held: Some(self.held_max),
        };
        self.tell_all(&commit, out);
        out.push(Output::Ended(Ok(point)));
    }

    fn abort(&mut self, reason: std::fmt::Arguments<'_>, out: &mut Vec<Output>) {
        self.phase = Phase::Over;
        self.tell_all(&ToMember::Revoke { round: self.plan.number }, out);
        out.push(Output::Ended(Err(self.failed(reason))));
    }

    fn failed(&self, reason: impl std::fmt::Display) -> Error {
        Error::new(ErrorKind::Unavailable, "mark group point", &self.plan.name).message(reason)
    }
}
