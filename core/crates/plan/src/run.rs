//! Running a plan: groups in the order of their dependencies, volumes in parallel, every step
//! recorded.
//!
//! Each group and each volume of a group has a thread, and one more thread watches for a stop and
//! for another runner. All share `Runner`. Its state stays locked while a record is written, so
//! that records have one order.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::command::Process;
use super::definition::{Action, Commit, Member, OnFailure, Plan, RunMode};
use super::host::{PlanHost, StopFlag};
use super::log::Log;
use super::order::{Part, Step, StepKind};
use super::outcome::{RunOutcome, StepOutcome};
use super::record::{End, Header, Record};
use super::report::{RunReport, StepReport, report_of};
use super::state::RunState;
use super::step;
use super::vouch::{Word, vouched};
use hrl::replica::{At, RecoveryPoint, Replica};
use hrl::sync::lock::{Condvar, Mutex, MutexGuard};
use hrl::vault::{PinUntil, Vault};
use hrl::{Clock, Error, ErrorKind, Result, Timestamp};
use serde_json::Value;

/// Options of a run.
pub struct RunOptions<'a> {
    /// Identity of the run: 1 to 128 of A-Z a-z 0-9 . _ -. Default: the plan's name, the time and a
    /// random number.
    pub run: Option<String>,
    /// Kind of the run. Default: a test.
    pub mode: RunMode,
    /// The source is still running, and nothing is lost: each volume comes up at its newest state.
    /// Default: false.
    pub planned: bool,
    /// When the source failed; data written before and lost is the RPO. Default: when the run
    /// begins.
    pub failed_at: Option<Timestamp>,
    /// Commit a real run at its end, whatever the plan says. When resuming, commit a run that waits
    /// for it. Default: false.
    pub commit: bool,
    /// Take a run over even if its runner seems to live. Default: false.
    pub take_over: bool,
    /// When resuming: the plan of the run. Its records must name the same plan, [`mode`](Self::mode)
    /// and [`planned`](Self::planned). Needed in a vault without a key, where anybody who writes to
    /// the vault can write records. Default: none.
    pub plan: Option<&'a Plan>,
    /// Words that go before each `verify` program, such as those of a sandbox. Default: none.
    pub verify_with: &'a [String],
    /// How often to check for approvals, a stop and other runners. Default: 1 s.
    pub poll: Duration,
    /// Called every [`RunOptions::poll`]; true stops the run, which interrupts its steps and can be
    /// resumed.
    pub stopped: &'a (dyn Fn() -> bool + Sync),
    /// Called when a step begins and when it has ended, from the run's threads.
    pub on_step: &'a (dyn Fn(&str, &StepReport) + Sync),
}

impl Default for RunOptions<'_> {
    fn default() -> Self {
        Self {
            run: None,
            mode: RunMode::Test,
            planned: false,
            failed_at: None,
            commit: false,
            take_over: false,
            plan: None,
            verify_with: &[],
            poll: Duration::from_secs(1),
            stopped: &|| false,
            on_step: &|_, _| {},
        }
    }
}

/// Runs a plan to its end and returns the report. A failed step is no error; the report's outcome
/// shows it.
///
/// Errors: the first of [`PlanCheck::problems`](super::PlanCheck::problems), before anything is
/// done; `AlreadyExists` if the vault has a run of this identity; `Fenced` if another runner took
/// the run. After an error of the store the run can be resumed.
pub fn run(
    plan: &Plan,
    vault: &Vault,
    host: &dyn PlanHost,
    options: &RunOptions<'_>,
) -> Result<RunReport> {
    let mut check = plan.check(vault)?;
    if !check.problems.is_empty() {
        return Err(check.problems.swap_remove(0));
    }
    let clock = &**vault.clock();
    let time = clock.now();
    let log = Log::new(vault, &options.run.clone().unwrap_or_else(|| new_run(plan, clock)))?;
    let header = Header {
        plan: plan.name().to_owned(),
        text: plan.text().to_owned(),
        mode: options.mode,
        planned: options.planned,
        commit: options.commit || plan.commit() == Commit::Automatic,
        time,
        failed_at: options.failed_at,
        points: check.members.iter().map(|member| member.chosen(options.planned)).collect(),
    };
    log.append(1, &Record::Run(header.clone()).to_json())?;
    Runner::take(RunState::new(header, plan.clone()), log, vault, host, options)?.run()
}

/// Continues a run where it was; only returns the report if the run is over.
///
/// `NotFound` if there is no such run; `Fenced` if its runner lives on this machine (see
/// [`RunOptions::take_over`]) or another one takes it meanwhile; `Denied` if the vault has no key
/// and there is no [`RunOptions::plan`]; `InvalidInput` if the records name another one. Ignores
/// `run` and `failed_at`, and without a plan also `mode` and `planned`.
pub fn resume(
    vault: &Vault,
    run: &str,
    host: &dyn PlanHost,
    options: &RunOptions<'_>,
) -> Result<RunReport> {
    let log = Log::new(vault, run)?;
    let state = RunState::load(&log)?;
    if state.is_over(options.commit || state.header.commit) {
        return Ok(report_of(run, &state));
    }
    if let Some(runner) = &state.runner {
        if state.ended.is_none() && runner.is_alive() && !options.take_over {
            return Err(Error::new(ErrorKind::Fenced, "resume run", run)
                .message(format_args!("its runner is process {} of this machine", runner.pid)));
        }
    }
    let word = Word { plan: options.plan, mode: options.mode, planned: options.planned };
    Runner::take(vouched(state, &log, &word)?, log, vault, host, options)?.run()
}

fn new_run(plan: &Plan, clock: &dyn Clock) -> String {
    let mut random = [0; 2];
    clock.fill_random(&mut random);
    let [high, low] = random;
    let time: String =
        clock.now().to_string().chars().take(19).filter(|c| *c != '-' && *c != ':').collect();
    format!("{}-{time}-{high:02x}{low:02x}", plan.name())
}

/// How long the chosen points stay pinned if the run does not end.
const PIN_TIME: Duration = Duration::from_secs(7 * 86_400);

/// How a thread continues after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Go,
    /// The step failed; the run continues without the steps that need it.
    Leave,
    Halt,
}

pub(super) struct Runner<'a> {
    pub log: Log,
    pub clock: &'a dyn Clock,
    vault: &'a Vault,
    pub host: &'a dyn PlanHost,
    pub options: &'a RunOptions<'a>,
    pub plan: Plan,
    pub steps: Vec<Step>,
    pub header: Header,
    commits: bool,
    state: Mutex<RunState>,
    progress: Mutex<Progress>,
    changed: Condvar,
    /// No new step may begin.
    halted: AtomicBool,
    /// Steps under way must end.
    pub cut_off: StopFlag,
}

#[derive(Default)]
struct Progress {
    groups_done: Vec<bool>,
    finished: bool,
    /// The step whose failure ended the run.
    failed: Option<String>,
    failures: bool,
    /// Why no more records can be written.
    lost: Option<Error>,
}

impl<'a> Runner<'a> {
    /// Records that this process runs the plan from now on.
    fn take(
        state: RunState,
        log: Log,
        vault: &'a Vault,
        host: &'a dyn PlanHost,
        options: &'a RunOptions<'a>,
    ) -> Result<Self> {
        let clock = &**vault.clock();
        let mut id = [0; 8];
        clock.fill_random(&mut id);
        let runner = Self {
            log,
            clock,
            vault,
            host,
            options,
            plan: state.plan.clone(),
            steps: state.steps.clone(),
            header: state.header.clone(),
            commits: options.commit || state.header.commit,
            progress: Mutex::new(Progress {
                groups_done: vec![false; state.plan.groups().len()],
                ..Progress::default()
            }),
            state: Mutex::new(state),
            changed: Condvar::new(),
            halted: AtomicBool::new(false),
            cut_off: StopFlag::default(),
        };
        runner.record(
            &Record::Runner {
                id: u64::from_le_bytes(id).to_string(),
                process: Process::of(std::process::id()),
                time: clock.now(),
            },
            |state| {
                state.ended = None;
                state.runners += 1;
            },
        )?;
        Ok(runner)
    }

    fn run(self) -> Result<RunReport> {
        std::thread::scope(|scope| {
            scope.spawn(|| self.watch());
            scope.spawn(|| self.pin_points());
            if !self.only_ends() {
                self.groups();
            }
            self.last_steps();
            self.progress().finished = true;
            self.changed.notify_all();
        });
        if let Some(lost) = self.progress().lost.take() {
            return Err(lost);
        }
        let (outcome, message) = self.outcome();
        if outcome != RunOutcome::Stopped
            && (outcome != RunOutcome::Failed || self.header.mode == RunMode::Test)
        {
            self.unpin_points();
        }
        let time = self.clock.now();
        let ended = Record::Ended { outcome, message: message.clone(), time };
        self.record(&ended, |state| state.ended = Some((outcome, message, time)))?;
        let state = self.state();
        Ok(report_of(self.log.run(), &state))
    }

    /// Returns whether a test is already being taken down, and restores the failures recorded
    /// before.
    fn only_ends(&self) -> bool {
        let state = self.state();
        let ends = |s: &Step| s.kind == StepKind::CleanUp && state.state(s).attempts > 0;
        if !self.steps.iter().any(ends) {
            return false;
        }
        let failed =
            |s: &&Step| !RunState::is_last(s.kind) && state.state(s).outcome().is_failure();
        let failed: Vec<&Step> = self.steps.iter().filter(failed).collect();
        let ended_it = failed.iter().find(|s| self.on_failure(s) != OnFailure::Continue);
        let mut progress = self.progress();
        progress.failures = !failed.is_empty();
        progress.failed = ended_it.map(|step| step.id.clone());
        true
    }

    fn outcome(&self) -> (RunOutcome, String) {
        let progress = self.progress();
        match &progress.failed {
            Some(step) => (RunOutcome::Failed, format!("{step} failed")),
            None if self.is_cut_off() => (RunOutcome::Stopped, "it was asked to stop".to_owned()),
            None if progress.failures => (RunOutcome::DoneWithFailures, String::new()),
            None => (RunOutcome::Done, String::new()),
        }
    }

    /// Checks for a stop and for another runner until the run is finished.
    fn watch(&self) {
        loop {
            let progress = self.progress();
            let waits = |progress: &mut Progress| !progress.finished && progress.lost.is_none();
            let waited = self.changed.wait_timeout_while(progress, self.options.poll, waits);
            let (progress, _) = waited;
            if progress.finished || progress.lost.is_some() {
                return;
            }
            drop(progress);
            if (self.options.stopped)() {
                self.cut_off();
            }
            self.look_for_rival();
        }
    }

    fn look_for_rival(&self) {
        let next = self.state().next;
        // If the store does not answer, the next record reports it.
        if matches!(self.log.has(next), Ok(true)) && self.state().next == next {
            self.lose(self.taken_by_another());
        }
    }

    /// Pins the chosen points, for volumes that come up after hours of waiting. A failure to pin
    /// does not delay a failover. A point that has a pin keeps that pin.
    fn pin_points(&self) {
        let until = Timestamp(self.clock.now().0.saturating_add(PIN_TIME.as_nanos() as i64));
        self.each_point(|replica, point| {
            if point.pins.is_empty() {
                let (at, until) = (At::Point(point.id), PinUntil::Time(until));
                let _ = replica.pin(&at, until, &self.pin_reason());
            }
        });
    }

    fn unpin_points(&self) {
        self.each_point(|replica, point| {
            if point.pins.iter().any(|pin| pin.reason == self.pin_reason()) {
                let _ = replica.unpin(&At::Point(point.id), false);
            }
        });
    }

    fn pin_reason(&self) -> String {
        format!("recovery plan run {}", self.log.run())
    }

    /// Calls `work` for the chosen points of all volumes at once.
    fn each_point(&self, work: impl Fn(&mut Replica, &RecoveryPoint) + Sync) {
        let work = &work;
        std::thread::scope(|scope| {
            for chosen in &self.header.points {
                let At::Point(id) = chosen.at else { continue };
                scope.spawn(move || {
                    let Ok(mut replica) = self.vault.replica(&chosen.volume) else { return };
                    let is_it = |p: &RecoveryPoint| p.id == id || p.group == Some(id);
                    if let Some(point) = replica.points().into_iter().find(is_it) {
                        work(&mut replica, &point);
                    }
                });
            }
        });
    }

    fn taken_by_another(&self) -> Error {
        Error::new(ErrorKind::Fenced, "run plan", self.log.run())
            .message("another runner took the run")
    }

    fn groups(&self) {
        std::thread::scope(|scope| {
            for at in 0..self.plan.groups().len() {
                scope.spawn(move || {
                    if self.wait_for_groups(at) && self.group(at) {
                        self.progress().groups_done[at] = true;
                    }
                    self.changed.notify_all();
                });
            }
        });
    }

    /// Returns false if the run halts first.
    fn wait_for_groups(&self, at: usize) -> bool {
        let mut progress = self.progress();
        loop {
            if self.is_halted() {
                return false;
            }
            if self.plan.groups()[at].depends_on.iter().all(|before| progress.groups_done[*before])
            {
                return true;
            }
            progress = self.changed.wait(progress);
        }
    }

    /// Returns false if the run halts during the group.
    fn group(&self, at: usize) -> bool {
        let steps = |wanted: fn(Part) -> bool| {
            let is_it = move |step: &&Step| {
                step.group == at && wanted(step.part) && !RunState::is_last(step.kind)
            };
            self.steps.iter().filter(is_it)
        };
        let all_go = |part: fn(Part) -> bool| steps(part).all(|step| self.step(step) != Flow::Halt);
        all_go(|part| matches!(part, Part::Before(_)))
            && self.members(&steps(|part| matches!(part, Part::Member(_))).collect::<Vec<_>>())
            && all_go(|part| matches!(part, Part::After(_)))
    }

    /// Runs the steps of a group's volumes: volumes in parallel, steps of each in order.
    fn members(&self, steps: &[&Step]) -> bool {
        let mut by_member: Vec<Vec<&Step>> = Vec::new();
        for step in steps {
            match by_member.last_mut() {
                Some(known) if known[0].part == step.part => known.push(step),
                _ => by_member.push(vec![step]),
            }
        }
        std::thread::scope(|scope| {
            let threads: Vec<_> = by_member
                .into_iter()
                .map(|steps| {
                    scope.spawn(move || {
                        let halts = |step: &&Step| self.step(step);
                        let flow = steps.iter().map(halts).find(|flow| *flow != Flow::Go);
                        flow != Some(Flow::Halt)
                    })
                })
                .collect();
            // All threads are joined, even after one has halted.
            let went: Vec<_> = threads.into_iter().map(|t| t.join().unwrap_or(false)).collect();
            went.into_iter().all(|went| went)
        })
    }

    /// Takes tests down whatever happened, and commits real runs that succeeded.
    fn last_steps(&self) {
        let stopped = self.is_cut_off() || self.progress().lost.is_some();
        let failed = self.progress().failed.is_some();
        let wanted: Vec<&Step> = match self.header.mode {
            _ if stopped => Vec::new(),
            RunMode::Test => {
                // Earlier failures must not prevent the clean-up.
                self.halted.store(false, Ordering::SeqCst);
                let state = self.state();
                let due = |s: &&Step| s.kind == StepKind::CleanUp && state.needs_clean_up(s);
                self.steps.iter().filter(due).collect()
            }
            RunMode::Real if failed || !self.commits => Vec::new(),
            RunMode::Real => {
                let state = self.state();
                let up = |step: &Step| {
                    step.volume.as_deref().is_some_and(|v| state.started(v).is_some())
                };
                self.steps.iter().filter(|s| s.kind == StepKind::Commit && up(s)).collect()
            }
        };
        std::thread::scope(|scope| {
            for step in wanted {
                scope.spawn(move || self.step(step));
            }
        });
    }

    /// Runs a step as often as it may be tried, unless an earlier runner did.
    fn step(&self, step: &Step) -> Flow {
        let policy = self.on_failure(step);
        if let Some(flow) = self.did_before(step, policy) {
            return flow;
        }
        for left in (0..policy.tries()).rev() {
            if self.is_halted() {
                return Flow::Halt;
            }
            let outcome = match step::act(self, step) {
                Ok(outcome) => outcome,
                Err(error) => {
                    self.lose(error);
                    return Flow::Halt;
                }
            };
            match outcome {
                StepOutcome::Done => return Flow::Go,
                StepOutcome::Stopped => return Flow::Halt,
                _ if left > 0 => self.pause(policy.pause()),
                _ => {}
            }
        }
        let mut progress = self.progress();
        progress.failures = true;
        if policy == OnFailure::Continue {
            return Flow::Leave;
        }
        progress.failed.get_or_insert_with(|| step.id.clone());
        drop(progress);
        if !RunState::is_last(step.kind) {
            self.halt();
        }
        Flow::Halt
    }

    /// Returns how to continue if an earlier runner ended the step for good.
    fn did_before(&self, step: &Step, policy: OnFailure) -> Option<Flow> {
        let state = self.state();
        let outcome = state.state(step).outcome();
        if outcome == StepOutcome::Done {
            return Some(Flow::Go);
        }
        let passed = outcome.is_failure() && policy == OnFailure::Continue;
        drop(state);
        passed.then(|| {
            self.progress().failures = true;
            Flow::Leave
        })
    }

    fn on_failure(&self, step: &Step) -> OnFailure {
        if RunState::is_last(step.kind) {
            return OnFailure::Stop;
        }
        match (self.action(step), self.member(step)) {
            (Some(action), _) => action.on_failure,
            (None, Some(member)) => member.on_failure,
            (None, None) => OnFailure::Stop,
        }
    }

    pub(super) fn action(&self, step: &Step) -> Option<&Action> {
        let group = &self.plan.groups()[step.group];
        match step.part {
            Part::Before(at) => group.before_actions.get(at),
            Part::After(at) => group.after_actions.get(at),
            Part::Member(_) => None,
        }
    }

    pub(super) fn member(&self, step: &Step) -> Option<&Member> {
        match step.part {
            Part::Member(at) => self.plan.groups()[step.group].members.get(at),
            _ => None,
        }
    }

    /// Writes the next record and applies it; `Fenced` if another runner wrote it.
    pub(super) fn record(&self, record: &Record, apply: impl FnOnce(&mut RunState)) -> Result<()> {
        let mut state = self.state();
        match self.log.append(state.next, &record.to_json()) {
            Ok(()) => {
                state.next += 1;
                apply(&mut state);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(self.taken_by_another()),
            Err(error) => Err(error),
        }
    }

    pub(super) fn record_begin(&self, step: &Step) -> Result<u32> {
        let (attempt, time) = (self.state().state(step).attempts + 1, self.clock.now());
        self.record(&Record::Begin { step: step.number, attempt, time }, |state| {
            if let Some(known) = state.step(step.number) {
                known.begun(attempt, time);
            }
        })?;
        self.report(step);
        Ok(attempt)
    }

    pub(super) fn record_process(&self, step: &Step, process: &Process) -> Result<()> {
        let record = Record::Process { step: step.number, process: process.clone() };
        self.record(&record, |state| {
            if let Some(known) = state.step(step.number) {
                known.process = Some(process.clone());
            }
        })
    }

    pub(super) fn record_end(&self, step: &Step, end: End) -> Result<()> {
        let record = Record::End { step: step.number, end: end.clone() };
        self.record(&record, |state| {
            if let Some(known) = state.step(step.number) {
                known.ended(end);
            }
        })?;
        self.report(step);
        Ok(())
    }

    fn report(&self, step: &Step) {
        let report = StepReport::of(step, &self.state());
        (self.options.on_step)(self.log.run(), &report);
    }

    /// Returns the decision about a waiting step.
    pub(super) fn approval(&self, step: &Step) -> Result<Option<Value>> {
        let waited = self.state().state(step).ends;
        self.log.approval_of(step.number, waited)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, RunState> {
        self.state.lock()
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock()
    }

    pub(super) fn is_cut_off(&self) -> bool {
        self.cut_off.is_set()
    }

    fn is_halted(&self) -> bool {
        self.halted.load(Ordering::SeqCst) || self.is_cut_off()
    }

    /// Waits for `time`, or until the run halts.
    pub(super) fn pause(&self, time: Duration) {
        let progress = self.progress();
        let _ = self.changed.wait_timeout_while(progress, time, |_| !self.is_halted());
    }

    /// Waits for `time`, or until steps under way must end.
    pub(super) fn pause_under_way(&self, time: Duration) {
        let progress = self.progress();
        let _ = self.changed.wait_timeout_while(progress, time, |_| !self.is_cut_off());
    }

    fn halt(&self) {
        let guard = self.progress();
        self.halted.store(true, Ordering::SeqCst);
        drop(guard);
        self.changed.notify_all();
    }

    fn cut_off(&self) {
        let guard = self.progress();
        self.cut_off.0.store(true, Ordering::SeqCst);
        drop(guard);
        self.changed.notify_all();
    }

    fn lose(&self, error: Error) {
        self.progress().lost.get_or_insert(error);
        self.cut_off();
    }
}
