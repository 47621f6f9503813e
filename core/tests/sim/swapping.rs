//! Vaults that are exchanged. The owner's vault is replaced by a mirror that lags behind, and later
//! perhaps by the first again. Or the owner's site is lost with its vault: the volume fails over, or
//! comes home, on the mirror.
//!
//! Each vault keeps what was put into it, and so the history that it has. The oracle's model is that of
//! the vault in place. Its later part is the disk as it is now, which nothing has captured.

use std::cell::Ref;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use hrl::bytes::hex;
use hrl::capture::TapStats;
use hrl::replica::Replica;
use hrl::{ChainHash, Clock};

use crate::going_back::{Stretch, WENT_BACK, is_misled, readable, stretch_of};
use crate::model::Model;
use crate::oracle::Offered;
use crate::run::Life;
use crate::site::{Running, Site, state_directory};
use crate::store::{EXCHANGE, Objects, Server};
use crate::world::Random;

pub const SWAP: &str = "a vault is swapped";
pub const LAG: &str = "a site is lost, and its mirror lags behind";

/// A segment that some vault had.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Published {
    before: ChainHash,
    chain: ChainHash,
    name: String,
    last: u64,
}

type Segments = BTreeSet<Published>;

/// A site that was lost comes back once in this many steps.
const ABSENCE: u64 = 300;

/// The history of the vault in place, which is not the owner's own as far as anybody knows.
pub struct OtherHistory {
    model: Model,
    /// What it is once the spool continues the vault after all.
    continued: Option<Continued>,
}

impl OtherHistory {
    fn vault_went_back(&mut self, last: u64) {
        let continued = self.continued.as_mut().and_then(|continued| continued.model.as_mut());
        continued.into_iter().for_each(|model| model.vault_went_back(last));
        self.model.vault_went_back(last);
    }
}

/// The history of a vault that a spool continues: a power failure may bring segments back that had
/// been removed from it.
struct Continued {
    end: End,
    /// Segments that may come back.
    segments: Segments,
    /// The history, unless it is the owner's own.
    model: Option<Model>,
}

/// Where a vault ends.
#[derive(Clone, Copy)]
struct End {
    chain: ChainHash,
    last: u64,
}

/// A vault that is not in place.
struct Other {
    objects: Objects,
    /// The history that it has, up to the end of its catalog.
    model: Model,
    offered: Offered,
    owner: usize,
    stretch: Stretch,
    /// Nothing was put into it but copies.
    is_mirror: bool,
    /// How often the owner had begun to go on in another history, if this is the one that it was in.
    turns: Option<u64>,
    /// Number of times that something had gone back.
    went_back: u64,
}

/// The vaults of a life.
pub struct Swaps {
    /// Vaults are swapped once in this many steps; zero is never.
    every: u64,
    /// Lives in which nothing is swapped draw nothing.
    random: Random,
    other: Option<Other>,
    /// The site that was lost.
    absent: Option<usize>,
    /// Segments that some vault had.
    segments: Segments,
}

impl Swaps {
    pub fn new(seed: u64) -> Self {
        let random = Random::new(seed ^ 0x7377_6170_7065_6400);
        let every = random.pick(&[0, 0, 100, 300]);
        Self { every, random, other: None, absent: None, segments: BTreeSet::new() }
    }

    /// Returns whether a machine stays off, because its site was lost. Another `owner` ends that.
    pub fn is_absent(&mut self, number: usize, owner: usize) -> bool {
        let Some(absent) = self.absent else { return false };
        if absent != owner || (absent == number && self.random.one_in(ABSENCE)) {
            self.absent = None;
        }
        self.absent == Some(number)
    }

    pub fn is_used(&self) -> bool {
        self.every > 0
    }

    /// Everybody is there again.
    pub fn come_back(&mut self) {
        self.absent = None;
    }
}

impl Life {
    /// Perhaps the vault is swapped, or mirrored for that.
    pub fn swap_vaults(&mut self) {
        let every = self.swaps.every;
        if self.taker.is_some() {
            // What a source knows of the volume from before another one had it is no witness.
            self.swaps.other = None;
            if every > 0 {
                self.sites.iter().for_each(|site| site.must_notice(false));
            }
        }
        if every == 0 || !self.may_be_exchanged() {
            return;
        }
        let is_mirror = self.swaps.other.as_ref().is_none_or(|other| other.is_mirror);
        if is_mirror && self.swaps.random.one_in(every / 4) {
            self.mirror();
        }
        if !self.swaps.random.one_in(every) || self.swaps.other.is_none() {
            return;
        }
        let owner = self.owner().clone();
        match self.swaps.random.below(4) {
            0 if !self.stormy && !self.server.is_down() => stop_cleanly(&owner),
            1 => owner.crash(self.swaps.random.one_in(2)),
            _ => {}
        }
        self.exchange(SWAP, true);
    }

    /// Perhaps the owner's site is lost with its vault, and the mirror lags behind.
    pub fn lose_site(&mut self, times: u64) {
        if self.swaps.every == 0 || self.swaps.other.is_none() || !self.may_be_exchanged() {
            return;
        }
        if self.swaps.random.one_in(times) {
            let owner = self.owner().clone();
            owner.crash(self.swaps.random.one_in(2));
            if self.exchange(LAG, false) {
                self.swaps.absent = Some(owner.number);
            }
        }
    }

    /// Returns whether the owner is a source that knows its vault, and nobody else is about to be one.
    fn may_be_exchanged(&self) -> bool {
        let owner = self.owner();
        let is_plain = !owner.has_failover() && !owner.comes_home() && !owner.is_provisional();
        let is_known = owner.files().has(&state_directory().join("anchor"));
        let is_alone = self.taker.is_none() && !self.clones.are_two();
        is_alone && !self.failovers.is_under_way() && is_plain && is_known
    }

    fn went_back(&self) -> u64 {
        let injected = self.world.injected.borrow();
        WENT_BACK.iter().filter_map(|fault| injected.get(fault)).sum()
    }

    /// Returns the vault in place as one that is kept.
    fn kept(&self, replica: &Replica) -> Other {
        Other {
            objects: self.server.copy(),
            model: self.owner().history().clone(),
            offered: self.oracle.offered.clone(),
            owner: self.owner,
            stretch: stretch_of(replica),
            is_mirror: false,
            turns: self.owner().other_history.borrow().is_none().then(|| self.owner().turns.get()),
            went_back: self.went_back(),
        }
    }

    fn mirror(&mut self) {
        let Some(replica) = self.world.in_peace(|| readable(self.owner())) else { return };
        self.world.note("mirror", replica.catalog().last_sequence().0, 0);
        self.swaps.other = Some(Other { is_mirror: true, ..self.kept(&replica) });
    }

    /// Puts the other vault in the place of this one, which is kept for another time if it `stays`.
    /// Returns false if that cannot be done now.
    fn exchange(&mut self, what: &'static str, stays: bool) -> bool {
        let (world, site) = (self.world.clone(), self.owner().clone());
        // The agent has looked at the vault in place, and is about to go on with that. If another one
        // takes its place now, the agent enters a history that is not in place: this model has only
        // that one. `promise_5_a_vault_that_comes_while_its_agent_enters_another_is_noticed` tries it.
        let enters = |running: Rc<Running>| running.protection.is_going_back();
        if site.running().filter(|_| site.is_alive()).is_some_and(enters) {
            return false;
        }
        // What was sent has arrived.
        self.server.deliver(Clock::elapsed(&*world.clock), true);
        let Some(before) = world.in_peace(|| readable(&site)) else { return false };
        let left = self.kept(&before);
        let Some(other) = self.swaps.other.take() else { return false };
        if (other.owner, &other.stretch, other.went_back)
            != (left.owner, &left.stretch, left.went_back)
        {
            return false;
        }
        self.oracle.check_sequences(&before);
        site.see_ends();
        self.server.go_back_to(other.objects);
        world.clock.advance(EXCHANGE);
        let Some(after) = world.in_peace(|| readable(&site)).filter(|_| self.is_whole()) else {
            self.server.go_back_to(left.objects);
            return false;
        };
        let (from, to) = (before.catalog().last_sequence().0, after.catalog().last_sequence().0);
        world.inject(what);
        world.note("vault is another", from, to);
        let points = after.points();
        self.oracle.offered = other.offered;
        self.oracle.offered.retain(|offered, _| points.iter().any(|point| point.id == *offered));
        self.forget_handed_in();
        self.forget_in_branch(&before, &after);
        let published = [&before, &after].into_iter().flat_map(|r| r.catalog().segments());
        self.swaps.segments.extend(published.map(|entry| {
            let summary = &entry.summary;
            let (before, chain) = (summary.previous, summary.chain);
            let (name, last) = (summary.object_name(), summary.last_sequence.0);
            Published { before, chain, name, last }
        }));
        let end = End { chain: after.catalog().last_chain(), last: to };
        let segments = &self.swaps.segments;
        // What the machine has may continue the vault although it went on in another history: a spool
        // comes back with the power. The agent may be at home in the vault that was in place. If that
        // has the end of this one, both are one history up to there: the chain binds all before it.
        // Then this vault went back, whatever the agent has compared since it was copied.
        let is_at_home = left.turns.is_some();
        let is_own =
            other.turns == Some(site.turns.get()) || is_at_home && has_end(&before, end.chain);
        let mut model = other.model;
        if !is_own {
            // It had put aside what only its spool had.
            model.vault_went_back(to);
        }
        *site.other_history.borrow_mut() = if site.continues(end, segments) {
            if is_own {
                site.lacks_published(end, segments);
            }
            (!is_own).then_some(OtherHistory { model, continued: None })
        } else {
            let (segments, whole) = (segments.clone(), (!is_own).then(|| model.clone()));
            model.is_cut_off(to);
            Some(OtherHistory { model, continued: Some(Continued { end, segments, model: whole }) })
        };
        site.must_notice(!site.knows_newest_of(&self.server) && !is_misled(&world));
        if is_misled(&world) {
            // What this vault lacks may be in no spool that can be read.
            site.model.borrow_mut().vault_went_back(to);
            self.forget_sequences();
        }
        self.histories.forget();
        if stays {
            self.swaps.other = Some(left);
        }
        true
    }
}

impl Life {
    /// What the other site has handed in to a branch is gone if this vault lacks it.
    fn forget_in_branch(&mut self, before: &Replica, after: &Replica) {
        let newest = |replica: &Replica| {
            let epoch = replica.catalog().branches().last()?.epoch;
            replica.branch(epoch).ok()
        };
        let (Some(before), Some(after)) = (newest(before), newest(after)) else { return };
        if self.failovers.is_lost() && before.catalog().last_chain() != after.catalog().last_chain()
        {
            let last = after.catalog().last_sequence().0;
            let site = &self.sites[1 - self.owner];
            site.other_history
                .borrow_mut()
                .iter_mut()
                .for_each(|other| other.vault_went_back(last));
            site.model.borrow_mut().vault_went_back(last);
            self.failovers.handed_in_elsewhere.push((last, before.catalog().last_sequence().0));
        }
    }
}

/// Returns whether the history of a vault has, or is, everything up to `chain`.
fn has_end(replica: &Replica, chain: ChainHash) -> bool {
    let catalog = replica.catalog();
    let mut listed = catalog.segments().iter().map(|entry| entry.summary.chain);
    catalog.last_chain() == chain || listed.any(|listed| listed == chain)
}

/// Ends the owner's session, so that the next one begins at another vault.
fn stop_cleanly(site: &Site) {
    let Some(running) = site.running().filter(|_| site.is_alive()) else { return };
    let machine = running.machine.clone();
    drop(running);
    site.world.dies_at.set(None);
    site.files().set_room(usize::MAX);
    let _ = site.stop();
    machine.kill();
    site.files().killed();
}

impl Site {
    /// Returns whether what the machine has continues a vault: its newest segment was published from
    /// here last, or the spool continues it.
    fn continues(&self, end: End, segments: &Segments) -> bool {
        self.knows(end) || self.spool_continues(end, segments)
    }

    /// Returns whether the newest segment of a vault is the one that was published from here last.
    fn knows(&self, end: End) -> bool {
        // A running agent knows more than its anchor once the disk below that is full.
        let running = self.running().filter(|_| self.is_alive());
        running.is_some_and(|running| running.protection.published_chain() == end.chain)
            || self.anchored("chain") == Some(hex(&end.chain.0).to_string())
    }

    /// Returns whether the spool has the newest segment of a vault, or the one after it.
    fn spool_continues(&self, end: End, segments: &Segments) -> bool {
        let is_near =
            |segment: &&Published| end.chain == segment.before || end.chain == segment.chain;
        segments.iter().filter(is_near).any(|segment| self.has_spooled(segment))
    }

    fn has_spooled(&self, segment: &Published) -> bool {
        self.files().has(&state_directory().join("spool").join(&segment.name))
    }

    /// Of what was published and is not in a vault, the spool may have the beginning alone: what came
    /// back with the power. Points after that are gone.
    fn lacks_published(&self, end: End, segments: &Segments) {
        let End { mut chain, mut last } = end;
        if self.knows(end) {
            return;
        }
        loop {
            let mut next = segments.iter().filter(|segment| segment.before == chain).peekable();
            if next.peek().is_none() {
                return;
            }
            let Some(spooled) = next.find(|segment| self.has_spooled(segment)) else { break };
            (chain, last) = (spooled.chain, spooled.last);
        }
        self.model.borrow_mut().vault_went_back(last);
    }

    /// Writers end their changes. A resync waits for them.
    pub fn end_changes(&self) {
        for _ in 0..1000 {
            let Some(running) = self.running().filter(|_| self.is_alive()) else { return };
            let Some(op) = running.ops.borrow_mut().pop() else { return };
            let left = self.advance(&running, op);
            running.ops.borrow_mut().extend(left);
            self.step_some_task(&running);
            self.world.clock.advance(Duration::from_millis(1));
        }
    }

    /// A session begins. If the vault has another history, what the spool has is put aside, even if
    /// this session does not come so far as to notice.
    pub fn begins_elsewhere(&self) {
        self.looks_at_its_spool();
        if self.other_history.borrow().is_some() {
            let published = self.anchored("published").and_then(|number| number.parse().ok());
            self.model.borrow_mut().vault_went_back(published.unwrap_or(0));
        }
    }

    /// The spool continues the vault in place if a segment of it came back with the power.
    pub fn looks_at_its_spool(&self) {
        let mut other = self.other_history.borrow_mut();
        let continued = other.as_mut().and_then(|other| {
            let continued = &mut other.continued;
            continued.take_if(|continued| self.spool_continues(continued.end, &continued.segments))
        });
        if let Some(Continued { end, segments, model }) = continued {
            *other = model.map(|model| OtherHistory { model, continued: None });
            if other.is_none() {
                self.lacks_published(end, &segments);
            }
        }
    }

    /// Returns the history of the vault in place.
    pub fn history(&self) -> Ref<'_, Model> {
        let other = Ref::filter_map(self.other_history.borrow(), |other| {
            other.as_ref().map(|other| &other.model)
        });
        other.unwrap_or_else(|_| self.model.borrow())
    }

    /// The agent goes on with the vault in place, whose history is not its own; `stats` if it runs.
    pub fn goes_on_elsewhere(&self, stats: Option<&TapStats>) {
        let Some(OtherHistory { mut model, .. }) = self.other_history.borrow_mut().take() else {
            return;
        };
        if let Some(stats) = stats {
            model.is_given(self.model.borrow().now(), stats);
        }
        *self.model.borrow_mut() = model;
    }

    /// Returns whether the vault has the newest catalog version that the state directory knows.
    fn knows_newest_of(&self, server: &Server) -> bool {
        let version = self.anchored("version").and_then(|number| number.parse::<u64>().ok());
        let object = version.map(|number| format!("volumes/disk/catalog/{number:016x}"));
        let content = object.and_then(|object| server.content(&object));
        let hash = content.map(|content| hex(blake3::hash(&content).as_bytes()).to_string());
        hash.is_some() && hash == self.anchored("hash")
    }

    fn anchored(&self, field: &str) -> Option<String> {
        let anchor = self.files().peek(&state_directory().join("anchor"))?;
        let text = String::from_utf8_lossy(&anchor).into_owned();
        let mut values = text.lines().filter_map(|line| line.strip_prefix(field));
        values.find_map(|value| value.strip_prefix('=')).map(str::to_owned)
    }
}
