//! `NbdServer`.

use std::path::PathBuf;
use std::sync::Arc;

use hrl::device::{BlockDevice, FileDevice, FileDeviceOptions};
use hrl::replica::Overlay;
use hrl_nbd::{Export, ExportContext, NbdAddress, NbdLimits, NbdTls};
use pyo3::prelude::*;

use crate::device::{Source, scratch_options};
use crate::errors::run;
use crate::failover::FailedOver;
use crate::protection::Protection;
use crate::replica::{ChangeSet, Replica};
use crate::running::{Running, ends_with_block};

/// A listening NBD server.
#[pyclass(frozen, module = "hrl")]
pub(crate) struct NbdServer {
    inner: Arc<Running<hrl_nbd::NbdServer>>,
    uri: String,
}

/// TLS of a server, where it is asked for.
struct Tls(Option<NbdTls>);

impl Tls {
    fn new(
        pki: Option<PathBuf>,
        verify: bool,
        on_refused: Option<Py<PyAny>>,
        volume: &str,
    ) -> Self {
        Self(pki.map(|pki| {
            let tls = NbdTls::new(&pki).verify(verify).volume(volume);
            let Some(callback) = on_refused else { return tls };
            tls.on_refused(Arc::new(move |line| {
                Python::attach(|py| {
                    if let Err(error) = callback.call1(py, (line,)) {
                        error.write_unraisable(py, Some(callback.bind(py)));
                    }
                });
            }))
        }))
    }

    fn start(self, address: &str, export: Export) -> hrl::Result<NbdServer> {
        use hrl_nbd::NbdServer as Server;
        let name = export.name.clone();
        let address = NbdAddress::parse(address)?;
        let (exports, limits) = (vec![export], NbdLimits::default());
        let server = match self.0 {
            Some(tls) => Server::start_tls(&address, exports, limits, tls)?,
            None => Server::start(&address, exports, limits)?,
        };
        let uri = server.uri(&name);
        Ok(NbdServer { inner: Running::new(server), uri })
    }
}

#[pymethods]
impl NbdServer {
    /// Serves a protected volume.
    #[staticmethod]
    #[pyo3(signature = (address, protection, name, *, tls=None, tls_verify=true, on_refused=None))]
    fn protected(
        py: Python<'_>,
        address: &str,
        protection: &Protection,
        name: &str,
        tls: Option<PathBuf>,
        tls_verify: bool,
        on_refused: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let volume = protection.inner_volume()?;
        let tls = Tls::new(tls, tls_verify, on_refused, name);
        run(py, || tls.start(address, Export::volume(name, volume)))
    }

    /// Serves a volume that failed over to here.
    #[staticmethod]
    #[pyo3(signature = (address, failed_over, name, *, tls=None, tls_verify=true, on_refused=None))]
    fn failed_over(
        py: Python<'_>,
        address: &str,
        failed_over: &FailedOver,
        name: &str,
        tls: Option<PathBuf>,
        tls_verify: bool,
        on_refused: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let volume = failed_over.inner_volume()?;
        let tls = Tls::new(tls, tls_verify, on_refused, name);
        run(py, || tls.start(address, Export::volume(name, volume)))
    }

    /// Serves a volume of a vault as of a state: read-only, or writable with changes in a scratch file.
    #[staticmethod]
    #[pyo3(signature = (address, replica, at, *, scratch=None, changes=None, tls=None, tls_verify=true, on_refused=None))]
    #[allow(clippy::too_many_arguments, reason = "they are keyword arguments")]
    fn replica(
        py: Python<'_>,
        address: &str,
        replica: &Replica,
        at: &str,
        scratch: Option<PathBuf>,
        changes: Option<&ChangeSet>,
        tls: Option<PathBuf>,
        tls_verify: bool,
        on_refused: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let extents = changes.map(ChangeSet::extents);
        let view = replica.view_at(py, at)?;
        let tls = Tls::new(tls, tls_verify, on_refused, &replica.name()?);
        run(py, || {
            let device: Arc<dyn BlockDevice> = match scratch {
                None => view,
                Some(path) => {
                    let scratch = FileDevice::open(&path, &scratch_options(view.size_bytes()))?;
                    Arc::new(Overlay::new(view, Arc::new(scratch))?)
                }
            };
            let mut export = Export::device("replica", device);
            if let Some(extents) = extents {
                for name in ["qemu:dirty-bitmap:changes", "hrl:changes"] {
                    export
                        .contexts
                        .push(ExportContext { name: name.to_owned(), extents: extents.clone() });
                }
            }
            tls.start(address, export)
        })
    }

    /// Serves a device that nobody protects.
    #[staticmethod]
    #[pyo3(signature = (address, device, name, *, tls=None, tls_verify=true, on_refused=None))]
    fn device(
        py: Python<'_>,
        address: &str,
        device: Source,
        name: &str,
        tls: Option<PathBuf>,
        tls_verify: bool,
        on_refused: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let device =
            device.open(py, FileDeviceOptions { exclusive: true, ..Default::default() })?;
        let tls = Tls::new(tls, tls_verify, on_refused, name);
        run(py, || tls.start(address, Export::device(name, device)))
    }

    #[getter]
    fn uri(&self) -> &str {
        &self.uri
    }

    /// Requests answered, those with errors, bytes read and written.
    fn stats(&self) -> (u64, u64, u64, u64) {
        let stats = self.inner.with(hrl_nbd::NbdServer::stats).unwrap_or_default();
        (stats.requests, stats.errors, stats.bytes_read, stats.bytes_written)
    }

    fn stop(&self, py: Python<'_>) {
        let taken = self.inner.take();
        py.detach(move || drop(taken));
    }
}

ends_with_block!(NbdServer, |it, py| it.stop(py));
