//! Faults of failovers that the simulation found, each as a test.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hrl::device::{BlockDevice, Durability};
use hrl::failover::{FailoverOptions, Follower, SteppedFailover};
use hrl::journal::SegmentKind;
use hrl::replica::{At, ViewOptions};
use hrl::vault::Vault;
use hrl::{Clock, Epoch, ErrorKind, Extent, Policy, Result, Sequence};

use crate::found::{Agent, BLOCK, Machine, REGION, keeps_nothing, policy};
use crate::found_back::BEYOND;
use crate::store::EXCHANGE;
use crate::world::{Faults, Incarnation};

const OTHER: Extent = Extent { offset: 2 * REGION, length: 4096 };

impl Machine {
    /// A failover to here that is not committed; nothing of the disk is copied.
    fn fail_over(&self, at: At) -> Agent {
        self.try_fail_over(at).expect("fail over")
    }

    fn try_fail_over(&self, at: At) -> Result<Agent> {
        self.begin_or_change(at, false)
    }

    /// The same; with `changes`, a failover under way goes to this state instead.
    fn begin_or_change(&self, at: At, changes: bool) -> Result<Agent> {
        let machine = Incarnation::start();
        let files = self.files.mount(&machine);
        let store = self.server.connect(&machine, Some(files.clone()));
        let clock: Arc<dyn Clock> = self.world.clock.clone();
        let vault = Vault::open(store, None, clock.clone()).expect("vault");
        let disk = self.platter.attach(&machine, true);
        let options = FailoverOptions::new("disk", vault, "/state", disk)
            .at(at)
            .change_point(changes)
            .policy(policy())
            .clock(clock)
            .files(files.clone());
        let mut protection =
            SteppedFailover::start(options).inspect_err(|_| self.files.killed())?.protection;
        let (tasks, world) = (protection.take_tasks(), self.world.clone());
        Ok(Agent { protection, tasks, files, world })
    }

    /// A planned failover whose operator stops waiting: the vault does not take its end.
    fn ask(&self) -> Result<()> {
        let machine = Incarnation::start();
        let files = self.files.mount(&machine);
        let store = self.server.connect(&machine, Some(files.clone()));
        let clock: Arc<dyn Clock> = self.world.clock.clone();
        let vault = Vault::open(store, None, clock.clone())?;
        let ends = machine.clone();
        let options =
            FailoverOptions::new("disk", vault, "/state", self.platter.attach(&machine, true))
                .planned(Duration::from_secs(1))
                .clock(clock)
                .waiting(Arc::new(move |_| ends.kill()))
                .files(files);
        let result = SteppedFailover::start(options).map(drop);
        self.files.killed();
        result
    }

    fn cancel(&self) -> Result<()> {
        let machine = Incarnation::start();
        let files = self.files.mount(&machine);
        let store = self.server.connect(&machine, Some(files.clone()));
        let clock: Arc<dyn Clock> = self.world.clock.clone();
        let vault = Vault::open(store, None, clock.clone())?;
        SteppedFailover::cancel(files, &vault, "disk", Path::new("/state"), &*clock)
    }

    fn follow(&self) -> Result<Follower> {
        let machine = Incarnation::start();
        let files = self.files.mount(&machine);
        let store = self.server.connect(&machine, Some(files.clone()));
        let clock: Arc<dyn Clock> = self.world.clock.clone();
        let vault = Vault::open(store, None, clock.clone()).expect("vault");
        let disk = self.platter.attach(&machine, false);
        let nobody = Arc::new(|_| ());
        Follower::open_stepped("disk", vault, Path::new("/state"), disk, clock, files, nobody)
    }
}

/// A volume at home with some content, all of it in the vault.
fn at_home() -> (Machine, Agent) {
    let home = Machine::new();
    let mut agent = home.start();
    agent.write(BLOCK, 7);
    agent.write(OTHER, 3);
    agent.settle();
    (home, agent)
}

fn newest(agent: &Agent) -> At {
    At::Sequence(agent.protection.stats().last_sequence)
}

/// The disk was taken for a complete copy of a state that it had only begun to receive, and would
/// have come home so.
#[test]
fn promise_3_a_disk_that_was_never_complete_is_compared_everywhere() {
    let (home, agent) = at_home();
    home.kill(agent);
    let (away, third) = (home.beside(), home.beside());
    away.platter
        .attach(&Incarnation::start(), true)
        .write(0, &[0xee; 3 * REGION as usize], Durability::Durable)
        .expect("anything");
    let mut agent = away.fail_over(At::Newest);
    agent.protection.commit_failover().expect("commit");
    agent.write(BLOCK, 9);
    agent.settle();
    away.kill(agent);
    let mut agent = third.fail_over(At::Newest);
    agent.protection.commit_failover().expect("commit");
    agent.settle();
    let mut follower = away.follow().expect("follow");
    assert!(follower.why_everywhere().is_some_and(|why| why.contains("whole")));
    follower.catch_up(&At::Newest, &|_, _| true).expect("catch up");
    assert_eq!(away.platter.peek(), away.content(&At::Newest));
}

/// The base of an epoch's branch was looked up in the volume, which had another history there by
/// then.
#[test]
fn promise_5_a_branch_keeps_its_history_if_a_later_failover_goes_to_an_older_recovery_state() {
    let (home, mut agent) = at_home();
    let first = newest(&agent);
    agent.write(BLOCK, 8);
    agent.settle();
    let second = newest(&agent);
    agent.write(OTHER, 4);
    agent.settle();
    let (last, expected) = (newest(&agent), home.platter.peek());
    let (away, third) = (home.beside(), home.beside());
    let mut over = away.fail_over(second);
    over.protection.commit_failover().expect("commit");
    over.settle();
    let mut again = third.fail_over(first);
    again.protection.commit_failover().expect("commit");
    for byte in 20..30 {
        again.write(BLOCK, byte);
    }
    again.settle();

    let mut replica = home.replica();
    let branch = replica.branch(Epoch(1)).expect("branch");
    for at in [last, At::Newest] {
        let view = branch.view(&at, &ViewOptions::default()).expect("view");
        let mut found = vec![0; expected.len()];
        view.read(0, &mut found).expect("read");
        assert!(found == expected, "{at} on the branch of epoch 1");
    }
    assert!(branch.verify(&|_, _| true).expect("verify").is_sound());
    let error = replica.drop_branch(Epoch(2)).expect_err("epoch 1 stands on it");
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    replica.drop_branch(Epoch(1)).expect("drop the older one");
    replica.drop_branch(Epoch(2)).expect("then the other");
    assert!(replica.catalog().last_sequence() > Sequence::ZERO);
}

/// It was in the catalog then and could not be continued, while every other failover was refused.
#[test]
fn promise_9_a_cancelled_failover_does_not_begin_if_its_start_arrives_late() {
    let (home, agent) = at_home();
    home.kill(agent);
    let (away, third) = (home.beside(), home.beside());
    home.server.delay(Some("/catalog/"));
    away.try_fail_over(At::Newest).map(drop).expect_err("its start is not answered");
    home.server.delay(None);
    away.cancel().expect("cancel");
    home.server.deliver(Duration::ZERO, true);
    let agent = third.fail_over(At::Newest);
    agent.protection.commit_failover().expect("commit");
}

/// The volume belonged to a source that no state directory had, and no agent could go on.
#[test]
fn promise_9_a_commit_that_arrives_after_its_failover_changed_its_state_does_not_count() {
    let (home, mut agent) = at_home();
    let first = newest(&agent);
    agent.write(BLOCK, 8);
    agent.settle();
    home.kill(agent);
    let away = home.beside();
    let over = away.fail_over(At::Newest);
    home.server.delay(Some("/catalog/"));
    over.protection.commit_failover().expect_err("it is not answered");
    home.server.delay(None);
    away.kill(over);
    away.begin_or_change(first.clone(), true).map(|agent| away.kill(agent)).expect("change");
    home.server.deliver(Duration::ZERO, true);
    let mut over = away.fail_over(At::Newest);
    over.protection.commit_failover().expect("commit");
    over.settle();
    assert_eq!(home.replica().catalog().epoch(), Epoch(2));
    let mut found = [0; 1];
    let view = home.replica().view(&At::Newest, &ViewOptions::default()).expect("view");
    view.read(BLOCK.offset, &mut found).expect("read");
    assert_eq!(found, [7], "the state that was chosen last");
}

/// It could not continue because its state was gone, and every other failover was refused.
#[test]
fn promise_5_a_failover_that_never_served_chooses_again_if_its_recovery_state_is_gone() {
    let (home, mut agent) = at_home();
    let first = newest(&agent);
    for byte in 20..30 {
        agent.write(BLOCK, byte);
        agent.settle();
    }
    let away = home.beside();
    home.server.delay(Some("/catalog/"));
    away.try_fail_over(first.clone()).map(drop).expect_err("its start is not answered");
    home.server.delay(None);
    home.world.clock.advance(Duration::from_secs(3600));
    home.fold_all();
    home.replica().resolve(&first).expect_err("it is folded");
    let error = away.try_fail_over(first).map(drop).expect_err("it is gone");
    assert!(matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotOrdered), "{error}");
    let mut over = away.fail_over(At::Newest);
    over.protection.commit_failover().expect("commit");
    over.settle();
    assert_eq!(home.content(&At::Newest), home.platter.peek());
}

/// The state that was handed over was folded into a later one before the catalog recorded that it
/// was needed.
#[test]
fn promise_5_nothing_is_folded_while_a_volume_is_handed_over() {
    let home = Machine::new();
    let away = home.beside();
    let retention = Some(keeps_nothing());
    let policy = Policy { retention, retention_interval: Duration::from_secs(60), ..policy() };
    let mut agent = home.open_with(policy, false).expect("open");
    for byte in 1..10 {
        agent.write(BLOCK, byte);
        agent.settle();
    }
    let folded = |home: &Machine| {
        let replica = home.replica();
        replica.catalog().segments().iter().any(|e| e.summary.kind != SegmentKind::Log)
    };
    away.ask().expect_err("no agent steps, so none hands over");
    agent.run(|protection| protection.stats().handed_over);
    home.world.clock.advance(Duration::from_secs(120));
    for _ in 0..100 {
        agent.tasks.iter_mut().for_each(|task| {
            task.step();
        });
    }
    assert!(!folded(&home), "it waits");
    away.cancel().expect("cancel");
    agent.run(|protection| !protection.stats().handed_over && folded(&home));
}

/// Nobody could write the volume any more: its source refused writes, and there was nothing to
/// cancel.
#[test]
fn promise_6_a_planned_failover_that_never_began_can_be_cancelled() {
    let (home, mut agent) = at_home();
    let away = home.beside();
    away.ask().expect_err("no agent steps, so none hands over");
    agent.run(|protection| protection.stats().handed_over);
    away.cancel().expect("cancel");
    agent.run(|protection| !protection.stats().handed_over);
    agent.write(BLOCK, 8);
    agent.settle();
    assert_eq!(home.content(&At::Newest), home.platter.peek());
}

/// It was refused as a failover under way, and cancelling it would have dropped the content of its
/// spool.
#[test]
fn promise_4_a_source_killed_right_after_its_commit_hands_in_its_journal_and_follows_later() {
    let (home, agent) = at_home();
    home.kill(agent);
    let (away, third) = (home.beside(), home.beside());
    let mut agent = away.fail_over(At::Newest);
    agent.write(BLOCK, 9);
    agent.run(|protection| {
        let stats = protection.stats();
        stats.journaled_sequence == stats.last_sequence
    });
    agent.world.faults.set(Faults { file_error: 1, ..Faults::default() });
    agent.protection.commit_failover().expect("the directory cannot say so, the catalog does");
    agent.world.faults.set(Faults::default());
    assert_eq!(home.replica().catalog().epoch(), Epoch(2), "it is committed");
    away.kill(agent);
    let agent = third.fail_over(At::Newest);
    agent.protection.commit_failover().expect("commit");
    let mut follower = away.follow().expect("follow");
    let branch = home.replica().branch(Epoch(2)).expect("branch");
    let mut found = [0; 1];
    let view = branch.view(&At::Newest, &ViewOptions::default()).expect("view");
    view.read(BLOCK.offset, &mut found).expect("read");
    assert_eq!(found, [9], "what was never shipped is on the branch");
    follower.catch_up(&At::Newest, &|_, _| true).expect("catch up");
    assert_eq!(away.platter.peek(), away.content(&At::Newest));
}

/// The branch of its epoch had changes that its state directory did not know of, and the disk kept
/// what it had before them.
#[test]
fn promise_9_a_machine_that_went_back_before_its_volume_was_lost_comes_home_whole() {
    let (mut home, mut agent) = at_home();
    let (files, platter) = (home.files.copy(), home.platter.copy());
    agent.write(BLOCK, 8);
    agent.settle();
    home.kill(agent);
    (home.files, home.platter) = (files, platter);
    let away = home.beside();
    let mut agent = away.fail_over(At::Newest);
    agent.protection.commit_failover().expect("commit");
    agent.write(OTHER, 5);
    agent.settle();
    let mut follower = home.follow().expect("follow");
    assert!(follower.why_everywhere().is_some_and(|why| why.contains("went back")));
    follower.catch_up(&At::Newest, &|_, _| true).expect("catch up");
    assert!(home.platter.peek() == home.content(&At::Newest), "the disk at home is not the volume");
}

/// Once it had been handed in to another copy of the vault, it counted as kept, and the disk was
/// overwritten.
#[test]
fn promise_4_what_only_an_old_disk_has_is_handed_in_to_each_vault_that_it_follows() {
    let (home, mut agent) = at_home();
    let away = home.beside();
    let mut over = away.fail_over(At::Newest);
    over.protection.commit_failover().expect("commit");
    over.settle();
    agent.write(BLOCK, 9);
    home.kill(agent);
    let (mirror, old) = (home.server.copy(), home.platter.peek());
    let check = || {
        let branch = home.replica().branch(Epoch(1)).expect("branch");
        let view = branch.view(&At::Newest, &ViewOptions::default()).expect("view");
        let mut found = vec![0; old.len()];
        view.read(0, &mut found).expect("read");
        assert!(found == old, "the end of the branch is not the old disk");
        branch.catalog().last_sequence()
    };
    drop(home.follow().expect("follow"));
    home.files.killed();
    let first = check();
    let version = home.replica().catalog().version();
    drop(home.follow().expect("follow"));
    home.files.killed();
    assert_eq!(home.replica().catalog().version(), version, "it is handed in once");

    home.server.go_back_to(mirror.clone());
    let mut follower = home.follow().expect("follow");
    let second = check();
    assert!(second > first, "sequences are given again");
    follower.catch_up(&At::Newest, &|_, _| true).expect("catch up");
    drop(follower);
    home.files.killed();
    assert!(home.platter.peek() == home.content(&At::Newest));

    // Nothing of it is on the disk any more.
    home.server.go_back_to(mirror);
    let mut follower = home.follow().expect("follow");
    follower.catch_up(&At::Newest, &|_, _| true).expect("catch up");
    assert!(home.platter.peek() == home.content(&At::Newest));
}

/// It was under way again, and no state directory knew of it: every other failover was refused.
#[test]
fn promise_9_a_cancelled_failover_stays_cancelled_if_a_snapshot_beyond_lost_versions_comes_late() {
    let (home, mut agent) = at_home();
    let (away, third, then) = (home.beside(), home.beside(), home.server.copy());
    agent.write(BLOCK, 8);
    agent.settle();
    home.server.go_back_to(then);
    let over = away.fail_over(At::Newest);
    away.kill(over);
    home.world.clock.advance(EXCHANGE);
    home.server.delay(Some(BEYOND));
    agent.spool(9);
    for _ in 0..4 {
        agent.step("ship");
    }
    home.server.delay(None);
    away.cancel().expect("cancel");
    home.server.deliver(Duration::ZERO, true);
    agent.settle();
    let over = third.fail_over(At::Newest);
    over.protection.commit_failover().expect("commit");
}
