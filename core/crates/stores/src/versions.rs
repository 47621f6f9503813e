//! Brings back what was deleted or replaced in a bucket with versions by whoever had its
//! credentials, and then what tombstones have.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use hrl::journal::WrappingKey;
use hrl::store::{ObjectInfo, PutOutcome, Store};
use hrl::vault::layout;
use hrl::{Error, ErrorKind, Result, SystemClock};
use hrl_cloud::{HiddenObject, ObjectStore};
use hrl_maintain::{UndeleteOptions, Undeleted, undelete};

/// Brings back what was deleted since a time from a vault in an object store, as
/// [`undelete`](crate::undelete) does for its URL.
pub fn undelete_in_bucket(
    bucket: ObjectStore,
    key: Option<&WrappingKey>,
    options: &UndeleteOptions,
) -> Result<Vec<Undeleted>> {
    let mut hidden = match bucket.hidden("", options.since) {
        Err(error) if error.kind() == ErrorKind::Unsupported => Vec::new(),
        hidden => hidden?,
    };
    let volume_of = |name: &str| layout::split_volume(name).map(|(volume, _)| volume.to_owned());
    hidden.retain(|object| {
        let volume = volume_of(&object.name);
        let is_marker = volume.as_ref().is_some_and(|v| object.name == layout::shredded(v));
        let is_asked = options
            .volumes
            .as_ref()
            .is_none_or(|asked| volume.is_some_and(|volume| asked.contains(&volume)));
        is_asked && !is_marker
    });
    // Readers find a whole volume, or none.
    hidden.sort_by_key(|object| object.name.ends_with("/volume"));
    let clock = SystemClock::shared();
    let bucket = Arc::new(bucket);
    let store: Arc<dyn Store> = if options.dry_run {
        let shown = hidden.iter().map(|object| (object.name.clone(), object.clone())).collect();
        Arc::new(Revealed { bucket, shown })
    } else {
        hidden.iter().try_for_each(|object| bucket.unhide(object))?;
        bucket
    };
    let mut done = undelete(&store, key, &clock, options)?;
    for object in hidden {
        let volume = volume_of(&object.name);
        let at = done.iter().position(|entry| entry.volume == volume).unwrap_or_else(|| {
            done.push(Undeleted { volume, ..Undeleted::default() });
            done.len() - 1
        });
        done[at].objects += 1;
        done[at].bytes += object.length;
    }
    Ok(done)
}

/// A bucket as it would be with what is hidden in it. Nothing can be written.
struct Revealed {
    bucket: Arc<ObjectStore>,
    shown: BTreeMap<String, HiddenObject>,
}

fn info_of(object: &HiddenObject) -> ObjectInfo {
    ObjectInfo { name: object.name.clone(), length: object.length }
}

fn read_only(operation: &'static str, name: &str) -> Error {
    Error::new(ErrorKind::ReadOnly, operation, name).message("a dry run changes nothing")
}

impl Store for Revealed {
    fn name(&self) -> String {
        self.bucket.name()
    }

    fn put(&self, name: &str, _content: &[u8]) -> Result<PutOutcome> {
        Err(read_only("put", name))
    }

    fn get(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        match self.shown.get(name) {
            Some(object) => self.bucket.get_hidden(object, range),
            None => self.bucket.get(name, range),
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let mut found = self.bucket.list(prefix)?;
        found.retain(|info| !self.shown.contains_key(&info.name));
        found.extend(self.shown.values().filter(|o| o.name.starts_with(prefix)).map(info_of));
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    fn head(&self, name: &str) -> Result<Option<ObjectInfo>> {
        match self.shown.get(name) {
            Some(object) => Ok(Some(info_of(object))),
            None => self.bucket.head(name),
        }
    }

    fn delete(&self, name: &str) -> Result<()> {
        Err(read_only("delete", name))
    }
}
