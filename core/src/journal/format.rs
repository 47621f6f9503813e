//! The bytes of a native segment. `core/docs/format.md` is the specification; no other module knows an offset.
//!
//! Every decoder here is total: any bytes give a value or an error that names the place. Lengths are checked
//! against the limits below before anything is allocated.

use super::{Body, Mark, MarkEntry, OrderChange, PointKind, Record, SegmentKind};
use crate::device::Discarded;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Cause;
use crate::extent::Extent;
use crate::units::{ChainHash, Epoch, KeyId, PointId, Sequence, Timestamp, VolumeId};

/// First bytes of a segment: not text, and damaged by every transfer that takes it for text.
pub(super) const MAGIC: [u8; 8] = *b"\x89HRL\r\n\x1a\n";
pub(super) const VERSION_MAJOR: u16 = 1;
pub(super) const VERSION_MINOR: u16 = 0;
pub(super) const HEADER_BYTES: usize = 256;
pub(super) const FRAME_HEADER_BYTES: usize = 64;
pub(super) const FOOTER_BYTES: usize = 128;
pub(super) const RECORD_BYTES: usize = 40;
pub(super) const INDEX_ENTRY_BYTES: usize = 40;
/// Bytes of a frame header that are authenticated beside the content.
pub(super) const FRAME_AAD_BYTES: usize = 40;
/// Bytes of the footer that are authenticated.
pub(super) const FOOTER_AAD_BYTES: usize = 108;
/// Most bytes in a frame before compression.
pub(super) const FRAME_RAW_BYTES_MAX: usize = 16 << 20;
/// Most entries in one index frame.
pub(super) const INDEX_FRAME_ENTRIES_MAX: usize = 1 << 16;
/// Frames of a segment; the number above is the footer's nonce.
pub(super) const FRAMES_MAX: u32 = u32::MAX - 1;
pub(super) const FOOTER_NONCE: u32 = u32::MAX;
/// Most data in a mark record.
const MARK_BYTES_MAX: usize = 36 + super::LABEL_BYTES_MAX;

const FRAME_MAGIC: [u8; 4] = *b"HRLF";
const FOOTER_MAGIC: [u8; 4] = *b"HRLZ";
/// Incompatible features that this build knows: none.
const FEATURES_INCOMPATIBLE: u64 = 0;

/// How the content of a frame is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    Stored,
    Zstd,
}

/// How frames are sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aead {
    None,
    ChaCha20Poly1305,
}

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrameKind {
    Data,
    Index,
    Notes,
}

/// The header of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub kind: SegmentKind,
    pub codec: Codec,
    pub aead: Aead,
    pub block_bytes: u32,
    pub volume: VolumeId,
    pub key_id: KeyId,
    pub salt: [u8; 16],
    pub epoch: Epoch,
    pub first_sequence: Sequence,
    pub device_bytes: u64,
    pub created: Timestamp,
    pub previous: ChainHash,
    pub replaces_through: ChainHash,
}

/// The header of a frame. `tag` is zero without a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FrameHeader {
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

/// The end of a sealed segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Footer {
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

/// What an index entry says of its extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IndexKind {
    /// Its data is in the frame.
    Data,
    /// It reads as zeroes.
    Zero,
    /// It was discarded and reads as anything; a view gives zeroes and a comparison skips it.
    Undefined,
    /// It changed and its data was not captured.
    Touch,
}

/// The last writer of an extent within one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// The bytes of the volume.
    pub extent: Extent,
    /// What is known of them.
    pub kind: IndexKind,
    /// The write that they come from.
    pub sequence: Sequence,
    /// Number of the data frame that holds the write.
    pub frame: u32,
    /// Where the extent's first byte lies in the frame's data area.
    pub data_offset: u32,
}

fn bad(name: &str, at: u64) -> Error {
    Error::new(ErrorKind::Corrupt, "read segment", name).at(at)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("2 bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("N bytes")
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn check_zero(bytes: &[u8], range: std::ops::Range<usize>, name: &str, base: u64) -> Result<()> {
    match bytes[range.clone()].iter().position(|byte| *byte != 0) {
        None => Ok(()),
        Some(at) => Err(bad(name, base + (range.start + at) as u64)
            .expected("zero in a reserved field")
            .found(bytes[range.start + at])),
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

impl Codec {
    fn decode(code: u8) -> Option<Self> {
        [Self::Stored, Self::Zstd].get(usize::from(code)).copied()
    }
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        put(&mut bytes, 0, &MAGIC);
        put(&mut bytes, 8, &VERSION_MAJOR.to_le_bytes());
        put(&mut bytes, 10, &VERSION_MINOR.to_le_bytes());
        put(&mut bytes, 12, &(HEADER_BYTES as u32).to_le_bytes());
        bytes[40] = match self.kind {
            SegmentKind::Log => 1,
            SegmentKind::Merged => 2,
            SegmentKind::Image => 3,
        };
        bytes[41] = self.codec as u8;
        bytes[42] = self.aead as u8;
        put(&mut bytes, 44, &self.block_bytes.to_le_bytes());
        put(&mut bytes, 48, &self.volume.0);
        put(&mut bytes, 64, &self.key_id.0);
        put(&mut bytes, 80, &self.salt);
        put(&mut bytes, 96, &self.epoch.0.to_le_bytes());
        put(&mut bytes, 104, &self.first_sequence.0.to_le_bytes());
        put(&mut bytes, 112, &self.device_bytes.to_le_bytes());
        put(&mut bytes, 120, &self.created.0.to_le_bytes());
        put(&mut bytes, 128, &self.previous.0);
        put(&mut bytes, 160, &self.replaces_through.0);
        let crc = crc32fast::hash(&bytes[..252]);
        put(&mut bytes, 252, &crc.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8], name: &str) -> Result<Self> {
        if bytes.len() < HEADER_BYTES {
            return Err(bad(name, bytes.len() as u64)
                .expected(format_args!("a header of {HEADER_BYTES} bytes"))
                .found(format_args!("{} bytes", bytes.len())));
        }
        let bytes = &bytes[..HEADER_BYTES];
        if bytes[..8] != MAGIC {
            return Err(bad(name, 0)
                .expected(format_args!("magic {MAGIC:02x?}"))
                .found(format_args!("{:02x?}", &bytes[..8])));
        }
        check_crc(crc32fast::hash(&bytes[..252]), u32_at(bytes, 252), name, 252)?;
        Self::check_versions(bytes, name)?;
        check_zero(bytes, 43..44, name, 0)?;
        check_zero(bytes, 100..104, name, 0)?;
        check_zero(bytes, 192..252, name, 0)?;
        let unknown = |at: usize, what: &str| {
            Err(bad(name, at as u64).expected(format_args!("a known {what}")).found(bytes[at]))
        };
        let kind = match bytes[40] {
            1 => SegmentKind::Log,
            2 => SegmentKind::Merged,
            3 => SegmentKind::Image,
            _ => return unknown(40, "segment kind"),
        };
        let Some(codec) = Codec::decode(bytes[41]) else { return unknown(41, "codec") };
        let aead = match bytes[42] {
            0 => Aead::None,
            1 => Aead::ChaCha20Poly1305,
            _ => return unknown(42, "AEAD algorithm"),
        };
        Ok(Self {
            kind,
            codec,
            aead,
            block_bytes: u32_at(bytes, 44),
            volume: VolumeId(array_at(bytes, 48)),
            key_id: KeyId(array_at(bytes, 64)),
            salt: array_at(bytes, 80),
            epoch: Epoch(u32_at(bytes, 96)),
            first_sequence: Sequence(u64_at(bytes, 104)),
            device_bytes: u64_at(bytes, 112),
            created: Timestamp(u64_at(bytes, 120).cast_signed()),
            previous: ChainHash(array_at(bytes, 128)),
            replaces_through: ChainHash(array_at(bytes, 160)),
        })
    }

    fn check_versions(bytes: &[u8], name: &str) -> Result<()> {
        let unsupported = |at: u64| Error::new(ErrorKind::Unsupported, "read segment", name).at(at);
        if u16_at(bytes, 8) != VERSION_MAJOR {
            return Err(unsupported(8)
                .expected(format_args!("major version {VERSION_MAJOR}"))
                .found(u16_at(bytes, 8)));
        }
        if u64_at(bytes, 16) & !FEATURES_INCOMPATIBLE != 0 {
            return Err(unsupported(16)
                .expected("no incompatible feature beyond this build's")
                .found(format_args!("bits {:#x}", u64_at(bytes, 16))));
        }
        if u32_at(bytes, 12) as usize != HEADER_BYTES {
            return Err(bad(name, 12).expected(HEADER_BYTES).found(u32_at(bytes, 12)));
        }
        Ok(())
    }
}

impl FrameHeader {
    /// Encodes all but tag and checksum: what is authenticated.
    pub(super) fn encode_aad(&self) -> [u8; FRAME_AAD_BYTES] {
        let mut bytes = [0; FRAME_AAD_BYTES];
        put(&mut bytes, 0, &FRAME_MAGIC);
        put(&mut bytes, 4, &self.number.to_le_bytes());
        bytes[8] = match self.kind {
            FrameKind::Data => 1,
            FrameKind::Index => 2,
            FrameKind::Notes => 3,
        };
        bytes[9] = self.codec as u8;
        put(&mut bytes, 12, &self.stored_bytes.to_le_bytes());
        put(&mut bytes, 16, &self.raw_bytes.to_le_bytes());
        put(&mut bytes, 20, &self.count.to_le_bytes());
        put(&mut bytes, 24, &self.first_sequence.0.to_le_bytes());
        put(&mut bytes, 32, &self.last_sequence.0.to_le_bytes());
        bytes
    }

    pub(super) fn encode(&self, stored: &[u8]) -> [u8; FRAME_HEADER_BYTES] {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        put(&mut bytes, 0, &self.encode_aad());
        put(&mut bytes, 40, &self.tag);
        let mut crc = crc32fast::Hasher::new();
        crc.update(&bytes[..60]);
        crc.update(stored);
        put(&mut bytes, 60, &crc.finalize().to_le_bytes());
        bytes
    }

    /// Decodes the header at `at`; its checksum covers the content too and is checked by `check_content`.
    pub(super) fn decode(bytes: &[u8], name: &str, at: u64) -> Result<Self> {
        if bytes.len() < FRAME_HEADER_BYTES {
            return Err(bad(name, at)
                .expected(format_args!("a frame header of {FRAME_HEADER_BYTES} bytes"))
                .found(format_args!("{} bytes", bytes.len())));
        }
        if bytes[..4] != FRAME_MAGIC {
            return Err(bad(name, at)
                .expected("frame magic HRLF")
                .found(format_args!("{:02x?}", &bytes[..4])));
        }
        check_zero(bytes, 10..12, name, at)?;
        check_zero(bytes, 56..60, name, at)?;
        let unknown = |offset: usize, what: &str| {
            Err(bad(name, at + offset as u64)
                .expected(format_args!("a known {what}"))
                .found(bytes[offset]))
        };
        let kind = match bytes[8] {
            1 => FrameKind::Data,
            2 => FrameKind::Index,
            3 => FrameKind::Notes,
            _ => return unknown(8, "frame kind"),
        };
        let Some(codec) = Codec::decode(bytes[9]) else { return unknown(9, "codec") };
        let header = Self {
            number: u32_at(bytes, 4),
            kind,
            codec,
            stored_bytes: u32_at(bytes, 12),
            raw_bytes: u32_at(bytes, 16),
            count: u32_at(bytes, 20),
            first_sequence: Sequence(u64_at(bytes, 24)),
            last_sequence: Sequence(u64_at(bytes, 32)),
            tag: array_at(bytes, 40),
        };
        let (stored, raw) = (header.stored_bytes as usize, header.raw_bytes as usize);
        if raw > FRAME_RAW_BYTES_MAX || stored > raw || (codec == Codec::Stored && stored != raw) {
            return Err(bad(name, at + 12)
                .expected(format_args!(
                    "at most {FRAME_RAW_BYTES_MAX} bytes, stored no longer than raw"
                ))
                .found(format_args!("{stored} stored, {raw} raw")));
        }
        Ok(header)
    }

    /// Checks the checksum of the header in `bytes` with its content.
    pub(super) fn check_content(bytes: &[u8], stored: &[u8], name: &str, at: u64) -> Result<()> {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&bytes[..60]);
        crc.update(stored);
        check_crc(crc.finalize(), u32_at(bytes, 60), name, at + 60)
    }
}

impl Footer {
    /// Encodes all but tag and checksum: what is authenticated.
    pub(super) fn encode_aad(&self) -> [u8; FOOTER_AAD_BYTES] {
        let mut bytes = [0; FOOTER_AAD_BYTES];
        put(&mut bytes, 0, &FOOTER_MAGIC);
        put(&mut bytes, 4, &self.frames.to_le_bytes());
        put(&mut bytes, 8, &self.index_offset.to_le_bytes());
        put(&mut bytes, 16, &self.notes_offset.to_le_bytes());
        put(&mut bytes, 24, &self.last_sequence.0.to_le_bytes());
        put(&mut bytes, 32, &self.records.to_le_bytes());
        put(&mut bytes, 40, &self.data_bytes.to_le_bytes());
        put(&mut bytes, 48, &self.chain.0);
        put(&mut bytes, 80, &self.length.to_le_bytes());
        put(&mut bytes, 88, &self.first_time.0.to_le_bytes());
        put(&mut bytes, 96, &self.last_time.0.to_le_bytes());
        put(&mut bytes, 104, &self.data_frames.to_le_bytes());
        bytes
    }

    pub(super) fn encode(&self) -> [u8; FOOTER_BYTES] {
        let mut bytes = [0; FOOTER_BYTES];
        put(&mut bytes, 0, &self.encode_aad());
        put(&mut bytes, 108, &self.tag);
        let crc = crc32fast::hash(&bytes[..124]);
        put(&mut bytes, 124, &crc.to_le_bytes());
        bytes
    }

    /// Decodes the last bytes of a segment of `length` bytes.
    pub(super) fn decode(bytes: &[u8; FOOTER_BYTES], name: &str, length: u64) -> Result<Self> {
        let at = length - FOOTER_BYTES as u64;
        if bytes[..4] != FOOTER_MAGIC {
            return Err(bad(name, at)
                .message("the segment was not sealed, or its end was cut off")
                .expected("footer magic HRLZ")
                .found(format_args!("{:02x?}", &bytes[..4])));
        }
        check_crc(crc32fast::hash(&bytes[..124]), u32_at(bytes, 124), name, at + 124)?;
        let footer = Self {
            frames: u32_at(bytes, 4),
            data_frames: u32_at(bytes, 104),
            index_offset: u64_at(bytes, 8),
            notes_offset: u64_at(bytes, 16),
            last_sequence: Sequence(u64_at(bytes, 24)),
            records: u64_at(bytes, 32),
            data_bytes: u64_at(bytes, 40),
            chain: ChainHash(array_at(bytes, 48)),
            length: u64_at(bytes, 80),
            first_time: Timestamp(u64_at(bytes, 88).cast_signed()),
            last_time: Timestamp(u64_at(bytes, 96).cast_signed()),
            tag: array_at(bytes, 108),
        };
        if footer.length != length {
            return Err(bad(name, at + 80)
                .expected(format_args!("a length of {length} bytes, as the object has"))
                .found(footer.length));
        }
        let ordered = HEADER_BYTES as u64 <= footer.index_offset
            && footer.index_offset <= footer.notes_offset
            && footer.notes_offset + FRAME_HEADER_BYTES as u64 <= at;
        if !ordered || footer.data_frames >= footer.frames {
            return Err(bad(name, at + 8)
                .expected("index and notes between header and footer")
                .found(format_args!("{} and {}", footer.index_offset, footer.notes_offset)));
        }
        Ok(footer)
    }
}

/// Appends the descriptor of a record to `table`, and the data of a record that has some to `data`.
pub(super) fn encode_record(record: &Record<'_>, table: &mut Vec<u8>, data: &mut Vec<u8>) {
    let mark;
    let (kind, argument, extent, payload): (u8, u8, Extent, &[u8]) = match &record.body {
        Body::Write { data, .. } => (1, 0, record.body.extent(), data),
        Body::Zero(extent) => (2, 0, *extent, &[]),
        Body::Discard(extent, Discarded::Undefined) => (4, 0, *extent, &[]),
        Body::Discard(extent, _) => (3, 0, *extent, &[]),
        Body::Touch(extent) => (5, 0, *extent, &[]),
        Body::Flush => (6, 0, Extent::default(), &[]),
        Body::Mark(body) => {
            mark = encode_mark(body);
            (7, 0, Extent::default(), &mark)
        }
        Body::UnorderedBegin(cause) => (8, cause.code(), Extent::default(), &[]),
        Body::UnorderedEnd => (9, 0, Extent::default(), &[]),
    };
    let mut bytes = [0; RECORD_BYTES];
    bytes[0] = kind;
    bytes[1] = argument;
    put(&mut bytes, 4, &(payload.len() as u32).to_le_bytes());
    put(&mut bytes, 8, &extent.offset.to_le_bytes());
    put(&mut bytes, 16, &extent.length.to_le_bytes());
    put(&mut bytes, 24, &record.sequence.0.to_le_bytes());
    put(&mut bytes, 32, &record.time.0.to_le_bytes());
    table.extend_from_slice(&bytes);
    data.extend_from_slice(payload);
}

fn encode_mark(mark: &Mark) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(MARK_BYTES_MAX);
    bytes.extend_from_slice(&mark.point.0);
    let kind = PointKind::ALL.iter().position(|kind| *kind == mark.kind).unwrap_or(0) as u8 + 1;
    bytes.push(kind);
    bytes.push(u8::from(mark.group.is_some()));
    bytes.extend_from_slice(&mark.group.unwrap_or_default().0);
    bytes.extend_from_slice(&(mark.label.len() as u16).to_le_bytes());
    bytes.extend_from_slice(mark.label.as_bytes());
    bytes
}

fn decode_mark(bytes: &[u8]) -> Option<Mark> {
    if bytes.len() < 36 || bytes.len() != 36 + usize::from(u16_at(bytes, 34)) {
        return None;
    }
    let group = match bytes[17] {
        0 if bytes[18..34].iter().all(|b| *b == 0) => None,
        1 => Some(PointId(array_at(bytes, 18))),
        _ => return None,
    };
    Some(Mark {
        point: PointId(array_at(bytes, 0)),
        kind: *PointKind::ALL.get(usize::from(bytes[16]).checked_sub(1)?)?,
        label: std::str::from_utf8(&bytes[36..]).ok()?.to_owned(),
        group,
    })
}

/// One descriptor of a record table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Descriptor {
    kind: u8,
    argument: u8,
    pub data_bytes: u32,
    pub extent: Extent,
    pub sequence: Sequence,
    pub time: Timestamp,
}

impl Descriptor {
    /// Decodes descriptor `at` (a place in the frame's content, for errors).
    pub(super) fn decode(bytes: &[u8], name: &str, at: u64) -> Result<Self> {
        check_zero(bytes, 2..4, name, at)?;
        let (offset, length) = (u64_at(bytes, 8), u64_at(bytes, 16));
        let descriptor = Self {
            kind: bytes[0],
            argument: bytes[1],
            data_bytes: u32_at(bytes, 4),
            extent: Extent { offset, length },
            sequence: Sequence(u64_at(bytes, 24)),
            time: Timestamp(u64_at(bytes, 32).cast_signed()),
        };
        let data = u64::from(descriptor.data_bytes);
        let sound = offset.checked_add(length).is_some()
            && match descriptor.kind {
                1 => data == length && data > 0 && data <= super::RECORD_DATA_BYTES_MAX as u64,
                2..=5 => data == 0 && length > 0,
                7 => data as usize <= MARK_BYTES_MAX && offset == 0 && length == 0,
                6 | 8 | 9 => data == 0 && offset == 0 && length == 0,
                _ => false,
            }
            && (descriptor.kind == 8 || descriptor.argument == 0);
        if !sound {
            return Err(bad(name, at).expected("a sound record").found(format_args!(
                "kind {} with {data} bytes of data for {}",
                descriptor.kind, descriptor.extent
            )));
        }
        Ok(descriptor)
    }

    /// What the index says of the record's extent; `None` for records that change nothing.
    pub(super) fn index_kind(&self) -> Option<IndexKind> {
        match self.kind {
            1 => Some(IndexKind::Data),
            2 | 3 => Some(IndexKind::Zero),
            4 => Some(IndexKind::Undefined),
            5 => Some(IndexKind::Touch),
            _ => None,
        }
    }

    /// The whole record, with its data.
    pub(super) fn record<'a>(&self, data: &'a [u8], name: &str, at: u64) -> Result<Record<'a>> {
        let body = match self.kind {
            1 => Body::Write { offset: self.extent.offset, data },
            2 => Body::Zero(self.extent),
            3 => Body::Discard(self.extent, Discarded::Zeroes),
            4 => Body::Discard(self.extent, Discarded::Undefined),
            5 => Body::Touch(self.extent),
            6 => Body::Flush,
            7 => Body::Mark(decode_mark(data).ok_or_else(|| {
                bad(name, at).expected("a sound mark").found(format_args!("{} bytes", data.len()))
            })?),
            8 => Body::UnorderedBegin(
                Cause::from_code(self.argument)
                    .ok_or_else(|| bad(name, at).expected("a known cause").found(self.argument))?,
            ),
            _ => Body::UnorderedEnd,
        };
        Ok(Record { sequence: self.sequence, time: self.time, body })
    }
}

/// Appends an index entry.
pub(super) fn encode_index_entry(entry: &IndexEntry, out: &mut Vec<u8>) {
    let mut bytes = [0; INDEX_ENTRY_BYTES];
    put(&mut bytes, 0, &entry.extent.offset.to_le_bytes());
    put(&mut bytes, 8, &entry.extent.length.to_le_bytes());
    put(&mut bytes, 16, &entry.sequence.0.to_le_bytes());
    put(&mut bytes, 24, &entry.frame.to_le_bytes());
    put(&mut bytes, 28, &entry.data_offset.to_le_bytes());
    bytes[32] = match entry.kind {
        IndexKind::Data => 1,
        IndexKind::Zero => 2,
        IndexKind::Undefined => 3,
        IndexKind::Touch => 4,
    };
    out.extend_from_slice(&bytes);
}

/// Decodes one index entry.
pub(super) fn decode_index_entry(bytes: &[u8], name: &str, at: u64) -> Result<IndexEntry> {
    check_zero(bytes, 33..40, name, at)?;
    let kind = match bytes[32] {
        1 => IndexKind::Data,
        2 => IndexKind::Zero,
        3 => IndexKind::Undefined,
        4 => IndexKind::Touch,
        other => return Err(bad(name, at + 32).expected("a known index kind").found(other)),
    };
    let (offset, length) = (u64_at(bytes, 0), u64_at(bytes, 8));
    if length == 0 || offset.checked_add(length).is_none() {
        return Err(bad(name, at).expected("an extent").found(format_args!("{offset}+{length}")));
    }
    Ok(IndexEntry {
        extent: Extent { offset, length },
        kind,
        sequence: Sequence(u64_at(bytes, 16)),
        frame: u32_at(bytes, 24),
        data_offset: u32_at(bytes, 28),
    })
}

/// The notes of a segment: where its data frames are, its marks and its order changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Notes {
    pub frame_offsets: Vec<u64>,
    pub marks: Vec<MarkEntry>,
    pub order_changes: Vec<OrderChange>,
}

impl Notes {
    /// The content of the notes frame, and how many records it repeats.
    pub(super) fn encode(&self) -> (Vec<u8>, u32) {
        let mut raw = Vec::with_capacity(self.frame_offsets.len() * 8 + 64);
        let mut table = Vec::new();
        for mark in &self.marks {
            let body = Body::Mark(mark.mark.clone());
            let record = Record { sequence: mark.sequence, time: mark.time, body };
            encode_record(&record, &mut table, &mut raw);
        }
        for change in &self.order_changes {
            let body = change.begin.map_or(Body::UnorderedEnd, Body::UnorderedBegin);
            let record = Record { sequence: change.sequence, time: change.time, body };
            encode_record(&record, &mut table, &mut raw);
        }
        for offset in &self.frame_offsets {
            raw.extend_from_slice(&offset.to_le_bytes());
        }
        raw.extend_from_slice(&table);
        (raw, (self.marks.len() + self.order_changes.len()) as u32)
    }

    pub(super) fn decode(raw: &[u8], count: u32, frames: u32, name: &str, at: u64) -> Result<Self> {
        let table_bytes = count as usize * RECORD_BYTES;
        let offset_bytes = frames as usize * 8;
        let Some(data_bytes) = raw.len().checked_sub(table_bytes + offset_bytes) else {
            return Err(bad(name, at)
                .expected(format_args!("notes of {frames} frames and {count} records"))
                .found(format_args!("{} bytes", raw.len())));
        };
        let mut notes = Self {
            frame_offsets: raw[data_bytes..data_bytes + offset_bytes]
                .chunks_exact(8)
                .map(|chunk| u64_at(chunk, 0))
                .collect(),
            ..Self::default()
        };
        let mut data_at = 0;
        for table in raw[data_bytes + offset_bytes..].chunks_exact(RECORD_BYTES) {
            let descriptor = Descriptor::decode(table, name, at)?;
            let end = data_at + descriptor.data_bytes as usize;
            let data = raw[..data_bytes].get(data_at..end).ok_or_else(|| {
                bad(name, at).expected("data within the notes").found(format_args!("end {end}"))
            })?;
            data_at = end;
            let Record { sequence, time, body } = descriptor.record(data, name, at)?;
            match body {
                Body::Mark(mark) => notes.marks.push(MarkEntry { sequence, time, mark }),
                Body::UnorderedBegin(cause) => {
                    notes.order_changes.push(OrderChange { sequence, time, begin: Some(cause) });
                }
                Body::UnorderedEnd => {
                    notes.order_changes.push(OrderChange { sequence, time, begin: None });
                }
                _ => {
                    return Err(bad(name, at)
                        .expected("marks and order changes")
                        .found("another record"));
                }
            }
        }
        Ok(notes)
    }
}
