//! The dirty map: one bit for each region of a volume, durable before the first write to the
//! region.
//!
//! `core/docs/format.md` specifies its bytes. The file is written in full when it is created, so that
//! setting bits never needs space.
//!
//! Invariants: when [`DirtyMap::set_dirty`] returns, its bits survive a power failure. A cleared
//! bit may come back, which only costs a needless read. If the checksum of a sector is wrong, all
//! its regions count as dirty: a disk altered it, or the power failed between bits and checksum.
//!
//! After a failed sync the map is poisoned for good, because later syncs of that file prove
//! nothing. Bits that a killed agent left may be readable and yet not durable. So each session
//! begins with a new file that has the bits of the one before. Only one process has the map open:
//! the state directory is locked.

use std::path::{Path, PathBuf};

use super::region::RegionRange;
use crate::bytes::{Reader, Writer};
use crate::device::{Files, MappedBytes, replace_file};
use crate::error::{Error, ErrorKind, Result};
use crate::macros::shown;
use crate::units::{Sequence, Timestamp, VolumeId};

const MAGIC: &[u8; 8] = b"HRLDIRTY";
const VERSION: u32 = 2;
const HEADER_BYTES: usize = 4096;
const CHECKED_BYTES: usize = 508;
/// The unit of writing, which disks write whole.
const SECTOR_BYTES: usize = 512;
/// Regions of a sector; the rest of it is its checksum.
const SECTOR_REGIONS: u64 = 8 * (SECTOR_BYTES as u64 - 4);
/// Size of the chunks that a new map is written in. The length of a map is a multiple of it.
const FILL_BYTES: usize = 4096;
const STATE_IN_USE: u32 = 1;
const STATE_CLEAN: u32 = 2;
/// Most regions of a volume: 64 TiB of the smallest region.
const REGIONS_MAX: u64 = 1 << 30;

/// Volume and geometry of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirtyMapParams {
    /// The volume.
    pub volume: VolumeId,
    /// Its size in bytes.
    pub device_bytes: u64,
    /// Size of a region in bytes, a power of two.
    pub region_bytes: u64,
}

/// What was true when the last session stopped cleanly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanStop {
    /// Last sequence of the session.
    pub last_sequence: Sequence,
    /// Modification time of the disk, if it has one.
    pub modified: Option<Timestamp>,
    /// Hash of sampled content.
    pub sample: [u8; 32],
}

/// How the last session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastSession {
    /// Killed, or the power failed: every dirty region must be read again.
    InUse,
    /// Stopped cleanly: the regions still dirty were waiting for their resync.
    Clean(CleanStop),
}

/// An open map. Its owner serialises all changes.
pub struct DirtyMap {
    path: PathBuf,
    map: Box<dyn MappedBytes>,
    params: DirtyMapParams,
    generation: u64,
    poisoned: bool,
}

impl DirtyMap {
    /// Creates the file among `files`, with every region dirty or none, and syncs it and its
    /// directory.
    pub fn create(
        files: &dyn Files,
        path: &Path,
        params: DirtyMapParams,
        dirty: bool,
    ) -> Result<Self> {
        let regions = check_params(&params, path)?;
        let header = encode_header(&params, 0, None);
        // The map is a whole number of chunks.
        let pieces = (0..map_bytes(regions) / FILL_BYTES as u64).map(|piece| {
            let mut bytes = vec![if dirty { 0xff } else { 0 }; FILL_BYTES];
            let first = piece * (FILL_BYTES / SECTOR_BYTES) as u64;
            for (number, sector) in (first..).zip(bytes.chunks_exact_mut(SECTOR_BYTES)) {
                put_checksum(sector, params.volume, number);
            }
            bytes
        });
        let content = std::iter::once(header.to_vec()).chain(pieces);
        replace_file(files, path, &path.with_extension("new"), content)
            .map_err(|error| Error::io("create dirty map", path.display(), error))?;
        let (map, _) = Self::open(files, path)?;
        Ok(map)
    }

    /// Opens the file among `files`, and returns how the last session ended. `Corrupt` if header or
    /// size are wrong: then nothing is known about the disk.
    pub fn open(files: &dyn Files, path: &Path) -> Result<(Self, LastSession)> {
        let map = files
            .map_mut(path)
            .map_err(|error| Error::io("open dirty map", path.display(), error))?;
        let length = map.bytes().len();
        let Some(header) = map.bytes().first_chunk::<HEADER_BYTES>() else {
            return Err(corrupt(path, 0, "a header of 4096 bytes", format!("{length} bytes")));
        };
        let (params, generation, state) = decode_header(header, path)?;
        let regions = check_params(&params, path)?;
        let expected = HEADER_BYTES as u64 + map_bytes(regions);
        if length as u64 != expected {
            return Err(corrupt(
                path,
                40,
                &format!("a file of {expected} bytes"),
                format!("{length}"),
            ));
        }
        let mut map = Self { path: path.to_owned(), map, params, generation, poisoned: false };
        map.set_unsound_dirty();
        Ok((map, state))
    }

    /// Sets all regions of the sectors with a wrong checksum dirty.
    fn set_unsound_dirty(&mut self) {
        let volume = self.params.volume;
        let marks = &self.map.bytes()[HEADER_BYTES..];
        let unsound: Vec<_> = (0..)
            .zip(marks.chunks_exact(SECTOR_BYTES))
            .filter(|(number, sector)| {
                sector[SECTOR_BYTES - 4..] != checksum(sector, volume, *number)
            })
            .map(|(number, _)| number)
            .collect();
        for number in unsound {
            self.map.change(&mut |bytes| {
                let sector = sector_of(bytes, number);
                sector.fill(0xff);
                put_checksum(sector, volume, number);
            });
        }
    }

    /// Returns volume and geometry of the map.
    pub fn params(&self) -> &DirtyMapParams {
        &self.params
    }

    /// Returns the number of sessions begun so far.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Begins a session among `files`, durably. A stop without [`DirtyMap::end_session`] now counts
    /// as a crash. All bits are durable too, whether or not earlier syncs of the file succeeded.
    pub fn begin_session(&mut self, files: &dyn Files) -> Result<()> {
        self.generation = self.generation.wrapping_add(1);
        let header = encode_header(&self.params, self.generation, None);
        let pieces = [&header, &self.map.bytes()[HEADER_BYTES..]];
        let io = |error| Error::io("begin session of dirty map", self.path.display(), error);
        replace_file(files, &self.path, &self.path.with_extension("new"), pieces).map_err(io)?;
        self.map = files.map_mut(&self.path).map_err(io)?;
        Ok(())
    }

    /// Ends the session cleanly. Makes the bits durable before the header says so.
    pub fn end_session(&mut self, stop: CleanStop) -> Result<()> {
        self.sync(HEADER_BYTES, self.map.bytes().len() - HEADER_BYTES)?;
        let header = encode_header(&self.params, self.generation, Some(stop));
        self.map.change(&mut |bytes| bytes[..512].copy_from_slice(&header[..512]));
        self.sync(0, 512)
    }

    /// Sets regions dirty. They are durable when it returns.
    pub fn set_dirty(&mut self, ranges: &[RegionRange]) -> Result<()> {
        let (mut low, mut high) = (usize::MAX, 0);
        for range in ranges {
            let range = self.check(*range)?;
            self.fill(range, true);
            low = low.min(sector_at(range.first / SECTOR_REGIONS));
            high = high.max(sector_at(range.last / SECTOR_REGIONS));
        }
        if low > high {
            return Ok(());
        }
        self.sync(low, high - low + SECTOR_BYTES)
    }

    /// Clears regions, without making that durable.
    pub fn clear(&mut self, ranges: &[RegionRange]) -> Result<()> {
        for range in ranges {
            let range = self.check(*range)?;
            self.fill(range, false);
        }
        Ok(())
    }

    /// Returns the dirty regions, as ranges in order.
    pub fn dirty_regions(&self) -> Vec<RegionRange> {
        let regions = self.regions();
        let mut ranges: Vec<RegionRange> = Vec::new();
        let sectors = (0..).zip(self.map.bytes()[HEADER_BYTES..].chunks_exact(SECTOR_BYTES));
        for (number, sector) in sectors {
            for (at, byte) in
                sector[..SECTOR_BYTES - 4].iter().enumerate().filter(|(_, b)| **b != 0)
            {
                for bit in (0..8).filter(|bit| byte >> bit & 1 == 1) {
                    let region = number * SECTOR_REGIONS + at as u64 * 8 + bit;
                    match ranges.last_mut() {
                        _ if region >= regions => {}
                        Some(range) if range.last + 1 == region => range.last = region,
                        _ => ranges.push(RegionRange { first: region, last: region }),
                    }
                }
            }
        }
        ranges
    }

    fn regions(&self) -> u64 {
        self.params.device_bytes.div_ceil(self.params.region_bytes).max(1)
    }

    fn check(&self, range: RegionRange) -> Result<RegionRange> {
        let regions = self.regions();
        if range.first <= range.last && range.last < regions {
            return Ok(range);
        }
        Err(Error::new(ErrorKind::InvalidInput, "set regions dirty in", self.path.display())
            .expected(format_args!("regions below {regions}"))
            .found(format_args!("{} to {}", range.first, range.last)))
    }

    fn fill(&mut self, range: RegionRange, value: bool) {
        let volume = self.params.volume;
        self.map.change(&mut |bytes| {
            for number in range.first / SECTOR_REGIONS..=range.last / SECTOR_REGIONS {
                let sector = sector_of(bytes, number);
                let begin = number * SECTOR_REGIONS;
                let last = (range.last - begin).min(SECTOR_REGIONS - 1);
                set_bits(sector, range.first.saturating_sub(begin), last, value);
                put_checksum(sector, volume, number);
            }
        });
    }

    fn sync(&mut self, offset: usize, length: usize) -> Result<()> {
        if self.poisoned {
            return Err(Error::new(ErrorKind::Poisoned, "sync dirty map", self.path.display())
                .message("an earlier sync failed; restart the agent to read the disk again"));
        }
        self.map.sync(offset, length).map_err(|error| {
            self.poisoned = true;
            Error::io("sync dirty map", self.path.display(), error)
        })
    }
}

shown!(DirtyMap, value => value.path.display());

/// Corrects the checksums of a dirty map's file that was altered. Feature `testing`.
#[cfg(any(test, feature = "testing"))]
pub fn mend_dirty_map(bytes: &mut [u8]) {
    let Some(header) = bytes.get_mut(..512) else { return };
    let crc = crc32fast::hash(&header[..CHECKED_BYTES]);
    header[CHECKED_BYTES..].copy_from_slice(&crc.to_le_bytes());
    let volume = VolumeId(header[16..32].try_into().expect("16 bytes"));
    let marks = bytes.get_mut(HEADER_BYTES..).unwrap_or_default();
    (0..)
        .zip(marks.chunks_exact_mut(SECTOR_BYTES))
        .for_each(|(at, marks)| put_checksum(marks, volume, at));
}

fn sector_at(number: u64) -> usize {
    HEADER_BYTES + number as usize * SECTOR_BYTES
}

fn sector_of(bytes: &mut [u8], number: u64) -> &mut [u8] {
    &mut bytes[sector_at(number)..][..SECTOR_BYTES]
}

/// Sets the bits `first ..= last` of a sector.
fn set_bits(sector: &mut [u8], first: u64, last: u64, value: bool) {
    let mut bit = first;
    while bit <= last {
        let byte = &mut sector[(bit / 8) as usize];
        if bit.is_multiple_of(8) && last - bit >= 7 {
            *byte = if value { 0xff } else { 0 };
            bit += 8;
        } else {
            let mask = 1 << (bit % 8);
            *byte = if value { *byte | mask } else { *byte & !mask };
            bit += 1;
        }
    }
}

fn checksum(sector: &[u8], volume: VolumeId, number: u64) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&volume.0);
    hasher.update(&number.to_le_bytes());
    hasher.update(&sector[..SECTOR_BYTES - 4]);
    hasher.finalize().to_le_bytes()
}

fn put_checksum(sector: &mut [u8], volume: VolumeId, number: u64) {
    let checksum = checksum(sector, volume, number);
    sector[SECTOR_BYTES - 4..].copy_from_slice(&checksum);
}

fn map_bytes(regions: u64) -> u64 {
    (regions.div_ceil(SECTOR_REGIONS) * SECTOR_BYTES as u64).next_multiple_of(FILL_BYTES as u64)
}

/// Returns the number of regions, if the parameters make sense.
fn check_params(params: &DirtyMapParams, path: &Path) -> Result<u64> {
    let regions = params
        .device_bytes
        .checked_div(params.region_bytes)
        .filter(|_| params.region_bytes.is_power_of_two())
        .map(|_| params.device_bytes.div_ceil(params.region_bytes).max(1));
    match regions {
        Some(regions) if regions <= REGIONS_MAX => Ok(regions),
        _ => Err(corrupt(
            path,
            32,
            "a region size that is a power of two and at most 2^30 regions",
            format!("{} bytes in regions of {}", params.device_bytes, params.region_bytes),
        )),
    }
}

fn corrupt(path: &Path, at: u64, expected: &str, found: String) -> Error {
    Error::new(ErrorKind::Corrupt, "open dirty map", path.display())
        .at(at)
        .expected(expected)
        .found(found)
}

fn encode_header(
    params: &DirtyMapParams,
    generation: u64,
    stop: Option<CleanStop>,
) -> [u8; HEADER_BYTES] {
    let mut out = Vec::with_capacity(HEADER_BYTES);
    let state = if stop.is_some() { STATE_CLEAN } else { STATE_IN_USE };
    out.put_bytes(MAGIC).put_u32_le(VERSION).put_u32_le(state).put_bytes(&params.volume.0);
    out.put_u64_le(params.device_bytes).put_u64_le(params.region_bytes).put_u64_le(generation);
    if let Some(stop) = stop {
        let modified = stop.modified.map_or(0, |time| time.0);
        out.put_u64_le(stop.last_sequence.0).put_i64_le(modified).put_bytes(&stop.sample);
    }
    out.put_zeroes(CHECKED_BYTES - out.len()).put_crc32_le();
    out.put_zeroes(HEADER_BYTES - out.len());
    out.try_into().expect("filled up to its size")
}

fn decode_header(
    header: &[u8; HEADER_BYTES],
    path: &Path,
) -> Result<(DirtyMapParams, u64, LastSession)> {
    let object = path.display().to_string();
    let reader = || Reader::new(header, "open dirty map", &object);
    let mut whole = reader();
    whole.magic(MAGIC)?;
    whole.take(CHECKED_BYTES - MAGIC.len())?;
    whole.crc32_le()?;
    let mut from = reader();
    from.take(MAGIC.len())?;
    let version = from.u32_le()?;
    if version != VERSION {
        // The bits of an older layout are not used: the whole disk is read again.
        let is_older = version < VERSION;
        let kind = if is_older { ErrorKind::Corrupt } else { ErrorKind::Unsupported };
        return Err(from.failing_as(kind).invalid(format_args!("version {VERSION}"), version));
    }
    let state = from.u32_le()?;
    if state != STATE_IN_USE && state != STATE_CLEAN {
        return Err(from.invalid("state 1 or 2", state));
    }
    let params = DirtyMapParams {
        volume: VolumeId(from.array()?),
        device_bytes: from.u64_le()?,
        region_bytes: from.u64_le()?,
    };
    let generation = from.u64_le()?;
    let stop = CleanStop {
        last_sequence: Sequence(from.u64_le()?),
        modified: Some(from.i64_le()?).filter(|time| *time != 0).map(Timestamp),
        sample: from.array()?,
    };
    let ended = if state == STATE_CLEAN { LastSession::Clean(stop) } else { LastSession::InUse };
    Ok((params, generation, ended))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::SystemFiles;

    const PARAMS: DirtyMapParams = DirtyMapParams {
        volume: VolumeId([7; 16]),
        device_bytes: 100 << 20,
        region_bytes: 1 << 20,
    };

    fn range(first: u64, last: u64) -> RegionRange {
        RegionRange { first, last }
    }

    #[test]
    fn promise_4_dirty_regions_survive_and_a_stop_without_an_end_counts_as_a_crash() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("dirty");
        let mut map = DirtyMap::create(&SystemFiles, &path, PARAMS, false).expect("create");
        map.begin_session(&SystemFiles).expect("begin");
        map.set_dirty(&[range(3, 3), range(8, 31), range(99, 99)]).expect("set dirty");
        map.clear(&[range(10, 12)]).expect("clear");
        assert!(map.set_dirty(&[range(100, 100)]).is_err());
        drop(map);
        let (mut map, state) = DirtyMap::open(&SystemFiles, &path).expect("open");
        assert_eq!(state, LastSession::InUse);
        assert_eq!(map.dirty_regions(), [range(3, 3), range(8, 9), range(13, 31), range(99, 99)]);
        assert_eq!((*map.params(), map.generation()), (PARAMS, 1));
        let stop =
            CleanStop { last_sequence: Sequence(9), modified: Some(Timestamp(5)), sample: [1; 32] };
        map.end_session(stop).expect("end");
        drop(map);
        assert_eq!(DirtyMap::open(&SystemFiles, &path).expect("open").1, LastSession::Clean(stop));
    }

    #[test]
    fn promise_4_a_session_begins_with_a_new_file_and_all_dirty_regions() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("dirty");
        let mut before = DirtyMap::create(&SystemFiles, &path, PARAMS, false).expect("create");
        before.begin_session(&SystemFiles).expect("begin");
        before.set_dirty(&[range(3, 4)]).expect("set dirty");
        let (mut map, _) = DirtyMap::open(&SystemFiles, &path).expect("open");
        map.begin_session(&SystemFiles).expect("begin");
        before.set_dirty(&[range(50, 50)]).expect("set dirty");
        map.set_dirty(&[range(70, 70)]).expect("set dirty");
        drop((before, map));
        let (map, state) = DirtyMap::open(&SystemFiles, &path).expect("open");
        assert_eq!(map.dirty_regions(), [range(3, 4), range(70, 70)]);
        assert_eq!((state, map.generation()), (LastSession::InUse, 2));
    }

    #[test]
    fn promise_11_the_last_generation_is_followed_by_the_first() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("dirty");
        drop(DirtyMap::create(&SystemFiles, &path, PARAMS, true).expect("create"));
        let mut bytes = std::fs::read(&path).expect("read");
        bytes[48..56].fill(0xff);
        mend_dirty_map(&mut bytes);
        std::fs::write(&path, &bytes).expect("write");
        let (mut map, _) = DirtyMap::open(&SystemFiles, &path).expect("open");
        map.begin_session(&SystemFiles).expect("begin");
        assert_eq!(map.generation(), 0);
    }

    #[test]
    fn promise_11_every_flipped_bit_of_the_header_is_noticed() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("dirty");
        drop(DirtyMap::create(&SystemFiles, &path, PARAMS, true).expect("create"));
        let good = std::fs::read(&path).expect("read");
        for bit in 0..512 * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bad).expect("write");
            let error = DirtyMap::open(&SystemFiles, &path).expect_err("a flipped bit is noticed");
            assert!(error.to_string().contains("dirty"), "{error}");
        }
        for length in [0, 100, 4096, good.len() - 1] {
            std::fs::write(&path, &good[..length]).expect("write");
            assert_eq!(
                DirtyMap::open(&SystemFiles, &path).expect_err("truncated").kind(),
                ErrorKind::Corrupt
            );
        }
    }

    #[test]
    fn promise_4_all_regions_of_an_altered_or_misplaced_sector_are_dirty() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("dirty");
        let params = DirtyMapParams { device_bytes: 10_000 << 20, ..PARAMS };
        let mut map = DirtyMap::create(&SystemFiles, &path, params, false).expect("create");
        map.set_dirty(&[range(3, 3), range(4060, 4070), range(9000, 9000)]).expect("set dirty");
        drop(map);
        let good = std::fs::read(&path).expect("read");
        let found = |bytes: &[u8]| {
            std::fs::write(&path, bytes).expect("write");
            DirtyMap::open(&SystemFiles, &path).expect("open").0.dirty_regions()
        };
        let all = [range(3, 3), range(4060, 4070), range(9000, 9000)];
        assert_eq!(found(&good), all);
        for byte in HEADER_BYTES..HEADER_BYTES + SECTOR_BYTES {
            let mut bad = good.clone();
            bad[byte] ^= 1 << (byte % 8);
            assert_eq!(found(&bad), [range(0, 4070), range(9000, 9000)]);
        }
        let mut bad = good.clone();
        bad.copy_within(sector_at(1)..sector_at(2), sector_at(2));
        assert_eq!(found(&bad), [range(3, 3), range(4060, 4070), range(8128, 9999)]);
        bad.copy_within(0..512, sector_at(1));
        assert_eq!(found(&bad), [range(3, 3), range(4060, 9999)]);
    }
}
