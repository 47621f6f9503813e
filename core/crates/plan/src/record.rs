//! Records in the log of a run, as JSON.
//!
//! | `kind` | fields | written |
//! |---|---|---|
//! | `run` | `plan`, `text`, `mode`, `planned`, `commit`, `time`, `failed_at`, `points` | first, once |
//! | `runner` | `id`, `process`, `time` | when a runner takes the run |
//! | `begin` | `step`, `try`, `time` | before a step acts |
//! | `process` | `step`, `process` | before a program of a step begins |
//! | `end` | `step`, `time`, `ms`, `outcome`, `message`, `output`, `started`, `approval` | after a step ended |
//! | `ended` | `outcome`, `message`, `time` | last; a later `runner` takes it back |

use hrl::replica::At;
use hrl::{PointId, Sequence, Timestamp};
use serde_json::{Value, json};

use super::command::Process;
use super::definition::RunMode;
use super::fields::{flag, nullable, number, small_number, text, time};
use super::host::{Started, text_of};
use super::outcome::{Approval, RunOutcome, StepOutcome};

/// The first record.
#[derive(Clone, Debug)]
pub(super) struct Header {
    pub plan: String,
    pub text: String,
    pub mode: RunMode,
    pub planned: bool,
    /// Commit a real run at its end.
    pub commit: bool,
    pub time: Timestamp,
    pub failed_at: Option<Timestamp>,
    /// Of each volume: the recovery state to come up at, and the group that shares it.
    pub points: Vec<Chosen>,
}

/// The recovery state chosen for a volume when its run began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chosen {
    pub volume: String,
    pub at: At,
    /// The consistency group, if the state is one of its points.
    pub group: Option<String>,
}

#[derive(Clone, Debug)]
pub(super) enum Record {
    Run(Header),
    Runner { id: String, process: Process, time: Timestamp },
    Begin { step: u32, attempt: u32, time: Timestamp },
    Process { step: u32, process: Process },
    End { step: u32, end: End },
    Ended { outcome: RunOutcome, message: String, time: Timestamp },
}

/// How a step ended.
#[derive(Clone, Debug)]
pub(super) struct End {
    pub time: Timestamp,
    pub ms: u64,
    pub outcome: StepOutcome,
    pub message: String,
    pub output: String,
    pub started: Option<Started>,
    pub approval: Option<Approval>,
}

impl Record {
    pub(super) fn to_json(&self) -> Value {
        match self {
            Self::Run(header) => json!({
                "kind": "run",
                "plan": header.plan,
                "text": header.text,
                "mode": header.mode.name(),
                "planned": header.planned,
                "commit": header.commit,
                "time": header.time.to_string(),
                "failed_at": header.failed_at.map(|time| time.to_string()),
                "points": header.points.iter().map(Chosen::to_json).collect::<Vec<_>>(),
            }),
            Self::Runner { id, process, time } => json!({
                "kind": "runner",
                "id": id,
                "process": process.to_json(),
                "time": time.to_string(),
            }),
            Self::Begin { step, attempt, time } => json!({
                "kind": "begin",
                "step": step,
                "try": attempt,
                "time": time.to_string(),
            }),
            Self::Process { step, process } => json!({
                "kind": "process",
                "step": step,
                "process": process.to_json(),
            }),
            Self::End { step, end } => json!({
                "kind": "end",
                "step": step,
                "time": end.time.to_string(),
                "ms": end.ms,
                "outcome": end.outcome.name(),
                "message": end.message,
                "output": end.output,
                "started": end.started.as_ref().map(started_json),
                "approval": end.approval.as_ref().map(Approval::to_json),
            }),
            Self::Ended { outcome, message, time } => json!({
                "kind": "ended",
                "outcome": outcome.name(),
                "message": message,
                "time": time.to_string(),
            }),
        }
    }

    /// Reads a record; `None` for anything else. Ignores unknown fields.
    pub(super) fn read(value: &Value) -> Option<Self> {
        let step = || small_number(value, "step");
        let process = || Process::read(value.get("process")?);
        Some(match value.get("kind")?.as_str()? {
            "run" => Self::Run(Header {
                plan: text(value, "plan")?,
                text: text(value, "text")?,
                mode: RunMode::from_name(value.get("mode")?.as_str()?)?,
                planned: flag(value, "planned")?,
                commit: flag(value, "commit")?,
                time: time(value, "time")?,
                failed_at: time(value, "failed_at"),
                points: value
                    .get("points")?
                    .as_array()?
                    .iter()
                    .map(Chosen::read)
                    .collect::<Option<_>>()?,
            }),
            "runner" => Self::Runner {
                id: text(value, "id")?,
                process: process()?,
                time: time(value, "time")?,
            },
            "begin" => Self::Begin {
                step: step()?,
                attempt: small_number(value, "try")?,
                time: time(value, "time")?,
            },
            "process" => Self::Process { step: step()?, process: process()? },
            "end" => Self::End {
                step: step()?,
                end: End {
                    time: time(value, "time")?,
                    ms: number(value, "ms")?,
                    outcome: StepOutcome::from_name(value.get("outcome")?.as_str()?)?,
                    message: text(value, "message")?,
                    output: text(value, "output")?,
                    started: nullable(value, "started", read_started)?,
                    approval: nullable(value, "approval", Approval::read)?,
                },
            },
            "ended" => Self::Ended {
                outcome: RunOutcome::from_name(value.get("outcome")?.as_str()?)?,
                message: text(value, "message")?,
                time: time(value, "time")?,
            },
            _ => return None,
        })
    }
}

impl Chosen {
    fn to_json(&self) -> Value {
        json!({ "volume": self.volume, "at": text_of(&self.at), "group": self.group })
    }

    fn read(value: &Value) -> Option<Self> {
        let at = match At::parse(value.get("at")?.as_str()?).ok()? {
            At::LabelOr(_, other) => *other,
            at => at,
        };
        if !matches!(at, At::Newest | At::Point(_) | At::Sequence(_)) {
            return None;
        }
        let group = value.get("group")?.as_str().map(str::to_owned);
        Some(Self { volume: text(value, "volume")?, at, group })
    }
}

pub(super) fn started_json(started: &Started) -> Value {
    json!({
        "uri": started.uri,
        "point": started.point.map(|point| point.to_string()),
        "sequence": started.sequence.0,
        "point_time": started.point_time.to_string(),
    })
}

fn read_started(value: &Value) -> Option<Started> {
    Some(Started {
        uri: text(value, "uri")?,
        point: nullable(value, "point", |point| PointId::parse(point.as_str()?))?,
        sequence: Sequence(number(value, "sequence")?),
        point_time: time(value, "point_time")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records of an earlier version are read and written again byte for byte, except for escapes
    /// of control characters.
    #[test]
    fn records_keep_their_fields_and_order() {
        for line in include_str!("../tests/records/plain.jsonl").lines() {
            let value = serde_json::from_str(line).expect("JSON");
            let record = Record::read(&value).expect(line);
            let expected = line.replace("\\u007f", "\u{7f}").replace("\\u0009", "\\t");
            assert_eq!(record.to_json().to_string(), expected);
        }
    }

    #[test]
    fn a_record_without_one_of_its_fields_is_refused() {
        for line in include_str!("../tests/records/plain.jsonl").lines() {
            let whole: Value = serde_json::from_str(line).expect("JSON");
            for field in whole.as_object().expect("an object").keys().filter(|f| *f != "failed_at")
            {
                let mut value = whole.clone();
                value.as_object_mut().expect("an object").shift_remove(field);
                assert!(Record::read(&value).is_none(), "{line} without {field}");
            }
        }
    }
}
