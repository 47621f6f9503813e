//! The bytes of a Hyper-V Replica log: Microsoft Open Specification [MS-HRL], format version 2.
//!
//! Little-endian and packed; times are whole seconds since 2000-01-01 UTC. The checksum is the
//! bitwise NOT of the sum of all bytes but its own four. It does not detect bytes that change
//! places, so nothing here relies on it alone.

use hrl::{Error, ErrorKind, Result, Timestamp};

pub(super) const HEADER_BYTES: usize = 4096;
pub(super) const METADATA_BYTES: usize = 4096;
pub(super) const BLOCK_HEADER_BYTES: usize = 32;
pub(super) const ENTRY_BYTES: usize = 32;
/// Largest metadata block that is read.
const METADATA_BYTES_MAX: u32 = 1 << 20;
const COOKIE: &[u8; 7] = b"msctlog";
const VERSION: u32 = 0x0002_0000;
const OPERATION_WRITE: u8 = 1;
/// 2000-01-01T00:00:00Z in seconds since 1970.
const EPOCH_SECONDS: i64 = 946_684_800;

/// The header of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HypervHeader {
    /// Time of its creation.
    pub created: Timestamp,
    /// Size of the log in bytes, as the header claims.
    pub current_bytes: u64,
    /// Offset of the end of the log; 0 if the log is torn.
    pub end_of_log: u64,
    /// The writer's error code.
    pub error_code: i32,
    /// Size of a metadata block.
    pub metadata_bytes: u32,
    /// GUID of the log, as its 16 bytes.
    pub unique_id: [u8; 16],
    /// GUID of the log before; zeroes for the first.
    pub previous_unique_id: [u8; 16],
    /// Entries in all metadata blocks.
    pub entries: u64,
    /// Data-write GUID of the VHDX.
    pub data_write_guid: [u8; 16],
}

/// The header of a metadata block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockHeader {
    /// Distance in bytes to the block before; 0 for the first.
    pub previous: u64,
    pub entries: u32,
}

/// One write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub offset: u64,
    pub length: u32,
    pub time: Timestamp,
    pub data_checksum: u32,
}

pub(super) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

/// Returns the bitwise NOT of the sum of all bytes.
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(0_u32, |sum, byte| sum.wrapping_add(u32::from(*byte)))
}

/// Returns the checksum of a structure that contains its own checksum at `at`.
pub(super) fn own_checksum(bytes: &[u8], at: usize) -> u32 {
    let own = bytes[at..at + 4].iter().fold(0_u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
    !(!checksum(bytes)).wrapping_sub(own)
}

fn check_own(bytes: &[u8], at: usize, name: &str, base: u64) -> Result<()> {
    let (expected, found) = (own_checksum(bytes, at), u32_at(bytes, at));
    if expected == found {
        return Ok(());
    }
    Err(bad(name, base + at as u64)
        .expected(format_args!("checksum {expected:#010x}"))
        .found(format_args!("{found:#010x}")))
}

pub(super) fn bad(name: &str, at: u64) -> Error {
    Error::new(ErrorKind::Corrupt, "read Hyper-V log", name).at(at)
}

fn time_of(seconds: u32) -> Timestamp {
    Timestamp((EPOCH_SECONDS + i64::from(seconds)) * 1_000_000_000)
}

/// Returns whole seconds since 2000, saturated to 32 bits.
pub(super) fn seconds_of(time: Timestamp) -> u32 {
    u32::try_from((time.seconds() - EPOCH_SECONDS).max(0)).unwrap_or(u32::MAX)
}

/// Returns whether a file that begins with `bytes` is a Hyper-V log.
pub(crate) fn is_hyperv(bytes: &[u8]) -> bool {
    bytes.starts_with(COOKIE)
}

impl HypervHeader {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        put(&mut bytes, 0, COOKIE);
        bytes[7] = b' ';
        put(&mut bytes, 8, &VERSION.to_le_bytes());
        put(&mut bytes, 12, &seconds_of(self.created).to_le_bytes());
        put(&mut bytes, 16, b"hrl ");
        put(&mut bytes, 20, &0x0001_0000_u32.to_le_bytes());
        put(&mut bytes, 32, &self.current_bytes.to_le_bytes());
        put(&mut bytes, 44, &self.end_of_log.to_le_bytes());
        put(&mut bytes, 52, &self.error_code.to_le_bytes());
        put(&mut bytes, 56, &self.metadata_bytes.to_le_bytes());
        put(&mut bytes, 60, &self.unique_id);
        put(&mut bytes, 76, &self.previous_unique_id);
        put(&mut bytes, 92, &seconds_of(self.created).to_le_bytes());
        put(&mut bytes, 96, &self.entries.to_le_bytes());
        put(&mut bytes, 110, &self.data_write_guid);
        let sum = own_checksum(&bytes, 40);
        put(&mut bytes, 40, &sum.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8], name: &str) -> Result<Self> {
        let Some(bytes) = bytes.get(..HEADER_BYTES) else {
            return Err(bad(name, bytes.len() as u64)
                .expected(format_args!("a header of {HEADER_BYTES} bytes"))
                .found(format_args!("{} bytes", bytes.len())));
        };
        if !is_hyperv(bytes) || !matches!(bytes[7], b' ' | 0) {
            return Err(bad(name, 0)
                .expected("cookie msctlog")
                .found(format_args!("{:02x?}", &bytes[..8])));
        }
        if u32_at(bytes, 8) != VERSION {
            return Err(Error::new(ErrorKind::Unsupported, "read Hyper-V log", name)
                .at(8)
                .expected("format version 2")
                .found(format_args!("{:#x}", u32_at(bytes, 8))));
        }
        check_own(bytes, 40, name, 0)?;
        let metadata_bytes = u32_at(bytes, 56);
        if !metadata_bytes.is_multiple_of(512)
            || !(512..=METADATA_BYTES_MAX).contains(&metadata_bytes)
        {
            return Err(bad(name, 56)
                .expected(format_args!("a multiple of 512 up to {METADATA_BYTES_MAX}"))
                .found(metadata_bytes));
        }
        if u32_at(bytes, 104) != 0 {
            return Err(bad(name, 104).expected("file type 0").found(u32_at(bytes, 104)));
        }
        Ok(Self {
            created: time_of(u32_at(bytes, 12)),
            current_bytes: u64_at(bytes, 32),
            end_of_log: u64_at(bytes, 44),
            error_code: u32_at(bytes, 52).cast_signed(),
            metadata_bytes,
            unique_id: bytes[60..76].try_into().expect("16 bytes"),
            previous_unique_id: bytes[76..92].try_into().expect("16 bytes"),
            entries: u64_at(bytes, 96),
            data_write_guid: bytes[110..126].try_into().expect("16 bytes"),
        })
    }
}

impl BlockHeader {
    pub(super) fn encode(self) -> [u8; BLOCK_HEADER_BYTES] {
        let mut bytes = [0; BLOCK_HEADER_BYTES];
        put(&mut bytes, 0, &self.previous.to_le_bytes());
        put(&mut bytes, 8, &self.entries.to_le_bytes());
        let sum = own_checksum(&bytes, 12);
        put(&mut bytes, 12, &sum.to_le_bytes());
        bytes
    }

    /// Decodes the header of the block in `bytes`.
    pub(super) fn decode(bytes: &[u8], name: &str, at: u64) -> Result<Self> {
        let capacity = (bytes.len() - BLOCK_HEADER_BYTES) / ENTRY_BYTES;
        check_own(&bytes[..BLOCK_HEADER_BYTES], 12, name, at)?;
        let header = Self { previous: u64_at(bytes, 0), entries: u32_at(bytes, 8) };
        if header.entries as usize > capacity || bytes[16..32].iter().any(|byte| *byte != 0) {
            return Err(bad(name, at + 8)
                .expected(format_args!("at most {capacity} entries and zeroes after them"))
                .found(header.entries));
        }
        Ok(header)
    }
}

impl Entry {
    pub(super) fn encode(self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        put(&mut bytes, 0, &self.offset.to_le_bytes());
        put(&mut bytes, 12, &self.length.to_le_bytes());
        put(&mut bytes, 16, &seconds_of(self.time).to_le_bytes());
        bytes[20] = OPERATION_WRITE;
        put(&mut bytes, 21, &self.data_checksum.to_le_bytes());
        let sum = own_checksum(&bytes, 8);
        put(&mut bytes, 8, &sum.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8], name: &str, at: u64) -> Result<Self> {
        check_own(bytes, 8, name, at)?;
        let entry = Self {
            offset: u64_at(bytes, 0),
            length: u32_at(bytes, 12),
            time: time_of(u32_at(bytes, 16)),
            data_checksum: u32_at(bytes, 21),
        };
        if bytes[20] != OPERATION_WRITE || bytes[25..32].iter().any(|byte| *byte != 0) {
            return Err(bad(name, at + 20).expected("operation 1, a write").found(bytes[20]));
        }
        if entry.length == 0 || entry.offset.checked_add(entry.length.into()).is_none() {
            return Err(bad(name, at)
                .expected("a write of at least one byte that ends below 2^64")
                .found(format_args!("{}+{}", entry.offset, entry.length)));
        }
        Ok(entry)
    }
}
