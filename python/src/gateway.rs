//! `Gateway` and the enrolment of its clients.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hrl::SystemClock;
use hrl::vault::Vault;
use hrl_gateway::GatewayOptions;
use hrl_stores::{create_url, open_url};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors::run;
use crate::running::ends_with_block;

/// A running gateway.
#[pyclass(frozen)]
pub(crate) struct Gateway {
    inner: Mutex<Option<hrl_gateway::Gateway>>,
    address: String,
    metrics_address: Option<String>,
}

#[pymethods]
impl Gateway {
    #[new]
    #[pyo3(signature = (vault, *, pki, listen="0.0.0.0:9443", cache=None, cache_bytes_max=None, acknowledge=None, metrics=None))]
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
    ) -> PyResult<Self> {
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
            let gateway = options.start(open_url(&vault)?)?;
            Ok(Self {
                address: gateway.address().to_string(),
                metrics_address: gateway.metrics_address().map(|address| address.to_string()),
                inner: Mutex::new(Some(gateway)),
            })
        })
    }

    #[getter]
    fn address(&self) -> &str {
        &self.address
    }

    #[getter]
    fn metrics_address(&self) -> Option<&str> {
        self.metrics_address.as_deref()
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let stats = inner.as_ref().map(hrl_gateway::Gateway::stats).unwrap_or_default();
        let dict = PyDict::new(py);
        dict.set_item("connections", stats.connections)?;
        dict.set_item("connections_refused", stats.connections_refused)?;
        dict.set_item("requests", stats.requests)?;
        dict.set_item("errors", stats.errors)?;
        dict.set_item("bytes_received", stats.bytes_received)?;
        dict.set_item("bytes_sent", stats.bytes_sent)?;
        dict.set_item("cached_objects", stats.cached_objects)?;
        dict.set_item("cached_bytes", stats.cached_bytes)?;
        dict.set_item("forwarded_objects", stats.forwarded_objects)?;
        dict.set_item("vault_available", stats.vault_available)?;
        Ok(dict)
    }

    #[pyo3(signature = (limit=60.0))]
    fn stop(&self, py: Python<'_>, limit: f64) -> bool {
        let taken = self.inner.lock().unwrap_or_else(PoisonError::into_inner).take();
        let limit = Duration::from_secs_f64(limit.max(0.0));
        py.detach(move || taken.is_none_or(|gateway| gateway.stop(limit)))
    }
}

ends_with_block!(Gateway, |it, py| it.stop(py, 60.0));

/// Makes a certificate authority and a gateway's certificate in a new directory.
#[pyfunction]
pub(crate) fn create_authority(py: Python<'_>, pki: PathBuf, hosts: Vec<String>) -> PyResult<()> {
    run(py, move || hrl_tls::create_authority(&pki, &hosts))
}

/// Makes and pins the certificate of a client.
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
