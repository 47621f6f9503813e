//! Writes the seeds of every target with the crate's own writers, where a seed is made of what
//! those write: `cargo run --manifest-path fuzz/Cargo.toml --example seeds`. Seeds of other names
//! are left alone.

mod machines;

use std::path::Path;
use std::sync::Arc;

use hrl::capture::{CleanStop, DirtyMap, DirtyMapParams, RegionRange};
use hrl::device::{Discarded, SystemFiles};
use hrl::journal::{Body, Mark, PointKind, Record, SegmentSummary, SegmentWriter, VolumeKey};
use hrl::vault::{Catalog, CatalogEdit, SegmentEntry, SourceIdentity, Vault};
use hrl::{
    Cause, ChainHash, Clock, Compression, Extent, ManualClock, PointId, Sequence, Timestamp,
    VolumeId,
};
use hrl_fuzz::{Memory, key, log_params, open_segment, scratch};
use hrl_interchange::{export_hyperv, mend_hyperv_log};

const VOLUME_BYTES: u64 = 64 << 10;

fn main() {
    segments();
    hyperv_logs();
    catalogs();
    dirty_maps();
    conversations();
    taps();
    policies();
    machines::all();
    let _ = std::fs::remove_dir_all(scratch("seeds"));
}

fn save(target: &str, name: &str, bytes: &[u8]) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    std::fs::create_dir_all(&directory).expect("a directory for the seeds");
    std::fs::write(directory.join(name), bytes).expect("room for the seeds");
}

// --- journals ---

fn mark(point: u8, group: Option<PointId>) -> Body<'static> {
    let label = "before upgrade".to_owned();
    Body::Mark(Mark { point: PointId([point; 16]), kind: PointKind::App, label, group })
}

fn changes() -> Vec<Body<'static>> {
    vec![
        Body::Write { offset: 4096, data: b"the quick brown fox jumps over the lazy dog, again" },
        Body::Zero(Extent { offset: 8192, length: 512 }),
        Body::Write { offset: 4100, data: &[5; 40] },
        Body::Discard(Extent { offset: 0, length: 4096 }, Discarded::Undefined),
        Body::Flush,
        mark(4, None),
        Body::Write { offset: 60 << 10, data: &[7; 600] },
    ]
}

fn gap() -> Vec<Body<'static>> {
    vec![
        Body::Write { offset: 0, data: &[1; 512] },
        Body::UnorderedBegin(Cause::MemoryBudget),
        Body::Write { offset: 512, data: &[2; 512] },
        Body::Discard(Extent { offset: 100, length: 50 }, Discarded::Zeroes),
        Body::UnorderedEnd,
        mark(5, Some(PointId([9; 16]))),
    ]
}

/// Returns a log of these changes, whose first sequence is `first`.
fn log(
    bodies: Vec<Body<'_>>,
    first: u64,
    previous: ChainHash,
    volume: VolumeId,
    compression: Compression,
    key: Option<&VolumeKey>,
) -> (Vec<u8>, SegmentSummary) {
    let mut params = log_params(VOLUME_BYTES);
    (params.first_sequence, params.previous) = (Sequence(first), previous);
    (params.volume, params.compression) = (volume, compression);
    let clock = ManualClock::new(Timestamp(0), first);
    let mut writer = SegmentWriter::create(Vec::new(), params, key, &clock).expect("create");
    for (sequence, body) in (first..).zip(bodies) {
        let time = Timestamp(1_700_000_000_000_000_000 + sequence as i64);
        writer.append(&Record { sequence: Sequence(sequence), time, body }).expect("append");
    }
    writer.close(None).expect("close")
}

fn segments() {
    let touches = (0..4).map(|n| Body::Touch(Extent { offset: n * 1000, length: 1500 })).collect();
    let make = |bodies, compression, key| {
        log(bodies, 1, ChainHash::default(), VolumeId([1; 16]), compression, key).0
    };
    let seeds = [
        ("empty", make(vec![], Compression::None, None)),
        ("changes", make(changes(), Compression::None, None)),
        ("gap", make(gap(), Compression::None, None)),
        ("touches", make(touches, Compression::None, None)),
        ("packed", make(changes(), Compression::Zstd(1), None)),
        ("sealed", make(changes(), Compression::None, Some(&key()))),
    ];
    for (name, bytes) in seeds {
        save("native_segment", name, &bytes);
        save("segment_repair", name, &bytes);
        save("segment_repair", &format!("{name}-torn"), &bytes[..bytes.len() * 2 / 3]);
    }
}

/// An export with metadata blocks of 512 bytes in place of 4096, and no more of the header than is
/// used.
fn hyperv_logs() {
    let native = log(
        vec![
            Body::Write { offset: 4096, data: b"the quick brown fox" },
            Body::Write { offset: 0, data: &[5; 200] },
        ],
        1,
        ChainHash::default(),
        VolumeId([1; 16]),
        Compression::None,
        None,
    );
    let segment = open_segment(&native.0).expect("open");
    let directory = scratch("seeds").join("logs");
    let _ = std::fs::remove_dir_all(&directory);
    let report =
        export_hyperv(&[&segment], &directory, &ManualClock::new(Timestamp(0), 1)).expect("export");
    let whole = std::fs::read(&report.logs[0]).expect("read");

    let data = &whole[8192..whole.len() - 4096];
    let mut log = whole[..4096].to_vec();
    log.extend_from_slice(&whole[4096..4096 + 512]);
    log.extend_from_slice(data);
    let last = log.len();
    log.extend_from_slice(&whole[whole.len() - 4096..][..512]);
    let end = log.len() as u64;
    log[32..40].copy_from_slice(&end.to_le_bytes());
    log[44..52].copy_from_slice(&end.to_le_bytes());
    log[56..60].copy_from_slice(&512_u32.to_le_bytes());
    log[last..last + 8].copy_from_slice(&(last as u64 - 4096).to_le_bytes());
    mend_hyperv_log(&mut log);
    let short = |log: &[u8]| [&log[..128], &log[4096..]].concat();
    save("hyperv_log", "closed", &short(&log));
    log[44..52].fill(0);
    mend_hyperv_log(&mut log);
    save("hyperv_log", "open", &short(&log));
}

// --- vaults ---

/// A vault with the volume `v`, and the source that adds to it.
pub struct Vaulted {
    pub store: Arc<Memory>,
    pub vault: Vault,
    id: VolumeId,
    source: SourceIdentity,
    catalog: Catalog,
}

impl Vaulted {
    fn new() -> Self {
        let store = Arc::new(Memory::default());
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(Timestamp(1), 1));
        let vault = Vault::create(store.clone(), None, clock).expect("vault");
        let id = vault.create_volume("v", VOLUME_BYTES, 512, false).expect("volume").id;
        let source = SourceIdentity { id: [7; 16], host: "alpha".into(), since: Timestamp(3) };
        let catalog = vault.replica("v").expect("replica").into_catalog();
        Self { store, vault, id, source, catalog }
    }

    /// Returns a volume with one segment that ends with a mark.
    pub fn with_a_mark() -> Self {
        let mut volume = Self::new();
        volume.add(vec![Body::Flush, mark(4, None)], Compression::None);
        volume
    }

    /// Adds a segment with these changes, and returns its bytes.
    fn add(&mut self, bodies: Vec<Body<'_>>, compression: Compression) -> Vec<u8> {
        let catalog = &mut self.catalog;
        let (first, previous) = (catalog.last_sequence().next().0, catalog.last_chain());
        let (bytes, summary) = log(bodies, first, previous, self.id, compression, None);
        let number = catalog.segments().len();
        let object = format!("volumes/v/segments/{number}.hrl");
        self.store.add(object.clone(), &bytes);
        let mut edits = vec![CatalogEdit::Segments(vec![SegmentEntry { object, summary }])];
        if number == 0 {
            edits.insert(0, CatalogEdit::Source(self.source.clone()));
        }
        catalog.append(&self.source, edits).expect("append");
        bytes
    }

    /// Appends versions that change nothing, up to this one.
    fn fill(&mut self, versions: u64) {
        while self.catalog.version() < versions {
            let edits = vec![CatalogEdit::Source(self.source.clone())];
            self.catalog.append(&self.source, edits).expect("append");
        }
    }
}

fn catalogs() {
    for (name, versions) in [("one-version", 1), ("two-versions", 2), ("snapshot", 64)] {
        let mut volume = Vaulted::new();
        let mut segments = vec![volume.add(gap(), Compression::Zstd(3))];
        if versions > 1 {
            segments.push(volume.add(changes(), Compression::Zstd(3)));
        }
        volume.fill(versions);
        let mut seed = vec![u8::from(versions == 64)];
        let mut add = |kind: u8, content: &[u8]| {
            seed.push(kind);
            seed.extend_from_slice(&(content.len() as u16).to_le_bytes());
            seed.extend_from_slice(content);
        };
        let objects = volume.store.all();
        add(0, &objects["volumes/v/volume"]);
        for version in if versions == 64 { 64..=64 } else { 1..=versions } {
            add(1, &objects[&format!("volumes/v/catalog/{version:016x}")]);
        }
        for segment in &segments {
            add(2, segment);
        }
        save("catalog", name, &seed);
    }
}

// --- capture ---

fn dirty_maps() {
    let path = scratch("seeds").join("map");
    let range = |first, last| RegionRange { first, last };
    for (name, region_bytes, stop) in [("in-use", 1 << 20, false), ("clean", 64 << 10, true)] {
        let params =
            DirtyMapParams { volume: VolumeId([7; 16]), device_bytes: 100 << 20, region_bytes };
        let mut map = DirtyMap::create(&SystemFiles, &path, params, false).expect("create");
        map.begin_session(&SystemFiles).expect("begin");
        map.set_dirty(&[range(3, 3), range(8, 31), range(99, 99)]).expect("set dirty");
        if stop {
            let modified = Some(Timestamp(5));
            let stop = CleanStop { last_sequence: Sequence(9), modified, sample: [1; 32] };
            map.end_session(stop).expect("end");
        }
        drop(map);
        let file = std::fs::read(&path).expect("read");
        // One page of marks; regions 40 to 50 to mark, 2 to 9 to clear.
        let mut seed = vec![1, 40, 0, 50, 0, 2, 0, 9, 0];
        seed.extend_from_slice(&file[..512]);
        seed.extend_from_slice(&file[4096..4096 + 256]);
        save("dirty_map", name, &seed);
    }
}

/// Messages in the form of `targets/nbd.rs`.
fn conversations() {
    let request = |flags: u8, command: u8, offset: u32, half_length: u16| {
        let mut bytes = vec![5, flags, command];
        bytes.extend_from_slice(&offset.to_le_bytes());
        bytes.extend_from_slice(&half_length.to_le_bytes());
        bytes
    };
    let go = |export: u8| vec![1, 1, export, 4];
    let mut requests = Vec::new();
    for (flags, command, offset, half_length) in [
        (0, 1, 4096, 2048),
        (1, 1, 777, 50),
        (0, 0, 0, 4096),
        (0, 7, 0, 0x8000),
        (2, 6, 8192, 1000),
        (0, 4, 0, 3000),
        (1, 3, 0, 0),
        (0, 5, 0, 100),
        (0, 1, 1000, 40_000),
        (0, 0, u32::MAX, 1),
        (0, 2, 0, 0),
    ] {
        requests.extend(request(flags, command, offset, half_length));
    }
    // Ranges that reach one byte past the end.
    let ends = [1, 0, 4, 6, 5].map(|command| request(0, command, (128 << 10) - 1, 1)).concat();
    let set_contexts = |export: u8| vec![2, 3, 1, export, 2];
    let all = |flags: u8, parts: &[&[u8]]| [&[flags], parts.concat().as_slice()].concat();
    save("nbd", "by-name", &all(3, &[&[0, 0], &requests]));
    save("nbd", "go-structured", &all(3, &[&set_contexts(2), &go(2), &requests]));
    save("nbd", "two-clients", &all(0x83, &[&go(0), &requests]));
    save("nbd", "memory", &all(1, &[&set_contexts(1), &go(1), &requests]));
    save("nbd", "ends", &all(3, &[&go(1), &ends]));
    save("nbd", "list-and-leave", &all(3, &[&[4, 3, 0, 4, 99, 1, b'x', 3, 0, 0, 0, 4, 2, 0]]));
}

/// Steps as `targets/tap.rs` reads them.
fn taps() {
    let begin = |at: u8, length: u8| [0, at, 0, length];
    let (keep, complete, drain, sync) =
        ([9, 0, 0, 0], [4, 0, 7, 42], [11, 0, 255, 0], [13, 0, 0, 0]);
    let (again, mark, resync, clean) = ([8, 0, 0, 0], [15, 0, 0, 0], [17, 0, 0, 0], [14, 0, 0, 0]);
    let (fail, lose, flush) = ([6, 0, 9, 0], [18, 1, 0, 0], [16, 0, 0, 0]);
    let steps = |config: u8, steps: &[[u8; 4]]| [&[config], steps.concat().as_slice()].concat();
    let ordinary = [
        begin(1, 10),
        keep,
        again,
        begin(1, 5),
        complete,
        again,
        complete,
        flush,
        mark,
        drain,
        sync,
        clean,
        begin(9, 250),
        keep,
        again,
        complete,
        mark,
        drain,
        sync,
        clean,
    ];
    save("tap", "ordinary", &steps(3, &ordinary));
    save("tap", "blocks", &steps(4, &ordinary));
    let trouble = [
        begin(1, 240),
        keep,
        again,
        fail,
        begin(2, 10),
        keep,
        again,
        complete,
        resync,
        resync,
        resync,
        begin(3, 10),
        keep,
        again,
        complete,
        drain,
        sync,
        lose,
        resync,
        resync,
        clean,
    ];
    save("tap", "trouble", &steps(0, &trouble));
    save(
        "tap",
        "resync",
        &steps(
            2,
            &[
                [19, 0, 7, 0],
                resync,
                resync,
                begin(0, 9),
                keep,
                again,
                complete,
                resync,
                drain,
                sync,
                resync,
                resync,
                mark,
                clean,
            ],
        ),
    );
}

// --- text ---

fn policies() {
    let mut text = String::new();
    for name in hrl::Policy::NAMES {
        let value = match name {
            "when_full" => "block",
            "content" => "extents-only",
            "compression" => "zstd:3",
            "puts_in_flight_max" | "compression_cpu_percent_max" => "8",
            name if name.ends_with("_bytes") || name.contains("bytes_max") => "1048576",
            "marked_regions_max" | "bandwidth" => "1048576",
            "quiesce" => "fs:/srv",
            "retention" => "1h all; 7d daily",
            _ => "1.5h",
        };
        text.extend([name, "=", value, "\n"]);
    }
    save("policy", "every-name", text.as_bytes());
    let others = "when_full=degrade\ncontent=data\ncompression=none\nspool_bytes_max=-1\nspeed=1\n\
        2026-11-21T09:30:00.250Z\n2026-11-21 10:30:00+01:00\nnewest\n17\npoint:1a2b\nlabel:x\n\
        1a2b3c4d5e6f708192a3b4c5d6e7f809\nunix:/run/hrl.sock\ntcp:[::1]:10809\n";
    save("policy", "others", others.as_bytes());
}
