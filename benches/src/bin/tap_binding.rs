//! Cost of the C binding: 4 KiB writes through the tap of a protection on a disk in memory, from
//! Rust and from C, in separate processes, in turns.
//!
//! ```text
//! make bench-c          builds benches/c/tap.c against the library, and runs this
//! tap_binding PROGRAM_OF_C [ROUNDS]
//! ```

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use hrl::capture::Change;
use hrl::device::{BlockDevice, Buffer, MemoryDevice};
use hrl::store::DirStore;
use hrl::vault::Vault;
use hrl::{Clock, Extent, Policy, ProtectionOptions, SystemClock};

const WRITES: u64 = 65_536;
const LIMIT: Duration = Duration::from_secs(60);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [vault, state, writes] = &arguments[..] {
        return println!("{:.1}", rust(vault, state, writes.parse().expect("number")));
    }
    let program = arguments.first().expect("the program built from benches/c/tap.c");
    let rounds = arguments.get(1).and_then(|rounds| rounds.parse().ok()).unwrap_or(15);
    let own = std::env::current_exe().expect("own path");
    let mut pairs: Vec<(f64, f64)> = Vec::new();
    for _ in 0..rounds {
        pairs.push((measure(&own), measure(Path::new(program))));
    }
    let median = |of: fn(&(f64, f64)) -> f64| {
        let mut values: Vec<f64> = pairs.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        (values[values.len() / 2], values[0], values[values.len() - 1])
    };
    println!("Rust {:.0} ns, C {:.0} ns a write", median(|p| p.0).0, median(|p| p.1).0);
    let (middle, low, high) = median(|p| p.1 / p.0);
    println!("tap from C / from Rust: {middle:.2} ({low:.2} to {high:.2}), bar 1.1");
}

fn measure(program: &Path) -> f64 {
    let directory = tempfile();
    let output = Command::new(program)
        .args([directory.join("vault"), directory.join("state")])
        .arg(WRITES.to_string())
        .output()
        .expect("run");
    let _ = std::fs::remove_dir_all(&directory);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().parse().expect("nanoseconds")
}

fn tempfile() -> std::path::PathBuf {
    let directory = Path::new("/dev/shm").join(format!("hrl-tap-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("directory");
    directory
}

fn rust(vault: &str, state: &str, writes: u64) -> f64 {
    let clock = SystemClock::default();
    let disk: Arc<dyn BlockDevice> = Arc::new(MemoryDevice::new(1 << 28));
    let store = Arc::new(DirStore::create(Path::new(vault)).expect("store"));
    let vault = Vault::create(store, None, SystemClock::shared()).expect("vault");
    let policy = Policy {
        memory_budget_bytes: 4 << 30,
        crash_point_interval: Duration::ZERO,
        ..Policy::default()
    };
    let protection =
        ProtectionOptions::new("disk", disk, vault, state).policy(policy).open().expect("open");
    protection.wait_ordered(LIMIT).expect("first copy");
    let tap = protection.volume().tap().expect("a tap").clone();
    let data = [7; 4096];
    let mut start = Duration::ZERO;
    for number in 0..2 * writes {
        if number == writes {
            start = clock.elapsed();
        }
        let extent = Extent { offset: number * 7919 % 65_536 * 4096, length: 4096 };
        let ticket = tap.begin_blocking(extent).expect("ticket");
        tap.complete(ticket, Change::Write(Buffer::copy_of(&data)));
    }
    let taken = clock.elapsed().saturating_sub(start);
    protection.stop(LIMIT).expect("stop");
    taken.as_nanos() as f64 / writes as f64
}
