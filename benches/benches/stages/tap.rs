//! Capture: 4 KiB writes through the tap and its queue, against copies into fresh buffers.

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Waker};
use std::time::Duration;

use criterion::{Criterion, Throughput};
use hrl::capture::{Change, RegionRange, Tap};
use hrl::device::Buffer;
use hrl::{Extent, Mode, Policy, Sequence, SystemClock, WhenFull};
use hrl_benches::{BLOCK_BYTES, disk_like};

const DISK_BYTES: u64 = 1 << 30;
const BLOCKS: usize = 256;
const WRITES: u64 = 4096;

pub fn group(criterion: &mut Criterion) {
    let data = disk_like(BLOCKS, 1);
    let block = |number: u64| &data[(number as usize % BLOCKS) * BLOCK_BYTES..][..BLOCK_BYTES];
    let mut group = criterion.benchmark_group("tap");
    group.throughput(Throughput::Bytes(WRITES * BLOCK_BYTES as u64));
    group.bench_function("copies into fresh buffers", |bencher| {
        bencher.iter(|| {
            let mut kept = VecDeque::with_capacity(BLOCKS);
            for number in 0..WRITES {
                kept.push_back(Buffer::copy_of(black_box(block(number))));
                if kept.len() == BLOCKS {
                    kept.clear();
                }
            }
        });
    });
    group.bench_function("drained by another thread", |bencher| {
        let tap = new_tap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    drop(tap.drain(1 << 20, Duration::from_millis(5)));
                }
            });
            bencher.iter(|| {
                for number in 0..WRITES {
                    write(&tap, number, block(number));
                }
            });
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(tap.mode(), Mode::Ordered, "nothing but ordered capture is measured");
    });
    group.bench_function("drained between the writes", |bencher| {
        let tap = new_tap();
        bencher.iter(|| {
            for number in 0..WRITES {
                write(&tap, number, block(number));
                if number % BLOCKS as u64 == BLOCKS as u64 - 1 {
                    drop(tap.drain(u64::MAX, Duration::ZERO));
                }
            }
        });
        assert_eq!(tap.mode(), Mode::Ordered, "nothing but ordered capture is measured");
    });
    group.finish();
}

/// Returns a tap all of whose regions are marked, and that makes the writer wait when the queue is full.
fn new_tap() -> Arc<Tap> {
    let policy = Policy { when_full: WhenFull::Block, ..Policy::default() };
    let tap = Arc::new(Tap::new(DISK_BYTES, Sequence::ZERO, &policy, SystemClock::shared()));
    let regions = DISK_BYTES / policy.region_bytes;
    tap.set_dirty(&[RegionRange { first: 0, last: regions - 1 }]);
    tap
}

fn write(tap: &Tap, number: u64, block: &[u8]) {
    let blocks = DISK_BYTES / BLOCK_BYTES as u64;
    let offset = number * 7919 % blocks * BLOCK_BYTES as u64;
    let extent = Extent { offset, length: BLOCK_BYTES as u64 };
    let ticket = loop {
        match tap.begin(extent, Waker::noop()) {
            Poll::Ready(ticket) => break ticket.expect("within the disk"),
            Poll::Pending => std::thread::yield_now(),
        }
    };
    tap.complete(ticket, Change::Write(Buffer::copy_of(block)));
}
