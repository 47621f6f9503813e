//! Changed blocks of a disk that is in use, observed without a driver, a reboot or a freeze.
//!
//! Two small BPF programs on tracepoints of the kernel's block layer mark each block that a request
//! changes ([`Tracker`]). They send no events, so nothing can overflow. What they missed is found:
//! the kernel's own counters are the audit. From the marks a [`Follower`] makes exact,
//! crash-consistent copies of the disk while its writers go on.
//!
//! Kernel 5.12 or newer with BTF, and root or `CAP_BPF`, `CAP_PERFMON` and `CAP_SYS_ADMIN`, are
//! needed. Disks whose drivers take requests are observed: virtio, SCSI, NVMe, loop. The programs
//! are assembled here from the kernel's description of its types, without clang or libbpf.
#![deny(missing_docs)]

mod assembler;
mod btf;
mod cut;
mod disk;
mod layout;
mod program;
mod sys;
mod tracker;

pub use cut::{Cut, CutOptions, Follower, Receiver};
pub use layout::BLOCK_BYTES;
pub use tracker::{Audit, Tracker};
