//! The state directory of an agent: identity, lock, dirty map and spool of one volume.
//!
//! ```text
//! STATE/state      identity of volume and source, as text
//! STATE/lock       locked while the agent runs
//! STATE/dirty      the dirty map
//! STATE/spool/     sealed segments on their way; open.part is the one being written
//! STATE/failover   a failover to here that is not committed, and STATE/cut.hrl
//! STATE/presence   what a disk that is not whole yet holds, and STATE/base, the state that it hydrates from
//! STATE/follow     how far the disk of an old source follows
//! STATE/rejected/  segments that no longer fit the vault's history, kept for people
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::clock::Clock;
use crate::device::{Files, remove_if_there, replace_file};
use crate::error::{Error, ErrorKind, Result};
use crate::replica::SourceIdentity;
use crate::units::{PointId, Timestamp, VolumeId, decode_hex};

const FIRST_LINE: &str = "hrl state 1";

/// Who the agent is and what it protects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub volume_name: String,
    pub volume: VolumeId,
    pub source: SourceIdentity,
}

/// An open, locked state directory.
pub(crate) struct StateDirectory {
    root: PathBuf,
    files: Arc<dyn Files>,
    _lock: Box<dyn Send + Sync>,
}

impl StateDirectory {
    /// Opens or creates the directory and locks it; `Fenced` when another agent runs with it.
    pub(crate) fn open(files: Arc<dyn Files>, root: &Path) -> Result<Self> {
        let io = |error| Error::io("open state directory", root.display(), error);
        files.create_directory(&root.join("spool")).map_err(io)?;
        let lock = files.lock(&root.join("lock")).map_err(|error| {
            if error.kind() == std::io::ErrorKind::WouldBlock {
                return Error::new(ErrorKind::Fenced, "open state directory", root.display())
                    .message("another agent is running with it");
            }
            io(error)
        })?;
        Ok(Self { root: root.to_owned(), files, _lock: lock })
    }

    /// Where all of it is.
    pub(crate) fn files(&self) -> &Arc<dyn Files> {
        &self.files
    }

    pub(crate) fn path(&self) -> &Path {
        &self.root
    }

    pub(crate) fn dirty_map(&self) -> PathBuf {
        self.root.join("dirty")
    }

    /// Removes the dirty map durably: the next session reads the whole disk.
    pub(crate) fn forget_dirty_map(&self) -> Result<()> {
        let path = self.dirty_map();
        remove_if_there(&*self.files, &path)?;
        self.files
            .sync_directory(&self.root)
            .map_err(|error| Error::io("forget dirty map", path.display(), error))
    }

    /// Files of the retention task; worth nothing once it ended.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.root.join("scratch")
    }

    pub(crate) fn spool(&self) -> PathBuf {
        self.root.join("spool")
    }

    /// Says what of a disk that failed over to here is there; while it exists the disk is not whole.
    pub(crate) fn presence_log(&self) -> PathBuf {
        self.root.join("presence")
    }

    /// The segment being written.
    pub(crate) fn open_segment(&self) -> PathBuf {
        self.root.join("spool/open.part")
    }

    /// Moves a segment that does not fit out of the spool.
    pub(crate) fn reject(&self, path: &Path) -> Result<PathBuf> {
        let directory = self.root.join("rejected");
        let io = |error| Error::io("put aside", path.display(), error);
        self.files.create_directory(&directory).map_err(io)?;
        let target = directory.join(path.file_name().unwrap_or_default());
        self.files.rename(path, &target).map_err(io)?;
        Ok(target)
    }

    /// The identity written last; `None` in a new directory.
    pub(crate) fn identity(&self) -> Result<Option<Identity>> {
        let path = self.root.join("state");
        let text = match self.files.read(&path) {
            Ok(text) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("read state", path.display(), error)),
        };
        parse(&text).map(Some).ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, "read state", path.display())
                .expected(format_args!("{FIRST_LINE:?} and five fields"))
                .found("another text")
        })
    }

    /// Writes the identity durably.
    pub(crate) fn set_identity(&self, identity: &Identity) -> Result<()> {
        let path = self.root.join("state");
        let temporary = self.root.join("state.new");
        let source = PointId(identity.source.id);
        let text = format!(
            "{FIRST_LINE}\nvolume={}\nvolume-id={}\nsource={source}\nhost={}\nsince={}\n",
            identity.volume_name, identity.volume, identity.source.host, identity.source.since
        );
        replace_file(&*self.files, &path, &temporary, [text])
            .map_err(|error| Error::io("write state", path.display(), error))
    }
}

fn parse(text: &str) -> Option<Identity> {
    let mut lines = text.lines();
    if lines.next()? != FIRST_LINE {
        return None;
    }
    let mut field = |name: &str| -> Option<String> {
        lines.next()?.strip_prefix(name)?.strip_prefix('=').map(str::to_owned)
    };
    let volume_name = field("volume")?;
    let volume = VolumeId::parse(&field("volume-id")?)?;
    let mut id = [0; 16];
    if !decode_hex(&field("source")?, &mut id) {
        return None;
    }
    let host = field("host")?;
    let since = Timestamp::parse(&field("since")?).ok()?;
    Some(Identity { volume_name, volume, source: SourceIdentity { id, host, since } })
}

/// A new identity for this host.
pub(crate) fn new_source(clock: &dyn Clock) -> SourceIdentity {
    let mut id = [0; 16];
    clock.fill_random(&mut id);
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    SourceIdentity { id, host, since: clock.now() }
}
