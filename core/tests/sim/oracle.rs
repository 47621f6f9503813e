//! Checks of a reader of the vault: is everything that it offers true?

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hrl::device::BlockDevice;
use hrl::journal::SegmentKind;
use hrl::replica::{At, Replica, ViewOptions};
use hrl::vault::{Catalog, SegmentEntry, Vault};
use hrl::{ChainHash, Clock, ErrorKind, PointId, Sequence};

use crate::model::tags_of;
use crate::site::{SITES, Site};
use crate::world::World;

/// A point that arrived late may be old when it is seen first.
const SHIPPING: Duration = Duration::from_secs(120);

/// Points that a vault offered: their sequences, and when each was seen first.
pub type Offered = BTreeMap<PointId, (u64, Duration)>;

/// What the vault offered at the last check.
#[derive(Default)]
pub struct Oracle {
    pub offered: Offered,
    /// Segments that the catalog ever listed: last sequence and chain hash, by epoch and first
    /// sequence.
    listed: BTreeMap<(u32, u64), (u64, ChainHash)>,
}

impl Oracle {
    /// Checks some of what the vault offers, or with `all` everything.
    pub fn look(&mut self, site: &Site, all: bool) {
        let Some(replica) = replica(site) else { return };
        let world = &site.world;
        let last = replica.catalog().last_sequence().0;
        world.note("oracle looks", last, u64::from(all));
        let points: BTreeMap<PointId, u64> =
            replica.points().iter().map(|point| (point.id, point.sequence.0)).collect();
        self.check_kept(site, &points);
        self.check_sequences(&replica);
        for (point, sequence) in &points {
            let lost = site.history().lost.contains(point);
            assert!(!lost, "promise 7: point {point} at {sequence} was lost and is offered");
        }
        let values: Vec<u64> = points.values().copied().collect();
        let count = values.len().min(if all { 12 } else { 2 });
        let some: Vec<u64> = (0..count).map(|_| world.random.pick(&values)).collect();
        for sequence in some {
            Self::compare(site, &replica, sequence);
        }
        for _ in 0..if all { 6 } else { 2 } {
            if last > 0 {
                Self::ask(site, &replica, world.random.within(1, last));
            }
        }
        Self::ask_for_a_time(site, &replica, all);
        let now = world.clock.elapsed();
        for (point, sequence) in points {
            self.offered.entry(point).or_insert((sequence, now));
        }
    }

    /// The epoch ended at `at`: what was offered after it is on the branch.
    pub fn divide(&mut self, at: u64) -> Vec<(PointId, u64)> {
        let later = self.offered.iter().filter(|(_, (sequence, _))| *sequence > at);
        let later = later.map(|(point, (sequence, _))| (*point, *sequence)).collect();
        self.offered.retain(|_, (sequence, _)| *sequence <= at);
        later
    }

    /// The vault went back, and offers only some of what it offered before.
    pub fn vault_went_back(&mut self, site: &Site) {
        let points = replica(site).map_or_else(Vec::new, |replica| replica.points());
        self.offered.retain(|offered, _| points.iter().any(|point| point.id == *offered));
    }

    /// Nobody knows which sequences after the end of the catalog were given, or any if it cannot be
    /// read.
    pub fn forget_sequences(&mut self, catalog: Option<&Catalog>) {
        let Some(catalog) = catalog else { return self.listed.clear() };
        let (epoch, last) = (catalog.epoch().0, catalog.last_sequence().0);
        self.listed.retain(|(of, first), _| *of != epoch || *first <= last);
    }

    /// No sequence is given to two changes, even if the vault went back in between.
    pub fn check_sequences(&mut self, replica: &Replica) {
        let epoch = replica.catalog().epoch();
        let logs = replica.catalog().segments().iter().map(|entry| &entry.summary);
        for log in logs.filter(|log| log.kind == SegmentKind::Log && log.epoch == epoch) {
            let (first, last) = (log.first_sequence.0, log.last_sequence.0);
            let before = self.listed.range(..=(epoch.0, last)).next_back();
            if let Some(((of, from), (to, chain))) = before {
                let same = (*from, *to, *chain) == (first, last, log.chain);
                assert!(
                    same || *of != epoch.0 || *to < first,
                    "promise 3: the sequences {first} to {last} were given before, as {from} to {to}"
                );
            }
            self.listed.insert((epoch.0, first), (last, log.chain));
        }
    }

    /// Promise 5: what was offered is still offered, unless retention may have removed it.
    fn check_kept(&mut self, site: &Site, points: &BTreeMap<PointId, u64>) {
        let world = &site.world;
        let retention = site.plan.policy.retention.as_ref();
        let full = retention.map(|r| if r.bytes_max.is_some() { Duration::ZERO } else { r.full });
        let jumped = world.injected.borrow().contains_key("clock jumps");
        self.offered.retain(|point, (sequence, since)| {
            let now = points.get(point);
            let age = world.clock.elapsed().saturating_sub(*since);
            // It was marked before it was seen, so it is older by the time that shipping took.
            let may_go = full.is_some_and(|full| jumped || age + SHIPPING >= full);
            assert!(
                now == Some(sequence) || (may_go && now.is_none()),
                "promise 5: point {point} at {sequence} was offered and is not any more"
            );
            if now.is_none() {
                *world
                    .injected
                    .borrow_mut()
                    .entry("(points given up by retention)")
                    .or_default() += 1;
            }
            now.is_some()
        });
    }

    /// Any sequence may be requested.
    fn ask(site: &Site, replica: &Replica, sequence: u64) {
        let ordered = site.history().is_ordered_at(sequence);
        let arrived = replica.catalog().segments().iter().any(|entry| {
            let summary = &entry.summary;
            (summary.first_sequence.0..=summary.last_sequence.0).contains(&sequence)
        });
        match replica.resolve(&At::Sequence(Sequence(sequence))) {
            Ok(_) => {
                assert_ne!(ordered, Some(false), "promise 7: {sequence} lies in a gap");
                assert!(arrived, "promise 7: {sequence} was lost, and is offered");
                Self::compare(site, replica, sequence);
            }
            Err(error) => {
                let gap =
                    error.kind() == ErrorKind::NotOrdered && (!arrived || ordered != Some(true));
                let folded =
                    site.plan.policy.retention.is_some() && error.kind() == ErrorKind::NotFound;
                assert!(gap || folded, "promise 3: sequence {sequence} cannot be had: {error}");
            }
        }
    }

    /// What is restored for a time is what the disk contained then, or nothing is.
    fn ask_for_a_time(site: &Site, replica: &Replica, all: bool) {
        let world = &site.world;
        let is_alone = SITES.with(|sites| sites.borrow().len() == 1);
        let jumped = world.injected.borrow().contains_key("clock jumps");
        if !is_alone || jumped || site.plan.policy.retention.is_some() {
            return;
        }
        let moments = site.moments.borrow();
        if moments.is_empty() {
            return;
        }
        let count = if all { moments.len() } else { 2 };
        for number in 0..count {
            let at = if all { number as u64 } else { world.random.below(moments.len() as u64) };
            let (time, tags) = &moments[at as usize];
            // Nothing that came later is in the vault, so it cannot know.
            let Ok(sequence) = replica.resolve(&At::Time(*time)) else { continue };
            if sequence == replica.catalog().last_sequence() && !all {
                continue;
            }
            let found = content(replica, &At::Sequence(sequence));
            world.count(|counts| counts.states_compared += 1);
            differ(
                &format!("promise 7: {time} gives {sequence}, which is no state of then"),
                tags,
                &found,
            );
        }
    }

    /// Checks that the view at `sequence` is the model's prefix.
    fn compare(site: &Site, replica: &Replica, sequence: u64) {
        let found = content(replica, &At::Sequence(Sequence(sequence)));
        let expected = site.history().state_at(sequence);
        site.world.count(|counts| counts.states_compared += 1);
        differ(&format!("promise 3: the view at {sequence} is no prefix"), &expected, &found);
    }

    /// Checks that finally everything is there and the newest state is the disk.
    pub fn look_at_the_end(&mut self, site: &Site) {
        self.look(site, true);
        let replica = replica(site).expect("it has replicated");
        let found = content(&replica, &At::Newest);
        let disk = site.disk_now();
        differ("promise 4: the newest state is not the disk", &disk, &found);
        differ("the model is not the disk", &disk, site.model.borrow().now());
        let points: Vec<PointId> = replica.points().iter().map(|point| point.id).collect();
        for (point, sequence) in &site.model.borrow().confirmed {
            let may_go = site.plan.policy.retention.is_some();
            assert!(
                may_go || points.contains(point),
                "promise 5: point {point} at {sequence} did not arrive"
            );
        }
        let folded = |entry: &&SegmentEntry| entry.summary.kind != SegmentKind::Log;
        let folds = replica.catalog().segments().iter().filter(folded).count() as u64;
        *site.world.injected.borrow_mut().entry("(folded segments)").or_default() += folds;
        let report = replica.verify(&|_, _| true).expect("the store answers");
        assert!(report.findings.is_empty(), "promise 10: {:?}", report.findings);
    }
}

impl Oracle {
    /// Alters an object of the vault: every reader gets the original bytes or an error.
    pub fn look_at_altered(site: &Site) {
        let world = &site.world;
        let names = site.server.names("volumes/disk/");
        let name = names[world.random.below(names.len() as u64) as usize].clone();
        let mut bytes = site.server.content(&name).expect("it is there").to_vec();
        if bytes.is_empty() {
            return;
        }
        world.inject("an object is altered");
        let at = world.random.below(bytes.len() as u64) as usize;
        match world.random.below(3) {
            0 => bytes.truncate(at),
            1 => bytes[at] ^= 1 << world.random.below(8),
            _ => {
                let other = &names[world.random.below(names.len() as u64) as usize];
                bytes = site.server.content(other).expect("it is there").to_vec();
                if other == &name {
                    return;
                }
            }
        }
        site.server.set_content(&name, bytes.into());
        let clock: Arc<dyn Clock> = world.clock.clone();
        let vault = Vault::open(site.server.clear_sight(), site.plan.key.clone(), clock);
        let Ok(replica) = vault.and_then(|vault| vault.replica("disk")) else { return };
        for point in replica.points() {
            let at = At::Sequence(point.sequence);
            let Ok(view) = replica.view(&at, &ViewOptions::default()) else { continue };
            let mut found = vec![0; view.size_bytes() as usize];
            if view.read(0, &mut found).is_ok() {
                let expected = site.history().state_at(point.sequence.0);
                let what = format!("promise 10: {name} was altered unnoticed");
                differ(&what, &expected, &tags_of(&found));
            }
        }
    }
}

/// Returns the last sequence of the catalog.
pub fn last_in_vault(site: &Site) -> u64 {
    replica(site).map_or(0, |replica| replica.catalog().last_sequence().0)
}

pub fn replica(site: &Site) -> Option<Replica> {
    let store = site.server.clear_sight();
    let clock: Arc<dyn Clock> = World::current().clock.clone();
    let vault = match Vault::open(store, site.plan.key.clone(), clock) {
        Ok(vault) => vault,
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => panic!("the vault cannot be opened: {error}"),
    };
    match vault.replica("disk") {
        Ok(replica) => Some(replica),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        // What an agent puts before it notices that the vault went back has a gap before it.
        Err(_) if site.has_gone_back() => None,
        Err(error) => panic!("the replica cannot be opened: {error}"),
    }
}

pub fn content(replica: &Replica, at: &At) -> Vec<u64> {
    let view = replica
        .view(at, &ViewOptions::default())
        .unwrap_or_else(|error| panic!("promise 3: no view of {at}: {error}"));
    let mut bytes = vec![0; view.size_bytes() as usize];
    view.read(0, &mut bytes).unwrap_or_else(|error| panic!("promise 3: view of {at}: {error}"));
    tags_of(&bytes)
}

pub fn differ(what: &str, expected: &[u64], found: &[u64]) {
    let Some(at) = (0..expected.len()).find(|at| expected[*at] != found[*at]) else { return };
    let count = (0..expected.len()).filter(|at| expected[*at] != found[*at]).count();
    panic!(
        "{what}: {count} sectors differ, the first is {at}: expected {:#x}, found {:#x}",
        expected[at], found[at]
    );
}
