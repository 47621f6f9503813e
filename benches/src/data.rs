//! Content of disks that compresses like real ones, or not at all.

/// Bytes of a block.
pub const BLOCK_BYTES: usize = 4096;

/// Returns `blocks` blocks that compress about 2 : 1, like a disk with databases, binaries, text
/// and media: a quarter random, a quarter text, the rest records with random fields. Equal for
/// equal seeds.
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

/// Returns `blocks` blocks that do not compress.
pub fn random(blocks: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut data = Vec::with_capacity(blocks * BLOCK_BYTES);
    while data.len() < blocks * BLOCK_BYTES {
        data.extend_from_slice(&random.next().to_le_bytes());
    }
    data
}

/// Seeded random numbers: splitmix64.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// Returns a number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
