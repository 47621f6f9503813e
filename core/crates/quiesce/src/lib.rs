//! Application-consistent recovery points: quiesces databases, guests, file systems and scripts
//! around a mark.
//!
//! [`Applications`] implements [`Quiesce`](hrl::Quiesce) for lines such as `postgresql:dbname=app`
//! or `fs:/srv`; the guide's page `core/docs/quiesce.md` lists them. [`InOrder`] combines it with
//! providers of your own.
//!
//! ```no_run
//! use hrl::ProtectionOptions;
//! # use std::sync::Arc;
//! # use hrl::{Policy, Result};
//! # fn open(disk: Arc<dyn hrl::device::BlockDevice>, vault: hrl::vault::Vault) -> Result<()> {
//! use hrl_quiesce::Applications;
//!
//! let applications = Applications::parse(["postgresql:dbname=app", "fs:/srv"])?;
//! let protection = ProtectionOptions::new("disk", disk, vault, "/var/lib/hrl/disk")
//!     .applications(Arc::new(applications))
//!     .open()?;
//! protection.mark_app("before the upgrade")?;
//! # Ok(())
//! # }
//! ```
//!
//! Invariant: what is quiesced is released at the limit, even if the agent is killed, hangs or is
//! stopped. A separate process, the watchdog, guarantees it ([`run_watchdog`], [`set_watchdog`]).

mod applications;
mod child;
mod filesystem;
mod freeze;
mod kinds;
mod locate;
mod mariadb;
mod order;
mod postgresql;
mod provider;
mod qemu;
mod redis;
mod script;
mod session;
mod signals;
mod spec;
mod sqlite;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod watchdog;
mod wire;

use std::time::Duration;

pub use applications::Applications;
pub use locate::set_watchdog;
pub use order::InOrder;
pub use watchdog::run_watchdog;

/// How long the release of one application may take.
const RELEASE_LIMIT: Duration = Duration::from_secs(10);
