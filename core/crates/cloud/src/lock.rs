//! Object Lock of S3: objects that nobody deletes before a time, and versions behind deletions.
//!
//! Each object is put with its time (`signing.rs` adds the headers), or the bucket's default rule gives
//! it one. An object is deleted as a version, which the service refuses until that time; so what
//! is deleted leaves no version behind, and what is locked stays visible. Whoever deletes without
//! naming a version, as a thief of the credentials may, only hides an object behind a *delete
//! marker*: [`ObjectStore::hidden`](crate::ObjectStore::hidden) finds it.
//!
//! Requests that the client library lacks are signed with its signer.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use chrono::DateTime;
use hrl::Timestamp;
use hrl::sync::lock::Mutex;
use http::{HeaderMap, HeaderValue, Method};
use object_store::aws::AmazonS3;
use object_store::client::{HttpClient, HttpError};
use object_store::path::Path as Key;
use object_store::signer::Signer;
use ring::digest;

use crate::failure::{Failure, Meaning};
use crate::http::{element, elements};
use crate::signing::{MODE, Mode, Rule, Signing, UNTIL, after, text_of};

const VERSION: &str = "x-amz-version-id";
/// Validity of the URL that shows where the bucket is.
const URL_TIME: Duration = Duration::from_secs(60);
/// Most objects of a listing of versions.
const VERSIONS_MAX: usize = 16 << 20;
/// Nanoseconds of a second.
const SECOND: i64 = 1_000_000_000;
/// A lock is renewed when less than one part in this many of it is left.
const RENEW_ONE_IN: u32 = 2;

/// A version of an object that is hidden behind newer ones or a deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HiddenObject {
    /// Name of the object.
    pub name: String,
    /// Length of the version, in bytes.
    pub length: u64,
    /// When it was hidden first, as the service says.
    pub hidden_at: Timestamp,
    /// The version.
    pub(super) version: String,
    /// What hides it: delete markers and other versions, the newest first.
    pub(super) newer: Vec<String>,
}

/// What a bucket says of an object's lock.
pub(super) struct Standing {
    pub(super) version: Option<String>,
    pub(super) until: Option<Timestamp>,
}

/// Requests about locks and versions in one bucket.
pub(super) struct Locks {
    bucket: String,
    s3: AmazonS3,
    http: HttpClient,
    signing: Arc<Signing>,
    /// Until when objects are locked, as far as this process knows.
    known: Mutex<HashMap<String, Timestamp>>,
    pub(super) rule: Option<Rule>,
}

impl Locks {
    pub(super) fn new(bucket: &str, s3: AmazonS3, http: HttpClient, signing: Arc<Signing>) -> Self {
        let (rule, bucket) = (signing.rule, bucket.to_owned());
        Self { bucket, s3, http, signing, known: Mutex::new(HashMap::new()), rule }
    }

    /// Returns the same with the rule of the bucket, by which the service locks.
    pub(super) fn clone_with(&self, rule: Rule) -> Self {
        self.signing.by_bucket.store(true, Ordering::Relaxed);
        let (s3, http, signing) = (self.s3.clone(), self.http.clone(), self.signing.clone());
        Self { rule: Some(rule), ..Self::new(&self.bucket, s3, http, signing) }
    }

    /// Returns the time until which an object is locked, if this process knows it.
    pub(super) fn known(&self, name: &str) -> Option<Timestamp> {
        self.known.lock().get(name).copied()
    }

    pub(super) fn learn(&self, name: &str, until: Option<Timestamp>) {
        let mut known = self.known.lock();
        match until {
            Some(until) => known.insert(name.to_owned(), until),
            None => known.remove(name),
        };
    }

    /// Returns until when an object is locked that is put now.
    pub(super) fn until_from(&self, now: Timestamp) -> Option<Timestamp> {
        Some(after(now, self.rule?.time))
    }

    /// Returns whether a lock that ends at `until` must be renewed, or is none.
    pub(super) fn needs_renewal(&self, until: Option<Timestamp>, now: Timestamp) -> bool {
        let Some(rule) = self.rule else { return false };
        until.is_none_or(|until| until < after(now, rule.time / RENEW_ONE_IN))
    }

    /// Reads the default rule of the bucket; `None` if it has no Object Lock. The inner one is
    /// `None` if it has, but no rule.
    pub(super) async fn bucket_rule(&self) -> Result<Option<Option<Rule>>, Failure> {
        let answer = self.send(Method::GET, "", "object-lock=", String::new()).await;
        let text = match answer {
            Ok((_, text)) => text,
            Err(failure) if is_lack(failure.meaning) => return Ok(None),
            Err(failure) => return Err(failure),
        };
        if element(&text, "ObjectLockEnabled") != "Enabled" {
            return Ok(None);
        }
        let day = Duration::from_secs(24 * 60 * 60);
        let count = |name| element(&text, name).parse::<u32>().ok().filter(|count| *count > 0);
        let time = match (count("Days"), count("Years")) {
            (Some(days), _) => Some(day * days.min(36_500)),
            (None, Some(years)) => Some(day * 365 * years.min(100)),
            (None, None) => None,
        };
        let mode = Mode::parse(&element(&text, "Mode"));
        Ok(Some(mode.zip(time).map(|(mode, time)| Rule { mode, time })))
    }

    /// Returns version and lock of an object; `Absent` if it is not there.
    pub(super) async fn standing(&self, key: &str) -> Result<Standing, Failure> {
        let (headers, _) = self.send(Method::HEAD, key, "", String::new()).await?;
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let until = text(UNTIL).and_then(|text| DateTime::parse_from_rfc3339(text).ok());
        Ok(Standing {
            version: text(VERSION).filter(|version| *version != "null").map(str::to_owned),
            until: until.and_then(|until| until.timestamp_nanos_opt()).map(Timestamp),
        })
    }

    /// Locks an object until then.
    pub(super) async fn renew(&self, key: &str, until: Timestamp) -> Result<(), Failure> {
        let mode = self.rule.map_or(Mode::Compliance, |rule| rule.mode).name();
        let until = text_of(until);
        let body = format!(
            "<Retention xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Mode>{mode}</Mode>\
             <RetainUntilDate>{until}</RetainUntilDate></Retention>"
        );
        self.send(Method::PUT, key, "retention=", body).await.map(drop)
    }

    /// Renews the lock of an object if that is due, and remembers it.
    pub(super) async fn renew_one(
        self: &Arc<Self>,
        name: String,
        key: String,
        until: Timestamp,
    ) -> Result<(), Failure> {
        let (this, now) = (self.clone(), self.signing.clock.now());
        match this.standing(&key).await {
            // Somebody deleted it meanwhile.
            Err(failure) if failure.meaning == Meaning::Absent => this.learn(&name, None),
            Err(failure) => return Err(failure),
            Ok(found) if !this.needs_renewal(found.until, now) => this.learn(&name, found.until),
            Ok(_) => {
                this.renew(&key, until).await?;
                this.learn(&name, Some(until));
            }
        }
        Ok(())
    }

    /// Deletes one version of an object, which may be a delete marker.
    pub(super) async fn delete_version(&self, key: &str, version: &str) -> Result<(), Failure> {
        let query = format!("versionId={}", encoded(version));
        self.send(Method::DELETE, key, &query, String::new()).await.map(drop)
    }

    /// Makes a version of an object the newest one, although newer ones cannot be deleted.
    pub(super) async fn copy_version(&self, key: &str, version: &str) -> Result<(), Failure> {
        let source = format!("/{}/{key}?versionId={}", self.bucket, encoded(version));
        // Some servers ask for one of the two, beside a lock.
        let mut headers = vec![
            ("x-amz-copy-source", source),
            ("x-amz-checksum-algorithm", "SHA256".to_owned()),
            ("x-amz-sdk-checksum-algorithm", "SHA256".to_owned()),
        ];
        if let Some(rule) = self.rule {
            headers.push((MODE, rule.mode.name().to_owned()));
            headers.push((UNTIL, text_of(after(self.signing.clock.now(), rule.time))));
        }
        self.send_with(Method::PUT, key, "", String::new(), &headers).await.map(drop)
    }

    /// Lists objects below `prefix` that were hidden at `since` or later, by a deletion or by other
    /// content under their names; their names are those of the bucket.
    pub(super) async fn hidden(
        &self,
        prefix: &str,
        since: Timestamp,
    ) -> Result<Vec<HiddenObject>, Failure> {
        let mut found: BTreeMap<String, Vec<Entry>> = BTreeMap::new();
        let (mut count, mut after) = (0, String::new());
        // Some services count seconds.
        let since = Timestamp(since.0.div_euclid(SECOND) * SECOND);
        loop {
            let query = format!("{after}prefix={}&versions=", encoded(prefix));
            let (_, text) = self.send(Method::GET, "", &query, String::new()).await?;
            for (kind, is_marker) in [("DeleteMarker", true), ("Version", false)] {
                for entry in elements(&text, kind) {
                    let length = element(entry, "Size").parse().ok().filter(|_| !is_marker);
                    count += 1;
                    found.entry(element(entry, "Key")).or_default().push(Entry {
                        id: element(entry, "VersionId"),
                        time: time_of(entry),
                        is_newest: element(entry, "IsLatest") == "true",
                        length,
                    });
                }
            }
            if count > VERSIONS_MAX {
                let cause = format!("more than {VERSIONS_MAX} versions of objects");
                return Err(Failure { meaning: Meaning::Invalid, cause });
            }
            let next = element(&text, "NextKeyMarker");
            if element(&text, "IsTruncated") != "true" || next.is_empty() {
                break;
            }
            let version = element(&text, "NextVersionIdMarker");
            let version = if version.is_empty() {
                String::new()
            } else {
                format!("&version-id-marker={}", encoded(&version))
            };
            // The order of names does not matter: the signer sorts them.
            after = format!("key-marker={}{version}&", encoded(&next));
        }
        Ok(found
            .into_iter()
            .filter_map(|(name, entries)| hidden_of(name, entries, since))
            .collect())
    }

    /// Sends a request about an object, or about the bucket if `key` is empty.
    async fn send(
        &self,
        method: Method,
        key: &str,
        query: &str,
        body: String,
    ) -> Result<(HeaderMap, String), Failure> {
        self.send_with(method, key, query, body, &[]).await
    }

    async fn send_with(
        &self,
        method: Method,
        key: &str,
        query: &str,
        body: String,
        headers: &[(&str, String)],
    ) -> Result<(HeaderMap, String), Failure> {
        let is_head = method == Method::HEAD;
        let failed = |error: object_store::Error| Failure::of(&error);
        // The signer knows where the bucket is.
        let path = if key.is_empty() { Key::from("-") } else { Key::from(key) };
        let url = self.s3.signed_url(Method::GET, &path, URL_TIME).await.map_err(failed)?;
        let url = url.as_str().split('?').next().unwrap_or_default();
        let url = if key.is_empty() { url.strip_suffix('-').unwrap_or(url) } else { url };
        let url = if query.is_empty() { url.to_owned() } else { format!("{url}?{query}") };
        let mut request = http::Request::builder().method(method).uri(&url);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        if !body.is_empty() {
            let digest = digest::digest(&digest::SHA256, body.as_bytes());
            request = request
                .header("content-type", "application/xml")
                .header("x-amz-sdk-checksum-algorithm", "SHA256")
                .header("x-amz-checksum-sha256", BASE64_STANDARD.encode(digest));
        }
        let mut request = request
            .body(body.into())
            .map_err(|error| Failure { meaning: Meaning::Invalid, cause: error.to_string() })?;
        let by = self.signing.credentials.get_credential().await.map_err(failed)?;
        self.signing.sign(&mut request, &by).map_err(failed)?;
        let transport = |error: HttpError| {
            let source = Box::new(error);
            Failure::of(&object_store::Error::Generic { store: "S3", source })
        };
        let (parts, body) = self.http.execute(request).await.map_err(transport)?.into_parts();
        if is_head {
            return Ok((parts.headers, String::new()));
        }
        let bytes = body.bytes().await.map_err(transport)?;
        Ok((parts.headers, String::from_utf8_lossy(&bytes).into_owned()))
    }
}

/// A version of an object, or a delete marker, in a listing.
struct Entry {
    id: String,
    time: Timestamp,
    is_newest: bool,
    /// `None` for a delete marker.
    length: Option<u64>,
}

/// Returns the version of an object that is to be brought back, if another is shown.
///
/// That is what the name showed before `since`. If it showed nothing then, it is the oldest version
/// since: objects are never replaced, so what came later hides it.
fn hidden_of(name: String, mut entries: Vec<Entry>, since: Timestamp) -> Option<HiddenObject> {
    entries.sort_by_key(|entry| Reverse((entry.is_newest, entry.time)));
    let before = entries.iter().position(|entry| entry.time < since);
    let at = match before {
        Some(at) if entries[at].length.is_some() => at,
        Some(at) => entries[..at].iter().rposition(|entry| entry.length.is_some())?,
        None => entries.iter().rposition(|entry| entry.length.is_some())?,
    };
    let (newer, rest) = entries.split_at(at);
    let (hides, version) = (newer.last()?, rest.first()?);
    Some(HiddenObject {
        name,
        length: version.length?,
        hidden_at: hides.time,
        version: version.id.clone(),
        newer: newer.iter().map(|entry| entry.id.clone()).collect(),
    })
}

/// Returns whether an answer says that a server or bucket has no Object Lock.
fn is_lack(meaning: Meaning) -> bool {
    // Whoever may not read the rule cannot know it either.
    matches!(meaning, Meaning::Absent | Meaning::Missing | Meaning::Invalid | Meaning::Refused)
}

fn time_of(xml: &str) -> Timestamp {
    let time = DateTime::parse_from_rfc3339(&element(xml, "LastModified")).ok();
    Timestamp(time.and_then(|time| time.timestamp_nanos_opt()).unwrap_or_default())
}

/// Returns text as a value of a query.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str, time: i64, is_newest: bool, length: Option<u64>) -> Entry {
        Entry { id: id.to_owned(), time: Timestamp(time), is_newest, length }
    }

    #[test]
    fn promise_13_the_version_is_found_that_was_there_before() {
        let found = |entries: Vec<Entry>| {
            let hidden = hidden_of("a".to_owned(), entries, Timestamp(10))?;
            Some((hidden.version, hidden.newer.join(" ")))
        };
        let is = |version: &str, newer: &str| Some((version.to_owned(), newer.to_owned()));
        assert_eq!(found(vec![entry("1", 5, true, Some(1))]), None);
        let deleted = vec![entry("m", 12, true, None), entry("1", 5, false, Some(1))];
        assert_eq!(found(deleted), is("1", "m"));
        let replaced = vec![
            entry("m", 12, false, None),
            entry("1", 5, false, Some(1)),
            entry("2", 13, true, Some(9)),
        ];
        assert_eq!(found(replaced), is("1", "2 m"));
        // Deleted long ago: it stays so, and what came since stays, too.
        assert_eq!(found(vec![entry("m", 7, true, None), entry("1", 5, false, Some(1))]), None);
        let again = vec![
            entry("2", 12, true, Some(1)),
            entry("m", 7, false, None),
            entry("1", 5, false, Some(1)),
        ];
        assert_eq!(found(again), None);
        // Made and deleted since, in one second.
        let short = vec![entry("1", 12, false, Some(1)), entry("m", 12, true, None)];
        assert_eq!(found(short), is("1", "m"));
    }

    #[test]
    fn names_are_values_of_a_query() {
        assert_eq!(encoded("a/b c"), "a%2Fb%20c");
    }
}
