//! RPO and spool over time, from when segments were written, closed and shipped.
//!
//! The RPO is the age of the oldest unpublished record, as in `ProtectionStats::rpo`. Between two
//! appends it grows with time. So it is a series of straight rises, and its quantiles over time are
//! exact.

use super::shipping::Planned;
use super::trace::position;

/// A span of time in which the RPO rises, in nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Rise {
    begin: i64,
    from: i64,
    to: i64,
}

/// The RPO of one volume.
pub(super) struct RpoCurve {
    rises: Vec<Rise>,
    begin: i64,
    end: i64,
}

impl RpoCurve {
    /// Builds the curve from `begin` to `end`, or until all is shipped.
    pub(super) fn new(segments: &[Planned], begin: i64, end: i64) -> Self {
        let mut rises = Vec::with_capacity(segments.len());
        let mut shipped = begin;
        for segment in segments {
            let from = segment.first.max(shipped);
            if segment.shipped > from {
                let age = |time: i64| time - segment.first;
                rises.push(Rise { begin: from, from: age(from), to: age(segment.shipped) });
            }
            shipped = shipped.max(segment.shipped);
        }
        Self { rises, begin, end: end.max(shipped) }
    }

    pub(super) fn max(&self) -> i64 {
        self.rises.iter().map(|rise| rise.to).max().unwrap_or(0)
    }

    /// Returns the RPO that is not exceeded for `percent` of the time.
    pub(super) fn quantile(&self, percent: f64) -> i64 {
        let wanted = (percent / 100.0 * (self.end - self.begin) as f64) as i64;
        let risen: i64 = self.rises.iter().map(|rise| rise.to - rise.from).sum();
        let quiet = self.end - self.begin - risen;
        let below = |value: i64| {
            let part = |rise: &Rise| (value - rise.from).clamp(0, rise.to - rise.from);
            quiet + self.rises.iter().map(part).sum::<i64>()
        };
        let (mut low, mut high) = (0, self.max());
        while low < high {
            let middle = low + (high - low) / 2;
            if below(middle) >= wanted { high = middle } else { low = middle + 1 }
        }
        low
    }

    /// Returns the highest RPO in each of `count` equal parts of the time from `begin` to `end`.
    pub(super) fn samples(&self, begin: i64, end: i64, count: usize) -> Vec<i64> {
        let mut highest = vec![0; count];
        let width = ((end - begin) / count as i64).max(1);
        for rise in &self.rises {
            let last = rise.begin + (rise.to - rise.from);
            let place = |time| position(time, begin, width, 1).min(count - 1);
            for (at, value) in
                highest.iter_mut().enumerate().take(place(last - 1) + 1).skip(place(rise.begin))
            {
                let until = last.min(begin + (at as i64 + 1) * width);
                *value = (*value).max(rise.from + (until - rise.begin));
            }
        }
        highest
    }
}

/// Bytes in the spool of one volume: changes by time, oldest first.
pub(super) struct SpoolCurve {
    changes: Vec<(i64, i64)>,
}

impl SpoolCurve {
    pub(super) fn new(segments: &[Planned]) -> Self {
        let mut changes = Vec::with_capacity(segments.len() * 2);
        for segment in segments {
            let bytes = i64::try_from(segment.stored_bytes).unwrap_or(i64::MAX);
            changes.push((segment.closed, bytes));
            changes.push((segment.shipped, -bytes));
        }
        // Bytes that arrive and leave at the same time were there together.
        changes.sort_unstable_by_key(|(time, bytes)| (*time, -*bytes));
        Self { changes }
    }

    /// Returns the most bytes at once.
    pub(super) fn max(&self) -> u64 {
        self.levels().map(|(_, level)| level).max().unwrap_or(0)
    }

    /// Returns when the spool first contains `limit` bytes.
    pub(super) fn reaches(&self, limit: u64) -> Option<i64> {
        self.levels().find(|(_, level)| *level >= limit).map(|(time, _)| time)
    }

    /// Returns the most bytes in each of `count` equal parts of the time from `begin` to `end`.
    pub(super) fn samples(&self, begin: i64, end: i64, count: usize) -> Vec<u64> {
        let mut highest = vec![0; count];
        let width = ((end - begin) / count as i64).max(1);
        let (mut filled, mut level) = (0, 0);
        for (time, now) in self.levels() {
            let place = position(time, begin, width, 1).min(count - 1);
            for value in &mut highest[filled..=place] {
                *value = level.max(*value);
            }
            highest[place] = highest[place].max(now);
            (filled, level) = (place, now);
        }
        for value in &mut highest[filled..] {
            *value = level.max(*value);
        }
        highest
    }

    fn levels(&self) -> impl Iterator<Item = (i64, u64)> {
        self.changes.iter().scan(0_i64, |level, (time, bytes)| {
            *level += bytes;
            Some((*time, (*level).max(0).cast_unsigned()))
        })
    }
}

/// Adds `bytes`, evenly spread from one time to another, to equal parts of the time after `begin`,
/// each of `width`.
pub(super) fn spread(
    parts: &mut [u64],
    (begin, width): (i64, i64),
    (from, to): (i64, i64),
    bytes: u64,
) {
    let last = parts.len() - 1;
    let place = |time| position(time, begin, width, 1).min(last);
    let (first, to) = (place(from), to.max(from + 1));
    let (end, mut given) = (place(to - 1), 0);
    for (at, part) in parts.iter_mut().enumerate().take(end + 1).skip(first) {
        let upto = to.min(begin + (at as i64 + 1) * width) - from;
        let share = u128::from(bytes) * u128::from(upto.max(0).cast_unsigned());
        // Sum up to and including this part.
        let sum = (share / u128::from((to - from).cast_unsigned())) as u64;
        let sum = if at == end { bytes } else { sum };
        *part = part.saturating_add(sum - given);
        given = sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn segment(first: i64, closed: i64, shipped: i64, stored_bytes: u64) -> Planned {
        let (first, closed, shipped) = (first * SECOND, closed * SECOND, shipped * SECOND);
        Planned {
            first,
            last: closed,
            closed,
            records: 1,
            data_bytes: stored_bytes,
            stored_bytes,
            ends_with_point: false,
            sent: (closed, shipped),
            shipped,
        }
    }

    #[test]
    fn the_rpo_is_the_age_of_the_oldest_record_and_its_quantiles_are_exact() {
        // Rises from 0 to 4, then from 2 to 8 for the second segment, then 10 s of quiet.
        let segments = [segment(0, 1, 4, 10), segment(2, 3, 10, 10)];
        let curve = RpoCurve::new(&segments, 0, 20 * SECOND);
        assert_eq!(curve.max(), 8 * SECOND);
        assert_eq!(curve.quantile(100.0), 8 * SECOND);
        assert_eq!(curve.quantile(50.0), 0);
        // 10 s of quiet, 2 s below 2, then two rises together up to 4: 14 s at 3 s.
        assert_eq!(curve.quantile(70.0), 3 * SECOND);
        assert_eq!(curve.samples(0, 20 * SECOND, 4), [4, 8, 0, 0].map(|s| s * SECOND));
    }

    #[test]
    fn the_spool_contains_closed_segments_until_they_are_shipped() {
        let segments = [segment(0, 1, 4, 10), segment(2, 3, 10, 20), segment(5, 6, 10, 5)];
        let curve = SpoolCurve::new(&segments);
        assert_eq!(curve.max(), 30);
        assert_eq!(curve.reaches(25), Some(3 * SECOND));
        assert_eq!(curve.reaches(31), None);
        assert_eq!(curve.samples(0, 20 * SECOND, 4), [30, 25, 25, 0]);
    }

    #[test]
    fn bytes_are_spread_over_their_time_and_none_is_lost() {
        let mut parts = [0; 4];
        spread(&mut parts, (100, 10), (105, 125), 100);
        assert_eq!(parts, [25, 50, 25, 0]);
        spread(&mut parts, (100, 10), (139, 139), 7);
        spread(&mut parts, (100, 10), (130, 500), 9);
        assert_eq!(parts, [25, 50, 25, 16]);
    }
}
