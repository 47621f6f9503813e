//! What the kernel says of a disk: its numbers, its size, its driver, and how much was written to it.
//!
//! A partition has no requests of its own: they are those of its whole disk, within its bytes.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use hrl::{Error, ErrorKind, Extent, Result};

const SECTOR_BYTES: u64 = 512;
/// A map has at most 2^31 bytes, for two epochs.
const BYTES_MAX: u64 = 31 << 40;

/// A disk or partition whose requests can be observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Disk {
    pub path: PathBuf,
    /// The kernel's name, such as `sda` or `sda1`.
    pub name: String,
    /// Numbers of the whole disk.
    pub major: u32,
    pub minor: u32,
    /// First byte of the partition on the whole disk; zero for a whole disk.
    pub start: u64,
    pub bytes: u64,
    /// No other disk has this number until the machine boots. Zero before Linux 5.15.
    pub number: u64,
    /// Directories of sysfs.
    own: PathBuf,
    whole: PathBuf,
}

/// Sectors that the kernel counts as completed, since the machine has booted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Completed {
    pub written: u64,
    pub discarded: u64,
}

impl Disk {
    /// Looks at a disk or partition. `Unsupported` if its requests cannot be observed, or not be
    /// counted.
    pub(crate) fn look_at(path: &Path) -> Result<Self> {
        let io = |error| Error::io("observe", path.display(), error);
        let metadata = fs::metadata(path).map_err(io)?;
        if !metadata.file_type().is_block_device() {
            return Err(Error::new(ErrorKind::InvalidInput, "observe", path.display())
                .expected("a block device")
                .found("another file"));
        }
        let device = metadata.rdev();
        let numbers = format!("{}:{}", libc::major(device), libc::minor(device));
        let own = Path::new("/sys/dev/block").join(numbers).canonicalize().map_err(io)?;
        let is_partition = own.join("partition").exists();
        let whole =
            own.parent().filter(|_| is_partition).map_or_else(|| own.clone(), Path::to_owned);
        let name = own.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (major, minor) = text_of(&whole, "dev")
            .split_once(':')
            .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)))
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "observe", path.display()))?;
        let disk = Self {
            path: path.to_owned(),
            name,
            major,
            minor,
            start: if is_partition { sectors(&own, "start").unwrap_or(0) } else { 0 },
            bytes: sectors(&own, "size").unwrap_or(0),
            number: text_of(&whole, "diskseq").parse().unwrap_or(0),
            own,
            whole,
        };
        disk.check()?;
        Ok(disk)
    }

    /// Returns the bytes of a partition on its whole disk.
    pub(crate) fn partition(&self) -> Option<Extent> {
        (self.own != self.whole).then_some(Extent { offset: self.start, length: self.bytes })
    }

    /// Returns whether both are the same disk or partition.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.own == other.own
    }

    /// Returns whether the disk still has the place and size that it had when it was looked at.
    pub(crate) fn is_as_it_was(&self) -> bool {
        let start = if self.own == self.whole { Some(0) } else { sectors(&self.own, "start") };
        (start, sectors(&self.own, "size")) == (Some(self.start), Some(self.bytes))
    }

    fn check(&self) -> Result<()> {
        let refused = |kind: ErrorKind, why: &str| {
            Err(Error::new(kind, "observe", self.path.display()).message(why))
        };
        if self.bytes == 0 {
            return refused(ErrorKind::InvalidInput, "it has no medium, or no size yet");
        }
        if self.bytes > BYTES_MAX {
            return refused(ErrorKind::Unsupported, "a map of its blocks would be above 2 GiB");
        }
        if let Some(why) = self.driver_refused() {
            return refused(ErrorKind::Unsupported, &why);
        }
        if text_of(&self.own, "ro") == "1" {
            return refused(
                ErrorKind::ReadOnly,
                "the kernel has it read-only, so nothing changes: blockdev --setrw allows writes",
            );
        }
        if text_of(&self.whole, "queue/dax") == "1" {
            return refused(
                ErrorKind::Unsupported,
                "it has DAX, by which programs change it without requests: a file system that is \
                 mounted without dax, on a device of sector mode, can be observed",
            );
        }
        if let Some(kind) = self.cluster_file_system() {
            return refused(
                ErrorKind::Unsupported,
                &format!(
                    "a file system of a cluster ({kind}) is mounted on it, so other machines write \
                     to it: observe it where the storage is"
                ),
            );
        }
        if text_of(&self.whole, "queue/iostats") != "1" {
            return refused(
                ErrorKind::Unsupported,
                &format!(
                    "the kernel does not count its writes, so nothing could be audited: write 1 to \
                     {}",
                    self.whole.join("queue/iostats").display()
                ),
            );
        }
        self.counters()?.read().map(drop)
    }

    /// Returns why requests of the disk's driver cannot be observed; `None` if they can.
    fn driver_refused(&self) -> Option<String> {
        if self.whole.join("mq").exists() {
            return None;
        }
        let name = self.whole.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let below: Vec<String> = fs::read_dir(self.whole.join("slaves"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| format!("/dev/{}", entry.file_name().to_string_lossy()))
            .collect();
        let instead = match &below[..] {
            [] => "protect it with hrl protect, through which its writes go".to_owned(),
            below => format!("observe the disks below it: {}", below.join(", ")),
        };
        let is = |prefix: &str| name.starts_with(prefix);
        let driver = match () {
            () if self.whole.join("dm").exists() => {
                let kind = text_of(&self.whole, "dm/uuid");
                match kind.split('-').next().unwrap_or_default() {
                    "LVM" => "device mapper (LVM)",
                    "CRYPT" => "device mapper (LUKS or dm-crypt)",
                    "mpath" => "device mapper (multipath)",
                    _ => "device mapper",
                }
            }
            () if self.whole.join("md").exists() => "MD (software RAID)",
            () if is("nvme") => {
                return Some(
                    "its driver (native multipath of NVMe) completes writes on hidden paths: boot \
                     with nvme_core.multipath=N, or protect it with hrl protect"
                        .to_owned(),
                );
            }
            () if is("ram") => {
                return Some(
                    "its driver (brd) has neither requests nor counters, so nothing could be \
                     audited: use a loop device over a file in tmpfs"
                        .to_owned(),
                );
            }
            () if is("pmem") => "persistent memory",
            () if is("zram") => "zram",
            () if is("drbd") => "DRBD",
            () if is("bcache") => "bcache",
            () => "unknown",
        };
        Some(format!("its driver ({driver}) takes bios, not requests: {instead}"))
    }

    /// Returns the kind of a cluster's file system that is mounted on the disk or a partition.
    fn cluster_file_system(&self) -> Option<&'static str> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        mounts.lines().find_map(|line| {
            let device = line.split(' ').nth(2)?;
            let kind = line.split(" - ").nth(1)?.split(' ').next()?;
            let kind = ["gfs2", "ocfs2"].into_iter().find(|known| *known == kind)?;
            let mounted = Path::new("/sys/dev/block").join(device).canonicalize().ok()?;
            mounted.starts_with(&self.own).then_some(kind)
        })
    }

    /// Opens the kernel's counters of the whole disk.
    pub(crate) fn counters(&self) -> Result<Counters> {
        let path = self.whole.join("stat");
        match File::open(&path) {
            Ok(file) => Ok(Counters { file, path }),
            Err(error) => Err(Error::io("read counters", path.display(), error)),
        }
    }
}

/// The kernel's counters of a whole disk.
#[derive(Debug)]
pub(crate) struct Counters {
    file: File,
    path: PathBuf,
}

impl Counters {
    /// Returns what the kernel has counted.
    pub(crate) fn read(&self) -> Result<Completed> {
        let mut bytes = [0; 512];
        let length = self
            .file
            .read_at(&mut bytes, 0)
            .map_err(|error| Error::io("read counters", self.path.display(), error))?;
        let text = String::from_utf8_lossy(&bytes[..length]);
        let field = |at: usize| text.split_whitespace().nth(at).and_then(|text| text.parse().ok());
        match (field(6), field(13)) {
            (Some(written), Some(discarded)) => Ok(Completed { written, discarded }),
            _ => Err(Error::new(ErrorKind::Unsupported, "read counters", self.path.display())
                .expected("sectors written and discarded")
                .found(text.trim())),
        }
    }
}

/// Returns an attribute of sysfs; empty text if there is none.
fn text_of(directory: &Path, name: &str) -> String {
    fs::read_to_string(directory.join(name)).map_or_else(|_| String::new(), |t| t.trim().to_owned())
}

/// Returns a number of sectors in bytes.
fn sectors(directory: &Path, name: &str) -> Option<u64> {
    text_of(directory, name).parse::<u64>().ok()?.checked_mul(SECTOR_BYTES)
}

/// Returns the kernel's name of a disk, such as `sda`; the end of its path if it is not there.
pub(crate) fn kernel_name(path: &Path) -> String {
    let device = fs::metadata(path).ok().filter(|found| found.file_type().is_block_device());
    let directory = device.and_then(|found| {
        let numbers = format!("{}:{}", libc::major(found.rdev()), libc::minor(found.rdev()));
        Path::new("/sys/dev/block").join(numbers).canonicalize().ok()
    });
    let of = directory.as_deref().unwrap_or(path);
    of.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
