//! Models of two layers under every schedule: changes, copies, reads and the declaration that all is there.

use super::*;
use crate::device::{Discarded, MemoryDevice, Unmap};
use crate::sync::thread::switch;
use crate::sync::{explore, thread};

const BLOCK_BYTES: u64 = 4096;
const BLOCKS: u64 = 3;
const SIZE_BYTES: u64 = BLOCKS * BLOCK_BYTES;
const BASE: u8 = 1;
/// A change of less than a block.
const PART_BYTES: u64 = 512;

/// Requests that take their time.
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

fn layers() -> Arc<Layers> {
    let [base, upper] = [(); 2].map(|()| Slow(MemoryDevice::new(SIZE_BYTES)));
    let bytes = [BASE; SIZE_BYTES as usize];
    base.0.write(0, &bytes, Durability::Cached).expect("written");
    Arc::new(Layers::new(Arc::new(base), Arc::new(upper)).expect("of one size"))
}

fn change(layers: &Layers, offset: u64, value: u8) {
    let extent = Extent { offset, length: PART_BYTES };
    let write = || layers.upper.write(offset, &[value; PART_BYTES as usize], Durability::Cached);
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
    layers.bring(vec![layers.whole()], |_| {}, bring).expect("copied");
}

fn value(layers: &Layers, offset: u64) -> u8 {
    let mut byte = [0];
    layers.read(offset, &mut byte).expect("read");
    byte[0]
}

#[test]
fn changes_of_parts_of_a_block_and_a_copy_of_it_all_stay() {
    explore(|| {
        let layers = layers();
        let threads: Vec<_> = [(0, 2), (PART_BYTES, 3), (BLOCK_BYTES, 4)]
            .into_iter()
            .map(|(offset, value)| {
                let layers = layers.clone();
                thread::spawn(move || change(&layers, offset, value))
            })
            .chain([thread::spawn({
                let layers = layers.clone();
                move || copy(&layers)
            })])
            .collect();
        // What was seen changed is never seen as it was before.
        let seen = [value(&layers, 0), value(&layers, 0)];
        assert!(matches!(seen, [BASE, BASE | 2] | [2, 2]), "{seen:?}");
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        let parts = [(0, 2), (PART_BYTES, 3), (2 * PART_BYTES, BASE), (BLOCK_BYTES, 4)];
        for (offset, expected) in parts.into_iter().chain([(2 * BLOCK_BYTES, BASE)]) {
            assert_eq!(value(&layers, offset), expected, "at {offset}");
        }
        assert!(layers.presence.holds(layers.whole()));
    });
}

#[test]
fn all_is_declared_present_only_when_it_is_and_nobody_waits_for_ever() {
    explore(|| {
        let layers = layers();
        let spawn = |what: fn(&Layers)| {
            let layers = layers.clone();
            thread::spawn(move || what(&layers))
        };
        let threads = [
            spawn(copy),
            spawn(|layers| change(layers, 0, 2)),
            spawn(|layers| {
                let is_whole = || layers.presence.holds(layers.whole());
                if layers.finish(is_whole, |_| {}) {
                    assert_eq!(value(layers, 2 * BLOCK_BYTES), BASE);
                }
            }),
            spawn(|layers| change(layers, BLOCK_BYTES, 3)),
        ];
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        assert_eq!([0, BLOCK_BYTES].map(|offset| value(&layers, offset)), [2, 3]);
    });
}
