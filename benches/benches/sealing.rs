//! Sealing a segment against the bare calls of its codecs on the same bytes, in turns in one run.
//!
//! Bar: at least 0.85 of the bare calls. Ours does more than they do: it copies the records into frames, checksums
//! them, hashes the frame headers and sorts the index. `cargo bench -p hrl-benches --bench sealing`.

use std::hint::black_box;

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};
use hrl::journal::{
    Body, BytesSource, KeyRing, Record, Segment, SegmentKind, SegmentParams, SegmentSink,
    SegmentWriter, VolumeKey,
};
use hrl::{
    ChainHash, Clock, Compression, Epoch, Result, Sequence, SystemClock, Timestamp, VolumeId,
};
use hrl_benches::{BLOCK_BYTES, compare, disk_like, random};

const FRAME_BYTES: usize = 512 << 10;
const BLOCKS: usize = 16 << 10;
const ROUNDS: usize = 21;
const VOLUME_BLOCKS: u64 = 1 << 20;

/// A sink that drops everything, as the bare calls drop their output.
struct Nowhere(u64);

impl SegmentSink for Nowhere {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.0 += black_box(bytes).len() as u64;
        Ok(())
    }
    fn sync(&mut self) -> Result<()> {
        Ok(())
    }
}

fn params(compression: Compression) -> SegmentParams {
    SegmentParams {
        kind: SegmentKind::Log,
        volume: VolumeId([1; 16]),
        epoch: Epoch(1),
        first_sequence: Sequence(1),
        device_bytes: VOLUME_BLOCKS * BLOCK_BYTES as u64,
        block_bytes: 4096,
        previous: ChainHash::default(),
        replaces_through: None,
        created: Timestamp(0),
        compression,
        frame_bytes: FRAME_BYTES as u64,
    }
}

fn seal<S: SegmentSink>(
    sink: S,
    data: &[u8],
    compression: Compression,
    key: Option<&VolumeKey>,
    clock: &dyn Clock,
) -> Result<S> {
    let mut writer = SegmentWriter::create(sink, params(compression), key, clock)?;
    for (block, number) in data.chunks_exact(BLOCK_BYTES).zip(1_u64..) {
        // Random places, so that the index is as unsorted as it gets.
        let place = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 44;
        let body = Body::Write { offset: place % VOLUME_BLOCKS * BLOCK_BYTES as u64, data: block };
        writer.append(&Record { sequence: Sequence(number), time: Timestamp(0), body })?;
    }
    Ok(writer.seal(None)?.0)
}

/// The bare codec calls on frames of the same size.
struct Bare {
    zstd: Option<zstd::bulk::Compressor<'static>>,
    cipher: Option<ChaCha20Poly1305>,
    buffer: Vec<u8>,
    /// Bytes to encrypt in place, where nothing is compressed before: what they are does not matter to the cipher.
    plain: Vec<u8>,
}

impl Bare {
    fn new(data: &[u8], compression: Compression, sealed: bool) -> Self {
        let zstd = match compression {
            Compression::None => None,
            Compression::Zstd(level) => {
                Some(zstd::bulk::Compressor::new(level).expect("a level that exists"))
            }
        };
        let cipher = sealed.then(|| ChaCha20Poly1305::new(&[7; 32].into()));
        let buffer = Vec::with_capacity(zstd::zstd_safe::compress_bound(FRAME_BYTES));
        let plain = if zstd.is_none() { data.to_vec() } else { Vec::new() };
        Self { zstd, cipher, buffer, plain }
    }

    fn run(&mut self, data: &[u8]) {
        for (at, chunk) in data.chunks(FRAME_BYTES).enumerate() {
            let content = if let Some(zstd) = &mut self.zstd {
                self.buffer.clear();
                zstd.compress_to_buffer(chunk, &mut self.buffer).expect("room for it");
                &mut self.buffer[..]
            } else {
                &mut self.plain[at * FRAME_BYTES..][..chunk.len()]
            };
            if let Some(cipher) = &self.cipher {
                let tag = cipher
                    .encrypt_inout_detached(&Nonce::default(), &[0; 40], (&mut *content).into())
                    .expect("far below the limit of the cipher");
                black_box(tag);
            }
            black_box(&content);
        }
    }
}

fn main() {
    let clock = SystemClock::default();
    let key = VolumeKey::from_bytes([3; 32]);
    let (disk, noise) = (disk_like(BLOCKS, 1), random(BLOCKS, 2));
    println!(
        "sealing {} MiB of 4 KiB records in 512 KiB frames, {ROUNDS} rounds",
        disk.len() >> 20
    );
    println!("{:30} {:>9} {:>9}  ratio (10 % .. 90 %)", "", "bare", "ours");
    let zstd = Compression::Zstd(1);
    for (name, data, compression, sealed) in [
        ("zstd-1", &disk, zstd, false),
        ("ChaCha20-Poly1305", &disk, Compression::None, true),
        ("zstd-1 + ChaCha20-Poly1305", &disk, zstd, true),
        ("zstd-1, random data", &noise, zstd, false),
    ] {
        let mut bare = Bare::new(data, compression, sealed);
        let key = sealed.then_some(&key);
        let ratio = compare(
            ROUNDS,
            || bare.run(data),
            || {
                let sink = seal(Nowhere(0), data, compression, key, &clock).expect("sealed");
                black_box(sink.0);
            },
        );
        let rate = |time: std::time::Duration| data.len() as f64 / time.as_secs_f64() / 1e6;
        println!(
            "{name:30} {:4.0} MB/s {:4.0} MB/s  {:.2} ({:.2} .. {:.2})",
            rate(ratio.bare),
            rate(ratio.ours),
            ratio.median,
            ratio.spread.0,
            ratio.spread.1
        );
    }
    index_speed(&disk, &clock);
}

/// How fast a segment is opened and its index decoded.
fn index_speed(data: &[u8], clock: &SystemClock) {
    let bytes = seal(Vec::new(), data, Compression::Zstd(1), None, clock).expect("sealed");
    let mut best = f64::MAX;
    let mut entries = 0;
    for _ in 0..ROUNDS {
        let source = Box::new(BytesSource::new("bench.hrl", bytes.clone()));
        let start = clock.elapsed();
        let segment = Segment::open(source, &KeyRing::default()).expect("sound");
        entries = segment.index().expect("sound").len();
        best = best.min(clock.elapsed().saturating_sub(start).as_secs_f64());
    }
    println!("open and index: {entries} entries, {:.1} M entries/s", entries as f64 / best / 1e6);
}
