//! Shared parts of the benchmarks: data that compresses like real disks.
