//! Sealing a segment of 64 MiB, against the bare calls of its codecs on frames of the same size.
//!
//! Ours does more than the bare calls: it copies the records into frames, checksums them, hashes the frame headers and
//! sorts the index.

use std::hint::black_box;

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};
use criterion::{Criterion, Throughput};
use hrl::Compression;
use hrl::journal::VolumeKey;
use hrl_benches::{FRAME_BYTES, Nowhere, disk_like, log_params, random, write_log};

const BLOCKS: usize = 16 << 10;
const VOLUME_BYTES: u64 = 4 << 30;

pub fn group(criterion: &mut Criterion) {
    let (disk, noise) = (disk_like(BLOCKS, 1), random(BLOCKS, 2));
    let key = VolumeKey::from_bytes([3; 32]);
    let zstd = Compression::Zstd(1);
    let mut group = criterion.benchmark_group("seal");
    group.throughput(Throughput::Bytes(disk.len() as u64)).sample_size(20);
    for (name, data, compression, sealed) in [
        ("zstd", &disk, zstd, false),
        ("ChaCha20-Poly1305", &disk, Compression::None, true),
        ("both", &disk, zstd, true),
        ("zstd, random data", &noise, zstd, false),
    ] {
        group.bench_function(format!("{name}, bare"), |bencher| {
            let mut bare = Bare::new(data, compression, sealed);
            bencher.iter(|| bare.run(data));
        });
        group.bench_function(name, |bencher| {
            let key = sealed.then_some(&key);
            bencher.iter(|| {
                write_log(Nowhere, log_params(VOLUME_BYTES, None, compression), data, key)
            });
        });
    }
    group.finish();
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
