//! The part of points: the applications that are quiesced for them, and how many points there are.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::journal::PointKind;
use crate::point::Quiesce;
use crate::sync::lock::{Mutex, MutexGuard};
use crate::units::{PointId, Sequence, Timestamp};

/// A mark that is in the write order and not yet durable.
pub(super) struct PlacedMark {
    pub point: PointId,
    pub kind: PointKind,
    pub label: String,
    pub sequence: Sequence,
    pub time: Timestamp,
    /// Losses of the journal when it was placed.
    pub losses: u64,
    /// When it was placed, by the interval clock.
    pub since: Duration,
    /// How long applications were quiesced for it.
    pub quiesced: Option<Duration>,
}

/// Points of one session.
pub(super) struct Points {
    /// The applications of the options.
    applications: Option<Arc<dyn Quiesce>>,
    /// Locked while applications are quiesced.
    quiescing: Mutex<()>,
    taken: AtomicU64,
}

impl Points {
    /// Begins a session in which `applications` are quiesced by policy and on demand.
    pub fn new(applications: Option<Arc<dyn Quiesce>>) -> Self {
        Self { applications, quiescing: Mutex::new(()), taken: AtomicU64::new(0) }
    }

    /// Returns the applications of the options.
    pub fn applications(&self) -> Option<&Arc<dyn Quiesce>> {
        self.applications.as_ref()
    }

    /// Waits until no point quiesces applications, and keeps others from it until the guard is
    /// dropped.
    pub fn begin_quiesce(&self) -> MutexGuard<'_, ()> {
        self.quiescing.lock()
    }

    /// Counts a point that became durable.
    pub fn count(&self) {
        self.taken.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the points that became durable.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }
}
