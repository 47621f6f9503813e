//! Packs of segments: any bytes (promise 11), as they are and with right sums and checksum, and any
//! sequence of calls of a store with packs, against a model.
//!
//! - what is understood as a pack is, byte for byte, what its members make, and each member reads
//!   as its part;
//! - a segment that was put, packed or not, is found with its bytes until it is deleted, and not
//!   after;
//! - of a volume without segments no pack stays.
//!
//! An input is one byte (bit 0: steps), and then a pack, or steps of four bytes.
#![no_main]

use std::collections::BTreeMap;
use std::sync::Arc;

use hrl::ErrorKind;
use hrl::store::Store;
use hrl::testing::{mend_pack, reprint_pack};
use hrl::vault::PackedStore;
use hrl_fuzz::Memory;
use libfuzzer_sys::fuzz_target;

/// A name that matches any segment.
const PACK: &str =
    "volumes/v/packs/0000000000000000-ffffffffffffffff-00000000000000000000000000000000.pack";
const SEGMENTS: &str = "volumes/v/segments/";
const STEPS_MAX: usize = 100;

fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else { return };
    if kind & 1 == 1 {
        let mut rig = Rig::default();
        for step in rest.chunks_exact(4).take(STEPS_MAX) {
            rig.step([step[0], step[1], step[2], step[3]]);
        }
        return rig.settle();
    }
    check(rest);
    let mut mended = rest.to_vec();
    mend_pack(&mut mended);
    check(&mended);
});

fn check(bytes: &[u8]) {
    let inner = Arc::new(Memory::default());
    inner.add(PACK.to_owned(), bytes);
    let store = PackedStore::over(inner.clone());
    let members = store.list(SEGMENTS).expect("what cannot be read is left out");
    match reprint_pack(bytes) {
        Ok(again) => assert!(again == bytes, "a pack is what its members make"),
        Err(error) => {
            assert!(members.is_empty() && error.kind() == ErrorKind::Corrupt, "{error}");
            return;
        }
    }
    let total: u64 = members.iter().map(|member| member.length).sum();
    assert!(total <= bytes.len() as u64, "members do not overlap");
    for member in &members {
        let found = store.head(&member.name).expect("it can be read").expect("it is there");
        assert_eq!(&found, member);
        let content = store.get(&member.name, 0..member.length).expect("it can be read");
        assert_eq!(content.len() as u64, member.length);
        let beyond = store.get(&member.name, 0..member.length + 1).expect_err("past its end");
        assert_eq!(beyond.kind(), ErrorKind::InvalidInput);
        store.delete(&member.name).expect("delete");
        let gone = store.head(&member.name).expect("it can be asked");
        assert_eq!(gone, None, "a deleted member is gone");
    }
    if !members.is_empty() {
        assert!(inner.all().is_empty(), "a pack goes with its last member");
    }
}

/// Two clients of one store, and a model of it.
struct Rig {
    inner: Arc<Memory>,
    clients: [Arc<PackedStore>; 2],
    model: BTreeMap<String, Vec<u8>>,
}

impl Default for Rig {
    fn default() -> Self {
        let inner = Arc::new(Memory::default());
        let clients = [0, 1].map(|_| PackedStore::over(inner.clone()));
        Self { inner, clients, model: BTreeMap::new() }
    }
}

fn volume(number: u8) -> &'static str {
    ["a", "b"][usize::from(number & 1)]
}

/// Returns one of sixteen segments of a volume; their ranges of sequences overlap. The name
/// determines the bytes.
fn segment(volume: &str, number: u8) -> (String, Vec<u8>) {
    let (first, length) = (u64::from(number / 2) * 10, usize::from(number) * 7);
    let name = format!(
        "volumes/{volume}/segments/e00000001-{first:016x}-{:016x}-{number:016x}.hrl",
        first + 25
    );
    (name, vec![number | 0x80; length])
}

fn some(volume: &str, mask: u16) -> Vec<(String, Vec<u8>)> {
    (0..16_u8).filter(|number| mask >> number & 1 == 1).map(|n| segment(volume, n)).collect()
}

impl Rig {
    fn step(&mut self, [what, a, b, c]: [u8; 4]) {
        let client = self.clients[usize::from(what >> 7)].clone();
        let volume = volume(a);
        let (name, content) = segment(volume, b & 15);
        let mask = u16::from_le_bytes([b, c]);
        match what % 8 {
            0 => {
                client.put(&name, &content).expect("put");
                self.model.insert(name, content);
            }
            1 => {
                let objects = some(volume, mask);
                if !objects.is_empty() {
                    client.put_packed(volume, &objects).expect("put packed");
                    self.model.extend(objects);
                }
            }
            2 => {
                client.delete(&name).expect("delete");
                self.model.remove(&name);
            }
            3 => {
                let names: Vec<_> = some(volume, mask).into_iter().map(|(name, _)| name).collect();
                client.delete_many(&names).expect("delete many");
                names.iter().for_each(|name| drop(self.model.remove(name)));
            }
            4 => {
                let found = client.head(&name).expect("head").map(|info| info.length);
                assert_eq!(found, self.model.get(&name).map(|content| content.len() as u64));
            }
            5 => self.read(&client, &name, &content, c),
            6 => self.list(&client, volume, c),
            _ => self.clients[usize::from(what >> 7)] = PackedStore::over(self.inner.clone()),
        }
    }

    fn read(&self, client: &PackedStore, name: &str, content: &[u8], part: u8) {
        let length = content.len() as u64;
        let start = u64::from(part & 15).min(length);
        let end = start + u64::from(part >> 4);
        match client.get(name, start..end) {
            // A client from before a delete may still read.
            Ok(bytes) => assert_eq!(bytes, content[start as usize..end as usize]),
            Err(error) if end > length => assert_ne!(error.kind(), ErrorKind::Corrupt, "{error}"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
                assert!(!self.model.contains_key(name), "{name} is lost");
            }
        }
    }

    fn list(&self, client: &PackedStore, volume: &str, which: u8) {
        let prefix = match which % 5 {
            0 => String::new(),
            1 => format!("volumes/{volume}/"),
            2 => format!("volumes/{volume}/segments/"),
            3 => format!("volumes/{volume}/segments/e00000001-{:016x}", u64::from(which >> 4) * 10),
            _ => format!("volumes/{volume}/packs/"),
        };
        let found = client.list(&prefix).expect("list");
        let found = found.into_iter().map(|info| (info.name, info.length));
        let wanted = self.model.iter().filter(|(name, _)| name.starts_with(&prefix));
        let wanted = wanted.map(|(name, content)| (name.clone(), content.len() as u64));
        assert!(found.eq(wanted), "a list is what is there");
    }

    /// Checks that both clients can read everything, and that nothing stays once it is deleted.
    fn settle(mut self) {
        let fresh = PackedStore::over(self.inner.clone());
        for (name, content) in &self.model {
            let found = fresh.get(name, 0..content.len() as u64).expect("it is there");
            assert_eq!(&found, content);
        }
        for volume in ["a", "b"] {
            let names: Vec<_> =
                self.model.keys().filter(|name| name.contains(&format!("/{volume}/"))).collect();
            let Some((first, rest)) = names.split_first() else { continue };
            fresh
                .delete_many(&rest.iter().map(|n| (*n).clone()).collect::<Vec<_>>())
                .expect("rest");
            fresh.delete(first).expect("the last");
        }
        self.model.clear();
        self.list(&fresh, "a", 0);
        let left = self.inner.all();
        let packs: Vec<_> = left.keys().filter(|name| name.ends_with(".pack")).collect();
        assert!(packs.is_empty(), "{packs:?} have nothing left");
    }
}
