//! The members of a group: a file in the coordinator's state directory with a volume on each line.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use hrl::device::file_mode;
use hrl::store::check_name;
use hrl::{Error, ErrorKind, Result};

/// Most members of a group.
pub const MEMBERS_MAX: usize = 64;
const MEMBERS_FILE_BYTES_MAX: u64 = 64 << 10;

fn path_in(state: &Path) -> PathBuf {
    state.join("members")
}

/// Writes the members durably.
pub(crate) fn write<'a>(state: &Path, members: impl Iterator<Item = &'a String>) -> Result<()> {
    let mut text: String = members.flat_map(|v| [v.as_str(), "\n"]).collect();
    text.insert_str(0, "# members of the group, a volume each\n");
    let path = path_in(state);
    let new = path.with_extension("new");
    let io = |error| Error::io("write members of group", path.display(), error);
    let mode = file_mode(&new);
    let file = File::options().write(true).create(true).truncate(true).mode(mode).open(&new);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(io)?;
    File::open(&new).and_then(|file| file.sync_all()).map_err(io)?;
    std::fs::rename(&new, &path).map_err(io)?;
    File::open(state).and_then(|dir| dir.sync_all()).map_err(io)
}

/// Returns the members; none if the file does not exist.
pub(crate) fn read(state: &Path) -> Result<Vec<String>> {
    let path = path_in(state);
    let io = |error| Error::io("read members of group", path.display(), error);
    match std::fs::metadata(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io(error)),
        Ok(metadata) if metadata.len() > MEMBERS_FILE_BYTES_MAX => {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "read members of group",
                path.display(),
            )
            .expected(format_args!("at most {MEMBERS_FILE_BYTES_MAX} bytes"))
            .found(metadata.len()));
        }
        Ok(_) => {}
    }
    let text = std::fs::read_to_string(&path).map_err(io)?;
    let volumes: Vec<_> =
        text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
    volumes.iter().try_for_each(|volume| check_name(volume))?;
    if volumes.len() > MEMBERS_MAX {
        return Err(Error::new(ErrorKind::Full, "read members of group", path.display())
            .expected(format_args!("at most {MEMBERS_MAX} members"))
            .found(volumes.len()));
    }
    Ok(volumes.into_iter().map(str::to_owned).collect())
}
