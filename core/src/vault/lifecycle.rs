//! The life cycle of a protected volume, as its catalog has it: each step of a failover is recorded
//! before it acts.
//!
//! ```text
//! protected -> requested -> handed over -> failed over -> committed -> (reprotected)
//!      \-------------------------------------^  (unplanned)     \--> requested ... -> protected
//! ```
//! After a commit the volume is protected where it runs now. It can fail over again; failing back
//! home is a planned failover in the other direction. Test failovers stand beside all of this, up
//! to a limit.
//!
//! A step that does not follow from the stage is refused, and the error names the stage, so that
//! two operators cannot work against each other. Recording the same step of the same failover again
//! is no error, so steps can be repeated after a crash.

use super::edit::host;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::macros::{coded, named};
use crate::units::{Epoch, PointId, Sequence, Timestamp};

/// Most steps remembered; the oldest are forgotten first.
pub const STEPS_MAX: usize = 64;
/// Most test failovers of a volume at a time; further ones are refused with `Full`.
pub const TESTS_MAX: usize = 64;
/// Longest text of a step, in bytes.
pub const NOTE_BYTES_MAX: usize = 512;

named! {
    /// Kind of a step.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub enum StepKind {
        /// A planned failover asks the source to hand the volume over.
        Request = "request",
        /// The source writes no more; all that it wrote is in the vault.
        HandOver = "hand-over",
        /// The volume is about to be served elsewhere from a recovery state; nothing is final.
        Start = "start",
        /// The failover is final: the epoch has ended and the old source is fenced.
        Commit = "commit",
        /// The failover was cancelled; the source has the volume as before.
        Cancel = "cancel",
        /// The disk at the old site follows the volume.
        Reprotect = "reprotect",
        /// The volume runs at home again, protected as before.
        FailBack = "fail-back",
        /// A test failover is about to begin.
        TestBegin = "test-begin",
        /// A test failover was cleaned up.
        TestEnd = "test-end",
    }
}
coded!(pub(super) StepKind);

/// A recorded step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its kind.
    pub kind: StepKind,
    /// The failover or test that it belongs to; drawn at random.
    pub failover: PointId,
    /// When it was recorded.
    pub time: Timestamp,
    /// The host that recorded it, for people.
    pub host: String,
    /// The recovery state that it is about.
    pub at: Sequence,
    /// The recovery point at this state, if it is one.
    pub point: Option<PointId>,
    /// Time of that state.
    pub at_time: Timestamp,
    /// The epoch of the volume after the failover.
    pub epoch: Epoch,
    /// Text for people: the name of a test, the reason of a cancellation. At most
    /// [`NOTE_BYTES_MAX`] bytes.
    pub note: String,
}

impl Step {
    /// Makes a step that this host takes now, without a recovery state.
    pub(crate) fn new(kind: StepKind, failover: PointId, clock: &dyn Clock) -> Self {
        let (at, at_time, epoch) = (Sequence::ZERO, Timestamp(0), Epoch(0));
        let (time, host, note) = (clock.now(), host(), String::new());
        Self { kind, failover, time, host, at, point: None, at_time, epoch, note }
    }
}

named! {
    /// Stage of a volume in its life cycle.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub enum Stage {
        /// Its source protects it.
        #[default]
        Protected = "protected",
        /// A planned failover waits for the source.
        Requested = "requested",
        /// The source handed it over and waits for a start or a cancellation.
        HandedOver = "handed-over",
        /// It is served elsewhere; another point may still be chosen, and the failover be cancelled.
        FailedOver = "failed-over",
        /// The failover is final.
        Committed = "committed",
        /// It is committed, and the disk at the old site follows.
        Reprotected = "reprotected",
    }
}
coded!(pub(super) Stage);

impl Stage {
    /// Returns whether a failover is under way: begun, and neither committed nor cancelled.
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Requested | Self::HandedOver | Self::FailedOver)
    }
}

/// A test failover that was not cleaned up yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestFailover {
    /// Its name, unique among those of the volume.
    pub name: String,
    /// The step that began it.
    pub begin: Step,
}

/// Stage of a volume, the steps that led there, and its test failovers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lifecycle {
    stage: Stage,
    /// The stage to which a cancellation goes back: the newest in which no failover was under way.
    before: Stage,
    /// The failover under way.
    current: Option<Step>,
    tests: Vec<TestFailover>,
    steps: Vec<Step>,
}

impl Lifecycle {
    /// Returns the stage of the volume.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Returns the newest step of the failover that is under way, or that was committed last.
    pub fn current(&self) -> Option<&Step> {
        self.current.as_ref()
    }

    /// Returns the test failovers that were not cleaned up.
    pub fn tests(&self) -> &[TestFailover] {
        &self.tests
    }

    /// Returns the test failover of a name. `NotFound` lists those that there are.
    pub(crate) fn test(&self, name: &str) -> Result<&TestFailover> {
        self.tests.iter().find(|test| test.name == name).ok_or_else(|| {
            let names: Vec<_> = self.tests.iter().map(|test| test.name.as_str()).collect();
            Error::new(ErrorKind::NotFound, "find test failover", name)
                .expected(format_args!("one of [{}]", names.join(", ")))
        })
    }

    /// Returns the newest steps, oldest first.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Returns the newest step of a kind in a failover, if it is remembered.
    pub(crate) fn step_of(&self, failover: PointId, kind: StepKind) -> Option<&Step> {
        self.steps.iter().rev().find(|step| step.failover == failover && step.kind == kind)
    }

    /// Returns whether the step was recorded already and is the newest of its failover, so that
    /// nothing is left to record.
    pub(super) fn has(&self, step: &Step) -> bool {
        match step.kind {
            StepKind::Start | StepKind::Reprotect => self.current.as_ref().is_some_and(|old| {
                (old.failover, old.kind, old.at) == (step.failover, step.kind, step.at)
            }),
            kind => self.step_of(step.failover, kind).is_some(),
        }
    }

    /// Refuses a step that does not follow. `Fenced` while another failover is under way.
    pub(super) fn check(&self, step: &Step, volume: &str) -> Result<()> {
        use Stage::{Committed, FailedOver, HandedOver, Protected, Reprotected, Requested};
        let refused = |expected: &str| {
            Err(Error::new(ErrorKind::InvalidInput, step.kind.name(), volume)
                .expected(expected)
                .found(format_args!("a volume that is {}", self.stage.name())))
        };
        if step.note.len() > NOTE_BYTES_MAX {
            return Err(Error::new(ErrorKind::InvalidInput, step.kind.name(), volume)
                .expected(format_args!("a note of at most {NOTE_BYTES_MAX} bytes"))
                .found(step.note.len()));
        }
        match step.kind {
            StepKind::TestBegin => {
                if self.tests.len() >= TESTS_MAX {
                    return Err(Error::new(ErrorKind::Full, "begin test failover of", volume)
                        .expected(format_args!("fewer than {TESTS_MAX} test failovers")));
                }
                if let Some(test) = self.tests.iter().find(|test| test.name == step.note) {
                    let Step { host, time, .. } = &test.begin;
                    let begun = format_args!("it was begun on {host} at {time}");
                    let begin = "begin test failover";
                    return Err(
                        Error::new(ErrorKind::AlreadyExists, begin, &step.note).message(begun)
                    );
                }
                return Ok(());
            }
            StepKind::TestEnd => return self.test(&step.note).map(drop),
            _ => {}
        }
        if let Some(other) = &self.current
            && self.stage.is_open()
            && other.failover != step.failover
        {
            return Err(Error::new(ErrorKind::Fenced, step.kind.name(), volume).message(
                format_args!(
                    "a failover was begun on {} at {}; commit or cancel it first",
                    other.host, other.time
                ),
            ));
        }
        if matches!(step.kind, StepKind::Request | StepKind::Start)
            && let Some(cancel) = self.step_of(step.failover, StepKind::Cancel)
        {
            return Err(Error::new(ErrorKind::Fenced, step.kind.name(), volume)
                .message(format_args!("it was cancelled by {} at {}", cancel.host, cancel.time)));
        }
        match (step.kind, self.stage) {
            (StepKind::Reprotect, Protected) => refused("a committed failover"),
            (StepKind::Request | StepKind::Reprotect, stage) => match stage {
                Protected | Committed | Reprotected | Requested => Ok(()),
                _ => refused("no failover under way"),
            },
            (StepKind::HandOver, Requested | HandedOver) => Ok(()),
            (StepKind::HandOver, _) => refused("a planned failover that was requested"),
            (StepKind::Commit | StepKind::FailBack, FailedOver) => Ok(()),
            (StepKind::Commit | StepKind::FailBack, _) => refused("a failover that was started"),
            // A cancellation may come before a start whose answer was lost; that start is refused
            // from then on.
            (StepKind::Start | StepKind::Cancel | StepKind::TestBegin | StepKind::TestEnd, _) => {
                Ok(())
            }
        }
    }

    pub(super) fn apply(&mut self, step: Step) {
        let ends_nothing = step.kind == StepKind::Cancel && !self.stage.is_open();
        self.stage = match step.kind {
            StepKind::Request => Stage::Requested,
            StepKind::HandOver => Stage::HandedOver,
            StepKind::Start => Stage::FailedOver,
            StepKind::Commit => Stage::Committed,
            StepKind::Cancel => self.before,
            StepKind::Reprotect => Stage::Reprotected,
            StepKind::FailBack => Stage::Protected,
            StepKind::TestBegin => {
                self.tests.push(TestFailover { name: step.note.clone(), begin: step.clone() });
                self.stage
            }
            StepKind::TestEnd => {
                self.tests.retain(|test| test.name != step.note);
                self.stage
            }
        };
        if !self.stage.is_open() {
            self.before = self.stage;
        }
        if !matches!(step.kind, StepKind::TestBegin | StepKind::TestEnd) && !ends_nothing {
            self.current = Some(step.clone());
        }
        if self.steps.len() >= STEPS_MAX {
            self.steps.remove(0);
        }
        self.steps.push(step);
    }

    /// Returns the parts from which [`Lifecycle::restored`] makes it again, for snapshots.
    pub(super) fn parts(&self) -> (Stage, Stage, Option<&Step>, Vec<&Step>, &[Step]) {
        let tests = self.tests.iter().map(|test| &test.begin).collect();
        (self.stage, self.before, self.current.as_ref(), tests, &self.steps)
    }

    pub(super) fn restored(
        (stage, before): (Stage, Stage),
        current: Option<Step>,
        tests: Vec<Step>,
        steps: Vec<Step>,
    ) -> Self {
        let test = |begin: Step| TestFailover { name: begin.note.clone(), begin };
        Self { stage, before, current, tests: tests.into_iter().map(test).collect(), steps }
    }

    /// Returns whether no step was ever recorded.
    pub(super) fn is_new(&self) -> bool {
        self.steps.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(kind: StepKind, failover: u8) -> Step {
        Step {
            kind,
            failover: PointId([failover; 16]),
            time: Timestamp(1),
            host: "here".into(),
            at: Sequence(5),
            point: None,
            at_time: Timestamp(0),
            epoch: Epoch(2),
            note: format!("t{failover}"),
        }
    }

    fn run(steps: &[(StepKind, u8)]) -> Result<Lifecycle> {
        let mut lifecycle = Lifecycle::default();
        for (kind, failover) in steps {
            let step = step(*kind, *failover);
            lifecycle.check(&step, "disk")?;
            lifecycle.apply(step);
        }
        Ok(lifecycle)
    }

    #[test]
    fn a_volume_goes_there_and_comes_home() {
        use StepKind::{Commit, FailBack, HandOver, Reprotect, Request, Start};
        let there = [(Start, 1), (Start, 1), (Commit, 1)];
        assert_eq!(run(&there).expect("there").stage(), Stage::Committed);
        let back = [(Reprotect, 1), (Reprotect, 1), (Request, 2), (HandOver, 2), (Start, 2)];
        let home: Vec<_> = there.iter().chain(&back).copied().chain([(FailBack, 2)]).collect();
        assert_eq!(run(&home).expect("home").stage(), Stage::Protected);
    }

    #[test]
    fn a_cancelled_failover_leaves_the_stage_before_it() {
        use StepKind::{Cancel, Commit, Request, Start};
        let steps = [(Start, 1), (Commit, 1), (Request, 2), (Cancel, 2)];
        assert_eq!(run(&steps).expect("steps").stage(), Stage::Committed);
        assert_eq!(run(&[(Start, 1), (Cancel, 1)]).expect("steps").stage(), Stage::Protected);
    }

    #[test]
    fn promise_9_what_was_cancelled_before_its_start_arrived_does_not_start() {
        use StepKind::{Cancel, Commit, Request, Start};
        let before = [(Start, 1), (Commit, 1)];
        for late in [Request, Start] {
            let steps: Vec<_> = before.iter().copied().chain([(Cancel, 2)]).collect();
            let lifecycle = run(&steps).expect("steps");
            assert_eq!(lifecycle.stage(), Stage::Committed);
            let current = lifecycle.current().expect("the one that was committed");
            assert_eq!((current.kind, current.failover), (Commit, PointId([1; 16])));
            let steps: Vec<_> = steps.into_iter().chain([(late, 2)]).collect();
            assert_eq!(run(&steps).expect_err("cancelled").kind(), ErrorKind::Fenced);
        }
        let fenced = run(&[(Start, 1), (Cancel, 2)]).expect_err("another is under way");
        assert_eq!(fenced.kind(), ErrorKind::Fenced);
    }

    #[test]
    fn promise_9_two_failovers_are_not_under_way_at_once() {
        use StepKind::{Commit, HandOver, Request, Start};
        for second in [Request, Start, Commit] {
            let error = run(&[(Start, 1), (second, 2)]).expect_err("refused");
            assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
        }
        for wrong in [&[(Commit, 1)][..], &[(HandOver, 1)], &[(Start, 1), (HandOver, 1)]] {
            assert_eq!(run(wrong).expect_err("refused").kind(), ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn tests_stand_beside_and_are_bounded() {
        use StepKind::{Commit, Start, TestBegin, TestEnd};
        let both = run(&[(TestBegin, 9), (Start, 1), (Commit, 1)]).expect("both");
        assert_eq!((both.tests().len(), both.stage()), (1, Stage::Committed));
        assert_eq!(run(&[(TestBegin, 9), (TestEnd, 9)]).expect("ended").tests().len(), 0);
        let twice = run(&[(TestBegin, 9), (TestBegin, 9)]).expect_err("twice");
        assert_eq!(twice.kind(), ErrorKind::AlreadyExists);
        assert_eq!(run(&[(TestEnd, 9)]).expect_err("none").kind(), ErrorKind::NotFound);
        let many: Vec<_> = (0..65).map(|number| (TestBegin, number)).collect();
        assert_eq!(run(&many).expect_err("too many").kind(), ErrorKind::Full);
        let steps: Vec<_> = (0..99).flat_map(|n| [(TestBegin, n), (TestEnd, n)]).collect();
        assert_eq!(run(&steps).expect("bounded").steps().len(), STEPS_MAX);
    }
}
