//! The rights of new files and directories: their owner's alone.
//!
//! A directory with the setgid bit is shared with its group on purpose. What is made in it has the
//! group's rights of that directory, too. Rights of what exists are never changed.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

const SETGID: u32 = 0o2000;

/// Returns the mode for a new file or socket at `path`: 0600, and more only in a directory that is
/// shared with its group.
pub fn file_mode(path: &Path) -> u32 {
    0o600 | shared(path) & 0o060
}

/// Returns the mode for a new directory at `path`, with the same exception.
pub fn directory_mode(path: &Path) -> u32 {
    0o700 | shared(path)
}

/// Returns the directory that contains a path, in a form that can be opened.
pub(crate) fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Returns the group's rights in the directory of `path`, if that is shared.
fn shared(path: &Path) -> u32 {
    let mode = std::fs::metadata(directory_of(path)).map_or(0, |found| found.mode());
    if mode & SETGID == 0 { 0 } else { mode & 0o070 }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::device::{Files, SystemFiles};

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).expect("there").mode() & 0o777
    }

    #[test]
    fn what_is_made_belongs_to_its_owner_alone() {
        let directory = tempfile::tempdir().expect("directory");
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("mode");
        let below = directory.path().join("a/b");
        SystemFiles.create_directory(&below).expect("directory");
        SystemFiles.create(&below.join("file")).expect("file");
        SystemFiles.lock(&below.join("lock")).expect("lock");
        let found =
            ["a", "a/b", "a/b/file", "a/b/lock"].map(|at| mode_of(&directory.path().join(at)));
        assert_eq!(found, [0o700, 0o700, 0o600, 0o600]);
    }

    #[test]
    fn a_directory_with_the_setgid_bit_is_shared_with_its_group() {
        let directory = tempfile::tempdir().expect("directory");
        let shared = directory.path().join("shared");
        fs::create_dir(&shared).expect("directory");
        fs::set_permissions(&shared, Permissions::from_mode(0o2755)).expect("mode");
        assert_eq!(file_mode(&shared.join("file")), 0o640);
        assert_eq!(directory_mode(&shared.join("below")), 0o750);
    }
}
