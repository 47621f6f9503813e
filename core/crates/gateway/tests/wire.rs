//! Gateways and clients send the bytes that older versions of either expect.

use std::io::{Cursor, Read, Write};
use std::sync::{Arc, Mutex};

use hrl::Result;
use hrl::store::{DirStore, Store};
use hrl_gateway::{GatewayOptions, RemoteStore};
use hrl_tls::{EnrolledClient, Role, create_authority, enroll_client};

const SEGMENT: &str = "volumes/disk/segments/one.hrl";
const VERSION: &str = "volumes/disk/catalog/0000000000000001";

/// Gives one answer to any request, and stores the request.
struct Tape {
    answer: Cursor<Vec<u8>>,
    asked: Arc<Mutex<Vec<u8>>>,
}

impl Read for Tape {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.answer.read(buffer)
    }
}

impl Write for Tape {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.asked.lock().expect("lock").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A call of the client, its bytes, and the gateway's answer.
type Exchange = (fn(&dyn Store) -> Result<String>, &'static str, &'static str, &'static str);

/// In this order, because each depends on those before it.
const EXCHANGES: [Exchange; 9] = [
    (
        |store| store.put(SEGMENT, b"0123456789").map(|outcome| format!("{outcome:?}")),
        "Created",
        "PUT /v1/objects/volumes/disk/segments/one.hrl HTTP/1.1\r\nhost: gateway\r\nif-none-match: *\r\n\
         content-length: 10\r\n\r\n0123456789",
        "HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n",
    ),
    (
        |store| store.put(SEGMENT, b"other").map(|outcome| format!("{outcome:?}")),
        "AlreadyExists",
        "PUT /v1/objects/volumes/disk/segments/one.hrl HTTP/1.1\r\nhost: gateway\r\nif-none-match: *\r\n\
         content-length: 5\r\n\r\nother",
        "HTTP/1.1 412 Precondition Failed\r\ncontent-length: 0\r\n\r\n",
    ),
    (
        |store| store.put(VERSION, b"version").map(|outcome| format!("{outcome:?}")),
        "Created",
        "PUT /v1/objects/volumes/disk/catalog/0000000000000001 HTTP/1.1\r\nhost: gateway\r\n\
         if-none-match: *\r\ncontent-length: 7\r\n\r\nversion",
        "HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n",
    ),
    (
        |store| store.get(SEGMENT, 2..6).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
        "2345",
        "GET /v1/objects/volumes/disk/segments/one.hrl HTTP/1.1\r\nhost: gateway\r\n\
         range: bytes=2-5\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 206 Partial Content\r\ncontent-length: 4\r\n\r\n2345",
    ),
    (
        |store| store.head(SEGMENT).map(|info| format!("{:?}", info.map(|info| info.length))),
        "Some(10)",
        "HEAD /v1/objects/volumes/disk/segments/one.hrl HTTP/1.1\r\nhost: gateway\r\n\
         content-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n",
    ),
    (
        |store| {
            let names = store.list("volumes/disk/")?.into_iter();
            Ok(names.map(|info| format!("{} {};", info.name, info.length)).collect())
        },
        "volumes/disk/catalog/0000000000000001 7;volumes/disk/segments/one.hrl 10;",
        "GET /v1/list?prefix=volumes/disk/ HTTP/1.1\r\nhost: gateway\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 73\r\n\r\n\
         7 volumes/disk/catalog/0000000000000001\n10 volumes/disk/segments/one.hrl\n",
    ),
    (
        |store| store.delete(VERSION).map(|()| "done".to_owned()),
        "done",
        "DELETE /v1/objects/volumes/disk/catalog/0000000000000001 HTTP/1.1\r\nhost: gateway\r\n\
         content-length: 0\r\n\r\n",
        "HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n",
    ),
    (
        |store| store.delete_many(&[SEGMENT.into(), VERSION.into()]).map(|()| "done".to_owned()),
        "done",
        "POST /v1/delete HTTP/1.1\r\nhost: gateway\r\ncontent-length: 67\r\n\r\n\
         volumes/disk/segments/one.hrl\nvolumes/disk/catalog/0000000000000001",
        "HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n",
    ),
    (
        |store| store.head(SEGMENT).map(|info| format!("{:?}", info.map(|info| info.length))),
        "None",
        "HEAD /v1/objects/volumes/disk/segments/one.hrl HTTP/1.1\r\nhost: gateway\r\n\
         content-length: 0\r\n\r\n",
        "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
    ),
];

#[test]
fn requests_and_answers_keep_their_bytes() {
    let directory = tempfile::tempdir().expect("directory");
    let path = |name: &str| directory.path().join(name);
    create_authority(&path("pki"), &["127.0.0.1".into()]).expect("authority");
    enroll_client(&path("pki"), "agent", &["disk".into()], &path("agent")).expect("enroll");
    let vault = Arc::new(DirStore::create(&path("vault")).expect("store"));
    let gateway = GatewayOptions::new("127.0.0.1:0", path("pki")).start(vault).expect("gateway");
    let agent = EnrolledClient::new("agent", Role::Admin, &["disk".into()]);
    for (call, result, request, answer) in EXCHANGES {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let kept = asked.clone();
        let client = RemoteStore::open(&["127.0.0.1".into()], &path("agent"))
            .expect("client")
            .dial_with(move || {
                let answer = Cursor::new(answer.as_bytes().to_vec());
                Ok(Box::new(Tape { answer, asked: kept.clone() }) as Box<_>)
            });
        assert_eq!(call(&client).expect("understood"), result, "the client understands the answer");
        assert_eq!(String::from_utf8_lossy(&asked.lock().expect("lock")), request);

        let answered = Arc::new(Mutex::new(Vec::new()));
        let question = Cursor::new(request.as_bytes().to_vec());
        let stream = Tape { answer: question, asked: answered.clone() };
        gateway.converse(&agent, stream).expect("understood");
        assert_eq!(String::from_utf8_lossy(&answered.lock().expect("lock")), answer);
    }
}

/// A refusal carries the kind of the error, which the client returns.
#[test]
fn a_refusal_keeps_its_bytes() {
    let directory = tempfile::tempdir().expect("directory");
    let path = |name: &str| directory.path().join(name);
    create_authority(&path("pki"), &["127.0.0.1".into()]).expect("authority");
    let vault = Arc::new(DirStore::create(&path("vault")).expect("store"));
    let gateway = GatewayOptions::new("127.0.0.1:0", path("pki")).start(vault).expect("gateway");
    let request = "GET /v1/objects/volumes/other/volume HTTP/1.1\r\nhost: gateway\r\n\
                   range: bytes=0-1\r\ncontent-length: 0\r\n\r\n";
    let answered = Arc::new(Mutex::new(Vec::new()));
    let agent = EnrolledClient::new("agent", Role::Admin, &["disk".into()]);
    let stream = Tape { answer: Cursor::new(request.as_bytes().to_vec()), asked: answered.clone() };
    gateway.converse(&agent, stream).expect("understood");
    let answer = answered.lock().expect("lock");
    let answer = String::from_utf8_lossy(&answer);
    // The sentences are for people and may change.
    assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\nhrl-error: denied\r\nhrl-message: "));
}
