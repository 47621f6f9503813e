//! Journals what only the disk of an old source has: acknowledged writes that never reached its
//! journal.
//!
//! A killed agent leaves them in dirty regions. Before the disk follows the volume, which
//! overwrites them, they are compared with the end of the branch. What differs becomes the last
//! segments of the branch: an unordered interval, as after a crash, at whose end the branch is
//! equal to the disk.

use crate::agent::state::StateDirectory;
use crate::clock::Clock;
use crate::device::BlockDevice;
use crate::error::Result;
use crate::event::Cause;
use crate::extent::{Extent, ExtentSet, block_runs};
use crate::journal::{
    Body, FileSink, RECORD_DATA_BYTES_MAX, Record, SegmentKind, SegmentParams, SegmentWriter,
};
use crate::policy::Policy;
use crate::replica::{At, Replica, ViewOptions, is_zero};
use crate::units::{ChainHash, Sequence};
use crate::vault::Branch;

/// Size of the blocks that are compared.
const BLOCK_BYTES: usize = 4096;

/// The disk of an old source, and the state directory of the agent that protected it.
pub(super) struct Old<'a> {
    pub disk: &'a dyn BlockDevice,
    pub state: &'a StateDirectory,
    pub clock: &'a dyn Clock,
}

/// Journals where the disk differs from the end of the branch, within `extents`, into closed
/// segments in the spool. Returns whether there is anything to hand in.
///
/// Their sequences are above `given`, the last one that the source gave to a change.
///
/// May be repeated once the segments of an earlier call are handed in.
pub(super) fn journal_difference(
    old: &Old<'_>,
    replica: &Replica,
    branch: &Branch,
    given: Sequence,
    extents: &ExtentSet,
) -> Result<bool> {
    if replica.info().extents_only {
        return Ok(false);
    }
    let end = branch.last_sequence();
    let seen = replica.branch(branch.epoch)?;
    let open = seen.catalog().open_unordered();
    let options = ViewOptions { unordered: true, ..ViewOptions::default() };
    let view = seen.view(&At::Sequence(end), &options)?;
    let mut journal = Difference {
        old,
        replica,
        branch,
        policy: Policy::default(),
        writer: None,
        last: end.max(given),
        chain: branch.chain,
        is_open: open.is_some(),
        any: false,
    };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let chunks = extents.iter().flat_map(|extent| extent.chunks(RECORD_DATA_BYTES_MAX as u64));
    for Extent { offset, length } in chunks {
        ours.resize(length as usize, 0);
        theirs.resize(length as usize, 0);
        old.disk.read(offset, &mut ours)?;
        view.read(offset, &mut theirs)?;
        let differs = |at: usize, block: &[u8]| *block != theirs[at..at + block.len()];
        for (run, _) in block_runs(&ours, BLOCK_BYTES, differs).filter(|(_, differs)| *differs) {
            journal.add(offset + run.start as u64, &ours[run])?;
        }
    }
    journal.end()
}

/// Segments of an unordered interval at the end of a branch, as far as they are written.
struct Difference<'a> {
    old: &'a Old<'a>,
    replica: &'a Replica,
    branch: &'a Branch,
    policy: Policy,
    writer: Option<SegmentWriter<FileSink>>,
    last: Sequence,
    chain: ChainHash,
    /// An unordered interval is open.
    is_open: bool,
    any: bool,
}

impl Difference<'_> {
    fn add(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        if !self.is_open {
            self.append(Body::UnorderedBegin(Cause::Crash))?;
            self.is_open = true;
        }
        if is_zero(data) {
            self.append(Body::Zero(Extent { offset, length: data.len() as u64 }))
        } else {
            self.append(Body::Write { offset, data })
        }
    }

    fn append(&mut self, body: Body<'_>) -> Result<()> {
        self.any = true;
        let (sequence, time) = (self.last.next(), self.old.clock.now());
        if self.writer.is_none() {
            self.writer = Some(self.begin(sequence)?);
        }
        if let Some(writer) = &mut self.writer {
            writer.append(&Record { sequence, time, body })?;
            self.last = sequence;
            if writer.bytes() >= self.policy.segment_bytes_max {
                self.close()?;
            }
        }
        Ok(())
    }

    fn begin(&self, first_sequence: Sequence) -> Result<SegmentWriter<FileSink>> {
        let info = self.replica.info();
        let params = SegmentParams {
            kind: SegmentKind::Log,
            volume: info.id,
            epoch: self.branch.epoch,
            first_sequence,
            device_bytes: info.device_bytes,
            block_bytes: info.block_bytes,
            previous: self.chain,
            replaces_through: None,
            created: self.old.clock.now(),
            compression: self.policy.compression,
            frame_bytes: self.policy.frame_bytes,
        };
        let path = self.old.state.open_segment();
        self.old.state.remove(&path)?;
        let sink = FileSink::create(&**self.old.state.files(), &path)?;
        SegmentWriter::create(sink, params, self.replica.keys().newest().as_ref(), self.old.clock)
    }

    fn close(&mut self) -> Result<()> {
        let Some(writer) = self.writer.take() else { return Ok(()) };
        let (sink, summary) = writer.close(None)?;
        self.old.state.spool_closed(sink.path(), &summary)?;
        self.chain = summary.chain;
        Ok(())
    }

    fn end(mut self) -> Result<bool> {
        if self.is_open {
            self.append(Body::UnorderedEnd)?;
        }
        self.close()?;
        Ok(self.any)
    }
}
