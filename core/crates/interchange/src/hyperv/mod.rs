//! Reads and writes Hyper-V Replica logs, and exchanges them with native segments.
//!
//! A log contains writes only. In an export a mark ends a log, and zeroes and discards become data.
//! The export reports all that it cannot carry.

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
