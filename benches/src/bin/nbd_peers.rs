//! What a writer pays: fio over NBD, 4 KiB random writes, against our server with protection on and off, `nbdkit file`
//! and `qemu-nbd`. The servers are measured in turns, round by round; medians, spread and ratios are printed.
//!
//! ```text
//! cargo run --release -p hrl-benches --bin nbd_peers -- [DIRECTORY] [ROUNDS] [SECONDS] [STATE]
//! ```
//!
//! Spool and vault are in STATE, by default beside the disk in DIRECTORY.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use hrl::capture::{Export, NbdAddress, NbdLimits, NbdServer, Volume};
use hrl::device::{BlockDevice, FileDevice, FileDeviceOptions};
use hrl::replica::Vault;
use hrl::store::DirStore;
use hrl::{Policy, Protection, ProtectionOptions, SystemClock};

const DISK_BYTES: u64 = 1 << 30;
const DEPTH: u32 = 32;

/// A server under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Unprotected,
    Protected,
    Nbdkit,
    QemuNbd,
}

const PEERS: [Peer; 4] = [Peer::Unprotected, Peer::Protected, Peer::Nbdkit, Peer::QemuNbd];

/// Throughput and tail of one run.
#[derive(Clone, Copy, Debug)]
struct Run {
    iops: f64,
    p99_us: f64,
}

enum Serving {
    Ours(NbdServer, Option<Protection>),
    Process(Child),
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let root = PathBuf::from(arguments.next().unwrap_or_else(|| "target/nbd_peers".into()));
    let rounds: usize = arguments.next().and_then(|a| a.parse().ok()).unwrap_or(5);
    let seconds: u32 = arguments.next().and_then(|a| a.parse().ok()).unwrap_or(5);
    let aside = arguments.next().map_or_else(|| root.clone(), PathBuf::from);
    std::fs::create_dir_all(&root)
        .and_then(|()| std::fs::create_dir_all(&aside))
        .expect("directory");
    let root = root.canonicalize().expect("directory");
    fill(&root.join("disk"));
    let mut runs: Vec<Vec<Run>> = vec![Vec::new(); PEERS.len()];
    for round in 0..rounds {
        for (at, peer) in PEERS.iter().enumerate() {
            let run = measure(*peer, &root, &aside, seconds);
            eprintln!("round {round} {peer:?}: {:.0} IOPS, p99 {:.0} us", run.iops, run.p99_us);
            runs[at].push(run);
        }
    }
    println!("| server | IOPS median (min to max) | p99 us median |\n|---|---|---|");
    for (peer, runs) in PEERS.iter().zip(&runs) {
        let (low, middle, high) = spread(runs, |run| run.iops);
        let (_, tail, _) = spread(runs, |run| run.p99_us);
        println!("| {peer:?} | {middle:.0} ({low:.0} to {high:.0}) | {tail:.0} |");
    }
    let ratio = |a: usize, b: usize, of: fn(&Run) -> f64| {
        let pairs: Vec<f64> = runs[a].iter().zip(&runs[b]).map(|(x, y)| of(x) / of(y)).collect();
        let mut sorted = pairs;
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    };
    println!("\nprotection on / off, throughput: {:.2}", ratio(1, 0, |r| r.iops));
    println!("protection on / off, p99: {:.2}", ratio(1, 0, |r| r.p99_us));
    println!("protection on / nbdkit file, throughput: {:.2}", ratio(1, 2, |r| r.iops));
    println!("protection on / qemu-nbd, throughput: {:.2}", ratio(1, 3, |r| r.iops));
}

fn spread(runs: &[Run], of: fn(&Run) -> f64) -> (f64, f64, f64) {
    let mut values: Vec<f64> = runs.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    (values[0], values[values.len() / 2], values[values.len() - 1])
}

/// A disk without holes, so that no run pays for allocation.
fn fill(path: &Path) {
    let options = FileDeviceOptions { create_bytes: Some(DISK_BYTES), ..Default::default() };
    let disk = FileDevice::open(path, &options).expect("disk");
    let block = hrl_benches::disk_like(256, 1);
    for offset in (0..DISK_BYTES).step_by(block.len()) {
        disk.write(offset, &block, hrl::device::Durability::Cached).expect("fill");
    }
    disk.flush().expect("flush");
}

fn measure(peer: Peer, root: &Path, aside: &Path, seconds: u32) -> Run {
    let socket = root.join("s");
    let _ = std::fs::remove_file(&socket);
    let (serving, uri) = serve(peer, root, aside, &socket);
    let output = Command::new("fio")
        .args([
            "--name=w",
            "--ioengine=nbd",
            "--rw=randwrite",
            "--bs=4k",
            "--time_based",
            "--output-format=terse",
        ])
        .args([
            "--randrepeat=0",
            "--refill_buffers",
            "--buffer_compress_percentage=50",
            "--ramp_time=1",
        ])
        .arg(format!("--uri={uri}"))
        .arg(format!("--iodepth={DEPTH}"))
        .arg(format!("--size={DISK_BYTES}"))
        .arg(format!("--runtime={seconds}"))
        .output()
        .expect("fio");
    match serving {
        Serving::Ours(server, protection) => {
            server.stop();
            if let Some(protection) = protection {
                protection.stop(Duration::from_secs(120)).expect("stop");
            }
        }
        Serving::Process(mut child) => {
            child.kill().expect("kill");
            child.wait().expect("wait");
        }
    }
    let text = String::from_utf8_lossy(&output.stdout);
    // Before its figures fio may print a line about the connection.
    let line = text.lines().find(|line| line.starts_with("3;")).unwrap_or_default();
    let fields: Vec<&str> = line.split(';').collect();
    let p99 = fields.iter().skip(58).find_map(|field| field.strip_prefix("99.000000%="));
    Run {
        iops: fields.get(48).and_then(|f| f.parse().ok()).expect("fio's write IOPS"),
        p99_us: p99.and_then(|f| f.parse().ok()).expect("fio's 99th percentile"),
    }
}

fn serve(peer: Peer, root: &Path, aside: &Path, socket: &Path) -> (Serving, String) {
    let disk = root.join("disk");
    let child = |program: &str, arguments: &[&str]| {
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        let child = child.unwrap_or_else(|error| panic!("{program}: {error}"));
        for _ in 0..200 {
            if socket.exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        (Serving::Process(child), format!("nbd+unix:///?socket={}", socket.display()))
    };
    let (socket_text, disk_text) = (socket.display().to_string(), disk.display().to_string());
    match peer {
        Peer::Nbdkit => child("nbdkit", &["-f", "-U", &socket_text, "file", &disk_text]),
        Peer::QemuNbd => child(
            "qemu-nbd",
            &["-t", "-f", "raw", "--cache=none", "--aio=io_uring", "-k", &socket_text, &disk_text],
        ),
        Peer::Unprotected | Peer::Protected => {
            let device: Arc<dyn BlockDevice> =
                Arc::new(FileDevice::open(&disk, &FileDeviceOptions::default()).expect("disk"));
            let (volume, protection) = if peer == Peer::Protected {
                for old in ["vault", "state"] {
                    let _ = std::fs::remove_dir_all(aside.join(old));
                }
                let store = Arc::new(DirStore::create(&aside.join("vault")).expect("store"));
                let vault = Vault::create(store, None, SystemClock::shared()).expect("vault");
                let policy =
                    Policy { crash_point_interval: Duration::from_secs(2), ..Policy::default() };
                let protection = ProtectionOptions::new("disk", device, vault, aside.join("state"))
                    .policy(policy)
                    .open()
                    .expect("protect");
                protection.wait_replicated(Duration::from_secs(300)).expect("first copy");
                (protection.volume().clone(), Some(protection))
            } else {
                (Arc::new(Volume::unprotected(device)), None)
            };
            let address = NbdAddress::Unix(socket.to_owned());
            let export = Export::volume("disk", volume);
            let server =
                NbdServer::start(&address, vec![export], NbdLimits::default()).expect("serve");
            let uri = server.address().uri("disk");
            (Serving::Ours(server, protection), uri)
        }
    }
}
