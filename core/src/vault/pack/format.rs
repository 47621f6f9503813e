//! The bytes of a pack and the names of its objects; `core/docs/format.md` specifies them.
//!
//! A pack is its members' bytes one after the other, a table of their lengths and names, and a
//! footer of fixed size. The table has no offsets: they are the sums of the lengths before, so no
//! two members overlap and no byte is left over. Decoding is total: any bytes give a table or an
//! error with its place, and every length is bounded before it is used.

use std::ops::Range;

use crate::bytes::{Reader, Writer};
use crate::error::{Error, ErrorKind, Result};
use crate::store::check_name;
use crate::vault::layout::{PACK_NAME_BYTES_MAX, number, span_of};

/// Most members of a pack.
pub const PACK_MEMBERS_MAX: usize = 256;
/// Most bytes of a pack's members together.
pub const PACK_DATA_BYTES_MAX: u64 = 64 << 20;
/// Bytes at the end of a pack that contain its table, whatever its members are.
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
const CRC_BYTES: usize = 4;
pub(super) const MAGIC: &[u8; 8] = b"HRLPAK\x01\x00";

/// End of a pack's name.
const EXTENSION: &str = ".pack";
/// Stands between the name of a pack and what a marker of an older version says of it.
const GONE: &str = ".gone-";

/// One member of a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// Its name below `segments/`.
    pub name: String,
    /// Place of its bytes in the pack.
    pub bytes: Range<u64>,
}

/// The members of a pack, in the order of their bytes.
pub(super) type Table = Vec<Member>;

/// Returns the bytes of a pack of these members, and its name. The name is that of its content: a
/// repeated put of one pack finds itself.
pub(super) fn encode(members: &[(&str, &[u8])]) -> (String, Vec<u8>) {
    let mut bytes: Vec<u8> = members.iter().flat_map(|(_, content)| *content).copied().collect();
    let data_bytes = bytes.len();
    for (name, content) in members {
        bytes.put_u64_le(content.len() as u64).put_u16_le(name.len() as u16);
        bytes.put_bytes(name.as_bytes());
    }
    let table_bytes = bytes.len() - data_bytes;
    bytes.put_u64_le(data_bytes as u64).put_u32_le(table_bytes as u32);
    bytes.put_u32_le(members.len() as u32).put_bytes(MAGIC);
    let crc = crc32fast::hash(&bytes[data_bytes..]);
    bytes.put_u32_le(crc);
    let spans = || members.iter().filter_map(|(name, _)| span_of(name));
    let first = spans().map(|span| span.0).min().unwrap_or_default();
    let last = spans().map(|span| span.1).max().unwrap_or_default();
    let hash = blake3::hash(&bytes).to_hex();
    (format!("{first:016x}-{last:016x}-{}{EXTENSION}", &hash[..32]), bytes)
}

/// Splits the name of a pack, or of a marker of an older version, into the pack, its first and last
/// sequence, and whether it is a marker. `None` for other names.
pub(super) fn parse_name(name: &str) -> Option<(&str, (u64, u64), bool)> {
    let (pack, is_marker) = match name.split_once(GONE) {
        Some((pack, _members)) => (pack, true),
        None => (name, false),
    };
    let mut parts = pack.strip_suffix(EXTENSION)?.split('-');
    let span = (number(parts.next()?)?, number(parts.next()?)?);
    let hash = parts.next()?;
    (hash.len() == 32 && parts.next().is_none()).then_some((pack, span, is_marker))
}

/// Makes magic, sums and checksum of an altered pack match again, if its table can be found from
/// its end. Feature `testing`.
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

/// Reads a whole pack and makes it again from its members. Feature `testing`.
#[cfg(any(test, feature = "testing"))]
pub fn reprint_pack(bytes: &[u8]) -> Result<Vec<u8>> {
    let table = decode(bytes, bytes.len() as u64, "pack")?;
    let content = |member: &Member| &bytes[member.bytes.start as usize..member.bytes.end as usize];
    let members: Vec<_> = table.iter().map(|m| (m.name.as_str(), content(m))).collect();
    Ok(encode(&members).1)
}

/// Reads the table of a pack of `length` bytes from its last bytes: at least [`TAIL_BYTES_MAX`] of
/// them, or all.
pub(super) fn decode(tail: &[u8], length: u64, object: &str) -> Result<Table> {
    let base = length.saturating_sub(tail.len() as u64);
    let reader = |bytes| Reader::new(bytes, "read pack", object);
    let Some((before, footer)) = tail.split_last_chunk::<FOOTER_BYTES>() else {
        return Err(Error::new(ErrorKind::Corrupt, "read pack", object)
            .at(base)
            .expected("a footer")
            .found(format_args!("{length} bytes")));
    };
    let mut from = reader(footer).at_offset(base + before.len() as u64);
    let (data_bytes, table_bytes) = (from.u64_le()?, from.u32_le()? as usize);
    let Some(table_start) = before.len().checked_sub(table_bytes) else {
        let expected = format_args!("a table of at most {} bytes", before.len());
        return Err(from.invalid(expected, table_bytes));
    };
    let members = from.u32_le()? as usize;
    if members > PACK_MEMBERS_MAX {
        return Err(from.invalid(format_args!("at most {PACK_MEMBERS_MAX} members"), members));
    }
    from.magic(MAGIC)?;
    let found = from.u32_le()?;
    from.checksum(crc32fast::hash(&tail[table_start..tail.len() - CRC_BYTES]), found)?;
    let table = decode_table(
        &mut reader(&before[table_start..]).at_offset(base + table_start as u64),
        members,
    )?;
    let end = table.last().map_or(0, |member| member.bytes.end);
    let whole = data_bytes.checked_add((table_bytes + FOOTER_BYTES) as u64);
    if end != data_bytes || whole != Some(length) {
        return Err(Error::new(ErrorKind::Corrupt, "read pack", object)
            .at(base + before.len() as u64)
            .expected(format_args!("members of {data_bytes} bytes in a pack of {length}"))
            .found(format_args!("members of {end} bytes")));
    }
    Ok(table)
}

fn decode_table(from: &mut Reader<'_>, members: usize) -> Result<Table> {
    let mut table = Table::with_capacity(members);
    let mut start = 0_u64;
    for _ in 0..members {
        let length = from.u64_le()?;
        let Some(end) = start.checked_add(length) else {
            return Err(from.invalid("a length within 64 bits", length));
        };
        let name_bytes = from.u16_le()?;
        let name = from.text(name_bytes.into(), PACK_NAME_BYTES_MAX)?;
        if check_name(name).is_err() || span_of(name).is_none() {
            return Err(from.invalid("the name of a segment", name));
        }
        table.push(Member { name: name.to_owned(), bytes: start..end });
        start = end;
    }
    from.end()?;
    Ok(table)
}
