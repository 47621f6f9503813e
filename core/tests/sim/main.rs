//! Deterministic simulation: a seed decides workload, faults and schedule, and one thread does
//! everything. The promises of the design are checked against a model of the disk. See
//! `core/docs/testing.md`.

mod application;
mod away;
mod cloning;
mod disk;
mod failing;
mod files;
mod found;
mod found_back;
mod found_over;
mod gaps;
mod gateway;
mod going_back;
mod model;
mod oracle;
mod run;
mod site;
mod store;
mod swapping;
mod world;
mod writing;

use crate::run::{Outcome, simulate};

/// Seeds of `cargo test`.
const SEEDS: u64 = 100;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Failures after which a thread stops looking.
const FAILURES: usize = 8;

/// Runs seeds on all processors. Returns the outcome of all, or the first finding.
fn run_seeds(first: u64, count: u64) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    run::quiet_panics();
    let (clock, began) = (hrl::SystemClock::default(), std::sync::atomic::AtomicU64::new(first));
    let start = hrl::Clock::elapsed(&clock);
    let failures: Vec<(u64, String)> = std::thread::scope(|scope| {
        let work = || {
            let (mut outcome, mut failed) = (Outcome::default(), Vec::new());
            loop {
                let seed = began.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                if seed >= first + count || failed.len() >= FAILURES {
                    return (outcome, failed);
                }
                match simulate(seed, None, false) {
                    Ok(found) => outcome.add(found),
                    Err(found) => failed.push((seed, found.message)),
                }
            }
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut all = Outcome::default();
        let mut failures = Vec::new();
        for thread in threads {
            let (outcome, failed) = thread.join().expect("the harness does not panic");
            all.add(outcome);
            failures.extend(failed);
        }
        let took = hrl::Clock::elapsed(&clock).saturating_sub(start);
        println!("{count} seeds from {first} in {took:.1?}: {all}");
        failures
    });
    if let Some((seed, message)) = failures.iter().min() {
        failures.iter().for_each(|(seed, message)| println!("seed {seed}: {message}"));
        if variable("SIM_LINES") != Some(0) {
            run::explain(*seed, message);
        }
        panic!("{} seeds failed", failures.len());
    }
}

#[test]
fn promises_are_kept_in_many_simulated_lives() {
    let (first, count) = match variable("SIM_SEED") {
        Some(seed) => (seed, 1),
        None => (variable("SIM_FROM").unwrap_or(0), variable("SIM_SEEDS").unwrap_or(SEEDS)),
    };
    run_seeds(first, count);
}

#[test]
#[ignore = "long: the same with many seeds"]
fn promises_are_kept_in_many_more_simulated_lives() {
    run_seeds(1_000_000, 5_000);
}

#[test]
fn a_seed_replays_exactly() {
    for seed in [3, 17, 40] {
        let one = simulate(seed, None, false).expect("every promise is kept").hash;
        let other = simulate(seed, None, true).expect("every promise is kept").hash;
        assert_eq!(one, other, "seed {seed}");
    }
}
