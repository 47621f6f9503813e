//! A gateway and its client without TLS (promises 9, 11 and 12): requests and answers of any bytes,
//! and a client that speaks with a gateway, against a model.
//!
//! - a client touches and sees nothing but its own volumes; every request has one answer, or the
//!   connection ends;
//! - whatever a gateway answers, a client takes no bytes that it did not ask for and no names
//!   outside of what it listed;
//! - through both, with a cache before the vault and without, a store is what the model is.
//!
//! An input is one byte (bits 0 and 1: who is fed; bit 2: with the cache), and then bytes, or steps
//! of four bytes.
#![no_main]

use std::collections::BTreeMap;
use std::io::{Cursor, Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use hrl::ErrorKind;
use hrl::store::{PutOutcome, Store, check_name};
use hrl_fuzz::{Memory, scratch};
use hrl_gateway::{Gateway, GatewayOptions, RemoteStore};
use hrl_tls::{EnrolledClient, Role, create_authority, enroll_client};
use libfuzzer_sys::arbitrary::{Result as Parsed, Unstructured};
use libfuzzer_sys::fuzz_target;

const STEPS_MAX: usize = 60;
const REQUEST_BYTES_MAX: u64 = 4096;
/// An object of another client; no request names it by chance.
const SECRET: &[u8] = b"The rain in Spain stays mainly";
const SECRET_NAME: &str = "e00000001-00000000deadbeef";

fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else { return };
    let rig = &RIGS[usize::from(kind >> 2 & 1)];
    match kind & 3 {
        0 => rig.serve(rest),
        1 => rig.serve(&requests(&mut Unstructured::new(rest)).unwrap_or_default()),
        2 => answer(rest),
        _ => Model::new(rig).run(rest),
    }
});

static RIGS: LazyLock<[Rig; 2]> = LazyLock::new(|| [Rig::start(false), Rig::start(true)]);
static BUNDLE: LazyLock<PathBuf> = LazyLock::new(|| pki().join("bundle"));
static VOLUMES: AtomicU64 = AtomicU64::new(0);

fn pki() -> PathBuf {
    static PKI: LazyLock<PathBuf> = LazyLock::new(|| {
        let pki = scratch("gateway").join("pki");
        let _ = std::fs::remove_dir_all(&pki);
        create_authority(&pki, &["gateway".to_owned()]).expect("an authority");
        enroll_client(&pki, "me", &["v".to_owned()], &pki.join("bundle")).expect("a client");
        pki
    });
    PKI.clone()
}

fn client(volume: &str) -> EnrolledClient {
    EnrolledClient::new("me", Role::Admin, &[volume.to_owned()])
}

struct Rig {
    gateway: Gateway,
    vault: Arc<Memory>,
    is_cached: bool,
}

impl Rig {
    fn start(is_cached: bool) -> Self {
        let vault = Arc::new(Memory::default());
        vault.add("hrl-vault".to_owned(), b"hrl vault 1\n");
        vault.add(format!("volumes/other/segments/{SECRET_NAME}.hrl"), SECRET);
        let mut options = GatewayOptions::new("127.0.0.1:0", pki());
        options = options.request_bytes_max(REQUEST_BYTES_MAX).pack_bytes(2048);
        if is_cached {
            let cache = scratch("gateway").join("cache");
            let _ = std::fs::remove_dir_all(&cache);
            options = options.cache(cache).pack_wait_max(Duration::from_millis(1));
        }
        let gateway = options.start(vault.clone()).expect("a gateway");
        Self { gateway, vault, is_cached }
    }

    /// Checks that nothing of the client's volumes is left.
    fn clear(&self, volume: &str) {
        let prefix = format!("volumes/{volume}/");
        for name in self.vault.all().into_keys().filter(|name| name.starts_with(&prefix)) {
            self.vault.delete(&name).expect("delete");
        }
    }

    fn serve(&self, requests: &[u8]) {
        let mut pipe = Pipe { sent: Cursor::new(requests.to_vec()), answers: Vec::new() };
        // Only the client cares what ends the conversation.
        let _ = self.gateway.converse(&client("v"), &mut pipe);
        self.check_answers(requests, &pipe.answers);
        for name in self.vault.all().into_keys().filter(|name| !name.starts_with("volumes/v/")) {
            let known =
                name == "hrl-vault" || name.contains(SECRET_NAME) || name.starts_with("audit/");
            assert!(known, "{name} is not the client's");
        }
        let others = format!("volumes/other/segments/{SECRET_NAME}.hrl");
        assert_eq!(self.vault.all().get(&others).map(Vec::as_slice), Some(SECRET));
        assert!(self.vault.all().keys().all(|name| check_name(name).is_ok()));
        self.clear("v");
    }

    fn check_answers(&self, requests: &[u8], answers: &[u8]) {
        let has =
            |bytes: &[u8], part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
        for secret in [SECRET, SECRET_NAME.as_bytes()] {
            assert!(has(requests, secret) || !has(answers, secret), "what is not the client's");
        }
        // The answer to a HEAD states the length of a body that does not follow.
        if has(requests, b"HEAD") {
            return;
        }
        let (mut rest, mut count) = (answers, 0);
        while !rest.is_empty() {
            let end = rest.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head");
            let head = std::str::from_utf8(&rest[..end]).expect("text");
            assert!(head.starts_with("HTTP/1.1 "), "an answer begins with its status");
            let lengths: Vec<_> =
                head.lines().filter_map(|line| line.strip_prefix("content-length: ")).collect();
            let [length] = lengths[..] else { panic!("one length") };
            rest = &rest[end + 4..][length.parse::<usize>().expect("a number")..];
            count += 1;
        }
        let asked = requests.windows(4).filter(|four| *four == b"\r\n\r\n").count();
        assert!(count <= asked.max(1), "{count} answers to {asked} requests");
    }
}

/// A client's end of a conversation that ends before the answer.
struct Pipe {
    sent: Cursor<Vec<u8>>,
    answers: Vec<u8>,
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.sent.read(buffer)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.answers.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Returns mostly complete requests.
fn requests(input: &mut Unstructured<'_>) -> Parsed<Vec<u8>> {
    let mut out = Vec::new();
    while !input.is_empty() && out.len() < 64 << 10 {
        let method = ["GET", "PUT", "DELETE", "POST", "PATCH"][input.choose_index(5)?];
        let target = match input.choose_index(6)? {
            0 => format!("/v1/objects/{}", name(input)?),
            1 => format!("/v1/list?prefix={}", name(input)?),
            2 => "/v1/delete".to_owned(),
            3 => ["/metrics", "/healthz", "/", "*"][input.choose_index(4)?].to_owned(),
            _ => format!("/v1/objects/volumes/v/{}", name(input)?),
        };
        let mut head = format!("{method} {target} HTTP/1.1\r\n");
        let headers = input.arbitrary::<u8>()?;
        if headers & 1 == 0 {
            head += "if-none-match: *\r\n";
        }
        if headers & 2 == 2 {
            let (first, length) = (input.arbitrary::<u16>()?, input.arbitrary::<u16>()?);
            head += &format!("range: bytes={first}-{}\r\n", u32::from(first) + u32::from(length));
        }
        if headers & 12 == 12 {
            head += &format!("hrl-cache: {}\r\n", name(input)?);
        }
        let length = usize::from(input.arbitrary::<u8>()?).min(input.len());
        let body = input.bytes(length)?;
        let claimed = if headers & 0xf0 == 0xf0 { length << 8 } else { length };
        head += &format!("content-length: {claimed}\r\n\r\n");
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(body);
    }
    Ok(out)
}

fn name(input: &mut Unstructured<'_>) -> Parsed<String> {
    const PARTS: [&str; 16] = [
        "volumes/",
        "v/",
        "other/",
        "segments/",
        "catalog/",
        "packs/",
        "../",
        "./",
        "/",
        "%2e%2e/",
        "hrl-vault",
        "volume",
        "e00000001-0000000000000001-0000000000000002-aa.hrl",
        "a",
        "..",
        "v",
    ];
    let count = input.choose_index(6)?;
    (0..count).map(|_| input.choose(&PARTS).copied()).collect()
}

// --- a client that hears anything ---

/// Gives the same answer to any request.
struct Answers(Cursor<Vec<u8>>);

impl Read for Answers {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Answers {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn open_client() -> RemoteStore {
    RemoteStore::open(&["gateway".to_owned()], &BUNDLE).expect("a bundle")
}

fn answer(bytes: &[u8]) {
    let answers = bytes.to_vec();
    let store = open_client()
        .dial_with(move || Ok(Box::new(Answers(Cursor::new(answers.clone()))) as Box<_>));
    let has = |part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
    for name in ["volumes/v/segments/s", "volumes/v/catalog/0000000000000001", "hrl-vault"] {
        match store.put(name, b"content") {
            Ok(PutOutcome::Created) => assert!(has(b"201"), "nobody said so"),
            Ok(PutOutcome::AlreadyExists) => assert!(has(b"412"), "nobody said so"),
            Err(error) => assert_ne!(error.kind(), ErrorKind::Io, "{error}"),
        }
        if let Ok(content) = store.get(name, 3..10) {
            assert_eq!(content.len(), 7, "as many bytes as were asked for");
        }
        if store.get(name, 3..3).is_ok_and(|content| !content.is_empty()) {
            panic!("nothing was asked for");
        }
        if let Ok(Some(info)) = store.head(name) {
            assert_eq!(info.name, name);
        }
        let _ = (store.delete(name), store.delete_many(&[name.to_owned(), "a/b".to_owned()]));
    }
    for prefix in ["", "volumes/v/", "volumes/v/segments/e0"] {
        for info in store.list(prefix).unwrap_or_default() {
            assert!(info.name.starts_with(prefix) && check_name(&info.name).is_ok(), "{info:?}");
        }
    }
}

// --- both ---

/// Passes requests to the gateway as soon as an answer is needed.
struct Direct {
    gateway: &'static Gateway,
    volume: String,
    sent: Vec<u8>,
    answers: Cursor<Vec<u8>>,
}

impl Read for Direct {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.answers.position() as usize == self.answers.get_ref().len() {
            let sent = Cursor::new(std::mem::take(&mut self.sent));
            let mut pipe = Pipe { sent, answers: Vec::new() };
            self.gateway.converse(&client(&self.volume), &mut pipe)?;
            self.answers = Cursor::new(pipe.answers);
        }
        self.answers.read(buffer)
    }
}

impl Write for Direct {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.sent.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

struct Model {
    rig: &'static Rig,
    store: RemoteStore,
    volume: String,
    objects: BTreeMap<String, Vec<u8>>,
    versions: u64,
}

impl Model {
    fn new(rig: &'static Rig) -> Self {
        let volume = format!("m{}", VOLUMES.fetch_add(1, Ordering::SeqCst));
        let (gateway, mine) = (&rig.gateway, volume.clone());
        let dial = move || {
            let (sent, answers) = (Vec::new(), Cursor::new(Vec::new()));
            Ok(Box::new(Direct { gateway, volume: mine.clone(), sent, answers }) as Box<_>)
        };
        let store = open_client().dial_with(dial);
        Self { rig, store, volume, objects: BTreeMap::new(), versions: 0 }
    }

    fn run(mut self, steps: &[u8]) {
        for step in steps.chunks_exact(4).take(STEPS_MAX) {
            self.step([step[0], step[1], step[2], step[3]]);
        }
        self.drain();
        self.list("");
        let in_vault = self.rig.gateway.stats().cached_objects;
        assert!(in_vault == 0 || !self.rig.is_cached, "what was drained is in the vault");
        self.rig.clear(&self.volume);
    }

    /// Returns one of sixteen objects; a segment's name determines its bytes.
    fn object(&self, number: u8, fill: u8) -> (String, Vec<u8>) {
        let (number, volume) = (number & 15, &self.volume);
        let below = match number {
            0..=9 => {
                let first = u64::from(number) * 10;
                let name = format!("segments/e00000001-{first:016x}-{:016x}-0.hrl", first + 9);
                return (
                    format!("volumes/{volume}/{name}"),
                    vec![number; usize::from(number) * 99],
                );
            }
            10 => "volume".to_owned(),
            11 => "keys/shredded".to_owned(),
            _ => format!("notes/{number}"),
        };
        (format!("volumes/{volume}/{below}"), vec![fill; usize::from(fill)])
    }

    fn step(&mut self, [what, number, a, b]: [u8; 4]) {
        let (name, content) = self.object(number, a);
        match what % 8 {
            0 | 1 => {
                let outcome = self.store.put(&name, &content).expect("put");
                let is_new = !self.objects.contains_key(&name);
                // A segment that left the cache may come into it again; its bytes are the same.
                let may_be_new = is_new || (self.rig.is_cached && name.contains("/segments/"));
                assert!(may_be_new || outcome == PutOutcome::AlreadyExists, "{name}");
                assert!(!is_new || outcome == PutOutcome::Created, "{name}");
                self.objects.entry(name).or_insert(content);
            }
            2 => self.get(&name, a, b),
            3 => {
                let found = self.store.head(&name).expect("head").map(|info| info.length);
                assert_eq!(found, self.objects.get(&name).map(|content| content.len() as u64));
            }
            4 => self.list(["", "volume", "segments/", "segments/e00000001-0"][usize::from(a & 3)]),
            5 => {
                self.drain();
                self.store.delete(&name).expect("delete");
                self.objects.remove(&name);
            }
            6 => {
                self.drain();
                let mask = u16::from_le_bytes([a, b]);
                let all = (0..16).filter(|number| mask >> number & 1 == 1);
                let names: Vec<_> = all.map(|number| self.object(number, 0).0).collect();
                self.store.delete_many(&names).expect("delete many");
                names.iter().for_each(|name| drop(self.objects.remove(name)));
            }
            _ => self.overstep(a, b),
        }
    }

    fn get(&self, name: &str, a: u8, b: u8) {
        let (start, end) = (u64::from(a), u64::from(a) + u64::from(b));
        let found = self.store.get(name, start..end);
        match self.objects.get(name) {
            Some(content) if end <= content.len() as u64 => {
                assert_eq!(found.expect("get"), content[start as usize..end as usize]);
            }
            Some(_) => {
                assert_eq!(found.expect_err("past its end").kind(), ErrorKind::InvalidInput);
            }
            None => assert_eq!(found.expect_err("it is not there").kind(), ErrorKind::NotFound),
        }
    }

    fn list(&self, below: &str) {
        let prefix = format!("volumes/{}/{below}", self.volume);
        let found = self.store.list(&prefix).expect("list").into_iter();
        let found: Vec<_> = found.map(|info| (info.name, info.length)).collect();
        let wanted = self.objects.iter().filter(|(name, _)| name.starts_with(&prefix));
        let wanted: Vec<_> = wanted.map(|(n, content)| (n.clone(), content.len() as u64)).collect();
        assert_eq!(found, wanted);
    }

    /// Puts a catalog version, before which everything goes to the vault.
    fn drain(&mut self) {
        self.versions += 1;
        let name = format!("volumes/{}/catalog/{:016x}", self.volume, self.versions);
        assert_eq!(self.store.put(&name, b"version").expect("put"), PutOutcome::Created);
        self.objects.insert(name, b"version".to_vec());
    }

    /// Checks names that the client has no right to, and objects that are too large.
    fn overstep(&self, a: u8, b: u8) {
        let name = format!("volumes/other/segments/{SECRET_NAME}.hrl");
        let error = match a % 6 {
            0 => self.store.put(&name, b"x").map(drop),
            1 => self.store.get(&name, 0..5).map(drop),
            2 => self.store.head(&name).map(drop),
            3 => self.store.delete(&name),
            4 => self.store.delete_many(&[self.object(b, 0).0, name]),
            _ => {
                let large = vec![0; REQUEST_BYTES_MAX as usize + 1];
                let name = format!("volumes/{}/large", self.volume);
                let refused = self.store.put(&name, &large).expect_err("too large");
                assert_eq!(refused.kind(), ErrorKind::InvalidInput, "{refused}");
                return;
            }
        };
        assert_eq!(error.expect_err("not the client's").kind(), ErrorKind::Fenced);
    }
}
