//! Watches a volume: feeds the judge on the journal's thread, and keeps verdicts in the catalog on a
//! thread of its own.
//!
//! What is learned and a change that is not trusted are in the file `suspicion` of the state
//! directory, so that a restart forgets neither.
//!
//! Behaviour on failure: while the vault does not answer, verdicts are tried again with growing
//! pauses, and at the next start. A file that cannot be written costs what it would have kept.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hrl::journal::SegmentSummary;
use hrl::replica::Replica;
use hrl::sync::lock::{Condvar, Mutex};
use hrl::vault::Vault;
use hrl::{Cause, Clock, Event, EventKind, EventSink, Inspector, Result, Sequence, SystemClock};

use crate::judge::{Change, Judge, Learned};
use crate::verdicts::{Standing, is_trusted, record, standing};

const FILE: &str = "suspicion";
/// First line of the file.
const HEAD: &str = "hrl suspicion 1";
/// How often what was learned is kept.
const KEEP: Duration = Duration::from_secs(60);
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Longest time that the end of a session waits for the last verdicts. The next start gives those
/// that are missing.
const END: Duration = Duration::from_secs(5);
/// Text of verdicts after a restart.
const EARLIER: &str = "after a suspicious change";
/// Longest text of a verdict, in bytes.
const TEXT_BYTES_MAX: usize = hrl::vault::ANNOTATION_BYTES_MAX;

/// Notices a sudden change of what is written to a volume.
///
/// Raises [`EventKind::SuspiciousChange`] once, and gives the points from then on the bad verdict
/// [`Suspicious`](hrl::vault::VerdictKind::Suspicious), until they are trusted
/// ([`trust`](crate::trust)).
pub struct Suspicion {
    judge: Mutex<Journaled>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Journaled {
    judge: Judge,
    /// The first copy is under way: only learn from it.
    is_first_copy: bool,
}

struct Shared {
    volume: String,
    vault: Vault,
    file: PathBuf,
    events: EventSink,
    clock: SystemClock,
    work: Mutex<Work>,
    wakes: Condvar,
}

#[derive(Default)]
struct Work {
    learned: Learned,
    /// The change that is not trusted.
    change: Option<(Sequence, String)>,
    /// A change that was not reported yet.
    news: Option<Change>,
    /// Sequence of the newest point that may lack a verdict.
    newest_point: Option<Sequence>,
    /// The session ends, and the thread has ended.
    ends: bool,
    ended: bool,
}

impl Suspicion {
    /// Watches `volume` of `vault`, whose agent has the state directory `state` and sends events to
    /// `events`. Give it to [`ProtectionOptions::inspector`](hrl::ProtectionOptions::inspector).
    pub fn begin(volume: &str, vault: Vault, state: &Path, events: EventSink) -> Arc<Self> {
        let file = state.join(FILE);
        let (learned, since) = read(&file).unwrap_or_default();
        let change = since.map(|since| (since, EARLIER.to_owned()));
        let work = Work { learned, change, ..Work::default() };
        let shared = Arc::new(Shared {
            volume: volume.to_owned(),
            vault,
            file,
            events,
            clock: SystemClock::default(),
            work: Mutex::new(work),
            wakes: Condvar::new(),
        });
        let judge = Journaled { judge: Judge::new(learned), is_first_copy: false };
        let watched = shared.clone();
        let thread = std::thread::Builder::new().name("hrl-suspicion".into());
        let thread = thread.spawn(move || watched.run()).ok();
        shared.work.lock().ended = thread.is_none();
        Arc::new(Self { judge: Mutex::new(judge), shared, thread })
    }

    /// Returns the sequence since which the volume is suspicious; `None` if it is not.
    pub fn since(&self) -> Option<Sequence> {
        self.shared.work.lock().change.as_ref().map(|(since, _)| *since)
    }
}

impl Inspector for Suspicion {
    fn wrote(&self, offset: u64, data: &[u8]) {
        self.judge.lock().judge.wrote(offset, data);
    }

    fn closed(&self, segment: &SegmentSummary) {
        let mut journaled = self.judge.lock();
        let begins_copy = |begin: Option<Cause>| begin == Some(Cause::InitialReplication);
        let was_copying = journaled.is_first_copy;
        let copies = segment.order_changes.iter().any(|change| begins_copy(change.begin));
        if let Some(last) = segment.order_changes.last() {
            journaled.is_first_copy =
                begins_copy(last.begin) || (was_copying && last.begin.is_some());
        }
        let judging = !was_copying && !copies;
        let change = journaled.judge.closed(segment.first_sequence, segment.last_time, judging);
        let learned = journaled.judge.learned;
        drop(journaled);
        let newest_point = segment.marks.last().map(|mark| mark.sequence);
        let mut work = self.shared.work.lock();
        work.learned = learned;
        let is_new = change.is_some() && work.change.is_none();
        if let Some(change) = change.filter(|_| is_new) {
            work.change = Some((change.since, change.to_string()));
            work.news = Some(change);
        }
        work.newest_point = newest_point.or(work.newest_point);
        let has_work = work.change.is_some() && (is_new || newest_point.is_some());
        drop(work);
        if has_work {
            self.shared.wakes.notify_all();
        }
    }
}

impl Drop for Suspicion {
    /// Gives verdicts to the last points, once, and keeps what was learned.
    fn drop(&mut self) {
        let mut work = self.shared.work.lock();
        work.ends = true;
        self.shared.wakes.notify_all();
        let has_ended = self.shared.wakes.wait_timeout_while(work, END, |work| !work.ended).0.ended;
        if let Some(thread) = self.thread.take().filter(|_| has_ended) {
            // Then nothing of the vault is left. A panic was printed.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self) {
        let mut replica = None;
        let mut kept = String::new();
        let mut pause = RETRY_MIN;
        let mut looks = self.must_look();
        loop {
            let (news, ends) = {
                let mut work = self.work.lock();
                (work.news.take(), work.ends)
            };
            if let Some(change) = news {
                self.keep(&mut kept);
                let (time, volume) = (self.clock.now(), self.volume.clone());
                let kind = EventKind::SuspiciousChange;
                (self.events)(&Event { time, volume, kind, message: change.to_string() });
            }
            let done =
                if looks || self.has_points() { self.record(&mut replica) } else { Ok(true) };
            let wait = match done {
                Ok(true) => {
                    (looks, pause) = (false, RETRY_MIN);
                    KEEP
                }
                waits => {
                    if waits.is_err() {
                        replica = None;
                    }
                    pause = (2 * pause).min(RETRY_MAX);
                    pause
                }
            };
            self.keep(&mut kept);
            if ends {
                break;
            }
            let guard = self.work.lock();
            let idle = |work: &mut Work| {
                !work.ends && work.news.is_none() && (wait != KEEP || !work.has_points())
            };
            drop(self.wakes.wait_timeout_while(guard, wait, idle));
        }
        self.work.lock().ended = true;
        self.wakes.notify_all();
    }

    /// Returns whether the catalog may know more than the state directory: that a change is trusted,
    /// or of a change before the file was lost.
    fn must_look(&self) -> bool {
        let is_known = self.file.parent().is_some_and(hrl::ProtectionOptions::knows_vault);
        self.work.lock().change.is_some() || (is_known && !self.file.exists())
    }

    fn has_points(&self) -> bool {
        self.work.lock().has_points()
    }

    /// Records verdicts as far as the catalog has the points. Returns whether it has all of them.
    fn record(&self, opened: &mut Option<Replica>) -> Result<bool> {
        let replica = match opened {
            Some(replica) => {
                replica.refresh()?;
                replica
            }
            None => opened.insert(self.vault.replica(&self.volume)?),
        };
        let points = replica.points();
        let (change, newest) = {
            let mut work = self.work.lock();
            let trusted = |(since, _): &(Sequence, String)| is_trusted(&points, *since);
            if work.change.as_ref().is_some_and(trusted) {
                work.change = None;
            }
            if work.change.is_none()
                && let Standing::Suspicious(since) = standing(&points)
            {
                work.change = Some((since, EARLIER.to_owned()));
            }
            (work.change.clone(), work.newest_point)
        };
        if let Some((since, text)) = change {
            let mut end = text.len().min(TEXT_BYTES_MAX);
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            record(replica, since, &text[..end])?;
        }
        let published = replica.catalog().last_sequence();
        let mut work = self.work.lock();
        if newest.is_some_and(|newest| newest > published) {
            return Ok(false);
        }
        if work.newest_point == newest {
            work.newest_point = None;
        }
        Ok(true)
    }

    /// Writes the file in the state directory, unless it has that content already.
    fn keep(&self, kept: &mut String) {
        let (learned, since) = {
            let work = self.work.lock();
            (work.learned, work.change.as_ref().map(|(since, _)| *since))
        };
        let since = since.map_or_else(|| "none".to_owned(), |since| since.0.to_string());
        let text = format!(
            "{HEAD}\nusual {}\nsamples {}\nsince {since}\n",
            learned.usual, learned.samples
        );
        let next = self.file.with_extension("next");
        if text != *kept
            && write_private(&next, &text).and_then(|()| std::fs::rename(&next, &self.file)).is_ok()
        {
            *kept = text;
        }
    }
}

impl Work {
    fn has_points(&self) -> bool {
        self.change.is_some() && self.newest_point.is_some()
    }
}

/// Writes a file that its owner alone may read.
fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

/// Reads the file; `None` if it is absent or is not what this module writes.
fn read(file: &Path) -> Option<(Learned, Option<Sequence>)> {
    let text = std::fs::read_to_string(file).ok()?;
    let mut lines = text.lines();
    if lines.next()? != HEAD {
        return None;
    }
    let usual: f64 = lines.next()?.strip_prefix("usual ")?.parse().ok()?;
    let samples = lines.next()?.strip_prefix("samples ")?.parse().ok()?;
    let since = match lines.next()?.strip_prefix("since ")? {
        "none" => None,
        since => Some(Sequence(since.parse().ok()?)),
    };
    (0.0..=1.0).contains(&usual).then_some((Learned { usual, samples }, since))
}
