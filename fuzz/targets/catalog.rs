//! A vault whose volume record, catalog versions and segments are any bytes (promise 11), as they
//! are and with correct checksums and hashes.
//!
//! An input is one byte (bit 0: versions are numbered from the snapshot 64 on) and then objects: a
//! kind (one byte: 0 volume record, 1 catalog version, 2 segment), a length (two bytes) and the
//! content. Segments are named by their number: `volumes/v/segments/0.hrl` is the first.
#![no_main]

use std::sync::Arc;

use hrl::device::BlockDevice;
use hrl::replica::{At, Replica, ViewOptions};
use hrl::vault::{CatalogEdit, SourceIdentity, Vault, mend_catalog_version, mend_volume_record};
use hrl::{Clock, ManualClock, Sequence, Timestamp, VolumeId};
use hrl_fuzz::Memory;
use libfuzzer_sys::arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;

/// Most bytes of a view that are read.
const READ_BYTES_MAX: u64 = 1 << 20;

fuzz_target!(|input: &[u8]| {
    let Some((first, objects)) = split(input) else { return };
    check(&objects, first);
    let mut mended = objects.clone();
    mend(&mut mended, first);
    check(&mended, first);
});

/// Kind and content.
type Objects = Vec<(u8, Vec<u8>)>;

fn split(input: &[u8]) -> Option<(u64, Objects)> {
    let mut input = Unstructured::new(input);
    let first = if input.arbitrary::<u8>().ok()? & 1 == 1 { 64 } else { 1 };
    let mut objects = Vec::new();
    while !input.is_empty() {
        let kind = input.arbitrary::<u8>().ok()? % 3;
        let length = usize::from(input.arbitrary::<u16>().ok()?).min(input.len());
        objects.push((kind, input.bytes(length).ok()?.to_vec()));
    }
    Some((first, objects))
}

/// Corrects checksums, and links the versions to a chain.
fn mend(objects: &mut Objects, first: u64) {
    let mut volume = VolumeId::default();
    for (_, record) in objects.iter_mut().filter(|(kind, _)| *kind == 0).take(1) {
        mend_volume_record(record);
        if let Some(id) = record.get(8..24) {
            volume = VolumeId(id.try_into().expect("16 bytes"));
        }
    }
    let mut hash = [0; 32];
    let versions = objects.iter_mut().filter(|(kind, _)| *kind == 1);
    for (number, (_, version)) in (first..).zip(versions) {
        hash = mend_catalog_version(version, volume, number, hash);
    }
}

fn check(objects: &Objects, first: u64) {
    let store = Arc::new(Memory::default());
    store.add("hrl-vault".to_owned(), b"hrl vault 1\n");
    let (mut version, mut segment) = (first, 0);
    for (kind, content) in objects {
        let name = match kind {
            0 => "volumes/v/volume".to_owned(),
            1 => {
                version += 1;
                format!("volumes/v/catalog/{:016x}", version - 1)
            }
            _ => {
                segment += 1;
                format!("volumes/v/segments/{}.hrl", segment - 1)
            }
        };
        store.add(name, content);
    }
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(Timestamp(1), 1));
    let vault = Vault::open(store, None, clock).expect("the marker is there");
    let _ = vault.volumes();
    let Ok(replica) = vault.replica("v") else { return };
    read(&replica);
    append(&vault, replica);
}

fn read(replica: &Replica) {
    let catalog = replica.catalog();
    for stretch in replica.timeline() {
        assert!(stretch.from <= stretch.to);
    }
    let _ = (catalog.newest_ordered(), catalog.open_unordered(), catalog.epoch());
    for point in replica.points() {
        assert!(catalog.is_ordered_at(point.sequence));
        let _ = replica.resolve(&At::PointPrefix(point.id.to_string()[..4].to_owned()));
        let _ = replica.resolve(&At::Label(point.label));
        let _ = replica.resolve(&At::Time(point.time));
    }
    let first = At::Sequence(Sequence::ZERO);
    if let Ok(changes) = replica.changes(&first, &At::Newest) {
        let runs: u64 = changes.runs().iter().map(|run| run.extent.length).sum();
        assert_eq!(runs, changes.extents().iter().map(|extent| extent.length).sum::<u64>());
    }
    let report = replica.verify(&|_, _| true).expect("findings are no errors");
    let forensic = ViewOptions { unordered: true, ..ViewOptions::default() };
    for at in [At::Newest, At::Sequence(catalog.last_sequence())] {
        let Ok(view) = replica.view(&at, &forensic) else { continue };
        let mut left = READ_BYTES_MAX;
        for extent in view.data_extents().collect::<Vec<_>>() {
            let length = extent.length.min(left);
            left -= length;
            let read = view.read(extent.offset, &mut vec![0; length as usize]);
            assert!(!report.is_sound() || read.is_ok(), "what verifies can be read");
        }
        let size = view.size_bytes();
        let mut end = vec![0xff; size.min(4096) as usize];
        let _ = view.read(size - end.len() as u64, &mut end);
    }
}

/// Checks that a readable catalog can be appended to, and then reads as appended.
fn append(vault: &Vault, replica: Replica) {
    let mut catalog = replica.into_catalog();
    let source = SourceIdentity { id: [7; 16], host: "here".into(), since: Timestamp(3) };
    if let Err(error) = catalog.append(&source, vec![CatalogEdit::Source(source.clone())]) {
        panic!("{error}");
    }
    let again = vault.replica("v").expect("what was written can be read");
    assert_eq!(again.catalog().version(), catalog.version());
    assert_eq!(again.catalog().source(), Some(&source));
    assert!(again.catalog().segments() == catalog.segments());
}
