//! The interface by which a plan brings up, commits and takes down one volume; embedders implement
//! it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::definition::{Member, RunMode};
use hrl::replica::At;
use hrl::{PointId, Result, Sequence, Timestamp};

/// A request to a host.
pub struct StartRequest<'a> {
    /// Identity of the run.
    pub run: &'a str,
    /// Test or real.
    pub mode: RunMode,
    /// The source is still running: its last bytes come first.
    pub planned: bool,
    /// The recovery state to come up at. A group point is given by the group's identity.
    pub at: &'a At,
    /// State directory for the failover: the member's, or in a test the run's own directory in it.
    /// `None` if the plan has none.
    pub state: Option<PathBuf>,
    /// Address at which to serve in this mode. `None` if the plan has none.
    pub nbd: Option<&'a str>,
    /// Time limit. The host must keep it; the run does not stop a slow host.
    pub limit: Duration,
    /// Checked by the host now and then; once set, the host fails.
    pub stop: StopFlag,
}

impl StartRequest<'_> {
    /// Returns the state as text for [`At::parse`] and the command's `--at`, which no label of the
    /// volume changes.
    pub fn at_text(&self) -> String {
        let kind = match self.at {
            At::Point(_) => "point:",
            At::Sequence(_) => "sequence:",
            _ => "",
        };
        format!("{kind}{}", text_of(self.at))
    }
}

/// Returns a chosen state as the text of records.
pub(super) fn text_of(at: &At) -> String {
    match at {
        At::Point(point) => point.to_string(),
        At::Sequence(sequence) => sequence.to_string(),
        _ => "newest".to_owned(),
    }
}

/// Set when work under way must end: the run was stopped or lost to another runner.
#[derive(Clone, Debug, Default)]
pub struct StopFlag(pub(super) Arc<AtomicBool>);

impl StopFlag {
    /// Returns whether work must end.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// A volume that is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// Where it is served: `HRL_URI` of commands.
    pub uri: String,
    /// The recovery point that it came up at; `None` if that state is not at a point.
    pub point: Option<PointId>,
    /// Sequence of that state.
    pub sequence: Sequence,
    /// Time of that state.
    pub point_time: Timestamp,
}

/// Brings volumes up for plans.
///
/// Contract: calls for different members come at the same time from different threads; calls for
/// one member come one after the other. A call may be repeated for the same run and member, because
/// the runner was killed before it recorded the answer. Then `start` finds what is up already and
/// starts nothing twice, and `commit` and `clean_up` succeed if their work is done. `start` returns
/// once the volume is served; the server outlives the runner.
pub trait PlanHost: Send + Sync {
    /// Brings a volume up.
    fn start(&self, member: &Member, request: &StartRequest<'_>) -> Result<Started>;
    /// Commits the failover of a volume; in real runs only.
    fn commit(&self, member: &Member, request: &StartRequest<'_>) -> Result<()>;
    /// Takes a test failover down with all that it left, even if its start failed or was
    /// interrupted.
    fn clean_up(&self, member: &Member, request: &StartRequest<'_>) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_label_changes_what_a_run_chose() {
        let point = PointId([18; 16]);
        for (at, text) in [
            (At::Newest, "newest".to_owned()),
            (At::Sequence(Sequence(3)), "sequence:3".to_owned()),
            (At::Point(point), format!("point:{point}")),
        ] {
            let request = StartRequest {
                run: "r",
                mode: RunMode::Test,
                planned: false,
                at: &at,
                state: None,
                nbd: None,
                limit: Duration::ZERO,
                stop: StopFlag::default(),
            };
            assert_eq!(request.at_text(), text);
            let read = At::parse(&text).expect("a state");
            assert!(!matches!(read, At::Label(_) | At::LabelOr(..)), "{read:?}");
        }
    }
}
