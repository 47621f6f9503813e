//! The presence log of an instant disk: which blocks are durable in its target.
//!
//! `core/docs/format.md` specifies its bytes. A frame is written and synced before the next one
//! begins, so after a crash only the last can be torn: it is ignored. A bad frame before a whole one
//! is damage, and an error, because the entries of the frames between would be lost.
//!
//! The log is rewritten, under another name that is then renamed, when it is opened, and when it has
//! 1 Mi entries and twice as many as when it was rewritten last.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::bytes::{Reader, Writer};
use crate::device::{Files, NewFile, directory_of, remove_if_there};
use crate::error::{Error, ErrorKind, Result};
use crate::extent::{Extent, ExtentSet};
use crate::replica::layers::Presence;
use crate::units::{Epoch, Sequence, VolumeId};

const MAGIC: &[u8; 8] = b"HRLPRES\x01";
const FRAME_MAGIC: &[u8; 4] = b"hrlP";
const HEADER_BYTES: usize = 64;
const HEAD_BYTES: usize = 32;
const ENTRY_BYTES: usize = 16;
/// Most entries of a frame: 1 MiB.
const FRAME_ENTRIES_MAX: usize = 1 << 16;
/// Fewest entries of a log that is rewritten because it has twice as many as when it was rewritten
/// last.
const REWRITE_ENTRIES: u64 = 1 << 20;

/// The disk that the log belongs to. Opening it for another is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub volume: VolumeId,
    pub epoch: Epoch,
    pub sequence: Sequence,
    pub size_bytes: u64,
    pub block_bytes: u64,
}

pub(super) struct PresenceLog {
    path: PathBuf,
    files: Arc<dyn Files>,
    file: Box<dyn NewFile>,
    identity: Identity,
    frames: u64,
    entries: u64,
    entries_when_rewritten: u64,
}

impl PresenceLog {
    /// Opens a log, or creates one, and adds its blocks to `presence`. Returns whether there was
    /// one. `Changed` if it belongs to another disk, `Corrupt` if it is damaged.
    pub(super) fn open(
        files: Arc<dyn Files>,
        path: &Path,
        identity: Identity,
        presence: &Presence,
    ) -> Result<(Self, bool)> {
        let existed = files.exists(path);
        if existed {
            let content = files.map(path)?;
            read(path, (*content).as_ref(), Some(&identity), |extent| {
                presence.set_present(extent);
            })?;
        }
        Ok((Self::write_new(files, path, identity, presence, &ExtentSet::new())?, existed))
    }

    /// Adds extents, durably. After an error the log must be opened again.
    pub(super) fn append(&mut self, extents: impl Iterator<Item = Extent>) -> Result<()> {
        let mut bytes = Vec::new();
        let entries = write_frames(&mut bytes, &mut self.frames, extents)
            .map_err(|error| failed("write to", &self.path, error))?;
        self.file
            .append(&bytes)
            .and_then(|()| self.file.sync())
            .map_err(|error| failed("write to", &self.path, error))?;
        self.entries += entries;
        Ok(())
    }

    pub(super) fn should_be_rewritten(&self) -> bool {
        self.entries >= REWRITE_ENTRIES.max(2 * self.entries_when_rewritten)
    }

    /// Replaces the log by one of the present blocks, without those that wait to be logged.
    pub(super) fn rewrite(&mut self, presence: &Presence, waiting: &ExtentSet) -> Result<()> {
        *self = Self::write_new(self.files.clone(), &self.path, self.identity, presence, waiting)?;
        Ok(())
    }

    /// Deletes the file, durably. May be repeated.
    pub(super) fn remove(&self) -> Result<()> {
        remove_if_there(&*self.files, &self.path)?;
        sync_directory(&*self.files, &self.path)
    }

    fn write_new(
        files: Arc<dyn Files>,
        path: &Path,
        identity: Identity,
        presence: &Presence,
        waiting: &ExtentSet,
    ) -> Result<Self> {
        let extents = logged_runs(presence, identity.size_bytes, waiting);
        let mut name = path.as_os_str().to_owned();
        name.push(".new");
        let temporary = PathBuf::from(name);
        remove_if_there(&*files, &temporary)?;
        let write = || {
            let mut file = files.create(&temporary)?;
            let mut writer = BufWriter::with_capacity(1 << 20, Appending(&mut *file));
            writer.write_all(&header(&identity))?;
            let mut frames = 0;
            let entries = write_frames(&mut writer, &mut frames, extents)?;
            writer.flush()?;
            drop(writer);
            file.sync()?;
            files.rename(&temporary, path)?;
            Ok((file, frames, entries))
        };
        let (file, frames, entries) = write().map_err(|error| failed("write", path, error))?;
        sync_directory(&*files, path)?;
        Ok(Self {
            path: path.to_owned(),
            files,
            file,
            identity,
            frames,
            entries,
            entries_when_rewritten: entries,
        })
    }
}

/// A new file as a `Write`.
struct Appending<'a>(&'a mut dyn NewFile);

impl Write for Appending<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.append(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn failed(operation: &'static str, path: &Path, error: std::io::Error) -> Error {
    Error::io(operation, format_args!("presence log {}", path.display()), error)
}

/// Returns the present blocks that do not wait to be logged.
fn logged_runs<'a>(
    presence: &'a Presence,
    size_bytes: u64,
    waiting: &'a ExtentSet,
) -> impl Iterator<Item = Extent> + 'a {
    let present = presence.runs(Extent { offset: 0, length: size_bytes });
    present.filter(|(_, present)| *present).flat_map(|(run, _)| {
        let mut rest: ExtentSet = std::iter::once(run).collect();
        waiting.within(run).for_each(|extent| rest.remove(extent));
        rest.iter().collect::<Vec<_>>()
    })
}

/// Returns what a log says is durable in its disk. `Corrupt` if the log is damaged.
pub(crate) fn present_in(files: &dyn Files, path: &Path) -> Result<ExtentSet> {
    let content = files.map(path)?;
    let mut present = ExtentSet::new();
    read(path, (*content).as_ref(), None, |extent| present.insert(extent))?;
    Ok(present)
}

/// Makes the name of a file durable.
pub(super) fn sync_directory(files: &dyn Files, path: &Path) -> Result<()> {
    let directory = directory_of(path);
    files.sync_directory(directory).map_err(|error| Error::io("sync", directory.display(), error))
}

fn header(identity: &Identity) -> [u8; HEADER_BYTES] {
    let mut out = Vec::with_capacity(HEADER_BYTES);
    out.put_bytes(MAGIC).put_bytes(&identity.volume.0).put_u64_le(identity.sequence.0);
    out.put_u64_le(identity.size_bytes).put_u64_le(identity.block_bytes);
    out.put_u32_le(identity.epoch.0).put_zeroes(8).put_crc32_le();
    out.try_into().expect("the header's size is the sum of its fields")
}

/// Makes checksums and numbers of an altered log's frames match again, and the checksum of its
/// header, as far as the frames can be followed. Feature `testing`.
#[cfg(any(test, feature = "testing"))]
pub fn mend_presence_log(bytes: &mut [u8]) {
    let Some((header, mut rest)) = bytes.split_at_mut_checked(HEADER_BYTES) else { return };
    crate::bytes::overwrite_crc32_le(header);
    let mut number = 0;
    while let Some((head, body)) = rest.split_at_mut_checked(HEAD_BYTES) {
        let count = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        let wanted = (count as usize).saturating_mul(ENTRY_BYTES);
        let Some((body, after)) = body.split_at_mut_checked(wanted) else { return };
        head.copy_from_slice(&frame_head(count, number, body));
        (rest, number) = (after, number + 1);
    }
}

fn frame_head(count: u32, number: u64, body: &[u8]) -> Vec<u8> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    head.put_bytes(FRAME_MAGIC).put_u32_le(count).put_u64_le(number).put_zeroes(8);
    head.put_u32_le(crc32fast::hash(body)).put_crc32_le();
    head
}

/// Writes frames of the extents, and returns the number of entries.
fn write_frames(
    out: &mut impl Write,
    frames: &mut u64,
    extents: impl Iterator<Item = Extent>,
) -> std::io::Result<u64> {
    let mut extents = extents.peekable();
    let (mut entries, mut body) = (0, Vec::new());
    while extents.peek().is_some() {
        body.clear();
        for extent in extents.by_ref().take(FRAME_ENTRIES_MAX) {
            body.put_u64_le(extent.offset).put_u64_le(extent.length);
        }
        let count = (body.len() / ENTRY_BYTES) as u32;
        out.write_all(&frame_head(count, *frames, &body))?;
        out.write_all(&body)?;
        *frames += 1;
        entries += u64::from(count);
    }
    Ok(entries)
}

/// What precedes the entries of a frame.
struct FrameHead {
    entries: usize,
    number: u64,
    /// CRC-32 of the entries.
    checksum: u32,
}

/// Reads the head of a frame.
fn parse_head(head: &[u8]) -> Result<FrameHead> {
    let mut from = Reader::new(head, "read", "presence log");
    from.magic(FRAME_MAGIC)?;
    let entries = from.u32_le()? as usize;
    if !(1..=FRAME_ENTRIES_MAX).contains(&entries) {
        return Err(from.invalid(format_args!("1 to {FRAME_ENTRIES_MAX} entries"), entries));
    }
    let number = from.u64_le()?;
    from.zeroes(8)?;
    let checksum = from.u32_le()?;
    from.crc32_le()?;
    from.end()?;
    Ok(FrameHead { entries, number, checksum })
}

/// Reads a log, of the disk that is `expected` if that is known. `found` gets what is present.
fn read(
    path: &Path,
    bytes: &[u8],
    expected: Option<&Identity>,
    mut found: impl FnMut(Extent),
) -> Result<()> {
    let object = format!("presence log {}", path.display());
    let corrupt = |at: usize| Error::new(ErrorKind::Corrupt, "read", &object).at(at as u64);
    let Some((header, mut rest)) = bytes.split_at_checked(HEADER_BYTES) else {
        let found = format_args!("{} bytes", bytes.len());
        return Err(corrupt(0).expected("a header of 64 bytes").found(found));
    };
    let identity = parse_header(&object, header)?;
    if let Some(expected) = expected.filter(|expected| **expected != identity) {
        return Err(Error::new(ErrorKind::Changed, "open", object)
            .message("it belongs to another state")
            .expected(describe(expected))
            .found(describe(&identity)));
    }
    let mut number = 0;
    while let Some((head, after)) = rest.split_at_checked(HEAD_BYTES) {
        let at = bytes.len() - rest.len();
        // Each frame is synced before the next is written, so no whole frame follows a bad one.
        let check_is_last = |rest: &[u8]| {
            let mut windows = rest.windows(HEAD_BYTES).step_by(ENTRY_BYTES);
            if !windows.any(|window| is_head_after(number, window)) {
                return Ok(());
            }
            let expected = format_args!("frame {number}");
            Err(corrupt(at).expected(expected).found("damage before a later frame"))
        };
        let frame = match parse_head(head) {
            Ok(frame) if frame.number == number => frame,
            _ => return check_is_last(&rest[ENTRY_BYTES..]),
        };
        let Some((body, next)) = after.split_at_checked(frame.entries * ENTRY_BYTES) else {
            return Ok(());
        };
        if crc32fast::hash(body) != frame.checksum {
            return check_is_last(next);
        }
        let mut entries = Reader::new(body, "read", &object);
        for _ in 0..frame.entries {
            let (offset, length) = (entries.u64_le()?, entries.u64_le()?);
            let end = offset.checked_add(length).filter(|end| *end <= identity.size_bytes);
            let is_edge =
                |at: u64| at == identity.size_bytes || at.is_multiple_of(identity.block_bytes);
            let is_good = |end: &u64| offset < *end && is_edge(offset) && is_edge(*end);
            let Some(end) = end.filter(is_good) else {
                return Err(corrupt(at)
                    .expected("blocks within the disk")
                    .found(format_args!("{length} bytes from {offset}")));
            };
            found(Extent::from_bounds(offset, end));
        }
        (rest, number) = (next, number + 1);
    }
    Ok(())
}

/// Returns whether these bytes are the head of a later frame than `number`.
fn is_head_after(number: u64, bytes: &[u8]) -> bool {
    bytes.starts_with(FRAME_MAGIC) && parse_head(bytes).is_ok_and(|frame| frame.number > number)
}

fn parse_header(object: &str, bytes: &[u8]) -> Result<Identity> {
    let mut from = Reader::new(bytes, "read", object);
    from.magic(MAGIC)?;
    let (volume, sequence) = (VolumeId(from.array()?), Sequence(from.u64_le()?));
    let (size_bytes, block_bytes) = (from.u64_le()?, from.u64_le()?);
    if block_bytes == 0 {
        return Err(from.invalid("a block size above zero", block_bytes));
    }
    let epoch = Epoch(from.u32_le()?);
    from.zeroes(8)?;
    from.crc32_le()?;
    Ok(Identity { volume, epoch, sequence, size_bytes, block_bytes })
}

fn describe(identity: &Identity) -> String {
    let Identity { volume, epoch, sequence, size_bytes, .. } = identity;
    format!("volume {volume} at sequence {sequence} of epoch {epoch}, {size_bytes} bytes")
}
