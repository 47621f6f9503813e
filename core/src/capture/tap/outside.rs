//! Writes that are in order only while their driver says so.
//!
//! A copy onto the volume, such as the mirror of a running machine, writes blocks in an order that no
//! disk ever had. Its writes are captured all the same, inside an unordered interval. The interval
//! ends once the driver says that the copy is in sync, and another one begins when it is not any more.

use super::Tap;
use crate::event::{Cause, Mode};

impl Tap {
    /// From now on an outside writer's driver says whether the order is kept; it is not at first.
    pub(crate) fn await_driver(&self) {
        self.lock().in_sync = Some(false);
    }

    /// Returns whether the unordered interval goes on until the driver says otherwise.
    pub(crate) fn awaits_driver(&self) -> bool {
        self.lock().in_sync == Some(false)
    }

    /// The driver says that from now on writes are in order. Returns false, and does nothing, if the
    /// volume has no outside writer.
    pub(crate) fn writer_is_in_sync(&self) -> bool {
        let mut state = self.lock();
        let is_outside = state.in_sync.is_some();
        if is_outside {
            state.in_sync = Some(true);
            self.work.notify_all();
        }
        is_outside
    }

    /// Begins an unordered interval: the outside writer went away, a change of it failed, or its driver
    /// says that the order is not kept. Returns false, and does nothing, if the volume has none.
    pub fn writer_lost_sync(&self) -> bool {
        let now = self.clock.now();
        let mut state = self.lock();
        if state.in_sync.is_none() {
            return false;
        }
        state.in_sync = Some(false);
        if state.mode == Mode::Ordered {
            state.uncaptured.begin(now);
        }
        self.fall(&mut state, Cause::OutsideWriter, now);
        true
    }
}
