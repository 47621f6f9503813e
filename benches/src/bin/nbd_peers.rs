//! What a writer pays: fio over NBD, 4 KiB random writes, against our server with protection on and off, `nbdkit file`
//! and `qemu-nbd`, past the page cache and through it. The servers are measured in turns, round by round; medians, spread
//! and ratios are printed.
//!
//! ```text
//! cargo run --release -p hrl-benches --bin nbd_peers -- [DIRECTORY] [ROUNDS] [SECONDS] [STATE] [SERVER,...]
//! ```
//!
//! Spool and vault are in STATE, by default beside the disk in DIRECTORY. SERVER is a name of `Peer`; default: all.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use hrl::capture::{Export, NbdAddress, NbdLimits, NbdServer, Volume};
use hrl::device::{BlockDevice, DirectIo, FileDevice, FileDeviceOptions};
use hrl::replica::Vault;
use hrl::store::DirStore;
use hrl::{Event, EventKind, Mode, Policy, Protection, ProtectionOptions, SystemClock};

const DISK_BYTES: u64 = 1 << 30;
const DEPTH: u32 = 32;

/// A server under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    Unprotected,
    Protected,
    CachedUnprotected,
    CachedProtected,
    Nbdkit,
    QemuNbd,
    QemuNbdCached,
}

const PEERS: [Peer; 7] = [
    Peer::Unprotected,
    Peer::Protected,
    Peer::CachedUnprotected,
    Peer::CachedProtected,
    Peer::Nbdkit,
    Peer::QemuNbd,
    Peer::QemuNbdCached,
];

impl Peer {
    /// It writes into the page cache.
    fn is_cached(self) -> bool {
        !matches!(self, Self::Unprotected | Self::Protected | Self::QemuNbd)
    }
}

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
    let only: Option<Vec<String>> =
        arguments.next().map(|names| names.split(',').map(str::to_owned).collect());
    let mut runs: Vec<Vec<Run>> = vec![Vec::new(); PEERS.len()];
    for round in 0..rounds {
        for (at, peer) in PEERS.iter().enumerate() {
            if only.as_ref().is_some_and(|only| !only.contains(&format!("{peer:?}"))) {
                continue;
            }
            let run = measure(*peer, &root, &aside, seconds);
            eprintln!("round {round} {peer:?}: {:.0} IOPS, p99 {:.0} us", run.iops, run.p99_us);
            runs[at].push(run);
        }
    }
    println!("| server | IOPS median (min to max) | p99 us median |\n|---|---|---|");
    for (peer, runs) in PEERS.iter().zip(&runs) {
        if runs.is_empty() {
            continue;
        }
        let (low, middle, high) = spread(runs, |run| run.iops);
        let (_, tail, _) = spread(runs, |run| run.p99_us);
        println!("| {peer:?} | {middle:.0} ({low:.0} to {high:.0}) | {tail:.0} |");
    }
    let of = |peer: Peer| &runs[PEERS.iter().position(|known| *known == peer).expect("listed")];
    let ratio = |name: &str, peers: [Peer; 2], figure: fn(&Run) -> f64| {
        let pairs = of(peers[0]).iter().zip(of(peers[1]));
        let mut sorted: Vec<f64> = pairs.map(|(x, y)| figure(x) / figure(y)).collect();
        sorted.sort_by(f64::total_cmp);
        if let Some(median) = sorted.get(sorted.len() / 2) {
            println!("{name}: {median:.2} ({:.2} to {:.2})", sorted[0], sorted[sorted.len() - 1]);
        }
    };
    let (direct, cached) =
        ([Peer::Protected, Peer::Unprotected], [Peer::CachedProtected, Peer::CachedUnprotected]);
    println!();
    ratio("direct: on / off, throughput", direct, |run| run.iops);
    ratio("direct: on / off, p99", direct, |run| run.p99_us);
    ratio("cached: on / off, throughput", cached, |run| run.iops);
    ratio("cached: on / off, p99", cached, |run| run.p99_us);
    ratio("direct: off / qemu-nbd", [Peer::Unprotected, Peer::QemuNbd], |run| run.iops);
    ratio("direct: on / qemu-nbd", [Peer::Protected, Peer::QemuNbd], |run| run.iops);
    ratio("cached: off / nbdkit file", [Peer::CachedUnprotected, Peer::Nbdkit], |run| run.iops);
    ratio("cached: on / nbdkit file", [Peer::CachedProtected, Peer::Nbdkit], |run| run.iops);
    ratio("cached: on / qemu-nbd", [Peer::CachedProtected, Peer::QemuNbdCached], |run| run.iops);
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

/// Brings the disk into the page cache, from which direct I/O has thrown it. By writing: what is read ahead comes in large
/// folios, and ext4 looks at every block of one for each write to it, whoever writes.
fn warm(path: &Path) {
    let options = FileDeviceOptions { direct: DirectIo::Never, ..Default::default() };
    let disk = FileDevice::open(path, &options).expect("disk");
    let block = hrl_benches::disk_like(1, 1);
    for offset in (0..DISK_BYTES).step_by(block.len()) {
        disk.write(offset, &block, hrl::device::Durability::Cached).expect("fill");
    }
    disk.flush().expect("flush");
}

fn measure(peer: Peer, root: &Path, aside: &Path, seconds: u32) -> Run {
    let socket = root.join("s");
    let _ = std::fs::remove_file(&socket);
    if peer.is_cached() {
        warm(&root.join("disk"));
    }
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
        Peer::QemuNbdCached => child(
            "qemu-nbd",
            &["-t", "-f", "raw", "--cache=writeback", "-k", &socket_text, &disk_text],
        ),
        _ => {
            let direct = if peer.is_cached() { DirectIo::Never } else { DirectIo::Always };
            let options = FileDeviceOptions { direct, ..Default::default() };
            let device: Arc<dyn BlockDevice> =
                Arc::new(FileDevice::open(&disk, &options).expect("disk"));
            let (volume, protection) = if matches!(peer, Peer::Protected | Peer::CachedProtected) {
                for old in ["vault", "state"] {
                    let _ = std::fs::remove_dir_all(aside.join(old));
                }
                let store = Arc::new(DirStore::create(&aside.join("vault")).expect("store"));
                let vault = Vault::create(store, None, SystemClock::shared()).expect("vault");
                let policy =
                    Policy { crash_point_interval: Duration::from_secs(2), ..Policy::default() };
                // A volume that fell out of order was not protected for all of the run: that is told.
                let tell = |event: &Event| {
                    if matches!(event.kind, EventKind::ModeChanged { from: Mode::Ordered, .. }) {
                        eprintln!("{}", event.message);
                    }
                };
                let protection = ProtectionOptions::new("disk", device, vault, aside.join("state"))
                    .policy(policy)
                    .events(Arc::new(tell))
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
