//! Shared parts of the benchmarks: data that compresses like real disks, and ratios of two things measured in turns.

use std::time::Duration;

use hrl::{Clock, SystemClock};

/// Bytes of a block.
pub const BLOCK_BYTES: usize = 4096;

/// `blocks` blocks that compress about 2 : 1, as a disk with databases, binaries, text and media does: a quarter
/// random, a quarter text, the rest records with random fields. Equal for equal seeds.
pub fn disk_like(blocks: usize, seed: u64) -> Vec<u8> {
    const WORDS: [&str; 16] = [
        "the ", "volume ", "error: ", "SELECT ", "index ", "of ", "0x00", "true, ", "write ", "\n",
        "INFO ", "segment ", "id=", "user ", "=> ", "and ",
    ];
    let mut random = Random(seed);
    let mut data = Vec::with_capacity(blocks * BLOCK_BYTES);
    for block in 0..blocks {
        let end = (block + 1) * BLOCK_BYTES;
        while data.len() < end {
            match block % 4 {
                0 => data.extend_from_slice(&random.next().to_le_bytes()),
                1 => {
                    data.extend_from_slice(WORDS[random.next() as usize % WORDS.len()].as_bytes());
                }
                _ => {
                    data.extend_from_slice(&(data.len() as u64).to_le_bytes());
                    data.extend_from_slice(&(random.next() % 100_000).to_le_bytes());
                    data.extend_from_slice(&random.next().to_le_bytes());
                    data.extend_from_slice(b"\0\0\0\0row\x01");
                }
            }
        }
        data.truncate(end);
    }
    data
}

/// `blocks` blocks that do not compress.
pub fn random(blocks: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut data = Vec::with_capacity(blocks * BLOCK_BYTES);
    while data.len() < blocks * BLOCK_BYTES {
        data.extend_from_slice(&random.next().to_le_bytes());
    }
    data
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Two things measured in turns.
#[derive(Clone, Copy, Debug)]
pub struct Ratio {
    /// Shortest run of what is compared against.
    pub bare: Duration,
    /// Shortest run of ours.
    pub ours: Duration,
    /// Median over the rounds of bare time divided by our time: above 1 when ours is faster.
    pub median: f64,
    /// The same of the worst and best tenth of the rounds.
    pub spread: (f64, f64),
}

/// Runs `bare` and `ours` in turns, so that whatever else the machine does hits both.
pub fn compare(rounds: usize, mut bare: impl FnMut(), mut ours: impl FnMut()) -> Ratio {
    let clock = SystemClock::default();
    let time = |work: &mut dyn FnMut()| {
        let start = clock.elapsed();
        work();
        clock.elapsed().saturating_sub(start)
    };
    time(&mut bare);
    time(&mut ours);
    let mut pairs: Vec<_> = (0..rounds).map(|_| (time(&mut bare), time(&mut ours))).collect();
    let ratio = |pair: &(Duration, Duration)| pair.0.as_secs_f64() / pair.1.as_secs_f64();
    pairs.sort_by(|a, b| ratio(a).total_cmp(&ratio(b)));
    let at = |tenth: usize| ratio(&pairs[(pairs.len() - 1) * tenth / 10]);
    Ratio {
        bare: pairs.iter().map(|pair| pair.0).min().unwrap_or_default(),
        ours: pairs.iter().map(|pair| pair.1).min().unwrap_or_default(),
        median: at(5),
        spread: (at(1), at(9)),
    }
}
