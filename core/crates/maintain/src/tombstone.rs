//! Tombstones: objects below `deleted/` that say what was deleted, when, and until when it can be
//! brought back. `core/docs/format.md` specifies their names and bytes.
//!
//! Segments and packs stay where they are and are named by a tombstone `….names`; no name of theirs
//! is ever used twice. Every other object is small and its name may be needed again, so its bytes go
//! into a tombstone `….bytes` and the object is deleted.

use std::collections::BTreeMap;
use std::time::Duration;

use hrl::bytes::{Reader, Writer};
use hrl::store::{Store, get_all};
use hrl::vault::layout;
use hrl::{Error, ErrorKind, Result, Timestamp};

/// Prefix of tombstones, of the delay and of the marks of the clock.
pub const DELETED: &str = "deleted/";
/// Largest tombstone that is read.
const TOMBSTONE_BYTES_MAX: u64 = 1 << 30;
/// Longest identity of a deleter, in bytes.
const BY_BYTES_MAX: usize = 256;
const MAGIC: &[u8; 8] = b"HRLDEL\x01\x00";

/// Whether the objects of a tombstone are still in their places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// They are, and the tombstone names them.
    Names,
    /// They are gone, and the tombstone contains them.
    Bytes,
    /// The same, of objects that gave way to others when those were brought back.
    Replaced,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Names, Self::Bytes, Self::Replaced];

    /// Returns the end of a tombstone's name.
    const fn suffix(self) -> &'static str {
        match self {
            Self::Names => ".names",
            Self::Bytes => ".bytes",
            Self::Replaced => ".replaced",
        }
    }
}

/// A deleted object in a tombstone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub name: String,
    pub length: u64,
    /// Its bytes, in a tombstone of [`Kind::Bytes`].
    pub content: Vec<u8>,
}

/// What the name of a tombstone says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TombstoneName {
    /// Full name of its object.
    pub object: String,
    /// The volume; `None` for objects of no volume.
    pub volume: Option<String>,
    /// When its objects were deleted.
    pub time: Timestamp,
    /// Until when they stay at least.
    pub until: Timestamp,
    pub kind: Kind,
    /// Length of the tombstone.
    pub length: u64,
}

/// A tombstone as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tombstone {
    /// Who deleted.
    pub by: String,
    pub entries: Vec<Entry>,
}

/// Returns the prefix of the tombstones of a volume, or of objects of no volume.
pub(crate) fn prefix_of(volume: Option<&str>) -> String {
    match volume {
        Some(volume) => format!("{DELETED}volumes/{volume}/"),
        None => format!("{DELETED}other/"),
    }
}

/// Returns the kind of the tombstone that an object gets.
pub(crate) fn kind_of(object: &str) -> Kind {
    match layout::split_volume(object) {
        Some((_, rest)) if rest.starts_with("segments/") || rest.starts_with("packs/") => {
            Kind::Names
        }
        _ => Kind::Bytes,
    }
}

impl TombstoneName {
    /// Makes the name of a new tombstone.
    pub fn new(
        volume: Option<&str>,
        kind: Kind,
        (time, until): (Timestamp, Timestamp),
        id: u64,
    ) -> Self {
        let end = kind.suffix();
        let (from, to) = (time.0.max(0).cast_unsigned(), until.0.max(0).cast_unsigned());
        let object = format!("{}{from:016x}-{to:016x}-{id:016x}{end}", prefix_of(volume));
        Self { object, volume: volume.map(str::to_owned), time, until, kind, length: 0 }
    }

    /// Reads the name of an object; `None` if it is not that of a tombstone.
    pub fn parse(object: &str, length: u64) -> Option<Self> {
        let rest = object.strip_prefix(DELETED)?;
        let (volume, name) = match rest.strip_prefix("volumes/") {
            Some(rest) => rest.split_once('/').map(|(volume, name)| (Some(volume), name))?,
            None => (None, rest.strip_prefix("other/")?),
        };
        let of_kind = |kind: Kind| Some((name.strip_suffix(kind.suffix())?, kind));
        let (name, kind) = Kind::ALL.into_iter().find_map(of_kind)?;
        let mut parts = name.split('-');
        let (time, until) = (time_of(parts.next()?)?, time_of(parts.next()?)?);
        hex(parts.next()?)?;
        let (volume, object) = (volume.map(str::to_owned), object.to_owned());
        parts.next().is_none().then_some(Self { object, volume, time, until, kind, length })
    }

    /// Returns when its objects are due, if the delay is `delay` now: a delay that was made longer
    /// counts, one that was made shorter does not.
    pub fn due(&self, delay: Duration) -> Timestamp {
        self.until.max(later(self.time, delay))
    }

    /// Reads the tombstone. `Corrupt` if its bytes are not what was written.
    pub fn read(&self, store: &dyn Store) -> Result<Tombstone> {
        decode(&get_all(store, &self.object, TOMBSTONE_BYTES_MAX)?, &self.object, self.kind)
    }
}

/// Returns a time `by` later.
pub(crate) fn later(time: Timestamp, by: Duration) -> Timestamp {
    Timestamp(time.0.saturating_add(i64::try_from(by.as_nanos()).unwrap_or(i64::MAX)))
}

/// Reads 16 hexadecimal digits.
pub(crate) fn hex(digits: &str) -> Option<u64> {
    u64::from_str_radix(digits, 16).ok().filter(|number| format!("{number:016x}") == digits)
}

/// Reads the time in a name.
pub(crate) fn time_of(digits: &str) -> Option<Timestamp> {
    i64::try_from(hex(digits)?).ok().map(Timestamp)
}

/// Returns the tombstones below `prefix`, oldest first.
pub(crate) fn list(store: &dyn Store, prefix: &str) -> Result<Vec<TombstoneName>> {
    let objects = store.list(prefix)?;
    let mut found: Vec<_> =
        objects.iter().filter_map(|info| TombstoneName::parse(&info.name, info.length)).collect();
    found.sort_by(|a, b| (a.time, &a.object).cmp(&(b.time, &b.object)));
    Ok(found)
}

/// Returns the bytes of a tombstone.
pub(crate) fn encode(by: &str, kind: Kind, entries: &[Entry]) -> Vec<u8> {
    let end = (0..=by.len().min(BY_BYTES_MAX)).rev().find(|at| by.is_char_boundary(*at));
    let by = &by.as_bytes()[..end.unwrap_or(0)];
    let mut out = Vec::new();
    out.put_bytes(MAGIC).put_u16_le(by.len() as u16).put_bytes(by);
    out.put_u32_le(entries.len() as u32);
    for entry in entries {
        out.put_u16_le(entry.name.len() as u16).put_bytes(entry.name.as_bytes());
        out.put_u64_le(entry.length);
        if kind != Kind::Names {
            assert_eq!(entry.length, entry.content.len() as u64, "a moved object is whole");
            out.put_bytes(&entry.content);
        }
    }
    out.put_crc32_le();
    out
}

/// Reads the bytes of a tombstone.
fn decode(bytes: &[u8], object: &str, kind: Kind) -> Result<Tombstone> {
    let mut from = Reader::new(bytes, "read tombstone", object);
    from.magic(MAGIC)?;
    let length = from.u16_le()?;
    let by = from.text(usize::from(length), BY_BYTES_MAX)?.to_owned();
    let count = from.u32_le()?;
    let count = from.count(count, 10)?;
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        let length = from.u16_le()?;
        let name = from.text(usize::from(length), hrl::store::NAME_BYTES_MAX)?.to_owned();
        let length = from.u64_le()?;
        let content = match kind {
            Kind::Names => Vec::new(),
            Kind::Bytes | Kind::Replaced => {
                let within = usize::try_from(length).ok().filter(|n| *n <= from.rest().len());
                let length = within.ok_or_else(|| from.invalid("a whole object", length))?;
                from.take(length)?.to_vec()
            }
        };
        entries.push(Entry { name, length, content });
    }
    from.crc32_le()?;
    from.end()?;
    Ok(Tombstone { by, entries })
}

/// What can still be brought back of a volume, or of objects of no volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// The volume; `None` for objects of no volume.
    pub volume: Option<String>,
    /// Tombstones.
    pub tombstones: u64,
    /// Deleted objects that stay in their places, which are segments and packs.
    pub objects: u64,
    /// Bytes that all of it takes.
    pub bytes: u64,
    /// When the oldest was deleted.
    pub since: Timestamp,
    /// When the first will be purged.
    pub next_due: Timestamp,
}

/// Returns what can still be brought back in a vault, by volume. `store` is the store below any
/// [`DelayedStore`](crate::DelayedStore).
///
/// A tombstone that cannot be read counts with its own bytes.
pub fn deleted(store: &dyn Store) -> Result<Vec<Deleted>> {
    let delay = crate::delay_of(store)?;
    let mut found: BTreeMap<Option<String>, Deleted> = BTreeMap::new();
    for name in list(store, DELETED)? {
        let volume = name.volume.clone();
        let due = name.due(delay);
        let entry = found.entry(volume.clone()).or_insert(Deleted {
            volume,
            tombstones: 0,
            objects: 0,
            bytes: 0,
            since: name.time,
            next_due: due,
        });
        entry.tombstones += 1;
        entry.bytes = entry.bytes.saturating_add(name.length);
        (entry.since, entry.next_due) = (entry.since.min(name.time), entry.next_due.min(due));
        if name.kind == Kind::Names
            && let Ok(tombstone) = name.read(store)
        {
            entry.objects += tombstone.entries.len() as u64;
            for object in &tombstone.entries {
                entry.bytes = entry.bytes.saturating_add(object.length);
            }
        }
    }
    Ok(found.into_values().collect())
}

/// Returns the error for a request that only maintenance may make.
pub(crate) fn reserved(operation: &'static str, name: &str) -> Error {
    Error::new(ErrorKind::Denied, operation, name).message(
        "tombstones are put and removed by the store itself, so that a delete can be taken back",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, content: &[u8]) -> Entry {
        Entry { name: name.to_owned(), length: content.len() as u64, content: content.to_vec() }
    }

    #[test]
    fn names_of_tombstones_are_read_as_they_were_made() {
        for volume in [Some("disk"), None] {
            for kind in Kind::ALL {
                let name = TombstoneName::new(volume, kind, (Timestamp(5), Timestamp(9)), 77);
                hrl::store::check_name(&name.object).expect("a name of the store");
                assert_eq!(TombstoneName::parse(&name.object, 0), Some(name));
            }
        }
        for other in
            ["deleted/delay-0000000000000001", "deleted/volumes/a/1-2-3.names", "deleted/x", "a"]
        {
            assert_eq!(TombstoneName::parse(other, 0), None, "{other}");
        }
    }

    #[test]
    fn promise_11_any_altered_byte_of_a_tombstone_is_an_error() {
        let entries = [entry("plans/a", b"one"), entry("plans/b", b"")];
        let bytes = encode("me", Kind::Bytes, &entries);
        let read = decode(&bytes, "o", Kind::Bytes).expect("as it was made");
        assert_eq!((read.by.as_str(), &read.entries[..]), ("me", &entries[..]));
        for at in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            decode(&altered, "o", Kind::Bytes).expect_err("a flipped bit");
            decode(&bytes[..at], "o", Kind::Bytes).expect_err("cut off");
        }
    }

    proptest::proptest! {
        #[test]
        fn promise_11_any_bytes_give_a_tombstone_or_an_error(bytes: Vec<u8>, moved: bool) {
            let kind = if moved { Kind::Bytes } else { Kind::Names };
            let _ = decode(&bytes, "o", kind);
            let mut with_magic = MAGIC.to_vec();
            with_magic.extend(bytes);
            let _ = decode(&with_magic, "o", kind);
        }
    }
}
