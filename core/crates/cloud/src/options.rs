//! Location of an object store and how to reach it: the URL, options, and the environment.

use std::ffi::OsString;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hrl::bytes::percent_decode;
use hrl::store::check_name;
use hrl::{Clock, Error, ErrorKind, Result, SystemClock, parse_duration};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, Checksum};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::HttpConnector as _;
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::{ClientOptions, ObjectStore as Client, RetryConfig};

use crate::http::Connector;
use crate::lock::Locks;
use crate::signing::{Mode, Rule, Signing};

/// Region of S3 if none is given.
const REGION: &str = "us-east-1";
/// Default for how long a request may make no progress.
const STALL: Duration = Duration::from_secs(30);

/// How to reach an object store. Options that are not set here come from the URL, then from the
/// environment (`AWS_*`, `AZURE_*`, `GOOGLE_*`, as for the services' own tools), then from the
/// machine's identity in its cloud.
#[derive(Clone)]
pub struct ObjectStoreOptions {
    values: Vec<(&'static str, String)>,
    stall: Duration,
    pub(super) clock: Arc<dyn Clock>,
}

impl Default for ObjectStoreOptions {
    fn default() -> Self {
        Self { values: Vec::new(), stall: STALL, clock: SystemClock::shared() }
    }
}

impl ObjectStoreOptions {
    /// Names that [`ObjectStoreOptions::set`] knows.
    ///
    /// - `endpoint`: URL of the server, if it is not the service's own;
    /// - `allow-http`: `true` for an endpoint without TLS, default `false`;
    /// - `timeout-ms`: how long a request may make no progress, 100 to 600,000, default 30,000;
    /// - `region`, `virtual-hosted` (the bucket is in the endpoint's host name), `access-key-id`,
    ///   `secret-access-key`, `session-token`: S3;
    /// - `checksum`: `sha256`, the default, or `none`: whether S3 checks what arrives. Buckets with
    ///   Object Lock refuse objects without a checksum;
    /// - `lock`: how long S3 refuses to delete an object, such as `30d`; renewed while retention wants
    ///   it. `none` ignores a bucket's default rule, which is followed otherwise;
    /// - `lock-mode`: `compliance`, the default, or `governance`;
    /// - `account`, `account-key`, `sas-token`: Azure Blob Storage;
    /// - `service-account` (path of a key file): Google Cloud Storage.
    pub const NAMES: [&'static str; 15] = [
        "endpoint",
        "allow-http",
        "timeout-ms",
        "region",
        "virtual-hosted",
        "access-key-id",
        "secret-access-key",
        "session-token",
        "checksum",
        "lock",
        "lock-mode",
        "account",
        "account-key",
        "sas-token",
        "service-account",
    ];

    /// Options that a URL must not contain, because URLs appear in process lists, messages and
    /// histories.
    const SECRETS: [&'static str; 4] =
        ["secret-access-key", "session-token", "account-key", "sas-token"];

    /// Sets an option from text; the last value counts. `InvalidInput` identifies the option and
    /// lists valid values.
    pub fn set(mut self, name: &str, value: &str) -> Result<Self> {
        let Some(name) = Self::NAMES.into_iter().find(|known| *known == name) else {
            return Err(Error::new(ErrorKind::InvalidInput, "set store option", name)
                .expected(format_args!("one of {}", Self::NAMES.join(", "))));
        };
        let bad = |expected: &str| {
            Error::new(ErrorKind::InvalidInput, "set store option", name)
                .expected(expected)
                .found(value)
        };
        if value.contains(char::is_control) {
            // The value may be a secret, so it is not repeated.
            return Err(Error::new(ErrorKind::InvalidInput, "set store option", name)
                .expected("a value without line breaks and other control characters"));
        }
        match name {
            "timeout-ms" => {
                let millis = value.parse().ok().filter(|ms| (100..=600_000).contains(ms));
                self.stall = Duration::from_millis(millis.ok_or_else(|| bad("100 to 600000"))?);
            }
            "allow-http" | "virtual-hosted" if !matches!(value, "true" | "false") => {
                return Err(bad("true or false"));
            }
            "checksum" if !matches!(value, "sha256" | "none") => {
                return Err(bad("sha256 or none"));
            }
            "lock" if value != "none" && lock_time(value).is_none() => {
                return Err(bad("none, or a time of 1 day to 100 years such as 30d"));
            }
            "lock-mode" if Mode::parse(value).is_none() => {
                return Err(bad("compliance or governance"));
            }
            "endpoint" if !value.starts_with("http://") && !value.starts_with("https://") => {
                return Err(bad("a URL that begins with https:// or http://"));
            }
            _ => {
                self.values.retain(|(known, _)| *known != name);
                self.values.push((name, value.to_owned()));
            }
        }
        Ok(self)
    }

    /// Sets the source of time and entropy. Default: the system's.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    fn is(&self, name: &str, wanted: &str) -> bool {
        self.values.iter().any(|(known, value)| *known == name && value == wanted)
    }

    fn value(&self, name: &str) -> Option<&str> {
        let found = self.values.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Returns whether the locks of a bucket are followed.
    pub(super) fn follows_locks(&self) -> bool {
        self.value("lock") != Some("none")
    }

    /// Returns how objects are to be locked, if an option says so.
    fn rule(&self) -> Option<Rule> {
        let mode = self.value("lock-mode").and_then(Mode::parse).unwrap_or(Mode::Compliance);
        Some(Rule { mode, time: lock_time(self.value("lock")?)? })
    }

    fn is_true(&self, name: &str) -> bool {
        self.is(name, "true")
    }

    fn client_options(&self) -> ClientOptions {
        ClientOptions::new().with_allow_http(self.is_true("allow-http"))
    }
}

/// The kinds of services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    S3,
    Azure,
    Google,
}

/// A place in an object store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Location {
    service: Service,
    pub bucket: String,
    /// Precedes every object name; empty or ending with `/`.
    pub prefix: String,
}

impl Location {
    /// Parses a URL. Its query sets options that `options` lacks.
    pub(super) fn parse(
        url: &str,
        options: ObjectStoreOptions,
    ) -> Result<(Self, ObjectStoreOptions)> {
        let bad = |expected: &str| {
            Error::new(ErrorKind::InvalidInput, "open store", url).expected(expected)
        };
        let (address, query) = url.split_once('?').unwrap_or((url, ""));
        let (scheme, rest) = address.split_once("://").ok_or_else(|| bad("a URL"))?;
        let service = match scheme {
            "s3" => Service::S3,
            "az" => Service::Azure,
            "gs" => Service::Google,
            _ => return Err(bad("s3://, az:// or gs://").found(format_args!("{scheme}://"))),
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_end_matches('/');
        if check_name(bucket).is_err() {
            return Err(bad("the name of a bucket after ://").found(format_args!("{bucket:?}")));
        }
        if !prefix.is_empty() && check_name(prefix).is_err() {
            return Err(bad("a prefix of parts of A-Z a-z 0-9 . _ - separated by single slashes")
                .found(format_args!("{prefix:?}")));
        }
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let mut merged = ObjectStoreOptions { clock: options.clock.clone(), ..Default::default() };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or_else(|| bad("NAME=VALUE after ?"))?;
            if ObjectStoreOptions::SECRETS.contains(&name) {
                return Err(Error::new(ErrorKind::InvalidInput, "open store", address).message(
                    format_args!("{name} does not belong into a URL; set it in the environment"),
                ));
            }
            let value = percent_decode(value).ok_or_else(|| bad("UTF-8 and %XX in the query"))?;
            merged = merged.set(name, &value)?;
        }
        for (name, value) in &options.values {
            merged = merged.set(name, value)?;
        }
        if options.stall != STALL {
            merged.stall = options.stall;
        }
        let plain =
            |(name, value): &(&str, String)| *name == "endpoint" && value.starts_with("http://");
        if merged.values.iter().any(plain) && !merged.is_true("allow-http") {
            return Err(bad("an endpoint that begins with https://, or allow-http=true"));
        }
        Ok((Self { service, bucket: bucket.to_owned(), prefix }, merged))
    }

    /// Returns the URL without its query.
    pub(super) fn url(&self) -> String {
        let scheme = match self.service {
            Service::S3 => "s3",
            Service::Azure => "az",
            Service::Google => "gs",
        };
        format!("{scheme}://{}/{}", self.bucket, self.prefix)
    }

    /// Returns a client for this place, and what knows of locks if the service is S3. Sends nothing
    /// yet.
    pub(super) fn client(
        &self,
        options: &ObjectStoreOptions,
    ) -> Result<(Arc<dyn Client>, Option<Locks>)> {
        self.check_variables(std::env::vars_os())?;
        if self.service != Service::S3 && options.value("lock").is_some_and(|lock| lock != "none") {
            return Err(Error::new(ErrorKind::Unsupported, "open store", self.url()).message(
                "only S3 locks objects by the option lock; set a policy of the container or bucket, which hrl respects",
            ));
        }
        let signing = Arc::new(OnceLock::new());
        let failed = |error: object_store::Error| {
            Error::new(ErrorKind::InvalidInput, "open store", self.url()).caused_by(error)
        };
        // Only the store knows whether a lost answer matters, so it does the retries.
        let retry = RetryConfig { max_retries: 0, ..Default::default() };
        let connector = Connector { stall: options.stall, signing: signing.clone() };
        match self.service {
            Service::S3 => {
                let mut builder = AmazonS3Builder::from_env()
                    .with_bucket_name(&self.bucket)
                    .with_retry(retry)
                    .with_disable_bulk_delete(true)
                    .with_http_connector(connector);
                if options.is_true("allow-http") {
                    builder = builder.with_allow_http(true);
                }
                if !options.is("checksum", "none") {
                    builder = builder.with_checksum_algorithm(Checksum::SHA256);
                }
                for (name, value) in &options.values {
                    if let Some(key) = s3_key(name) {
                        builder = builder.with_config(key, value);
                    }
                }
                let region = builder.get_config_value(&AmazonS3ConfigKey::Region);
                let s3 = builder.build().map_err(failed)?;
                let made = Arc::new(Signing {
                    credentials: s3.credentials().clone(),
                    region: region.unwrap_or_else(|| REGION.to_owned()),
                    rule: options.rule(),
                    by_bucket: AtomicBool::new(false),
                    clock: options.clock.clone(),
                });
                let http = Connector { stall: options.stall, signing: Arc::default() }
                    .connect(&options.client_options())
                    .map_err(failed)?;
                let locks = Locks::new(&self.bucket, s3.clone(), http, made.clone());
                // Empty before: this is the only place that fills it.
                let _ = signing.set(made);
                Ok((Arc::new(s3), Some(locks)))
            }
            Service::Azure => {
                let mut builder = MicrosoftAzureBuilder::from_env()
                    .with_container_name(&self.bucket)
                    .with_retry(retry)
                    .with_http_connector(connector);
                if options.is_true("allow-http") {
                    builder = builder.with_allow_http(true);
                }
                for (name, value) in &options.values {
                    if let Some(key) = azure_key(name) {
                        builder = builder.with_config(key, value);
                    }
                }
                Ok((Arc::new(builder.build().map_err(failed)?), None))
            }
            Service::Google => {
                let mut builder = GoogleCloudStorageBuilder::from_env()
                    .with_bucket_name(&self.bucket)
                    .with_retry(retry)
                    .with_client_options(options.client_options())
                    .with_http_connector(connector);
                for (name, value) in &options.values {
                    builder = match *name {
                        "endpoint" => builder.with_base_url(value),
                        "service-account" => {
                            builder.with_config(GoogleConfigKey::ServiceAccount, value)
                        }
                        _ => builder,
                    };
                }
                Ok((Arc::new(builder.build().map_err(failed)?), None))
            }
        }
    }
}

impl Location {
    /// Refuses variables of the environment that cannot be part of a request: the client would panic
    /// at them. A line break gets in when a variable is read from a file.
    fn check_variables(&self, all: impl Iterator<Item = (OsString, OsString)>) -> Result<()> {
        /// The content of a key file, which has lines.
        const LINES: &str = "GOOGLE_SERVICE_ACCOUNT_KEY";
        let prefix = match self.service {
            Service::S3 => "AWS_",
            Service::Azure => "AZURE_",
            Service::Google => "GOOGLE_",
        };
        for (name, value) in all {
            let name = name.to_string_lossy();
            if name.starts_with(prefix)
                && name != LINES
                && value.as_encoded_bytes().iter().any(u8::is_ascii_control)
            {
                return Err(Error::new(ErrorKind::InvalidInput, "open store", self.url())
                    .expected(format_args!(
                        "a value of the environment variable {name} without line breaks and other control characters"
                    )));
            }
        }
        Ok(())
    }
}

/// Returns the time of a lock; `None` unless it is 1 day to 100 years.
fn lock_time(text: &str) -> Option<Duration> {
    let day = Duration::from_secs(24 * 60 * 60);
    parse_duration(text, None).ok().filter(|time| (day..=day * 36_500).contains(time))
}

fn s3_key(name: &str) -> Option<AmazonS3ConfigKey> {
    Some(match name {
        "endpoint" => AmazonS3ConfigKey::Endpoint,
        "region" => AmazonS3ConfigKey::Region,
        "virtual-hosted" => AmazonS3ConfigKey::VirtualHostedStyleRequest,
        "access-key-id" => AmazonS3ConfigKey::AccessKeyId,
        "secret-access-key" => AmazonS3ConfigKey::SecretAccessKey,
        "session-token" => AmazonS3ConfigKey::Token,
        _ => return None,
    })
}

fn azure_key(name: &str) -> Option<AzureConfigKey> {
    Some(match name {
        "endpoint" => AzureConfigKey::Endpoint,
        "account" => AzureConfigKey::AccountName,
        "account-key" => AzureConfigKey::AccessKey,
        "sas-token" => AzureConfigKey::SasKey,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<(Location, ObjectStoreOptions)> {
        Location::parse(url, ObjectStoreOptions::default())
    }

    #[test]
    fn urls_are_parsed() {
        let (location, options) =
            parse("s3://my-bucket/site/a/?endpoint=http%3A%2F%2Fh:1&allow-http=true")
                .expect("parse");
        assert_eq!((location.bucket.as_str(), location.prefix.as_str()), ("my-bucket", "site/a/"));
        assert_eq!(location.url(), "s3://my-bucket/site/a/");
        assert!(options.is_true("allow-http"));
        assert!(options.values.contains(&("endpoint", "http://h:1".into())));
        assert_eq!(parse("az://box").expect("parse").0.url(), "az://box/");
    }

    #[test]
    fn options_of_the_program_override_those_of_the_url() {
        let given = ObjectStoreOptions::default().set("region", "here").expect("set");
        let (_, options) = Location::parse("s3://b/?region=there", given).expect("parse");
        assert_eq!(options.values, [("region", "here".into())]);
    }

    #[test]
    fn bad_urls_are_refused_and_secrets_are_not_repeated() {
        for url in [
            "s3://",
            "s3:///x",
            "ftp://b",
            "s3://b/a//b",
            "s3://b/../c",
            "s3://b?region",
            "bucket",
            "s3://b?speed=1",
            "s3://b?checksum=md5",
            "s3://b?lock=never",
            "s3://b?lock=1h",
            "s3://b?lock-mode=legal",
            "s3://b?allow-http=yes",
            "s3://b?endpoint=h",
            "s3://b?timeout-ms=0",
            "s3://b?endpoint=http://h",
            "s3://b?region=%f",
            "s3://b?region=%ff",
            "s3://user@b",
            "s3://b/%41",
            "s3://b\n",
            "s3://b/a\n",
            "s3://b?region=a%0ab",
            "s3://b?region=a\nb",
            "s3://b?access-key-id=a%0a",
        ] {
            assert_eq!(
                parse(url).map(drop).expect_err(url).kind(),
                ErrorKind::InvalidInput,
                "{url}"
            );
        }
        let error = parse("s3://b?secret-access-key=hush").map(drop).expect_err("a secret");
        assert!(!error.to_string().contains("hush"), "{error}");
    }

    #[test]
    fn variables_with_line_breaks_are_named_and_not_shown() {
        let check = |url: &str, name: &str, value: &str| {
            let (location, _) = parse(url).expect("parse");
            location.check_variables(std::iter::once((name.into(), value.into())))
        };
        for (url, name) in [
            ("s3://b", "AWS_SECRET_ACCESS_KEY"),
            ("az://b", "AZURE_STORAGE_ACCOUNT_KEY"),
            ("gs://b", "GOOGLE_SERVICE_ACCOUNT"),
        ] {
            let error = check(url, name, "hush\n").expect_err("a line break");
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains(name) && !error.to_string().contains("hush"));
            check(url, name, "hush").expect("no line break");
        }
        check("gs://b", "GOOGLE_SERVICE_ACCOUNT_KEY", "{\n}").expect("a key file's content");
        check("s3://b", "AZURE_STORAGE_ACCOUNT_KEY", "hush\n").expect("of another service");
        let error = ObjectStoreOptions::default().set("session-token", "hush\r\n").map(drop);
        let error = error.expect_err("a line break").to_string();
        assert!(error.contains("session-token") && !error.contains("hush"), "{error}");
    }
}
