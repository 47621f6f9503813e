//! Messages of a consistency group: any bytes (promise 11), and members and a round that receive
//! anything in any order.
//!
//! - Each decoded message is encoded to an equal one.
//! - Promise 6: no barrier is up longer than the budget or, if the budget is forged, than the limit
//!   of all budgets.
//! - Promise 7: nobody marks before all barriers are up, and nothing is committed before every mark
//!   is durable. A point names the marks that members made. Unless a message was forged or came
//!   twice, it has no effect without its cause.
//!
//! An input is one byte (bit 0: steps, bits 1 and 2: the budget), and then a stream of frames, or
//! steps of four bytes.
#![no_main]

use std::collections::VecDeque;
use std::time::Duration;

use hrl::{ErrorKind, GroupPoint, Sequence};
use hrl_group::testing::{GroupStage, RoundAnswer, reprint_group_message, take_group_frame};
use libfuzzer_sys::fuzz_target;

const MEMBERS: usize = 3;
const STEPS_MAX: usize = 300;
const QUEUED_MAX: usize = 16;
/// Longest frame.
const FRAME_BYTES_MAX: usize = 16 << 10;

fuzz_target!(|input: &[u8]| {
    let Some((config, rest)) = input.split_first() else { return };
    if config & 1 == 0 {
        return check_stream(rest);
    }
    let budget = [1, 50, 300, 10_000][usize::from(config >> 1 & 3)];
    let mut model = Model::new(Duration::from_millis(budget));
    for step in rest.chunks_exact(4).take(STEPS_MAX) {
        model.step([step[0], step[1], step[2], step[3]]);
    }
    model.settle();
});

fn check_stream(bytes: &[u8]) {
    let mut received = bytes.to_vec();
    while let Some(frame) = take_group_frame(&mut received).unwrap_or_else(|error| {
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        None
    }) {
        assert!(frame.len() <= FRAME_BYTES_MAX);
        for to_member in [true, false] {
            let Ok(printed) = reprint_group_message(&frame, to_member) else { continue };
            assert!(printed.len() <= frame.len(), "nothing is added");
            let again = reprint_group_message(&printed, to_member).expect("it was written by us");
            assert!(again == printed, "what is written says the same");
        }
    }
}

struct Model {
    stage: GroupStage,
    now: Duration,
    budget: Duration,
    round: u64,
    to_members: [VecDeque<Vec<u8>>; MEMBERS],
    to_round: [VecDeque<Vec<u8>>; MEMBERS],
    /// What each member answered in the round under way.
    said: [Vec<RoundAnswer>; MEMBERS],
    /// When each member's newest barrier was raised.
    held_at: [Option<Duration>; MEMBERS],
    /// Writes, each begun when the one before was acknowledged.
    chain: Vec<(usize, Sequence)>,
    budget_is_forged: bool,
    is_forged: bool,
}

impl Model {
    fn new(budget: Duration) -> Self {
        Self {
            stage: GroupStage::new(MEMBERS, budget),
            now: Duration::ZERO,
            budget,
            round: 0,
            to_members: Default::default(),
            to_round: Default::default(),
            said: Default::default(),
            held_at: [None; MEMBERS],
            chain: Vec::new(),
            budget_is_forged: false,
            is_forged: false,
        }
    }

    fn step(&mut self, [what, who, a, b]: [u8; 4]) {
        let who = usize::from(who) % MEMBERS;
        match what % 12 {
            0 => self.begin(a & 1 == 1),
            1 | 2 => {
                if let Some(frame) = self.to_members[who].pop_front() {
                    self.deliver_to_member(who, &frame);
                }
            }
            3 | 4 => {
                if let Some(frame) = self.to_round[who].pop_front() {
                    self.deliver_to_round(who, &frame);
                }
            }
            5 => self.advance(self.budget * u32::from(a) / 64),
            6 | 7 => self.write(who),
            8 => self.lose(who),
            9 => {
                let queues = [&mut self.to_members[who], &mut self.to_round[who]];
                let queue = &mut *queues[usize::from(a & 1)];
                if let Some(frame) = queue.front().cloned() {
                    queue.push_back(frame);
                    self.is_forged = true;
                }
            }
            10 => {
                self.is_forged = true;
                self.budget_is_forged |= a % 10 == 0;
                self.deliver_to_member(who, &forged_to_member(a, self.number(b), b));
            }
            _ => {
                self.is_forged = true;
                self.deliver_to_round(who, &forged_to_round(a, self.number(b), b));
            }
        }
        self.check_barriers();
    }

    /// Returns mostly the round under way.
    fn number(&self, b: u8) -> u64 {
        if b & 0xc0 == 0xc0 { u64::from(b & 3) } else { self.round }
    }

    fn begin(&mut self, app: bool) {
        let number = self.stage.begin(app);
        if number != self.round {
            self.round = number;
            self.said = Default::default();
        }
        self.carry();
    }

    /// Queues what the round sends, and checks how it ends.
    fn carry(&mut self) {
        for (member, frame) in self.stage.take_sent() {
            let wanted = |wanted: fn(&RoundAnswer) -> bool| {
                let all = self.said.iter().all(|said| said.iter().any(wanted));
                assert!(all, "{} before all were ready", GroupStage::kind(&frame));
            };
            match GroupStage::kind(&frame) {
                "mark" => wanted(|said| *said == RoundAnswer::BarrierRaised),
                "lift" => wanted(|said| matches!(said, RoundAnswer::Marked(..))),
                "commit" => wanted(|said| *said == RoundAnswer::Durable),
                _ => {}
            }
            if self.to_members[member].len() < QUEUED_MAX {
                self.to_members[member].push_back(frame);
            } else {
                self.is_forged = true;
            }
        }
        match self.stage.take_ended() {
            Some(Ok(point)) => self.check_point(&point),
            Some(Err(error)) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
            None => {}
        }
    }

    fn check_point(&self, point: &GroupPoint) {
        assert!(point.is_complete() && point.marks.len() == MEMBERS, "a mark of each");
        for (member, said) in self.said.iter().enumerate() {
            let mark = point.marks.iter().find(|mark| mark.volume == format!("v{member}"));
            let mark = mark.expect("a mark of each");
            let made = RoundAnswer::Marked(mark.point, mark.sequence);
            assert!(said.contains(&made), "a mark that nobody made");
        }
        if !self.is_forged {
            let cut = |member: usize| {
                let name = format!("v{member}");
                point.marks.iter().find(|mark| mark.volume == name).expect("found before").sequence
            };
            let present: Vec<_> = self.chain.iter().map(|(who, s)| *s < cut(*who)).collect();
            assert!(present.is_sorted_by(|a, b| a >= b), "an effect without its cause");
        }
    }

    fn deliver_to_member(&mut self, who: usize, frame: &[u8]) {
        match self.stage.deliver_to_member(who, frame) {
            Ok(Some(answer)) => {
                if let Some(RoundAnswer::BarrierRaised) = said_of_any_round(&answer) {
                    self.held_at[who] = Some(self.now);
                }
                if self.to_round[who].len() < QUEUED_MAX {
                    self.to_round[who].push_back(answer);
                }
            }
            Ok(None) => {}
            Err(_) => self.lose(who),
        }
        self.carry();
    }

    fn deliver_to_round(&mut self, who: usize, frame: &[u8]) {
        self.said[who].extend(GroupStage::answer(frame, self.round));
        if self.stage.deliver_to_round(who, frame).is_err() {
            self.lose(who);
        }
        self.carry();
    }

    fn lose(&mut self, who: usize) {
        self.stage.lose(who);
        self.to_members[who].clear();
        self.to_round[who].clear();
        self.carry();
    }

    fn advance(&mut self, by: Duration) {
        self.now += by;
        self.stage.advance(by);
        self.carry();
    }

    fn write(&mut self, who: usize) {
        if let Some(sequence) = self.stage.write(who) {
            self.chain.push((who, sequence));
        }
    }

    fn check_barriers(&mut self) {
        let limit = if self.budget_is_forged { GroupStage::BARRIER_MAX } else { self.budget };
        for who in 0..MEMBERS {
            if self.held_at[who].take_if(|at| self.now >= *at + limit).is_some() {
                let sequence = self.stage.write(who).expect("its barrier is down");
                self.chain.push((who, sequence));
            }
        }
    }

    /// Checks that a round that nothing disturbs makes a point, whatever happened before.
    fn settle(&mut self) {
        for who in 0..MEMBERS {
            self.lose(who);
        }
        self.advance(Duration::from_secs(60));
        self.check_barriers();
        let before = self.round;
        self.begin(false);
        assert_eq!(self.round, before + 1, "the rounds before are over");
        let mut commits = 0;
        while let Some(who) = (0..MEMBERS).find(|who| !self.to_members[*who].is_empty()) {
            let frame = self.to_members[who].pop_front().expect("there is one");
            commits += usize::from(GroupStage::kind(&frame) == "commit");
            self.deliver_to_member(who, &frame);
            while let Some(frame) = self.to_round[who].pop_front() {
                self.deliver_to_round(who, &frame);
            }
        }
        assert!(
            self.budget_is_forged || commits == MEMBERS,
            "{commits} members heard of the point"
        );
    }
}

fn said_of_any_round(frame: &[u8]) -> Option<RoundAnswer> {
    let number = frame.get(1..9)?;
    GroupStage::answer(frame, u64::from_le_bytes(number.try_into().expect("8 bytes")))
}

fn forged_to_member(code: u8, round: u64, value: u8) -> Vec<u8> {
    let (round, group) = (round.to_le_bytes(), [value; 16]);
    let code = code % 10;
    let parts: &[&[u8]] = match code {
        // A budget of up to 71 minutes.
        0 => &[&u32::from(value).wrapping_mul(0x0101_0101).to_le_bytes()],
        1 => &[&[0, 0]],
        2 => &[&round, &[value, 0, 0, 0]],
        4 => &[&round, &group, &[value & 1, 0, 0]],
        6 => &[&round, &group, &[value & 1, 1, 0, b'g', 3, 0]],
        8 | 9 => &[],
        _ => &[&round],
    };
    [&[code + 1], parts.concat().as_slice()].concat()
}

fn forged_to_round(code: u8, round: u64, value: u8) -> Vec<u8> {
    let (round, point) = (round.to_le_bytes(), [value; 16]);
    let good = value & 1;
    let code = code % 7;
    let parts: &[&[u8]] = match code {
        2 if good == 1 => &[&round, &[1], &point, &[value, 0, 0, 0, 0, 0, 0, 0], &[0; 8]],
        0..=2 => &[&round, &[good, 0, 0]],
        3 => &[&round, &[value; 4], &[good, 0, 0]],
        4 => &[&round],
        _ => &[],
    };
    [&[code + 2], parts.concat().as_slice()].concat()
}
