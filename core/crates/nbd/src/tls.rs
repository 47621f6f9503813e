//! TLS below the NBD protocol (`NBD_OPT_STARTTLS`): admission of clients, and the pump between a
//! TLS socket and a connection.
//!
//! Before TLS, a server with [`NbdTls`] answers every other option with `NBD_REP_ERR_TLS_REQD`.
//! After the handshake a thread, the [`Pump`], decrypts into one end of a socket pair and encrypts
//! what comes back. The connection above is the same with TLS and without.
//!
//! A refused client is disconnected, counted and reported in one line. The TLS handshake must end
//! within the time of the whole handshake. While one direction does not drain, nothing more is read
//! for it. A client whose certificate is revoked or expires is disconnected within
//! [`LOOK_EVERY`]. The pump buffers [`CHUNK_BYTES`] in each direction, beside the buffers of TLS.

use std::io::{ErrorKind as IoKind, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hrl::{Clock, Result, SystemClock};
use hrl_tls::rustls::{ServerConfig, ServerConnection};
use hrl_tls::{find_client, server_config};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};

use crate::stream::Stream;

/// Most bytes that the pump moves at once.
const CHUNK_BYTES: usize = 256 << 10;
/// Longest time without progress in sending the rest, once the connection has ended.
const CLOSE_LIMIT: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

/// How often the enrolment of a connected client is looked up again.
const LOOK_EVERY: Duration = Duration::from_secs(4);
const LOOK_LIMIT: Timespec = Timespec { tv_sec: 4, tv_nsec: 0 };

/// Callback that gets one line for people about each refused client.
pub type RefusalSink = Arc<dyn Fn(&str) + Send + Sync>;

/// TLS of an NBD server. Certificates are read when the server starts, enrolled clients at each
/// connection.
#[derive(Clone)]
pub struct NbdTls {
    pki: PathBuf,
    verify: bool,
    volume: Option<String>,
    refused: RefusalSink,
}

impl NbdTls {
    /// Uses the certificates of a directory: `server.pem`, `server.key`, and for the clients
    /// `authority.pem` and `clients/`. `create_authority` and `enroll_client` of the crate
    /// `hrl-tls` make them.
    pub fn new(pki: &Path) -> Self {
        Self { pki: pki.to_owned(), verify: true, volume: None, refused: Arc::new(|_| {}) }
    }

    /// Sets whether clients must show a certificate that is enrolled for the volume. Default true.
    /// With false anybody who reaches the port is served, encrypted.
    pub fn verify(mut self, yes: bool) -> Self {
        self.verify = yes;
        self
    }

    /// Sets the volume that clients must be enrolled for. Default: the name of the first export.
    pub fn volume(mut self, name: &str) -> Self {
        self.volume = Some(name.to_owned());
        self
    }

    /// Sets the callback for refused clients. It runs on the thread of the connection. Default:
    /// none.
    pub fn on_refused(mut self, sink: RefusalSink) -> Self {
        self.refused = sink;
        self
    }

    /// Reads the certificates. `InvalidInput` or `NotFound` if they cannot be used.
    pub(crate) fn open(self, first_export: &str, writable: bool) -> Result<Gate> {
        let config = server_config(&self.pki, self.verify)?;
        let volume = self.volume.unwrap_or_else(|| first_export.to_owned());
        let Self { pki, verify, refused, .. } = self;
        Ok(Gate { config, pki, verify, volume, writable, refused })
    }
}

/// Decides which clients are admitted.
pub(crate) struct Gate {
    config: Arc<ServerConfig>,
    pki: PathBuf,
    verify: bool,
    volume: String,
    /// Whether an export can be written.
    writable: bool,
    refused: RefusalSink,
}

impl Gate {
    /// Shakes hands with a client that asked for TLS. Returns the plain end of the connection and
    /// the pump's thread; `None` if the client was refused, which is already reported.
    pub(crate) fn admit(
        &self,
        mut stream: Stream,
        deadline: Duration,
        clock: &dyn Clock,
    ) -> Option<(Stream, JoinHandle<()>)> {
        let peer = match &stream {
            Stream::Tcp(tcp) => tcp.peer_addr().map_or("client".into(), |a| format!("client {a}")),
            Stream::Unix(_) => "local client".to_owned(),
        };
        let started = self.handshake(&mut stream, deadline, clock).and_then(|(tls, admission)| {
            Pump::start(tls, stream, admission).map_err(|error| error.to_string())
        });
        match started {
            Ok(started) => Some(started),
            Err(reason) => {
                (self.refused)(&format!("NBD {peer} refused: {reason}"));
                None
            }
        }
    }

    fn handshake(
        &self,
        stream: &mut Stream,
        deadline: Duration,
        clock: &dyn Clock,
    ) -> std::result::Result<(ServerConnection, Option<Admission>), String> {
        let io = |error: std::io::Error| match error.kind() {
            IoKind::WouldBlock | IoKind::TimedOut => "the TLS handshake took too long".to_owned(),
            _ => format!("the TLS handshake failed: {error}"),
        };
        let mut tls =
            ServerConnection::new(self.config.clone()).map_err(|error| error.to_string())?;
        while tls.is_handshaking() || tls.wants_write() {
            let left = deadline.saturating_sub(clock.elapsed());
            if left.is_zero() {
                return Err("the TLS handshake took too long".to_owned());
            }
            stream.limit(Some(left.max(Duration::from_millis(1)))).map_err(io)?;
            if tls.wants_write() {
                tls.write_tls(&mut NoSignal(stream.as_fd())).map_err(io)?;
                continue;
            }
            if tls.read_tls(stream).map_err(io)? == 0 {
                return Err("it left during the TLS handshake".to_owned());
            }
            if let Err(error) = tls.process_new_packets() {
                // The alert with the reason; if it is lost, only the client misses it.
                let _ = tls.write_tls(&mut NoSignal(stream.as_fd()));
                return Err(error.to_string());
            }
        }
        let admission = if self.verify { Some(self.admission(&tls)?) } else { None };
        Ok((tls, admission))
    }

    /// Checks that the client is enrolled for the volume. The handshake has checked the authority's
    /// signature.
    fn admission(&self, tls: &ServerConnection) -> std::result::Result<Admission, String> {
        let certificate = tls.peer_certificates().and_then(|chain| chain.first());
        let certificate = certificate.ok_or("it showed no certificate")?.to_vec();
        let (pki, volume) = (self.pki.clone(), self.volume.clone());
        let refused = self.refused.clone();
        let admission = Admission { pki, certificate, volume, writable: self.writable, refused };
        match admission.problem() {
            Ok(None) => Ok(admission),
            Ok(Some(reason)) => Err(reason),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// What a client was admitted for.
struct Admission {
    pki: PathBuf,
    /// Its certificate, in DER form.
    certificate: Vec<u8>,
    volume: String,
    /// Whether an export can be written.
    writable: bool,
    refused: RefusalSink,
}

impl Admission {
    /// Returns why the client may not be served now; `None` if it may.
    fn problem(&self) -> Result<Option<String>> {
        let Some(client) = find_client(&self.pki, &self.certificate)? else {
            return Ok(Some(format!("its certificate is not enrolled in {}", self.pki.display())));
        };
        Ok(if client.expires <= SystemClock::shared().now() {
            Some(format!("the certificate of {} has expired", client.name))
        } else if self.writable && !client.role.adds() {
            Some(format!("{} is a reader, and the export can be written", client.name))
        } else if !client.has_volume(&self.volume) {
            Some(format!("{} is not enrolled for volume {}", client.name, self.volume))
        } else {
            None
        })
    }
}

/// Moves bytes between TLS and a socket pair until both end.
struct Pump {
    tls: ServerConnection,
    /// What the client was admitted for; `None` if anybody is served.
    admission: Option<Admission>,
    clock: Arc<dyn Clock>,
    /// When it was looked up last.
    looked: Duration,
    wire: Stream,
    plain: UnixStream,
    /// Received and not decrypted yet.
    encrypted: Chunk,
    /// Decrypted and not taken by the connection yet.
    decrypted: Chunk,
    /// Space for bytes from the connection.
    outgoing: Vec<u8>,
    wire_ended: bool,
    plain_ended: bool,
}

impl Pump {
    /// Starts the thread. Returns the end of the socket pair for the connection.
    fn start(
        tls: ServerConnection,
        wire: Stream,
        admission: Option<Admission>,
    ) -> std::io::Result<(Stream, JoinHandle<()>)> {
        let (near, far) = UnixStream::pair()?;
        match &wire {
            Stream::Tcp(tcp) => tcp.set_nonblocking(true)?,
            Stream::Unix(unix) => unix.set_nonblocking(true)?,
        }
        far.set_nonblocking(true)?;
        let clock = SystemClock::shared();
        let looked = clock.elapsed();
        let mut pump = Self {
            tls,
            admission,
            clock,
            looked,
            wire,
            plain: far,
            encrypted: Chunk::new(),
            decrypted: Chunk::new(),
            outgoing: vec![0; CHUNK_BYTES],
            wire_ended: false,
            plain_ended: false,
        };
        // A chunk is encrypted only after all before it is sent, which bounds this buffer.
        pump.tls.set_buffer_limit(None);
        let thread = std::thread::Builder::new()
            .name("hrl-nbd-tls".into())
            // After an error both sockets are dropped, which ends both sides.
            .spawn(move || drop(pump.run()))?;
        Ok((Stream::Unix(near), thread))
    }

    fn run(&mut self) -> std::io::Result<()> {
        loop {
            self.look()?;
            let mut moved = self.decrypt()?;
            moved |= self.deliver()?;
            moved |= self.send()?;
            moved |= self.encrypt()?;
            if self.plain_ended && !self.tls.wants_write() {
                return Ok(());
            }
            if !moved && !self.wait()? {
                return Ok(());
            }
        }
    }

    /// Fails if the client may not be served any more.
    fn look(&mut self) -> std::io::Result<()> {
        let Some(admission) = self.admission.as_ref() else { return Ok(()) };
        let now = self.clock.elapsed();
        if now.saturating_sub(self.looked) < LOOK_EVERY {
            return Ok(());
        }
        self.looked = now;
        // If that cannot be read now, nobody is known to be revoked.
        let Ok(Some(reason)) = admission.problem() else { return Ok(()) };
        (admission.refused)(&format!("NBD client disconnected: {reason}"));
        Err(std::io::Error::other(reason))
    }

    /// Receives and decrypts, if the connection has taken all earlier bytes.
    fn decrypt(&mut self) -> std::io::Result<bool> {
        if !self.decrypted.is_empty() || self.wire_ended {
            return Ok(false);
        }
        // Bytes inside TLS come first: the client's first option may have come with the end of its
        // handshake.
        if self.decrypted.fill(&mut self.tls.reader())? {
            return if self.decrypted.is_empty() { self.end_input() } else { Ok(true) };
        }
        if self.encrypted.is_empty() && !self.encrypted.fill(&mut self.wire)? {
            return Ok(false);
        }
        if self.encrypted.is_empty() {
            return self.end_input();
        }
        let mut rest = self.encrypted.rest();
        let before = rest.len();
        self.tls.read_tls(&mut rest)?;
        let taken = before - rest.len();
        self.encrypted.take(taken);
        self.tls.process_new_packets().map_err(std::io::Error::other)?;
        Ok(true)
    }

    /// Shuts the connection's input, because the client sends no more. It still answers what it
    /// received.
    fn end_input(&mut self) -> std::io::Result<bool> {
        self.wire_ended = true;
        self.plain.shutdown(Shutdown::Write)?;
        Ok(true)
    }

    /// Passes decrypted bytes to the connection.
    fn deliver(&mut self) -> std::io::Result<bool> {
        if self.decrypted.is_empty() || self.plain_ended {
            return Ok(false);
        }
        match would_block(NoSignal(self.plain.as_fd()).write(self.decrypted.rest())) {
            // The connection reads no more; its last replies still have to be sent.
            Err(error) if error.kind() == IoKind::BrokenPipe => {
                self.decrypted = Chunk::new();
                self.wire_ended = true;
                Ok(true)
            }
            sent => {
                let sent = sent?;
                self.decrypted.take(sent.unwrap_or(0));
                Ok(sent.is_some())
            }
        }
    }

    /// Sends encrypted bytes.
    fn send(&mut self) -> std::io::Result<bool> {
        if !self.tls.wants_write() {
            return Ok(false);
        }
        let sent = would_block(self.tls.write_tls(&mut NoSignal(self.wire.as_fd())))?;
        Ok(sent.is_some())
    }

    /// Encrypts bytes from the connection, if all earlier ones are sent.
    fn encrypt(&mut self) -> std::io::Result<bool> {
        if self.tls.wants_write() || self.plain_ended {
            return Ok(false);
        }
        match would_block(self.plain.read(&mut self.outgoing))? {
            None => Ok(false),
            Some(0) => {
                self.plain_ended = true;
                self.tls.send_close_notify();
                Ok(true)
            }
            Some(count) => {
                self.tls.writer().write_all(&self.outgoing[..count])?;
                Ok(true)
            }
        }
    }

    /// Waits until a socket is ready. False if the end takes too long.
    fn wait(&self) -> std::io::Result<bool> {
        let mut wire = PollFlags::empty();
        wire.set(PollFlags::IN, self.decrypted.is_empty() && !self.wire_ended);
        wire.set(PollFlags::OUT, self.tls.wants_write());
        let mut plain = PollFlags::empty();
        plain.set(PollFlags::OUT, !self.decrypted.is_empty() && !self.plain_ended);
        plain.set(PollFlags::IN, !self.tls.wants_write() && !self.plain_ended);
        // A socket without wanted events would wake the poll at its end, again and again.
        let mut sockets: Vec<PollFd<'_>> = [(self.wire.as_fd(), wire), (self.plain.as_fd(), plain)]
            .into_iter()
            .filter(|(_, wanted)| !wanted.is_empty())
            .map(|(fd, wanted)| PollFd::from_borrowed_fd(fd, wanted))
            .collect();
        let looks = self.admission.is_some().then_some(&LOOK_LIMIT);
        let limit = self.plain_ended.then_some(&CLOSE_LIMIT).or(looks);
        match poll(&mut sockets, limit) {
            Ok(ready) => Ok(ready > 0 || !self.plain_ended),
            Err(rustix::io::Errno::INTR) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

/// Bytes under way in one direction.
struct Chunk {
    bytes: Vec<u8>,
    from: usize,
    to: usize,
}

impl Chunk {
    fn new() -> Self {
        Self { bytes: vec![0; CHUNK_BYTES], from: 0, to: 0 }
    }

    fn is_empty(&self) -> bool {
        self.from == self.to
    }

    fn rest(&self) -> &[u8] {
        &self.bytes[self.from..self.to]
    }

    fn take(&mut self, count: usize) {
        self.from += count;
    }

    /// Reads into an empty chunk. False if nothing is there now; at the end of the input the chunk
    /// stays empty.
    fn fill(&mut self, source: &mut impl Read) -> std::io::Result<bool> {
        let count = would_block(source.read(&mut self.bytes))?;
        (self.from, self.to) = (0, count.unwrap_or(0));
        Ok(count.is_some())
    }
}

/// Writes to a socket without a signal if the peer is gone: signals belong to the embedding
/// process.
struct NoSignal<'a>(BorrowedFd<'a>);

impl Write for NoSignal<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> std::io::Result<usize> {
        let mut none = SendAncillaryBuffer::default();
        Ok(sendmsg(self.0, parts, &mut none, SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Returns `None` if the socket is not ready.
fn would_block(result: std::io::Result<usize>) -> std::io::Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error) if matches!(error.kind(), IoKind::WouldBlock | IoKind::Interrupted) => Ok(None),
        Err(error) => Err(error),
    }
}
