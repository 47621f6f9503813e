//! The extension module `hrl._hrl`: the crate's handles as Python classes.
//!
//! The interpreter's lock is released around everything that may do I/O. Errors become `hrl.HrlError` or
//! a subclass, with the attributes `kind`, `operation`, `object` and `offset`.

#![allow(
    missing_docs,
    reason = "pyo3 makes public items of its own; the stub file documents the module"
)]

mod buffer;
mod callback;
mod device;
mod duration;
mod errors;
mod failover;
mod gateway;
mod group;
mod handle;
mod journal;
mod key;
mod mirror;
mod plan;
mod planner;
mod protection;
mod quiesce;
mod replica;
mod retention;
mod running;
mod serve;
mod tap;

use pyo3::prelude::*;

#[pymodule]
mod _hrl {
    #[pymodule_export]
    use crate::device::{Device, FileDevice, MemoryDevice, Overlay, Volume};
    #[pymodule_export]
    use crate::duration::parse_duration;
    #[pymodule_export]
    use crate::failover::{FailedOver, Follower, abandon_failover, cancel_failover};
    #[pymodule_export]
    use crate::gateway::{Gateway, create_authority, enroll_client};
    #[pymodule_export]
    use crate::group::{GroupCoordinator, GroupMark, GroupMember, GroupPoint};
    #[pymodule_export]
    use crate::journal::{Record, RecordIterator, Segment, convert, generate_key, inspect_hyperv};
    #[pymodule_export]
    use crate::key::Key;
    #[pymodule_export]
    use crate::mirror::Mirror;
    #[pymodule_export]
    use crate::plan::{
        Plan, PlanMember, PlanRequest, approve_plan_step, plan_report, plan_runs, resume_plan,
    };
    #[pymodule_export]
    use crate::planner::{churn, plan_capacity};
    #[pymodule_export]
    use crate::protection::{Protection, RecoveryPoint, Stats, TimelineEntry};
    #[pymodule_export]
    use crate::quiesce::run_watchdog;
    #[pymodule_export]
    use crate::replica::{ChangeSet, Replica, Vault, View};
    #[pymodule_export]
    use crate::retention::{Pin, Verdict};
    #[pymodule_export]
    use crate::serve::NbdServer;
    #[pymodule_export]
    use crate::tap::{Tap, Ticket};
    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let end_all = wrap_pyfunction!(crate::running::end_all, module)?;
        module.py().import("atexit")?.call_method1("register", (end_all,))?;
        crate::quiesce::use_interpreter(module)
    }
}
