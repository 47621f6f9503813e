//! Tests the contract of a device; embedders can run it on their own.

use std::sync::Arc;

use super::{BlockDevice, Discarded, Durability, Operation, Unmap};
use crate::error::ErrorKind;
use crate::extent::Extent;

const SIZE: u64 = 1 << 20;
const STEPS: u64 = 600;

/// Checks the contract of [`BlockDevice`]. `make` returns a fresh, zeroed device of the given size
/// in bytes.
///
/// # Panics
/// If the device breaks the contract; the message says which part.
pub fn check(make: &dyn Fn(u64) -> Arc<dyn BlockDevice>) {
    check_limits(&*make(SIZE));
    check_model(&*make(SIZE));
    check_neighbours(&*make(SIZE));
}

fn check_limits(device: &dyn BlockDevice) {
    assert_eq!(device.size_bytes(), SIZE);
    assert!(
        device.block_bytes().is_power_of_two() && SIZE.is_multiple_of(device.block_bytes().into())
    );
    let mut buffer = [1; 1024];
    device.read(SIZE - 1024, &mut buffer).expect("read up to the end");
    assert_eq!(buffer, [0; 1024]);
    device.read(SIZE, &mut []).expect("an empty read at the end");
    for offset in [SIZE - 1023, SIZE, u64::MAX] {
        let error = device.read(offset, &mut buffer).expect_err("a read past the end");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(error.place(), Some(offset));
        assert!(device.write(offset, &buffer, Durability::Cached).is_err());
        let extent = Extent { offset, length: 1024 };
        assert!(device.zero(extent, Unmap::Allowed, Durability::Cached).is_err());
        assert!(device.discard(extent).is_err());
    }
    device.write(SIZE, &[], Durability::Cached).expect("an empty write at the end");
}

/// Compares random operations with the same on a byte array.
fn check_model(device: &dyn BlockDevice) {
    let mut model = vec![0_u8; SIZE as usize];
    let mut state = 1_u64;
    let mut random = move |below: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for step in 0..STEPS {
        let aligned = random(2) == 0;
        let round = |value: u64| if aligned { value & !4095 } else { value };
        let offset = round(random(SIZE - 20_000));
        let length = round(random(16_000) + 4096);
        let range = offset as usize..(offset + length) as usize;
        let extent = Extent { offset, length };
        match random(6) {
            0 | 1 => {
                let data: Vec<u8> = (0..length).map(|at| (at + step) as u8).collect();
                let durability =
                    if random(8) == 0 { Durability::Durable } else { Durability::Cached };
                device.write(offset, &data, durability).expect("write");
                model[range.clone()].copy_from_slice(&data);
            }
            2 => {
                let unmap = if random(2) == 0 { Unmap::Allowed } else { Unmap::Forbidden };
                device.zero(extent, unmap, Durability::Cached).expect("zero");
                model[range.clone()].fill(0);
            }
            3 => match device.discard(extent).expect("discard") {
                Discarded::Zeroes => model[range.clone()].fill(0),
                Discarded::Ignored => {}
                Discarded::Undefined => {
                    device.write(offset, &model[range.clone()], Durability::Cached).expect("write");
                }
            },
            4 => device.flush().expect("flush"),
            _ => {
                let data = vec![step as u8; length as usize];
                let mut before = vec![0; 4096];
                let mut operations =
                    [Operation::Write(offset, &data), Operation::Read(SIZE - 4096, &mut before)];
                assert!(device.batch(&mut operations).iter().all(Result::is_ok), "batch");
                model[range.clone()].copy_from_slice(&data);
                assert_eq!(before, model[SIZE as usize - 4096..], "a read in a batch");
            }
        }
        let mut found = vec![1; length as usize];
        device.read(offset, &mut found).expect("read");
        assert!(found == model[range], "step {step}: {extent} reads back as it was left");
    }
    let mut all = vec![1; SIZE as usize];
    device.read(0, &mut all).expect("read everything");
    assert!(all == model, "nothing outside the changed ranges changed");
    let whole = Extent { offset: 0, length: SIZE };
    let mut at = 0;
    for run in device.allocation(whole).expect("allocation") {
        assert_eq!(run.extent.offset, at, "runs are in order and without gaps");
        at = run.extent.end();
        let bytes = &model[run.extent.offset as usize..run.extent.end() as usize];
        assert!(run.allocated || bytes.iter().all(|byte| *byte == 0), "a hole reads as zeroes");
    }
    assert_eq!(at, SIZE, "runs cover the extent");
}

/// Lets threads write neighbouring, unaligned parts of the same blocks; none may undo another.
fn check_neighbours(device: &dyn BlockDevice) {
    const PART: u64 = 100;
    const THREADS: u64 = 8;
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                for round in 0..60 {
                    let offset = (round * THREADS + thread) * PART;
                    let data = [thread as u8 + 1; PART as usize];
                    device.write(offset, &data, Durability::Cached).expect("write");
                }
            });
        }
    });
    let mut all = vec![0; (60 * THREADS * PART) as usize];
    device.read(0, &mut all).expect("read");
    for (at, part) in all.chunks(PART as usize).enumerate() {
        assert!(
            part.iter().all(|byte| *byte == (at as u64 % THREADS) as u8 + 1),
            "part {at} is lost"
        );
    }
}
