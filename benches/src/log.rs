//! Log segments of 4 KiB writes at random places.

use std::hint::black_box;

use hrl::journal::{
    Body, BytesSource, KeyRing, Record, Segment, SegmentKind, SegmentParams, SegmentSink,
    SegmentSummary, SegmentWriter, VolumeKey,
};
use hrl::{ChainHash, Compression, Epoch, Result, Sequence, SystemClock, Timestamp, VolumeId};

use crate::BLOCK_BYTES;

/// Bytes of a frame before compression, as in the default policy.
pub const FRAME_BYTES: usize = 512 << 10;

/// A sink that drops its input.
#[derive(Debug, Default)]
pub struct Nowhere;

impl SegmentSink for Nowhere {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        black_box(bytes);
        Ok(())
    }
    fn sync(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Returns the header of a log that follows `before`, of a volume of `device_bytes`.
pub fn log_params(
    device_bytes: u64,
    before: Option<&SegmentSummary>,
    compression: Compression,
) -> SegmentParams {
    SegmentParams {
        kind: SegmentKind::Log,
        volume: VolumeId([1; 16]),
        epoch: Epoch(1),
        first_sequence: before.map_or(Sequence(1), |summary| summary.last_sequence.next()),
        device_bytes,
        block_bytes: 512,
        previous: before.map_or(ChainHash::default(), |summary| summary.chain),
        replaces_through: None,
        created: Timestamp(0),
        compression,
        frame_bytes: FRAME_BYTES as u64,
    }
}

/// Writes each block of `data` as a record at a random place, so that the index is as unsorted as
/// possible, and closes the segment.
pub fn write_log<S: SegmentSink>(
    sink: S,
    params: SegmentParams,
    data: &[u8],
    key: Option<&VolumeKey>,
) -> (S, SegmentSummary) {
    let clock = SystemClock::default();
    let blocks = params.device_bytes / BLOCK_BYTES as u64;
    let mut sequence = params.first_sequence;
    let mut writer = SegmentWriter::create(sink, params, key, &clock).expect("a sound header");
    for block in data.chunks_exact(BLOCK_BYTES) {
        let place = sequence.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24;
        let body = Body::Write { offset: place % blocks * BLOCK_BYTES as u64, data: block };
        writer.append(&Record { sequence, time: Timestamp(0), body }).expect("append");
        sequence = sequence.next();
    }
    writer.close(None).expect("close")
}

/// Opens a segment in memory.
pub fn open_log(bytes: Vec<u8>, key: Option<&VolumeKey>) -> Segment {
    let keys = key.map(|key| KeyRing::from(key.clone())).unwrap_or_default();
    Segment::open(Box::new(BytesSource::new("bench.hrl", bytes)), &keys).expect("sound")
}
