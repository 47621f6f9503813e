//! The NBD server: the front for software that cannot link us, such as QEMU, libnbd and the Linux kernel.
//!
//! One thread and one io_uring for each connection carry socket and disk; what a ring cannot do (zeroing, discarding,
//! devices that are not plain files) goes to a small pool of threads and comes back through an eventfd. Fixed
//! newstyle, structured replies, block status with the export's own contexts, several connections at once.
//!
//! Nothing that a client sends is trusted: see [`NbdLimits`] for what bounds it.

mod connection;
mod handshake;
mod pool;
mod ring;
#[cfg(feature = "tls")]
mod tls;
#[cfg(all(test, feature = "gateway"))]
mod tls_tests;
mod wire;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use self::handshake::{Outcome, Security};
use self::pool::Pool;
#[cfg(feature = "tls")]
pub use self::tls::{NbdTls, RefusalSink};
use super::{Tap, Volume};
use crate::clock::{Clock, SystemClock};
use crate::device::BlockDevice;
use crate::error::{Error, ErrorKind, Result};
use crate::extent::ExtentSet;

/// Pause after an accept failed, for example because no descriptor was free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NbdAddress {
    /// A UNIX socket at this path.
    Unix(PathBuf),
    /// A TCP port; 0 takes a free one.
    Tcp(String, u16),
}

impl NbdAddress {
    /// Understands `unix:PATH` and `tcp:HOST:PORT`.
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

    /// The URI by which clients reach an export.
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

/// A meta context beside `base:allocation`: the extents have flag 1, everything else 0, as in QEMU's dirty bitmaps.
#[derive(Clone, Debug)]
pub struct ExportContext {
    /// Name, such as `qemu:dirty-bitmap:changes`.
    pub name: String,
    /// What is flagged.
    pub extents: Arc<ExtentSet>,
}

/// What an export gives access to.
#[derive(Clone)]
pub enum ExportTarget {
    /// A volume: changes go through its tap.
    Volume(Arc<Volume>),
    /// Any device.
    Device(Arc<dyn BlockDevice>),
}

/// A device under a name.
#[derive(Clone)]
pub struct Export {
    /// Name that clients ask for; the first export also has the empty name.
    pub name: String,
    /// For people.
    pub description: String,
    /// What it gives access to.
    pub target: ExportTarget,
    /// Refuse changes, also where the device would take them.
    pub read_only: bool,
    /// Contexts for block status.
    pub contexts: Vec<ExportContext>,
}

impl Export {
    /// A writable export of a volume, without contexts of its own.
    pub fn volume(name: &str, volume: Arc<Volume>) -> Self {
        Self::new(name, ExportTarget::Volume(volume))
    }

    /// An export of a device, read-only when the device is.
    pub fn device(name: &str, device: Arc<dyn BlockDevice>) -> Self {
        Self::new(name, ExportTarget::Device(device))
    }

    fn new(name: &str, target: ExportTarget) -> Self {
        let mut export = Self {
            name: name.to_owned(),
            description: String::new(),
            target,
            read_only: false,
            contexts: Vec::new(),
        };
        export.read_only = export.backing().is_read_only();
        export
    }

    /// The device that requests go to: below the tap, where there is one.
    fn backing(&self) -> &Arc<dyn BlockDevice> {
        match &self.target {
            ExportTarget::Volume(volume) => volume.device(),
            ExportTarget::Device(device) => device,
        }
    }

    fn tap(&self) -> Option<&Arc<Tap>> {
        match &self.target {
            ExportTarget::Volume(volume) => volume.tap(),
            ExportTarget::Device(_) => None,
        }
    }

    fn flags(&self) -> u16 {
        use wire::*;
        let mut flags = FLAG_HAS_FLAGS
            | FLAG_SEND_FLUSH
            | FLAG_SEND_FUA
            | FLAG_SEND_DF
            | FLAG_CAN_MULTI_CONN
            | FLAG_SEND_CACHE;
        flags |= if self.read_only {
            FLAG_READ_ONLY
        } else {
            FLAG_SEND_TRIM | FLAG_SEND_WRITE_ZEROES | FLAG_SEND_FAST_ZERO
        };
        flags
    }
}

/// What bounds the clients of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NbdLimits {
    /// Connections at once; one more is closed at once. Default 128.
    pub connections_max: u32,
    /// Requests of a connection at once; more wait in the socket. Default 128.
    pub requests_in_flight_max: u32,
    /// Bytes of a read or write; a longer one is refused with `EINVAL`, and a longer write ends the connection,
    /// because its data cannot be skipped within bounds. Default 32 MiB.
    pub request_bytes_max: u32,
    /// Time for the whole handshake, in seconds. Default 10.
    pub handshake_seconds_max: u32,
    /// Bytes of requests and replies held for a connection; beyond it nothing more is read from it. Default 64 MiB.
    pub backlog_bytes_max: u64,
}

impl Default for NbdLimits {
    fn default() -> Self {
        Self {
            connections_max: 128,
            requests_in_flight_max: 128,
            request_bytes_max: 32 << 20,
            handshake_seconds_max: 10,
            backlog_bytes_max: 64 << 20,
        }
    }
}

/// Counters of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NbdStats {
    /// Connections open now.
    pub connections: u64,
    /// Connections refused at the limit, or because TLS did not let them in.
    pub connections_refused: u64,
    /// Requests answered.
    pub requests: u64,
    /// Requests answered with an error.
    pub errors: u64,
    /// Bytes of data sent.
    pub bytes_read: u64,
    /// Bytes of data received.
    pub bytes_written: u64,
}

/// Counters while they count.
#[derive(Debug, Default)]
struct Counters {
    connections: AtomicU64,
    connections_refused: AtomicU64,
    requests: AtomicU64,
    errors: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
}

/// What connections share.
struct Server {
    exports: Vec<Export>,
    limits: NbdLimits,
    counters: Counters,
    clock: Arc<dyn Clock>,
    pool: Pool,
    stopping: AtomicBool,
    sockets: Mutex<HashMap<u64, OwnedFd>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    security: Security,
    #[cfg(feature = "tls")]
    gate: Option<tls::Gate>,
}

impl Server {
    fn new(exports: Vec<Export>, limits: NbdLimits) -> Self {
        Self {
            exports,
            limits,
            counters: Counters::default(),
            clock: SystemClock::shared(),
            pool: Pool::start(),
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
    /// Listens. `InvalidInput` without an export, `Fenced` when another server has the address.
    ///
    /// The socket of a dead server at a UNIX path is replaced. Access is by the permissions of that path's directory;
    /// a TCP port is open to whoever reaches it.
    pub fn start(address: &NbdAddress, exports: Vec<Export>, limits: NbdLimits) -> Result<Self> {
        check_exports(&exports)?;
        Self::run(address, Server::new(exports, limits))
    }

    /// As [`NbdServer::start`] with TLS, and nothing without it. `InvalidInput` or `NotFound` for certificates that cannot be
    /// used. Feature `tls`.
    #[cfg(feature = "tls")]
    pub fn start_tls(
        address: &NbdAddress,
        exports: Vec<Export>,
        limits: NbdLimits,
        tls: NbdTls,
    ) -> Result<Self> {
        check_exports(&exports)?;
        let gate = Some(tls.open(&exports[0].name)?);
        let security = Security::TlsRequired;
        Self::run(address, Server { security, gate, ..Server::new(exports, limits) })
    }

    fn run(address: &NbdAddress, server: Server) -> Result<Self> {
        ring::check_available()?;
        let (listener, address) = Listener::bind(address)?;
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

    /// Where it listens, with the real port when 0 was asked for.
    pub fn address(&self) -> &NbdAddress {
        &self.address
    }

    /// The URI by which clients reach an export of it.
    pub fn uri(&self, export: &str) -> String {
        let uri = self.address.uri(export);
        match self.server.security {
            Security::Plain => uri,
            _ => uri.replacen("nbd", "nbds", 1),
        }
    }

    /// Counters now.
    pub fn stats(&self) -> NbdStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.server.counters;
        NbdStats {
            connections: get(&counters.connections),
            connections_refused: get(&counters.connections_refused),
            requests: get(&counters.requests),
            errors: get(&counters.errors),
            bytes_read: get(&counters.bytes_read),
            bytes_written: get(&counters.bytes_written),
        }
    }

    /// Stops listening, lets requests in flight end, closes the connections.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for NbdServer {
    fn drop(&mut self) {
        self.server.stopping.store(true, Ordering::SeqCst);
        // Failures mean that the socket is closed already.
        let _ = rustix::net::shutdown(self.listener.fd(), rustix::net::Shutdown::Both);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        for socket in lock(&self.server.sockets).values() {
            let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
        }
        for thread in std::mem::take(&mut *lock(&self.server.threads)) {
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// A connection's socket.
enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Listener {
    fn bind(address: &NbdAddress) -> Result<(Self, NbdAddress)> {
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

    fn accept(&self) -> std::io::Result<Stream> {
        match self {
            Self::Unix(listener) => listener.accept().map(|(stream, _)| Stream::Unix(stream)),
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(listener) => listener.as_fd(),
            Self::Tcp(listener) => listener.as_fd(),
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

impl handshake::Socket for Stream {
    fn limit(&self, wait: Option<Duration>) -> std::io::Result<()> {
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
        let open = server.counters.connections.load(Ordering::Relaxed);
        if open >= u64::from(server.limits.connections_max) {
            server.counters.connections_refused.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let Ok(copy) = stream.as_fd().try_clone_to_owned() else { continue };
        server.counters.connections.fetch_add(1, Ordering::Relaxed);
        lock(&server.sockets).insert(number, copy);
        let thread = {
            let server = server.clone();
            std::thread::Builder::new().name("hrl-nbd-conn".into()).spawn(move || {
                let _open = OpenConnection { server: &server, number };
                serve(&server, stream);
            })
        };
        match thread {
            Ok(thread) => {
                let mut threads = lock(&server.threads);
                threads.retain(|thread| !thread.is_finished());
                threads.push(thread);
            }
            Err(_) => drop(OpenConnection { server, number }),
        }
    }
}

/// Takes a connection off the books when it ends, however it ends.
struct OpenConnection<'a> {
    server: &'a Server,
    number: u64,
}

impl Drop for OpenConnection<'_> {
    fn drop(&mut self) {
        lock(&self.server.sockets).remove(&self.number);
        self.server.counters.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One connection from hello to end. Its errors are the client's business alone.
fn serve(server: &Arc<Server>, mut stream: Stream) {
    let Server { exports, limits, clock, .. } = &**server;
    match handshake::run(&mut stream, exports, limits, &**clock, server.security) {
        Ok(Outcome::Chosen(session)) => connection::run(server, &stream, &session),
        #[cfg(feature = "tls")]
        Ok(Outcome::StartTls(greeting)) => serve_in_tls(server, stream, greeting),
        _ => {}
    }
}

#[cfg(feature = "tls")]
fn serve_in_tls(server: &Arc<Server>, stream: Stream, greeting: handshake::Greeting) {
    let Server { exports, limits, clock, .. } = &**server;
    let admitted =
        server.gate.as_ref().and_then(|gate| gate.admit(stream, greeting.deadline, &**clock));
    let Some((mut plain, pump)) = admitted else {
        server.counters.connections_refused.fetch_add(1, Ordering::Relaxed);
        return;
    };
    let outcome = handshake::resume(&mut plain, exports, limits, &**clock, greeting);
    if let Ok(Outcome::Chosen(session)) = outcome {
        connection::run(server, &plain, &session);
    }
    drop(plain);
    // It does not panic; if it did, the connection is over all the same.
    let _ = pump.join();
}
