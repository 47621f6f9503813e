//! Takes points: places marks in the write order, and waits until the journal has them.

use std::time::Duration;

use super::journal_progress::Fate;
use super::points::PlacedMark;
use super::shared::Shared;
use crate::clock::random_bytes;
use crate::device::BlockDevice;
use crate::error::{Error, ErrorKind, Result};
use crate::event::EventKind;
use crate::journal::{LABEL_BYTES_MAX, Mark, PointKind};
use crate::point::{Quiesce, QuiesceRequest, Steps, quiesced};
use crate::replica::RecoveryPoint;
use crate::units::{ChainHash, PointId, Sequence, Timestamp};

/// Longest wait until the segment of a mark is closed.
const MARK_WAIT: Duration = Duration::from_secs(30);

impl Shared {
    /// Places the mark of a point that a caller asks for.
    pub(super) fn place(&self, kind: PointKind, label: &str) -> Result<PlacedMark> {
        self.check_callers_word(kind)?;
        self.check_owns_volume("mark point of")?;
        self.place_mark(kind, label, |mark| self.tap.mark(mark))
    }

    /// Quiesces the applications of the options, places a mark and releases them.
    pub(super) fn place_app(&self, label: &str) -> Result<PlacedMark> {
        let applications = self.points.applications().ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "mark point of", &self.info.name)
                .expected("applications to quiesce, such as the policy's")
                .found("none")
        })?;
        self.place_quiesced(&**applications, label, self.policy.quiesce_limit)
    }

    /// Quiesces, places a mark and releases.
    pub(super) fn place_quiesced(
        &self,
        provider: &dyn Quiesce,
        label: &str,
        limit: Duration,
    ) -> Result<PlacedMark> {
        let _one = self.points.begin_quiesce();
        self.check_owns_volume("mark point of")?;
        self.check_markable(label)?;
        let request = self.quiesce_request(label, limit);
        let steps = Steps {
            flush: || self.volume.flush(),
            mark: |still_quiesced: &dyn Fn() -> Result<()>| {
                self.place_mark(PointKind::App, label, |mark| {
                    self.tap.mark_unconfirmed(mark, still_quiesced)
                })
            },
            confirm: |placed: &PlacedMark, good| self.tap.confirm(placed.sequence, good),
        };
        let (placed, took) = quiesced(provider, &request, &*self.clock, steps)
            .inspect_err(|error| self.event(EventKind::PointSkipped, error.to_string()))?;
        Ok(PlacedMark { quiesced: Some(took), ..placed })
    }

    /// Returns a request to quiesce applications for a point named `label`.
    pub(super) fn quiesce_request(&self, label: &str, limit: Duration) -> QuiesceRequest {
        QuiesceRequest {
            volume: self.info.name.clone(),
            label: label.to_owned(),
            limit,
            written: vec![self.state.path().to_owned(), self.volume.device().name().into()],
        }
    }

    /// Refuses kinds that promise more than a caller can know: those of points for which this
    /// library quiesces applications, or makes one cut of several volumes.
    fn check_callers_word(&self, kind: PointKind) -> Result<()> {
        let instead = match kind {
            PointKind::Crash | PointKind::Declared => return Ok(()),
            PointKind::App => "such a point is made by quiescing an application",
            PointKind::GroupCrash | PointKind::GroupApp => "such a point is made by a group",
        };
        Err(Error::new(ErrorKind::InvalidInput, "mark point of", &self.info.name)
            .message(instead)
            .expected(format_args!(
                "kind {} or {}",
                PointKind::Crash.name(),
                PointKind::Declared.name()
            ))
            .found(kind.name()))
    }

    /// Refuses what cannot become a point, before applications are quiesced for it.
    fn check_markable(&self, label: &str) -> Result<()> {
        if label.len() > LABEL_BYTES_MAX {
            return Err(Error::new(ErrorKind::InvalidInput, "mark point of", &self.info.name)
                .expected(format_args!("a label of at most {LABEL_BYTES_MAX} bytes"))
                .found(label.len()));
        }
        self.check_not_fenced("mark point of")
    }

    /// Places a mark in the write order.
    pub(super) fn place_mark(
        &self,
        kind: PointKind,
        label: &str,
        place: impl FnOnce(Mark) -> Result<(Sequence, Timestamp)>,
    ) -> Result<PlacedMark> {
        self.check_markable(label)?;
        let point = PointId(random_bytes(&*self.clock));
        let losses = self.journal.now().losses;
        let mark = Mark { point, kind, label: label.to_owned(), group: None };
        let since = self.clock.elapsed();
        let (sequence, time) = place(mark).map_err(|error| {
            // The tap does not know the name of its volume. A provider's error keeps its object.
            if error.object() == "volume" { error.about(&self.info.name) } else { error }
        })?;
        let label = label.to_owned();
        Ok(PlacedMark { point, kind, label, sequence, time, losses, since, quiesced: None })
    }

    /// Waits until the mark `point` is durable in the journal, and returns the chain hash of its
    /// segment.
    pub(super) fn wait_for_point(&self, point: PointId, losses: u64) -> Result<ChainHash> {
        match self.journal.wait_for_fate(point, losses, MARK_WAIT) {
            Fate::Durable(chain) => Ok(chain),
            Fate::Open | Fate::Lost => Err(self.lost_point()),
        }
    }

    /// Waits until a mark is durable, and returns its point.
    pub(super) fn wait_durable(&self, placed: &PlacedMark) -> Result<RecoveryPoint> {
        let chain = self.wait_for_point(placed.point, placed.losses)?;
        Ok(self.point_of(placed, chain))
    }

    /// Returns what became of the mark; `None` while it may still become durable.
    pub(super) fn outcome(&self, placed: &PlacedMark) -> Option<Result<RecoveryPoint>> {
        let fate = self.journal.fate_of(placed.point, placed.losses);
        let waited = self.clock.elapsed().saturating_sub(placed.since);
        match fate {
            Fate::Durable(chain) => Some(Ok(self.point_of(placed, chain))),
            Fate::Open if waited < MARK_WAIT => None,
            Fate::Open | Fate::Lost => Some(Err(self.lost_point())),
        }
    }

    /// Counts and reports the point of a durable mark, and returns it.
    fn point_of(&self, placed: &PlacedMark, chain: ChainHash) -> RecoveryPoint {
        let PlacedMark { point, kind, label, sequence, time, quiesced, .. } = placed;
        self.points.count();
        self.event(
            EventKind::PointMarked { point: *point, sequence: *sequence },
            match quiesced {
                Some(quiesced) => format!(
                    "point {point} at sequence {sequence}, applications quiesced and released in {} ms",
                    quiesced.as_millis()
                ),
                None => format!("point {point} at sequence {sequence}"),
            },
        );
        RecoveryPoint {
            id: *point,
            kind: *kind,
            sequence: *sequence,
            time: *time,
            label: label.clone(),
            epoch: self.epoch,
            group: None,
            chain,
            pins: Vec::new(),
            verdicts: Vec::new(),
        }
    }

    fn lost_point(&self) -> Error {
        Error::new(ErrorKind::NotOrdered, "mark point of", &self.info.name)
            .message("the journal could not be written, so the point was lost")
    }
}
