//! Locks, condition variables, atomics and threads for the modules whose concurrency is modelled.
//!
//! Normally these are std's, with locks that cannot fail ([`lock`]). Tests built with `--cfg
//! shuttle` get shuttle's, which run one thread at a time and choose the next thread at each use.
//! Tests built with `--cfg loom` get loom's, which try every order, and every value that the memory
//! model lets a load return. `make concurrency` runs both. `core/docs/testing.md` lists what is
//! modelled.
//!
//! A modelled module takes everything that it waits for from here: a wait that the model does not
//! see would stop its only thread for good. What is shared but never waited for, such as `Arc`,
//! stays std's.

pub mod lock;
#[cfg(all(test, loom))]
mod loom;
#[cfg(all(test, shuttle))]
mod shuttle;

#[cfg(all(test, loom))]
pub(crate) use self::loom::*;
#[cfg(all(test, shuttle))]
pub(crate) use self::shuttle::*;
#[cfg(not(all(test, any(loom, shuttle))))]
pub(crate) use std::{
    sync::{OnceLock, atomic},
    thread, thread_local,
};

#[cfg(not(all(test, any(loom, shuttle))))]
pub use self::lock::{Condvar, Mutex, MutexGuard};
