//! What fronts share. A *front* brings the requests of other software to a disk of [`hrl`]: over
//! NBD, or out of the memory of a virtual machine.
//!
//! A front keeps the promises of the library: each change of a protected volume goes through its
//! tap, an answered request is done, an answered flush is durable, and nothing that a client sends
//! is trusted. `conformance::check` (feature `testing`) tests that through a client.

#[cfg(feature = "testing")]
pub mod conformance;
mod disk;
mod pool;
mod socket;

pub use disk::Disk;
pub use pool::Pool;
pub use socket::listen_at;
