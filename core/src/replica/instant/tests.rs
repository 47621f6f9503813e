//! Instant disks against models, concurrency, crashes and damage.

use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::*;
use crate::device::{FaultDevice, FaultPlan, MemoryDevice};

const SIZE: u64 = 512 << 10;
const BLOCK: u64 = 4096;

struct Rig {
    directory: tempfile::TempDir,
    base: Arc<MemoryDevice>,
    target: Arc<dyn BlockDevice>,
}

impl Rig {
    /// A base with data in every other 128 KiB, cut in the middle of blocks, and a target of
    /// zeroes.
    fn new(size: u64) -> Self {
        let base = Arc::new(MemoryDevice::new(size));
        let target = Arc::new(MemoryDevice::new(size));
        for at in (0..size).step_by(32 << 10).filter(|at| at >> 17 & 1 == 0) {
            let data: Vec<u8> = (0..16_000_u64).map(|n| (at / 512 + n % 251) as u8 | 1).collect();
            base.write(at + 700, &data, Durability::Cached).expect("base");
        }
        Self { directory: tempfile::tempdir().expect("directory"), base, target }
    }

    fn log(&self) -> std::path::PathBuf {
        self.directory.path().join("presence")
    }

    fn open(&self, content: TargetContent) -> Result<InstantDisk> {
        self.open_over(self.target.clone(), content, 7)
    }

    fn open_over(
        &self,
        target: Arc<dyn BlockDevice>,
        content: TargetContent,
        sequence: u64,
    ) -> Result<InstantDisk> {
        let volume = VolumeId([3; 16]);
        let base = InstantBase::device(self.base.clone(), volume, Sequence(sequence));
        InstantDisk::over(base, target, content, &self.log(), InstantOptions::default())
    }

    fn base_bytes(&self) -> Vec<u8> {
        all_of(&*self.base)
    }
}

fn all_of(device: &dyn BlockDevice) -> Vec<u8> {
    let mut bytes = vec![0; device.size_bytes() as usize];
    device.read(0, &mut bytes).expect("read");
    bytes
}

fn no_progress(_: u64, _: u64) -> bool {
    true
}

#[test]
fn the_contract_of_a_device_holds() {
    for hydrated in [false, true] {
        let directory = tempfile::tempdir().expect("directory");
        let number = AtomicU64::new(0);
        crate::device::conformance::check(&|size| {
            let base = Arc::new(MemoryDevice::new(size));
            let base = InstantBase::device(base, VolumeId([3; 16]), Sequence(1));
            let log = directory.path().join(number.fetch_add(1, Ordering::Relaxed).to_string());
            let target = Arc::new(MemoryDevice::new(size));
            let options = InstantOptions::default();
            let disk = InstantDisk::over(base, target, TargetContent::Unknown, &log, options);
            let disk = disk.expect("open");
            if hydrated {
                assert!(disk.hydrate(&no_progress).expect("hydrate").is_whole());
            }
            Arc::new(disk)
        });
    }
}

#[test]
fn the_target_becomes_the_disk_whatever_it_held() {
    let rig = Rig::new(SIZE);
    rig.target.write(0, &vec![0xee; SIZE as usize], Durability::Cached).expect("other bytes");
    let disk = rig.open(TargetContent::Unknown).expect("open");
    let mut expected = rig.base_bytes();
    disk.write(5000, &[2; 10_000], Durability::Cached).expect("write");
    expected[5000..15_000].fill(2);
    disk.zero(Extent { offset: 40_000, length: 9000 }, Unmap::Allowed, Durability::Durable)
        .expect("zero");
    expected[40_000..49_000].fill(0);
    assert!(all_of(&disk) == expected, "before it is hydrated");

    let error = disk.detach().expect_err("not whole yet");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let missing = disk.hydration().missing_bytes;
    assert!(error.to_string().contains(&format!("{missing} of ")), "{error}");
    assert!(disk.ring_target().is_none());

    let report = disk.hydrate(&no_progress).expect("hydrate");
    assert!(report.is_whole() && all_of(&disk) == expected);
    disk.detach().expect("detach");
    assert!(!rig.log().exists() && all_of(&*rig.target) == expected);
    disk.write(0, &[9; 100], Durability::Durable).expect("it goes on as the plain disk");
    disk.detach().expect("again");
    assert_eq!(all_of(&*rig.target)[..100], [9; 100]);
}

#[derive(Clone, Debug)]
enum Step {
    Write(Extent, Durability),
    Zero(Extent, Durability),
    Discard(Extent),
    Flush,
    Hydrate(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let extent =
        (0..SIZE - 20_000, 1_u64..20_000, any::<bool>()).prop_map(|(offset, length, whole)| {
            let extent = Extent { offset, length };
            if whole { extent.aligned_outwards(BLOCK) } else { extent }
        });
    let durability = prop_oneof![3 => Just(Durability::Cached), 1 => Just(Durability::Durable)];
    let step = prop_oneof![
        6 => (extent.clone(), durability.clone()).prop_map(|(e, d)| Step::Write(e, d)),
        2 => (extent.clone(), durability).prop_map(|(e, d)| Step::Zero(e, d)),
        1 => extent.prop_map(Step::Discard),
        2 => Just(Step::Flush),
        2 => (1_u64..6).prop_map(Step::Hydrate),
    ];
    prop::collection::vec(step, 1..30)
}

/// Applies a step to a disk; hydration stops after so many chunks. Returns what it changed, and
/// whether it is durable now.
fn apply(disk: &InstantDisk, step: &Step, fill: u8) -> Result<Option<(Extent, u8)>> {
    match step {
        Step::Write(extent, durability) => {
            disk.write(extent.offset, &vec![fill; extent.length as usize], *durability)?;
            Ok(Some((*extent, fill)))
        }
        Step::Zero(extent, durability) => {
            disk.zero(*extent, Unmap::Allowed, *durability)?;
            Ok(Some((*extent, 0)))
        }
        Step::Discard(extent) => {
            let left = disk.discard(*extent)?;
            assert_ne!(left, Discarded::Undefined, "the target does not");
            Ok((left == Discarded::Zeroes).then_some((*extent, 0)))
        }
        Step::Flush => disk.flush().map(|()| None),
        Step::Hydrate(chunks) => {
            let left = AtomicU64::new(*chunks);
            disk.hydrate(&|_, _| left.fetch_sub(1, Ordering::Relaxed) > 1)?;
            Ok(None)
        }
    }
}

fn fill_model(model: &mut [u8], change: Option<(Extent, u8)>) {
    if let Some((extent, fill)) = change {
        model[extent.offset as usize..extent.end() as usize].fill(fill);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Promise 3 for a recovered disk: it is the view and what was written since, however it is
    /// hydrated.
    #[test]
    fn a_disk_that_hydrates_is_its_base_and_the_changes(steps in steps(), fresh in any::<bool>()) {
        let rig = Rig::new(SIZE);
        let content = if fresh { TargetContent::Zeroes } else {
            rig.target.write(0, &vec![0xee; SIZE as usize], Durability::Cached).expect("other bytes");
            TargetContent::Unknown
        };
        let disk = rig.open(content).expect("open");
        let mut model = rig.base_bytes();
        std::thread::scope(|scope| {
            scope.spawn(|| while !disk.hydrate(&no_progress).expect("hydrate").is_whole() {});
            for (number, step) in steps.iter().enumerate() {
                let change = apply(&disk, step, number as u8 | 0x80).expect("no fault");
                fill_model(&mut model, change);
            }
        });
        prop_assert!(all_of(&disk) == model);
        disk.detach().expect("whole");
        prop_assert!(all_of(&*rig.target) == model, "the plain disk is the same");
    }

    /// Promise 4 for a recovered disk: after a power loss at any instant each sector is what was
    /// flushed last or newer, and it stays that. The hydrated disk is exactly what was read. With
    /// `power` false the process is killed instead.
    #[test]
    fn what_was_flushed_survives_any_crash(
        rounds in prop::collection::vec((steps(), 0_u64..4, any::<bool>(), any::<u64>()), 1..4),
        fresh in any::<bool>(),
    ) {
        let rig = Rig::new(SIZE);
        let mut content = TargetContent::Unknown;
        if fresh {
            content = TargetContent::Zeroes;
        } else {
            rig.target.write(0, &vec![0xee; SIZE as usize], Durability::Cached).expect("other bytes");
        }
        let mut model = rig.base_bytes();
        for (round, (steps, flushes, power, seed)) in rounds.into_iter().enumerate() {
            let faulty = Arc::new(FaultDevice::new(rig.target.clone(), seed));
            let disk = rig.open_over(faulty.clone(), content, 7).expect("open");
            content = TargetContent::Unknown;
            prop_assert!(all_of(&disk) == model, "round {}: as it was left", round);
            // Each sector with all contents that it may have: what was flushed last, and what came
            // after.
            let mut candidates = vec![Vec::new(); (SIZE / 512) as usize];
            note(&mut candidates, &model, true);
            let mut flushed_bytes = std::fs::metadata(rig.log()).expect("log").len();
            for (number, step) in steps.iter().enumerate() {
                let flushes_at_end = number + 1 == steps.len() && power;
                faulty.set_plan(FaultPlan { flushes: u64::from(flushes_at_end), ..Default::default() });
                let result = apply(&disk, step, (round * 32 + number) as u8 | 0x80);
                let durable = matches!(step, Step::Flush);
                let Ok(change) = result else {
                    // The power fails at this flush; what it was to make durable may be there or
                    // not.
                    if let Step::Write(extent, _) = step {
                        fill_model(&mut model, Some((*extent, (round * 32 + number) as u8 | 0x80)));
                    }
                    if let Step::Zero(extent, _) = step {
                        fill_model(&mut model, Some((*extent, 0)));
                    }
                    note(&mut candidates, &model, false);
                    break;
                };
                fill_model(&mut model, change);
                let forced = matches!(
                    step,
                    Step::Write(_, Durability::Durable) | Step::Zero(_, Durability::Durable)
                );
                note(&mut candidates, &model, durable);
                if let (Some((extent, _)), true) = (change, forced) {
                    let sectors = extent.offset.div_ceil(512) as usize..(extent.end() / 512) as usize;
                    for sector in sectors {
                        candidates[sector] = vec![model[sector * 512..][..512].to_vec()];
                    }
                }
                if durable || forced || matches!(step, Step::Hydrate(_)) {
                    flushed_bytes = std::fs::metadata(rig.log()).expect("log").len();
                }
            }
            drop(disk);
            if power {
                faulty.crash().expect("crash");
                // Any part of what was written to the log since may be torn off.
                let length = std::fs::metadata(rig.log()).expect("log").len();
                let kept = flushed_bytes + (length - flushed_bytes) * flushes / 3;
                let log = std::fs::OpenOptions::new().write(true).open(rig.log()).expect("log");
                log.set_len(kept).expect("torn");
            }
            let disk = rig.open(TargetContent::Unknown).expect("reopen");
            let found = all_of(&disk);
            for (sector, allowed) in candidates.iter().enumerate() {
                let bytes = &found[sector * 512..][..512];
                prop_assert!(allowed.iter().any(|one| one == bytes), "round {}: sector {}", round, sector);
            }
            prop_assert!(all_of(&disk) == found, "it stays");
            model = found;
        }
        let disk = rig.open(TargetContent::Unknown).expect("reopen");
        prop_assert!(disk.hydrate(&no_progress).expect("hydrate").is_whole());
        prop_assert!(all_of(&disk) == model, "hydration changes nothing");
        disk.detach().expect("detach");
        prop_assert!(all_of(&*rig.target) == model, "the plain disk is the same");
    }
}

/// Adds the content of each sector to what it may have after a crash, or makes it the only one.
fn note(candidates: &mut [Vec<Vec<u8>>], model: &[u8], durable: bool) {
    for (allowed, sector) in candidates.iter_mut().zip(model.chunks(512)) {
        if durable {
            allowed.clear();
        }
        if allowed.last().is_none_or(|last| last != sector) {
            allowed.push(sector.to_vec());
        }
    }
}

#[test]
fn nothing_is_logged_that_a_failed_flush_may_have_lost() {
    let rig = Rig::new(SIZE);
    let faulty = Arc::new(FaultDevice::new(rig.target.clone(), 5));
    let disk = rig.open_over(faulty.clone(), TargetContent::Zeroes, 7).expect("open");
    disk.write(0, &[8; 65_536], Durability::Cached).expect("write");
    faulty.set_plan(FaultPlan { flushes: 1, ..Default::default() });
    assert!(disk.flush().is_err());
    for error in [
        disk.flush().expect_err("poisoned"),
        disk.write(0, &[8], Durability::Cached).expect_err("poisoned"),
        disk.zero(Extent { offset: 0, length: 9 }, Unmap::Allowed, Durability::Cached)
            .expect_err("poisoned"),
    ] {
        assert_eq!(error.kind(), ErrorKind::Poisoned, "{error}");
    }
    drop(disk);
    faulty.crash().expect("crash");
    let disk = rig.open(TargetContent::Unknown).expect("reopen");
    assert!(all_of(&disk) == rig.base_bytes(), "the base is read again");
}

/// Writes that were never flushed lie in the target where the base has no data; hydration must not
/// take them for zeroes.
#[test]
fn lost_writes_to_holes_do_not_come_back() {
    let rig = Rig::new(SIZE);
    let disk = rig.open(TargetContent::Zeroes).expect("open");
    disk.write(200_000, &[7; 10_000], Durability::Cached).expect("write to a hole");
    drop(disk);
    let disk = rig.open(TargetContent::Unknown).expect("reopen");
    assert!(all_of(&disk) == rig.base_bytes());
    assert!(disk.hydration().unzeroed_bytes > 0);
    disk.hydrate(&no_progress).expect("hydrate");
    disk.detach().expect("detach");
    assert!(all_of(&*rig.target) == rig.base_bytes());
}

#[test]
fn a_change_that_fails_leaves_nothing_behind() {
    let rig = Rig::new(SIZE);
    let faulty = Arc::new(FaultDevice::new(rig.target.clone(), 5));
    let disk = rig.open_over(faulty.clone(), TargetContent::Zeroes, 7).expect("open");
    faulty.set_plan(FaultPlan { writes: 1, ..Default::default() });
    disk.write(204_800, &[7; 8192], Durability::Cached).expect_err("half of it is written");
    assert!(all_of(&disk) == rig.base_bytes());
    assert!(disk.hydrate(&no_progress).expect("hydrate").is_whole());
    disk.detach().expect("detach");
    assert!(all_of(&*rig.target) == rig.base_bytes());
}

#[test]
fn a_log_opens_with_its_own_state_and_disk_only() {
    let rig = Rig::new(SIZE);
    let disk = rig.open(TargetContent::Zeroes).expect("open");
    disk.write(0, &[1; 4096], Durability::Durable).expect("write");
    drop(disk);
    let other = rig.open_over(rig.target.clone(), TargetContent::Unknown, 8);
    let error = other.err().expect("another state");
    assert_eq!(error.kind(), ErrorKind::Changed);
    let text = error.to_string();
    assert!(text.contains("sequence 8") && text.contains("sequence 7"), "{text}");
    let error = rig.open(TargetContent::Zeroes).err().expect("a new disk");
    assert_eq!(error.kind(), ErrorKind::Changed, "{error}");
    assert!(all_of(&rig.open(TargetContent::Unknown).expect("its own"))[..4096] == [1; 4096]);
}

/// Promise 11: a torn end is ignored, damage before whole frames is an error, and no bytes panic.
#[test]
fn any_damage_to_a_log_is_found_or_costs_the_last_frame_only() {
    let rig = Rig::new(SIZE);
    let disk = rig.open(TargetContent::Zeroes).expect("open");
    let mut lengths = vec![64];
    for at in 0..4 {
        disk.write(at * 16_384, &[1; 4096], Durability::Durable).expect("write");
        disk.write(at * 16_384 + 8192, &[1; 4096], Durability::Cached).expect("write");
        disk.flush().expect("flush");
        lengths.push(std::fs::metadata(rig.log()).expect("log").len() as usize);
    }
    drop(disk);
    let whole = std::fs::read(rig.log()).expect("log");
    let present = |bytes: &[u8]| {
        std::fs::write(rig.log(), bytes).expect("log");
        rig.open(TargetContent::Unknown).map(|disk| {
            let runs = disk.layers.presence.runs(disk.layers.whole());
            runs.filter(|(_, present)| *present).map(|(run, _)| run.length).sum::<u64>()
        })
    };
    assert_eq!(present(&whole).expect("whole"), 8 * BLOCK);
    for length in 0..whole.len() {
        match present(&whole[..length]) {
            Ok(bytes) => {
                let flushed = lengths.iter().rposition(|whole| *whole <= length).expect("header");
                assert!(bytes >= flushed as u64 * 2 * BLOCK, "{length}: flushed presence is there");
            }
            Err(error) => {
                assert!(length < 64 && error.kind() == ErrorKind::Corrupt, "{length}: {error}");
            }
        }
    }
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x41;
        match present(&bytes) {
            Ok(found) => {
                assert!(at >= whole.len() - 48 && found == 7 * BLOCK, "{at}: the last frame");
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "{at}: {error}"),
        }
    }
}

/// Promise 11: nothing writes entries without a block, so none is accepted. At the end of a disk
/// with a short last block one would name that block.
#[test]
fn an_entry_without_blocks_is_damage() {
    let size = SIZE - BLOCK + 512;
    let rig = Rig::new(size);
    drop(rig.open(TargetContent::Unknown).expect("open"));
    let mut bytes = std::fs::read(rig.log()).expect("log");
    bytes.truncate(64);
    bytes.extend_from_slice(&[0; 32 + 16]);
    bytes[68] = 1;
    for offset in [0, BLOCK, size - 512, size] {
        bytes[96..104].copy_from_slice(&offset.to_le_bytes());
        mend_presence_log(&mut bytes);
        std::fs::write(rig.log(), &bytes).expect("log");
        let error = rig.open(TargetContent::Unknown).err().expect("refused");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{offset}: {error}");
    }
}

#[test]
fn a_file_is_made_resumed_and_never_overwritten_unasked() {
    let rig = Rig::new(SIZE);
    let path = rig.directory.path().join("disk.img");
    let base = || InstantBase::device(rig.base.clone(), VolumeId([3; 16]), Sequence(7));
    let open = |overwrite| {
        let target = RestoreTarget::File { path: path.clone(), overwrite };
        InstantDisk::open(base(), &target, &rig.log(), InstantOptions::default())
    };
    let disk = open(false).expect("new");
    disk.write(0, &[1; 4096], Durability::Durable).expect("write");
    assert_eq!(open(false).err().expect("in use").kind(), ErrorKind::Fenced);
    drop(disk);
    let disk = open(false).expect("resumed");
    assert!(disk.hydrate(&no_progress).expect("hydrate").is_whole());
    let expected = all_of(&disk);
    assert_eq!(expected[..4096], [1; 4096]);
    disk.detach().expect("detach");
    drop(disk);
    assert!(std::fs::read(&path).expect("file") == expected);
    assert_eq!(open(false).err().expect("it has data").kind(), ErrorKind::AlreadyExists);
    assert!(std::fs::read(&path).expect("file") == expected);
    let disk = open(true).expect("overwritten");
    assert!(all_of(&disk) == rig.base_bytes());
    drop(disk);
    std::fs::remove_file(&path).expect("remove");
    assert_eq!(open(false).err().expect("no disk").kind(), ErrorKind::NotFound);
}

/// A view hydrates frame by frame: blocks with data of several frames, and segments, come whole.
#[test]
fn a_view_with_blocks_of_many_frames_hydrates_exactly() {
    use crate::journal::Body;
    use crate::replica::tests::{Rig as VaultRig, SIZE as VOLUME, record};
    use crate::replica::{At, ViewOptions};
    let mut vault = VaultRig::new(true);
    let mut model = vec![0_u8; VOLUME as usize];
    let mut sequence = 0;
    for segment in 0..6_u64 {
        let writes: Vec<(u64, Vec<u8>)> = (0..24)
            .map(|n| {
                let offset = (segment * 7919 + n * 10_007) % (VOLUME / 512 / 2) * 512;
                (offset, vec![(segment * 24 + n + 1) as u8; 512 * (1 + n as usize % 7)])
            })
            .collect();
        let records: Vec<_> = writes
            .iter()
            .map(|(offset, data)| {
                sequence += 1;
                model[*offset as usize..][..data.len()].copy_from_slice(data);
                record(sequence, Body::Write { offset: *offset, data })
            })
            .collect();
        vault.add(&records);
    }
    let replica = vault.vault.replica("disk").expect("replica");
    let view = Arc::new(replica.view(&At::Newest, &ViewOptions::default()).expect("view"));
    let directory = tempfile::tempdir().expect("directory");
    let target = Arc::new(MemoryDevice::new(VOLUME));
    let disk = InstantDisk::over(
        InstantBase::view(view),
        target.clone(),
        TargetContent::Zeroes,
        &directory.path().join("presence"),
        InstantOptions::default(),
    )
    .expect("open");
    disk.write(1000, &[0xaa; 3000], Durability::Cached).expect("write");
    model[1000..4000].fill(0xaa);
    assert!(all_of(&disk) == model);
    let report = disk.hydrate(&no_progress).expect("hydrate");
    assert!(report.is_whole() && report.data_bytes < VOLUME);
    disk.detach().expect("detach");
    assert!(all_of(&*target) == model);
}

#[test]
fn a_sparse_tebibyte_costs_its_data_only() {
    const DISK: u64 = 1 << 40;
    const MIB: u64 = 1 << 20;
    let directory = tempfile::tempdir().expect("directory");
    let extents: Vec<_> =
        (0..50_u64).map(|n| Extent { offset: n * 20_000 * MIB + 4096, length: 8192 }).collect();
    let base = Arc::new(MemoryDevice::new(DISK));
    extents
        .iter()
        .for_each(|e| base.write(e.offset, &[5; 8192], Durability::Cached).expect("base"));
    let base = Arc::new(Holes { device: FaultDevice::new(base, 1), extents: extents.clone() });
    let target = Arc::new(FaultDevice::new(Arc::new(MemoryDevice::new(DISK)), 1));
    let disk = InstantDisk::over(
        InstantBase::device(base.clone(), VolumeId([3; 16]), Sequence(1)),
        target,
        TargetContent::Zeroes,
        &directory.path().join("presence"),
        InstantOptions::default(),
    )
    .expect("open");
    disk.write(77 * MIB + 5, &[1; 10], Durability::Cached).expect("write");
    assert_eq!(disk.hydration().missing_bytes, 50 * 8192);
    assert!(disk.hydrate(&no_progress).expect("hydrate").is_whole());
    assert_eq!(base.device.bytes_read(), 50 * 8192 + 4096, "data, and the block around a write");
    disk.detach().expect("detach");
    let mut found = [0; 8192];
    extents.iter().for_each(|e| {
        disk.target().read(e.offset, &mut found).expect("read");
        assert_eq!(found, [5; 8192]);
    });
}

/// A device that reports its allocation exactly.
struct Holes {
    device: FaultDevice,
    extents: Vec<Extent>,
}

impl BlockDevice for Holes {
    fn name(&self) -> String {
        self.device.name()
    }
    fn size_bytes(&self) -> u64 {
        self.device.size_bytes()
    }
    fn block_bytes(&self) -> u32 {
        self.device.block_bytes()
    }
    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.device.read(offset, buffer)
    }
    fn write(&self, offset: u64, data: &[u8], durability: Durability) -> Result<()> {
        self.device.write(offset, data, durability)
    }
    fn zero(&self, extent: Extent, unmap: Unmap, durability: Durability) -> Result<()> {
        self.device.zero(extent, unmap, durability)
    }
    fn discard(&self, extent: Extent) -> Result<Discarded> {
        self.device.discard(extent)
    }
    fn flush(&self) -> Result<()> {
        self.device.flush()
    }
    fn allocation(&self, _extent: Extent) -> Result<Vec<Allocation>> {
        let allocated = |extent: &Extent| Allocation { extent: *extent, allocated: true };
        Ok(self.extents.iter().map(allocated).collect())
    }
}

/// The log is rewritten while changes wait for it: none is lost, and none is logged too early.
#[test]
fn a_rewritten_log_holds_what_was_logged_and_not_what_waits() {
    let rig = Rig::new(SIZE);
    let disk = rig.open(TargetContent::Zeroes).expect("open");
    disk.write(0, &[1; 8192], Durability::Durable).expect("write");
    disk.write(4096 * 2, &[2; 4096], Durability::Cached).expect("write");
    {
        let unlogged = disk.unlogged.lock();
        disk.log.lock().rewrite(&disk.layers.presence, &unlogged.waiting).expect("rewrite");
    }
    let copy = std::fs::read(rig.log()).expect("log");
    disk.flush().expect("flush");
    drop(disk);
    let disk = rig.open(TargetContent::Unknown).expect("reopen");
    assert_eq!(disk.layers.presence.absent(Extent { offset: 0, length: 16_384 }).count(), 1);
    drop(disk);
    std::fs::write(rig.log(), copy).expect("as of before the flush");
    let disk = rig.open(TargetContent::Unknown).expect("reopen");
    let absent: Vec<_> =
        disk.layers.presence.absent(Extent { offset: 0, length: 16_384 }).collect();
    assert_eq!(absent, [Extent { offset: 8192, length: 8192 }]);
}
