//! Addresses of servers, and connections to them.

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use rustls::pki_types::ServerName;

/// The address of a server, and the name that its certificate must contain.
#[derive(Clone, Debug)]
pub struct ServerAddress {
    address: String,
    name: ServerName<'static>,
}

impl ServerAddress {
    /// Parses `HOST` or `HOST:PORT`; an IPv6 address with a port stands in brackets. `None` if it
    /// has another form.
    pub fn parse(text: &str, default_port: u16) -> Option<Self> {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !host.ends_with(':') => (host, port.parse().ok()?),
            _ => (text, default_port),
        };
        let host = host.trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned()).ok()?;
        let address =
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        Some(Self { address, name })
    }

    /// Returns `HOST:PORT`.
    pub fn as_str(&self) -> &str {
        &self.address
    }

    /// Returns the name that the server's certificate must contain.
    pub fn name(&self) -> ServerName<'static> {
        self.name.clone()
    }

    /// Connects to the first resolved address that answers; each may take up to `limit`.
    pub fn connect(&self, limit: Duration) -> io::Result<TcpStream> {
        let mut failure = io::Error::from(io::ErrorKind::NotFound);
        for address in self.address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, limit) {
                Ok(socket) => {
                    socket.set_nodelay(true)?;
                    return Ok(socket);
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_with_and_without_ports_are_parsed() {
        for (text, expected) in [
            ("gateway", Some("gateway:20000")),
            ("gateway:1", Some("gateway:1")),
            ("192.0.2.1:1", Some("192.0.2.1:1")),
            ("::1", Some("[::1]:20000")),
            ("[::1]:1", Some("[::1]:1")),
            ("gateway:port", None),
            ("gateway:70000", None),
            ("two words", None),
            ("", None),
        ] {
            let found = ServerAddress::parse(text, 20000);
            assert_eq!(found.as_ref().map(ServerAddress::as_str), expected, "{text}");
        }
    }
}
