//! A site for tests: a vault of small volumes, and a host that brings volumes up by making files.

#![allow(dead_code, reason = "each test uses some of it")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hrl::device::{BlockDevice, Durability, MemoryDevice};
use hrl::journal::{PointKind, WrappingKey};
use hrl::store::DirStore;
use hrl::vault::Vault;
use hrl::{
    Clock, Error, ErrorKind, Policy, ProtectionOptions, Result, Sequence, SystemClock, Timestamp,
};
use hrl_plan::{
    self as plan, Member, Plan, PlanHost, RunMode, RunOptions, RunReport, StartRequest, Started,
    StepOutcome, StepReport,
};

const LIMIT: Duration = Duration::from_secs(60);
pub const POLL: Duration = Duration::from_millis(10);

/// A directory with a vault of volumes with two points each, "first" and "second".
pub struct Site {
    pub directory: tempfile::TempDir,
    pub vault: Vault,
}

impl Site {
    pub fn new(volumes: &[&str]) -> Self {
        Self::with_key(volumes, None)
    }

    pub fn with_key(volumes: &[&str], key: Option<WrappingKey>) -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let store = Arc::new(DirStore::create(&directory.path().join("vault")).expect("store"));
        let vault = Vault::create(store, key, SystemClock::shared()).expect("vault");
        for volume in volumes {
            let state = directory.path().join(format!("source-{volume}"));
            let policy = Policy { crash_point_interval: Duration::ZERO, ..Policy::default() };
            let device = Arc::new(MemoryDevice::new(1 << 20));
            let protection = ProtectionOptions::new(volume, device, vault.clone(), state);
            let protection = protection.policy(policy).open().expect("protect");
            protection.wait_ordered(LIMIT).expect("ordered");
            for label in ["first", "second"] {
                protection.volume().write(0, label.as_bytes(), Durability::Cached).expect("write");
                protection.mark(PointKind::Crash, label).expect("mark");
            }
            protection.stop(LIMIT).expect("stop");
        }
        Self { directory, vault }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Returns the lines that hosts and commands wrote to DIR/log.
    pub fn log(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path("log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Parses a plan in which DIR stands for the directory.
    pub fn plan(&self, text: &str) -> Plan {
        let text = text.replace("DIR", &self.directory.path().display().to_string());
        Plan::parse(&text, "plan.toml").expect("a plan")
    }

    pub fn host(&self) -> Host {
        Host::new(self.directory.path())
    }

    pub fn run(&self, text: &str, options: &RunOptions<'_>) -> RunReport {
        plan::run(&self.plan(text), &self.vault, &self.host(), options).expect("a run")
    }

    /// Resumes the run that [`options`] name, which began with the plan `text`.
    pub fn resume(&self, text: &str, options: &RunOptions<'_>) -> Result<RunReport> {
        let plan = self.plan(text);
        let options = RunOptions { run: None, plan: Some(&plan), ..*options };
        plan::resume(&self.vault, "r", &self.host(), &options)
    }

    /// Returns the process that wrote its number to DIR/pid.
    pub fn process(&self) -> Process {
        let pid = std::fs::read_to_string(self.path("pid")).expect("pid");
        Process(pid.trim().to_owned())
    }
}

/// A process that a command of a plan started.
pub struct Process(String);

impl Process {
    /// Returns whether it runs and is not a zombie.
    pub fn runs(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0));
        stat.is_ok_and(|stat| !stat.contains(") Z"))
    }

    pub fn end(&self) {
        Command::new("kill").arg(&self.0).status().expect("kill");
    }
}

pub fn options(mode: RunMode) -> RunOptions<'static> {
    RunOptions { run: Some("r".into()), mode, poll: POLL, ..RunOptions::default() }
}

/// Brings volumes up by making files.
pub struct Host {
    pub directory: PathBuf,
    /// Members that must be in `start` at the same time.
    pub together: u32,
    pub inside: AtomicU32,
    pub takes: Duration,
    pub refuses: Option<String>,
}

impl Host {
    pub fn new(directory: &Path) -> Self {
        let directory = directory.to_owned();
        let inside = AtomicU32::new(0);
        Self { directory, together: 1, inside, takes: Duration::ZERO, refuses: None }
    }

    fn log(&self, line: String) {
        let file =
            std::fs::File::options().create(true).append(true).open(self.directory.join("log"));
        file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes())).expect("log");
    }
}

impl PlanHost for Host {
    fn start(&self, member: &Member, request: &StartRequest<'_>) -> Result<Started> {
        let volume = &member.volume;
        self.inside.fetch_add(1, Ordering::SeqCst);
        for _ in 0..500 {
            if self.inside.load(Ordering::SeqCst) >= self.together {
                break;
            }
            std::thread::sleep(POLL);
        }
        if self.inside.load(Ordering::SeqCst) < self.together
            || self.refuses.as_ref() == Some(volume)
        {
            return Err(Error::new(ErrorKind::Unavailable, "start", volume));
        }
        std::thread::sleep(self.takes);
        let up = self.directory.join(format!("up-{volume}"));
        let word = if up.exists() { "found" } else { "start" };
        std::fs::write(up, request.at.to_string()).expect("up");
        self.log(format!("{word} {volume} {} {}", request.mode.name(), request.at));
        Ok(Started {
            uri: format!("nbd+unix:///{volume}"),
            point: None,
            sequence: Sequence(7),
            point_time: Timestamp(SystemClock::default().now().0 - 5_000_000_000),
        })
    }

    fn commit(&self, member: &Member, _: &StartRequest<'_>) -> Result<()> {
        self.log(format!("commit {}", member.volume));
        Ok(())
    }

    fn clean_up(&self, member: &Member, _: &StartRequest<'_>) -> Result<()> {
        let _ = std::fs::remove_file(self.directory.join(format!("up-{}", member.volume)));
        self.log(format!("clean-up {}", member.volume));
        Ok(())
    }
}

pub fn step<'a>(report: &'a RunReport, id: &str) -> &'a StepReport {
    report.steps.iter().find(|step| step.id == id).expect(id)
}

pub fn outcome(report: &RunReport, id: &str) -> StepOutcome {
    step(report, id).outcome
}
