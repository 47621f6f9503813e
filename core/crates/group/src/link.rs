//! A TLS connection that carries messages and never blocks, and how a loop waits for several of them.
//!
//! Behaviour on failure: an error ends the connection; whoever owns it drops it. A peer that sends faster than its messages
//! are taken is not read from until they are.

use std::io::{ErrorKind as IoKind, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use hrl::{Error, ErrorKind, Result};
use hrl_tls::rustls::pki_types::ServerName;
use hrl_tls::rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::wire::{FRAME_BYTES_MAX, take_frame};

/// Bytes received and not taken, beyond which nothing more is read.
const RECEIVED_BYTES_MAX: usize = 4 * FRAME_BYTES_MAX;
/// Bytes that wait to be sent, beyond which the peer is given up.
const SENDING_BYTES_MAX: usize = 16 * FRAME_BYTES_MAX;

pub(crate) struct Link {
    tls: Connection,
    socket: TcpStream,
    received: Vec<u8>,
    peer: String,
    is_closed: bool,
}

impl Link {
    /// Connects to `address` (`HOST:PORT`), trying each of its addresses for up to `limit`. The handshake goes on as the
    /// link is pumped.
    pub(crate) fn connect(
        address: &str,
        config: &Arc<ClientConfig>,
        limit: Duration,
    ) -> Result<Self> {
        let io = |error| Error::io("connect to coordinator", address, error);
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).map_err(|error| {
            Error::new(ErrorKind::InvalidInput, "connect to coordinator", address).caused_by(error)
        })?;
        let mut failure = std::io::Error::from(IoKind::NotFound);
        for candidate in address.to_socket_addrs().map_err(io)? {
            match TcpStream::connect_timeout(&candidate, limit) {
                Ok(socket) => {
                    let tls = ClientConnection::new(config.clone(), name)
                        .map_err(|error| broken(address, error))?;
                    return Self::new(tls.into(), socket, address.to_owned());
                }
                Err(error) => failure = error,
            }
        }
        Err(io(failure))
    }

    /// Takes a connection that was accepted.
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

    /// The peer's certificate in DER form, once the handshake is over.
    pub(crate) fn peer_certificate(&self) -> Option<&[u8]> {
        if self.tls.is_handshaking() {
            return None;
        }
        self.tls.peer_certificates().and_then(|chain| chain.first()).map(AsRef::as_ref)
    }

    /// What a loop waits for.
    fn poll_fd(&self) -> PollFd<'_> {
        let write = if self.wants_write() { PollFlags::OUT } else { PollFlags::empty() };
        PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN | write)
    }

    /// There is something that the socket did not take yet.
    pub(crate) fn wants_write(&self) -> bool {
        self.tls.wants_write()
    }

    /// Sends a frame, now as far as the socket takes it.
    pub(crate) fn send(&mut self, frame: &[u8]) -> Result<()> {
        let peer = &self.peer;
        self.tls.writer().write_all(frame).map_err(|error| {
            Error::io("send to", peer, error).message("the peer takes nothing more")
        })?;
        self.write()
    }

    /// Moves what there is, both ways.
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
                // Tells the peer why.
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

    /// The next whole message that was received. `Unavailable` when the peer has closed and no more can come.
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

/// Where a loop waits, and how other threads wake it.
pub(crate) struct Wake(OwnedFd);

impl Wake {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// The wait that is under way, or the next, ends at once.
    pub(crate) fn wake(&self) {
        // A counter that is full wakes as well.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Waits for a link, somebody at the listener, a wake-up, or the time.
    pub(crate) fn wait<'a>(
        &'a self,
        listener: Option<&'a TcpListener>,
        links: impl IntoIterator<Item = &'a Link>,
        limit: Duration,
    ) {
        let mut fds = vec![PollFd::new(&self.0, PollFlags::IN)];
        fds.extend(listener.map(|listener| PollFd::new(listener, PollFlags::IN)));
        fds.extend(links.into_iter().map(Link::poll_fd));
        // Rounded up, so that the time is over when it says so.
        let limit = Timespec::try_from(limit + Duration::from_micros(1)).ok();
        let _ = poll(&mut fds, limit.as_ref());
        let _ = rustix::io::read(&self.0, &mut [0_u8; 8]);
    }
}

fn broken(peer: &str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Unavailable, "speak TLS with", peer).caused_by(error)
}
