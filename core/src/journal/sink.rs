//! Sinks for new segments: a local file, or memory.
//!
//! A sink gets whole frames in order. After a failed sync it is poisoned for good: the system may
//! have dropped what it could not write, so a later sync that succeeds would prove nothing.

use std::path::{Path, PathBuf};

use crate::device::{Files, NewFile};
use crate::error::{Error, ErrorKind, Result};
use crate::macros::shown;

/// Takes the bytes of a segment, in order.
pub trait SegmentSink {
    /// Appends bytes.
    fn append(&mut self, bytes: &[u8]) -> Result<()>;
    /// Makes everything appended durable. After a failure every later call fails with `Poisoned`.
    fn sync(&mut self) -> Result<()>;
}

impl SegmentSink for Vec<u8> {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.extend_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Writes a segment to a new local file. The caller makes the file's name durable.
pub struct FileSink {
    path: PathBuf,
    file: Box<dyn NewFile>,
    poisoned: bool,
}

impl FileSink {
    /// Creates the file among `files`; `AlreadyExists` if there is one.
    pub fn create(files: &dyn Files, path: &Path) -> Result<Self> {
        let file = files
            .create(path)
            .map_err(|error| Error::io("create segment", path.display(), error))?;
        Ok(Self { path: path.to_owned(), file, poisoned: false })
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn check(&self, operation: &'static str) -> Result<()> {
        if self.poisoned {
            return Err(Error::new(ErrorKind::Poisoned, operation, self.path.display())
                .message("an earlier sync failed, so nothing in the file can be trusted"));
        }
        Ok(())
    }
}

impl SegmentSink for FileSink {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.check("write segment")?;
        self.file
            .append(bytes)
            .map_err(|error| Error::io("write segment", self.path.display(), error))
    }

    fn sync(&mut self) -> Result<()> {
        self.check("sync segment")?;
        self.file.sync().map_err(|error| {
            self.poisoned = true;
            Error::io("sync segment", self.path.display(), error)
        })
    }
}

shown!(FileSink, value => value.path.display());

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;

    #[test]
    fn a_failed_sync_is_final() {
        let path = PathBuf::from("/dev/full");
        let file = OpenOptions::new().write(true).open(&path).expect("a device that cannot sync");
        let mut sink = FileSink { path, file: Box::new(file), poisoned: false };
        assert_eq!(sink.append(&[1]).expect_err("no room").kind(), ErrorKind::Full);
        assert_ne!(sink.sync().expect_err("no sync").kind(), ErrorKind::Poisoned);
        assert_eq!(sink.sync().expect_err("for good").kind(), ErrorKind::Poisoned);
        assert_eq!(sink.append(&[]).expect_err("for good").kind(), ErrorKind::Poisoned);
    }
}
