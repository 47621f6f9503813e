//! The bytes of a segment. `core/docs/format.md` specifies them; no other module knows an offset.
//!
//! Each structure is a [`layout!`] of named byte ranges, shared by encoder and decoder. A test
//! compares them with the tables of the specification. Every decoder is total: any bytes give a
//! value or an error that identifies the place. Lengths are checked against the limits below before
//! anything is allocated.

mod frame;
mod header;
mod index;
#[cfg(any(test, feature = "testing"))]
mod mend;
mod notes;
mod record;
#[cfg(test)]
mod spec_tests;
#[cfg(test)]
pub(crate) mod specification;

pub(super) use frame::{FOOTER_BYTES, FRAME_HEADER_BYTES, Footer, FrameHeader, FrameKind};
pub(super) use header::{Aead, Codec, HEADER_BYTES, Header};
pub(super) use index::{INDEX_ENTRY_BYTES, decode_index_entry, encode_index_entry};
pub use index::{IndexEntry, IndexKind};
#[cfg(any(test, feature = "testing"))]
pub use mend::mend_segment;
pub(super) use notes::Notes;
pub(super) use record::{Descriptor, RECORD_BYTES, encode_record};

use std::ops::Range;

use crate::error::{Error, ErrorKind, Result};

/// First bytes of a segment. Not text, so that a transfer that converts text damages them.
pub(super) const MAGIC: [u8; 8] = *b"\x89HRL\r\n\x1a\n";
pub(super) const VERSION_MAJOR: u16 = 1;
pub(super) const VERSION_MINOR: u16 = 1;
/// Incompatible features that this build knows: none.
pub(super) const FEATURES_INCOMPATIBLE: u64 = 0;

/// Most bytes in a frame before compression.
pub(super) const FRAME_RAW_BYTES_MAX: usize = 16 << 20;
/// Most bytes that a writer may aim at for a data frame. The largest record still fits on top.
pub(super) const FRAME_TARGET_BYTES_MAX: u64 = 8 << 20;
/// Most data frames in a segment. Their offsets fit into the notes frame.
pub(super) const DATA_FRAMES_MAX: u32 = 1 << 20;
/// Most marks and order changes in a segment. They fit into the notes frame beside the offsets.
pub(super) const NOTES_RECORDS_MAX: u32 = 1 << 14;
/// Most records of a segment that change the volume. The index has at most twice as many entries.
pub(super) const EXTENT_RECORDS_MAX: u64 = 1 << 23;
/// Most entries in one index frame.
pub(super) const INDEX_FRAME_ENTRIES_MAX: u32 = 1 << 16;
/// The number under which the footer is authenticated; no frame has it.
pub(super) const FOOTER_NUMBER: u32 = u32::MAX;

/// Names the byte ranges of a structure.
macro_rules! layout {
    ($module:ident, $bytes:literal; $($name:ident $offset:literal $size:literal)*) => {
        #[allow(dead_code, reason = "some fields are written as zeroes and never looked at")]
        pub mod $module {
            use std::ops::Range;
            pub const BYTES: usize = $bytes;
            $(pub const $name: Range<usize> = $offset..$offset + $size;)*
            #[cfg(test)]
            pub const FIELDS: &[(&str, usize, usize)] =
                &[$((stringify!($name), $offset, $size)),*];
        }
    };
}
use layout;

fn bad(name: &str, at: u64) -> Error {
    Error::new(ErrorKind::Corrupt, "read segment", name).at(at)
}

fn array_at<const N: usize>(bytes: &[u8], field: Range<usize>) -> [u8; N] {
    bytes[field].try_into().expect("a field's size is its type's")
}

fn u8_at(bytes: &[u8], field: Range<usize>) -> u8 {
    bytes[field.start]
}

fn u16_at(bytes: &[u8], field: Range<usize>) -> u16 {
    u16::from_le_bytes(array_at(bytes, field))
}

fn u32_at(bytes: &[u8], field: Range<usize>) -> u32 {
    u32::from_le_bytes(array_at(bytes, field))
}

fn u64_at(bytes: &[u8], field: Range<usize>) -> u64 {
    u64::from_le_bytes(array_at(bytes, field))
}

fn i64_at(bytes: &[u8], field: Range<usize>) -> i64 {
    i64::from_le_bytes(array_at(bytes, field))
}

fn put(bytes: &mut [u8], field: Range<usize>, value: &[u8]) {
    bytes[field].copy_from_slice(value);
}

/// Checks that a reserved field is zero. `bytes` begin at `base` in the segment.
fn check_zero(bytes: &[u8], field: Range<usize>, name: &str, base: u64) -> Result<()> {
    match bytes[field.clone()].iter().position(|byte| *byte != 0) {
        None => Ok(()),
        Some(at) => Err(bad(name, base + (field.start + at) as u64)
            .expected("zero in a reserved field")
            .found(bytes[field.start + at])),
    }
}

fn check_crc(expected: u32, found: u32, name: &str, at: u64) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(bad(name, at)
        .expected(format_args!("checksum {expected:#010x}"))
        .found(format_args!("{found:#010x}")))
}
