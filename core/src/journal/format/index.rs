//! Entries of the index of a closed segment.

use super::{FRAME_RAW_BYTES_MAX, bad, check_zero, layout, put, u8_at, u32_at, u64_at};
use crate::error::Result;
use crate::extent::Extent;
use crate::journal::RECORD_DATA_BYTES_MAX;
use crate::macros::{coded, named};
use crate::units::Sequence;

layout! { index_entry, 40;
    OFFSET 0 8
    LENGTH 8 8
    SEQUENCE 16 8
    FRAME 24 4
    DATA_OFFSET 28 4
    KIND 32 1
    RESERVED 33 7
}

pub const INDEX_ENTRY_BYTES: usize = index_entry::BYTES;

named! {
    /// Content of an extent, according to its index entry.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub enum IndexKind {
        /// Its data is in the frame.
        Data = "data",
        /// It reads as zeroes.
        Zero = "zero",
        /// It was discarded and reads as anything. A view returns zeroes, a comparison skips it.
        Undefined = "undefined",
        /// It changed and its data was not captured.
        Touch = "touch",
    }
}
coded!(pub(super) IndexKind);

/// The last writer of an extent within one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// The bytes of the volume.
    pub extent: Extent,
    /// Its content.
    pub kind: IndexKind,
    /// Sequence of its last write.
    pub sequence: Sequence,
    /// Number of the data frame that contains the write.
    pub frame: u32,
    /// Where the extent's first byte lies in the frame's data area.
    pub data_offset: u32,
}

/// Appends an index entry.
pub fn encode_index_entry(entry: &IndexEntry, out: &mut Vec<u8>) {
    let mut bytes = [0; INDEX_ENTRY_BYTES];
    put(&mut bytes, index_entry::OFFSET, &entry.extent.offset.to_le_bytes());
    put(&mut bytes, index_entry::LENGTH, &entry.extent.length.to_le_bytes());
    put(&mut bytes, index_entry::SEQUENCE, &entry.sequence.0.to_le_bytes());
    put(&mut bytes, index_entry::FRAME, &entry.frame.to_le_bytes());
    put(&mut bytes, index_entry::DATA_OFFSET, &entry.data_offset.to_le_bytes());
    put(&mut bytes, index_entry::KIND, &[entry.kind.code()]);
    out.extend_from_slice(&bytes);
}

/// Decodes an entry of the index frame at `at`, of a volume of `device_bytes`.
pub fn decode_index_entry(
    bytes: &[u8],
    device_bytes: u64,
    name: &str,
    at: u64,
) -> Result<IndexEntry> {
    check_zero(bytes, index_entry::RESERVED, name, at)?;
    let code = u8_at(bytes, index_entry::KIND);
    let kind = IndexKind::from_code(code)
        .ok_or_else(|| bad(name, at).expected("a known index kind").found(code))?;
    let offset = u64_at(bytes, index_entry::OFFSET);
    let length = u64_at(bytes, index_entry::LENGTH);
    let data_offset = u32_at(bytes, index_entry::DATA_OFFSET);
    let in_volume = offset.checked_add(length).is_some_and(|end| end <= device_bytes);
    let data_end = length.saturating_add(u64::from(data_offset));
    let in_frame = kind != IndexKind::Data
        || length <= RECORD_DATA_BYTES_MAX as u64 && data_end <= FRAME_RAW_BYTES_MAX as u64;
    if length == 0 || !in_volume || !in_frame {
        return Err(bad(name, at)
            .expected("an extent within the volume and its data within a frame")
            .found(format_args!("{offset}+{length}, data at {data_offset}")));
    }
    Ok(IndexEntry {
        extent: Extent { offset, length },
        kind,
        sequence: Sequence(u64_at(bytes, index_entry::SEQUENCE)),
        frame: u32_at(bytes, index_entry::FRAME),
        data_offset,
    })
}
