//! The catalog of a volume with 10,000 segments: read, and appended to through one whole cycle of snapshots.

use std::sync::Arc;

use criterion::{BatchSize, Criterion, SamplingMode, Throughput};
use hrl::journal::{SegmentKind, SegmentSummary, WrappingKey};
use hrl::store::DirStore;
use hrl::vault::{Catalog, CatalogEdit, SegmentEntry, SourceIdentity, Vault};
use hrl::{ChainHash, Epoch, Sequence, SystemClock, Timestamp, VolumeId};

const SEGMENTS: u64 = 10_000;
/// A snapshot whose version stays while the versions of the next cycle are appended.
const BASE_VERSION: u64 = 128;
const CYCLE: u64 = 64;

pub fn group(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("catalog");
    group.sampling_mode(SamplingMode::Flat).sample_size(20);
    for (name, sealed) in [("plain", false), ("encrypted", true)] {
        let volume = Volume::create(sealed);
        group.throughput(Throughput::Elements(SEGMENTS));
        group.bench_function(format!("open, {name}"), |bencher| {
            volume.forget_after(BASE_VERSION);
            bencher.iter_with_large_drop(|| volume.open());
        });
        group.throughput(Throughput::Elements(CYCLE));
        group.bench_function(format!("append, {name}"), |bencher| {
            bencher.iter_batched(
                || {
                    volume.forget_after(BASE_VERSION);
                    volume.open()
                },
                |mut catalog| {
                    for number in SEGMENTS..SEGMENTS + CYCLE {
                        let edit = CatalogEdit::Segments(vec![entry(volume.id, number)]);
                        catalog.append(&volume.source, vec![edit]).expect("append");
                    }
                    catalog
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

/// A volume that exists in its catalog only, in memory, so that no disk is measured.
struct Volume {
    vault: Vault,
    id: VolumeId,
    source: SourceIdentity,
    _directory: tempfile::TempDir,
}

impl Volume {
    fn create(sealed: bool) -> Self {
        let directory = tempfile::tempdir_in("/dev/shm").expect("directory");
        let store = Arc::new(DirStore::create(&directory.path().join("vault")).expect("store"));
        let key = sealed.then(|| WrappingKey::from_bytes([5; 32]));
        let vault = Vault::create(store, key, SystemClock::shared()).expect("vault");
        let id = vault.create_volume("disk", 1 << 40, 512, false).expect("volume").id;
        let source = SourceIdentity { id: [1; 16], host: "source".into(), since: Timestamp(0) };
        let volume = Self { vault, id, source, _directory: directory };
        let mut catalog = volume.open();
        let mut append = |edit| catalog.append(&volume.source, vec![edit]).expect("append");
        append(CatalogEdit::Source(volume.source.clone()));
        append(CatalogEdit::Segments((0..SEGMENTS).map(|number| entry(id, number)).collect()));
        for _ in 2..BASE_VERSION {
            append(CatalogEdit::Source(volume.source.clone()));
        }
        assert_eq!(catalog.version(), BASE_VERSION);
        volume
    }

    fn open(&self) -> Catalog {
        self.vault.replica("disk").expect("replica").into_catalog()
    }

    /// Makes `version` the newest one again.
    fn forget_after(&self, version: u64) {
        let store = self.vault.store();
        let newer = format!("volumes/disk/catalog/{:016x}", version + 1);
        let versions = store.list("volumes/disk/catalog/").expect("list");
        let names: Vec<_> = versions.into_iter().map(|info| info.name).collect();
        let newer: Vec<_> = names.into_iter().filter(|name| *name >= newer).collect();
        store.delete_many(&newer).expect("delete");
    }
}

/// Returns what a catalog says of the segment `number` of a volume, each of 256 records.
fn entry(volume: VolumeId, number: u64) -> SegmentEntry {
    let chain = |number: u64| {
        let mut hash = ChainHash::default();
        hash.0[..8].copy_from_slice(&number.to_le_bytes());
        hash
    };
    let summary = SegmentSummary {
        kind: SegmentKind::Log,
        volume,
        epoch: Epoch(1),
        first_sequence: Sequence(number * 256 + 1),
        last_sequence: Sequence(number * 256 + 256),
        first_time: Timestamp(0),
        last_time: Timestamp(0),
        salt: [7; 16],
        previous: chain(number),
        chain: chain(number + 1),
        records: 256,
        data_bytes: 1 << 20,
        stored_bytes: 1 << 19,
        marks: Vec::new(),
        order_changes: Vec::new(),
    };
    SegmentEntry { object: format!("volumes/disk/segments/{}", summary.object_name()), summary }
}
