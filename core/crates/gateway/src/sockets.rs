//! The open connections of a listener, counted from the moment they are accepted.
//!
//! Limits before anybody is known: connections in all, of one address (of IPv6 one network of 64
//! bits), and of those that have not shown who they are. At the last two limits a new connection
//! takes the place of the oldest that is still unknown, so that slow clients lock nobody out. A
//! handshake has a limit for all of it, however the bytes come.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use hrl::sync::lock::Mutex;
use hrl::{Clock, Timestamp};
use hrl_tls::EnrolledClient;

/// Limits of a listener.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SocketLimits {
    pub connections_max: u64,
    pub address_connections_max: u64,
    /// Connections whose client is not known yet.
    pub unknown_max: u64,
}

/// Who a connection belongs to.
#[derive(Clone)]
pub(crate) struct Known {
    pub client: EnrolledClient,
    /// Its certificate, in DER form.
    pub certificate: Vec<u8>,
}

struct Open {
    socket: TcpStream,
    address: IpAddr,
    known: Option<Known>,
}

#[derive(Default)]
struct Table {
    open: HashMap<u64, Open>,
    next: u64,
}

/// The open connections of a listener.
pub(crate) struct Sockets {
    limits: SocketLimits,
    table: Mutex<Table>,
}

/// A connection's place, given back when it is dropped.
pub(crate) struct Place {
    sockets: Arc<Sockets>,
    number: u64,
}

impl Sockets {
    pub(crate) fn new(limits: SocketLimits) -> Arc<Self> {
        Arc::new(Self { limits, table: Mutex::default() })
    }

    /// Takes a place for a connection. `None` if there is none, or the connection is gone.
    pub(crate) fn admit(self: &Arc<Self>, socket: &TcpStream) -> Option<Place> {
        let address = network(socket.peer_addr().ok()?.ip());
        let copy = socket.try_clone().ok()?;
        let mut table = self.table.lock();
        let of_address = table.open.values().filter(|open| open.address == address).count() as u64;
        let unknown = table.open.values().filter(|open| open.known.is_none()).count() as u64;
        let is_full = table.open.len() as u64 >= self.limits.connections_max;
        if is_full || unknown >= self.limits.unknown_max {
            table.end_oldest_unknown(None).then_some(())?;
        }
        if of_address >= self.limits.address_connections_max {
            table.end_oldest_unknown(Some(address)).then_some(())?;
        }
        let number = table.next;
        table.next += 1;
        table.open.insert(number, Open { socket: copy, address, known: None });
        Some(Place { sockets: self.clone(), number })
    }

    /// Returns the number of open connections.
    pub(crate) fn count(&self) -> u64 {
        self.table.lock().open.len() as u64
    }

    /// Returns the connections whose client is known.
    pub(crate) fn known(&self) -> Vec<(u64, Known)> {
        let table = self.table.lock();
        let known = table.open.iter().filter_map(|(n, open)| Some((*n, open.known.clone()?)));
        known.collect()
    }

    /// Returns when the first certificate of a known client expires.
    pub(crate) fn first_expiry(&self) -> Option<Timestamp> {
        let table = self.table.lock();
        table.open.values().filter_map(|open| Some(open.known.as_ref()?.client.expires)).min()
    }

    /// Ends a connection.
    pub(crate) fn end(&self, number: u64) {
        if let Some(open) = self.table.lock().open.get(&number) {
            let _ = open.socket.shutdown(Shutdown::Both);
        }
    }

    /// Ends all connections.
    pub(crate) fn end_all(&self) {
        for open in self.table.lock().open.values() {
            let _ = open.socket.shutdown(Shutdown::Both);
        }
    }
}

impl Table {
    /// Ends the oldest connection whose client is not known, of an address or of any. Returns
    /// whether there was one.
    fn end_oldest_unknown(&mut self, address: Option<IpAddr>) -> bool {
        let is_meant = |open: &Open| {
            open.known.is_none() && address.is_none_or(|address| open.address == address)
        };
        let meant = self.open.iter().filter(|(_, open)| is_meant(open));
        let Some(oldest) = meant.map(|(number, _)| *number).min() else { return false };
        if let Some(open) = self.open.remove(&oldest) {
            let _ = open.socket.shutdown(Shutdown::Both);
        }
        true
    }
}

impl Place {
    /// Records who the connection belongs to. Returns false if it was ended meanwhile.
    pub(crate) fn is_of(&self, known: Known) -> bool {
        match self.sockets.table.lock().open.get_mut(&self.number) {
            Some(open) => {
                open.known = Some(known);
                true
            }
            None => false,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.sockets.table.lock().open.remove(&self.number);
    }
}

/// Returns the address that limits are counted for.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::from((v6.to_bits() >> 64 << 64).to_be_bytes()),
        IpAddr::V4(v4) => v4.into(),
    }
}

/// A socket that must be done with all reads and writes by a moment.
pub(crate) struct Until<'a> {
    socket: &'a TcpStream,
    clock: &'a dyn Clock,
    end: Duration,
}

impl<'a> Until<'a> {
    pub(crate) fn new(socket: &'a TcpStream, clock: &'a dyn Clock, limit: Duration) -> Self {
        Self { socket, clock, end: clock.elapsed() + limit }
    }

    fn left(&self) -> io::Result<Duration> {
        let left = self.end.saturating_sub(self.clock.elapsed());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl Read for Until<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(Some(self.left()?))?;
        let mut socket = self.socket;
        socket.read(buffer)
    }
}

impl Write for Until<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(Some(self.left()?))?;
        let mut socket = self.socket;
        socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
