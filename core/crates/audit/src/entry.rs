//! One entry of the log, as a line of JSON.

use hrl::{Error, Timestamp};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How an act ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was carried out.
    Done,
    /// It was permitted, and recorded before it was carried out. An entry with `Failed` follows if
    /// it failed.
    Permitted,
    /// It was refused, because the client has no right to it.
    Denied,
    /// It failed.
    Failed,
}

impl Outcome {
    /// Returns the name that it has in the log.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Permitted => "permitted",
            Self::Denied => "denied",
            Self::Failed => "failed",
        }
    }
}

/// Who did what, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When it began.
    #[serde(serialize_with = "put_time", deserialize_with = "read_time")]
    pub time: Timestamp,
    /// Name of the client, or another identity of who did it.
    pub client: String,
    /// Role of the client.
    pub role: String,
    /// What was done: `put`, `delete`, `get`, `list`, `connect` and others.
    pub verb: String,
    /// Objects that it was done to; a prefix that ends with `/` for puts that were counted.
    pub objects: Vec<String>,
    /// How it ended.
    pub outcome: Outcome,
    /// Why, if it was refused or failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// How often it was done, until the time of the next entry of this client at most.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub count: u64,
    /// Bytes of the objects, if they are known.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub bytes: u64,
}

impl Entry {
    /// Describes an act on objects that is permitted and about to be carried out.
    pub fn new(time: Timestamp, client: &str, role: &str, verb: &str, objects: &[String]) -> Self {
        Self {
            time,
            client: client.to_owned(),
            role: role.to_owned(),
            verb: verb.to_owned(),
            objects: objects.to_vec(),
            outcome: Outcome::Permitted,
            reason: String::new(),
            count: 1,
            bytes: 0,
        }
    }

    /// Sets that it was refused.
    pub fn denied(mut self, reason: &Error) -> Self {
        (self.outcome, self.reason) = (Outcome::Denied, reason.to_string());
        self
    }

    /// Sets that it failed.
    pub fn failed(mut self, reason: &Error) -> Self {
        (self.outcome, self.reason) = (Outcome::Failed, reason.to_string());
        self
    }

    /// Returns about how many bytes the entry takes in a batch.
    pub(crate) fn length(&self) -> usize {
        let objects: usize = self.objects.iter().map(|object| object.len() + 3).sum();
        200 + self.client.len() + self.reason.len() + objects
    }
}

fn one() -> u64 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_one(count: &u64) -> bool {
    *count == 1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(bytes: &u64) -> bool {
    *bytes == 0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
pub(crate) fn put_time<S: Serializer>(time: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(time)
}

pub(crate) fn read_time<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
    let text = String::deserialize(from)?;
    Timestamp::parse(&text).map_err(serde::de::Error::custom)
}
