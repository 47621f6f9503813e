//! Gaps begin with the first change that was lost, whenever their record can be written. Until
//! their resync is in the vault, the RPO counts from that change.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use hrl::journal::{PointKind, SegmentKind};
use hrl::replica::At;
use hrl::{
    Cause, Clock, ErrorKind, Event, Extent, Mode, Policy, Sequence, SteppedProtection, Timestamp,
};

use crate::found::{Agent, BLOCK, Machine, REGION, policy};

type Events = Arc<Mutex<Vec<String>>>;

/// Starts an agent that reports to a list.
fn start(machine: &Machine, policy: Policy) -> (Agent, Events) {
    let events = Events::default();
    let seen = events.clone();
    let sink = move |event: &Event| seen.lock().expect("one thread").push(event.to_string());
    let agent = machine.open_reporting(policy, false, Arc::new(sink)).expect("open");
    (agent, events)
}

fn count(events: &Events, kind: &str) -> usize {
    let events = events.lock().expect("one thread");
    events.iter().filter(|event| event.contains(&format!(": {kind}"))).count()
}

fn now(machine: &Machine) -> Timestamp {
    machine.world.clock.advance(Duration::from_nanos(1));
    machine.world.clock.now()
}

/// Steps the tasks for some time, all but `without`.
fn run_for(agent: &mut Agent, time: Duration, without: &str) {
    let end = agent.world.clock.elapsed() + time;
    while agent.world.clock.elapsed() < end {
        for task in agent.tasks.iter_mut().filter(|task| task.name() != without) {
            task.step();
        }
        agent.world.clock.advance(Duration::from_millis(5));
    }
}

fn last(protection: &SteppedProtection) -> Sequence {
    protection.stats().last_sequence
}

/// Checks what can be restored: the state at `durable` for the time `before`, and none for those
/// inside of the gap.
fn check_gap(
    machine: &Machine,
    cause: Cause,
    before: Timestamp,
    durable: Sequence,
    inside: &[Timestamp],
) {
    let replica = machine.replica();
    assert_eq!(replica.resolve(&At::Time(before)).expect("before the gap"), durable);
    for time in inside {
        let error = replica.resolve(&At::Time(*time)).expect_err("the disk had something else");
        assert_eq!(error.kind(), ErrorKind::NotOrdered, "{error}");
    }
    let timeline = replica.timeline();
    let at = timeline.iter().position(|entry| entry.unordered == Some(cause)).expect("a gap");
    let (ordered, gap) = (&timeline[at - 1], &timeline[at]);
    assert_eq!((ordered.unordered, ordered.to, gap.from), (None, durable, durable.next()));
    assert!(before < gap.from_time && gap.from_time <= inside[0], "{gap:?}");
    assert!(inside.iter().all(|time| *time < gap.to_time), "{gap:?}");
}

/// Leaves an agent whose disk for the spool has been full for 20 s. Returns the time and sequence
/// before, and times inside.
fn with_a_full_disk(machine: &Machine, agent: &mut Agent) -> (Timestamp, Sequence, Vec<Timestamp>) {
    agent.settle();
    agent.write(BLOCK, 65);
    agent.settle();
    let (before, durable) = (now(machine), last(&agent.protection));
    machine.world.clock.advance(Duration::from_secs(1));
    machine.files.set_room(machine.files.bytes());
    let mut inside = Vec::new();
    for byte in 66..76 {
        agent.write(BLOCK, byte);
        inside.push(now(machine));
        run_for(agent, Duration::from_secs(2), "");
    }
    (before, durable, inside)
}

#[test]
fn promise_7_a_full_disk_under_the_spool_is_a_gap_from_the_first_lost_change() {
    let machine = Machine::new();
    let policy = Policy { rpo_threshold: Duration::from_secs(3), ..policy() };
    let (mut agent, events) = start(&machine, policy);
    let (before, durable, inside) = with_a_full_disk(&machine, &mut agent);
    let stats = agent.protection.stats();
    let rpo = stats.rpo.as_secs_f64();
    assert!((19.9..20.2).contains(&rpo), "nothing was captured for 20 s, and the RPO is {rpo}");
    assert_eq!((stats.mode, stats.replicated_sequence), (Mode::Dirty, durable));
    assert_eq!(
        (count(&events, "rpo-exceeded"), count(&events, "task-failed: the journal")),
        (1, 1)
    );
    run_for(&mut agent, Duration::from_secs(100), "");
    assert_eq!(count(&events, "task-failed: the journal"), 2, "a minute later once more");
    assert_eq!(count(&events, "mode-changed"), 4, "dirty, resync, ordered, and dirty");

    machine.files.set_room(usize::MAX);
    agent.settle();
    run_for(&mut agent, Duration::from_millis(50), "");
    assert_eq!(agent.protection.stats().rpo, Duration::ZERO);
    assert_eq!((count(&events, "rpo-met"), count(&events, "task-recovered: the journal")), (1, 1));
    check_gap(&machine, Cause::SpoolFull, before, durable, &inside);
    assert_eq!(machine.content(&At::Newest), machine.platter.peek());

    agent.protection.place(PointKind::Crash, "").expect("in order");
    agent.settle();
    machine.fold_all();
    let folded = machine.replica();
    let segments: Vec<_> = folded.catalog().segments().iter().map(|e| &e.summary).collect();
    let gap = segments.iter().find(|summary| {
        summary.order_changes.iter().any(|change| change.begin == Some(Cause::SpoolFull))
    });
    assert_ne!(gap.expect("a gap").kind, SegmentKind::Log, "{segments:#?}");
    for time in inside {
        let error = folded.resolve(&At::Time(time)).expect_err("a fold does not forget a gap");
        assert_eq!(error.kind(), ErrorKind::NotOrdered, "{error}");
    }
}

#[test]
fn promise_7_a_crash_is_a_gap_from_the_last_record_that_is_left() {
    let machine = Machine::new();
    let (mut agent, _) = start(&machine, policy());
    agent.settle();
    agent.write(BLOCK, 7);
    agent.settle();
    let (before, durable) = (now(&machine), last(&agent.protection));
    agent.write(BLOCK, 8);
    let lost = now(&machine);
    machine.world.clock.advance(Duration::from_secs(5));
    machine.kill(agent);
    machine.world.clock.advance(Duration::from_secs(60));
    let off = now(&machine);
    let (mut agent, _) = start(&machine, policy());
    assert!(agent.protection.stats().rpo > Duration::from_secs(65));
    agent.settle();
    assert_eq!(agent.protection.stats().rpo, Duration::ZERO);
    let replica = machine.replica();
    let gap = replica.timeline().into_iter().find(|e| e.unordered == Some(Cause::Crash));
    assert!(gap.expect("a gap").from_time <= lost);
    for time in [lost, off] {
        let error = replica.resolve(&At::Time(time)).expect_err("nobody knows");
        assert_eq!(error.kind(), ErrorKind::NotOrdered, "{error}");
    }
    let at = replica.time_of(durable).expect("read").expect("a record");
    assert!(at < before);
    assert_eq!(replica.resolve(&At::Time(at)).expect("it is there"), durable);
}

#[test]
fn promise_7_a_crash_on_a_full_disk_is_a_gap_from_the_first_lost_change() {
    let machine = Machine::new();
    let (mut agent, _) = start(&machine, policy());
    let (_, _, inside) = with_a_full_disk(&machine, &mut agent);
    machine.kill(agent);
    machine.files.set_room(usize::MAX);
    let (mut agent, _) = start(&machine, policy());
    assert!(agent.protection.stats().rpo >= Duration::from_secs(20));
    agent.settle();
    let replica = machine.replica();
    for time in inside {
        let error = replica.resolve(&At::Time(time)).expect_err("the disk had something else");
        assert_eq!(error.kind(), ErrorKind::NotOrdered, "{error}");
    }
    assert_eq!(machine.content(&At::Newest), machine.platter.peek());
}

#[test]
fn promise_7_the_rpo_counts_what_is_not_captured_until_its_resync_is_in_the_vault() {
    let machine = Machine::new();
    let policy = Policy { memory_budget_bytes: 2 * BLOCK.length, ..policy() };
    let (mut agent, _) = start(&machine, policy);
    agent.settle();
    for region in 0..4 {
        agent.write(Extent { offset: region * REGION, length: BLOCK.length }, 9);
    }
    assert_eq!(agent.protection.stats().mode, Mode::Dirty);
    // Everything that was captured goes to the vault; the resync does not begin.
    run_for(&mut agent, Duration::from_secs(10), "resync");
    let stats = agent.protection.stats();
    assert_eq!((stats.mode, stats.backlog_bytes), (Mode::Dirty, 0));
    assert!(stats.rpo >= Duration::from_secs(10), "{stats:?}");
    // The resync is complete, and its end does not arrive.
    machine.server.set_down(true);
    agent.run(|protection| protection.stats().mode == Mode::Ordered);
    run_for(&mut agent, Duration::from_secs(10), "");
    assert!(agent.protection.stats().rpo >= Duration::from_secs(20));
    machine.server.set_down(false);
    agent.settle();
    assert_eq!(agent.protection.stats().rpo, Duration::ZERO);
}
