//! Two sessions on one history: a machine is copied while it runs, and both go on.
//!
//! The copy has writers, the original has none any more: whatever it still publishes, its model
//! knows. The first of both that publishes wins, and the other one must hear of it. Only then does
//! it start again, on what the first one published.
//!
//! Lives with two sites or with retention have no copies.

use std::rc::Rc;
use std::time::Duration;

use hrl::bytes::hex;
use hrl::replica::Replica;
use hrl::{Event, EventKind};

use crate::going_back::readable;
use crate::model::Model;
use crate::run::Life;
use crate::site::{Running, Site, state_directory, tap_of};
use crate::world::Random;

/// The name of the fault.
pub const CLONE: &str = "a running machine is copied";
/// Steps in which the loser must hear that another session publishes.
const STEPS_MAX: u32 = 20_000;

/// The original of a copied machine.
struct Original {
    running: Rc<Running>,
    /// Its history. Nobody writes any more.
    model: Model,
    /// The session that published last when it was copied, and its own.
    sessions: [Option<String>; 2],
    /// Last sequence in the vault, as far as the copy knows.
    published: u64,
}

impl Original {
    /// Follows what the session does to the order of its volume.
    fn look(&mut self) {
        let (protection, losses) = (&self.running.protection, &self.running.losses);
        let stats = tap_of(protection).stats();
        if losses.replace(protection.journal_losses()) < protection.journal_losses() {
            self.model.journal_lost(protection.stats().journaled_sequence.0, &stats);
        }
        self.model.observe(&stats);
    }
}

/// The copies of a life.
pub struct Clones {
    /// A machine is copied once in this many steps; zero is never.
    every: u64,
    random: Random,
    original: Option<Original>,
}

impl Clones {
    pub fn new(seed: u64, is_possible: bool) -> Self {
        let random = Random::new(seed ^ 0x636c_6f6e_6573_0000);
        let every = if is_possible { random.pick(&[0, 100, 300]) } else { 0 };
        Self { every, random, original: None }
    }

    /// Returns whether two sessions use copies of one state directory now.
    pub fn are_two(&self) -> bool {
        self.original.is_some()
    }
}

impl Life {
    /// Perhaps copies the machine, or lets the original step and sees who published first.
    pub fn go_on_as_two(&mut self) {
        if self.clones.every == 0 {
            return;
        }
        let site = self.owner().clone();
        if let Some(original) = &mut self.clones.original {
            if self.clones.random.one_in(2) {
                self.world.doing("original", || site.step_some_task(&original.running));
                original.look();
            }
            self.see_who_publishes(&site);
        } else if self.clones.random.one_in(self.clones.every) && site.is_alive() {
            self.clone_machine(&site);
        }
    }

    /// Ends the original, if there is one.
    pub fn end_clones(&mut self) {
        let site = self.owner().clone();
        self.see_who_publishes(&site);
        self.end_original();
        self.clones.every = 0;
    }

    fn clone_machine(&mut self, site: &Rc<Site>) {
        let is_known = site.files().has(&state_directory().join("anchor"));
        let vault = self.world.in_peace(|| readable(site));
        let (Some(vault), true) = (vault, is_known) else { return };
        let last = vault.catalog().last_sequence();
        let knows_vault = site.running().is_some_and(|running| {
            let stats = running.protection.stats();
            // One that is fenced has heard already, and goes on with nothing.
            !stats.vault_away && !stats.fenced && stats.replicated_sequence <= last
        });
        // The original's history is not that of a vault that it has not looked at yet.
        let is_elsewhere = site.other_history.borrow().is_some();
        if !knows_vault || is_elsewhere || site.must_notice.borrow().is_some() {
            return;
        }
        let Some(running) = site.running.borrow_mut().take() else { return };
        self.world.inject(CLONE);
        let sessions = [publisher(&vault), site.session()];
        running.ops.borrow_mut().clear();
        running.points.borrow_mut().clear();
        site.begin_incarnation();
        let (files, platter) = (site.files().copy(), site.platter().copy());
        site.files.replace(files);
        site.platter.replace(platter);
        if self.clones.random.one_in(2) {
            site.files().power_failed(&self.clones.random);
            site.platter().power_failed(&self.clones.random);
        }
        self.histories.forget();
        site.moments.borrow_mut().clear();
        self.clones.original = Some(Original {
            running,
            model: site.model.borrow().clone(),
            sessions,
            published: last.0,
        });
    }

    /// Lets the session that was not the first to publish hear of it.
    fn see_who_publishes(&mut self, site: &Rc<Site>) {
        let Some(original) = &self.clones.original else { return };
        let is_alive = original.running.machine.is_alive();
        if !is_alive {
            // What it sent has arrived.
            self.server.deliver(Duration::MAX, true);
        }
        let Some(vault) = self.world.in_peace(|| readable(site)) else { return };
        if !original.sessions.contains(&publisher(&vault)) {
            if is_alive && !original.running.protection.stats().vault_away {
                self.must_hear(site, &original.running, &|| site.original_is_fenced.get());
            }
            return self.end_original();
        }
        let last = vault.catalog().last_sequence().0;
        if last <= original.published {
            if !is_alive {
                self.end_original();
            }
            return;
        }
        let mut model = original.model.clone();
        // What the copy has, too, is its own.
        if !has_newest(site, &vault) {
            if let Some(running) = site.running().filter(|_| site.is_alive()) {
                if !running.protection.stats().vault_away {
                    self.must_hear(site, &running, &|| site.fenced.get());
                }
                drop(running);
            }
            site.crash(self.clones.random.one_in(2));
            model.vault_went_back(last);
            *site.model.borrow_mut() = model;
            site.moments.borrow_mut().clear();
            site.ends.set((last, 0));
            self.oracle.forget_sequences(Some(vault.catalog()));
            site.must_notice(!has_newest(site, &vault));
        }
        if let Some(original) = &mut self.clones.original {
            original.published = last;
        }
    }

    /// Lets a session go on without faults until it has heard that another one publishes.
    fn must_hear(&self, site: &Rc<Site>, running: &Running, heard: &dyn Fn() -> bool) {
        let world = self.world.clone();
        world.dies_at.set(None);
        self.server.set_down(false);
        for _ in 0..STEPS_MAX {
            if heard() {
                return;
            }
            world.in_peace(|| site.step_some_task(running));
            if site.is_alive() {
                site.look_at_events();
            }
            world.clock.advance(Duration::from_millis(self.clones.random.within(1, 20)));
        }
        panic!("promise 9: two sessions of one state directory go on, and nobody is fenced");
    }

    fn end_original(&mut self) {
        if let Some(original) = self.clones.original.take() {
            original.running.machine.kill();
        }
    }
}

/// Returns the session that published last.
fn publisher(vault: &Replica) -> Option<String> {
    vault.catalog().instance().map(|instance| hex(&instance.id).to_string())
}

/// Returns whether the state directory has the newest segment of the vault.
fn has_newest(site: &Site, vault: &Replica) -> bool {
    let spool = state_directory().join("spool");
    let newest = vault.catalog().segments().last();
    newest.is_some_and(|entry| site.files().has(&spool.join(entry.summary.object_name())))
}

impl Site {
    /// From now on events of the machine that runs are those of an original.
    fn begin_incarnation(&self) {
        self.incarnation.set(self.incarnation.get() + 1);
        self.original_is_fenced.set(false);
    }

    /// An original reports something.
    pub fn original_reports(&self, event: &Event) {
        self.world.say(format!("original event {}: {}", event.kind.name(), event.message));
        if matches!(event.kind, EventKind::Fenced) {
            self.original_is_fenced.set(true);
        }
    }

    /// Returns the newest session of the state directory.
    fn session(&self) -> Option<String> {
        let anchor = self.files().peek(&state_directory().join("anchor"))?;
        let text = String::from_utf8_lossy(&anchor).into_owned();
        let sessions = text.lines().find_map(|line| line.strip_prefix("sessions="))?;
        sessions.split(',').next().map(str::to_owned)
    }
}
