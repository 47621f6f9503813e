//! Changed blocks of a disk that is in use, observed without a driver, a reboot or a freeze.
//!
//! Two small BPF programs on tracepoints of the kernel's block layer mark each block that a request
//! changes ([`Tracker`]). They send no events, so nothing can overflow. What they missed is found:
//! the kernel's own counters are the audit. From the marks a [`Follower`] makes exact,
//! crash-consistent copies of the disk while its writers go on. [`Checkpoints`] keep no data: they say
//! which extents changed between one and another, for backup programs. An [`Attachment`] makes
//! recovery points of clean cuts: it protects the disk with hrl, by points at intervals.
//!
//! Kernel 5.12 or newer with BTF, and root or `CAP_BPF`, `CAP_PERFMON` and `CAP_SYS_ADMIN`, are
//! needed. Disks whose drivers take requests are observed: virtio, SCSI, NVMe, loop. The programs
//! are assembled here from the kernel's description of its types, without clang or libbpf.
#![deny(missing_docs)]

mod assembler;
mod attachment;
mod btf;
mod checkpoints;
mod clockwork;
mod cut;
mod cutter;
mod disk;
mod layout;
mod observed;
mod place;
mod preflight;
mod program;
mod record;
mod stopwatch;
mod sys;
mod tracker;

pub use attachment::{Attachment, AttachmentOptions};
pub use checkpoints::{Checkpoint, Checkpoints, DiskChanges, TrackOptions, TrackStatus};
pub use cut::{Cut, CutOptions, Follower, Receiver};
pub use cutter::AttachmentStats;
pub use layout::BLOCK_BYTES;
#[doc(hidden)]
pub use program::Fault;
pub use record::Everything;
pub use tracker::{Audit, Tracker};
