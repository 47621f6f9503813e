//! A TLS connection that carries messages and never blocks, and a way to wait for several of them.
//!
//! Behaviour on failure: an error ends the connection; its owner drops it. Reading stops while too
//! many received messages wait to be taken.

use std::io::{ErrorKind as IoKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use hrl::{Error, ErrorKind, Result};
use hrl_tls::ServerAddress;
use hrl_tls::rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::GROUP_PORT;
use crate::wire::{FRAME_BYTES_MAX, take_frame};

/// Received bytes that wait to be taken; beyond this nothing more is read.
const RECEIVED_BYTES_MAX: usize = 4 * FRAME_BYTES_MAX;
/// Bytes that wait to be sent; beyond this the connection is given up.
const SENDING_BYTES_MAX: usize = 16 * FRAME_BYTES_MAX;

pub(crate) struct Link {
    tls: Connection,
    socket: TcpStream,
    received: Vec<u8>,
    peer: String,
    is_closed: bool,
}

impl Link {
    /// Connects to `address` (`HOST` or `HOST:PORT`), trying each resolved address for up to `limit`. The
    /// handshake continues with each call of [`Link::pump`].
    pub(crate) fn connect(
        address: &str,
        config: &Arc<ClientConfig>,
        limit: Duration,
    ) -> Result<Self> {
        let server = ServerAddress::parse(address, GROUP_PORT).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "connect to coordinator", address)
                .expected("HOST or HOST:PORT")
        })?;
        let socket = server
            .connect(limit)
            .map_err(|error| Error::io("connect to coordinator", address, error))?;
        let tls = ClientConnection::new(config.clone(), server.name())
            .map_err(|error| broken(address, error))?;
        Self::new(tls.into(), socket, server.as_str().to_owned())
    }

    /// Wraps an accepted connection.
    pub(crate) fn accept(socket: TcpStream, config: &Arc<ServerConfig>) -> Result<Self> {
        let peer = socket.peer_addr().map_or("a peer".to_owned(), |address| address.to_string());
        let tls = ServerConnection::new(config.clone()).map_err(|error| broken(&peer, error))?;
        Self::new(tls.into(), socket, peer)
    }

    fn new(mut tls: Connection, socket: TcpStream, peer: String) -> Result<Self> {
        tls.set_buffer_limit(Some(SENDING_BYTES_MAX));
        let io = |error| Error::io("use connection with", &peer, error);
        socket.set_nodelay(true).map_err(io)?;
        socket.set_nonblocking(true).map_err(io)?;
        Ok(Self { tls, socket, received: Vec::new(), peer, is_closed: false })
    }

    pub(crate) fn peer(&self) -> &str {
        &self.peer
    }

    /// Returns the peer's certificate in DER form, once the handshake is over.
    pub(crate) fn peer_certificate(&self) -> Option<&[u8]> {
        if self.tls.is_handshaking() {
            return None;
        }
        self.tls.peer_certificates().and_then(|chain| chain.first()).map(AsRef::as_ref)
    }

    /// Returns the events that the link waits for.
    fn poll_fd(&self) -> PollFd<'_> {
        let write = if self.wants_write() { PollFlags::OUT } else { PollFlags::empty() };
        PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN | write)
    }

    /// Returns whether bytes wait for room in the socket.
    pub(crate) fn wants_write(&self) -> bool {
        self.tls.wants_write()
    }

    /// Sends a frame: as much as the socket takes now, and the rest with later calls of
    /// [`Link::pump`].
    pub(crate) fn send(&mut self, frame: &[u8]) -> Result<()> {
        let peer = &self.peer;
        self.tls.writer().write_all(frame).map_err(|error| {
            Error::io("send to", peer, error).message("the peer accepts no more")
        })?;
        self.write()
    }

    /// Moves all bytes that can move now, in both directions.
    pub(crate) fn pump(&mut self) -> Result<()> {
        self.write()?;
        while self.received.len() < RECEIVED_BYTES_MAX && !self.is_closed {
            match self.tls.read_tls(&mut self.socket) {
                Ok(0) => self.is_closed = true,
                Ok(_) => {}
                Err(error) if error.kind() == IoKind::WouldBlock => break,
                Err(error) if error.kind() == IoKind::Interrupted => continue,
                Err(error) => return Err(Error::io("receive from", &self.peer, error)),
            }
            let state = self.tls.process_new_packets();
            if state.is_err() {
                // The alert reports the reason to the peer.
                let _ = self.write();
            }
            let state = state.map_err(|error| broken(&self.peer, error))?;
            let mut plain = vec![0; state.plaintext_bytes_to_read()];
            let mut at = 0;
            while at < plain.len() {
                match self.tls.reader().read(&mut plain[at..]) {
                    Ok(0) => break,
                    Ok(count) => at += count,
                    Err(error) => return Err(Error::io("receive from", &self.peer, error)),
                }
            }
            self.received.extend_from_slice(&plain[..at]);
        }
        self.write()
    }

    /// Returns the next complete message, if any. `Unavailable` once the peer has closed and no
    /// more can come.
    pub(crate) fn take(&mut self) -> Result<Option<Vec<u8>>> {
        match take_frame(&mut self.received)? {
            None if self.is_closed => {
                Err(Error::new(ErrorKind::Unavailable, "receive from", &self.peer)
                    .message("it closed the connection"))
            }
            other => Ok(other),
        }
    }

    fn write(&mut self) -> Result<()> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.socket) {
                Ok(_) => {}
                Err(error) if error.kind() == IoKind::WouldBlock => break,
                Err(error) if error.kind() == IoKind::Interrupted => {}
                Err(error) => return Err(Error::io("send to", &self.peer, error)),
            }
        }
        Ok(())
    }
}

/// The place where a loop waits and other threads wake it.
pub(crate) struct Wake(OwnedFd);

impl Wake {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Ends the wait under way, or the next one, at once.
    pub(crate) fn wake(&self) {
        // A full counter wakes as well.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Waits for traffic on a link, a new connection, a wake-up, or the end of the time.
    pub(crate) fn wait<'a>(
        &'a self,
        listener: Option<&'a TcpListener>,
        links: impl IntoIterator<Item = &'a Link>,
        limit: Duration,
    ) {
        let mut fds = vec![PollFd::new(&self.0, PollFlags::IN)];
        fds.extend(listener.map(|listener| PollFd::new(listener, PollFlags::IN)));
        fds.extend(links.into_iter().map(Link::poll_fd));
        // Rounded up, so that the limit has passed when a wait times out.
        let limit = Timespec::try_from(limit + Duration::from_micros(1)).ok();
        let _ = poll(&mut fds, limit.as_ref());
        let _ = rustix::io::read(&self.0, &mut [0_u8; 8]);
    }
}

fn broken(peer: &str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Unavailable, "speak TLS with", peer).caused_by(error)
}
