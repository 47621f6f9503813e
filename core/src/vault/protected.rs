//! Points that are never dropped, whatever the policy: pinned ones, and the newest that is known to
//! be good.

use std::collections::{HashMap, HashSet};

use super::annotations::{Pin, PinUntil};
use super::content::CatalogContent;
use crate::journal::PointKind;
use crate::macros::named;
use crate::units::PointId;

named! {
    /// Why retention keeps a recovery state. In descending order of strength.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub enum KeepReason {
        /// Legal hold.
        LegalHold = "legal-hold",
        /// Pinned.
        Pinned = "pinned",
        /// A branch, a failover under way or a test failover stands on it.
        Branch = "branch",
        /// The newest point that a check found good.
        LastVerified = "last-verified",
        /// The newest application-consistent point.
        LastAppConsistent = "last-app-consistent",
        /// The first of its interval.
        Thinned = "thinned",
        /// The first of the newest interval beyond the window: the base of the others.
        Base = "base",
    }
}

impl CatalogContent {
    /// Returns the points that are never dropped, and why. Of the pins, those for which
    /// `is_in_force` is true count.
    pub(crate) fn protected_points(
        &self,
        is_in_force: impl Fn(&Pin) -> bool,
    ) -> HashMap<PointId, KeepReason> {
        let mut points = HashMap::new();
        let is_app = |kind| matches!(kind, PointKind::App | PointKind::GroupApp);
        let app = self.point_marks().filter(|(_, mark)| is_app(mark.mark.kind)).last();
        points.extend(app.map(|(_, mark)| (mark.mark.point, KeepReason::LastAppConsistent)));
        let verified: HashSet<PointId> = self
            .verdicts()
            .iter()
            .map(|verdict| verdict.point)
            .filter(|point| self.is_verified(*point))
            .collect();
        let marks = self.point_marks().map(|(_, mark)| mark.mark.point);
        if let Some(point) = marks.filter(|point| verified.contains(point)).last() {
            points.insert(point, KeepReason::LastVerified);
        }
        for pin in self.pins().iter().filter(|pin| is_in_force(pin)) {
            let reason = match pin.until {
                PinUntil::LegalHold => KeepReason::LegalHold,
                _ => KeepReason::Pinned,
            };
            let known = points.entry(pin.point).or_insert(reason);
            *known = reason.min(*known);
        }
        points
    }
}
