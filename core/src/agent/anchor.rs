//! The anchor, `STATE/anchor`: the newest catalog version and segment that this source published, and
//! how far the dirty map relies on the journal. It shows the next start whether vault and state
//! directory still are of one history.
//!
//! A start finds one of these: both agree; the vault went back, or is another copy that lacks what
//! was published; the state directory went back; another session used a copy of the directory. Only
//! the first is trusted. Otherwise the disk is compared with the replica.
//!
//! Invariants: the anchor is durable before a segment leaves the spool, and before the dirty map
//! relies on the journal. So an end of the catalog that neither the anchor nor the spool knows was
//! made by somebody else.
//!
//! Behaviour on failure: if the anchor cannot be written, the next start may find the end of the
//! catalog unknown. Then it compares more than needed.

use std::path::PathBuf;
use std::sync::Arc;

use super::state::{StateDirectory, lines_after, write_text};
use crate::bytes::{hex, parse_hex};
use crate::clock::{Clock, random_bytes};
use crate::device::Files;
use crate::error::{ErrorKind, Result};
use crate::event::Cause;
use crate::journal::{SegmentKind, SegmentSummary};
use crate::sync::lock::Mutex;
use crate::units::{ChainHash, Epoch, PointId, Sequence, Timestamp};
use crate::vault::{Branch, Catalog, CatalogContent, SourceIdentity, SourceInstance, host};

const FILE: &str = "anchor";
const FIRST_LINE: &str = "hrl anchor 1";
/// Sessions of the directory that are remembered: a put of one may arrive after it was killed.
const SESSIONS_MAX: usize = 8;
/// The source of an anchor that is forgotten.
const NOBODY: [u8; 16] = [0; 16];

/// The end of a chain of segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct End {
    pub sequence: Sequence,
    pub chain: ChainHash,
}

impl End {
    /// Returns the end of a segment.
    pub(super) fn of_segment(summary: &SegmentSummary) -> Self {
        Self { sequence: summary.last_sequence, chain: summary.chain }
    }

    fn of(catalog: &CatalogContent) -> Self {
        Self { sequence: catalog.last_sequence(), chain: catalog.last_chain() }
    }

    /// Returns the end of the segment that the state at `sequence` lies in.
    pub(crate) fn around(catalog: &CatalogContent, sequence: Sequence) -> Self {
        if sequence == Sequence::ZERO {
            return Self::default();
        }
        let segments = catalog.segments();
        let at = segments.partition_point(|entry| entry.summary.last_sequence < sequence);
        segments.get(at).map_or(Self::of(catalog), |entry| Self::of_segment(&entry.summary))
    }
}

/// What the state directory knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Anchor {
    /// Identity of the source that published.
    pub source: [u8; 16],
    /// Its epoch.
    pub epoch: Epoch,
    /// The sessions that used the directory, newest first.
    pub sessions: Vec<[u8; 16]>,
    /// When the newest of them began.
    pub since: Timestamp,
    /// Newest catalog version known.
    pub version: u64,
    /// Hash of its object.
    pub hash: [u8; 32],
    /// End of the catalog in that version.
    pub published: End,
    /// The dirty map relies on the journal up to here.
    pub promised: Sequence,
    /// No change gets a sequence up to this one any more.
    pub given: Sequence,
    /// The unordered interval that the catalog leaves open, and when it began.
    pub unordered: Option<(Cause, Timestamp)>,
    /// Time of the last record that was published.
    pub until: Timestamp,
    /// The planned failover that the volume was handed over to.
    pub handed_over: Option<PointId>,
}

/// How the vault and the state directory differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Difference {
    /// What went back, or is another.
    pub cause: Cause,
    /// The difference, in a sentence.
    pub message: String,
    /// Whether the disk must be compared with the replica. If not, only what others published to
    /// the catalog is gone.
    pub content: bool,
}

impl Anchor {
    /// Reads `STATE/anchor`; `None` in a directory of an older version, in a new one, or once it is
    /// forgotten.
    pub(crate) fn read(state: &StateDirectory) -> Result<Option<Self>> {
        Ok(Self::read_forgotten(state)?.filter(Self::knows_vault))
    }

    /// Reads `STATE/anchor`, even if nothing but its sessions is left.
    pub(super) fn read_forgotten(state: &StateDirectory) -> Result<Option<Self>> {
        state.read_text(&state.file(FILE), "the anchor of an agent", parse)
    }

    /// Forgets all but the sessions, because another history begins. A vault that goes back may have
    /// ended with one of them.
    pub(super) fn forget(state: &StateDirectory) -> Result<()> {
        match Self::read_forgotten(state) {
            Ok(None) => Ok(()),
            Ok(Some(Self { sessions, since, .. })) => {
                let forgotten = Self {
                    source: NOBODY,
                    epoch: Epoch::default(),
                    sessions,
                    since,
                    version: 0,
                    hash: [0; 32],
                    published: End::default(),
                    promised: Sequence::ZERO,
                    given: Sequence::ZERO,
                    unordered: None,
                    until: Timestamp(0),
                    handed_over: None,
                };
                state.write_text(&state.file(FILE), forgotten.print())
            }
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                state.remove_durably(&state.file(FILE))
            }
            Err(error) => Err(error),
        }
    }

    /// Returns the anchor of a session that begins with `catalog`. `before` is that of the last
    /// session, perhaps forgotten.
    ///
    /// The dirty map relies on the journal up to `promised`.
    pub(super) fn begin(
        catalog: &Catalog,
        source: &SourceIdentity,
        instance: &SourceInstance,
        promised: Sequence,
        before: Option<&Self>,
    ) -> Self {
        let mut sessions = vec![instance.id];
        sessions.extend(before.iter().flat_map(|before| &before.sessions));
        sessions.truncate(SESSIONS_MAX);
        let before = before.filter(|before| before.source == source.id);
        let mut anchor = Self {
            source: source.id,
            epoch: catalog.epoch(),
            sessions,
            since: instance.since,
            version: catalog.version(),
            hash: catalog.version_hash(),
            published: End::default(),
            promised,
            given: before.map_or(Sequence::ZERO, |before| before.given.max(before.end())),
            unordered: None,
            until: Timestamp(0),
            handed_over: None,
        };
        anchor.set_end(catalog, Sequence::ZERO);
        anchor
    }

    /// Returns the anchor of a session that begins while the vault is away. Of the vault it knows what
    /// the session before knew.
    pub(super) fn begin_away(&self, instance: &SourceInstance, promised: Sequence) -> Self {
        let mut sessions = vec![instance.id];
        sessions.extend(&self.sessions);
        sessions.truncate(SESSIONS_MAX);
        let (since, given) = (instance.since, self.given.max(self.end()));
        Self { sessions, since, promised, given, ..self.clone() }
    }

    /// Returns false if the anchor is forgotten.
    pub(super) fn knows_vault(&self) -> bool {
        self.source != NOBODY
    }

    /// Returns the highest sequence that is in the vault, or that the dirty map relies on.
    pub(crate) fn end(&self) -> Sequence {
        self.published.sequence.max(self.promised)
    }

    fn set_published(&mut self, catalog: &Catalog) {
        self.epoch = catalog.epoch();
        self.version = catalog.version();
        self.hash = catalog.version_hash();
        self.set_end(catalog, self.published.sequence);
        self.given = self.given.max(self.published.sequence);
    }

    /// Records the end of the catalog, whose segments up to the sequence `known` are known.
    fn set_end(&mut self, catalog: &Catalog, known: Sequence) {
        self.published = End::of(catalog);
        let segments = catalog.segments();
        let new = segments.partition_point(|entry| entry.summary.last_sequence <= known);
        for change in segments[new..].iter().flat_map(|entry| &entry.summary.order_changes) {
            let since = self.unordered.map_or(change.time, |(_, since)| since);
            self.unordered = change.begin.map(|cause| (cause, since));
        }
        self.until = segments.last().map_or(self.until, |last| last.summary.last_time);
    }

    /// Returns the first time at which a change may be missing from what was published; `None` if
    /// nothing was.
    pub(super) fn missing_since(&self) -> Option<Timestamp> {
        let lacks = |cause| !matches!(cause, Cause::InitialReplication | Cause::Requested);
        let open = self.unordered.filter(|(cause, _)| lacks(*cause)).map(|(_, since)| since);
        let after = Timestamp(self.until.0.saturating_add(1));
        (self.published.sequence > Sequence::ZERO).then(|| open.unwrap_or(after))
    }

    /// Compares the catalog with what the directory knows: this anchor, and the `spooled` segments
    /// that may be published already. `None` if they agree.
    pub(super) fn compare(
        &self,
        catalog: &Catalog,
        source: &SourceIdentity,
        spooled: &[End],
    ) -> Option<Difference> {
        if self.source != source.id || self.epoch != catalog.epoch() {
            return None;
        }
        let end = End::of(catalog);
        let differs = |cause, message| Some(Difference { cause, message, content: true });
        if end == self.published || spooled.contains(&end) {
            return self.compare_versions(catalog);
        }
        if end.sequence <= self.published.sequence || !contains(catalog, self.published) {
            return differs(
                Cause::VaultWentBack,
                format!(
                    "the vault ends with sequence {} of version {}, but {} of version {} were published from here: it went \
                     back, or it is another copy",
                    end.sequence,
                    catalog.version(),
                    self.published.sequence,
                    self.version
                ),
            );
        }
        let newest = catalog.instance();
        match newest.filter(|newest| newest.host != host()) {
            Some(other) => differs(
                Cause::OtherInstance,
                format!(
                    "a session on {}, begun at {}, has published sequences {} to {} as this source: it uses a copy of the \
                     state directory",
                    other.host, other.since, self.published.sequence, end.sequence
                ),
            ),
            None => differs(
                Cause::StateWentBack,
                format!(
                    "the vault has sequences {} to {} of this source, which the state directory does not know: the machine \
                     went back, or a copy of it is in use",
                    self.published.sequence, end.sequence
                ),
            ),
        }
    }

    /// Compares catalogs whose segments end alike.
    fn compare_versions(&self, catalog: &Catalog) -> Option<Difference> {
        let version = catalog.version();
        let is_there = version > self.version
            || (version == self.version && catalog.version_hash() == self.hash);
        (!is_there).then(|| Difference {
            cause: Cause::VaultWentBack,
            message: format!(
                "the vault has all data, but its catalog ends with another version {version} than the {} known here: pins, \
                 verdicts and deletions published since may be gone",
                self.version
            ),
            content: false,
        })
    }

    /// Returns what the branch of this source lacks, in a sentence; `None` if it has everything that
    /// the source published and that its dirty map relies on.
    pub(crate) fn lacking_in(&self, branch: &Branch) -> Option<String> {
        let last = branch.last_sequence();
        let is_other = last == self.published.sequence && branch.chain != self.published.chain;
        (last < self.end() || is_other).then(|| {
            format!(
                "its source had published or journaled up to sequence {}, and this vault has its changes up to {last}",
                self.end()
            )
        })
    }

    /// Returns what the state directory lacks of the branch of this source, in a sentence; `None` if
    /// the branch ended with what the source published, or with one of the segments `spooled`.
    pub(crate) fn lacks(&self, branch: &Branch, spooled: &[ChainHash]) -> Option<String> {
        let is_known = branch.chain == self.published.chain || spooled.contains(&branch.chain);
        (!is_known).then(|| {
            format!(
                "this vault has changes of its source up to sequence {}, and its state directory knows of those up to {}: \
                 the machine went back",
                branch.last_sequence(),
                self.published.sequence
            )
        })
    }

    fn print(&self) -> String {
        let sessions: Vec<_> = self.sessions.iter().map(|id| hex(id).to_string()).collect();
        let (cause, since) =
            self.unordered.map_or((0, 0), |(cause, since)| (cause.code(), since.0));
        let handed_over =
            self.handed_over.map_or_else(|| "none".to_owned(), |failover| failover.to_string());
        format!(
            "{FIRST_LINE}\nsource={}\nepoch={}\nsessions={}\nversion={}\nhash={}\npublished={}\nchain={}\n\
             promised={}\ngiven={}\nunordered={cause} {since}\nuntil={}\nhanded-over={handed_over}\n\
             since={}\n",
            hex(&self.source),
            self.epoch,
            sessions.join(","),
            self.version,
            hex(&self.hash),
            self.published.sequence.0,
            hex(&self.published.chain.0),
            self.promised.0,
            self.given.0,
            self.until.0,
            self.since.0
        )
    }
}

/// Returns whether the catalog went through `end`. An end inside a fold counts: only the state at
/// the end of the fold is left.
pub(crate) fn contains(catalog: &CatalogContent, end: End) -> bool {
    end.sequence == Sequence::ZERO
        || catalog.segments().iter().any(|entry| {
            let summary = &entry.summary;
            let folds_over = summary.kind != SegmentKind::Log
                && (summary.first_sequence..summary.last_sequence).contains(&end.sequence);
            folds_over || (summary.last_sequence, summary.chain) == (end.sequence, end.chain)
        })
}

/// The anchor of the running session, and its file.
pub(super) struct AnchorFile {
    path: PathBuf,
    files: Arc<dyn Files>,
    anchor: Mutex<Anchor>,
}

impl AnchorFile {
    /// Begins a session: writes `anchor` durably.
    pub(super) fn begin(state: &StateDirectory, anchor: Anchor) -> Result<Self> {
        let file = Self {
            path: state.file(FILE),
            files: state.files().clone(),
            anchor: Mutex::new(anchor),
        };
        file.change(|_| {})?;
        Ok(file)
    }

    /// Returns what is known now.
    pub(super) fn now(&self) -> Anchor {
        self.anchor.lock().clone()
    }

    /// Records the planned failover that the volume is handed over to; `None` if it is not.
    pub(super) fn hand_over(&self, failover: Option<PointId>) -> Result<()> {
        if self.anchor.lock().handed_over == failover {
            return Ok(());
        }
        self.change(|anchor| anchor.handed_over = failover)
    }

    /// Records what the catalog lists. Before a segment leaves the spool.
    pub(super) fn published(&self, catalog: &Catalog) -> Result<()> {
        self.change(|anchor| anchor.set_published(catalog))
    }

    /// Records that the dirty map will rely on the journal up to `sequence`.
    pub(super) fn promise(&self, sequence: Sequence) -> Result<()> {
        if self.anchor.lock().promised >= sequence {
            return Ok(());
        }
        self.change(|anchor| {
            anchor.promised = anchor.promised.max(sequence);
            anchor.given = anchor.given.max(sequence);
        })
    }

    /// Records that the vault went back to `catalog`, so that no promise is left. Does nothing if that
    /// cannot be written: the history before is the one that is known here, and may return.
    pub(super) fn went_back(&self, catalog: &Catalog, given: Sequence) -> Result<()> {
        let mut known = self.anchor.lock();
        let mut anchor = known.clone();
        anchor.promised = Sequence::ZERO;
        anchor.given = anchor.given.max(anchor.published.sequence).max(given);
        anchor.published = End::default();
        anchor.unordered = None;
        anchor.set_published(catalog);
        write_text(&*self.files, &self.path, anchor.print())?;
        *known = anchor;
        Ok(())
    }

    /// Returns the chain hash of the newest segment that was published.
    pub(super) fn chain(&self) -> ChainHash {
        self.anchor.lock().published.chain
    }

    /// Returns whether the catalog went through what was published from here.
    pub(super) fn is_in(&self, catalog: &Catalog) -> bool {
        contains(catalog, self.anchor.lock().published)
    }

    fn change(&self, change: impl FnOnce(&mut Anchor)) -> Result<()> {
        let mut anchor = self.anchor.lock();
        change(&mut anchor);
        write_text(&*self.files, &self.path, anchor.print())
    }
}

/// Returns a new session of the source on this host. It begins later than the last one of the state
/// directory and the one that published last, even if the clock went back.
pub(super) fn new_instance(
    clock: &dyn Clock,
    before: Option<&Anchor>,
    catalog: &CatalogContent,
) -> SourceInstance {
    let published = catalog.instance().map(|newest| newest.since);
    let (known, now) = (before.map(|before| before.since).max(published), clock.now());
    let since = known.map_or(now, |known| now.max(Timestamp(known.0.saturating_add(1))));
    SourceInstance { id: random_bytes(clock), host: host(), since }
}

/// Parses the text of `STATE/anchor` and prints it again; `None` if it is not valid. Feature
/// `testing`.
#[cfg(any(test, feature = "testing"))]
pub fn reprint_anchor(text: &str) -> Option<String> {
    parse(text).map(|anchor| anchor.print())
}

fn parse(text: &str) -> Option<Anchor> {
    let mut lines = lines_after(FIRST_LINE, text)?;
    let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix('=');
    let mut anchor = Anchor {
        source: parse_hex(field("source")?)?,
        epoch: Epoch(field("epoch")?.parse().ok()?),
        sessions: field("sessions")?.split(',').map(parse_hex).collect::<Option<_>>()?,
        since: Timestamp(0),
        version: field("version")?.parse().ok()?,
        hash: parse_hex(field("hash")?)?,
        published: End {
            sequence: Sequence(field("published")?.parse().ok()?),
            chain: ChainHash(parse_hex(field("chain")?)?),
        },
        promised: Sequence(field("promised")?.parse().ok()?),
        given: Sequence(field("given")?.parse().ok()?),
        unordered: None,
        until: Timestamp(0),
        handed_over: None,
    };
    // Older versions wrote no more.
    if let Some(unordered) = field("unordered") {
        let (code, since) = unordered.split_once(' ')?;
        let since = Timestamp(since.parse().ok()?);
        anchor.unordered = match code.parse().ok()? {
            0 => None,
            code => Some((Cause::from_code(code)?, since)),
        };
        anchor.until = Timestamp(field("until")?.parse().ok()?);
        anchor.handed_over = match field("handed-over")? {
            "none" => None,
            digits => Some(PointId::parse(digits)?),
        };
    }
    if let Some(since) = field("since") {
        anchor.since = Timestamp(since.parse().ok()?);
    }
    Some(anchor)
}
