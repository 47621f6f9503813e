//! Faults of vaults and machines that went back that the simulation found, each as a test.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hrl::journal::PointKind;
use hrl::replica::At;
use hrl::{Clock, Event, EventKind, EventSink, Mode, Policy, SteppedProtection, Timestamp};

use crate::found::{Agent, BLOCK, Machine, policy};
use crate::store::{EXCHANGE, Objects};
use crate::world::Faults;

/// The snapshot beyond the first versions of a catalog.
pub const BEYOND: &str = "/catalog/0000000000000080";

impl Agent {
    /// Writes, and closes the segment of it.
    pub fn spool(&mut self, byte: u8) {
        self.write(BLOCK, byte);
        self.step("journal");
        self.world.clock.advance(Duration::from_secs(1));
        self.step("journal");
    }

    fn ship(&mut self, byte: u8) {
        self.write(BLOCK, byte);
        self.settle();
    }
}

impl Machine {
    /// Ships something, keeps a copy of the vault, and ships something else.
    fn with_copy(&self) -> (Agent, Objects) {
        let mut agent = self.start();
        agent.ship(1);
        let then = self.server.copy();
        agent.ship(2);
        (agent, then)
    }

    /// Returns the same machine as it is now, running from a copy.
    fn copied(&self) -> Self {
        let (files, platter) = (self.files.copy(), self.platter.copy());
        Self { world: self.world.clone(), files, platter, server: self.server.clone() }
    }

    fn check_newest(&self) {
        assert!(
            self.content(&At::Newest) == self.platter.peek(),
            "the newest state is not the disk"
        );
        assert!(self.replica().verify(&|_, _| true).expect("verify").is_sound());
    }
}

/// Nobody could read the catalog: it had a gap before that version, and no agent started.
#[test]
fn promise_5_a_version_put_on_top_of_lost_ones_is_in_nobodys_way() {
    for (killed, late) in [(false, false), (false, true), (true, false), (true, true)] {
        let machine = Machine::new();
        let (mut agent, then) = machine.with_copy();
        machine.server.go_back_to(then);
        agent.spool(3);
        machine.server.delay(Some("/catalog/"));
        agent.step("ship");
        machine.server.delay(None);
        if !late {
            machine.server.deliver(Duration::ZERO, true);
        }
        if killed {
            machine.kill(agent);
            agent = machine.start();
        }
        agent.settle();
        machine.check_newest();
        machine.server.deliver(Duration::ZERO, true);
        machine.check_newest();
        agent.ship(4);
        machine.check_newest();
        machine.kill(agent);
        let mut agent = machine.start();
        agent.settle();
        machine.check_newest();
    }
}

/// A snapshot in the place of the next version hid that: it listed segments that were gone.
#[test]
fn promise_3_a_vault_that_goes_back_just_before_a_snapshot_is_noticed() {
    let machine = Machine::new();
    let mut agent = machine.start();
    let mut then = None;
    for byte in 1..=255 {
        match machine.replica().catalog().version() {
            60 => then = Some(machine.server.copy()),
            63 => break,
            _ => {}
        }
        agent.ship(byte);
    }
    assert_eq!(machine.replica().catalog().version(), 63);
    machine.server.go_back_to(then.expect("one version each"));
    agent.ship(77);
    machine.check_newest();
}

/// Its answer was lost, so the anchor did not know of it, and then the vault lost it too.
#[test]
fn promise_3_sequences_of_a_segment_that_was_put_aside_are_not_given_again() {
    let machine = Machine::new();
    let (mut agent, then) = machine.with_copy();
    agent.spool(3);
    machine.server.delay(Some("/catalog/"));
    agent.step("ship");
    machine.server.delay(None);
    machine.server.deliver(Duration::ZERO, true);
    let offered = machine.replica().catalog().last_sequence();
    assert_eq!(agent.protection.stats().last_sequence, offered, "a reader has seen it");
    machine.kill(agent);
    machine.server.go_back_to(then);
    let left = machine.replica().catalog().last_sequence();
    // A start that fails puts the segment aside, and the next one does not find it.
    machine.files.set_room(machine.files.bytes());
    assert!(machine.open_with(policy(), false).is_err());
    machine.files.killed();
    machine.files.set_room(usize::MAX);
    let mut agent = machine.start();
    agent.settle();
    let replica = machine.replica();
    let mut first = replica.catalog().segments().iter().map(|entry| entry.summary.first_sequence);
    assert!(first.all(|first| first <= left || first > offered), "some are given again");
    machine.check_newest();
}

/// It was reported as taken, although its segment had been put aside.
#[test]
fn promise_7_a_point_that_is_gone_with_the_vault_is_not_reported_as_taken() {
    let machine = Machine::new();
    let (mut agent, then) = machine.with_copy();
    let placed = agent.protection.place(PointKind::Crash, "").expect("in order");
    agent.step("journal");
    agent.world.clock.advance(Duration::from_secs(1));
    agent.step("journal");
    machine.server.go_back_to(then);
    agent.run(|protection| protection.stats().mode != Mode::Ordered);
    agent.settle();
    assert!(agent.protection.outcome(&placed).expect("it is decided").is_err());
    assert!(machine.replica().points().iter().all(|point| point.id != placed.id()));
}

/// The anchor said that all was well, and nothing was read again.
#[test]
fn promise_3_a_dirty_map_that_cannot_be_written_hides_no_vault_that_went_back() {
    for killed in [false, true] {
        let machine = Machine::new();
        let (mut agent, then) = machine.with_copy();
        agent.run(|protection| protection.stats().marked_regions == 0);
        machine.server.go_back_to(then);
        let looks = |agent: &mut Agent| {
            agent.world.clock.advance(Duration::from_secs(10));
            agent.step("ship");
        };
        (0..4).for_each(|_| looks(&mut agent));
        agent.world.faults.set(Faults { file_sync_error: 1, ..Faults::default() });
        agent.step("journal");
        agent.world.faults.set(Faults::default());
        if killed {
            machine.kill(agent);
            agent = machine.start();
        }
        agent.settle();
        machine.check_newest();
    }
}

/// It counted itself as fenced: the snapshot that it had put beyond the lost versions made those look
/// forgotten.
#[test]
fn promise_5_a_source_that_hears_nothing_of_its_snapshot_beyond_lost_versions_goes_on() {
    let machine = Machine::new();
    let (mut agent, then) = machine.with_copy();
    machine.server.go_back_to(then);
    machine.server.delay(Some("/catalog/"));
    agent.spool(3);
    for _ in 0..20 {
        agent.world.clock.advance(Duration::from_secs(10));
        agent.step("ship");
    }
    machine.server.delay(None);
    machine.server.deliver(Duration::ZERO, true);
    agent.settle();
    assert!(!agent.protection.stats().fenced);
    machine.check_newest();
}

/// Its number was taken, and what it followed was another version of the same length.
#[test]
fn promise_5_a_version_of_an_old_source_on_top_of_replaced_ones_is_in_nobodys_way() {
    let home = Machine::new();
    let away = home.beside();
    let (mut agent, then) = home.with_copy();
    (3..20).for_each(|byte| agent.ship(byte));
    home.kill(agent);
    let newest = home.server.names("volumes/disk/catalog/").pop().expect("versions");
    let (number, stray) = (home.replica().catalog().version(), home.server.content(&newest));
    home.server.go_back_to(then);
    let mut agent = away.open_with(policy(), true).expect("take over");
    agent.settle();
    while home.replica().catalog().version() + 1 < number {
        agent.ship(30);
    }
    home.server.set_content(&newest, stray.expect("it was there"));
    for killed in [false, true] {
        if killed {
            away.kill(agent);
            agent = away.start();
        }
        agent.ship(40 + u8::from(killed));
        assert!(away.content(&At::Newest) == away.platter.peek(), "the newest is not the disk");
    }
}

/// A seed rarely alters a segment in the spool that is shipped later.
#[test]
fn promise_4_a_segment_that_was_altered_in_the_spool_is_not_shipped() {
    let machine = Machine::new();
    let mut agent = machine.start();
    agent.ship(1);
    for byte in 2..32 {
        agent.spool(byte);
        machine.kill(agent);
        assert!(machine.files.rot(&machine.world.random, Path::new("/state/spool")) || byte > 2);
        agent = machine.start();
        agent.settle();
        machine.check_newest();
    }
}

/// A catalog version listed segments that another vault had got, and no reader could go on.
#[test]
fn promise_5_segments_that_went_into_another_vault_are_put_again_before_they_are_published() {
    let machine = Machine::new();
    let policy = Policy { catalog_interval: Duration::from_secs(5), ..policy() };
    let mut agent = machine.open_with(policy, false).expect("open");
    agent.ship(1);
    let mirror = machine.server.copy();
    agent.spool(2);
    agent.step("ship");
    let first = machine.server.copy();
    assert_eq!(first.len(), mirror.len() + 1, "it is put and not published");
    // Nobody notices the other vault: it has the same catalog.
    machine.server.go_back_to(mirror);
    agent.spool(3);
    agent.step("ship");
    agent.settle();
    machine.check_newest();
}

/// It was fenced by its own session from before another source had the volume, because the clock said
/// that it began later.
#[test]
fn promise_5_a_vault_that_goes_back_to_before_a_take_over_fences_nobody() {
    for killed in [false, true] {
        let home = Machine::new();
        let away = home.beside();
        let (agent, then) = home.with_copy();
        home.kill(agent);
        let mut agent = away.open_with(policy(), true).expect("take over");
        agent.ship(3);
        away.kill(agent);
        home.world.clock.jump(Timestamp(home.world.clock.now().0 - 3_600_000_000_000));
        if killed {
            // A start that dies after it took the volume.
            home.files.set_room(home.files.bytes());
            assert!(home.open_with(policy(), true).is_err());
            home.files.killed();
            home.files.set_room(usize::MAX);
        }
        let mut agent = home.open_with(policy(), true).expect("take over");
        agent.ship(4);
        home.server.go_back_to(then);
        agent.spool(5);
        agent.settle();
        assert!(!agent.protection.stats().fenced);
        home.check_newest();
    }
}

/// A source that had begun to go on in one vault began with a snapshot of the same number and length in
/// another. Then its next version went on top of the wrong one: nobody could read the catalog, and no
/// agent started.
#[test]
fn promise_5_a_snapshot_of_the_same_length_in_another_vault_is_not_followed() {
    let machine = Machine::new();
    let (agent, then) = machine.with_copy();
    machine.kill(agent);
    let mut agent = machine.start();
    agent.settle();
    machine.server.go_back_to(then.clone());
    agent.run(SteppedProtection::is_going_back);
    machine.kill(agent);
    let first = machine.server.copy();
    machine.server.go_back_to(then);
    let mut agent = machine.start();
    let snapshot = "volumes/disk/catalog/0000000000000080";
    let (ours, theirs) = (machine.server.content(snapshot), &first[snapshot]);
    let ours = ours.expect("it goes beyond what is gone");
    assert!(ours.len() == theirs.len() && ours != *theirs);
    machine.server.go_back_to(first);
    machine.world.clock.advance(EXCHANGE);
    agent.settle();
    agent.ship(4);
    machine.check_newest();
    machine.kill(agent);
    let mut agent = machine.start();
    agent.settle();
    machine.check_newest();
}

/// Nothing but the length of the newest version was compared, so an idle agent noticed nothing.
#[test]
fn promise_3_a_newest_version_of_the_same_length_in_another_vault_is_noticed() {
    let mut machine = Machine::new();
    let mut agent = machine.start();
    agent.ship(1);
    machine.kill(agent);
    let (before, base) = (machine.copied(), machine.server.copy());
    let mut agent = machine.start();
    agent.ship(2);
    machine.kill(agent);
    let mirror = machine.server.copy();
    machine.server.go_back_to(base);
    machine = before;
    let mut agent = machine.start();
    agent.ship(3);
    let newest = machine.server.names("volumes/disk/catalog/").pop().expect("versions");
    let (ours, theirs) = (machine.server.content(&newest).expect("just named"), &mirror[&newest]);
    assert!(ours.len() == theirs.len() && ours != *theirs);
    machine.server.go_back_to(mirror);
    agent.world.clock.advance(Duration::from_secs(60));
    agent.run(|protection| protection.stats().mode != Mode::Ordered);
    agent.settle();
    machine.check_newest();
}

/// The clock had gone back, so the copy seemed to have begun before the original, which went on.
#[test]
fn promise_9_a_copy_that_begins_after_the_clock_went_back_fences_the_original() {
    let machine = Machine::new();
    let mut agent = machine.start();
    agent.ship(1);
    let then = machine.server.copy();
    machine.kill(agent);
    let mut original = machine.start();
    original.ship(2);
    machine.server.go_back_to(then);
    let hour = Duration::from_secs(3600).as_nanos() as i64;
    machine.world.clock.jump(Timestamp(machine.world.clock.now().0 - hour));
    let copy = machine.copied();
    let mut agent = copy.start();
    agent.settle();
    original.world.clock.advance(Duration::from_secs(60));
    original.run(|protection| protection.stats().fenced);
    agent.ship(3);
    assert!(!agent.protection.stats().fenced);
    copy.check_newest();
}

/// The anchor found no room, and the segments that were published left the spool all the same.
#[test]
fn promise_3_sequences_that_were_published_on_a_full_disk_are_not_given_again() {
    for count in [1, 3] {
        let machine = Machine::new();
        let mut agent = machine.start();
        agent.ship(1);
        let then = machine.server.copy();
        (0..count).for_each(|byte| agent.spool(10 + byte));
        machine.files.set_room(machine.files.bytes());
        agent.step("ship");
        let offered = machine.replica().catalog().last_sequence();
        assert_eq!(offered, agent.protection.stats().last_sequence);
        machine.kill(agent);
        machine.files.set_room(usize::MAX);
        machine.server.go_back_to(then);
        let left = machine.replica().catalog().last_sequence();
        let mut agent = machine.start();
        agent.ship(3);
        let replica = machine.replica();
        let mut first =
            replica.catalog().segments().iter().map(|entry| entry.summary.first_sequence);
        assert!(first.all(|first| first <= left || first > offered), "some are given again");
        machine.check_newest();
    }
}

/// The simulation does not swap vaults then.
#[test]
fn promise_5_a_vault_that_comes_while_its_agent_enters_another_is_noticed() {
    for returns in [false, true] {
        let machine = Machine::new();
        let (mut agent, then) = machine.with_copy();
        let first = machine.server.copy();
        machine.server.go_back_to(then);
        agent.run(SteppedProtection::is_going_back);
        let second = machine.server.copy();
        machine.server.go_back_to(first);
        agent.step("journal");
        assert!(!agent.protection.is_going_back(), "it goes on in the second vault");
        if returns {
            agent.spool(4);
            agent.step("ship");
            machine.server.go_back_to(second);
        }
        agent.settle();
        agent.ship(5);
        machine.check_newest();
    }
}

/// It counted itself as fenced by another session: what it knew was the history that it could not
/// enter, which is the beginning of its own.
#[test]
fn promise_9_an_agent_that_cannot_enter_another_vault_goes_on_in_its_own_when_that_returns() {
    let machine = Machine::new();
    let (mut agent, then) = machine.with_copy();
    let now = machine.server.copy();
    machine.server.go_back_to(then);
    machine.files.set_room(machine.files.bytes());
    for _ in 0..400 {
        agent.tasks.iter_mut().for_each(|task| {
            task.step();
        });
        agent.world.clock.advance(Duration::from_millis(50));
    }
    agent.step("journal");
    assert!(!agent.protection.is_going_back(), "it tries again later");
    machine.server.go_back_to(now);
    machine.world.clock.advance(EXCHANGE);
    machine.files.set_room(usize::MAX);
    agent.settle();
    agent.ship(5);
    machine.check_newest();
}

/// Each try put another whole catalog.
#[test]
fn promise_12_a_full_disk_below_an_agent_does_not_fill_a_vault_that_went_back() {
    let machine = Machine::new();
    let (mut agent, then) = machine.with_copy();
    machine.server.go_back_to(then);
    let versions = || machine.server.names("volumes/disk/catalog/").len();
    let before = versions();
    machine.files.set_room(machine.files.bytes());
    for _ in 0..400 {
        agent.tasks.iter_mut().for_each(|task| {
            task.step();
        });
        agent.world.clock.advance(Duration::from_millis(50));
    }
    assert_eq!(versions(), before + 2, "one version beyond what is lost, and one before it");
    machine.files.set_room(usize::MAX);
    agent.settle();
    machine.check_newest();
}

/// The version that a start put beyond lost ones came late, or the start failed after it. The next one
/// found nothing amiss.
#[test]
fn promise_3_a_start_that_hears_nothing_of_its_version_beyond_lost_ones_reports_them() {
    let machine = Machine::new();
    let beats = Policy { heartbeat_interval: Duration::from_secs(60), ..policy() };
    let mut agent = machine.open_with(beats, false).expect("open");
    agent.ship(1);
    let then = machine.server.copy();
    agent.world.clock.advance(Duration::from_secs(3600));
    (0..3).for_each(|_| agent.step("ship"));
    machine.kill(agent);
    assert!(machine.server.copy().len() > then.len(), "it said that it is there");
    machine.server.go_back_to(then);
    let reports = Arc::new(AtomicU64::new(0));
    let counted = reports.clone();
    let events: EventSink = Arc::new(move |event: &Event| {
        let differs = matches!(event.kind, EventKind::Diverged { .. });
        counted.fetch_add(differs.into(), Ordering::Relaxed);
    });
    machine.server.delay(Some(BEYOND));
    let agent = machine.open_reporting(policy(), false, events.clone()).expect("without the vault");
    assert!(agent.protection.stats().vault_away);
    machine.kill(agent);
    machine.server.delay(None);
    machine.server.deliver(Duration::ZERO, true);
    let mut agent = machine.open_reporting(policy(), false, events).expect("open");
    agent.settle();
    machine.check_newest();
    assert_eq!(reports.load(Ordering::Relaxed), 1);
}

/// The snapshot was newer by its number, so the volume belonged to the old source again. What the
/// new one had published since was gone.
#[test]
fn promise_9_a_snapshot_beyond_lost_versions_that_comes_late_takes_no_volume_back() {
    let machine = Machine::new();
    let (mut agent, then) = machine.with_copy();
    machine.server.go_back_to(then);
    machine.world.clock.advance(EXCHANGE);
    machine.server.delay(Some(BEYOND));
    agent.spool(3);
    for _ in 0..4 {
        agent.step("ship");
    }
    machine.server.delay(None);
    machine.kill(agent);
    let other = machine.beside();
    let mut agent = other.open_with(policy(), true).expect("take over");
    agent.settle();
    let point = agent.protection.place(PointKind::Crash, "").expect("in order").id();
    agent.ship(4);
    other.check_newest();
    machine.server.deliver(Duration::ZERO, true);
    other.check_newest();
    assert!(other.replica().points().iter().any(|kept| kept.id == point));
    agent.ship(5);
    machine.kill(agent);
    let mut agent = other.start();
    agent.settle();
    other.check_newest();
}
