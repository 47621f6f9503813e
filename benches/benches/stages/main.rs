//! The stages of the data flow, each a group: what it takes to capture, seal, read, merge, view, restore, compare and list.
//!
//! `cargo bench -p hrl-benches -- WORD` runs the groups and cases whose name has the word, `--save-baseline NAME` keeps the
//! figures. `cargo run --release -p hrl-benches --bin stages` prints the ratios that have a bar.

mod catalog;
mod change_set;
mod frame;
mod merge;
mod restore;
mod seal;
mod tap;
mod view;

use std::sync::LazyLock;
use std::time::Duration;

use criterion::Criterion;
use hrl_benches::ChangedDisk;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(4))
        .sample_size(40)
        .noise_threshold(0.03)
        .configure_from_args();
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("directory");
    // Made when the first case asks for it, because it takes seconds.
    let disk = LazyLock::new(|| ChangedDisk::create(scratch.path()));
    tap::group(&mut criterion);
    seal::group(&mut criterion);
    frame::group(&mut criterion);
    merge::group(&mut criterion);
    view::group(&mut criterion, scratch.path());
    restore::group(&mut criterion, scratch.path(), &disk);
    change_set::group(&mut criterion, scratch.path(), &disk);
    catalog::group(&mut criterion);
    criterion.final_summary();
}
