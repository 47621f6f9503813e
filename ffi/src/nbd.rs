//! The NBD server.

use std::ffi::{CString, c_char};
use std::sync::{Arc, Mutex, PoisonError};

use engine::capture::{Export, ExportContext, NbdAddress, NbdLimits, NbdServer};

use crate::boundary::{bad_argument, guard, guard_value, hrl_status};
use crate::device::hrl_device;
use crate::handle;
use crate::replica::hrl_changes;

/// A listening NBD server. All threads may use it at once.
pub struct hrl_nbd_server {
    inner: Mutex<Option<NbdServer>>,
    uri: CString,
}

/// Flag of `hrl_nbd_server_start`: refuse changes, also where the device would take them.
pub const HRL_SERVE_READ_ONLY: u32 = 1;

/// Serves a device over NBD at `address`, "unix:PATH" or "tcp:HOST:PORT" (port 0 takes a free one), as export `name`. A
/// protected volume is captured. `changes`, which may be NULL, become the meta contexts "qemu:dirty-bitmap:changes" and
/// "hrl:changes". The device may be freed afterwards. Free the server with `hrl_nbd_server_free`.
/// Statuses: HRL_ERROR_INVALID_INPUT, HRL_ERROR_FENCED (the address is taken), HRL_ERROR_UNSUPPORTED (no io_uring), HRL_ERROR_IO.
/// Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_nbd_server_start(
    address: *const c_char,
    name: *const c_char,
    device: *const hrl_device,
    changes: *const hrl_changes,
    flags: u32,
    out: *mut *mut hrl_nbd_server,
) -> hrl_status {
    guard(|| {
        handle::check_out(out, "out")?;
        let address = NbdAddress::parse(handle::text(address, "address")?)?;
        let name = handle::text(name, "name")?;
        if flags & !HRL_SERVE_READ_ONLY != 0 {
            return Err(bad_argument("flags").expected("HRL_SERVE_ flags").found(flags));
        }
        let device = handle::borrow(device, "device")?;
        let mut export = match &device.volume {
            Some(volume) => Export::volume(name, volume.clone()),
            None => Export::device(name, device.inner.clone()),
        };
        export.read_only |= flags & HRL_SERVE_READ_ONLY != 0;
        if let Some(changes) = handle::borrow_optional(changes) {
            let extents = Arc::new(changes.inner.extents().clone());
            for name in ["qemu:dirty-bitmap:changes", "hrl:changes"] {
                export
                    .contexts
                    .push(ExportContext { name: name.to_owned(), extents: extents.clone() });
            }
        }
        let server = NbdServer::start(&address, vec![export], NbdLimits::default())?;
        let uri = handle::c_text(&server.address().uri(name));
        handle::give(out, hrl_nbd_server { inner: Mutex::new(Some(server)), uri })
    })
}

/// The URI that clients connect to, as long as the handle lives. Empty for NULL. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_nbd_server_uri(server: *const hrl_nbd_server) -> *const c_char {
    guard_value(c"".as_ptr(), || {
        handle::borrow(server, "server").map_or(c"".as_ptr(), |server| server.uri.as_ptr())
    })
}

/// Counters of a server.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hrl_nbd_stats {
    /// Connections open now.
    pub connections: u64,
    /// Connections refused at the limit.
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

/// Counters now; all 0 once the server stopped. Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_nbd_server_stats(
    server: *const hrl_nbd_server,
    stats: *mut hrl_nbd_stats,
) -> hrl_status {
    guard(|| {
        let server = handle::borrow(server, "server")?;
        let inner = server.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let now = inner.as_ref().map(NbdServer::stats).unwrap_or_default();
        let told = hrl_nbd_stats {
            connections: now.connections,
            connections_refused: now.connections_refused,
            requests: now.requests,
            errors: now.errors,
            bytes_read: now.bytes_read,
            bytes_written: now.bytes_written,
        };
        handle::put(stats, told, "stats")
    })
}

/// Stops listening, lets requests in flight end, closes the connections. A second stop does nothing. Statuses:
/// HRL_ERROR_INVALID_INPUT. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_nbd_server_stop(server: *const hrl_nbd_server) -> hrl_status {
    guard(|| {
        let server = handle::borrow(server, "server")?;
        let taken = server.inner.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(taken);
        Ok(())
    })
}

/// Stops the server, if it was not, and frees the handle; NULL is fine. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_nbd_server_free(server: *mut hrl_nbd_server) {
    guard_value((), || drop(handle::take(server)));
}
