//! Recognises the formats by the first bytes of a file.

use std::path::Path;

use hrl::Result;
use hrl::journal::open_mapped;

use crate::{hyperv, log_writes};

/// A journal format of other software that this crate reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ForeignFormat {
    /// A Hyper-V Replica log, read by [`HypervLog`](crate::HypervLog).
    Hyperv,
    /// A log of dm-log-writes, read by [`LogWritesLog`](crate::LogWritesLog).
    LogWrites,
}

impl ForeignFormat {
    /// Returns the format that the file begins like; `None` for any other file, a native segment
    /// included. Only the first bytes are read, so the rest may still be damaged.
    pub fn of(path: &Path) -> Result<Option<Self>> {
        let source = open_mapped(path)?;
        let length = source.length();
        let start = source.read(0..length.min(log_writes::SUPER_BYTES))?;
        Ok(if hyperv::is_hyperv(&start) {
            Some(Self::Hyperv)
        } else if log_writes::is_log_writes(&start) {
            Some(Self::LogWrites)
        } else {
            None
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_recognised_by_their_first_bytes() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("file");
        let mut log_writes = b"rhswfsj\0\x01\0\0\0\0\0\0\0".to_vec();
        log_writes.resize(28, 0);
        for (bytes, expected) in [
            (&b"msctlog \0\0"[..], Some(ForeignFormat::Hyperv)),
            (&log_writes, Some(ForeignFormat::LogWrites)),
            (&log_writes[..27], None),
            (b"msctlo", None),
            (&[0; 100], None),
        ] {
            std::fs::write(&path, bytes).expect("write");
            assert_eq!(ForeignFormat::of(&path).expect("read"), expected, "{bytes:?}");
        }
    }
}
