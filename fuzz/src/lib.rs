//! What several targets need.

use std::path::PathBuf;

use hrl::journal::{BytesSource, Segment, SegmentKind, SegmentParams, VolumeKey};
use hrl::{ChainHash, Compression, Epoch, Result, Sequence, Timestamp, VolumeId};

/// The key that sealed seeds are sealed with.
pub fn key() -> VolumeKey {
    VolumeKey::from_bytes([3; 32])
}

/// Opens a segment with that key at hand.
pub fn open_segment(bytes: &[u8]) -> Result<Segment> {
    Segment::open(Box::new(BytesSource::new("input", bytes.to_vec())), &key().into())
}

/// Parameters of a log of a small volume.
pub fn log_params(device_bytes: u64) -> SegmentParams {
    SegmentParams {
        kind: SegmentKind::Log,
        volume: VolumeId([1; 16]),
        epoch: Epoch(1),
        first_sequence: Sequence(1),
        device_bytes,
        block_bytes: 512,
        previous: ChainHash::default(),
        replaces_through: None,
        created: Timestamp(1_000),
        compression: Compression::None,
        frame_bytes: 1 << 10,
    }
}

/// A directory of this process in memory; where there is none, among the temporary files.
pub fn scratch(name: &str) -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    let parent = if memory.is_dir() { memory } else { std::env::temp_dir() };
    let directory = parent.join(format!("hrl-fuzz-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory for scratch files");
    directory
}
