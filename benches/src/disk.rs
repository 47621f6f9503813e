//! A protected disk of 1 GiB, half of it full, with random 4 KiB writes between two points.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hrl::device::{BlockDevice, Durability, MemoryDevice};
use hrl::journal::PointKind;
use hrl::replica::{At, Replica};
use hrl::store::DirStore;
use hrl::vault::Vault;
use hrl::{Policy, ProtectionOptions, SystemClock};

use crate::{BLOCK_BYTES, Random, disk_like};

const DISK_BYTES: u64 = 1 << 30;
const LIMIT: Duration = Duration::from_secs(300);

/// Such a disk in its vault.
pub struct ChangedDisk {
    /// Replica of the disk.
    pub replica: Replica,
    /// The point before the writes.
    pub from: At,
    /// The point after them.
    pub to: At,
    /// Bytes written between the points, counting each once.
    pub unique_bytes: u64,
}

impl ChangedDisk {
    /// Bytes of the disk with data before the writes: about what a restore writes.
    pub const DATA_BYTES: u64 = DISK_BYTES / 2;
    /// Writes between the points.
    pub const WRITES: u64 = 26_214;

    /// Makes such a disk, with its vault in `directory`.
    pub fn create(directory: &Path) -> Self {
        let device = Arc::new(MemoryDevice::new(DISK_BYTES));
        let data = disk_like(256, 3);
        for offset in (0..DISK_BYTES / 2).step_by(data.len()) {
            device.write(offset, &data, Durability::Cached).expect("fill");
        }
        let store = Arc::new(DirStore::create(&directory.join("vault")).expect("store"));
        let vault = Vault::create(store, None, SystemClock::shared()).expect("vault");
        let protection =
            ProtectionOptions::new("disk", device, vault.clone(), directory.join("state"))
                .policy(Policy { memory_budget_bytes: 1 << 30, ..Policy::default() })
                .open()
                .expect("protect");
        protection.wait_ordered(LIMIT).expect("first copy");
        let from = protection.mark(PointKind::Crash, "from").expect("mark");
        let mut unique = HashSet::new();
        let mut random = Random(12_345);
        for _ in 0..Self::WRITES {
            let offset = random.below(DISK_BYTES / BLOCK_BYTES as u64) * BLOCK_BYTES as u64;
            unique.insert(offset);
            let block = &data[..BLOCK_BYTES];
            protection.volume().write(offset, block, Durability::Cached).expect("write");
        }
        let to = protection.mark(PointKind::Crash, "to").expect("mark");
        protection.wait_replicated(LIMIT).expect("replicated");
        protection.stop(LIMIT).expect("stop");
        Self {
            replica: vault.replica("disk").expect("replica"),
            from: At::Point(from.id),
            to: At::Point(to.id),
            unique_bytes: (unique.len() * BLOCK_BYTES) as u64,
        }
    }
}
