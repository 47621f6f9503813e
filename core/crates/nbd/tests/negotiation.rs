//! What a client negotiated holds for the requests that follow: the last choice, of the export that
//! it opened.

mod raw;

use std::sync::Arc;

use hrl::device::MemoryDevice;
use hrl::{Extent, ExtentSet};
use hrl_nbd::{Export, ExportContext, NbdAddress, NbdLimits, NbdServer};
use raw::*;

const EXPORT_NAME: u32 = 1;
const STARTTLS: u32 = 5;
const INFO: u32 = 6;
const GO: u32 = 7;
const STRUCTURED_REPLY: u32 = 8;
const LIST_META_CONTEXT: u32 = 9;
const SET_META_CONTEXT: u32 = 10;
const ACK: u32 = 1;
const INFO_REPLY: u32 = 3;
const META_CONTEXT: u32 = 4;
const ERR_UNSUP: u32 = 0x8000_0001;
const ERR_INVALID: u32 = 0x8000_0003;
const ERR_UNKNOWN: u32 = 0x8000_0006;
const FLAG_SEND_DF: u16 = 1 << 7;
const CMD_FLAG_DF: u16 = 1 << 2;
const ALLOCATION: &str = "base:allocation";
const CHANGES: &str = "hrl:changes";

/// Two exports; the first has a context of its own.
fn two_exports() -> Rig {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("directory");
    let path = directory.path().join("s");
    let mut exports: Vec<_> = ["disk", "other"]
        .map(|name| Export::device(name, Arc::new(MemoryDevice::new(SIZE))))
        .into();
    let mut extents = ExtentSet::default();
    extents.insert(Extent { offset: 0, length: 4096 });
    exports[0].contexts.push(ExportContext { name: CHANGES.into(), extents: Arc::new(extents) });
    let server = NbdServer::start(&NbdAddress::Unix(path.clone()), exports, NbdLimits::default())
        .expect("serve");
    denied::check_engine(&server);
    Rig { directory, path, server }
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes(), text.as_bytes()].concat()
}

fn contexts_of(export: &str, queries: &[&str]) -> Vec<u8> {
    let mut content = text(export);
    content.extend((queries.len() as u32).to_be_bytes());
    queries.iter().for_each(|query| content.extend(text(query)));
    content
}

impl Client {
    /// Connects and agrees on the style without zeroes.
    fn greeted(rig: &Rig) -> Self {
        let mut client = Self::greet(rig);
        client.write(&3_u32.to_be_bytes());
        client
    }

    /// Sends an option; returns the final reply and the contents of those before it.
    fn negotiate(&mut self, option: u32, content: &[u8]) -> (u32, Vec<Vec<u8>>) {
        self.option(option, content);
        let mut before = Vec::new();
        loop {
            let head: [u8; 20] = self.read();
            let number = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().expect("4"));
            assert_eq!(number(8), option);
            let mut content = vec![0; number(16) as usize];
            std::io::Read::read_exact(&mut self.0, &mut content).expect("content");
            if number(12) != META_CONTEXT && number(12) != INFO_REPLY {
                return (number(12), before);
            }
            before.push(content);
        }
    }

    fn structured(&mut self) {
        assert_eq!(self.negotiate(STRUCTURED_REPLY, &[]).0, ACK);
    }

    /// Chooses contexts, which must exist.
    fn set(&mut self, export: &str, queries: &[&str]) {
        let (end, chosen) = self.negotiate(SET_META_CONTEXT, &contexts_of(export, queries));
        assert_eq!((end, chosen.len()), (ACK, queries.len()));
    }

    /// Opens an export; returns its transmission flags.
    fn go(&mut self, export: &str) -> u16 {
        let (end, infos) = self.negotiate(GO, &[text(export), vec![0, 0]].concat());
        assert_eq!(end, ACK);
        flags_of(&infos)
    }

    /// Asks for block status; returns the error, or else the numbers of the contexts that answer.
    fn status(&mut self) -> Result<Vec<u32>, u32> {
        self.request(0, BLOCK_STATUS, 0, 8192);
        let mut contexts = Vec::new();
        loop {
            let head: [u8; 20] = self.read();
            assert_eq!(head[..4], 0x668e_33ef_u32.to_be_bytes());
            let length = u32::from_be_bytes(head[16..20].try_into().expect("4 bytes"));
            let mut content = vec![0; length as usize];
            std::io::Read::read_exact(&mut self.0, &mut content).expect("content");
            let number = u32::from_be_bytes(content[..4].try_into().expect("4 bytes"));
            if head[6] & 0x80 != 0 {
                return Err(number);
            }
            contexts.push(number);
            if head[5] & 1 != 0 {
                return Ok(contexts);
            }
        }
    }
}

/// Returns the transmission flags among the information of an export.
fn flags_of(infos: &[Vec<u8>]) -> u16 {
    let export = infos.iter().find(|info| info[..2] == [0, 0]).expect("the export");
    u16::from_be_bytes([export[10], export[11]])
}

#[test]
fn a_refused_choice_of_contexts_leaves_none() {
    let rig = two_exports();
    for (refused, expected) in [
        (contexts_of("nowhere", &[ALLOCATION]), ERR_UNKNOWN),
        (contexts_of("disk", &[ALLOCATION])[..12].to_vec(), ERR_INVALID),
        ([contexts_of("disk", &[ALLOCATION]), vec![0]].concat(), ERR_INVALID),
        (vec![0xff; 8], ERR_INVALID),
        (vec![], ERR_INVALID),
    ] {
        let mut client = Client::greeted(&rig);
        client.structured();
        client.set("disk", &[ALLOCATION]);
        assert_eq!(client.negotiate(SET_META_CONTEXT, &refused).0, expected, "{refused:?}");
        client.go("disk");
        assert_eq!(client.status(), Err(EINVAL), "{refused:?}");
    }
}

#[test]
fn the_last_choice_of_contexts_counts() {
    let rig = two_exports();
    let mut client = Client::greeted(&rig);
    client.structured();
    client.set("disk", &[ALLOCATION]);
    client.set("disk", &[CHANGES]);
    client.go("disk");
    assert_eq!(client.status(), Ok(vec![2]));

    // None is a choice too, of no query or of one that fits nothing.
    for queries in [&[][..], &["base:nothing"], &["base:"]] {
        let mut client = Client::greeted(&rig);
        client.structured();
        client.set("disk", &[ALLOCATION, CHANGES]);
        let none = client.negotiate(SET_META_CONTEXT, &contexts_of("disk", queries));
        assert_eq!(none, (ACK, vec![]));
        client.go("disk");
        assert_eq!(client.status(), Err(EINVAL), "{queries:?}");
    }

    // A context that is asked for twice answers once.
    let mut client = Client::greeted(&rig);
    client.structured();
    let twice = contexts_of("disk", &[ALLOCATION, ALLOCATION]);
    assert_eq!(client.negotiate(SET_META_CONTEXT, &twice).1.len(), 1);
    client.go("disk");
    assert_eq!(client.status(), Ok(vec![1]));
}

#[test]
fn contexts_belong_to_the_export_that_they_were_chosen_for() {
    let rig = two_exports();
    let mut client = Client::greeted(&rig);
    client.structured();
    client.set("disk", &[ALLOCATION]);
    client.go("other");
    assert_eq!(client.status(), Err(EINVAL));

    let mut client = Client::greeted(&rig);
    client.structured();
    client.set("disk", &[ALLOCATION]);
    client.option(EXPORT_NAME, b"other");
    client.read::<10>();
    assert_eq!(client.status(), Err(EINVAL));

    // Looking around changes nothing: information of another export, lists of contexts, a failed
    // attempt to open.
    let mut client = Client::greeted(&rig);
    client.structured();
    client.set("disk", &[ALLOCATION]);
    let info = client.negotiate(INFO, &[text("other"), vec![0, 0]].concat());
    assert_eq!(info.0, ACK);
    let listed = client.negotiate(LIST_META_CONTEXT, &contexts_of("other", &[]));
    assert_eq!((listed.0, listed.1.len()), (ACK, 1));
    assert_eq!(client.negotiate(LIST_META_CONTEXT, &[0xff; 8]).0, ERR_INVALID);
    let nowhere = client.negotiate(GO, &[text("nowhere"), vec![0, 0]].concat());
    assert_eq!(nowhere.0, ERR_UNKNOWN);
    client.go("disk");
    assert_eq!(client.status(), Ok(vec![1]));

    // The default export has a name as well.
    let mut client = Client::greeted(&rig);
    client.structured();
    client.set("disk", &[CHANGES]);
    client.go("");
    assert_eq!(client.status(), Ok(vec![2]));
}

#[test]
fn what_needs_structured_replies_is_refused_without_them() {
    let rig = two_exports();
    let mut client = Client::greeted(&rig);
    let early = contexts_of("disk", &[ALLOCATION]);
    assert_eq!(client.negotiate(SET_META_CONTEXT, &early).0, ERR_INVALID);
    assert_eq!(client.negotiate(LIST_META_CONTEXT, &early).0, ERR_INVALID);
    assert_eq!(client.negotiate(STRUCTURED_REPLY, b"x").0, ERR_INVALID);
    assert_eq!(client.negotiate(STARTTLS, &[]).0, ERR_UNSUP);
    assert_eq!(client.go("disk") & FLAG_SEND_DF, 0, "nothing to keep whole");
    for (flags, command) in [(0, BLOCK_STATUS), (CMD_FLAG_DF, READ)] {
        client.request(flags, command, 0, 512);
        assert_eq!(client.reply(), EINVAL, "{command}");
    }

    let mut client = Client::greeted(&rig);
    client.option(EXPORT_NAME, b"disk");
    let [.., high, low] = client.read::<10>();
    assert_eq!(u16::from_be_bytes([high, low]) & FLAG_SEND_DF, 0);

    // What was refused too early stays refused.
    let mut client = Client::greeted(&rig);
    assert_eq!(client.negotiate(SET_META_CONTEXT, &early).0, ERR_INVALID);
    client.structured();
    client.structured();
    assert_ne!(client.go("disk") & FLAG_SEND_DF, 0);
    assert_eq!(client.status(), Err(EINVAL));
    client.request(CMD_FLAG_DF, READ, 0, 512);
    let head: [u8; 20] = client.read();
    assert_eq!(head[..4], 0x668e_33ef_u32.to_be_bytes());
    assert_eq!(head[4..8], [0, 1, 0, 1], "one chunk of data, and done");
}

#[test]
fn all_of_this_holds_where_io_uring_is_denied() {
    denied::run_all_but("all_of_this_holds_where_io_uring_is_denied", libc::EPERM);
}
