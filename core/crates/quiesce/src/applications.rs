//! Applications that the library knows to quiesce, held by a watchdog process.
//!
//! For each point a watchdog is started, which quiesces and releases; the agent only asks it to. So they are released at the
//! limit also when the agent is killed, hangs or is stopped. Where no watchdog can be started nothing is quiesced. The
//! reverse holds too: where the watchdog is killed, the agent lets go what did not end with it.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use hrl::sync::lock::{Mutex, MutexGuard};
use hrl::{Clock, Error, ErrorKind, Policy, Quiesce, QuiesceRequest, Result, SystemClock};

use crate::locate::watchdog_command;
use crate::provider::{Deadline, Provider};
use crate::spec::provider;
use crate::watchdog::{LIMIT_MAX, PROVIDERS_MAX};
use crate::wire::{Channel, GREETING, Message};

/// How long a release is waited for; the watchdog goes on with it by itself.
const RELEASE_WAIT: Duration = Duration::from_secs(30);

/// Applications named by specifications such as `fs:/mnt/data` or `postgresql:dbname=app`; `core/docs/quiesce.md` lists them.
///
/// They are quiesced in an order that fits: scripts, databases, guests, file systems; those of one kind as given. They are
/// released in reverse, at the limit of the request at the latest, whatever happens to this process.
pub struct Applications {
    specs: Vec<String>,
    providers: Vec<Box<dyn Provider>>,
    clock: Arc<dyn Clock>,
    running: Mutex<Option<Running>>,
    last_held: Mutex<Option<Duration>>,
}

impl std::fmt::Debug for Applications {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Applications").field(&self.specs).finish()
    }
}

impl Applications {
    /// `InvalidInput` names what is wrong with a specification. Nothing is looked at yet.
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
        // Stable: what is of one rank stays in the order in which it was given.
        parsed.sort_by_key(|(provider, _)| provider.rank());
        let (providers, specs) = parsed.into_iter().unzip();
        let running = Mutex::new(None);
        let clock = SystemClock::shared();
        Ok(Self { specs, providers, clock, running, last_held: Mutex::new(None) })
    }

    /// Returns a provider of the applications that `policy.quiesce` names, for
    /// [`ProtectionOptions::applications`](hrl::ProtectionOptions::applications) and its like; `None` if it names none.
    ///
    /// Fails as [`Applications::parse`] does.
    pub fn of_policy(policy: &Policy) -> Result<Option<Arc<dyn Quiesce>>> {
        if policy.quiesce.is_empty() {
            return Ok(None);
        }
        Ok(Some(Arc::new(Self::parse(&policy.quiesce)?)))
    }

    /// The specifications in the order in which they are quiesced.
    pub fn specifications(&self) -> &[String] {
        &self.specs
    }

    /// How long they were held the last time, from taking the first to the release of all: what their users noticed at most.
    pub fn last_held(&self) -> Option<Duration> {
        *self.last_held.lock()
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock()
    }

    fn start(&self, request: &QuiesceRequest) -> Result<Running> {
        let (child, channel) = spawn(&watchdog_command()?)?;
        let mut running = Running {
            channel,
            taking: 0,
            held: Duration::ZERO,
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

    /// Lets go what a watchdog that was killed had taken.
    fn rescue(&self, running: &Running) {
        for provider in self.providers[..running.taking].iter().rev() {
            // Each is tried; that the point failed is told anyway.
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
            _ => Err(lost().message("its watchdog let it go before the mark")),
        }
    }

    fn release(&self) -> Result<()> {
        let Some(mut running) = self.running().take() else { return Ok(()) };
        // Where the watchdog is gone the wait says so.
        let _ = running.channel.send("release", "");
        let deadline = Deadline::after(self.clock.clone(), RELEASE_WAIT);
        match running.wait_for("released", &deadline) {
            Ok(()) => {
                *self.last_held.lock() = Some(running.held);
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
    /// Providers that were taken or are being taken: the first so many.
    taking: usize,
    volume: String,
    /// How long they were held, once they are released.
    held: Duration,
    /// The first failure that it told and nobody was told of yet.
    failure: Option<Error>,
    _reaper: Reaper,
}

impl Running {
    /// Waits for a word. An error for a failure told before `released`, at the deadline, and when it is gone.
    fn wait_for(&mut self, word: &str, deadline: &Deadline) -> Result<()> {
        loop {
            let Some(message) = self.channel.receive(Some(deadline.left()))? else {
                if deadline.is_over() {
                    return Err(lost().message(format_args!("it was not {word} within its limit")));
                }
                continue;
            };
            if message.word == word {
                self.held = Duration::from_micros(message.text.parse().unwrap_or(0));
                return Ok(());
            }
            self.note(message);
            if word != "released"
                && let Some(failure) = self.failure.take()
            {
                return Err(failure);
            }
        }
    }

    fn note(&mut self, message: Message) {
        let failure = match message.word.as_str() {
            "taking" => {
                self.taking = message.text.parse().map_or(self.taking, |number: usize| number + 1);
                return;
            }
            "failed" => {
                let (kind, text) = message.text.split_once(' ').unwrap_or(("", &message.text));
                let known = ErrorKind::ALL.into_iter().find(|known| known.name() == kind);
                Error::new(known.unwrap_or(ErrorKind::Unavailable), "quiesce", "the applications")
                    .message(text)
            }
            "expired" => lost().message(format_args!(
                "the time limit came first and the watchdog let them go; the last was {}",
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

/// Waits for the end of a watchdog, which may be late, so that no zombie stays.
struct Reaper(Option<Child>);

impl Drop for Reaper {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            // Without a thread a zombie stays until this process ends; it holds nothing.
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
    // Where processes are made in emulation (valgrind), a spawn does not tell that there is no program.
    if Path::new(program).is_absolute() {
        std::fs::metadata(program).map_err(failed)?;
    }
    let child = Command::new(program)
        .args(arguments)
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        // Not this process's: it may be a file in what is frozen.
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    Ok((child, Channel::new(ours)?))
}
