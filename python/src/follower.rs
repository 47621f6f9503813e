//! `Follower`: a disk at the old site that follows the volume, for failback.

use std::path::PathBuf;
use std::sync::Arc;

use hrl::SystemClock;
use hrl::device::FileDeviceOptions;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyMapping;

use crate::at::State;
use crate::callback::Progress;
use crate::device::Source;
use crate::errors::run;
use crate::events::{Trouble, sink};
use crate::protection::{Protection, chosen_policy};
use crate::running::{Running, ends_with_block};
use crate::value::{Shown, mirror};
use crate::vault::Vault;
use crate::wait::seconds;

mirror! {
    /// The condition of a follower's disk.
    FollowerStatus(follower: &hrl::failover::Follower) {
        /// Sequence of the recovery state that the disk holds.
        sequence: u64 = follower.sequence(),
        /// Bytes in which the disk may differ from that state.
        bytes_differing: u64 = follower.differs().total_bytes(),
        /// Reason why the disk may differ everywhere; None if it does not.
        why_everywhere: Option<String> = follower.why_everywhere().map(str::to_owned),
    }
}

mirror! {
    /// The result of bringing a disk to a recovery state.
    CatchUp(done: hrl::failover::CatchUp) {
        /// Sequence of the state that the disk held before.
        from_sequence: u64 = done.from,
        /// Sequence of the state that the disk holds now.
        to_sequence: u64 = done.to,
        /// Bytes in which the disk had differed from the state before.
        bytes_diverged: u64,
        /// Bytes written to the disk.
        bytes_written: u64,
    }
}

/// A disk at the old site that follows the volume, for failback. It is written only where
/// it differs.
///
/// `state` is the state directory of the agent that protected the disk, which must have
/// ended. Changes that its spool still holds are first handed in to the branch of their
/// epoch. One thread at a time uses it.
#[pyclass(frozen, module = "hrl")]
pub(crate) struct Follower {
    inner: Arc<Running<hrl::failover::Follower>>,
}

impl Follower {
    /// Takes it for one thread; others are refused meanwhile.
    fn take(&self) -> PyResult<hrl::failover::Follower> {
        self.inner.take().ok_or_else(|| {
            PyValueError::new_err("the follower is closed, or another thread uses it")
        })
    }

    /// Uses it without the interpreter's lock.
    fn with<R: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut hrl::failover::Follower) -> hrl::Result<R> + Send,
    ) -> PyResult<R> {
        let mut taken = self.take()?;
        let result = run(py, || work(&mut taken));
        self.inner.put_back(taken);
        result
    }
}

#[pymethods]
impl Follower {
    #[new]
    #[pyo3(signature = (volume, *, vault, state, disk))]
    fn new(
        py: Python<'_>,
        volume: &str,
        vault: &Vault,
        state: PathBuf,
        disk: Source,
    ) -> PyResult<Self> {
        let vault = vault.inner()?;
        let device = disk.open(py, FileDeviceOptions { exclusive: true, ..Default::default() })?;
        let clock = SystemClock::shared();
        let follower =
            run(py, || hrl::failover::Follower::open(volume, vault, state, device, clock))?;
        Ok(Self { inner: Running::new(follower) })
    }

    /// Returns the recovery state that the disk holds, and how much may differ from it.
    fn status(&self, py: Python<'_>) -> PyResult<FollowerStatus> {
        self.with(py, |follower| Ok((&*follower).shown()))
    }

    /// Returns how many bytes `catch_up` would write.
    #[pyo3(signature = (at=State::NEWEST), text_signature = "($self, at='newest')")]
    fn bytes_behind(&self, py: Python<'_>, at: State) -> PyResult<u64> {
        self.with(py, |follower| follower.bytes_behind(&at.0))
    }

    /// Brings the disk to a recovery state.
    ///
    /// `progress` is called with the bytes done and in all. False from it, or an exception,
    /// stops the call.
    #[pyo3(
        signature = (at=State::NEWEST, *, progress=None),
        text_signature = "($self, at='newest', *, progress=None)"
    )]
    fn catch_up(
        &self,
        py: Python<'_>,
        at: State,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<CatchUp> {
        let mut follower = self.take()?;
        let caught_up = Progress::new(progress).run(py, |report| {
            let done = follower.catch_up(&at.0, report)?;
            follower.record()?;
            Ok(done)
        });
        self.inner.put_back(follower);
        caught_up.map(Shown::shown)
    }

    /// Takes the volume home. Returns the protection on this disk, and what was written.
    ///
    /// With `planned` the other site is asked to hand the volume over, for up to so many
    /// seconds. It is fenced then. Without it the other site is not asked. `policy` and
    /// `on_event` are as for `Protection`.
    #[pyo3(signature = (*, planned=None, policy=None, on_event=None, progress=None))]
    fn fail_back(
        &self,
        py: Python<'_>,
        planned: Option<f64>,
        policy: Option<&Bound<'_, PyMapping>>,
        on_event: Option<Py<PyAny>>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<(Protection, CatchUp)> {
        let planned = planned.map(seconds).transpose()?;
        let policy = policy.map_or_else(|| Ok(hrl::Policy::default()), chosen_policy)?;
        let trouble = Trouble::default();
        let events = trouble.watch(sink(on_event));
        let quiesced = run(py, || crate::quiesce::of_policy(&policy))?;
        let mut follower = self.take()?;
        if let Some(quiesced) = quiesced {
            follower = follower.applications(quiesced);
        }
        let (protection, done) = Progress::new(progress)
            .run(py, move |report| follower.fail_back(planned, policy, events, report))?;
        Ok((Protection::of(py, protection, trouble)?, done.shown()))
    }

    /// Releases the disk and the state directory.
    fn close(&self, py: Python<'_>) {
        let taken = self.inner.take();
        py.detach(move || drop(taken));
    }

    fn __repr__(&self) -> String {
        let sequence = self.inner.with(hrl::failover::Follower::sequence);
        sequence.map_or_else(
            || "<Follower, closed or in use>".to_owned(),
            |sequence| format!("<Follower at sequence {sequence}>"),
        )
    }
}

ends_with_block!(Follower, |it, py| it.close(py));
