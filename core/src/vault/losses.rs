//! News of lost segments, for every writer that shares a handle of a vault.
//!
//! A store in front of a vault may lose segments that it acknowledged: a gateway whose cache is
//! gone. It reports that once, to the next catalog version that is put through the same handle,
//! whichever writer puts it: `Changed`, and nothing was written. The report is kept here until each
//! writer has seen it, so that a fold or a pin that comes first does not take the news from the
//! shipper.
//!
//! Invariant: a version that lists segments is not put if a loss was reported since its writer
//! loaded its catalog, or since that writer last saw `Changed`. Versions of one volume are put
//! through a handle one after the other.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, ErrorKind, Result};
use crate::parallel::is_alone;
use crate::store::PutOutcome;
use crate::sync::lock::{Mutex, MutexGuard};

/// What was reported through a handle of a vault.
#[derive(Default)]
pub(super) struct Losses(Mutex<HashMap<String, Arc<VolumeLosses>>>);

/// What was reported of one volume.
#[derive(Default)]
pub(super) struct VolumeLosses {
    /// Locked while a version is put.
    turn: Mutex<()>,
    reported: AtomicU64,
}

impl Losses {
    /// Returns what is reported of a volume.
    pub(super) fn of(&self, volume: &str) -> Arc<VolumeLosses> {
        let mut volumes = self.0.lock();
        volumes.entry(volume.to_owned()).or_default().clone()
    }
}

impl VolumeLosses {
    /// Returns how many losses were reported.
    pub(super) fn reported(&self) -> u64 {
        self.reported.load(Ordering::SeqCst)
    }

    /// Puts a catalog version for a writer that has seen `seen` reports.
    ///
    /// `Changed` if the version lists segments and some may be lost: nothing was written, and the
    /// writer puts them again. A version that lists none is put again here, because nothing of it
    /// was lost.
    pub(super) fn publish(
        &self,
        seen: &mut u64,
        lists_segments: bool,
        object: &str,
        put: impl Fn() -> Result<PutOutcome>,
    ) -> Result<PutOutcome> {
        let _turn = self.turn(object)?;
        if lists_segments && *seen != self.reported() {
            *seen = self.reported();
            return Err(Error::new(ErrorKind::Changed, "append to catalog", object)
                .message("segments that were put before it may be lost; put them again"));
        }
        let mut outcome = put();
        if outcome.as_ref().is_err_and(|error| error.kind() == ErrorKind::Changed) {
            let now = self.reported.fetch_add(1, Ordering::SeqCst) + 1;
            if lists_segments {
                *seen = now;
            } else {
                outcome = put();
            }
        }
        outcome
    }

    /// Waits for the turn of a version. A simulation has one thread, which cannot wait:
    /// `Unavailable` there.
    fn turn(&self, object: &str) -> Result<MutexGuard<'_, ()>> {
        if !is_alone() {
            return Ok(self.turn.lock());
        }
        self.turn.try_lock().ok_or_else(|| {
            Error::new(ErrorKind::Unavailable, "append to catalog", object)
                .message("another version is being put through this handle")
        })
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn lost() -> Result<PutOutcome> {
        Err(Error::new(ErrorKind::Changed, "put", "version").message("the cache is gone"))
    }

    #[test]
    fn promise_4_a_reported_loss_reaches_every_writer_of_the_handle() {
        let losses = Losses::default();
        let (volume, other) = (losses.of("disk"), losses.of("other"));
        let (mut shipper, mut folds, mut elsewhere) =
            (volume.reported(), volume.reported(), other.reported());
        let created = || Ok(PutOutcome::Created);
        let kind = |result: Result<PutOutcome>| result.err().map(|error| error.kind());
        // A fold comes first.
        let told = volume.publish(&mut folds, true, "version", lost);
        assert_eq!(kind(told), Some(ErrorKind::Changed));
        let never = || -> Result<PutOutcome> { panic!("it would list lost segments") };
        let told = volume.publish(&mut shipper, true, "version", never);
        assert_eq!(kind(told), Some(ErrorKind::Changed), "the shipper is told too");
        for seen in [&mut shipper, &mut folds] {
            volume.publish(seen, true, "version", created).expect("put again by both");
        }
        other.publish(&mut elsewhere, true, "version", created).expect("another volume");
        // A pin comes first: it lists nothing, so it is put again at once.
        let (mut pin, puts) = (volume.reported(), Cell::new(0));
        let once = || {
            puts.set(puts.get() + 1);
            if puts.get() == 1 { lost() } else { created() }
        };
        volume.publish(&mut pin, false, "version", once).expect("a pin");
        let told = volume.publish(&mut shipper, true, "version", never);
        assert_eq!(kind(told), Some(ErrorKind::Changed));
    }
}
