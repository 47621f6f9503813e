//! A dirty map whose file holds any bytes (promise 11): it is refused, or holds what it says it
//! holds and keeps what it is told (promise 4).
//!
//! An input is the number of pages of marks (one byte), regions to mark and clear (four bytes
//! each), the used part of the header (512 bytes) and marks; the rest of the file is zeroes.
#![no_main]

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use hrl::capture::{CleanStop, DirtyMap, LastSession, RegionRange, mend_dirty_map};
use hrl::device::SystemFiles;
use hrl::{ErrorKind, Sequence, Timestamp};
use hrl_fuzz::scratch;
use libfuzzer_sys::arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;

const PAGE_BYTES: usize = 4096;
const HEADER_BYTES_USED: usize = 512;

static FILE: LazyLock<PathBuf> = LazyLock::new(|| scratch("dirty").join("map"));

fuzz_target!(|input: &[u8]| {
    let mut input = Unstructured::new(input);
    let pages = usize::from(input.arbitrary::<u8>().unwrap_or(0) % 8);
    let mark = range(&mut input);
    let clear = range(&mut input);
    let mut bytes = input.take_rest().to_vec();
    let marks = bytes.split_off(bytes.len().min(HEADER_BYTES_USED));
    bytes.resize(PAGE_BYTES, 0);
    bytes.extend_from_slice(&marks);
    bytes.resize((1 + pages) * PAGE_BYTES, 0);
    check(&bytes, mark, clear);
    mend_dirty_map(&mut bytes);
    check(&bytes, mark, clear);
});

fn range(input: &mut Unstructured<'_>) -> RegionRange {
    let mut number = || u64::from(input.arbitrary::<u16>().unwrap_or(0));
    RegionRange { first: number(), last: number() }
}

fn check(bytes: &[u8], mark: RegionRange, clear: RegionRange) {
    let path: &Path = &FILE;
    std::fs::write(path, bytes).expect("room for scratch files");
    let Ok((mut map, _)) = DirtyMap::open(&SystemFiles, path) else { return };
    let params = *map.params();
    let regions = params.device_bytes.div_ceil(params.region_bytes).max(1);
    let mut model = flags(&map, regions);

    map.begin_session(&SystemFiles).expect("the file can be written");
    for (range, value) in [(mark, true), (clear, false)] {
        let done = if value { map.set_dirty(&[range]) } else { map.clear(&[range]) };
        if range.first <= range.last && range.last < regions {
            done.expect("the range lies within the map");
            model[range.first as usize..=range.last as usize].fill(value);
        } else {
            assert_eq!(done.expect_err("a range outside the map").kind(), ErrorKind::InvalidInput);
        }
    }
    let generation = map.generation();
    drop(map);

    let (mut map, state) =
        DirtyMap::open(&SystemFiles, path).expect("a map that was in use opens again");
    assert_eq!((state, map.generation(), *map.params()), (LastSession::InUse, generation, params));
    assert!(flags(&map, regions) == model, "marks are kept");
    let stop = CleanStop {
        last_sequence: Sequence(mark.first),
        modified: Some(Timestamp(clear.last as i64 + 1)),
        sample: [7; 32],
    };
    map.end_session(stop).expect("the file can be written");
    drop(map);
    let (map, state) =
        DirtyMap::open(&SystemFiles, path).expect("a map that was stopped opens again");
    assert_eq!(state, LastSession::Clean(stop));
    assert!(flags(&map, regions) == model, "marks are kept");
}

/// Returns the dirty regions. Checks that their ranges are in order, apart and within the map.
fn flags(map: &DirtyMap, regions: u64) -> Vec<bool> {
    let mut flags = vec![false; regions as usize];
    let mut free_from = 0;
    for range in map.dirty_regions() {
        assert!(free_from <= range.first && range.first <= range.last && range.last < regions);
        flags[range.first as usize..=range.last as usize].fill(true);
        free_from = range.last + 2;
    }
    flags
}
