//! A local file as read-only memory.

#![allow(unsafe_code, reason = "the file is memory-mapped")]

use std::io;
use std::ops::{Deref, Range};
use std::path::Path;

use memmap2::Mmap;

use super::files::open_regular;
use crate::error::{Error, Result};

/// A read-only map of a file that does not change: a closed segment. Its length is fixed at open.
#[derive(Debug)]
pub(crate) struct MappedFile {
    map: Option<Mmap>,
}

impl MappedFile {
    /// Maps a regular file; `InvalidInput` for anything else. An empty file is an empty slice.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let io = |error| Error::io("map", path.display(), error);
        let file = open_regular(path).map_err(io)?;
        if file.metadata().map_err(io)?.len() == 0 {
            return Ok(Self { map: None });
        }
        // SAFETY: a segment never changes once it has its name (stores create objects whole and
        // only unlink them). So the bytes stay and the file is not truncated while it is mapped.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        Ok(Self { map: Some(map) })
    }

    /// Copies bytes of the file, which must be within its length at open.
    ///
    /// `UnexpectedEof` if the file was cut short since, or cannot be read: the kernel copies, so
    /// that the page fault is an error of the call and no SIGBUS. `PermissionDenied` or
    /// `Unsupported` where a sandbox forbids the call. An unlinked file can still be copied, and no
    /// file descriptor is held for that.
    pub(crate) fn copy(&self, range: Range<usize>) -> io::Result<Vec<u8>> {
        let mapped = &self[range];
        let mut bytes = Vec::with_capacity(mapped.len());
        while bytes.len() < mapped.len() {
            let (done, left) = (bytes.len(), mapped.len() - bytes.len());
            let target: *mut u8 = bytes.spare_capacity_mut()[..left].as_mut_ptr().cast();
            let to = libc::iovec { iov_base: target.cast(), iov_len: left };
            let source: *const u8 = mapped[done..].as_ptr();
            let from = libc::iovec { iov_base: source.cast_mut().cast(), iov_len: left };
            // SAFETY: `to` is the spare capacity of `bytes`, which nobody else has; `from` lies in
            // the map, which lives as long as `self`, and is only read. The process reads itself.
            let copied = unsafe {
                libc::process_vm_readv(libc::getpid(), &raw const to, 1, &raw const from, 1, 0)
            };
            let copied = match usize::try_from(copied) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(copied) => copied.min(left),
                Err(_) => return Err(not_copied(io::Error::last_os_error())),
            };
            // SAFETY: the kernel has filled this many bytes after the `done` ones.
            unsafe { bytes.set_len(done + copied) };
        }
        Ok(bytes)
    }
}

fn not_copied(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EFAULT) => io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the file was cut short while it was open, or its disk fails",
        ),
        _ => error,
    }
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(&[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_shrinks_while_it_is_mapped_is_an_error() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("file");
        let content: Vec<u8> = (0..100_000_u32).map(|at| at as u8).collect();
        std::fs::write(&path, &content).expect("write");
        let map = MappedFile::open(&path).expect("map");
        assert_eq!(map.copy(10..90_000).expect("copy"), content[10..90_000]);
        assert!(map.copy(7..7).expect("nothing").is_empty());
        let file = std::fs::OpenOptions::new().write(true).open(&path).expect("open");
        file.set_len(5000).expect("cut short");
        assert_eq!(map.copy(10..4000).expect("what is left"), content[10..4000]);
        let error = map.copy(10..90_000).expect_err("cut short");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        std::fs::remove_file(&path).expect("remove");
        assert_eq!(map.copy(10..4000).expect("unlinked"), content[10..4000]);
    }
}
