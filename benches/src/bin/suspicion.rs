//! Cost of looking for suspicious changes: processor time of all threads for the same writes to a
//! protected disk in memory, with the inspector and without, in turns.
//!
//! ```text
//! suspicion [ROUNDS]
//! ```

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hrl::device::{BlockDevice, Durability, MemoryDevice};
use hrl::journal::WrappingKey;
use hrl::store::DirStore;
use hrl::vault::Vault;
use hrl::{Compression, Policy, ProtectionOptions, SystemClock, no_events};
use hrl_benches::{Random, disk_like};
use hrl_suspicion::Suspicion;

const LIMIT: Duration = Duration::from_secs(300);
const DISK_BYTES: u64 = 256 << 20;
const WRITTEN_BYTES: u64 = 128 << 20;

fn main() {
    let rounds: usize = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(9);
    println!("processor time of a write, with / without, median (lowest to highest)");
    for (name, random, compression, key) in [
        ("like a disk, zstd", false, Compression::Zstd(1), false),
        ("like a disk, zstd, key", false, Compression::Zstd(1), true),
        ("random, key", true, Compression::Zstd(1), true),
        ("random, stored", true, Compression::None, false),
    ] {
        for write_bytes in [4 << 10, 64 << 10] {
            let data = if random { noise() } else { disk_like(64, 3) };
            let case = Case { data, compression, key, write_bytes };
            case.run(true);
            let mut pairs: Vec<_> =
                (0..rounds).map(|_| (case.run(true), case.run(false))).collect();
            let ratio = |pair: &(f64, f64)| pair.0 / pair.1;
            pairs.sort_by(|a, b| ratio(a).total_cmp(&ratio(b)));
            println!(
                "{name}, {} KiB: {:.1} / {:.1} µs, {:.3} ({:.3} to {:.3})",
                write_bytes >> 10,
                pairs[rounds / 2].0,
                pairs[rounds / 2].1,
                ratio(&pairs[rounds / 2]),
                ratio(&pairs[0]),
                ratio(&pairs[rounds - 1])
            );
        }
    }
}

fn noise() -> Vec<u8> {
    let mut random = Random(7);
    (0..8 << 20).flat_map(|_| random.below(u64::MAX).to_le_bytes()).collect()
}

struct Case {
    data: Vec<u8>,
    compression: Compression,
    key: bool,
    write_bytes: usize,
}

impl Case {
    /// Returns the processor time of a write in microseconds.
    fn run(&self, inspected: bool) -> f64 {
        let home = tempfile::tempdir_in("/dev/shm").expect("directory");
        let store = Arc::new(DirStore::create(&home.path().join("vault")).expect("store"));
        let key = self.key.then(|| WrappingKey::from_bytes([7; 32]));
        let vault = Vault::create(store, key, SystemClock::shared()).expect("vault");
        let disk = Arc::new(MemoryDevice::new(DISK_BYTES));
        let state = home.path().join("state");
        let policy = Policy {
            memory_budget_bytes: 1 << 30,
            compression: self.compression,
            compression_cpu_percent_max: 100,
            crash_point_interval: Duration::ZERO,
            ..Policy::default()
        };
        let mut options =
            ProtectionOptions::new("disk", disk, vault.clone(), &state).policy(policy);
        if inspected {
            options = options.inspector(Suspicion::begin("disk", vault, &state, no_events()));
        }
        let protection = options.open().expect("protect");
        protection.wait_ordered(LIMIT).expect("ordered");
        let before = processor_time();
        let mut random = Random(1);
        let writes = WRITTEN_BYTES / self.write_bytes as u64;
        for (_, content) in (0..writes).zip(self.data.chunks_exact(self.write_bytes).cycle()) {
            let place = random.below(DISK_BYTES / self.write_bytes as u64);
            let offset = place * self.write_bytes as u64;
            protection.volume().write(offset, content, Durability::Cached).expect("write");
        }
        protection.wait_replicated(LIMIT).expect("replicated");
        let spent = processor_time().saturating_sub(before);
        protection.stop(LIMIT).expect("stop");
        spent.as_secs_f64() * 1e6 / writes as f64
    }
}

/// Returns the time that all threads of this process have spent on a processor.
fn processor_time() -> Duration {
    let tasks = std::fs::read_dir(Path::new("/proc/self/task")).expect("threads");
    let spent = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(spent.sum())
}
