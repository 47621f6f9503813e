//! NBD server for disks of [`hrl`]: the way in for software that cannot link the library, such as
//! QEMU, libnbd and the Linux kernel.
//!
//! An [`Export`] gives a [`Volume`](hrl::capture::Volume) or any
//! [`BlockDevice`](hrl::device::BlockDevice) a name; [`NbdServer::start`] serves exports on an
//! [`NbdAddress`]. Changes of a protected volume go through its tap.
//!
//! One thread and one io_uring for each connection carry socket and disk. Zeroing, discarding,
//! flushing, and devices that are not plain files go to a small pool of threads, whose results come
//! back through an eventfd. Where the system denies io_uring, as containers do by default, reads
//! and writes go to the pool too; [`NbdServer::engine`] says so. The server speaks fixed newstyle,
//! structured replies, and block status with each export's own contexts. A client may open several
//! connections.
//!
//! Nothing that a client sends is trusted: [`NbdLimits`] bounds connections, requests, memory and
//! time.
//!
//! ```no_run
//! use std::sync::Arc;
//! use hrl::device::MemoryDevice;
//! use hrl_nbd::{Export, NbdAddress, NbdLimits, NbdServer};
//!
//! # fn main() -> hrl::Result<()> {
//! let disk = Arc::new(MemoryDevice::new(1 << 30));
//! let exports = vec![Export::device("disk", disk)];
//! let address = NbdAddress::parse("unix:/tmp/nbd.sock")?;
//! let server = NbdServer::start(&address, exports, NbdLimits::default())?;
//! println!("{}", server.uri("disk"));
//! # Ok(())
//! # }
//! ```

mod address;
mod connection;
mod engine;
mod export;
mod handshake;
mod ring;
mod server;
mod service;
mod stream;
#[cfg(feature = "tls")]
mod tls;
mod wire;

pub use address::NbdAddress;
pub use engine::NbdEngine;
pub use export::{Export, ExportContext};
pub use hrl_front::Disk;
pub use server::NbdServer;
pub use service::{NbdLimits, NbdStats};
#[cfg(feature = "tls")]
pub use tls::{NbdTls, RefusalSink};
