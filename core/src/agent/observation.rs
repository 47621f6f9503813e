//! [`Observation`]: how a companion journals the changes of a disk that others write to.
//!
//! Behaviour on failure: what the journal loses is read again by the resync task, as of later. The
//! [readings](Observation::readings) change then, so the observer begins its cut again.

use std::sync::Arc;
use std::time::Duration;

use super::baseline::Baseline;
use super::protection::Protection;
use super::requests::Request;
use super::shared::Shared;
use crate::capture::Change;
use crate::device::Buffer;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Cause;
use crate::extent::Extent;
use crate::journal::{Mark, PointKind};
use crate::point::commitment;
use crate::replica::{RecoveryPoint, is_zero};
use crate::units::{PointId, Timestamp};

/// Longest wait until what is compared with is durable.
const COMPARE_WAIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(10);

/// Journals the changes of a disk that others write to; made by [`Protection::observation`].
///
/// For each point: [`Observation::begin`], copy blocks by [`Observation::journal`] until all of them
/// are the disk's as of one instant, and [`Observation::end`]. Regions that a resync reads, as in the
/// first copy, are read by the protection itself. Used by one thread at a time.
pub struct Observation {
    shared: Arc<Shared>,
}

impl Protection {
    /// Returns the handle of the observer. `InvalidInput` unless the options have
    /// [`observed`](super::ProtectionOptions::observed).
    pub fn observation(&self) -> Result<Observation> {
        if !self.shared.tap.is_observed() {
            let error = Error::new(ErrorKind::InvalidInput, "observe", &self.shared.info.name);
            return Err(error.message("its writes are captured"));
        }
        Ok(Observation { shared: self.shared.clone() })
    }
}

impl Observation {
    /// Begins an unordered interval, unless one is open. Changes may be missing since `since`, the
    /// time of the last point; with `None`, since the end of the journal.
    pub fn begin(&self, since: Option<Timestamp>) {
        let since = since.or_else(|| self.shared.unknown_since());
        self.shared.tap.begin_observed(since.unwrap_or_else(|| self.shared.clock.now()));
    }

    /// Returns a number that changes whenever regions must be read again; `None` while a resync
    /// reads them, or has not begun. Nothing is journaled then.
    pub fn readings(&self) -> Option<u64> {
        self.shared.tap.observed()
    }

    /// Returns whether the queue has room for more, and the journal empties it.
    pub fn has_room(&self) -> bool {
        self.shared.tap.has_room() && !self.shared.journal.is_stalled()
    }

    /// Journals the content of an extent of at most 4 MiB. `time`: it may have changed until then.
    /// `NotOrdered` if the readings are others.
    pub fn journal(&self, readings: u64, offset: u64, data: &[u8], time: Timestamp) -> Result<()> {
        let extent = Extent::new(offset, data.len() as u64)?;
        extent.check_within(self.shared.info.device_bytes, "journal", &self.shared.info.name)?;
        let zero = is_zero(data);
        let change = if zero { Change::Zero } else { Change::Write(Buffer::copy_of(data)) };
        let done = self.shared.tap.complete_observed(readings, extent, change, time);
        if done { Ok(()) } else { Err(self.read_again("journal change of")) }
    }

    /// Ends the interval by a point of this time. Returns once it is durable in the local journal.
    /// `group` is the identity of a cut of several volumes, in each of which it is a point.
    ///
    /// `NotOrdered` if the readings are others, or the journal lost the point: copy the blocks again.
    pub fn end(
        &self,
        readings: u64,
        kind: PointKind,
        label: &str,
        time: Timestamp,
        group: Option<PointId>,
    ) -> Result<RecoveryPoint> {
        let place = |mark: Mark| {
            let mark = Mark { group, ..mark };
            let placed = self.shared.tap.end_observed(readings, mark, time);
            placed.map(|sequence| (sequence, time)).ok_or_else(|| self.read_again("mark point of"))
        };
        let point = self.shared.wait_durable(&self.shared.place_mark(kind, label, place)?)?;
        // Whoever observes forgets then which blocks it has copied.
        self.shared.anchor.promise(point.sequence)?;
        Ok(RecoveryPoint { group, ..point })
    }

    /// Journals that `point` and those of the other volumes of its cut are one point of the group
    /// `name` with `members` volumes. Call it once all of them are durable, and before the next
    /// [`Observation::begin`]; for one of the volumes it is enough. Does nothing for a point of no
    /// group. `NotOrdered` if regions of the disk are read again.
    pub fn commit(&self, point: &RecoveryPoint, name: &str, members: u16) -> Result<()> {
        let Some(group) = point.group else { return Ok(()) };
        let commitment = commitment(group, point.kind, name, members);
        let placed = self.shared.tap.commit_observed(commitment, point.time);
        placed.map(drop).ok_or_else(|| self.read_again("commit point of"))
    }

    /// Makes the protection compare the whole disk with the replica, and journal what differs.
    pub fn compare(&self, cause: Cause) -> Result<()> {
        let (shared, since) = (&self.shared, self.shared.clock.elapsed());
        let is_late = || shared.clock.elapsed().saturating_sub(since) >= COMPARE_WAIT;
        while !shared.is_journaled() && !is_late() {
            shared.requests.ask(Request::Close);
            std::thread::sleep(PAUSE);
        }
        if shared.is_journaled() {
            shared.resync.offer(self.baseline());
        }
        shared.require_resync(cause)
    }

    /// Returns the replica with what is in the spool.
    fn baseline(&self) -> Baseline {
        let shared = &self.shared;
        // Before the replica: what is published meanwhile is in that.
        let mut spooled = shared.shipping.spool.oldest_batch(0, usize::MAX);
        let Ok(replica) = shared.vault.replica_with_keys(&shared.info, &shared.keys) else {
            return Baseline::Unknown;
        };
        spooled.retain(|left| left.summary.first_sequence > replica.catalog().last_sequence());
        Baseline::of(&shared.state, &replica, &spooled, shared.journal.now().durable)
    }

    fn read_again(&self, operation: &'static str) -> Error {
        Error::new(ErrorKind::NotOrdered, operation, &self.shared.info.name)
            .message("regions of the disk are read again")
    }
}
