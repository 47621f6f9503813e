//! What sampled blocks looked like when they were last written, as far as that is remembered.
//!
//! A table of fixed size: a block that falls on the place of another one displaces it. A tag of 14
//! bits takes one block in 16,000 for another one, which does not matter here.

use crate::sample::{Look, spread};

/// Sampled blocks that are remembered: as many as 32 GiB have. The table takes 2 MiB.
const PLACES: usize = 1 << 20;

/// The looks of blocks.
pub(crate) struct Known {
    places: Vec<u16>,
}

impl Known {
    pub(crate) fn new() -> Self {
        Self { places: vec![0; PLACES] }
    }

    /// Remembers the look of a block, and returns its look before; `None` if that is not known.
    pub(crate) fn replace(&mut self, block: u64, now: Look) -> Option<Look> {
        let hash = spread(block ^ 0x5555_5555_5555_5555);
        let tag = (hash >> 48) as u16 & !3;
        let place = &mut self.places[hash as usize % PLACES];
        let before = *place;
        *place = tag | code(now);
        if before & !3 != tag {
            return None;
        }
        [Look::Blank, Look::Structured, Look::Random]
            .into_iter()
            .find(|look| code(*look) == before & 3)
    }
}

/// Returns the code of a look; 0 is an empty place.
fn code(look: Look) -> u16 {
    match look {
        Look::Blank => 1,
        Look::Structured => 2,
        Look::Random => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_remembered_and_bounded() {
        let mut known = Known::new();
        assert_eq!(known.replace(7, Look::Structured), None);
        assert_eq!(known.replace(7, Look::Random), Some(Look::Structured));
        assert_eq!(known.replace(7, Look::Blank), Some(Look::Random));
        assert_eq!(known.replace(8, Look::Blank), None);
        for block in 100..4_000_000 {
            known.replace(block, Look::Structured);
        }
        assert_eq!(known.places.len(), PLACES);
    }
}
