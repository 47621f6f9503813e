//! What carries the bytes of a connection.
//!
//! With a ring, the kernel moves those of socket and disk. Where the system gives none, the
//! connection's thread waits for its socket with `poll`, and the disk's part goes to the pool. Both
//! complete the same requests, so a connection does not know which one it has, except that without
//! a ring it must not submit requests for the disk.

use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags};
use rustix::net::{RecvFlags, SendFlags};

use crate::ring::{Completion, Memory, Ring, Submit};

/// How a server moves bytes between sockets and disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NbdEngine {
    /// One io_uring for each connection carries socket and disk.
    IoUring,
    /// Threads carry them, because the system gives no io_uring. Containers deny it by default.
    Threads,
}

impl NbdEngine {
    /// Returns the one that this process can use.
    pub(crate) fn available() -> Self {
        if Ring::new().is_ok() { Self::IoUring } else { Self::Threads }
    }

    /// Returns the stable lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::IoUring => "io_uring",
            Self::Threads => "threads",
        }
    }
}

/// The engine of one connection.
pub(crate) enum Engine<'a> {
    Ring(Ring),
    Poll(Poll<'a>),
}

impl<'a> Engine<'a> {
    /// Makes an engine of this kind; one without a ring where the system gives no further ring.
    pub(crate) fn new(kind: NbdEngine, socket: BorrowedFd<'a>) -> Self {
        let ring = (kind == NbdEngine::IoUring).then(|| Ring::new().ok()).flatten();
        ring.map_or_else(|| Self::Poll(Poll::new(socket)), Self::Ring)
    }

    /// Returns whether it runs requests for the disk.
    pub(crate) fn reaches_disk(&self) -> bool {
        matches!(self, Self::Ring(_))
    }

    /// Queues a request for the next [`Engine::wait`]. The memory comes back with the completion.
    pub(crate) fn submit(&mut self, token: u64, what: Submit<'_>, memory: Memory) {
        match self {
            Self::Ring(ring) => ring.submit(token, what, memory),
            Self::Poll(poll) => poll.submit(token, &what, memory),
        }
    }

    /// Waits for at least one completion, and appends all there are to `completions`. `event` is
    /// the one that [`Submit::Event`] waits for.
    pub(crate) fn wait(
        &mut self,
        event: BorrowedFd<'_>,
        completions: &mut Vec<Completion>,
    ) -> std::io::Result<()> {
        match self {
            Self::Ring(ring) => ring.wait(completions),
            Self::Poll(poll) => poll.wait(event, completions),
        }
    }
}

/// A request under way: its token, its memory, and the bytes of it that are done or not asked for.
struct Pending {
    token: u64,
    memory: Memory,
    from: usize,
}

impl Pending {
    fn complete(self, result: std::io::Result<usize>) -> Completion {
        Completion { token: self.token, result, memory: self.memory }
    }
}

/// At most one receive, one send and one wait for a signal, all by the thread that waits.
pub(crate) struct Poll<'a> {
    socket: BorrowedFd<'a>,
    receive: Option<Pending>,
    send: Option<Pending>,
    event: Option<Pending>,
}

impl<'a> Poll<'a> {
    fn new(socket: BorrowedFd<'a>) -> Self {
        Self { socket, receive: None, send: None, event: None }
    }

    fn submit(&mut self, token: u64, what: &Submit<'_>, memory: Memory) {
        let (place, from) = match what {
            Submit::Receive { from, .. } => (&mut self.receive, *from),
            Submit::Send { .. } => (&mut self.send, 0),
            Submit::Event { .. } => (&mut self.event, 0),
            Submit::Read { .. } | Submit::Write { .. } => {
                unreachable!("without a ring the pool reads and writes")
            }
        };
        assert!(place.is_none(), "a connection receives, sends and waits once at a time");
        *place = Some(Pending { token, memory, from });
    }

    fn wait(
        &mut self,
        event: BorrowedFd<'_>,
        completions: &mut Vec<Completion>,
    ) -> std::io::Result<()> {
        while completions.is_empty() {
            let mut wanted = PollFlags::empty();
            wanted.set(PollFlags::IN, self.receive.is_some());
            wanted.set(PollFlags::OUT, self.send.is_some());
            let mut fds = [
                PollFd::from_borrowed_fd(event, PollFlags::IN),
                PollFd::from_borrowed_fd(self.socket, wanted),
            ];
            // A socket that nothing is wanted of would report its end again and again.
            let watched = if wanted.is_empty() { 1 } else { 2 };
            rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds[..watched], None))?;
            let [event_is, socket_is] = fds.map(|fd| fd.revents());
            if !event_is.is_empty()
                && let Some(pending) = self.event.take()
            {
                let result = rustix::io::read(event, &mut [0; 8]).map_err(Into::into);
                completions.push(pending.complete(result));
            }
            let ended = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
            if socket_is.intersects(PollFlags::IN | ended) {
                self.receive_some(completions);
            }
            if socket_is.intersects(PollFlags::OUT | ended) {
                self.send_some(completions);
            }
        }
        Ok(())
    }

    fn receive_some(&mut self, completions: &mut Vec<Completion>) {
        let Some(mut pending) = self.receive.take() else { return };
        let room = &mut pending.memory.bytes_mut()[pending.from..];
        match rustix::net::recv(self.socket, room, RecvFlags::DONTWAIT) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => self.receive = Some(pending),
            result => {
                let result = result.map(|(count, _)| count).map_err(Into::into);
                completions.push(pending.complete(result));
            }
        }
    }

    fn send_some(&mut self, completions: &mut Vec<Completion>) {
        let Some(mut pending) = self.send.take() else { return };
        let rest = &pending.memory.bytes_mut()[pending.from..];
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        match rustix::net::send(self.socket, rest, flags) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => self.send = Some(pending),
            Err(error) => completions.push(pending.complete(Err(error.into()))),
            Ok(count) if count < rest.len() => {
                pending.from += count;
                self.send = Some(pending);
            }
            Ok(_) => {
                let whole = pending.memory.bytes_mut().len();
                completions.push(pending.complete(Ok(whole)));
            }
        }
    }
}
