//! Rounds of real taps and members over a simulated network: seeded, deterministic, without
//! threads.
//!
//! Writers make chains of writes across the members; each write begins when the one before was
//! acknowledged. In a committed point no write is present without the one before it, whatever the
//! network and the members do (promises 6 and 7).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use hrl::capture::Change;
use hrl::device::Buffer;
use hrl::{Clock, ErrorKind, Extent, GroupPoint, ManualClock, PointId, Sequence, Timestamp};

use crate::member::Session;
use crate::round::{Output, Plan, Round};
use crate::stage::{GroupStage, Volume};
use crate::wire::{ToCoordinator, ToMember, take_frame};

const MEMBERS: usize = 4;
const WRITERS: usize = 3;
const BUDGET: Duration = Duration::from_millis(50);
const TICK: Duration = Duration::from_micros(250);

/// A small generator, so that a seed gives the same run everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

enum Event {
    ToMember(usize, ToMember),
    ToCoordinator(usize, ToCoordinator),
    Lost(usize),
    /// The device has completed the write of this writer.
    Done(usize),
}

enum Writer {
    /// Wants to write at its next member since this time.
    Wants(Duration),
    Writes(hrl::capture::Ticket),
}

struct Simulation {
    random: Random,
    clock: Arc<ManualClock>,
    volumes: Vec<Arc<Volume>>,
    sessions: Vec<Session>,
    events: BTreeMap<(Duration, u64), Event>,
    number: u64,
    /// When the newest message of each direction arrives; none overtakes it.
    last_arrival: BTreeMap<(bool, usize), Duration>,
    writers: Vec<(Option<Writer>, u64)>,
    /// Of each writer: member and sequence of each of its writes, in the order of its chain.
    chains: Vec<Vec<(usize, Sequence)>>,
    round: Option<Round>,
    rounds: u64,
    points: Vec<GroupPoint>,
    failures: u64,
    blocked_max: Duration,
}

impl Simulation {
    fn new(seed: u64, admits_always: bool) -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp(1_700_000_000_000_000_000), seed));
        let volume = |n: usize| Volume::new(format!("v{n}"), &clock, admits_always);
        let volumes: Vec<_> = (0..MEMBERS).map(volume).collect();
        Self {
            random: Random(seed * 2 + 1),
            sessions: volumes.iter().map(Volume::session).collect(),
            clock,
            volumes,
            events: BTreeMap::new(),
            number: 0,
            last_arrival: BTreeMap::new(),
            writers: (0..WRITERS).map(|_| (Some(Writer::Wants(Duration::ZERO)), 0)).collect(),
            chains: vec![Vec::new(); WRITERS],
            round: None,
            rounds: 0,
            points: Vec::new(),
            failures: 0,
            blocked_max: Duration::ZERO,
        }
    }

    fn now(&self) -> Duration {
        self.clock.elapsed()
    }

    fn later(&mut self, delay: Duration, event: Event) {
        self.number += 1;
        let at = self.now() + delay;
        self.events.insert((at, self.number), event);
    }

    /// Returns a delay: mostly short, sometimes as long as a lost packet or two.
    fn network(&mut self, to_member: bool, member: usize) -> Duration {
        let micros = match self.random.below(50) {
            0 => 200_000,
            1 => 45_000,
            2..5 => 20_000,
            _ => 50 + self.random.below(2_000),
        };
        let now = self.now();
        let last = self.last_arrival.entry((to_member, member)).or_default();
        *last = (now + Duration::from_micros(micros)).max(*last);
        last.saturating_sub(now)
    }

    fn act(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Send(volume, message) => {
                    let member: usize = volume[1..].parse().expect("a member");
                    let delay = self.network(true, member);
                    self.later(delay, Event::ToMember(member, message));
                }
                Output::Ended(result) => {
                    self.round = None;
                    match result {
                        Ok(point) => self.points.push(point),
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                            self.failures += 1;
                        }
                    }
                }
            }
        }
    }

    fn happen(&mut self, event: Event) {
        let now = self.now();
        match event {
            Event::ToMember(member, message) => {
                let mut budget = BUDGET;
                let answer =
                    self.sessions[member].carry_out(message, &mut budget).expect("carried out");
                if let Some(answer) = answer {
                    let delay = self.network(false, member);
                    self.later(delay, Event::ToCoordinator(member, answer));
                }
            }
            Event::ToCoordinator(member, message) => {
                if let Some(mut round) = self.round.take() {
                    let outputs = round.heard(&self.volumes[member].name, &message, now);
                    self.round = Some(round);
                    self.act(outputs);
                }
            }
            Event::Lost(member) => {
                // The member notices the broken connection at once.
                self.sessions[member].release_all();
                if let Some(mut round) = self.round.take() {
                    let outputs = round.lost(&self.volumes[member].name, now);
                    self.round = Some(round);
                    self.act(outputs);
                }
            }
            Event::Done(writer) => {
                let Some(Writer::Writes(ticket)) = self.writers[writer].0.take() else {
                    panic!("it writes")
                };
                let member = self.writers[writer].1 as usize % MEMBERS;
                let data = Buffer::copy_of(&[1; 4096]);
                let sequence = self.volumes[member].tap.complete(ticket, Change::Write(data));
                self.chains[writer].push((member, sequence));
                // Acknowledged: the next write may begin at once at another member.
                self.writers[writer] = (Some(Writer::Wants(now)), self.writers[writer].1 + 1);
            }
        }
    }

    /// Begins the writes that the barriers admit.
    fn write(&mut self) {
        for writer in 0..WRITERS {
            let Some(Writer::Wants(since)) = self.writers[writer].0 else { continue };
            let member = self.writers[writer].1 as usize % MEMBERS;
            let extent = Extent::from_bounds(writer as u64 * 4096, writer as u64 * 4096 + 4096);
            match self.volumes[member].tap.begin(extent, Waker::noop()) {
                Poll::Ready(ticket) => {
                    self.blocked_max = self.blocked_max.max(self.now().saturating_sub(since));
                    self.writers[writer].0 = Some(Writer::Writes(ticket.expect("valid")));
                    let latency = Duration::from_micros(20 + self.random.below(3_000));
                    self.later(latency, Event::Done(writer));
                }
                Poll::Pending => {}
            }
        }
    }

    fn begin_round(&mut self) {
        self.rounds += 1;
        let plan = Plan {
            number: self.rounds,
            id: PointId::of_group(self.clock.now(), [self.rounds as u8; 10]),
            name: "g".into(),
            app: false,
            label: String::new(),
            members: self.volumes.iter().map(|volume| volume.name.clone()).collect(),
            budget: BUDGET,
            quiesce_limit: BUDGET,
        };
        let now = self.now();
        let (round, outputs) = Round::start(plan, now);
        self.round = Some(round);
        if self.random.below(10) == 0 {
            let member = self.random.below(MEMBERS as u64) as usize;
            let delay = Duration::from_micros(self.random.below(10_000));
            self.later(delay, Event::Lost(member));
        }
        self.act(outputs);
    }

    fn run(&mut self, for_time: Duration) {
        while self.now() < for_time {
            let now = self.now();
            for session in &mut self.sessions {
                session.release_expired(now);
            }
            while self.events.first_key_value().is_some_and(|((at, _), _)| *at <= now) {
                let (_, event) = self.events.pop_first().expect("there is one");
                self.happen(event);
                self.write();
            }
            if let Some(mut round) = self.round.take() {
                let outputs = round.tick(now);
                self.round = Some(round).filter(|round| !round.is_over());
                self.act(outputs);
            } else if self.random.below(20) == 0 {
                self.begin_round();
            }
            self.write();
            self.clock.advance(TICK);
            // Queues are emptied; they are not under test.
            for volume in &self.volumes {
                volume.tap.drain(u64::MAX, Duration::ZERO);
            }
        }
    }

    /// Counts effects without their causes in the committed points.
    fn violations(&self) -> usize {
        let mut violations = 0;
        for point in &self.points {
            let cut: BTreeMap<&str, Sequence> =
                point.marks.iter().map(|mark| (mark.volume.as_str(), mark.sequence)).collect();
            for chain in &self.chains {
                let present =
                    chain.iter().map(|(member, s)| *s < cut[self.volumes[*member].name.as_str()]);
                let present: Vec<bool> = present.collect();
                violations += usize::from(!present.is_sorted_by(|a, b| a >= b));
            }
        }
        violations
    }
}

#[test]
fn promise_7_no_group_point_has_an_effect_without_its_cause() {
    let (mut points, mut failures) = (0, 0);
    for seed in 1..=60 {
        let mut simulation = Simulation::new(seed, false);
        simulation.run(Duration::from_secs(4));
        assert_eq!(simulation.violations(), 0, "seed {seed}");
        // Promise 6: the budget, plus the step of the simulation.
        let blocked = simulation.blocked_max;
        assert!(blocked <= BUDGET + 2 * TICK, "seed {seed}: a writer waited {blocked:?}");
        points += simulation.points.len();
        failures += simulation.failures;
    }
    assert!(points > 500 && failures > 1_000, "{points} points, {failures} failed rounds");
}

#[test]
fn without_a_barrier_the_same_test_finds_effects_without_their_causes() {
    let violations: usize = (1..=5)
        .map(|seed| {
            let mut simulation = Simulation::new(seed, true);
            simulation.run(Duration::from_secs(4));
            simulation.violations()
        })
        .sum();
    assert!(violations > 10, "{violations} violations");
}

/// Promise 6: a coordinator that repeats itself does not stop writers for ever.
#[test]
fn promise_6_no_coordinator_stops_writers_longer_than_the_limit() {
    let unframed =
        |message: ToMember| take_frame(&mut message.encode()).expect("whole").expect("one");
    let mut stage = GroupStage::new(1, BUDGET);
    let welcome = unframed(ToMember::Welcome { budget_us: u32::MAX });
    stage.deliver_to_member(0, &welcome).expect("admitted");
    stage.deliver_to_member(0, &unframed(ToMember::RaiseBarrier { round: 1 })).expect("raised");
    for _ in 0..100 {
        assert!(stage.write(0).is_none(), "the barrier is up");
        // A repeated request does not prolong the barrier.
        stage
            .deliver_to_member(0, &unframed(ToMember::RaiseBarrier { round: 1 }))
            .expect("repeated");
        stage.advance(GroupStage::BARRIER_MAX / 100);
    }
    assert!(stage.write(0).is_some(), "longer than the limit");
}

/// Promise 6: a coordinator that makes round after round holds writers for their share of the time.
#[test]
fn promise_6_no_coordinator_holds_writers_above_their_share() {
    let clock = Arc::new(ManualClock::new(Timestamp(0), 1));
    let volume = Volume::new("v".into(), &clock, false);
    let mut session = volume.session_with(0.1);
    let mut budget = Duration::ZERO;
    let welcome = ToMember::Welcome { budget_us: u32::MAX };
    session.carry_out(welcome, &mut budget).expect("admitted");
    let (mut held_ms, mut refusal) = (0, String::new());
    for round in 1..=10_000 {
        let ask = if round % 2 == 0 {
            ToMember::RaiseBarrier { round }
        } else {
            ToMember::Prepare { round, limit_ms: u32::MAX }
        };
        let answer = session.carry_out(ask, &mut budget).expect("carried out");
        match answer.expect("an answer") {
            ToCoordinator::BarrierRaised { done: Err(reason), .. }
            | ToCoordinator::Prepared { done: Err(reason), .. } => refusal = reason,
            _ => {}
        }
        // Now and then the next round comes at once.
        for _ in 0..if round % 10 < 3 { 1 } else { 14 } {
            clock.advance(Duration::from_millis(10));
            held_ms += if session.is_holding() { 10 } else { 0 };
            session.release_expired(clock.elapsed());
        }
    }
    // A tenth of 1,000 s, and the 10 s that were there at the start.
    assert!((80_000..=112_000).contains(&held_ms), "{held_ms} ms of 1000 s");
    assert!(refusal.contains("10 % of the time"), "{refusal}");
}

#[test]
fn the_text_of_a_member_does_not_act_where_it_is_shown() {
    let plan = Plan {
        number: 1,
        id: PointId::of_group(Timestamp(0), [0; 10]),
        name: "g".into(),
        app: false,
        label: String::new(),
        members: vec!["v".into()],
        budget: BUDGET,
        quiesce_limit: BUDGET,
    };
    let (mut round, _) = Round::start(plan, Duration::ZERO);
    let hostile = format!("\u{1b}[2J\nok\u{202e}{}", "x".repeat(4000));
    let answer = ToCoordinator::BarrierRaised { round: 1, done: Err(hostile) };
    let outputs = round.heard("v", &answer, Duration::ZERO);
    let ended = outputs.into_iter().find_map(|output| match output {
        Output::Ended(result) => result.err(),
        Output::Send(..) => None,
    });
    let shown = ended.expect("it failed").to_string();
    assert!(shown.contains("\\u{1b}[2J\\u{a}ok\\u{202e}xxx"), "{shown}");
    assert!(!shown.contains(char::is_control) && shown.len() < 1000, "{} bytes", shown.len());
}

#[test]
fn a_round_without_members_fails() {
    let plan = Plan {
        number: 1,
        id: PointId([1; 16]),
        name: "g".into(),
        app: true,
        label: String::new(),
        members: Vec::new(),
        budget: BUDGET,
        quiesce_limit: BUDGET,
    };
    let (round, outputs) = Round::start(plan, Duration::ZERO);
    assert!(round.is_over());
    assert!(matches!(outputs.as_slice(), [Output::Ended(Err(_))]));
}

#[test]
fn a_group_point_carries_its_time_in_its_identity() {
    let time = Timestamp(1_790_000_000_123_456_789);
    let id = PointId::of_group(time, [0xff; 10]);
    assert_eq!(id.group_time(), Timestamp(1_790_000_000_123_000_000));
    let later = PointId::of_group(Timestamp(time.0 + 5_000_000), [0; 10]);
    assert!(id < later, "they sort by time");
}
