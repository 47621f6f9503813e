//! Views: opening one over a million records, and reads.

use std::cell::LazyCell;
use std::path::Path;
use std::sync::Arc;

use criterion::{Criterion, Throughput};
use hrl::Compression;
use hrl::device::BlockDevice;
use hrl::replica::{View, ViewOptions};
use hrl_benches::{
    BLOCK_BYTES, Random, WideVolume, disk_like, log_params, open_log, volume_info, write_log,
};

const BLOCKS: usize = 4 << 10;
const VOLUME_BYTES: u64 = 64 << 20;
const READS: u64 = 1024;

pub fn group(criterion: &mut Criterion, scratch: &Path) {
    let wide = LazyCell::new(|| WideVolume::create(scratch));
    let mut group = criterion.benchmark_group("view");
    group.throughput(Throughput::Elements(WideVolume::RECORDS)).sample_size(20);
    group.bench_function("open and first read", |bencher| {
        bencher.iter_with_large_drop(|| wide.open_and_read());
    });
    group.sample_size(40);
    // All decoded frames fit into the first cache, and hardly any into the second.
    for (name, cache_bytes, reads) in
        [("random reads, cached", 64 << 20, READS), ("random reads, decoded", 1 << 20, READS / 32)]
    {
        let view = new_view(cache_bytes);
        group.throughput(Throughput::Bytes(reads * BLOCK_BYTES as u64));
        group.bench_function(name, |bencher| {
            let mut random = Random(5);
            let mut block = [0; BLOCK_BYTES];
            bencher.iter(|| {
                for _ in 0..reads {
                    let number = random.below(VOLUME_BYTES / BLOCK_BYTES as u64);
                    view.read(number * BLOCK_BYTES as u64, &mut block).expect("read");
                }
            });
        });
    }
    group.finish();
}

/// Returns a view over one segment of 16 MiB in random places of the volume.
fn new_view(cache_bytes: u64) -> View {
    let params = log_params(VOLUME_BYTES, None, Compression::Zstd(1));
    let (bytes, summary) = write_log(Vec::new(), params, &disk_like(BLOCKS, 6), None);
    let options = ViewOptions { cache_bytes, ..ViewOptions::default() };
    let segments = vec![Arc::new(open_log(bytes, None))];
    View::from_segments(&volume_info(VOLUME_BYTES), segments, summary.last_sequence, &options)
        .expect("view")
}
