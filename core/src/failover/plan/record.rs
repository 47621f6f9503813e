//! What the log of a run holds, as JSON.
//!
//! | `kind` | fields | written |
//! |---|---|---|
//! | `run` | `plan`, `text`, `mode`, `planned`, `commit`, `time`, `failed_at`, `points` | first, once |
//! | `runner` | `id`, `process`, `time` | when a runner takes the run |
//! | `begin` | `step`, `try`, `time` | before a step acts |
//! | `process` | `step`, `process` | before a program of a step begins |
//! | `end` | `step`, `time`, `ms`, `outcome`, `message`, `output`, `started`, `approval` | after a step ended |
//! | `ended` | `outcome`, `message`, `time` | last; a later `runner` takes it back |

use super::approval::Approval;
use super::command::Process;
use super::definition::RunMode;
use super::host::{Started, text_of};
use super::log::Log;
use super::state::{RunOutcome, StepOutcome};
use crate::error::Result;
use crate::json::{Json, object};
use crate::replica::At;
use crate::units::{PointId, Sequence, Timestamp};

/// What the first record says.
#[derive(Clone, Debug)]
pub(super) struct Header {
    pub plan: String,
    pub text: String,
    pub mode: RunMode,
    pub planned: bool,
    /// A real run is committed at its end.
    pub commit: bool,
    pub time: Timestamp,
    pub failed_at: Option<Timestamp>,
    /// Of each volume: the state to come up at, and the group that it shares it with.
    pub points: Vec<Chosen>,
}

/// The state chosen for a volume when its run began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chosen {
    pub volume: String,
    pub at: At,
    /// It is a point of this consistency group.
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
    pub(super) fn to_json(&self) -> Json {
        match self {
            Self::Run(header) => object([
                ("kind", "run".into()),
                ("plan", header.plan.as_str().into()),
                ("text", header.text.as_str().into()),
                ("mode", header.mode.name().into()),
                ("planned", header.planned.into()),
                ("commit", header.commit.into()),
                ("time", time_json(header.time)),
                ("failed_at", header.failed_at.map(time_json).into()),
                ("points", header.points.iter().map(Chosen::to_json).collect::<Vec<_>>().into()),
            ]),
            Self::Runner { id, process, time } => object([
                ("kind", "runner".into()),
                ("id", id.as_str().into()),
                ("process", process.to_json()),
                ("time", time_json(*time)),
            ]),
            Self::Begin { step, attempt, time } => object([
                ("kind", "begin".into()),
                ("step", u64::from(*step).into()),
                ("try", u64::from(*attempt).into()),
                ("time", time_json(*time)),
            ]),
            Self::Process { step, process } => object([
                ("kind", "process".into()),
                ("step", u64::from(*step).into()),
                ("process", process.to_json()),
            ]),
            Self::End { step, end } => object([
                ("kind", "end".into()),
                ("step", u64::from(*step).into()),
                ("time", time_json(end.time)),
                ("ms", end.ms.into()),
                ("outcome", end.outcome.name().into()),
                ("message", end.message.as_str().into()),
                ("output", end.output.as_str().into()),
                ("started", end.started.as_ref().map(started_json).into()),
                ("approval", end.approval.as_ref().map(Approval::to_json).into()),
            ]),
            Self::Ended { outcome, message, time } => object([
                ("kind", "ended".into()),
                ("outcome", outcome.name().into()),
                ("message", message.as_str().into()),
                ("time", time_json(*time)),
            ]),
        }
    }

    /// `Corrupt` when it is no record; `number` is its place in the log.
    pub(super) fn from_json(value: &Json, log: &Log, number: u32) -> Result<Self> {
        Self::read(value).ok_or_else(|| log.bad(number, "a record of a run"))
    }

    fn read(value: &Json) -> Option<Self> {
        let step = || u32::try_from(value.get("step")?.number()?).ok();
        Some(match value.get("kind")?.text()? {
            "run" => Self::Run(Header {
                plan: text(value, "plan")?,
                text: text(value, "text")?,
                mode: RunMode::from_name(value.get("mode")?.text()?)?,
                planned: flag(value, "planned")?,
                commit: flag(value, "commit")?,
                time: time(value, "time")?,
                failed_at: time(value, "failed_at"),
                points: value
                    .get("points")?
                    .array()
                    .iter()
                    .map(Chosen::read)
                    .collect::<Option<_>>()?,
            }),
            "runner" => Self::Runner {
                id: text(value, "id")?,
                process: Process::read(value.get("process")?)?,
                time: time(value, "time")?,
            },
            "begin" => Self::Begin {
                step: step()?,
                attempt: u32::try_from(value.get("try")?.number()?).ok()?,
                time: time(value, "time")?,
            },
            "process" => {
                Self::Process { step: step()?, process: Process::read(value.get("process")?)? }
            }
            "end" => Self::End {
                step: step()?,
                end: End {
                    time: time(value, "time")?,
                    ms: value.get("ms")?.number()?,
                    outcome: StepOutcome::from_name(value.get("outcome")?.text()?)?,
                    message: text(value, "message")?,
                    output: text(value, "output")?,
                    started: match value.get("started")? {
                        Json::Null => None,
                        started => Some(read_started(started)?),
                    },
                    approval: match value.get("approval")? {
                        Json::Null => None,
                        approval => Some(Approval::read(approval)?),
                    },
                },
            },
            "ended" => Self::Ended {
                outcome: RunOutcome::from_name(value.get("outcome")?.text()?)?,
                message: text(value, "message")?,
                time: time(value, "time")?,
            },
            _ => return None,
        })
    }
}

impl Chosen {
    fn to_json(&self) -> Json {
        object([
            ("volume", self.volume.as_str().into()),
            ("at", text_of(&self.at).into()),
            ("group", self.group.as_deref().into()),
        ])
    }

    fn read(value: &Json) -> Option<Self> {
        let at = At::parse(value.get("at")?.text()?).ok()?;
        if !matches!(at, At::Newest | At::Point(_) | At::Sequence(_)) {
            return None;
        }
        let group = value.get("group")?.text().map(str::to_owned);
        Some(Self { volume: text(value, "volume")?, at, group })
    }
}

pub(super) fn time_json(time: Timestamp) -> Json {
    time.to_string().into()
}

pub(super) fn text(value: &Json, name: &str) -> Option<String> {
    value.get(name)?.text().map(str::to_owned)
}

pub(super) fn time(value: &Json, name: &str) -> Option<Timestamp> {
    Timestamp::parse(value.get(name)?.text()?).ok()
}

fn flag(value: &Json, name: &str) -> Option<bool> {
    if let Json::Bool(value) = value.get(name)? { Some(*value) } else { None }
}

pub(super) fn started_json(started: &Started) -> Json {
    object([
        ("uri", started.uri.as_str().into()),
        ("point", started.point.map(|point| point.to_string()).into()),
        ("sequence", started.sequence.0.into()),
        ("point_time", time_json(started.point_time)),
    ])
}

fn read_started(value: &Json) -> Option<Started> {
    let point = value.get("point")?.text();
    Some(Started {
        uri: text(value, "uri")?,
        point: match point {
            Some(text) => Some(PointId::parse(text)?),
            None => None,
        },
        sequence: Sequence(value.get("sequence")?.number()?),
        point_time: time(value, "point_time")?,
    })
}
