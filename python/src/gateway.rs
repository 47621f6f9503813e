//! `Gateway` and the enrolment of its clients.

use std::path::PathBuf;
use std::time::Duration;

use hrl::SystemClock;
use hrl::sync::lock::Mutex;
use hrl::vault::Vault;
use hrl_gateway::GatewayOptions;
use hrl_maintain::ensure_delay;
use hrl_stores::{create_url, open_for_maintenance, open_url};
use pyo3::prelude::*;

use crate::errors::run;
use crate::running::ends_with_block;
use crate::value::{Shown, mirror};
use crate::wait::seconds;

mirror! {
    /// Counters of a gateway since its start.
    GatewayStats(stats: hrl_gateway::GatewayStats) {
        /// Connections open now.
        connections: u64,
        /// Number of connections refused.
        connections_refused: u64,
        /// Number of requests answered.
        requests: u64,
        /// Number of requests answered with an error.
        errors: u64,
        /// Bytes of objects received.
        bytes_received: u64,
        /// Bytes of objects sent.
        bytes_sent: u64,
        /// Objects in the cache that are not in the vault.
        cached_objects: u64,
        /// Bytes in the cache that are not in the vault.
        cached_bytes: u64,
        /// Number of objects forwarded to the vault.
        forwarded_objects: u64,
        /// Number of puts that the forwarded objects took.
        forwarded_puts: u64,
        /// Whether the vault took the last object.
        vault_available: bool,
    }
}

/// A store served over HTTPS with client certificates, in front of a vault. Leaving the
/// `with` block stops it.
///
/// With `cache`, a directory, segments are acknowledged as soon as they are durable there;
/// without it when the vault has them. `acknowledge` chooses: "gateway", or "vault" to
/// empty the cache and add nothing to it. `metrics` is an address for `/metrics` and
/// `/healthz` without TLS. A vault without a deletion delay gets `deletion_delay`, in seconds: for
/// so long `undelete` brings back what clients delete.
#[pyclass(frozen, module = "hrl")]
pub(crate) struct Gateway {
    inner: Mutex<Option<hrl_gateway::Gateway>>,
    address: String,
    metrics_address: Option<String>,
}

#[pymethods]
impl Gateway {
    #[new]
    #[pyo3(signature = (vault, *, pki, listen="0.0.0.0:9443", cache=None, cache_bytes_max=None, acknowledge=None, metrics=None, deletion_delay=1_209_600.0))]
    #[allow(clippy::too_many_arguments, reason = "they are keyword arguments")]
    fn new(
        py: Python<'_>,
        vault: String,
        pki: PathBuf,
        listen: &str,
        cache: Option<PathBuf>,
        cache_bytes_max: Option<u64>,
        acknowledge: Option<&str>,
        metrics: Option<&str>,
        deletion_delay: f64,
    ) -> PyResult<Self> {
        let deletion_delay = seconds(deletion_delay)?;
        let mut options = GatewayOptions::new(listen, pki);
        if let Some(directory) = cache {
            options = options.cache(directory);
        }
        if let Some(bytes) = cache_bytes_max {
            options = options.cache_bytes_max(bytes);
        }
        if let Some(name) = acknowledge {
            options = options.acknowledge(run(py, || hrl_gateway::Acknowledge::parse(name))?);
        }
        if let Some(address) = metrics {
            options = options.metrics(address);
        }
        run(py, move || {
            // Clients have no right to make a vault of the store, so the gateway does.
            Vault::create(create_url(&vault)?, None, SystemClock::shared())?;
            if !vault.starts_with("gateway://") {
                ensure_delay(&*open_for_maintenance(&vault)?, deletion_delay)?;
            }
            let gateway = options.start(open_url(&vault)?)?;
            Ok(Self {
                address: gateway.address().to_string(),
                metrics_address: gateway.metrics_address().map(|address| address.to_string()),
                inner: Mutex::new(Some(gateway)),
            })
        })
    }

    /// Address that it listens on.
    #[getter]
    fn address(&self) -> &str {
        &self.address
    }

    /// Address of its metrics, without TLS.
    #[getter]
    fn metrics_address(&self) -> Option<&str> {
        self.metrics_address.as_deref()
    }

    /// Returns counters and conditions as of now.
    fn stats(&self) -> GatewayStats {
        let inner = self.inner.lock();
        inner.as_ref().map(hrl_gateway::Gateway::stats).unwrap_or_default().shown()
    }

    /// Stops the gateway, and tries to empty the cache for up to `limit` seconds. Returns
    /// whether the cache is empty.
    #[pyo3(signature = (limit=60.0))]
    fn stop(&self, py: Python<'_>, limit: f64) -> bool {
        let taken = self.inner.lock().take();
        let limit = Duration::from_secs_f64(limit.max(0.0));
        py.detach(move || taken.is_none_or(|gateway| gateway.stop(limit)))
    }

    fn __repr__(&self) -> String {
        let inner = self.inner.lock();
        let stopped = if inner.is_none() { ", stopped" } else { "" };
        format!("<Gateway at {}{stopped}>", self.address)
    }
}

ends_with_block!(Gateway, |it, py| it.stop(py, 60.0));

/// Creates a certificate authority in a new directory, and a gateway's certificate that is
/// good for `hosts`.
#[pyfunction]
pub(crate) fn create_authority(py: Python<'_>, pki: PathBuf, hosts: Vec<String>) -> PyResult<()> {
    run(py, move || hrl_tls::create_authority(&pki, &hosts))
}

/// Creates and pins a certificate for a client that may access `volumes` alone. Its bundle
/// goes into a new directory.
#[pyfunction]
#[pyo3(signature = (pki, client, *, volumes, bundle))]
pub(crate) fn enroll_client(
    py: Python<'_>,
    pki: PathBuf,
    client: String,
    volumes: Vec<String>,
    bundle: PathBuf,
) -> PyResult<()> {
    run(py, move || hrl_tls::enroll_client(&pki, &client, &volumes, &bundle))
}
