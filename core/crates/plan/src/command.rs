//! Programs that steps run: each in a process group of its own, never longer than told, with the end of what it printed.
//!
//! A program is known to the log before it begins: a shell waits for a word on its standard input, which comes once the process
//! is recorded, and runs the program in its own place; if the runner dies before, the word never comes. So whoever resumes a
//! run finds what its last runner left running, and ends it (or, of a boot, goes on with it).

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
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
use hrl::sync::lock::Mutex;
use hrl::{Clock, Error, Result};
use serde_json::{Value, json};

/// The end of what a program printed that is kept.
pub(super) const OUTPUT_BYTES_MAX: usize = 4 << 10;
/// Between asking a process group to end and killing it.
const GRACE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(10);
/// How long the end of the output is waited for: a grandchild may hold the pipe.
const DRAIN: Duration = Duration::from_millis(500);
/// Waits for the word, then becomes the program.
const GATE: &str = "read -r word && exec \"$@\" </dev/null";

/// Names a process on a machine, also after the process identity was given to another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub pid: u32,
    /// When it began, in ticks since the machine did.
    pub began: u64,
    /// Identity of that start of the machine.
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

    /// It runs, on this machine.
    pub(super) fn is_alive(&self) -> bool {
        let here = Self::of(self.pid);
        let runs = stat(self.pid).is_some_and(|(state, _)| state != 'Z' && state != 'X');
        runs && *self == here
    }

    /// Ends it with its group, unless it is another's by now.
    pub(super) fn end(&self, clock: &dyn Clock) {
        if !self.is_alive() {
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

/// State and start of a process, see proc_pid_stat(5).
fn stat(pid: u32) -> Option<(char, u64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
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
    /// Its end is kept in memory.
    Tail,
    /// To a file, for what outlives the runner.
    File(PathBuf),
    /// Nowhere.
    Null,
}

/// A program that runs. Dropped, its group is killed, unless it was [left](Self::leave).
pub(super) struct Running {
    child: Child,
    /// Its standard input until it may go.
    gate: Option<UnixStream>,
    pub process: Process,
    tail: Arc<Mutex<Vec<u8>>>,
    file: Option<PathBuf>,
    ended: Option<ExitStatus>,
    left: bool,
}

impl Running {
    /// Starts a program that waits, [goes on](Self::go) once it is recorded.
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
                let open = File::options().create(true).append(true).open(&path);
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

    /// Lets it begin.
    pub(super) fn go(&mut self) {
        if let Some(gate) = self.gate.take() {
            // Where it was killed already, its end tells.
            let _ = send(&gate, b"go\n", SendFlags::NOSIGNAL);
        }
    }

    /// How it ended; `None` while it runs.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    /// Waits until it ended, or `give_up` says so.
    pub(super) fn wait(&mut self, give_up: &dyn Fn() -> bool) -> Option<ExitStatus> {
        while self.ended().is_none() && !give_up() {
            std::thread::sleep(POLL);
        }
        self.ended
    }

    /// Ends it with its group: asked first, killed then.
    pub(super) fn end(&mut self, clock: &dyn Clock) {
        if self.ended().is_none() {
            signal_group(self.child.id(), Signal::TERM);
            let until = clock.elapsed() + GRACE;
            self.wait(&|| clock.elapsed() >= until);
        }
        // Also what is left of the group of a leader that has ended.
        signal_group(self.child.id(), Signal::KILL);
        if self.ended().is_none() {
            self.ended = self.child.wait().ok();
        }
    }

    /// Lets it outlive its runner.
    pub(super) fn leave(mut self) {
        self.left = true;
    }

    /// The end of what it printed.
    pub(super) fn output(&self, clock: &dyn Clock) -> String {
        if let Some(path) = &self.file {
            return tail_of(path);
        }
        let until = clock.elapsed() + DRAIN;
        // The listener has the other clone until the stream ends.
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

/// How a program ended, for people.
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
