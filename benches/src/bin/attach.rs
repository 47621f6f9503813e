//! What a writer pays while his disk is tracked: fio on a loop device, tracked and not, in turns within
//! each round; the time of the programs; the memory of the maps.
//!
//! ```text
//! attach [ROUNDS] [SECONDS] [DIRECTORY]     as root; the disk is a file in DIRECTORY (/dev/shm)
//! ```

use std::path::{Path, PathBuf};
use std::process::Command;

use hrl_attach::{Audit, Tracker};

const DISK_BYTES: u64 = 512 << 20;
const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";

fn main() {
    let argument = |at: usize| std::env::args().nth(at);
    let number = |at: usize, default: u32| {
        argument(at).map_or(default, |text| text.parse().expect("a number"))
    };
    let (rounds, seconds) = (number(1, 7) as usize, number(2, 4));
    let disk = Loop::new(&PathBuf::from(argument(3).unwrap_or_else(|| "/dev/shm".to_owned())));
    println!("| depth | writes a second, not tracked | tracked | ratio within a round | p99 |");
    println!("|---|---|---|---|---|");
    for depth in [1, 32] {
        disk.write(depth, seconds);
        let mut pairs: Vec<_> = (0..rounds).map(|round| disk.pair(depth, seconds, round)).collect();
        let median = |of: &dyn Fn(&(Load, Load)) -> f64| {
            let mut values: Vec<f64> = pairs.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let plain = median(&|pair| pair.0.writes);
        let tracked = median(&|pair| pair.1.writes);
        let slower = median(&|pair| pair.1.p99_ns / pair.0.p99_ns);
        let ratio = |pair: &(Load, Load)| pair.1.writes / pair.0.writes;
        pairs.sort_by(|a, b| ratio(a).total_cmp(&ratio(b)));
        println!(
            "| {depth} | {plain:.0} | {tracked:.0} | {:.3} ({:.3} to {:.3}) | {slower:.2} |",
            ratio(&pairs[rounds / 2]),
            ratio(&pairs[0]),
            ratio(&pairs[rounds - 1]),
        );
    }
    println!();
    disk.time(seconds);
    println!();
    for bytes in [100_u64 << 30, 1 << 40, 10 << 40] {
        println!("{} GiB: {:.1} MiB of maps", bytes >> 30, mib(Tracker::memory_bytes_for(bytes)));
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// What fio says of a run.
struct Load {
    writes: f64,
    p99_ns: f64,
}

/// A loop device over a file, removed at the end.
struct Loop {
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Loop {
    fn new(parent: &Path) -> Self {
        let directory = tempfile::tempdir_in(parent).expect("directory");
        let file = directory.path().join("disk");
        std::fs::write(&file, vec![1; DISK_BYTES as usize]).expect("file");
        let made = Command::new("losetup").args(["--find", "--show"]).arg(&file).output();
        let made = made.expect("losetup");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let path = String::from_utf8(made.stdout).expect("a path").trim().into();
        Self { path, _directory: directory }
    }

    /// Runs fio tracked and not, each first in every second round.
    fn pair(&self, depth: u32, seconds: u32, round: usize) -> (Load, Load) {
        if round.is_multiple_of(2) {
            let plain = self.write(depth, seconds);
            (plain, self.tracked(depth, seconds))
        } else {
            let tracked = self.tracked(depth, seconds);
            (self.write(depth, seconds), tracked)
        }
    }

    fn tracked(&self, depth: u32, seconds: u32) -> Load {
        let tracker = Tracker::attach(&self.path).expect("attach");
        let load = self.write(depth, seconds);
        let changed: u64 = tracker.take().iter().map(|extent| extent.length).sum();
        assert!(changed > 0, "nothing was marked");
        assert_ne!(tracker.audit().expect("audit"), Audit::Unknown);
        load
    }

    /// Prints what the programs take for a request, as the kernel counts it.
    fn time(&self, seconds: u32) {
        let before = std::fs::read_to_string(STATISTICS).expect("statistics");
        std::fs::write(STATISTICS, "1").expect("statistics");
        let tracker = Tracker::attach(&self.path).expect("attach");
        self.write(32, seconds);
        let counts = tracker.run_counts().expect("counts");
        std::fs::write(STATISTICS, before).expect("statistics");
        for ((runs, time_ns), name) in counts.into_iter().zip(["completion", "submission"]) {
            println!("{name}: {} ns, {runs} requests", time_ns / runs.max(1));
        }
    }

    fn write(&self, depth: u32, seconds: u32) -> Load {
        let output = Command::new("fio")
            .args(["--name=writer", "--rw=randwrite", "--bs=4k", "--direct=1", "--ioengine=libaio"])
            .args(["--time_based", "--norandommap", "--output-format=json"])
            .args([format!("--iodepth={depth}"), format!("--runtime={seconds}")])
            .arg(format!("--filename={}", self.path.display()))
            .output()
            .expect("fio");
        let found: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON of fio");
        let write = &found["jobs"][0]["write"];
        Load {
            writes: write["iops"].as_f64().expect("iops"),
            p99_ns: write["clat_ns"]["percentile"]["99.000000"].as_f64().expect("p99"),
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.path).status();
    }
}
