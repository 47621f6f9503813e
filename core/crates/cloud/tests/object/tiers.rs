//! Tiers: a vault in one region follows one in another, each at a different service.

use std::sync::Arc;
use std::time::Duration;

use hrl::device::{BlockDevice, Durability, MemoryDevice};
use hrl::journal::{PointKind, WrappingKey};
use hrl::replica::{At, ViewOptions};
use hrl::testing::content;
use hrl::vault::Vault;
use hrl::{ErrorKind, Policy, ProtectionOptions, SystemClock};
use hrl_gateway::{Mirror, MirrorOptions};

use crate::servers::Server;

const LIMIT: Duration = Duration::from_secs(120);
const DISK_BYTES: u64 = 2 << 20;

fn vault(server: &Server, key: Option<[u8; 32]>) -> Vault {
    let store = server.store("tier", server.port()).expect("store");
    let key = key.map(WrappingKey::from_bytes);
    Vault::create(Arc::new(store), key, SystemClock::shared()).expect("vault")
}

/// The first service dies in the middle of everything; the newest point of the second equals the
/// source at that point.
pub fn promise_5_the_second_region_stands_alone(first: &mut Server, second: &Server) {
    let directory = tempfile::tempdir().expect("directory");
    let key = Some([9; 32]);
    let device = Arc::new(MemoryDevice::new(DISK_BYTES));
    let policy = Policy {
        segment_interval: Duration::from_millis(50),
        crash_point_interval: Duration::ZERO,
        ..Policy::default()
    };
    let state = directory.path().join("state");
    let protection = ProtectionOptions::new("disk", device.clone(), vault(first, key), state)
        .policy(policy)
        .open()
        .expect("protect");
    protection.wait_replicated(LIMIT).expect("first copy");
    let mut mirror = Mirror::new(
        vault(first, None),
        vault(second, None),
        MirrorOptions::default(),
        SystemClock::shared(),
    );
    let mut states = Vec::new();
    for round in 0..12_u64 {
        for step in 0..6 {
            let data = vec![(round * 6 + step) as u8 | 1; 4096];
            let offset = (round * 31 + step * 7) % 512 * 4096;
            protection.volume().write(offset, &data, Durability::Cached).expect("write");
        }
        let point = protection.mark(PointKind::Crash, &format!("round {round}")).expect("mark");
        states.push((point.id, content(&*device)));
        if round == 9 {
            first.kill();
        } else if round < 9 && round % 3 == 1 {
            protection.wait_replicated(LIMIT).expect("replicated");
            let report = mirror.run(&|| true).expect("run").remove(0);
            assert!(report.failure.is_none(), "{report:?}");
            assert_eq!(report.version, report.source_version);
        }
    }
    let failed = mirror.run(&|| true).map(|mut report| report.remove(0).failure);
    let error = failed.unwrap_or_else(Some).expect("the first region is gone");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    protection.stop(Duration::ZERO).expect("the rest stays in the spool");
    let replica = vault(second, key).replica("disk").expect("replica");
    let points = replica.points();
    let newest = points.last().expect("points");
    assert_eq!(newest.label, "round 7", "the last that was mirrored");
    for point in &points {
        let (_, bytes) = states.iter().find(|(id, _)| *id == point.id).expect("known");
        let view = replica.view(&At::Point(point.id), &ViewOptions::default()).expect("view");
        assert!(content(&view) == *bytes, "{}", point.label);
    }
    assert!(replica.verify(&|_, _| true).expect("verify").is_sound());
}
