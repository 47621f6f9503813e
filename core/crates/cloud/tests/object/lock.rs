//! Object Lock: locks are put, renewed and respected, and what a thief deleted is found again.

use std::sync::Arc;
use std::time::Duration;

use hrl::device::{BlockDevice, Durability, MemoryDevice};
use hrl::replica::{At, CompactOptions, ViewOptions};
use hrl::store::Store;
use hrl::vault::Vault;
use hrl::{Clock, ErrorKind, ManualClock, Policy, ProtectionOptions, RetentionPolicy, SystemClock};
use hrl_cloud::{ObjectStore, ObjectStoreOptions};

use crate::servers::{BUCKET, Server};

const LOCKED: &str = "locked";
const RULED: &str = "ruled";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const MINUTE: Duration = Duration::from_secs(60);

pub fn check(server: &Server) {
    server.boot_buckets();
    locks_are_put_renewed_and_respected(server);
    what_a_thief_deletes_or_replaces_is_found_again(server);
    the_rule_of_a_bucket_is_followed(server);
    a_bucket_without_locks_is_refused(server);
    retention_keeps_what_is_locked_and_goes_on(server);
}

impl Server {
    fn boot_buckets(&self) {
        self.boto(&format!(
            "for name in ('{LOCKED}', '{RULED}'):
    s3.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
s3.put_object_lock_configuration(Bucket='{RULED}', ObjectLockConfiguration={{'ObjectLockEnabled': 'Enabled',
    'Rule': {{'DefaultRetention': {{'Mode': 'GOVERNANCE', 'Days': 2}}}}}})"
        ));
    }

    fn open(&self, bucket: &str, query: &str, clock: Arc<dyn Clock>) -> hrl::Result<ObjectStore> {
        self.open_at("site", bucket, query, clock)
    }

    fn open_at(
        &self,
        prefix: &str,
        bucket: &str,
        query: &str,
        clock: Arc<dyn Clock>,
    ) -> hrl::Result<ObjectStore> {
        let (url, secrets) = self.url(prefix, self.port());
        let url = format!("{}{query}", url.replace(BUCKET, bucket));
        let options =
            secrets.iter().try_fold(ObjectStoreOptions::default(), |options, (name, value)| {
                options.set(name, value)
            });
        ObjectStore::open(&url, options.expect("options").clock(clock))
    }

    /// Returns mode and rest of an object's lock, in days.
    fn lock_of(&self, bucket: &str, name: &str) -> (String, f64) {
        let text = self.boto(&format!(
            "head = s3.head_object(Bucket='{bucket}', Key='site/{name}')
left = head['ObjectLockRetainUntilDate'] - datetime.datetime.now(datetime.timezone.utc)
print(head['ObjectLockMode'], left.total_seconds() / 86400)"
        ));
        let (mode, left) = text.split_once(' ').expect("two words");
        (mode.to_owned(), left.parse().expect("days"))
    }
}

fn about(found: f64, days: f64) -> bool {
    (found - days).abs() < 0.1
}

fn locks_are_put_renewed_and_respected(server: &Server) {
    let clock = Arc::new(ManualClock::new(SystemClock::default().now(), 1));
    let store = server.open(LOCKED, "&lock=4d", clock.clone()).expect("open");
    assert_eq!(store.lock_rule().as_deref(), Some("4d, compliance"));
    store.put("a/one", b"one").expect("put");
    let (mode, left) = server.lock_of(LOCKED, "a/one");
    assert!(mode == "COMPLIANCE" && about(left, 4.0), "{mode} {left}");
    let error = store.delete("a/one").expect_err("locked");
    assert!(
        error.kind() == ErrorKind::Denied && error.to_string().contains("locked until"),
        "{error}"
    );
    // Another process learns it from the object.
    let other = server.open(LOCKED, "&lock=4d", clock.clone()).expect("open");
    assert_eq!(other.delete("a/one").expect_err("locked").kind(), ErrorKind::Denied);
    let many = ["a/none".to_owned(), "a/one".to_owned()];
    assert_eq!(other.delete_many(&many).expect_err("locked").kind(), ErrorKind::Denied);
    assert!(store.head("a/one").expect("head").is_some());
    // Renewed when half of its time is over, and not before; what retention gave up is not.
    store.put("a/two", b"two").expect("put");
    store.renew_locks("a/", &|_| false).expect("nothing is due");
    clock.advance(DAY * 3);
    other.renew_locks("a/", &|name| name == "a/two").expect("renewed");
    assert!(about(server.lock_of(LOCKED, "a/one").1, 7.0));
    assert!(about(server.lock_of(LOCKED, "a/two").1, 4.0));
    // The service decides, whatever this machine's clock says.
    clock.advance(DAY * 100);
    let error = store.delete("a/two").expect_err("locked");
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(store.head("a/two").expect("head").is_some());
    // An object whose lock is over leaves no version.
    server.boto(&format!("s3.put_object(Bucket='{LOCKED}', Key='site/a/free', Body=b'free')"));
    store.delete("a/free").expect("delete");
    store.delete("a/free").expect("once more");
    let left = server.boto(&format!(
        "found = s3.list_object_versions(Bucket='{LOCKED}', Prefix='site/a/free')
print(len(found.get('Versions', [])) + len(found.get('DeleteMarkers', [])))"
    ));
    assert_eq!(left, "0");
}

fn what_a_thief_deletes_or_replaces_is_found_again(server: &Server) {
    let store = server.open(LOCKED, "&lock=4d", SystemClock::shared()).expect("open");
    for number in 0..6 {
        store.put(&format!("b/{number}"), format!("content {number}").as_bytes()).expect("put");
    }
    // Some servers count seconds.
    std::thread::sleep(Duration::from_millis(2100));
    let since = SystemClock::default().now();
    assert_eq!(store.hidden("b/", since).expect("hidden"), []);
    server.boto(&format!(
        "for number in range(4): s3.delete_object(Bucket='{LOCKED}', Key=f'site/b/{{number}}')
s3.put_object(Bucket='{LOCKED}', Key='site/b/3', Body=b'garbage')
s3.put_object(Bucket='{LOCKED}', Key='site/b/4', Body=b'garbage', ObjectLockMode='COMPLIANCE',
    ObjectLockRetainUntilDate=datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=9))"
    ));
    assert_eq!(store.get("b/4", 0..7).expect("get"), b"garbage");
    let hidden = store.hidden("b/", since).expect("hidden");
    assert_eq!(
        hidden.iter().map(|h| h.name.as_str()).collect::<Vec<_>>(),
        ["b/0", "b/1", "b/2", "b/3", "b/4"]
    );
    assert!(
        hidden.iter().all(|h| h.length == 9 && h.hidden_at.0 > since.0 - 1_000_000_000),
        "{hidden:?}"
    );
    assert_eq!(store.get_hidden(&hidden[4], 2..9).expect("hidden"), b"ntent 4");
    for object in &hidden {
        store.unhide(object).expect("unhide");
    }
    for number in 0..6 {
        let found = store.get(&format!("b/{number}"), 0..9).expect("get");
        assert_eq!(found, format!("content {number}").as_bytes());
    }
}

fn the_rule_of_a_bucket_is_followed(server: &Server) {
    let store = server.open(RULED, "", SystemClock::shared()).expect("open");
    assert_eq!(store.lock_rule().as_deref(), Some("2d, governance"));
    store.put("c", b"c").expect("put");
    let (mode, left) = server.lock_of(RULED, "c");
    assert!(mode == "GOVERNANCE" && about(left, 2.0), "{mode} {left}");
    assert_eq!(store.delete("c").expect_err("locked").kind(), ErrorKind::Denied);
    let ignoring = server.open(RULED, "&lock=none", SystemClock::shared()).expect("open");
    assert_eq!(ignoring.lock_rule(), None);
}

fn a_bucket_without_locks_is_refused(server: &Server) {
    let error = server.open(BUCKET, "&lock=4d", SystemClock::shared()).map(drop);
    let error = error.expect_err("no Object Lock");
    assert!(
        error.kind() == ErrorKind::InvalidInput && error.to_string().contains("Object Lock"),
        "{error}"
    );
    assert_eq!(server.open(BUCKET, "", SystemClock::shared()).expect("open").lock_rule(), None);
}

fn retention_keeps_what_is_locked_and_goes_on(server: &Server) {
    let directory = tempfile::tempdir().expect("directory");
    let store = server.open_at("kept", LOCKED, "&lock=4d", SystemClock::shared()).expect("open");
    let store = Arc::new(store);
    let vault = Vault::create(store.clone(), None, SystemClock::shared()).expect("vault");
    let device = Arc::new(MemoryDevice::new(1 << 20));
    let policy = Policy {
        segment_interval: Duration::from_millis(20),
        crash_point_interval: Duration::ZERO,
        ..Policy::default()
    };
    let state = directory.path().join("state");
    let options = ProtectionOptions::new("disk", device.clone(), vault.clone(), state);
    let protection = options.policy(policy).open().expect("protect");
    protection.wait_ordered(MINUTE).expect("ordered");
    for round in 0..6_u8 {
        protection.volume().write(0, &[round; 65536], Durability::Cached).expect("write");
        protection.wait_replicated(MINUTE).expect("replicated");
    }
    protection.stop(MINUTE).expect("stop");
    let mut replica = vault.replica("disk").expect("replica");
    let second = Duration::from_secs(1);
    let retention = RetentionPolicy {
        full: Duration::ZERO,
        thinning: Vec::new(),
        grace: second,
        ..RetentionPolicy::default()
    };
    let options = CompactOptions { fold_all: true, ..CompactOptions::default() };
    for _ in 0..2 {
        let report = replica.compact(&retention, &options, &|_, _| true).expect("compact");
        assert!(report.objects_deleted == 0, "{report:?}");
        // What was retired is due then.
        std::thread::sleep(second * 2);
    }
    let waiting = replica.catalog().retired().len();
    assert!(waiting > 0 && store.list("volumes/disk/segments/").expect("list").len() > waiting);
    let mut found = vec![0; 1 << 20];
    let view = replica.view(&At::Newest, &ViewOptions::default()).expect("view");
    view.read(0, &mut found).expect("read");
    let mut expected = vec![0; 1 << 20];
    device.read(0, &mut expected).expect("read");
    assert_eq!(found, expected);
}
