//! Objects under the names of catalog versions that nobody with the volume's key has made.
//!
//! Whoever may add to a vault can put an object where the next version belongs; behind a gateway a
//! source's certificate is enough. Such an *intruder* does not authenticate under the key. It is
//! ignored, noted and reported. Without a key nothing tells it from a version: it is `Corrupt`.
//!
//! Only objects at the end are ignored, those after the last one that authenticates. One before a
//! version that authenticates is a version that was altered, because no writer goes on directly
//! after an intruder; that is `Corrupt`, and so is a version that does not follow the one before it.
//!
//! An intruder takes its number for ever. A writer that meets it puts a snapshot under the next
//! multiple of [`SNAPSHOT_EVERY`] after all intruders, where readers begin, so nobody reads across
//! it and there is no gap. Rivals race for that number by put-if-absent. None of them can have put
//! the version after the last good one, whose number is the intruder's. A late put of that number,
//! after the intruder was removed, finds versions far beyond (`Passed`) and is in nobody's way.
//!
//! A newest version that was altered looks like an intruder, as if it had been withheld: readers get
//! the state before it and a note. Who saw it notices: a handle, an agent's anchor and a reader's
//! memory know its number and hash, and the vault went back for them.
//!
//! A version under an earlier volume key than the one before it is an intruder, too: who lost that
//! key to a thief drew another. A version under a volume key that was drawn later is none. A reader that lacks its key looks for it
//! in the vault, and fails with `WrongKey` if a key of that generation is there which does not open:
//! behind a gateway no source can put one.
//!
//! Of more than [`INTRUDERS_MAX`] in a row a reader says `Corrupt`, until somebody removes them
//! (`hrl vault undelete` does) or a writer that knows an earlier version goes on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Catalog, NotPut, Read};
use crate::error::{Error, ErrorKind, Result};
use crate::store::get_all;
use crate::sync::lock::Mutex;
use crate::vault::version::{self, VERSION_BYTES_MAX, VersionEnvelope};
use crate::vault::versions::{SNAPSHOT_EVERY, VersionNames};

/// Most intruders that a handle ignores.
const INTRUDERS_MAX: usize = 1024;

/// The intruders that a handle and its copies have met.
#[derive(Clone, Default)]
pub(super) struct Intruders(Arc<Known>);

#[derive(Default)]
struct Known {
    /// Length of each object, by the number in its name.
    lengths: Mutex<BTreeMap<u64, u64>>,
    /// Some are not reported yet.
    new: AtomicBool,
}

impl Intruders {
    /// Takes those that are known out of a listing.
    pub(super) fn leave_out(&self, names: &mut VersionNames) {
        for (number, length) in self.0.lengths.lock().iter() {
            if names.length_of(*number) == Some(*length) {
                names.remove(*number);
            }
        }
    }

    /// Returns the highest number; zero if there are none.
    pub(super) fn newest(&self) -> u64 {
        self.0.lengths.lock().keys().last().copied().unwrap_or(0)
    }
}

impl Catalog {
    /// Returns the number of the version that a writer puts next.
    pub(super) fn next_number(&self) -> u64 {
        match self.intruders.newest() {
            newest if newest >= self.next => (newest / SNAPSHOT_EVERY + 1) * SNAPSHOT_EVERY,
            _ => self.next,
        }
    }

    /// Reads what a listing names, without the intruders at its end.
    pub(super) fn read_to_intruders(
        &mut self,
        read: fn(&mut Self, &VersionNames) -> Result<()>,
    ) -> Result<()> {
        // A failure leaves `None`.
        let checked = self.checked.take();
        let mut names = self.listed()?;
        self.checked = checked;
        loop {
            let result = read(self, &names);
            let kind = result.as_ref().map_err(Error::kind).err();
            let may_be = matches!(kind, Some(ErrorKind::Corrupt | ErrorKind::Diverged));
            if !may_be || !self.strip_end(&mut names)? {
                return result;
            }
        }
    }

    /// Reads the version that was in the way of a put.
    pub(super) fn read_taken(&self, number: u64) -> Result<Read, NotPut> {
        match self.read(number, None) {
            Err(error) if error.kind() == ErrorKind::Corrupt && self.is_intruder(number)? => {
                Err(NotPut::Intruded)
            }
            found => Ok(found?),
        }
    }

    /// Takes the newest object out of `names` if it is an intruder. One request if it is new.
    pub(super) fn strip_end(&self, names: &mut VersionNames) -> Result<bool> {
        let newest = names.newest();
        let strips = newest > self.version && self.is_intruder(newest)?;
        if strips {
            names.remove(newest);
        }
        Ok(strips)
    }

    /// Returns whether the object of version `number` does not authenticate, and remembers it then.
    pub(super) fn is_intruder(&self, number: u64) -> Result<bool> {
        if self.keys.all().is_empty() {
            return Ok(false);
        }
        let bytes = match get_all(&*self.vault.store, &self.object(number), VERSION_BYTES_MAX) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            bytes => bytes?,
        };
        let made_by_key =
            || version::authenticates(&bytes, self.id(number), &self.keys, self.generation);
        let mut authenticates = made_by_key();
        if !authenticates {
            self.learn_key_of(&bytes, number)?;
            authenticates = made_by_key();
        }
        let mut lengths = self.intruders.0.lengths.lock();
        if lengths.len() >= INTRUDERS_MAX || authenticates {
            return Ok(false);
        }
        if lengths.insert(number, bytes.len() as u64).is_none() {
            self.intruders.0.new.store(true, Ordering::Relaxed);
        }
        Ok(true)
    }

    /// Looks for the key that encrypts a version, if it is newer than those that are known: it may
    /// have been drawn since this handle was opened. `WrongKey` if it cannot be had.
    pub(super) fn learn_key_of(&self, bytes: &[u8], number: u64) -> Result<()> {
        let (object, newest) = (self.object(number), self.keys.all().pop());
        let (Some((newest, _)), Ok(envelope)) = (newest, VersionEnvelope::read(bytes, &object))
        else {
            return Ok(());
        };
        let generation = envelope.generation;
        // Every generation but the first may have two keys.
        if generation < newest.max(2) || envelope.number != number {
            return Ok(());
        }
        self.vault.learn_keys(&self.info, &self.keys, generation).map_err(|why| match why.kind() {
            ErrorKind::WrongKey => Error::new(ErrorKind::WrongKey, "read catalog", object)
                .expected(format_args!("generation {generation} of the volume key"))
                .caused_by(why),
            _ => why,
        })
    }

    /// Returns notes on the intruders that were met, for people.
    pub(super) fn intruder_notes(&self) -> Vec<String> {
        let why = "it is ignored: nobody with the key has made it, or it is a newest version that was altered since";
        let lengths = self.intruders.0.lengths.lock();
        lengths.keys().map(|number| format!("{}: {why}", self.object(*number))).collect()
    }

    /// Returns a sentence about intruders, once after new ones were met.
    pub(crate) fn report_intruders(&self) -> Option<String> {
        let is_new = self.intruders.0.new.swap(false, Ordering::Relaxed);
        let notes = is_new.then(|| self.intruder_notes())?;
        Some(format!(
            "{} objects in the catalog are ignored, at last {}",
            notes.len(),
            notes.last()?
        ))
    }
}
