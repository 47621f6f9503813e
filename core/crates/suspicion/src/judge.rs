//! Decides, from samples alone, whether what is written changed suddenly. No I/O, no clock.
//!
//! Samples gather in a *window* until they suffice for a judgement. A window is *encrypting* if much
//! of it is random, and the bytes of that are equally frequent. Encrypting windows in a row are a
//! *streak*. A streak is a sudden change if such data is unusual for the volume, and
//!
//! - a quarter of it replaces data that was structured, or
//! - it is long: a copy with new names replaces nothing that is known.
//!
//! A window that is not encrypting ends the streak. What is usual is a mean of the windows before.

use std::fmt;

use hrl::{Sequence, Timestamp};

use crate::known::Known;
use crate::sample::{BLOCK_BYTES, Frequencies, Look, is_sampled, look};

/// Random bytes that a judgement needs: 11 MiB of random data on the volume.
const COUNTED_MIN: u64 = 256 << 10;
/// A window that has so many samples without them is not encrypting: 64 MiB.
const SAMPLES_MAX: u64 = 2048;
/// So is one that lasts longer.
const WINDOW_NS_MAX: i64 = 30 * 60 * 1_000_000_000;
/// Share of a window that is random, if it is encrypting.
const SHARE_MIN: f64 = 0.25;
/// Share of a streak that replaces structured data, if it is sudden.
const REPLACED_MIN: f64 = 0.25;
/// Random samples of a streak that is sudden whatever it replaces: 64 MiB.
const LONG: u64 = 2048;
/// Samples that a volume is learned by, before a long streak counts: 256 MiB.
pub(crate) const LEARNED_MIN: u64 = 8192;

/// A sudden change.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// First sequence that may belong to it.
    pub since: Sequence,
    /// Share of what was written that looks encrypted, from 0 to 1.
    pub share: f64,
    /// The same share of what was usual before.
    pub usual: f64,
    /// Share of the encrypted data that replaced structured data.
    pub replaced: f64,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |share: f64| (share * 100.0).round();
        write!(
            f,
            "from sequence {} on {} % of what is written looks encrypted, where {} % is usual; {} % of that replaced \
             readable data. Points from then on are suspicious until they are trusted",
            self.since,
            percent(self.share),
            percent(self.usual),
            percent(self.replaced)
        )
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    samples: u64,
    random: u64,
    /// Random ones that replaced structured data.
    replaced: u64,
}

struct Window {
    counts: Counts,
    frequencies: Frequencies,
    begun: Option<Timestamp>,
    /// First sequence of the first segment that has enough random data.
    since: Option<Sequence>,
    /// Samples and random ones of the open segment.
    segment: Counts,
}

impl Window {
    fn new() -> Self {
        let (counts, segment) = (Counts::default(), Counts::default());
        Self { counts, frequencies: Frequencies::new(), begun: None, since: None, segment }
    }
}

/// What is learned of a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Learned {
    /// Usual share of data that looks encrypted.
    pub(crate) usual: f64,
    /// Samples that it was learned by.
    pub(crate) samples: u64,
}

impl Learned {
    fn add(&mut self, counts: Counts, encrypting: bool) {
        let share = if encrypting { share(counts.random, counts.samples) } else { 0.0 };
        self.samples = self.samples.saturating_add(counts.samples);
        // A plain mean at first, then one of the last samples.
        let weight = counts.samples as f64 / self.samples.clamp(1, LEARNED_MIN) as f64;
        self.usual += (share - self.usual) * weight.min(1.0);
    }
}

/// Gathers samples and judges them.
pub(crate) struct Judge {
    known: Known,
    window: Window,
    streak: Counts,
    streak_since: Option<Sequence>,
    pub(crate) learned: Learned,
}

impl Judge {
    pub(crate) fn new(learned: Learned) -> Self {
        Self {
            known: Known::new(),
            window: Window::new(),
            streak: Counts::default(),
            streak_since: None,
            learned,
        }
    }

    /// Looks at data that was written.
    pub(crate) fn wrote(&mut self, offset: u64, data: &[u8]) {
        let block_bytes = BLOCK_BYTES as u64;
        let first = offset.div_ceil(block_bytes);
        let skipped = (first * block_bytes - offset) as usize;
        let Some(whole) = data.get(skipped..) else { return };
        for (block, content) in (first..).zip(whole.chunks_exact(BLOCK_BYTES)) {
            if is_sampled(block) {
                self.sample(block, content);
            }
        }
    }

    fn sample(&mut self, block: u64, content: &[u8]) {
        let now = look(content);
        let before = self.known.replace(block, now);
        let Window { counts, segment, .. } = &mut self.window;
        counts.samples += 1;
        segment.samples += 1;
        if now == Look::Random {
            segment.random += 1;
            counts.random += 1;
            counts.replaced += u64::from(before == Some(Look::Structured));
            self.window.frequencies.add(content);
        }
    }

    /// Judges what was seen, which ends with a segment that begins at `first` and ends at `time`.
    /// Without `judging` it is only learned from.
    pub(crate) fn closed(
        &mut self,
        first: Sequence,
        time: Timestamp,
        judging: bool,
    ) -> Option<Change> {
        let window = &mut self.window;
        if window.counts.samples == 0 {
            return None;
        }
        let begun = *window.begun.get_or_insert(time);
        let segment = std::mem::take(&mut window.segment);
        if window.since.is_none() && share(segment.random, segment.samples) >= SHARE_MIN {
            window.since = Some(first);
        }
        let enough = window.frequencies.bytes() >= COUNTED_MIN;
        let over = window.counts.samples >= SAMPLES_MAX || time.0 - begun.0 >= WINDOW_NS_MAX;
        if !enough && !over {
            return None;
        }
        let Window { counts, frequencies, since, .. } = std::mem::replace(window, Window::new());
        let encrypting =
            enough && share(counts.random, counts.samples) >= SHARE_MIN && frequencies.are_equal();
        let change = if encrypting && judging {
            self.go_on(counts, since.unwrap_or(first))
        } else {
            self.end_streak();
            None
        };
        self.learned.add(counts, encrypting);
        change
    }

    /// Adds an encrypting window to the streak. Returns the change if that is sudden now.
    fn go_on(&mut self, counts: Counts, since: Sequence) -> Option<Change> {
        let streak = &mut self.streak;
        streak.samples += counts.samples;
        streak.random += counts.random;
        streak.replaced += counts.replaced;
        let since = *self.streak_since.get_or_insert(since);
        let (usual, share_now) = (self.learned.usual, share(streak.random, streak.samples));
        let replaced = share(streak.replaced, streak.random);
        let is_unusual = usual < share_now / 2.0;
        let is_long = streak.random >= LONG && self.learned.samples >= LEARNED_MIN;
        if !is_unusual || !(replaced >= REPLACED_MIN || is_long) {
            return None;
        }
        self.end_streak();
        Some(Change { since, share: share_now, usual, replaced })
    }

    fn end_streak(&mut self) {
        self.streak = Counts::default();
        self.streak_since = None;
    }
}

fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

#[cfg(test)]
mod tests {
    use hrl::{Clock, SystemClock};

    use super::*;
    use crate::sample::SAMPLED_ONE_IN;

    const MIB: u64 = 1 << 20;

    /// Returns the data on a volume that so many samples stand for, in bytes.
    fn stood_for(samples: u64) -> u64 {
        samples * SAMPLED_ONE_IN * BLOCK_BYTES as u64
    }

    /// A volume that is written to in segments of 4 MiB.
    struct Life {
        judge: Judge,
        segment: u64,
        judging: bool,
        changes: Vec<Change>,
    }

    #[derive(Clone, Copy)]
    enum Data {
        Text,
        Random,
        Compressed,
    }

    impl Life {
        fn new() -> Self {
            let judge = Judge::new(Learned::default());
            Self { judge, segment: 0, judging: true, changes: Vec::new() }
        }

        fn write(&mut self, data: Data, from: u64, bytes: u64) -> &mut Self {
            for offset in (from..from + bytes).step_by(4 * MIB as usize) {
                let mut content = vec![0; 4 * MIB as usize];
                match data {
                    Data::Text => content.iter_mut().enumerate().for_each(|(at, byte)| {
                        *byte = b'0' + (at * at / 97 % 60) as u8;
                    }),
                    Data::Random => SystemClock::default().fill_random(&mut content),
                    Data::Compressed => {
                        SystemClock::default().fill_random(&mut content);
                        content.iter_mut().step_by(25).for_each(|byte| *byte &= 0x7f);
                    }
                }
                self.judge.wrote(offset, &content);
                self.segment += 1;
                let time = Timestamp(self.segment as i64 * 1_000_000_000);
                self.changes.extend(self.judge.closed(Sequence(self.segment), time, self.judging));
            }
            self
        }
    }

    #[test]
    fn encrypting_in_place_is_a_change_since_it_began() {
        let mut life = Life::new();
        life.write(Data::Text, 0, 64 * MIB).write(Data::Random, 0, 20 * MIB);
        let [change] = &life.changes[..] else { panic!("{:?}", life.changes) };
        // The window may have begun with the last text, but the change did not.
        assert_eq!(change.since, Sequence(17), "{change}");
        assert!(change.replaced > 0.9 && change.usual < 0.01 && change.share > 0.5, "{change}");
    }

    #[test]
    fn encrypting_into_new_files_is_a_change_when_it_is_long() {
        let mut life = Life::new();
        life.write(Data::Text, 0, stood_for(LEARNED_MIN) + 64 * MIB);
        life.write(Data::Random, 1024 * MIB, 40 * MIB);
        assert_eq!(life.changes, []);
        life.write(Data::Random, 1064 * MIB, 60 * MIB);
        assert_eq!(life.changes.len(), 1);
        assert!(life.changes[0].replaced < 0.01);
    }

    #[test]
    fn compressing_in_place_is_no_change() {
        let mut life = Life::new();
        life.write(Data::Text, 0, 512 * MIB).write(Data::Compressed, 0, 400 * MIB);
        assert_eq!(life.changes, []);
    }

    #[test]
    fn an_encrypted_volume_is_usual_once_it_was_copied() {
        let mut life = Life::new();
        life.judging = false;
        life.write(Data::Random, 0, 256 * MIB);
        life.judging = true;
        life.write(Data::Random, 0, 256 * MIB);
        assert_eq!(life.changes, []);
    }

    #[test]
    fn an_encrypted_volume_that_nothing_is_known_of_is_learned_first() {
        let mut life = Life::new();
        life.write(Data::Random, 0, 512 * MIB);
        assert_eq!(life.changes, []);
    }

    #[test]
    fn a_change_among_much_else_is_found() {
        let mut life = Life::new();
        life.write(Data::Text, 0, 128 * MIB);
        for at in 0..8 {
            life.write(Data::Random, at * 4 * MIB, 4 * MIB);
            life.write(Data::Text, (64 + at * 8) * MIB, 8 * MIB);
        }
        assert!(!life.changes.is_empty());
    }

    #[test]
    fn writes_that_begin_within_a_block_are_seen() {
        let mut judge = Judge::new(Learned::default());
        judge.wrote(100, &[1; 100]);
        judge.wrote(100, &vec![1; 1 << 20]);
        let blocks = (1 << 20) / BLOCK_BYTES as u64 - 1;
        let sampled = (1..=blocks).filter(|block| is_sampled(*block)).count() as u64;
        assert_eq!(judge.window.counts.samples, sampled);
    }
}
