//! The witness of a file or block device: the kernel's write counters, or the file's own times.
//!
//! The counters of a block device count only what this kernel writes, and only since it booted. A
//! partition has its own, as a mapped device has. So the disk below is compared too: what was
//! written to it, less what came through its partitions and through devices mapped onto it.
//!
//! Behaviour on failure: if a counter cannot be read, or does not hold still, nothing is known.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, StatxFlags};

use crate::device::{Witness, Writes};

/// Readings of counters that change meanwhile, on a disk that others are writing to.
const READINGS_MAX: usize = 64;
/// Most devices below each other.
const DEPTH_MAX: usize = 8;
/// Longest identity of a disk, in bytes.
const ID_BYTES_MAX: usize = 256;

/// Returns the witness of an open file or block device.
pub(super) fn of_file(file: &File) -> Witness {
    let Ok(metadata) = file.metadata() else { return untraced() };
    if metadata.is_file() {
        return Witness {
            id: None,
            place: Some(place(file, &metadata)),
            writes: Writes::Counted(times(file, &metadata)),
        };
    }
    let (major, minor) = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    of_block_device(Path::new("/sys"), &format!("{major}:{minor}"), boot.trim())
}

fn untraced() -> Witness {
    Witness { writes: Writes::Untraced, ..Witness::default() }
}

/// Returns what names a file as long as it is not copied.
///
/// Not the number of its device, which may be another after a reboot.
fn place(file: &File, metadata: &Metadata) -> String {
    format!("inode {} born {}", metadata.ino(), born(file))
}

/// Returns what a write to the file changes.
fn times(file: &File, metadata: &Metadata) -> String {
    format!(
        "file {} size {} modified {}.{:09} changed {}.{:09}",
        place(file, metadata),
        metadata.size(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec()
    )
}

/// Returns when the file was created, if its file system records that.
fn born(file: &File) -> String {
    let flags = StatxFlags::BTIME;
    rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, flags)
        .ok()
        .filter(|stat| stat.stx_mask & flags.bits() != 0)
        .map_or_else(
            || "-".to_owned(),
            |stat| format!("{}.{:09}", stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec),
        )
}

/// Returns the witness of a block device, from the directory that `/sys` is.
fn of_block_device(sys: &Path, number: &str, boot: &str) -> Witness {
    let Ok(device) = fs::canonicalize(sys.join("dev/block").join(number)) else {
        return untraced();
    };
    let backing = Backing::of(&device);
    let place = match &backing {
        Backing::File { place, .. } => Some(place.clone()),
        _ => None,
    };
    let trace = if boot.is_empty() { None } else { trace(&device, boot) };
    let writes = match (trace, backing) {
        (Some(trace), Backing::Itself) => Writes::Counted(trace),
        (Some(trace), Backing::File { times, .. }) => Writes::Counted(format!("{trace}; {times}")),
        _ => Writes::Untraced,
    };
    Witness { id: id_of(&device), place, writes }
}

/// Where the content of a block device is.
enum Backing {
    /// In the device itself.
    Itself,
    /// In a file: a loop device.
    File { place: String, times: String },
    /// In something that shows no trace.
    Unknown,
}

impl Backing {
    fn of(device: &Path) -> Self {
        let disk = whole(device);
        let Some(path) = text(&disk.join("loop/backing_file")) else { return Self::Itself };
        // Not opened before it is known to be a file: opening a pipe would wait.
        let is_file = fs::metadata(&path).is_ok_and(|metadata| metadata.is_file());
        let opened = if is_file { File::open(&path).ok() } else { None };
        match opened.and_then(|file| file.metadata().ok().map(|metadata| (file, metadata))) {
            Some((file, metadata)) if metadata.is_file() => {
                Self::File { place: place(&file, &metadata), times: times(&file, &metadata) }
            }
            _ => Self::Unknown,
        }
    }
}

/// Returns what names the disk: the first of these that it has.
fn id_of(device: &Path) -> Option<String> {
    let disk = whole(device);
    let sources = [
        ("wwid", "wwid"),
        ("wwid", "device/wwid"),
        ("mapped", "dm/uuid"),
        ("array", "md/uuid"),
        ("card", "device/cid"),
        ("serial", "serial"),
        ("serial", "device/serial"),
    ];
    let (kind, value) = sources
        .iter()
        .find_map(|(kind, file)| text(&disk.join(file)).map(|value| (*kind, value)))?;
    let mut id: String = value
        .chars()
        .map(|c| if c.is_ascii_graphic() { c } else { '_' })
        .take(ID_BYTES_MAX)
        .collect();
    if let Some(number) = text(&device.join("partition")) {
        id = format!("{id} partition {number}");
    }
    Some(format!("{kind} {id}"))
}

/// Returns the counters of the device and of what is below it; `None` if they cannot be known.
fn trace(device: &Path, boot: &str) -> Option<String> {
    let mut last = reading(device)?;
    for _ in 0..READINGS_MAX {
        let again = reading(device)?;
        if again == last {
            return Some(format!("boot {boot} {again}"));
        }
        last = again;
    }
    None
}

fn reading(device: &Path) -> Option<String> {
    let Counters { writes, sectors, discards, discarded } = Counters::of(device)?;
    let sequence = attachment(device);
    let own = format!("disk {sequence} writes {writes} {sectors} discards {discards} {discarded}");
    let mut parts = vec![own];
    let mut level = BTreeSet::from([device.to_owned()]);
    for _ in 0..DEPTH_MAX {
        level = level.iter().flat_map(|device| below(device)).collect();
        if level.is_empty() {
            return Some(parts.join(" "));
        }
        parts.push(besides(&level)?);
    }
    None
}

/// Returns what was written to devices, less what came through their partitions and through devices
/// mapped onto them.
fn besides(devices: &BTreeSet<PathBuf>) -> Option<String> {
    let above: BTreeSet<PathBuf> = devices.iter().flat_map(|device| above(device)).collect();
    let sum = |devices: &BTreeSet<PathBuf>| -> Option<(u64, u64)> {
        devices.iter().try_fold((0_u64, 0_u64), |(sectors, discarded), device| {
            let counters = Counters::of(device)?;
            Some((
                sectors.wrapping_add(counters.sectors),
                discarded.wrapping_add(counters.discarded),
            ))
        })
    };
    let (all, through) = (sum(devices)?, sum(&above)?);
    let attachments: Vec<String> = devices.iter().map(|device| attachment(device)).collect();
    Some(format!(
        "below {} {} {}",
        attachments.join(","),
        all.0.wrapping_sub(through.0).cast_signed(),
        all.1.wrapping_sub(through.1).cast_signed()
    ))
}

/// What was written to a block device since it was attached.
struct Counters {
    writes: u64,
    sectors: u64,
    discards: u64,
    discarded: u64,
}

impl Counters {
    fn of(device: &Path) -> Option<Self> {
        // Counting can be switched off.
        if text(&whole(device).join("queue/iostats"))? != "1" {
            return None;
        }
        let stat = text(&device.join("stat"))?;
        let fields: Vec<u64> =
            stat.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
        let field = |at: usize| fields.get(at).copied();
        Some(Self {
            writes: field(4)?,
            sectors: field(6)?,
            discards: field(11)?,
            discarded: field(13)?,
        })
    }
}

/// Returns the number that a disk gets anew whenever it is attached: then its counters begin at
/// zero. Empty on kernels before 5.15.
fn attachment(device: &Path) -> String {
    text(&whole(device).join("diskseq")).unwrap_or_default()
}

/// Returns the disk of a partition, and any other device as it is.
fn whole(device: &Path) -> PathBuf {
    let parent = device.parent().filter(|_| device.join("partition").exists());
    parent.unwrap_or(device).to_owned()
}

/// Returns what a partition or mapped device is on.
///
/// The members of an array count their own bookkeeping, and nobody else can claim them: they prove
/// nothing.
fn below(device: &Path) -> Vec<PathBuf> {
    if device.join("partition").exists() {
        return vec![whole(device)];
    }
    if device.join("dm").exists() { linked(&device.join("slaves")) } else { Vec::new() }
}

/// Returns the partitions of a device, and the devices mapped onto it.
fn above(device: &Path) -> Vec<PathBuf> {
    let mut all = linked(&device.join("holders"));
    all.extend(linked(device).into_iter().filter(|path| path.join("partition").exists()));
    all
}

/// Returns the directories in a directory.
fn linked(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| fs::canonicalize(entry.path()).ok())
        .filter(|path| path.is_dir())
        .collect()
}

/// Returns the trimmed text of a small file; `None` if it is empty or cannot be read.
fn text(path: &Path) -> Option<String> {
    let text = String::from_utf8_lossy(&fs::read(path).ok()?).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree as the kernel shows it: a disk with two partitions, and a mapped device on the second.
    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new() -> Self {
            let tree = Self(tempfile::tempdir().expect("directory"));
            tree.device("devices/sda", "8:0", "7");
            tree.put("devices/sda/device/wwid", "naa.5000 1");
            for (number, name) in [("1", "sda1"), ("2", "sda2")] {
                let path = format!("devices/sda/{name}");
                tree.put(&format!("{path}/partition"), number);
                tree.link(&format!("dev/block/8:{number}"), &path);
                tree.count(&path, 0, 0);
            }
            tree.device("devices/dm-0", "253:0", "8");
            tree.put("devices/dm-0/dm/uuid", "LVM-abc");
            tree.link("devices/dm-0/slaves/sda2", "devices/sda/sda2");
            tree.link("devices/sda/sda2/holders/dm-0", "devices/dm-0");
            tree
        }

        fn device(&self, path: &str, number: &str, attachment: &str) {
            self.put(&format!("{path}/queue/iostats"), "1");
            self.put(&format!("{path}/diskseq"), attachment);
            self.link(&format!("dev/block/{number}"), path);
            self.count(path, 0, 0);
        }

        fn put(&self, path: &str, content: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().expect("parent")).expect("directory");
            fs::write(path, format!("{content}\n")).expect("write");
        }

        fn link(&self, from: &str, to: &str) {
            let from = self.0.path().join(from);
            fs::create_dir_all(from.parent().expect("parent")).expect("directory");
            std::os::unix::fs::symlink(self.0.path().join(to), from).expect("link");
        }

        fn count(&self, path: &str, sectors: u64, discarded: u64) {
            let (writes, discards) = (sectors / 8, discarded / 8);
            let stat =
                format!(" 5 0 40 1 {writes} 0 {sectors} 3 0 9 9 {discards} 0 {discarded} 0 1 1");
            self.put(&format!("{path}/stat"), &stat);
        }

        fn witness(&self, number: &str, boot: &str) -> Witness {
            of_block_device(self.0.path(), number, boot)
        }

        fn writes(&self, number: &str) -> Writes {
            let writes = self.witness(number, "b1").writes;
            assert!(matches!(writes, Writes::Counted(_)), "{writes:?}");
            writes
        }
    }

    #[test]
    fn a_write_or_discard_changes_the_trace_and_so_does_a_boot_or_an_attachment() {
        let tree = Tree::new();
        let clean = tree.writes("8:0");
        assert_eq!(tree.writes("8:0"), clean);
        tree.count("devices/sda", 8, 0);
        assert_ne!(tree.writes("8:0"), clean);
        tree.count("devices/sda", 0, 8);
        assert_ne!(tree.writes("8:0"), clean);
        tree.count("devices/sda", 0, 0);
        assert_eq!(tree.writes("8:0"), clean);
        assert_ne!(tree.witness("8:0", "b2").writes, clean);
        tree.put("devices/sda/diskseq", "9");
        assert_ne!(tree.writes("8:0"), clean);
    }

    #[test]
    fn a_partition_notices_writes_to_the_whole_disk_and_not_those_to_its_neighbour() {
        let tree = Tree::new();
        let clean = tree.writes("8:2");
        tree.count("devices/sda/sda1", 80, 0);
        tree.count("devices/sda", 80, 0);
        assert_eq!(tree.writes("8:2"), clean, "the neighbour was written");
        tree.count("devices/sda", 88, 0);
        assert_ne!(tree.writes("8:2"), clean, "the disk was written");
        tree.count("devices/sda", 80, 0);
        tree.count("devices/sda/sda2", 8, 0);
        assert_ne!(tree.writes("8:2"), clean, "it was written");
    }

    #[test]
    fn a_mapped_device_notices_writes_to_the_partition_and_the_disk_below_it() {
        let tree = Tree::new();
        let clean = tree.writes("253:0");
        tree.count("devices/sda/sda2", 8, 0);
        tree.count("devices/sda", 8, 0);
        assert_ne!(tree.writes("253:0"), clean, "the partition was written");
        tree.count("devices/sda/sda2", 0, 0);
        assert_ne!(tree.writes("253:0"), clean, "the disk was written");
        tree.count("devices/sda", 0, 0);
        assert_eq!(tree.writes("253:0"), clean);
    }

    #[test]
    fn a_disk_that_does_not_count_is_untraced() {
        let tree = Tree::new();
        assert_eq!(tree.witness("9:9", "b1").writes, Writes::Untraced);
        assert_eq!(tree.witness("8:0", "").writes, Writes::Untraced);
        for (file, content) in [
            ("devices/sda/queue/iostats", "0"),
            ("devices/sda/stat", "1 2 3"),
            ("devices/sda/loop/backing_file", "/nowhere (deleted)"),
        ] {
            let tree = Tree::new();
            tree.put(file, content);
            assert_eq!(tree.witness("8:0", "b1").writes, Writes::Untraced, "{file}");
        }
    }

    #[test]
    fn a_disk_is_named_by_its_wwid_and_a_partition_by_its_number_too() {
        let tree = Tree::new();
        let id = |number| tree.witness(number, "b1").id;
        assert_eq!(id("8:0").as_deref(), Some("wwid naa.5000_1"));
        assert_eq!(id("8:2").as_deref(), Some("wwid naa.5000_1 partition 2"));
        assert_eq!(id("253:0").as_deref(), Some("mapped LVM-abc"));
    }

    #[test]
    fn a_file_shows_every_write_even_if_its_time_is_set_back() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("disk");
        fs::write(&path, [0; 512]).expect("write");
        let file = File::options().read(true).write(true).open(&path).expect("open");
        let before = of_file(&file);
        assert_eq!(of_file(&file), before);
        let time = file.metadata().expect("metadata").modified().expect("time");
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::write(&path, [1; 512]).expect("write");
        file.set_modified(time).expect("time");
        let after = of_file(&file);
        assert_ne!(after.writes, before.writes);
        assert_eq!(after.place, before.place);
    }
}
