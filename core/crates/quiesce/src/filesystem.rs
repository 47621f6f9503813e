//! `fs:MOUNTPOINT`: a file system, frozen by FIFREEZE.
//!
//! It is synced first, so that the freeze has little left to write. A file system that the agent
//! itself writes to is refused, because both would wait for each other. If another program thaws it
//! meanwhile, the point is spoiled; the final thaw detects that.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use hrl::{Error, ErrorKind, Result};
use rustix::io::Errno;

use crate::freeze::{freeze, thaw};
use crate::provider::{Occasion, Prepared, Provider, Quiesced, Rank};
use crate::spec::Spec;

pub(crate) struct FileSystem {
    mount: PathBuf,
}

impl FileSystem {
    pub(crate) fn new(spec: Spec) -> Result<Self> {
        let mount = spec.absolute_path("the mount point")?;
        spec.finish(&[])?;
        Ok(Self { mount })
    }

    fn failed(&self, operation: &'static str, error: impl Into<std::io::Error>) -> Error {
        Error::io(operation, self.mount.display(), error.into())
    }

    fn open(&self) -> Result<File> {
        File::open(&self.mount).map_err(|error| self.failed("open", error))
    }

    fn frozen(&self, errno: Errno) -> Error {
        let error = self.failed("freeze", errno);
        let new = |kind| Error::new(kind, "freeze", self.mount.display());
        match errno {
            Errno::BUSY => new(ErrorKind::Unavailable).message("it is frozen already"),
            Errno::OPNOTSUPP => {
                new(ErrorKind::Unsupported).message("its kind of file system cannot be frozen")
            }
            Errno::PERM => error.message("it needs the right CAP_SYS_ADMIN"),
            _ => error,
        }
    }
}

impl Provider for FileSystem {
    fn name(&self) -> String {
        format!("file system {}", self.mount.display())
    }

    fn rank(&self) -> Rank {
        Rank::FileSystem
    }

    fn check(&self, written: &[&Path]) -> Result<()> {
        let refused = || Error::new(ErrorKind::InvalidInput, "freeze", self.mount.display());
        let io = |error| self.failed("look at", error);
        let device = std::fs::metadata(&self.mount).map_err(io)?.dev();
        if let Some(parent) = self.mount.parent()
            && std::fs::metadata(parent).map_err(io)?.dev() == device
        {
            return Err(refused().expected("a mount point").found("a directory in a file system"));
        }
        for path in written {
            if std::fs::metadata(path).is_ok_and(|found| found.dev() == device) {
                return Err(refused().message(format_args!(
                    "the agent writes to {} there and would wait for itself; put that on another file system",
                    path.display()
                )));
            }
        }
        Ok(())
    }

    fn prepare(&self, _occasion: &Occasion) -> Result<Box<dyn Prepared>> {
        let file = self.open()?;
        rustix::fs::syncfs(&file).map_err(|error| self.failed("sync", error))?;
        Ok(Box::new(Thawed { of: Self { mount: self.mount.clone() }, file }))
    }

    fn rescue(&self, _volume: &str) -> Result<()> {
        match thaw(self.open()?) {
            Ok(()) | Err(Errno::INVAL) => Ok(()),
            Err(error) => Err(self.failed("thaw", error)),
        }
    }
}

struct Thawed {
    of: FileSystem,
    file: File,
}

impl Prepared for Thawed {
    fn quiesce(self: Box<Self>, _occasion: &Occasion) -> Result<Box<dyn Quiesced>> {
        freeze(&self.file).map_err(|error| self.of.frozen(error))?;
        Ok(Box::new(Frozen(*self)))
    }
}

struct Frozen(Thawed);

impl Quiesced for Frozen {
    fn release(self: Box<Self>) -> Result<()> {
        let Thawed { of, file } = self.0;
        match thaw(file) {
            Ok(()) => Ok(()),
            Err(Errno::INVAL) => {
                Err(Error::new(ErrorKind::Unavailable, "thaw", of.mount.display())
                    .message("somebody else has thawed it, so it was not frozen all the time"))
            }
            Err(error) => Err(of.failed("thaw", error)),
        }
    }
}
