//! A store in which small segments may lie together in packs, which costs fewer requests.
//!
//! It is laid over another store and shows the segments of packs under their own names: `get`,
//! `head`, `list` and `delete` find them wherever they are. The packs themselves are not listed.
//! `put_packed` makes one; every other put is passed on.
//!
//!
//! Invariants: a pack never changes. A member is deleted by a pack of the other members, put before
//! the old pack is deleted; so nobody can take a segment away who may only put. Markers of older
//! versions therefore count for nothing: the members that they name are there until somebody
//! deletes them again, and go with their pack. A segment may lie in several packs, or beside them,
//! if a put was repeated or two deleted at once: the bytes are the same, because names of segments
//! carry random salts, and a delete removes all of them.
//!
//! What is known of a volume's packs is cached. It is read again if a segment is not found, and
//! before any answer about existence (`head`, `list`, `delete`). A `get` may still return a member
//! that another client just deleted, like any reader that began before.

mod format;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::format::{Member, TAIL_BYTES_MAX, Table, parse_name};
pub use self::format::{PACK_DATA_BYTES_MAX, PACK_MEMBERS_MAX};
#[cfg(any(test, feature = "testing"))]
pub use self::format::{mend_pack, reprint_pack};
use super::layout::{self, SegmentName};
use crate::error::{Error, ErrorKind, Result};
use crate::parallel;
use crate::store::{ObjectInfo, PutOutcome, Store, get_all};
use crate::sync::lock::Mutex;

/// Volumes whose packs are cached.
const VOLUMES_MAX: usize = 256;
/// Tables read at once.
const TABLES_AT_ONCE: usize = 16;
/// Rounds of a delete. Another client that deletes from the same packs makes packs meanwhile.
const DELETE_ROUNDS_MAX: u32 = 16;

/// A store that finds segments in packs.
pub struct PackedStore {
    inner: Arc<dyn Store>,
    volumes: Mutex<HashMap<String, Arc<Listing>>>,
    /// Locked while packs are listed for the first time.
    listing: Mutex<()>,
}

/// The packs of a volume as they were listed.
#[derive(Default)]
struct Listing {
    packs: Vec<Arc<Pack>>,
    /// Markers of older versions, each with the name of its pack.
    markers: Vec<(String, String)>,
}

struct Pack {
    /// Full name of its object.
    object: String,
    length: u64,
    span: (u64, u64),
    table: Mutex<Option<Arc<Table>>>,
}

impl PackedStore {
    /// Shows the segments in packs of `inner` under their own names.
    pub fn over(inner: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self { inner, volumes: Mutex::default(), listing: Mutex::default() })
    }

    /// Returns the volume of an object that can be put into a pack.
    pub fn packable(name: &str) -> Option<&str> {
        layout::split_segment(name).map(|segment| segment.volume)
    }

    /// Returns first and last sequence in the name of an object that can be put into a pack.
    pub fn sequences(name: &str) -> Option<(u64, u64)> {
        layout::split_segment(name).map(|segment| segment.span)
    }

    /// Puts segments of one volume together; durable when it returns. May be repeated.
    ///
    /// `InvalidInput` if a name is not that of a segment of the volume, or a limit of packs is
    /// exceeded.
    pub fn put_packed(&self, volume: &str, objects: &[(String, Vec<u8>)]) -> Result<()> {
        let mut members = Vec::with_capacity(objects.len());
        let mut data_bytes = 0_u64;
        for (name, content) in objects {
            let Some(segment) =
                layout::split_segment(name).filter(|segment| segment.volume == volume)
            else {
                return Err(Error::new(ErrorKind::InvalidInput, "pack", name)
                    .expected(format_args!("a segment of volume {volume}")));
            };
            data_bytes += content.len() as u64;
            members.push((segment.member, content.as_slice()));
        }
        if members.len() > PACK_MEMBERS_MAX || data_bytes > PACK_DATA_BYTES_MAX {
            return Err(Error::new(ErrorKind::InvalidInput, "pack segments of", volume)
                .expected(format_args!(
                    "at most {PACK_MEMBERS_MAX} of {PACK_DATA_BYTES_MAX} bytes in all"
                ))
                .found(format_args!("{} of {data_bytes}", members.len())));
        }
        self.put_members(volume, &members)?;
        self.volumes.lock().remove(volume);
        Ok(())
    }

    /// Puts a pack. Its name is that of its content, so if it exists it is the same; `Corrupt` if
    /// somebody put another object there, because then these members would be nowhere.
    fn put_members(&self, volume: &str, members: &[(&str, &[u8])]) -> Result<()> {
        let (name, bytes) = format::encode(members);
        let object = format!("{}{name}", layout::packs_prefix(volume));
        if self.inner.put(&object, &bytes)? == PutOutcome::AlreadyExists
            && get_all(&*self.inner, &object, bytes.len() as u64)? != bytes
        {
            return Err(Error::new(ErrorKind::Corrupt, "pack segments of", volume)
                .expected(format_args!("{object} as its name says"))
                .found("another object"));
        }
        Ok(())
    }

    /// Returns what is known of a volume's packs. Lists them once if nothing is known, however many
    /// callers wait.
    fn listed(&self, volume: &str) -> Result<Arc<Listing>> {
        let known = || self.volumes.lock().get(volume).cloned();
        if let Some(listing) = known() {
            return Ok(listing);
        }
        let _one = self.listing.lock();
        known().map_or_else(|| self.refresh(volume), Ok)
    }

    fn refresh(&self, volume: &str) -> Result<Arc<Listing>> {
        let objects = self.inner.list(&layout::packs_prefix(volume))?;
        Ok(self.keep(volume, &objects))
    }

    /// Caches what was listed; tables that were read before are kept.
    fn keep(&self, volume: &str, objects: &[ObjectInfo]) -> Arc<Listing> {
        let mut volumes = self.volumes.lock();
        let old = volumes.get(volume).cloned().unwrap_or_default();
        let old: HashMap<&str, &Arc<Pack>> =
            old.packs.iter().map(|pack| (pack.object.as_str(), pack)).collect();
        let listing = Arc::new(Listing::of(objects, &layout::packs_prefix(volume), &old));
        if volumes.len() >= VOLUMES_MAX {
            volumes.clear();
        }
        volumes.insert(volume.to_owned(), listing.clone());
        listing
    }

    /// Returns the pack and the place of a segment, if it is in one.
    fn find(
        &self,
        listing: &Listing,
        wanted: &SegmentName<'_>,
    ) -> Result<Option<(Arc<Pack>, Member)>> {
        let mut failure = None;
        for pack in listing.packs.iter().filter(|pack| pack.covers(wanted.span)) {
            let table = match pack.table(&*self.inner) {
                Ok(table) => table,
                Err(error) => {
                    // Deleted meanwhile, with all members; or broken, and the segment may be in
                    // another.
                    failure = Some(error).filter(|e| e.kind() != ErrorKind::NotFound).or(failure);
                    continue;
                }
            };
            if let Some(member) = table.iter().find(|member| member.name == wanted.member) {
                return Ok(Some((pack.clone(), member.clone())));
            }
        }
        failure.map_or(Ok(None), Err)
    }

    fn get_member(
        &self,
        listing: &Listing,
        wanted: &SegmentName<'_>,
        range: &Range<u64>,
    ) -> Result<Option<Vec<u8>>> {
        let Some((pack, member)) = self.find(listing, wanted)? else { return Ok(None) };
        let length = member.bytes.end - member.bytes.start;
        if range.start > range.end || range.end > length {
            return Err(Error::new(ErrorKind::InvalidInput, "get from store", wanted.object)
                .at(range.start)
                .expected(format_args!("a range within {length} bytes"))
                .found(format_args!("{}..{}", range.start, range.end)));
        }
        let start = member.bytes.start;
        self.inner.get(&pack.object, start + range.start..start + range.end).map(Some)
    }

    /// Returns the members that are there, as objects of the volume.
    fn members(&self, volume: &str, listing: &Listing) -> Result<Vec<ObjectInfo>> {
        let mut found = Vec::new();
        for some in listing.packs.chunks(TABLES_AT_ONCE) {
            for table in parallel::all(some, |pack| pack.table(&*self.inner)) {
                let Some(table) = readable(table)? else { continue };
                found.extend(table.iter().map(|member| ObjectInfo {
                    name: format!("{}{}", layout::segments_prefix(volume), member.name),
                    length: member.bytes.end - member.bytes.start,
                }));
            }
        }
        Ok(found)
    }

    /// Deletes members: puts packs of the others, then deletes the packs that had them, until none
    /// has.
    fn delete_members(&self, volume: &str, segments: &[SegmentName<'_>]) -> Result<()> {
        for _ in 0..DELETE_ROUNDS_MAX {
            let listing = self.refresh(volume)?;
            let mut old = Vec::new();
            for pack in &listing.packs {
                let wanted: Vec<_> = segments.iter().filter(|s| pack.covers(s.span)).collect();
                if !wanted.is_empty() && self.put_rest(volume, pack, &wanted)? {
                    old.push(pack.object.clone());
                }
            }
            let without_pack = |pack: &String| {
                old.contains(pack) || !listing.packs.iter().any(|p| p.object == *pack)
            };
            let markers = listing.markers.iter().filter(|(_, pack)| without_pack(pack));
            let markers: Vec<_> = markers.map(|(marker, _)| marker.clone()).collect();
            self.volumes.lock().remove(volume);
            self.inner.delete_many(&old)?;
            self.inner.delete_many(&markers)?;
            if old.is_empty() {
                return Ok(());
            }
        }
        Err(Error::new(ErrorKind::Unavailable, "delete from packs of", volume)
            .message("other clients make packs as fast as they are deleted"))
    }

    /// Puts a pack of the members that are not wanted. Returns false if the pack has none that is.
    fn put_rest(
        &self,
        volume: &str,
        pack: &Arc<Pack>,
        unwanted: &[&SegmentName<'_>],
    ) -> Result<bool> {
        let Some(table) = readable(pack.table(&*self.inner))? else { return Ok(false) };
        let goes = |member: &Member| unwanted.iter().any(|s| s.member == member.name);
        if !table.iter().any(goes) {
            return Ok(false);
        }
        let rest: Vec<_> = table.iter().filter(|member| !goes(member)).collect();
        if let (Some(first), Some(last)) = (rest.first(), rest.last()) {
            let start = first.bytes.start;
            let read = match self.inner.get(&pack.object, start..last.bytes.end) {
                // Another client has put its members elsewhere; the next round finds them.
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
                read => read?,
            };
            let content = |member: &Member| {
                &read[(member.bytes.start - start) as usize..(member.bytes.end - start) as usize]
            };
            let members: Vec<_> = rest.iter().map(|m| (m.name.as_str(), content(m))).collect();
            self.put_members(volume, &members)?;
        }
        Ok(true)
    }
}

impl Listing {
    fn of(objects: &[ObjectInfo], directory: &str, known: &HashMap<&str, &Arc<Pack>>) -> Self {
        let mut listing = Self::default();
        for info in objects {
            match info.name.strip_prefix(directory).and_then(parse_name) {
                Some((pack, _, true)) => {
                    listing.markers.push((info.name.clone(), format!("{directory}{pack}")));
                }
                Some((_, span, false)) => {
                    let new = || {
                        let (object, table) = (info.name.clone(), Mutex::default());
                        Arc::new(Pack { object, length: info.length, span, table })
                    };
                    let known = known.get(info.name.as_str());
                    listing.packs.push(known.map_or_else(new, |pack| (*pack).clone()));
                }
                None => {}
            }
        }
        listing
    }
}

impl Pack {
    fn covers(&self, span: (u64, u64)) -> bool {
        self.span.0 <= span.0 && span.1 <= self.span.1
    }

    fn table(&self, store: &dyn Store) -> Result<Arc<Table>> {
        let mut known = self.table.lock();
        if let Some(table) = &*known {
            return Ok(table.clone());
        }
        let tail =
            store.get(&self.object, self.length.saturating_sub(TAIL_BYTES_MAX)..self.length)?;
        let table = Arc::new(format::decode(&tail, self.length, &self.object)?);
        *known = Some(table.clone());
        Ok(table)
    }
}

impl Store for PackedStore {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn put(&self, name: &str, content: &[u8]) -> Result<PutOutcome> {
        self.inner.put(name, content)
    }

    fn put_file(&self, name: &str, path: &Path) -> Result<PutOutcome> {
        self.inner.put_file(name, path)
    }

    fn get(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        let Some(wanted) = layout::split_segment(name) else { return self.inner.get(name, range) };
        let listing = self.listed(wanted.volume)?;
        match self.get_member(&listing, &wanted, &range) {
            Ok(Some(bytes)) => return Ok(bytes),
            Err(error) if error.kind() == ErrorKind::InvalidInput => return Err(error),
            // Not in a known pack, or the pack is gone or broken; the segment may be elsewhere.
            Ok(None) | Err(_) => {}
        }
        match self.inner.get(name, range.clone()) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let listing = self.refresh(wanted.volume)?;
                self.get_member(&listing, &wanted, &range)?.ok_or(error)
            }
            found => found,
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let mut found = self.inner.list(prefix)?;
        let below = layout::split_volume(prefix);
        let mut members = Vec::new();
        if let Some((volume, _)) = below {
            let segments = layout::segments_prefix(volume);
            if segments.starts_with(prefix) || prefix.starts_with(&segments) {
                let listing = self.refresh(volume)?;
                members = self.members(volume, &listing)?;
            }
        } else {
            // The listing contains packs of every volume.
            let mut packs: BTreeMap<&str, Vec<ObjectInfo>> = BTreeMap::new();
            for info in &found {
                if let Some(volume) = layout::volume_of_pack(&info.name) {
                    packs.entry(volume).or_default().push(info.clone());
                }
            }
            for (volume, objects) in packs {
                members.extend(self.members(volume, &self.keep(volume, &objects))?);
            }
        }
        found.retain(|info| layout::volume_of_pack(&info.name).is_none());
        found.extend(members.into_iter().filter(|info| info.name.starts_with(prefix)));
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found.dedup_by(|a, b| a.name == b.name);
        Ok(found)
    }

    fn head(&self, name: &str) -> Result<Option<ObjectInfo>> {
        let found = self.inner.head(name)?;
        let Some(wanted) = layout::split_segment(name).filter(|_| found.is_none()) else {
            return Ok(found);
        };
        let listing = self.refresh(wanted.volume)?;
        let place = self.find(&listing, &wanted)?;
        Ok(place.map(|(_, member)| ObjectInfo {
            name: name.to_owned(),
            length: member.bytes.end - member.bytes.start,
        }))
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.inner.delete(name)?;
        match layout::split_segment(name) {
            Some(wanted) => self.delete_members(wanted.volume, &[wanted]),
            None => Ok(()),
        }
    }

    fn delete_many(&self, names: &[String]) -> Result<()> {
        self.inner.delete_many(names)?;
        let mut volumes: BTreeMap<&str, Vec<SegmentName<'_>>> = BTreeMap::new();
        for wanted in names.iter().filter_map(|name| layout::split_segment(name)) {
            volumes.entry(wanted.volume).or_default().push(wanted);
        }
        volumes.iter().try_for_each(|(volume, segments)| self.delete_members(volume, segments))
    }

    fn may_delete(&self) -> bool {
        self.inner.may_delete()
    }

    fn is_locked(&self, name: &str) -> Result<bool> {
        let in_pack = match layout::split_segment(name) {
            Some(wanted) => self.find(&*self.listed(wanted.volume)?, &wanted)?,
            None => None,
        };
        self.inner.is_locked(in_pack.as_ref().map_or(name, |(pack, _)| &pack.object))
    }

    fn renew_locks(&self, prefix: &str, is_unwanted: &dyn Fn(&str) -> bool) -> Result<()> {
        // A pack is unwanted if all its members are. Only a store with locks asks.
        self.inner.renew_locks(prefix, &|name| {
            let Some((volume, _)) = layout::split_volume(name) else { return is_unwanted(name) };
            if !name.starts_with(&layout::packs_prefix(volume)) {
                return is_unwanted(name);
            }
            let Ok(listing) = self.listed(volume) else { return false };
            let pack = listing.packs.iter().find(|pack| pack.object == name);
            let Some(Ok(table)) = pack.map(|pack| pack.table(&*self.inner)) else { return false };
            let segments = layout::segments_prefix(volume);
            table.iter().all(|member| is_unwanted(&format!("{segments}{}", member.name)))
        })
    }

    fn local_path(&self, name: &str) -> Option<PathBuf> {
        let path = self.inner.local_path(name)?;
        // A member of a pack is no file of its own.
        (layout::split_segment(name).is_none() || path.exists()).then_some(path)
    }
}

/// Returns `None` for the table of a pack that was deleted meanwhile or is broken. Nobody knows the
/// members of a broken pack; a reader of one of them gets the error.
fn readable(table: Result<Arc<Table>>) -> Result<Option<Arc<Table>>> {
    match table {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => Ok(None),
        table => table.map(Some),
    }
}
