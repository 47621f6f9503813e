//! The bytes of a pack and the names of its objects; `core/docs/format.md` specifies them.
//!
//! A pack is its members' bytes one after the other, a table of their lengths and names, and a footer of fixed size. The
//! table says no offsets: they are the sums of the lengths before, so no two members overlap and no byte is left over.
//! Decoding is total: any bytes give a table or an error with its place, and every length is bounded before it is used.

use std::ops::Range;

use crate::error::{Error, ErrorKind, Result};
use crate::store::check_name;
use crate::vault::layout::{PACK_NAME_BYTES_MAX, number, span_of};

/// Members of a pack at most.
pub const PACK_MEMBERS_MAX: usize = 256;
/// Bytes of a pack's members at most, in all.
pub const PACK_DATA_BYTES_MAX: u64 = 64 << 20;
/// Bytes at the end of a pack that hold its table whatever its members are.
pub(super) const TAIL_BYTES_MAX: u64 =
    (PACK_MEMBERS_MAX * (10 + PACK_NAME_BYTES_MAX) + FOOTER_BYTES) as u64;
/// Structure `pack_footer`: name, offset and size of each field.
#[cfg(test)]
pub(super) const FOOTER_FIELDS: [(&str, usize, usize); 5] = [
    ("data_bytes", 0, 8),
    ("table_bytes", 8, 4),
    ("members", 12, 4),
    ("magic", 16, 8),
    ("crc", 24, 4),
];
pub(super) const FOOTER_BYTES: usize = 28;
pub(super) const MAGIC: &[u8; 8] = b"HRLPAK\x01\x00";

/// The end of the name of an object that is one pack.
const EXTENSION: &str = ".pack";
/// Between the name of a pack and the members that are gone.
const GONE: &str = ".gone-";

/// One member of a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// Its name below `segments/`.
    pub name: String,
    /// Where its bytes are in the pack.
    pub bytes: Range<u64>,
}

/// The members of a pack, in the order of their bytes.
pub(super) type Table = Vec<Member>;

/// The members that are gone, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Gone([u8; PACK_MEMBERS_MAX / 8]);

impl Gone {
    pub(super) fn has(&self, number: usize) -> bool {
        self.0[number / 8] & (1 << (number % 8)) != 0
    }

    pub(super) fn add(&mut self, number: usize) {
        self.0[number / 8] |= 1 << (number % 8);
    }

    pub(super) fn join(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(byte, more)| *byte |= more);
    }

    /// None of the first `count` is left.
    pub(super) fn is_all_of(&self, count: usize) -> bool {
        (0..count).all(|number| self.has(number))
    }
}

/// A pack of these members, and its name, which is its content's: a repeated put of one pack finds itself.
pub(super) fn encode(members: &[(&str, &[u8])]) -> (String, Vec<u8>) {
    let mut bytes: Vec<u8> = members.iter().flat_map(|(_, content)| *content).copied().collect();
    let data_bytes = bytes.len();
    for (name, content) in members {
        bytes.extend_from_slice(&(content.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&(name.len() as u16).to_le_bytes());
        bytes.extend_from_slice(name.as_bytes());
    }
    let table_bytes = bytes.len() - data_bytes;
    bytes.extend_from_slice(&(data_bytes as u64).to_le_bytes());
    bytes.extend_from_slice(&(table_bytes as u32).to_le_bytes());
    bytes.extend_from_slice(&(members.len() as u32).to_le_bytes());
    bytes.extend_from_slice(MAGIC);
    let crc = crc32fast::hash(&bytes[data_bytes..]);
    bytes.extend_from_slice(&crc.to_le_bytes());
    let spans = || members.iter().filter_map(|(name, _)| span_of(name));
    let first = spans().map(|span| span.0).min().unwrap_or_default();
    let last = spans().map(|span| span.1).max().unwrap_or_default();
    let hash = blake3::hash(&bytes).to_hex();
    (format!("{first:016x}-{last:016x}-{}{EXTENSION}", &hash[..32]), bytes)
}

/// First and last sequence of a pack, and, in the name of a marker, the members that are gone. `None` for other names.
pub(super) fn parse_name(name: &str) -> Option<(&str, (u64, u64), Option<Gone>)> {
    let (pack, gone) = match name.split_once(GONE) {
        Some((pack, digits)) => (pack, Some(parse_gone(digits)?)),
        None => (name, None),
    };
    let mut parts = pack.strip_suffix(EXTENSION)?.split('-');
    let span = (number(parts.next()?)?, number(parts.next()?)?);
    let hash = parts.next()?;
    (hash.len() == 32 && parts.next().is_none()).then_some((pack, span, gone))
}

fn parse_gone(digits: &str) -> Option<Gone> {
    let mut gone = Gone::default();
    if digits.len() != 2 * gone.0.len() || !digits.is_ascii() {
        return None;
    }
    for (number, byte) in gone.0.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[2 * number..2 * number + 2], 16).ok()?;
    }
    Some(gone)
}

/// Name of the empty object that says which members of a pack are gone.
pub(super) fn marker_name(pack: &str, gone: &Gone) -> String {
    let digits: String = gone.0.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{pack}{GONE}{digits}")
}

/// Makes the magic, the sums and the checksum of an altered pack right, as far as its table can be told from its end. What
/// they are about stays as it is. Feature `testing`.
#[cfg(any(test, feature = "testing"))]
pub fn mend_pack(bytes: &mut [u8]) {
    let Some(data_end) = bytes.len().checked_sub(FOOTER_BYTES) else { return };
    let table_bytes = u32::from_le_bytes(bytes[data_end + 8..][..4].try_into().expect("4 bytes"));
    let Some(data_bytes) = data_end.checked_sub(table_bytes as usize) else { return };
    bytes[data_end..data_end + 8].copy_from_slice(&(data_bytes as u64).to_le_bytes());
    bytes[data_end + 16..data_end + 24].copy_from_slice(MAGIC);
    let checked = bytes.len() - 4;
    let crc = crc32fast::hash(&bytes[data_bytes..checked]);
    bytes[checked..].copy_from_slice(&crc.to_le_bytes());
}

/// Reads a whole pack and makes it again of its members. Feature `testing`.
#[cfg(any(test, feature = "testing"))]
pub fn reprint_pack(bytes: &[u8]) -> Result<Vec<u8>> {
    let table = decode(bytes, bytes.len() as u64, "pack")?;
    let content = |member: &Member| &bytes[member.bytes.start as usize..member.bytes.end as usize];
    let members: Vec<_> = table.iter().map(|m| (m.name.as_str(), content(m))).collect();
    Ok(encode(&members).1)
}

/// The table of a pack of `length` bytes, from its last bytes: at least [`TAIL_BYTES_MAX`] of them, or all.
pub(super) fn decode(tail: &[u8], length: u64, object: &str) -> Result<Table> {
    let at = |back: usize| length.saturating_sub(back as u64);
    let bad = |back: usize| Error::new(ErrorKind::Corrupt, "read pack", object).at(at(back));
    let Some((before, footer)) = tail.split_last_chunk::<FOOTER_BYTES>() else {
        return Err(bad(tail.len()).expected("a footer").found(format_args!("{length} bytes")));
    };
    let u32_at = |at: usize| u32::from_le_bytes(footer[at..at + 4].try_into().expect("4 bytes"));
    let data_bytes = u64::from_le_bytes(footer[..8].try_into().expect("8 bytes"));
    let (table_bytes, members) = (u32_at(8) as usize, u32_at(12) as usize);
    if &footer[16..24] != MAGIC {
        return Err(bad(12).expected("magic HRLPAK").found("another"));
    }
    if members > PACK_MEMBERS_MAX || table_bytes > before.len() {
        return Err(bad(FOOTER_BYTES)
            .expected(format_args!("at most {PACK_MEMBERS_MAX} members in {} bytes", before.len()))
            .found(format_args!("{members} in {table_bytes}")));
    }
    let checked = &tail[before.len() - table_bytes..tail.len() - 4];
    let (expected, found) = (crc32fast::hash(checked), u32_at(24));
    if expected != found {
        return Err(bad(4)
            .expected(format_args!("checksum {expected:#010x}"))
            .found(format_args!("{found:#010x}")));
    }
    let table = decode_table(&before[before.len() - table_bytes..], members).map_err(|left| {
        bad(FOOTER_BYTES + left).message("the table of contents is not understood")
    })?;
    let end = table.last().map_or(0, |member| member.bytes.end);
    let whole = data_bytes.checked_add((table_bytes + FOOTER_BYTES) as u64);
    if end != data_bytes || whole != Some(length) {
        return Err(bad(FOOTER_BYTES)
            .expected(format_args!("members of {data_bytes} bytes in a pack of {length}"))
            .found(format_args!("members of {end} bytes")));
    }
    Ok(table)
}

/// The members; the error is the number of bytes left where it stopped.
fn decode_table(mut bytes: &[u8], members: usize) -> std::result::Result<Table, usize> {
    let mut table = Table::with_capacity(members);
    let mut start = 0_u64;
    for _ in 0..members {
        let left = bytes.len();
        let (length, rest) = bytes.split_first_chunk::<8>().ok_or(left)?;
        let (name_bytes, rest) = rest.split_first_chunk::<2>().ok_or(left)?;
        let (name, rest) =
            rest.split_at_checked(usize::from(u16::from_le_bytes(*name_bytes))).ok_or(left)?;
        let name = std::str::from_utf8(name).map_err(|_| left)?;
        let end = start.checked_add(u64::from_le_bytes(*length)).ok_or(left)?;
        if check_name(name).is_err() || span_of(name).is_none() {
            return Err(left);
        }
        table.push(Member { name: name.to_owned(), bytes: start..end });
        start = end;
        bytes = rest;
    }
    if bytes.is_empty() { Ok(table) } else { Err(bytes.len()) }
}
