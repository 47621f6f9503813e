//! A member of a group: stays connected to its coordinator and does what a round asks of its volume.
//!
//! Invariants: writers are held no longer than the budget that the coordinator named, by this machine's own clock; whatever was
//! quiesced is released when the round ends, the connection breaks, or the time is over. One thread does all of it, and while
//! writers are held it does nothing that could block.
//!
//! Behaviour on failure: a lost coordinator ends the round at once, and the next of the coordinators is tried with growing
//! pauses, for as long as the member lives.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use hrl::sync::lock::{Condvar, Mutex, MutexGuard};
use hrl::{Clock, Error, ErrorKind, PointId, Result};
use hrl_tls::rustls::ClientConfig;

use crate::BUDGET_MAX;
use crate::link::{Link, Wake};
use crate::wire::{Marked, PROTOCOL, RoundNumber, Step, ToCoordinator, ToMember};

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// A coordinator from which nothing comes for this long is gone; it asks every few seconds whether we are there.
const SILENCE_LIMIT: Duration = Duration::from_secs(15);
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// Most coordinators that a member knows.
const COORDINATORS_MAX: usize = 16;

/// What a round does to a volume. Called from one thread.
pub(crate) trait Target: Send + Sync {
    /// Name of the volume.
    fn volume(&self) -> &str;
    /// Time, for the limits.
    fn clock(&self) -> &dyn Clock;
    /// Quiesces the applications and flushes.
    fn quiesce(&self, limit: Duration) -> Result<()>;
    /// Lets the applications go; fine when they are not quiesced.
    fn unquiesce(&self) -> Result<()>;
    /// Holds the writers for up to `limit`. Never blocks.
    fn hold(&self, limit: Duration) -> Result<()>;
    /// Puts a mark into the write order under the hold. Never blocks.
    fn mark(&self, group: PointId, app: bool, label: &str) -> Result<Marked>;
    /// Lets the writers go; how long they were held, `None` when they were not. Never blocks.
    fn release(&self) -> Option<Duration>;
    /// Waits until the mark is durable.
    fn wait_durable(&self, point: PointId) -> Result<()>;
    /// Journals the commitment of a group point.
    fn commit(&self, group: PointId, app: bool, name: &str, members: u16) -> Result<()>;
    /// Tells the embedder that a round failed, or that the coordinator is lost.
    fn failed(&self, message: String);
}

/// How to join.
pub(crate) struct JoinOptions {
    /// Name of the group.
    pub group: String,
    /// `HOST:PORT`, tried in this order.
    pub coordinators: Vec<String>,
    /// TLS, from the member's bundle.
    pub config: Arc<ClientConfig>,
}

/// How a member is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupMemberStats {
    /// A coordinator has it as a member now.
    pub connected: bool,
    /// Rounds that held its writers.
    pub rounds: u64,
    /// Group points that were committed.
    pub points: u64,
    /// Longest hold of its writers.
    pub held_max: Duration,
    /// Why it is not connected, or why the last round failed; empty when all is well.
    pub problem: String,
}

/// A volume's membership in a group, until it is dropped. Being dropped does not leave the group: its points wait for the
/// member to come back, see [`GroupMember::leave`].
pub struct GroupMember {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

pub(crate) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    wake: Wake,
    stopping: AtomicBool,
}

#[derive(Default)]
struct State {
    stats: GroupMemberStats,
    leave: bool,
    left: bool,
}

impl GroupMember {
    pub(crate) fn start(target: Arc<dyn Target>, options: JoinOptions) -> Result<Self> {
        if options.coordinators.is_empty() || options.coordinators.len() > COORDINATORS_MAX {
            return Err(Error::new(ErrorKind::InvalidInput, "join group", &options.group)
                .expected(format_args!("1 to {COORDINATORS_MAX} coordinators"))
                .found(options.coordinators.len()));
        }
        let shared = Shared::new(&options.group)?;
        let session = Session::new(shared.clone(), target, options);
        let thread = std::thread::Builder::new()
            .name("hrl-group".into())
            .spawn(move || session.run())
            .map_err(|error| Error::io("join group", "thread", error))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// How it is doing.
    pub fn stats(&self) -> GroupMemberStats {
        self.shared.lock().stats.clone()
    }

    /// Waits until a coordinator has taken the member in. `Unavailable` at the limit, with what is in the way.
    pub fn wait_connected(&self, limit: Duration) -> Result<()> {
        let waited = self
            .shared
            .changed
            .wait_timeout_while(self.shared.lock(), limit, |state| !state.stats.connected);
        let state = waited.0;
        if state.stats.connected {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unavailable, "join", "group").message(&state.stats.problem))
    }

    /// Leaves the group: its points are made without this volume from now on, and the handle is of no more use.
    /// `Unavailable` when no coordinator confirms it within `limit`; then the group still waits for the volume.
    pub fn leave(&self, limit: Duration) -> Result<()> {
        self.shared.lock().leave = true;
        self.shared.wake.wake();
        let waited =
            self.shared.changed.wait_timeout_while(self.shared.lock(), limit, |state| !state.left);
        if waited.0.left {
            return Ok(());
        }
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.wake.wake();
        Err(Error::new(ErrorKind::Unavailable, "leave", "group")
            .message("no coordinator confirmed it; the group still waits for this volume"))
    }

    fn end(&mut self) {
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.wake.wake();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has let go on its way out.
            let _ = thread.join();
        }
    }
}

impl Drop for GroupMember {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    pub(crate) fn new(group: &str) -> Result<Arc<Self>> {
        Ok(Arc::new(Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            wake: Wake::new().map_err(|error| Error::io("join group", group, error))?,
            stopping: AtomicBool::new(false),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    fn note(&self, change: impl FnOnce(&mut GroupMemberStats)) {
        change(&mut self.lock().stats);
        self.changed.notify_all();
    }
}

/// What the thread owns.
pub(crate) struct Session {
    shared: Arc<Shared>,
    target: Arc<dyn Target>,
    options: JoinOptions,
    /// The round that has quiesced or held something, and what it marked.
    round: Option<(RoundNumber, Option<Marked>)>,
    /// When the writers go, by the monotonic clock.
    hold_ends: Option<Duration>,
}

/// Lets everything go, also when the thread panics.
impl Drop for Session {
    fn drop(&mut self) {
        self.let_go();
    }
}

impl Session {
    pub(crate) fn new(shared: Arc<Shared>, target: Arc<dyn Target>, options: JoinOptions) -> Self {
        Self { shared, target, options, round: None, hold_ends: None }
    }

    fn run(mut self) {
        let mut pause = RETRY_MIN;
        let mut number = 0;
        while !self.shared.is_stopping() {
            let address = &self.options.coordinators[number % self.options.coordinators.len()];
            number += 1;
            let connected = Link::connect(address, &self.options.config, CONNECT_LIMIT);
            let Err(error) = connected.and_then(|link| self.serve(link)) else { return };
            self.let_go();
            let was_connected = self.shared.lock().stats.connected;
            self.shared.note(|stats| {
                stats.connected = false;
                stats.problem = error.to_string();
            });
            if was_connected {
                self.target.failed(error.to_string());
                pause = RETRY_MIN;
            }
            if number % self.options.coordinators.len() == 0 {
                self.shared.wake.wait(None, [], pause);
                pause = (pause * 2).min(RETRY_MAX);
            }
        }
    }

    /// Speaks with one coordinator until the member stops (`Ok`) or the connection is of no more use.
    fn serve(&mut self, mut link: Link) -> Result<()> {
        let hello = ToCoordinator::Hello {
            protocol: PROTOCOL,
            group: self.options.group.clone(),
            volume: self.target.volume().to_owned(),
        };
        link.send(&hello.encode())?;
        let mut budget = Duration::ZERO;
        let mut heard = self.target.clock().elapsed();
        let mut leaving = false;
        loop {
            if self.shared.is_stopping() {
                return Ok(());
            }
            let now = self.target.clock().elapsed();
            if now.saturating_sub(heard) >= SILENCE_LIMIT {
                return Err(Error::new(ErrorKind::Unavailable, "hear from", link.peer())
                    .message(format_args!("nothing came for {SILENCE_LIMIT:?}")));
            }
            self.end_hold_in_time(now);
            let (connected, leave) = {
                let state = self.shared.lock();
                (state.stats.connected, state.leave)
            };
            if leave && connected && !leaving {
                leaving = true;
                link.send(&ToCoordinator::Leave.encode())?;
            }
            let silence = heard + SILENCE_LIMIT;
            let until = self.hold_ends.map_or(silence, |end| end.min(silence));
            self.shared.wake.wait(None, [&link], until.saturating_sub(now));
            link.pump()?;
            while let Some(frame) = link.take()? {
                heard = self.target.clock().elapsed();
                self.end_hold_in_time(heard);
                let message = ToMember::decode(&frame)?;
                if let Some(answer) = self.obey(message, &mut budget)? {
                    link.send(&answer.encode())?;
                }
            }
            if self.shared.lock().left {
                return Ok(());
            }
        }
    }

    /// The dead-man's switch: the budget is over, whatever the coordinator is doing.
    pub(crate) fn end_hold_in_time(&mut self, now: Duration) {
        if self.hold_ends.is_some_and(|end| now >= end) {
            self.release();
        }
    }

    fn release(&mut self) -> Duration {
        self.hold_ends = None;
        let held = self.target.release().unwrap_or_default();
        self.shared.note(|stats| stats.held_max = stats.held_max.max(held));
        held
    }

    pub(crate) fn let_go(&mut self) {
        self.release();
        if self.round.take().is_some()
            && let Err(error) = self.target.unquiesce()
        {
            self.target.failed(error.to_string());
        }
    }

    /// Does what the coordinator says; what to answer.
    pub(crate) fn obey(
        &mut self,
        message: ToMember,
        budget: &mut Duration,
    ) -> Result<Option<ToCoordinator>> {
        Ok(match message {
            ToMember::Welcome { budget_us } => {
                // Promise 6 is the member's own, and needs no coordinator that keeps to it.
                *budget = Duration::from_micros(u64::from(budget_us)).min(BUDGET_MAX);
                self.shared.note(|stats| {
                    stats.connected = true;
                    stats.problem.clear();
                });
                None
            }
            ToMember::Refused { reason } => {
                return Err(Error::new(ErrorKind::Unavailable, "join group", &self.options.group)
                    .message(format_args!("the coordinator refused: {reason}")));
            }
            ToMember::Prepare { round, limit_ms } => {
                self.let_go();
                self.round = Some((round, None));
                let limit = Duration::from_millis(u64::from(limit_ms));
                Some(ToCoordinator::Prepared { round, done: step(self.target.quiesce(limit)) })
            }
            ToMember::Hold { round } => {
                if self.round.as_ref().is_none_or(|(number, _)| *number != round) {
                    self.let_go();
                    self.round = Some((round, None));
                }
                let done = step(self.target.hold(*budget));
                // Said again while a hold is in force it is refused, and that one ends as it was to.
                if done.is_ok() {
                    self.hold_ends = Some(self.target.clock().elapsed() + *budget);
                }
                self.shared.note(|stats| stats.rounds += 1);
                Some(ToCoordinator::Held { round, done })
            }
            ToMember::Mark { round, group, app, label } => {
                Some(self.mark(round, group, app, &label))
            }
            ToMember::Release { round } => Some(self.finish(round)),
            ToMember::Commit { round, group, app, name, members } => {
                if let Err(error) = self.target.commit(group, app, &name, members) {
                    // Other members have it too, and the coordinator says it again.
                    self.target.failed(error.to_string());
                    return Ok(None);
                }
                self.shared.note(|stats| {
                    stats.points += 1;
                    stats.problem.clear();
                });
                Some(ToCoordinator::Committed { round })
            }
            ToMember::Revoke { .. } => {
                self.let_go();
                None
            }
            ToMember::Ping => Some(ToCoordinator::Pong),
            ToMember::Left => {
                self.shared.lock().left = true;
                self.shared.note(|stats| stats.connected = false);
                None
            }
        })
    }

    fn mark(
        &mut self,
        round: RoundNumber,
        group: PointId,
        app: bool,
        label: &str,
    ) -> ToCoordinator {
        let done = match &mut self.round {
            Some((number, marked)) if *number == round => {
                let done = self.target.mark(group, app, label).map_err(|e| e.to_string());
                *marked = done.clone().ok();
                done
            }
            _ => Err("it is not in this round any more".to_owned()),
        };
        ToCoordinator::Marked { round, done }
    }

    /// Lets everything go, and waits for the mark to be durable.
    fn finish(&mut self, round: RoundNumber) -> ToCoordinator {
        let held = self.release();
        let marked = self.round.as_ref().filter(|(number, _)| *number == round);
        let marked = marked.and_then(|(_, marked)| *marked);
        self.round = None;
        // What went on before it was let go makes no point.
        let let_go = self.target.unquiesce();
        let done = match (marked, let_go) {
            (_, Err(error)) => Err(error.to_string()),
            (Some(marked), Ok(())) => step(self.target.wait_durable(marked.point)),
            (None, Ok(())) => Err("it has no mark of this round".to_owned()),
        };
        let held_us = u32::try_from(held.as_micros()).unwrap_or(u32::MAX);
        if let Err(reason) = &done {
            self.shared.note(|stats| stats.problem.clone_from(reason));
        }
        ToCoordinator::Sealed { round, held_us, done }
    }
}

fn step(result: Result<()>) -> Step {
    result.map_err(|error| error.to_string())
}
