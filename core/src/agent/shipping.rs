//! The shipping task: segments go to the vault, with growing pauses while it does not answer.
//!
//! It is also who notices that the volume went on elsewhere. Then nothing is shipped any more, and what the journal has
//! sealed until then is handed in as a branch.

use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::Duration;

use super::shipper::{ShipNext, Shipped};
use super::task::{Next, Task};
use super::{Shared, surrender};
use crate::clock::jittered;
use crate::error::{Error, ErrorKind};
use crate::event::EventKind;
use crate::units::Sequence;

const WAIT: Duration = Duration::from_millis(100);
const RETRY_MIN: Duration = Duration::from_millis(100);
/// How often a fenced source looks whether its journal is sealed.
const TICK: Duration = Duration::from_millis(50);

/// Runs until the protection ends, or what there is was handed in.
pub(super) struct Shipping {
    /// The next pause when the vault does not answer.
    pause: Duration,
    /// When it was last looked whether somebody asks for the volume.
    looked: Duration,
}

impl Shipping {
    pub(super) fn new(shared: &Shared) -> Self {
        Self { pause: RETRY_MIN, looked: shared.clock.elapsed() }
    }

    fn ship(&mut self, shared: &Shared) -> Next {
        let urgent = shared.name_now.swap(false, Ordering::AcqRel) || shared.is_stopping();
        match shared.shipper.ship(&shared.spool, urgent, &|| shared.has_ended()) {
            Ok(Shipped { named, next }) => {
                self.pause = RETRY_MIN;
                if let Some(last) = named {
                    note_named(shared, last);
                }
                match next {
                    ShipNext::Now => Next::Now,
                    ShipNext::Segments => Next::Work(WAIT),
                    ShipNext::Bandwidth(wait) => Next::Later(wait),
                }
            }
            Err(error) if error.kind() == ErrorKind::Fenced => fence(shared, &error),
            Err(error) => {
                if shared.vault_available.swap(false, Ordering::Relaxed) {
                    shared.event(EventKind::VaultUnavailable, error.to_string());
                }
                self.back_off(shared)
            }
        }
    }

    /// `Fenced` when the volume went on elsewhere. Anything else that is wrong, shipping finds out too.
    fn look(&mut self, shared: &Shared) -> Option<Error> {
        let (now, interval) = (shared.clock.elapsed(), shared.policy.failover_poll_interval);
        if interval.is_zero() || now.saturating_sub(self.looked) < interval {
            return None;
        }
        self.looked = now;
        shared.shipper.look().err().filter(|error| error.kind() == ErrorKind::Fenced)
    }

    /// Once fenced: hands in what the journal has sealed.
    fn hand_in(&mut self, shared: &Shared) -> Next {
        if !shared.drained.load(Ordering::Acquire) {
            return Next::Later(TICK);
        }
        let result =
            shared.vault.replica_with_keys(&shared.info.name, &shared.keys).and_then(|replica| {
                let (source, clock) = (shared.shipper.source(), &*shared.clock);
                surrender::hand_in(&shared.state, &replica, source, clock)
            });
        let Ok(done) = result else { return self.back_off(shared) };
        shared.spool.forget();
        let (segments, records) = (done.segments, done.records);
        let message = if segments == 0 {
            "nothing was captured here after the failover".to_owned()
        } else {
            format!("{segments} segments with {records} records are kept as a branch")
        };
        shared.event(EventKind::LateWrites { segments, records }, message);
        for note in done.notes {
            shared.event(EventKind::JournalRepaired, note);
        }
        Next::Ended
    }

    /// Half of the pause to all of it: the volumes that lost a vault together do not all come back at once.
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
        if shared.has_ended() {
            return Next::Ended;
        }
        if shared.is_fenced() {
            return self.hand_in(shared);
        }
        if shared.is_provisional() {
            return Next::Later(WAIT);
        }
        match self.look(shared) {
            Some(error) => fence(shared, &error),
            None => self.ship(shared),
        }
    }

    fn wait_for_work(&self, shared: &Shared, limit: Duration) {
        shared.shipper.wait_for_segments(&shared.spool, limit);
    }
}

fn note_named(shared: &Shared, last: Sequence) {
    shared.replicated.store(last.0, Ordering::Release);
    if !shared.vault_available.swap(true, Ordering::Relaxed) {
        shared.event(EventKind::VaultAvailable, "the vault takes segments again".into());
    }
}

fn fence(shared: &Shared, error: &Error) -> Next {
    shared.fenced.store(true, Ordering::Release);
    shared.event(EventKind::Fenced, error.to_string());
    Next::Later(TICK)
}
