//! What the maps of a tracker hold. Each has one half for each of two epochs.

/// A bit of the map of changed blocks is a block of this size.
pub const BLOCK_BYTES: u64 = 1 << BLOCK_SHIFT;
pub(crate) const BLOCK_SHIFT: i32 = 12;
/// A word has 2^6 bits.
pub(crate) const WORD_SHIFT: i32 = 6;
/// A coarse bit is 2^12 blocks, which are 16 MiB.
pub(crate) const COARSE_SHIFT: i32 = 12;
/// Requests with more bytes set coarse bits.
pub(crate) const LONG_BYTES: i32 = 128 << 20;
/// Words of one epoch of the submitted blocks, which are counted modulo 2^23.
pub(crate) const SUBMITTED_WORDS: u32 = 1 << 17;
/// Words of the control map: a page.
pub(crate) const CONTROL_WORDS: usize = 512;

/// A number in the control map, in a line of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counter {
    /// The present epoch: its lowest bit chooses the half of each map.
    Epoch,
    /// Sectors whose writes were completed.
    Written,
    /// Sectors whose discards were completed.
    Discarded,
    /// Operations that change nobody knows what.
    Unknown,
    /// Requests beyond the end of the disk, as it was when the tracker began.
    Outside,
    /// Kernel's counts minus those above, at the last clean audit.
    BaseWritten,
    BaseDiscarded,
    BaseUnknown,
    /// What a tracker that is opened again must know: a mark of the layout, the size of the disk, and
    /// the number that the kernel gives to no other disk until it boots.
    Magic,
    DiskBytes,
    DiskNumber,
    /// First byte on the whole disk of what is observed.
    Start,
    /// Number that a process gives to what it began. Zero if it gave none.
    Session,
    /// Number that trackers have in common whose epochs are one, and how many they are. Zero of a
    /// tracker that has an epoch of its own.
    Group,
    Members,
}

/// Layout of the maps.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"hrltrk01");

impl Counter {
    pub(crate) fn word(self) -> usize {
        8 * self as usize
    }

    pub(crate) fn offset(self) -> i16 {
        8 * self.word() as i16
    }
}

/// Sizes of the maps of a disk or partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    blocks: u64,
}

impl Layout {
    pub(crate) fn of(disk_bytes: u64) -> Self {
        Self { blocks: disk_bytes.div_ceil(BLOCK_BYTES) }
    }

    /// Returns the words of changed blocks of one epoch.
    pub(crate) fn words(self) -> u32 {
        self.blocks.div_ceil(64) as u32
    }

    /// Returns the words of coarse bits of one epoch.
    pub(crate) fn coarse_words(self) -> u32 {
        (self.blocks >> COARSE_SHIFT).div_ceil(64) as u32 + 1
    }

    pub(crate) fn blocks(self) -> u64 {
        self.blocks
    }
}
