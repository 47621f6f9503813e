//! The deletion delay of a vault: for how long what is deleted can be brought back.
//!
//! It is the name of an object, so that every store over the vault follows it, whoever opened it.
//! Each tombstone carries its own time, so a shorter delay changes nothing that is deleted already.

use std::time::Duration;

use hrl::store::Store;
use hrl::{Error, ErrorKind, Result};

use crate::tombstone::hex;

/// The delay that gateways and maintainers set in a vault that has none: 14 days.
pub const DEFAULT_DELAY: Duration = Duration::from_secs(14 * 86_400);
/// Longest delay: ten years.
pub const DELAY_MAX: Duration = Duration::from_secs(3_660 * 86_400);
/// Prefix of the object whose name is the delay, in milliseconds.
const DELAY: &str = "deleted/delay-";

/// Returns the deletion delay of a vault; zero if it has none. Of several the longest counts.
pub fn delay_of(store: &dyn Store) -> Result<Duration> {
    let delays = store.list(DELAY)?;
    Ok(delays.iter().filter_map(|info| parse(&info.name)).max().unwrap_or_default())
}

/// Sets the deletion delay of a vault, in `store` below any [`DelayedStore`](crate::DelayedStore).
/// What is deleted already keeps its own. Zero means that deletes are carried out at once.
///
/// `InvalidInput` above [`DELAY_MAX`].
pub fn set_delay(store: &dyn Store, delay: Duration) -> Result<()> {
    if delay > DELAY_MAX {
        return Err(Error::new(ErrorKind::InvalidInput, "set deletion delay", store.name())
            .expected(format_args!("at most {} days", DELAY_MAX.as_secs() / 86_400))
            .found(format_args!("{delay:?}")));
    }
    let name = format!("{DELAY}{:016x}", delay.as_millis() as u64);
    let others = store.list(DELAY)?.into_iter().map(|info| info.name);
    let others: Vec<String> = others.filter(|other| *other != name).collect();
    // The new one first: between the two, the longer counts.
    store.put(&name, b"")?;
    store.delete_many(&others)
}

/// Sets the deletion delay of a vault that has none. Returns the one that it has then.
pub fn ensure_delay(store: &dyn Store, delay: Duration) -> Result<Duration> {
    let has_one = store.list(DELAY)?.iter().any(|info| parse(&info.name).is_some());
    if !has_one {
        set_delay(store, delay)?;
    }
    delay_of(store)
}

fn parse(name: &str) -> Option<Duration> {
    Some(Duration::from_millis(hex(name.strip_prefix(DELAY)?)?).min(DELAY_MAX))
}
