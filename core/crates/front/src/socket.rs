//! UNIX sockets of fronts.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use hrl::device::file_mode;
use hrl::{Error, ErrorKind, Result};
use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// Listens at a path, in place of the socket of a dead server.
///
/// The socket has its mode before anybody can connect: its owner alone may, and the group of its
/// directory if that has the setgid bit. `Fenced` if another server listens there.
pub fn listen_at(path: &Path) -> Result<UnixListener> {
    let io = |error| Error::io("listen on", path.display(), error);
    if path.symlink_metadata().is_ok() {
        if UnixStream::connect(path).is_ok() {
            return Err(Error::new(ErrorKind::Fenced, "listen on", path.display())
                .message("another server listens there"));
        }
        std::fs::remove_file(path).map_err(io)?;
    }
    bind(path).map_err(io)
}

fn bind(path: &Path) -> std::io::Result<UnixListener> {
    let address = SocketAddrUnix::new(path)?;
    let (family, flags) = (AddressFamily::UNIX, SocketFlags::CLOEXEC);
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &address)?;
    rustix::fs::chmod(path, Mode::from_raw_mode(file_mode(path)))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}
