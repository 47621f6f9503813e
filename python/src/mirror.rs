//! `Mirror`: makes one vault follow another.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use hrl::SystemClock;
use hrl::sync::lock::Mutex;
use hrl_gateway::MirrorOptions;
use pyo3::prelude::*;

use crate::errors::run;
use crate::value::{Shown, mirror};
use crate::vault::Vault;
use crate::wait::seconds;

mirror! {
    /// The result of a mirror's run for one volume.
    MirroredVolume(volume: hrl_gateway::MirroredVolume) {
        /// Name of the volume.
        volume: String,
        /// Newest catalog version of the source.
        source_version: u64,
        /// Newest catalog version of the target, which is never above that of the source.
        version: u64,
        /// Time in seconds by which the target is behind.
        lag: f64,
        /// Number of objects copied.
        objects_copied: u64,
        /// Bytes copied.
        bytes_copied: u64,
        /// Number of objects deleted.
        objects_deleted: u64,
        /// Number of objects that the source lacks.
        source_lacks: u64,
        /// How the history of the source shrank, if it did: it was shredded, or lost most of what
        /// the mirror has. None if it did not.
        shrunk: Option<String>,
        /// Error that ended the run for this volume; None if there was none.
        failure: Option<String> = volume.failure.as_ref().map(ToString::to_string),
        /// Kind of that error.
        failure_kind: Option<&'static str> = volume.failure.as_ref().map(|error| error.kind().name()),
    }
    shows volume version lag shrunk failure;
}

/// Makes the vault `target` follow the vault `source`, without the keys of its volumes.
///
/// If `target` was opened with the key, nothing that its catalog lists is deleted.
/// `volumes` are all by default. `scratch` is a directory for copies of objects above 32
/// MiB. Wrapped keys that the source has deleted stay for `keep` seconds. Run one mirror at a
/// time for each target.
#[pyclass(frozen, module = "hrl")]
pub(crate) struct Mirror {
    inner: Mutex<hrl_gateway::Mirror>,
    stopped: AtomicBool,
}

#[pymethods]
impl Mirror {
    #[new]
    #[pyo3(signature = (source, target, *, volumes=None, scratch=None, keep=0.0))]
    fn new(
        source: &Vault,
        target: &Vault,
        volumes: Option<Vec<String>>,
        scratch: Option<PathBuf>,
        keep: f64,
    ) -> PyResult<Self> {
        let keep = seconds(keep)?;
        let options = MirrorOptions { volumes, scratch, keep };
        let clock = SystemClock::shared();
        let inner = hrl_gateway::Mirror::new(source.inner()?, target.inner()?, options, clock);
        Ok(Self { inner: Mutex::new(inner), stopped: AtomicBool::new(false) })
    }

    /// Catches up once; call it again to follow. A failure of one volume is in its result and
    /// does not stop the others.
    fn run(&self, py: Python<'_>) -> PyResult<Vec<MirroredVolume>> {
        let report = run(py, || {
            let mut mirror = self.inner.lock();
            mirror.run(&|| !self.stopped.load(Ordering::Relaxed))
        })?;
        Ok(report.shown())
    }

    /// Ends a run of another thread, and those that follow.
    fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}
