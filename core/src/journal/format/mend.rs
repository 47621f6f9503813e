//! Makes altered segments consistent again, as an attacker can if there is no key. Tests and
//! fuzzing so reach the decoders below the checksums.

use super::frame::{footer, frame};
use super::header::header;
use super::{FOOTER_BYTES, FRAME_HEADER_BYTES, HEADER_BYTES, put, u32_at};

/// Corrects checksums, frame numbers, length and chain hash of an unencrypted segment, as far as
/// its frames can be followed from its header on. Leaves all else as it is. Feature `testing`.
pub fn mend_segment(bytes: &mut [u8]) {
    let length = bytes.len();
    if length < HEADER_BYTES {
        return;
    }
    let checksum = crc32fast::hash(&bytes[..header::CHECKSUM.start]);
    put(bytes, header::CHECKSUM, &checksum.to_le_bytes());
    let mut chain = blake3::Hasher::new();
    chain.update(&bytes[..HEADER_BYTES]);
    let mut rest = &mut bytes[HEADER_BYTES..];
    for number in 0_u32.. {
        let Some(stored_end) = frame_end(rest) else { break };
        let (whole, after) = rest.split_at_mut(stored_end);
        let (head, stored) = whole.split_at_mut(FRAME_HEADER_BYTES);
        put(head, frame::NUMBER, &number.to_le_bytes());
        let mut checksum = crc32fast::Hasher::new();
        checksum.update(&head[..frame::CHECKSUM.start]);
        checksum.update(stored);
        put(head, frame::CHECKSUM, &checksum.finalize().to_le_bytes());
        chain.update(head);
        rest = after;
    }
    if length < HEADER_BYTES + FOOTER_BYTES {
        return;
    }
    let end = &mut bytes[length - FOOTER_BYTES..];
    put(end, footer::LENGTH, &(length as u64).to_le_bytes());
    put(end, footer::CHAIN, chain.finalize().as_bytes());
    let checksum = crc32fast::hash(&end[..footer::CHECKSUM.start]);
    put(end, footer::CHECKSUM, &checksum.to_le_bytes());
}

/// Returns where the first frame of `bytes` ends; `None` if none begins there or it is not whole.
fn frame_end(bytes: &[u8]) -> Option<usize> {
    let head = bytes.get(..FRAME_HEADER_BYTES)?;
    if head[frame::MAGIC] != super::frame::FRAME_MAGIC {
        return None;
    }
    let end = FRAME_HEADER_BYTES + u32_at(head, frame::STORED_BYTES) as usize;
    (end <= bytes.len()).then_some(end)
}
