//! Tracking of loop devices and partitions: sets between checkpoints, refusals, and negative controls.
//!
//! Needs root, loop devices and BPF; without them the tests say so and pass.
#![allow(clippy::disallowed_methods, reason = "real disks take real time")]

mod checkpoints;
mod controls;
mod cuts;
mod loops;
#[path = "../parts/mod.rs"]
mod parts;
