//! The life of a protection: first copy, writes, points, closing, shipping, overflow, resync, clean
//! stop, start.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hrl::journal::WrappingKey;
use hrl::replica::At;
use hrl::{Compression, ErrorKind, Extent, Mode, PlacedPoint, PointId, Policy, Sequence};

use crate::image::Image;
use crate::machine::{Agent, Machine, Setup, content};
use crate::sweep::Recording;
use crate::tape::Tape;
use crate::world::Random;

pub const REGION: u64 = 16 << 10;
pub const DISK: u64 = 6 * REGION;

/// Promises at a moment.
#[derive(Clone, Default)]
pub struct Known {
    /// Durable points.
    pub points: Vec<(PointId, u64)>,
    /// The vault's catalog contained everything up to here.
    pub named: u64,
    /// The agent stopped cleanly and was not started again.
    pub clean: bool,
    /// The first start is complete, so the dirty map exists.
    pub started: bool,
    /// Time of the machine.
    pub time: Duration,
}

/// Content of the volume according to its writers.
#[derive(Clone, Default)]
pub struct History {
    states: BTreeMap<u64, Arc<Vec<u8>>>,
    /// Unordered intervals.
    gaps: Vec<(u64, u64)>,
}

impl History {
    pub fn observe(&mut self, sequence: u64, mode: Mode, disk: Vec<u8>) {
        let open = self.gaps.last_mut().filter(|(_, end)| *end == u64::MAX);
        match (mode, open) {
            (Mode::Ordered, Some((_, end))) => *end = sequence,
            (Mode::Ordered, None) => {}
            (_, Some(_)) => return,
            (_, None) => return self.gaps.push((sequence, u64::MAX)),
        }
        self.states.insert(sequence, Arc::new(disk));
    }

    /// A session began after `last`: later sequences are given anew.
    pub fn restarted(&mut self, last: u64) {
        self.states.retain(|sequence, _| *sequence <= last);
        self.gaps.retain(|(begin, _)| *begin <= last);
        if let Some((_, end)) = self.gaps.last_mut().filter(|(_, end)| *end > last) {
            *end = u64::MAX;
        }
    }

    /// Returns what a view at `sequence` shows.
    pub fn state_at(&self, sequence: u64) -> Vec<u8> {
        let state = self.states.range(..=sequence).next_back();
        state.map_or_else(|| vec![0; DISK as usize], |(_, state)| state.to_vec())
    }

    /// Returns whether `sequence` lies strictly within an unordered interval.
    pub fn is_in_gap(&self, sequence: u64) -> bool {
        self.gaps.iter().any(|(begin, end)| *begin < sequence && sequence < *end)
    }
}

/// A life while it is recorded.
pub struct Author {
    pub machine: Machine,
    tape: Arc<Tape>,
    pub history: History,
    known: Vec<(usize, Known)>,
    now: Known,
    placed: Vec<PlacedPoint>,
    random: Random,
}

impl Author {
    pub fn new(setup: Setup) -> Self {
        Self::with_disks(setup, Vec::new())
    }

    /// Starts a life at two sites; the disk of the other one has this content.
    pub fn with_disks(setup: Setup, away: Vec<Vec<u8>>) -> Self {
        let random = Random::new(7);
        let mut disk = vec![0; DISK as usize];
        // Two regions have content before the first copy, the others none.
        disk[..2 * REGION as usize].fill_with(|| random.next() as u8);
        let disks: Vec<_> = std::iter::once(disk).chain(away).collect();
        let (machine, tape) = Machine::taped(&disks, setup);
        Self::begin(machine, tape, History::default(), Known::default(), random)
    }

    /// Continues where a power failure left an image.
    pub fn after(image: &Image, setup: Setup, history: History, known: Known) -> Self {
        let (machine, tape) = Machine::taped_from(image, setup, known.time);
        Self::begin(machine, tape, history, known, Random::new(image.hash()))
    }

    fn begin(
        machine: Machine,
        tape: Arc<Tape>,
        history: History,
        now: Known,
        random: Random,
    ) -> Self {
        let known = vec![(tape.length(), now.clone())];
        Self { machine, tape, history, known, now, placed: Vec::new(), random }
    }

    pub fn start(&mut self) -> Agent {
        self.now.clean = false;
        // A stop is clean until something else happens.
        self.know(self.tape.length() + 1);
        self.placed.clear();
        let agent = self.machine.protect().expect("start");
        self.history.restarted(agent.found_sequence());
        self.now.started = true;
        self.look(&agent);
        agent
    }

    /// Records the current promises.
    fn look(&mut self, agent: &Agent) {
        let stats = agent.stats();
        self.history.observe(stats.last_sequence.0, stats.mode, self.machine.disk.content());
        self.now.named = stats.replicated_sequence.0;
        let waiting = std::mem::take(&mut self.placed);
        for placed in waiting {
            match agent.confirmed(&placed) {
                None => self.placed.push(placed),
                Some((point, Sequence(sequence))) => self.now.points.push((point, sequence)),
            }
        }
        self.know(self.tape.length());
    }

    /// Holds from this operation on.
    fn know(&mut self, at: usize) {
        self.now.time = self.machine.clock().elapsed();
        self.known.push((at, self.now.clone()));
    }

    /// Lets time pass.
    pub fn wait(&mut self, time: Duration) {
        self.machine.world.clock.advance(time);
        self.know(self.tape.length());
    }

    /// Does something else at the machine.
    pub fn does(&mut self, work: impl FnOnce(&Machine)) {
        self.know(self.tape.length());
        work(&self.machine);
        self.know(self.tape.length());
    }

    /// Only these points are promised.
    pub fn keep_points(&mut self, kept: impl Fn(PointId) -> bool) {
        self.known.iter_mut().for_each(|(_, known)| known.points.retain(|(point, _)| kept(*point)));
    }

    pub fn turns(&mut self, agent: &mut Agent, count: usize, held: &[&str]) {
        for _ in 0..count {
            agent.turn(held);
            self.look(agent);
        }
    }

    pub fn settle(&mut self, agent: &mut Agent) {
        for _ in 0..2000 {
            let stats = agent.stats();
            let done =
                stats.mode == Mode::Ordered && stats.replicated_sequence == stats.last_sequence;
            if done && self.placed.is_empty() {
                return;
            }
            self.turns(agent, 1, &[]);
        }
        panic!("it does not settle: {:?}", agent.stats());
    }

    /// Writes sectors of a region.
    pub fn write(&mut self, agent: &mut Agent, region: u64, sector: u64, sectors: u64) {
        let extent = Extent { offset: region * REGION + sector * 512, length: sectors * 512 };
        let data: Vec<u8> = (0..extent.length).map(|_| self.random.next() as u8).collect();
        agent.change(extent, Some(&data));
        self.look(agent);
    }

    pub fn zero(&mut self, agent: &mut Agent, region: u64, sector: u64, sectors: u64) {
        let extent = Extent { offset: region * REGION + sector * 512, length: sectors * 512 };
        agent.change(extent, None);
        self.look(agent);
    }

    pub fn mark(&mut self, agent: &Agent) {
        self.placed.push(agent.place());
        self.look(agent);
    }

    pub fn stop(&mut self, agent: Agent) {
        agent.stop();
        self.now.clean = true;
        self.know(self.tape.length());
    }

    /// Returns the number of operations so far.
    pub fn position(&self) -> usize {
        self.tape.length()
    }

    /// Returns the current promises.
    pub fn promised(&self) -> Known {
        self.now.clone()
    }

    pub fn recorded(mut self, name: &str, disk: Vec<u8>) -> (Recording<Known>, History) {
        let known = std::mem::take(&mut self.known);
        self.recorded_with(name, vec![disk], known)
    }

    /// Returns all operations on disks with this content, and the promises with their times.
    pub fn recorded_with<K>(
        self,
        name: &str,
        disks: Vec<Vec<u8>>,
        known: Vec<(usize, K)>,
    ) -> (Recording<K>, History) {
        let first = known[0].0;
        let (ops, directories) = self.tape.take();
        let name = name.to_owned();
        (Recording { name, ops, directories, disks, first, known }, self.history)
    }
}

pub fn setup(key: bool) -> Setup {
    let policy = Policy {
        region_bytes: REGION,
        memory_budget_bytes: 40 << 10,
        marked_regions_max: 3,
        segment_bytes_max: 12 << 10,
        segment_interval: Duration::from_millis(20),
        frame_bytes: 2 << 10,
        compression: Compression::None,
        spool_bytes_max: 1 << 20,
        crash_point_interval: Duration::ZERO,
        catalog_interval: Duration::ZERO,
        retry_interval_max: Duration::from_millis(200),
        retention: None,
        ..Policy::default()
    };
    Setup { policy, key: key.then(|| WrappingKey::from_bytes([7; 32])) }
}

/// Records a life with everything that a protection does.
pub fn write_life(name: &str, key: bool) -> (Recording<Known>, History) {
    let mut author = Author::new(setup(key));
    let disk = author.machine.disk.content();
    let mut agent = author.start();
    // The first copy, during writes.
    author.turns(&mut agent, 2, &["ship"]);
    author.write(&mut agent, 1, 3, 5);
    author.write(&mut agent, 4, 0, 2);
    author.settle(&mut agent);
    // Writes and points, shipped as they come.
    author.write(&mut agent, 0, 1, 8);
    author.mark(&agent);
    author.write(&mut agent, 2, 30, 4);
    author.settle(&mut agent);
    // A backlog of segments in the spool, published together.
    for round in 0..3 {
        author.write(&mut agent, round, 8 * round, 6);
        author.zero(&mut agent, 1, 2, 3);
        author.mark(&agent);
        author.turns(&mut agent, 6, &["ship"]);
    }
    author.write(&mut agent, 5, 10, 1);
    author.settle(&mut agent);
    // Without writes regions are cleaned.
    author.turns(&mut agent, 2, &[]);
    author.wait(Duration::from_secs(3));
    author.turns(&mut agent, 3, &[]);
    author.wait(Duration::from_secs(3));
    author.turns(&mut agent, 3, &[]);
    // More than the queue can take, while the journal stands still.
    for number in 0..8 {
        author.write(&mut agent, number % 4, number, 14);
    }
    assert_eq!(agent.stats().mode, Mode::Dirty, "it overflows");
    author.turns(&mut agent, 2, &["resync"]);
    author.write(&mut agent, 3, 20, 4);
    author.turns(&mut agent, 3, &[]);
    author.write(&mut agent, 0, 20, 4);
    author.settle(&mut agent);
    author.write(&mut agent, 2, 2, 2);
    author.mark(&agent);
    author.settle(&mut agent);
    author.write(&mut agent, 4, 4, 4);
    author.stop(agent);
    let mut agent = author.start();
    author.write(&mut agent, 4, 6, 4);
    author.mark(&agent);
    author.settle(&mut agent);
    // Killed with an open segment, and with changes outside it.
    author.write(&mut agent, 1, 6, 9);
    author.turns(&mut agent, 1, &[]);
    author.write(&mut agent, 2, 6, 9);
    drop(agent);
    let mut agent = author.start();
    author.turns(&mut agent, 3, &["ship"]);
    author.write(&mut agent, 0, 11, 3);
    author.settle(&mut agent);
    author.write(&mut agent, 5, 11, 9);
    author.mark(&agent);
    author.settle(&mut agent);
    // Killed while the journal cannot follow.
    for number in 0..8 {
        author.write(&mut agent, number % 5, number, 14);
    }
    author.turns(&mut agent, 1, &["resync"]);
    drop(agent);
    let mut agent = author.start();
    author.settle(&mut agent);
    author.write(&mut agent, 3, 1, 1);
    author.mark(&agent);
    author.settle(&mut agent);
    author.write(&mut agent, 1, 6, 1);
    author.recorded(name, disk)
}

/// An agent that was killed with an open segment repairs it and goes on.
pub fn write_repair(name: &str) -> (Recording<Known>, History) {
    let mut author = Author::new(setup(false));
    let disk = author.machine.disk.content();
    let mut agent = author.start();
    author.settle(&mut agent);
    author.write(&mut agent, 2, 3, 9);
    author.turns(&mut agent, 1, &[]);
    drop(agent);
    let mut agent = author.start();
    author.settle(&mut agent);
    author.recorded(name, disk)
}

/// Records what an agent does after a power failure.
pub fn write_recovery(
    name: &str,
    image: &Image,
    setup: Setup,
    history: History,
    known: Known,
) -> (Recording<Known>, History) {
    let mut author = Author::after(image, setup, history, known);
    let disk = author.machine.disk.content();
    let mut agent = author.start();
    author.turns(&mut agent, 1, &["ship"]);
    author.write(&mut agent, 2, 3, 9);
    author.settle(&mut agent);
    author.write(&mut agent, 0, 3, 9);
    author.mark(&agent);
    author.settle(&mut agent);
    author.recorded(name, disk)
}

/// Checks what the power failure left: promises are kept, and source and replica come together
/// again.
pub fn check(image: &Image, known: &Known, history: &History, setup: &Setup) {
    let machine = Machine::found(image, setup.clone(), known.time);
    look_into_vault(&machine, known, history);
    check_agent(&machine, image, known, history);
}

/// Starts the agent again and waits until all comes together.
pub fn check_agent(machine: &Machine, image: &Image, known: &Known, history: &History) {
    let marked = machine.marked();
    let mut agent = machine
        .protect()
        .unwrap_or_else(|error| panic!("promise 4: the agent does not start: {error}"));
    if known.clean {
        assert_eq!(agent.stats().mode, Mode::Ordered, "promise 4: a clean stop needs no resync");
    }
    let last = agent.found_sequence();
    machine.disk.take_reads();
    agent.settle();
    if known.started {
        let marked = marked.expect("promise 4: the dirty map is there");
        for read in machine.disk.take_reads() {
            let mut regions = read.offset / REGION..=(read.end() - 1) / REGION;
            let fine = regions.all(|region| marked[region as usize]);
            assert!(fine, "promise 4: {read:?} was read again, and only {marked:?} are marked");
        }
    }
    look_at_the_end(machine, known, history, last);
    if image.hash().is_multiple_of(4) {
        // It continues.
        agent.change(Extent { offset: 1024, length: 512 }, Some(&[9; 512]));
        let placed = agent.place();
        agent.settle();
        let (point, _) = agent.confirmed(&placed).expect("promise 5: the point is durable");
        let replica = machine.replica().expect("replica");
        assert!(replica.points().iter().any(|found| found.id == point), "promise 5: no {point}");
        same("the newest state", &machine.disk.content(), &newest(machine));
    }
}

/// Checks the vault before the agent starts: what it offers is true, and what it offered is there.
pub fn look_into_vault(machine: &Machine, known: &Known, history: &History) {
    let replica = match machine.replica() {
        Ok(replica) => replica,
        Err(error) if error.kind() == ErrorKind::NotFound && known.named == 0 => return,
        Err(error) => panic!("promise 5: the replica cannot be opened: {error}"),
    };
    let last = replica.catalog().last_sequence().0;
    assert!(last >= known.named, "promise 5: the vault had {}, and has {last}", known.named);
    check_states(&replica, history, last);
    let points: BTreeMap<PointId, u64> =
        replica.points().iter().map(|point| (point.id, point.sequence.0)).collect();
    for (point, sequence) in known.points.iter().filter(|(_, sequence)| *sequence <= known.named) {
        assert_eq!(points.get(point), Some(sequence), "promise 5: a point of the vault is gone");
    }
    let report = replica.verify(&|_, _| true).expect("the store answers");
    assert!(report.findings.is_empty(), "promise 5: {:?}", report.findings);
}

fn look_at_the_end(machine: &Machine, known: &Known, history: &History, last: u64) {
    let replica = machine.replica().expect("it has replicated");
    check_states(&replica, history, last);
    let points: BTreeMap<PointId, u64> =
        replica.points().iter().map(|point| (point.id, point.sequence.0)).collect();
    for (point, sequence) in &known.points {
        assert_eq!(points.get(point), Some(sequence), "promise 5: a durable point is gone");
    }
    same("promise 4: the newest state", &machine.disk.content(), &newest(machine));
    let report = replica.verify(&|_, _| true).expect("the store answers");
    assert!(report.findings.is_empty(), "promise 5: {:?}", report.findings);
    assert_eq!(replica.catalog().epoch().0, 1, "promise 9: the epoch is the same");
}

fn newest(machine: &Machine) -> Vec<u8> {
    let replica = machine.replica().expect("replica");
    content(&replica, &At::Newest).unwrap_or_else(|error| panic!("promise 3: no view: {error}"))
}

/// Checks that every point up to `last`, and some sequences, are prefixes of what was written.
fn check_states(replica: &hrl::replica::Replica, history: &History, last: u64) {
    let points: Vec<u64> = replica.points().iter().map(|point| point.sequence.0).collect();
    for sequence in
        (1..=last).filter(|sequence| points.contains(sequence) || sequence % 7 == last % 7)
    {
        let at = At::Sequence(Sequence(sequence));
        match replica.resolve(&at) {
            Ok(_) => {
                assert!(!history.is_in_gap(sequence), "promise 7: {sequence} is within a gap");
                let found = content(replica, &at)
                    .unwrap_or_else(|error| panic!("promise 3: no view of {sequence}: {error}"));
                same(
                    &format!("promise 3: the view at {sequence}"),
                    &history.state_at(sequence),
                    &found,
                );
            }
            Err(error) => {
                assert!(!points.contains(&sequence), "promise 5: no point at {sequence}: {error}");
                // The crash may have removed the sequence; or it is in the gap that follows, or
                // folded.
                let fine = matches!(error.kind(), ErrorKind::NotOrdered | ErrorKind::NotFound);
                assert!(fine, "promise 3: {sequence}: {error}");
            }
        }
    }
}

pub fn same(what: &str, expected: &[u8], found: &[u8]) {
    let differs = expected.chunks(512).zip(found.chunks(512)).position(|(a, b)| a != b);
    if let Some(sector) = differs.or((expected.len() != found.len()).then_some(usize::MAX)) {
        panic!("{what} is wrong, first in sector {sector}");
    }
}
