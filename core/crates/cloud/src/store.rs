//! S3, Azure Blob Storage and Google Cloud Storage as a store.
//!
//! One conditional PUT (`If-None-Match: *`, on Google generation 0) creates an object. A multipart
//! upload never does, because it is not conditional everywhere. Each PUT carries a random tag as
//! metadata. If its answer was lost and the next try finds the name taken, the tag shows whether
//! the object is our own. So a repeated put reports `Created` to exactly the one that created the
//! object.
//!
//! Requests are tried a few times with growing, jittered pauses. After that the error is
//! `Unavailable` and the caller decides. A request without progress is given up. The HTTP client
//! and its runtime live on one thread of the store.

use std::future::Future;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use hrl::bytes::hex;
use hrl::device::{Files, SystemFiles};
use hrl::store::{ObjectInfo, PutOutcome, Store, check_name};
use hrl::{Clock, Error, ErrorKind, Result, Timestamp};
use object_store::path::Path as Key;
use object_store::{
    Attribute, Attributes, GetOptions, GetResult, ObjectStore as Client, ObjectStoreExt, PutMode,
    PutOptions, PutPayload,
};

use crate::failure::{Failure, Meaning};
use crate::lock::{HiddenObject, Locks, Standing};
use crate::options::{Location, ObjectStoreOptions};
use crate::runtime::Runtime;

/// Largest object: what every service accepts in one request.
const OBJECT_BYTES_MAX: u64 = 5_000 << 20;
/// Most tries of a request.
const TRIES_MAX: u32 = 4;
/// No try begins later than this after the first.
const RETRY_TIME_MAX: Duration = Duration::from_secs(20);
/// First pause between two tries; each is twice the one before.
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// Most objects of one listing.
const LISTED_MAX: usize = 16 << 20;
/// Locks renewed at once.
const RENEWED_AT_ONCE: usize = 16;
/// Bytes sent at once; progress is measured in steps of this size.
const CHUNK_BYTES: usize = 256 << 10;
/// Metadata with the random tag of the put that created an object.
const TAG: &str = "hrlput";
/// Name of no object: listing it shows whether the bucket exists.
const NOTHING: &str = "hrl-nothing";

/// A bucket or container, or a prefix in one, as a store. Any number of processes may use it at
/// once.
pub struct ObjectStore {
    client: Arc<dyn Client>,
    runtime: Runtime,
    location: Location,
    clock: Arc<dyn Clock>,
    /// Knows versions of objects, if the service is S3.
    versions: Option<Arc<Locks>>,
    /// The same if objects are locked.
    locks: Option<Arc<Locks>>,
}

impl ObjectStore {
    /// Opens `s3://BUCKET/PREFIX`, `az://CONTAINER/PREFIX` or `gs://BUCKET/PREFIX`. The bucket must
    /// exist; the prefix need not. Its parts consist of `A-Z a-z 0-9 . _ -`. Options other than
    /// secrets may follow as a query:
    /// `s3://vaults/site-a?endpoint=https://s3.example.net&region=eu-1`; see
    /// [`ObjectStoreOptions::NAMES`].
    ///
    /// `InvalidInput` if the URL or an option is wrong or the credentials are refused, `NotFound`
    /// if the bucket does not exist, `Unavailable` if the server does not answer.
    pub fn open(url: &str, options: ObjectStoreOptions) -> Result<Self> {
        let (location, options) = Location::parse(url, options)?;
        let (client, locks) = location.client(&options)?;
        let runtime =
            Runtime::start().map_err(|error| Error::io("open store", location.url(), error))?;
        let versions = locks.map(Arc::new);
        let locks = versions.clone().filter(|_| options.follows_locks());
        let clock = options.clock;
        let mut store = Self { client, runtime, location, clock, versions, locks };
        match store.check_bucket() {
            Ok(()) => {
                store.settle_locks()?;
                Ok(store)
            }
            Err(failure) => {
                let kind = match failure.meaning {
                    Meaning::NoBucket | Meaning::Absent => ErrorKind::NotFound,
                    other => other.kind(),
                };
                Err(store.error(kind, "open store", "", &failure))
            }
        }
    }

    /// Finds out whether objects are locked: by the option `lock` or by the bucket's default rule.
    fn settle_locks(&mut self) -> Result<()> {
        let Some(locks) = self.locks.take() else { return Ok(()) };
        let asked = self.attempt(|_| {
            let locks = locks.clone();
            async move { locks.bucket_rule().await }
        });
        let of_bucket = match asked {
            // Not asked for, and perhaps not known to the server.
            Err(failure) if locks.rule.is_none() && failure.meaning != Meaning::Transient => None,
            asked => asked.map_err(|failure| self.failed("open store", "", &failure))?,
        };
        self.locks = match (locks.rule, of_bucket) {
            (Some(_), Some(_)) => Some(locks),
            (None, Some(Some(rule))) => Some(Arc::new(Locks::clone_with(&locks, rule))),
            (None, _) => None,
            (Some(_), None) => {
                return Err(Error::new(ErrorKind::InvalidInput, "open store", self.location.url())
                    .expected("a bucket with Object Lock, as the option lock says")
                    .found(
                        "one without, or one whose configuration these credentials may not read",
                    ));
            }
        };
        Ok(())
    }

    /// Returns the rule by which objects are locked, for people; `None` if they are not.
    pub fn lock_rule(&self) -> Option<String> {
        self.locks.as_ref().and_then(|locks| locks.rule).map(|rule| rule.to_string())
    }

    /// Lists objects below `prefix` that were deleted or replaced at `since` or later, and of which
    /// the bucket has the version before. Buckets without versions have none. `Unsupported` if the
    /// store is not S3.
    pub fn hidden(&self, prefix: &str, since: Timestamp) -> Result<Vec<HiddenObject>> {
        let locks = self.versions()?;
        let within = format!("{}{prefix}", self.location.prefix);
        let listed = self.attempt(|_| {
            let (locks, within) = (locks.clone(), within.clone());
            async move { locks.hidden(&within, since).await }
        });
        let listed = listed.map_err(|failure| self.failed("list versions", prefix, &failure))?;
        let named = listed.into_iter().filter_map(|object| {
            let name = object.name.strip_prefix(&self.location.prefix)?.to_owned();
            check_name(&name).is_ok().then_some(HiddenObject { name, ..object })
        });
        Ok(named.collect())
    }

    /// Reads a range of a hidden object.
    pub fn get_hidden(&self, object: &HiddenObject, range: Range<u64>) -> Result<Vec<u8>> {
        let key = self.key(&object.name)?;
        if range.start >= range.end || range.end > object.length {
            let is_empty = range.start == range.end && range.end <= object.length;
            let error = self.past_end(&object.name, &range, object.length);
            return if is_empty { Ok(Vec::new()) } else { Err(error) };
        }
        let version = Some(object.version.clone());
        let got =
            self.attempt(|client| get_range(client, key.clone(), range.clone(), version.clone()));
        match got {
            Ok(Got::Bytes(bytes)) => Ok(bytes),
            Ok(Got::Ends(length)) => {
                Err(self.past_end(&object.name, &range, length.unwrap_or_default()))
            }
            Err(failure) => Err(self.failed("get from store", &object.name, &failure)),
        }
    }

    /// Shows a hidden object again. What hides it is deleted; if that is locked, the object is copied
    /// over it.
    pub fn unhide(&self, object: &HiddenObject) -> Result<()> {
        let (locks, key) = (self.versions()?, self.key(&object.name)?.to_string());
        for newer in &object.newer {
            let done = self.attempt(|_| {
                let (locks, key, newer) = (locks.clone(), key.clone(), newer.clone());
                async move { locks.delete_version(&key, &newer).await }
            });
            match done {
                Ok(()) => {}
                Err(failure) if failure.meaning == Meaning::Absent => {}
                Err(failure) if failure.meaning == Meaning::Refused => {
                    let copied = self.attempt(|_| {
                        let (locks, key) = (locks.clone(), key.clone());
                        let version = object.version.clone();
                        async move { locks.copy_version(&key, &version).await }
                    });
                    return copied.map_err(|f| self.failed("undelete", &object.name, &f));
                }
                Err(failure) => return Err(self.failed("undelete", &object.name, &failure)),
            }
        }
        Ok(())
    }

    fn versions(&self) -> Result<Arc<Locks>> {
        self.versions.clone().ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, "list versions", self.location.url())
                .message("only S3 shows older versions of objects")
        })
    }

    /// Deletes an object for good if it is not locked.
    fn delete_unlocked(&self, locks: &Arc<Locks>, name: &str) -> Result<()> {
        let key = self.key(name)?.to_string();
        let refuse = |until: Timestamp| {
            Err(Error::new(
                ErrorKind::Denied,
                "delete from store",
                format_args!("{}{name}", self.location.url()),
            )
            .message(format_args!("the object is locked until {until}")))
        };
        let now = self.clock.now();
        if let Some(until) = locks.known(name).filter(|until| *until > now) {
            return refuse(until);
        }
        let looked = self.attempt(|_| {
            let (locks, key) = (locks.clone(), key.clone());
            async move { locks.standing(&key).await }
        });
        let Standing { version, until } = match looked {
            Ok(standing) => standing,
            Err(failure) if failure.meaning == Meaning::Absent => return Ok(()),
            Err(failure) => return Err(self.failed("delete from store", name, &failure)),
        };
        locks.learn(name, until);
        if let Some(until) = until.filter(|until| *until > now) {
            return refuse(until);
        }
        let deleted = self.attempt(|_| {
            let (locks, key) = (locks.clone(), key.clone());
            let version = version.clone().unwrap_or_else(|| "null".to_owned());
            async move { locks.delete_version(&key, &version).await }
        });
        match deleted {
            Err(failure) if failure.meaning != Meaning::Absent => {
                Err(self.failed("delete from store", name, &failure))
            }
            _ => {
                locks.learn(name, None);
                Ok(())
            }
        }
    }

    /// Returns until when an object is locked; `None` if it is not, or is absent.
    fn locked_until(&self, locks: &Arc<Locks>, name: &str) -> Result<Option<Timestamp>> {
        let now = self.clock.now();
        if let Some(until) = locks.known(name).filter(|until| *until > now) {
            return Ok(Some(until));
        }
        let key = self.key(name)?.to_string();
        let looked = self.attempt(|_| {
            let (locks, key) = (locks.clone(), key.clone());
            async move { locks.standing(&key).await }
        });
        match looked {
            Ok(standing) => {
                locks.learn(name, standing.until);
                Ok(standing.until.filter(|until| *until > now))
            }
            Err(failure) if failure.meaning == Meaning::Absent => Ok(None),
            Err(failure) => Err(self.failed("look into store", name, &failure)),
        }
    }

    /// Renews the locks of objects, each if that is due.
    fn renew(&self, locks: &Arc<Locks>, names: &[&str]) -> Result<()> {
        let now = self.clock.now();
        let Some(until) = locks.until_from(now) else { return Ok(()) };
        let is_due = |name: &str| locks.needs_renewal(locks.known(name), now);
        let due: Vec<&str> = names.iter().copied().filter(|name| is_due(name)).collect();
        for some in due.chunks(RENEWED_AT_ONCE) {
            let keys =
                some.iter().map(|name| Ok(((*name).to_owned(), self.key(name)?.to_string())));
            let keys = keys.collect::<Result<Vec<_>>>()?;
            let renewed = self.attempt(|_| {
                let (locks, keys) = (locks.clone(), keys.clone());
                async move {
                    let all = keys.into_iter().map(|(name, key)| locks.renew_one(name, key, until));
                    stream::iter(all).buffer_unordered(RENEWED_AT_ONCE).try_collect::<()>().await
                }
            });
            renewed.map_err(|failure| self.failed("lock objects", some[0], &failure))?;
        }
        Ok(())
    }

    /// Tries a request until it succeeds, cannot succeed, or the limits are reached.
    fn attempt<T, F, W>(&self, work: W) -> std::result::Result<T, Failure>
    where
        T: Send + 'static,
        F: Future<Output = std::result::Result<T, Failure>> + Send + 'static,
        W: Fn(Arc<dyn Client>) -> F,
    {
        let start = self.clock.elapsed();
        let mut pause = PAUSE_MIN;
        for tries_left in (0..TRIES_MAX).rev() {
            let result = self.runtime.run(work(self.client.clone())).unwrap_or_else(|| {
                Err(Failure { meaning: Meaning::Transient, cause: "the client panicked".into() })
            });
            let Err(failure) = result else { return result };
            let late = self.clock.elapsed().saturating_sub(start) >= RETRY_TIME_MAX;
            if failure.meaning != Meaning::Transient || tries_left == 0 || late {
                return Err(failure);
            }
            std::thread::sleep(jittered(pause, &*self.clock));
            pause *= 2;
        }
        unreachable!("the last try returns")
    }

    fn key(&self, name: &str) -> Result<Key> {
        check_name(name)?;
        let path = format!("{}{name}", self.location.prefix);
        Key::parse(&path).map_err(|error| {
            Error::new(ErrorKind::InvalidInput, "name object", path).caused_by(error)
        })
    }

    fn failed(&self, operation: &'static str, name: &str, failure: &Failure) -> Error {
        self.error(failure.meaning.kind(), operation, name, failure)
    }

    fn error(
        &self,
        kind: ErrorKind,
        operation: &'static str,
        name: &str,
        failure: &Failure,
    ) -> Error {
        let error = Error::new(kind, operation, format_args!("{}{name}", self.location.url()));
        match failure.meaning.advice() {
            Some(advice) => error.message(advice).caused_by(failure.cause.as_str()),
            None => error.caused_by(failure.cause.as_str()),
        }
    }

    /// Fails with `NoBucket` if the bucket is gone. Answers to HEAD have no body, so they do not
    /// distinguish that from a lost object.
    fn check_bucket(&self) -> std::result::Result<(), Failure> {
        let nothing = Key::from(format!("{}{NOTHING}", self.location.prefix));
        self.attempt(|client| {
            let mut listing = client.list(Some(&nothing));
            async move {
                match listing.try_next().await.map_err(|error| Failure::of(&error)) {
                    Err(failure) if failure.meaning == Meaning::Absent => {
                        Err(Failure { meaning: Meaning::NoBucket, ..failure })
                    }
                    other => other.map(drop),
                }
            }
        })
    }

    fn put_payload(&self, name: &str, payload: PutPayload) -> Result<PutOutcome> {
        let length = payload.content_length() as u64;
        let key = self.key(name)?;
        if length > OBJECT_BYTES_MAX {
            return Err(Error::new(ErrorKind::InvalidInput, "put to store", name)
                .expected(format_args!("at most {OBJECT_BYTES_MAX} bytes"))
                .found(length));
        }
        let begun = self.clock.now();
        let mut random = [0_u8; 16];
        self.clock.fill_random(&mut random);
        let tag = hex(&random).to_string();
        let mut attributes = Attributes::new();
        attributes.insert(Attribute::Metadata(TAG.into()), tag.clone().into());
        let options = PutOptions { mode: PutMode::Create, attributes, ..Default::default() };
        let result = self.attempt(|client| {
            let (key, payload, options) = (key.clone(), payload.clone(), options.clone());
            async move {
                match client.put_opts(&key, payload, options).await {
                    Ok(_) => Ok(()),
                    Err(error) => Err(Failure::of(&error)),
                }
            }
        });
        match result {
            Ok(()) => {
                if let Some(locks) = &self.locks {
                    locks.learn(name, locks.until_from(begun));
                }
                Ok(PutOutcome::Created)
            }
            Err(failure) if failure.meaning == Meaning::Exists => {
                let found = self.look("put to store", name)?.and_then(|found| found.tag);
                let ours = found.is_some_and(|found| found == tag);
                Ok(if ours { PutOutcome::Created } else { PutOutcome::AlreadyExists })
            }
            Err(Failure { meaning: Meaning::Absent, cause }) => {
                let failure = Failure { meaning: Meaning::NoBucket, cause };
                Err(self.failed("put to store", name, &failure))
            }
            Err(failure) => Err(self.failed("put to store", name, &failure)),
        }
    }

    /// Returns length and tag of an object; `None` if it is absent.
    fn look(&self, operation: &'static str, name: &str) -> Result<Option<Found>> {
        let key = self.key(name)?;
        let result = self.attempt(|client| {
            let key = key.clone();
            async move {
                let options = GetOptions { head: true, ..Default::default() };
                let answer = client.get_opts(&key, options).await;
                answer.map(Found::of).map_err(|error| Failure::of(&error))
            }
        });
        match result {
            Ok(found) => Ok(Some(found)),
            Err(failure) if failure.meaning == Meaning::Absent => match self.check_bucket() {
                Ok(()) => Ok(None),
                Err(failure) => Err(self.failed(operation, name, &failure)),
            },
            Err(failure) => Err(self.failed(operation, name, &failure)),
        }
    }

    fn past_end(&self, name: &str, range: &Range<u64>, length: u64) -> Error {
        let object = format!("{}{name}", self.location.url());
        Error::new(ErrorKind::InvalidInput, "get from store", object)
            .at(range.start)
            .expected(format_args!("a range within {length} bytes"))
            .found(format_args!("{}..{}", range.start, range.end))
    }
}

/// Returns half to all of `pause`, at random, so that clients that failed together do not return
/// together.
fn jittered(pause: Duration, clock: &dyn Clock) -> Duration {
    let mut random = [0_u8];
    clock.fill_random(&mut random);
    pause.mul_f64(0.5 + f64::from(random[0]) / 510.0)
}

/// Result of a HEAD.
struct Found {
    length: u64,
    tag: Option<String>,
}

impl Found {
    fn of(answer: GetResult) -> Self {
        let tag = answer.attributes.get(&Attribute::Metadata(TAG.into()));
        Self { length: answer.meta.size, tag: tag.map(|value| value.as_ref().to_owned()) }
    }
}

/// Result of getting a range.
enum Got {
    Bytes(Vec<u8>),
    /// The object ends before the range; contains its length if the answer shows it.
    Ends(Option<u64>),
}

async fn get_range(
    client: Arc<dyn Client>,
    key: Key,
    range: Range<u64>,
    version: Option<String>,
) -> std::result::Result<Got, Failure> {
    let options = GetOptions { range: Some(range.clone().into()), version, ..Default::default() };
    let answer = match client.get_opts(&key, options).await {
        Ok(answer) => answer,
        Err(error) => {
            let failure = Failure::of(&error);
            return match failure.meaning {
                Meaning::PastEnd => Ok(Got::Ends(None)),
                _ => Err(failure),
            };
        }
    };
    if answer.meta.size < range.end {
        return Ok(Got::Ends(Some(answer.meta.size)));
    }
    let expected = range.end - range.start;
    let mut bytes = Vec::with_capacity(expected as usize);
    let mut stream = answer.into_stream();
    while let Some(chunk) = stream.try_next().await.map_err(|error| Failure::of(&error))? {
        if (bytes.len() + chunk.len()) as u64 > expected {
            return Err(Failure::short(expected, (bytes.len() + chunk.len()) as u64));
        }
        bytes.extend_from_slice(&chunk);
    }
    if (bytes.len() as u64) < expected {
        return Err(Failure::short(expected, bytes.len() as u64));
    }
    Ok(Got::Bytes(bytes))
}

/// A mapped file as an owner of bytes.
struct Mapped(Box<dyn AsRef<[u8]> + Send + Sync>);

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        (*self.0).as_ref()
    }
}

/// Cuts bytes into chunks without copying, so that progress can be measured.
fn chunks(bytes: Bytes) -> PutPayload {
    let starts = (0..bytes.len()).step_by(CHUNK_BYTES);
    starts.map(|at| bytes.slice(at..bytes.len().min(at + CHUNK_BYTES))).collect()
}

impl Store for ObjectStore {
    fn name(&self) -> String {
        self.location.url()
    }

    fn put(&self, name: &str, content: &[u8]) -> Result<PutOutcome> {
        self.put_payload(name, chunks(Bytes::copy_from_slice(content)))
    }

    fn put_file(&self, name: &str, path: &Path) -> Result<PutOutcome> {
        // Mapped: repeated tries read the page cache again, and no copy of the file is in memory.
        self.put_payload(name, chunks(Bytes::from_owner(Mapped(SystemFiles.map(path)?))))
    }

    fn get(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        let key = self.key(name)?;
        if range.start < range.end {
            let got = self.attempt(|client| get_range(client, key.clone(), range.clone(), None));
            match got {
                Ok(Got::Bytes(bytes)) => return Ok(bytes),
                Ok(Got::Ends(Some(length))) => return Err(self.past_end(name, &range, length)),
                Ok(Got::Ends(None)) => {}
                Err(failure) => return Err(self.failed("get from store", name, &failure)),
            }
        }
        let Some(found) = self.look("get from store", name)? else {
            return Err(Error::new(
                ErrorKind::NotFound,
                "get from store",
                format_args!("{}{name}", self.location.url()),
            ));
        };
        if range.start == range.end && range.end <= found.length {
            return Ok(Vec::new());
        }
        Err(self.past_end(name, &range, found.length))
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        // Services list whole parts of names; the rest of the prefix is matched here.
        let directory = prefix.rsplit_once('/').map_or("", |(directory, _)| directory);
        if !directory.is_empty() {
            check_name(directory)?;
        }
        let within = format!("{}{directory}", self.location.prefix);
        let within = within.trim_end_matches('/');
        let within = (!within.is_empty()).then(|| Key::from(within));
        let root = self.location.prefix.clone();
        let result = self.attempt(|client| {
            let (mut listing, root) = (client.list(within.as_ref()), root.clone());
            let prefix = prefix.to_owned();
            async move {
                let mut objects = Vec::new();
                while let Some(meta) =
                    listing.try_next().await.map_err(|error| Failure::of(&error))?
                {
                    let Some(name) = meta.location.as_ref().strip_prefix(&root) else { continue };
                    if !name.starts_with(&prefix) || check_name(name).is_err() {
                        continue;
                    }
                    if objects.len() >= LISTED_MAX {
                        let cause = format!("more than {LISTED_MAX} objects");
                        return Err(Failure { meaning: Meaning::Invalid, cause });
                    }
                    objects.push(ObjectInfo { name: name.to_owned(), length: meta.size });
                }
                Ok(objects)
            }
        });
        match result {
            Ok(mut objects) => {
                objects.sort_by(|a, b| a.name.cmp(&b.name));
                Ok(objects)
            }
            Err(Failure { meaning: Meaning::Absent, cause }) => {
                let failure = Failure { meaning: Meaning::NoBucket, cause };
                Err(self.failed("list store", prefix, &failure))
            }
            Err(failure) => Err(self.failed("list store", prefix, &failure)),
        }
    }

    fn head(&self, name: &str) -> Result<Option<ObjectInfo>> {
        let found = self.look("look into store", name)?;
        Ok(found.map(|found| ObjectInfo { name: name.to_owned(), length: found.length }))
    }

    fn is_locked(&self, name: &str) -> Result<bool> {
        match &self.locks {
            Some(locks) => Ok(self.locked_until(locks, name)?.is_some()),
            None => Ok(false),
        }
    }

    fn renew_locks(&self, prefix: &str, is_unwanted: &dyn Fn(&str) -> bool) -> Result<()> {
        let Some(locks) = &self.locks else { return Ok(()) };
        let objects = self.list(prefix)?;
        let names = objects.iter().map(|object| object.name.as_str());
        let wanted: Vec<_> = names.filter(|name| !is_unwanted(name)).collect();
        self.renew(locks, &wanted)
    }

    fn delete(&self, name: &str) -> Result<()> {
        if let Some(locks) = &self.locks {
            return self.delete_unlocked(locks, name);
        }
        let key = self.key(name)?;
        let result = self.attempt(|client| {
            let key = key.clone();
            async move { client.delete(&key).await.map_err(|error| Failure::of(&error)) }
        });
        match result {
            Ok(()) => Ok(()),
            Err(failure) if failure.meaning == Meaning::Absent => Ok(()),
            Err(failure) => Err(self.failed("delete from store", name, &failure)),
        }
    }

    fn delete_many(&self, names: &[String]) -> Result<()> {
        let keys = names.iter().map(|name| self.key(name)).collect::<Result<Vec<_>>>()?;
        if self.locks.is_some() {
            // All that are not locked go; the error names one that is.
            let mut result = Ok(());
            for name in names {
                match self.delete(name) {
                    Err(error) if error.kind() == ErrorKind::Denied => result = Err(error),
                    other => other?,
                }
            }
            return result;
        }
        let [first, _, ..] = names else { return names.iter().try_for_each(|n| self.delete(n)) };
        // Hundreds of objects in one request, if the service supports it.
        let result = self.attempt(|client| {
            let keys = keys.clone();
            async move {
                let keys = stream::iter(keys.into_iter().map(Ok)).boxed();
                let mut answers = client.delete_stream(keys);
                while let Some(answer) = answers.next().await {
                    match answer.map_err(|error| Failure::of(&error)) {
                        Err(failure) if failure.meaning != Meaning::Absent => return Err(failure),
                        _ => {}
                    }
                }
                Ok(())
            }
        });
        match result {
            Ok(()) => Ok(()),
            // Some servers lack this request, or implement it differently.
            Err(failure) if matches!(failure.meaning, Meaning::Missing | Meaning::Invalid) => {
                names.iter().try_for_each(|name| self.delete(name))
            }
            Err(failure) => Err(self.failed("delete from store", first, &failure)),
        }
    }
}
