//! Freezing a mounted file system: FIFREEZE and FITHAW of `linux/fs.h`.
//!
//! A frozen file system has written everything out, its journal included. Its writers wait until it
//! is thawed. The freeze belongs to the file system, not to the process, and outlives the process.

#![allow(unsafe_code, reason = "two ioctls that rustix does not name")]

use std::ffi::c_int;
use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::ioctl::{NoArg, Opcode, ioctl, opcode};

const FIFREEZE: Opcode = opcode::read_write::<c_int>(b'X', 119);
const FITHAW: Opcode = opcode::read_write::<c_int>(b'X', 120);

/// Freezes the file system of `file`. `BUSY`: it is frozen already; `OPNOTSUPP`: it cannot be
/// frozen.
pub(crate) fn freeze(file: impl AsFd) -> Result<(), Errno> {
    // SAFETY: FIFREEZE does not look at its argument, and touches no memory of the process.
    unsafe { ioctl(file, NoArg::<FIFREEZE>::new()) }
}

/// Thaws the file system of `file`. `INVAL`: it is not frozen.
pub(crate) fn thaw(file: impl AsFd) -> Result<(), Errno> {
    // SAFETY: FITHAW does not look at its argument, and touches no memory of the process.
    unsafe { ioctl(file, NoArg::<FITHAW>::new()) }
}
