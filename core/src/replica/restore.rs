#![allow(unused, missing_docs, clippy::all, clippy::pedantic)] // stub
use crate::Sequence;
use std::path::PathBuf;
#[derive(Clone, Debug)]
pub enum RestoreTarget {
    /** Created sparse; `AlreadyExists` unless `overwrite`. */
    File { path: PathBuf, overwrite: bool },
    /** An existing block device or file of at least the size. Everything is written, zeroes too. */
    Device(PathBuf),
}
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreReport {
    pub sequence: Sequence,
    pub bytes_written: u64,
    pub bytes_zeroed: u64,
    pub segments: u64,
}
