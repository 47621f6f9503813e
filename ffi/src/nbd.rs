//! The NBD server.

use std::ffi::{CString, c_char, c_void};
use std::sync::Arc;

use hrl_nbd::{Export, ExportContext, NbdAddress, NbdEngine, NbdLimits, NbdServer, NbdStats};

use crate::boundary::{bad_argument, guard, guard_value, hrl_status};
#[cfg(feature = "tls")]
use crate::callbacks::User;
use crate::device::hrl_device;
use crate::handle::{self, In, Out, Room, Text, versioned};
use crate::replica::hrl_changes;
use crate::report::report;
use engine::sync::lock::Mutex;

/// A listening NBD server. All threads may use it at once.
pub struct hrl_nbd_server {
    inner: Mutex<Option<NbdServer>>,
    uri: CString,
}

/// Flag of `hrl_nbd_server_start`: refuse changes, even if the device would take them.
pub const HRL_SERVE_READ_ONLY: u32 = 1;

/// Flag of `hrl_nbd_server_start`: listen without TLS even at an address that other machines reach.
/// Whoever reaches it reads and writes the disk.
pub const HRL_SERVE_INSECURE: u32 = 2;

/// Serves a device over NBD at `address`, "unix:PATH" or "tcp:HOST:PORT" (port 0 takes a free one),
/// as export `name`. Writes to a protected volume are captured. `changes`, which may be NULL,
/// become the meta contexts "qemu:dirty-bitmap:changes" and "hrl:changes". The device may be freed
/// afterwards. Free the server with `hrl_nbd_server_free`.
/// The owner alone may connect to a UNIX socket. An address that other machines reach needs TLS or
/// HRL_SERVE_INSECURE.
/// Statuses: HRL_ERROR_INVALID_INPUT, HRL_ERROR_FENCED (the address is taken), HRL_ERROR_IO. Since
/// 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_nbd_server_start(
    address: Text<'_>,
    name: Text<'_>,
    device: Option<&hrl_device>,
    changes: Option<&hrl_changes>,
    flags: u32,
    out: Out<'_, *mut hrl_nbd_server>,
) -> hrl_status {
    guard(|| {
        out.check("out")?;
        let (address, export) = what(address, name, device, changes, flags)?;
        let name = export.name.clone();
        let insecure = flags & HRL_SERVE_INSECURE != 0;
        let limits = NbdLimits { insecure, ..NbdLimits::default() };
        let server = NbdServer::start(&address, vec![export], limits)?;
        give(out, server, &name)
    })
}

/// Receives one line for people about a client that was refused, on a thread of the library. The
/// line lives until it returns.
pub type hrl_refused_fn = Option<unsafe extern "C" fn(user: *mut c_void, line: *const c_char)>;

/// TLS of an NBD server. Fill it with zeroes, then set the fields that you need.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hrl_nbd_tls<'a> {
    /// `sizeof(hrl_nbd_tls)`.
    pub struct_bytes: usize,
    /// Directory with the certificates, as `hrl enroll` makes it.
    pub pki: Text<'a>,
    /// The volume that clients must be enrolled for. NULL: the name of the export.
    pub volume: Text<'a>,
    /// Serve clients without a certificate, too. The connection is encrypted, but open to every
    /// client that reaches the port.
    pub no_verify: bool,
    /// Receives refused clients. NULL: they are not reported.
    pub refused: hrl_refused_fn,
    /// Passed to `refused`.
    pub user: *mut c_void,
}

versioned!(hrl_nbd_tls<'_>);

/// Does the same as `hrl_nbd_server_start` with TLS, and serves nothing without it. `tls` and its
/// texts are copied. `refused` is called until `hrl_nbd_server_free` or `hrl_nbd_server_stop` has
/// returned.
/// Statuses: also HRL_ERROR_NOT_FOUND and HRL_ERROR_INVALID_INPUT for certificates that cannot be
/// used, and HRL_ERROR_UNSUPPORTED in builds without the feature `tls`. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_nbd_server_start_tls(
    address: Text<'_>,
    name: Text<'_>,
    device: Option<&hrl_device>,
    changes: Option<&hrl_changes>,
    flags: u32,
    tls: In<'_, hrl_nbd_tls<'_>>,
    out: Out<'_, *mut hrl_nbd_server>,
) -> hrl_status {
    guard(|| {
        out.check("out")?;
        let (address, export) = what(address, name, device, changes, flags)?;
        let tls = tls.read("tls")?;
        let name = export.name.clone();
        give(out, start_tls(&address, export, tls)?, &name)
    })
}

#[cfg(feature = "tls")]
fn start_tls(
    address: &NbdAddress,
    export: Export,
    tls: &hrl_nbd_tls<'_>,
) -> engine::Result<NbdServer> {
    use std::path::Path;

    use hrl_nbd::NbdTls;

    let mut options = NbdTls::new(Path::new(tls.pki.read("tls.pki")?));
    options = options.verify(!tls.no_verify);
    if let Some(volume) = tls.volume.optional("tls.volume")? {
        options = options.volume(volume);
    }
    if let Some(refused) = tls.refused {
        let user = User(tls.user);
        options = options.on_refused(Arc::new(move |line| {
            let line = handle::c_text(line);
            // SAFETY: a function of this type, called as the header says; the line lives during the
            // call.
            unsafe { refused(user.pointer(), line.as_ptr()) }
        }));
    }
    NbdServer::start_tls(address, vec![export], NbdLimits::default(), options)
}

#[cfg(not(feature = "tls"))]
fn start_tls(address: &NbdAddress, _: Export, _: &hrl_nbd_tls<'_>) -> engine::Result<NbdServer> {
    Err(engine::Error::new(engine::ErrorKind::Unsupported, "serve", format_args!("{address:?}"))
        .message("this build has no TLS (feature tls)"))
}

/// Returns the address and the export to serve there.
fn what(
    address: Text<'_>,
    name: Text<'_>,
    device: Option<&hrl_device>,
    changes: Option<&hrl_changes>,
    flags: u32,
) -> engine::Result<(NbdAddress, Export)> {
    let address = NbdAddress::parse(address.read("address")?)?;
    let name = name.read("name")?;
    if flags & !(HRL_SERVE_READ_ONLY | HRL_SERVE_INSECURE) != 0 {
        return Err(bad_argument("flags").expected("HRL_SERVE_ flags").found(flags));
    }
    let device = handle::given(device, "device")?;
    let mut export = match &device.volume {
        Some(volume) => Export::volume(name, volume.clone()),
        None => Export::device(name, device.inner.clone()),
    };
    export.read_only |= flags & HRL_SERVE_READ_ONLY != 0;
    if let Some(changes) = changes {
        let extents = Arc::new(changes.inner.extents().clone());
        for name in ["qemu:dirty-bitmap:changes", "hrl:changes"] {
            export.contexts.push(ExportContext { name: name.to_owned(), extents: extents.clone() });
        }
    }
    Ok((address, export))
}

fn give(out: Out<'_, *mut hrl_nbd_server>, server: NbdServer, name: &str) -> engine::Result<()> {
    let uri = handle::c_text(&server.uri(name));
    out.give(hrl_nbd_server { inner: Mutex::new(Some(server)), uri })
}

/// Returns the URI that clients connect to. Valid as long as the handle lives; empty for NULL.
/// Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_nbd_server_uri(server: Option<&hrl_nbd_server>) -> *const c_char {
    guard_value(c"".as_ptr(), || {
        handle::given(server, "server").map_or(c"".as_ptr(), |server| server.uri.as_ptr())
    })
}

/// Returns what carries the bytes: "io_uring", or "threads" where the system denies io_uring, as
/// containers do by default. Never freed; empty for NULL and for a server that was stopped. Since
/// 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_nbd_server_engine(server: Option<&hrl_nbd_server>) -> *const c_char {
    guard_value(c"".as_ptr(), || {
        let Ok(server) = handle::given(server, "server") else { return c"".as_ptr() };
        match server.inner.lock().as_ref().map(NbdServer::engine) {
            Some(NbdEngine::IoUring) => c"io_uring".as_ptr(),
            Some(NbdEngine::Threads) => c"threads".as_ptr(),
            None => c"".as_ptr(),
        }
    })
}

report! {
    /// Counters of a server.
    pub struct hrl_nbd_stats from now: NbdStats {
        /// Connections open now.
        connections: u64,
        /// Connections refused at the limit or by TLS.
        connections_refused: u64,
        /// Requests answered.
        requests: u64,
        /// Requests answered with an error.
        errors: u64,
        /// Bytes of data sent.
        bytes_read: u64,
        /// Bytes of data received.
        bytes_written: u64,
    }
}

/// Reports the counters now; all 0 once the server stopped.
/// Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_nbd_server_stats(
    server: Option<&hrl_nbd_server>,
    stats: Room<'_, hrl_nbd_stats>,
) -> hrl_status {
    guard(|| {
        let stats = stats.needed("stats")?;
        let server = handle::given(server, "server")?;
        let inner = server.inner.lock();
        stats.fill(hrl_nbd_stats::from(&inner.as_ref().map(NbdServer::stats).unwrap_or_default()));
        Ok(())
    })
}

/// Stops listening, lets requests in flight end, and closes the connections. A second stop does
/// nothing.
/// Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_nbd_server_stop(server: Option<&hrl_nbd_server>) -> hrl_status {
    guard(|| {
        let server = handle::given(server, "server")?;
        let taken = server.inner.lock().take();
        drop(taken);
        Ok(())
    })
}

/// Stops the server, unless it was stopped, and frees the handle; NULL is fine. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_nbd_server_free(server: Option<Box<hrl_nbd_server>>) {
    guard_value((), || drop(server));
}
