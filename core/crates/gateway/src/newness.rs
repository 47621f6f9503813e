//! Whether a segment is new to a vault: nobody may put other bytes under a name that is taken.
//!
//! Put-if-absent alone does not see a segment that lies in a pack. So the gateway looks before it
//! puts one, unless the segment goes on just where this gateway's last one of the volume ended a
//! moment ago. A source that ships in order therefore costs no further request.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hrl::store::Store;
use hrl::sync::lock::Mutex;
use hrl::vault::PackedStore;
use hrl::{Clock, Result};

/// How long the end of a volume is known without a look: another gateway may add to it.
const KNOWN_FOR: Duration = Duration::from_secs(60);
/// Volumes that are remembered.
const VOLUMES_MAX: usize = 10_000;

/// Where the segments of volumes ended that this gateway put.
pub(crate) struct Newness {
    clock: Arc<dyn Clock>,
    ends: Mutex<HashMap<String, (u64, Duration)>>,
}

impl Newness {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, ends: Mutex::default() }
    }

    /// Returns whether the vault has no object of this name.
    pub(crate) fn is_new(&self, vault: &PackedStore, name: &str) -> Result<bool> {
        let Some(((first, last), volume)) =
            PackedStore::sequences(name).zip(PackedStore::packable(name))
        else {
            // Never in a pack; put-if-absent sees it.
            return Ok(vault.head(name)?.is_none());
        };
        let now = self.clock.elapsed();
        let known = self.ends.lock().get(volume).copied();
        let follows = known.is_some_and(|(end, at)| {
            end.checked_add(1) == Some(first) && now.saturating_sub(at) < KNOWN_FOR
        });
        if !follows && vault.head(name)?.is_some() {
            return Ok(false);
        }
        let mut ends = self.ends.lock();
        if ends.len() >= VOLUMES_MAX {
            ends.clear();
        }
        ends.insert(volume.to_owned(), (last, now));
        Ok(true)
    }
}
