//! Repairs the checksums of altered logs, so that tests and fuzzing reach the code behind them.

use super::codec::{
    BLOCK_HEADER_BYTES, ENTRY_BYTES, HEADER_BYTES, checksum, own_checksum, put, u32_at, u64_at,
};

/// Repairs the checksums of the header, and of the blocks, entries and data that are reached
/// backwards from the end of the log. Nothing else changes. Feature `testing`.
pub fn mend_hyperv_log(bytes: &mut [u8]) {
    if bytes.len() < HEADER_BYTES {
        return;
    }
    mend_own(&mut bytes[..HEADER_BYTES], 40);
    let metadata = u32_at(bytes, 56) as usize;
    let mut blocks = Vec::new();
    let mut at = usize::try_from(u64_at(bytes, 44)).ok().and_then(|end| end.checked_sub(metadata));
    while let Some(block) = at.filter(|at| is_block(bytes, *at, metadata)) {
        blocks.push(block);
        mend_own(&mut bytes[block..block + BLOCK_HEADER_BYTES], 12);
        let previous = usize::try_from(u64_at(bytes, block)).ok();
        at = previous.filter(|previous| *previous > 0).and_then(|p| block.checked_sub(p));
    }
    let mut data_at = HEADER_BYTES;
    for block in blocks.into_iter().rev() {
        let capacity = (metadata - BLOCK_HEADER_BYTES) / ENTRY_BYTES;
        for number in 0..(u32_at(bytes, block + 8) as usize).min(capacity) {
            let entry = block + BLOCK_HEADER_BYTES + number * ENTRY_BYTES;
            let data_end = data_at + u32_at(bytes, entry + 12) as usize;
            if let Some(data) = bytes.get(data_at..data_end) {
                let sum = checksum(data);
                put(bytes, entry + 21, &sum.to_le_bytes());
            }
            mend_own(&mut bytes[entry..entry + ENTRY_BYTES], 8);
            data_at = data_end;
        }
        data_at = block + metadata;
    }
}

fn is_block(bytes: &[u8], at: usize, metadata: usize) -> bool {
    metadata >= BLOCK_HEADER_BYTES
        && at >= HEADER_BYTES
        && at.checked_add(metadata).is_some_and(|end| end <= bytes.len())
}

/// Repairs the checksum that a structure contains at `at`.
fn mend_own(bytes: &mut [u8], at: usize) {
    let sum = own_checksum(bytes, at);
    put(bytes, at, &sum.to_le_bytes());
}
