//! Applications that the library can quiesce, with a watchdog process that releases them in any
//! case.
//!
//! For each point the agent starts a watchdog and asks it to quiesce and release. So the
//! applications are released at the limit even if the agent is killed, hangs or is stopped. Without
//! a watchdog nothing is quiesced. If the watchdog itself is killed, the agent releases what did
//! not end with it.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use hrl::sync::lock::{Mutex, MutexGuard};
use hrl::{Clock, Error, ErrorKind, Policy, Quiesce, QuiesceRequest, Result, SystemClock};

use crate::kinds::provider;
use crate::locate::watchdog_command;
use crate::provider::{Deadline, Provider};
use crate::watchdog::{LIMIT_MAX, PROVIDERS_MAX};
use crate::wire::{Channel, GREETING, Message};

/// How long to wait for a release. The watchdog continues it in any case.
const RELEASE_WAIT: Duration = Duration::from_secs(30);

/// Applications named by specifications such as `fs:/mnt/data` or `postgresql:dbname=app`;
/// `core/docs/quiesce.md` lists them.
///
/// They are quiesced in the order scripts, databases, guests, file systems; within a kind in the
/// given order. They are released in reverse, at the limit of the request at the latest, whatever
/// happens to this process.
pub struct Applications {
    specs: Vec<String>,
    providers: Vec<Box<dyn Provider>>,
    clock: Arc<dyn Clock>,
    running: Mutex<Option<Running>>,
    last_quiesced: Mutex<Option<Duration>>,
}

impl std::fmt::Debug for Applications {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Applications").field(&self.specs).finish()
    }
}

impl Applications {
    /// Parses specifications, without touching any application. `InvalidInput` identifies a bad
    /// specification.
    pub fn parse<S: AsRef<str>>(specs: impl IntoIterator<Item = S>) -> Result<Self> {
        let mut parsed = Vec::new();
        for spec in specs {
            let text = spec.as_ref();
            parsed.push((provider(text)?, text.to_owned()));
        }
        if parsed.is_empty() || parsed.len() > PROVIDERS_MAX {
            return Err(Error::new(ErrorKind::InvalidInput, "quiesce", "applications")
                .expected(format_args!("1 to {PROVIDERS_MAX} specifications"))
                .found(parsed.len()));
        }
        // The sort is stable: applications of one rank stay in the given order.
        parsed.sort_by_key(|(provider, _)| provider.rank());
        let (providers, specs) = parsed.into_iter().unzip();
        let running = Mutex::new(None);
        let clock = SystemClock::shared();
        Ok(Self { specs, providers, clock, running, last_quiesced: Mutex::new(None) })
    }

    /// Returns the applications of `policy.quiesce`, for
    /// [`ProtectionOptions::applications`](hrl::ProtectionOptions::applications) and similar;
    /// `None` if the policy names none.
    ///
    /// Fails as [`Applications::parse`] does.
    pub fn of_policy(policy: &Policy) -> Result<Option<Arc<dyn Quiesce>>> {
        if policy.quiesce.is_empty() {
            return Ok(None);
        }
        Ok(Some(Arc::new(Self::parse(&policy.quiesce)?)))
    }

    /// Returns the specifications in the order of quiescing.
    pub fn specifications(&self) -> &[String] {
        &self.specs
    }

    /// Returns how long the applications were quiesced last time, from the first to the release of
    /// all. That is the longest interruption their users can have noticed.
    pub fn last_quiesced(&self) -> Option<Duration> {
        *self.last_quiesced.lock()
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock()
    }

    fn start(&self, request: &QuiesceRequest) -> Result<Running> {
        let (child, channel) = spawn(&watchdog_command()?)?;
        let mut running = Running {
            channel,
            begun: 0,
            quiesced: Duration::ZERO,
            volume: request.volume.clone(),
            failure: None,
            _reaper: Reaper(Some(child)),
        };
        let channel = &mut running.channel;
        channel.send(GREETING.0, GREETING.1)?;
        channel.send("volume", &request.volume)?;
        channel.send("label", &request.label)?;
        channel.send("limit", &request.limit.as_millis().to_string())?;
        for spec in &self.specs {
            channel.send("provider", spec)?;
        }
        channel.send("start", "")?;
        Ok(running)
    }

    /// Releases what a killed watchdog had quiesced.
    fn rescue(&self, running: &Running) {
        for provider in self.providers[..running.begun].iter().rev() {
            // The point has failed already, so each provider is tried without a report.
            let _ = provider.rescue(&running.volume);
        }
    }
}

impl Quiesce for Applications {
    fn name(&self) -> String {
        self.providers.iter().map(|provider| provider.name()).collect::<Vec<_>>().join(", ")
    }

    fn quiesce(&self, request: &QuiesceRequest) -> Result<()> {
        if request.limit.is_zero() || request.limit > LIMIT_MAX {
            return Err(Error::new(ErrorKind::InvalidInput, "quiesce", self.name())
                .expected(format_args!("a limit of at most {LIMIT_MAX:?}"))
                .found(format_args!("{:?}", request.limit)));
        }
        let mut slot = self.running();
        if slot.is_some() {
            return Err(Error::new(ErrorKind::Unavailable, "quiesce", self.name())
                .message("they are being quiesced already"));
        }
        let written: Vec<&Path> = request.written.iter().map(AsRef::as_ref).collect();
        self.providers.iter().try_for_each(|provider| provider.check(&written))?;
        let deadline = Deadline::after(self.clock.clone(), request.limit);
        let running = slot.insert(self.start(request)?);
        running.wait_for("ready", &deadline)?;
        let left = deadline.left().as_millis().to_string();
        running.channel.send("quiesce", &left)?;
        running.wait_for("quiesced", &deadline)
    }

    fn still_quiesced(&self) -> Result<()> {
        match &*self.running() {
            Some(running) if running.channel.is_silent() => Ok(()),
            _ => Err(lost().message("its watchdog released it before the mark")),
        }
    }

    fn release(&self) -> Result<()> {
        let Some(mut running) = self.running().take() else { return Ok(()) };
        // If the watchdog is gone, the wait returns the error.
        let _ = running.channel.send("release", "");
        let deadline = Deadline::after(self.clock.clone(), RELEASE_WAIT);
        match running.wait_for("released", &deadline) {
            Ok(()) => {
                *self.last_quiesced.lock() = Some(running.quiesced);
                running.failure.take().map_or(Ok(()), Err)
            }
            Err(error) => {
                if running.is_gone() {
                    self.rescue(&running);
                }
                Err(error)
            }
        }
    }
}

/// A watchdog at work.
struct Running {
    channel: Channel,
    /// Number of providers, from the first, that were quiesced or are being quiesced.
    begun: usize,
    volume: String,
    /// How long the applications were quiesced, once they are released.
    quiesced: Duration,
    /// The first failure that the watchdog reported and no caller has received yet.
    failure: Option<Error>,
    _reaper: Reaper,
}

impl Running {
    /// Waits for a word. Fails at the deadline, if the watchdog is gone, and on a failure reported
    /// before `released`.
    fn wait_for(&mut self, word: &str, deadline: &Deadline) -> Result<()> {
        loop {
            let Some(message) = self.channel.receive(Some(deadline.left()))? else {
                if deadline.is_over() {
                    return Err(lost().message(format_args!("it was not {word} within its limit")));
                }
                continue;
            };
            if message.word == word {
                self.quiesced = Duration::from_micros(message.text.parse().unwrap_or(0));
                return Ok(());
            }
            self.record(message);
            if word != "released"
                && let Some(failure) = self.failure.take()
            {
                return Err(failure);
            }
        }
    }

    fn record(&mut self, message: Message) {
        let failure = match message.word.as_str() {
            "taking" => {
                self.begun = message.text.parse().map_or(self.begun, |number: usize| number + 1);
                return;
            }
            "failed" => {
                let (kind, text) = message.text.split_once(' ').unwrap_or(("", &message.text));
                let known = ErrorKind::ALL.into_iter().find(|known| known.name() == kind);
                Error::new(known.unwrap_or(ErrorKind::Unavailable), "quiesce", "the applications")
                    .message(text)
            }
            "expired" => lost().message(format_args!(
                "the time limit came first and the watchdog released them; the last was {}",
                message.text
            )),
            _ => return,
        };
        self.failure.get_or_insert(failure);
    }

    fn is_gone(&mut self) -> bool {
        self.channel.receive(Some(Duration::ZERO)).is_err()
    }
}

/// Waits for a watchdog's end on a thread, so that no zombie stays.
struct Reaper(Option<Child>);

impl Drop for Reaper {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            // Without a thread the zombie stays until this process ends; it owns nothing.
            let _ = std::thread::Builder::new()
                .name("hrl-reaper".to_owned())
                .spawn(move || child.wait());
        }
    }
}

fn lost() -> Error {
    Error::new(ErrorKind::Unavailable, "quiesce", "the applications")
}

fn spawn(command: &[OsString]) -> Result<(Child, Channel)> {
    let failed = |error| {
        let command = command.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>();
        Error::io("start the watchdog", command.join(" "), error)
    };
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    let (program, arguments) =
        command.split_first().ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))?;
    // Under valgrind a spawn does not report that the program is missing.
    if Path::new(program).is_absolute() {
        std::fs::metadata(program).map_err(failed)?;
    }
    let child = Command::new(program)
        .args(arguments)
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        // The standard error of this process may be a file on a frozen file system.
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    Ok((child, Channel::new(ours)?))
}
