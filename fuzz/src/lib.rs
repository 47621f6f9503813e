//! Shared parts of the targets.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Mutex;

use hrl::journal::{BytesSource, Segment, SegmentKind, SegmentParams, VolumeKey};
use hrl::store::{ObjectInfo, PutOutcome, Store};
use hrl::{ChainHash, Compression, Epoch, Error, ErrorKind, Result, Sequence, Timestamp, VolumeId};

/// The sanitizer may look for leaks while scoped threads are still ending.
#[unsafe(no_mangle)]
pub extern "C" fn __lsan_default_suppressions() -> *const std::ffi::c_char {
    c"leak:__cxa_thread_atexit_impl\n".as_ptr()
}

/// The key of encrypted seeds.
pub fn key() -> VolumeKey {
    VolumeKey::from_bytes([3; 32])
}

/// Opens a segment, with that key if it is encrypted.
pub fn open_segment(bytes: &[u8]) -> Result<Segment> {
    Segment::open(Box::new(BytesSource::new("input", bytes.to_vec())), &key().into())
}

/// Returns parameters of a log of a small volume.
pub fn log_params(device_bytes: u64) -> SegmentParams {
    SegmentParams {
        kind: SegmentKind::Log,
        volume: VolumeId([1; 16]),
        epoch: Epoch(1),
        first_sequence: Sequence(1),
        device_bytes,
        block_bytes: 512,
        previous: ChainHash::default(),
        replaces_through: None,
        created: Timestamp(1_000),
        compression: Compression::None,
        frame_bytes: 1 << 10,
    }
}

/// Returns a directory for this process, in memory if possible.
pub fn scratch(name: &str) -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    let parent = if memory.is_dir() { memory } else { std::env::temp_dir() };
    let directory = parent.join(format!("hrl-fuzz-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory for scratch files");
    directory
}

/// A store in memory.
#[derive(Default)]
pub struct Memory(Mutex<BTreeMap<String, Vec<u8>>>);

impl Memory {
    /// Puts an object, replacing any other.
    pub fn add(&self, name: String, content: &[u8]) {
        self.0.lock().expect("no panic under it").insert(name, content.to_vec());
    }

    /// Returns all objects.
    pub fn all(&self) -> BTreeMap<String, Vec<u8>> {
        self.0.lock().expect("no panic under it").clone()
    }
}

impl Store for Memory {
    fn name(&self) -> String {
        "memory".to_owned()
    }

    fn put(&self, name: &str, content: &[u8]) -> Result<PutOutcome> {
        let mut objects = self.0.lock().expect("no panic under it");
        if objects.contains_key(name) {
            return Ok(PutOutcome::AlreadyExists);
        }
        objects.insert(name.to_owned(), content.to_vec());
        Ok(PutOutcome::Created)
    }

    fn get(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        let objects = self.0.lock().expect("no panic under it");
        let object =
            objects.get(name).ok_or_else(|| Error::new(ErrorKind::NotFound, "get", name))?;
        let bytes = object.get(range.start as usize..range.end as usize);
        bytes.map(<[u8]>::to_vec).ok_or_else(|| Error::new(ErrorKind::InvalidInput, "get", name))
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let objects = self.0.lock().expect("no panic under it");
        let named = objects.iter().filter(|(name, _)| name.starts_with(prefix));
        Ok(named.map(|(n, c)| ObjectInfo { name: n.clone(), length: c.len() as u64 }).collect())
    }

    fn head(&self, name: &str) -> Result<Option<ObjectInfo>> {
        let objects = self.0.lock().expect("no panic under it");
        let length = objects.get(name).map(|content| content.len() as u64);
        Ok(length.map(|length| ObjectInfo { name: name.to_owned(), length }))
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.0.lock().expect("no panic under it").remove(name);
        Ok(())
    }
}
