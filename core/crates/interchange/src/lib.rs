//! Journals of [`hrl`] exchanged with formats of other software.
//!
//! Two formats are read and written: logs of Hyper-V Replica ([`HypervLog`]) and logs of the Linux
//! kernel's dm-log-writes ([`LogWritesLog`]). [`convert_to_hyperv`], [`convert_to_log_writes`] and
//! [`convert_to_native`] convert whole files.
//!
//! Neither format carries all that a segment holds. An export therefore returns an
//! [`ExportReport`], which names everything that was not carried, or was carried as something else.
//! Any input is read or refused with an error that names the place.
//!
//! ```no_run
//! use hrl::{SystemClock, journal::KeyRing};
//! # fn main() -> hrl::Result<()> {
//! let segments = ["journal".into()];
//! let report = hrl_interchange::convert_to_hyperv(
//!     &segments,
//!     "replica-log".as_ref(),
//!     &KeyRing::default(),
//!     &SystemClock::default(),
//! )?;
//! for warning in report.warnings {
//!     println!("{warning}");
//! }
//! # Ok(())
//! # }
//! ```

mod convert;
mod export;
mod foreign;
mod hyperv;
mod log_writes;

pub use convert::{convert_to_hyperv, convert_to_log_writes, convert_to_native};
pub use export::ExportReport;
pub use foreign::ForeignFormat;
#[cfg(any(test, feature = "testing"))]
pub use hyperv::mend_hyperv_log;
pub use hyperv::{HypervHeader, HypervLog, HypervWrite, export_hyperv, import_hyperv};
pub use log_writes::{
    LogWritesBody, LogWritesEntry, LogWritesLog, export_log_writes, import_log_writes,
};

/// Returns bytes that no other object has as its identity.
fn random_id(clock: &dyn hrl::Clock) -> [u8; 16] {
    let mut id = [0; 16];
    clock.fill_random(&mut id);
    id
}
