//! `script:PATH`, or `script:?pre=COMMAND&post=COMMAND`: hooks of the operator.
//!
//! An executable runs as `PATH pre` and `PATH post`; commands run in the shell. Each has `limit-ms`
//! (default 10 s; for `pre` at most what is left). At its limit the whole process group is killed.
//! `post` runs whenever `pre` was started, even if `pre` failed.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use hrl::{Error, ErrorKind, Result, SystemClock};

use crate::child::{Running, Said, quiet};
use crate::provider::{Deadline, Occasion, Prepared, Provider, Quiesced, Rank};
use crate::spec::Spec;

const LIMIT: Duration = Duration::from_secs(10);

#[derive(Clone)]
enum Hooks {
    Executable(PathBuf),
    Commands { pre: Option<String>, post: Option<String> },
}

#[derive(Clone)]
pub(crate) struct Script {
    name: String,
    hooks: Hooks,
    limit: Duration,
}

impl Script {
    pub(crate) fn new(spec: Spec) -> Result<Self> {
        spec.finish(&["pre", "post", "limit-ms"])?;
        let text = |name| spec.option(name).map(str::to_owned);
        let (pre, post) = (text("pre"), text("post"));
        let commands = pre.is_some() || post.is_some();
        if spec.target.is_empty() != commands {
            return Err(spec.bad().expected("either an executable or pre= and post="));
        }
        let hooks = if commands {
            Hooks::Commands { pre, post }
        } else {
            Hooks::Executable(spec.absolute_path("an executable")?)
        };
        let limit = spec.milliseconds("limit-ms", LIMIT)?;
        Ok(Self { name: spec.text, hooks, limit })
    }

    fn command(&self, phase: &str) -> Option<Command> {
        match &self.hooks {
            Hooks::Executable(path) => {
                let mut command = quiet(&path.display().to_string());
                command.arg(phase);
                Some(command)
            }
            Hooks::Commands { pre, post } => {
                let line = if phase == "pre" { pre } else { post };
                line.as_ref().map(|line| {
                    let mut command = quiet("/bin/sh");
                    command.args(["-c", line]);
                    command
                })
            }
        }
    }

    /// Runs one hook to its end.
    fn run(&self, phase: &'static str, about: &About, deadline: &Deadline) -> Result<()> {
        let Some(mut command) = self.command(phase) else { return Ok(()) };
        command
            .env("HRL_VOLUME", &about.volume)
            .env("HRL_LABEL", &about.label)
            .env("HRL_PHASE", phase)
            .env("HRL_LIMIT_MS", deadline.left().as_millis().to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut running = Running::start(&mut command, &self.name)?;
        let said = Said::default();
        if let Some(out) = running.child.stdout.take() {
            said.listen(out);
        }
        if let Some(err) = running.child.stderr.take() {
            said.listen(err);
        }
        let failed =
            || Error::new(ErrorKind::Unavailable, "run", format!("{phase} of {}", self.name));
        match running.wait(deadline) {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(failed()
                .expected("success")
                .found(format_args!("{status}, saying {:?}", said.text()))),
            None => Err(failed().message("it ran into its time limit and was killed")),
        }
    }
}

/// What hooks learn about the point.
#[derive(Clone)]
struct About {
    volume: String,
    label: String,
}

impl Provider for Script {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn rank(&self) -> Rank {
        Rank::Script
    }

    fn prepare(&self, _occasion: &Occasion) -> Result<Box<dyn Prepared>> {
        Ok(Box::new(self.clone()))
    }

    fn rescue(&self, volume: &str) -> Result<()> {
        let about = About { volume: volume.to_owned(), label: String::new() };
        self.run("post", &about, &Deadline::after(SystemClock::shared(), self.limit))
    }
}

impl Prepared for Script {
    fn quiesce(self: Box<Self>, occasion: &Occasion) -> Result<Box<dyn Quiesced>> {
        let about = About { volume: occasion.volume.clone(), label: occasion.label.clone() };
        let pre = self.run("pre", &about, &occasion.deadline.within(self.limit));
        let hooked = Box::new(Hooked { deadline: occasion.deadline.clone(), script: *self, about });
        match pre {
            Ok(()) => Ok(hooked),
            Err(error) => {
                // The caller gets the first failure.
                let _ = hooked.release();
                Err(error)
            }
        }
    }
}

struct Hooked {
    script: Script,
    about: About,
    deadline: Deadline,
}

impl Quiesced for Hooked {
    fn release(self: Box<Self>) -> Result<()> {
        self.script.run("post", &self.about, &self.deadline.anew(self.script.limit))
    }
}
