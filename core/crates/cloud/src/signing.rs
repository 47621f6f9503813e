//! Signs requests to S3, and adds the headers of a lock to those that create objects.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use hrl::{Clock, Timestamp};
use http::{HeaderValue, Method};
use object_store::aws::{AwsAuthorizer, AwsCredential, AwsCredentialProvider};
use object_store::client::HttpRequest;

pub(super) const MODE: &str = "x-amz-object-lock-mode";
pub(super) const UNTIL: &str = "x-amz-object-lock-retain-until-date";
const DIGEST: &str = "x-amz-content-sha256";
/// Metadata of a put that creates an object, as a header.
const TAG: &str = "x-amz-meta-hrlput";

/// Who may end a lock before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Nobody.
    Compliance,
    /// Those with the permission `s3:BypassGovernanceRetention`.
    Governance,
}

impl Mode {
    pub(super) fn parse(text: &str) -> Option<Self> {
        [Self::Compliance, Self::Governance]
            .into_iter()
            .find(|mode| mode.name().eq_ignore_ascii_case(text))
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Compliance => "COMPLIANCE",
            Self::Governance => "GOVERNANCE",
        }
    }
}

/// How objects of a store are locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) mode: Mode,
    pub(super) time: Duration,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = self.mode.name().to_lowercase();
        write!(f, "{}, {mode}", hrl::duration_text(self.time))
    }
}

/// Signs requests, and adds the headers of a lock to those that create objects.
pub(super) struct Signing {
    pub(super) credentials: AwsCredentialProvider,
    pub(super) region: String,
    pub(super) rule: Option<Rule>,
    /// The bucket locks objects by itself.
    pub(super) by_bucket: AtomicBool,
    pub(super) clock: Arc<dyn Clock>,
}

impl fmt::Debug for Signing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signing({}, {:?})", self.region, self.rule)
    }
}

impl Signing {
    /// Adds the headers of the lock to a request that creates an object, and signs it again.
    pub(super) async fn lock(&self, request: &mut HttpRequest) -> object_store::Result<()> {
        let is_locked = self.rule.is_some() || self.by_bucket.load(Ordering::Relaxed);
        if !is_locked || !creates_object(request) {
            return Ok(());
        }
        let headers = request.headers_mut();
        // Some servers ask for it, beside the checksum itself.
        headers.insert("x-amz-sdk-checksum-algorithm", HeaderValue::from_static("SHA256"));
        if let Some(rule) = self.rule {
            let until = text_of(after(self.clock.now(), rule.time));
            headers.insert(MODE, HeaderValue::from_static(rule.mode.name()));
            headers.insert(UNTIL, HeaderValue::from_str(&until).expect("a time is a header"));
        }
        let credential = self.credentials.get_credential().await?;
        self.sign(request, &credential)
    }

    pub(super) fn sign(
        &self,
        request: &mut HttpRequest,
        by: &AwsCredential,
    ) -> object_store::Result<()> {
        let known = request.headers().get(DIGEST).and_then(|text| text.to_str().ok());
        let digest = known.and_then(unhex);
        let signs_payload = known.is_none() || digest.is_some();
        AwsAuthorizer::new(by, "s3", &self.region)
            .with_sign_payload(signs_payload)
            .try_authorize(request, digest.as_deref())
    }
}

/// Returns whether a request creates an object of a store, which may be locked.
fn creates_object(request: &HttpRequest) -> bool {
    request.method() == Method::PUT && request.headers().contains_key(TAG)
}

pub(super) fn after(now: Timestamp, time: Duration) -> Timestamp {
    Timestamp(now.0.saturating_add(i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)))
}

/// Returns a time as the headers of S3 have it.
pub(super) fn text_of(time: Timestamp) -> String {
    DateTime::<Utc>::from_timestamp_nanos(time.0).format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks_exact(2);
    let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    (text.len() == 64).then(|| pairs.map(byte).collect())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_modes_are_what_s3_reads() {
        assert_eq!(text_of(Timestamp(1_700_000_000_500_000_000)), "2023-11-14T22:13:20Z");
        assert_eq!(unhex(&"0f".repeat(32)), Some(vec![15; 32]));
        assert_eq!(unhex("UNSIGNED-PAYLOAD"), None);
        assert_eq!(Mode::parse("governance"), Some(Mode::Governance));
        assert_eq!(Mode::parse("none"), None);
    }
}
