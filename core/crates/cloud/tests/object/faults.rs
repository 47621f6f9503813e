//! Single requests on a bad network.

use std::time::Duration;

use hrl::store::{PutOutcome, Store};
use hrl::{Clock, ErrorKind, SystemClock};
use hrl_cloud::ObjectStoreOptions;

use crate::proxy::{Fault, Proxy};
use crate::servers::Server;

/// Longer than the store's own retries, but bounded.
const BOUND: Duration = Duration::from_secs(60);

pub fn check(server: &Server) {
    let proxy = Proxy::start(server.port());
    let options = ObjectStoreOptions::default().set("timeout-ms", "500").expect("options");
    let store = server.store_with("faults", proxy.port(), options).expect("store");
    answers_are_lost(&store, &proxy);
    the_server_is_overloaded(&store, &proxy);
    the_server_is_slow_or_silent(&store, &proxy);
    answers_are_cut(&store, &proxy);
    content_comes_from_a_file(&store, &proxy);
}

/// A put whose answer was lost still reports that it created its object; a put to a taken name
/// reports that.
fn answers_are_lost(store: &dyn Store, proxy: &Proxy) {
    for count in 1..=2 {
        let name = format!("lost/{count}");
        proxy.fail(Fault::AnswerLost, count);
        assert_eq!(store.put(&name, b"mine").expect("put"), PutOutcome::Created, "{name}");
        assert_eq!(store.put(&name, b"mine").expect("put"), PutOutcome::AlreadyExists);
        // The same bytes, but another put: it did not create the object, although its own first
        // answer was lost.
        proxy.fail(Fault::AnswerLost, count);
        assert_eq!(store.put(&name, b"mine").expect("put"), PutOutcome::AlreadyExists, "{name}");
    }
    proxy.fail(Fault::AnswerLost, 1);
    store.delete("lost/1").expect("delete");
    assert_eq!(store.head("lost/1").expect("head"), None);
}

fn the_server_is_overloaded(store: &dyn Store, proxy: &Proxy) {
    proxy.fail(Fault::Overload, 2);
    assert_eq!(store.put("busy", b"x").expect("put"), PutOutcome::Created);
    proxy.fail(Fault::Overload, 2);
    assert_eq!(store.get("busy", 0..1).expect("get"), b"x");
    proxy.fail(Fault::Overload, 2);
    assert_eq!(store.list("bus").expect("list").len(), 1);
    proxy.fail(Fault::Overload, 1000);
    proxy.take_counts();
    let clock = SystemClock::default();
    let start = clock.elapsed();
    for error in [
        store.put("busy2", b"x").map(drop).expect_err("put"),
        store.head("busy").map(drop).expect_err("head"),
        store.get("busy", 0..1).map(drop).expect_err("get"),
        store.list("").map(drop).expect_err("list"),
        store.delete("busy").expect_err("delete"),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains("answered 503"), "{error}");
    }
    assert!(clock.elapsed().saturating_sub(start) < BOUND);
    assert_eq!(proxy.take_counts().0, 20, "promise 12: four tries each");
    proxy.fail(Fault::Slow(Duration::ZERO), 1);
}

fn the_server_is_slow_or_silent(store: &dyn Store, proxy: &Proxy) {
    proxy.fail(Fault::Slow(Duration::from_millis(300)), 2);
    assert_eq!(store.put("slow", b"x").expect("put"), PutOutcome::Created);
    assert_eq!(store.get("slow", 0..1).expect("get"), b"x");
    proxy.fail(Fault::Silence, 1);
    assert_eq!(store.get("slow", 0..1).expect("the second try"), b"x");
    proxy.fail(Fault::Silence, 1000);
    let clock = SystemClock::default();
    let start = clock.elapsed();
    let error = store.put("silence", &[1; 4 << 20]).expect_err("no answer ever");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("no progress within"), "{error}");
    assert!(clock.elapsed().saturating_sub(start) < BOUND, "promise 12: no wait without end");
    proxy.fail(Fault::Slow(Duration::ZERO), 1);
}

fn answers_are_cut(store: &dyn Store, proxy: &Proxy) {
    let content: Vec<u8> = (0..300_000_u32).map(|n| ((n * 7) >> 3) as u8).collect();
    store.put("cut", &content).expect("put");
    proxy.fail(Fault::CutAnswer, 2);
    assert_eq!(store.get("cut", 0..300_000).expect("get"), content);
    proxy.fail(Fault::CutAnswer, 1);
    assert_eq!(store.get("cut", 1000..2000).expect("get"), content[1000..2000]);
}

fn content_comes_from_a_file(store: &dyn Store, proxy: &Proxy) {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("segment");
    let content: Vec<u8> = (0..3_000_001_u32).map(|n| (n >> 5) as u8).collect();
    std::fs::write(&path, &content).expect("write");
    proxy.fail(Fault::AnswerLost, 1);
    assert_eq!(store.put_file("file", &path).expect("put"), PutOutcome::Created);
    assert_eq!(store.get("file", 0..3_000_001).expect("get"), content);
    std::fs::write(&path, b"").expect("write");
    assert_eq!(store.put_file("empty", &path).expect("put"), PutOutcome::Created);
    assert_eq!(store.head("empty").expect("head").map(|info| info.length), Some(0));
}
