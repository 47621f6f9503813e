//! The extension module `hrl._hrl`: the crate's handles as Python classes.
//!
//! Files stand here in the order in which they build on each other; none uses a later one. The interpreter's lock is
//! released around every call that may do I/O. Errors become `hrl.HrlError` or a subclass, see `errors`. Docs of what Python
//! sees are for Python, and stand in `hrl/_hrl.pyi`, too.

#![allow(missing_docs, reason = "pyo3 makes public items of its own")]
#![allow(clippy::doc_lazy_continuation, reason = "docs of Python have its examples")]

mod buffer;
mod errors;
mod running;
mod value;
mod wait;

mod callback;
mod callback_device;
mod callback_store;
mod events;
mod handle;

mod extent;
mod point;

mod at;
mod churn;
mod device;
mod duration;
mod key;
mod lifecycle;
mod quiesce;
mod retention;
mod tap;
mod volume_info;

mod changes;
mod view;

mod replica;

mod journal;
mod planner;
mod vault;

mod audit;
mod group;
mod maintenance;
mod mirror;
mod plan;
mod protection;

mod attach;

mod failover;
mod follower;
mod gateway;

mod tracker;

mod serve;

use pyo3::prelude::*;

/// Handles of the crate.
///
/// Calls that may do I/O release the interpreter's lock. Handles may be used from any
/// thread, and are closed by `close`, `stop` or the end of their `with` block. A closed
/// handle raises `ValueError`.
///
/// Offsets and lengths are in bytes and limits in seconds. Times are text in UTC, or
/// nanoseconds since 1970 in attributes that end in `_ns`. Where a time is taken, a
/// `datetime` with a time zone is taken too.
///
/// A recovery state (`at`) is a `RecoveryPoint` or `GroupPoint`, a sequence number, a
/// `datetime`, or text: "newest", "newest-good", a label, a point's id, a sequence, or a time such
/// as "2026-11-21T09:30:00Z". A label that exists wins over what else a text may mean, except
/// "newest" and "newest-good"; "label:L", "point:DIGITS", "sequence:N" and "time:T" mean one thing.
/// "newest-good" is the newest point that checks found good; if nothing was checked, the newest
/// application-consistent point, or the newest.
///
/// Results are small frozen objects with attributes. A field is also found by name
/// (`report["segments"]`), and `dict(report)` gives all fields.
#[pymodule]
mod _hrl {
    #[pymodule_export]
    use crate::attach::{Attachment, AttachmentStats};
    #[pymodule_export]
    use crate::audit::{AuditEntry, AuditLog, read_audit};
    #[pymodule_export]
    use crate::changes::ChangeSet;
    #[pymodule_export]
    use crate::churn::{Churn, ChurnBucket, ChurnPercentiles, ChurnTotal};
    #[pymodule_export]
    use crate::device::{Device, FileDevice, MemoryDevice, Overlay, Volume};
    #[pymodule_export]
    use crate::duration::parse_duration;
    #[pymodule_export]
    use crate::extent::{ChangedRun, Extent};
    #[pymodule_export]
    use crate::failover::{
        FailedOver, FailoverPreview, FailoverStart, Hydration, abandon_failover, cancel_failover,
    };
    #[pymodule_export]
    use crate::follower::{CatchUp, Follower, FollowerStatus};
    #[pymodule_export]
    use crate::gateway::{
        CertificateRights, Gateway, GatewayStats, certificate_rights, create_authority,
        enroll_client, renew_client, renew_server, request_client, revoke_client,
    };
    #[pymodule_export]
    use crate::group::{
        GroupCoordinator, GroupMember, GroupMemberStats, GroupMemberStatus, GroupStatus,
    };
    #[pymodule_export]
    use crate::journal::{
        ExportReport, HypervSummary, ImportReport, MarkEntry, Record, RecordIterator, Segment,
        SegmentSummary, convert, generate_key, inspect_hyperv,
    };
    #[pymodule_export]
    use crate::key::Key;
    #[pymodule_export]
    use crate::lifecycle::{Branch, FailoverStep, Lifecycle, TestFailover};
    #[pymodule_export]
    use crate::maintenance::{
        DeletedVolume, MaintainedVolume, Maintainer, PurgeReport, Undeleted, deleted,
        deletion_delay, set_deletion_delay, undelete,
    };
    #[pymodule_export]
    use crate::mirror::{Mirror, MirroredVolume};
    #[pymodule_export]
    use crate::plan::{
        Plan, PlanMember, PlanRequest, approve_plan_step, plan_report, plan_runs, resume_plan,
    };
    #[pymodule_export]
    use crate::planner::{
        CapacityDay, CapacityPlan, CapacitySample, CapacityVolume, churn, plan_capacity,
    };
    #[pymodule_export]
    use crate::point::{GroupMark, GroupPoint, Pin, RecoveryPoint, TimelineEntry, Verdict};
    #[pymodule_export]
    use crate::protection::{Protection, Stats};
    #[pymodule_export]
    use crate::quiesce::run_watchdog;
    #[pymodule_export]
    use crate::replica::{
        CatalogVersion, GoodPoint, PointBytes, Replica, ReplicaTotals, RestoreReport, SegmentEntry,
        VerifyReport,
    };
    #[pymodule_export]
    use crate::retention::{CompactReport, Finding, KeptState, RetentionPlan};
    #[pymodule_export]
    use crate::serve::{NbdServer, NbdStats};
    #[pymodule_export]
    use crate::tap::{Tap, Ticket};
    #[pymodule_export]
    use crate::tracker::{Checkpoint, DiskChanges, Tracker, TrackerStatus};
    #[pymodule_export]
    use crate::vault::{GroupPoints, KeyRotation, ShredReport, UnreadVolume, Vault, VolumeRekeyed};
    #[pymodule_export]
    use crate::view::View;
    #[pymodule_export]
    use crate::volume_info::VolumeInfo;
    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        let end_all = wrap_pyfunction!(crate::running::end_all, module)?;
        module.py().import("atexit")?.call_method1("register", (end_all,))?;
        crate::quiesce::use_interpreter(module)
    }
}
