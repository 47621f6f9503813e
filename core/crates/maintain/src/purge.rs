//! Carries out deletes whose delay is over.
//!
//! Time is what an attacker would change, so a purge believes a clock only if the vault agrees: each
//! purge leaves a mark of its time, and a clock that is far ahead of the newest mark and of the
//! newest tombstone stops it. Tombstones carry the later of clock and newest tombstone, so a clock
//! that was set back makes nothing due early.
//!
//! Objects go before their tombstone, so a purge that was killed is finished by the next one.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use hrl::store::{Store, delete_unlocked};
use hrl::vault::LegalHold;
use hrl::{Clock, ErrorKind, Result, Timestamp};

use crate::delay::delay_of;
use crate::tombstone::{self, DELETED, Entry, Kind, TombstoneName, hex, later};

/// Prefix of the objects whose names are the times of purges.
const CLOCK: &str = "deleted/clock-";
/// A clock that is further ahead is not believed, unless half the delay is less.
const AHEAD_MAX: Duration = Duration::from_secs(7 * 86_400);
/// It may always be this far ahead.
const AHEAD_MIN: Duration = Duration::from_secs(3600);
/// Marks of the clock are at least this far apart.
const MARK_EVERY: Duration = Duration::from_secs(3600);

/// Options of a [`purge`].
#[derive(Clone, Debug, Default)]
pub struct PurgeOptions {
    /// Whether to change nothing and report what would be done. Default false.
    pub dry_run: bool,
    /// Whether to believe a clock that is far ahead of the vault's own times. Default false.
    pub accept_clock: bool,
    /// Objects that catalogs list: they are never removed, whoever deleted them. Default none,
    /// which is right for whoever has no keys.
    pub listed: HashSet<String>,
}

/// What a [`purge`] did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PurgeReport {
    /// Tombstones removed.
    pub tombstones: u64,
    /// Objects removed.
    pub objects: u64,
    /// Bytes freed.
    pub bytes: u64,
    /// Tombstones whose delay is not over, or that the store keeps locked.
    pub waiting: u64,
    /// Objects that the store keeps locked, or a legal hold; a later purge removes them.
    pub locked: u64,
    /// Deleted objects that catalogs list. Somebody deleted what is in use: bring it back.
    pub in_use: Vec<String>,
    /// How far the clock is ahead of the vault's times; `None` if it is believed. Nothing is purged
    /// until it is.
    pub clock_ahead: Option<Duration>,
    /// Tombstones that cannot be read. They stay, and so does what they name.
    pub damaged: Vec<String>,
}

/// Removes what was deleted and whose delay is over. `store` is the store below any
/// [`DelayedStore`](crate::DelayedStore). One at a time, and not beside
/// [`undelete`](crate::undelete).
pub fn purge(store: &dyn Store, clock: &dyn Clock, options: &PurgeOptions) -> Result<PurgeReport> {
    let mut report = PurgeReport::default();
    let delay = delay_of(store)?;
    let found = tombstone::list(store, DELETED)?;
    let now = clock.now();
    report.clock_ahead = clock_ahead(store, &found, now, delay)?;
    if report.clock_ahead.is_none() || options.accept_clock {
        if !options.dry_run {
            mark(store, now)?;
        }
        report.clock_ahead = None;
    }
    let is_due = |name: &TombstoneName| report.clock_ahead.is_none() && name.due(delay) <= now;
    let (due, waiting): (Vec<_>, Vec<_>) = found.into_iter().partition(is_due);
    report.waiting = waiting.len() as u64;
    let mut kept: HashSet<String> = HashSet::new();
    for name in waiting.iter().filter(|name| name.kind == Kind::Names) {
        match name.read(store) {
            Ok(tombstone) => kept.extend(tombstone.entries.into_iter().map(|entry| entry.name)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                report.damaged.push(name.object.clone());
            }
            Err(error) => return Err(error),
        }
    }
    report.in_use.extend(kept.intersection(&options.listed).cloned());
    let mut holds = HashMap::new();
    for name in due {
        let held = held(store, &name, &mut holds)?;
        if held > 0 {
            report.locked += held;
            report.waiting += 1;
            continue;
        }
        purge_one(store, &name, &kept, options, &mut report)?;
    }
    report.in_use.sort();
    Ok(report)
}

/// Returns how many objects of a tombstone must stay for a legal hold, in their places or in it.
fn held(
    store: &dyn Store,
    name: &TombstoneName,
    known: &mut HashMap<String, Vec<LegalHold>>,
) -> Result<u64> {
    let Some(volume) = name.volume.as_ref().filter(|_| name.kind != Kind::Replaced) else {
        return Ok(0);
    };
    if !known.contains_key(volume) {
        known.insert(volume.clone(), LegalHold::list(store, volume)?);
    }
    let holds = &known[volume];
    if holds.is_empty() {
        return Ok(0);
    }
    match name.read(store) {
        Ok(tombstone) => {
            let is_held = |entry: &&Entry| holds.iter().any(|hold| hold.keeps(&entry.name));
            Ok(tombstone.entries.iter().filter(is_held).count() as u64)
        }
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => Ok(0),
        Err(error) => Err(error),
    }
}

/// Removes what one tombstone names, and the tombstone.
fn purge_one(
    store: &dyn Store,
    name: &TombstoneName,
    kept: &HashSet<String>,
    options: &PurgeOptions,
    report: &mut PurgeReport,
) -> Result<()> {
    let mut bytes = name.length;
    let mut objects = Vec::new();
    if name.kind == Kind::Names {
        let tombstone = match name.read(store) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                report.damaged.push(name.object.clone());
                return Ok(());
            }
            tombstone => tombstone?,
        };
        let names = || tombstone.entries.iter().map(|entry| &entry.name);
        let in_use: Vec<_> = names().filter(|n| options.listed.contains(*n)).cloned().collect();
        if !in_use.is_empty() {
            // As a whole: an operator who brings it back wants all of it.
            report.in_use.extend(in_use);
            report.waiting += 1;
            return Ok(());
        }
        for entry in tombstone.entries {
            if !kept.contains(&entry.name) {
                bytes = bytes.saturating_add(entry.length);
                objects.push(entry.name);
            }
        }
    }
    if !options.dry_run {
        let mut kept = delete_unlocked(store, &objects)?;
        if kept.is_empty() {
            kept = delete_unlocked(store, std::slice::from_ref(&name.object))?;
        }
        if !kept.is_empty() {
            report.locked += kept.len() as u64;
            report.waiting += 1;
            return Ok(());
        }
    }
    report.tombstones += 1;
    report.objects += objects.len() as u64;
    report.bytes = report.bytes.saturating_add(bytes);
    Ok(())
}

/// Returns how far the clock is ahead of what the vault knows of time, if that is too far.
fn clock_ahead(
    store: &dyn Store,
    found: &[TombstoneName],
    now: Timestamp,
    delay: Duration,
) -> Result<Option<Duration>> {
    let marks = store.list(CLOCK)?;
    let marked = marks.iter().filter_map(|info| time_of_mark(&info.name)).max();
    let newest = found.iter().map(|name| name.time).max();
    let Some(known) = marked.max(newest) else { return Ok(None) };
    let ahead = Duration::from_nanos(now.nanos_since(known));
    let own = found.iter().map(|name| Duration::from_nanos(name.until.nanos_since(name.time)));
    let longest = own.max().map_or(delay, |own| own.max(delay));
    let limit = AHEAD_MAX.min(longest / 2).max(AHEAD_MIN);
    Ok((ahead > limit).then_some(ahead))
}

/// Leaves a mark of the time, and removes older ones.
fn mark(store: &dyn Store, now: Timestamp) -> Result<()> {
    let marks = store.list(CLOCK)?;
    let newest = marks.iter().filter_map(|info| time_of_mark(&info.name)).max();
    if newest.is_some_and(|newest| now < later(newest, MARK_EVERY)) {
        return Ok(());
    }
    store.put(&format!("{CLOCK}{:016x}", now.0.max(0)), b"")?;
    let old: Vec<_> = marks.into_iter().map(|info| info.name).collect();
    delete_unlocked(store, &old).map(drop)
}

fn time_of_mark(name: &str) -> Option<Timestamp> {
    i64::try_from(hex(name.strip_prefix(CLOCK)?)?).ok().map(Timestamp)
}
