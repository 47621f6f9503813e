//! Histories that part: a machine goes back to a snapshot, with its disk or with its state directory
//! alone, or the vault goes back to an older copy or loses its newest catalog versions.
//!
//! After a machine went back, its disk is the truth. After the vault went back, points beyond its
//! end are gone with it. What must be noticed is known from outside: the sequences given and
//! published at the time of a copy and now.
//!
//! A disk goes back alone only while its agent is stopped. After a kill, only counters outside of
//! the state directory could show that, and a simulated disk has none.

use std::sync::Arc;

use hrl::bytes::hex;
use hrl::capture::TapStats;
use hrl::replica::Replica;
use hrl::vault::{StepKind, Vault};
use hrl::{Clock, Epoch, Event, EventKind};

use crate::cloning::CLONE;
use crate::disk::Platter;
use crate::files::FileSystem;
use crate::model::Model;
use crate::oracle::last_in_vault;
use crate::run::Life;
use crate::site::{Site, state_directory, tap_of};
use crate::store::{EXCHANGE, Objects};
use crate::swapping::{LAG, SWAP};
use crate::world::{Faults, Random, World};

/// Most catalog versions that are lost at once.
const LOST_MAX: u64 = 6;

/// Faults after which an anchor or a spool may be older than the vault: more is noticed, or less.
const MISLEADING: [&str; 5] = [
    "file error",
    "file sync error",
    "directory sync error",
    "full disk under the spool",
    "a synced segment in the spool is altered",
];

const MACHINE: &str = "a machine goes back";
const DISK: &str = "a disk goes back while its agent is stopped";
const STATE: &str = "a state directory goes back";
const VERSIONS: &str = "the newest catalog versions are lost";
const VAULT: &str = "the vault goes back";

/// What makes disk, state directory and vault differ, apart from a swap of vaults.
pub const WENT_BACK: [&str; 5] = [MACHINE, STATE, VERSIONS, VAULT, CLONE];

/// A machine at some instant.
struct Snapshot {
    files: Arc<FileSystem>,
    platter: Arc<Platter>,
    model: Model,
    /// Last sequence given.
    last: u64,
    /// Last sequence in the vault.
    published: u64,
}

/// The copies of a life that something may go back to.
pub struct Histories {
    /// Something goes back once in this many steps; zero is never.
    every: u64,
    /// Lives in which nothing goes back draw nothing.
    random: Random,
    machine: Option<Snapshot>,
    vault: Option<Objects>,
}

impl Histories {
    pub fn new(seed: u64) -> Self {
        let random = Random::new(seed ^ 0x6869_7374_6f72_7900);
        let every = random.pick(&[0, 0, 100, 300]);
        Self { every, random, machine: None, vault: None }
    }

    pub fn forget(&mut self) {
        (self.machine, self.vault) = (None, None);
    }
}

impl Life {
    /// Perhaps something goes back, or is copied for that.
    pub fn go_back(&mut self) {
        let every = self.histories.every;
        if every == 0 || self.clones.are_two() {
            return;
        }
        let owner = self.owner().clone();
        if owner.other_history.borrow().is_some() {
            return;
        }
        let is_plain = !owner.has_failover() && !owner.comes_home() && !owner.is_provisional();
        if self.taker.is_some() || !self.failovers.is_quiet() || !is_plain {
            // A copy of another owner's time is a failover's business.
            if self.taker.is_some() {
                owner.must_notice(false);
            }
            return self.histories.forget();
        }
        // A state directory that knows no volume is that of a stranger, who is refused.
        let is_known = owner.files().has(&state_directory().join("anchor"));
        if self.histories.random.one_in(every / 4) && is_known {
            self.histories.machine = Some(snapshot(&owner));
        }
        if self.histories.random.one_in(every / 4) && readable(&owner).is_some() {
            self.histories.vault = Some(self.server.copy());
        }
        if !self.histories.random.one_in(every) {
            return;
        }
        match self.histories.random.below(5) {
            4 => self.disk_goes_back(&owner),
            0 => self.machine_goes_back(&owner, true),
            1 => self.machine_goes_back(&owner, false),
            2 => self.vault_goes_back(&owner, true),
            _ => self.vault_goes_back(&owner, false),
        }
    }

    /// Replaces files and disk of a machine by a snapshot; without `disk` its files alone.
    fn machine_goes_back(&mut self, site: &Site, disk: bool) {
        // What it sent has arrived by now.
        self.server.deliver(Clock::elapsed(&*self.world.clock), true);
        let published = self.world.in_peace(|| last_in_vault(site));
        let Some(then) = self.histories.machine.take() else { return };
        let is_known = published == then.published || has_newest_of_vault(site, &then.files);
        // A state directory that has what the vault has is as good as the one that went back, and
        // the disk has no counters.
        if !disk && (is_known || published <= then.last) {
            return;
        }
        let random = &self.world.random;
        self.world.inject(if disk { MACHINE } else { STATE });
        site.crash(random.one_in(2));
        site.files.replace(then.files);
        if disk {
            site.platter.replace(then.platter);
        }
        if random.one_in(2) {
            site.files().power_failed(random);
            site.platter().power_failed(random);
        }
        self.forget_sequences();
        let mut model = site.model.borrow_mut();
        if is_known && disk {
            model.went_back_to(&then.model, published);
        } else {
            model.vault_went_back(published);
        }
        drop(model);
        // What the disk contained since is gone.
        site.moments.borrow_mut().clear();
        site.ends.set((then.last, 0));
        site.must_notice(!is_known && published > then.last);
    }

    /// Stops the agent cleanly, and replaces its disk by a snapshot.
    fn disk_goes_back(&mut self, site: &Site) {
        let Some(then) = self.histories.machine.take().filter(|_| site.is_alive()) else { return };
        let faults = self.world.faults.replace(Faults::default());
        self.world.dies_at.set(None);
        self.server.set_down(false);
        site.files().set_room(usize::MAX);
        let is_stopped = site.stop();
        self.world.faults.set(faults);
        if is_stopped {
            self.world.inject(DISK);
            site.files().killed();
            site.platter.replace(then.platter);
            site.moments.borrow_mut().clear();
        }
    }

    /// Nobody knows any more which sequences that the vault lost were given: the machine that gave
    /// them went back too, or another one took its place.
    pub fn forget_sequences(&mut self) {
        let replica = self.world.in_peace(|| readable(self.owner()));
        self.oracle.forget_sequences(replica.as_ref().map(Replica::catalog));
    }

    /// Replaces the vault by an older copy, or removes the newest `versions` of its catalog.
    fn vault_goes_back(&mut self, site: &Site, versions: bool) {
        let world = self.world.clone();
        let now = self.server.copy();
        let then = if versions { self.without_newest() } else { self.histories.vault.take() };
        let (Some(then), Some(replica)) = (then, world.in_peace(|| readable(site))) else { return };
        self.oracle.check_sequences(&replica);
        let before = replica.catalog().last_sequence().0;
        let stretch = stretch_of(&replica);
        self.server.go_back_to(then);
        world.clock.advance(EXCHANGE);
        let Some(replica) = world.in_peace(|| readable(site)).filter(|_| self.is_whole()) else {
            return self.server.go_back_to(now);
        };
        if stretch_of(&replica) != stretch {
            // To whom the vault gives the volume then is a failover's business.
            return self.server.go_back_to(now);
        }
        let last = replica.catalog().last_sequence().0;
        site.see_ends();
        let noticed = site.ends.get().1 > last;
        // A running agent that knows of no lost version may have put segments before it looks.
        if last == before || site.is_alive() && !noticed {
            return self.server.go_back_to(now);
        }
        world.inject(if versions { VERSIONS } else { VAULT });
        world.note("vault went back", before, last);
        self.oracle.vault_went_back(site);
        self.forget_handed_in();
        site.model.borrow_mut().vault_went_back(last);
        site.must_notice(noticed && !is_misled(&world));
        self.histories.vault = None;
        if !noticed {
            self.forget_sequences();
        }
    }

    /// Returns the objects without the newest versions of the catalog.
    fn without_newest(&self) -> Option<Objects> {
        let mut objects = self.server.copy();
        for _ in 0..self.histories.random.within(1, LOST_MAX) {
            let newest = objects.keys().rfind(|name| name.contains("/catalog/"))?.clone();
            objects.remove(&newest);
        }
        Some(objects)
    }

    /// Returns whether the vault has all that its catalog lists.
    pub fn is_whole(&self) -> bool {
        let replica = self.world.in_peace(|| readable(self.owner()));
        replica.is_some_and(|replica| {
            let mut listed = replica.catalog().segments().iter();
            listed.all(|entry| self.server.content(&entry.object).is_some())
        })
    }
}

fn snapshot(site: &Site) -> Snapshot {
    site.see_ends();
    site.world.note("snapshot", site.ends.get().0, 0);
    Snapshot {
        files: site.files().copy(),
        platter: site.platter().copy(),
        model: site.model.borrow().clone(),
        last: site.ends.get().0,
        published: site.world.in_peace(|| last_in_vault(site)),
    }
}

/// Returns whether the vault ends with a segment that these files have.
fn has_newest_of_vault(site: &Site, files: &FileSystem) -> bool {
    let (replica, spool) = (readable(site), state_directory().join("spool"));
    replica.is_some_and(|replica| {
        let newest = replica.catalog().segments().last();
        newest.is_some_and(|entry| files.has(&spool.join(entry.summary.object_name())))
    })
}

/// Whose the volume is, and at which step of its life cycle.
pub type Stretch = (Option<[u8; 16]>, Epoch, usize);

pub fn stretch_of(replica: &Replica) -> Stretch {
    let catalog = replica.catalog();
    let steps = catalog.lifecycle().steps().iter();
    let steps = steps.filter(|step| step.kind != StepKind::Reprotect).count();
    (catalog.source().map(|source| source.id), catalog.epoch(), steps)
}

/// Returns the replica, if there is one that can be read.
pub fn readable(site: &Site) -> Option<Replica> {
    let clock: Arc<dyn Clock> = site.world.clock.clone();
    let store = site.server.clear_sight();
    Vault::open(store, site.plan.key.clone(), clock).and_then(|vault| vault.replica("disk")).ok()
}

fn has_happened(world: &World, faults: &[&str]) -> bool {
    faults.iter().any(|fault| world.injected.borrow().contains_key(fault))
}

pub fn is_misled(world: &World) -> bool {
    has_happened(world, &MISLEADING)
}

fn is_divergence(event: &Event) -> bool {
    matches!(event.kind, EventKind::Diverged { .. })
}

impl Site {
    /// Remembers what a running agent knows, before it ends.
    pub fn see_ends(&self) {
        if let Some(running) = self.running() {
            let given = tap_of(&running.protection).stats().last_sequence.0;
            let published = running.protection.stats().replicated_sequence.0;
            self.ends.set((given, published));
        }
    }

    /// What a start saw before it failed, or found its vault away, it has reported.
    pub fn has_reported(&self) {
        if self.events.lock().expect("one thread").iter().any(is_divergence) {
            self.must_notice(false);
        }
    }

    /// An agent started: it has noticed what it must. What only its spool had is gone if that does
    /// not continue the vault.
    pub fn check_noticed(&self) {
        let events = self.events.lock().expect("one thread").clone();
        let noticed = events.iter().any(is_divergence);
        let is_compared =
            |event: &Event| is_divergence(event) && event.message.contains("compared");
        self.turns.set(self.turns.get() + u64::from(events.iter().any(is_compared)));
        self.goes_on_elsewhere(None);
        if noticed {
            let last = self.world.in_peace(|| last_in_vault(self));
            self.model.borrow_mut().vault_went_back(last);
        }
        assert!(
            noticed || self.must_notice.borrow().is_none(),
            "promise 3: disk, state directory and vault are of several histories, and no event says so"
        );
    }

    /// Returns whether something has gone back in this life.
    pub fn has_gone_back(&self) -> bool {
        has_happened(&self.world, &WENT_BACK) || has_happened(&self.world, &[SWAP, LAG])
    }

    /// Returns whether points may be gone from a vault that nobody watched.
    pub fn may_lack_points(&self) -> bool {
        has_happened(&self.world, &WENT_BACK)
    }

    /// From now on the agent must notice that several histories met, or need not.
    pub fn must_notice(&self, yes: bool) {
        *self.must_notice.borrow_mut() = yes.then(|| self.anchor_of_vault());
    }

    /// A start or a session ended early. If it had recorded what the vault has, it had begun to
    /// compare the disk, and the next start goes on with that.
    pub fn ended_early(&self) {
        let before = self.must_notice.borrow().clone();
        if before.is_some_and(|before| before != self.anchor_of_vault()) {
            let noticed = self.events.lock().expect("one thread").iter().any(is_divergence);
            assert!(noticed, "promise 3: what is compared with the replica is in no event");
            self.must_notice(false);
            // What only the spool had was put aside.
            self.turns.set(self.turns.get() + 1);
            self.goes_on_elsewhere(None);
            let last = self.world.in_peace(|| last_in_vault(self));
            self.model.borrow_mut().vault_went_back(last);
        }
    }

    /// A session continues after `last`. What the vault lacks is in the spool, unless something went
    /// back or was damaged.
    pub fn see_hole(&self, last: u64) {
        if self.has_gone_back() || has_happened(&self.world, &MISLEADING[4..]) {
            let arrived = self.world.in_peace(|| last_in_vault(self));
            self.model.borrow_mut().hole(arrived, last);
        }
    }

    /// Returns whether the catalog cannot be read, because this vault went back under a source that
    /// has put a version since. That source alone can go on with it.
    pub fn is_unreadable(&self) -> bool {
        self.has_gone_back() && self.world.in_peace(|| readable(self)).is_none()
    }

    /// Accepts that versions which nobody can read on top of are lost, as an operator does whose
    /// source is lost. The source may still be there, and go on.
    pub fn accept_gap(&self) {
        if self.is_unreadable() {
            let clock: Arc<dyn Clock> = self.world.clock.clone();
            let vault = Vault::open(self.server.clear_sight(), self.plan.key.clone(), clock);
            let accepted = self.world.in_peace(|| vault.and_then(|vault| vault.accept_gap("disk")));
            if matches!(accepted, Ok(Some(_))) {
                self.world.inject("a gap is accepted");
            }
        }
    }

    /// Returns whether the vault says that the source of this state directory has the volume.
    pub fn owns_in_vault(&self) -> bool {
        let replica = self.world.in_peace(|| readable(self));
        let owner = replica.and_then(|replica| replica.catalog().source().map(|owner| owner.id));
        let anchor = self.files().peek(&state_directory().join("anchor")).unwrap_or_default();
        let text = String::from_utf8_lossy(&anchor).into_owned();
        owner.is_some_and(|id| text.contains(&format!("source={}", hex(&id))))
    }

    /// Returns what the state directory says of the vault.
    fn anchor_of_vault(&self) -> Vec<String> {
        let anchor = self.files().peek(&state_directory().join("anchor")).unwrap_or_default();
        let lines = String::from_utf8_lossy(&anchor).into_owned();
        let is_of_vault = |line: &&str| line.starts_with("version=") || line.starts_with("hash=");
        lines.lines().filter(is_of_vault).map(str::to_owned).collect()
    }

    /// The agent reports that disk, state directory and vault are of several histories.
    pub fn diverged(&self, message: &str, stats: &TapStats) {
        assert!(self.has_gone_back() || is_misled(&self.world), "nothing went back: {message}");
        self.must_notice(false);
        self.goes_on_elsewhere(Some(stats));
        if message.ends_with("what the vault has") {
            self.turns.set(self.turns.get() + 1);
            let last = self.world.in_peace(|| last_in_vault(self));
            self.model.borrow_mut().goes_on_after(last, stats);
        }
    }
}
