//! A member of a group: stays connected to its coordinator and carries out the steps of a round on
//! its volume.
//!
//! Invariants: a barrier stays up no longer than the coordinator's budget, by this machine's own
//! clock. Writers are held for no more than the member's share of the time. Quiesced applications are released when the round ends, the connection breaks, or the
//! time is over. One thread does all of it, and does nothing that could block while a barrier is
//! up.
//!
//! Behaviour on failure: a lost coordinator ends the round at once. The member then tries its
//! coordinators in turn, with growing pauses, for as long as it lives.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use hrl::sync::lock::{Condvar, Mutex, MutexGuard};
use hrl::{Clock, Error, ErrorKind, PointId, Result};
use hrl_tls::rustls::ClientConfig;

use crate::BUDGET_MAX;
use crate::hold::Hold;
use crate::link::{Link, Wake};
use crate::wire::{Marked, PROTOCOL, RoundNumber, Step, ToCoordinator, ToMember, harmless};

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// A coordinator that sends nothing for this long is gone; it pings every few seconds.
const SILENCE_LIMIT: Duration = Duration::from_secs(15);
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// Longest quiesce that a coordinator may ask for.
const QUIESCE_MAX: Duration = Duration::from_secs(3600);
/// With less time than this no barrier is raised.
const HOLD_MIN: Duration = Duration::from_millis(10);
/// Most coordinators of a member.
const COORDINATORS_MAX: usize = 16;

/// A volume, as a round sees it. Called from one thread.
pub(crate) trait Target: Send + Sync {
    /// Returns the name of the volume.
    fn volume(&self) -> &str;
    /// Returns the clock for the limits.
    fn clock(&self) -> &dyn Clock;
    /// Quiesces the applications and flushes.
    fn quiesce(&self, limit: Duration) -> Result<()>;
    /// Releases the applications. Does nothing if they are not quiesced.
    fn release_applications(&self) -> Result<()>;
    /// Stops admitting writes, for up to `limit`. Never blocks.
    fn raise_barrier(&self, limit: Duration) -> Result<()>;
    /// Places a mark in the write order while the barrier is up. Never blocks.
    fn mark(&self, group: PointId, app: bool, label: &str) -> Result<Marked>;
    /// Lifts the barrier and returns how long it was up; `None` if it was not. Never blocks.
    fn lift_barrier(&self) -> Option<Duration>;
    /// Waits until the mark is durable.
    fn wait_durable(&self, point: PointId) -> Result<()>;
    /// Journals the commitment of a group point.
    fn commit(&self, group: PointId, app: bool, name: &str, members: u16) -> Result<()>;
    /// Reports a failed round or a lost coordinator to the embedder.
    fn failed(&self, message: String);
}

/// Where to join.
pub(crate) struct JoinOptions {
    /// Name of the group.
    pub group: String,
    /// `HOST` or `HOST:PORT` of each coordinator, in the order of trying.
    pub coordinators: Vec<String>,
    /// TLS configuration from the member's bundle.
    pub config: Arc<ClientConfig>,
    /// Greatest share of the time for which writers are held: above 0, up to 1.
    pub hold_share: f64,
}

/// MemberState of a membership, as [`GroupMember::stats`] returns it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupMemberStats {
    /// The member is admitted and connected.
    pub connected: bool,
    /// Rounds that raised the volume's barrier.
    pub rounds: u64,
    /// Group points that were committed.
    pub points: u64,
    /// Longest time that the barrier was up.
    pub held_max: Duration,
    /// Why the member is not connected, or why the last round failed; empty if all is well.
    pub problem: String,
}

/// A volume's membership in a group, connected until it is dropped. Dropping it does not leave the
/// group, which makes no points until the member is back; see [`GroupMember::leave`].
pub struct GroupMember {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

pub(crate) struct Shared {
    state: Mutex<MemberState>,
    changed: Condvar,
    wake: Wake,
    stopping: AtomicBool,
}

#[derive(Default)]
struct MemberState {
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

    /// Returns connection state and counters.
    pub fn stats(&self) -> GroupMemberStats {
        self.shared.lock().stats.clone()
    }

    /// Waits until a coordinator has admitted the member. The `Unavailable` error at the limit says
    /// why none has.
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

    /// Leaves the group, which makes its points without this volume from now on. The handle is then
    /// of no more use. `Unavailable` if no coordinator confirms within `limit`; the group then
    /// still waits for the volume.
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
            // A panicked thread has released everything on its way out.
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

    fn lock(&self) -> MutexGuard<'_, MemberState> {
        self.state.lock()
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    fn update(&self, change: impl FnOnce(&mut GroupMemberStats)) {
        change(&mut self.lock().stats);
        self.changed.notify_all();
    }
}

/// What the member's thread owns.
pub(crate) struct Session {
    shared: Arc<Shared>,
    target: Arc<dyn Target>,
    options: JoinOptions,
    /// The round that has quiesced applications or raised the barrier, and its mark.
    round: Option<(RoundNumber, Option<Marked>)>,
    /// When the barrier is lifted at the latest, by the monotonic clock.
    barrier_ends: Option<Duration>,
    /// When quiesced applications are released at the latest.
    quiesced_until: Option<Duration>,
    hold: Hold,
}

/// Releases everything, even if the thread panics.
impl Drop for Session {
    fn drop(&mut self) {
        self.release_all();
    }
}

impl Session {
    pub(crate) fn new(shared: Arc<Shared>, target: Arc<dyn Target>, options: JoinOptions) -> Self {
        let hold = Hold::new(options.hold_share, target.clock().elapsed());
        Self {
            shared,
            target,
            options,
            round: None,
            barrier_ends: None,
            quiesced_until: None,
            hold,
        }
    }

    fn run(mut self) {
        let mut pause = RETRY_MIN;
        let mut number = 0;
        while !self.shared.is_stopping() {
            let address = &self.options.coordinators[number % self.options.coordinators.len()];
            number += 1;
            let connected = Link::connect(address, &self.options.config, CONNECT_LIMIT);
            let Err(error) = connected.and_then(|link| self.serve(link)) else { return };
            self.release_all();
            let was_connected = self.shared.lock().stats.connected;
            self.shared.update(|stats| {
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

    /// Serves one coordinator until the member stops (`Ok`) or the connection fails.
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
                return Err(Error::new(ErrorKind::Unavailable, "receive from", link.peer())
                    .message(format_args!("it sent nothing for {SILENCE_LIMIT:?}")));
            }
            self.release_expired(now);
            let (connected, leave) = {
                let state = self.shared.lock();
                (state.stats.connected, state.leave)
            };
            if leave && connected && !leaving {
                leaving = true;
                link.send(&ToCoordinator::Leave.encode())?;
            }
            let silence = heard + SILENCE_LIMIT;
            let ends = [self.barrier_ends, self.quiesced_until];
            let until = ends.into_iter().flatten().fold(silence, Duration::min);
            self.shared.wake.wait(None, [&link], until.saturating_sub(now));
            link.pump()?;
            while let Some(frame) = link.take()? {
                heard = self.target.clock().elapsed();
                self.release_expired(heard);
                let message = ToMember::decode(&frame)?;
                if let Some(answer) = self.carry_out(message, &mut budget)? {
                    link.send(&answer.encode())?;
                }
            }
            if self.shared.lock().left {
                return Ok(());
            }
        }
    }

    /// Lifts the barrier when the budget is over, and releases applications when the share of the
    /// time is spent, whatever the coordinator is doing.
    pub(crate) fn release_expired(&mut self, now: Duration) {
        if self.quiesced_until.is_some_and(|end| now >= end) {
            self.release_all();
        }
        if self.barrier_ends.is_some_and(|end| now >= end) {
            self.lift_barrier();
        }
    }

    fn lift_barrier(&mut self) -> Duration {
        self.barrier_ends = None;
        let held = self.target.lift_barrier().unwrap_or_default();
        self.shared.update(|stats| stats.held_max = stats.held_max.max(held));
        if self.quiesced_until.is_none() {
            self.hold.end(self.target.clock().elapsed());
        }
        held
    }

    /// Counts the applications as released.
    fn end_quiesce(&mut self) {
        if self.quiesced_until.take().is_some() {
            self.hold.end(self.target.clock().elapsed());
        }
    }

    /// Returns whether writers are held.
    #[cfg(test)]
    pub(crate) fn is_holding(&self) -> bool {
        self.hold.is_under_way()
    }

    /// Returns how long writers may be held now; an error if the share of the time is spent.
    fn may_hold(&self) -> Step<Duration> {
        let left = self.hold.left(self.target.clock().elapsed());
        if left < HOLD_MIN {
            let percent = self.options.hold_share * 100.0;
            return Err(format!(
                "its writers were held for {percent} % of the time, which is what it permits"
            ));
        }
        Ok(left)
    }

    pub(crate) fn release_all(&mut self) {
        self.lift_barrier();
        self.end_quiesce();
        if self.round.take().is_some()
            && let Err(error) = self.target.release_applications()
        {
            self.target.failed(error.to_string());
        }
    }

    /// Carries out a coordinator's message and returns the answer.
    pub(crate) fn carry_out(
        &mut self,
        message: ToMember,
        budget: &mut Duration,
    ) -> Result<Option<ToCoordinator>> {
        Ok(match message {
            ToMember::Welcome { budget_us } => {
                // The member keeps promise 6 itself, even if the coordinator does not.
                *budget = Duration::from_micros(u64::from(budget_us)).min(BUDGET_MAX);
                self.shared.update(|stats| {
                    stats.connected = true;
                    stats.problem.clear();
                });
                None
            }
            ToMember::Refused { reason } => {
                return Err(Error::new(ErrorKind::Unavailable, "join group", &self.options.group)
                    .message(format_args!("the coordinator refused: {}", harmless(&reason))));
            }
            ToMember::Prepare { round, limit_ms } => {
                self.release_all();
                self.round = Some((round, None));
                let limit = Duration::from_millis(u64::from(limit_ms)).min(QUIESCE_MAX);
                Some(ToCoordinator::Prepared { round, done: self.quiesce(limit) })
            }
            ToMember::RaiseBarrier { round } => {
                if self.round.as_ref().is_none_or(|(number, _)| *number != round) {
                    self.release_all();
                    self.round = Some((round, None));
                }
                let done = self.raise_barrier(*budget);
                self.shared.update(|stats| stats.rounds += 1);
                Some(ToCoordinator::BarrierRaised { round, done })
            }
            ToMember::Mark { round, group, app, label } => {
                Some(self.mark(round, group, app, &label))
            }
            ToMember::LiftBarrier { round } => Some(self.finish(round)),
            ToMember::Commit { round, group, app, name, members } => {
                if let Err(error) = self.target.commit(group, app, &name, members) {
                    // The coordinator repeats it, and other members have the record too.
                    self.target.failed(error.to_string());
                    return Ok(None);
                }
                self.shared.update(|stats| {
                    stats.points += 1;
                    stats.problem.clear();
                });
                Some(ToCoordinator::Committed { round })
            }
            ToMember::Revoke { .. } => {
                self.release_all();
                None
            }
            ToMember::Ping => Some(ToCoordinator::Pong),
            ToMember::Left => {
                self.shared.lock().left = true;
                self.shared.update(|stats| stats.connected = false);
                None
            }
        })
    }

    fn quiesce(&mut self, limit: Duration) -> Step {
        self.may_hold()?;
        step(self.target.quiesce(limit))?;
        let now = self.target.clock().elapsed();
        self.hold.begin(now);
        self.quiesced_until = Some(now + self.hold.left(now));
        Ok(())
    }

    fn raise_barrier(&mut self, budget: Duration) -> Step {
        let limit = budget.min(self.may_hold()?);
        let now = self.target.clock().elapsed();
        // A repeated request is refused while the barrier is up, and does not prolong it.
        step(self.target.raise_barrier(limit))?;
        self.hold.begin(now);
        self.barrier_ends = Some(now + limit);
        Ok(())
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
            _ => Err("it is no longer in this round".to_owned()),
        };
        ToCoordinator::Marked { round, done }
    }

    /// Lifts the barrier, releases the applications, and waits until the mark is durable.
    fn finish(&mut self, round: RoundNumber) -> ToCoordinator {
        let held = self.lift_barrier();
        let marked = self.round.as_ref().filter(|(number, _)| *number == round);
        let marked = marked.and_then(|(_, marked)| *marked);
        self.round = None;
        // If the applications failed to stay quiesced, the round makes no point.
        let released = self.target.release_applications();
        self.end_quiesce();
        let done = match (marked, released) {
            (_, Err(error)) => Err(error.to_string()),
            (Some(marked), Ok(())) => step(self.target.wait_durable(marked.point)),
            (None, Ok(())) => Err("it has no mark of this round".to_owned()),
        };
        let held_us = u32::try_from(held.as_micros()).unwrap_or(u32::MAX);
        if let Err(reason) = &done {
            self.shared.update(|stats| stats.problem.clone_from(reason));
        }
        ToCoordinator::Durable { round, held_us, done }
    }
}

fn step(result: Result<()>) -> Step {
    result.map_err(|error| error.to_string())
}
