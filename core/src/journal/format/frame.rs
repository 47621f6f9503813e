//! Headers of frames, and the footer at the end of a closed segment.
//!
//! Both end with a tag (zeroes without a key) and a checksum. The tag authenticates what is before
//! it.

use super::{
    Codec, DATA_FRAMES_MAX, FRAME_RAW_BYTES_MAX, HEADER_BYTES, array_at, bad, check_crc,
    check_zero, i64_at, layout, put, u8_at, u32_at, u64_at,
};
use crate::error::Result;
use crate::units::{ChainHash, Sequence, Timestamp};

layout! { frame, 64;
    MAGIC 0 4
    NUMBER 4 4
    KIND 8 1
    CODEC 9 1
    RESERVED_1 10 2
    STORED_BYTES 12 4
    RAW_BYTES 16 4
    COUNT 20 4
    FIRST_SEQUENCE 24 8
    LAST_SEQUENCE 32 8
    TAG 40 16
    RESERVED_2 56 4
    CHECKSUM 60 4
}

layout! { footer, 128;
    MAGIC 0 4
    FRAMES 4 4
    INDEX_OFFSET 8 8
    NOTES_OFFSET 16 8
    LAST_SEQUENCE 24 8
    RECORDS 32 8
    DATA_BYTES 40 8
    CHAIN 48 32
    LENGTH 80 8
    FIRST_TIME 88 8
    LAST_TIME 96 8
    DATA_FRAMES 104 4
    TAG 108 16
    CHECKSUM 124 4
}

pub const FRAME_HEADER_BYTES: usize = frame::BYTES;
/// Bytes of a frame header that are authenticated beside the content.
pub const FRAME_AAD_BYTES: usize = frame::TAG.start;
pub const FOOTER_BYTES: usize = footer::BYTES;
/// Bytes of the footer that are authenticated.
pub const FOOTER_AAD_BYTES: usize = footer::TAG.start;

pub(super) const FRAME_MAGIC: [u8; 4] = *b"HRLF";
const FOOTER_MAGIC: [u8; 4] = *b"HRLZ";

/// What a frame contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    Data = 1,
    Index = 2,
    Notes = 3,
}

/// The header of a frame. `tag` is zero without a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    pub number: u32,
    pub kind: FrameKind,
    pub codec: Codec,
    pub stored_bytes: u32,
    pub raw_bytes: u32,
    pub count: u32,
    pub first_sequence: Sequence,
    pub last_sequence: Sequence,
    pub tag: [u8; 16],
}

/// The end of a closed segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Footer {
    pub frames: u32,
    pub data_frames: u32,
    pub index_offset: u64,
    pub notes_offset: u64,
    pub last_sequence: Sequence,
    pub records: u64,
    pub data_bytes: u64,
    pub chain: ChainHash,
    pub length: u64,
    pub first_time: Timestamp,
    pub last_time: Timestamp,
    pub tag: [u8; 16],
}

impl FrameHeader {
    /// Encodes what is authenticated: all but tag and checksum.
    pub fn encode_aad(&self) -> [u8; FRAME_AAD_BYTES] {
        let mut bytes = [0; FRAME_AAD_BYTES];
        put(&mut bytes, frame::MAGIC, &FRAME_MAGIC);
        put(&mut bytes, frame::NUMBER, &self.number.to_le_bytes());
        put(&mut bytes, frame::KIND, &[self.kind as u8]);
        put(&mut bytes, frame::CODEC, &[self.codec as u8]);
        put(&mut bytes, frame::STORED_BYTES, &self.stored_bytes.to_le_bytes());
        put(&mut bytes, frame::RAW_BYTES, &self.raw_bytes.to_le_bytes());
        put(&mut bytes, frame::COUNT, &self.count.to_le_bytes());
        put(&mut bytes, frame::FIRST_SEQUENCE, &self.first_sequence.0.to_le_bytes());
        put(&mut bytes, frame::LAST_SEQUENCE, &self.last_sequence.0.to_le_bytes());
        bytes
    }

    pub fn encode(&self, stored: &[u8]) -> [u8; FRAME_HEADER_BYTES] {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        bytes[..FRAME_AAD_BYTES].copy_from_slice(&self.encode_aad());
        put(&mut bytes, frame::TAG, &self.tag);
        let checksum = Self::checksum(&bytes, stored);
        put(&mut bytes, frame::CHECKSUM, &checksum.to_le_bytes());
        bytes
    }

    /// Decodes the header at `at`. `check_content` checks its checksum, which covers the content
    /// too.
    pub fn decode(bytes: &[u8], name: &str, at: u64) -> Result<Self> {
        if bytes.len() < FRAME_HEADER_BYTES {
            return Err(bad(name, at)
                .expected(format_args!("a frame header of {FRAME_HEADER_BYTES} bytes"))
                .found(format_args!("{} bytes", bytes.len())));
        }
        if bytes[frame::MAGIC] != FRAME_MAGIC {
            return Err(bad(name, at)
                .expected("frame magic HRLF")
                .found(format_args!("{:02x?}", &bytes[frame::MAGIC])));
        }
        check_zero(bytes, frame::RESERVED_1, name, at)?;
        check_zero(bytes, frame::RESERVED_2, name, at)?;
        let kind = match u8_at(bytes, frame::KIND) {
            1 => FrameKind::Data,
            2 => FrameKind::Index,
            3 => FrameKind::Notes,
            other => {
                return Err(bad(name, at + frame::KIND.start as u64)
                    .expected("a known frame kind")
                    .found(other));
            }
        };
        let code = u8_at(bytes, frame::CODEC);
        let codec = Codec::decode(code).ok_or_else(|| {
            bad(name, at + frame::CODEC.start as u64).expected("a known codec").found(code)
        })?;
        let header = Self {
            number: u32_at(bytes, frame::NUMBER),
            kind,
            codec,
            stored_bytes: u32_at(bytes, frame::STORED_BYTES),
            raw_bytes: u32_at(bytes, frame::RAW_BYTES),
            count: u32_at(bytes, frame::COUNT),
            first_sequence: Sequence(u64_at(bytes, frame::FIRST_SEQUENCE)),
            last_sequence: Sequence(u64_at(bytes, frame::LAST_SEQUENCE)),
            tag: array_at(bytes, frame::TAG),
        };
        let (stored, raw) = (header.stored_bytes as usize, header.raw_bytes as usize);
        if raw > FRAME_RAW_BYTES_MAX || stored > raw || (codec == Codec::Stored && stored != raw) {
            return Err(bad(name, at + frame::STORED_BYTES.start as u64)
                .expected(format_args!(
                    "at most {FRAME_RAW_BYTES_MAX} bytes, stored no longer than raw"
                ))
                .found(format_args!("{stored} stored, {raw} raw")));
        }
        Ok(header)
    }

    /// Compares the checksum of the header in `bytes` with the header and its content.
    pub fn check_content(bytes: &[u8], stored: &[u8], name: &str, at: u64) -> Result<()> {
        let expected = Self::checksum(bytes, stored);
        check_crc(expected, u32_at(bytes, frame::CHECKSUM), name, at + frame::CHECKSUM.start as u64)
    }

    fn checksum(bytes: &[u8], stored: &[u8]) -> u32 {
        let mut checksum = crc32fast::Hasher::new();
        checksum.update(&bytes[..frame::CHECKSUM.start]);
        checksum.update(stored);
        checksum.finalize()
    }
}

impl Footer {
    /// Encodes what is authenticated: all but tag and checksum.
    pub fn encode_aad(&self) -> [u8; FOOTER_AAD_BYTES] {
        let mut bytes = [0; FOOTER_AAD_BYTES];
        put(&mut bytes, footer::MAGIC, &FOOTER_MAGIC);
        put(&mut bytes, footer::FRAMES, &self.frames.to_le_bytes());
        put(&mut bytes, footer::INDEX_OFFSET, &self.index_offset.to_le_bytes());
        put(&mut bytes, footer::NOTES_OFFSET, &self.notes_offset.to_le_bytes());
        put(&mut bytes, footer::LAST_SEQUENCE, &self.last_sequence.0.to_le_bytes());
        put(&mut bytes, footer::RECORDS, &self.records.to_le_bytes());
        put(&mut bytes, footer::DATA_BYTES, &self.data_bytes.to_le_bytes());
        put(&mut bytes, footer::CHAIN, &self.chain.0);
        put(&mut bytes, footer::LENGTH, &self.length.to_le_bytes());
        put(&mut bytes, footer::FIRST_TIME, &self.first_time.0.to_le_bytes());
        put(&mut bytes, footer::LAST_TIME, &self.last_time.0.to_le_bytes());
        put(&mut bytes, footer::DATA_FRAMES, &self.data_frames.to_le_bytes());
        bytes
    }

    pub fn encode(&self) -> [u8; FOOTER_BYTES] {
        let mut bytes = [0; FOOTER_BYTES];
        bytes[..FOOTER_AAD_BYTES].copy_from_slice(&self.encode_aad());
        put(&mut bytes, footer::TAG, &self.tag);
        let checksum = crc32fast::hash(&bytes[..footer::CHECKSUM.start]);
        put(&mut bytes, footer::CHECKSUM, &checksum.to_le_bytes());
        bytes
    }

    /// Decodes the last bytes of a segment of `length` bytes.
    pub fn decode(bytes: &[u8; FOOTER_BYTES], name: &str, length: u64) -> Result<Self> {
        let at = length.saturating_sub(FOOTER_BYTES as u64);
        if bytes[footer::MAGIC] != FOOTER_MAGIC {
            return Err(bad(name, at)
                .message("the segment was not closed, or its end was cut off")
                .expected("footer magic HRLZ")
                .found(format_args!("{:02x?}", &bytes[footer::MAGIC])));
        }
        let checksum = crc32fast::hash(&bytes[..footer::CHECKSUM.start]);
        let stored = u32_at(bytes, footer::CHECKSUM);
        check_crc(checksum, stored, name, at + footer::CHECKSUM.start as u64)?;
        let decoded = Self {
            frames: u32_at(bytes, footer::FRAMES),
            data_frames: u32_at(bytes, footer::DATA_FRAMES),
            index_offset: u64_at(bytes, footer::INDEX_OFFSET),
            notes_offset: u64_at(bytes, footer::NOTES_OFFSET),
            last_sequence: Sequence(u64_at(bytes, footer::LAST_SEQUENCE)),
            records: u64_at(bytes, footer::RECORDS),
            data_bytes: u64_at(bytes, footer::DATA_BYTES),
            chain: ChainHash(array_at(bytes, footer::CHAIN)),
            length: u64_at(bytes, footer::LENGTH),
            first_time: Timestamp(i64_at(bytes, footer::FIRST_TIME)),
            last_time: Timestamp(i64_at(bytes, footer::LAST_TIME)),
            tag: array_at(bytes, footer::TAG),
        };
        decoded.check(name, at, length)?;
        Ok(decoded)
    }

    /// Checks that the parts lie in this order: header, data frames, index, notes, footer.
    fn check(&self, name: &str, at: u64, length: u64) -> Result<()> {
        if self.length != length {
            return Err(bad(name, at + footer::LENGTH.start as u64)
                .expected(format_args!("a length of {length} bytes, as the object has"))
                .found(self.length));
        }
        let ordered = HEADER_BYTES as u64 <= self.index_offset
            && self.index_offset <= self.notes_offset
            && self.notes_offset < at;
        if !ordered {
            return Err(bad(name, at + footer::INDEX_OFFSET.start as u64)
                .expected("index and notes between header and footer")
                .found(format_args!("{} and {}", self.index_offset, self.notes_offset)));
        }
        if self.data_frames >= self.frames || self.data_frames > DATA_FRAMES_MAX {
            return Err(bad(name, at + footer::DATA_FRAMES.start as u64)
                .expected(format_args!("less than {} data frames", self.frames))
                .found(self.data_frames));
        }
        Ok(())
    }
}
