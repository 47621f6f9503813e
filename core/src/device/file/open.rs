//! Opens a device: descriptor, exclusive claim, size, and the alignment of direct I/O.
//!
//! The locked descriptor is kept. If direct I/O does not fit, the flag is removed from it: opening
//! a second descriptor would lose the lock, and fail on a claimed block device.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{AtFlags, FlockOperation, OFlags, SeekFrom, StatxFlags};
use rustix::io::Errno;

use super::SECTOR_BYTES;
use crate::device::{BUFFER_ALIGNMENT_BYTES, Buffer, directory_of, file_mode};
use crate::error::{Error, ErrorKind, Result};

/// Whether to bypass the page cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DirectIo {
    /// Yes, if the file system and the size allow it.
    #[default]
    Auto,
    /// Yes, or fail with `Unsupported`.
    Always,
    /// No: use the page cache.
    Never,
}

/// What a device is opened for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Reads only.
    ReadOnly,
    /// Reads and writes.
    #[default]
    ReadWrite,
}

/// How to open a [`FileDevice`](super::FileDevice).
#[derive(Clone, Debug, Default)]
pub struct FileDeviceOptions {
    /// Default: read and write.
    pub access: Access,
    /// Default: direct if possible.
    pub direct: DirectIo,
    /// Take an advisory lock and, on a block device, the exclusive claim that a mount takes.
    /// Default: no.
    pub exclusive: bool,
    /// Create the file, sparse, with this size. An existing file must have it. Default: the file
    /// must exist.
    pub create_bytes: Option<u64>,
}

/// An open file or block device, and what is known of it.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) size_bytes: u64,
    pub(super) block_bytes: u32,
    /// 1 if the page cache is used.
    pub(super) alignment_bytes: u32,
    pub(super) is_block_device: bool,
}

pub(super) fn open(path: &Path, options: &FileDeviceOptions) -> Result<Opened> {
    let io = |error| Error::io("open device", path.display(), error);
    if let Some(size) = options.create_bytes {
        create(path, size)?;
    }
    // Checked before opening, because opening a pipe would wait for its other end.
    let kind = std::fs::metadata(path).map_err(io)?.file_type();
    let is_block_device = kind.is_block_device();
    if !is_block_device && !kind.is_file() {
        return Err(Error::new(ErrorKind::InvalidInput, "open device", path.display())
            .expected("a regular file or block device")
            .found("something else"));
    }
    let claim = if options.exclusive && is_block_device { OFlags::EXCL } else { OFlags::empty() };
    let (file, direct) = open_file(path, options, claim)?;
    if options.exclusive {
        lock(&file, path)?;
    }
    let size_bytes = size_of_file(&file, path)?;
    if let Some(expected) = options.create_bytes.filter(|expected| *expected != size_bytes) {
        return Err(Error::new(ErrorKind::AlreadyExists, "create device", path.display())
            .expected(format_args!("a size of {expected} bytes"))
            .found(format_args!("{size_bytes} bytes")));
    }
    let block_bytes = if is_block_device {
        rustix::fs::ioctl_blksszget(&file).map_err(|error| io(error.into()))?
    } else {
        SECTOR_BYTES as u32
    };
    let mut opened = Opened { file, size_bytes, block_bytes, alignment_bytes: 1, is_block_device };
    if direct {
        opened.settle_alignment(path, options.direct)?;
    }
    Ok(opened)
}

impl Opened {
    /// Finds the alignment that direct I/O needs. Falls back to the page cache if none fits the
    /// size.
    pub(super) fn settle_alignment(&mut self, path: &Path, direct: DirectIo) -> Result<()> {
        let alignment = match self.stated_alignment() {
            Some(stated) => Some(stated).filter(|alignment| self.suits(*alignment)),
            None => [self.block_bytes, 4096].into_iter().find(|a| self.suits(*a) && self.reads(*a)),
        };
        match alignment {
            Some(alignment) => self.alignment_bytes = alignment,
            None if direct == DirectIo::Always => {
                return Err(Error::new(ErrorKind::Unsupported, "open device", path.display())
                    .expected("a file system and size that direct I/O can serve")
                    .found(format_args!("{} bytes", self.size_bytes)));
            }
            None => rustix::fs::fcntl_getfl(&self.file)
                .and_then(|flags| rustix::fs::fcntl_setfl(&self.file, flags - OFlags::DIRECT))
                .map_err(|error| Error::io("open device", path.display(), error.into()))?,
        }
        Ok(())
    }

    /// Returns whether every block can be reached, with memory as [`Buffer`] aligns it.
    fn suits(&self, alignment: u32) -> bool {
        alignment.is_power_of_two()
            && alignment as usize <= BUFFER_ALIGNMENT_BYTES
            && self.size_bytes.is_multiple_of(alignment.into())
    }

    /// Returns the alignment that the kernel states (since Linux 6.1); 0 if the file takes no
    /// direct I/O. `None` if the kernel does not state it.
    fn stated_alignment(&self) -> Option<u32> {
        let flags = StatxFlags::DIOALIGN;
        let stat = rustix::fs::statx(&self.file, c"", AtFlags::EMPTY_PATH, flags).ok()?;
        if stat.stx_mask & flags.bits() == 0 {
            return None;
        }
        match stat.stx_dio_offset_align {
            0 => Some(0),
            offset => Some(offset.max(stat.stx_dio_mem_align).max(self.block_bytes)),
        }
    }

    /// Returns whether the kernel accepts a direct read of this alignment.
    fn reads(&self, alignment: u32) -> bool {
        let length = alignment as usize;
        let mut buffer = Buffer::zeroed(length * 2);
        // At the second block, if there is one: the start is a multiple of everything.
        let at = if self.size_bytes >= 2 * u64::from(alignment) { u64::from(alignment) } else { 0 };
        self.file.read_at(&mut buffer[length..], at).is_ok()
    }
}

/// Opens with direct I/O if requested and possible; returns whether it is direct.
fn open_file(path: &Path, options: &FileDeviceOptions, claim: OFlags) -> Result<(File, bool)> {
    let open = |extra: OFlags| {
        OpenOptions::new()
            .read(true)
            .write(options.access == Access::ReadWrite)
            .custom_flags((claim | extra).bits().cast_signed())
            .open(path)
    };
    let refused = |error: std::io::Error| match Errno::from_io_error(&error) {
        Some(Errno::BUSY) => in_use(path),
        Some(Errno::INVAL) if options.direct == DirectIo::Always => {
            Error::new(ErrorKind::Unsupported, "open device", path.display())
                .message("its file system has no direct I/O")
                .caused_by(error)
        }
        _ => Error::io("open device", path.display(), error),
    };
    if options.direct != DirectIo::Never {
        match open(OFlags::DIRECT) {
            Ok(file) => return Ok((file, true)),
            Err(error)
                if options.direct == DirectIo::Auto
                    && Errno::from_io_error(&error) == Some(Errno::INVAL) => {}
            Err(error) => return Err(refused(error)),
        }
    }
    open(OFlags::empty()).map(|file| (file, false)).map_err(refused)
}

fn in_use(path: &Path) -> Error {
    Error::new(ErrorKind::Fenced, "open device", path.display())
        .message("it is in use by another process")
}

fn lock(file: &File, path: &Path) -> Result<()> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => Err(in_use(path)),
        Err(error) => Err(Error::io("lock device", path.display(), error.into())),
    }
}

/// Creates a sparse file, durably. Leaves one that exists as it is.
fn create(path: &Path, size_bytes: u64) -> Result<()> {
    let io = |error| Error::io("create device", path.display(), error);
    check_size(size_bytes, "create device", path)?;
    let mode = file_mode(path);
    let file = match OpenOptions::new().write(true).create_new(true).mode(mode).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(io(error)),
    };
    if let Err(error) = file.set_len(size_bytes).and_then(|()| file.sync_all()) {
        // A second try would find this useless file and complain of its size.
        let _ = std::fs::remove_file(path);
        return Err(io(error));
    }
    File::open(directory_of(path)).and_then(|directory| directory.sync_all()).map_err(io)
}

fn size_of_file(file: &File, path: &Path) -> Result<u64> {
    let size = rustix::fs::seek(file, SeekFrom::End(0))
        .map_err(|error| Error::io("size device", path.display(), error.into()))?;
    check_size(size, "open device", path)?;
    Ok(size)
}

fn check_size(size: u64, operation: &'static str, path: &Path) -> Result<()> {
    if size > 0 && size.is_multiple_of(SECTOR_BYTES) {
        return Ok(());
    }
    let whole = size.max(1).checked_next_multiple_of(SECTOR_BYTES).unwrap_or(size);
    Err(Error::new(ErrorKind::InvalidInput, operation, path.display())
        .message(format_args!("extend it to whole sectors, for example with truncate -s {whole}"))
        .expected("a size above zero and a multiple of 512 bytes")
        .found(format_args!("{size} bytes")))
}
