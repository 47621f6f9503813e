//! Options and results of a capacity plan.

use std::time::Duration;

use hrl::{Policy, Timestamp};

/// What to plan for.
#[derive(Clone, Debug)]
pub struct PlanOptions {
    /// The policy of every volume: rotation, throttle with its schedule, puts in flight, spool,
    /// retention. Default: [`Policy::default`].
    pub policy: Policy,
    /// Capacity of the link to the vault in bytes per second, all volumes together. Default `None`:
    /// as much as the policy permits.
    pub link_bytes_per_second: Option<u64>,
    /// Time that the store takes to answer any request. Default 20 ms.
    pub request_latency: Duration,
    /// Writes before this time are left out. Default: none.
    pub from: Option<Timestamp>,
    /// Writes at or after this time are left out. Default: none.
    pub to: Option<Timestamp>,
    /// Deletion delay of the vault: deleted objects take space for so long. Default: none.
    pub deletion_delay: Duration,
    /// Days of the vault to simulate, 1 to 3,660. Default: two more than the window of retention
    /// and the deletion delay, after which the vault no longer grows; 30 without retention.
    pub days: Option<u32>,
    /// Target for which the slowest sufficient link is found: the RPO stays below it for 99 % of
    /// the time. Default: none.
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
            deletion_delay: Duration::ZERO,
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
    /// Objects deleted. A store that deletes many at once needs fewer requests.
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

/// Prediction for one day of the vault.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DayPlan {
    /// Bytes in the vault at the end of the day: segments, objects that wait for deletion or were
    /// deleted and can be brought back, catalogs.
    pub vault_bytes: u64,
    /// Requests on that day.
    pub requests: Requests,
}

/// One of the equal parts of a plan's time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlanSample {
    /// When the part begins.
    pub start: Timestamp,
    /// Highest RPO of any volume.
    pub rpo_max: Duration,
    /// Most bytes in the spools of all volumes.
    pub spool_bytes_max: u64,
    /// Bytes added to the journals.
    pub sealed_bytes: u64,
    /// Bytes sent over the link.
    pub sent_bytes: u64,
}

/// Prediction for one volume.
#[derive(Clone, Debug, PartialEq)]
pub struct VolumePlan {
    /// Name of the volume.
    pub name: String,
    /// Highest RPO.
    pub rpo_max: Duration,
    /// RPO that is not exceeded for 99 % of the time.
    pub rpo_p99: Duration,
    /// RPO that is not exceeded for half of the time.
    pub rpo_median: Duration,
    /// Most bytes in the spool.
    pub spool_bytes_max: u64,
    /// When the policy's spool is full and capture falls back to the dirty map. Later figures are
    /// those of an unlimited spool.
    pub spool_full_at: Option<Timestamp>,
    /// Segments that are shipped.
    pub segments: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Bytes of the volume that were written to, counting each once.
    pub unique_bytes: u64,
    /// Bytes that are shipped.
    pub shipped_bytes: u64,
    /// When the last segment is published.
    pub shipped_at: Timestamp,
    /// Bytes kept by folds are an estimate from a sample of the volume.
    pub is_sampled: bool,
    /// Days of the vault, for this volume alone.
    pub days: Vec<DayPlan>,
}

/// A capacity plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Begin of the journals that were played.
    pub from: Timestamp,
    /// End of these journals; shipping may take longer.
    pub to: Timestamp,
    /// Predictions by volume, in the given order.
    pub volumes: Vec<VolumePlan>,
    /// Share of the link's capacity that is used from begin to end; `None` without a link.
    pub link_use: Option<f64>,
    /// Link and throttles carry more than the journals bring, so the backlog of one repetition is
    /// gone in the next.
    pub is_sustainable: bool,
    /// Slowest link in bytes per second that keeps every volume's RPO target. `None` without a
    /// target, or if no link is fast enough: the policy's schedule, latency or rotation is too
    /// slow.
    pub least_bytes_per_second: Option<u64>,
    /// Days of the vault, all volumes together.
    pub days: Vec<DayPlan>,
    /// Bytes in the vault when it no longer grows; `None` if that is later than the simulated days.
    pub steady_bytes: Option<u64>,
    /// The time in equal parts.
    pub samples: Vec<PlanSample>,
}
