//! What is kept in the catalog of a change: verdicts on the points after it, a pin on the last one
//! before, and what takes both back.

use hrl::replica::{At, RecoveryPoint, Replica};
use hrl::vault::{PinUntil, Verdict, VerdictKind};
use hrl::{PointId, Result, Sequence};

/// Reason of the pin on the last point before a change.
const REASON: &str = "the last point before a suspicious change";
/// Text of verdicts on points that are trusted.
const TRUSTED: &str = "trusted";

/// Declares suspicious points to be good, and removes the pins that were set because of them.
/// Returns the points. Points that are taken later are suspicious only after another change.
pub fn trust(replica: &mut Replica, text: &str) -> Result<Vec<PointId>> {
    replica.refresh()?;
    let points = replica.points();
    let text = if text.is_empty() { TRUSTED } else { text };
    let mut found = Vec::new();
    // The newest first: by its verdict a running agent knows that the change is trusted.
    for point in points.iter().rev() {
        if verdict_on(point).is_some_and(|verdict| !verdict.ok) {
            replica.record_verdict(&At::Point(point.id), VerdictKind::Suspicious, true, text)?;
            found.push(point.id);
        }
    }
    if !found.is_empty() {
        for point in points.iter().filter(|point| point.pins.iter().any(|pin| pin.reason == REASON))
        {
            replica.unpin(&At::Point(point.id), false)?;
        }
    }
    Ok(found)
}

fn verdict_on(point: &RecoveryPoint) -> Option<&Verdict> {
    point.verdicts.iter().find(|verdict| verdict.kind == VerdictKind::Suspicious)
}

/// What the catalog says of a change.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Suspicious since this sequence.
    Suspicious(Sequence),
    /// Nothing is, or it was trusted.
    Calm,
}

/// Returns what the newest verdict says.
pub(crate) fn standing(points: &[RecoveryPoint]) -> Standing {
    let judged = points.iter().filter(|point| verdict_on(point).is_some());
    let is_bad = |point: &&RecoveryPoint| verdict_on(point).is_some_and(|verdict| !verdict.ok);
    match judged.clone().next_back().filter(is_bad) {
        Some(_) => judged
            .clone()
            .find(is_bad)
            .map_or(Standing::Calm, |point| Standing::Suspicious(point.sequence)),
        None => Standing::Calm,
    }
}

/// Returns whether somebody trusts a point since then.
pub(crate) fn is_trusted(points: &[RecoveryPoint], since: Sequence) -> bool {
    points
        .iter()
        .filter(|point| point.sequence >= since)
        .any(|point| verdict_on(point).is_some_and(|verdict| verdict.ok))
}

/// Gives the verdict to every point since then that has none, and pins the one before.
pub(crate) fn record(replica: &mut Replica, since: Sequence, text: &str) -> Result<()> {
    let points = replica.points();
    for point in points.iter().filter(|point| point.sequence >= since) {
        if verdict_on(point).is_none() {
            replica.record_verdict(&At::Point(point.id), VerdictKind::Suspicious, false, text)?;
        }
    }
    let last_good = points.iter().rfind(|point| point.sequence < since);
    let is_pinned = |point: &RecoveryPoint| point.pins.iter().any(|pin| !pin.is_legal_hold());
    if let Some(point) = last_good.filter(|point| !is_pinned(point)) {
        replica.pin(&At::Point(point.id), PinUntil::Forever, REASON)?;
    }
    Ok(())
}
