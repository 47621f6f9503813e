//! HTTP for the client of object stores: TLS by rustls with the system's certificates, failures as
//! errors, and bounded waits.
//!
//! Every answer other than success becomes a [`StatusError`] with the store's own code and
//! sentence. The client's own retries and translations never see it, so one place (`failure`)
//! decides what it means and what is tried again. A request is given up after a time without
//! progress in either direction, however long it takes in all: a slow link is no error. TLS is set
//! up for this client alone, not for the process.

use std::error::Error as StdError;
use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{StreamExt, stream};
use http::HeaderValue;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper_util::client::proxy::matcher::Matcher;
use object_store::ClientOptions;
use object_store::client::{
    ClientConfigKey, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest,
    HttpRequestBody, HttpResponse, HttpResponseBody, HttpService,
};
use rustls::crypto::ring;
use rustls_platform_verifier::BuilderVerifierExt;

use crate::signing::Signing;

/// Longest wait for a connection.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// Connections idle for this long are closed, before the server closes them in the middle of a
/// request.
const IDLE: Duration = Duration::from_secs(15);
/// Most bytes of an error's text that are read.
const ERROR_TEXT_MAX: usize = 16 << 10;
/// Most characters of an error's code and sentence that are stored.
const ERROR_CHARS_MAX: usize = 300;
/// Difference of two clocks that services accept in signed requests; Google's is the smallest.
const SKEW_ACCEPTED: TimeDelta = TimeDelta::minutes(5);

/// Where a request went.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// Name or address, with a port if the URL has one.
    pub host: String,
    /// URL of the proxy that the environment names for it.
    proxy: Option<String>,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        self.proxy.iter().try_for_each(|proxy| write!(f, " by way of the proxy {proxy}"))
    }
}

/// An answer other than success.
#[derive(Debug)]
pub(super) struct StatusError {
    pub peer: Peer,
    pub status: u16,
    /// The store's own code, such as `SlowDown`; empty if it gave none.
    pub code: String,
    /// How far the store's clock is ahead of this machine's, if that is minutes.
    pub skew: Option<TimeDelta>,
    message: String,
}

impl fmt::Display for StatusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} answered {}", self.peer, self.status)?;
        if !self.code.is_empty() {
            write!(f, " {}", self.code)?;
        }
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        if let Some(skew) = self.skew {
            let side = if skew < TimeDelta::zero() { "behind" } else { "ahead of" };
            let seconds = skew.num_seconds().unsigned_abs();
            write!(f, " (its clock is {seconds} s {side} this machine's)")?;
        }
        Ok(())
    }
}

impl StdError for StatusError {}

/// No answer, or one that never ended.
#[derive(Debug)]
pub(super) struct NoAnswer {
    pub peer: Peer,
    /// The request can never be sent, because plain HTTP is not allowed.
    pub forbidden: bool,
    cause: String,
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.peer, self.cause)
    }
}

impl StdError for NoAnswer {}

/// Makes the connections of one store.
#[derive(Debug)]
pub(super) struct Connector {
    pub stall: Duration,
    /// Locks new objects; empty for services without locks, and until the client is built.
    pub signing: Arc<OnceLock<Arc<Signing>>>,
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let allow_http = options
            .get_config_value(&ClientConfigKey::AllowHttp)
            .is_some_and(|text| text == "true");
        let failed = |source: Box<dyn StdError + Send + Sync>| object_store::Error::Generic {
            store: "HTTP",
            source,
        };
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls(allow_http).map_err(failed)?)
            .https_only(!allow_http)
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_WAIT)
            .tcp_user_timeout(self.stall)
            .pool_idle_timeout(IDLE)
            .user_agent(concat!("hrl/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| failed(error.into()))?;
        Ok(HttpClient::new(Service {
            client,
            stall: self.stall,
            proxies: Matcher::from_env(),
            signing: self.signing.clone(),
        }))
    }
}

/// Returns TLS with the system's certificates. With `allow_http` a system without certificates is
/// accepted.
fn tls(allow_http: bool) -> Result<rustls::ClientConfig, Box<dyn StdError + Send + Sync>> {
    let provider = Arc::new(ring::default_provider());
    let versions = || {
        rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
    };
    match versions()?.with_platform_verifier() {
        Ok(builder) => Ok(builder.with_no_client_auth()),
        Err(_) if allow_http => Ok(versions()?
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth()),
        Err(error) => Err(error.into()),
    }
}

#[derive(Debug)]
struct Service {
    client: reqwest::Client,
    stall: Duration,
    /// The same choice as the client's, for messages.
    proxies: Matcher,
    signing: Arc<OnceLock<Arc<Signing>>>,
}

#[async_trait::async_trait]
impl HttpService for Service {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        if let Some(signing) = self.signing.get() {
            let locked = signing.lock(&mut request).await;
            locked.map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
        }
        let (parts, body) = request.into_parts();
        let url = parts.uri.to_string().parse::<reqwest::Url>();
        let url = url.map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
        let proxy = self.proxies.intercept(&parts.uri).map(|found| found.uri().to_string());
        let peer = Peer { host: host_of(&url), proxy };
        let mut sent = reqwest::Request::new(parts.method, url);
        *sent.headers_mut() = parts.headers;
        let progress = Arc::new(AtomicU64::new(0));
        *sent.body_mut() = Some(counted(body, progress.clone()));
        let response = self.watched(sent, &progress, &peer).await?;
        if !response.status().is_success() {
            let error = self.read_error(response, peer).await;
            return Err(HttpError::new(HttpErrorKind::Unknown, error));
        }
        let mut answer = http::Response::new(());
        *answer.status_mut() = response.status();
        *answer.headers_mut() = response.headers().clone();
        let (parts, ()) = answer.into_parts();
        Ok(HttpResponse::from_parts(parts, self.body_of(response, peer)))
    }
}

impl Service {
    /// Sends the request and waits for the head of the answer, as long as there is progress.
    async fn watched(
        &self,
        request: reqwest::Request,
        progress: &AtomicU64,
        peer: &Peer,
    ) -> Result<reqwest::Response, HttpError> {
        let mut answer = pin!(self.client.execute(request));
        let mut seen = 0;
        loop {
            match tokio::time::timeout(self.stall, &mut answer).await {
                Ok(result) => return result.map_err(|error| transport(error, peer)),
                Err(_) => {
                    let now = progress.load(Ordering::Relaxed);
                    if now == seen {
                        return Err(stalled(peer, self.stall));
                    }
                    seen = now;
                }
            }
        }
    }

    fn body_of(&self, response: reqwest::Response, peer: Peer) -> HttpResponseBody {
        let stall = self.stall;
        let frames = stream::unfold((response, peer), move |(mut response, peer)| async move {
            let next = match tokio::time::timeout(stall, response.chunk()).await {
                Ok(Ok(None)) => return None,
                Ok(Ok(Some(bytes))) => Ok(Frame::data(bytes)),
                Ok(Err(error)) => Err(transport(error, &peer)),
                Err(_) => Err(stalled(&peer, stall)),
            };
            Some((next, (response, peer)))
        });
        // Whoever collects a body asks again after its end.
        HttpResponseBody::new(StreamBody::new(Box::pin(frames.fuse())))
    }

    async fn read_error(&self, mut response: reqwest::Response, peer: Peer) -> StatusError {
        let status = response.status().as_u16();
        let header = response.headers().get("x-ms-error-code");
        let code = header.and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let skew = response.headers().get("date").and_then(|date| skew_of(date, Utc::now()));
        let mut text = Vec::new();
        while text.len() < ERROR_TEXT_MAX {
            match tokio::time::timeout(self.stall, response.chunk()).await {
                Ok(Ok(Some(bytes))) => text.extend_from_slice(&bytes),
                // The error's text is for people; without it the status remains.
                _ => break,
            }
        }
        text.truncate(ERROR_TEXT_MAX);
        let text = String::from_utf8_lossy(&text);
        let code = if code.is_empty() { element(&text, "Code") } else { tidy(&code) };
        StatusError { peer, status, code, skew, message: element(&text, "Message") }
    }
}

/// Returns how far the clock of a server that says `date` is ahead of `now`, if that is too much.
fn skew_of(date: &HeaderValue, now: DateTime<Utc>) -> Option<TimeDelta> {
    let date = DateTime::parse_from_rfc2822(date.to_str().ok()?).ok()?;
    let skew = date.to_utc() - now;
    (skew.abs() > SKEW_ACCEPTED).then_some(skew)
}

/// Returns a request's body; the counter advances with each chunk that is sent.
fn counted(body: HttpRequestBody, progress: Arc<AtomicU64>) -> reqwest::Body {
    if let Some(bytes) = body.as_bytes() {
        return bytes.clone().into();
    }
    // The client states the length in a header.
    reqwest::Body::wrap_stream(stream::unfold((body, progress), |(mut body, progress)| async {
        let chunk = match body.frame().await? {
            Ok(frame) => Ok(frame.into_data().unwrap_or_default()),
            Err(error) => Err(error),
        };
        progress.fetch_add(1, Ordering::Relaxed);
        Some((chunk, (body, progress)))
    }))
}

fn host_of(url: &reqwest::Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Returns an error below HTTP, with its root cause, which is the clearest.
fn transport(error: reqwest::Error, peer: &Peer) -> HttpError {
    let kind = if error.is_timeout() {
        HttpErrorKind::Timeout
    } else if error.is_connect() {
        HttpErrorKind::Connect
    } else {
        HttpErrorKind::Interrupted
    };
    let forbidden = error.is_builder();
    let error = error.without_url();
    let cause = root_cause(&error).to_string();
    HttpError::new(kind, NoAnswer { peer: peer.clone(), forbidden, cause })
}

/// Returns the last error of a chain of causes.
pub(super) fn root_cause<'a>(error: &'a (dyn StdError + 'static)) -> &'a (dyn StdError + 'static) {
    let mut root = error;
    while let Some(cause) = root.source() {
        root = cause;
    }
    root
}

fn stalled(peer: &Peer, limit: Duration) -> HttpError {
    let cause = format!("no progress within {limit:?}");
    HttpError::new(HttpErrorKind::Timeout, NoAnswer { peer: peer.clone(), forbidden: false, cause })
}

/// Returns the content of each XML element of this name that has no attributes.
pub(super) fn elements<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let (begin, end) = (format!("<{name}>"), format!("</{name}>"));
    let pieces = text.split(begin.as_str()).skip(1);
    pieces.filter_map(|piece| piece.split_once(end.as_str()).map(|(inside, _)| inside)).collect()
}

/// Returns the text of the first XML element of this name; empty if there is none.
pub(super) fn element(text: &str, name: &str) -> String {
    let inside = || {
        let start = text.find(&format!("<{name}>"))? + name.len() + 2;
        text[start..].split("</").next()
    };
    tidy(inside().unwrap_or_default())
}

/// Returns a server's text reduced to one bounded line.
fn tidy(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.chars().filter(|c| !c.is_control()).take(ERROR_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_and_sentence_of_an_error_are_found_and_bounded() {
        let text = "<?xml?><Error><Code>SlowDown</Code><Message>Please wait.\nx</Message></Error>";
        assert_eq!(
            (element(text, "Code"), element(text, "Message")),
            ("SlowDown".into(), "Please wait.".into())
        );
        assert_eq!(element("<Code>", "Code"), "");
        assert_eq!(element("no XML", "Code"), "");
        let long = format!("<Code>{}</Code>", "x".repeat(5000));
        assert_eq!(element(&long, "Code").len(), ERROR_CHARS_MAX);
        let peer = Peer { host: "h".into(), proxy: None };
        let (code, message) = ("SlowDown".into(), String::new());
        let error = StatusError { peer, status: 503, code, skew: None, message };
        assert_eq!(error.to_string(), "h answered 503 SlowDown");
    }

    #[test]
    fn a_clock_that_differs_by_minutes_is_named() {
        let now = Utc::now();
        let skew = |seconds| {
            let there = now + TimeDelta::seconds(seconds);
            skew_of(&HeaderValue::from_str(&there.to_rfc2822()).expect("a header"), now)
        };
        assert_eq!((skew(-240), skew(240)), (None, None));
        let skew = skew(-3600);
        assert!(skew.is_some() && skew_of(&HeaderValue::from_static("soon"), now).is_none());
        let peer = Peer { host: "h".into(), proxy: Some("http://p:3128/".into()) };
        let (code, message) = (String::new(), String::new());
        let text = StatusError { peer, status: 403, code, skew, message }.to_string();
        assert!(text.starts_with("h by way of the proxy http://p:3128/ answered 403"), "{text}");
        assert!(text.contains("s behind this machine's)"), "{text}");
    }
}
