//! How a plan brings one volume up, commits it and takes it down: the door for embedders.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::definition::{Member, RunMode};
use hrl::replica::At;
use hrl::{PointId, Result, Sequence, Timestamp};

/// What a host is asked for.
pub struct StartRequest<'a> {
    /// Identity of the run.
    pub run: &'a str,
    /// Test or real.
    pub mode: RunMode,
    /// The source is there still: its last bytes come first.
    pub planned: bool,
    /// The state to come up at. A group point is named by the group's identity.
    pub at: &'a At,
    /// Directory for the failover's state: that of the member, in a test one of the run's in it. `None` when the plan names none.
    pub state: Option<PathBuf>,
    /// Address at which to serve, that of this mode. `None` when the plan names none.
    pub nbd: Option<&'a str>,
    /// How long it may take; the run does not stop a host that takes longer, so the host keeps to it.
    pub limit: Duration,
    /// Looked at now and then: when it is set the host gives up with an error.
    pub stop: StopFlag,
}

impl StartRequest<'_> {
    /// The state as [`At::parse`] and `--at` of the command `hrl` understand it.
    pub fn at_text(&self) -> String {
        text_of(self.at)
    }
}

/// A state that a run chose, as text that is understood again.
pub(super) fn text_of(at: &At) -> String {
    match at {
        At::Point(point) => point.to_string(),
        At::Sequence(sequence) => sequence.to_string(),
        _ => "newest".to_owned(),
    }
}

/// Whether what is under way has to end: the run was asked to stop, or was lost to another runner.
#[derive(Clone, Debug, Default)]
pub struct StopFlag(pub(super) Arc<AtomicBool>);

impl StopFlag {
    /// It has to.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// A volume that is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// Where it is served: `HRL_URI` of commands.
    pub uri: String,
    /// The recovery point that it came up at; `None` when the state is none.
    pub point: Option<PointId>,
    /// The sequence of that state.
    pub sequence: Sequence,
    /// The time of that state.
    pub point_time: Timestamp,
}

/// Brings volumes up for plans.
///
/// Contract: calls for different members come at the same time from different threads, those for one member one after the
/// other. Each may come again for the same run and member, because the runner was killed before it recorded the answer: `start` then finds
/// what is up already and starts nothing twice; `commit` and `clean_up` of what is done already succeed. `start` returns once the volume is
/// served, and what serves it outlives the runner.
pub trait PlanHost: Send + Sync {
    /// Brings a volume up.
    fn start(&self, member: &Member, request: &StartRequest<'_>) -> Result<Started>;
    /// Commits the failover of a volume, of a real run only.
    fn commit(&self, member: &Member, request: &StartRequest<'_>) -> Result<()>;
    /// Takes a test failover down with all that it left, also one whose start failed or was cut off.
    fn clean_up(&self, member: &Member, request: &StartRequest<'_>) -> Result<()>;
}
