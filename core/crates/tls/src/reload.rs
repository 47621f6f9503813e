//! A certificate and its key, read again when their files change, so that a renewal needs no
//! restart.
//!
//! Behaviour on failure: files that cannot be used, or that do not fit each other because only one
//! of them was replaced so far, leave the pair in use that was read before.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use hrl::Result;
use hrl::sync::lock::Mutex;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::config::{certificates, failed, private_key, provider};

/// When the two files were last changed.
type Changed = [Option<SystemTime>; 2];

/// The pair of a server or a client.
#[derive(Debug)]
pub(crate) struct Pair {
    certificate: PathBuf,
    key: PathBuf,
    read: Mutex<(Changed, Arc<CertifiedKey>)>,
}

impl Pair {
    /// Reads a pair. `InvalidInput` if it cannot be used.
    pub(crate) fn open(certificate: &Path, key: &Path) -> Result<Arc<Self>> {
        let changed = changed(certificate, key);
        let read = Mutex::new((changed, read(certificate, key)?));
        Ok(Arc::new(Self { certificate: certificate.to_owned(), key: key.to_owned(), read }))
    }

    fn current(&self) -> Arc<CertifiedKey> {
        let now = changed(&self.certificate, &self.key);
        let mut last = self.read.lock();
        if last.0 != now
            && let Ok(pair) = read(&self.certificate, &self.key)
        {
            *last = (now, pair);
        }
        last.1.clone()
    }
}

fn changed(certificate: &Path, key: &Path) -> Changed {
    [certificate, key].map(|path| path.metadata().and_then(|known| known.modified()).ok())
}

fn read(certificate: &Path, key: &Path) -> Result<Arc<CertifiedKey>> {
    CertifiedKey::from_der(certificates(certificate)?, private_key(key)?, &provider())
        .map(Arc::new)
        .map_err(|error| failed("use certificate", certificate, error))
}

impl ResolvesServerCert for Pair {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl ResolvesClientCert for Pair {
    fn resolve(
        &self,
        _issuers: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
