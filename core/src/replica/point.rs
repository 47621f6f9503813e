//! The recovery points of a replica: listing, pins, verdicts, and the newest good one.

use std::collections::HashMap;

use super::{At, Replica};
use crate::error::{Error, ErrorKind, Result};
use crate::journal::{MarkEntry, PointKind};
use crate::macros::named;
use crate::units::{ChainHash, Epoch, PointId, Sequence, Timestamp};
use crate::vault::{CatalogEdit, LegalHold, Pin, PinUntil, SegmentEntry, Verdict, VerdictKind};

/// A recovery point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryPoint {
    /// Its identity.
    pub id: PointId,
    /// Its consistency.
    pub kind: PointKind,
    /// Its place in the write order.
    pub sequence: Sequence,
    /// When it was taken.
    pub time: Timestamp,
    /// Its label; may be empty.
    pub label: String,
    /// Epoch of its writes.
    pub epoch: Epoch,
    /// Identity shared by the members of a group point. If `kind` is not a group's, the round made
    /// no group point as far as this volume knows; see
    /// [`Vault::group_points`](crate::vault::Vault::group_points).
    pub group: Option<PointId>,
    /// Chain hash of the segment that ends with it: identifies everything before it.
    pub chain: ChainHash,
    /// Pins and legal holds. Expired pins are included until retention removes them.
    pub pins: Vec<Pin>,
    /// The verdicts of checks.
    pub verdicts: Vec<Verdict>,
}

named! {
    /// Why a point is the newest good one.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum GoodBecause {
        /// Checks of it found it good.
        Checked = "checked",
        /// Nothing was checked; it is application-consistent.
        ApplicationConsistent = "application-consistent",
        /// Nothing was checked; it is the newest point.
        Newest = "newest",
    }
}

impl RecoveryPoint {
    /// Returns whether `at` selects a point by what this one has: identity, its begin, or label.
    pub(super) fn has(&self, at: &At) -> bool {
        match at {
            At::Point(id) => self.id == *id || self.group == Some(*id),
            At::PointPrefix(digits) => {
                let begins = |id: PointId| id.to_string().starts_with(digits.as_str());
                begins(self.id) || self.group.is_some_and(begins)
            }
            At::Label(label) | At::LabelOr(label, _) => self.label == *label,
            At::Newest | At::NewestGood | At::Sequence(_) | At::Time(_) => false,
        }
    }
}

impl Replica {
    /// Pins a point through retention, in place of an earlier pin (or legal hold) of it. Durable
    /// when it returns. `NotFound` if there is no such point, `Full` beyond
    /// [`PINS_MAX`](crate::vault::PINS_MAX) pins. Through a gateway, `Denied` for a legal hold by a
    /// source.
    pub fn pin(&mut self, at: &At, until: PinUntil, reason: &str) -> Result<Pin> {
        let point = self.find_point(at)?;
        if until == PinUntil::LegalHold {
            let sequence = self.resolve(&At::Point(point))?;
            let hold = LegalHold { point, sequence, version: self.catalog.version() };
            self.store().put(&hold.object(&self.info().name), b"")?;
        }
        let since = self.clock().now();
        let pin = Pin { point, until, reason: reason.to_owned(), since };
        self.catalog.amend(&[CatalogEdit::Pin(pin.clone())], &|| Ok(()))?;
        Ok(pin)
    }

    /// Removes the pin of a point, or its legal hold: neither removes the other. `NotFound` if
    /// there is none. Through a gateway, `Denied` for a legal hold unless an `admin` lifts it.
    pub fn unpin(&mut self, at: &At, legal_hold: bool) -> Result<()> {
        let point = self.find_point(at)?;
        let (store, volume) = (self.store(), &self.info().name);
        let holds = if legal_hold { LegalHold::list(&**store, volume)? } else { Vec::new() };
        let lifted = holds.iter().filter(|hold| hold.point == point);
        let lifted: Vec<_> = lifted.map(|hold| hold.object(volume)).collect();
        store.delete_many(&lifted)?;
        match self.catalog.amend(&[CatalogEdit::Unpin { point, legal_hold }], &|| Ok(())) {
            // Somebody with the key had lifted it in the catalog alone.
            Err(error) if error.kind() == ErrorKind::NotFound && !lifted.is_empty() => Ok(()),
            amended => amended,
        }
    }

    /// Records the verdict of a check. The last point whose checks were all good is never dropped.
    pub fn record_verdict(
        &mut self,
        at: &At,
        kind: VerdictKind,
        ok: bool,
        text: &str,
    ) -> Result<Verdict> {
        let point = self.find_point(at)?;
        let time = self.clock().now();
        let verdict = Verdict { point, kind, ok, time, text: text.to_owned() };
        self.catalog.amend(&[CatalogEdit::Verdict(verdict.clone())], &|| Ok(()))?;
        Ok(verdict)
    }

    /// Returns the recovery point that `at` selects; `NotFound` if it selects a state without a
    /// point.
    fn find_point(&mut self, at: &At) -> Result<PointId> {
        self.refresh()?;
        let sequence = self.resolve(at)?;
        let points = self.points();
        let found = points.iter().rev().find(|point| match at {
            At::Point(_) => point.has(at),
            _ => point.sequence == sequence,
        });
        found.map(|point| point.id).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "find point", at)
                .expected("a recovery point")
                .found(format_args!("sequence {sequence}, which is none"))
        })
    }

    /// Returns the recovery points, oldest first. Marks inside unordered intervals are omitted.
    pub fn points(&self) -> Vec<RecoveryPoint> {
        let mut pins: HashMap<PointId, Vec<Pin>> = HashMap::new();
        for pin in self.catalog.pins() {
            pins.entry(pin.point).or_default().push(pin.clone());
        }
        let mut verdicts: HashMap<PointId, Vec<Verdict>> = HashMap::new();
        for verdict in self.catalog.verdicts() {
            verdicts.entry(verdict.point).or_default().push(verdict.clone());
        }
        let point = |(entry, mark): (&SegmentEntry, &MarkEntry)| RecoveryPoint {
            id: mark.mark.point,
            kind: match mark.mark.group {
                Some(group) if self.catalog.commitment(group).is_none() => PointKind::Crash,
                _ => mark.mark.kind,
            },
            sequence: mark.sequence,
            time: mark.time,
            label: mark.mark.label.clone(),
            epoch: entry.summary.epoch,
            group: mark.mark.group,
            chain: entry.summary.chain,
            pins: pins.remove(&mark.mark.point).unwrap_or_default(),
            verdicts: verdicts.remove(&mark.mark.point).unwrap_or_default(),
        };
        self.catalog.point_marks().map(point).collect()
    }

    /// Returns the newest good point, and why it is the one.
    ///
    /// That is the newest point that checks found good, and none bad. Without one it is the newest
    /// application-consistent point, or else the newest point, but never one that a check found
    /// bad. `NotFound` if there is none.
    pub fn newest_good(&self) -> Result<(RecoveryPoint, GoodBecause)> {
        let mut left = self.points();
        left.retain(|point| point.verdicts.iter().all(|verdict| verdict.ok));
        let is_app = |kind| matches!(kind, PointKind::App | PointKind::GroupApp);
        let verified = left.iter().rposition(|point| !point.verdicts.is_empty());
        let app = || left.iter().rposition(|point| is_app(point.kind));
        let (at, why) = match verified {
            Some(at) => (at, GoodBecause::Checked),
            None => match app() {
                Some(at) => (at, GoodBecause::ApplicationConsistent),
                None => (left.len().wrapping_sub(1), GoodBecause::Newest),
            },
        };
        if at < left.len() {
            return Ok((left.swap_remove(at), why));
        }
        Err(Error::new(ErrorKind::NotFound, "find newest-good of", &self.info().name)
            .expected("a point that no check found bad")
            .found("none"))
    }
}
