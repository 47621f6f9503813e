//! A group without a network: members with real taps, and a round. Tests and fuzz targets carry the
//! frames, lose them, or make up others. Feature `testing`.

use std::sync::{Arc, LazyLock};
use std::task::{Poll, Waker};
use std::time::Duration;

use hrl::capture::{Barrier, Change, RegionRange, Tap};
use hrl::device::Buffer;
use hrl::journal::{Mark, PointKind};
use hrl::sync::lock::Mutex;
use hrl::{
    Clock, Error, ErrorKind, Extent, GroupPoint, ManualClock, PointId, Policy, Result, Sequence,
    Timestamp,
};

use crate::BUDGET_MAX;
use crate::member::{JoinOptions, Session, Shared, Target};
use crate::random;
use crate::round::{Output, Plan, Round};
use crate::wire::{Marked, ToCoordinator, ToMember, take_frame};

const DISK_BYTES: u64 = 1 << 30;

/// Members need a configuration, although they never connect.
static CONFIG: LazyLock<Arc<hrl_tls::rustls::ClientConfig>> = LazyLock::new(|| {
    let provider = Arc::new(hrl_tls::rustls::crypto::ring::default_provider());
    let config = hrl_tls::rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_root_certificates(hrl_tls::rustls::RootCertStore::empty())
        .with_no_client_auth();
    Arc::new(config)
});

/// A volume with a tap and no disk.
pub(crate) struct Volume {
    pub name: String,
    pub tap: Tap,
    pub clock: Arc<ManualClock>,
    barrier: Mutex<Option<Barrier>>,
    /// Injected fault: the barrier does not stop writers.
    admits_always: bool,
}

impl Volume {
    pub(crate) fn new(name: String, clock: &Arc<ManualClock>, admits_always: bool) -> Arc<Self> {
        let policy = Policy::default();
        let tap = Tap::new(DISK_BYTES, Sequence(0), &policy, clock.clone());
        // Every region is set dirty, so that no writer waits for the dirty map.
        tap.set_dirty(&[RegionRange { first: 0, last: DISK_BYTES / policy.region_bytes - 1 }]);
        Arc::new(Self { name, tap, clock: clock.clone(), barrier: Mutex::default(), admits_always })
    }

    /// Returns a member's session for this volume, whose writers may be held all the time: rounds
    /// follow one another faster than any coordinator makes them.
    pub(crate) fn session(self: &Arc<Self>) -> Session {
        self.session_with(1.0)
    }

    /// Returns a session that permits a share of the time.
    pub(crate) fn session_with(self: &Arc<Self>, hold_share: f64) -> Session {
        let config = CONFIG.clone();
        let (group, coordinators) = ("g".into(), Vec::new());
        let options = JoinOptions { group, coordinators, config, hold_share };
        Session::new(Shared::new("g").expect("a descriptor is free"), self.clone(), options)
    }

    fn current_barrier(&self) -> std::sync::MutexGuard<'_, Option<Barrier>> {
        self.barrier.lock()
    }
}

impl Target for Volume {
    fn volume(&self) -> &str {
        &self.name
    }

    fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    fn quiesce(&self, _: Duration) -> Result<()> {
        Ok(())
    }

    fn release_applications(&self) -> Result<()> {
        Ok(())
    }

    fn raise_barrier(&self, limit: Duration) -> Result<()> {
        if !self.admits_always {
            *self.current_barrier() = Some(self.tap.barrier(limit)?);
        }
        Ok(())
    }

    fn mark(&self, group: PointId, _: bool, label: &str) -> Result<Marked> {
        let (kind, label) = (PointKind::GroupCrash, label.to_owned());
        let point = PointId(random(&*self.clock));
        let mark = Mark { point, kind, label, group: Some(group) };
        let (sequence, time) = match *self.current_barrier() {
            Some(barrier) => self.tap.mark_at_barrier(barrier, mark, || Ok(()))?,
            None if self.admits_always => self.tap.mark(mark)?,
            None => return Err(Error::new(ErrorKind::Unavailable, "mark", "volume")),
        };
        Ok(Marked { point, sequence, time })
    }

    fn lift_barrier(&self) -> Option<Duration> {
        let barrier = self.current_barrier().take()?;
        self.tap.release(barrier)
    }

    fn wait_durable(&self, _: PointId) -> Result<()> {
        Ok(())
    }

    fn commit(&self, group: PointId, _: bool, name: &str, _: u16) -> Result<()> {
        let (kind, label) = (PointKind::GroupCrash, name.to_owned());
        self.tap.mark(Mark { point: group, kind, label, group: Some(group) }).map(drop)
    }

    fn failed(&self, _: String) {}
}

/// The part of a message to the coordinator that matters to a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoundAnswer {
    /// The barrier is up.
    BarrierRaised,
    /// The member placed this mark.
    Marked(PointId, Sequence),
    /// The mark is durable.
    Durable,
}

/// Members, numbered from 0, and their round. Frames have no length prefix. Feature `testing`.
pub struct GroupStage {
    clock: Arc<ManualClock>,
    volumes: Vec<Arc<Volume>>,
    members: Vec<(Session, Duration)>,
    budget: Duration,
    round: Option<Round>,
    rounds: u64,
    sent: Vec<(usize, Vec<u8>)>,
    ended: Option<Result<GroupPoint>>,
}

impl GroupStage {
    /// Longest time that a barrier stays up, whatever the member is sent.
    pub const BARRIER_MAX: Duration = BUDGET_MAX;

    /// Starts with members that a coordinator with this budget admitted.
    pub fn new(members: usize, budget: Duration) -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp(1_700_000_000_000_000_000), 1));
        let volumes: Vec<_> =
            (0..members).map(|n| Volume::new(format!("v{n}"), &clock, false)).collect();
        let members = volumes.iter().map(|volume| (volume.session(), budget)).collect();
        let (round, sent, ended) = (None, Vec::new(), None);
        Self { clock, volumes, members, budget, round, rounds: 0, sent, ended }
    }

    /// Begins a round, unless one is under way. Returns its number.
    pub fn begin(&mut self, app: bool) -> u64 {
        if self.round.is_none() {
            self.rounds += 1;
            let random = random(&*self.clock);
            let plan = Plan {
                number: self.rounds,
                id: PointId::of_group(self.clock.now(), random),
                name: "g".into(),
                app,
                label: "stage".into(),
                members: self.volumes.iter().map(|volume| volume.name.clone()).collect(),
                budget: self.budget,
                quiesce_limit: self.budget,
            };
            let (round, outputs) = Round::start(plan, self.clock.elapsed());
            self.round = Some(round);
            self.act(outputs);
        }
        self.rounds
    }

    /// Lets time pass: expired barriers are lifted, and a late round ends.
    pub fn advance(&mut self, by: Duration) {
        self.clock.advance(by);
        let now = self.clock.elapsed();
        self.members.iter_mut().for_each(|(member, _)| member.release_expired(now));
        self.with_round(|round| round.tick(now));
    }

    /// Delivers a frame to a member and returns its answer. An error ends the connection, as
    /// [`GroupStage::lose`] does.
    pub fn deliver_to_member(&mut self, member: usize, frame: &[u8]) -> Result<Option<Vec<u8>>> {
        let now = self.clock.elapsed();
        let (session, budget) = &mut self.members[member];
        session.release_expired(now);
        let answer = ToMember::decode(frame).and_then(|message| session.carry_out(message, budget));
        if answer.is_err() {
            self.lose(member);
        }
        answer.map(|answer| answer.map(|answer| unframed(answer.encode())))
    }

    /// Delivers a frame from a member to the coordinator. An error ends the connection.
    pub fn deliver_to_round(&mut self, member: usize, frame: &[u8]) -> Result<()> {
        let message = ToCoordinator::decode(frame).inspect_err(|_| self.lose(member))?;
        let (now, name) = (self.clock.elapsed(), self.volumes[member].name.clone());
        self.with_round(|round| round.heard(&name, &message, now));
        Ok(())
    }

    /// Ends the connection of a member.
    pub fn lose(&mut self, member: usize) {
        self.members[member].0.release_all();
        let (now, name) = (self.clock.elapsed(), self.volumes[member].name.clone());
        self.with_round(|round| round.lost(&name, now));
    }

    /// Writes to a member's volume at once; `None` while its barrier is up.
    pub fn write(&mut self, member: usize) -> Option<Sequence> {
        let tap = &self.volumes[member].tap;
        let extent = Extent { offset: 0, length: 4096 };
        let Poll::Ready(Ok(ticket)) = tap.begin(extent, Waker::noop()) else { return None };
        let sequence = tap.complete(ticket, Change::Write(Buffer::zeroed(4096)));
        tap.drain(u64::MAX, Duration::ZERO);
        Some(sequence)
    }

    /// Returns what the round sent to members since the last call, in order.
    pub fn take_sent(&mut self) -> Vec<(usize, Vec<u8>)> {
        std::mem::take(&mut self.sent)
    }

    /// Returns how the last round ended, once.
    pub fn take_ended(&mut self) -> Option<Result<GroupPoint>> {
        self.ended.take()
    }

    /// Returns what a successful answer in round `round` confirms.
    pub fn answer(frame: &[u8], round: u64) -> Option<RoundAnswer> {
        match ToCoordinator::decode(frame).ok()? {
            ToCoordinator::BarrierRaised { round: its, done: Ok(()) } if its == round => {
                Some(RoundAnswer::BarrierRaised)
            }
            ToCoordinator::Marked { round: its, done: Ok(marked) } if its == round => {
                Some(RoundAnswer::Marked(marked.point, marked.sequence))
            }
            ToCoordinator::Durable { round: its, done: Ok(()), .. } if its == round => {
                Some(RoundAnswer::Durable)
            }
            _ => None,
        }
    }

    /// Returns the kind of a frame to a member: `barrier`, `mark`, `lift`, `commit` or
    /// `another`.
    pub fn kind(frame: &[u8]) -> &'static str {
        match ToMember::decode(frame) {
            Ok(ToMember::RaiseBarrier { .. }) => "barrier",
            Ok(ToMember::Mark { .. }) => "mark",
            Ok(ToMember::LiftBarrier { .. }) => "lift",
            Ok(ToMember::Commit { .. }) => "commit",
            _ => "another",
        }
    }

    fn with_round(&mut self, change: impl FnOnce(&mut Round) -> Vec<Output>) {
        if let Some(round) = &mut self.round {
            let outputs = change(round);
            self.act(outputs);
        }
    }

    fn act(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Send(name, message) => {
                    let member = self.volumes.iter().position(|volume| volume.name == name);
                    let member = member.expect("a round speaks to its members");
                    self.sent.push((member, unframed(message.encode())));
                }
                Output::Ended(result) => self.ended = Some(result),
            }
        }
        if self.round.as_ref().is_some_and(Round::is_over) {
            self.round = None;
        }
    }
}

/// Decodes a frame to a member, or to a coordinator, and encodes it again. Feature `testing`.
pub fn reprint_group_message(frame: &[u8], to_member: bool) -> Result<Vec<u8>> {
    let encoded = if to_member {
        ToMember::decode(frame)?.encode()
    } else {
        ToCoordinator::decode(frame)?.encode()
    };
    Ok(unframed(encoded))
}

/// Removes the first whole frame from a stream of bytes and returns it, if there is one. Feature
/// `testing`.
pub fn take_group_frame(received: &mut Vec<u8>) -> Result<Option<Vec<u8>>> {
    take_frame(received)
}

fn unframed(mut encoded: Vec<u8>) -> Vec<u8> {
    take_frame(&mut encoded).ok().flatten().expect("what was framed is one frame")
}
