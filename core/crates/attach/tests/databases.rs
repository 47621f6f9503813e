//! Points of a mounted disk with PostgreSQL's data: each mounts, recovers, passes the database's own
//! checks, and has exactly what was acknowledged before the cut began.
//!
//! Needs root, loop devices, BPF and PostgreSQL; without them the test says so and passes.
//! `HRL_ATTACH_POINTS` is the number of points.
#![allow(clippy::disallowed_methods, reason = "real disks take real time")]

mod parts;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hrl_attach::AttachmentOptions;

use parts::mounted::{Site, crash_point, point_after};
use parts::postgresql::Server;
use parts::{Disk, Mount, Progress, setting};

const BYTES: u64 = 512 << 20;

#[test]
fn promise_14_points_under_postgresql_recover_with_what_was_acknowledged() {
    let site = Site::new();
    let Some(disk) = Disk::with_bytes(BYTES) else { return };
    let Some(mount) = Mount::new(&disk.path, "ext4", &site.at("mnt")) else { return };
    let Some(server) = Server::create(&mount.path) else { return };
    let attached = site.attach(&disk.path, AttachmentOptions::policy);
    let Some(attachment) = attached else { return };
    let transfers = server.transfers();
    let (progress, stopping) = (Arc::new(Progress::default()), Arc::new(AtomicBool::new(false)));
    let rows = {
        let (mut rows, progress, stopping) = (server.rows(), progress.clone(), stopping.clone());
        std::thread::spawn(move || rows.insert(&progress, &stopping))
    };
    let taken: Vec<_> = (0..setting("HRL_ATTACH_POINTS", 3))
        .map(|_| {
            let (point, done) = point_after(|| crash_point(&attachment), || progress.done());
            (point, (done, progress.begun()))
        })
        .collect();
    println!("{:?}, {} rows", attachment.stats(), progress.done());
    assert!(progress.done() > 0, "rows were inserted meanwhile");
    attachment.stop(Duration::from_secs(60)).expect("stop");
    stopping.store(true, Ordering::Relaxed);
    rows.join().expect("writer");
    drop(transfers);
    drop(server);
    drop(mount);
    for (number, (point, expected)) in taken.iter().enumerate() {
        let what = format!("point {number}");
        let (mount, _disk) = site.mounted(point, &what);
        Server::open(&mount.path).check(*expected, &what);
    }
}
