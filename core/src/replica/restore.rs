//! Restore: a view written to a file or device.
//!
//! Mappings are taken in the order of their frames, so that several threads read and decode each
//! frame once. A new file gets its name only when it is whole and durable; ranges without data are
//! never written to it. On an existing device they are zeroed.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::view::{Mapping, View, ViewOptions};
use super::{At, Progress, Replica};
use crate::device::{
    BlockDevice, DirectIo, Durability, FileDevice, FileDeviceOptions, Unmap, directory_of,
};
use crate::error::{Error, ErrorKind, Result};
use crate::extent::{Extent, ExtentSet, block_runs};
use crate::parallel;
use crate::units::Sequence;

/// Threads that decode and write. More are used if each frame is a request to a store.
const THREADS: usize = 2;
/// Blocks of zeroes of this size are not written to a new file.
const HOLE_BYTES: usize = 4096;

/// Target of a restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestoreTarget {
    /// A new sparse file. `AlreadyExists` if there is one, unless it may be overwritten.
    File {
        /// Path of the file.
        path: PathBuf,
        /// Whether an existing file is replaced once the restore is complete.
        overwrite: bool,
    },
    /// An existing file or block device of at least the volume's size; all of that size is
    /// overwritten.
    Device(PathBuf),
}

/// Result of a restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreReport {
    /// The state restored.
    pub sequence: Sequence,
    /// Bytes of data written.
    pub bytes_written: u64,
    /// Size of the volume in bytes.
    pub volume_bytes: u64,
    /// Segments read.
    pub segments: u64,
}

impl Replica {
    /// Writes the volume as of `at` to a file or device.
    pub fn restore(
        &self,
        at: &At,
        target: &RestoreTarget,
        progress: Progress<'_>,
    ) -> Result<RestoreReport> {
        run(&self.view(at, &ViewOptions::default())?, target, progress)
    }
}

fn run(view: &View, target: &RestoreTarget, progress: Progress<'_>) -> Result<RestoreReport> {
    match target {
        RestoreTarget::File { path, overwrite } => {
            if !overwrite && path.symlink_metadata().is_ok() {
                return Err(Error::new(ErrorKind::AlreadyExists, "restore to", path.display())
                    .message("a file of this name exists"));
            }
            check_replaceable(path)?;
            let temporary = temporary_name(path)?;
            let result = new_file(view, &temporary)
                .and_then(|file| copy(view, view.mappings().to_vec(), &file, true, progress))
                .and_then(|report| publish(&temporary, path, *overwrite).map(|()| report));
            if result.is_err() {
                let _ = std::fs::remove_file(&temporary);
            }
            result
        }
        RestoreTarget::Device(path) => {
            let options = FileDeviceOptions { exclusive: true, ..Default::default() };
            let device = FileDevice::open(path, &options)?;
            if device.size_bytes() < view.size_bytes() {
                return Err(Error::new(ErrorKind::InvalidInput, "restore to", path.display())
                    .expected(format_args!("at least {} bytes", view.size_bytes()))
                    .found(device.size_bytes()));
            }
            for run in view.allocation(Extent { offset: 0, length: view.size_bytes() })? {
                if !run.allocated {
                    device.zero(run.extent, Unmap::Allowed, Durability::Cached)?;
                }
            }
            copy(view, view.mappings().to_vec(), &device, false, progress)
        }
    }
}

/// Creates a sparse file of the volume's size.
fn new_file(view: &View, path: &Path) -> Result<FileDevice> {
    let options = FileDeviceOptions {
        direct: DirectIo::Never,
        create_bytes: Some(view.size_bytes()),
        ..Default::default()
    };
    FileDevice::open(path, &options)
}

/// Refuses to replace anything but a regular file: a rename would put a file in the place of a
/// device node or of a link to one.
fn check_replaceable(path: &Path) -> Result<()> {
    match path.metadata() {
        Ok(there) if !there.is_file() => {
            Err(Error::new(ErrorKind::InvalidInput, "restore to", path.display())
                .message("restore to a block device as a device")
                .expected("a regular file, or none")
                .found(format_args!("{:?}", there.file_type())))
        }
        _ => Ok(()),
    }
}

/// Returns a name beside the target, so that the rename stays on one file system. No other restore
/// has it. Removes what restores left that were killed.
fn temporary_name(path: &Path) -> Result<PathBuf> {
    static RESTORES: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().ok_or_else(|| {
        Error::new(ErrorKind::InvalidInput, "restore to", path.display())
            .expected("the path of a file")
    })?;
    let mut prefix = std::ffi::OsString::from(".");
    prefix.push(name);
    prefix.push(".restoring-");
    remove_left(directory_of(path), &prefix);
    let number = RESTORES.fetch_add(1, Ordering::Relaxed);
    prefix.push(format!("{}-{number}", std::process::id()));
    Ok(path.with_file_name(prefix))
}

/// Removes files of processes that are gone. A failure costs nothing but space.
fn remove_left(directory: &Path, prefix: &std::ffi::OsStr) {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name();
        let rest = name.as_encoded_bytes().strip_prefix(prefix.as_encoded_bytes());
        let process = rest.and_then(|rest| std::str::from_utf8(rest).ok()?.split_once('-'));
        let is_gone = |id: &str| {
            id.parse::<u32>().is_ok_and(|id| !Path::new(&format!("/proc/{id}")).exists())
        };
        if process.is_some_and(|(id, _)| is_gone(id)) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Gives the file its name. `AlreadyExists` if another has it meanwhile, unless that may be
/// overwritten.
fn publish(temporary: &Path, path: &Path, overwrite: bool) -> Result<()> {
    let renamed = if overwrite {
        std::fs::rename(temporary, path)
    } else {
        let (here, flags) = (rustix::fs::CWD, rustix::fs::RenameFlags::NOREPLACE);
        match rustix::fs::renameat_with(here, temporary, here, path, flags) {
            // The file system cannot rename so. A link fails if the name is taken, too.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                std::fs::hard_link(temporary, path).and_then(|()| std::fs::remove_file(temporary))
            }
            renamed => renamed.map_err(std::io::Error::from),
        }
    };
    renamed
        .and_then(|()| std::fs::File::open(directory_of(path))?.sync_all())
        .map_err(|error| Error::io("restore to", path.display(), error))
}

/// The mappings of one frame.
pub(super) struct Job {
    pub mappings: Vec<Mapping>,
    /// Bytes of their data.
    pub bytes: u64,
}

/// Groups mappings by frame, so that each frame is decoded once.
pub(super) fn jobs(mut mappings: Vec<Mapping>) -> Vec<Job> {
    mappings.sort_by_key(|mapping| (mapping.segment, mapping.frame, mapping.extent.offset));
    mappings
        .chunk_by(|a, b| (a.segment, a.frame) == (b.segment, b.frame))
        .map(|chunk| Job {
            mappings: chunk.to_vec(),
            bytes: chunk.iter().map(|mapping| mapping.extent.length).sum(),
        })
        .collect()
}

/// Calls `work` on several threads for each job. Stops and returns false if `work` returns false.
pub(super) fn each_job(
    view: &View,
    jobs: &[Job],
    work: impl Fn(&Job) -> Result<bool> + Sync,
) -> Result<bool> {
    let threads = if view.is_remote() { parallel::REQUESTS } else { THREADS };
    let goes_on = AtomicBool::new(true);
    parallel::each_on(threads, jobs, |job| {
        if goes_on.load(Ordering::Relaxed) && !work(job)? {
            goes_on.store(false, Ordering::Relaxed);
        }
        Ok(())
    })?;
    Ok(goes_on.into_inner())
}

/// Writes the data of some extents of a view, each at its own offset, to a new sparse file of the
/// volume's size, durably. Returns the bytes written.
pub(super) fn copy_extents(view: &View, extents: &ExtentSet, path: &Path) -> Result<u64> {
    let mappings = extents.iter().flat_map(|extent| view.within(extent)).collect();
    Ok(copy(view, mappings, &new_file(view, path)?, false, &|_, _| true)?.bytes_written)
}

fn copy(
    view: &View,
    mappings: Vec<Mapping>,
    device: &FileDevice,
    skip_zeroes: bool,
    progress: Progress<'_>,
) -> Result<RestoreReport> {
    let jobs = jobs(mappings);
    let total = jobs.iter().map(|job| job.bytes).sum();
    let (done, written) = (AtomicU64::new(0), AtomicU64::new(0));
    let whole = each_job(view, &jobs, |job| {
        let bytes = copy_frame(view, device, &job.mappings, skip_zeroes)?;
        written.fetch_add(bytes, Ordering::Relaxed);
        let done = done.fetch_add(job.bytes, Ordering::Relaxed) + job.bytes;
        Ok(progress(done, total))
    })?;
    if !whole {
        return Err(Error::new(ErrorKind::Unavailable, "restore", device.name())
            .message("it was cancelled"));
    }
    device.flush()?;
    Ok(RestoreReport {
        sequence: view.sequence(),
        bytes_written: written.into_inner(),
        volume_bytes: view.size_bytes(),
        segments: view.segment_count() as u64,
    })
}

fn copy_frame(
    view: &View,
    device: &FileDevice,
    mappings: &[Mapping],
    skip_zeroes: bool,
) -> Result<u64> {
    let Some(first) = mappings.first() else { return Ok(0) };
    let frame = view.decode(first)?;
    let mut written = 0;
    for mapping in mappings {
        let data = View::data_of(&frame, mapping)?;
        if !skip_zeroes {
            device.write(mapping.extent.offset, data, Durability::Cached)?;
            written += data.len() as u64;
            continue;
        }
        let runs = block_runs(data, HOLE_BYTES, |_, block| is_zero(block));
        for (run, _) in runs.filter(|(_, zero)| !zero) {
            written += run.len() as u64;
            let offset = mapping.extent.offset + run.start as u64;
            device.write(offset, &data[run], Durability::Cached)?;
        }
    }
    Ok(written)
}

/// Returns whether all bytes are zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let words = bytes.chunks_exact(16);
    words.remainder().iter().all(|byte| *byte == 0)
        && words
            .into_iter()
            .all(|word| u128::from_ne_bytes(word.try_into().expect("16 bytes")) == 0)
}
