//! Instant recovery: the time from opening a vault to the first answers over NBD, and hydration
//! against `cp`.
//!
//! ```text
//! cargo run --release -p hrl-benches --bin instant -- [DIRECTORY]
//! ```

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use hrl::journal::{Body, Record, SegmentKind, SegmentParams, SegmentWriter};
use hrl::replica::{At, InstantBase, InstantDisk, InstantOptions, RestoreTarget, ViewOptions};
use hrl::store::{DirStore, Store};
use hrl::vault::{CatalogEdit, SegmentEntry, SourceIdentity, Vault};
use hrl::{ChainHash, Clock, Compression, Epoch, Sequence, SystemClock, Timestamp};
use hrl_benches::{compare, disk_like};
use hrl_nbd::{Export, NbdAddress, NbdLimits, NbdServer};

const SEGMENTS: u64 = 128;
const RECORDS: u64 = 8192;
const ROUNDS: usize = 7;

fn main() {
    let root = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "target/instant".into()));
    let _ = std::fs::remove_dir_all(&root);
    std::fs::create_dir_all(&root).expect("directory");
    recovery(&root.join("recovery"));
    hydration(&root.join("hydration"));
    std::fs::remove_dir_all(&root).expect("clean");
}

/// Makes a vault with one volume whose segments contain 4 KiB records at the given offsets.
fn make_vault(
    root: &Path,
    device_bytes: u64,
    segments: u64,
    mut record: impl FnMut(u64) -> (u64, Vec<u8>),
) {
    let store: Arc<dyn Store> = Arc::new(DirStore::create(root).expect("store"));
    let clock = SystemClock::shared();
    let vault = Vault::create(store.clone(), None, clock.clone()).expect("vault");
    let info = vault.create_volume("disk", device_bytes, 512, false).expect("volume");
    let (mut chain, mut sequence) = (ChainHash::default(), Sequence::ZERO);
    let mut entries = Vec::new();
    for _ in 0..segments {
        let params = SegmentParams {
            kind: SegmentKind::Log,
            volume: info.id,
            epoch: Epoch(1),
            first_sequence: sequence.next(),
            device_bytes,
            block_bytes: 512,
            previous: chain,
            replaces_through: None,
            created: Timestamp(0),
            compression: Compression::Zstd(1),
            frame_bytes: 512 << 10,
        };
        let mut writer = SegmentWriter::create(Vec::new(), params, None, &*clock).expect("create");
        for _ in 0..RECORDS {
            let (offset, data) = record(sequence.0);
            sequence = sequence.next();
            let body = Body::Write { offset, data: &data };
            writer.append(&Record { sequence, time: Timestamp(0), body }).expect("append");
        }
        let (bytes, summary) = writer.close(None).expect("close");
        chain = summary.chain;
        let object = format!("volumes/disk/segments/{}", summary.object_name());
        store.put(&object, &bytes).expect("put");
        entries.push(SegmentEntry { object, summary });
    }
    let source = SourceIdentity { id: [1; 16], host: "bench".into(), since: Timestamp(0) };
    let mut catalog = vault.replica("disk").expect("replica").into_catalog();
    catalog.append(&source, vec![CatalogEdit::Segments(entries)]).expect("append");
}

/// Opens everything as a failover does, and serves it.
fn serve(root: &Path, disk: &Path) -> (Arc<InstantDisk>, NbdServer) {
    let store = Arc::new(DirStore::open(&root.join("vault")).expect("store"));
    let vault = Vault::open(store, None, SystemClock::shared()).expect("vault");
    let replica = vault.replica("disk").expect("replica");
    let view = Arc::new(replica.view(&At::Newest, &ViewOptions::default()).expect("view"));
    let target = RestoreTarget::File { path: disk.to_owned(), overwrite: false };
    let log = root.join("presence");
    let disk = InstantDisk::open(InstantBase::view(view), &target, &log, InstantOptions::default());
    let disk = Arc::new(disk.expect("instant disk"));
    let exports = vec![Export::device("disk", disk.clone())];
    let address = NbdAddress::Unix(root.join("socket"));
    (disk, NbdServer::start(&address, exports, NbdLimits::default()).expect("server"))
}

/// Measures from `Vault::open` to the first 4 KiB read and then written over NBD; each round in the
/// same process with a new disk.
fn recovery(root: &Path) {
    const DISK: u64 = 1 << 40;
    std::fs::create_dir_all(root).expect("directory");
    let mut random = 99_u64;
    make_vault(&root.join("vault"), DISK, SEGMENTS, |number| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        ((random >> 20) % (DISK / 4096) * 4096, vec![number as u8; 4096])
    });
    let clock = SystemClock::default();
    let disk = root.join("disk.img");
    let before = memory_mib("VmRSS:");
    let mut rounds: Vec<(Duration, Duration)> = (0..ROUNDS)
        .map(|_| {
            let _ = std::fs::remove_file(&disk);
            let _ = std::fs::remove_file(root.join("presence"));
            let start = clock.elapsed();
            let (_disk, server) = serve(root, &disk);
            let mut client = Client::connect(&root.join("socket"));
            client.request(0, 123 << 12, &mut [0; 4096]);
            let read = clock.elapsed().saturating_sub(start);
            client.request(1, 55_555 << 12, &mut [9; 4096]);
            let written = clock.elapsed().saturating_sub(start);
            drop(client);
            server.stop();
            (read, written)
        })
        .collect();
    rounds.sort();
    let (middle, last) = (rounds[ROUNDS / 2], rounds[ROUNDS - 1]);
    println!(
        "1 TiB, {} records in {SEGMENTS} segments: first read after {:.0?} (worst {:.0?}), first write after {:.0?} (worst {:.0?}); bar 1 s; {} MiB more at the peak",
        SEGMENTS * RECORDS,
        middle.0,
        last.0,
        middle.1,
        last.1,
        memory_mib("VmHWM:").saturating_sub(before)
    );
}

/// Measures hydration of 1 GiB of data, mostly written in order, against a copy of the plain disk.
fn hydration(root: &Path) {
    const DISK: u64 = 4 << 30;
    std::fs::create_dir_all(root).expect("directory");
    let blocks = disk_like(256, 3);
    let mut random = 5_u64;
    make_vault(&root.join("vault"), DISK, 32, |number| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let block = if number.is_multiple_of(16) { (random >> 30) % (DISK / 4096) } else { number };
        (block * 4096, blocks[(number % 256) as usize * 4096..][..4096].to_vec())
    });
    let (plain, copied, disk) = (root.join("plain"), root.join("copied"), root.join("disk.img"));
    let vault = Arc::new(DirStore::open(&root.join("vault")).expect("store"));
    let vault = Vault::open(vault, None, SystemClock::shared()).expect("vault");
    let replica = vault.replica("disk").expect("replica");
    let target = RestoreTarget::File { path: plain.clone(), overwrite: false };
    replica.restore(&At::Newest, &target, &|_, _| true).expect("restore");
    let quiet = |_: u64, _: u64| true;
    let mut bytes = 0;
    let ratio = compare(
        5,
        || {
            // A hydrated disk is durable, so the copy must be too.
            let (from, to) = (plain.display(), copied.display());
            let line = format!("rm -f {to} && cp --sparse=auto {from} {to} && sync {to}");
            assert!(Command::new("sh").arg("-c").arg(line).status().expect("cp").success());
        },
        || {
            let _ = std::fs::remove_file(&disk);
            let (instant, server) = serve(root, &disk);
            let left = instant.hydrate(&quiet).expect("hydrate");
            assert!(left.is_whole());
            bytes = left.data_bytes;
            server.stop();
            instant.detach().expect("detach");
        },
    );
    println!(
        "hydration of {} MiB / cp and sync: {:.2} ({:.2} to {:.2}), bar 0.8; best {:.2?} against {:.2?}",
        bytes >> 20,
        ratio.median,
        ratio.spread.0,
        ratio.spread.1,
        ratio.ours,
        ratio.bare
    );
}

fn memory_mib(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or("0");
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// A minimal NBD client with one request at a time.
struct Client(UnixStream);

impl Client {
    fn connect(socket: &Path) -> Self {
        let mut stream = UnixStream::connect(socket).expect("connect");
        stream.read_exact(&mut [0; 18]).expect("greeting");
        // Fixed newstyle without zeroes; then the export of the empty name, by NBD_OPT_EXPORT_NAME.
        stream.write_all(&3_u32.to_be_bytes()).expect("flags");
        stream.write_all(b"IHAVEOPT\0\0\0\x01\0\0\0\0").expect("option");
        stream.read_exact(&mut [0; 10]).expect("size and flags");
        Self(stream)
    }

    /// Reads (0) or writes (1) `data` and waits for the answer.
    fn request(&mut self, command: u16, offset: u64, data: &mut [u8]) {
        let mut request = vec![0x25, 0x60, 0x95, 0x13, 0, 0];
        request.extend_from_slice(&command.to_be_bytes());
        request.extend_from_slice(&[7; 8]);
        request.extend_from_slice(&offset.to_be_bytes());
        request.extend_from_slice(&(data.len() as u32).to_be_bytes());
        if command == 1 {
            request.extend_from_slice(data);
        }
        self.0.write_all(&request).expect("request");
        let mut reply = [0; 16];
        self.0.read_exact(&mut reply).expect("reply");
        assert_eq!(reply[4..8], [0; 4], "no error");
        if command == 0 {
            self.0.read_exact(data).expect("data");
        }
    }
}
