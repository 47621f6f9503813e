//! Sixteen segments of 4 MiB on a volume of 64 MiB merged into one, about a third of them written over.

use criterion::{Criterion, Throughput};
use hrl::journal::{Segment, SegmentKind, SegmentSummary, merge};
use hrl::{Compression, SystemClock};
use hrl_benches::{BLOCK_BYTES, Nowhere, disk_like, log_params, open_log, write_log};

const SEGMENTS: usize = 16;
const BLOCKS_A_SEGMENT: usize = 1024;
const VOLUME_BYTES: u64 = 64 << 20;

pub fn group(criterion: &mut Criterion) {
    let data = disk_like(SEGMENTS * BLOCKS_A_SEGMENT, 4);
    let mut before: Option<SegmentSummary> = None;
    let segments: Vec<Segment> = data
        .chunks_exact(BLOCKS_A_SEGMENT * BLOCK_BYTES)
        .map(|data| {
            let params = log_params(VOLUME_BYTES, before.as_ref(), Compression::Zstd(1));
            let (bytes, summary) = write_log(Vec::new(), params, data, None);
            before = Some(summary);
            open_log(bytes, None)
        })
        .collect();
    let segments: Vec<&Segment> = segments.iter().collect();
    let clock = SystemClock::default();
    let mut group = criterion.benchmark_group("merge");
    group.throughput(Throughput::Bytes(data.len() as u64)).sample_size(20);
    for (name, kind) in
        [("into a merged segment", SegmentKind::Merged), ("into an image", SegmentKind::Image)]
    {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                merge(&segments, kind, Nowhere, Compression::Zstd(1), None, &clock).expect("merge")
            });
        });
    }
    group.finish();
}
