//! The life cycle of a volume: its failovers, test failovers and branches.

use crate::value::{Shown, mirror};

mirror! {
    /// A recorded step in the life cycle of a volume.
    FailoverStep(step: hrl::vault::Step) {
        /// Kind of the step.
        step: &'static str = step.kind,
        /// Identity of the failover or test failover that it belongs to.
        failover: String,
        /// Time of the step in UTC.
        time: String,
        /// Host that recorded it, for people.
        host: String,
        /// Sequence of the recovery state.
        sequence: u64 = step.at,
        /// Identity of the recovery point; None if the state is not a point.
        point: Option<String>,
        /// Time of the recovery state in UTC.
        point_time: String = step.at_time,
        /// Epoch of the volume after the failover.
        epoch: u32,
        /// Text for people, such as the reason of a cancellation.
        note: String,
    }
    shows step failover sequence point time;
}

mirror! {
    /// A test failover that is not cleaned up.
    TestFailover(test: hrl::vault::TestFailover) {
        /// Kind of the step that began it.
        step: &'static str = test.begin.kind,
        /// Identity of the test failover.
        failover: String = test.begin.failover,
        /// Time in UTC at which it began.
        time: String = test.begin.time,
        /// Host that began it.
        host: String = test.begin.host,
        /// Sequence of the recovery state to serve.
        sequence: u64 = test.begin.at,
        /// Identity of the recovery point; None if the state is not a point.
        point: Option<String> = test.begin.point,
        /// Time of the recovery state in UTC.
        point_time: String = test.begin.at_time,
        /// Epoch of the volume.
        epoch: u32 = test.begin.epoch,
        /// Text for people.
        note: String = test.begin.note,
        /// Name, unique among the test failovers of the volume.
        name: String,
    }
    shows name sequence point time;
}

mirror! {
    /// Changes that an old source made after the point of a failover. `Replica.branch` opens
    /// them.
    Branch(branch: hrl::vault::Branch) {
        /// Epoch that the failover ended.
        epoch: u32,
        /// Sequence at which the epoch ended.
        from_sequence: u64 = branch.at,
        /// Last sequence of the branch.
        last_sequence: u64 = branch.last_sequence(),
        /// Number of segments.
        segments: usize = branch.segments.len(),
        /// Stored size in bytes.
        stored_bytes: u64 = branch.stored_bytes(),
        /// Host that wrote it; None if no source had the volume.
        source: Option<String> = branch.source.as_ref().map(|source| source.host.clone()),
        /// Time in UTC at which the epoch ended.
        ended: String = branch.time,
    }
}

mirror! {
    /// The place of a volume in its life cycle.
    Lifecycle(replica: &hrl::replica::Replica) {
        /// Stage, such as "protected", "failed-over" or "committed".
        stage: &'static str = replica.catalog().lifecycle().stage(),
        /// Current epoch.
        epoch: u32 = replica.catalog().epoch(),
        /// Host of the source that has the volume; None if none has.
        source: Option<String> = replica.catalog().source().map(|source| source.host.clone()),
        /// Newest step of the failover that is under way or committed; None if there is none.
        current: Option<FailoverStep> = replica.catalog().lifecycle().current().cloned(),
        /// Recorded steps, oldest first.
        steps: Vec<FailoverStep> = replica.catalog().lifecycle().steps().to_vec(),
        /// Test failovers that are not cleaned up.
        tests: Vec<TestFailover> = replica.catalog().lifecycle().tests().to_vec(),
        /// Branches of ended epochs.
        branches: Vec<Branch> = replica.catalog().branches().to_vec(),
    }
    shows stage epoch source;
}

impl Lifecycle {
    /// The life cycle as the catalog of `replica` has it.
    pub(crate) fn of(replica: &hrl::replica::Replica) -> Self {
        replica.shown()
    }
}
