//! Failovers in a life: to the other site, committed, cancelled or changed, and home again.
//!
//! The site without the volume is blank, or a failover to it is under way, or it lost the volume
//! and its disk must follow. After every crash, work that was begun is continued, as an operator
//! does who repeats the command.

use std::time::Duration;

use hrl::replica::{At, Replica};
use hrl::{Epoch, ErrorKind, PointId, Sequence};

use crate::away::Wish;
use crate::model::{Model, tags_of};
use crate::oracle::{content, differ, replica};
use crate::run::Life;
use crate::site::Site;
use crate::world::Faults;

/// Tries of what must succeed once nothing is wrong any more.
const TRIES: u32 = 40;

/// Retry once the fault is over.
fn is_late(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Unavailable | ErrorKind::Io | ErrorKind::Poisoned | ErrorKind::Full)
}

/// Repeats a commit that got no answer although it is in the catalog, as an operator does.
fn commit_again(site: &Site) -> hrl::Result<()> {
    let running = site.running().filter(|_| site.is_alive() && site.is_provisional());
    running.map_or(Ok(()), |running| site.commit(&running))
}

/// Where the records of a branch begin that were read from the disk when its differences were
/// determined. They are unordered intervals, several if that was interrupted. At their ends they
/// equal the disk of that time, not a prefix of its agent's history.
fn differences_from(branch: &Replica) -> u64 {
    let timeline = branch.timeline();
    let differences = timeline.iter().rev().take_while(|e| e.unordered.is_some() || e.from == e.to);
    differences.last().map_or(u64::MAX, |first| first.from.0)
}

/// A failover under way.
pub struct Over {
    /// Whether it takes the volume home; otherwise it goes to a blank site.
    home: bool,
    wish: Wish,
    /// Whether it may be in the catalog.
    attempted: bool,
    cancelling: bool,
    /// Whether the catalog may record that it was cancelled.
    cancelled: bool,
}

impl Over {
    /// Returns whether an error means that the catalog records a cancellation that got no answer: it
    /// came late, after the failover had gone on. The source has the volume back then, nothing is
    /// committed, and cancelling here is to be repeated.
    fn is_cancelled_late(&mut self, kind: ErrorKind) -> bool {
        let is_late = self.cancelled && kind == ErrorKind::Fenced;
        self.cancelling |= is_late;
        is_late
    }
}

/// The branch of an ended epoch, as the model knows it.
struct Division {
    epoch: u32,
    at: u64,
    /// The old source's history, once it ended.
    model: Option<Model>,
    /// What its disk contained then.
    end: Option<Vec<u64>>,
    /// Points after the state that the volume offered before.
    offered: Vec<(PointId, u64)>,
}

/// The failovers of a life.
#[derive(Default)]
pub struct Failovers {
    /// A failover begins once in this many steps; zero is never.
    pub every: u64,
    epoch: u32,
    over: Option<Over>,
    /// The other site lost the volume and was not abandoned yet.
    lost: bool,
    /// What its disk contained when its differences were determined.
    end: Option<Vec<u64>>,
    divisions: Vec<Division>,
    /// Sequences after the first, up to the second, that the site without the volume handed in to
    /// a vault that is not in place any more. Its points there are gone, even those that it reports
    /// only now.
    pub handed_in_elsewhere: Vec<(u64, u64)>,
    versions_seen: u64,
}

impl Failovers {
    pub fn new(every: u64) -> Self {
        Self { every, ..Self::default() }
    }

    /// Returns whether a failover or a failback is under way.
    pub fn is_under_way(&self) -> bool {
        self.over.is_some()
    }

    /// Returns whether the other site lost the volume.
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// Forgets everything about the other site.
    pub fn is_quiet(&self) -> bool {
        self.over.is_none() && !self.lost
    }
}

impl Life {
    fn other(&self) -> usize {
        1 - self.owner
    }

    /// Perhaps does something about a failover.
    pub fn fail_over_or_back(&mut self) {
        if self.failovers.every == 0 {
            return;
        }
        self.see_commits(false);
        let world = self.world.clone();
        if self.failovers.over.as_ref().is_some_and(|over| !over.home) {
            self.go_on_over();
        } else if self.failovers.lost {
            self.go_on_at_home();
        } else if world.random.one_in(self.failovers.every) {
            self.begin_failover();
        }
        if self.failovers.over.is_none() && world.random.one_in(20) {
            self.may_die();
            let _ = commit_again(self.owner());
            world.dies_at.set(None);
        }
        let owner = self.owner();
        let may_end = owner.is_alive() && owner.is_whole() && !owner.is_provisional();
        if !self.stormy && may_end && world.random.one_in(40) {
            let owner = owner.clone();
            self.see_commits(false);
            if self.failovers.over.is_none() && !self.server.is_down() {
                world.dies_at.set(None);
                owner.files().set_room(usize::MAX);
                owner.detach(self.crashes > 0);
            }
        }
    }

    fn begin_failover(&mut self) {
        self.lose_site(2);
        let Some(replica) = self.world.in_peace(|| replica(self.owner())) else { return };
        self.failovers.epoch = replica.catalog().epoch().0;
        if replica.resolve(&At::Newest).is_err() {
            return;
        }
        let random = &self.world.random;
        let planned = random.one_in(3);
        let limit = Duration::from_millis(random.within(500, 20_000));
        let wish =
            Wish { at: self.some_state(), planned: planned.then_some(limit), changes: false };
        self.world.inject("a failover begins");
        self.failovers.over =
            Some(Over { home: false, wish, attempted: false, cancelling: false, cancelled: false });
        self.try_over();
    }

    fn some_state(&self) -> At {
        let random = &self.world.random;
        let Some(replica) = self.world.in_peace(|| replica(self.owner())) else {
            return At::Newest;
        };
        let points = replica.points();
        let last = replica.catalog().last_sequence().0;
        match random.below(5) {
            0 => At::Newest,
            1 => At::NewestGood,
            2 if !points.is_empty() => {
                At::Point(points[random.below(points.len() as u64) as usize].id)
            }
            _ => At::Sequence(Sequence(random.within(1, last.max(1)))),
        }
    }

    /// The machine may die within the next call.
    fn may_die(&self) {
        let (world, random) = (&self.world, &self.world.random);
        if self.crashes > 0 && random.one_in(3) {
            world.dies_at.set(Some(world.counts.get().requests + random.within(1, 150)));
        }
    }

    /// Serves the volume at the blank site, or does so again.
    fn try_over(&mut self) {
        let (owner, site) = (self.owner().clone(), self.sites[self.other()].clone());
        let Some(wish) = self.failovers.over.as_ref().map(|over| over.wish.clone()) else { return };
        site.crash(self.world.random.one_in(2));
        self.may_die();
        let result = site.fail_over(&wish, &owner);
        self.world.dies_at.set(None);
        // A commit whose put came late may be why it cannot begin.
        self.see_commits(true);
        let Some(over) = &mut self.failovers.over else { return };
        match result {
            Ok(_) => over.wish.changes = false,
            Err(error) => {
                let kind = error.kind();
                let no_state = matches!(kind, ErrorKind::NotFound | ErrorKind::NotOrdered);
                let late = is_late(kind);
                let cancelled = over.is_cancelled_late(kind);
                let may_fail = no_state || late || cancelled || site.is_unreadable();
                assert!(may_fail, "a failover cannot begin: {error}");
                assert!(
                    !no_state || !site.was_served() || wish.changes,
                    "promise 5: the state of a failover under way is gone: {error}"
                );
                if no_state {
                    over.wish.changes = false;
                    over.wish.at = At::Newest;
                }
                if self.world.random.one_in(3) {
                    over.wish.planned = None;
                }
            }
        }
        self.see_commits(true);
    }

    fn go_on_over(&mut self) {
        let (world, site) = (self.world.clone(), self.sites[self.other()].clone());
        let random = &world.random;
        let cancelling = self.failovers.over.as_ref().is_some_and(|over| over.cancelling);
        if cancelling {
            if random.one_in(5) {
                self.try_cancel();
            }
            return;
        }
        let Some(running) = site.running().filter(|_| site.is_alive()) else {
            // A failover that only asked for the volume is given up too.
            match random.below(80) {
                0 => self.try_cancel(),
                1..=8 => self.try_over(),
                _ => {}
            }
            return;
        };
        if !random.one_in(60) {
            return;
        }
        match random.below(6) {
            0 => {
                drop(running);
                site.crash(random.one_in(2));
                self.try_cancel();
            }
            1 => {
                drop(running);
                world.inject("the state of a failover is changed");
                let at = self.some_state();
                if let Some(over) = &mut self.failovers.over {
                    (over.wish.at, over.wish.planned, over.wish.changes) = (at, None, true);
                }
                self.try_over();
            }
            2 if self.crashes > 0 => {
                drop(running);
                site.crash(random.one_in(2));
            }
            _ => {
                if let Some(over) = &mut self.failovers.over {
                    over.attempted = true;
                }
                self.may_die();
                let result = site.commit(&running);
                drop(running);
                self.see_commits(true);
                if let Err(error) = result {
                    let kind = error.kind();
                    // The vault went back, and its source has put a version beyond what is lost. It
                    // goes on in what is left, and then the commit can be repeated.
                    let late =
                        is_late(kind) || site.is_unreadable() || self.is_cancelled_late(kind);
                    assert!(late || !site.is_alive(), "a failover cannot be committed: {error}");
                }
            }
        }
    }

    fn is_cancelled_late(&mut self, kind: ErrorKind) -> bool {
        self.failovers.over.as_mut().is_some_and(|over| over.is_cancelled_late(kind))
    }

    fn try_cancel(&mut self) {
        let site = self.sites[self.other()].clone();
        site.crash(self.world.random.one_in(2));
        self.world.inject("a failover is cancelled");
        if let Some(over) = &mut self.failovers.over {
            (over.cancelling, over.cancelled) = (true, true);
        }
        self.may_die();
        let result = site.cancel();
        self.world.dies_at.set(None);
        self.see_commits(true);
        if self.failovers.over.is_none() {
            return;
        }
        assert!(
            result.is_err() || !site.has_failover(),
            "a failover was cancelled, and is under way"
        );
        if !site.has_failover() {
            site.basis.set(None);
        }
        match result {
            // A machine that died at the very end has nothing left to do.
            _ if !site.has_failover() && !site.has_request() => {
                site.basis.set(None);
                self.failovers.over = None;
                // A request without an answer stays open; its sender repeats it.
                self.failovers.lost = false;
            }
            Ok(()) => {}
            Err(error) => {
                let late = is_late(error.kind());
                assert!(late, "a failover cannot be cancelled: {error}");
                if self.world.random.one_in(3)
                    && let Some(over) = &mut self.failovers.over
                {
                    over.cancelling = false;
                }
            }
        }
    }

    /// Determines whether a failover was committed, and so who owns the volume now.
    pub fn see_commits(&mut self, surely: bool) {
        if self.failovers.over.is_none() {
            return;
        }
        let versions = self.server.versions();
        if versions == self.failovers.versions_seen && !surely {
            return;
        }
        self.failovers.versions_seen = versions;
        let world = self.world.clone();
        let Some(replica) = world.in_peace(|| replica(self.owner())) else { return };
        if replica.catalog().epoch().0 == self.failovers.epoch {
            return;
        }
        let attempted = self.failovers.over.as_ref().is_some_and(|over| over.attempted);
        assert!(attempted, "promise 9: an epoch ended without a commit");
        let branch = replica.catalog().branches().last().expect("an epoch was ended by a failover");
        assert_eq!(branch.epoch.0, self.failovers.epoch, "promise 9: epochs follow each other");
        let at = branch.at.0;
        world.inject(if self.failovers.over.as_ref().is_some_and(|over| over.home) {
            "a failback is committed"
        } else {
            "a failover is committed"
        });
        let mut offered = self.oracle.divide(at);
        if self.owner().plan.policy.retention.is_some() {
            // It may have given up more since the last look.
            let branch = replica.branch(Epoch(self.failovers.epoch)).expect("it was just made");
            let points = branch.points();
            offered.retain(|(point, _)| points.iter().any(|p| p.id == *point));
        }
        let epoch = self.failovers.epoch;
        self.failovers.divisions.push(Division { epoch, at, model: None, end: None, offered });
        let (old, new) = (self.owner().clone(), self.sites[self.other()].clone());
        if new.basis.get() != Some(at) {
            let model = old.history().divided(at);
            *new.model.borrow_mut() = model;
            new.basis.set(Some(at));
        }
        self.sites.iter().for_each(|site| site.must_notice(false));
        *new.other_history.borrow_mut() = None;
        self.owner = self.other();
        self.failovers.handed_in_elsewhere.clear();
        self.failovers.epoch += 1;
        self.failovers.over = None;
        self.failovers.lost = true;
    }

    /// The vault went back, and its branches may lack what was handed in.
    pub fn forget_handed_in(&mut self) {
        let Some(replica) = self.world.in_peace(|| replica(self.owner())) else { return };
        for division in &mut self.failovers.divisions {
            let branch = replica.branch(Epoch(division.epoch)).expect("its epoch has ended");
            let points = branch.points();
            division.offered.retain(|(point, _)| points.iter().any(|p| p.id == *point));
            division.end = None;
        }
    }

    /// Advances a site that lost the volume.
    fn go_on_at_home(&mut self) {
        let (world, site) = (self.world.clone(), self.sites[self.other()].clone());
        let random = &world.random;
        if site.is_alive() {
            if random.one_in(80) {
                site.crash(random.one_in(2));
            }
            return;
        }
        self.lose_site(150);
        if !random.one_in(25) {
            return;
        }
        let comes_home = self.failovers.over.is_some();
        site.crash(random.one_in(2));
        match random.below(8) {
            0 if !comes_home => {
                site.replace();
                self.failovers.lost = false;
            }
            1 if !comes_home => self.start_the_old_source(),
            _ => {
                self.follow(random.one_in(3));
            }
        }
    }

    /// Promise 9: the agent of a source that lost the volume reports it.
    fn start_the_old_source(&mut self) {
        let site = self.sites[self.other()].clone();
        // A plain agent never has an incomplete disk or an uncommitted failback.
        if site.has_failover() || site.comes_home() {
            return;
        }
        self.may_die();
        let started = site.start(false, None);
        self.world.dies_at.set(None);
        // Without the vault it cannot know.
        let is_away = site.running().is_some_and(|running| running.protection.stats().vault_away);
        if is_away {
            site.crash(false);
        }
        assert!(!started || is_away, "promise 9: an agent started that had lost the volume");
    }

    /// Makes the disk of the site that lost the volume follow. With `back`, or if that was begun,
    /// it takes the volume home. Returns whether it follows.
    fn follow(&mut self, back: bool) -> bool {
        let (world, site) = (self.world.clone(), self.sites[self.other()].clone());
        if !site.has_divergence() {
            // An incomplete disk is what its log describes; the rest was never reported.
            self.failovers.end = (!site.has_failover()).then(|| tags_of(&site.platter().peek()));
        }
        let owner = self.owner().clone();
        self.may_die();
        let (machine, follower) = site.follow();
        let mut follower = match follower {
            Ok(follower) if machine.incarnation.is_alive() => follower,
            result => {
                world.dies_at.set(None);
                let error = result.err();
                let alive = machine.incarnation.is_alive();
                site.switch_off(&machine, world.random.one_in(2));
                self.see_commits(true);
                if let Some(error) = error.filter(|_| alive && self.failovers.lost) {
                    world.say(format!("follow: {error}"));
                    let late = is_late(error.kind());
                    // A segment that was put and never published is a stray; the branch gets it
                    // once the stray is gone.
                    let is_retained = site.plan.policy.retention.is_some();
                    let late = late || (is_retained && error.kind() == ErrorKind::Changed);
                    // It followed what the vault lost, until its source has gone on in that.
                    let is_ahead = error.kind() == ErrorKind::Diverged && site.has_gone_back();
                    let late = late || (is_ahead && site.has_divergence());
                    // Its source has put a version on top of lost ones, and did not go on yet.
                    let has_gap = error.kind() == ErrorKind::Corrupt && site.is_unreadable();
                    let late = late || has_gap;
                    assert!(
                        late || self.owner().number == site.number,
                        "a disk cannot follow: {error}"
                    );
                }
                return false;
            }
        };
        self.see_handed_in();
        let mut follows = false;
        for _ in 0..world.random.within(1, 3) {
            match follower.catch_up(&At::Newest, &|_, _| true) {
                Ok(done) if machine.incarnation.is_alive() => {
                    site.check_follows(&owner, done.to.0);
                    follows = true;
                }
                result => {
                    if let Err(error) = result {
                        world.say(format!("catch up: {error}"));
                    }
                    follows = false;
                    break;
                }
            }
        }
        let begun = self.failovers.over.is_some();
        if follows && (back || begun) {
            self.fail_back(machine, follower);
            return true;
        }
        if follows {
            let _ = follower.record();
        }
        world.dies_at.set(None);
        drop(follower);
        site.switch_off(&machine, world.random.one_in(2));
        follows
    }

    fn fail_back(&mut self, machine: crate::site::Machine, follower: hrl::failover::Follower) {
        let (world, site) = (self.world.clone(), self.sites[self.other()].clone());
        let owner = self.owner().clone();
        let random = &world.random;
        let limit = Duration::from_millis(random.within(500, 20_000));
        let planned = (owner.is_alive() && !random.one_in(3)).then_some(limit);
        let wish = Wish { at: At::Newest, planned, changes: false };
        self.failovers.over =
            Some(Over { home: true, wish, attempted: true, cancelling: false, cancelled: false });
        let result = site.fail_back(machine, follower, planned, || self.see_commits(true));
        world.dies_at.set(None);
        self.see_commits(true);
        if let Err(error) = result {
            let kind = error.kind();
            let late = is_late(kind);
            assert!(late || self.failovers.over.is_none(), "a volume cannot come home: {error}");
            if random.one_in(2) {
                site.files().power_failed(random);
                site.platter().power_failed(random);
            }
        }
    }

    /// Everything the old source had was handed in and is on the branch.
    fn see_handed_in(&mut self) {
        let end = self.failovers.end.take();
        let site = self.sites[self.other()].clone();
        let Some(division) = self.failovers.divisions.last_mut().filter(|d| d.model.is_none())
        else {
            return;
        };
        let model = site.history().clone();
        for (point, sequence) in &model.confirmed {
            // What retention gave up before is not distinguished.
            let may_lack = site.plan.policy.retention.is_some() || site.may_lack_points();
            let elsewhere = &self.failovers.handed_in_elsewhere;
            let is_gone = elsewhere.iter().any(|(from, to)| from < sequence && sequence <= to);
            if *sequence > division.at && !may_lack && !is_gone {
                division.offered.push((*point, *sequence));
            }
        }
        division.model = Some(model);
        division.end = end;
        let at = self.failovers.divisions.len() - 1;
        self.check_branch(at, 4);
    }

    /// Checks a branch as the oracle checks the volume.
    pub fn look_at_some_branch(&self) {
        let count = self.failovers.divisions.len() as u64;
        if count > 0 {
            self.check_branch(self.world.random.below(count) as usize, 1);
        }
    }

    fn check_branch(&self, number: usize, times: u64) {
        let division = &self.failovers.divisions[number];
        let Division { epoch, at, model, end, offered } = division;
        let Some(replica) = self.world.in_peace(|| replica(self.owner())) else { return };
        let branch = replica
            .branch(Epoch(*epoch))
            .unwrap_or_else(|error| panic!("promise 5: the branch of epoch {epoch}: {error}"));
        let points = branch.points();
        for (point, sequence) in offered {
            let there = points.iter().any(|p| p.id == *point && p.sequence.0 == *sequence);
            assert!(
                there,
                "promise 5: point {point} at {sequence} is not on the branch of epoch {epoch}"
            );
        }
        let Some(model) = model else { return };
        if let Some(end) = end {
            let found = content(&branch, &At::Newest);
            let what =
                format!("promise 4: the end of the branch of epoch {epoch} is not the old disk");
            differ(&what, end, &found);
        }
        let last = branch.catalog().last_sequence().0;
        if last <= *at || !model.is_certain_after(*at) {
            return;
        }
        let differences = differences_from(&branch);
        for _ in 0..times {
            let sequence = self.world.random.within(*at + 1, last);
            let state = At::Sequence(Sequence(sequence));
            if sequence == last || sequence >= differences || branch.resolve(&state).is_err() {
                continue;
            }
            let what = format!("promise 3: the branch of epoch {epoch} at {sequence} is no prefix");
            differ(&what, &model.state_at(sequence), &content(&branch, &state));
            self.world.count(|counts| counts.states_compared += 1);
        }
    }

    /// Without faults, everything under way comes to its end.
    pub fn end_failovers(&mut self) {
        self.faulty = Faults::default();
        if self.failovers.every == 0 {
            return;
        }
        self.crashes = 0;
        self.stormy = false;
        let world = self.world.clone();
        let mut followed = false;
        for number in 0..TRIES {
            if number == TRIES / 2 {
                self.swaps.come_back();
            }
            self.see_commits(true);
            self.revive(self.owner);
            if self.owner().is_unreadable() {
                self.owner().clone().idle();
            }
            if self.failovers.over.is_none() {
                commit_again(self.owner()).expect("nothing is wrong");
            }
            let other = self.sites[self.other()].clone();
            if self.failovers.over.as_ref().is_some_and(|over| !over.home) {
                let cancels = self.failovers.over.as_ref().is_some_and(|over| over.cancelling);
                if cancels || (other.is_alive() && world.random.one_in(3)) {
                    other.crash(false);
                    self.try_cancel();
                } else if let Some(running) = other.running().filter(|_| other.is_alive()) {
                    if let Some(over) = &mut self.failovers.over {
                        over.attempted = true;
                    }
                    let result = other.commit(&running);
                    drop(running);
                    if let Err(error) = result {
                        let late = self.is_cancelled_late(error.kind());
                        assert!(late, "nothing is wrong: {error}");
                    }
                } else {
                    self.try_over();
                }
            } else if self.failovers.lost {
                if other.is_alive() {
                    // Until it learns of it, the site does not know that it had the volume and lost
                    // it.
                    commit_again(&other).expect("nothing is wrong");
                    other.settle();
                }
                other.crash(world.random.one_in(2));
                self.start_the_old_source();
                followed = self.follow(world.random.one_in(2));
                if followed && self.failovers.over.is_none() {
                    break;
                }
                if self.swaps.is_used() {
                    self.owner().clone().end_changes();
                }
                self.owner().clone().idle();
            } else {
                break;
            }
        }
        self.see_commits(true);
        assert!(self.failovers.over.is_none(), "a failover does not come to its end");
        // What retention gave up for a stray can be handed in only once it is deleted.
        let may_wait = self.owner().plan.policy.retention.is_some();
        assert!(
            followed || may_wait || !self.failovers.lost,
            "promise 9: a disk does not come home"
        );
        for number in 0..self.failovers.divisions.len() {
            self.check_branch(number, 2);
        }
    }

    /// The volume is usable where it is: what was handed over was taken on or back.
    pub fn check_usable(&self) {
        let owner = self.owner();
        let running = owner.running().expect("it runs");
        for number in 0..2000 {
            if !running.protection.stats().handed_over {
                drop(running);
                if number > 0 {
                    owner.settle();
                }
                return;
            }
            owner.step_some_task(&running);
            self.world.clock.advance(Duration::from_millis(5));
        }
        let stats = running.protection.stats();
        assert!(!stats.handed_over, "promise 6: nobody can write the volume: {stats:?}");
    }
}
