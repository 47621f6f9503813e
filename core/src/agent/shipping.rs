//! The shipping task: calls the shipper, and notices when another source takes the volume over.
//!
//! Once fenced, it ships nothing more and hands in to the branch what the journal has closed.
//!
//! Behaviour on failure: it retries for as long as it takes, with growing pauses.

use std::task::Waker;
use std::time::Duration;

use super::requests::Request;
use super::shared::Shared;
use super::shipper::{ShipNext, Shipped};
use super::surrender;
use super::task::{Next, Task};
use crate::clock::jittered;
use crate::error::{Error, ErrorKind};
use crate::event::EventKind;
use crate::units::Sequence;

const WAIT: Duration = Duration::from_millis(100);
const RETRY_MIN: Duration = Duration::from_millis(100);
/// How often a fenced source looks whether its journal is closed.
const TICK: Duration = Duration::from_millis(50);

/// Runs until the protection ends, or until a fenced source has handed in its spool.
pub(super) struct Shipping {
    /// Next pause while the vault does not answer.
    pause: Duration,
    /// When the catalog was last looked at for other sources and their requests.
    looked: Duration,
}

impl Shipping {
    pub(super) fn new(shared: &Shared) -> Self {
        Self { pause: RETRY_MIN, looked: shared.clock.elapsed() }
    }

    fn ship(&mut self, shared: &Shared) -> Next {
        let urgent = shared.requests.take(Request::Publish) || shared.requests.is_stopping();
        let (shipper, spool) = (&shared.shipping.shipper, &shared.shipping.spool);
        match shipper.ship(spool, urgent, &|| shared.requests.has_ended()) {
            Ok(Shipped { published, next }) => {
                self.pause = RETRY_MIN;
                if let Some(last) = published {
                    record_published(shared, last);
                }
                match next {
                    ShipNext::Now => Next::Now,
                    ShipNext::Segments => Next::Work(WAIT),
                    ShipNext::Bandwidth(wait) => Next::Later(wait),
                }
            }
            Err(error) if error.kind() == ErrorKind::Fenced => fence(shared, &error),
            Err(error) => {
                if shared.shipping.vault_failed() {
                    shared.event(EventKind::VaultUnavailable, error.to_string());
                }
                self.back_off(shared)
            }
        }
    }

    /// Looks at the catalog when that is due. Returns the error if another source owns the volume;
    /// other errors appear when shipping.
    fn look(&mut self, shared: &Shared) -> Option<Error> {
        let (now, interval) = (shared.clock.elapsed(), shared.policy.failover_poll_interval);
        if interval.is_zero() || now.saturating_sub(self.looked) < interval {
            return None;
        }
        self.looked = now;
        shared.shipping.shipper.look().err().filter(|error| error.kind() == ErrorKind::Fenced)
    }

    /// Hands in what the journal has closed, once this source is fenced.
    fn hand_in(&mut self, shared: &Shared) -> Next {
        if !shared.journal.is_drained() {
            return Next::Later(TICK);
        }
        let result =
            shared.vault.replica_with_keys(&shared.info.name, &shared.keys).and_then(|replica| {
                let (source, clock) = (shared.shipping.shipper.source(), &*shared.clock);
                surrender::hand_in(&shared.state, &replica, source, clock)
            });
        let Ok(done) = result else { return self.back_off(shared) };
        shared.shipping.spool.forget();
        let (segments, records) = (done.segments, done.records);
        let message = if segments == 0 {
            "nothing was captured here after the failover".to_owned()
        } else {
            format!("{segments} segments with {records} records are kept as a branch")
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
        if shared.session.is_fenced() {
            return self.hand_in(shared);
        }
        if shared.session.is_provisional() {
            return Next::Later(WAIT);
        }
        match self.look(shared) {
            Some(error) => fence(shared, &error),
            None => self.ship(shared),
        }
    }

    fn wait_for_work(&self, shared: &Shared, limit: Duration) {
        shared.shipping.shipper.wait_for_segments(&shared.shipping.spool, limit);
    }
}

fn record_published(shared: &Shared, last: Sequence) {
    if shared.shipping.published(last) {
        shared.event(EventKind::VaultAvailable, "the vault takes segments again".into());
    }
}

fn fence(shared: &Shared, error: &Error) -> Next {
    shared.session.fence();
    shared.event(EventKind::Fenced, error.to_string());
    Next::Later(TICK)
}
