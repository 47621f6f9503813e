//! The record of a volume.

use crate::value::mirror;

mirror! {
    /// The record of a volume in a vault.
    VolumeInfo(info: hrl::vault::VolumeInfo) {
        /// Name in the vault.
        name: String,
        /// Random identity: 32 hexadecimal digits.
        id: String,
        /// Size in bytes.
        size_bytes: u64 = info.device_bytes,
        /// Logical block size in bytes.
        block_bytes: u32,
        /// Time in UTC at which it was first protected.
        created: String,
        /// Whether its segments and catalog are encrypted.
        encrypted: bool = info.key_id.is_some(),
        /// Whether changes are tracked without their data.
        extents_only: bool,
        /// Whether its keys were deleted, so that nothing of it can be read any more.
        shredded: bool,
    }
    shows name id size_bytes;
}
