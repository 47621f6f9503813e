//! A machine that a volume fails over to, and one whose disk follows the volume and takes it home.

use std::sync::Arc;
use std::time::Duration;

use hrl::device::BlockDevice;
use hrl::failover::{FailoverOptions, Follower, SteppedFailover};
use hrl::replica::At;
use hrl::{Clock, ErrorKind, Result, Sequence};

use crate::model::tags_of;
use crate::oracle::differ;
use crate::site::{Machine, Running, Site, Slot, Work, state_directory};
use crate::world::World;

/// How a failover begins.
#[derive(Clone, Debug)]
pub struct Wish {
    pub at: At,
    pub planned: Option<Duration>,
    /// Choose another state than that of the failover under way.
    pub changes: bool,
}

impl Site {
    /// Returns whether the state directory records a failover to here that is under way, or an
    /// incomplete disk.
    pub fn has_failover(&self) -> bool {
        self.file("presence").is_some() || self.file("failover").is_some() && !self.comes_home()
    }

    /// Returns whether the volume was served here.
    pub fn was_served(&self) -> bool {
        self.file("presence").is_some()
    }

    /// Returns whether the state directory lists how its disk differs from the volume.
    pub fn has_divergence(&self) -> bool {
        self.file("follow").is_some()
    }

    /// Returns whether the volume was asked for.
    pub fn has_request(&self) -> bool {
        self.file("request").is_some()
    }

    /// Returns whether a failback is under way.
    pub fn comes_home(&self) -> bool {
        let text = self.file("failover");
        text.is_some_and(|text| String::from_utf8_lossy(&text).contains("home=true"))
    }

    fn file(&self, name: &str) -> Option<Vec<u8>> {
        self.files().peek(&state_directory().join(name))
    }

    /// Begins a failover to here, or continues it. `from` has the volume.
    pub fn fail_over(&self, wish: &Wish, from: &Self) -> Result<Sequence> {
        self.accept_gap();
        let marked = self.marked_regions();
        let machine = self.switch_on(true);
        if let Some(at) = self.basis.get().filter(|_| wish.changes) {
            // What was written since is given up now, whatever follows.
            self.model.borrow_mut().confirmed.retain(|_, sequence| *sequence <= at);
            self.changes.set(true);
        }
        let begun = self.vault(machine.store.clone()).and_then(|vault| {
            let disk: Arc<dyn BlockDevice> = machine.disk.clone();
            let mut options = FailoverOptions::new("disk", vault, state_directory(), disk)
                .at(wish.at.clone())
                .change_point(wish.changes)
                .policy(self.plan.policy.clone())
                .clock(self.world.clock.clone())
                .files(machine.files.clone())
                .waiting(Arc::new(|by| World::current().waits(by)))
                .events(self.sink());
            if let Some(limit) = wish.planned {
                options = options.planned(limit);
            }
            SteppedFailover::start(options)
        });
        let over = match begun {
            Ok(over) if machine.incarnation.is_alive() => over,
            Ok(_) => return Err(self.died()),
            Err(error) => {
                self.did_not_start(&machine, &error, false);
                return Err(error);
            }
        };
        let at = over.started.sequence;
        let goes_on = self.basis.get() == Some(at.0) && !wish.changes;
        self.world.note("serves as of", at.0, u64::from(goes_on));
        self.world.say(format!("site {} failed over, {wish:?}, at {at}", self.number));
        if !goes_on {
            let fresh = self.basis.get().is_none() || self.changes.get();
            *self.model.borrow_mut() = from.history().divided(at.0);
            *self.other_history.borrow_mut() = None;
            let expected = self.model.borrow().state_at(at.0);
            let found = self.seen_through(&*over.disk);
            let what = format!("promise 3: it is not served as of {at}");
            assert!(fresh, "a failover went on as of another state than {:?}", self.basis.get());
            self.basis.set(Some(at.0));
            differ(&what, &expected, &found);
        }
        self.changes.set(false);
        let SteppedFailover { protection, copy, disk, .. } = over;
        let running = self.run(machine, disk.clone(), protection, marked.filter(|_| goes_on));
        *running.instant.borrow_mut() = Some(disk);
        let now = self.world.clock.elapsed();
        running.slots.borrow_mut().push(Slot::new(Work::Copy(copy), now));
        Ok(at)
    }

    fn died(&self) -> hrl::Error {
        self.files().killed();
        hrl::Error::new(ErrorKind::Unavailable, "fail over", "simulation").message("it died")
    }

    /// Commits the failover to here.
    pub fn commit(&self, running: &Running) -> Result<()> {
        self.world.note("commits", self.number as u64, 0);
        let result = self.world.doing("commit", || running.protection.commit_failover());
        if let Err(error) = &result {
            self.world.say(format!("commit: {error}"));
        }
        result
    }

    /// Gives up the failover to here; the machine is off.
    pub fn cancel(&self) -> Result<()> {
        self.world.note("cancels", self.number as u64, 0);
        let machine = self.switch_on(false);
        let result = self.vault(machine.store.clone()).and_then(|vault| {
            let (files, clock) = (machine.files.clone(), &*self.world.clock);
            SteppedFailover::cancel(files, &vault, "disk", &state_directory(), clock)
        });
        if let Err(error) = &result {
            self.world.say(format!("cancel: {error}"));
        }
        let alive = machine.incarnation.is_alive();
        machine.incarnation.kill();
        self.files().killed();
        if alive { result } else { Err(self.died()) }
    }

    /// The running agent does not know yet that its failover was committed, or it was not.
    pub fn is_provisional(&self) -> bool {
        self.running().is_some_and(|running| running.protection.stats().provisional)
    }

    /// The copy behind the reads is complete.
    pub fn is_whole(&self) -> bool {
        self.running().is_some_and(|running| {
            let slots = running.slots.borrow();
            let copied = |slot: &Slot| slot.name == "hydrate" && slot.task.is_none();
            running.instant.borrow().is_some() && slots.iter().any(copied)
        })
    }

    /// Completes the copy behind the reads.
    pub fn finish_copy(&self) {
        for _ in 0..100_000 {
            let Some(running) = self.running().filter(|_| !self.is_whole()) else { return };
            self.step_some_task(&running);
            self.world.clock.advance(Duration::from_millis(1));
        }
        panic!("a disk does not become whole");
    }

    /// Ends the session and leaves a plain disk. The machine is off afterwards.
    pub fn detach(&self, may_die: bool) {
        let Some(running) = self.running() else { return };
        let (instant, files) = (running.instant.borrow().clone(), running.files.clone());
        let machine = running.machine.clone();
        drop(running);
        if !self.stop() {
            machine.kill();
            return self.files().killed();
        }
        self.world.note("detaches", self.number as u64, 0);
        let random = &self.world.random;
        if may_die && random.one_in(3) {
            let at = self.world.counts.get().requests + random.within(1, 12);
            self.world.dies_at.set(Some(at));
        }
        let disk = instant.expect("it is no plain disk");
        let result = SteppedFailover::leave_plain(&disk, files, &state_directory());
        if let Err(error) = &result {
            self.world.say(format!("detach: {error}"));
        } else if machine.is_alive() {
            let (expected, found) = (self.model.borrow().now().to_vec(), self.platter().peek());
            differ("promise 3: a whole disk is not the volume", &expected, &tags_of(&found));
        }
        self.world.dies_at.set(None);
        machine.kill();
        self.files().killed();
    }

    /// Makes the disk of this site, which lost the volume, follow. The machine is on while the
    /// result exists.
    pub fn follow(&self) -> (Machine, Result<Follower>) {
        self.world.note("follows", self.number as u64, 0);
        self.looks_at_its_spool();
        let machine = self.switch_on(false);
        let follower = self.vault(machine.store.clone()).and_then(|vault| {
            let (disk, files) = (machine.disk.clone(), machine.files.clone());
            let wait = Arc::new(|by| World::current().waits(by));
            let clock: Arc<dyn Clock> = self.world.clock.clone();
            let state = state_directory();
            Follower::open_stepped("disk", vault, &state, disk, clock, files, wait)
        });
        (machine, follower)
    }

    /// Ends a machine that followed.
    pub fn switch_off(&self, machine: &Machine, power: bool) {
        machine.incarnation.kill();
        if power {
            self.world.count(|counts| counts.power_failures += 1);
            self.files().power_failed(&self.world.random);
            self.platter().power_failed(&self.world.random);
        } else {
            self.files().killed();
        }
    }

    /// Makes the disk follow up to `to`, which `owner` wrote.
    pub fn check_follows(&self, owner: &Self, to: u64) {
        let expected = owner.history().state_at(to);
        let found = tags_of(&self.platter().peek());
        differ(&format!("promise 3: the disk does not follow up to {to}"), &expected, &found);
    }

    /// Fails back to here. Calls `committed` as soon as the commit is known.
    pub fn fail_back(
        &self,
        machine: Machine,
        follower: Follower,
        planned: Option<Duration>,
        committed: impl FnOnce(),
    ) -> Result<()> {
        self.world.note("fails back", self.number as u64, u64::from(planned.is_some()));
        self.basis.set(None);
        let policy = self.plan.policy.clone();
        let back = follower.fail_back_stepped(planned, policy, self.sink(), &|_, _| true);
        let (protection, _) = match back {
            Ok(back) if machine.incarnation.is_alive() => back,
            Ok(_) => return Err(self.died()),
            Err(error) => {
                self.did_not_start(&machine, &error, false);
                return Err(error);
            }
        };
        committed();
        let at = self.basis.get().expect("it was committed");
        let expected = self.model.borrow().state_at(at);
        let found = tags_of(&self.platter().peek());
        differ("promise 3: what came home is not the volume", &expected, &found);
        let disk: Arc<dyn BlockDevice> = machine.disk.clone();
        self.run(machine, disk, protection, None);
        Ok(())
    }
}
