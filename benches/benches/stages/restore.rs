//! Restore of about 600 MiB to a file, durable when it returns, against `cp` and sync of the result.

use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use criterion::{Criterion, SamplingMode, Throughput};
use hrl::replica::{At, RestoreTarget};
use hrl_benches::ChangedDisk;

pub fn group<F: FnOnce() -> ChangedDisk>(
    criterion: &mut Criterion,
    scratch: &Path,
    disk: &LazyLock<ChangedDisk, F>,
) {
    let (restored, copied) = (scratch.join("restored"), scratch.join("copied"));
    let target = RestoreTarget::File { path: restored.clone(), overwrite: true };
    let restore = || disk.replica.restore(&At::Newest, &target, &|_, _| true).expect("restore");
    let mut group = criterion.benchmark_group("restore");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.throughput(Throughput::Bytes(ChangedDisk::DATA_BYTES));
    group.bench_function("to a file", |bencher| bencher.iter(restore));
    group.bench_function("cp and sync", |bencher| {
        if !restored.exists() {
            restore();
        }
        bencher.iter(|| {
            let command = format!(
                "cp --sparse=auto {} {copied} && sync {copied}",
                restored.display(),
                copied = copied.display()
            );
            let done = Command::new("sh").arg("-c").arg(command).status().expect("cp");
            assert!(done.success());
        });
    });
    group.finish();
    for path in [restored, copied] {
        let _ = std::fs::remove_file(path);
    }
}
