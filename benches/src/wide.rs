//! A volume of 1 TiB with a million records in 100 segments, on local files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hrl::device::{BlockDevice, SystemFiles};
use hrl::journal::{
    Body, FileSink, KeyRing, Record, Segment, SegmentSummary, SegmentWriter, open_mapped,
};
use hrl::replica::{View, ViewOptions};
use hrl::vault::VolumeInfo;
use hrl::{Compression, Sequence, SystemClock, Timestamp, VolumeId};

use crate::{BLOCK_BYTES, Random, log_params};

const DISK_BYTES: u64 = 1 << 40;
const SEGMENTS: u64 = 100;
const RECORDS_A_SEGMENT: u64 = 10_000;

/// The segments of such a volume.
pub struct WideVolume {
    paths: Vec<PathBuf>,
    last: Sequence,
}

impl WideVolume {
    /// Records in all segments.
    pub const RECORDS: u64 = SEGMENTS * RECORDS_A_SEGMENT;

    /// Writes the segments into `directory`.
    pub fn create(directory: &Path) -> Self {
        let clock = SystemClock::default();
        let mut random = Random(99);
        let mut before: Option<SegmentSummary> = None;
        let mut paths = Vec::new();
        for number in 0..SEGMENTS {
            let path = directory.join(format!("{number}.hrl"));
            let params = log_params(DISK_BYTES, before.as_ref(), Compression::Zstd(1));
            let mut sequence = params.first_sequence;
            let sink = FileSink::create(&SystemFiles, &path).expect("file");
            let mut writer = SegmentWriter::create(sink, params, None, &clock).expect("create");
            for _ in 0..RECORDS_A_SEGMENT {
                let offset = random.below(DISK_BYTES / BLOCK_BYTES as u64) * BLOCK_BYTES as u64;
                let body = Body::Write { offset, data: &[7; 512] };
                writer.append(&Record { sequence, time: Timestamp(0), body }).expect("append");
                sequence = sequence.next();
            }
            before = Some(writer.close(None).expect("close").1);
            paths.push(path);
        }
        Self { paths, last: before.map_or(Sequence::ZERO, |summary| summary.last_sequence) }
    }

    /// Opens the segments and a view over them, and reads one block.
    pub fn open_and_read(&self) -> View {
        let open = |path: &PathBuf| {
            let source = open_mapped(path).expect("map");
            Arc::new(Segment::open(source, &KeyRing::default()).expect("open"))
        };
        let segments = self.paths.iter().map(open).collect();
        let view = View::from_segments(
            &volume_info(DISK_BYTES),
            segments,
            self.last,
            &ViewOptions::default(),
        )
        .expect("view");
        view.read(123 << 12, &mut [0; BLOCK_BYTES]).expect("read");
        view
    }
}

/// Returns what a vault would record about the volume of [`log_params`].
pub fn volume_info(device_bytes: u64) -> VolumeInfo {
    VolumeInfo {
        name: "disk".into(),
        id: VolumeId([1; 16]),
        device_bytes,
        block_bytes: 512,
        created: Timestamp(0),
        key_id: None,
        shredded: false,
        extents_only: false,
    }
}
