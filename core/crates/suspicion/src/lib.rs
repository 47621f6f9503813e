//! Notices when data of a volume is suddenly encrypted, from the writes that its journal records.
//!
//! ```no_run
//! # fn open(device: std::sync::Arc<dyn hrl::device::BlockDevice>, vault: hrl::vault::Vault) -> hrl::Result<()> {
//! use hrl::{ProtectionOptions, no_events};
//! use hrl_suspicion::Suspicion;
//!
//! let state = std::path::Path::new("/var/lib/hrl/disk");
//! let suspicion = Suspicion::begin("disk", vault.clone(), state, no_events());
//! let options = ProtectionOptions::new("disk", device, vault, state).inspector(suspicion);
//! # Ok(())
//! # }
//! ```
//!
//! One block in [`SAMPLED_ONE_IN`] is looked at, always the same ones. A block of text, tables or
//! programs has few distinct byte values, and one that is compressed or encrypted has many. The
//! bytes of encrypted blocks are equally frequent as far as statistics can tell, those of gzip,
//! zstd, bzip2, JPEG and video are not. LZMA (xz, 7z) cannot be told from encryption.
//!
//! From a sudden change on, points get the bad verdict `suspicious` until somebody trusts them
//! ([`trust`]). The annotations of the catalog say what is trusted, so `trust` may run on any
//! machine, and a restarted agent goes on where it was.

mod judge;
mod known;
mod sample;
mod verdicts;
mod watch;

pub use judge::Change;
pub use sample::SAMPLED_ONE_IN;
pub use verdicts::trust;
pub use watch::Suspicion;
