//! What one client, or nobody in particular, cannot do to the others.

#![allow(clippy::disallowed_methods, reason = "tests measure how long real clients wait")]

mod parts;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use hrl::ErrorKind;
use hrl::store::{PutOutcome, Store, get_all};
use hrl_gateway::{GatewayOptions, revocations, revoke};
use hrl_tls::{Enrollment, Role, revoke_client};

use parts::{LIMIT, Raw, Site, within};

const SEGMENT: &str = "volumes/disk/segments/e00000001-0000000000000001-0000000000000002-aa.hrl";
const NEXT: &str = "volumes/disk/segments/e00000001-0000000000000003-0000000000000004-bb.hrl";

#[test]
fn promise_12_slow_sockets_lock_nobody_out() {
    let site = Site::new();
    let gateway = site.gateway(|options| {
        options.connections_max(40).unknown_connections_max(16).address_connections_max(32)
    });
    let kept = site.client("admin", &gateway);
    kept.put("volumes/disk/one", b"1").expect("put");
    let slow: Vec<TcpStream> =
        (0..200).map(|_| TcpStream::connect(gateway.address()).expect("connect")).collect();
    let begun = Instant::now();
    for number in 0..4 {
        let name = format!("volumes/disk/{number}");
        site.client("source", &gateway).head(&name).expect("a new connection is served");
    }
    assert_eq!(kept.get("volumes/disk/one", 0..1).expect("one that was open"), b"1");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(gateway.stats().connections <= 40);
    drop(slow);
}

#[test]
fn promise_12_one_address_takes_its_share_of_connections_alone() {
    let site = Site::new();
    let gateway = site.gateway(|options| options.address_connections_max(4));
    let mut open: Vec<Raw> = Vec::new();
    let ask = |mut stream: Raw| -> Option<Raw> {
        write!(stream, "GET /healthz HTTP/1.1\r\ncontent-length: 0\r\n\r\n").ok()?;
        let mut answer = [0; 15];
        stream.read_exact(&mut answer).ok()?;
        Some(stream)
    };
    for _ in 0..4 {
        open.push(ask(site.connect("source", &gateway)).expect("served"));
    }
    assert!(ask(site.connect("source", &gateway)).is_none(), "the fifth of known clients");
    open.pop();
    assert!(within(LIMIT, || ask(site.connect("source", &gateway)).is_some()), "room again");
    assert!(gateway.stats().connections_refused > 0);
}

#[test]
fn promise_12_a_handshake_has_a_limit_however_its_bytes_come() {
    let site = Site::new();
    let gateway = site.gateway(|options| options.metrics("127.0.0.1:0"));
    let plain = gateway.metrics_address().expect("metrics");
    let dripping = |address, bytes: &'static [u8]| {
        std::thread::spawn(move || {
            let mut socket = TcpStream::connect(address).expect("connect");
            let begun = Instant::now();
            for byte in bytes.iter().cycle() {
                if socket.write_all(&[*byte]).is_err() || begun.elapsed() > LIMIT {
                    break;
                }
                std::thread::sleep(Duration::from_millis(300));
            }
            begun.elapsed()
        })
    };
    // The beginning of a long record, and of a long head.
    let tls = dripping(gateway.address(), &[0x16, 3, 1, 0x40, 0]);
    let http = dripping(plain, b"x");
    assert!(tls.join().expect("thread") < Duration::from_secs(14));
    assert!(http.join().expect("thread") < Duration::from_secs(8));
}

#[test]
fn promise_12_one_slow_client_does_not_block_metrics() {
    let site = Site::new();
    let gateway = site.gateway(|options| options.metrics("127.0.0.1:0"));
    let address = gateway.metrics_address().expect("metrics");
    let slow: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut socket = TcpStream::connect(address).expect("connect");
            let _ = socket.write_all(b"GET /metrics");
            socket
        })
        .collect();
    let begun = Instant::now();
    let mut socket = TcpStream::connect(address).expect("connect");
    write!(socket, "GET /metrics HTTP/1.1\r\n\r\n").expect("write");
    let mut text = String::new();
    socket.read_to_string(&mut text).expect("read");
    for metric in ["refused_total 0", "segments_moved_aside_total 0", "certificate_expires_seconds"]
    {
        assert!(text.contains(&format!("hrl_gateway_{metric}")), "{text}");
    }
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    drop(slow);
}

#[test]
fn promise_12_a_client_stores_and_caches_its_share_alone() {
    let site = Site::new();
    site.enroll("other", Role::Source, "theirs");
    let vault = site.vault();
    let gateway = site.gateway(|options| options.client_stored_bytes_max(1000));
    let source = site.client("source", &gateway);
    assert_eq!(source.put(SEGMENT, &[1; 800]).expect("room"), PutOutcome::Created);
    let error = source.put(NEXT, &[1; 300]).expect_err("no room");
    assert_eq!(error.kind(), ErrorKind::Full);
    assert!(error.to_string().contains("client source"), "{error}");
    let theirs = SEGMENT.replace("disk", "theirs");
    site.client("other", &gateway).put(&theirs, &[1; 800]).expect("its own share");
    drop(gateway);
    // Nothing leaves the cache for an hour.
    let gateway = site.gateway(|options| {
        let wait = Duration::from_secs(3600);
        let options = options.cache(site.path("cache")).pack_bytes(1 << 20).pack_wait_max(wait);
        options.cache_bytes_max(100_000).client_cache_bytes_max(1000)
    });
    let source = site.client("source", &gateway);
    source.put(NEXT, &[1; 800]).expect("room");
    let error = source.put(&NEXT.replace("bb", "cc"), &[1; 300]).expect_err("no room");
    assert_eq!(error.kind(), ErrorKind::Full);
    let theirs = NEXT.replace("disk", "theirs");
    site.client("other", &gateway).put(&theirs, &[1; 800]).expect("its own share");
    drop(vault);
}

/// A name that was put twice with other bytes once stayed in the cache until it was full for all.
#[test]
fn promise_13_a_name_in_the_cache_cannot_be_poisoned() {
    for pack_bytes in [0, 1 << 20] {
        for (first, second) in [(SEGMENT, NEXT), ("volumes/disk/segments/x", NEXT)] {
            let site = Site::new();
            let start = || {
                site.gateway(|options: GatewayOptions| {
                    let options = options.cache(site.path("cache")).pack_bytes(pack_bytes);
                    options.pack_wait_max(Duration::ZERO)
                })
            };
            let gateway = start();
            let source = site.client("source", &gateway);
            let drained = || within(LIMIT, || gateway.stats().cached_objects == 0);
            source.put(first, b"first").expect("put");
            assert!(drained(), "it goes to the vault");
            assert_eq!(source.put(first, b"other").expect("cached"), PutOutcome::Created);
            source.put(second, b"next").expect("put");
            assert!(drained(), "it holds up nobody");
            assert_eq!(source.get(first, 0..5).expect("get"), b"first", "the first one stays");
            assert_eq!(get_all(&source, second, 10).expect("get"), b"next");
            let stats = gateway.stats();
            assert_eq!((stats.conflicts, stats.vault_available), (1, true));
            let lines = site.lines.lock().expect("lock").clone();
            assert!(lines.iter().any(|line| line.contains(first)), "{lines:?}");
            let kept = site.path("cache/.conflicts").read_dir().expect("kept").count();
            assert_eq!(kept, 1);
            // The same bytes again are no conflict.
            source.put(first, b"first").expect("put again");
            assert!(drained());
            assert_eq!(gateway.stats().conflicts, 1);
            assert!(gateway.stop(LIMIT));
            // Without a cache it is there already.
            let gateway = site.gateway(|options| options);
            let outcome = site.client("source", &gateway).put(first, b"third").expect("put");
            assert_eq!(outcome, PutOutcome::AlreadyExists);
        }
    }
}

/// Returns whether the gateway ends an idle connection within ten seconds.
fn is_ended(stream: &mut Raw) -> bool {
    let begun = Instant::now();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    begun.elapsed() < Duration::from_secs(10)
}

#[test]
fn promise_13_revocation_ends_open_connections() {
    let site = Site::new();
    let gateway = site.gateway(|options| options);
    let open = |name: &str| {
        let mut stream = site.connect(name, &gateway);
        write!(stream, "GET /healthz HTTP/1.1\r\ncontent-length: 0\r\n\r\n").expect("ask");
        let mut answer = [0; 41];
        stream.read_exact(&mut answer).expect("answer");
        stream
    };
    // By this gateway's directory.
    let (mut source, mut admin, mut reader) = (open("source"), open("admin"), open("reader"));
    assert_eq!(revoke_client(&site.path("pki"), "source").expect("revoke").len(), 1);
    assert!(is_ended(&mut source));
    let error = site.client("source", &gateway).head("volumes/disk/x").expect_err("revoked");
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    // By the list in the vault, for gateways with other directories.
    let fingerprints = {
        let pin = site.path("pki/clients/admin");
        let text = std::fs::read_to_string(&pin).expect("pin");
        let lines = text.lines().filter_map(|line| line.strip_prefix("fingerprint "));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let vault = site.vault();
    revoke(&*vault, &fingerprints[0], "lost").expect("revoke");
    assert_eq!(revocations(&*vault).expect("list"), fingerprints);
    assert!(is_ended(&mut admin));
    let error = site.client("admin", &gateway).head("volumes/disk/x").expect_err("revoked");
    assert!(error.to_string().contains("revoked"), "{error}");
    assert!(revoke(&*vault, "../x", "").is_err());
    // Rights that change end a connection, too.
    let pin = site.path("pki/clients/reader");
    let text = std::fs::read_to_string(&pin).expect("pin");
    std::fs::write(&pin, text.replace("volume disk", "volume none")).expect("pin");
    assert!(is_ended(&mut reader));
    // A revoked certificate stays so; the client gets another one.
    Enrollment::of_enrolled(&site.path("pki"), "source")
        .expect("enrolled")
        .renew(&site.path("pki"), &site.path("source"))
        .expect("renew");
    site.client("source", &gateway).head("volumes/disk/x").expect("a new certificate");
    // A gateway that starts reads the list first.
    drop(gateway);
    let gateway = site.gateway(|options| options);
    site.client("admin", &gateway).head("volumes/disk/x").expect_err("revoked");
}
