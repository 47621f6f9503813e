//! Hyper-V Replica logs: read, written, and exchanged with native segments.
//!
//! A log holds writes and nothing else. An export therefore reports what it could not carry, and never drops it
//! silently: a mark ends a log and begins the next of the chain, zeroes and discards become data.

mod codec;
mod exchange;
#[cfg(any(test, feature = "testing"))]
mod mend;
mod reader;
#[cfg(test)]
mod tests;

pub use codec::HypervHeader;
pub(crate) use codec::is_hyperv;
pub use exchange::{export_hyperv, import_hyperv};
#[cfg(any(test, feature = "testing"))]
pub use mend::mend_hyperv_log;
pub use reader::{HypervLog, HypervWrite};
