//! A failover that is not committed: the epoch of this source is not in the catalog yet.
//!
//! The disk is served as of a recovery state, and writes are journaled as the next epoch on top of
//! it. Until the commit the old source may go on, the point may be changed, and a cancellation
//! leaves no trace in the vault. The commit is one version of the catalog: it ends the old epoch,
//! makes this source the owner, and fences the other one.
//!
//! Invariant: nothing leaves the spool before the commit.
//!
//! Behaviour on failure: `STATE/failover` records what is under way. It is written first and
//! removed once the catalog has the commit, so a killed agent goes on where it was. If the recovery
//! state lies inside a segment, `STATE/cut.hrl` is a copy of that segment up to the state.

use super::shipper::put_checked;
use super::state::{StateDirectory, lines_after};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::journal::{FileSink, Segment, open_mapped_in, trim};
use crate::replica::Replica;
use crate::units::{Epoch, PointId, Sequence, Timestamp};
use crate::vault::layout;
use crate::vault::{
    Catalog, CatalogEdit, Division, SegmentEntry, SourceIdentity, Step, StepKind, Vault,
};

const FILE: &str = "failover";
/// Copy of the segment that the recovery state lies inside of, up to that state.
const CUT: &str = "cut.hrl";
const FIRST_LINE: &str = "hrl failover 1";

/// A failover that is not committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Provisional {
    /// Its identity in the life cycle of the volume.
    pub failover: PointId,
    /// Epoch that it begins.
    pub epoch: Epoch,
    /// Sequence of the recovery state.
    pub at: Sequence,
    /// Time of the recovery state.
    pub at_time: Timestamp,
    /// The recovery point at that sequence, if there is one.
    pub point: Option<PointId>,
    /// Whether it is a failback: its commit ends the life cycle.
    pub home: bool,
    /// Whether the recovery state lies inside a segment, so that `STATE/cut.hrl` exists.
    pub cut: bool,
    /// Source that owns the volume after the commit.
    pub source: SourceIdentity,
}

impl Provisional {
    /// Reads `STATE/failover`; `None` if no failover is under way.
    pub(crate) fn read(state: &StateDirectory) -> Result<Option<Self>> {
        state.read_text(&state.file(FILE), "a failover under way", parse)
    }

    /// Writes `STATE/failover` durably.
    pub(crate) fn write(&self, state: &StateDirectory) -> Result<()> {
        state.write_text(&state.file(FILE), self.print())
    }

    fn print(&self) -> String {
        let point = self.point.map_or_else(|| "none".to_owned(), |point| point.to_string());
        format!(
            "{FIRST_LINE}\nfailover={}\nepoch={}\nat={}\nat-time={}\npoint={point}\nhome={}\ncut={}\n\
             source={}\nhost={}\nsince={}\n",
            self.failover,
            self.epoch,
            self.at.0,
            self.at_time.0,
            self.home,
            self.cut,
            PointId(self.source.id),
            self.source.host,
            self.source.since.0,
        )
    }

    /// Removes the files of a failover, durably.
    pub(crate) fn forget(state: &StateDirectory) -> Result<()> {
        state.remove(&state.file(FILE))?;
        state.remove(&state.file(CUT))?;
        state.sync_names()
    }

    /// Returns the division of the history that a commit makes.
    pub(crate) fn division(
        &self,
        state: &StateDirectory,
        replica: &Replica,
        time: Timestamp,
    ) -> Result<Division> {
        let cut = if self.cut {
            let segment =
                Segment::open(open_mapped_in(&**state.files(), &state.file(CUT))?, replica.keys())?;
            let summary = segment.summary().clone();
            Some(SegmentEntry { object: layout::segment(&replica.info().name, &summary), summary })
        } else {
            None
        };
        let source = self.source.clone();
        Ok(Division { epoch: self.epoch, at: self.at, cut, source, time })
    }

    /// Returns a step of the life cycle for this failover.
    pub(crate) fn step(&self, kind: StepKind, clock: &dyn Clock) -> Step {
        let Self { failover, epoch, at, at_time, point, .. } = *self;
        Step { at, point, at_time, epoch, ..Step::new(kind, failover, clock) }
    }

    /// Puts the cut and appends the catalog version that divides the history. Returns the catalog
    /// with it.
    ///
    /// May be repeated after any failure; writes nothing if the catalog has the commit. `Fenced` if
    /// another failover was committed or this one was cancelled.
    pub(crate) fn commit(
        &self,
        state: &StateDirectory,
        vault: &Vault,
        replica: Replica,
        clock: &dyn Clock,
    ) -> Result<Catalog> {
        if self.is_committed(replica.catalog()) {
            return Ok(replica.into_catalog());
        }
        self.check_current(replica.catalog())?;
        let division = self.division(state, &replica, clock.now())?;
        if let Some(cut) = &division.cut {
            let (files, length) = (&**state.files(), cut.summary.stored_bytes);
            put_checked(&**vault.store(), &cut.object, files, &state.file(CUT), length)?;
        }
        let kind = if self.home { StepKind::FailBack } else { StepKind::Commit };
        let edits = vec![CatalogEdit::Divide(division), CatalogEdit::Step(self.step(kind, clock))];
        let mut catalog = replica.into_catalog();
        catalog.append(&self.source, edits)?;
        Ok(catalog)
    }

    /// Returns whether the catalog has the commit, even if this source lost the volume since.
    pub(crate) fn is_committed(&self, catalog: &Catalog) -> bool {
        let ended = catalog.branches().iter().find(|branch| branch.epoch == self.epoch);
        let lost = ended.and_then(|branch| branch.source.as_ref());
        self.is_owner(catalog) || lost.is_some_and(|source| source.id == self.source.id)
    }

    /// Returns whether this source owns the volume.
    pub(crate) fn is_owner(&self, catalog: &Catalog) -> bool {
        catalog.source().is_some_and(|owner| owner.id == self.source.id)
    }

    /// Fails with `Fenced` unless this failover is the one under way in the catalog.
    pub(crate) fn check_current(&self, catalog: &Catalog) -> Result<()> {
        let lifecycle = catalog.lifecycle();
        let current = lifecycle.current();
        let ours = current.is_some_and(|step| step.failover == self.failover);
        if ours && lifecycle.stage().is_open() {
            return Ok(());
        }
        let found = current.map_or_else(
            || "no failover".to_owned(),
            |step| format!("{} by {} at {}", step.kind.name(), step.host, step.time),
        );
        Err(Error::new(ErrorKind::Fenced, "go on with failover", self.failover)
            .message("it was cancelled, or another failover came first")
            .expected("this failover under way")
            .found(found))
    }
}

/// Copies the segment that `at` lies inside of, up to `at`, into the state directory. Returns false
/// if `at` is the end of a segment.
pub(crate) fn cut(
    state: &StateDirectory,
    replica: &Replica,
    at: Sequence,
    clock: &dyn Clock,
) -> Result<bool> {
    let Some(entry) = replica.catalog().cut_by(at) else { return Ok(false) };
    let segment = replica.open_segment(&entry.object)?;
    let temporary = state.path().join("cut.part");
    let files = &**state.files();
    state.remove(&temporary)?;
    trim(&segment, at, FileSink::create(files, &temporary)?, replica.keys(), clock)?;
    let path = state.file(CUT);
    files
        .rename(&temporary, &path)
        .and_then(|()| files.sync_directory(state.path()))
        .map_err(|error| Error::io("write cut", path.display(), error))?;
    Ok(true)
}

/// Parses the text of `STATE/failover` and prints it again; `None` if it is not valid. Feature
/// `testing`.
#[cfg(any(test, feature = "testing"))]
pub fn reprint_failover(text: &str) -> Option<String> {
    parse(text).map(|under_way| under_way.print())
}

fn parse(text: &str) -> Option<Provisional> {
    let mut lines = lines_after(FIRST_LINE, text)?;
    let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix('=');
    let failover = PointId::parse(field("failover")?)?;
    let epoch = Epoch(field("epoch")?.parse().ok()?);
    let at = Sequence(field("at")?.parse().ok()?);
    let at_time = Timestamp(field("at-time")?.parse().ok()?);
    let point = match field("point")? {
        "none" => None,
        digits => Some(PointId::parse(digits)?),
    };
    let home = field("home")?.parse().ok()?;
    let cut = field("cut")?.parse().ok()?;
    let PointId(id) = PointId::parse(field("source")?)?;
    let host = field("host")?.to_owned();
    let since = Timestamp(field("since")?.parse().ok()?);
    let source = SourceIdentity { id, host, since };
    Some(Provisional { failover, epoch, at, at_time, point, home, cut, source })
}
