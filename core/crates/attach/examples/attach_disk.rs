//! Protects a disk in use by points at intervals: `attach_disk DISK VAULT STATE SECONDS`.
//!
//! Prints a line for each event, and a point is one. Runs until it is killed; another run with the
//! same state directory goes on.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hrl::store::DirStore;
use hrl::vault::Vault;
use hrl::{Event, Policy, SystemClock};
use hrl_attach::AttachmentOptions;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [disk, vault, state, seconds] = arguments.as_slice() else {
        return Err("usage: attach_disk DISK VAULT STATE SECONDS".into());
    };
    let store = Arc::new(DirStore::create(Path::new(vault))?);
    let vault = Vault::create(store, None, SystemClock::shared())?;
    let policy =
        Policy { crash_point_interval: Duration::from_secs(seconds.parse()?), ..Policy::default() };
    let attachment = AttachmentOptions::new("disk", disk, vault, state)
        .policy(policy)
        .events(Arc::new(|event: &Event| println!("{event}")))
        .open()?;
    let mut points = 0;
    loop {
        std::thread::sleep(Duration::from_millis(200));
        let stats = attachment.stats();
        if stats.points > points {
            points = stats.points;
            println!("points {points}, the last one after {} tries", stats.last_tries);
        }
    }
}
