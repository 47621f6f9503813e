//! `Gateway` and the enrolment of its clients.

use std::path::PathBuf;
use std::time::Duration;

use hrl::SystemClock;
use hrl::sync::lock::Mutex;
use hrl_gateway::GatewayOptions;
use hrl_maintain::ensure_delay;
use hrl_stores::{create_url, open_for_maintenance, open_url};
use hrl_tls::{Enrollment, Role};
use pyo3::prelude::*;

use crate::errors::run;
use crate::events::line_sink;
use crate::running::ends_with_block;
use crate::value::{Shown, mirror};
use crate::vault::Vault;
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
        /// Number of requests that the client had no right to.
        refused: u64,
        /// Number of segments under whose names the vault had other bytes.
        conflicts: u64,
        /// When the gateway's certificate expires.
        certificate_expires: String,
        /// When the first certificate of a connected client expires.
        client_certificate_expires: Option<String>,
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
///
/// One client may use `client_cache_bytes_max` of the cache and store
/// `client_stored_bytes_max` in the vault. `on_refused` is called with a line about each
/// refusal, on a thread of the gateway; None logs it.
#[pyclass(frozen, module = "hrl")]
pub(crate) struct Gateway {
    inner: Mutex<Option<hrl_gateway::Gateway>>,
    address: String,
    metrics_address: Option<String>,
}

#[pymethods]
impl Gateway {
    #[new]
    #[pyo3(signature = (vault, *, pki, listen="0.0.0.0:9443", cache=None, cache_bytes_max=None, acknowledge=None, metrics=None, deletion_delay=1_209_600.0, client_cache_bytes_max=None, client_stored_bytes_max=None, on_refused=None))]
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
        client_cache_bytes_max: Option<u64>,
        client_stored_bytes_max: Option<u64>,
        on_refused: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let deletion_delay = seconds(deletion_delay)?;
        let mut options = GatewayOptions::new(listen, pki).on_refused(line_sink(on_refused));
        if let Some(bytes) = client_cache_bytes_max {
            options = options.client_cache_bytes_max(bytes);
        }
        if let Some(bytes) = client_stored_bytes_max {
            options = options.client_stored_bytes_max(bytes);
        }
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
            hrl::vault::Vault::create(create_url(&vault)?, None, SystemClock::shared())?;
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

/// Creates and pins a certificate for a client that may access `volumes` alone, or all if one
/// is "*", in its `role`: "reader", "source", "maintainer" or "admin". Its bundle goes into a new
/// directory.
///
/// The certificate is valid for `days`. With `request`, a file that `request_client` made, the
/// authority signs the key of that request rather than making one.
#[pyfunction]
#[pyo3(signature = (pki, client, *, volumes, bundle, role="source", days=397, request=None))]
#[allow(clippy::too_many_arguments, reason = "they are keyword arguments")]
pub(crate) fn enroll_client(
    py: Python<'_>,
    pki: PathBuf,
    client: String,
    volumes: Vec<String>,
    bundle: PathBuf,
    role: &str,
    days: u32,
    request: Option<PathBuf>,
) -> PyResult<()> {
    run(py, move || {
        let enrollment = Enrollment::new(&client, &volumes).role(Role::parse(role)?).days(days);
        with_request(enrollment, request).enroll(&pki, &bundle)
    })
}

/// Gives an enrolled client a new certificate in `bundle`, in the role and for the volumes that it
/// has unless others are given. The one before stays valid until it expires.
#[pyfunction]
#[pyo3(signature = (pki, client, *, bundle, volumes=None, role=None, days=397, request=None))]
#[allow(clippy::too_many_arguments, reason = "they are keyword arguments")]
pub(crate) fn renew_client(
    py: Python<'_>,
    pki: PathBuf,
    client: String,
    bundle: PathBuf,
    volumes: Option<Vec<String>>,
    role: Option<&str>,
    days: u32,
    request: Option<PathBuf>,
) -> PyResult<()> {
    run(py, move || {
        let mut enrollment = Enrollment::of_enrolled(&pki, &client)?.days(days);
        if let Some(role) = role {
            enrollment = enrollment.role(Role::parse(role)?);
        }
        if let Some(volumes) = volumes {
            enrollment = enrollment.volumes(&volumes);
        }
        with_request(enrollment, request).renew(&pki, &bundle)
    })
}

fn with_request(enrollment: Enrollment, request: Option<PathBuf>) -> Enrollment {
    match request {
        Some(file) => enrollment.request(file),
        None => enrollment,
    }
}

/// Gives the gateway a new certificate for `hosts`. One that runs uses it from the next connection
/// on.
#[pyfunction]
#[pyo3(signature = (pki, hosts, *, days=397))]
pub(crate) fn renew_server(
    py: Python<'_>,
    pki: PathBuf,
    hosts: Vec<String>,
    days: u32,
) -> PyResult<()> {
    run(py, move || hrl_tls::renew_server(&pki, &hosts, days))
}

/// Makes a key in a new bundle, which never leaves this machine, and `request.pem` for the
/// authority.
#[pyfunction]
pub(crate) fn request_client(py: Python<'_>, client: String, bundle: PathBuf) -> PyResult<()> {
    run(py, move || hrl_tls::request_client(&client, &bundle))
}

/// Revokes all certificates of a client, for ever. Gateways end its connections within 10
/// seconds: those that use this directory, and with `vault` all gateways of that vault. Returns
/// the fingerprints. `reason` is for people.
#[pyfunction]
#[pyo3(signature = (pki, client, *, vault=None, reason=""))]
pub(crate) fn revoke_client(
    py: Python<'_>,
    pki: PathBuf,
    client: String,
    vault: Option<&Vault>,
    reason: &str,
) -> PyResult<Vec<String>> {
    let vault = vault.map(Vault::inner).transpose()?;
    run(py, move || {
        let fingerprints = hrl_tls::revoke_client(&pki, &client)?;
        for fingerprint in &fingerprints {
            if let Some(vault) = &vault {
                hrl_gateway::revoke(&**vault.objects(), fingerprint, reason)?;
            }
        }
        Ok(fingerprints)
    })
}

mirror! {
    /// What a certificate permits, and until when.
    CertificateRights(rights: hrl_tls::CertificateRights) {
        /// Role; None if it was made before there were roles, which counts as "source".
        role: Option<&'static str> = rights.role.map(Role::name),
        /// Volumes, or "*" for all.
        volumes: Vec<String>,
        /// When it expires.
        expires: String,
        /// When it expires, in nanoseconds since 1970.
        expires_ns: i64 = rights.expires,
    }
    shows role volumes expires;
}

/// Returns the rights that the certificate of a PEM file states.
#[pyfunction]
pub(crate) fn certificate_rights(py: Python<'_>, path: PathBuf) -> PyResult<CertificateRights> {
    run(py, move || hrl_tls::CertificateRights::of_file(&path)).map(Shown::shown)
}
