//! Continuous replication of disks as an embeddable library.
//!
//! `hrl` captures every write to a volume in order, stores it in `.hrl` journals and ships those to a
//! vault. From the vault it gives the volume back as of any recovery point: as a read-only view, as a
//! restored disk, or as a failover that goes on elsewhere.
//!
//! ```
//! use std::{sync::Arc, time::Duration};
//!
//! use hrl::device::{BlockDevice, Durability, MemoryDevice};
//! use hrl::journal::PointKind;
//! use hrl::replica::{At, ViewOptions};
//! use hrl::store::DirStore;
//! use hrl::vault::Vault;
//! use hrl::{ProtectionOptions, SystemClock};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let home = tempfile::tempdir()?;
//! let minute = Duration::from_secs(60);
//!
//! // A vault is a store that contains replicas, here in a directory.
//! let store = Arc::new(DirStore::create(&home.path().join("vault"))?);
//! let vault = Vault::create(store, None, SystemClock::shared())?;
//!
//! // Track a disk. Its first copy is taken while it is written to.
//! let disk = Arc::new(MemoryDevice::new(64 << 20));
//! let state = home.path().join("state");
//! let protection = ProtectionOptions::new("disk", disk, vault.clone(), state).open()?;
//! protection.wait_ordered(minute)?;
//!
//! // Write, take a point, write over it, and ship everything.
//! protection.volume().write(4096, b"before", Durability::Cached)?;
//! let point = protection.mark(PointKind::Crash, "before the change")?;
//! protection.volume().write(4096, b"after!", Durability::Cached)?;
//! protection.stop(minute)?;
//!
//! // View the disk as of the point, without a restore.
//! let view = vault.replica("disk")?.view(&At::Point(point.id), &ViewOptions::default())?;
//! let mut found = [0; 6];
//! view.read(4096, &mut found)?;
//! assert_eq!(&found, b"before");
//! # Ok(())
//! # }
//! ```
//!
//! The modules follow the data: [`device`] and [`store`] are what a volume is on and where replicas
//! lie; [`capture`] puts writes in order; [`journal`] stores them; [`vault`] and [`replica`] find them
//! again; [`failover`] moves a volume. A [`Protection`] runs all of it for one volume.

mod macros;

mod error;

pub mod bytes;
mod clock;
mod duration;
mod event;
mod extent;
mod parallel;
mod policy;
pub mod sync;
mod units;

pub mod device;
pub mod store;

pub mod journal;

pub mod capture;
mod point;

pub mod vault;

pub mod replica;

mod agent;

pub mod failover;

pub mod rules;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use clock::{Clock, ManualClock, SystemClock};
pub use duration::{TimeUnit, duration_text, parse_duration};
pub use error::{Error, ErrorKind, Result};
pub use event::{Cause, Event, EventKind, EventSink, Mode, Severity, no_events};
pub use extent::{Extent, ExtentSet};
pub use policy::{
    Bandwidth, CaptureContent, Compression, Policy, RetentionPolicy, Thinning, WhenFull,
};
pub use units::{ChainHash, Epoch, KeyId, PointId, Sequence, Timestamp, VolumeId};

pub use point::{GroupMark, GroupPoint, Quiesce, QuiesceRequest};

pub use agent::{Inspector, Protection, ProtectionOptions, ProtectionStats, VolumeCut};
#[cfg(any(test, feature = "testing"))]
pub use agent::{PlacedPoint, SteppedProtection, SteppedTask};

/// Compiles the Rust of the README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

/// Compiles the Rust of the guide.
#[cfg(doctest)]
#[doc = include_str!("../docs/embed-rust.md")]
struct Guide;
