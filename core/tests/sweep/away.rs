//! A failover to another disk, its commit, the copy behind the reads, and the way home. Covers
//! instant disk, presence log, record of the failover, base, and what the old source's disk follows
//! by.

use std::path::Path;
use std::sync::Arc;

use hrl::device::BlockDevice;
use hrl::failover::{FailoverOptions, Follower, SteppedFailover};
use hrl::replica::At;
use hrl::{ErrorKind, Extent, Mode};

use crate::image::Image;
use crate::life::{self, Author, DISK, History, REGION, same};
use crate::machine::{Agent, Machine, STATE, content};
use crate::sweep::Recording;
use crate::tape::SECTOR;
use crate::world::{Random, World};

const AWAY: &str = "/away/state";

/// Where the volume is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Served away, and can still be given up.
    Served,
    /// Away for good.
    Committed,
    /// The disk at home follows, or the volume comes home.
    Following,
}

/// Promises at a moment.
#[derive(Clone)]
pub struct Known {
    life: life::Known,
    phase: Phase,
    /// Content of the volume at the last flush, and each state since; the last is the current one.
    states: Vec<Arc<Vec<u8>>>,
}

fn options(machine: &Machine) -> hrl::Result<FailoverOptions> {
    let disk: Arc<dyn BlockDevice> = machine.away();
    Ok(FailoverOptions::new("disk", machine.vault()?, AWAY, disk)
        .at(At::Newest)
        .policy(machine.setup.policy.clone())
        .clock(machine.clock())
        .files(machine.files.clone()))
}

fn follow(machine: &Machine) -> hrl::Result<Follower> {
    let (disk, clock) = (machine.disk.clone(), machine.clock());
    let wait = Arc::new(|time| World::current().clock.advance(time));
    let (vault, files) = (machine.vault()?, machine.files.clone());
    Follower::open_stepped("disk", vault, Path::new(STATE), disk, clock, files, wait)
}

fn seen(disk: &dyn BlockDevice) -> Arc<Vec<u8>> {
    let mut bytes = vec![0; disk.size_bytes() as usize];
    disk.read(0, &mut bytes).expect("read");
    Arc::new(bytes)
}

/// The volume away, as its operator writes to it.
struct Writer {
    known: Vec<(usize, Known)>,
    now: Known,
    random: Random,
}

impl Writer {
    fn know(&mut self, author: &Author) {
        self.now.life.time = author.machine.clock().elapsed();
        self.known.push((author.position(), self.now.clone()));
    }

    fn turns(
        &mut self,
        author: &mut Author,
        agent: &mut Agent,
        disk: &dyn BlockDevice,
        count: usize,
    ) {
        for _ in 0..count {
            agent.turn(&[]);
            self.look(author, agent, disk);
        }
    }

    fn look(&mut self, author: &mut Author, agent: &Agent, disk: &dyn BlockDevice) {
        let stats = agent.stats();
        author.history.observe(stats.last_sequence.0, stats.mode, seen(disk).to_vec());
        self.now.life.named = self.now.life.named.max(stats.replicated_sequence.0);
        self.know(author);
    }

    fn write(
        &mut self,
        author: &mut Author,
        agent: &mut Agent,
        disk: &dyn BlockDevice,
        at: (u64, u64, u64),
    ) {
        let (region, sector, sectors) = at;
        let extent = Extent { offset: region * REGION + sector * 512, length: sectors * 512 };
        let data: Vec<u8> = (0..extent.length).map(|_| self.random.next() as u8).collect();
        // Data may be there before its writer gets the answer.
        let mut next = self.now.states.last().expect("a state").to_vec();
        next[extent.offset as usize..extent.end() as usize].copy_from_slice(&data);
        self.now.states.push(Arc::new(next));
        self.know(author);
        agent.change(extent, Some(&data));
        self.look(author, agent, disk);
    }

    fn flush(&mut self, author: &mut Author, agent: &mut Agent) {
        agent.protection.volume().flush().expect("flush");
        self.now.states.drain(..self.now.states.len() - 1);
        self.know(author);
    }
}

/// Away and home again.
pub fn write_away(name: &str) -> (Recording<Known>, History) {
    let mut author = Author::with_disks(life::setup(false), vec![vec![0xa5; DISK as usize]]);
    let disks = vec![author.machine.disk.content(), author.machine.away().content()];
    let mut source = author.start();
    author.settle(&mut source);
    for round in 0..3 {
        author.write(&mut source, round, 5 * round, 7);
        author.mark(&source);
        author.settle(&mut source);
    }
    // What only the source has is no state of the volume any more.
    author.write(&mut source, 4, 1, 3);
    drop(source);
    let life = author.promised();
    author.history.restarted(life.named);
    let first = author.position();
    let states = vec![Arc::new(author.history.state_at(life.named))];
    let now = Known { life, phase: Phase::Served, states };
    let mut writer = Writer { known: Vec::new(), now, random: Random::new(11) };
    writer.know(&author);

    let served = options(&author.machine).and_then(SteppedFailover::start).expect("fail over");
    let SteppedFailover { protection, mut copy, disk, .. } = served;
    let mut agent = Agent::of(protection, author.machine.world.clone());
    same("it is served", &writer.now.states[0], &seen(&*disk));
    writer.write(&mut author, &mut agent, &*disk, (0, 4, 3));
    writer.write(&mut author, &mut agent, &*disk, (3, 9, 4));
    writer.flush(&mut author, &mut agent);
    writer.turns(&mut author, &mut agent, &*disk, 6);
    copy.step();
    writer.know(&author);
    writer.write(&mut author, &mut agent, &*disk, (1, 7, 2));
    writer.turns(&mut author, &mut agent, &*disk, 6);
    writer.now.phase = Phase::Committed;
    // It may be in the vault before its operator gets the answer.
    agent.protection.commit_failover().expect("commit");
    for _ in 0..40 {
        writer.turns(&mut author, &mut agent, &*disk, 1);
    }
    writer.know(&author);
    while copy.step().is_some() {
        writer.know(&author);
    }
    writer.write(&mut author, &mut agent, &*disk, (5, 7, 2));
    writer.turns(&mut author, &mut agent, &*disk, 20);
    agent.stop();
    writer.now.states.drain(..writer.now.states.len() - 1);
    writer.know(&author);
    SteppedFailover::leave_plain(&disk, author.machine.files.clone(), Path::new(AWAY))
        .expect("detach");
    drop((disk, copy));
    writer.know(&author);

    writer.now.phase = Phase::Following;
    writer.know(&author);
    let mut follower = follow(&author.machine).expect("follow");
    follower.catch_up(&At::Newest, &|_, _| true).expect("catch up");
    let policy = author.machine.setup.policy.clone();
    let home = follower.fail_back_stepped(None, policy, hrl::no_events(), &|_, _| true);
    let mut agent = Agent::of(home.expect("fail back").0, author.machine.world.clone());
    let disk = author.machine.disk.clone();
    writer.turns(&mut author, &mut agent, &*disk, 20);
    let (mut recording, history) = author.recorded_with(name, disks, writer.known);
    recording.first = first;
    (recording, history)
}

/// Checks that the operator can repeat the command after any power failure, and that the volume is
/// as before.
pub fn check(image: &Image, known: &Known, history: &History) {
    let machine = Machine::found(image, life::setup(false), known.life.time);
    life::look_into_vault(&machine, &known.life, history);
    if known.phase == Phase::Following {
        return come_home(&machine, known);
    }
    let is_there = |name: &str| machine.files.exists(&Path::new(AWAY).join(name));
    let is_plain =
        known.phase == Phase::Committed && !is_there("presence") && !is_there("failover");
    if is_plain {
        let mut agent =
            machine.protect_with(machine.away(), AWAY).expect("promise 4: the agent away starts");
        check_content(known, &seen(&*machine.away()));
        agent.settle();
    } else {
        let served = options(&machine).and_then(SteppedFailover::start);
        let served = served.unwrap_or_else(|error| panic!("promise 9: it cannot go on: {error}"));
        let SteppedFailover { protection, mut copy, disk, .. } = served;
        let content = seen(&*disk);
        check_content(known, &content);
        let mut agent = Agent::of(protection, machine.world.clone());
        for _ in 0..2000 {
            agent.turn(&[]);
            if copy.step().is_none() {
                break;
            }
        }
        agent.protection.commit_failover().expect("promise 9: it is committed");
        agent.settle();
        same("promise 3: the served disk", &content, &seen(&*disk));
        assert!(disk.hydration().is_whole(), "promise 4: the disk is whole");
        same("promise 3: the disk that is whole", &content, &machine.away().content());
    }
    same("promise 4: the newest state", &machine.away().content(), &newest(&machine));
    let replica = machine.replica().expect("replica");
    assert_eq!(replica.catalog().epoch().0, 2, "promise 9: one epoch later");
    let error = machine.protect().err().expect("promise 9: the old source is fenced");
    assert_eq!(error.kind(), ErrorKind::Fenced, "promise 9: {error}");
}

fn come_home(machine: &Machine, known: &Known) {
    let mut agent = match follow(machine) {
        Ok(mut follower) => {
            follower.catch_up(&At::Newest, &|_, _| true).expect("promise 4: it catches up");
            same("promise 4: the disk at home", &newest(machine), &machine.disk.content());
            let policy = machine.setup.policy.clone();
            let home = follower.fail_back_stepped(None, policy, hrl::no_events(), &|_, _| true);
            let (protection, _) =
                home.unwrap_or_else(|error| panic!("promise 9: it does not come home: {error}"));
            Agent::of(protection, machine.world.clone())
        }
        // It is home already.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => machine
            .protect()
            .unwrap_or_else(|error| panic!("promise 4: it does not start: {error}")),
        Err(error) => panic!("promise 4: the disk does not follow: {error}"),
    };
    agent.settle();
    assert_eq!(agent.stats().mode, Mode::Ordered);
    check_content(known, &machine.disk.content());
    same("promise 4: the newest state", &machine.disk.content(), &newest(machine));
    let replica = machine.replica().expect("replica");
    assert_eq!(replica.catalog().epoch().0, 3, "promise 9: two epochs later");
}

fn newest(machine: &Machine) -> Vec<u8> {
    let replica = machine.replica().expect("replica");
    content(&replica, &At::Newest).unwrap_or_else(|error| panic!("promise 3: no view: {error}"))
}

/// Each sector contains what was flushed, or what was written since.
fn check_content(known: &Known, found: &[u8]) {
    for (number, sector) in found.chunks(SECTOR).enumerate() {
        let at = number * SECTOR;
        let fine = known.states.iter().any(|state| state[at..at + SECTOR] == *sector);
        assert!(
            fine,
            "promise 4: sector {number} has neither what was flushed nor what was written since"
        );
    }
}
