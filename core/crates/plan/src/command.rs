//! Programs of steps: each in its own process group, with a time limit, and with the end of its
//! output.
//!
//! A program is recorded in the log before it begins. A shell first waits for a word on its
//! standard input, which is sent once the process is recorded, and then becomes the program. If the
//! runner dies before, the word never comes. So a runner that resumes finds any program its
//! predecessor left, and ends it or, for a boot, continues with it.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{SendFlags, send};
use rustix::process::{Pid, Signal, kill_process_group};

use super::definition::Program;
use super::fields::{number, small_number, text};
use hrl::device::file_mode;
use hrl::sync::lock::Mutex;
use hrl::{Clock, Error, Result};
use serde_json::{Value, json};

/// How much of a program's output is stored: its last bytes.
pub(super) const OUTPUT_BYTES_MAX: usize = 4 << 10;
/// Time between asking a process group to end and killing it.
const GRACE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(10);
/// Variable that has the run, in the environment of every program.
pub(super) const RUN: &str = "HRL_RUN";
/// How long to wait for the end of the output, because a grandchild may keep the pipe open.
const DRAIN: Duration = Duration::from_millis(500);
/// Shell script that waits for the word, then becomes the program.
const GATE: &str = "read -r word && exec \"$@\" </dev/null";

/// Identifies a process on a machine, even after its process number was used again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub pid: u32,
    /// Start time, in ticks since the machine's boot.
    pub began: u64,
    /// Identity of the machine's boot.
    pub boot: String,
    pub host: String,
}

impl Process {
    pub(super) fn of(pid: u32) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        Self {
            pid,
            began: stat(pid).map_or(0, |(_, began)| began),
            boot: read("/proc/sys/kernel/random/boot_id"),
            host: read("/proc/sys/kernel/hostname"),
        }
    }

    /// Returns whether the process runs on this machine.
    pub(super) fn is_alive(&self) -> bool {
        let here = Self::of(self.pid);
        let runs = stat(self.pid).is_some_and(|(state, _)| state != 'Z' && state != 'X');
        runs && *self == here
    }

    /// Returns whether the process runs on this machine, and was started by the run `run`. The
    /// environment proves it: a record alone could name any process.
    pub(super) fn runs_for(&self, run: &str) -> bool {
        let mark = format!("{RUN}={run}");
        let environment = std::fs::read(format!("/proc/{}/environ", self.pid)).unwrap_or_default();
        let is_marked = environment.split(|byte| *byte == 0).any(|one| one == mark.as_bytes());
        is_marked && self.is_alive()
    }

    /// Ends the process and its group, if the run `run` started it.
    pub(super) fn end(&self, run: &str, clock: &dyn Clock) {
        if !self.runs_for(run) {
            return;
        }
        signal_group(self.pid, Signal::TERM);
        let until = clock.elapsed() + GRACE;
        while self.is_alive() && clock.elapsed() < until {
            std::thread::sleep(POLL);
        }
        if self.is_alive() {
            signal_group(self.pid, Signal::KILL);
        }
    }

    pub(super) fn to_json(&self) -> Value {
        json!({ "pid": self.pid, "began": self.began, "boot": self.boot, "host": self.host })
    }

    pub(super) fn read(value: &Value) -> Option<Self> {
        Some(Self {
            pid: small_number(value, "pid")?,
            began: number(value, "began")?,
            boot: text(value, "boot")?,
            host: text(value, "host")?,
        })
    }
}

/// Returns condition and start time of a process, see proc_pid_stat(5).
fn stat(pid: u32) -> Option<(char, u64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may contain anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

fn signal_group(pid: u32, signal: Signal) {
    if let Some(group) = Pid::from_raw(pid.cast_signed()) {
        let _ = kill_process_group(group, signal);
    }
}

/// Where the output of a program goes.
pub(super) enum Output {
    /// To memory, which stores its last bytes.
    Tail,
    /// To a file, for a program that outlives the runner.
    File(PathBuf),
    /// To /dev/null.
    Null,
}

/// A running program. Dropping it kills its group, unless it was [left](Self::leave).
pub(super) struct Running {
    child: Child,
    /// The program's standard input until it may begin.
    gate: Option<UnixStream>,
    pub process: Process,
    tail: Arc<Mutex<Vec<u8>>>,
    file: Option<PathBuf>,
    ended: Option<ExitStatus>,
    left: bool,
}

impl Running {
    /// Starts a waiting program, which begins with [`Running::go`] once it is recorded.
    pub(super) fn start(
        program: &Program,
        environment: &[(String, String)],
        output: Output,
    ) -> Result<Self> {
        let failed = |error| Error::io("run", program, error);
        let (gate, input) = UnixStream::pair().map_err(failed)?;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", GATE, "hrl"]).args(program.arguments());
        command.stdin(OwnedFd::from(input));
        command.envs(environment.iter().map(|(name, value)| (name, value))).process_group(0);
        let tail = Arc::default();
        let mut file = None;
        match output {
            Output::Tail => {
                let (reader, writer) = std::io::pipe().map_err(failed)?;
                command.stdout(writer.try_clone().map_err(failed)?).stderr(writer);
                listen(reader, Arc::clone(&tail));
            }
            Output::File(path) => {
                let mode = file_mode(&path);
                let open = File::options().create(true).append(true).mode(mode).open(&path);
                let open = open.map_err(|error| Error::io("open", path.display(), error))?;
                command.stdout(open.try_clone().map_err(failed)?).stderr(open);
                file = Some(path);
            }
            Output::Null => drop(command.stdout(Stdio::null()).stderr(Stdio::null())),
        }
        let child = command.spawn().map_err(failed)?;
        let process = Process::of(child.id());
        Ok(Self { child, gate: Some(gate), process, tail, file, ended: None, left: false })
    }

    /// Lets the program begin.
    pub(super) fn go(&mut self) {
        if let Some(gate) = self.gate.take() {
            // If the program was killed already, `ended` reports it.
            let _ = send(&gate, b"go\n", SendFlags::NOSIGNAL);
        }
    }

    /// Returns how the program ended; `None` while it runs.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    /// Waits until the program ends or `give_up` returns true.
    pub(super) fn wait(&mut self, give_up: &dyn Fn() -> bool) -> Option<ExitStatus> {
        while self.ended().is_none() && !give_up() {
            std::thread::sleep(POLL);
        }
        self.ended
    }

    /// Ends the program and its group: first asks, then kills.
    pub(super) fn end(&mut self, clock: &dyn Clock) {
        if self.ended().is_none() {
            signal_group(self.child.id(), Signal::TERM);
            let until = clock.elapsed() + GRACE;
            self.wait(&|| clock.elapsed() >= until);
        }
        // The group may outlive its leader.
        signal_group(self.child.id(), Signal::KILL);
        if self.ended().is_none() {
            self.ended = self.child.wait().ok();
        }
    }

    /// Lets the program outlive its runner.
    pub(super) fn leave(mut self) {
        self.left = true;
    }

    /// Returns the last bytes of the output.
    pub(super) fn output(&self, clock: &dyn Clock) -> String {
        if let Some(path) = &self.file {
            return tail_of(path);
        }
        let until = clock.elapsed() + DRAIN;
        // The listener owns the other clone until the stream ends.
        while self.ended.is_some() && Arc::strong_count(&self.tail) > 1 && clock.elapsed() < until {
            std::thread::sleep(POLL);
        }
        let tail = self.tail.lock();
        String::from_utf8_lossy(&tail).into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.left && self.ended().is_none() {
            signal_group(self.child.id(), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// Describes how a program ended, for people.
pub(super) fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("it ended with code {code}"),
        (None, Some(signal)) => format!("signal {signal} ended it"),
        (None, None) => "it ended".to_owned(),
    }
}

fn listen(mut from: impl Read + Send + 'static, tail: Arc<Mutex<Vec<u8>>>) {
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            let mut tail = tail.lock();
            tail.extend_from_slice(&bytes[..count]);
            let excess = tail.len().saturating_sub(OUTPUT_BYTES_MAX);
            tail.drain(..excess);
        }
    });
}

fn tail_of(path: &PathBuf) -> String {
    use std::io::{Seek, SeekFrom};
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(OUTPUT_BYTES_MAX as u64)))?;
        let mut bytes = Vec::new();
        file.take(OUTPUT_BYTES_MAX as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}
