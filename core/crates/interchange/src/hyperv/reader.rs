//! Reads a log: the chain of metadata blocks backwards from its end, then the data forwards.
//!
//! A torn log (end of log 0) is scanned instead, and read as far as its blocks fit together.

use std::borrow::Cow;
use std::path::Path;

use hrl::journal::{SegmentSource, open_mapped};
use hrl::{Result, Timestamp};

use super::codec::{
    self, BLOCK_HEADER_BYTES, BlockHeader, ENTRY_BYTES, Entry, HEADER_BYTES, HypervHeader, bad,
};

/// A write of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HypervWrite<'a> {
    /// First byte of the disk written.
    pub offset: u64,
    /// Time of the write, in whole seconds.
    pub time: Timestamp,
    /// The data.
    pub data: Cow<'a, [u8]>,
}

/// Place of a metadata block and of its data.
#[derive(Clone, Copy, Debug)]
struct Block {
    at: u64,
    data_at: u64,
    entries: u32,
}

/// A Hyper-V Replica log.
pub struct HypervLog {
    source: Box<dyn SegmentSource>,
    header: HypervHeader,
    blocks: Vec<Block>,
}

impl HypervLog {
    /// Opens a log file. `Corrupt` carries the offset of the first wrong byte.
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_source(open_mapped(path)?)
    }

    /// Opens a log from any source.
    pub fn from_source(source: Box<dyn SegmentSource>) -> Result<Self> {
        let name = source.name();
        let header = HypervHeader::decode(
            &source.read(0..source.length().min(HEADER_BYTES as u64))?,
            &name,
        )?;
        let mut log = Self { source, header, blocks: Vec::new() };
        log.blocks = if log.header.end_of_log == 0 { log.scan() } else { log.walk()? };
        Ok(log)
    }

    /// Returns the name of the source.
    pub fn name(&self) -> String {
        self.source.name()
    }

    /// Returns the header.
    pub fn header(&self) -> &HypervHeader {
        &self.header
    }

    /// Returns true if the log was closed. A torn log is read up to its last sound block.
    pub fn is_closed(&self) -> bool {
        self.header.end_of_log != 0
    }

    /// Returns the number of writes.
    pub fn write_count(&self) -> u64 {
        self.blocks.iter().map(|block| u64::from(block.entries)).sum()
    }

    /// Returns the writes in order, each checked by its checksum.
    pub fn writes(&self) -> impl Iterator<Item = Result<HypervWrite<'_>>> + '_ {
        self.blocks.iter().flat_map(move |block| {
            let mut data_at = block.data_at;
            (0..block.entries).map(move |number| {
                let entry = self.entry(block.at, number)?;
                let end = data_at + u64::from(entry.length);
                let data = self.source.read(data_at..end)?;
                let sum = codec::checksum(&data);
                if sum != entry.data_checksum {
                    return Err(bad(&self.name(), data_at)
                        .expected(format_args!("data with checksum {:#010x}", entry.data_checksum))
                        .found(format_args!("{sum:#010x}")));
                }
                data_at = end;
                Ok(HypervWrite { offset: entry.offset, time: entry.time, data })
            })
        })
    }

    fn entry(&self, block: u64, number: u32) -> Result<Entry> {
        let at = block + (BLOCK_HEADER_BYTES + number as usize * ENTRY_BYTES) as u64;
        Entry::decode(&self.source.read(at..at + ENTRY_BYTES as u64)?, &self.name(), at)
    }

    fn block_header(&self, at: u64) -> Result<BlockHeader> {
        let end = at.saturating_add(self.header.metadata_bytes.into());
        BlockHeader::decode(&self.source.read(at..end)?, &self.name(), at)
    }

    /// Adds up the data that the entries of a block describe, in bytes.
    fn data_bytes(&self, block: u64, entries: u32) -> Result<u64> {
        (0..entries).map(|number| Ok(u64::from(self.entry(block, number)?.length))).sum()
    }

    /// Follows the chain back from the end, then checks that data and blocks fill the log exactly.
    fn walk(&self) -> Result<Vec<Block>> {
        let (name, metadata) = (self.name(), u64::from(self.header.metadata_bytes));
        let end = self.header.end_of_log;
        if end > self.source.length() || end < HEADER_BYTES as u64 + metadata {
            return Err(bad(&name, 44)
                .expected(format_args!(
                    "an end within the {} bytes of the file",
                    self.source.length()
                ))
                .found(end));
        }
        let mut at = end - metadata;
        let mut stack = Vec::new();
        loop {
            let header = self.block_header(at)?;
            stack.push((at, header.entries));
            if header.previous == 0 {
                break;
            }
            // Each step goes back by at least a block, which bounds the walk.
            let before = at
                .checked_sub(header.previous)
                .filter(|before| header.previous >= metadata && *before >= HEADER_BYTES as u64);
            at = before.ok_or_else(|| {
                bad(&name, at)
                    .expected(format_args!("a distance of {metadata} or more, to within the log"))
                    .found(header.previous)
            })?;
        }
        let mut data_at = HEADER_BYTES as u64;
        let mut blocks = Vec::with_capacity(stack.len());
        for (at, entries) in stack.into_iter().rev() {
            let data_end = data_at + self.data_bytes(at, entries)?;
            if data_end != at {
                return Err(bad(&name, at)
                    .expected(format_args!("a metadata block at {data_end}, where its data ends"))
                    .found(format_args!("one at {at}")));
            }
            blocks.push(Block { at, data_at, entries });
            data_at = at + metadata;
        }
        Ok(blocks)
    }

    /// Finds the blocks of a torn log, up to the first that does not follow from the one before.
    fn scan(&self) -> Vec<Block> {
        let metadata = u64::from(self.header.metadata_bytes);
        let mut blocks: Vec<Block> = Vec::new();
        let mut data_at = HEADER_BYTES as u64;
        let mut at = data_at;
        while at.saturating_add(metadata) <= self.source.length() {
            let last = blocks.last().map_or(0, |block| at - block.at);
            let fits = self.looks_like_block(at, last)
                && self.block_header(at).is_ok_and(|header| {
                    self.data_bytes(at, header.entries).is_ok_and(|bytes| data_at + bytes == at)
                });
            if !fits {
                at += 1;
                continue;
            }
            let entries = self.block_header(at).map_or(0, |header| header.entries);
            blocks.push(Block { at, data_at, entries });
            data_at = at + metadata;
            at = data_at;
        }
        blocks
    }

    /// Checks the distance to the block before. Cheap, because it runs at every byte.
    fn looks_like_block(&self, at: u64, previous: u64) -> bool {
        self.source
            .read(at..at + 8)
            .is_ok_and(|bytes| bytes.as_ref() == previous.to_le_bytes().as_slice())
    }
}

impl std::fmt::Debug for HypervLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HypervLog({})", self.name())
    }
}
