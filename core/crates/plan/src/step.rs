//! One try of one step: recorded, carried out, recorded.

use std::process::ExitStatus;
use std::time::Duration;

use super::command::{Output, Process, RUN, Running, describe};
use super::definition::{Boot, Member, Program, RunMode, Task};
use super::host::{StartRequest, Started};
use super::order::{Step, StepKind};
use super::outcome::{Approval, StepOutcome};
use super::record::{End, started_json};
use super::run::Runner;
use hrl::replica::At;
use hrl::{Error, ErrorKind, Result};
use serde_json::Value;

/// How long a boot's `stop` may take when a test is taken down.
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// Pause between two calls of a boot's `ready`, and limit of each call.
const READY_PAUSE: Duration = Duration::from_millis(500);
const READY_LIMIT: Duration = Duration::from_secs(30);
/// Longest message that is stored.
const MESSAGE_CHARS_MAX: usize = 2000;

/// Result of a try.
struct Acted {
    outcome: StepOutcome,
    message: String,
    output: String,
    started: Option<Started>,
    approval: Option<Approval>,
}

impl Acted {
    fn new(outcome: StepOutcome, message: impl Into<String>) -> Self {
        let message = message.into().chars().take(MESSAGE_CHARS_MAX).collect();
        Self { outcome, message, output: String::new(), started: None, approval: None }
    }

    fn done() -> Self {
        Self::new(StepOutcome::Done, "")
    }

    fn with_output(self, output: String) -> Self {
        Self { output, ..self }
    }

    fn of(error: &Error) -> Self {
        Self::new(StepOutcome::Failed, error.to_string())
    }
}

/// Carries out a step once. An error means that it cannot be recorded: the run is lost.
pub(super) fn act(runner: &Runner<'_>, step: &Step) -> Result<StepOutcome> {
    let before = {
        let state = runner.state();
        let known = state.state(step);
        // Only an interrupted step can have left a program.
        if known.end.is_none() { known.process.clone() } else { None }
    };
    let attempt = runner.record_begin(step)?;
    let begin = runner.clock.elapsed();
    let act = Act { runner, step, attempt };
    let mut acted = match (step.kind, runner.action(step), runner.member(step)) {
        (_, Some(action), _) => match &action.task {
            Task::Command(program) => {
                end_left_over(before, runner);
                act.command(program, action.limit, &act.environment(Some(action)))?
            }
            Task::Manual(_) => act.manual(action.limit)?,
        },
        (StepKind::Start, _, Some(member)) => act.start(member),
        (StepKind::Boot, _, Some(Member { boot: Some(boot), .. })) => act.boot(boot, before)?,
        (StepKind::Verify, _, Some(Member { verify: Some(program), verify_limit, .. })) => {
            end_left_over(before, runner);
            let words = runner.options.verify_with.iter().chain(program.arguments());
            let program = Program::from_arguments(words.cloned().collect()).ok_or_else(|| {
                Error::new(ErrorKind::InvalidInput, "verify with", "options")
                    .expected("a program first")
                    .found("an empty word")
            })?;
            act.command(&program, *verify_limit, &act.environment(None))?
        }
        (StepKind::Commit, _, Some(member)) => act.commit(member),
        (StepKind::CleanUp, _, Some(member)) => act.clean_up(member)?,
        _ => unreachable!("the steps of a run are made from its plan"),
    };
    if acted.outcome != StepOutcome::Done && runner.is_cut_off() {
        acted.outcome = StepOutcome::Stopped;
    }
    let ms = runner.clock.elapsed().saturating_sub(begin).as_millis();
    let outcome = acted.outcome;
    runner.record_end(
        step,
        End {
            time: runner.clock.now(),
            ms: u64::try_from(ms).unwrap_or(u64::MAX),
            outcome,
            message: acted.message,
            output: acted.output,
            started: acted.started,
            approval: acted.approval,
        },
    )?;
    Ok(outcome)
}

/// Ends a program that the last runner left, so that it does not run twice at a time.
fn end_left_over(process: Option<Process>, runner: &Runner<'_>) {
    if let Some(process) = process {
        process.end(runner.log.run(), runner.clock);
    }
}

struct Act<'a> {
    runner: &'a Runner<'a>,
    step: &'a Step,
    attempt: u32,
}

impl Act<'_> {
    /// Runs a program, which must end with 0 within its limit.
    fn command(
        &self,
        program: &Program,
        limit: Duration,
        environment: &[(String, String)],
    ) -> Result<Acted> {
        let clock = self.runner.clock;
        let mut running = match Running::start(program, environment, Output::Tail) {
            Ok(running) => running,
            Err(error) => return Ok(Acted::of(&error)),
        };
        self.runner.record_process(self.step, &running.process)?;
        running.go();
        let until = clock.elapsed() + limit;
        let status = running.wait(&|| clock.elapsed() >= until || self.runner.is_cut_off());
        running.end(clock);
        Ok(judge(status, limit).with_output(running.output(clock)))
    }

    fn manual(&self, limit: Duration) -> Result<Acted> {
        let until = self.runner.clock.elapsed() + limit;
        loop {
            if let Some(decided) = self.runner.approval(self.step)? {
                let approval = Approval::read(&decided).ok_or_else(|| {
                    Error::new(ErrorKind::Corrupt, "read approval", &self.step.id)
                })?;
                let outcome =
                    if approval.approved { StepOutcome::Done } else { StepOutcome::Rejected };
                let message = if approval.approved { "" } else { "it was rejected" };
                return Ok(Acted { approval: Some(approval), ..Acted::new(outcome, message) });
            }
            if self.runner.is_cut_off() {
                return Ok(Acted::new(StepOutcome::Stopped, ""));
            }
            if self.runner.clock.elapsed() >= until {
                return Ok(Acted::new(
                    StepOutcome::TimedOut,
                    format!("nobody decided within {limit:?}"),
                ));
            }
            self.runner.pause_under_way(self.runner.options.poll);
        }
    }

    fn start(&self, member: &Member) -> Acted {
        let result = self.ask_host(member, |request| self.runner.host.start(member, request));
        match result {
            Ok(started) => Acted { started: Some(started), ..Acted::done() },
            Err(error) => Acted::of(&error),
        }
    }

    fn commit(&self, member: &Member) -> Acted {
        let result = self.ask_host(member, |request| self.runner.host.commit(member, request));
        result.map_or_else(|error| Acted::of(&error), |()| Acted::done())
    }

    /// Ends the boot, then asks the host to take the rest down.
    fn clean_up(&self, member: &Member) -> Result<Acted> {
        let mut output = String::new();
        let booted = {
            let state = self.runner.state();
            let step = state.step_of(&member.volume, StepKind::Boot);
            step.and_then(|step| {
                let known = state.state(step);
                (known.attempts > 0).then(|| known.process.clone())
            })
        };
        if let Some(process) = booted {
            if let Some(stop) = member.boot.as_ref().and_then(|boot| boot.stop.as_ref()) {
                let stopped = self.command(stop, STOP_LIMIT, &self.environment(None))?;
                output = stopped.output;
            }
            end_left_over(process, self.runner);
        }
        let result = self.ask_host(member, |request| self.runner.host.clean_up(member, request));
        let acted = result.map_or_else(|error| Acted::of(&error), |()| Acted::done());
        Ok(acted.with_output(output))
    }

    fn ask_host<T>(
        &self,
        member: &Member,
        ask: impl FnOnce(&StartRequest<'_>) -> Result<T>,
    ) -> Result<T> {
        let (runner, header) = (self.runner, &self.runner.header);
        let chosen = header.points.iter().find(|chosen| chosen.volume == member.volume);
        let at = chosen.map_or(&At::Newest, |chosen| &chosen.at);
        ask(&StartRequest {
            run: runner.log.run(),
            mode: header.mode,
            planned: header.planned,
            at,
            state: self.state_directory(member),
            nbd: match header.mode {
                RunMode::Test => member.test_nbd.as_deref(),
                RunMode::Real => member.nbd.as_deref(),
            },
            limit: member.limit,
            stop: runner.cut_off.clone(),
        })
    }

    fn state_directory(&self, member: &Member) -> Option<std::path::PathBuf> {
        let state = member.state.clone()?;
        Some(match self.runner.header.mode {
            RunMode::Test => state.join(format!("test-{}", self.runner.log.run())),
            RunMode::Real => state,
        })
    }

    /// Starts the program that uses the volume and waits until it is ready. A program of the last
    /// runner is waited for, not started twice.
    fn boot(&self, boot: &Boot, before: Option<Process>) -> Result<Acted> {
        let clock = self.runner.clock;
        let until = clock.elapsed() + boot.limit;
        let environment = self.environment(None);
        let Some(ready) = &boot.ready else {
            end_left_over(before, self.runner);
            return self.command(&boot.command, boot.limit, &environment);
        };
        if let Some(process) = before.filter(|process| process.runs_for(self.runner.log.run())) {
            return self.wait_ready(ready, until, &environment, &mut |_| {
                (!process.is_alive())
                    .then(|| Acted::new(StepOutcome::Failed, "it ended before it was ready"))
            });
        }
        let mut running = match Running::start(&boot.command, &environment, self.boot_output()) {
            Ok(running) => running,
            Err(error) => return Ok(Acted::of(&error)),
        };
        self.runner.record_process(self.step, &running.process)?;
        running.go();
        let acted = self.wait_ready(ready, until, &environment, &mut |limit| {
            // A program that puts itself into the background ends with 0.
            running
                .ended()
                .filter(|status| !status.success())
                .map(|status| judge(Some(status), limit))
        })?;
        if acted.outcome == StepOutcome::Done {
            running.leave();
            return Ok(acted);
        }
        running.end(clock);
        let output = running.output(clock);
        Ok(if output.is_empty() { acted } else { acted.with_output(output) })
    }

    /// Calls `ready` until it ends with 0, or `ended` returns a result.
    fn wait_ready(
        &self,
        ready: &Program,
        until: Duration,
        environment: &[(String, String)],
        ended: &mut dyn FnMut(Duration) -> Option<Acted>,
    ) -> Result<Acted> {
        let clock = self.runner.clock;
        loop {
            let left = until.saturating_sub(clock.elapsed());
            if let Some(acted) = ended(left) {
                return Ok(acted);
            }
            let mut asked = match Running::start(ready, environment, Output::Tail) {
                Ok(asked) => asked,
                Err(error) => return Ok(Acted::of(&error)),
            };
            asked.go();
            let enough = clock.elapsed() + left.min(READY_LIMIT);
            let status = asked.wait(&|| clock.elapsed() >= enough || self.runner.is_cut_off());
            asked.end(clock);
            if status.is_some_and(|status| status.success()) {
                return Ok(Acted::done().with_output(asked.output(clock)));
            }
            if self.runner.is_cut_off() {
                return Ok(Acted::new(StepOutcome::Stopped, ""));
            }
            if clock.elapsed() + READY_PAUSE >= until {
                let said = asked.output(clock);
                return Ok(
                    Acted::new(StepOutcome::TimedOut, "it was not ready in time").with_output(said)
                );
            }
            self.runner.pause_under_way(READY_PAUSE);
        }
    }

    /// Returns a file in the failover's state directory, if there is one.
    fn boot_output(&self) -> Output {
        let directory =
            self.runner.member(self.step).and_then(|member| self.state_directory(member));
        match directory {
            Some(directory) if directory.is_dir() => Output::File(directory.join("boot.log")),
            _ => Output::Null,
        }
    }

    /// Returns the environment of programs.
    fn environment(&self, action: Option<&super::definition::Action>) -> Vec<(String, String)> {
        let (runner, step) = (self.runner, self.step);
        let state = runner.state();
        let mut variables: Vec<(String, String)> =
            action.into_iter().flat_map(|action| action.environment.clone()).collect();
        variables.push((RUN.to_owned(), runner.log.run().to_owned()));
        let mut set = |name: &str, value: String| variables.push((format!("HRL_{name}"), value));
        set("PLAN", runner.plan.name().to_owned());
        set("MODE", runner.header.mode.name().to_owned());
        set("GROUP", runner.plan.groups()[step.group].name.clone());
        set("STEP", step.id.clone());
        set("TRY", self.attempt.to_string());
        let started = step.volume.as_deref().and_then(|volume| state.started(volume));
        set("VOLUME", step.volume.clone().unwrap_or_default());
        set("URI", started.map(|s| s.uri.clone()).unwrap_or_default());
        set("POINT", started.map(point_text).unwrap_or_default());
        set("SEQUENCE", started.map(|s| s.sequence.to_string()).unwrap_or_default());
        let up = runner
            .plan
            .members()
            .filter_map(|(_, m)| Some((m.volume.clone(), started_json(state.started(&m.volume)?))))
            .collect();
        set("MEMBERS", Value::Object(up).to_string());
        variables
    }
}

/// Returns the point or, without one, the sequence.
fn point_text(started: &Started) -> String {
    started.point.map_or_else(|| started.sequence.to_string(), |point| point.to_string())
}

fn judge(status: Option<ExitStatus>, limit: Duration) -> Acted {
    match status {
        Some(status) if status.success() => Acted::done(),
        Some(status) => Acted::new(StepOutcome::Failed, describe(status)),
        None => Acted::new(StepOutcome::TimedOut, format!("it took longer than {limit:?}")),
    }
}
