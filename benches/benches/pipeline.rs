//! Ratios of whole stages, measured in turns in one run: tap and queue against memcpy, restore against cp, the first
//! read of a view, a change set, and memory.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Waker};
use std::time::Duration;

use hrl::capture::{Change, RegionRange, Tap};
use hrl::device::{BlockDevice, Buffer, Durability, MemoryDevice};
use hrl::journal::{Body, PointKind, Record, Segment, SegmentKind, SegmentParams, SegmentWriter};
use hrl::replica::{At, RestoreTarget, View, ViewOptions};
use hrl::store::DirStore;
use hrl::vault::{Vault, VolumeInfo};
use hrl::{
    ChainHash, Clock, Compression, Epoch, Extent, Policy, ProtectionOptions, Sequence, SystemClock,
    Timestamp, VolumeId,
};
use hrl_benches::{compare, disk_like};

const LIMIT: Duration = Duration::from_secs(300);

fn main() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("directory");
    tap();
    restore_and_changes(directory.path());
    view();
}

/// Peak resident memory of this process, in MiB.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0");
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// 4 KiB writes through tap and queue, drained by another thread, against copies into fresh buffers.
fn tap() {
    const WRITES: u64 = 100_000;
    const DISK: u64 = 1 << 30;
    let data = disk_like(256, 1);
    let tap = Arc::new(Tap::new(DISK, Sequence::ZERO, &Policy::default(), SystemClock::shared()));
    tap.marked(&(0..DISK >> 20).map(|r| RegionRange { first: r, last: r }).collect::<Vec<_>>());
    let done = Arc::new(AtomicBool::new(false));
    let journal = {
        let (tap, done) = (tap.clone(), done.clone());
        std::thread::spawn(move || {
            while !done.load(Ordering::Relaxed) {
                drop(tap.drain(1 << 20, Duration::from_millis(5)));
            }
        })
    };
    let place = |number: u64| (number * 7919 % (DISK / 4096)) * 4096;
    let block = |number: u64| &data[(number as usize % 256) * 4096..][..4096];
    let ratio = compare(
        15,
        || {
            let mut kept = std::collections::VecDeque::with_capacity(256);
            for number in 0..WRITES {
                kept.push_back(Buffer::copy_of(std::hint::black_box(block(number))));
                if kept.len() == 256 {
                    kept.clear();
                }
            }
        },
        || {
            for number in 0..WRITES {
                let extent = Extent { offset: place(number), length: 4096 };
                let Poll::Ready(Ok(ticket)) = tap.begin(extent, Waker::noop()) else {
                    panic!("no ticket")
                };
                tap.complete(ticket, Change::Write(Buffer::copy_of(block(number))));
            }
        },
    );
    done.store(true, Ordering::Relaxed);
    journal.join().expect("journal");
    println!(
        "tap and queue / copy into fresh buffers: {:.2} ({:.2} to {:.2}), bar 0.5",
        ratio.median, ratio.spread.0, ratio.spread.1
    );
}

/// Restore of 512 MiB against cp, and the change set of 26,214 random 4 KiB writes on 1 GiB.
fn restore_and_changes(directory: &Path) {
    const DISK: u64 = 1 << 30;
    let device = Arc::new(MemoryDevice::new(DISK));
    let data = disk_like(256, 3);
    for offset in (0..DISK / 2).step_by(data.len()) {
        device.write(offset, &data, Durability::Cached).expect("fill");
    }
    let store = Arc::new(DirStore::create(&directory.join("vault")).expect("store"));
    let vault = Vault::create(store, None, SystemClock::shared()).expect("vault");
    let protection =
        ProtectionOptions::new("disk", device.clone(), vault.clone(), directory.join("state"))
            .policy(Policy { memory_budget_bytes: 1 << 30, ..Policy::default() })
            .open()
            .expect("protect");
    protection.wait_ordered(LIMIT).expect("first copy");
    let from = protection.mark(PointKind::Crash, "from").expect("mark");
    let mut unique = std::collections::HashSet::new();
    let mut random = 12_345_u64;
    for _ in 0..26_214 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let block = (random >> 33) % (DISK / 4096);
        unique.insert(block);
        protection.volume().write(block * 4096, &data[..4096], Durability::Cached).expect("write");
    }
    let to = protection.mark(PointKind::Crash, "to").expect("mark");
    protection.wait_replicated(LIMIT).expect("replicated");
    protection.stop(LIMIT).expect("stop");
    let replica = vault.replica("disk").expect("replica");
    let clock = SystemClock::default();
    let start = clock.elapsed();
    let changes = replica.changes(&At::Point(from.id), &At::Point(to.id)).expect("changes");
    let listed = clock.elapsed().saturating_sub(start);
    let bytes = changes.write_to_file(&directory.join("changes")).expect("extract");
    let extracted = clock.elapsed().saturating_sub(start);
    println!(
        "change set: {:.3} of the unique bytes (bar 1.02), listed in {listed:.0?}, {bytes} bytes extracted in {extracted:.0?} (bar 500 ms)",
        changes.extents().total_bytes() as f64 / (unique.len() * 4096) as f64
    );
    let (restored, copied) = (directory.join("restored"), directory.join("copied"));
    let target = RestoreTarget::File { path: restored.clone(), overwrite: true };
    replica.restore(&At::Newest, &target, &|_, _| true).expect("restore");
    let ratio = compare(
        5,
        || {
            // The restore is durable when it returns, so the copy has to be too.
            let done = Command::new("sh")
                .arg("-c")
                .arg(format!(
                    "cp --sparse=auto {} {} && sync {}",
                    restored.display(),
                    copied.display(),
                    copied.display()
                ))
                .status();
            assert!(done.expect("cp").success());
        },
        || {
            replica.restore(&At::Newest, &target, &|_, _| true).expect("restore");
        },
    );
    println!(
        "restore / cp and sync: {:.2} ({:.2} to {:.2}), bar 0.8",
        ratio.median, ratio.spread.0, ratio.spread.1
    );
}

/// The first read of a view over 100 segments with a million records on 1 TiB.
fn view() {
    const DISK: u64 = 1 << 40;
    let clock = SystemClock::default();
    let data = [7; 512];
    let mut random = 99_u64;
    let mut sequence = Sequence::ZERO;
    let mut sealed = Vec::new();
    for _ in 0..100 {
        let params = SegmentParams {
            kind: SegmentKind::Log,
            volume: VolumeId([1; 16]),
            epoch: Epoch(1),
            first_sequence: sequence.next(),
            device_bytes: DISK,
            block_bytes: 512,
            previous: ChainHash::default(),
            replaces_through: None,
            created: Timestamp(0),
            compression: Compression::Zstd(1),
            frame_bytes: 512 << 10,
        };
        let mut writer = SegmentWriter::create(Vec::new(), params, None, &clock).expect("create");
        for _ in 0..10_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            sequence = sequence.next();
            let body = Body::Write { offset: (random >> 20) % (DISK / 4096) * 4096, data: &data };
            writer.append(&Record { sequence, time: Timestamp(0), body }).expect("append");
        }
        sealed.push(writer.seal(None).expect("seal").0);
    }
    let info = VolumeInfo {
        name: "disk".into(),
        id: VolumeId([1; 16]),
        device_bytes: DISK,
        block_bytes: 512,
        created: Timestamp(0),
        key_id: None,
        shredded: false,
        extents_only: false,
    };
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("directory");
    for (number, bytes) in sealed.into_iter().enumerate() {
        std::fs::write(directory.path().join(number.to_string()), bytes).expect("write");
    }
    // In a process of its own the peak would be the view's alone; here it is what the view adds.
    let before = resident_mib();
    let start = clock.elapsed();
    let segments = (0..100)
        .map(|number| {
            let source =
                hrl::journal::open_mapped(&directory.path().join(number.to_string())).expect("map");
            Arc::new(Segment::open(source, &hrl::journal::KeyRing::default()).expect("open"))
        })
        .collect();
    let view =
        View::from_segments(&info, segments, sequence, &ViewOptions::default()).expect("view");
    let mut block = [0; 4096];
    view.read(123 << 12, &mut block).expect("read");
    let elapsed = clock.elapsed().saturating_sub(start);
    println!(
        "view of 100 segments, 1 M records, 1 TiB: first read after {elapsed:.0?} (bar 250 ms), {} MiB more resident (bar 100), peak of the whole run {} MiB",
        resident_mib().saturating_sub(before),
        peak_mib()
    );
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}
