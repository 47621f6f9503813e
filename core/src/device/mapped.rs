//! A local file as read-only memory.

#![allow(unsafe_code, reason = "the file is memory-mapped")]

use std::fs::File;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

use crate::error::{Error, ErrorKind, Result};

/// A read-only map of a file that does not change: a closed segment. Its length is fixed at open.
#[derive(Debug)]
pub(crate) struct MappedFile {
    map: Option<Mmap>,
}

impl MappedFile {
    /// Maps a regular file; `InvalidInput` for anything else. An empty file is an empty slice.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let io = |error| Error::io("map", path.display(), error);
        let file = File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if !metadata.is_file() {
            return Err(Error::new(ErrorKind::InvalidInput, "map", path.display())
                .expected("a regular file")
                .found("something else"));
        }
        if metadata.len() == 0 {
            return Ok(Self { map: None });
        }
        // SAFETY: a segment never changes once it has its name (stores create objects whole and
        // only unlink them). So the bytes stay and the file is not truncated while it is mapped.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        Ok(Self { map: Some(map) })
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
