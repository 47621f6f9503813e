//! Finds the last writer of each byte: turns changes in write order into disjoint extents in disk
//! order.

use std::collections::BinaryHeap;

use super::format::IndexEntry;
use crate::extent::Extent;

/// Returns the last writer of each byte, by offset and disjoint. Among equal sequences the later in
/// `entries` wins.
///
/// Costs a sort of the entries, and no more if they do not overlap.
pub(super) fn last_writers(mut entries: Vec<IndexEntry>) -> Vec<IndexEntry> {
    entries.sort_by_key(|entry| entry.extent.offset);
    if entries.windows(2).all(|pair| pair[0].extent.end() <= pair[1].extent.offset) {
        return entries;
    }
    let mut out: Vec<IndexEntry> = Vec::with_capacity(entries.len());
    // Sequence and index of those that cover the position of the sweep, the newest on top.
    let mut active: BinaryHeap<(u64, usize)> = BinaryHeap::new();
    let mut next = 0;
    let mut position = 0;
    let mut last_rank = usize::MAX;
    while next < entries.len() || !active.is_empty() {
        if active.is_empty() {
            position = entries[next].extent.offset;
        }
        while next < entries.len() && entries[next].extent.offset <= position {
            active.push((entries[next].sequence.0, next));
            next += 1;
        }
        let Some(top) = active.peek().map(|(_, top)| *top) else { continue };
        if entries[top].extent.end() <= position {
            active.pop();
            continue;
        }
        let mut end = entries[top].extent.end();
        if let Some(entry) = entries.get(next) {
            end = end.min(entry.extent.offset);
        }
        let piece = part(&entries[top], Extent::from_bounds(position, end));
        match out.last_mut() {
            Some(last) if last_rank == top && last.extent.end() == position => {
                last.extent.length += piece.extent.length;
            }
            _ => out.push(piece),
        }
        last_rank = top;
        position = end;
    }
    out
}

/// Returns the part of an entry that lies in `window`, which it covers.
pub(super) fn part(entry: &IndexEntry, window: Extent) -> IndexEntry {
    debug_assert!(entry.extent.contains(window));
    let skipped = window.offset - entry.extent.offset;
    // Only data has a place in the frame, and data is shorter than 4 GiB.
    let data_offset = match entry.kind {
        super::format::IndexKind::Data => entry.data_offset + skipped as u32,
        _ => entry.data_offset,
    };
    IndexEntry { extent: window, data_offset, ..*entry }
}

#[cfg(test)]
mod tests {
    use super::super::format::IndexKind;
    use super::*;
    use crate::units::Sequence;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_sweep_agrees_with_a_byte_map(writes in prop::collection::vec((0_u64..100, 1_u64..40), 0..60)) {
            let entries: Vec<_> = writes.iter().enumerate().map(|(at, (offset, length))| IndexEntry {
                extent: Extent { offset: *offset, length: *length },
                kind: IndexKind::Data, sequence: Sequence(at as u64 + 1), frame: at as u32, data_offset: 1000,
            }).collect();
            let mut model = [(0_u64, 0_u64); 160];
            for entry in &entries {
                for byte in entry.extent.offset..entry.extent.end() {
                    model[byte as usize] = (entry.sequence.0, 1000 + byte - entry.extent.offset);
                }
            }
            let swept = last_writers(entries);
            prop_assert!(swept.windows(2).all(|w| w[0].extent.end() <= w[1].extent.offset));
            let mut found = [(0_u64, 0_u64); 160];
            for entry in &swept {
                for byte in entry.extent.offset..entry.extent.end() {
                    found[byte as usize] =
                        (entry.sequence.0, u64::from(entry.data_offset) + byte - entry.extent.offset);
                }
            }
            prop_assert_eq!(model, found);
        }
    }
}
