//! Models of two layers under every schedule: changes, copies, reads and the declaration that all
//! is there.

use super::*;
use crate::device::{Discarded, MemoryDevice, Unmap};
use crate::sync::thread::switch;
use crate::sync::{explore, thread};

const BLOCK_BYTES: u64 = 4096;
const BLOCKS: u64 = 3;
const SIZE_BYTES: u64 = BLOCKS * BLOCK_BYTES;
const BASE: u8 = 1;
const DATA: Extent = Extent { offset: 0, length: 2 * BLOCK_BYTES };
/// A change of less than a block.
const PART_BYTES: u64 = 512;

/// Requests that take time.
struct Slow(MemoryDevice);

impl BlockDevice for Slow {
    fn name(&self) -> String {
        self.0.name()
    }

    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }

    fn block_bytes(&self) -> u32 {
        self.0.block_bytes()
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        switch();
        self.0.read(offset, buffer)
    }

    fn write(&self, offset: u64, data: &[u8], durability: Durability) -> Result<()> {
        switch();
        self.0.write(offset, data, durability)
    }

    fn zero(&self, extent: Extent, unmap: Unmap, durability: Durability) -> Result<()> {
        self.0.zero(extent, unmap, durability)
    }

    fn discard(&self, extent: Extent) -> Result<Discarded> {
        self.0.discard(extent)
    }

    fn flush(&self) -> Result<()> {
        self.0.flush()
    }
}

/// A base with data in its first two blocks.
fn layers() -> Arc<Layers> {
    let [base, upper] = [(); 2].map(|()| Slow(MemoryDevice::new(SIZE_BYTES)));
    let bytes = [BASE; DATA.length as usize];
    base.0.write(DATA.offset, &bytes, Durability::Cached).expect("written");
    Arc::new(Layers::new(Arc::new(base), Arc::new(upper)).expect("of one size"))
}

fn change(layers: &Layers, offset: u64, parts: u64, value: u8) {
    let extent = Extent { offset, length: parts * PART_BYTES };
    let bytes = vec![value; extent.length as usize];
    let write = || layers.upper.write(offset, &bytes, Durability::Cached);
    layers.change(extent, |_| {}, write).expect("changed");
}

fn copy(layers: &Layers) {
    let bring = |absent: &[Extent]| {
        for extent in absent {
            let mut bytes = vec![0; extent.length as usize];
            layers.base.read(extent.offset, &mut bytes)?;
            layers.upper.write(extent.offset, &bytes, Durability::Cached)?;
        }
        Ok(())
    };
    layers.bring(vec![DATA], |_| {}, bring).expect("copied");
}

fn value(layers: &Layers, offset: u64) -> u8 {
    let mut byte = [0];
    layers.read(offset, &mut byte).expect("read");
    byte[0]
}

fn spawn(layers: &Arc<Layers>, what: fn(&Layers)) -> thread::JoinHandle<()> {
    let layers = layers.clone();
    thread::spawn(move || what(&layers))
}

#[test]
fn changes_of_parts_of_a_block_and_a_copy_of_it_all_stay() {
    explore(|| {
        let layers = layers();
        let threads = [
            spawn(&layers, |layers| change(layers, 0, 1, 2)),
            spawn(&layers, |layers| change(layers, PART_BYTES, 1, 3)),
            spawn(&layers, |layers| change(layers, BLOCK_BYTES - PART_BYTES, 2, 4)),
            spawn(&layers, copy),
        ];
        // A state that was seen changed is never seen as it was before.
        let seen = [value(&layers, 0), value(&layers, 0)];
        assert!(matches!(seen, [BASE, BASE | 2] | [2, 2]), "{seen:?}");
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        let changed = [(0, 2), (1, 3), (2, BASE), (7, 4), (8, 4), (9, BASE)];
        for (part, expected) in changed {
            assert_eq!(value(&layers, part * PART_BYTES), expected, "part {part}");
        }
        assert!(layers.presence.contains(DATA));
    });
}

#[test]
fn all_is_declared_present_under_no_change_and_nobody_waits_for_ever() {
    explore(|| {
        let layers = layers();
        // Blocks without data in the base need not be copied.
        let threads = [
            spawn(&layers, copy),
            spawn(&layers, |layers| change(layers, DATA.end(), 1, 2)),
            spawn(&layers, |layers| change(layers, DATA.end() + PART_BYTES, 1, 3)),
            spawn(&layers, |layers| {
                if layers.finish(|| layers.presence.contains(DATA), |_| {}) {
                    assert_eq!(value(layers, 0), BASE);
                }
            }),
        ];
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        for (part, expected) in [(0, 2), (1, 3), (2, 0)] {
            assert_eq!(value(&layers, DATA.end() + part * PART_BYTES), expected, "part {part}");
        }
    });
}
