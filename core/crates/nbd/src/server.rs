//! The listening server: accepts connections, counts them, and ends them all when it stops.

use std::collections::HashMap;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use hrl::sync::lock::Mutex;
use hrl::{Clock, Error, ErrorKind, Result, SystemClock};
use hrl_front::Pool;

use crate::handshake::{Outcome, Security};
use crate::service::{Counters, Service};
use crate::stream::{Listener, Stream};
#[cfg(feature = "tls")]
use crate::tls::{Gate, NbdTls};
use crate::{Export, NbdAddress, NbdEngine, NbdLimits, NbdStats, connection, handshake};

/// Pause after a failed accept, for example because no descriptor was free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Threads for what a ring cannot do.
const POOL_THREADS: usize = 8;

/// Content of a server: what connections use, and what ends them.
struct Server {
    service: Service,
    clock: Arc<dyn Clock>,
    stopping: AtomicBool,
    sockets: Mutex<HashMap<u64, Socket>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    security: Security,
    #[cfg(feature = "tls")]
    gate: Option<Gate>,
}

/// The socket of an open connection.
struct Socket {
    fd: OwnedFd,
    network: Option<IpAddr>,
    /// Whether its handshake is over.
    is_known: bool,
}

impl Server {
    /// Makes room for a connection: at a limit the oldest one in its handshake gives way. Returns
    /// false if there is none.
    fn has_room(&self, network: Option<IpAddr>) -> bool {
        let NbdLimits { connections_max, address_connections_max, handshakes_max, .. } =
            self.service.limits;
        let mut sockets = self.sockets.lock();
        let count = |is_meant: &dyn Fn(&Socket) -> bool, sockets: &HashMap<u64, Socket>| {
            sockets.values().filter(|socket| is_meant(socket)).count()
        };
        let is_full = sockets.len() >= connections_max as usize
            || count(&|socket| !socket.is_known, &sockets) >= handshakes_max as usize;
        if is_full && !end_oldest_unknown(&mut sockets, None) {
            return false;
        }
        let of_network = count(&|socket| socket.network == network, &sockets);
        network.is_none()
            || of_network < address_connections_max as usize
            || end_oldest_unknown(&mut sockets, network)
    }

    fn new(exports: Vec<Export>, limits: NbdLimits) -> Self {
        let (counters, pool) = (Counters::default(), Pool::start("hrl-nbd-pool", POOL_THREADS));
        Self {
            service: Service { exports, limits, counters, pool, engine: NbdEngine::available() },
            clock: SystemClock::shared(),
            stopping: AtomicBool::new(false),
            sockets: Mutex::default(),
            threads: Mutex::default(),
            security: Security::Plain,
            #[cfg(feature = "tls")]
            gate: None,
        }
    }
}

/// A listening server. Dropping it stops it.
pub struct NbdServer {
    server: Arc<Server>,
    address: NbdAddress,
    listener: Arc<Listener>,
    accepting: Option<JoinHandle<()>>,
}

impl NbdServer {
    /// Starts a server that listens at `address`.
    ///
    /// The socket of a dead server at a UNIX path is replaced. Its owner alone may connect to it,
    /// and the group of its directory if that has the setgid bit. A TCP port is open to anybody who
    /// reaches it.
    ///
    /// `InvalidInput` without an export, or for an address that other machines reach, unless
    /// [`NbdLimits::insecure`] permits it. `Fenced` if another server has the address.
    pub fn start(address: &NbdAddress, exports: Vec<Export>, limits: NbdLimits) -> Result<Self> {
        check_exports(&exports)?;
        Self::run(address, Server::new(exports, limits))
    }

    /// Starts a server that serves nothing without TLS. Feature `tls`.
    ///
    /// `InvalidInput` or `NotFound` for certificates that cannot be used; otherwise as
    /// [`NbdServer::start`].
    #[cfg(feature = "tls")]
    pub fn start_tls(
        address: &NbdAddress,
        exports: Vec<Export>,
        limits: NbdLimits,
        tls: NbdTls,
    ) -> Result<Self> {
        check_exports(&exports)?;
        let writable = exports.iter().any(|export| !export.read_only);
        let gate = Some(tls.open(&exports[0].name, writable)?);
        let security = Security::TlsRequired;
        Self::run(address, Server { security, gate, ..Server::new(exports, limits) })
    }

    fn run(address: &NbdAddress, server: Server) -> Result<Self> {
        let is_plain = matches!(server.security, Security::Plain);
        let local_only = is_plain && !server.service.limits.insecure;
        let (listener, address) = Listener::bind(address, local_only)?;
        let listener = Arc::new(listener);
        let server = Arc::new(server);
        let accepting = {
            let (server, listener) = (server.clone(), listener.clone());
            std::thread::Builder::new()
                .name("hrl-nbd".into())
                .spawn(move || accept(&server, &listener))
                .map_err(|error| Error::io("start", "NBD server", error))?
        };
        Ok(Self { server, address, listener, accepting: Some(accepting) })
    }

    /// Returns the address, with the real port if 0 was asked for.
    pub fn address(&self) -> &NbdAddress {
        &self.address
    }

    /// Returns the URI by which clients reach an export.
    pub fn uri(&self, export: &str) -> String {
        let uri = self.address.uri(export);
        match self.server.security {
            Security::Plain => uri,
            _ => uri.replacen("nbd", "nbds", 1),
        }
    }

    /// Returns what carries the bytes: io_uring, or threads where the system denies it.
    pub fn engine(&self) -> NbdEngine {
        self.server.service.engine
    }

    /// Returns the counters.
    pub fn stats(&self) -> NbdStats {
        self.server.service.counters.stats()
    }

    /// Stops listening, waits for requests in flight, and closes the connections.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for NbdServer {
    fn drop(&mut self) {
        self.server.stopping.store(true, Ordering::SeqCst);
        // A failure means that the socket is closed already.
        let _ = rustix::net::shutdown(self.listener.fd(), rustix::net::Shutdown::Both);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        for socket in self.server.sockets.lock().values() {
            let _ = rustix::net::shutdown(&socket.fd, rustix::net::Shutdown::Both);
        }
        for thread in std::mem::take(&mut *self.server.threads.lock()) {
            let _ = thread.join();
        }
        if let NbdAddress::Unix(path) = &self.address {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn check_exports(exports: &[Export]) -> Result<()> {
    if exports.is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, "serve", "NBD")
            .expected("at least one export")
            .found("none"));
    }
    Ok(())
}

/// Accepts connections until the server stops.
fn accept(server: &Arc<Server>, listener: &Listener) {
    for number in 0.. {
        let stream = listener.accept();
        if server.stopping.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else {
            std::thread::sleep(ACCEPT_PAUSE);
            continue;
        };
        let Service { counters, .. } = &server.service;
        let network = stream.network();
        if !server.has_room(network) {
            counters.connections_refused.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let Ok(fd) = stream.as_fd().try_clone_to_owned() else { continue };
        counters.connections.fetch_add(1, Ordering::Relaxed);
        server.sockets.lock().insert(number, Socket { fd, network, is_known: false });
        let thread = {
            let server = server.clone();
            std::thread::Builder::new().name("hrl-nbd-conn".into()).spawn(move || {
                let open = OpenConnection { server: &server, number };
                serve(&open, stream);
            })
        };
        match thread {
            Ok(thread) => {
                let mut threads = server.threads.lock();
                threads.retain(|thread| !thread.is_finished());
                threads.push(thread);
            }
            Err(_) => drop(OpenConnection { server, number }),
        }
    }
}

/// Removes a connection from the counters and the list of sockets when it is dropped.
struct OpenConnection<'a> {
    server: &'a Server,
    number: u64,
}

impl OpenConnection<'_> {
    /// Records that the handshake is over.
    fn is_known(&self) {
        if let Some(socket) = self.server.sockets.lock().get_mut(&self.number) {
            socket.is_known = true;
        }
    }
}

/// Ends the oldest connection in its handshake, of a network or of any. Returns whether there was one.
fn end_oldest_unknown(sockets: &mut HashMap<u64, Socket>, network: Option<IpAddr>) -> bool {
    let is_meant =
        |socket: &Socket| !socket.is_known && (network.is_none() || socket.network == network);
    let meant = sockets.iter().filter(|(_, socket)| is_meant(socket));
    let Some(oldest) = meant.map(|(number, _)| *number).min() else { return false };
    if let Some(socket) = sockets.remove(&oldest) {
        let _ = rustix::net::shutdown(&socket.fd, rustix::net::Shutdown::Both);
    }
    true
}

impl Drop for OpenConnection<'_> {
    fn drop(&mut self) {
        self.server.sockets.lock().remove(&self.number);
        self.server.service.counters.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves one connection from greeting to end. Its errors concern its client only.
fn serve(open: &OpenConnection<'_>, mut stream: Stream) {
    let Server { service, clock, security, .. } = open.server;
    match handshake::run(&mut stream, service, &**clock, *security) {
        Ok(Outcome::Chosen(session)) => {
            open.is_known();
            connection::run(service, &stream, &session);
        }
        #[cfg(feature = "tls")]
        Ok(Outcome::StartTls(greeting)) => serve_in_tls(open, stream, greeting),
        _ => {}
    }
}

#[cfg(feature = "tls")]
fn serve_in_tls(open: &OpenConnection<'_>, stream: Stream, greeting: handshake::Greeting) {
    let Server { service, clock, gate, .. } = open.server;
    let admitted = gate.as_ref().and_then(|gate| gate.admit(stream, greeting.deadline, &**clock));
    let Some((mut plain, pump)) = admitted else {
        service.counters.connections_refused.fetch_add(1, Ordering::Relaxed);
        return;
    };
    let outcome = handshake::resume(&mut plain, service, &**clock, greeting);
    if let Ok(Outcome::Chosen(session)) = outcome {
        open.is_known();
        connection::run(service, &plain, &session);
    }
    drop(plain);
    // A panic of the pump would end this connection only.
    let _ = pump.join();
}
