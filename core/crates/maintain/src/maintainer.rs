//! Maintenance of a vault under an identity of its own: retention where there is a key, versions
//! that no reader needs, and the purge.
//!
//! What it removes gets a tombstone, as every delete through a [`DelayedStore`] does, and is in the
//! audit log of the vault before it is removed. It holds no
//! state that matters: it may be stopped and started anywhere, and several may run, but only one may
//! purge.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hrl::journal::WrappingKey;
use hrl::replica::{CompactOptions, CompactReport, Compactor, Replica};
use hrl::store::{Store, delete_unlocked};
use hrl::vault::{
    CatalogEdit, LegalHold, Pin, PinUntil, SNAPSHOT_EVERY, Vault, VersionNames, layout,
};
use hrl::{Clock, Error, ErrorKind, Result, RetentionPolicy, Timestamp};
use hrl_audit::{Audit, AuditedStore};

use crate::delay::{DEFAULT_DELAY, ensure_delay};
use crate::delayed::DelayedStore;
use crate::purge::{PurgeOptions, PurgeReport, purge};

/// Objects under the names of newest versions that are kept, whoever put them.
const VERSIONS_KEPT: usize = 2048;
/// Objects of no volume that nobody deletes, by prefix.
const ALWAYS_WANTED: [&str; 5] =
    [layout::MARKER, layout::AUDIT, layout::REVOKED, "plans/", "deleted/delay-"];
/// Wall clock and interval clock may differ by this since the start of a maintainer.
const CLOCK_SLACK: Duration = Duration::from_secs(1800);

/// Options of a [`Maintainer`]. Start from [`MaintainOptions::default`] and change fields.
#[derive(Clone, Debug)]
pub struct MaintainOptions {
    /// Volumes to maintain. Default `None`: all of the vault.
    pub volumes: Option<Vec<String>>,
    /// Retention of volumes whose keys can be had. Default `None`: no retention.
    pub retention: Option<RetentionPolicy>,
    /// Deletion delay of a vault that has none. Default 14 days.
    pub deletion_delay: Duration,
    /// Name of the maintainer in tombstones and in the audit log. Default "maintainer".
    pub by: String,
    /// Whether to remove what is due. Default true.
    pub purge: bool,
    /// Whether to believe a clock that is far ahead of the vault's own times. Default false.
    pub accept_clock: bool,
    /// Directory for temporary files. Default: the directory of the system.
    pub scratch: Option<PathBuf>,
}

impl Default for MaintainOptions {
    fn default() -> Self {
        Self {
            volumes: None,
            retention: None,
            deletion_delay: DEFAULT_DELAY,
            by: "maintainer".to_owned(),
            purge: true,
            accept_clock: false,
            scratch: None,
        }
    }
}

/// What a run did for one volume.
#[derive(Debug, Default)]
pub struct MaintainedVolume {
    /// Name of the volume.
    pub volume: String,
    /// What retention did; `None` without a policy or without the key.
    pub compaction: Option<CompactReport>,
    /// Versions of its catalog that no reader needs and that were deleted.
    pub versions_deleted: u64,
    /// Why the volume was not maintained, if so.
    pub failure: Option<Error>,
}

/// Maintains a vault. Call [`Maintainer::run`] once, or again and again.
pub struct Maintainer {
    /// The store below, whose deletes are recorded.
    store: Arc<dyn Store>,
    audit: Arc<Audit>,
    vault: Vault,
    clock: Arc<dyn Clock>,
    options: MaintainOptions,
    compactors: HashMap<String, Compactor>,
    /// Wall clock and interval clock at the start.
    start: (Timestamp, Duration),
}

impl Maintainer {
    /// Maintains the vault in `store`, which is below any [`DelayedStore`]. `key` opens encrypted
    /// volumes for retention; without it only old versions and due tombstones are removed.
    ///
    /// Sets the deletion delay of a vault that has none. `NotFound` if the store is no vault.
    pub fn new(
        store: Arc<dyn Store>,
        key: Option<WrappingKey>,
        clock: Arc<dyn Clock>,
        options: MaintainOptions,
    ) -> Result<Self> {
        if let Some(retention) = &options.retention {
            retention.validate()?;
        }
        let by = &options.by;
        let audit = Arc::new(Audit::new(store.clone(), by, clock.clone()));
        let recorded = |store: Arc<dyn Store>| {
            Arc::new(AuditedStore::new(store, audit.clone(), by, "maintainer"))
        };
        let delayed = DelayedStore::over(store.clone(), clock.clone(), by);
        let vault = Vault::open(recorded(delayed), key, clock.clone())?;
        ensure_delay(&*store, options.deletion_delay)?;
        let store = recorded(store);
        let start = (clock.now(), clock.elapsed());
        Ok(Self { store, audit, vault, clock, options, compactors: HashMap::new(), start })
    }

    /// Maintains every volume once, then purges. `go_on` is asked often; false ends the run soon. A
    /// volume's failure is in its entry and does not stop the others.
    pub fn run(
        &mut self,
        go_on: &(dyn Fn() -> bool + Sync),
    ) -> Result<(Vec<MaintainedVolume>, PurgeReport)> {
        let volumes = match &self.options.volumes {
            Some(volumes) => volumes.clone(),
            None => self.vault.volume_names()?,
        };
        let mut done = Vec::new();
        let mut listed = HashSet::new();
        for volume in volumes {
            if !go_on() {
                break;
            }
            let mut entry = MaintainedVolume { volume, ..MaintainedVolume::default() };
            let mut result = self.maintain(&mut entry, &mut listed, go_on);
            if entry.compaction.is_none() {
                let renewed = self.renew_locks(&entry.volume);
                result = result.and(renewed);
            }
            entry.failure = result.err();
            done.push(entry);
        }
        for prefix in ALWAYS_WANTED {
            self.vault.store().renew_locks(prefix, &|_| false)?;
        }
        let report = if self.options.purge && go_on() {
            self.purge(listed)?
        } else {
            PurgeReport::default()
        };
        // What was removed is in the log already; the rest goes with the next run if it must.
        let _ = self.audit.flush();
        Ok((done, report))
    }

    fn maintain(
        &mut self,
        entry: &mut MaintainedVolume,
        listed: &mut HashSet<String>,
        go_on: &(dyn Fn() -> bool + Sync),
    ) -> Result<()> {
        entry.versions_deleted = self.forget_versions(&entry.volume)?;
        let replica = match self.vault.replica(&entry.volume) {
            // Without the key nothing is folded.
            Err(error)
                if error.kind() == ErrorKind::WrongKey && self.vault.wrapping_key().is_none() =>
            {
                return Ok(());
            }
            replica => replica?,
        };
        let mut replica = self.with_holds(replica)?;
        let result = self.compact(&mut replica, entry, go_on);
        listed.extend(replica.catalog().published().map(|segment| segment.object.clone()));
        result
    }

    /// Says again in the catalog which points are under legal hold. Somebody with the key may have
    /// lifted holds there; only an `admin` lifts one.
    fn with_holds(&self, replica: Replica) -> Result<Replica> {
        let (volume, catalog) = (replica.info().name.clone(), replica.catalog());
        let is_said = |point| catalog.pins().iter().any(|p| p.point == point && p.is_legal_hold());
        let mut edits = Vec::new();
        for LegalHold { point, .. } in LegalHold::list(&**self.vault.store(), &volume)? {
            if replica.points().iter().any(|known| known.id == point) && !is_said(point) {
                let reason = "its legal hold was lifted in the catalog alone".to_owned();
                let (until, since) = (PinUntil::LegalHold, self.clock.now());
                edits.push(CatalogEdit::Pin(Pin { point, until, reason, since }));
            }
        }
        if edits.is_empty() {
            return Ok(replica);
        }
        replica.into_catalog().amend(&edits, &|| Ok(()))?;
        self.vault.replica(&volume)
    }

    fn compact(
        &mut self,
        replica: &mut Replica,
        entry: &mut MaintainedVolume,
        go_on: &(dyn Fn() -> bool + Sync),
    ) -> Result<()> {
        let Some(policy) = &self.options.retention else { return Ok(()) };
        self.check_step()?;
        let options = CompactOptions {
            scratch: self.options.scratch.clone(),
            accept_clock: self.options.accept_clock,
            ..CompactOptions::default()
        };
        let compactor =
            self.compactors.entry(entry.volume.clone()).or_insert_with(Compactor::that_stays);
        let report = compactor.run(replica, policy, &options, &|_, _| go_on())?;
        entry.compaction = Some(report);
        Ok(())
    }

    /// Deletes versions of a catalog before the last but one snapshot, which their sources may not
    /// be allowed to delete.
    fn forget_versions(&self, volume: &str) -> Result<u64> {
        let old = self.old_versions(volume)?;
        let kept = delete_unlocked(&**self.vault.store(), &old)?;
        Ok((old.len() - kept.len()) as u64)
    }

    fn old_versions(&self, volume: &str) -> Result<Vec<String>> {
        let prefix = layout::catalog_prefix(volume);
        let names = VersionNames::of(&prefix, &self.vault.store().list(&prefix)?);
        let snapshots = names.numbers().filter(|number| number.is_multiple_of(SNAPSHOT_EVERY));
        let snapshots: Vec<u64> = snapshots.collect();
        let Some(first_kept) = snapshots.len().checked_sub(2).map(|at| snapshots[at]) else {
            return Ok(Vec::new());
        };
        // Anybody who may add can put what looks like a snapshot. Readers look through fewer.
        let all = names.numbers().collect::<Vec<_>>();
        let many = all.len().checked_sub(VERSIONS_KEPT).map_or(0, |at| all[at]);
        let old = names.numbers().filter(|number| *number < first_kept.min(many));
        Ok(old.map(|number| layout::catalog_version(&prefix, number)).collect())
    }

    /// Renews the locks of a volume's objects, for volumes whose retention does not. Old versions
    /// of the catalog are left alone.
    fn renew_locks(&self, volume: &str) -> Result<()> {
        let store = self.vault.store();
        let old = self.old_versions(volume)?;
        store.renew_locks(&layout::volume_prefix(volume), &|name| old.iter().any(|o| o == name))
    }

    fn purge(&self, listed: HashSet<String>) -> Result<PurgeReport> {
        self.check_step()?;
        let accept_clock = self.options.accept_clock;
        let options = PurgeOptions { dry_run: false, accept_clock, listed };
        purge(&*self.store, &*self.clock, &options)
    }

    /// Returns `Unavailable` if the wall clock has jumped since the start.
    fn check_step(&self) -> Result<()> {
        let passed = self.clock.elapsed().saturating_sub(self.start.1);
        let expected = crate::tombstone::later(self.start.0, passed);
        let off = Duration::from_nanos(self.clock.now().0.abs_diff(expected.0));
        if off <= CLOCK_SLACK || self.options.accept_clock {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unavailable, "maintain", self.store.name())
            .message("the clock jumped, so nothing is removed; if it is right now, start again")
            .expected(expected)
            .found(self.clock.now()))
    }
}
