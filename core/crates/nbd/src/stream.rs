//! Sockets that a server listens and talks on, UNIX and TCP.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use hrl::{Error, ErrorKind, Result};
use hrl_front::listen_at;

use crate::NbdAddress;

/// A listening socket.
pub(crate) enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// The socket of a connection.
pub(crate) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Listener {
    /// Listens at `address`, and with `local_only` at no address that other machines reach. Returns
    /// the address with the real port.
    pub(crate) fn bind(address: &NbdAddress, local_only: bool) -> Result<(Self, NbdAddress)> {
        let io = |error| Error::io("listen on", format_args!("{address:?}"), error);
        match address {
            NbdAddress::Unix(path) => {
                listen_at(path).map(|listener| (Self::Unix(listener), address.clone()))
            }
            NbdAddress::Tcp(host, port) => {
                let found = (host.as_str(), *port).to_socket_addrs().map_err(io)?;
                let found: Vec<SocketAddr> = found.collect();
                let is_open = |at: &&SocketAddr| !at.ip().to_canonical().is_loopback();
                if let Some(open) = found.iter().find(is_open).filter(|_| local_only) {
                    return Err(Error::new(ErrorKind::InvalidInput, "listen on", host)
                        .expected("TLS, an address of this machine alone, or leave to be insecure")
                        .found(format_args!("{}, which other machines may reach", open.ip())));
                }
                let listener = TcpListener::bind(&found[..]).map_err(io)?;
                let port = listener.local_addr().map_err(io)?.port();
                Ok((Self::Tcp(listener), NbdAddress::Tcp(host.clone(), port)))
            }
        }
    }

    pub(crate) fn accept(&self) -> std::io::Result<Stream> {
        match self {
            Self::Unix(listener) => listener.accept().map(|(stream, _)| Stream::Unix(stream)),
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
        }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(listener) => listener.as_fd(),
            Self::Tcp(listener) => listener.as_fd(),
        }
    }
}

impl Stream {
    /// Returns the address of the peer that connections are counted for; `None` of a local one.
    pub(crate) fn network(&self) -> Option<IpAddr> {
        let Self::Tcp(stream) = self else { return None };
        match stream.peer_addr().ok()?.ip().to_canonical() {
            IpAddr::V6(v6) => Some(IpAddr::from((v6.to_bits() >> 64 << 64).to_be_bytes())),
            IpAddr::V4(v4) => Some(v4.into()),
        }
    }

    /// Limits how long a read or write may wait; `None` for no limit.
    pub(crate) fn limit(&self, wait: Option<Duration>) -> std::io::Result<()> {
        match self {
            Self::Unix(stream) => {
                stream.set_read_timeout(wait)?;
                stream.set_write_timeout(wait)
            }
            Self::Tcp(stream) => {
                stream.set_read_timeout(wait)?;
                stream.set_write_timeout(wait)
            }
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(stream) => stream.as_fd(),
            Self::Tcp(stream) => stream.as_fd(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buffer),
            Self::Tcp(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(bytes),
            Self::Tcp(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
