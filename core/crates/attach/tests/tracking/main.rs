//! Tracking of loop devices and partitions: sets between checkpoints, refusals, and negative controls.
//!
//! Needs root, loop devices and BPF; without them the tests say so and pass.

mod checkpoints;
mod controls;
mod loops;
