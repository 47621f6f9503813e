//! `Mirror`: one vault follows another.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use hrl::SystemClock;
use hrl_gateway::{MirrorOptions, MirroredVolume};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::errors::run;
use crate::replica::Vault;

/// Makes one vault follow another.
#[pyclass(frozen, module = "hrl")]
pub(crate) struct Mirror {
    inner: Mutex<hrl_gateway::Mirror>,
    stopped: AtomicBool,
}

#[pymethods]
impl Mirror {
    #[new]
    #[pyo3(signature = (source, target, *, volumes=None, scratch=None))]
    fn new(
        source: &Vault,
        target: &Vault,
        volumes: Option<Vec<String>>,
        scratch: Option<PathBuf>,
    ) -> PyResult<Self> {
        let options = MirrorOptions { volumes, scratch };
        let clock = SystemClock::shared();
        let inner = hrl_gateway::Mirror::new(source.inner()?, target.inner()?, options, clock);
        Ok(Self { inner: Mutex::new(inner), stopped: AtomicBool::new(false) })
    }

    fn run<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let report = run(py, || {
            let mut mirror = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            mirror.run(&|| !self.stopped.load(Ordering::Relaxed))
        })?;
        let list = PyList::empty(py);
        for volume in report {
            list.append(volume_dict(py, &volume)?)?;
        }
        Ok(list)
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}

fn volume_dict<'py>(py: Python<'py>, volume: &MirroredVolume) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("volume", &volume.volume)?;
    dict.set_item("source_version", volume.source_version)?;
    dict.set_item("version", volume.version)?;
    dict.set_item("lag", volume.lag.as_secs_f64())?;
    dict.set_item("objects_copied", volume.objects_copied)?;
    dict.set_item("bytes_copied", volume.bytes_copied)?;
    dict.set_item("objects_deleted", volume.objects_deleted)?;
    dict.set_item("source_lacks", volume.source_lacks)?;
    let failure = volume.failure.as_ref();
    dict.set_item("failure", failure.map(ToString::to_string))?;
    dict.set_item("failure_kind", failure.map(|error| error.kind().name()))?;
    Ok(dict)
}
