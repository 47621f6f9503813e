//! What a protected volume costs besides its writes: memory by size of the volume, and bytes read
//! again after a SIGKILL during writes.
//!
//! ```text
//! cargo run --release -p hrl-benches --bin footprint -- [DIRECTORY]
//! ```

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use hrl::device::{BlockDevice, Durability, FileDevice, FileDeviceOptions};
use hrl::store::DirStore;
use hrl::vault::Vault;
use hrl::{Policy, Protection, ProtectionOptions, SystemClock};

const LIMIT: Duration = Duration::from_secs(600);
const GIB: u64 = 1 << 30;
const HOT_BYTES: u64 = GIB;
const BLOCK_BYTES: usize = 64 << 10;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [role, root, size] = &arguments[..] {
        return child(role, Path::new(root), size.parse().expect("size"));
    }
    let root = PathBuf::from(arguments.first().map_or("target/footprint", String::as_str));
    println!(
        "| volume | budget MiB | resident MiB, idle | resident MiB, peak of writing |\n|---|---|---|---|"
    );
    for size in [GIB, 64 * GIB, 1024 * GIB, 8 * 1024 * GIB] {
        clean(&root);
        let out = run("memory", &root, size, None);
        let budget = Policy::default().memory_budget_bytes >> 20;
        println!("| {} GiB | {budget} | {} |", size >> 30, out.join(" | "));
    }
    clean(&root);
    let size = 1024 * GIB;
    run("write", &root, size, Some("hot"));
    let out = run("resync", &root, size, None);
    println!("\n1 TiB with {} MiB hot, killed while writing: {}", HOT_BYTES >> 20, out.join(", "));
    clean(&root);
}

fn clean(root: &Path) {
    let _ = std::fs::remove_dir_all(root);
    std::fs::create_dir_all(root).expect("directory");
}

/// Runs a role in a child process and returns the lines it prints; kills it at the line `until`.
fn run(role: &str, root: &Path, size: u64, until: Option<&str>) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().expect("own path"))
        .args([role.to_owned(), root.display().to_string(), size.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("child");
    let mut lines = Vec::new();
    for line in BufReader::new(child.stdout.take().expect("pipe")).lines() {
        let line = line.expect("line");
        if until == Some(&line) {
            child.kill().expect("kill");
            break;
        }
        lines.push(line);
    }
    child.wait().expect("end");
    lines
}

fn protect(root: &Path, size: u64) -> Protection {
    let options = FileDeviceOptions { create_bytes: Some(size), ..Default::default() };
    let disk = FileDevice::open(&root.join("disk"), &options).expect("disk");
    let store = Arc::new(DirStore::create(&root.join("vault")).expect("store"));
    let vault = Vault::create(store.clone(), None, SystemClock::shared())
        .or_else(|_| Vault::open(store, None, SystemClock::shared()))
        .expect("vault");
    let disk: Arc<dyn BlockDevice> = Arc::new(disk);
    let policy = Policy { marked_regions_max: 2048, ..Policy::default() };
    ProtectionOptions::new("disk", disk, vault, root.join("state"))
        .policy(policy)
        .open()
        .expect("protect")
}

/// Writes 1 GiB spread over the volume, in blocks at pseudo-random places within 1,024 hot regions.
fn write_hot(protection: &Protection, size: u64) {
    let block = hrl_benches::disk_like(BLOCK_BYTES / 4096, 5);
    let regions = (HOT_BYTES >> 20).min(size >> 20);
    let stride = (size >> 20) / regions;
    for number in 0..HOT_BYTES / BLOCK_BYTES as u64 {
        let region = number * 7919 % regions * stride;
        let offset = (region << 20) + number % 16 * BLOCK_BYTES as u64;
        protection.volume().write(offset, &block, Durability::Cached).expect("write");
    }
}

fn child(role: &str, root: &Path, size: u64) {
    let protection = protect(root, size);
    protection.wait_replicated(LIMIT).expect("replicated");
    match role {
        "memory" => {
            println!("{}", status_mib("VmRSS:"));
            write_hot(&protection, size);
            println!("{}", status_mib("VmHWM:"));
            protection.stop(LIMIT).expect("stop");
        }
        "write" => loop {
            write_hot(&protection, size);
            println!("hot");
        },
        _ => {
            let stats = protection.stats();
            println!("{} MiB read again", stats.resync_bytes_read >> 20);
            protection.stop(LIMIT).expect("stop");
        }
    }
}

fn status_mib(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0");
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}
