//! Sockets that a server listens and talks on, UNIX and TCP.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use hrl::{Error, ErrorKind, Result};

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
    /// Listens at `address`. Returns the address with the real port.
    pub(crate) fn bind(address: &NbdAddress) -> Result<(Self, NbdAddress)> {
        let io = |error| Error::io("listen on", format_args!("{address:?}"), error);
        match address {
            NbdAddress::Unix(path) => {
                if path.symlink_metadata().is_ok() {
                    if UnixStream::connect(path).is_ok() {
                        return Err(Error::new(ErrorKind::Fenced, "listen on", path.display())
                            .message("another server listens there"));
                    }
                    std::fs::remove_file(path).map_err(io)?;
                }
                UnixListener::bind(path).map(|l| (Self::Unix(l), address.clone())).map_err(io)
            }
            NbdAddress::Tcp(host, port) => {
                let listener = TcpListener::bind((host.as_str(), *port)).map_err(io)?;
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
