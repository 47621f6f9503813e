//! Checks which recovery states the volumes of a plan would come up at, and what that loses.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::definition::{Plan, PlanAt};
use super::fields::millis;
use super::record::Chosen;
use hrl::replica::{At, RecoveryPoint, Replica};
use hrl::vault::Vault;
use hrl::{Error, ErrorKind, PointId, Result, Sequence, Timestamp};
use serde_json::json;

/// Result of checking a plan: what a run would do now, and what prevents it.
#[derive(Debug)]
pub struct PlanCheck {
    /// Time of the check; ages count from it.
    pub time: Timestamp,
    /// The volumes that can come up, in the order of the plan.
    pub members: Vec<PredictedMember>,
    /// Why the other volumes cannot. Any problem prevents a run.
    pub problems: Vec<Error>,
}

impl PlanCheck {
    /// Returns the largest age: the RPO if the source failed now. `None` if no volume can come up.
    pub fn rpo(&self) -> Option<Duration> {
        self.members.iter().map(|member| member.age).max()
    }

    /// Returns the check as one line of JSON, in the style of
    /// [`RunReport::to_json`](super::RunReport::to_json). `group` is an index.
    pub fn to_json(&self) -> String {
        let members = self.members.iter().map(|member| {
            json!({
                "volume": member.volume,
                "group": member.group,
                "asked": member.asked.to_string(),
                "at": member.at.to_string(),
                "point": member.point.map(|point| point.to_string()),
                "sequence": member.sequence.0,
                "time": member.time.to_string(),
                "age_ms": millis(Some(member.age)),
                "consistency_group": member.consistency_group,
            })
        });
        json!({
            "time": self.time.to_string(),
            "rpo_ms": millis(self.rpo()),
            "members": members.collect::<Vec<_>>(),
            "problems": self.problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })
        .to_string()
    }
}

/// The recovery state that a volume would come up at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PredictedMember {
    /// Name of the volume.
    pub volume: String,
    /// Index of its group in the plan.
    pub group: usize,
    /// What the plan asks for.
    pub asked: PlanAt,
    /// The state chosen now: `Newest`, a point (a group point by the group's identity) or a
    /// sequence.
    pub at: At,
    /// The recovery point at that state; `None` if it is not at a point.
    pub point: Option<PointId>,
    /// Sequence of the state.
    pub sequence: Sequence,
    /// Time of the state.
    pub time: Timestamp,
    /// Age of the state at the check.
    pub age: Duration,
    /// The consistency group, if the state is one of its points.
    pub consistency_group: Option<String>,
}

impl Plan {
    /// Finds the recovery state of every volume. Problems of single volumes go into
    /// [`PlanCheck::problems`]; an error is returned if the vault does not answer.
    pub fn check(&self, vault: &Vault) -> Result<PlanCheck> {
        let time = vault.clock().now();
        let mut check = PlanCheck { time, members: Vec::new(), problems: Vec::new() };
        let mut found = Vec::new();
        for (group, member) in self.members() {
            match vault.replica(&member.volume) {
                Ok(replica) => found.push((group, member, replica)),
                Err(error) if error.kind() == ErrorKind::Unavailable => return Err(error),
                Err(error) => check.problems.push(error),
            }
        }
        let mut cuts: BTreeMap<Option<String>, Result<Cut>> = BTreeMap::new();
        for (_, member, _) in &found {
            if let PlanAt::NewestGroup(name) = &member.at {
                if !cuts.contains_key(name) {
                    let asks = |at: &PlanAt| *at == PlanAt::NewestGroup(name.clone());
                    let sharing: Vec<_> =
                        found.iter().filter(|(_, m, _)| asks(&m.at)).map(|(_, _, r)| r).collect();
                    cuts.insert(name.clone(), newest_cut(&sharing, name.as_deref()));
                }
            }
        }
        for (group, member, replica) in &found {
            match predict(replica, *group, &member.at, &cuts, time) {
                Ok(predicted) => check.members.push(predicted),
                Err(error) => check.problems.push(error),
            }
        }
        Ok(check)
    }
}

impl PredictedMember {
    /// Returns what a run that begins now records. The newest state stays `newest`, so that data
    /// that still arrives is not lost.
    pub(super) fn chosen(&self, planned: bool) -> Chosen {
        let at = if planned { At::Newest } else { self.at.clone() };
        let group = if planned { None } else { self.consistency_group.clone() };
        Chosen { volume: self.volume.clone(), at, group }
    }
}

/// A group point that all members asking for it have.
struct Cut {
    id: PointId,
    group: String,
}

fn predict(
    replica: &Replica,
    group: usize,
    asked: &PlanAt,
    cuts: &BTreeMap<Option<String>, Result<Cut>>,
    now: Timestamp,
) -> Result<PredictedMember> {
    let mut consistency_group = None;
    let at = match asked {
        PlanAt::Newest => At::Newest,
        PlanAt::NewestGood => At::Point(replica.newest_good()?.0.id),
        PlanAt::NewestGroup(name) => match cuts.get(name) {
            Some(Ok(cut)) => {
                consistency_group = Some(cut.group.clone());
                At::Point(cut.id)
            }
            Some(Err(error)) => return Err(error.duplicate()),
            None => unreachable!("every group that is asked for was looked for"),
        },
        PlanAt::At(at) => replica.meaning_of(at),
    };
    let sequence = replica.resolve(&at)?;
    let points = replica.points();
    let is_it = |point: &&RecoveryPoint| match &at {
        At::Point(id) => point.id == *id || point.group == Some(*id),
        _ => point.sequence == sequence,
    };
    let point = points.iter().rev().find(is_it);
    let time = match point {
        Some(point) => Some(point.time),
        None => replica.time_of(sequence)?,
    };
    let time = time.unwrap_or(replica.info().created);
    Ok(PredictedMember {
        volume: replica.info().name.clone(),
        group,
        asked: asked.clone(),
        at: match at {
            At::Newest | At::Point(_) => at,
            _ => point.map_or(At::Sequence(sequence), |point| At::Point(point.id)),
        },
        point: point.map(|point| point.id),
        sequence,
        time,
        age: Duration::from_nanos(now.nanos_since(time)),
        consistency_group,
    })
}

/// Returns the newest cut that every replica has complete, and that no check found bad in any.
fn newest_cut(replicas: &[&Replica], name: Option<&str>) -> Result<Cut> {
    let points: Vec<_> = replicas.iter().map(|replica| replica.points()).collect();
    let ids: BTreeSet<_> = points.iter().flatten().filter_map(|point| point.group).collect();
    let cut = ids.into_iter().rev().find_map(|id| {
        let group = replicas.iter().find_map(|replica| replica.catalog().commitment(id))?;
        let named = name.is_none_or(|name| group.name == name);
        let has = |(replica, points): (&&Replica, &Vec<RecoveryPoint>)| {
            let good = |p: &RecoveryPoint| p.group == Some(id) && p.verdicts.iter().all(|v| v.ok);
            points.iter().any(good) && replica.resolve(&At::Point(id)).is_ok()
        };
        let all = named && replicas.iter().zip(&points).all(has);
        all.then(|| Cut { id, group: group.name.clone() })
    });
    cut.ok_or_else(|| {
        let names: Vec<_> = replicas.iter().map(|replica| replica.info().name.as_str()).collect();
        Error::new(
            ErrorKind::NotFound,
            "find point",
            match name {
                Some(name) => format!("of consistency group {name}"),
                None => "of a consistency group".to_owned(),
            },
        )
        .expected(format_args!("one cut that all of [{}] have", names.join(", ")))
        .found("none")
    })
}
