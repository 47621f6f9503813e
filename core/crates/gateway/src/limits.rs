//! Limits of each client, so that one with many volumes or bad manners leaves room for the others.
//!
//! Connections beyond the limit are answered with `Unavailable`; the client tries again or goes to
//! another gateway. Bytes beyond the limit wait unread in the network, and are `Unavailable` after
//! [`ROOM_LIMIT`]. A request larger than the limit is served when it is the client's only one.

use hrl::sync::lock::{Condvar, Mutex};
use std::collections::HashMap;
use std::time::Duration;

/// How long a request waits for room.
const ROOM_LIMIT: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, Default)]
struct Use {
    connections: u64,
    bytes: u64,
}

/// What each client takes now.
pub(crate) struct Limits {
    connections_max: u64,
    bytes_max: u64,
    clients: Mutex<HashMap<String, Use>>,
    freed: Condvar,
}

/// A client's connection, or bytes of a request; given back when dropped.
pub(crate) struct Taken<'a> {
    limits: &'a Limits,
    client: &'a str,
    taken: Use,
}

impl Limits {
    pub(crate) fn new(connections_max: u64, bytes_max: u64) -> Self {
        let (clients, freed) = (Mutex::default(), Condvar::new());
        Self { connections_max, bytes_max, clients, freed }
    }

    /// Takes one more connection; `None` at the limit.
    pub(crate) fn connection<'a>(&'a self, client: &'a str) -> Option<Taken<'a>> {
        let mut clients = self.clients.lock();
        let known = clients.entry(client.to_owned()).or_default();
        if known.connections >= self.connections_max {
            return None;
        }
        known.connections += 1;
        Some(Taken { limits: self, client, taken: Use { connections: 1, bytes: 0 } })
    }

    /// Takes room for the bytes of a request and its answer; `None` if there is none within
    /// [`ROOM_LIMIT`].
    pub(crate) fn room<'a>(&'a self, client: &'a str, bytes: u64) -> Option<Taken<'a>> {
        let clients = self.clients.lock();
        let is_full = |clients: &mut HashMap<String, Use>| {
            let taken = clients.get(client).map_or(0, |known| known.bytes);
            taken > 0 && taken.saturating_add(bytes) > self.bytes_max
        };
        let waited = self.freed.wait_timeout_while(clients, ROOM_LIMIT, is_full);
        let (mut clients, waited) = waited;
        if waited.timed_out() {
            return None;
        }
        clients.entry(client.to_owned()).or_default().bytes += bytes;
        Some(Taken { limits: self, client, taken: Use { connections: 0, bytes } })
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut clients = self.limits.clients.lock();
        if let Some(known) = clients.get_mut(self.client) {
            known.connections -= self.taken.connections;
            known.bytes -= self.taken.bytes;
            if known.connections == 0 && known.bytes == 0 {
                clients.remove(self.client);
            }
        }
        self.limits.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promise_12_a_client_takes_its_share_and_no_more() {
        let limits = Limits::new(2, 100);
        let first = limits.connection("a").expect("room");
        let _second = limits.connection("a").expect("room");
        assert!(limits.connection("a").is_none(), "two are the limit");
        assert!(limits.connection("b").is_some(), "of each client");
        drop(first);
        let _third = limits.connection("a").expect("room again");
        let large = limits.room("a", 1000).expect("alone");
        assert!(limits.room("b", 100).is_some());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| limits.room("a", 1).map(drop));
            std::thread::sleep(Duration::from_millis(50));
            assert!(!waiting.is_finished(), "there is no room beside the large one");
            drop(large);
            assert!(waiting.join().expect("thread").is_some());
        });
    }
}
