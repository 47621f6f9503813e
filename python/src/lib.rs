//! The extension module `hrl._hrl`: the crate's handles as Python classes.
//!
//! The interpreter's lock is released around everything that may do I/O. Errors become `hrl.HrlError` or
//! a subclass, with the attributes `kind`, `operation`, `object` and `offset`.

#![allow(
    missing_docs,
    reason = "pyo3 makes public items of its own; the stub file documents the module"
)]

mod errors;
mod protection;
mod replica;
mod serve;

use pyo3::prelude::*;

#[pymodule]
mod _hrl {
    #[pymodule_export]
    use crate::protection::{Protection, RecoveryPoint, Stats, TimelineEntry};
    #[pymodule_export]
    use crate::replica::{
        ChangeSet, Replica, Segment, Vault, View, convert, generate_key, inspect_hyperv,
    };
    #[pymodule_export]
    use crate::serve::NbdServer;
    #[allow(unused_imports, reason = "the macro wants the prelude in scope")]
    use pyo3::prelude::*;
}
