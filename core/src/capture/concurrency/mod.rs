//! Models of capture under every schedule: writers, keeper, cleaner, journal, resync, marks,
//! barriers and the end.
//!
//! Built with `--cfg shuttle` alone, by `make concurrency`. [`facts`] checks what must be true at
//! every instant, even if a crash comes then. A lost wake-up shows as a deadlock.

mod disk;
mod facts;
mod world;

use std::sync::Arc;
use std::time::Duration;

use self::world::{Setup, World, a_mark, all_regions, join, spawn};
use crate::capture::require_resync;
use crate::event::{Cause, Mode};
use crate::policy::WhenFull;
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{choose, explore};
use crate::units::Sequence;

/// Returns the first block of a region.
const fn block(region: u64) -> u64 {
    region * 16
}

/// Cost of a record of one block in the queue.
const RECORD_BYTES: u64 = 4096 + 128;

/// Starts all that runs beside the writers of a volume that cannot leave its order.
fn keeper_and_journal(world: &Arc<World>) -> Vec<JoinHandle<()>> {
    vec![spawn(world, World::keep), spawn(world, |world| world.journal(0))]
}

#[test]
fn promises_1_and_3_overlapping_writes_and_points_among_them_are_in_one_order() {
    explore(|| {
        let world = World::new(Setup::default());
        let beside = keeper_and_journal(&world);
        let writers = [(0, 2), (1, 2), (block(1), 1)].map(|(first, count)| {
            spawn(&world, move |world| {
                world.write(first, count).expect("written");
                world.write(first + 1, 1).expect("written");
            })
        });
        let marker = spawn(&world, |world| {
            world.mark();
            thread::yield_now();
            world.mark();
        });
        join(writers);
        join([marker]);
        world.settle();
        world.stop(beside);
        world.known.facts().check_sequences();
    });
}

#[test]
fn promise_4_cleaning_never_clears_a_region_that_a_write_needs() {
    explore(|| {
        let world = World::new(Setup::default());
        let mut beside = keeper_and_journal(&world);
        beside.push(spawn(&world, World::clean_often));
        let writers = [0, 1].map(|at| {
            spawn(&world, move |world| {
                for region in [0, at, 0] {
                    world.write(block(region) + at, 1).expect("written");
                }
                // Across a region that may be dirty, and one that is not.
                world.write(block(2 + at) - 1, 2).expect("written");
            })
        });
        join(writers);
        world.settle();
        world.stop(beside);
    });
}

#[test]
fn promises_4_6_7_and_12_are_kept_through_overflows_losses_and_failed_writes() {
    explore(|| {
        let world =
            World::new(Setup { budget_bytes: 2 * RECORD_BYTES, failing: 6, ..Setup::default() });
        let beside = vec![
            spawn(&world, World::keep),
            spawn(&world, |world| world.journal(1)),
            spawn(&world, World::resync),
            spawn(&world, |world| (0..2).for_each(|_| world.clean())),
        ];
        let writers = [0, 1].map(|at| {
            spawn(&world, move |world| {
                for region in [0, 1 + at, 0] {
                    // A failed write is in doubt, and read again.
                    let _ = world.write(block(region) + at, 2);
                }
            })
        });
        let marker = spawn(&world, |world| {
            world.mark();
        });
        join(writers);
        join([marker]);
        world.settle();
        world.stop(beside);
    });
}

#[test]
fn promise_4_a_requested_resync_keeps_the_dirty_regions_it_relies_on() {
    explore(|| {
        let world = World::new(Setup::default());
        let mut beside = keeper_and_journal(&world);
        beside.push(spawn(&world, World::resync));
        world.write(block(0), 1).expect("written");
        let cleaner = spawn(&world, |world| (0..2).for_each(|_| world.clean()));
        let asker = spawn(&world, |world| {
            let (tap, map) = (&world.tap, &world.map);
            require_resync(tap, map, all_regions(), Cause::Requested).expect("set dirty");
        });
        let writer = spawn(&world, |world| drop(world.write(block(0), 1)));
        join([cleaner, asker, writer]);
        world.settle();
        world.stop(beside);
    });
}

#[test]
fn promise_6_writers_without_a_journal_end_within_the_budget() {
    explore(|| {
        let world = World::new(Setup { budget_bytes: 2 * RECORD_BYTES, ..Setup::default() });
        let keeper = spawn(&world, World::keep);
        let writers = [0, 1, 2].map(|at| {
            spawn(&world, move |world| {
                for region in [0, at] {
                    world.write(block(region) + at, 1).expect("written");
                }
            })
        });
        join(writers);
        assert_eq!(world.tap.mode(), Mode::Dirty);
        // The journal comes back.
        let beside =
            vec![keeper, spawn(&world, |world| world.journal(0)), spawn(&world, World::resync)];
        world.settle();
        world.stop(beside);
    });
}

/// A world in which nothing beside the writers looks for work until it is woken.
const SLEEPERS: Setup = Setup {
    budget_bytes: 256 << 10,
    when_full: WhenFull::Block,
    failing: 0,
    patience: Duration::MAX,
};

#[test]
fn promise_6_no_wake_up_is_lost_among_writers_keeper_and_journal() {
    explore(|| {
        let world = World::new(SLEEPERS);
        let beside = keeper_and_journal(&world);
        // Whole regions, so that a few fill the queue.
        let writers = [0, 1].map(|at| {
            spawn(&world, move |world| {
                for region in [at, 2, at + 2, at] {
                    world.write(block(region), 16).expect("written");
                }
            })
        });
        join(writers);
        let point = world.mark().expect("in order");
        world.wait_durable(point);
        world.stop(beside);
    });
}

#[test]
fn promise_6_no_wake_up_is_lost_among_overlapping_writes() {
    explore(|| {
        let world = World::new(Setup { patience: Duration::MAX, ..Setup::default() });
        let keeper = spawn(&world, World::keep);
        let writers = [0, 0, 1].map(|first| {
            spawn(&world, move |world| {
                for _ in 0..3 {
                    world.write(first, 2).expect("written");
                }
            })
        });
        join(writers);
        world.end(vec![keeper]);
    });
}

#[test]
fn promise_6_the_journal_is_woken_once_there_is_enough_for_it() {
    explore(|| {
        let world = World::new(Setup { budget_bytes: 1 << 20, ..SLEEPERS });
        let keeper = spawn(&world, World::keep);
        let journal = spawn(&world, |world| {
            assert!(!world.tap.drain(1, Duration::MAX).is_empty(), "it was woken for something");
        });
        let writers = [0, 2].map(|first| {
            spawn(&world, move |world| {
                for region in [first, first + 1] {
                    world.write(block(region), 16).expect("written");
                }
            })
        });
        join(writers);
        join([journal]);
        world.end(vec![keeper]);
    });
}

#[test]
fn promise_6_no_wake_up_is_lost_when_the_volume_leaves_its_order() {
    explore(|| {
        let world = World::new(Setup { patience: Duration::MAX, ..Setup::default() });
        let keeper = spawn(&world, World::keep);
        let sleeper = spawn(&world, |world| while !world.tap.wait_unordered(Duration::MAX) {});
        let writer = spawn(&world, |world| drop(world.write(0, 1)));
        let loser = spawn(&world, |world| {
            world.tap.journal_lost(Sequence(0), None, Cause::JournalError);
        });
        join([sleeper, writer, loser]);
        world.end(vec![keeper]);
    });
}

#[test]
fn promise_6_closing_a_tap_wakes_every_waiting_thread() {
    explore(|| {
        let world = World::new(SLEEPERS);
        let beside = keeper_and_journal(&world);
        let writers = [0, 0, 1].map(|region| {
            spawn(&world, move |world| {
                // A refused write was not begun.
                let _ = world.write(block(region), 1);
            })
        });
        let barrier = spawn(&world, |world| {
            let _ = world.tap.barrier(Duration::MAX);
        });
        world.end(beside);
        join(writers);
        join([barrier]);
    });
}

#[test]
fn promise_7_a_barrier_cuts_two_volumes_between_a_cause_and_its_effect() {
    explore(|| {
        let setup = Setup { patience: Duration::MAX, ..Setup::default() };
        let worlds = [World::new(setup), World::new(setup)];
        let beside = worlds.each_ref().map(keeper_and_journal);
        let chains = [0, 1].map(|first| {
            let worlds = worlds.clone();
            thread::spawn(move || {
                let effect = |at: usize| worlds[at].write(block(first), 1).expect("written");
                (effect(first as usize), effect(1 - first as usize))
            })
        });
        let marks = mark_at_barriers(&worlds);
        let chains = chains.map(|chain| chain.join().expect("no panic"));
        for (world, beside) in worlds.iter().zip(beside) {
            let last = world.mark().expect("in order");
            world.wait_durable(last);
            world.stop(beside);
        }
        let Some(marks) = marks else { return };
        for (first, (cause, effect)) in chains.into_iter().enumerate() {
            let contains =
                |at: usize, stamp| worlds[at].known.facts().contains_at(marks[at], stamp);
            let (cause, effect) = (contains(first, cause), contains(1 - first, effect));
            assert!(
                cause == Some(true) || effect == Some(false),
                "promise 7: an effect without its cause"
            );
        }
    });
}

/// Marks two volumes as a group's coordinator does. Returns the points, if it worked.
fn mark_at_barriers(worlds: &[Arc<World>; 2]) -> Option<[Sequence; 2]> {
    // Some barriers end before they are released.
    let limit = Duration::from_millis(10);
    let barriers =
        worlds.each_ref().map(|world| world.tap.barrier(limit).expect("no other barrier"));
    if choose(3) == 0 {
        worlds[choose(2) as usize].clock.advance(limit);
    }
    let marks = [0, 1].map(|at| {
        // Long enough for a cause and its effect, if there were no barrier.
        (0..choose(64)).for_each(|_| thread::yield_now());
        worlds[at].tap.mark_at_barrier(barriers[at], a_mark(), || Ok(()))
    });
    for (world, barrier) in worlds.iter().zip(barriers) {
        world.tap.release(barrier);
    }
    match marks {
        [Ok((first, _)), Ok((second, _))] => Some([first, second]),
        _ => None,
    }
}

#[test]
fn promise_7_nothing_from_an_unconfirmed_mark_on_reaches_the_journal() {
    explore(|| {
        let world = World::new(Setup { patience: Duration::MAX, ..Setup::default() });
        let beside = keeper_and_journal(&world);
        let writer = spawn(&world, |world| {
            world.write(0, 1).expect("written");
            world.write(0, 1).expect("written");
        });
        let marker = spawn(&world, |world| {
            let (mark, _) = world.tap.mark_unconfirmed(a_mark(), || Ok(())).expect("in order");
            thread::yield_now();
            assert!(world.known.facts().durable < mark, "promise 7: it is not settled yet");
            world.tap.confirm(mark, choose(2) == 0);
            world.wait_durable(mark);
        });
        join([writer, marker]);
        world.stop(beside);
    });
}
