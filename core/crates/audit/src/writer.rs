//! Appends to the log of a vault.
//!
//! Puts are counted for each client and prefix, and appended with what comes next or after
//! [`INTERVAL`], so that they cost no request each. Refusals wait at most [`REFUSALS_WAIT`]; of
//! many by one client in one batch the first are recorded and the rest is counted. What destroys is
//! appended before it is carried out: if that fails it must not be carried out.
//!
//! Behaviour on failure: what could not be appended stays in memory and goes with the next try. A
//! put whose answer was lost is recognised by its bytes. A kill loses counts of puts of the last
//! interval, and refusals of the last moment.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hrl::store::{PutOutcome, Store, get_all};
use hrl::sync::lock::Mutex;
use hrl::vault::layout;
use hrl::{Clock, Error, ErrorKind, Result, Timestamp};

use crate::batch::{self, BATCH_BYTES_MAX, Head, object_of};
use crate::entry::{Entry, Outcome};

/// Longest time that counted puts wait for their entry.
pub const INTERVAL: Duration = Duration::from_secs(600);
/// Longest time that a refusal waits.
const REFUSALS_WAIT: Duration = Duration::from_secs(1);
/// Refusals of one client in a batch that have entries of their own.
const REFUSALS_MAX: u64 = 100;
/// Longest reason that is recorded, in bytes.
const REASON_BYTES_MAX: usize = 1000;
/// Bytes of entries that wait in memory while the vault takes none.
const WAITING_BYTES_MAX: usize = 8 << 20;
/// Clients and prefixes that are counted apart in one batch.
const SUMS_MAX: usize = 10_000;
/// Races against other writers lost in a row before an append gives up.
const RACES_MAX: u32 = 64;

/// What is counted together: client, role, verb, prefix, and whether it was refused.
type Counted = (String, String, String, String, bool);

#[derive(Default)]
struct Sum {
    since: Timestamp,
    count: u64,
    bytes: u64,
}

/// What waits to be appended.
#[derive(Default)]
struct Waiting {
    entries: Vec<Entry>,
    bytes: usize,
    sums: HashMap<Counted, Sum>,
    /// Refusals of each client with an entry of their own.
    refusals: HashMap<String, u64>,
    /// Since when something waits, and since when a refusal does.
    since: Option<Duration>,
    refusal_since: Option<Duration>,
}

/// The end of the chain as it is known here, and what is being appended to it.
#[derive(Default)]
struct Chain {
    head: Option<Head>,
    /// Entries and time of a batch that may have been put.
    sent: Option<(Timestamp, Vec<Entry>)>,
}

/// Appends to the audit log of a vault. Any thread may use it.
pub struct Audit {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    writer: String,
    waiting: Mutex<Waiting>,
    chain: Mutex<Chain>,
}

impl Audit {
    /// Appends to the log in `store`, as `writer`: a name for people of this program and machine.
    /// Nothing is read before the first append.
    pub fn new(store: Arc<dyn Store>, writer: &str, clock: Arc<dyn Clock>) -> Self {
        let (waiting, chain) = (Mutex::default(), Mutex::default());
        Self { store, clock, writer: writer.to_owned(), waiting, chain }
    }

    /// Returns the time for entries.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Counts an act that destroys nothing, such as a put. It is appended later.
    pub fn count(&self, client: &str, role: &str, verb: &str, object: &str, bytes: u64) {
        self.add_to_sum((client, role, verb, prefix_of(object)), false, bytes);
    }

    /// Records a refusal. It is appended within a second or two.
    pub fn refused(&self, mut entry: Entry) {
        let cut = (0..=REASON_BYTES_MAX).rev().find(|at| entry.reason.is_char_boundary(*at));
        entry.reason.truncate(cut.unwrap_or(0));
        let mut waiting = self.waiting.lock();
        let known = waiting.refusals.entry(entry.client.clone()).or_default();
        *known += 1;
        let room = *known <= REFUSALS_MAX && waiting.bytes + entry.length() <= WAITING_BYTES_MAX;
        let now = self.clock.elapsed();
        waiting.refusal_since.get_or_insert(now);
        if room {
            waiting.push(entry, now);
            return;
        }
        drop(waiting);
        let object = entry.objects.first().map_or("", String::as_str);
        let of = (&*entry.client, &*entry.role, &*entry.verb, prefix_of(object));
        self.add_to_sum(of, true, 0);
    }

    /// Appends an act that destroys something, durably, before it is carried out. If that fails,
    /// it must not be carried out.
    pub fn permit(&self, entry: &Entry) -> Result<()> {
        self.waiting.lock().push(entry.clone(), self.clock.elapsed());
        self.flush().inspect_err(|_| {
            // It is refused, so it must not appear as permitted later.
            self.forget(entry);
        })
    }

    /// Records an act that was carried out or failed. It is appended later.
    pub fn record(&self, entry: Entry) {
        let mut waiting = self.waiting.lock();
        if waiting.bytes + entry.length() <= WAITING_BYTES_MAX {
            waiting.push(entry, self.clock.elapsed());
        }
    }

    /// Appends what has waited for its time. For a thread that calls it about every second.
    pub fn tick(&self) -> Result<()> {
        let now = self.clock.elapsed();
        let is_due = {
            let waiting = self.waiting.lock();
            let waited = |since: Option<Duration>, limit| {
                since.is_some_and(|since| now.saturating_sub(since) >= limit)
            };
            waited(waiting.since, INTERVAL)
                || waited(waiting.refusal_since, REFUSALS_WAIT)
                || waiting.bytes > WAITING_BYTES_MAX / 2
        };
        // What may have been put is finished first.
        if is_due || self.chain.lock().sent.is_some() { self.flush() } else { Ok(()) }
    }

    /// Appends all that waits, durably.
    pub fn flush(&self) -> Result<()> {
        let mut chain = self.chain.lock();
        self.append(&mut chain)?;
        let entries = self.waiting.lock().take();
        if !entries.is_empty() {
            chain.sent = Some((self.clock.now(), entries));
            self.append(&mut chain)?;
        }
        Ok(())
    }

    /// Returns the end of the log that this writer knows, once it has appended.
    pub fn head(&self) -> Option<Head> {
        self.chain.lock().head
    }

    fn add_to_sum(&self, of: (&str, &str, &str, &str), refused: bool, bytes: u64) {
        let time = self.clock.now();
        let mut waiting = self.waiting.lock();
        let (client, role, verb, prefix) = of;
        let mut key: Counted = (client.into(), role.into(), verb.into(), prefix.into(), refused);
        if waiting.sums.len() >= SUMS_MAX && !waiting.sums.contains_key(&key) {
            key = (client.into(), role.into(), verb.into(), String::new(), refused);
        }
        let sum = waiting.sums.entry(key).or_insert(Sum { since: time, ..Sum::default() });
        (sum.count, sum.bytes) = (sum.count + 1, sum.bytes.saturating_add(bytes));
        waiting.since.get_or_insert(self.clock.elapsed());
    }

    /// Puts what was sent, if anything was, after the end of the chain.
    fn append(&self, chain: &mut Chain) -> Result<()> {
        for _ in 0..RACES_MAX {
            let Some((time, entries)) = &chain.sent else { return Ok(()) };
            let head = match chain.head {
                Some(head) => head,
                None => self.read_head()?,
            };
            let bytes = batch::encode(head, &self.writer, *time, entries);
            let object = object_of(head.number + 1);
            let there = match self.store.put(&object, &bytes)? {
                PutOutcome::Created => bytes.clone(),
                PutOutcome::AlreadyExists => get_all(&*self.store, &object, BATCH_BYTES_MAX)?,
            };
            chain.head = Some(Head { number: head.number + 1, hash: batch::hash(&there) });
            // Else another writer was faster.
            if there == bytes {
                chain.sent = None;
            }
        }
        if chain.sent.is_none() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unavailable, "append to audit log", self.store.name())
            .message("other writers were faster each time")
            .found(format_args!("{RACES_MAX} lost races")))
    }

    fn read_head(&self) -> Result<Head> {
        let number = batch::newest(&self.store.list(layout::AUDIT)?);
        if number == 0 {
            return Ok(Head::default());
        }
        let bytes = get_all(&*self.store, &object_of(number), BATCH_BYTES_MAX)?;
        Ok(Head { number, hash: batch::hash(&bytes) })
    }

    fn forget(&self, entry: &Entry) {
        self.waiting.lock().entries.retain(|known| known != entry);
        let mut chain = self.chain.lock();
        if let Some((_, entries)) = &mut chain.sent
            && let Some(at) = entries.iter().position(|known| known == entry)
        {
            // The batch may have been put: then the log says that it was permitted, which it was
            // not. An entry that says so follows.
            entries[at].outcome = Outcome::Failed;
            "it could not be recorded".clone_into(&mut entries[at].reason);
        }
    }
}

impl Waiting {
    fn push(&mut self, entry: Entry, now: Duration) {
        self.bytes += entry.length();
        self.entries.push(entry);
        self.since.get_or_insert(now);
    }

    /// Takes everything, as entries in order of time.
    fn take(&mut self) -> Vec<Entry> {
        let Self { mut entries, sums, .. } = std::mem::take(self);
        for ((client, role, verb, prefix, refused), sum) in sums {
            let mut entry = Entry::new(sum.since, &client, &role, &verb, &[prefix]);
            (entry.count, entry.bytes) = (sum.count, sum.bytes);
            entry.outcome = if refused { Outcome::Denied } else { Outcome::Done };
            entries.push(entry);
        }
        entries.sort_by(|a, b| (a.time, &a.client).cmp(&(b.time, &b.client)));
        entries
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        // A vault that is away loses counts, and nothing that destroyed.
        let _ = self.flush();
    }
}

/// Returns the part of an object's name up to its last slash.
fn prefix_of(object: &str) -> &str {
    object.rfind('/').map_or("", |at| &object[..=at])
}
