//! A database's own command-line client, kept open through pipes.
//!
//! The client keeps the connection that a lock belongs to. Each question ends with an echo, which
//! the client prints after the answer. Clients are started so that an error ends them; such an end
//! becomes an error with the client's output. If the watchdog dies, the pipes close, the client
//! ends, and the database releases the connection's locks.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use hrl::{Error, ErrorKind, Result, SystemClock};

use crate::child::{Running, Said, quiet_as};
use crate::provider::{Deadline, too_late};
use crate::spec::Spec;

/// Longest line of an answer; longer ones are cut.
const LINE_BYTES_MAX: u64 = 4 << 10;
/// Lines that wait to be read; beyond it the client waits.
const LINES_MAX: usize = 256;
/// How long a client may take to end after its input was closed.
const END_LIMIT: Duration = Duration::from_secs(2);

/// A client as a specification describes it, by its options `client` and `user`.
pub(crate) struct Client {
    /// The application, for errors.
    pub name: String,
    pub program: String,
    /// The system's user who runs it, if not this process's own.
    pub user: Option<String>,
}

impl Client {
    /// Returns the client of a specification; `program` is the default.
    pub(crate) fn of(spec: &Spec, program: &str) -> Self {
        Self {
            name: spec.text.clone(),
            program: spec.option("client").unwrap_or(program).to_owned(),
            user: spec.option("user").map(str::to_owned),
        }
    }

    /// Returns its command, without arguments.
    pub(crate) fn command(&self) -> Command {
        quiet_as(self.user.as_deref(), &self.program)
    }
}

/// A running client.
pub(crate) struct Session {
    name: String,
    running: Running,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    said: Said,
    /// Returns a command that prints its argument on a separate line.
    echo: fn(&str) -> String,
    asked: u32,
}

impl Session {
    /// Starts a client. Errors show `name`, the application.
    pub(crate) fn start(
        command: &mut Command,
        name: &str,
        echo: fn(&str) -> String,
    ) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut running = Running::start(command, name)?;
        let said = Said::default();
        if let Some(err) = running.child.stderr.take() {
            said.listen(err);
        }
        let (sender, lines) = sync_channel(LINES_MAX);
        let out = running.child.stdout.take();
        std::thread::spawn(move || {
            let mut out = BufReader::new(out?);
            loop {
                let mut line = Vec::new();
                let count = out.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line).ok()?;
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                if count == 0 || sender.send(text).is_err() {
                    return None::<()>;
                }
            }
        });
        let input = running.child.stdin.take();
        Ok(Self { name: name.to_owned(), running, input, lines, said, echo, asked: 0 })
    }

    /// Sends statements, waits until they are done, and returns the lines of the answer.
    pub(crate) fn ask(&mut self, statements: &str, deadline: &Deadline) -> Result<Vec<String>> {
        self.asked += 1;
        let mark = format!("hrl-done-{}", self.asked);
        let text = format!("{statements}\n{}\n", (self.echo)(&mark));
        let sent = self.input.as_mut().map(|input| input.write_all(text.as_bytes()));
        if !matches!(sent, Some(Ok(()))) {
            return Err(self.ended_early(deadline));
        }
        let mut answer = Vec::new();
        loop {
            match self.lines.recv_timeout(deadline.left()) {
                Ok(line) if line == mark => return Ok(answer),
                Ok(line) if answer.len() < LINES_MAX => answer.push(line),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => return Err(too_late(&self.name)),
                Err(RecvTimeoutError::Disconnected) => return Err(self.ended_early(deadline)),
            }
        }
    }

    /// Fails if the client, and with it the lock, has ended.
    pub(crate) fn still_quiesced(&mut self) -> Result<()> {
        match self.running.ended() {
            None => Ok(()),
            Some(_) => Err(self.lost("its client ended, and with it the lock")),
        }
    }

    /// Sends the statements that release a lock, and ends the client in order. They get the time
    /// of a release, even if `deadline` is over.
    pub(crate) fn finish(mut self, statements: &str, deadline: &Deadline) -> Result<()> {
        self.ask(statements, &deadline.anew(crate::RELEASE_LIMIT))?;
        self.close();
        Ok(())
    }

    /// Ends the client in order.
    pub(crate) fn close(mut self) {
        self.input = None;
        let deadline = Deadline::after(SystemClock::shared(), END_LIMIT);
        self.running.wait(&deadline);
    }

    fn ended_early(&mut self, deadline: &Deadline) -> Error {
        // The client's last words may come a little after its streams closed.
        self.running.wait(&deadline.within(Duration::from_millis(200)));
        self.lost("its client ended")
    }

    fn lost(&mut self, message: &str) -> Error {
        let how = self.running.ended().map_or("no status".to_owned(), |status| status.to_string());
        let said = self.said.text();
        let said = if said.is_empty() { String::new() } else { format!(": {said}") };
        Error::new(ErrorKind::Unavailable, "quiesce", &self.name)
            .message(format_args!("{message} ({how}){said}"))
    }
}
