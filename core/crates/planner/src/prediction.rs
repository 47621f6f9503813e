//! What a plan is asked for, and what it predicts.

use std::time::Duration;

use hrl::{Policy, Timestamp};

/// What to plan for.
#[derive(Clone, Debug)]
pub struct PlanOptions {
    /// The policy of every volume: rotation, throttle with its schedule, puts in flight, spool, retention. Default:
    /// [`Policy::default`].
    pub policy: Policy,
    /// Bytes a second that the link to the vault carries, all volumes together. `None`: as many as the policy allows.
    /// Default: none.
    pub link_bytes_per_second: Option<u64>,
    /// Time that the store takes to answer any request. Default 20 ms.
    pub request_latency: Duration,
    /// Writes before this time are left out. Default: none.
    pub from: Option<Timestamp>,
    /// Writes at or after this time are left out. Default: none.
    pub to: Option<Timestamp>,
    /// Days of the vault that are played, 1 to 3,660. Default: two more than the window of the retention, after which it no
    /// longer grows; 30 where everything is kept.
    pub days: Option<u32>,
    /// Find the slowest link with which the RPO keeps below this for 99 % of the time. Default: none.
    pub rpo_target: Option<Duration>,
}

impl Default for PlanOptions {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            link_bytes_per_second: None,
            request_latency: Duration::from_millis(20),
            from: None,
            to: None,
            days: None,
            rpo_target: None,
        }
    }
}

/// Requests to a store, by verb.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Requests {
    /// Objects put.
    pub put: f64,
    /// Ranges got.
    pub get: f64,
    /// Lists.
    pub list: f64,
    /// Heads.
    pub head: f64,
    /// Objects deleted; a store that deletes many at once takes fewer requests.
    pub delete: f64,
}

impl Requests {
    pub(super) fn add(&mut self, other: &Self) {
        self.put += other.put;
        self.get += other.get;
        self.list += other.list;
        self.head += other.head;
        self.delete += other.delete;
    }
}

/// A day of the vault.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DayPlan {
    /// Bytes in the vault at its end: segments, those that wait for their deletion, catalogs.
    pub vault_bytes: u64,
    /// Requests on that day.
    pub requests: Requests,
}

/// A part of the time of a plan.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlanSample {
    /// When it begins.
    pub start: Timestamp,
    /// Highest RPO of any volume in it.
    pub rpo_max: Duration,
    /// Most bytes in the spools of all volumes.
    pub spool_bytes_max: u64,
    /// Bytes that the journals grew by in it.
    pub sealed_bytes: u64,
    /// Bytes that went over the link in it.
    pub sent_bytes: u64,
}

/// What is predicted for one volume.
#[derive(Clone, Debug, PartialEq)]
pub struct VolumePlan {
    /// Its name.
    pub name: String,
    /// Highest RPO.
    pub rpo_max: Duration,
    /// RPO that is not exceeded for 99 % of the time.
    pub rpo_p99: Duration,
    /// RPO that is not exceeded for half of the time.
    pub rpo_median: Duration,
    /// Most bytes in the spool.
    pub spool_bytes_max: u64,
    /// When the spool of the policy is full, and capture falls back to the dirty map; what is said of later times is then
    /// that of a spool without a limit.
    pub spool_full_at: Option<Timestamp>,
    /// Segments that are shipped.
    pub segments: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Bytes of the volume that were written to, each counted once.
    pub unique_bytes: u64,
    /// Bytes that are shipped.
    pub shipped_bytes: u64,
    /// When the catalog names the last segment.
    pub shipped_at: Timestamp,
    /// The bytes kept by folds are an estimate from a sample of the volume.
    pub is_sampled: bool,
    /// Days of the vault, for this volume alone.
    pub days: Vec<DayPlan>,
}

/// What is predicted.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Begin of the journals that were played.
    pub from: Timestamp,
    /// Their end; shipping may take longer.
    pub to: Timestamp,
    /// By volume, as they were given.
    pub volumes: Vec<VolumePlan>,
    /// Share of what the link carries from begin to end that is used; `None` without a link.
    pub link_use: Option<f64>,
    /// The journals bring less than the link and the throttles carry, so that the backlog of one repetition is gone in the
    /// next.
    pub is_sustainable: bool,
    /// Slowest link in bytes a second that keeps the RPO target of every volume; `None` without a target, or where no link
    /// does: the policy's schedule, latency or rotation is too slow.
    pub least_bytes_per_second: Option<u64>,
    /// The days of the vault, all volumes together.
    pub days: Vec<DayPlan>,
    /// Bytes in the vault when it no longer grows; `None` when that is not reached in the days played.
    pub steady_bytes: Option<u64>,
    /// The time in equal parts.
    pub samples: Vec<PlanSample>,
}
