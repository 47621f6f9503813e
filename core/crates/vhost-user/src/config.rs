//! The configuration space of a virtio block device, as virtio 1.2 lays it out (section 5.2.4).

use crate::request::SECTOR_BYTES;

/// Most sectors of a discard or of zeroes in one request.
const RANGE_SECTORS_MAX: u32 = 1 << 22;
/// Most data segments of a request, without header and status.
pub(crate) const SEGMENTS_MAX: u32 = 126;
const BYTES: usize = 60;

/// What a client may know of a disk.
pub(crate) struct Shape {
    pub size_bytes: u64,
    pub block_bytes: u32,
    pub queues: u16,
    pub request_bytes_max: u32,
}

/// Returns the bytes of the configuration space.
pub(crate) fn space(shape: &Shape) -> [u8; BYTES] {
    let mut space = [0; BYTES];
    let mut put = |at: usize, bytes: &[u8]| space[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &(shape.size_bytes / SECTOR_BYTES).to_le_bytes());
    // Of a segment, so that no request is longer than the limit.
    put(8, &(shape.request_bytes_max / SEGMENTS_MAX / 4096 * 4096).to_le_bytes());
    put(12, &SEGMENTS_MAX.to_le_bytes());
    put(20, &shape.block_bytes.to_le_bytes());
    put(34, &shape.queues.to_le_bytes());
    // Of a discard and of zeroes: sectors, ranges, and alignment or whether blocks may be freed.
    put(36, &RANGE_SECTORS_MAX.to_le_bytes());
    put(40, &1_u32.to_le_bytes());
    put(44, &(shape.block_bytes / SECTOR_BYTES as u32).to_le_bytes());
    put(48, &RANGE_SECTORS_MAX.to_le_bytes());
    put(52, &1_u32.to_le_bytes());
    put(56, &[1]);
    space
}
