//! Looks at single blocks: is one as random as compressed or encrypted data, and are the bytes of
//! many such blocks equally frequent?

/// Bytes of a block.
pub(crate) const BLOCK_BYTES: usize = 4096;
/// One block in this many is looked at.
pub const SAMPLED_ONE_IN: u64 = 8;
/// Where in a block bytes are counted. Its beginning may be the header of a file.
const PLACE: usize = 1024;
/// Bytes of a block that are counted, if it is random.
pub(crate) const COUNTED_BYTES: usize = 768;
/// Bytes at either end of them that decide whether it is: padding shows at the ends.
const PROBE_BYTES: usize = 256;
/// Random bytes have 162 ± 6 distinct values in a probe, text has less than 80.
const DISTINCT_MIN: u32 = 138;
/// Statistic of the bytes of many blocks up to which they are equally frequent: 255 ± 23 if they
/// are, so that one window in 30,000 is missed. Deflate gives 700 and more in a window.
const EQUAL_MAX: f64 = 345.0;

/// Returns whether the block with this number is looked at.
pub(crate) fn is_sampled(block: u64) -> bool {
    spread(block) >> 61 == 0
}

/// Spreads block numbers, so that no regular pattern of writes meets none of the sampled ones.
pub(crate) fn spread(block: u64) -> u64 {
    let mixed = (block ^ (block >> 29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

/// What a block looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// All of the bytes that were looked at are equal, such as zeroes.
    Blank,
    /// Text, tables, programs.
    Structured,
    /// Compressed or encrypted.
    Random,
}

/// Returns what a whole block looks like.
pub(crate) fn look(block: &[u8]) -> Look {
    let counted = counted(block);
    let (first, last) = (&counted[..PROBE_BYTES], &counted[COUNTED_BYTES - PROBE_BYTES..]);
    match distinct(first) {
        1 => Look::Blank,
        DISTINCT_MIN.. if distinct(last) >= DISTINCT_MIN => Look::Random,
        _ => Look::Structured,
    }
}

fn counted(block: &[u8]) -> &[u8] {
    &block[PLACE..PLACE + COUNTED_BYTES]
}

/// Returns how many byte values there are.
fn distinct(bytes: &[u8]) -> u32 {
    // Stores do not wait for each other, as setting bits would.
    let mut seen = [0_u8; 256];
    for byte in bytes {
        seen[usize::from(*byte)] = 1;
    }
    seen.iter().map(|seen| u32::from(*seen)).sum()
}

/// How often each byte occurs in random blocks.
#[derive(Clone, Debug)]
pub(crate) struct Frequencies {
    counts: [u32; 256],
    bytes: u64,
}

impl Frequencies {
    pub(crate) fn new() -> Self {
        Self { counts: [0; 256], bytes: 0 }
    }

    /// Counts the bytes of a block.
    pub(crate) fn add(&mut self, block: &[u8]) {
        for byte in counted(block) {
            self.counts[usize::from(*byte)] += 1;
        }
        self.bytes += COUNTED_BYTES as u64;
    }

    /// Returns how many bytes were counted.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns whether all bytes are equally frequent, as far as their number can show.
    pub(crate) fn are_equal(&self) -> bool {
        if self.bytes == 0 {
            return false;
        }
        let expected = self.bytes as f64 / 256.0;
        let squares = self.counts.iter().map(|count| (f64::from(*count) - expected).powi(2));
        squares.sum::<f64>() / expected <= EQUAL_MAX
    }
}

#[cfg(test)]
mod tests {
    use hrl::{Clock, SystemClock};

    use super::*;

    fn random(blocks: usize) -> Vec<u8> {
        let mut data = vec![0; blocks * BLOCK_BYTES];
        SystemClock::default().fill_random(&mut data);
        data
    }

    #[test]
    fn blocks_look_like_what_they_are() {
        let data = random(2000);
        let found = data.chunks(BLOCK_BYTES).filter(|block| look(block) == Look::Random);
        assert!(found.count() > 1990);
        assert_eq!(look(&[0; BLOCK_BYTES]), Look::Blank);
        let text: Vec<u8> = (0..BLOCK_BYTES).map(|at| b' ' + (at * at / 7 % 90) as u8).collect();
        assert_eq!(look(&text), Look::Structured);
        // The last block of a file ends with zeroes.
        let mut padded = random(1);
        padded[1100..].fill(0);
        assert_eq!(look(&padded), Look::Structured);
        padded = random(1);
        padded[1650..].fill(0);
        assert_eq!(look(&padded), Look::Structured);
    }

    #[test]
    fn slightly_unequal_bytes_are_told_from_equal_ones() {
        let (mut equal, mut unequal) = (Frequencies::new(), Frequencies::new());
        for block in random(400).chunks_mut(BLOCK_BYTES) {
            equal.add(block);
            // As in the output of a Huffman code: one byte in 25 is another one.
            for at in (0..BLOCK_BYTES).step_by(25) {
                block[at] &= 0x7f;
            }
            assert_eq!(look(block), Look::Random);
            unequal.add(block);
        }
        assert!(equal.are_equal() && !unequal.are_equal());
    }

    #[test]
    fn one_block_in_eight_is_sampled_whatever_the_stride() {
        for stride in [1, 2, 8, 16, 64, 1 << 20] {
            let found = (0..8000_u64).filter(|at| is_sampled(at * stride)).count();
            assert!((800..1200).contains(&found), "{found} of 8000 with stride {stride}");
        }
    }
}
