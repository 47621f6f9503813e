//! Replicas against models, and under attack.

use std::path::PathBuf;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::clock::{Clock, ManualClock};
use crate::device::{BlockDevice, Discarded};
use crate::error::{Error, ErrorKind};
use crate::event::Cause;
use crate::extent::Extent;
use crate::journal::{
    Body, Mark, PointKind, Record, SegmentKind, SegmentParams, SegmentWriter, WrappingKey,
};
use crate::policy::Compression;
use crate::store::{DirStore, FaultStore, Store, StoreFault};
use crate::units::{ChainHash, Epoch, PointId, Sequence, Timestamp};
use crate::vault::*;

pub(super) const SIZE: u64 = 256 << 10;

pub(super) struct Rig {
    directory: tempfile::TempDir,
    pub(super) store: Arc<dyn Store>,
    pub(super) vault: Vault,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) source: SourceIdentity,
    pub(super) info: VolumeInfo,
    chain: ChainHash,
    /// Size of the volume that segments claim to be of.
    segment_device_bytes: u64,
}

impl Rig {
    pub(super) fn new(encrypted: bool) -> Self {
        Self::seeded(encrypted, 42)
    }

    /// A rig whose identities and keys are drawn from a seed.
    pub(super) fn seeded(encrypted: bool, seed: u64) -> Self {
        let directory = tempfile::tempdir().expect("directory");
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(Timestamp(1_000_000), seed));
        let store: Arc<dyn Store> = Arc::new(DirStore::create(directory.path()).expect("store"));
        let key = encrypted.then(|| WrappingKey::from_bytes([1; 32]));
        let vault = Vault::create(store.clone(), key, clock.clone()).expect("vault");
        let info = vault.create_volume("disk", SIZE, 512, false).expect("volume");
        Self {
            directory,
            store,
            vault,
            clock,
            source: SourceIdentity { id: [1; 16], host: "alpha".into(), since: Timestamp(5) },
            info,
            chain: ChainHash::default(),
            segment_device_bytes: SIZE,
        }
    }

    /// Encrypts a segment of records and puts it into the vault, without the catalog.
    fn segment(&mut self, records: &[Record<'_>]) -> SegmentEntry {
        let replica = self.vault.replica("disk").expect("replica");
        let params = SegmentParams {
            kind: SegmentKind::Log,
            volume: self.info.id,
            epoch: Epoch(1),
            first_sequence: records[0].sequence,
            device_bytes: self.segment_device_bytes,
            block_bytes: 512,
            previous: self.chain,
            replaces_through: None,
            created: Timestamp(0),
            compression: Compression::Zstd(1),
            frame_bytes: 8192,
        };
        let mut writer = SegmentWriter::create(
            Vec::new(),
            params,
            replica.keys().newest().as_ref(),
            &*self.clock,
        )
        .expect("create");
        records.iter().for_each(|record| writer.append(record).expect("append"));
        let (bytes, summary) = writer.close(None).expect("close");
        self.chain = summary.chain;
        let object = layout::segment("disk", &summary);
        self.store.put(&object, &bytes).expect("put");
        SegmentEntry { object, summary }
    }

    pub(super) fn add(&mut self, records: &[Record<'_>]) -> SegmentEntry {
        let entry = self.segment(records);
        let mut catalog = self.vault.replica("disk").expect("replica").into_catalog();
        catalog
            .append(&self.source, vec![CatalogEdit::Segments(vec![entry.clone()])])
            .expect("append");
        entry
    }

    pub(super) fn path(&self, object: &str) -> PathBuf {
        self.directory.path().join(object)
    }
}

pub(super) fn record(sequence: u64, body: Body<'_>) -> Record<'_> {
    Record { sequence: Sequence(sequence), time: Timestamp(sequence as i64 * 1000), body }
}

pub(super) fn mark(sequence: u64, label: &str) -> Record<'static> {
    let mark = Mark {
        point: PointId([sequence as u8; 16]),
        kind: PointKind::Crash,
        label: label.to_owned(),
        group: None,
    };
    record(sequence, Body::Mark(mark))
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, Vec<u8>),
    Zero(Extent),
    Discard(Extent),
    Rotate,
}

fn step() -> impl Strategy<Value = Step> {
    let extent = (0_u64..SIZE / 512 - 40, 1_u64..40)
        .prop_map(|(offset, length)| Extent { offset: offset * 512, length: length * 512 });
    prop_oneof![
        5 => (extent.clone(), any::<u8>()).prop_map(|(e, byte)| Step::Write(
            e.offset, (0..e.length).map(|at| byte.wrapping_add((at / 512) as u8)).collect())),
        1 => extent.clone().prop_map(Step::Zero),
        1 => extent.prop_map(Step::Discard),
        2 => Just(Step::Rotate),
    ]
}

/// What a segment says beside its data counts wherever the segment is in the history.
#[test]
fn a_group_point_in_the_first_version_of_a_catalog_is_known_to_readers() {
    let mut rig = Rig::new(false);
    let group = PointId([9; 16]);
    let mark = |point, label: &str| {
        let (kind, label) = (PointKind::GroupCrash, label.to_owned());
        Body::Mark(Mark { point, kind, label, group: Some(group) })
    };
    let bodies = [mark(PointId([2; 16]), ""), mark(group, "3 shop")];
    let records: Vec<_> = (1..)
        .zip(bodies)
        .map(|(n, body)| Record { sequence: Sequence(n), time: Timestamp(1), body })
        .collect();
    let entry = rig.segment(&records);
    let mut catalog = rig.vault.replica("disk").expect("replica").into_catalog();
    let edits = vec![CatalogEdit::Source(rig.source.clone()), CatalogEdit::Segments(vec![entry])];
    catalog.append(&rig.source, edits).expect("append");
    let replica = rig.vault.replica("disk").expect("replica");
    let known = replica.catalog().commitment(group).map(|found| found.members);
    assert_eq!(known, Some(3));
    assert_eq!(catalog.commitment(group), replica.catalog().commitment(group));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn promise_3_a_view_at_any_sequence_is_the_prefix(
        steps in prop::collection::vec(step(), 1..50), encrypted in any::<bool>()
    ) {
        let mut rig = Rig::new(encrypted);
        let mut model = vec![0_u8; SIZE as usize];
        let mut states = vec![model.clone()];
        let mut open: Vec<Record<'_>> = Vec::new();
        let mut sequence = 0;
        for step in &steps {
            let body = match step {
                Step::Write(offset, data) => Body::Write { offset: *offset, data },
                Step::Zero(extent) => Body::Zero(*extent),
                Step::Discard(extent) => Body::Discard(*extent, Discarded::Zeroes),
                Step::Rotate => {
                    if !open.is_empty() {
                        rig.add(&std::mem::take(&mut open));
                    }
                    continue;
                }
            };
            let range = body.extent().offset as usize..body.extent().end() as usize;
            match step {
                Step::Write(_, data) => model[range].copy_from_slice(data),
                _ => model[range].fill(0),
            }
            sequence += 1;
            open.push(record(sequence, body));
            states.push(model.clone());
        }
        if !open.is_empty() {
            rig.add(&open);
        }
        let replica = rig.vault.replica("disk").expect("replica");
        let mut found = vec![0; SIZE as usize];
        for (sequence, state) in states.iter().enumerate() {
            let view = replica.view(&At::Sequence(Sequence(sequence as u64)), &ViewOptions::default()).expect("view");
            view.read(0, &mut found).expect("read");
            prop_assert!(found == *state, "sequence {}", sequence);
        }
        // An equal disk is known to be equal, and one changed byte is found in its block.
        let newest = At::Sequence(Sequence(sequence));
        let view = replica.view(&newest, &ViewOptions::default()).expect("view");
        let stretches = [Extent { offset: 0, length: 65_536 }, Extent { offset: 69_632, length: SIZE - 69_632 }];
        let prints = Fingerprints::take(&view, stretches.to_vec(), &|| true).expect("frames").expect("all of it");
        let between = Extent { offset: 65_536, length: 4096 };
        prop_assert!(!prints.cover(between));
        for (number, stretch) in stretches.into_iter().enumerate() {
            let mut disk = model[stretch.offset as usize..stretch.end() as usize].to_vec();
            prop_assert!(prints.cover(stretch));
            prop_assert!(prints.compare(&view, stretch, &disk).expect("compare").iter().all(|same| *same));
            let changed = (steps.len() * 4099 + number * 511) % disk.len();
            disk[changed] ^= 1;
            for (block, same) in prints.compare(&view, stretch, &disk).expect("compare").into_iter().enumerate() {
                prop_assert_eq!(same, block != changed / COMPARED_BYTES);
            }
        }
        // Change sets contain at least what differs, and nothing that was not written.
        if states.len() > 2 {
            let (from, to) = (states.len() / 3, states.len() - 1);
            let changes = replica
                .changes(&At::Sequence(Sequence(from as u64)), &At::Sequence(Sequence(to as u64)))
                .expect("changes");
            for (at, (a, b)) in states[from].iter().zip(&states[to]).enumerate() {
                let byte = Extent { offset: at as u64, length: 1 };
                prop_assert!(a == b || changes.extents().contains(byte));
            }
        }
        // Without a record there is no state to restore.
        prop_assume!(sequence > 0);
        let target = rig.directory.path().join("restored");
        let file = RestoreTarget::File { path: target.clone(), overwrite: false };
        replica.restore(&At::Newest, &file, &|_, _| true).expect("restore");
        prop_assert!(std::fs::read(&target).expect("read") == *states.last().expect("one"));
        prop_assert!(replica.verify(&|_, _| true).expect("verify").is_sound());
    }
}

#[test]
fn a_restore_replaces_regular_files_alone_and_only_if_it_may() {
    let mut rig = Rig::new(false);
    rig.add(&[record(1, Body::Write { offset: 0, data: &[1; 512] })]);
    let replica = rig.vault.replica("disk").expect("replica");
    let path = |name: &str| rig.directory.path().join(name);
    let restore = |name: &str, overwrite: bool, progress: &(dyn Fn(u64, u64) -> bool + Sync)| {
        let target = RestoreTarget::File { path: path(name), overwrite };
        replica.restore(&At::Newest, &target, progress).map(drop)
    };
    let socket = std::os::unix::net::UnixListener::bind(path("socket")).expect("socket");
    std::os::unix::fs::symlink("/dev/null", path("by-id")).expect("link");
    for name in ["socket", "by-id"] {
        let error = restore(name, true, &|_, _| true).expect_err("no regular file");
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
    drop(socket);
    assert!(path("by-id").is_symlink());
    // Somebody else makes the file meanwhile.
    let rival = |_, _| std::fs::write(path("out"), b"theirs").is_ok();
    let error = restore("out", false, &rival).expect_err("it is there now");
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    assert_eq!(std::fs::read(path("out")).expect("read"), b"theirs");
    restore("out", true, &|_, _| true).expect("it may be replaced");
    assert_eq!(std::fs::read(path("out")).expect("read")[..512], [1; 512]);
    let left = std::fs::read_dir(rig.directory.path()).expect("list").flatten();
    let left: Vec<_> = left.filter(|e| e.file_name().to_string_lossy().starts_with('.')).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn points_are_found_by_every_name_and_none_lies_in_a_gap() {
    let mut rig = Rig::new(false);
    rig.add(&[
        record(1, Body::UnorderedBegin(Cause::InitialReplication)),
        record(2, Body::Write { offset: 0, data: &[1; 512] }),
        record(3, Body::UnorderedEnd),
        mark(4, "first"),
    ]);
    rig.add(&[record(5, Body::Write { offset: 512, data: &[2; 512] }), mark(6, "4")]);
    rig.add(&[record(7, Body::UnorderedBegin(Cause::MemoryBudget)), mark(8, "never a point")]);
    let replica = rig.vault.replica("disk").expect("replica");
    let labels: Vec<_> = replica.points().into_iter().map(|point| point.label).collect();
    assert_eq!(labels, ["first", "4"]);
    let resolve = |text: &str| replica.resolve(&At::parse(text).expect("parse"));
    assert_eq!(resolve("newest").expect("newest"), Sequence(6));
    assert_eq!(resolve("first").expect("label"), Sequence(4));
    assert_eq!(resolve("5").expect("sequence"), Sequence(5));
    assert_eq!(resolve("4").expect("a label that exists wins"), Sequence(6));
    assert_eq!(resolve("sequence:4").expect("no label"), Sequence(4));
    let time = format!("time:{}", Timestamp(5_500));
    assert_eq!(resolve(&time).expect("time"), Sequence(5));
    for bad in ["sequence:first", "sequence:-1", "time:4", "point:", "point:x"] {
        assert_eq!(At::parse(bad).expect_err(bad).kind(), ErrorKind::InvalidInput);
    }
    assert_eq!(resolve(&PointId([6; 16]).to_string()).expect("point"), Sequence(6));
    assert_eq!(resolve("point:0606").expect("prefix"), Sequence(6));
    assert_eq!(resolve(&Timestamp(5_500).to_string()).expect("time"), Sequence(5));
    assert_eq!(resolve("2").expect_err("in the first copy").kind(), ErrorKind::NotOrdered);
    let error = resolve("8").expect_err("in the gap");
    assert!(
        error.kind() == ErrorKind::NotOrdered && error.to_string().contains("memory-budget"),
        "{error}"
    );
    let error = resolve("nothing").expect_err("no such label");
    assert!(
        error.kind() == ErrorKind::NotFound && error.to_string().contains("sequence 6"),
        "{error}"
    );
    let stretches: Vec<_> =
        replica.timeline().iter().map(|e| (e.from.0, e.to.0, e.unordered)).collect();
    assert_eq!(
        stretches,
        [(1, 2, Some(Cause::InitialReplication)), (3, 6, None), (7, 8, Some(Cause::MemoryBudget)),]
    );
}

#[test]
fn promise_9_two_sources_race_and_the_one_that_lost_the_volume_is_fenced() {
    let mut rig = Rig::new(true);
    let take = |source: &SourceIdentity| vec![CatalogEdit::Source(source.clone())];
    let mut ours = rig.vault.replica("disk").expect("replica").into_catalog();
    ours.append(&rig.source, take(&rig.source)).expect("take");
    ours.append(&rig.source, Vec::new()).expect("nothing");
    let other = SourceIdentity { id: [2; 16], host: "beta".into(), since: Timestamp(9) };
    let mut theirs = rig.vault.replica("disk").expect("replica").into_catalog();
    let entry = rig.segment(&[record(1, Body::Flush)]);
    let error = theirs
        .append(&other, vec![CatalogEdit::Segments(vec![entry.clone()])])
        .expect_err("not theirs");
    assert!(error.kind() == ErrorKind::Fenced && error.to_string().contains("alpha"), "{error}");
    theirs.append(&other, take(&other)).expect("take over");
    // A version without edits is one, too: it takes nothing back.
    for edits in [Vec::new(), vec![CatalogEdit::Segments(vec![entry])]] {
        let error = ours.clone().append(&rig.source, edits).expect_err("fenced");
        assert!(error.kind() == ErrorKind::Fenced && error.to_string().contains("beta"), "{error}");
    }
}

#[test]
fn promise_9_of_two_sessions_of_a_source_the_one_that_publishes_second_is_fenced() {
    let rig = Rig::new(true);
    let mut owner = rig.vault.replica("disk").expect("replica").into_catalog();
    owner.append(&rig.source, vec![CatalogEdit::Source(rig.source.clone())]).expect("take");
    let session = |id: u8| {
        let mut catalog = rig.vault.replica("disk").expect("replica").into_catalog();
        let (host, since) = (format!("host-{id}"), Timestamp(id.into()));
        catalog.begin_session(SourceInstance { id: [id; 16], host, since }, &[]);
        catalog
    };
    let (mut first, mut second) = (session(1), session(2));
    // Neither has segments, so nothing else tells them apart.
    for _ in 0..2 {
        first.append(&rig.source, Vec::new()).expect("the first");
        let error = second.append(&rig.source, Vec::new()).expect_err("another session");
        assert_eq!(error.kind(), ErrorKind::Fenced);
        assert!(error.to_string().contains("host-1"), "{error}");
    }
    session(3).append(&rig.source, Vec::new()).expect("it knows the first");
    first.append(&rig.source, Vec::new()).expect_err("the third has published");
}

#[test]
fn a_catalog_survives_lost_answers_and_snapshots() {
    let mut rig = Rig::new(true);
    let faulty = Arc::new(FaultStore::new(rig.store.clone()));
    let key = Some(WrappingKey::from_bytes([1; 32]));
    let vault = Vault::open(faulty.clone(), key, rig.clock.clone()).expect("open");
    let mut catalog = vault.replica("disk").expect("replica").into_catalog();
    for sequence in 1..200 {
        let entry = rig.segment(&[record(sequence, Body::Flush)]);
        let edits = vec![CatalogEdit::Segments(vec![entry])];
        if sequence % 7 == 0 {
            faulty.fail_puts(StoreFault::AnswerLost, 1);
            assert!(catalog.append(&rig.source, edits.clone()).is_err());
        }
        catalog.append(&rig.source, edits).expect("append");
    }
    let loaded = vault.replica("disk").expect("replica");
    assert_eq!(loaded.catalog().segments().len(), 199);
    assert_eq!(loaded.catalog().version(), catalog.version());
    assert!(
        rig.store.list("volumes/disk/catalog/").expect("list").len() < 140,
        "old versions are removed"
    );
}

#[test]
fn promise_11_damage_is_found_and_named() {
    for encrypted in [false, true] {
        let mut rig = Rig::new(encrypted);
        let data = vec![7; 20_000];
        let entries: Vec<_> = (0..3)
            .map(|n| {
                rig.add(&[
                    record(n * 2 + 1, Body::Write { offset: n * 20_480, data: &data }),
                    mark(n * 2 + 2, "p"),
                ])
            })
            .collect();
        let good: Vec<_> = entries
            .iter()
            .map(|entry| std::fs::read(rig.path(&entry.object)).expect("read"))
            .collect();
        let damage: [(&str, Box<dyn Fn(&std::path::Path)>); 5] = [
            ("missing", Box::new(|path| std::fs::remove_file(path).expect("remove"))),
            (
                "cut off",
                Box::new(|path| {
                    std::fs::write(path, &good[1][..good[1].len() - 9]).expect("write");
                }),
            ),
            (
                "flipped",
                Box::new(|path| {
                    let mut bytes = good[1].clone();
                    bytes[330] ^= 4;
                    std::fs::write(path, bytes).expect("write");
                }),
            ),
            ("another's", Box::new(|path| std::fs::write(path, &good[0]).expect("write"))),
            (
                "spliced",
                Box::new(|path| {
                    let mut bytes = good[1].clone();
                    let half = 300.min(good[2].len());
                    bytes[256..half].copy_from_slice(&good[2][256..half]);
                    std::fs::write(path, bytes).expect("write");
                }),
            ),
        ];
        for (what, damage) in damage {
            let path = rig.path(&entries[1].object);
            damage(&path);
            let replica = rig.vault.replica("disk").expect("replica");
            let report = replica.verify(&|_, _| true).expect("verify");
            let named: Vec<_> = report.findings.iter().map(|f| f.object.as_str()).collect();
            assert_eq!(named, [entries[1].object.as_str()], "{what}");
            let read = || -> crate::error::Result<()> {
                let view = replica.view(&At::Newest, &ViewOptions::default())?;
                view.read(0, &mut vec![0; SIZE as usize])
            };
            let error = read().expect_err(what);
            assert!(error.to_string().contains(&entries[1].object), "{what}: {error}");
            replica
                .view(&At::Sequence(Sequence(2)), &ViewOptions::default())
                .expect("an earlier state is unharmed");
            let _ = std::fs::remove_file(&path);
            std::fs::write(&path, &good[1]).expect("mend");
        }
        let extra = rig.path("volumes/disk/segments/stray.hrl");
        std::fs::write(extra, b"x").expect("write");
        let replica = rig.vault.replica("disk").expect("replica");
        let report = replica.verify(&|_, _| true).expect("verify");
        assert!(report.is_sound() && report.strays.len() == 1);
    }
}

#[test]
fn keys_and_vaults_that_do_not_fit_are_refused() {
    let rig = Rig::new(true);
    let open = |key: Option<[u8; 32]>| -> Error {
        let key = key.map(WrappingKey::from_bytes);
        Vault::open(rig.store.clone(), key, rig.clock.clone())
            .and_then(|vault| vault.replica("disk"))
            .map(drop)
            .expect_err("refused")
    };
    assert_eq!(open(None).kind(), ErrorKind::WrongKey);
    assert_eq!(open(Some([2; 32])).kind(), ErrorKind::WrongKey);
    let missing = rig.vault.replica("other").map(drop).expect_err("missing");
    assert!(
        missing.kind() == ErrorKind::NotFound && missing.to_string().contains("disk"),
        "{missing}"
    );
    let empty = tempfile::tempdir().expect("directory");
    let store: Arc<dyn Store> = Arc::new(DirStore::open(empty.path()).expect("store"));
    let error =
        Vault::open(store.clone(), None, rig.clock.clone()).map(drop).expect_err("no vault");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    store.put("other", b"x").expect("put");
    assert!(
        Vault::create(store, None, rig.clock.clone()).is_err(),
        "a store with other things in it"
    );
}

#[test]
fn promise_11_a_segment_of_a_larger_volume_is_refused() {
    let mut rig = Rig::new(false);
    rig.segment_device_bytes = SIZE * 2;
    rig.add(&[record(1, Body::Write { offset: SIZE, data: &[1; 512] })]);
    let replica = rig.vault.replica("disk").expect("replica");
    let error = replica.view(&At::Newest, &ViewOptions::default()).map(drop).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(!replica.verify(&|_, _| true).expect("verify").is_sound());
}

#[test]
fn promise_11_names_and_sizes_in_a_catalog_may_be_anything() {
    let mut rig = Rig::new(false);
    let mut entries = [1, 2].map(|n| rig.segment(&[record(n, Body::Flush)]));
    entries.iter_mut().for_each(|entry| entry.summary.stored_bytes = u64::MAX);
    let mut catalog = rig.vault.replica("disk").expect("replica").into_catalog();
    catalog.append(&rig.source, vec![CatalogEdit::Segments(entries.to_vec())]).expect("append");
    rig.store.put("volumes/disk/catalog/2", b"not the name of a version").expect("put");
    let replica = rig.vault.replica("disk").expect("replica");
    assert_eq!(replica.catalog().version(), 1);
    assert_eq!(replica.verify(&|_, _| true).expect("verify").findings.len(), 2);
    rig.store.put("volumes/disk/catalog/ffffffffffffffff", b"the last there can be").expect("put");
    let error = rig.vault.replica("disk").map(drop).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}
