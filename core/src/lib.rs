//! Continuous replication of disks as an embeddable library.
//!
//! `hrl` intercepts the writes to a block volume, keeps them in order in `.hrl` journals, ships those to a vault,
//! and gives the volume back as of any recovery point.

mod agent;
pub mod bytes;
pub mod capture;
mod clock;
pub mod device;
mod duration;
mod error;
mod event;
mod extent;
pub mod failover;
pub mod journal;
mod parallel;
mod point;
mod policy;
pub mod replica;
pub mod rules;
pub mod store;
pub mod sync;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod units;
pub mod vault;

#[cfg(any(test, feature = "testing"))]
pub use agent::{PlacedPoint, SteppedProtection, SteppedTask};
pub use agent::{Protection, ProtectionOptions, ProtectionStats, VolumeCut};
pub use clock::{Clock, ManualClock, SystemClock};
pub use duration::{TimeUnit, duration_text, parse_duration};
pub use error::{Error, ErrorKind, Result};
pub use event::{Cause, Event, EventKind, EventSink, Mode, no_events};
pub use extent::{Extent, ExtentSet};
pub use point::{GroupMark, GroupPoint, Quiesce, QuiesceRequest};
pub use policy::{
    Bandwidth, CaptureContent, Compression, Policy, RetentionPolicy, Thinning, WhenFull,
};
pub use units::{ChainHash, Epoch, KeyId, PointId, Sequence, Timestamp, VolumeId};

/// Compiles the Rust of the README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

/// Compiles the Rust of the guide.
#[cfg(doctest)]
#[doc = include_str!("../docs/embed-rust.md")]
struct Guide;
