//! Goes on beyond versions of a catalog that are lost.

use super::{Catalog, SNAPSHOT_EVERY, VERSIONS_MAX, is_snapshot};
use crate::error::{Error, ErrorKind, Result};
use crate::vault::edit::{CatalogEdit, SourceIdentity};

impl Catalog {
    /// Writes the content as a snapshot whose number is beyond version `known` and beyond any that
    /// may be put on top of that. For the source, when the vault went back to before `known`.
    ///
    /// A version that was put after those that are gone, or whose put comes late, is before this
    /// one, where nobody reads. The version before it announces its number, so that whatever others
    /// append meanwhile has that number, too, and this one does not pass it, however late it comes.
    /// On top of lost versions nobody appends, so there it is not announced.
    pub(crate) fn go_beyond(
        &mut self,
        known: u64,
        source: &SourceIdentity,
        edits: &[CatalogEdit],
    ) -> Result<()> {
        self.vault.put_back_keys(&self.info, &self.keys)?;
        let (listed, before) = (self.listed()?.newest(), self.next);
        let newest = listed.max(known).max(self.version).max(self.intruders.newest());
        let mut number = (newest / SNAPSHOT_EVERY + 2) * SNAPSHOT_EVERY;
        if listed > self.version {
            self.next = number;
        } else if self.next > newest + 1 {
            // It was announced before, and is not there.
            number = self.next;
        }
        let mut edits = edits.to_vec();
        while self.next_number() < number {
            edits.push(CatalogEdit::Next(number));
            self.append(source, std::mem::take(&mut edits))?;
        }
        let result = self.append(source, edits);
        if result.is_err() && self.next == number && listed > self.version {
            self.next = before;
        }
        result
    }

    /// Puts all that is known here beyond a gap before this version, which no other reader can pass.
    /// Returns the first version that was missing; `None` if none is, or this is not the newest.
    pub(crate) fn bridge_gap(&mut self, source: &SourceIdentity) -> Result<Option<u64>> {
        let names = self.listed()?;
        let gap = names
            .gap_before(self.version)
            .filter(|_| names.newest() == self.version && names.gate_in_force().is_none());
        if gap.is_none() || !self.has_version(self.version, self.known.hash)? {
            return Ok(None);
        }
        self.go_beyond(self.version, source, &[])?;
        Ok(gap)
    }

    /// Returns the number of the version after `number`, which lists these edits. `Corrupt` if they
    /// announce one that is no later snapshot.
    pub(super) fn next_after(&self, number: u64, edits: &[CatalogEdit]) -> Result<u64> {
        let announced = edits.iter().find_map(|edit| match edit {
            CatalogEdit::Next(next) => Some(*next),
            _ => None,
        });
        match announced {
            None => Ok(number + 1),
            Some(next) if is_snapshot(next) && next > number && next <= VERSIONS_MAX => Ok(next),
            Some(next) => Err(Error::new(ErrorKind::Corrupt, "read catalog", self.object(number))
                .expected("a later snapshot to be next")
                .found(format_args!("version {next}"))),
        }
    }
}
