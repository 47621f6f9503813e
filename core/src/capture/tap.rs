#![allow(unused, missing_docs, clippy::all, clippy::pedantic)] // stub
use crate::device::{Buffer, Discarded}; use crate::error::Result; use crate::{Extent, Sequence, Timestamp}; use crate::journal::Mark; use crate::event::{Cause, Mode};
use std::task::{Poll, Waker};
/// Permission to change an extent of the device; ends with exactly one of `complete`, `fail`, `cancel`.
#[must_use] #[derive(Debug)] pub struct Ticket { pub(super) extent: Extent, pub(super) id: u64 }
impl Ticket { pub fn extent(&self) -> Extent { self.extent } }
/// What was done to the device under a ticket.
#[derive(Debug)] pub enum Change { /** exactly the bytes that went to the device, as long as the ticket's extent */ Write(Buffer), Zero, Discard(Discarded) }
#[derive(Debug)] pub enum QueuedBody { Write(u64, Buffer), Zero(Extent), Discard(Extent, Discarded), Touch(Extent), Flush, Mark(Mark), UnorderedBegin(Cause), UnorderedEnd }
#[derive(Debug)] pub struct QueuedRecord { pub sequence: Sequence, pub time: Timestamp, pub body: QueuedBody }
pub struct Drained {}
#[derive(Clone, Debug, Default)] pub struct TapStats { }
pub struct Tap {}
impl Tap {
    /// Asks to change `extent` (not empty, within the volume). `Pending`: an overlapping change is in flight, or its region must first be
    /// marked, or (strict mode) there is no room: `waker` is woken when it is worth asking again.
    pub fn begin(&self, extent: Extent, waker: &Waker) -> Poll<Result<Ticket>> { todo!() }
    /// The device did it: gives it its place in the write order and queues it. Never waits, never fails.
    pub fn complete(&self, ticket: Ticket, change: Change) -> Sequence { todo!() }
    /// The device failed, the content of the extent is unknown: it is resynced.
    pub fn fail(&self, ticket: Ticket) { todo!() }
    /// Nothing was done to the device.
    pub fn cancel(&self, ticket: Ticket) { todo!() }
    /// Records that the writer flushed (call after the device's flush returned).
    pub fn flush(&self) -> Sequence { todo!() }
    /// Marks a recovery point. `NotOrdered` outside `Ordered` mode.
    pub fn mark(&self, mark: Mark) -> Result<(Sequence, Timestamp)> { todo!() }
    pub fn mode(&self) -> Mode { todo!() }
}
