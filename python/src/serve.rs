//! `NbdServer`.

use std::path::PathBuf;
use std::sync::Arc;

use hrl::ExtentSet;
use hrl::device::{Access, BlockDevice, FileDevice, FileDeviceOptions};
use hrl::replica::Overlay;
use hrl_nbd::{Export, ExportContext, NbdAddress, NbdLimits, NbdTls};
use pyo3::prelude::*;

use crate::at::State;
use crate::changes::ChangeSet;
use crate::device::{Source, scratch_options};
use crate::errors::run;
use crate::events::line_sink;
use crate::failover::FailedOver;
use crate::protection::Protection;
use crate::replica::Replica;
use crate::running::{Running, ends_with_block};
use crate::tracker::DiskChanges;
use crate::value::{Shown, mirror};

/// Export by which every server of a recovery state can be reached, beside the volume's name.
const REPLICA_EXPORT: &str = "replica";

mirror! {
    /// Counters of an NBD server since its start. They unpack in this order.
    unpacking NbdStats(stats: hrl_nbd::NbdStats) {
        /// Number of requests answered.
        requests: u64,
        /// Number of requests answered with an error.
        errors: u64,
        /// Bytes read by clients.
        bytes_read: u64,
        /// Bytes written by clients.
        bytes_written: u64,
        /// Connections open now.
        connections: u64,
        /// Number of connections refused.
        connections_refused: u64,
    }
}

/// A listening NBD server. Leaving the `with` block stops it.
///
/// `address` is HOST:PORT or unix:PATH. With `tls`, a directory of certificates as
/// `create_authority` makes it, nothing is served without TLS. With `tls_verify` only
/// clients that are enrolled for the volume are served; of a device, for the export's name.
/// `on_refused` is called with a line about each refused client, on a thread of the server.
/// None logs it.
///
/// The owner alone may connect to a UNIX socket, and the group of its directory if that has
/// the setgid bit. Without TLS an address that other machines reach is refused, unless
/// `insecure`.
#[pyclass(frozen, module = "hrl")]
pub(crate) struct NbdServer {
    inner: Arc<Running<hrl_nbd::NbdServer>>,
    uri: String,
    engine: &'static str,
}

/// Returns the meta contexts of changes.
fn contexts(extents: Arc<ExtentSet>) -> [ExportContext; 2] {
    ["qemu:dirty-bitmap:changes", "hrl:changes"]
        .map(|name| ExportContext { name: name.to_owned(), extents: extents.clone() })
}

/// TLS of a server, where it is asked for.
struct Tls {
    options: Option<NbdTls>,
    insecure: bool,
}

impl Tls {
    fn new(
        pki: Option<PathBuf>,
        verify: bool,
        on_refused: Option<Py<PyAny>>,
        insecure: bool,
        volume: &str,
    ) -> Self {
        let options = pki.map(|pki| {
            NbdTls::new(&pki).verify(verify).volume(volume).on_refused(line_sink(on_refused))
        });
        Self { options, insecure }
    }

    /// Starts a server. Its URI is that of the first export.
    fn start(self, address: &str, exports: Vec<Export>) -> hrl::Result<NbdServer> {
        use hrl_nbd::NbdServer as Server;
        let name = exports[0].name.clone();
        let address = NbdAddress::parse(address)?;
        let limits = NbdLimits { insecure: self.insecure, ..NbdLimits::default() };
        let server = match self.options {
            Some(tls) => Server::start_tls(&address, exports, limits, tls)?,
            None => Server::start(&address, exports, limits)?,
        };
        let (uri, engine) = (server.uri(&name), server.engine().name());
        Ok(NbdServer { inner: Running::new(server), uri, engine })
    }
}

#[pymethods]
impl NbdServer {
    /// Serves a protected volume.
    #[staticmethod]
    #[pyo3(signature = (address, protection, name, *, tls=None, tls_verify=true, on_refused=None, insecure=false))]
    #[allow(clippy::too_many_arguments, reason = "they are keyword arguments")]
    fn protected(
        py: Python<'_>,
        address: &str,
        protection: &Protection,
        name: &str,
        tls: Option<PathBuf>,
        tls_verify: bool,
        on_refused: Option<Py<PyAny>>,
        insecure: bool,
    ) -> PyResult<Self> {
        let volume = protection.inner_volume()?;
        let tls = Tls::new(tls, tls_verify, on_refused, insecure, name);
        run(py, || tls.start(address, vec![Export::volume(name, volume)]))
    }

    /// Serves a volume that failed over to here.
    #[staticmethod]
    #[pyo3(signature = (address, failed_over, name, *, tls=None, tls_verify=true, on_refused=None, insecure=false))]
    #[allow(clippy::too_many_arguments, reason = "they are keyword arguments")]
    fn failed_over(
        py: Python<'_>,
        address: &str,
        failed_over: &FailedOver,
        name: &str,
        tls: Option<PathBuf>,
        tls_verify: bool,
        on_refused: Option<Py<PyAny>>,
        insecure: bool,
    ) -> PyResult<Self> {
        let volume = failed_over.inner_volume()?;
        let tls = Tls::new(tls, tls_verify, on_refused, insecure, name);
        run(py, || tls.start(address, vec![Export::volume(name, volume)]))
    }

    /// Serves a recovery state: read-only, or writable with its changes in a new `scratch`
    /// file.
    ///
    /// The export has the volume's name; `replica` and the empty name reach it, too.
    /// `changes` are shown as a dirty bitmap, which backup programs read.
    #[staticmethod]
    #[pyo3(signature = (address, replica, at, *, scratch=None, changes=None, tls=None, tls_verify=true, on_refused=None, insecure=false))]
    #[allow(clippy::too_many_arguments, reason = "they are keyword arguments")]
    fn replica(
        py: Python<'_>,
        address: &str,
        replica: &Replica,
        at: State,
        scratch: Option<PathBuf>,
        changes: Option<&ChangeSet>,
        tls: Option<PathBuf>,
        tls_verify: bool,
        on_refused: Option<Py<PyAny>>,
        insecure: bool,
    ) -> PyResult<Self> {
        let extents = changes.map(ChangeSet::extents);
        let view = replica.view_at(py, &at)?;
        let name = replica.name()?;
        let tls = Tls::new(tls, tls_verify, on_refused, insecure, &name);
        run(py, || {
            let device: Arc<dyn BlockDevice> = match scratch {
                None => view,
                Some(path) => {
                    let scratch = FileDevice::open(&path, &scratch_options(view.size_bytes()))?;
                    Arc::new(Overlay::new(view, Arc::new(scratch))?)
                }
            };
            let mut export = Export::device(&name, device);
            export.contexts.extend(extents.into_iter().flat_map(contexts));
            let mut exports = vec![export];
            if name != REPLICA_EXPORT {
                exports.push(Export { name: REPLICA_EXPORT.to_owned(), ..exports[0].clone() });
            }
            tls.start(address, exports)
        })
    }

    /// Serves a device without protection. A path is opened for this server alone, or for
    /// reads, without a claim, if `read_only`.
    ///
    /// `changes` are shown as a dirty bitmap, which backup programs read.
    #[staticmethod]
    #[pyo3(signature = (address, device, name, *, read_only=false, changes=None, tls=None, tls_verify=true, on_refused=None, insecure=false))]
    #[allow(clippy::too_many_arguments, reason = "they are keyword arguments")]
    fn device(
        py: Python<'_>,
        address: &str,
        device: Source,
        name: &str,
        read_only: bool,
        changes: Option<&DiskChanges>,
        tls: Option<PathBuf>,
        tls_verify: bool,
        on_refused: Option<Py<PyAny>>,
        insecure: bool,
    ) -> PyResult<Self> {
        let extents = changes.map(DiskChanges::extents);
        let options = if read_only {
            FileDeviceOptions { access: Access::ReadOnly, ..Default::default() }
        } else {
            FileDeviceOptions { exclusive: true, ..Default::default() }
        };
        let device = device.open(py, options)?;
        let tls = Tls::new(tls, tls_verify, on_refused, insecure, name);
        run(py, || {
            let mut export = Export::device(name, device);
            export.read_only |= read_only;
            export.contexts.extend(extents.into_iter().flat_map(contexts));
            tls.start(address, vec![export])
        })
    }

    /// URI by which clients find it.
    #[getter]
    fn uri(&self) -> &str {
        &self.uri
    }

    /// What carries the bytes: "io_uring", or "threads" where the system denies it.
    #[getter]
    fn engine(&self) -> &'static str {
        self.engine
    }

    /// Returns counters since its start.
    fn stats(&self) -> NbdStats {
        self.inner.with(hrl_nbd::NbdServer::stats).unwrap_or_default().shown()
    }

    /// Ends every connection and stops listening.
    fn stop(&self, py: Python<'_>) {
        let taken = self.inner.take();
        py.detach(move || drop(taken));
    }

    fn __repr__(&self) -> String {
        let stopped = if self.inner.with(|_| ()).is_none() { ", stopped" } else { "" };
        format!("<NbdServer {}{stopped}>", self.uri)
    }
}

ends_with_block!(NbdServer, |it, py| it.stop(py));
