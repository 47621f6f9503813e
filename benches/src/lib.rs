//! Shared parts of the benchmarks: data that compresses like real disks, input of the stages, and
//! ratios of two things measured in turns.

mod data;
mod disk;
mod log;
mod turns;
mod wide;

pub use data::{BLOCK_BYTES, Random, disk_like, random};
pub use disk::ChangedDisk;
pub use log::{FRAME_BYTES, Nowhere, log_params, open_log, write_log};
pub use turns::{Ratio, compare};
pub use wide::{WideVolume, volume_info};
