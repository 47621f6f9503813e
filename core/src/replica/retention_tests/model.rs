//! Retention against a model: random writes, points, pins, compactions and crashes.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Write(u8, u8),
    Point(bool),
    Wait(u16),
    Compact(bool),
    Crash(u8),
    Pin(u8),
    Unpin(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0_u8..120, any::<u8>()).prop_map(|(at, byte)| Step::Write(at, byte)),
        4 => prop::bool::weighted(0.1).prop_map(Step::Point),
        5 => (1_u16..4000).prop_map(Step::Wait),
        2 => any::<bool>().prop_map(Step::Compact),
        2 => (0_u8..40).prop_map(Step::Crash),
        1 => any::<u8>().prop_map(Step::Pin),
        1 => any::<u8>().prop_map(Step::Unpin),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn promise_5_every_kept_point_is_what_it_was(
        steps in prop::collection::vec(step(), 20..120), encrypted in any::<bool>()
    ) {
        let mut rig = Rig::new(encrypted);
        let policy: RetentionPolicy =
            "1h all; 6h every 30m; 2d every 3h; grace 30m".parse().expect("policy");
        let mut pinned: Vec<PointId> = Vec::new();
        for step in steps {
            match step {
                Step::Write(at, byte) => {
                    let data = vec![byte; 1024];
                    rig.segment(&[Body::Write { offset: u64::from(at) * 512, data: &data }]);
                }
                Step::Point(app) => {
                    rig.point(if app { PointKind::App } else { PointKind::Crash });
                }
                Step::Wait(time) => rig.clock.advance(Duration::from_secs(u64::from(time))),
                Step::Compact(fold_all) => {
                    let options = CompactOptions { fold_all, ..rig.options() };
                    let report = rig.replica().compact(&policy, &options, &|_, _| true).expect("compact");
                    prop_assert!(!report.lost_race, "what has to stay is not even tried: {report:?}");
                }
                Step::Crash(calls) => {
                    let mut replica = rig.replica();
                    rig.store.fail_after(u64::from(calls));
                    let _ = replica.compact(&policy, &rig.options(), &|_, _| true);
                    rig.store.fail_after(u64::MAX);
                }
                Step::Pin(which) => {
                    let points = rig.replica().points();
                    if let Some(point) = points.get(usize::from(which) % points.len().max(1)) {
                        rig.replica().pin(&At::Point(point.id), PinUntil::Forever, "").expect("pin");
                        pinned.push(point.id);
                    }
                }
                Step::Unpin(which) => if !pinned.is_empty() {
                    let point = pinned.swap_remove(usize::from(which) % pinned.len());
                    if !pinned.contains(&point) {
                        rig.replica().unpin(&At::Point(point), false).expect("unpin");
                    }
                },
            }
            // The content of every kept state is what it was, and stays through the next step.
            let kept = rig.replica().retention_plan(&policy).kept;
            let points: Vec<_> = rig.replica().points().iter().map(|point| point.id).collect();
            prop_assert!(kept.iter().filter_map(|k| k.point).all(|point| points.contains(&point)));
            prop_assert!(pinned.iter().all(|point| points.contains(point)));
        }
        if rig.sequence > 0 {
            rig.check();
            rig.compact(&policy).expect("compact");
            rig.check();
        }
    }
}
