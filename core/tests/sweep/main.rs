//! Crash sweep: every write, sync and change of names of a life is a boundary at which the power fails, and each image
//! that the failure may leave is recovered by the product and compared with what was promised. See `core/docs/testing.md`.

#[path = "../sim/files.rs"]
#[allow(dead_code, reason = "of the simulation's files only what holds them is used")]
mod files;
mod image;
mod life;
mod machine;
mod sweep;
mod tape;
#[path = "../sim/world.rs"]
#[allow(dead_code, reason = "of the simulation's world no faults are used")]
mod world;

use crate::sweep::sweep;

/// Of the images of a boundary each so many is checked by default.
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
        // Another image of another boundary each time.
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
fn promises_3_4_5_and_7_hold_after_a_power_failure_at_each_boundary_of_a_life() {
    life("life", false, STRIDE);
}

#[test]
fn promises_3_4_5_and_7_hold_after_a_power_failure_in_a_recovery() {
    recoveries("recovery", true, 6, STRIDE);
}

#[test]
#[ignore = "long: all images, with and without a key"]
fn promises_3_4_5_and_7_hold_in_every_image_of_a_life() {
    life("whole_life", false, 1);
    life("sealed_life", true, 1);
    recoveries("whole_recovery", false, 40, 1);
}
