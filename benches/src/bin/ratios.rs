//! Prints ratios of what `make bench` measured, from criterion's saved estimates.
//!
//! ```text
//! ratios                 stages against their bars, of the last run; and sizes that have a bar
//! ratios BEFORE [AFTER]  every stage of two saved baselines: the speed after / before
//! ```
//!
//! A baseline may have been measured in several runs, as NAME-1, NAME-2 and so on: then each figure is the median of the
//! runs. Criterion's directory is found as criterion finds it: `CRITERION_HOME`, or `criterion` in the target directory.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use hrl_benches::{ChangedDisk, WideVolume};
use serde_json::Value;

/// Ours, what it is compared with, and the least ratio.
const BARS: [(&str, &str, f64); 5] = [
    ("tap/drained by another thread", "tap/copies into fresh buffers", 0.5),
    ("seal/zstd", "seal/zstd, bare", 0.85),
    ("seal/ChaCha20-Poly1305", "seal/ChaCha20-Poly1305, bare", 0.85),
    ("seal/both", "seal/both, bare", 0.85),
    ("restore/to a file", "restore/cp and sync", 0.8),
];
/// Stages and the most milliseconds that they may take.
const LIMITS_MS: [(&str, f64); 2] =
    [("view/open and first read", 250.0), ("change set/list and extract", 500.0)];

/// A median and its confidence interval, in nanoseconds.
#[derive(Clone, Copy)]
struct Estimate {
    median: f64,
    low: f64,
    high: f64,
}

/// Estimates by stage, "group/case", of the baselines that criterion saved.
struct Saved(BTreeMap<String, BTreeMap<String, Estimate>>);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let saved = Saved::read(&criterion_home());
    match &arguments[..] {
        [] => print_bars(&saved),
        [before] => print_comparison(&saved, before, "new"),
        [before, after] => print_comparison(&saved, before, after),
        _ => {
            eprintln!("usage: ratios [BEFORE [AFTER]]");
            std::process::exit(2);
        }
    }
}

fn criterion_home() -> PathBuf {
    if let Some(home) = std::env::var_os("CRITERION_HOME") {
        return home.into();
    }
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
    target.join("criterion")
}

impl Saved {
    /// Reads every `GROUP/CASE/BASELINE/estimates.json`; the names are those in `benchmark.json` beside it.
    fn read(home: &Path) -> Self {
        let mut all: BTreeMap<String, BTreeMap<String, Estimate>> = BTreeMap::new();
        let below = |path: &Path| {
            let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).collect::<Vec<_>>()
        };
        for baseline in below(home).iter().flat_map(|p| below(p)).flat_map(|p| below(&p)) {
            let json = |name: &str| -> Option<Value> {
                serde_json::from_slice(&std::fs::read(baseline.join(name)).ok()?).ok()
            };
            let (Some(estimates), Some(benchmark)) =
                (json("estimates.json"), json("benchmark.json"))
            else {
                continue;
            };
            let number = |path: &str| estimates.pointer(path).and_then(Value::as_f64);
            let (Some(median), Some(low), Some(high), Some(stage), Some(name)) = (
                number("/median/point_estimate"),
                number("/median/confidence_interval/lower_bound"),
                number("/median/confidence_interval/upper_bound"),
                benchmark["full_id"].as_str(),
                baseline.file_name(),
            ) else {
                continue;
            };
            let name = name.to_string_lossy().into_owned();
            let estimate = Estimate { median, low, high };
            all.entry(stage.to_owned()).or_default().insert(name, estimate);
        }
        Self(all)
    }

    fn last(&self, stage: &str) -> Option<Estimate> {
        self.0.get(stage)?.get("new").copied()
    }

    /// Returns the medians of a stage in the runs of a baseline, in order.
    fn runs(&self, stage: &str, baseline: &str) -> Vec<f64> {
        let is_run = |name: &str| {
            let rest = name.strip_prefix(baseline);
            rest.is_some_and(|rest| {
                let number = rest.strip_prefix('-');
                rest.is_empty() || number.is_some_and(|number| number.parse::<u32>().is_ok())
            })
        };
        let runs = self.0.get(stage).into_iter().flatten();
        let mut runs: Vec<_> =
            runs.filter(|(name, _)| is_run(name)).map(|(_, estimate)| estimate.median).collect();
        runs.sort_by(f64::total_cmp);
        runs
    }
}

fn print_bars(saved: &Saved) {
    println!("| what | bar | measured | |\n|---|---|---|---|");
    let met = |yes: bool| if yes { "met" } else { "not met" };
    for (ours, bare, bar) in BARS {
        let (Some(o), Some(b)) = (saved.last(ours), saved.last(bare)) else {
            println!("| {ours} | {bar} | not measured | |");
            continue;
        };
        let ratio = b.median / o.median;
        println!(
            "| {ours} / {} | {bar} | {ratio:.2} ({:.2} to {:.2}) | {} |",
            bare.split_once('/').map_or(bare, |(_, case)| case),
            b.low / o.high,
            b.high / o.low,
            met(ratio >= bar)
        );
    }
    for (stage, limit) in LIMITS_MS {
        let Some(found) = saved.last(stage) else {
            println!("| {stage} | {limit} ms | not measured | |");
            continue;
        };
        let [median, low, high] = [found.median, found.low, found.high].map(|ns| ns / 1e6);
        let yes = met(median <= limit);
        println!("| {stage} | {limit} ms | {median:.0} ms ({low:.0} to {high:.0}) | {yes} |");
    }
    let directory = tempfile::tempdir().expect("directory");
    let wide = WideVolume::create(directory.path());
    let before = resident_mib();
    let view = wide.open_and_read();
    let more = resident_mib().saturating_sub(before);
    drop(view);
    println!("| view/open and first read, memory | 100 MiB | {more} MiB | {} |", met(more <= 100));
    let disk = ChangedDisk::create(directory.path());
    let changes = disk.replica.changes(&disk.from, &disk.to).expect("changes");
    let ratio = changes.extents().total_bytes() as f64 / disk.unique_bytes as f64;
    println!("| change set, size / unique bytes | 1.02 | {ratio:.3} | {} |", met(ratio <= 1.02));
}

fn print_comparison(saved: &Saved, before: &str, after: &str) {
    let mut table = String::new();
    let mut slower = 0;
    for stage in saved.0.keys() {
        let (old, new) = (saved.runs(stage, before), saved.runs(stage, after));
        let (Some(o), Some(n)) = (old.get(old.len() / 2), new.get(new.len() / 2)) else { continue };
        let ratio = o / n;
        slower += usize::from(ratio < 0.95);
        let _ = writeln!(
            table,
            "| {stage} | {} | {} | {ratio:.2} ({:.2} to {:.2}) |",
            time(*o),
            time(*n),
            old[0] / new[new.len() - 1],
            old[old.len() - 1] / new[0],
        );
    }
    println!("| stage | {before} | {after} | speed after / before |\n|---|---|---|---|\n{table}");
    println!("{slower} stages are slower than 0.95 of before");
}

fn time(nanoseconds: f64) -> String {
    if nanoseconds < 1e6 {
        format!("{:.1} µs", nanoseconds / 1e3)
    } else {
        format!("{:.2} ms", nanoseconds / 1e6)
    }
}

/// Returns the resident memory of this process.
fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}
