//! What shows which disk a device is, and whether it was written.

/// What a device knows of its disk from outside the content.
///
/// An agent records it at a clean stop, and compares it at the next start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Witness {
    /// What names the disk itself, as kind and value: `wwid naa.5000c500a1b2c3d4`. Another value of
    /// the same kind is another disk. `None` if the disk has no name of its own.
    pub id: Option<String>,
    /// What names the file that the content is in. The same text shows the same file; another text
    /// shows nothing, because a file may be copied. `None` if the content is in no file.
    pub place: Option<String>,
    /// Whether a write leaves a trace.
    pub writes: Writes,
}

/// Whether a write to a disk leaves a trace outside its content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Writes {
    /// Nothing is known: [`BlockDevice::modified`](super::BlockDevice::modified) and samples of the
    /// content decide.
    #[default]
    Unknown,
    /// A text that every write changes, whoever writes. While it stays the same, the disk is
    /// untouched.
    Counted(String),
    /// Anybody may write without a trace, so the content must be read again.
    Untraced,
}
