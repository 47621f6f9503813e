//! Frames of a segment read back: checked, opened, decompressed, and their records decoded; and the index.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput};
use hrl::Compression;
use hrl::journal::{BytesSource, KeyRing, Segment, VolumeKey};
use hrl_benches::{disk_like, log_params, open_log, write_log};

const BLOCKS: usize = 4 << 10;
const VOLUME_BYTES: u64 = 4 << 30;

pub fn group(criterion: &mut Criterion) {
    let data = disk_like(BLOCKS, 1);
    let key = VolumeKey::from_bytes([3; 32]);
    let zstd = Compression::Zstd(1);
    let mut group = criterion.benchmark_group("frame");
    group.throughput(Throughput::Bytes(data.len() as u64));
    for (name, compression, sealed) in [
        ("stored", Compression::None, false),
        ("zstd", zstd, false),
        ("ChaCha20-Poly1305", Compression::None, true),
        ("both", zstd, true),
    ] {
        let key = sealed.then_some(&key);
        let params = log_params(VOLUME_BYTES, None, compression);
        let segment = open_log(write_log(Vec::new(), params, &data, key).0, key);
        group.bench_function(name, |bencher| bencher.iter(|| read_all(&segment)));
    }
    let params = log_params(VOLUME_BYTES, None, zstd);
    let bytes = write_log(Vec::new(), params, &data, None).0;
    let entries = open_log(bytes.clone(), None).index().expect("sound").len();
    group.throughput(Throughput::Elements(entries as u64));
    group.bench_function("open and index", |bencher| {
        bencher.iter_batched(
            || Box::new(BytesSource::new("bench.hrl", bytes.clone())),
            |source| {
                let segment = Segment::open(source, &KeyRing::default()).expect("sound");
                (segment.index().expect("sound"), segment)
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn read_all(segment: &Segment) {
    for number in 0..segment.frame_count() {
        let frame = segment.frame(number).expect("sound");
        for record in frame.records() {
            black_box(record.expect("sound"));
        }
    }
}
