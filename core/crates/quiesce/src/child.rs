//! A program that the watchdog runs, in its own process group, with bounded memory for its output.
//! The whole group is killed when its time is over.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use hrl::sync::lock::Mutex;
use hrl::{Error, Result};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::provider::Deadline;

/// How much of a program's output is stored for errors: its last bytes.
const SAID_BYTES_MAX: usize = 2 << 10;
/// How often to check whether a stream has ended that a grandchild may keep open.
const LISTEN_POLLS: u32 = 50;
const POLL: Duration = Duration::from_millis(2);

/// The last bytes of a program's output.
#[derive(Clone, Default)]
pub(crate) struct Said(Arc<Mutex<Vec<u8>>>);

impl Said {
    /// Reads `from` to its end on a thread, because a grandchild may keep it open for long.
    pub(crate) fn listen(&self, from: impl Read + Send + 'static) {
        let said = self.clone();
        std::thread::spawn(move || said.read(from));
    }

    fn read(&self, mut from: impl Read) {
        let mut bytes = [0; 1024];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            let mut said = self.0.lock();
            said.extend_from_slice(&bytes[..count]);
            let excess = said.len().saturating_sub(SAID_BYTES_MAX);
            said.drain(..excess);
        }
    }

    /// Returns the output on one line. After the program's end, waits briefly for its last words.
    pub(crate) fn text(&self) -> String {
        for _ in 0..LISTEN_POLLS {
            // Each listener owns a clone until its stream ends.
            if Arc::strong_count(&self.0) == 1 {
                break;
            }
            std::thread::sleep(POLL);
        }
        let said = self.0.lock();
        let text = String::from_utf8_lossy(&said);
        let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        lines.join("; ")
    }
}

/// A running program. Dropping it kills its process group.
pub(crate) struct Running {
    pub child: Child,
    ended: Option<ExitStatus>,
}

impl Running {
    /// Starts a program in its own process group. Streams that `command` does not set go to
    /// /dev/null.
    pub(crate) fn start(command: &mut Command, name: &str) -> Result<Self> {
        let child = command.process_group(0).spawn().map_err(|error| {
            let program = command.get_program().display();
            Error::io("run", format_args!("{program} for {name}"), error)
        })?;
        Ok(Self { child, ended: None })
    }

    /// Returns how the program ended; `None` while it runs.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    /// Waits for the program's end; `None` if the deadline comes first.
    pub(crate) fn wait(&mut self, deadline: &Deadline) -> Option<ExitStatus> {
        loop {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            if deadline.is_over() {
                return None;
            }
            std::thread::sleep(POLL.min(deadline.left()));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended().is_some() {
            return;
        }
        // Not waited for: a process that is writing to a frozen file system dies only after the
        // thaw.
        if let Some(group) = Pid::from_raw(self.child.id().cast_signed()) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Returns a command with all streams at /dev/null.
pub(crate) fn quiet(program: &str) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Returns a command as [`quiet`] does, run as `user` if given.
pub(crate) fn quiet_as(user: Option<&str>, program: &str) -> Command {
    match user {
        None => quiet(program),
        Some(user) => {
            let mut command = quiet("runuser");
            command.args(["-u", user, "--", program]);
            command
        }
    }
}
