//! TLS of the server: admission, refusals and their reports, and clients that break the protocol
//! (promises 11 and 12).

#[path = "raw/denied.rs"]
mod denied;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use hrl::device::MemoryDevice;
use hrl_nbd::{Export, NbdAddress, NbdLimits, NbdServer, NbdTls};
use hrl_tls::rustls::pki_types::ServerName;
use hrl_tls::rustls::{self, ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use hrl_tls::{
    Enrollment, Role, client_config, create_authority, enroll_client, let_client_expire,
};

const SIZE: u64 = 64 << 20;
const OPTION: u64 = 0x4948_4156_454f_5054;
const OPT_EXPORT_NAME: u32 = 1;
const OPT_LIST: u32 = 3;
const OPT_STARTTLS: u32 = 5;
const OPT_GO: u32 = 7;
const OPT_STRUCTURED_REPLY: u32 = 8;
const OPT_SET_META_CONTEXT: u32 = 10;
const REP_ACK: u32 = 1;
const REP_META_CONTEXT: u32 = 4;
const REP_ERR_UNSUP: u32 = 0x8000_0001;
const REP_ERR_INVALID: u32 = 0x8000_0003;
const REP_ERR_TLS_REQD: u32 = 0x8000_0005;

struct Rig {
    directory: tempfile::TempDir,
    server: NbdServer,
    refusals: Arc<Mutex<Vec<String>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no test thread panicked")
}

fn authority(rig: &tempfile::TempDir, name: &str) -> PathBuf {
    let pki = rig.path().join(name);
    create_authority(&pki, &["localhost".into()]).expect("authority");
    pki
}

fn rig(verify: bool) -> Rig {
    let directory = tempfile::tempdir().expect("directory");
    let pki = authority(&directory, "pki");
    for (client, volume) in [("agent", "disk"), ("stranger", "another")] {
        let bundle = directory.path().join(client);
        enroll_client(&pki, client, &[volume.into()], &bundle).expect("enroll");
    }
    let refusals = Arc::new(Mutex::new(Vec::new()));
    let sink = refusals.clone();
    let tls = NbdTls::new(&pki)
        .verify(verify)
        .on_refused(Arc::new(move |line| lock(&sink).push(line.to_owned())));
    let limits = NbdLimits { handshake_seconds_max: 1, ..NbdLimits::default() };
    let exports = vec![Export::device("disk", Arc::new(MemoryDevice::new(SIZE)))];
    let address = NbdAddress::parse("tcp:127.0.0.1:0").expect("address");
    let server = NbdServer::start_tls(&address, exports, limits, tls).expect("serve");
    denied::check_engine(&server);
    assert!(server.uri("disk").starts_with("nbds://127.0.0.1:"), "{}", server.uri("disk"));
    Rig { directory, server, refusals }
}

impl Rig {
    fn bundle(&self, name: &str) -> Arc<ClientConfig> {
        client_config(&self.directory.path().join(name)).expect("bundle")
    }

    /// Waits until no connection is left: no thread hangs.
    fn wait_gone(&self) {
        for _ in 0..500 {
            if self.server.stats().connections == 0 {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("a connection hangs");
    }

    fn refusals(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.refusals))
    }
}

fn option<S: Write>(stream: &mut S, option: u32, content: &[u8]) {
    let mut bytes = OPTION.to_be_bytes().to_vec();
    bytes.extend_from_slice(&option.to_be_bytes());
    bytes.extend_from_slice(&(content.len() as u32).to_be_bytes());
    bytes.extend_from_slice(content);
    // It may be closed already; the next read reports that.
    let _ = stream.write_all(&bytes);
}

fn read<const N: usize, S: Read>(stream: &mut S) -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).map(|()| bytes)
}

/// Kind of the reply to an option; its content is skipped.
fn reply<S: Read>(stream: &mut S) -> std::io::Result<u32> {
    let head: [u8; 20] = read(stream)?;
    let word = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().expect("4 bytes"));
    let mut content = vec![0; word(16) as usize];
    stream.read_exact(&mut content)?;
    Ok(word(12))
}

/// Connects and reads the greeting.
fn greet(server: &NbdServer) -> TcpStream {
    let NbdAddress::Tcp(host, port) = server.address() else { panic!("a port") };
    let mut stream = TcpStream::connect((host.as_str(), *port)).expect("connect");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("limit");
    read::<18, _>(&mut stream).expect("greeting");
    stream.write_all(&3_u32.to_be_bytes()).expect("flags");
    stream
}

/// Asks for TLS, and before it for structured replies, which must have no effect in TLS.
fn starttls(server: &NbdServer) -> TcpStream {
    let mut stream = greet(server);
    option(&mut stream, OPT_STRUCTURED_REPLY, b"");
    assert_eq!(reply(&mut stream).expect("reply"), REP_ERR_TLS_REQD);
    option(&mut stream, OPT_STARTTLS, b"");
    assert_eq!(reply(&mut stream).expect("reply"), REP_ACK);
    stream
}

type Tls = StreamOwned<ClientConnection, TcpStream>;

/// Begins TLS and asks for the list of exports: in TLS 1.3 only an answer says that the client was
/// let in.
fn enter(rig: &Rig, config: Arc<ClientConfig>) -> std::io::Result<Tls> {
    let name = ServerName::try_from("localhost").expect("name");
    let connection = ClientConnection::new(config, name).expect("client");
    let mut tls = StreamOwned::new(connection, starttls(&rig.server));
    option(&mut tls, OPT_LIST, b"");
    reply(&mut tls)?;
    reply(&mut tls)?;
    Ok(tls)
}

/// Opens the export; requests can follow.
fn open(rig: &Rig, config: Arc<ClientConfig>) -> Tls {
    let mut tls = enter(rig, config).expect("let in");
    option(&mut tls, OPT_EXPORT_NAME, b"disk");
    assert_eq!(u64::from_be_bytes(read(&mut tls).expect("size")), SIZE);
    read::<2, _>(&mut tls).expect("flags");
    tls
}

fn request(command: u16, offset: u64, length: u32) -> Vec<u8> {
    let mut bytes = 0x2560_9513_u32.to_be_bytes().to_vec();
    bytes.extend_from_slice(&0_u16.to_be_bytes());
    bytes.extend_from_slice(&command.to_be_bytes());
    bytes.extend_from_slice(&7_u64.to_be_bytes());
    bytes.extend_from_slice(&offset.to_be_bytes());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes
}

/// Writes, reads back and leaves.
fn assert_served(rig: &Rig) {
    let mut tls = open(rig, rig.bundle("agent"));
    for (offset, length) in [(0, 1), (512, 1000), (1 << 20, 8 << 20)] {
        let data: Vec<u8> = (0..length).map(|n: u32| (n % 251) as u8).collect();
        tls.write_all(&request(1, offset, length)).expect("request");
        tls.write_all(&data).expect("data");
        assert_eq!(read::<16, _>(&mut tls).expect("reply")[4..8], [0; 4]);
        tls.write_all(&request(0, offset, length)).expect("request");
        assert_eq!(read::<16, _>(&mut tls).expect("reply")[4..8], [0; 4]);
        let mut found = vec![0; length as usize];
        tls.read_exact(&mut found).expect("data");
        assert!(found == data, "{length} bytes come back");
    }
    tls.write_all(&request(2, 0, 0)).expect("goodbye");
}

#[test]
fn an_enrolled_client_is_served_in_tls() {
    let rig = rig(true);
    assert_served(&rig);
    rig.wait_gone();
    assert_eq!(rig.refusals(), [""; 0]);
}

/// A client may send its first option together with the end of its handshake, and then waits.
#[test]
fn an_option_that_comes_with_the_end_of_the_handshake_is_answered() {
    let rig = rig(true);
    let name = ServerName::try_from("localhost").expect("name");
    let mut tls = ClientConnection::new(rig.bundle("agent"), name).expect("client");
    let mut stream = starttls(&rig.server);
    while tls.is_handshaking() {
        while tls.wants_write() {
            tls.write_tls(&mut stream).expect("write");
        }
        tls.read_tls(&mut stream).expect("read");
        tls.process_new_packets().expect("handshake");
    }
    option(&mut tls.writer(), OPT_LIST, b"");
    let mut together = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut together).expect("write");
    }
    stream.write_all(&together).expect("write");
    let mut tls = StreamOwned::new(tls, stream);
    reply(&mut tls).expect("the export");
    assert_eq!(reply(&mut tls).expect("the end of the list"), REP_ACK);
}

#[test]
fn nothing_is_served_before_tls() {
    let rig = rig(true);
    let mut plain = greet(&rig.server);
    for number in [OPT_LIST, OPT_STRUCTURED_REPLY, OPT_GO, 10, 77] {
        option(&mut plain, number, b"");
        assert_eq!(reply(&mut plain).expect("reply"), REP_ERR_TLS_REQD, "option {number}");
    }
    option(&mut plain, OPT_STARTTLS, b"no content belongs here");
    assert_eq!(reply(&mut plain).expect("reply"), REP_ERR_INVALID);
    option(&mut plain, OPT_EXPORT_NAME, b"disk");
    read::<1, _>(&mut plain).expect_err("it ends");
    let mut tls = enter(&rig, rig.bundle("agent")).expect("let in");
    option(&mut tls, OPT_STARTTLS, b"");
    assert_eq!(reply(&mut tls).expect("reply"), REP_ERR_INVALID, "TLS in TLS");
    let contexts = b"\0\0\0\x04disk\0\0\0\x01\0\0\0\x0fbase:allocation";
    for expected in [REP_ERR_INVALID, REP_META_CONTEXT] {
        option(&mut tls, OPT_SET_META_CONTEXT, contexts);
        assert_eq!(reply(&mut tls).expect("reply"), expected, "structured replies come first");
        option(&mut tls, OPT_STRUCTURED_REPLY, b"");
        assert_eq!(reply(&mut tls).expect("reply"), REP_ACK);
    }
    // A server without TLS says so.
    let exports = vec![Export::device("disk", Arc::new(MemoryDevice::new(SIZE)))];
    let address = NbdAddress::parse("tcp:127.0.0.1:0").expect("address");
    let without = NbdServer::start(&address, exports, NbdLimits::default()).expect("serve");
    let mut plain = greet(&without);
    option(&mut plain, OPT_STARTTLS, b"");
    assert_eq!(reply(&mut plain).expect("reply"), REP_ERR_UNSUP);
}

#[test]
fn clients_without_the_right_certificate_are_refused_and_reported() {
    let rig = rig(true);
    let directory = rig.directory.path();
    let foreign = authority(&rig.directory, "elsewhere");
    enroll_client(&foreign, "agent", &["disk".into()], &directory.join("foreign")).expect("enroll");
    // It believes our server, and shows a certificate of another authority.
    std::fs::copy(directory.join("pki/authority.pem"), directory.join("foreign/authority.pem"))
        .expect("copy");
    let volumes = ["disk".to_owned()];
    for name in ["removed", "expired"] {
        enroll_client(&directory.join("pki"), name, &volumes, &directory.join(name))
            .expect("enroll");
    }
    Enrollment::new("reader", &volumes)
        .role(Role::Reader)
        .enroll(&directory.join("pki"), &directory.join("reader"))
        .expect("enroll");
    std::fs::remove_file(directory.join("pki/clients/removed")).expect("shut out");
    let_client_expire(&directory.join("pki"), "expired", &directory.join("expired"))
        .expect("expire");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let nobody = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots_of(&rig))
        .with_no_client_auth();
    let cases = [
        (Arc::new(nobody), "no certificates"),
        (rig.bundle("foreign"), "invalid peer certificate"),
        (rig.bundle("expired"), "xpired"),
        (rig.bundle("removed"), "not enrolled in"),
        (rig.bundle("reader"), "reader is a reader, and the export can be written"),
        (rig.bundle("stranger"), "stranger is not enrolled for volume disk"),
    ];
    for (config, reason) in cases {
        assert!(enter(&rig, config).is_err(), "{reason}: let in");
        rig.wait_gone();
        let refusals = rig.refusals();
        assert!(
            refusals.len() == 1
                && refusals[0].starts_with("NBD client 127.0.0.1:")
                && refusals[0].contains(reason),
            "{reason}: {refusals:?}"
        );
    }
    assert_eq!(rig.server.stats().connections_refused, 6);
    assert_served(&rig);
}

#[test]
#[allow(clippy::disallowed_methods, reason = "a test measures how long a real client waits")]
fn promise_13_a_client_that_is_revoked_is_disconnected() {
    let rig = rig(true);
    let mut tls = open(&rig, rig.bundle("agent"));
    let begun = std::time::Instant::now();
    std::fs::remove_file(rig.directory.path().join("pki/clients/agent")).expect("revoke");
    assert!(read::<1, _>(&mut tls).is_err(), "nothing was asked for");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    rig.wait_gone();
    let refusals = rig.refusals();
    assert!(refusals.iter().any(|line| line.contains("not enrolled")), "{refusals:?}");
}

fn roots_of(rig: &Rig) -> RootCertStore {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let mut roots = RootCertStore::empty();
    let path = rig.directory.path().join("pki/authority.pem");
    roots.add(CertificateDer::from_pem_file(path).expect("certificate")).expect("root");
    roots
}

#[test]
fn without_verification_any_client_is_served_in_tls() {
    let rig = rig(false);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let nobody = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots_of(&rig))
        .with_no_client_auth();
    open(&rig, Arc::new(nobody));
    let mut plain = greet(&rig.server);
    option(&mut plain, OPT_LIST, b"");
    assert_eq!(reply(&mut plain).expect("reply"), REP_ERR_TLS_REQD);
}

#[test]
fn broken_tls_ends_within_the_limit_and_hurts_nobody() {
    let rig = rig(true);
    // Silence, junk, a record that claims to be long, an option in plain after TLS was agreed on.
    let mut silent = starttls(&rig.server);
    for junk in [&[0xaa; 5000][..], &[22, 3, 1, 0xff, 0xff, 1, 2, 3], &OPTION.to_be_bytes()] {
        let mut stream = starttls(&rig.server);
        stream.write_all(junk).expect("junk");
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.len() < 100, "an alert at most");
    }
    assert!(matches!(silent.read(&mut [0]), Ok(0) | Err(_)), "it ends");
    // A byte at a time: the whole handshake has one limit.
    let mut slow = starttls(&rig.server);
    for byte in [22_u8, 3, 1, 2, 0] {
        let _ = slow.write_all(&[byte]);
        std::thread::sleep(Duration::from_millis(300));
    }
    assert!(matches!(slow.read(&mut [0; 8]), Ok(0) | Err(_)), "it ends");
    // TLS, and then silence where options should come, or junk where a record should.
    let mut idle = enter(&rig, rig.bundle("agent")).expect("let in");
    assert!(matches!(idle.read(&mut [0]), Ok(0) | Err(_)), "it ends");
    let mut tls = open(&rig, rig.bundle("agent"));
    tls.sock.write_all(&[0x55; 4096]).expect("junk");
    assert!(matches!(tls.read(&mut [0]), Ok(0) | Err(_)), "it ends");
    rig.wait_gone();
    assert_eq!(rig.refusals().len(), 5);
    assert_served(&rig);
}

#[test]
fn a_client_that_never_reads_is_held_back_and_a_stopping_server_does_not_wait_for_it() {
    let rig = rig(true);
    let mut tls = open(&rig, rig.bundle("agent"));
    tls.sock.set_write_timeout(Some(Duration::from_millis(300))).expect("limit");
    for _ in 0..20_000 {
        if tls.write_all(&request(0, 0, 1 << 20)).is_err() {
            break;
        }
    }
    let answered = rig.server.stats().requests;
    assert!(answered < 2000, "{answered} requests of 1 MiB were answered to nobody");
    let _idle = open(&rig, rig.bundle("agent"));
    assert_served(&rig);
    rig.server.stop();
}

#[test]
fn all_of_this_holds_where_io_uring_is_denied() {
    denied::run_all_but("all_of_this_holds_where_io_uring_is_denied", libc::EPERM);
}
