//! Addresses of servers, as text and as URI.

use std::path::PathBuf;

use hrl::{Error, ErrorKind, Result};

/// Address that a server listens at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NbdAddress {
    /// A UNIX socket at this path.
    Unix(PathBuf),
    /// A TCP port; 0 takes a free one.
    Tcp(String, u16),
}

impl NbdAddress {
    /// Parses `unix:PATH` or `tcp:HOST:PORT`. `InvalidInput` for anything else.
    pub fn parse(text: &str) -> Result<Self> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Self::Unix(path.into()));
        }
        let tcp = text.strip_prefix("tcp:").and_then(|rest| rest.rsplit_once(':')).and_then(
            |(host, port)| Some((host.trim_matches(['[', ']']).to_owned(), port.parse().ok()?)),
        );
        match tcp {
            Some((host, port)) if !host.is_empty() => Ok(Self::Tcp(host, port)),
            _ => Err(Error::new(ErrorKind::InvalidInput, "parse address", text)
                .expected("unix:PATH or tcp:HOST:PORT")
                .found(text)),
        }
    }

    /// Returns the URI by which clients reach an export.
    pub fn uri(&self, export: &str) -> String {
        match self {
            Self::Unix(path) => format!("nbd+unix:///{export}?socket={}", path.display()),
            Self::Tcp(host, port) if host.contains(':') => {
                format!("nbd://[{host}]:{port}/{export}")
            }
            Self::Tcp(host, port) => format!("nbd://{host}:{port}/{export}"),
        }
    }
}
