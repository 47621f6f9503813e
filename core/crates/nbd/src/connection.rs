//! The second half of a connection: requests and replies.
//!
//! One thread runs the engine in turns. Each turn parses received bytes, starts requests, ends
//! completed ones, and sends their replies together. A change of a protected volume owns a ticket
//! of the tap before and while the device changes. Even if the client is gone, every ticket ends by
//! what the device did.

use std::collections::VecDeque;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Wake, Waker};

use hrl::capture::{Change, Tap, Ticket};
use hrl::device::{BlockDevice, Buffer, Discarded, Durability, Unmap};
use hrl::sync::lock::Mutex;
use hrl::{Error, ErrorKind, Extent, Result};
use rustix::net::{RecvFlags, SendFlags};

use crate::Export;
use crate::engine::Engine;
use crate::handshake::{ALLOCATION_CONTEXT, Session};
use crate::ring::{Completion, Memory, Submit};
use crate::service::Service;
use crate::stream::Stream;
use crate::wire::*;

const RECEIVE_BYTES: usize = 256 << 10;
/// Longer payloads are received directly into their buffer, instead of being copied from the
/// receive buffer.
const COPY_BYTES_MAX: usize = 64 << 10;
/// Longest reply buffer that is reused.
const SPARE_BYTES_MAX: usize = 64 << 10;
/// Most runs of block status in one reply.
const STATUS_RUNS_MAX: usize = 8192;
const TOKEN_RECEIVE: u64 = u64::MAX;
const TOKEN_SEND: u64 = u64::MAX - 1;
const TOKEN_EVENT: u64 = u64::MAX - 2;

/// Serves until the client leaves or breaks the protocol, or the server stops.
pub(crate) fn run(service: &Service, stream: &Stream, session: &Session) {
    let flags = rustix::event::EventfdFlags::CLOEXEC;
    let Ok(event) = rustix::event::eventfd(0, flags) else { return };
    let inbox =
        Arc::new(Inbox { event, done: Mutex::default(), signalled: AtomicBool::new(false) });
    let export = &service.exports[session.export];
    Connection {
        engine: Engine::new(service.engine, stream.as_fd()),
        service,
        stream,
        waker: Waker::from(inbox.clone()),
        inbox,
        contexts: session.contexts.clone(),
        replies: Replies { structured: session.structured },
        export,
        device: export.backing().clone(),
        slots: Vec::new(),
        free: Vec::new(),
        active: 0,
        parked: VecDeque::new(),
        input: Some(vec![0; RECEIVE_BYTES]),
        unparsed: 0..0,
        filling: None,
        out: Vec::new(),
        spare: Vec::new(),
        sending: false,
        sending_bytes: 0,
        buffered_bytes: 0,
        closing: false,
        has_changed: false,
    }
    .turn_until_done();
}

/// Messages from wakers and pool threads to the connection's thread.
struct Inbox {
    event: OwnedFd,
    done: Mutex<Vec<(usize, Done)>>,
    signalled: AtomicBool,
}

impl Inbox {
    fn signal(&self) {
        if !self.signalled.swap(true, Ordering::AcqRel) {
            // The counter cannot overflow with one signal at a time.
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        }
    }
}

impl Wake for Inbox {
    fn wake(self: Arc<Self>) {
        self.signal();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.signal();
    }
}

/// Result of a job on the pool.
struct Done {
    result: Result<Discarded>,
    buffer: Option<Buffer>,
}

/// A request under way.
struct Slot {
    request: Request,
    ticket: Option<Ticket>,
    /// Payload of a write, or space for a read, while neither ring nor pool owns it.
    buffer: Option<Buffer>,
    /// Memory of the buffer as counted for the connection, whoever owns it now.
    buffered_bytes: u64,
    bytes_done: usize,
}

impl Slot {
    fn extent(&self) -> Extent {
        Extent { offset: self.request.offset, length: self.request.length.into() }
    }
}

struct Connection<'a> {
    engine: Engine<'a>,
    service: &'a Service,
    stream: &'a Stream,
    inbox: Arc<Inbox>,
    waker: Waker,
    contexts: Vec<u32>,
    replies: Replies,
    export: &'a Export,
    device: Arc<dyn BlockDevice>,
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    active: usize,
    /// Changes that wait for a ticket, oldest first.
    parked: VecDeque<usize>,
    /// The receive buffer, while the ring does not own it.
    input: Option<Vec<u8>>,
    /// The part of `input` that is received and not yet parsed.
    unparsed: Range<usize>,
    /// The write whose payload is being received, and its bytes so far.
    filling: Option<(usize, usize)>,
    /// Replies to send.
    out: Vec<u8>,
    /// Memory of sent replies, for the next ones.
    spare: Vec<u8>,
    sending: bool,
    sending_bytes: usize,
    /// Bytes of the buffers of requests under way.
    buffered_bytes: u64,
    closing: bool,
    /// The client has asked for a change.
    has_changed: bool,
}

impl Connection<'_> {
    /// A copy onto the volume is not in order any more.
    fn lose_sync(&self) {
        self.export.target.lose_sync();
    }

    fn turn_until_done(mut self) {
        let mut completions = Vec::new();
        self.engine.submit(
            TOKEN_EVENT,
            Submit::Event { fd: self.inbox.event.as_fd() },
            Memory::Bytes(vec![0; 8]),
        );
        loop {
            self.parse();
            while self.is_idle() && self.talk_at_once() {
                self.parse();
            }
            self.send();
            self.receive();
            if self.closing {
                // Nothing more is read. Requests under way still end and are answered.
                let _ = rustix::net::shutdown(self.stream.as_fd(), rustix::net::Shutdown::Read);
                for number in std::mem::take(&mut self.parked) {
                    self.release(number);
                }
            }
            let idle = self.active == 0 && !self.sending && (self.out.is_empty() || self.closing);
            if self.closing && idle {
                break;
            }
            if self.engine.wait(self.inbox.event.as_fd(), &mut completions).is_err() {
                self.closing = true;
            }
            for completion in completions.drain(..) {
                self.complete(completion);
            }
        }
        if self.has_changed {
            self.lose_sync();
        }
        // The ring still has the receive, which the shutdown ends, and the event, which this signal
        // ends.
        let _ = rustix::net::shutdown(self.stream.as_fd(), rustix::net::Shutdown::Both);
        self.inbox.signalled.store(false, Ordering::Release);
        self.inbox.signal();
    }

    // --- receiving ---

    /// Returns true if nothing is under way but the wait for a signal.
    fn is_idle(&self) -> bool {
        self.active == 0 && !self.sending && !self.closing && self.input.is_some()
    }

    /// Sends replies, or else waits for requests, without the ring, which takes longer to wake. The
    /// caller parses between two calls, because requests may have had no room beside the replies.
    /// False if the client does not take its replies, so that the ring has to go on.
    fn talk_at_once(&mut self) -> bool {
        if !self.out.is_empty() {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            let Ok(count) = rustix::net::send(self.stream.as_fd(), &self.out, flags) else {
                return false;
            };
            self.out.drain(..count);
            return self.out.is_empty();
        }
        let Some((mut input, from)) = self.take_input() else { return false };
        let socket = self.stream.as_fd();
        let result = rustix::io::retry_on_intr(|| {
            rustix::net::recv(socket, &mut input[from..], RecvFlags::empty())
        });
        self.received(result.map(|(count, _)| count).map_err(Into::into), Memory::Bytes(input));
        true
    }

    /// Takes the receive buffer, unless the ring owns it. Returns it and the offset to receive at.
    fn take_input(&mut self) -> Option<(Vec<u8>, usize)> {
        let mut input = self.input.take()?;
        input.copy_within(self.unparsed.clone(), 0);
        self.unparsed = 0..self.unparsed.len();
        Some((input, self.unparsed.end))
    }

    fn has_room(&self) -> bool {
        let limits = &self.service.limits;
        let buffered = self.buffered_bytes + (self.out.len() + self.sending_bytes) as u64;
        self.active < limits.requests_in_flight_max as usize && buffered < limits.backlog_bytes_max
    }

    /// Submits a receive, unless one is under way or the client has to wait.
    fn receive(&mut self) {
        if self.closing {
            return;
        }
        let fd = self.stream.as_fd();
        if let Some((slot, filled)) = self.filling {
            if let Some(buffer) = self.slots[slot].as_mut().and_then(|slot| slot.buffer.take()) {
                let what = Submit::Receive { fd, from: filled };
                self.engine.submit(TOKEN_RECEIVE, what, Memory::Buffer(buffer));
            }
        } else if self.has_room()
            && self.unparsed.len() < RECEIVE_BYTES
            && let Some((input, from)) = self.take_input()
        {
            self.engine.submit(TOKEN_RECEIVE, Submit::Receive { fd, from }, Memory::Bytes(input));
        }
    }

    fn received(&mut self, result: std::io::Result<usize>, memory: Memory) {
        let count = result.unwrap_or(0);
        self.closing |= count == 0;
        match memory {
            Memory::Bytes(bytes) => {
                self.unparsed.end += count;
                self.input = Some(bytes);
            }
            Memory::Buffer(buffer) => {
                let Some((number, filled)) = self.filling else { return };
                let whole = filled + count == buffer.len();
                if let Some(slot) = self.slots[number].as_mut() {
                    slot.buffer = Some(buffer);
                }
                if whole {
                    self.filling = None;
                    self.start(number);
                } else if self.closing {
                    self.filling = None;
                    self.release(number);
                } else {
                    self.filling = Some((number, filled + count));
                }
            }
        }
    }

    /// Starts every completely received request.
    fn parse(&mut self) {
        let Some(input) = self.input.take() else { return };
        let mut at = self.unparsed.start;
        let received = &input[..self.unparsed.end];
        while self.filling.is_none() && !self.closing && self.has_room() {
            let Some(header) = received[at..].first_chunk::<REQUEST_BYTES>() else { break };
            let Some(request) = Request::decode(header) else {
                self.closing = true;
                break;
            };
            if request.command == CMD_WRITE {
                let payload = &received[at + REQUEST_BYTES..];
                let length = request.length as usize;
                if request.length > self.service.limits.request_bytes_max {
                    self.closing = true;
                    break;
                }
                if payload.len() < length && length <= COPY_BYTES_MAX {
                    break;
                }
                at += REQUEST_BYTES + payload.len().min(length);
                if payload.len() >= length {
                    self.admit(request, Some(Buffer::copy_of(&payload[..length])));
                } else {
                    let mut buffer = Buffer::zeroed(length);
                    buffer[..payload.len()].copy_from_slice(payload);
                    let slot = self.insert(request, Some(buffer));
                    self.filling = Some((slot, payload.len()));
                }
            } else {
                at += REQUEST_BYTES;
                self.admit(request, None);
            }
        }
        self.unparsed.start = at;
        self.input = Some(input);
        if self.closing
            && let Some((slot, _)) = self.filling.filter(|(slot, _)| {
                self.slots[*slot].as_ref().is_some_and(|slot| slot.buffer.is_some())
            })
        {
            self.filling = None;
            self.release(slot);
        }
    }

    // --- starting requests ---

    fn admit(&mut self, request: Request, buffer: Option<Buffer>) {
        if request.command == CMD_DISC {
            self.closing = true;
            return;
        }
        self.has_changed |= request.is_change();
        let slot = self.insert(request, buffer);
        self.start(slot);
    }

    /// Checks a completely received request, and starts or answers it.
    fn start(&mut self, number: usize) {
        let Some(slot) = &self.slots[number] else { return };
        let (request, extent) = (slot.request, slot.extent());
        match self.check(&request, extent) {
            Err(errno) => return self.answer(number, errno),
            Ok(()) if request.length == 0 && request.command != CMD_FLUSH => {
                return self
                    .answer(number, if request.command == CMD_BLOCK_STATUS { EINVAL } else { 0 });
            }
            Ok(()) => {}
        }
        match request.command {
            CMD_READ => self.start_read(number),
            CMD_FLUSH => self.start_flush(number),
            CMD_CACHE => self.answer(number, 0),
            CMD_BLOCK_STATUS => self.block_status(number),
            _ => self.start_change(number),
        }
    }

    fn check(&self, request: &Request, extent: Extent) -> std::result::Result<(), u32> {
        let limits = &self.service.limits;
        let allowed = match request.command {
            CMD_READ if self.replies.structured => CMD_FLAG_DF | CMD_FLAG_FUA,
            CMD_READ => CMD_FLAG_FUA,
            CMD_WRITE | CMD_TRIM => CMD_FLAG_FUA,
            CMD_WRITE_ZEROES => CMD_FLAG_FUA | CMD_FLAG_NO_HOLE | CMD_FLAG_FAST_ZERO,
            CMD_FLUSH | CMD_CACHE => CMD_FLAG_FUA,
            CMD_BLOCK_STATUS => CMD_FLAG_REQ_ONE | CMD_FLAG_FUA,
            _ => return Err(EINVAL),
        };
        if request.flags & !allowed != 0 {
            return Err(EINVAL);
        }
        let changes = matches!(request.command, CMD_WRITE | CMD_TRIM | CMD_WRITE_ZEROES);
        if changes && self.export.read_only {
            return Err(EPERM);
        }
        if request.command == CMD_FLUSH {
            return if request.length == 0 && request.offset == 0 { Ok(()) } else { Err(EINVAL) };
        }
        let size = self.device.size_bytes();
        if extent.check_within(size, "serve", "").is_err() {
            return Err(if changes { ENOSPC } else { EINVAL });
        }
        if matches!(request.command, CMD_READ) && request.length > limits.request_bytes_max {
            return Err(EINVAL);
        }
        Ok(())
    }

    /// Returns true if the ring may access the device directly for this request.
    fn on_ring(&self, extent: Extent) -> bool {
        self.engine.reaches_disk()
            && self.device.ring_target().is_some_and(|target| {
                let alignment = u64::from(target.alignment_bytes);
                extent.offset.is_multiple_of(alignment) && extent.length.is_multiple_of(alignment)
            })
    }

    /// Returns true if the write is a mere copy into the page cache. That is cheaper here than on a
    /// ring, because most file systems pass buffered writes to a kernel thread.
    fn is_copy(&self, request: &Request) -> bool {
        request.length as usize <= COPY_BYTES_MAX
            && !request.has(CMD_FLAG_FUA)
            && self.device.ring_target().is_some_and(|target| target.alignment_bytes == 1)
    }

    fn write_at_once(&mut self, number: usize) {
        let Some(slot) = self.slots[number].as_mut() else { return };
        let Some(buffer) = slot.buffer.take() else { return };
        let result = self.device.write(slot.request.offset, &buffer, Durability::Cached);
        self.finish(number, result.map(|()| Discarded::Ignored), Some(buffer));
    }

    fn start_read(&mut self, number: usize) {
        let Some(slot) = self.slots[number].as_mut() else { return };
        let extent = slot.extent();
        slot.buffer = Some(Buffer::zeroed(extent.length as usize));
        slot.buffered_bytes = extent.length;
        self.buffered_bytes += extent.length;
        if self.on_ring(extent) {
            return self.continue_on_ring(number);
        }
        self.transfer_on_pool(number);
    }

    /// Flushes by the device, not on the ring: of two concurrent flushes of a file only one reports
    /// a loss. The device runs them in turn.
    fn start_flush(&mut self, number: usize) {
        self.on_pool(number, |device, _| device.flush().map(|()| Discarded::Ignored));
    }

    /// Reads or writes all of a request on the pool.
    fn transfer_on_pool(&mut self, number: usize) {
        let Some(request) = self.slots[number].as_ref().map(|slot| slot.request) else { return };
        let durability =
            if request.has(CMD_FLAG_FUA) { Durability::Durable } else { Durability::Cached };
        self.on_pool(number, move |device, buffer| {
            let buffer = buffer.unwrap_or(&mut []);
            if request.command == CMD_WRITE {
                device.write(request.offset, buffer, durability)?;
            } else {
                device.read(request.offset, buffer)?;
            }
            Ok(Discarded::Ignored)
        });
    }

    /// Takes a ticket if the volume has a tap, and changes the device. A change without a ticket
    /// waits in `parked`.
    fn start_change(&mut self, number: usize) {
        let Some(slot) = self.slots[number].as_mut() else { return };
        let (request, extent) = (slot.request, slot.extent());
        if let Some(tap) = self.export.tap() {
            match tap.begin(extent, &self.waker) {
                Poll::Ready(Ok(ticket)) => slot.ticket = Some(ticket),
                Poll::Ready(Err(error)) => return self.answer(number, errno(&error)),
                Poll::Pending => return self.parked.push_back(number),
            }
        }
        let durability =
            if request.has(CMD_FLAG_FUA) { Durability::Durable } else { Durability::Cached };
        match request.command {
            CMD_WRITE if self.is_copy(&request) => self.write_at_once(number),
            CMD_WRITE if self.on_ring(extent) => self.continue_on_ring(number),
            CMD_WRITE => self.transfer_on_pool(number),
            CMD_TRIM => self.on_pool(number, move |device, _| {
                let discarded = device.discard(extent)?;
                if durability == Durability::Durable {
                    device.flush()?;
                }
                Ok(discarded)
            }),
            _ => {
                let unmap =
                    if request.has(CMD_FLAG_NO_HOLE) { Unmap::Forbidden } else { Unmap::Allowed };
                self.on_pool(number, move |device, _| {
                    device.zero(extent, unmap, durability).map(|()| Discarded::Zeroes)
                });
            }
        }
    }

    /// Submits the rest of a read or write. A device poisoned meanwhile gives no descriptor; its
    /// methods then refuse.
    fn continue_on_ring(&mut self, number: usize) {
        let device = self.device.clone();
        let Some(target) = device.ring_target() else { return self.transfer_on_pool(number) };
        let Some(slot) = self.slots[number].as_mut() else { return };
        let Some(buffer) = slot.buffer.take() else { return };
        let (offset, from) = (slot.request.offset, slot.bytes_done);
        let write = slot.request.command == CMD_WRITE;
        let durable = slot.request.has(CMD_FLAG_FUA);
        let what = if write {
            Submit::Write { fd: target.fd, offset, from, durable }
        } else {
            Submit::Read { fd: target.fd, offset, from }
        };
        self.engine.submit(number as u64, what, Memory::Buffer(buffer));
    }

    /// Runs a request on the pool. The result comes through the inbox.
    fn on_pool(
        &mut self,
        number: usize,
        work: impl FnOnce(&dyn BlockDevice, Option<&mut [u8]>) -> Result<Discarded> + Send + 'static,
    ) {
        let mut buffer = self.slots[number].as_mut().and_then(|slot| slot.buffer.take());
        let (device, inbox) = (self.device.clone(), self.inbox.clone());
        self.service.pool.run(move || {
            let guarded = std::panic::AssertUnwindSafe(|| work(&*device, buffer.as_deref_mut()));
            let result = std::panic::catch_unwind(guarded).unwrap_or_else(|_| {
                Err(Error::new(ErrorKind::Io, "serve", device.name())
                    .message("the device panicked"))
            });
            inbox.done.lock().push((number, Done { result, buffer }));
            inbox.signal();
        });
    }

    // --- ending requests ---

    fn complete(&mut self, completion: Completion) {
        match completion.token {
            TOKEN_RECEIVE => self.received(completion.result, completion.memory),
            TOKEN_SEND => {
                self.sending = false;
                self.sending_bytes = 0;
                self.closing |= completion.result.is_err();
                if let Memory::Bytes(mut bytes) = completion.memory
                    && bytes.capacity() <= SPARE_BYTES_MAX
                {
                    bytes.clear();
                    self.spare = bytes;
                }
            }
            TOKEN_EVENT => self.read_inbox(),
            number => self.ring_done(number as usize, completion),
        }
    }

    fn read_inbox(&mut self) {
        // Cleared before the inbox is emptied, so that a later message signals again.
        self.inbox.signalled.store(false, Ordering::Release);
        let fd = self.inbox.event.as_fd();
        self.engine.submit(TOKEN_EVENT, Submit::Event { fd }, Memory::Bytes(vec![0; 8]));
        let done = std::mem::take(&mut *self.inbox.done.lock());
        for (number, done) in done {
            self.finish(number, done.result, done.buffer);
        }
        for number in std::mem::take(&mut self.parked) {
            self.start_change(number);
        }
    }

    fn ring_done(&mut self, number: usize, completion: Completion) {
        let Some(slot) = self.slots[number].as_mut() else { return };
        let buffer = match completion.memory {
            Memory::Buffer(buffer) => Some(buffer),
            Memory::Bytes(_) => None,
        };
        let failed = |error| Err(Error::io("serve", self.export.name.as_str(), error));
        let result = match completion.result {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {
                slot.buffer = buffer;
                return self.continue_on_ring(number);
            }
            Err(error) => failed(error),
            Ok(0) => failed(std::io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                slot.bytes_done += count;
                if slot.bytes_done < slot.request.length as usize {
                    slot.buffer = buffer;
                    return self.continue_on_ring(number);
                }
                Ok(Discarded::Ignored)
            }
        };
        let durable = slot.request.command == CMD_WRITE && slot.request.has(CMD_FLAG_FUA);
        if durable && result.as_ref().is_err_and(|error| error.kind() != ErrorKind::Full) {
            self.device.poison();
        }
        self.finish(number, result, buffer);
    }

    /// Ends the ticket by what the device did, and answers the request.
    fn finish(&mut self, number: usize, result: Result<Discarded>, buffer: Option<Buffer>) {
        let Some(slot) = self.slots[number].as_mut() else { return };
        let request = slot.request;
        let ticket = slot.ticket.take();
        let tap: Option<Arc<Tap>> = self.export.tap().cloned();
        let errno = result.as_ref().err().map_or(0, errno);
        let counters = &self.service.counters;
        match request.command {
            CMD_READ => {
                if let (0, Some(buffer)) = (errno, &buffer) {
                    self.replies.data(&mut self.out, request.cookie, request.offset, buffer);
                    counters.bytes_read.fetch_add(buffer.len() as u64, Ordering::Relaxed);
                    counters.requests.fetch_add(1, Ordering::Relaxed);
                    return self.release(number);
                }
            }
            CMD_FLUSH => {
                if let (0, Some(tap)) = (errno, &tap) {
                    tap.flush();
                }
            }
            command => {
                if let (Some(tap), Some(ticket)) = (tap, ticket) {
                    match (result, buffer) {
                        (Err(_), _) => tap.fail(ticket),
                        (Ok(_), Some(buffer)) if command == CMD_WRITE => {
                            tap.complete(ticket, Change::Write(buffer));
                        }
                        (Ok(discarded), _) if command == CMD_TRIM => {
                            tap.complete(ticket, Change::Discard(discarded));
                        }
                        (Ok(_), _) => drop(tap.complete(ticket, Change::Zero)),
                    }
                }
                if command == CMD_WRITE && errno == 0 {
                    counters.bytes_written.fetch_add(request.length.into(), Ordering::Relaxed);
                }
            }
        }
        self.answer(number, errno);
    }

    fn answer(&mut self, number: usize, errno: u32) {
        if let Some(slot) = &self.slots[number] {
            // Before the writer hears of it.
            if errno != 0 && slot.request.is_change() {
                self.lose_sync();
            }
            self.replies.plain(&mut self.out, slot.request.cookie, errno);
            self.service.counters.requests.fetch_add(1, Ordering::Relaxed);
            self.service.counters.errors.fetch_add(u64::from(errno != 0), Ordering::Relaxed);
        }
        self.release(number);
    }

    fn block_status(&mut self, number: usize) {
        let Some(slot) = &self.slots[number] else { return };
        let (request, extent) = (slot.request, slot.extent());
        if self.contexts.is_empty() || !self.replies.structured {
            return self.answer(number, EINVAL);
        }
        let runs_max = if request.has(CMD_FLAG_REQ_ONE) { 1 } else { STATUS_RUNS_MAX };
        for (at, context) in self.contexts.iter().enumerate() {
            let runs = match self.status_of(*context, extent, runs_max) {
                Ok(runs) => runs,
                Err(error) => return self.answer(number, errno(&error)),
            };
            let last = at + 1 == self.contexts.len();
            Replies::status(&mut self.out, request.cookie, *context, &runs, last);
        }
        self.service.counters.requests.fetch_add(1, Ordering::Relaxed);
        self.release(number);
    }

    /// Returns the runs of one context: lengths and flags.
    fn status_of(&self, context: u32, extent: Extent, runs_max: usize) -> Result<Vec<(u32, u32)>> {
        let mut runs: Vec<(u32, u32)> = Vec::new();
        let mut push = |length: u64, flags: u32| match runs.last_mut() {
            _ if length == 0 => {}
            Some((last, same)) if *same == flags => *last += length as u32,
            _ => runs.push((length as u32, flags)),
        };
        if context == ALLOCATION_CONTEXT {
            for run in self.device.allocation(extent)? {
                // A hole reads as zeroes: flags HOLE and ZERO.
                push(run.extent.length, if run.allocated { 0 } else { 3 });
            }
        } else {
            let set = &self.export.contexts[context as usize - 2].extents;
            let mut at = extent.offset;
            for flagged in set.within(extent).take(runs_max) {
                push(flagged.offset - at, 0);
                push(flagged.length, 1);
                at = flagged.end();
            }
            if set.within(Extent::from_bounds(at, extent.end())).next().is_none() {
                push(extent.end() - at, 0);
            }
        }
        runs.truncate(runs_max);
        Ok(runs)
    }

    // --- sending and slots ---

    fn send(&mut self) {
        if self.sending || self.out.is_empty() {
            return;
        }
        let bytes = std::mem::replace(&mut self.out, std::mem::take(&mut self.spare));
        self.sending = true;
        self.sending_bytes = bytes.len();
        self.engine.submit(
            TOKEN_SEND,
            Submit::Send { fd: self.stream.as_fd() },
            Memory::Bytes(bytes),
        );
    }

    fn insert(&mut self, request: Request, buffer: Option<Buffer>) -> usize {
        let buffered_bytes = buffer.as_ref().map_or(0, |buffer| buffer.len() as u64);
        self.buffered_bytes += buffered_bytes;
        let slot = Slot { request, ticket: None, buffer, buffered_bytes, bytes_done: 0 };
        self.active += 1;
        match self.free.pop() {
            Some(number) => {
                self.slots[number] = Some(slot);
                number
            }
            None => {
                self.slots.push(Some(slot));
                self.slots.len() - 1
            }
        }
    }

    fn release(&mut self, number: usize) {
        let Some(slot) = self.slots[number].take() else { return };
        debug_assert!(slot.ticket.is_none(), "a ticket ends before its request does");
        self.buffered_bytes -= slot.buffered_bytes;
        self.active -= 1;
        self.free.push(number);
    }
}
