//! Limit of the bytes that a client stores in the vault, below all of its volumes.
//!
//! What a volume takes is listed every [`LIST_EVERY`], and grows with each segment that comes
//! through this gateway. Behaviour on failure: while the vault cannot be listed, what was listed
//! last counts; before the first listing nothing is refused.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hrl::store::Store;
use hrl::sync::lock::Mutex;
use hrl::vault::{PackedStore, layout};
use hrl::{Clock, Error, ErrorKind, Result};
use hrl_tls::EnrolledClient;

/// How often the bytes of a volume are listed.
const LIST_EVERY: Duration = Duration::from_secs(600);

pub(crate) struct Quota {
    bytes_max: Option<u64>,
    clock: Arc<dyn Clock>,
    /// Bytes of each volume, and when they were listed.
    volumes: Mutex<HashMap<String, (u64, Duration)>>,
}

impl Quota {
    pub(crate) fn new(bytes_max: Option<u64>, clock: Arc<dyn Clock>) -> Self {
        Self { bytes_max, clock, volumes: Mutex::default() }
    }

    /// Fails with `Full` if a segment of the client exceeds what it may store. Clients of all
    /// volumes have no limit.
    pub(crate) fn check(
        &self,
        vault: &PackedStore,
        client: &EnrolledClient,
        name: &str,
        bytes: u64,
    ) -> Result<()> {
        let Some(bytes_max) = self.bytes_max.filter(|_| !client.has_all_volumes()) else {
            return Ok(());
        };
        let stored: u64 = client.volumes.iter().map(|volume| self.stored(vault, volume)).sum();
        if stored.saturating_add(bytes) <= bytes_max {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Full, "put", name)
            .message(format_args!("client {} stores as much as it may", client.name))
            .expected(format_args!("at most {bytes_max} bytes of its volumes"))
            .found(format_args!("{stored} and {bytes} more")))
    }

    /// Counts a segment that was put.
    pub(crate) fn added(&self, volume: &str, bytes: u64) {
        if let Some((stored, _)) = self.volumes.lock().get_mut(volume) {
            *stored = stored.saturating_add(bytes);
        }
    }

    fn stored(&self, vault: &PackedStore, volume: &str) -> u64 {
        let now = self.clock.elapsed();
        let known = self.volumes.lock().get(volume).copied();
        if let Some((stored, at)) = known
            && now.saturating_sub(at) < LIST_EVERY
        {
            return stored;
        }
        let Ok(objects) = vault.list(&layout::volume_prefix(volume)) else {
            return known.map_or(0, |(stored, _)| stored);
        };
        let stored = objects.iter().map(|info| info.length).sum();
        self.volumes.lock().insert(volume.to_owned(), (stored, now));
        stored
    }
}
