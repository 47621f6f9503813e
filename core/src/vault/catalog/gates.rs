//! Gates: what readers, writers and people are told while a mirror adds versions, and their end
//! (`versions.rs` says which count).

use std::collections::HashSet;

use super::Catalog;
use crate::error::{Error, ErrorKind, Result};
use crate::vault::layout;

impl Catalog {
    /// Returns `Unavailable` while a gate ends the catalog before its newest version.
    pub(super) fn check_gate(&self) -> Result<()> {
        let Some(until) = self.gated else { return Ok(()) };
        Err(Error::new(ErrorKind::Unavailable, "append to catalog", &self.content.prefix)
            .message(format_args!(
                "a mirror is adding versions after {}, or died in it, or they were given up; if none comes any more, \
                 start a failover, which drops them",
                self.version
            ))
            .expected(format_args!("all versions up to {until}"))
            .found("a gap"))
    }

    /// Returns notes on the gates that were listed last, and on objects that are ignored, for people.
    pub(crate) fn gate_notes(&self) -> Vec<String> {
        let why = match self.gated {
            Some(until) => format!(
                "a mirror is adding versions up to {until} or died in it, or somebody accepted that they are lost; until \
                 then the catalog ends with {}",
                self.version
            ),
            None => "it is ignored, because no version is missing".to_owned(),
        };
        let gates = self.gates.iter().map(|gate| format!("{gate}: {why}"));
        gates.chain(self.intruder_notes()).collect()
    }

    /// Deletes what a mirror that died left: versions after a gap, and gates. Then the catalog can be
    /// appended to. The mirror must not go on.
    ///
    /// Does nothing if no gate was listed. `Corrupt` if segments of the version that was read are
    /// missing; nothing is deleted then.
    pub(crate) fn end_gates(&mut self) -> Result<()> {
        if self.gates.is_empty() {
            return Ok(());
        }
        self.refresh()?;
        if let Some(missing) = self.missing_segment()? {
            return Err(Error::new(ErrorKind::Corrupt, "end mirroring to", &self.content.prefix)
                .expected(format_args!("all segments of version {}", self.version))
                .found(format_args!("no {missing}")));
        }
        let names = self.listed()?;
        // The newest last: until it is gone, the gate explains what is left after a crash.
        for number in names.numbers().filter(|number| *number > self.version) {
            self.vault.store.delete(&self.object(number))?;
        }
        self.vault.store.delete_many(&names.gates())?;
        (self.gates, self.gated) = (Vec::new(), None);
        Ok(())
    }

    /// Returns a segment that the catalog lists and the store does not have.
    fn missing_segment(&self) -> Result<Option<String>> {
        let there = self.vault.store.list(&layout::segments_prefix(&self.info.name))?;
        let there: HashSet<_> = there.iter().map(|info| info.name.as_str()).collect();
        let mut listed = self.published().map(|entry| &entry.object);
        Ok(listed.find(|object| !there.contains(object.as_str())).cloned())
    }
}
