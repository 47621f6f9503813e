//! Checks of edits that do not come from the source: folding, pins, verdicts, deletions, steps.
//!
//! Each check sees the newest version, with the edits of the same amendment that come before
//! applied. An amendment never touches the end of the chain, so it fences no source.

use std::collections::HashSet;

use super::annotations::{ANNOTATION_BYTES_MAX, PINS_MAX};
use super::content::CatalogContent;
use super::edit::{CatalogEdit, SegmentEntry};
use crate::error::{Error, ErrorKind, Result};
use crate::units::PointId;

/// Checks an edit. `Changed` if the catalog changed so that it no longer fits, `InvalidInput` if
/// only a source makes it.
pub(super) fn check(content: &CatalogContent, edit: &CatalogEdit) -> Result<()> {
    let refused = |kind| Error::new(kind, "amend catalog", &content.prefix);
    match edit {
        CatalogEdit::Source(_)
        | CatalogEdit::Instance(_)
        | CatalogEdit::Segments(_)
        | CatalogEdit::Committed(_)
        | CatalogEdit::Divide(_)
        | CatalogEdit::Epoch(_)
        | CatalogEdit::Lifecycle(_)
        | CatalogEdit::Heartbeat(_)
        | CatalogEdit::Next(_) => Err(refused(ErrorKind::InvalidInput)
            .message("only a source takes a volume or adds segments")),
        CatalogEdit::Late { epoch, segments } => content.check_late(*epoch, segments),
        // A dropped branch comes back.
        CatalogEdit::Branch(branch) if branch.epoch < content.epoch => {
            if content.branches.iter().any(|known| known.epoch == branch.epoch) {
                return Err(refused(ErrorKind::Changed).message("the branch is there already"));
            }
            Ok(())
        }
        CatalogEdit::Branch(_) => {
            Err(refused(ErrorKind::InvalidInput).message("its epoch has not ended"))
        }
        CatalogEdit::DropBranch(epoch) => content.branch(*epoch).map(|_| ()),
        CatalogEdit::Step(step) => content.lifecycle.check(step, &content.prefix),
        CatalogEdit::Replace { with, objects } => check_replace(content, with, objects),
        CatalogEdit::Pin(pin) => {
            check_point(content, pin.point)?;
            check_text(content, &pin.reason)?;
            if content.pins().len() >= PINS_MAX {
                return Err(
                    refused(ErrorKind::Full).expected(format_args!("at most {PINS_MAX} pins"))
                );
            }
            Ok(())
        }
        CatalogEdit::Unpin { point, legal_hold } => {
            if content.pins().iter().any(|p| p.point == *point && p.is_legal_hold() == *legal_hold)
            {
                return Ok(());
            }
            Err(Error::new(ErrorKind::NotFound, "unpin point", point)
                .expected(if *legal_hold { "a legal hold" } else { "a pin that is no legal hold" })
                .found("none"))
        }
        CatalogEdit::Verdict(verdict) => {
            check_point(content, verdict.point)?;
            check_text(content, &verdict.text)
        }
        CatalogEdit::Retired { objects, .. } => {
            match content.published().find(|entry| objects.contains(&entry.object)) {
                None => Ok(()),
                Some(entry) => Err(refused(ErrorKind::Changed)
                    .message(format_args!("{} belongs to the volume", entry.object))),
            }
        }
        CatalogEdit::Deleted(_) => Ok(()),
    }
}

fn check_point(content: &CatalogContent, point: PointId) -> Result<()> {
    if content.has_point(point) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::NotFound, "annotate point", point)
        .message("the catalog has no such recovery point"))
}

fn check_text(content: &CatalogContent, text: &str) -> Result<()> {
    if text.len() <= ANNOTATION_BYTES_MAX {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidInput, "annotate point", &content.prefix)
        .expected(format_args!("a text of at most {ANNOTATION_BYTES_MAX} bytes"))
        .found(text.len()))
}

/// Checks what replaces segments: same place in the chain, same sequences, and every point that is
/// protected now.
fn check_replace(
    content: &CatalogContent,
    with: &[SegmentEntry],
    objects: &[String],
) -> Result<()> {
    let changed = |message: &str| {
        Error::new(ErrorKind::Changed, "fold segments of", &content.prefix).message(message)
    };
    let Some(first) = content.position_of(objects) else {
        return Err(changed("the segments were folded by another already"));
    };
    if let Some(gone) = with.iter().find(|e| content.retired().contains_key(&e.object)) {
        return Err(changed("the new segment took too long and was given up for a stray")
            .found(&gone.object));
    }
    let old = &content.segments[first..first + objects.len()];
    let (Some(old_first), Some(old_last)) = (old.first(), old.last()) else {
        return Err(changed("nothing is to be replaced"));
    };
    let (Some(new_first), Some(new_last)) = (with.first(), with.last()) else {
        return Err(changed("nothing takes the place of the segments"));
    };
    let same = new_first.summary.previous == old_first.summary.previous
        && new_first.summary.first_sequence == old_first.summary.first_sequence
        && new_last.summary.chain == old_last.summary.chain
        && new_last.summary.last_sequence == old_last.summary.last_sequence;
    if !same {
        return Err(changed("the new segment does not stand for those that it replaces"));
    }
    let inside = old_first.summary.first_sequence..old_last.summary.last_sequence;
    if let Some(needed) = content.needed_states().find(|state| inside.contains(state)) {
        return Err(changed("a branch or a failover stands on a state inside").found(needed));
    }
    let marks = |entries: &[SegmentEntry]| -> HashSet<PointId> {
        entries.iter().flat_map(|e| &e.summary.marks).map(|m| m.mark.point).collect()
    };
    let (before, after) = (marks(old), marks(with));
    match content
        .protected_points(|_| true)
        .keys()
        .find(|p| before.contains(p) && !after.contains(p))
    {
        None => Ok(()),
        Some(point) => Err(changed("a protected point would be lost").found(point)),
    }
}
