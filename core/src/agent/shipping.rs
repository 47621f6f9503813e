//! The shipping task: calls the shipper, and notices when another source takes the volume over or
//! the vault goes back.
//!
//! Once fenced, it ships nothing more and hands in to the branch what the journal has closed.
//!
//! Behaviour on failure: it retries for as long as it takes, with growing pauses.

use std::task::Waker;
use std::time::Duration;

use super::away::{self, Arrival};
use super::failures::COMPARING;
use super::next::Next;
use super::requests::Request;
use super::rewind;
use super::shared::Shared;
use super::shipper::{Shipped, WAIT};
use super::surrender;
use super::task::Task;
use crate::clock::jittered;
use crate::error::{Error, ErrorKind};
use crate::event::EventKind;
use crate::units::Sequence;

const RETRY_MIN: Duration = Duration::from_millis(100);
/// Looks in a row that must not find what was published, before the vault counts as gone back.
const LACKS_MIN: u32 = 3;
/// How often a fenced source looks whether its journal is closed.
const TICK: Duration = Duration::from_millis(50);

/// Runs until the protection ends, or until a fenced source has handed in its spool.
pub(super) struct Shipping {
    /// Next pause while the vault does not answer.
    pause: Duration,
    /// When the catalog was last looked at for other sources and their requests.
    looked: Duration,
    /// How often in a row the vault lacked what was published.
    lacks: u32,
}

impl Shipping {
    pub(super) fn new(shared: &Shared) -> Self {
        Self { pause: RETRY_MIN, looked: shared.clock.elapsed(), lacks: 0 }
    }

    fn ship(&mut self, shared: &Shared) -> Next {
        let urgent = shared.requests.take(Request::Publish) || shared.requests.is_stopping();
        let (shipper, spool) = (&shared.shipping.shipper, &shared.shipping.spool);
        let shipped = shipper.ship(spool, urgent, &|| shared.requests.has_ended());
        if let Some(message) = shipper.report_intruders() {
            shared.event(EventKind::VersionIgnored, message);
        }
        match shipped {
            Ok(Shipped { published, next }) => {
                self.pause = RETRY_MIN;
                if let Some(last) = published {
                    record_published(shared, last);
                }
                next
            }
            Err(error) if is_decisive(&error) => self.decide(shared, &error),
            Err(error) => self.failed(shared, &error),
        }
    }

    /// Reports that the vault does not answer, unless it did not before, and pauses.
    fn failed(&mut self, shared: &Shared, error: &Error) -> Next {
        if shared.shipping.vault_failed() {
            shared.event(EventKind::VaultUnavailable, error.to_string());
        }
        self.back_off(shared)
    }

    /// Looks at the catalog when that is due. Returns the error if another source owns the volume or
    /// the vault went back; other errors appear when shipping.
    fn look(&mut self, shared: &Shared) -> Option<Error> {
        let (now, interval) = (shared.clock.elapsed(), shared.policy.failover_poll_interval);
        let due = !interval.is_zero() && now.saturating_sub(self.looked) >= interval;
        if !due && self.lacks == 0 {
            return None;
        }
        self.looked = now;
        let shipping = &shared.shipping;
        let looked = shipping.shipper.look(&shipping.spool);
        if looked.is_ok() {
            self.lacks = 0;
        }
        looked.err().filter(is_decisive)
    }

    /// Ends the session if another one owns the volume. If the vault went back, asks the journal to
    /// continue it.
    fn decide(&mut self, shared: &Shared, error: &Error) -> Next {
        if error.kind() == ErrorKind::Fenced {
            return fence(shared, error);
        }
        // A listing may lag behind what was put.
        self.lacks += 1;
        if self.lacks < LACKS_MIN {
            return Next::Later(RETRY_MIN);
        }
        if shared.requests.is_stopping() {
            // The next start compares by the anchor.
            return self.back_off(shared);
        }
        match shared.shipping.shipper.bridge_gap() {
            Ok(Some(gap)) => {
                self.lacks = 0;
                let detail = format!(
                    "catalog version {gap} went missing in the vault; all is published again beyond it"
                );
                shared.event(EventKind::JournalRepaired, detail);
                return Next::Now;
            }
            Ok(None) => {}
            Err(error) if error.kind() == ErrorKind::Fenced => return fence(shared, &error),
            Err(error) => return self.failed(shared, &error),
        }
        match rewind::look(shared, error) {
            Ok(Some(volume)) => {
                self.lacks = 0;
                shared.session.go_back(*volume);
                Next::Later(TICK)
            }
            Ok(None) => lose(shared),
            Err(error) if error.kind() == ErrorKind::Fenced => fence(shared, &error),
            Err(error) => self.failed(shared, &error),
        }
    }

    /// Compares a vault that was away at the start, if it answers now.
    fn compare(&mut self, shared: &Shared) -> Next {
        let compared = away::compare(shared).and_then(|arrival| {
            if let Arrival::Agrees(replica, difference) = arrival {
                away::join(shared, *replica, difference)?;
                return Ok(None);
            }
            Ok(Some(arrival))
        });
        match compared {
            Ok(None | Some(Arrival::Agrees(..))) => {
                self.pause = RETRY_MIN;
                self.looked = shared.clock.elapsed();
                shared.works_again(&COMPARING);
                Next::Now
            }
            Ok(Some(Arrival::Nothing)) => lose(shared),
            // The next start compares.
            Ok(Some(Arrival::Differs(_))) if shared.requests.is_stopping() => self.back_off(shared),
            Ok(Some(Arrival::Differs(vault))) => {
                self.pause = RETRY_MIN;
                shared.session.go_back(*vault);
                Next::Later(TICK)
            }
            Err(error) if error.kind() == ErrorKind::Fenced => fence(shared, &error),
            Err(error) => {
                if error.kind() != ErrorKind::Unavailable {
                    shared.failed(&COMPARING, &error);
                }
                self.back_off(shared)
            }
        }
    }

    /// Hands in what the journal has closed, once this source is fenced.
    fn hand_in(&mut self, shared: &Shared) -> Next {
        if !shared.journal.is_drained() {
            return Next::Later(TICK);
        }
        let result =
            shared.vault.replica_with_keys(&shared.info, &shared.keys).and_then(|replica| {
                let (source, clock) = (shared.shipping.shipper.source(), &*shared.clock);
                surrender::hand_in(&shared.state, &replica, source, clock)
            });
        let Ok(done) = result else { return self.back_off(shared) };
        let left = shared.shipping.spool.take_all().len();
        let (segments, records) = (done.segments, done.records);
        let message = if segments > 0 {
            format!("{segments} segments with {records} records are kept as a branch")
        } else if left > 0 {
            format!(
                "{left} segments stay in the spool: no failover took the volume, so there is no branch for them"
            )
        } else {
            "nothing was captured here after the failover".to_owned()
        };
        shared.event(EventKind::LateWrites { segments, records }, message);
        for repair in done.repairs {
            shared.event(EventKind::JournalRepaired, repair);
        }
        Next::Ended
    }

    /// Pauses for a random time, so that volumes which lost a vault together do not all return at
    /// once.
    fn back_off(&mut self, shared: &Shared) -> Next {
        let pause = jittered(self.pause, &*shared.clock);
        self.pause = (self.pause * 2).min(shared.policy.retry_interval_max);
        Next::Later(pause)
    }
}

impl Task for Shipping {
    fn name(&self) -> &'static str {
        "ship"
    }

    fn step(&mut self, shared: &Shared, _waker: &Waker) -> Next {
        if shared.requests.has_ended() {
            return Next::Ended;
        }
        if shared.session.is_lost() && shared.journal.is_drained() {
            // The files stay: they are for people now.
            drop(shared.shipping.spool.take_all());
            return Next::Ended;
        }
        if shared.session.is_lost() {
            return Next::Later(TICK);
        }
        if shared.session.is_fenced() {
            return self.hand_in(shared);
        }
        if shared.session.is_provisional() || shared.session.is_going_back() {
            return Next::Later(WAIT);
        }
        if shared.session.is_away() {
            return self.compare(shared);
        }
        match self.look(shared) {
            Some(error) => self.decide(shared, &error),
            None => self.ship(shared),
        }
    }

    fn wait_for_work(&self, shared: &Shared, limit: Duration) {
        shared.shipping.shipper.wait_for_segments(&shared.shipping.spool, limit);
    }
}

/// Returns whether an error ends the session or needs another history.
fn is_decisive(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Fenced | ErrorKind::Diverged)
}

fn record_published(shared: &Shared, last: Sequence) {
    let is_back = shared.shipping.published(last);
    shared.progress.moved();
    if is_back {
        shared.event(EventKind::VaultAvailable, "the vault takes segments again".into());
    }
}

fn lose(shared: &Shared) -> Next {
    shared.session.lose();
    forget(shared);
    let message = "the vault has no record of the volume any more; nothing is replicated from here";
    let handed_over = shared.session.handed_over().is_some();
    let kind = if handed_over { EventKind::Fenced } else { EventKind::VolumeLost };
    shared.event(kind, message.to_owned());
    Next::Later(TICK)
}

/// Forgets the volume's key, and what a start needs without the vault.
fn forget(shared: &Shared) {
    if let Err(error) = away::forget(&shared.state) {
        shared.event(EventKind::TaskFailed, format!("forgetting the volume: {error}"));
    }
}

fn fence(shared: &Shared, error: &Error) -> Next {
    shared.session.fence();
    forget(shared);
    shared.progress.moved();
    shared.event(EventKind::Fenced, error.to_string());
    Next::Later(TICK)
}
