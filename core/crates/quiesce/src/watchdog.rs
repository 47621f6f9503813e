//! The watchdog: the process that quiesces applications for an agent, and releases them whatever
//! happens to the agent.
//!
//! It is started for one point, before anything is quiesced; its standard input is the socket to
//! the agent. It owns what a release needs (the open mount, the database's session, the guest's
//! socket), and so does not depend on the agent.
//!
//! Invariants:
//! - Applications are released once each, in reverse order, at the first of these: the agent's
//!   request, the end of its socket, a lost application, the deadline.
//! - At the deadline `expired` is sent *before* the first release, so that the agent marks no point
//!   afterwards.
//! - A step that ends after the deadline, such as a freeze of a slow disk, is released as soon as
//!   it ends.
//! - A hanging release does not delay the next.
//! - Signals that end a service do not end the watchdog. It ends by itself once everything is
//!   released.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use hrl::sync::lock::{Mutex, MutexGuard};
use hrl::{Clock, Error, ErrorKind, Result, SystemClock};

use crate::kinds::provider;
use crate::provider::{Deadline, Occasion, Provider, Quiesced, Rank, too_late};
use crate::signals::block_endings;
use crate::wire::{Channel, GREETING, Message};

/// How often quiesced applications are checked.
const LOOK: Duration = Duration::from_millis(20);
/// How long a release may delay the next.
const RELEASE_PATIENCE: Duration = Duration::from_secs(1);
/// Longest deadline.
pub(crate) const LIMIT_MAX: Duration = Duration::from_secs(600);
/// Most providers of one watchdog.
pub(crate) const PROVIDERS_MAX: usize = 64;

/// Runs the watchdog in this process, which an agent has started for it. Returns the exit code.
///
/// The program `hrl-watchdog` does only this. An embedder may use its own executable: it calls this
/// function first in `main`, before it has threads, and passes its command to
/// [`set_watchdog`](crate::set_watchdog).
pub fn run_watchdog() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hrl-watchdog: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<()> {
    block_endings();
    // Leaves the agent's session, so that neither its terminal nor a signal to its group reaches
    // this process. A leader of a group cannot leave, but has its own group already.
    let _ = rustix::process::setsid();
    let io = |error| Error::io("open", "the socket to the agent", error);
    let socket = std::io::stdin().as_fd().try_clone_to_owned().map_err(io)?;
    // A working directory on a frozen or unmounted file system would be in the way.
    let _ = std::env::set_current_dir("/");
    let mut channel = Channel::new(UnixStream::from(socket))?;
    let plan = match Plan::read(&mut channel) {
        Ok(plan) => plan,
        Err(error) => {
            let _ = channel.send("failed", &failure(&error));
            return Err(error);
        }
    };
    channel.send("ready", "")?;
    plan.run(channel)
}

/// What the agent asked for.
struct Plan {
    volume: String,
    label: String,
    limit: Duration,
    providers: Vec<Box<dyn Provider>>,
}

impl Plan {
    fn read(channel: &mut Channel) -> Result<Self> {
        let refused = |text: &str| {
            Error::new(ErrorKind::InvalidInput, "follow", "what the agent sent").found(text)
        };
        let mut next = || {
            let message = channel.receive(None)?;
            message.ok_or_else(|| refused("nothing"))
        };
        let greeting = next()?;
        if (greeting.word.as_str(), greeting.text.as_str()) != GREETING {
            return Err(refused(&format!("{} {}", greeting.word, greeting.text))
                .message("agent and watchdog are of different versions")
                .expected(format_args!("{} {}", GREETING.0, GREETING.1)));
        }
        let mut plan = Self {
            volume: String::new(),
            label: String::new(),
            limit: Duration::ZERO,
            providers: Vec::new(),
        };
        loop {
            let Message { word, text } = next()?;
            match word.as_str() {
                "volume" => plan.volume = text,
                "label" => plan.label = text,
                "limit" => {
                    let millis = text.parse().map_err(|_| refused(&text))?;
                    plan.limit = Duration::from_millis(millis).min(LIMIT_MAX);
                }
                "provider" if plan.providers.len() < PROVIDERS_MAX => {
                    plan.providers.push(provider(&text)?);
                }
                "start" => return Ok(plan),
                _ => return Err(refused(&word)),
            }
        }
    }

    /// Waits for `quiesce`, then watches until everything is released.
    fn run(self, mut channel: Channel) -> Result<()> {
        let sender = channel.sender()?;
        match channel.receive(Some(LIMIT_MAX)) {
            Ok(Some(Message { word, .. })) if word == "quiesce" => {}
            // The agent changed its mind or died before anything was quiesced.
            _ => return Ok(()),
        }
        let (happened, happenings) = std::sync::mpsc::channel();
        let clock = SystemClock::shared();
        let quiescer = Quiescer {
            occasion: Occasion {
                volume: self.volume,
                label: self.label,
                deadline: Deadline::after(clock.clone(), self.limit),
                freezes: self.providers.iter().any(|p| p.rank() == Rank::FileSystem),
            },
            progress: Arc::default(),
            clock,
            agent: Arc::new(Mutex::new(sender)),
        };
        let watch = Watch { quiescer: quiescer.clone(), happenings };
        let finished = happened.clone();
        let work = std::thread::spawn(move || {
            let result = quiescer.quiesce_all(&self.providers);
            let _ = finished.send(Happening::Quiesced(result));
        });
        std::thread::spawn(move || listen(channel, &happened));
        let released = watch.run();
        watch.quiescer.report_released(released);
        // A step may hang in the kernel. Its result must be released, so it is waited for.
        let _ = work.join();
        Ok(())
    }
}

enum Happening {
    /// All steps are done, or one failed.
    Quiesced(Result<()>),
    /// The agent wants everything released.
    Release,
    /// The agent is gone.
    Gone,
}

fn listen(mut channel: Channel, happened: &Sender<Happening>) {
    loop {
        let happening = match channel.receive(None) {
            Ok(Some(Message { word, .. })) if word == "release" => Happening::Release,
            Ok(_) => continue,
            Err(_) => Happening::Gone,
        };
        let last = matches!(happening, Happening::Gone);
        if happened.send(happening).is_err() || last {
            return;
        }
    }
}

/// Returns the text of a `failed` message: an error's kind and sentence.
fn failure(error: &Error) -> String {
    format!("{} {error}", error.kind().name())
}

/// The quiesced applications, and whether more may follow.
#[derive(Default)]
struct Progress {
    quiesced: Vec<Box<dyn Quiesced>>,
    over: bool,
    /// When the first application began to be quiesced.
    since: Option<Duration>,
    /// The application at work, for messages.
    current: String,
}

/// Quiesces one application after the other.
#[derive(Clone)]
struct Quiescer {
    occasion: Occasion,
    progress: Arc<Mutex<Progress>>,
    clock: Arc<dyn Clock>,
    agent: Arc<Mutex<Channel>>,
}

impl Quiescer {
    fn quiesce_all(&self, providers: &[Box<dyn Provider>]) -> Result<()> {
        let mut prepared = Vec::new();
        for provider in providers {
            self.may_go_on(&**provider)?;
            prepared.push(provider.prepare(&self.occasion)?);
        }
        for (number, (provider, prepared)) in providers.iter().zip(prepared).enumerate() {
            self.may_go_on(&**provider)?;
            // Sent before the step, so that the agent can release the application if this process
            // is killed during it.
            self.send("taking", &number.to_string());
            self.progress().since.get_or_insert_with(|| self.clock.elapsed());
            let one = prepared.quiesce(&self.occasion)?;
            let mut progress = self.progress();
            if progress.over {
                drop(progress);
                one.release()?;
                return Err(too_late(&provider.name()));
            }
            progress.quiesced.push(one);
        }
        Ok(())
    }

    fn may_go_on(&self, provider: &dyn Provider) -> Result<()> {
        let mut progress = self.progress();
        progress.current = provider.name();
        if progress.over {
            return Err(too_late(&progress.current));
        }
        self.occasion.deadline.check(&progress.current)
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock()
    }

    /// Sends a message to the agent, which may be gone.
    fn send(&self, word: &str, text: &str) {
        let mut agent = self.agent.lock();
        let _ = agent.send(word, text);
    }

    fn fail(&self, error: &Error) {
        self.send("failed", &failure(error));
    }

    fn report_released(&self, released: Result<()>) {
        if let Err(error) = released {
            self.fail(&error);
        }
        let since = self.progress().since;
        let quiesced =
            since.map_or(Duration::ZERO, |since| self.clock.elapsed().saturating_sub(since));
        self.send("released", &quiesced.as_micros().to_string());
    }
}

/// Watches over the quiesced applications.
struct Watch {
    quiescer: Quiescer,
    happenings: Receiver<Happening>,
}

impl Watch {
    /// Runs until everything is released, or left to a thread that hangs.
    fn run(&self) -> Result<()> {
        loop {
            let deadline = &self.quiescer.occasion.deadline;
            match self.happenings.recv_timeout(LOOK.min(deadline.left())) {
                Ok(Happening::Quiesced(Ok(()))) => self.quiescer.send("quiesced", ""),
                Ok(Happening::Quiesced(Err(error))) => {
                    self.quiescer.fail(&error);
                    return self.release();
                }
                Ok(Happening::Release) => {
                    // An application found lost now may have been lost at the mark already.
                    let still = self.still_quiesced();
                    return still.and(self.release());
                }
                Ok(Happening::Gone) => return self.release(),
                Err(RecvTimeoutError::Disconnected) => return self.release(),
                Err(RecvTimeoutError::Timeout) => {
                    if deadline.is_over() {
                        let current = self.quiescer.progress().current.clone();
                        self.quiescer.send("expired", &current);
                        return self.release();
                    }
                    if let Err(error) = self.still_quiesced() {
                        self.quiescer.fail(&error);
                        return self.release();
                    }
                }
            }
        }
    }

    fn still_quiesced(&self) -> Result<()> {
        self.quiescer.progress().quiesced.iter_mut().try_for_each(|one| one.still_quiesced())
    }

    /// Releases last to first; returns the first failure.
    fn release(&self) -> Result<()> {
        let quiesced = {
            let mut progress = self.quiescer.progress();
            progress.over = true;
            std::mem::take(&mut progress.quiesced)
        };
        let mut outcomes = Vec::new();
        for one in quiesced.into_iter().rev() {
            let (done, outcome) = channel();
            std::thread::spawn(move || {
                let _ = done.send(one.release());
            });
            outcomes.push(match outcome.recv_timeout(RELEASE_PATIENCE) {
                Ok(result) => Outcome::Known(result),
                Err(_) => Outcome::Late(outcome),
            });
        }
        outcomes.into_iter().map(Outcome::wait).fold(Ok(()), Result::and)
    }
}

enum Outcome {
    Known(Result<()>),
    Late(Receiver<Result<()>>),
}

impl Outcome {
    fn wait(self) -> Result<()> {
        match self {
            Self::Known(result) => result,
            // The thread sends its result, however late, or has panicked.
            Self::Late(outcome) => outcome.recv().unwrap_or_else(|_| {
                Err(Error::new(ErrorKind::Unavailable, "release", "an application"))
            }),
        }
    }
}
