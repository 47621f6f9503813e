//! A vault in a bucket with Object Lock, attacked with the credentials of the bucket.

#[path = "../../cloud/tests/object/servers.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod servers;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hrl::device::{BlockDevice, Durability, MemoryDevice};
use hrl::journal::{PointKind, WrappingKey};
use hrl::replica::{At, ViewOptions};
use hrl::store::Store;
use hrl::vault::Vault;
use hrl::{Clock, PointId, Policy, ProtectionOptions, SystemClock};
use hrl_cloud::{ObjectStore, ObjectStoreOptions};
use hrl_maintain::UndeleteOptions;
use hrl_stores::undelete_in_bucket;

use servers::{BUCKET, Kind, Server};

const LIMIT: Duration = Duration::from_secs(60);
const DISK_BYTES: u64 = 1 << 20;

fn open(server: &Server) -> ObjectStore {
    let (url, secrets) = server.url("site", server.port());
    let url = format!("{}&lock=4d", url.replace(BUCKET, "locked"));
    let options = secrets
        .iter()
        .try_fold(ObjectStoreOptions::default(), |options, (name, value)| options.set(name, value));
    ObjectStore::open(&url, options.expect("options")).expect("open")
}

fn key() -> WrappingKey {
    WrappingKey::from_bytes([7; 32])
}

fn vault(server: &Server) -> Vault {
    Vault::create(Arc::new(open(server)), Some(key()), SystemClock::shared()).expect("vault")
}

/// Returns the content of the volume at each point.
fn points(server: &Server) -> hrl::Result<BTreeMap<PointId, Vec<u8>>> {
    let store = Arc::new(open(server));
    let replica = Vault::open(store, Some(key()), SystemClock::shared())?.replica("disk")?;
    let mut found = BTreeMap::new();
    for point in replica.points() {
        let view = replica.view(&At::Point(point.id), &ViewOptions::default())?;
        let mut bytes = vec![0; DISK_BYTES as usize];
        view.read(0, &mut bytes)?;
        found.insert(point.id, bytes);
    }
    Ok(found)
}

fn objects(store: &dyn Store) -> BTreeMap<String, Vec<u8>> {
    let all = store.list("").expect("list");
    all.into_iter()
        .map(|info| {
            let bytes = store.get(&info.name, 0..info.length).expect("get");
            (info.name, bytes)
        })
        .collect()
}

fn protect(server: &Server) {
    let directory = tempfile::tempdir().expect("directory");
    let device = Arc::new(MemoryDevice::new(DISK_BYTES));
    let policy = Policy {
        segment_interval: Duration::from_millis(20),
        crash_point_interval: Duration::ZERO,
        ..Policy::default()
    };
    let state = directory.path().join("state");
    let options = ProtectionOptions::new("disk", device, vault(server), state);
    let protection = options.policy(policy).open().expect("protect");
    protection.wait_replicated(LIMIT).expect("first copy");
    for generation in 1..4_u8 {
        for block in 0..8_u64 {
            let bytes = [generation ^ block as u8; 4096];
            protection.volume().write(block * 65536, &bytes, Durability::Cached).expect("write");
        }
        protection.mark(PointKind::Crash, &format!("g{generation}")).expect("mark");
        protection.wait_replicated(LIMIT).expect("replicated");
    }
    protection.stop(LIMIT).expect("stop");
}

/// What somebody does who has the credentials: every version is deleted, which the lock refuses, then
/// every object, and some are replaced.
const ATTACK: &str = "
from botocore.exceptions import ClientError
found = s3.list_object_versions(Bucket='locked', Prefix='site/')['Versions']
refused = 0
for version in found:
    try:
        s3.delete_object(Bucket='locked', Key=version['Key'], VersionId=version['VersionId'])
    except ClientError:
        refused += 1
for version in found:
    s3.delete_object(Bucket='locked', Key=version['Key'])
    if '/catalog/' in version['Key'] or '/keys/' in version['Key']:
        s3.put_object(Bucket='locked', Key=version['Key'], Body=b'garbage')
print(len(found), refused)";

fn check(kind: Kind) {
    let Some(server) = Server::start(kind) else { return };
    server.boto("s3.create_bucket(Bucket='locked', ObjectLockEnabledForBucket=True)");
    protect(&server);
    let (before, known) = (objects(&open(&server)), points(&server).expect("points"));
    assert_eq!(known.len(), 3);
    // Some servers count seconds.
    std::thread::sleep(Duration::from_millis(2100));
    let since = SystemClock::default().now();
    let done = server.boto(ATTACK);
    let (all, refused) = done.split_once(' ').expect("two numbers");
    assert_eq!(all, refused, "the lock refused each");
    points(&server).expect_err("readers see nothing");

    let undelete = |dry_run| {
        let options = UndeleteOptions { dry_run, ..UndeleteOptions::new(since) };
        let done = undelete_in_bucket(open(&server), Some(&key()), &options).expect("undelete");
        assert!(done.iter().all(|volume| volume.failure.is_none()), "{done:?}");
        done.iter().map(|volume| volume.objects).sum::<u64>()
    };
    let hidden = undelete(true);
    assert!(hidden >= before.len() as u64, "{hidden} of {}", before.len());
    points(&server).expect_err("a dry run changes nothing");
    undelete(false);
    assert_eq!(objects(&open(&server)), before);
    assert_eq!(points(&server).expect("points"), known);
}

#[test]
fn promise_13_a_vault_whose_credentials_were_stolen_is_restored_byte_for_byte_from_moto() {
    check(Kind::Moto);
}

#[test]
fn promise_13_a_vault_whose_credentials_were_stolen_is_restored_byte_for_byte_from_seaweedfs() {
    check(Kind::SeaweedFs);
}
