//! The models of rotation and shipping against cases that can be counted by hand.

use std::time::Duration;

use proptest::prelude::*;

use super::prediction::PlanOptions;
use super::shipping::{Planned, rotate, ship};
use super::trace::Atom;
use hrl::Policy;

const SECOND: i64 = 1_000_000_000;
const MILLI: i64 = 1_000_000;

fn atom(first: i64, last: i64, stored_bytes: u64, ends_with_point: bool) -> Atom {
    let (first, last) = (first * MILLI, last * MILLI);
    Atom { first, last, records: 10, data_bytes: 2 * stored_bytes, stored_bytes, ends_with_point }
}

fn policy(segment_interval_ms: u64, segment_bytes_max: u64) -> Policy {
    let segment_interval = Duration::from_millis(segment_interval_ms);
    Policy { segment_bytes_max, segment_interval, ..Policy::default() }
}

/// Returns times of first record and closing in milliseconds, and bytes.
fn figures(planned: &[Planned]) -> Vec<(i64, i64, u64)> {
    planned.iter().map(|p| (p.first / MILLI, p.closed / MILLI, p.stored_bytes)).collect()
}

#[test]
fn segments_are_unchanged_under_the_policy_that_made_them() {
    // Busy, then one write alone, then a point.
    let atoms = [atom(0, 1010, 9, false), atom(1020, 2030, 9, false), atom(5000, 5000, 1, false)];
    let found = rotate(&atoms, &policy(1000, 1 << 20));
    assert_eq!(figures(&found), [(0, 1010, 9), (1020, 2030, 9), (5000, 6000, 1)]);
    let found = rotate(&[atom(0, 300, 9, true), atom(310, 400, 2, false)], &policy(1000, 1 << 20));
    assert_eq!(figures(&found), [(0, 300, 9), (310, 1310, 2)]);
}

#[test]
fn a_longer_interval_joins_segments_and_a_shorter_one_or_a_smaller_size_cuts_them() {
    let atoms = [atom(0, 900, 9, false), atom(1000, 1900, 9, false), atom(2000, 2900, 9, true)];
    assert_eq!(figures(&rotate(&atoms, &policy(10_000, 1 << 20))), [(0, 2900, 27)]);
    let cut = rotate(&[atom(0, 3999, 40, false)], &policy(1000, 1 << 20));
    assert_eq!(figures(&cut).iter().map(|(_, _, bytes)| bytes).sum::<u64>(), 40);
    assert_eq!(cut.len(), 4);
    assert_eq!(rotate(&[atom(0, 10, 1000, false)], &policy(1000, 100)).len(), 10);
}

proptest! {
    #[test]
fn rotation_loses_nothing_and_everything_is_shipped_in_order(
        gaps in prop::collection::vec((0_i64..3000, 0_i64..3000, 1_u64..5000, any::<bool>()), 1..60),
        interval in 50_u64..5000, size in 100_u64..20_000, rate in 200_u64..100_000, in_flight in 1_u32..6,
    ) {
        let mut at = 0;
        let atoms: Vec<_> = gaps.iter().map(|(gap, span, bytes, point)| {
            let first = at + gap;
            at = first + span;
            atom(first, at, *bytes, *point)
        }).collect();
        let mut policy = policy(interval, size);
        policy.puts_in_flight_max = in_flight;
        let planned = rotate(&atoms, &policy);
        let sum = |of: fn(&Planned) -> u64| planned.iter().map(of).sum::<u64>();
        prop_assert_eq!(sum(|p| p.stored_bytes), atoms.iter().map(|a| a.stored_bytes).sum::<u64>());
        prop_assert_eq!(sum(|p| p.data_bytes), atoms.iter().map(|a| a.data_bytes).sum::<u64>());
        prop_assert_eq!(sum(|p| p.records), atoms.len() as u64 * 10);
        prop_assert!(planned.iter().all(|p| p.first <= p.last && p.last <= p.closed));
        prop_assert!(planned.iter().all(|p| p.stored_bytes <= size));
        prop_assert!(planned.windows(2).all(|w| w[0].first <= w[1].first && w[0].closed <= w[1].closed));

        let options = PlanOptions { policy, ..PlanOptions::default() };
        let shipped = ship(vec![planned.clone(), planned], &options, Some(rate));
        for volume in &shipped {
            let latency = 40 * MILLI;
            prop_assert!(volume.segments.iter().all(|p| p.shipped >= p.closed + latency));
            prop_assert!(volume.segments.windows(2).all(|w| w[0].shipped <= w[1].shipped));
            prop_assert!(volume.appends >= 1 && volume.appends <= volume.segments.len() as u64);
        }
        // The link carries no more than its capacity.
        let begin = shipped.iter().flat_map(|v| &v.segments).map(|p| p.closed).min().unwrap_or(0);
        let end = shipped.iter().flat_map(|v| &v.segments).map(|p| p.shipped).max().unwrap_or(0);
        let bytes: u64 = shipped.iter().flat_map(|v| &v.segments).map(|p| p.stored_bytes).sum();
        prop_assert!(bytes as f64 <= rate as f64 * (end - begin) as f64 / SECOND as f64 + 1.0);
    }
}

#[test]
fn a_batch_is_shipped_in_chunks_and_published_by_one_append() {
    // Eight segments at once, each a second long on the link; two puts in flight.
    let atoms: Vec<_> = (0..8).map(|at| atom(at, at, 1000, true)).collect();
    let policy = Policy { puts_in_flight_max: 2, ..policy(1000, 1 << 20) };
    let options = PlanOptions { policy, request_latency: Duration::ZERO, ..PlanOptions::default() };
    let shipped = ship(vec![rotate(&atoms, &options.policy)], &options, Some(1000));
    let at: Vec<_> = shipped[0].segments.iter().map(|p| p.shipped / SECOND).collect();
    // The first goes alone; then all that wait, until a batch has taken more than five seconds.
    assert_eq!(at, [1, 7, 7, 7, 7, 7, 7, 8]);
    assert_eq!(shipped[0].appends, 3);
    let shipped = ship(vec![rotate(&atoms, &options.policy)], &options, None);
    assert!(shipped[0].segments.iter().all(|p| p.shipped == p.closed));
}

#[test]
fn a_catalog_interval_publishes_segments_together_and_none_waits_longer() {
    let atoms: Vec<_> = (0..100).map(|at| atom(at * 1000, at * 1000, 10, true)).collect();
    let policy = Policy { catalog_interval: Duration::from_secs(10), ..policy(1000, 1 << 20) };
    let options = PlanOptions { policy, request_latency: Duration::ZERO, ..PlanOptions::default() };
    let shipped = ship(vec![rotate(&atoms, &options.policy)], &options, None);
    assert_eq!(shipped[0].appends, 11);
    let waited = shipped[0].segments.iter().map(|p| p.shipped - p.closed);
    assert!(waited.max().is_some_and(|most| (9 * SECOND..=10 * SECOND).contains(&most)));
}
