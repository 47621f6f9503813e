//! A directory whose objects nobody deletes before a time: the immutable flag of the file system.
//!
//! Each file gets the time as an extended attribute and then the flag, which only root sets and takes
//! away (`CAP_LINUX_IMMUTABLE`). So no other user, and no program of root that does not know of it,
//! alters, renames or deletes the file. Root can: the flag protects against mistakes and against
//! whoever has less than root's rights.
//!
//! An object whose flag was not set, because of a crash or because the option is new, gets it at the
//! next renewal.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hrl::store::{ObjectInfo, PutOutcome, Store};
use hrl::{Clock, Error, ErrorKind, Result, Timestamp};
use rustix::fs::{IFlags, XattrFlags, fgetxattr, fsetxattr, ioctl_getflags, ioctl_setflags};
use rustix::io::Errno;

/// Until when a file is locked, in nanoseconds since 1970, as digits.
const UNTIL: &str = "user.hrl.until";
/// A lock is renewed when less than one part in this many of it is left.
const RENEW_ONE_IN: u32 = 2;

/// A store of local files that makes each object immutable for a time.
pub(crate) struct ImmutableStore {
    inner: Arc<dyn Store>,
    time: Duration,
    clock: Arc<dyn Clock>,
    /// Whether the flag could be set once.
    proven: AtomicBool,
}

impl ImmutableStore {
    pub(crate) fn over(inner: Arc<dyn Store>, time: Duration, clock: Arc<dyn Clock>) -> Self {
        Self { inner, time, clock, proven: AtomicBool::new(false) }
    }

    fn open(&self, name: &str) -> Result<Option<File>> {
        let Some(path) = self.inner.local_path(name) else { return Ok(None) };
        match File::open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("look at lock of", path.display(), error)),
        }
    }

    /// Fails with `Unsupported` unless files of the directory can be made immutable.
    fn prove(&self) -> Result<()> {
        if self.proven.load(Ordering::Relaxed) {
            return Ok(());
        }
        let Some(path) = self.inner.local_path(".lock-probe") else { return Ok(()) };
        let path = path.with_file_name(format!(".lock-probe-{}", std::process::id()));
        let tried = || -> rustix::io::Result<()> {
            let file = File::create(&path).map_err(|error| {
                error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
            })?;
            fsetxattr(&file, UNTIL, b"0", XattrFlags::empty())?;
            let flags = ioctl_getflags(&file)?;
            ioctl_setflags(&file, flags | IFlags::IMMUTABLE)?;
            ioctl_setflags(&file, flags)
        };
        let tried = tried();
        // It begins with a dot, so it is no object, and a leftover is in nobody's way.
        let _ = std::fs::remove_file(&path);
        tried.map_err(|error| {
            Error::new(ErrorKind::Unsupported, "lock objects in", self.inner.name())
                .message(
                    "the option lock makes files immutable: that needs root and a file system with \
                     that flag and extended attributes, such as ext4, XFS or Btrfs",
                )
                .caused_by(std::io::Error::from(error))
        })?;
        self.proven.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn failed(name: &str, error: Errno) -> Error {
        Error::io("lock object", name, std::io::Error::from(error))
    }

    /// Returns until when an object is locked; `None` if it is not, or is absent.
    fn until(&self, name: &str) -> Result<Option<Timestamp>> {
        let Some(file) = self.open(name)? else { return Ok(None) };
        let flags = match ioctl_getflags(&file) {
            Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL) => return Ok(None),
            flags => flags.map_err(|error| Self::failed(name, error))?,
        };
        if !flags.contains(IFlags::IMMUTABLE) {
            return Ok(None);
        }
        let mut digits = [0; 20];
        let until = match fgetxattr(&file, UNTIL, &mut digits[..]) {
            Ok(length) => std::str::from_utf8(&digits[..length]).ok().and_then(|d| d.parse().ok()),
            Err(Errno::NODATA) => None,
            Err(error) => return Err(Self::failed(name, error)),
        };
        // Somebody else made it immutable: it stays.
        Ok(Some(Timestamp(until.unwrap_or(i64::MAX))))
    }

    /// Locks an object from now on.
    fn lock(&self, name: &str) -> Result<()> {
        let Some(file) = self.open(name)? else { return Ok(()) };
        let nanos = i64::try_from(self.time.as_nanos()).unwrap_or(i64::MAX);
        let until = self.clock.now().0.saturating_add(nanos).to_string();
        let locked = || -> rustix::io::Result<()> {
            let flags = ioctl_getflags(&file)?;
            if flags.contains(IFlags::IMMUTABLE) {
                ioctl_setflags(&file, flags - IFlags::IMMUTABLE)?;
            }
            fsetxattr(&file, UNTIL, until.as_bytes(), XattrFlags::empty())?;
            ioctl_setflags(&file, flags | IFlags::IMMUTABLE)
        };
        locked().map_err(|error| Self::failed(name, error))
    }

    fn locked(&self, name: &str, outcome: PutOutcome) -> Result<PutOutcome> {
        if outcome == PutOutcome::Created {
            self.lock(name)?;
        }
        Ok(outcome)
    }
}

impl Store for ImmutableStore {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn put(&self, name: &str, content: &[u8]) -> Result<PutOutcome> {
        self.prove()?;
        let outcome = self.inner.put(name, content)?;
        self.locked(name, outcome)
    }

    fn put_file(&self, name: &str, path: &Path) -> Result<PutOutcome> {
        self.prove()?;
        let outcome = self.inner.put_file(name, path)?;
        self.locked(name, outcome)
    }

    fn get(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        self.inner.get(name, range)
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        self.inner.list(prefix)
    }

    fn head(&self, name: &str) -> Result<Option<ObjectInfo>> {
        self.inner.head(name)
    }

    fn delete(&self, name: &str) -> Result<()> {
        match self.until(name)? {
            None => {}
            Some(until) if until > self.clock.now() => {
                return Err(Error::new(ErrorKind::Denied, "delete from store", name)
                    .message(format_args!("the object is locked until {until}")));
            }
            Some(_) => {
                if let Some(file) = self.open(name)? {
                    let ended = ioctl_getflags(&file)
                        .and_then(|flags| ioctl_setflags(&file, flags - IFlags::IMMUTABLE));
                    ended.map_err(|error| Self::failed(name, error))?;
                }
            }
        }
        self.inner.delete(name)
    }

    fn delete_many(&self, names: &[String]) -> Result<()> {
        // All that are not locked go; the error names one that is.
        let mut result = Ok(());
        for name in names {
            match self.delete(name) {
                Err(error) if error.kind() == ErrorKind::Denied => result = Err(error),
                other => other?,
            }
        }
        result
    }

    fn may_delete(&self) -> bool {
        self.inner.may_delete()
    }

    fn is_locked(&self, name: &str) -> Result<bool> {
        Ok(self.until(name)?.is_some_and(|until| until > self.clock.now()))
    }

    fn renew_locks(&self, prefix: &str, is_unwanted: &dyn Fn(&str) -> bool) -> Result<()> {
        let half = i64::try_from((self.time / RENEW_ONE_IN).as_nanos()).unwrap_or(i64::MAX);
        let due = Timestamp(self.clock.now().0.saturating_add(half));
        for info in self.inner.list(prefix)? {
            if !is_unwanted(&info.name) && self.until(&info.name)?.is_none_or(|until| until < due) {
                self.prove()?;
                self.lock(&info.name)?;
            }
        }
        Ok(())
    }

    fn local_path(&self, name: &str) -> Option<PathBuf> {
        self.inner.local_path(name)
    }
}
