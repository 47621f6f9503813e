//! vhost-user-blk server for disks of [`hrl`]: a virtual machine's disk without a socket in the way
//! of its data.
//!
//! [`VhostUserServer::start`] serves a [`Disk`] at a UNIX path, for one client at a time. The client
//! shares its memory, with up to [`VhostUserLimits::queues`] queues of virtio in it. One thread a
//! queue takes requests, a pool runs them, and they are answered in the order in which the client
//! made them available.
//!
//! Answers in order are what makes a killed server harmless: the queue says which requests were
//! answered, and its successor runs all others, some of them again. To write the same bytes again
//! changes nothing, because the client has not heard of the first time.
//!
//! Nothing in the client's memory is trusted: a write is copied out of it once, before device and
//! journal get it, a malformed request is answered with an error, and [`VhostUserLimits`] bounds
//! memory.
//!
//! ```no_run
//! use std::sync::Arc;
//! use hrl::device::MemoryDevice;
//! use hrl_vhost_user::{Disk, VhostUserLimits, VhostUserServer};
//!
//! # fn main() -> hrl::Result<()> {
//! let disk = Disk::Device(Arc::new(MemoryDevice::new(1 << 30)));
//! let server = VhostUserServer::start("/tmp/disk.sock".as_ref(), "disk", disk, VhostUserLimits::default())?;
//! println!("{}", server.stats().requests);
//! # Ok(())
//! # }
//! ```

mod backend;
mod config;
mod queue;
mod request;
mod server;
mod service;

pub use hrl_front::Disk;
pub use server::VhostUserServer;
pub use service::{VhostUserLimits, VhostUserStats};
