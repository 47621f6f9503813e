//! The audit log of a vault.

use hrl_audit::Head;
use pyo3::prelude::*;

use crate::errors::run;
use crate::value::{Shown, mirror};
use crate::vault::Vault;

mirror! {
    /// An entry of the audit log: who did what.
    AuditEntry(entry: (u64, String, hrl_audit::Entry)) {
        /// Number of its batch.
        batch: u64 = entry.0,
        /// Who recorded it.
        writer: String = entry.1.clone(),
        /// When it began.
        time: String = entry.2.time,
        /// Name of the client.
        client: String = entry.2.client.clone(),
        /// Role of the client.
        role: String = entry.2.role.clone(),
        /// What was done, such as "put" and "delete".
        verb: String = entry.2.verb.clone(),
        /// Objects that it was done to; a prefix of puts that were counted.
        objects: Vec<String> = entry.2.objects.clone(),
        /// How it ended: "done", "permitted", "denied" or "failed".
        outcome: &'static str = entry.2.outcome.name(),
        /// Why it was refused or failed.
        reason: String = entry.2.reason.clone(),
        /// How often it was done.
        count: u64 = entry.2.count,
        /// Bytes of the objects, if they are known.
        bytes: u64 = entry.2.bytes,
    }
    shows time client role verb objects outcome;
}

mirror! {
    /// The audit log of a vault.
    AuditLog(log: hrl_audit::AuditLog) {
        /// Entries in the order of the log.
        entries: Vec<AuditEntry>,
        /// What is wrong with the log; nothing if it is as its writers left it.
        findings: Vec<String> = log.findings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        /// The end of the log. Keep it elsewhere, and give it as `expected` later.
        head: String = log.head.to_string(),
    }
    shows head findings;
}

/// Reads and verifies the audit log of a vault: a batch that was removed, altered or reordered is a
/// finding. With `expected`, an earlier `head`, so is a removed end.
#[pyfunction]
#[pyo3(signature = (vault, *, expected=None))]
pub(crate) fn read_audit(
    py: Python<'_>,
    vault: &Vault,
    expected: Option<&str>,
) -> PyResult<AuditLog> {
    let vault = vault.inner()?;
    run(py, move || {
        let expected = expected.map(Head::parse).transpose()?;
        hrl_audit::AuditLog::read_expecting(&**vault.objects(), expected)
    })
    .map(Shown::shown)
}
