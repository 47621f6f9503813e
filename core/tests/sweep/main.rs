//! Crash sweep: every write, sync and change of names of a life is a boundary at which the power
//! fails. The product recovers each image that the failure may leave, and the result is compared
//! with the promises. See `core/docs/testing.md`.

mod away;
#[path = "../sim/files.rs"]
#[allow(dead_code, reason = "of the simulation's files only their store is used")]
mod files;
mod fold;
mod image;
mod life;
mod machine;
mod rot;
mod sweep;
mod tape;
#[path = "../sim/world.rs"]
#[allow(dead_code, reason = "of the simulation's world no faults are used")]
mod world;

use crate::sweep::sweep;

/// By default one in this many images of a boundary is checked.
const STRIDE: usize = 5;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn life(name: &str, key: bool, stride: usize) {
    let (recording, history) = life::write_life(name, key);
    let setup = life::setup(key);
    sweep(&recording, stride, &|image, known| life::check(image, known, &history, &setup));
}

/// The power fails, and again while the agent recovers.
fn recoveries(name: &str, key: bool, count: usize, stride: usize) {
    let (recording, history) = life::write_life("", key);
    let setup = life::setup(key);
    let span = recording.ops.len() - recording.first;
    for number in 0..count {
        // Choose another image of another boundary each time.
        let at = recording.first + span * (number + 1) / count;
        let image = recording.image(at, number * 7 + 3);
        let known = recording.known_at(at).clone();
        let name = format!("{name}-{number}");
        let (again, history) =
            life::write_recovery(&name, &image, setup.clone(), history.clone(), known);
        sweep(&again, stride, &|image, known| life::check(image, known, &history, &setup));
    }
}

#[test]
fn promises_3_4_5_and_7_are_kept_after_a_power_failure_at_each_boundary_of_a_life() {
    life("life", false, STRIDE);
}

#[test]
fn promises_3_4_5_and_7_are_kept_after_a_power_failure_in_a_recovery() {
    recoveries("recovery", true, 6, STRIDE);
}

fn folds(name: &str, stride: usize) {
    let (recording, history) = fold::write_folds(name);
    sweep(&recording, stride, &|image, known| fold::check(image, known, &history));
}

fn away(name: &str, stride: usize) {
    let (recording, history) = away::write_away(name);
    sweep(&recording, stride, &|image, known| away::check(image, known, &history));
}

/// Damage a bit of each so many bytes, each sector, and the end before each sector, of each file of
/// the vault or of the agent.
fn rot(name: &str, key: bool, vault: bool, bytes: usize) {
    let (recording, history) = life::write_life(name, key);
    let setup = life::setup(key);
    // Before the end of the last start there is a backlog, and the dirty map is in use.
    let image = recording.image(recording.ops.len(), 0);
    let known = recording.known_at(recording.ops.len());
    let what = |path: &std::path::Path| path.starts_with(machine::VAULT) == vault;
    let (tried, failures) = rot::sweep(&image, bytes, what, &|image, path| {
        rot::check(image, path, known, &history, &setup);
    });
    println!("{name}: {tried} damages");
    failures.iter().take(12).for_each(|failure| println!("{failure}"));
    assert!(failures.is_empty(), "{name}: {} damages do not hold", failures.len());
}

/// Its removal was not durable once: it came back, did not fit what was there by then, and the
/// whole disk was read.
#[test]
fn promise_4_a_torn_segment_that_was_repaired_does_not_come_back() {
    let (recording, history) = life::write_repair("repair");
    let setup = life::setup(false);
    sweep(&recording, 2, &|image, known| life::check(image, known, &history, &setup));
}

#[test]
fn promises_3_and_5_are_kept_after_a_power_failure_at_each_boundary_of_retention() {
    folds("folds", STRIDE);
}

#[test]
fn promises_3_4_and_9_are_kept_after_a_power_failure_at_each_boundary_of_a_failover_and_the_way_home()
 {
    away("away", STRIDE);
}

#[test]
fn promise_11_content_that_a_disk_altered_or_misplaced_is_found() {
    rot("rot_of_the_vault", false, true, 97);
    rot("rot_of_the_agent", false, false, 29);
}

/// Syncs without which no promise is broken. A torn witness counts as none, so the disk is compared;
/// the record of the volume is read only by an agent whose vault is away, as `away.rs` has it.
const COSTS_TIME_ALONE: [&str; 2] = ["sync of witness.new in state", "sync of volume.new in state"];

/// A missing sync would be found: without the syncs of any one kind, some image breaks a promise.
fn each_sync_is_needed(stride: usize, every: usize) {
    if std::env::var("SWEEP").is_ok() {
        return;
    }
    let (recording, _) = life::write_life("life", false);
    let setup = life::setup(false);
    let mut needless = Vec::new();
    for kind in recording.syncs().into_iter().step_by(every) {
        let (recording, history) = life::write_life("life", false);
        let recording = recording.without(&kind);
        let check = |image: &image::Image, known: &life::Known| {
            life::check(image, known, &history, &setup);
        };
        let (_, found) = sweep::failures(&recording, stride, 1, &check);
        println!("{kind}: {}", found.first().map_or("NOT FOUND", |failure| &failure.text));
        if found.is_empty() && !COSTS_TIME_ALONE.contains(&&*kind) {
            needless.push(kind);
        }
    }
    assert!(needless.is_empty(), "these can be missed: {needless:?}");
}

#[test]
#[ignore = "long: a sweep for each kind of sync"]
fn each_kind_of_sync_is_needed() {
    each_sync_is_needed(3, 1);
}

#[test]
#[ignore = "long: all images, with and without a key"]
fn promises_3_4_5_and_7_are_kept_in_every_image_of_a_life() {
    life("whole_life", false, 1);
    life("encrypted_life", true, 1);
    recoveries("whole_recovery", false, 40, 1);
}

#[test]
#[ignore = "long: all images of retention and failover"]
fn promises_3_5_and_9_are_kept_in_every_image_of_retention_and_failover() {
    folds("whole_folds", 1);
    away("whole_away", 1);
}

#[test]
#[ignore = "long: each byte of an agent, and more of a vault, with and without a key"]
fn promise_11_each_byte_that_a_disk_altered_or_misplaced_is_found() {
    for key in [false, true] {
        rot("all_rot_of_the_vault", key, true, 16);
        rot("all_rot_of_the_agent", key, false, 1);
    }
}
