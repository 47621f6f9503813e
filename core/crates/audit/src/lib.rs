//! The audit log of a vault: who added, deleted and was refused what.
//!
//! [`Audit`] appends entries, in batches; gateways, maintainers and other programs share one log.
//! [`AuditLog`] reads and verifies it. [`AuditedStore`] records what is deleted through it.
//!
//! The log is a chain: each batch is an object `audit/NUMBER` that names the hash of the batch
//! before. A batch that was removed, altered or reordered is found, and so is a removed end if the
//! reader knows a later head, or once the writer that put it goes on. Whoever can write to the
//! vault directly can still make a whole new chain: keep a [`Head`] elsewhere to find that.

mod batch;
mod entry;
mod log;
mod store;
mod writer;

pub use batch::Head;
pub use entry::{Entry, Outcome};
pub use log::{AuditLog, Finding};
pub use store::AuditedStore;
pub use writer::{Audit, INTERVAL};
