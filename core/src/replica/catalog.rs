//! The catalog: what belongs to a volume, as a chain of numbered versions made with put-if-absent.
//!
//! Each version is an object: envelope, edits, checksum. Every [`SNAPSHOT_EVERY`]th holds the whole state, so that a
//! reader needs the newest of those and the versions after it. A version names the hash of the object before it and,
//! with a volume key, is sealed with a key derived from it.
//!
//! Invariants: a version never changes; a gap or a wrong hash is `Corrupt`; only the source that took the volume last
//! adds segments, and a source that finds another's version is `Fenced`.

use std::sync::Arc;

use chacha20poly1305::XChaCha20Poly1305;
use chacha20poly1305::aead::{AeadInOut, KeyInit};

use super::codec::{Decoder, Encoder};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Cause;
use crate::journal::{SegmentSummary, VolumeKey};
use crate::store::{PutOutcome, Store, get_all};
use crate::units::{ChainHash, Epoch, Sequence, Timestamp, VolumeId};

const MAGIC: &[u8; 8] = b"HRLCAT\x01\x00";
const KEY_CONTEXT: &str = "hrl 2026-11-21 catalog key v1";
/// A version whose number is a multiple of this holds the whole state.
const SNAPSHOT_EVERY: u64 = 64;
/// Largest version that is read.
const VERSION_BYTES_MAX: u64 = 256 << 20;
/// Highest number of a version. A volume that gets a thousand versions a second takes longer than the sun will.
const VERSIONS_MAX: u64 = 1 << 62;
/// Races lost in a row before an append gives up.
const RACES_MAX: u32 = 16;
const ENVELOPE_BYTES: usize = 8 + 4 + 16 + 8 + 32 + 16 + 24 + 16;

/// Who writes a volume: drawn at random for each state directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceIdentity {
    /// Random identity.
    pub id: [u8; 16],
    /// Name of the host, for people.
    pub host: String,
    /// When it took the volume.
    pub since: Timestamp,
}

/// A segment that belongs to the volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentEntry {
    /// Full name of its object in the store.
    pub object: String,
    /// What it holds.
    pub summary: SegmentSummary,
}

/// One change of the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CatalogEdit {
    /// A source takes the volume; edits of any other are refused from now on.
    Source(SourceIdentity),
    /// Segments at the end of the chain.
    Segments(Vec<SegmentEntry>),
    /// These entries take the place of these objects.
    Replace {
        /// What replaces them.
        with: Vec<SegmentEntry>,
        /// The objects replaced.
        objects: Vec<String>,
    },
}

/// One stretch of a volume's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineEntry {
    /// First sequence of the stretch.
    pub from: Sequence,
    /// Last sequence of the stretch.
    pub to: Sequence,
    /// When it began.
    pub from_time: Timestamp,
    /// When it ended.
    pub to_time: Timestamp,
    /// `None` for an ordered stretch, where every sequence can be restored; else why it is not.
    pub unordered: Option<Cause>,
}

/// The catalog as of one version, and the way to append the next. One owner at a time.
#[derive(Clone)]
pub struct Catalog {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    prefix: String,
    volume: VolumeId,
    key: Option<VolumeKey>,
    version: u64,
    hash: [u8; 32],
    source: Option<SourceIdentity>,
    segments: Vec<SegmentEntry>,
}

impl Catalog {
    /// Reads the newest version. An empty catalog is version 0.
    pub(super) fn load(
        store: &Arc<dyn Store>,
        clock: &Arc<dyn Clock>,
        volume_name: &str,
        volume: VolumeId,
        key: Option<&VolumeKey>,
    ) -> Result<Self> {
        let mut catalog = Self {
            store: store.clone(),
            clock: clock.clone(),
            prefix: format!("volumes/{volume_name}/catalog/"),
            volume,
            key: key.cloned(),
            version: 0,
            hash: [0; 32],
            source: None,
            segments: Vec::new(),
        };
        let numbers = catalog.numbers()?;
        let Some(&newest) = numbers.last() else { return Ok(catalog) };
        let first = newest / SNAPSHOT_EVERY * SNAPSHOT_EVERY;
        for number in first.max(1)..=newest {
            let version = catalog.read(number)?;
            catalog.apply_read(version, number, number == first)?;
        }
        Ok(catalog)
    }

    /// Number of the version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The segments, in write order.
    pub fn segments(&self) -> &[SegmentEntry] {
        &self.segments
    }

    /// Who writes the volume.
    pub fn source(&self) -> Option<&SourceIdentity> {
        self.source.as_ref()
    }

    /// Last sequence in the catalog.
    pub fn last_sequence(&self) -> Sequence {
        self.segments.last().map_or(Sequence::ZERO, |entry| entry.summary.last_sequence)
    }

    /// Chain hash that the next segment must name.
    pub fn last_chain(&self) -> ChainHash {
        self.segments.last().map_or(ChainHash::default(), |entry| entry.summary.chain)
    }

    /// Epoch of the newest segment.
    pub fn epoch(&self) -> Epoch {
        self.segments.last().map_or(Epoch(1), |entry| entry.summary.epoch)
    }

    /// The cause of an unordered interval that has not ended.
    pub fn open_unordered(&self) -> Option<Cause> {
        self.segments
            .iter()
            .rev()
            .find_map(|entry| entry.summary.order_changes.last())
            .and_then(|change| change.begin)
    }

    /// The history in stretches, oldest first.
    pub fn timeline(&self) -> Vec<TimelineEntry> {
        let mut entries: Vec<TimelineEntry> = Vec::new();
        for SegmentEntry { summary, .. } in &self.segments {
            if entries.is_empty() {
                entries.push(stretch(summary.first_sequence, summary.first_time, None));
            }
            for change in &summary.order_changes {
                let Some(last) = entries.last_mut() else { continue };
                if last.unordered.is_some() && change.begin.is_some() {
                    continue;
                }
                last.to = Sequence(change.sequence.0.saturating_sub(1));
                last.to_time = change.time;
                entries.push(stretch(change.sequence, change.time, change.begin));
            }
            if let Some(last) = entries.last_mut() {
                last.to = summary.last_sequence;
                last.to_time = summary.last_time;
            }
        }
        entries.retain(|entry| entry.from <= entry.to);
        entries
    }

    /// True when the volume as of `sequence` is a state that it really had, as far as order goes.
    pub fn is_ordered_at(&self, sequence: Sequence) -> bool {
        let mut begun: Option<Sequence> = None;
        for change in self.segments.iter().flat_map(|entry| &entry.summary.order_changes) {
            match (change.begin, begun) {
                (Some(_), None) => begun = Some(change.sequence),
                (None, Some(begin)) => {
                    if sequence >= begin && sequence < change.sequence {
                        return false;
                    }
                    begun = None;
                }
                _ => {}
            }
        }
        begun.is_none_or(|begin| sequence < begin)
    }

    /// The newest sequence that can be restored; `None` before the first copy is complete.
    pub fn newest_ordered(&self) -> Option<Sequence> {
        let last = self.segments.last()?.summary.last_sequence;
        let mut begun: Option<Sequence> = None;
        for change in self.segments.iter().flat_map(|entry| &entry.summary.order_changes) {
            begun = change.begin.map(|_| begun.unwrap_or(change.sequence));
        }
        match begun {
            None => Some(last),
            Some(begin) => Some(Sequence(begin.0.saturating_sub(1))).filter(|s| s.0 > 0),
        }
    }

    /// Writes the next version and applies it here. Durable when it returns.
    ///
    /// `Fenced` when another source took the volume; `Corrupt` when segments do not continue the chain. May be called
    /// again with the same edits after any other failure, also when the answer of a put was lost.
    pub fn append(&mut self, source: &SourceIdentity, edits: Vec<CatalogEdit>) -> Result<()> {
        for _ in 0..RACES_MAX {
            self.check_source(source, &edits)?;
            let mut next = self.clone();
            edits.iter().try_for_each(|edit| next.apply(edit.clone()))?;
            let number = self.version + 1;
            let bytes = if number.is_multiple_of(SNAPSHOT_EVERY) {
                self.encode(number, source, &next.state())
            } else {
                self.encode(number, source, &edits)
            };
            match self.store.put(&self.object(number), &bytes)? {
                PutOutcome::Created => {
                    next.version = number;
                    next.hash = *blake3::hash(&bytes).as_bytes();
                    *self = next;
                    self.forget_old_versions();
                    return Ok(());
                }
                PutOutcome::AlreadyExists => {
                    let version = self.read(number)?;
                    let ours = version.author == source.id
                        && (version.edits == edits || version.edits == next.state());
                    self.apply_read(version, number, number.is_multiple_of(SNAPSHOT_EVERY))?;
                    if ours {
                        return Ok(());
                    }
                }
            }
        }
        Err(Error::new(ErrorKind::Unavailable, "append to catalog", &self.prefix)
            .message("other writers were faster each time")
            .found(format_args!("{RACES_MAX} lost races")))
    }

    /// Reads versions that others appended since.
    pub fn refresh(&mut self) -> Result<()> {
        let numbers = self.numbers()?;
        let newest = numbers.last().copied().unwrap_or(0);
        if newest >= self.version + SNAPSHOT_EVERY {
            *self = Self::load(
                &self.store,
                &self.clock,
                self.prefix.trim_start_matches("volumes/").trim_end_matches("/catalog/"),
                self.volume,
                self.key.as_ref(),
            )?;
        }
        for number in self.version + 1..=newest {
            let version = self.read(number)?;
            self.apply_read(version, number, number.is_multiple_of(SNAPSHOT_EVERY))?;
        }
        Ok(())
    }

    fn check_source(&self, source: &SourceIdentity, edits: &[CatalogEdit]) -> Result<()> {
        let takes =
            matches!(edits.first(), Some(CatalogEdit::Source(taker)) if taker.id == source.id);
        match &self.source {
            Some(owner) if owner.id != source.id && !takes => {
                Err(Error::new(ErrorKind::Fenced, "append to catalog", &self.prefix).message(
                    format_args!(
                        "the volume belongs to the source on {} since {}",
                        owner.host, owner.since
                    ),
                ))
            }
            _ => Ok(()),
        }
    }

    fn apply(&mut self, edit: CatalogEdit) -> Result<()> {
        match edit {
            CatalogEdit::Source(source) => self.source = Some(source),
            CatalogEdit::Segments(entries) => {
                for entry in entries {
                    self.check_chain(&entry)?;
                    self.segments.push(entry);
                }
            }
            CatalogEdit::Replace { with, objects } => self.replace(with, &objects)?,
        }
        Ok(())
    }

    fn check_chain(&self, entry: &SegmentEntry) -> Result<()> {
        let bad = || Error::new(ErrorKind::Corrupt, "add to catalog", &entry.object);
        let summary = &entry.summary;
        if summary.volume != self.volume {
            return Err(bad()
                .expected(format_args!("volume {}", self.volume))
                .found(format_args!("volume {}", summary.volume)));
        }
        if summary.previous != self.last_chain() {
            return Err(bad()
                .expected(format_args!("a segment after chain hash {}", self.last_chain()))
                .found(format_args!("one after {}", summary.previous)));
        }
        let ordered = summary.first_sequence > self.last_sequence()
            && summary.last_sequence >= summary.first_sequence
            && (self.segments.is_empty() || summary.epoch >= self.epoch());
        if !ordered {
            return Err(bad()
                .expected(format_args!("sequences above {}", self.last_sequence()))
                .found(format_args!("{} to {}", summary.first_sequence, summary.last_sequence)));
        }
        Ok(())
    }

    fn replace(&mut self, with: Vec<SegmentEntry>, objects: &[String]) -> Result<()> {
        let first = self.segments.iter().position(|entry| objects.contains(&entry.object));
        let Some(first) = first.filter(|first| {
            self.segments[*first..].iter().take(objects.len()).map(|e| &e.object).eq(objects)
        }) else {
            return Err(Error::new(ErrorKind::InvalidInput, "replace in catalog", &self.prefix)
                .expected("objects that follow each other in the catalog")
                .found(objects.join(", ")));
        };
        self.segments.splice(first..first + objects.len(), with);
        Ok(())
    }

    /// The edits that make this state from nothing.
    fn state(&self) -> Vec<CatalogEdit> {
        let mut edits: Vec<_> = self.source.clone().map(CatalogEdit::Source).into_iter().collect();
        edits.push(CatalogEdit::Segments(self.segments.clone()));
        edits
    }

    fn object(&self, number: u64) -> String {
        format!("{}{number:016x}", self.prefix)
    }

    /// Numbers of the versions in the store, which must follow each other from the newest snapshot on. Objects whose
    /// names are not those of versions are none.
    fn numbers(&self) -> Result<Vec<u64>> {
        let number_of = |name: &str| {
            let number = u64::from_str_radix(name.strip_prefix(&self.prefix)?, 16).ok()?;
            (self.object(number) == name).then_some(number)
        };
        let numbers: Vec<u64> = self
            .store
            .list(&self.prefix)?
            .iter()
            .filter_map(|info| number_of(&info.name))
            .collect();
        if let Some(newest) = numbers.last() {
            if *newest > VERSIONS_MAX {
                return Err(Error::new(ErrorKind::Corrupt, "read catalog", &self.prefix)
                    .expected(format_args!("versions up to {VERSIONS_MAX}"))
                    .found(format_args!("version {newest}")));
            }
            let first = (newest / SNAPSHOT_EVERY * SNAPSHOT_EVERY).max(1);
            for number in first..=*newest {
                if numbers.binary_search(&number).is_err() {
                    return Err(Error::new(ErrorKind::Corrupt, "read catalog", &self.prefix)
                        .expected(format_args!("version {number}"))
                        .found("a gap"));
                }
            }
        }
        Ok(numbers)
    }

    fn apply_read(&mut self, version: Version, number: u64, whole: bool) -> Result<()> {
        if version.previous != self.hash && !(whole && self.version + 1 != number) {
            return Err(Error::new(ErrorKind::Corrupt, "read catalog", self.object(number))
                .expected("the version that follows the one before")
                .found("one that follows another"));
        }
        if whole {
            self.segments.clear();
            self.source = None;
        }
        version.edits.into_iter().try_for_each(|edit| self.apply_trusted(edit))?;
        self.version = number;
        self.hash = version.hash;
        Ok(())
    }

    /// Applies what a version says. A compacted history has no chain from the first segment on, so a snapshot's
    /// entries are taken as they are; the checks were made when they were appended.
    fn apply_trusted(&mut self, edit: CatalogEdit) -> Result<()> {
        match edit {
            CatalogEdit::Segments(entries) if self.segments.is_empty() => {
                self.segments = entries;
                Ok(())
            }
            other => self.apply(other),
        }
    }

    /// Removes versions that no reader needs. A failure costs nothing but space.
    fn forget_old_versions(&self) {
        if !self.version.is_multiple_of(SNAPSHOT_EVERY) || self.version < 2 * SNAPSHOT_EVERY {
            return;
        }
        let keep = self.version - SNAPSHOT_EVERY;
        for number in self.numbers().unwrap_or_default() {
            if number < keep {
                let _ = self.store.delete(&self.object(number));
            }
        }
    }

    fn encode(&self, number: u64, author: &SourceIdentity, edits: &[CatalogEdit]) -> Vec<u8> {
        let mut body = Encoder::default();
        body.u32(edits.len() as u32);
        edits.iter().for_each(|edit| body.edit(edit));
        let mut body = body.0;
        let mut out = Encoder::default();
        out.bytes(MAGIC).u32(u32::from(self.key.is_some())).bytes(&self.volume.0).u64(number);
        out.bytes(&self.hash).bytes(&author.id);
        let mut nonce = [0; 24];
        let mut tag = [0; 16];
        if let Some(key) = &self.key {
            self.clock.fill_random(&mut nonce);
            tag = cipher(key)
                .encrypt_inout_detached(&nonce.into(), &out.0, body.as_mut_slice().into())
                .expect("a catalog version is far below the limit of the cipher")
                .into();
        }
        out.bytes(&nonce).bytes(&tag).bytes(&body);
        let crc = crc32fast::hash(&out.0);
        out.u32(crc);
        out.0
    }

    fn read(&self, number: u64) -> Result<Version> {
        let object = self.object(number);
        let bytes = get_all(&*self.store, &object, VERSION_BYTES_MAX)?;
        let bad = |at: usize| Error::new(ErrorKind::Corrupt, "read catalog", &object).at(at as u64);
        if bytes.len() < ENVELOPE_BYTES + 4 || &bytes[..8] != MAGIC {
            return Err(bad(0)
                .expected("magic HRLCAT")
                .found(format_args!("{} bytes", bytes.len())));
        }
        let (content, crc) = bytes.split_at(bytes.len() - 4);
        let found = u32::from_le_bytes(crc.try_into().expect("4 bytes"));
        let expected = crc32fast::hash(content);
        if found != expected {
            return Err(bad(content.len())
                .expected(format_args!("checksum {expected:#010x}"))
                .found(format_args!("{found:#010x}")));
        }
        let mut decoder = Decoder::new(&content[8..], &object);
        let sealed = decoder.u32()? != 0;
        if decoder.array::<16>()? != self.volume.0 || decoder.u64()? != number {
            return Err(bad(12)
                .expected(format_args!("version {number} of volume {}", self.volume))
                .found("another version or volume"));
        }
        let previous = decoder.array()?;
        let author = decoder.array()?;
        let mut body = content[ENVELOPE_BYTES..].to_vec();
        match (&self.key, sealed) {
            (None, false) => {}
            (Some(key), true) => {
                let nonce: [u8; 24] = decoder.array()?;
                let tag: [u8; 16] = decoder.array()?;
                let aad = &content[..ENVELOPE_BYTES - 40];
                cipher(key)
                    .decrypt_inout_detached(
                        &nonce.into(),
                        aad,
                        body.as_mut_slice().into(),
                        &tag.into(),
                    )
                    .map_err(|_| {
                        bad(0).expected("the version that was sealed here").found("another")
                    })?;
            }
            (None, true) => {
                return Err(Error::new(ErrorKind::WrongKey, "read catalog", &object)
                    .message("the catalog is sealed and no key was given"));
            }
            (Some(_), false) => {
                return Err(bad(8).expected("a sealed version").found("one that is not"));
            }
        }
        let mut decoder = Decoder::new(&body, &object);
        let count = decoder.count(1)?;
        let edits = (0..count).map(|_| decoder.edit()).collect::<Result<_>>()?;
        decoder.end()?;
        Ok(Version { previous, author, edits, hash: *blake3::hash(&bytes).as_bytes() })
    }
}

struct Version {
    previous: [u8; 32],
    author: [u8; 16],
    edits: Vec<CatalogEdit>,
    hash: [u8; 32],
}

/// Makes an altered catalog version one that follows the version with the hash `previous`, in volume `volume` under
/// `number`, and its checksum right; returns its hash. Feature `testing`.
#[cfg(any(test, feature = "testing"))]
pub fn mend_catalog_version(
    bytes: &mut [u8],
    volume: VolumeId,
    number: u64,
    previous: [u8; 32],
) -> [u8; 32] {
    if bytes.len() >= ENVELOPE_BYTES + 4 {
        bytes[12..28].copy_from_slice(&volume.0);
        bytes[28..36].copy_from_slice(&number.to_le_bytes());
        bytes[36..68].copy_from_slice(&previous);
        let checked = bytes.len() - 4;
        let crc = crc32fast::hash(&bytes[..checked]);
        bytes[checked..].copy_from_slice(&crc.to_le_bytes());
    }
    *blake3::hash(bytes).as_bytes()
}

fn cipher(key: &VolumeKey) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(&key.derive(KEY_CONTEXT, &[]).into())
}

fn stretch(from: Sequence, time: Timestamp, unordered: Option<Cause>) -> TimelineEntry {
    TimelineEntry { from, to: from, from_time: time, to_time: time, unordered }
}
