//! Promise 11 and 12 at the NBD server: clients that break the protocol, or do not speak at all.
//!
//! After each a well-behaved client must still be served.

mod raw;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use hrl::ErrorKind;
use hrl::device::MemoryDevice;
use hrl_nbd::{Export, NbdAddress, NbdLimits, NbdServer};
use raw::*;

#[test]
fn requests_that_cannot_be_are_answered_and_the_connection_lives() {
    for ring in [true, false] {
        let rig = rig_with(NbdLimits::default(), ring, false);
        let mut client = Client::open(&rig);
        for (flags, command, offset, length, expected) in [
            (0, READ, SIZE, 1, EINVAL),
            (0, READ, SIZE - 10, 11, EINVAL),
            (0, READ, u64::MAX, u32::MAX, EINVAL),
            (0, READ, 0, 33 << 20, EINVAL),
            (0, TRIM, SIZE - 10, 11, ENOSPC),
            (0, TRIM, u64::MAX - 5, 100, ENOSPC),
            (0, FLUSH, 0, 1, EINVAL),
            (0, BLOCK_STATUS, 0, 512, EINVAL),
            (0xff00, READ, 0, 512, EINVAL),
            (0, 77, 0, 0, EINVAL),
            (0, READ, 0, 0, 0),
            (0, TRIM, 0, 0, 0),
            (0, FLUSH, 0, 0, 0),
        ] {
            client.request(flags, command, offset, length);
            assert_eq!(client.reply(), expected, "{command} {offset}+{length}");
        }
        client.request(0, WRITE, SIZE - 10, 11);
        client.write(&[1; 11]);
        assert_eq!(client.reply(), ENOSPC);
        // Unaligned, across sectors, at the very end.
        client.request(1, WRITE, SIZE - 777, 777);
        client.write(&[3; 777]);
        assert_eq!(client.reply(), 0);
        client.request(0, READ, SIZE - 777, 777);
        assert_eq!(client.reply(), 0);
        assert_eq!(client.read::<777>(), [3; 777]);
        assert_alive(&rig);
    }
}

#[test]
fn a_read_only_export_takes_no_changes() {
    let rig = rig_with(NbdLimits::default(), true, true);
    let mut client = Client::open(&rig);
    client.request(0, WRITE, 0, 4);
    client.write(&[1; 4]);
    assert_eq!(client.reply(), EPERM);
    client.request(0, TRIM, 0, 4096);
    assert_eq!(client.reply(), EPERM);
    client.request(0, READ, 0, 4);
    assert_eq!(client.reply(), 0);
    assert_eq!(client.read::<4>(), [0; 4]);
}

#[test]
fn broken_handshakes_end_and_hurt_nobody() {
    let rig = rig();
    let mut client = Client::greet(&rig);
    client.write(&0xffff_ffff_u32.to_be_bytes());
    client.assert_closed();
    let mut client = Client::greet(&rig);
    client.write(&3_u32.to_be_bytes());
    client.write(&[0; 64]);
    client.assert_closed();
    // An option that claims to be huge is refused before anything is allocated for it.
    let mut client = Client::greet(&rig);
    client.write(&3_u32.to_be_bytes());
    client.write(&OPTION.to_be_bytes());
    client.write(&7_u32.to_be_bytes());
    client.write(&u32::MAX.to_be_bytes());
    client.assert_closed();
    // Options without end.
    let mut client = Client::greet(&rig);
    client.write(&3_u32.to_be_bytes());
    for _ in 0..2000 {
        client.option(99, b"x");
    }
    let mut count = 0;
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = client.0.read(&mut buffer) {
        count += read;
    }
    assert!(count < 2000 * 20, "the server stops answering");
    // Names and queries whose lengths lie.
    for option in [6, 7, 9, 10] {
        let mut client = Client::greet(&rig);
        client.write(&3_u32.to_be_bytes());
        client.option(8, b"");
        client.read::<20>();
        client.option(option, &[0xff; 40]);
        let reply: [u8; 20] = client.read();
        assert!(
            u32::from_be_bytes(reply[12..16].try_into().expect("4 bytes")) >= 0x8000_0000,
            "an error reply"
        );
    }
    assert_alive(&rig);
}

#[test]
fn half_open_connections_time_out() {
    let rig = rig();
    let mut silent: Vec<_> = (0..20).map(|_| Client::greet(&rig)).collect();
    let mut slow = Client::greet(&rig);
    for byte in 3_u32.to_be_bytes() {
        slow.write(&[byte]);
        std::thread::sleep(Duration::from_millis(400));
    }
    slow.assert_closed();
    silent.iter_mut().for_each(Client::assert_closed);
    for _ in 0..100 {
        if rig.server.stats().connections == 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(rig.server.stats().connections, 0);
    assert_alive(&rig);
}

#[test]
fn a_client_that_leaves_in_the_middle_hurts_nobody() {
    let rig = rig();
    for cut in [0_usize, 1, 27, 28, 500, 70_000] {
        let mut client = Client::open(&rig);
        client.request(0, READ, 0, 4096);
        let mut bytes = 0x2560_9513_u32.to_be_bytes().to_vec();
        bytes.extend_from_slice(&[0, 0, 0, 1]);
        bytes.extend_from_slice(&[0; 16]);
        bytes.extend_from_slice(&100_000_u32.to_be_bytes());
        bytes.resize(28 + 100_000, 5);
        client.write(&bytes[..cut]);
    }
    let mut client = Client::open(&rig);
    client.write(&[0xaa; 28]);
    client.assert_closed();
    let mut client = Client::open(&rig);
    client.request(0, WRITE, 0, 1 << 30);
    client.assert_closed();
    assert_alive(&rig);
}

#[test]
fn a_client_that_never_reads_is_held_back() {
    let limits =
        NbdLimits { backlog_bytes_max: 4 << 20, requests_in_flight_max: 8, ..NbdLimits::default() };
    let rig = rig_with(limits, true, false);
    let mut client = Client::open(&rig);
    client.0.set_write_timeout(Some(Duration::from_millis(300))).expect("limit");
    for _ in 0..200_000 {
        let mut bytes = 0x2560_9513_u32.to_be_bytes().to_vec();
        bytes.extend_from_slice(&[0; 20]);
        bytes.extend_from_slice(&(1_u32 << 20).to_be_bytes());
        if client.0.write_all(&bytes).is_err() {
            break;
        }
    }
    let answered = rig.server.stats().requests;
    assert!(answered < 100, "{answered} requests of 1 MiB were answered to nobody");
    assert_alive(&rig);
}

#[test]
fn requests_that_come_at_once_are_all_answered_however_small_the_backlog() {
    let limits = NbdLimits { backlog_bytes_max: 64, ..NbdLimits::default() };
    let rig = rig_with(limits, true, false);
    let mut client = Client::open(&rig);
    // In one piece: a client that sends more than the socket holds has to read its replies
    // meanwhile.
    let mut requests = request(0, CACHE, 0, 512).repeat(2000);
    requests.extend(request(0, FLUSH, 0, 0));
    client.write(&requests);
    for _ in 0..=2000 {
        assert_eq!(client.reply(), 0);
    }
    assert_alive(&rig);
}

#[test]
fn thousands_of_connections_are_bounded() {
    let limits = NbdLimits { connections_max: 16, ..NbdLimits::default() };
    let rig = rig_with(limits, true, false);
    let kept: Vec<_> = (0..16).map(|_| Client::open(&rig)).collect();
    for _ in 0..2000 {
        let _ = UnixStream::connect(&rig.path);
    }
    for _ in 0..200 {
        if rig.server.stats().connections_refused >= 2000 {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(rig.server.stats().connections, 16);
    assert_eq!(rig.server.stats().connections_refused, 2000);
    drop(kept);
    std::thread::sleep(Duration::from_millis(200));
    assert_alive(&rig);
}

#[test]
fn a_live_server_is_not_replaced_and_a_dead_ones_socket_is() {
    let rig = rig();
    let export = || vec![Export::device("d", Arc::new(MemoryDevice::new(SIZE)))];
    let address = NbdAddress::Unix(rig.path.clone());
    let error =
        NbdServer::start(&address, export(), NbdLimits::default()).map(drop).expect_err("live");
    assert_eq!(error.kind(), ErrorKind::Fenced);
    let stale = rig.path.with_extension("stale");
    drop(std::os::unix::net::UnixListener::bind(&stale).expect("bind"));
    NbdServer::start(&NbdAddress::Unix(stale.clone()), export(), NbdLimits::default())
        .expect("stale")
        .stop();
    assert!(!stale.exists(), "a stopped server leaves no socket");
}

#[test]
fn all_of_this_holds_where_io_uring_is_denied() {
    for errno in [libc::EPERM, libc::ENOSYS] {
        denied::run_all_but("all_of_this_holds_where_io_uring_is_denied", errno);
    }
}

#[test]
#[allow(clippy::disallowed_methods, reason = "a test measures how long a real client waits")]
fn promise_12_slow_sockets_lock_nobody_out() {
    let limits = NbdLimits { connections_max: 16, handshakes_max: 8, ..NbdLimits::default() };
    let rig = rig_with(limits, false, false);
    let mut kept = Client::open(&rig);
    let slow: Vec<UnixStream> =
        (0..100).map(|_| UnixStream::connect(&rig.path).expect("connect")).collect();
    let begun = std::time::Instant::now();
    for _ in 0..3 {
        assert_alive(&rig);
    }
    kept.request(0, READ, 0, 4);
    assert_eq!(kept.reply(), 0, "one that was open is served");
    assert_eq!(kept.read::<4>(), [0; 4]);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    drop(slow);
}
