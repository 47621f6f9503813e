//! One life: what a seed decides, and how a failure is told.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hrl::device::Discarded;
use hrl::journal::WrappingKey;
use hrl::{Clock, Compression, Mode, Policy, Timestamp};

use crate::oracle::Oracle;
use crate::site::{EVENT_HOOK, Plan, Site};
use crate::store::Server;
use crate::world::{Counts, Faults, Random, World};

/// What a run did.
#[derive(Debug, Default)]
pub struct Outcome {
    pub hash: u64,
    pub counts: Counts,
    pub injected: BTreeMap<&'static str, u64>,
}

impl Outcome {
    pub fn add(&mut self, other: Self) {
        self.counts.add(other.counts);
        for (what, count) in other.injected {
            *self.injected.entry(what).or_default() += count;
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = &self.counts;
        write!(
            f,
            "{} steps, {} requests, {} kills, {} power failures, {} points, {} states compared, {} faults",
            c.steps, c.requests, c.kills, c.power_failures, c.points, c.states_compared, c.faults
        )?;
        self.injected.iter().try_for_each(|(what, count)| write!(f, "\n  {what}: {count}"))
    }
}

/// What was found.
#[derive(Debug)]
pub struct Found {
    pub message: String,
    pub lines: Vec<String>,
}

thread_local! {
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Panics are kept for the report instead of being printed as they happen.
pub fn quiet_panics() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(|at| format!(" ({}:{})", at.file(), at.line()));
        let text = info.payload_as_str().unwrap_or("a panic").to_owned();
        PANIC.set(text + &place.unwrap_or_default());
    }));
}

/// Runs one seed, for `steps` steps when they are given.
pub fn simulate(seed: u64, steps: Option<u64>, verbose: bool) -> Result<Outcome, Found> {
    let world = World::enter(seed, verbose);
    let result =
        catch_unwind(AssertUnwindSafe(|| live(&world, steps.unwrap_or_else(|| steps_of(seed)))));
    world.set_others(None);
    EVENT_HOOK.set(None);
    let counts = world.counts.get();
    match result {
        Ok(()) => Ok(Outcome { hash: world.hash(), counts, injected: world.injected.take() }),
        Err(payload) => {
            // Whatever the run still holds may be locked.
            std::mem::forget(payload);
            Err(Found { message: PANIC.take(), lines: world.lines() })
        }
    }
}

/// Finds about the smallest number of steps that fails, and prints it with its trace.
pub fn explain(seed: u64) {
    let (mut low, mut high) = (0, steps_of(seed));
    while high - low > 1 {
        let middle = low.midpoint(high);
        if simulate(seed, Some(middle), false).is_err() { high = middle } else { low = middle }
    }
    let Err(found) = simulate(seed, Some(high), true) else {
        return println!("seed {seed} failed, and does not when it is played again");
    };
    found.lines.iter().for_each(|line| println!("{line}"));
    println!("\nseed {seed}, {high} steps: {}", found.message);
    println!(
        "replay: SIM_SEED={seed} cargo test -p hrl --test sim promises_hold_in_many_simulated -- --nocapture"
    );
}

fn steps_of(seed: u64) -> u64 {
    Random::new(!seed).within(150, 1500)
}

fn plan(random: &Random) -> Plan {
    let milliseconds = |low, high| Duration::from_millis(random.within(low, high));
    let region_bytes = random.pick(&[4096, 8192, 16 << 10, 32 << 10]);
    let policy = Policy {
        memory_budget_bytes: random.pick(&[16 << 10, 64 << 10, 256 << 10]),
        region_bytes,
        marked_regions_max: random.within(1, 12),
        segment_bytes_max: random.pick(&[4 << 10, 16 << 10, 128 << 10]),
        segment_interval: milliseconds(1, 200),
        frame_bytes: random.pick(&[1 << 10, 4 << 10, 32 << 10]),
        compression: random.pick(&[Compression::None, Compression::None, Compression::Zstd(1)]),
        spool_bytes_max: random.pick(&[32 << 10, 128 << 10, 1 << 20]),
        crash_point_interval: random.pick(&[Duration::ZERO, Duration::from_millis(100)]),
        puts_in_flight_max: random.within(1, 4) as u32,
        catalog_interval: random.pick(&[Duration::ZERO, Duration::from_millis(300)]),
        retry_interval_max: milliseconds(100, 4000),
        retention: None,
        ..Policy::default()
    };
    let key = random.one_in(3).then(|| WrappingKey::from_bytes([7; 32]));
    let discard = random.pick(&[Discarded::Zeroes, Discarded::Zeroes, Discarded::Ignored]);
    Plan {
        policy,
        disk_bytes: random.pick(&[64 << 10, 128 << 10, 256 << 10]),
        key,
        discard,
        hot: random.pick(&[1, 2, 4]),
        write_sectors_max: random.pick(&[16, 64, 100]),
    }
}

fn faults(random: &Random) -> Faults {
    let often = |choices: &[u64]| random.pick(choices);
    Faults {
        file_error: often(&[0, 0, 400, 60]),
        file_sync_error: often(&[0, 0, 200, 30]),
        disk_error: often(&[0, 0, 300, 60]),
        disk_flush_error: often(&[0, 0, 0, 100]),
        store_refuses: often(&[0, 50, 10]),
        store_loses_answer: often(&[0, 50, 10]),
        store_is_late: often(&[0, 0, 50, 10]),
    }
}

fn live(world: &Rc<World>, steps: u64) {
    let random = &world.random;
    let server = Arc::new(Server::default());
    // An empty vault: making one probes the store with threads.
    server.set_content("hrl-vault", b"hrl vault 1\n".as_slice().into());
    let site = Site::new(world, plan(random), &server, "disk");
    EVENT_HOOK.set(Some(Rc::downgrade(&site)));
    let others = Rc::downgrade(&site);
    world.set_others(Some(Rc::new(move || {
        if let Some(site) = others.upgrade() {
            site.act();
        }
    })));
    let faulty = faults(random);
    let crashes = random.pick(&[0, 60, 200, 500]);
    let mut oracle = Oracle::default();
    let mut down_until = Duration::ZERO;
    for _ in 0..steps {
        world.count(|counts| counts.steps += 1);
        if !site.is_alive() {
            site.crash(random.one_in(2));
            world.faults.set(if random.one_in(3) { faulty } else { Faults::default() });
            world.dies_at.set(None);
            if !site.start(false) {
                world.clock.advance(Duration::from_millis(random.within(1, 500)));
                continue;
            }
            world.faults.set(faulty);
        }
        match random.below(1000) {
            0..=2 => {
                server.set_down(true);
                world.inject("store is down");
                down_until = world.clock.elapsed()
                    + Duration::from_millis(random.pick(&[10, 300, 5_000, 60_000]));
            }
            3..=4 => {
                let room = site.files.bytes() + random.within(0, 40_000) as usize;
                site.files.set_room(room);
            }
            5..=8 => site.files.set_room(usize::MAX),
            9..=10 => {
                world.inject("clock jumps");
                let by = random.within(0, 7_200_000_000_000) as i64 - 3_600_000_000_000;
                let now = world.clock.now();
                world.clock.jump(Timestamp(now.0 + by));
            }
            11..=25 => oracle.look(&site, false),
            26..=30 => world.clock.advance(Duration::from_millis(random.within(100, 3000))),
            _ => site.act(),
        }
        if server.is_down() && world.clock.elapsed() >= down_until {
            server.set_down(false);
        }
        if crashes > 0 && random.one_in(crashes) && site.is_alive() {
            if random.one_in(2) {
                site.crash(random.one_in(2));
            } else {
                world.dies_at.set(Some(world.counts.get().requests + random.within(1, 60)));
            }
        }
    }
    finish(world, &site, &mut oracle);
}

/// No faults any more: everything comes together.
fn finish(world: &Rc<World>, site: &Rc<Site>, oracle: &mut Oracle) {
    world.faults.set(Faults::default());
    world.dies_at.set(None);
    site.server.set_down(false);
    site.server.deliver(Duration::ZERO, true);
    site.files.set_room(usize::MAX);
    if world.random.one_in(2) || !site.is_alive() {
        site.crash(world.random.one_in(2));
        assert!(site.start(false), "an agent does not start although nothing is wrong");
    }
    site.settle();
    oracle.look_at_the_end(site);
    if site.stop() {
        site.files.killed();
        // A segment that could not be removed is found, and then nothing is trusted.
        let clean = !world.injected.borrow().contains_key("file error");
        assert!(site.start(clean), "an agent does not start after a clean stop");
        assert!(!clean || site.mode() == Some(Mode::Ordered));
        site.settle();
        oracle.look_at_the_end(site);
    }
    site.crash(false);
}
