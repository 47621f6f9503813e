//! The state directory of an agent: identity, lock, dirty map and spool of one volume.
//!
//! ```text
//! STATE/state      identity of volume and source, as text
//! STATE/lock       locked while the agent runs
//! STATE/dirty      the dirty map
//! STATE/anchor     what is known of the vault and the journal, see `anchor.rs`
//! STATE/volume     the record of the volume and its wrapped key, see `away.rs`
//! STATE/witness    which disk it is and how it was left, see `witness.rs`
//! STATE/spool/     closed segments on their way to the vault; open.part is the open one
//! STATE/request    a planned failover that was asked for and has not begun
//! STATE/failover   a failover to here that is not committed, and STATE/cut.hrl
//! STATE/presence   which blocks of a disk are present while its copy is not complete
//! STATE/base       the sequence that such a disk hydrates from
//! STATE/follow     how far the disk of an old source follows the volume
//! STATE/scratch/   temporary files of the retention task
//! STATE/rejected/  segments that do not fit the vault's history, for people to look at
//! ```
//!
//! Small files are replaced as a whole and end with a checksum, so a crash leaves the old or the
//! new one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::spool::spool_path;
use crate::bytes::parse_hex;
use crate::clock::{Clock, random_bytes};
use crate::device::{Files, directory_of, remove_if_there, replace_file};
use crate::error::{Error, ErrorKind, Result};
use crate::journal::SegmentSummary;
use crate::units::{PointId, Timestamp, VolumeId};
use crate::vault::{SourceIdentity, VolumeInfo, host};

const FIRST_LINE: &str = "hrl state 1";

/// Source and volume of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub volume_name: String,
    pub volume: VolumeId,
    pub source: SourceIdentity,
}

impl Identity {
    /// Fails with `Changed` if the identity is that of another volume than `info`.
    pub(crate) fn check_volume(&self, info: &VolumeInfo, operation: &'static str) -> Result<()> {
        if self.volume == info.id {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Changed, operation, &info.name)
            .message("the state directory belongs to another volume")
            .expected(format_args!("volume {}", info.id))
            .found(format_args!("volume {} ({})", self.volume, self.volume_name)))
    }
}

/// An open, locked state directory.
pub(crate) struct StateDirectory {
    root: PathBuf,
    files: Arc<dyn Files>,
    _lock: Box<dyn Send + Sync>,
}

impl StateDirectory {
    /// Opens or creates the directory and locks it. `Fenced` if another agent runs with it.
    pub(crate) fn open(files: Arc<dyn Files>, root: &Path) -> Result<Self> {
        let io = |error| Error::io("open state directory", root.display(), error);
        files.create_directory(&root.join("spool")).map_err(io)?;
        // Even if it exists: its creator may have died before the names were durable.
        files.sync_directory(root).map_err(io)?;
        match files.sync_directory(directory_of(root)) {
            Err(error) if error.kind() != std::io::ErrorKind::PermissionDenied => {
                return Err(io(error));
            }
            _ => {}
        }
        let lock = files.lock(&root.join("lock")).map_err(|error| {
            if error.kind() == std::io::ErrorKind::WouldBlock {
                return Error::new(ErrorKind::Fenced, "open state directory", root.display())
                    .message("another agent is running with it");
            }
            io(error)
        })?;
        // A segment whose removal was not durable would come back with the power, after a start that
        // went on without it.
        files.sync_directory(&root.join("spool")).map_err(io)?;
        Ok(Self { root: root.to_owned(), files, _lock: lock })
    }

    /// Returns the files that the directory is among.
    pub(crate) fn files(&self) -> &Arc<dyn Files> {
        &self.files
    }

    pub(crate) fn path(&self) -> &Path {
        &self.root
    }

    /// Returns the path of a file of the directory.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub(crate) fn dirty_map(&self) -> PathBuf {
        self.file("dirty")
    }

    /// Returns the path of the marker that says that the dirty map lacks changes, because an observer
    /// knew them.
    pub(crate) fn observed(&self) -> PathBuf {
        self.file("observed")
    }

    /// Removes the dirty map durably, so that the next session reads the whole disk.
    pub(crate) fn forget_dirty_map(&self) -> Result<()> {
        self.remove_durably(&self.dirty_map())
    }

    pub(crate) fn spool(&self) -> PathBuf {
        self.root.join("spool")
    }

    /// Returns the path of the log of present blocks. While it exists, the disk is not a whole
    /// copy.
    pub(crate) fn presence_log(&self) -> PathBuf {
        self.root.join("presence")
    }

    /// Returns the path of the sequence that such a disk hydrates from.
    pub(crate) fn base(&self) -> PathBuf {
        self.root.join("base")
    }

    /// Returns the path of the open segment.
    pub(crate) fn open_segment(&self) -> PathBuf {
        self.root.join("spool/open.part")
    }

    /// Gives a closed segment its name in the spool, durably.
    pub(crate) fn spool_closed(&self, closed: &Path, summary: &SegmentSummary) -> Result<PathBuf> {
        let path = spool_path(&self.spool(), summary);
        let io = |error| Error::io("name segment", path.display(), error);
        self.files.rename(closed, &path).map_err(io)?;
        if let Err(error) = self.files.sync_directory(&self.spool()) {
            // It counts as lost, so the spool must not contain it beside what the journal goes on
            // with.
            let _ = self.files.remove(&path);
            return Err(io(error));
        }
        Ok(path)
    }

    /// Returns the directory of the segments that were put aside.
    pub(super) fn rejected(&self) -> PathBuf {
        self.root.join("rejected")
    }

    /// Moves a segment out of the spool to `STATE/rejected`, durably.
    pub(crate) fn reject(&self, path: &Path) -> Result<PathBuf> {
        let directory = self.rejected();
        let io = |error| Error::io("put aside", path.display(), error);
        self.files.create_directory(&directory).map_err(io)?;
        let target = directory.join(path.file_name().unwrap_or_default());
        self.files.rename(path, &target).map_err(io)?;
        // After a power failure it must not be in the spool again, where it would not fit again.
        self.files.sync_directory(&directory).map_err(io)?;
        self.files.sync_directory(&self.spool()).map_err(io)?;
        Ok(target)
    }

    /// Parses a small text file of the directory; `None` if it does not exist. `Corrupt` if its
    /// checksum is wrong or `parse` returns `None`.
    pub(crate) fn read_text<T>(
        &self,
        path: &Path,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>> {
        let bytes = match self.files.read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("read", path.display(), error)),
        };
        let text = std::str::from_utf8(&bytes).ok().and_then(checked);
        text.and_then(parse).map(Some).ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, "read", path.display())
                .expected(expected)
                .found("another text")
        })
    }

    /// Replaces a small text file of the directory durably, with a checksum in its last line. A
    /// crash leaves the old or the new file.
    pub(crate) fn write_text(&self, path: &Path, text: impl AsRef<[u8]>) -> Result<()> {
        write_text(&*self.files, path, text)
    }

    /// Removes a file of the directory, if it exists.
    pub(crate) fn remove(&self, path: &Path) -> Result<()> {
        remove_if_there(&*self.files, path)
    }

    /// Removes a file of the directory, if it exists, so that no power failure brings it back.
    pub(crate) fn remove_durably(&self, path: &Path) -> Result<()> {
        self.remove(path)?;
        self.files
            .sync_directory(directory_of(path))
            .map_err(|error| Error::io("remove", path.display(), error))
    }

    /// Removes everything in the spool, durably.
    pub(crate) fn clear_spool(&self) -> Result<()> {
        let directory = self.spool();
        self.list(&directory)?.iter().try_for_each(|path| self.remove(path))?;
        self.sync(&directory)
    }

    /// Lists the paths in one of its directories, sorted.
    pub(crate) fn list(&self, directory: &Path) -> Result<Vec<PathBuf>> {
        let paths = self.files.list(directory);
        paths.map_err(|error| Error::io("list", directory.display(), error))
    }

    /// Makes the names in the directory durable.
    pub(crate) fn sync_names(&self) -> Result<()> {
        self.sync(&self.root)
    }

    fn sync(&self, directory: &Path) -> Result<()> {
        let synced = self.files.sync_directory(directory);
        synced.map_err(|error| Error::io("sync", directory.display(), error))
    }

    /// Returns the identity written last; `None` in a new directory.
    pub(crate) fn identity(&self) -> Result<Option<Identity>> {
        self.read_text(&identity_path(&self.root), "the identity of an agent", parse)
    }

    /// Removes the identity.
    pub(crate) fn forget_identity(&self) -> Result<()> {
        self.remove(&identity_path(&self.root))
    }

    /// Writes the identity durably.
    pub(crate) fn set_identity(&self, identity: &Identity) -> Result<()> {
        self.write_text(&identity_path(&self.root), print(identity))
    }
}

/// Returns the path of the identity in a state directory.
pub(super) fn identity_path(root: &Path) -> PathBuf {
    root.join("state")
}

/// Replaces a small text file durably, with a checksum in its last line. A crash leaves the old or
/// the new file.
pub(super) fn write_text(files: &dyn Files, path: &Path, text: impl AsRef<[u8]>) -> Result<()> {
    let checksum = format!("crc={:08x}\n", crc32fast::hash(text.as_ref()));
    let parts = [text.as_ref(), checksum.as_bytes()];
    replace_file(files, path, &path.with_extension("new"), parts)
        .map_err(|error| Error::io("write", path.display(), error))
}

/// Returns the lines after the first one, which must be `first`.
pub(crate) fn lines_after<'a>(first: &str, text: &'a str) -> Option<std::str::Lines<'a>> {
    let mut lines = text.lines();
    (lines.next()? == first).then_some(lines)
}

/// Returns the text before the checksum in the last line, if the checksum is right.
fn checked(text: &str) -> Option<&str> {
    let (text, digits) = text.strip_suffix('\n')?.rsplit_once("crc=")?;
    (digits == format!("{:08x}", crc32fast::hash(text.as_bytes()))).then_some(text)
}

fn print(identity: &Identity) -> String {
    let source = PointId(identity.source.id);
    format!(
        "{FIRST_LINE}\nvolume={}\nvolume-id={}\nsource={source}\nhost={}\nsince={}\n",
        identity.volume_name, identity.volume, identity.source.host, identity.source.since
    )
}

/// Parses the text of `STATE/state` and prints it again; `None` if it is not valid. Feature
/// `testing`.
#[cfg(any(test, feature = "testing"))]
pub fn reprint_state(text: &str) -> Option<String> {
    parse(text).map(|identity| print(&identity))
}

fn parse(text: &str) -> Option<Identity> {
    let mut lines = lines_after(FIRST_LINE, text)?;
    let mut field = |name: &str| -> Option<String> {
        lines.next()?.strip_prefix(name)?.strip_prefix('=').map(str::to_owned)
    };
    let volume_name = field("volume")?;
    let volume = VolumeId::parse(&field("volume-id")?)?;
    let id = parse_hex(&field("source")?)?;
    let host = field("host")?;
    let since = Timestamp::parse(&field("since")?).ok()?;
    Some(Identity { volume_name, volume, source: SourceIdentity { id, host, since } })
}

/// Returns the identity of a new source on this host.
pub(crate) fn new_source(clock: &dyn Clock) -> SourceIdentity {
    SourceIdentity { id: random_bytes(clock), host: host(), since: clock.now() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::SystemFiles;

    #[test]
    fn promise_11_every_flipped_bit_of_a_small_file_is_noticed() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let state = StateDirectory::open(Arc::new(SystemFiles), directory.path()).expect("open");
        let path = state.base();
        let read = || state.read_text(&path, "a number", |text| text.trim().parse::<u64>().ok());
        assert_eq!(read().expect("nothing"), None);
        state.write_text(&path, "120\n").expect("write");
        assert_eq!(read().expect("read"), Some(120));
        let good = std::fs::read(&path).expect("read");
        for bit in 0..8 * good.len() {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bad).expect("write");
            let error = read().expect_err("a flipped bit is noticed");
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.to_string().contains("base"), "{error}");
        }
    }
}
