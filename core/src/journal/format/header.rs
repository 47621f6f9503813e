//! The header of a segment: what it is, and what a reader must know before it reads on.
//!
//! A checksum protects the header. With a key, every frame authenticates the header too, because
//! the segment's key derives from all of its bytes.

use std::ops::Range;

use super::{
    FEATURES_INCOMPATIBLE, MAGIC, VERSION_MAJOR, VERSION_MINOR, array_at, bad, check_crc,
    check_zero, i64_at, layout, put, u8_at, u16_at, u32_at, u64_at,
};
use crate::error::{Error, ErrorKind, Result};
use crate::journal::SegmentKind;
use crate::units::{ChainHash, Epoch, KeyId, Sequence, Timestamp, VolumeId};

layout! { header, 256;
    MAGIC 0 8
    VERSION_MAJOR 8 2
    VERSION_MINOR 10 2
    HEADER_BYTES 12 4
    INCOMPATIBLE 16 8
    COMPATIBLE 24 8
    AUTO_CLEAR 32 8
    KIND 40 1
    CODEC 41 1
    AEAD 42 1
    RESERVED_1 43 1
    BLOCK_BYTES 44 4
    VOLUME 48 16
    KEY_ID 64 16
    SALT 80 16
    EPOCH 96 4
    RESERVED_2 100 4
    FIRST_SEQUENCE 104 8
    DEVICE_BYTES 112 8
    CREATED 120 8
    PREVIOUS 128 32
    REPLACES_THROUGH 160 32
    RESERVED_3 192 60
    CHECKSUM 252 4
}

pub const HEADER_BYTES: usize = header::BYTES;

/// How the content of a frame is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    Stored = 0,
    Zstd = 1,
}

impl Codec {
    pub(super) fn decode(code: u8) -> Option<Self> {
        [Self::Stored, Self::Zstd].get(usize::from(code)).copied()
    }
}

/// How frames are encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aead {
    None = 0,
    /// The nonce is the number of the frame: version 1.0.
    ChaCha20Poly1305 = 1,
    /// The nonce is the tag, a keyed hash of the content: version 1.1.
    ChaCha20Blake3 = 2,
}

/// The header of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
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

impl Header {
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        put(&mut bytes, header::MAGIC, &MAGIC);
        put(&mut bytes, header::VERSION_MAJOR, &VERSION_MAJOR.to_le_bytes());
        put(&mut bytes, header::VERSION_MINOR, &VERSION_MINOR.to_le_bytes());
        put(&mut bytes, header::HEADER_BYTES, &(HEADER_BYTES as u32).to_le_bytes());
        put(&mut bytes, header::KIND, &[self.kind.code()]);
        put(&mut bytes, header::CODEC, &[self.codec as u8]);
        put(&mut bytes, header::AEAD, &[self.aead as u8]);
        put(&mut bytes, header::BLOCK_BYTES, &self.block_bytes.to_le_bytes());
        put(&mut bytes, header::VOLUME, &self.volume.0);
        put(&mut bytes, header::KEY_ID, &self.key_id.0);
        put(&mut bytes, header::SALT, &self.salt);
        put(&mut bytes, header::EPOCH, &self.epoch.0.to_le_bytes());
        put(&mut bytes, header::FIRST_SEQUENCE, &self.first_sequence.0.to_le_bytes());
        put(&mut bytes, header::DEVICE_BYTES, &self.device_bytes.to_le_bytes());
        put(&mut bytes, header::CREATED, &self.created.0.to_le_bytes());
        put(&mut bytes, header::PREVIOUS, &self.previous.0);
        put(&mut bytes, header::REPLACES_THROUGH, &self.replaces_through.0);
        let checksum = crc32fast::hash(&bytes[..header::CHECKSUM.start]);
        put(&mut bytes, header::CHECKSUM, &checksum.to_le_bytes());
        bytes
    }

    /// Decodes a header. `Corrupt`, or `Unsupported` if this build does not know a version,
    /// feature, kind or algorithm in it.
    pub fn decode(bytes: &[u8], name: &str) -> Result<Self> {
        if bytes.len() < HEADER_BYTES {
            return Err(bad(name, bytes.len() as u64)
                .expected(format_args!("a header of {HEADER_BYTES} bytes"))
                .found(format_args!("{} bytes", bytes.len())));
        }
        let bytes = &bytes[..HEADER_BYTES];
        check_versions(bytes, name)?;
        let (kind, codec, aead) = decode_codes(bytes, name)?;
        let header = Self {
            kind,
            codec,
            aead,
            block_bytes: u32_at(bytes, header::BLOCK_BYTES),
            volume: VolumeId(array_at(bytes, header::VOLUME)),
            key_id: KeyId(array_at(bytes, header::KEY_ID)),
            salt: array_at(bytes, header::SALT),
            epoch: Epoch(u32_at(bytes, header::EPOCH)),
            first_sequence: Sequence(u64_at(bytes, header::FIRST_SEQUENCE)),
            device_bytes: u64_at(bytes, header::DEVICE_BYTES),
            created: Timestamp(i64_at(bytes, header::CREATED)),
            previous: ChainHash(array_at(bytes, header::PREVIOUS)),
            replaces_through: ChainHash(array_at(bytes, header::REPLACES_THROUGH)),
        };
        if !header.block_bytes.is_power_of_two() {
            return Err(bad(name, header::BLOCK_BYTES.start as u64)
                .expected("a block size that is a power of two")
                .found(header.block_bytes));
        }
        if header.aead == Aead::None && header.key_id != KeyId::default() {
            return Err(bad(name, header::KEY_ID.start as u64)
                .expected("no key, as nothing is encrypted")
                .found(header.key_id));
        }
        Ok(header)
    }
}

fn unsupported(name: &str, at: Range<usize>) -> Error {
    Error::new(ErrorKind::Unsupported, "read segment", name).at(at.start as u64)
}

/// Checks magic, versions, checksum and features, which decide what other fields mean. The major
/// version comes before the checksum, which another version may put elsewhere.
fn check_versions(bytes: &[u8], name: &str) -> Result<()> {
    if bytes[header::MAGIC] != MAGIC {
        return Err(bad(name, 0)
            .expected(format_args!("magic {MAGIC:02x?}"))
            .found(format_args!("{:02x?}", &bytes[header::MAGIC])));
    }
    let major = u16_at(bytes, header::VERSION_MAJOR);
    if major != VERSION_MAJOR {
        return Err(unsupported(name, header::VERSION_MAJOR)
            .expected(format_args!("major version {VERSION_MAJOR}"))
            .found(major));
    }
    let checksum = crc32fast::hash(&bytes[..header::CHECKSUM.start]);
    let stored = u32_at(bytes, header::CHECKSUM);
    check_crc(checksum, stored, name, header::CHECKSUM.start as u64)?;
    if u32_at(bytes, header::HEADER_BYTES) as usize != HEADER_BYTES {
        return Err(bad(name, header::HEADER_BYTES.start as u64)
            .expected(format_args!("a header of {HEADER_BYTES} bytes"))
            .found(u32_at(bytes, header::HEADER_BYTES)));
    }
    let incompatible = u64_at(bytes, header::INCOMPATIBLE);
    if incompatible & !FEATURES_INCOMPATIBLE != 0 {
        return Err(unsupported(name, header::INCOMPATIBLE)
            .expected("no incompatible feature beyond this build's")
            .found(format_args!("bits {incompatible:#x}")));
    }
    // A later minor version may have given these bytes a meaning that this one may ignore.
    let is_later = u16_at(bytes, header::VERSION_MINOR).checked_sub(VERSION_MINOR + 1).is_some();
    if !is_later {
        check_zero(bytes, header::RESERVED_1, name, 0)?;
        check_zero(bytes, header::RESERVED_2, name, 0)?;
        check_zero(bytes, header::RESERVED_3, name, 0)?;
    }
    Ok(())
}

fn decode_codes(bytes: &[u8], name: &str) -> Result<(SegmentKind, Codec, Aead)> {
    let code = |field: Range<usize>| u8_at(bytes, field);
    let unknown = |field: Range<usize>, expected: &str| {
        unsupported(name, field.clone()).expected(expected).found(code(field))
    };
    let kind = SegmentKind::from_code(code(header::KIND));
    let aead = [Aead::None, Aead::ChaCha20Poly1305, Aead::ChaCha20Blake3];
    let aead = aead.get(usize::from(code(header::AEAD))).copied();
    Ok((
        kind.ok_or_else(|| unknown(header::KIND, "a known segment kind"))?,
        Codec::decode(code(header::CODEC))
            .ok_or_else(|| unknown(header::CODEC, "a known codec"))?,
        aead.ok_or_else(|| unknown(header::AEAD, "a known AEAD algorithm"))?,
    ))
}
