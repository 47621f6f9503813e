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
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use object_store::ClientOptions;
use object_store::client::{
    ClientConfigKey, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest,
    HttpRequestBody, HttpResponse, HttpResponseBody, HttpService,
};
use rustls::crypto::ring;
use rustls_platform_verifier::BuilderVerifierExt;

/// Longest wait for a connection.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// Connections idle for this long are closed, before the server closes them in the middle of a
/// request.
const IDLE: Duration = Duration::from_secs(15);
/// Most bytes of an error's text that are read.
const ERROR_TEXT_MAX: usize = 16 << 10;
/// Most characters of an error's code and sentence that are stored.
const ERROR_CHARS_MAX: usize = 300;

/// An answer other than success.
#[derive(Debug)]
pub(super) struct StatusError {
    pub host: String,
    pub status: u16,
    /// The store's own code, such as `SlowDown`; empty if it gave none.
    pub code: String,
    message: String,
}

impl fmt::Display for StatusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} answered {}", self.host, self.status)?;
        if !self.code.is_empty() {
            write!(f, " {}", self.code)?;
        }
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        Ok(())
    }
}

impl StdError for StatusError {}

/// No answer, or one that never ended.
#[derive(Debug)]
pub(super) struct NoAnswer {
    pub host: String,
    /// The request can never be sent, because plain HTTP is not allowed.
    pub forbidden: bool,
    cause: String,
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.host, self.cause)
    }
}

impl StdError for NoAnswer {}

/// Makes the connections of one store.
#[derive(Debug)]
pub(super) struct Connector {
    pub stall: Duration,
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
        Ok(HttpClient::new(Service { client, stall: self.stall }))
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
}

#[async_trait::async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let url = parts.uri.to_string().parse::<reqwest::Url>();
        let url = url.map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
        let host = host_of(&url);
        let mut sent = reqwest::Request::new(parts.method, url);
        *sent.headers_mut() = parts.headers;
        let progress = Arc::new(AtomicU64::new(0));
        *sent.body_mut() = Some(counted(body, progress.clone()));
        let response = self.watched(sent, &progress, &host).await?;
        if !response.status().is_success() {
            let error = self.read_error(response, host).await;
            return Err(HttpError::new(HttpErrorKind::Unknown, error));
        }
        let mut answer = http::Response::new(());
        *answer.status_mut() = response.status();
        *answer.headers_mut() = response.headers().clone();
        let (parts, ()) = answer.into_parts();
        Ok(HttpResponse::from_parts(parts, self.body_of(response, host)))
    }
}

impl Service {
    /// Sends the request and waits for the head of the answer, as long as there is progress.
    async fn watched(
        &self,
        request: reqwest::Request,
        progress: &AtomicU64,
        host: &str,
    ) -> Result<reqwest::Response, HttpError> {
        let mut answer = pin!(self.client.execute(request));
        let mut seen = 0;
        loop {
            match tokio::time::timeout(self.stall, &mut answer).await {
                Ok(result) => return result.map_err(|error| transport(error, host)),
                Err(_) => {
                    let now = progress.load(Ordering::Relaxed);
                    if now == seen {
                        return Err(stalled(host, self.stall));
                    }
                    seen = now;
                }
            }
        }
    }

    fn body_of(&self, response: reqwest::Response, host: String) -> HttpResponseBody {
        let stall = self.stall;
        let frames = stream::unfold((response, host), move |(mut response, host)| async move {
            let next = match tokio::time::timeout(stall, response.chunk()).await {
                Ok(Ok(None)) => return None,
                Ok(Ok(Some(bytes))) => Ok(Frame::data(bytes)),
                Ok(Err(error)) => Err(transport(error, &host)),
                Err(_) => Err(stalled(&host, stall)),
            };
            Some((next, (response, host)))
        });
        HttpResponseBody::new(StreamBody::new(Box::pin(frames)))
    }

    async fn read_error(&self, mut response: reqwest::Response, host: String) -> StatusError {
        let status = response.status().as_u16();
        let header = response.headers().get("x-ms-error-code");
        let code = header.and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
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
        StatusError { host, status, code, message: element(&text, "Message") }
    }
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
fn transport(error: reqwest::Error, host: &str) -> HttpError {
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
    HttpError::new(kind, NoAnswer { host: host.to_owned(), forbidden, cause })
}

/// Returns the last error of a chain of causes.
pub(super) fn root_cause<'a>(error: &'a (dyn StdError + 'static)) -> &'a (dyn StdError + 'static) {
    let mut root = error;
    while let Some(cause) = root.source() {
        root = cause;
    }
    root
}

fn stalled(host: &str, limit: Duration) -> HttpError {
    let cause = format!("no progress within {limit:?}");
    HttpError::new(
        HttpErrorKind::Timeout,
        NoAnswer { host: host.to_owned(), forbidden: false, cause },
    )
}

/// Returns the text of the first XML element of this name; empty if there is none.
fn element(text: &str, name: &str) -> String {
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
        let (host, code, message) = ("h".into(), "SlowDown".into(), String::new());
        let error = StatusError { host, status: 503, code, message };
        assert_eq!(error.to_string(), "h answered 503 SlowDown");
    }
}
