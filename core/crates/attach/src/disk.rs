//! What the kernel says of a disk: its numbers, its size, and how much was written to it.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use hrl::{Error, ErrorKind, Result};

/// A block device whose requests can be observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Disk {
    pub path: PathBuf,
    pub major: u32,
    pub minor: u32,
    pub bytes: u64,
    /// No other disk has this number until the machine boots. Zero before Linux 5.15.
    pub number: u64,
}

/// Sectors that the kernel counts as completed, since the machine has booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Completed {
    pub written: u64,
    pub discarded: u64,
}

impl Disk {
    /// Looks at a block device. `Unsupported` if its requests cannot be observed, or not be counted.
    pub(crate) fn look_at(path: &Path) -> Result<Self> {
        let io = |error| Error::io("observe", path.display(), error);
        let metadata = fs::metadata(path).map_err(io)?;
        if !metadata.file_type().is_block_device() {
            return Err(Error::new(ErrorKind::InvalidInput, "observe", path.display())
                .expected("a block device")
                .found("another file"));
        }
        let bytes =
            File::open(path).and_then(|mut file| file.seek(SeekFrom::End(0))).map_err(io)?;
        let number = metadata.rdev();
        let (major, minor) = (libc::major(number), libc::minor(number));
        let mut disk = Self { path: path.to_owned(), major, minor, bytes, number: 0 };
        disk.check()?;
        let number = fs::read_to_string(disk.directory().join("diskseq")).unwrap_or_default();
        disk.number = number.trim().parse().unwrap_or(0);
        Ok(disk)
    }

    fn check(&self) -> Result<()> {
        let refused = |why: &str| {
            Err(Error::new(ErrorKind::Unsupported, "observe", self.path.display()).message(why))
        };
        let directory = self.directory();
        if directory.join("partition").exists() {
            return refused("it is a partition: observe its whole disk");
        }
        if !directory.join("mq").exists() {
            return refused(
                "its driver takes bios, not requests (device mapper, MD, zram): observe the disks \
                 below it",
            );
        }
        match fs::read_to_string(directory.join("queue/iostats")) {
            Ok(text) if text.trim() == "1" => {}
            _ => {
                return refused(
                    "the kernel does not count its writes, so nothing could be audited: write 1 to \
                     queue/iostats of the disk",
                );
            }
        }
        self.completed().map(drop)
    }

    /// Returns what the kernel has counted.
    pub(crate) fn completed(&self) -> Result<Completed> {
        let path = self.directory().join("stat");
        let text = fs::read_to_string(&path)
            .map_err(|error| Error::io("read counters", path.display(), error))?;
        let fields: Vec<u64> =
            text.split_whitespace().filter_map(|field| field.parse().ok()).collect();
        match (fields.get(6), fields.get(13)) {
            (Some(written), Some(discarded)) => {
                Ok(Completed { written: *written, discarded: *discarded })
            }
            _ => Err(Error::new(ErrorKind::Unsupported, "read counters", path.display())
                .expected("sectors written and discarded")
                .found(text.trim())),
        }
    }

    fn directory(&self) -> PathBuf {
        PathBuf::from(format!("/sys/dev/block/{}:{}", self.major, self.minor))
    }
}
