//! What retention keeps of a volume, and what it did.

use crate::value::mirror;

mirror! {
    /// A damaged object. It unpacks as `object, error`.
    unpacking Finding(finding: &hrl::replica::Finding) {
        /// Name of the object in the vault.
        object: String = finding.object.clone(),
        /// What is wrong with it.
        error: String = finding.error.to_string(),
    }
}

mirror! {
    /// The result of `Replica.compact`.
    CompactReport(report: hrl::replica::CompactReport) {
        /// Number of recovery states that the policy keeps beyond its full window.
        states_kept: u64,
        /// Number of segments before.
        segments_before: u64,
        /// Number of segments after.
        segments_after: u64,
        /// Number of folds.
        folds: u64,
        /// Number of points that are gone.
        points_dropped: u64,
        /// Bytes read from the vault.
        bytes_read: u64,
        /// Bytes written to the vault.
        bytes_written: u64,
        /// Number of objects deleted.
        objects_deleted: u64,
        /// Number of objects that wait for the end of their grace.
        objects_waiting: u64,
        /// Number of objects that no catalog version lists, which will be deleted.
        strays_retired: u64,
        /// Bytes that the volume holds above the limit of the policy.
        over_budget_bytes: u64,
        /// Whether another process was faster, so that some work was dropped.
        lost_race: bool,
        /// Damaged objects, which were left alone.
        findings: Vec<Finding> = report.findings.iter().collect::<Vec<_>>(),
    }
}

mirror! {
    /// A recovery state that retention keeps.
    KeptState(state: hrl::replica::KeptPoint) {
        /// Sequence of the state.
        sequence: u64,
        /// Time of the state in UTC.
        time: String,
        /// Identity of the recovery point; None if the state is not a point.
        point: Option<String>,
        /// Reason, such as "thinned", "pinned", "legal-hold" or "last-verified".
        reason: &'static str,
    }
}

mirror! {
    /// What retention would do now.
    RetentionPlan(plan: hrl::replica::RetentionPlan) {
        /// States older than the full window that stay, oldest first. Younger ones all stay.
        kept: Vec<KeptState>,
        /// Identities of points that a fold would drop.
        points_dropped: Vec<String> =
            plan.folds.iter().flat_map(|fold| fold.points_dropped.clone()).collect::<Vec<_>>(),
        /// Identities of points whose pins have expired.
        pins_expired: Vec<String>,
        /// Names of retired objects whose grace is over.
        objects_due: Vec<String>,
        /// Bytes that the volume holds above the limit of the policy.
        over_budget_bytes: u64,
    }
    shows kept points_dropped;
}
