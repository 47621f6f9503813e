//! The names of a vault's objects. No other file spells one.
//!
//! ```text
//! hrl-vault                                      the marker of a vault, with its format version
//! volumes/NAME/volume                            identity, size, block size, key id (immutable)
//! volumes/NAME/keys/KEYID.WRAPPINGID             a wrapped volume key and the id of what wraps it
//! volumes/NAME/keys/KEYID                        the same, from before keys could be rotated
//! volumes/NAME/keys/shredded                     the marker of a shredded volume, see `shredded`
//! volumes/NAME/catalog/VERSION                   a catalog version, 16 hexadecimal digits
//! volumes/NAME/catalog/FROM-UNTIL                a mirror's gate, see `versions`
//! volumes/NAME/holds/POINT-SEQUENCE-VERSION     a legal hold, see `holds`
//! volumes/NAME/segments/eEPOCH-FIRST-LAST-SALT.hrl   a closed segment or image
//! volumes/NAME/packs/FIRST-LAST-HASH.pack        small segments together
//! volumes/NAME/packs/FIRST-LAST-HASH.pack.gone-MEMBERS   of older versions; means nothing
//! plans/RUN/…                                    records of a recovery plan's run
//! audit/NUMBER                                   who changed what, see the crate `hrl-audit`
//! revoked/FINGERPRINT                            a certificate that gateways refuse
//! ```

use crate::error::{Error, ErrorKind, Result};
use crate::journal::SegmentSummary;
use crate::units::KeyId;

/// Marks a store as a vault.
pub const MARKER: &str = "hrl-vault";
/// Prefix of every object of every volume.
pub const VOLUMES: &str = "volumes/";
/// Prefix of the records of recovery plans.
pub const PLANS: &str = "plans/";
/// Prefix of the audit log.
pub const AUDIT: &str = "audit/";
/// Prefix of the certificates that gateways refuse.
pub const REVOKED: &str = "revoked/";
/// Longest name of a volume, in bytes.
pub const VOLUME_NAME_BYTES_MAX: usize = 128;
/// Longest name of a pack's member, in bytes: segments with longer names are not packed.
pub(super) const PACK_NAME_BYTES_MAX: usize = 255;

/// Name of a volume's record below its prefix.
const RECORD: &str = "/volume";
const SEGMENTS: &str = "segments/";
const PACKS: &str = "packs/";

/// Returns the prefix of every object of a volume.
pub fn volume_prefix(volume: &str) -> String {
    format!("{VOLUMES}{volume}/")
}

/// Returns the name of the record that says what a volume is.
pub fn volume_record(volume: &str) -> String {
    format!("{VOLUMES}{volume}{RECORD}")
}

/// Returns the volume whose record `object` is.
pub fn volume_of_record(object: &str) -> Option<&str> {
    object.strip_prefix(VOLUMES)?.strip_suffix(RECORD)
}

/// Splits an object's name into its volume and what follows; `None` for an object of no volume.
pub fn split_volume(object: &str) -> Option<(&str, &str)> {
    object.strip_prefix(VOLUMES)?.split_once('/')
}

/// Returns the prefix of a volume's catalog versions.
pub fn catalog_prefix(volume: &str) -> String {
    format!("{VOLUMES}{volume}/catalog/")
}

/// Returns the name of a catalog version below `prefix`.
pub fn catalog_version(prefix: &str, number: u64) -> String {
    format!("{prefix}{number:016x}")
}

/// Returns the prefix of a volume's wrapped keys.
pub fn keys_prefix(volume: &str) -> String {
    format!("{VOLUMES}{volume}/keys/")
}

/// Returns the name of a volume key that is wrapped by the key-encryption key `wrapped_by`.
pub(super) fn wrapped_key(volume: &str, generation: u32, key: KeyId, wrapped_by: KeyId) -> String {
    let later = if generation > 1 { format!(".{generation:08x}") } else { String::new() };
    format!("{}{key}.{wrapped_by}{later}", keys_prefix(volume))
}

/// Returns the name of the object that says that a volume was shredded.
pub fn shredded(volume: &str) -> String {
    format!("{}shredded", keys_prefix(volume))
}

/// Returns the prefix of a volume's legal holds.
pub fn holds_prefix(volume: &str) -> String {
    format!("{VOLUMES}{volume}/holds/")
}

/// Returns the prefix of a volume's segments.
pub fn segments_prefix(volume: &str) -> String {
    format!("{VOLUMES}{volume}/{SEGMENTS}")
}

/// Returns the name of a segment in the vault.
pub fn segment(volume: &str, summary: &SegmentSummary) -> String {
    format!("{}{}", segments_prefix(volume), summary.object_name())
}

/// Returns the prefix of a volume's packs.
pub fn packs_prefix(volume: &str) -> String {
    format!("{VOLUMES}{volume}/{PACKS}")
}

/// A segment by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentName<'a> {
    /// Full name of its object.
    pub object: &'a str,
    pub volume: &'a str,
    /// Its name below the volume's segments.
    pub member: &'a str,
    /// First and last sequence.
    pub span: (u64, u64),
}

/// Splits the name of a segment; `None` for other names, which are never packed.
pub(super) fn split_segment(object: &str) -> Option<SegmentName<'_>> {
    let (volume, rest) = split_volume(object)?;
    let member = rest.strip_prefix(SEGMENTS)?;
    Some(SegmentName { object, volume, member, span: span_of(member)? })
}

/// Returns the volume that `object` is a pack of, or a marker of a pack.
pub(super) fn volume_of_pack(object: &str) -> Option<&str> {
    let (volume, rest) = split_volume(object)?;
    rest.starts_with(PACKS).then_some(volume)
}

/// Returns first and last sequence in the name of a segment, see [`SegmentSummary::object_name`].
pub(crate) fn span_of(member: &str) -> Option<(u64, u64)> {
    let mut parts = member.split('-').skip(1);
    let (first, last) = (number(parts.next()?)?, number(parts.next()?)?);
    (first <= last && member.len() <= PACK_NAME_BYTES_MAX).then_some((first, last))
}

/// Reads the 16 hexadecimal digits that sequences and versions have in names.
pub(super) fn number(digits: &str) -> Option<u64> {
    u64::from_str_radix(digits, 16).ok().filter(|number| format!("{number:016x}") == digits)
}

/// Checks the name of a volume; `InvalidInput` says what it may be.
pub(super) fn check_volume_name(name: &str) -> Result<()> {
    let good = !name.is_empty()
        && name.len() <= VOLUME_NAME_BYTES_MAX
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if good {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidInput, "name volume", name)
        .expected("1 to 128 of A-Z a-z 0-9 . _ - that do not begin with a dot"))
}
