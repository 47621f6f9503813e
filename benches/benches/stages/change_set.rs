//! The change set of 26,214 random 4 KiB writes on 1 GiB: listed, and extracted to a durable file.

use std::path::Path;
use std::sync::LazyLock;

use criterion::{BatchSize, Criterion, SamplingMode, Throughput};
use hrl_benches::ChangedDisk;

pub fn group<F: FnOnce() -> ChangedDisk>(
    criterion: &mut Criterion,
    scratch: &Path,
    disk: &LazyLock<ChangedDisk, F>,
) {
    let list = || disk.replica.changes(&disk.from, &disk.to).expect("changes");
    let mut group = criterion.benchmark_group("change set");
    group.throughput(Throughput::Elements(ChangedDisk::WRITES));
    group.bench_function("list", |bencher| bencher.iter(list));
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    let path = scratch.join("changes");
    group.bench_function("list and extract", |bencher| {
        bencher.iter_batched(
            || drop(std::fs::remove_file(&path)),
            |()| list().write_to_file(&path).expect("extract"),
            BatchSize::PerIteration,
        );
    });
    group.finish();
    let _ = std::fs::remove_file(path);
}
