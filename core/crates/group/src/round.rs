//! One round of a coordinator, as a state machine without I/O: messages and time in, messages and
//! an outcome out.
//!
//! A round raises a barrier on every member, then every member marks, then all barriers are lifted.
//! The marks become a point of the group once each is durable.
//!
//! Why this is one cut: all marks are placed while all barriers are up, and no change begins behind
//! a barrier. Let a writer begin change B after it saw change A acknowledged, and let B precede its
//! member's mark. Then B began before that member's barrier was up. A was acknowledged even
//! earlier, hence before any mark was placed, so A precedes its own member's mark. A member whose
//! barrier ended early refuses to mark, so late clocks and networks do no harm.
//!
//! Invariants: `Mark` is sent only after each member has confirmed its barrier, and `Commit` only
//! after each has confirmed that its mark is durable. In every other case all members get `Revoke`
//! and there is no point. Messages of other rounds are ignored. Nothing waits longer than the limit
//! of its phase.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hrl::journal::PointKind;
use hrl::{Error, ErrorKind, GroupMark, GroupPoint, PointId, Result};

use crate::wire::{Marked, RoundNumber, Step, ToCoordinator, ToMember, harmless};

/// Members must make their marks durable within this time.
const DURABLE_LIMIT: Duration = Duration::from_secs(30);

/// Description of a round.
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
    /// Limit from the first barrier to the last mark.
    pub budget: Duration,
    /// Limit from the first quiesce to the last.
    pub quiesce_limit: Duration,
}

/// What a round asks its owner to do.
#[derive(Debug)]
pub(crate) enum Output {
    /// Send this message to this member.
    Send(String, ToMember),
    /// The round is over.
    Ended(Result<GroupPoint>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Preparing,
    Raising,
    Marking,
    Confirming,
    Over,
}

impl Phase {
    const fn name(self) -> &'static str {
        match self {
            Self::Preparing => "quiesce",
            Self::Raising => "raise its barrier",
            Self::Marking => "mark",
            Self::Confirming => "make its mark durable",
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
            round.raise_barriers(now, &mut out);
        }
        (round, out)
    }

    /// Returns the number of the round.
    pub(crate) fn number(&self) -> RoundNumber {
        self.plan.number
    }

    /// Returns whether the round has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Returns when [`Round::tick`] must be called at the latest.
    pub(crate) fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Handles a member's message.
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
            | (Phase::Raising, ToCoordinator::BarrierRaised { round, done })
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
            (Phase::Confirming, ToCoordinator::Durable { round, held_us, done })
                if *round == self.plan.number =>
            {
                self.held_max = self.held_max.max(Duration::from_micros(u64::from(*held_us)));
                self.step(member, done.clone(), now, &mut out);
            }
            _ => {}
        }
        out
    }

    /// Handles the loss of a member.
    pub(crate) fn lost(&mut self, member: &str, now: Duration) -> Vec<Output> {
        let mut out = self.tick(now);
        let needed = match self.phase {
            Phase::Over => false,
            // This member has done its part; its commitment waits for it.
            Phase::Confirming => self.waiting.contains(member),
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

    /// Ends the round if the limit of its phase is over.
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
            let reason = harmless(&reason);
            return self.abort(format_args!("{member} could not {phase}: {reason}"), out);
        }
        self.waiting.remove(member);
        if !self.waiting.is_empty() {
            return;
        }
        let round = self.plan.number;
        match self.phase {
            Phase::Preparing => self.raise_barriers(now, out),
            Phase::Raising => {
                let (group, app) = (self.plan.id, self.plan.app);
                let mark = ToMember::Mark { round, group, app, label: self.plan.label.clone() };
                // The budget began with the barrier.
                self.enter(Phase::Marking, self.deadline, &mark, out);
            }
            Phase::Marking => {
                self.enter(
                    Phase::Confirming,
                    now + DURABLE_LIMIT,
                    &ToMember::LiftBarrier { round },
                    out,
                );
            }
            Phase::Confirming => self.commit(out),
            Phase::Over => {}
        }
    }

    fn raise_barriers(&mut self, now: Duration, out: &mut Vec<Output>) {
        let raise = ToMember::RaiseBarrier { round: self.plan.number };
        self.enter(Phase::Raising, now + self.plan.budget, &raise, out);
    }

    fn enter(
        &mut self,
        phase: Phase,
        deadline: Duration,
        message: &ToMember,
        out: &mut Vec<Output>,
    ) {
        self.phase = phase;
        self.deadline = deadline;
        self.waiting = self.plan.members.iter().cloned().collect();
        self.send_all(message, out);
    }

    fn send_all(&self, message: &ToMember, out: &mut Vec<Output>) {
        out.extend(self.plan.members.iter().map(|m| Output::Send(m.clone(), message.clone())));
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
        self.send_all(&commit, out);
        out.push(Output::Ended(Ok(point)));
    }

    fn abort(&mut self, reason: std::fmt::Arguments<'_>, out: &mut Vec<Output>) {
        self.phase = Phase::Over;
        self.send_all(&ToMember::Revoke { round: self.plan.number }, out);
        out.push(Output::Ended(Err(self.failed(reason))));
    }

    fn failed(&self, reason: impl std::fmt::Display) -> Error {
        Error::new(ErrorKind::Unavailable, "mark group point", &self.plan.name).message(reason)
    }
}
