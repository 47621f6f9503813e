//! `NbdServer`.

use std::path::PathBuf;
use std::sync::Arc;

use hrl::capture::{Export, ExportContext, NbdAddress, NbdLimits};
use hrl::device::{BlockDevice, FileDevice, FileDeviceOptions};
use hrl::replica::Overlay;
use pyo3::prelude::*;

use crate::device::{Source, scratch_options};
use crate::errors::run;
use crate::protection::Protection;
use crate::replica::{ChangeSet, Replica};
use crate::running::Running;

/// A listening NBD server.
#[pyclass(frozen, module = "hrl")]
pub(crate) struct NbdServer {
    inner: Arc<Running<hrl::capture::NbdServer>>,
    uri: String,
}

fn start(address: &str, export: Export) -> hrl::Result<NbdServer> {
    let name = export.name.clone();
    let address = NbdAddress::parse(address)?;
    let server = hrl::capture::NbdServer::start(&address, vec![export], NbdLimits::default())?;
    let uri = server.address().uri(&name);
    Ok(NbdServer { inner: Running::new(server), uri })
}

#[pymethods]
impl NbdServer {
    /// Serves a protected volume.
    #[staticmethod]
    fn protected(
        py: Python<'_>,
        address: &str,
        protection: &Protection,
        name: &str,
    ) -> PyResult<Self> {
        let volume = protection.inner_volume()?;
        run(py, || start(address, Export::volume(name, volume)))
    }

    /// Serves a volume of a vault as of a state: read-only, or writable with changes in a scratch file.
    #[staticmethod]
    #[pyo3(signature = (address, replica, at, *, scratch=None, changes=None))]
    fn replica(
        py: Python<'_>,
        address: &str,
        replica: &Replica,
        at: &str,
        scratch: Option<PathBuf>,
        changes: Option<&ChangeSet>,
    ) -> PyResult<Self> {
        let extents = changes.map(ChangeSet::extents);
        let view = replica.view_at(py, at)?;
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
            start(address, export)
        })
    }

    /// Serves a device that nobody protects.
    #[staticmethod]
    fn device(py: Python<'_>, address: &str, device: Source, name: &str) -> PyResult<Self> {
        let device =
            device.open(py, FileDeviceOptions { exclusive: true, ..Default::default() })?;
        run(py, || start(address, Export::device(name, device)))
    }

    #[getter]
    fn uri(&self) -> &str {
        &self.uri
    }

    /// Requests answered, those with errors, bytes read and written.
    fn stats(&self) -> (u64, u64, u64, u64) {
        let stats = self.inner.with(hrl::capture::NbdServer::stats).unwrap_or_default();
        (stats.requests, stats.errors, stats.bytes_read, stats.bytes_written)
    }

    fn stop(&self, py: Python<'_>) {
        let taken = self.inner.take();
        py.detach(move || drop(taken));
    }

    fn __enter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __exit__(
        &self,
        py: Python<'_>,
        _kind: &Bound<'_, PyAny>,
        _value: &Bound<'_, PyAny>,
        _trace: &Bound<'_, PyAny>,
    ) {
        self.stop(py);
    }
}
