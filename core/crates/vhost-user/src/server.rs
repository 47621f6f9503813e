//! The listening server: one client at a time, and an end to it when it stops.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use hrl::sync::lock::Mutex;
use hrl::{Error, ErrorKind, Result};
use hrl_front::{Disk, Pool, listen_at};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use vhost::vhost_user::Listener;
use vhost_user_backend::{ShutdownHandle, VhostUserDaemon};

use crate::backend::Backend;
use crate::service::{Counters, Service, VhostUserLimits, VhostUserStats};

/// Threads that run requests.
const POOL_THREADS: usize = 8;
/// Pause after a client that could not be accepted.
const PAUSE: Duration = Duration::from_millis(50);
/// Most queues, one thread each.
const QUEUES_MAX: u16 = 64;

/// What its thread and the owner of a server share.
struct Shared {
    service: Arc<Service>,
    /// Wakes the thread that waits for a client.
    wake: OwnedFd,
    stopping: AtomicBool,
    /// Ends the connection of the client.
    client: Mutex<Option<ShutdownHandle>>,
}

/// A server of one disk. Dropping it stops it.
pub struct VhostUserServer {
    shared: Arc<Shared>,
    path: PathBuf,
    thread: Option<JoinHandle<()>>,
}

impl VhostUserServer {
    /// Starts to serve `disk` at the UNIX path `path`. Clients that ask get `name`, cut to 20 bytes, as
    /// the serial number.
    ///
    /// The socket of a dead server is replaced. Its owner alone may connect to it, and the group of its
    /// directory if that has the setgid bit. `Fenced` if another server has the path, `InvalidInput` for
    /// limits that are none, or for a disk that is not of whole sectors of 512 bytes.
    pub fn start(path: &Path, name: &str, disk: Disk, limits: VhostUserLimits) -> Result<Self> {
        check(name, &disk, &limits)?;
        let listener = listen_at(path)?;
        let io = |error| Error::io("start", "vhost-user server", error);
        let wake = eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| io(error.into()))?;
        let service = Service {
            read_only: limits.read_only || disk.device().is_read_only(),
            disk,
            name: name.to_owned(),
            limits,
            counters: Counters::default(),
            pool: Pool::start("hrl-vhost-pool", POOL_THREADS),
        };
        let shared = Arc::new(Shared {
            service: Arc::new(service),
            wake,
            stopping: AtomicBool::new(false),
            client: Mutex::default(),
        });
        let thread = {
            let (shared, waiting) = (shared.clone(), listener.try_clone().map_err(io)?);
            let serve = move || serve(&shared, &waiting, Listener::from(listener));
            std::thread::Builder::new().name("hrl-vhost".into()).spawn(serve).map_err(io)?
        };
        Ok(Self { shared, path: path.to_owned(), thread: Some(thread) })
    }

    /// Returns the path of the socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the counters.
    pub fn stats(&self) -> VhostUserStats {
        self.shared.service.counters.stats()
    }

    /// Stops listening, ends the connection, and waits for requests under way.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for VhostUserServer {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // The counter cannot overflow with one signal.
        let _ = rustix::io::write(&self.shared.wake, &1_u64.to_ne_bytes());
        if let Some(client) = &*self.shared.client.lock() {
            client.shutdown();
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

fn check(name: &str, disk: &Disk, limits: &VhostUserLimits) -> Result<()> {
    let bad = || Error::new(ErrorKind::InvalidInput, "serve", name);
    if !(1..=QUEUES_MAX).contains(&limits.queues) {
        return Err(bad().expected("1 to 64 queues").found(limits.queues));
    }
    if limits.request_bytes_max < 1 << 20 || limits.backlog_bytes_max < 1 << 20 {
        return Err(bad()
            .expected("limits of at least 1 MiB")
            .found(limits.backlog_bytes_max.min(limits.request_bytes_max.into())));
    }
    let size = disk.device().size_bytes();
    if !size.is_multiple_of(crate::request::SECTOR_BYTES) {
        return Err(bad().expected("a disk of whole sectors of 512 bytes").found(size));
    }
    Ok(())
}

/// Serves one client after the other until the server stops.
fn serve(shared: &Shared, waiting: &UnixListener, mut listener: Listener) {
    while !shared.stopping.load(Ordering::SeqCst) {
        let mut fds =
            [PollFd::new(&shared.wake, PollFlags::IN), PollFd::new(waiting, PollFlags::IN)];
        if poll(&mut fds, None).is_ok() && !fds[1].revents().is_empty() {
            serve_one(shared, &mut listener);
        }
    }
}

/// Serves the client that waits at the listener, until it leaves and all of its requests are answered:
/// a late one must not come after what its next connection asks for.
fn serve_one(shared: &Shared, listener: &mut Listener) {
    let service = &shared.service;
    let backend = Arc::new(Backend::new(service.clone()));
    let name = "hrl-vhost-conn".to_owned();
    let daemon = VhostUserDaemon::new(name, backend.clone(), backend.memory.clone());
    let Some(mut daemon) = daemon.ok().and_then(|mut daemon| {
        daemon.start(listener).ok()?;
        Some(daemon)
    }) else {
        // For example because no descriptor is free.
        std::thread::sleep(PAUSE);
        return;
    };
    service.counters.connected.store(true, Ordering::Relaxed);
    *shared.client.lock() = daemon.shutdown_handle();
    if shared.stopping.load(Ordering::SeqCst) {
        daemon.request_shutdown();
    }
    // However it ends, it ends this client only.
    let _ = daemon.wait();
    *shared.client.lock() = None;
    drop(daemon);
    backend.drain();
    service.counters.connected.store(false, Ordering::Relaxed);
    if service.counters.has_changed.swap(false, Ordering::Relaxed) {
        service.disk.lose_sync();
    }
}
