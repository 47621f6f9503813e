//! Continuous replication of disks as an embeddable library.
//!
//! `hrl` captures every write to a volume in order, stores it in `.hrl` journals and ships those to a
//! vault. From the vault it gives the volume back as of any recovery point: as a read-only view, as a
//! restored disk, or as a failover that goes on elsewhere.
#![doc = include_str!("example.md")]
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

pub use agent::{
    Inspector, Observation, Protection, ProtectionOptions, ProtectionStats, VolumeCut,
};
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
