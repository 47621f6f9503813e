//! The writers of a machine: each change passes its stages, with anything in between.

use std::task::{Poll, Waker};

use hrl::capture::{Change, Tap, TapStats, Ticket};
use hrl::device::{Buffer, Discarded, Durability, Unmap};
use hrl::{Extent, Mode, Sequence};

use crate::disk::SECTOR;
use crate::model::{bytes_of, tags_of};
use crate::site::{Running, Site, tap_of};

/// Most writes under way at once.
const WRITERS: usize = 5;

/// How often in a row a region may be cleaned again before its writer came.
const MARKS_MAX: u32 = 40;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Write,
    Zero,
    Discard,
}

pub enum Stage {
    Waiting,
    Begun(Ticket),
    Done(Ticket, Option<Change>),
}

pub struct Op {
    kind: Kind,
    extent: Extent,
    tags: Vec<u64>,
    stage: Stage,
    /// Steps of the keeper when it last had to wait for a mark, and how often it had to.
    waits: Option<(u64, u32)>,
}

impl Site {
    /// Lets a writer continue, or a new one begin.
    pub fn write_something(&self, running: &Running) {
        let random = &self.world.random;
        let op = {
            let ops = running.ops.borrow();
            let begins = ops.is_empty() || (ops.len() < WRITERS && random.one_in(3));
            if begins { None } else { Some(ops.len()) }
        };
        let op = match op {
            None => self.new_op(),
            Some(count) => {
                running.ops.borrow_mut().swap_remove(random.below(count as u64) as usize)
            }
        };
        let left = self.world.doing("writer", || self.advance(running, op));
        running.ops.borrow_mut().extend(left);
    }

    fn new_op(&self) -> Op {
        let random = &self.world.random;
        let sectors = self.plan.disk_bytes / SECTOR;
        let length = match random.below(12) {
            0 => random.within(1, self.plan.write_sectors_max),
            1..=3 => 8,
            _ => random.within(1, 16),
        };
        let reach = if random.one_in(6) { sectors } else { (sectors / self.plan.hot).max(length) };
        let first = random.below(reach - length + 1);
        let kind = match random.below(14) {
            0 => Kind::Zero,
            1 => Kind::Discard,
            _ => Kind::Write,
        };
        let tags = (0..length).map(|_| if kind == Kind::Write { self.tag() } else { 0 }).collect();
        let extent = Extent { offset: first * SECTOR, length: length * SECTOR };
        Op { kind, extent, tags, stage: Stage::Waiting, waits: None }
    }

    fn tag(&self) -> u64 {
        self.next_tag.set(self.next_tag.get() + 1);
        // Repeated content is found to be the same.
        if self.world.random.one_in(10) { 7 } else { self.next_tag.get() & !(1 << 63) }
    }

    /// Advances a write by one stage; `None` once it ended.
    pub fn advance(&self, running: &Running, mut op: Op) -> Option<Op> {
        let tap = tap_of(&running.protection);
        match op.stage {
            Stage::Waiting => match tap.begin(op.extent, Waker::noop()) {
                Poll::Ready(Ok(ticket)) => {
                    running.in_flight.borrow_mut().push(op.extent);
                    if let Some(marked) = &mut *running.marked.borrow_mut() {
                        let region_bytes = self.plan.policy.region_bytes;
                        let last = (op.extent.end() - 1) / region_bytes;
                        marked.extend(op.extent.offset / region_bytes..=last);
                    }
                    op.stage = Stage::Begun(ticket);
                    op.waits = None;
                    Some(op)
                }
                Poll::Ready(Err(_)) => None,
                Poll::Pending => {
                    Self::check_wait(running, &mut op);
                    Some(op)
                }
            },
            Stage::Begun(ticket) => {
                self.world.note("writes", op.extent.offset, op.extent.length);
                let change = self.change_disk(running, op.kind, op.extent, &op.tags);
                op.stage = Stage::Done(ticket, change);
                Some(op)
            }
            Stage::Done(ticket, change) => {
                if running.machine.is_alive() {
                    self.complete(&tap, ticket, change);
                } else {
                    let _ = ticket.into_extent();
                }
                running.in_flight.borrow_mut().retain(|extent| *extent != op.extent);
                None
            }
        }
    }

    /// Makes the change as [`hrl::capture::Volume`] does, in stages. `None` if the content of the
    /// disk is unknown.
    fn change_disk(
        &self,
        running: &Running,
        kind: Kind,
        extent: Extent,
        tags: &[u64],
    ) -> Option<Change> {
        let disk = &running.disk;
        match kind {
            Kind::Write => {
                let durability = if self.world.random.one_in(8) {
                    Durability::Durable
                } else {
                    Durability::Cached
                };
                let mut data = Buffer::copy_of(&bytes_of(tags));
                match disk.write(extent.offset, &data, durability) {
                    Ok(()) => Some(Change::Write(data)),
                    Err(_) => {
                        disk.read(extent.offset, &mut data).ok().map(|()| Change::Write(data))
                    }
                }
            }
            Kind::Zero => {
                disk.zero(extent, Unmap::Allowed, Durability::Cached).ok().map(|()| Change::Zero)
            }
            Kind::Discard => disk.discard(extent).ok().map(Change::Discard),
        }
    }

    fn complete(&self, tap: &Tap, ticket: Ticket, change: Option<Change>) {
        let extent = ticket.extent();
        let first = (extent.offset / SECTOR) as usize;
        let sectors = (extent.length / SECTOR) as usize;
        let before = tap.stats();
        let ignored = matches!(change, Some(Change::Discard(Discarded::Ignored)));
        let tags = match &change {
            Some(Change::Write(data)) => tags_of(data),
            Some(Change::Zero | Change::Discard(_)) => vec![0; sectors],
            None => {
                // Returns what the volume's users see, including what an instant disk has not
                // copied yet.
                self.disk_now()[first..first + sectors].to_vec()
            }
        };
        let Some(change) = change else {
            tap.fail(ticket);
            let after = tap.stats();
            let mut model = self.model.borrow_mut();
            model.observe(&after);
            model.set(first, &tags, after.last_sequence.0);
            return;
        };
        tap.complete(ticket, change);
        let after = tap.stats();
        self.world.note("completed", after.last_sequence.0, extent.offset);
        Self::check_order(&before, &after, ignored);
        if ignored {
            self.model.borrow_mut().observe(&after);
        } else {
            self.model.borrow_mut().changed(first, &tags, &before, &after);
        }
    }

    /// Promise 1: a change completed later has a higher sequence.
    fn check_order(before: &TapStats, after: &TapStats, ignored: bool) {
        assert!(after.last_sequence >= before.last_sequence, "promise 1: sequences went back");
        let captured = before.mode == Mode::Ordered && after.mode == Mode::Ordered && !ignored;
        assert!(
            !captured || after.last_sequence == Sequence(before.last_sequence.0 + 1),
            "promise 1: a change has no place of its own"
        );
    }

    /// Promise 6: a writer waits for a change under way, or once for a region to be set dirty.
    fn check_wait(running: &Running, op: &mut Op) {
        let block = |extent: &Extent| extent.aligned_outwards(4096);
        let overlaps = |busy: &Extent| {
            let (a, b) = (block(busy), block(&op.extent));
            a.offset < b.end() && b.offset < a.end()
        };
        let busy = running.in_flight.borrow().iter().any(overlaps);
        let reading = running.slots.borrow().iter().any(|s| s.name == "resync" && s.task.is_none());
        let keeping = running.slots.borrow().iter().any(|s| s.name == "keeper" && s.task.is_none());
        if busy || reading || keeping {
            op.waits = None;
            return;
        }
        let steps = running.keeper_steps.get();
        let (since, times) = op.waits.unwrap_or((steps, 0));
        let again = times + u32::from(steps > since);
        // A region may be cleaned again before its writer came, but not every time.
        assert!(again <= MARKS_MAX, "promise 6: a writer waits for nothing");
        op.waits = Some((steps, again));
    }
}
