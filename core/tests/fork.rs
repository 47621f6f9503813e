//! Promise 10 against a machine that is resumed twice from one memory snapshot: two timelines go on
//! with the same keys, salts, frame numbers and random bytes. `fork` is the model: whatever a
//! program holds in memory, both processes hold. A seeded clock is the generator that the snapshot
//! copied too.

#![allow(unsafe_code, reason = "the standard library does not fork")]

use std::path::Path;

use hrl::journal::{
    Body, BytesSource, KeyRing, Record, Segment, SegmentKind, SegmentParams, SegmentWriter,
    VolumeKey,
};
use hrl::{ChainHash, Compression, Epoch, ManualClock, Sequence, Timestamp, VolumeId};

const BLOCK: usize = 4096;
const HEADER_BYTES: usize = 256;
const FRAME_HEADER_BYTES: usize = 64;
const FOOTER_BYTES: usize = 128;

type Writer = SegmentWriter<Vec<u8>>;

fn create(key: &VolumeKey, clock: &ManualClock) -> Writer {
    let params = SegmentParams {
        kind: SegmentKind::Log,
        volume: VolumeId([1; 16]),
        epoch: Epoch(1),
        first_sequence: Sequence(1),
        device_bytes: 1 << 20,
        block_bytes: 512,
        previous: ChainHash::default(),
        replaces_through: None,
        created: Timestamp(0),
        compression: Compression::None,
        frame_bytes: 16 << 10,
    };
    SegmentWriter::create(Vec::new(), params, Some(key), clock).expect("create")
}

/// Appends blocks of this content. Everything else is the same in both timelines.
fn append(writer: &mut Writer, sequences: std::ops::Range<u64>, content: u8) {
    for sequence in sequences {
        let data = [content; BLOCK];
        let body = Body::Write { offset: sequence * BLOCK as u64, data: &data };
        let record = Record { sequence: Sequence(sequence), time: Timestamp(0), body };
        writer.append(&record).expect("append");
    }
    writer.flush_frame().expect("flush");
}

/// Goes on with a segment that was open in the snapshot, then writes one more; returns both.
fn go_on(mut open: Writer, key: &VolumeKey, clock: &ManualClock, content: u8) -> [Vec<u8>; 2] {
    append(&mut open, 9..17, content);
    let mut next = create(key, clock);
    append(&mut next, 1..9, content);
    [open, next].map(|writer| writer.close(None).expect("close").0)
}

/// Runs `work` in a copy of this process and returns what it returned.
fn in_a_copy(directory: &Path, work: impl FnOnce() -> [Vec<u8>; 2]) -> [Vec<u8>; 2] {
    let paths = ["open", "next"].map(|name| directory.join(name));
    // SAFETY: the child takes no lock that another thread of this process may hold: the allocator's
    // are made usable by `fork` itself, and it prints nothing and ends without running exit
    // handlers.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let wrote = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let segments = work();
            paths.iter().zip(&segments).all(|(path, bytes)| std::fs::write(path, bytes).is_ok())
        }));
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(i32::from(!wrote.unwrap_or(false))) }
    }
    let mut status = 0;
    // SAFETY: `status` lives until the call returns.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0, "the copy failed");
    paths.map(|path| std::fs::read(path).expect("read"))
}

/// Returns headers and contents of the frames.
fn frames(bytes: &[u8]) -> Vec<(&[u8], &[u8])> {
    let mut rest = &bytes[HEADER_BYTES..bytes.len() - FOOTER_BYTES];
    let mut frames = Vec::new();
    while let Some((head, after)) = rest.split_at_checked(FRAME_HEADER_BYTES) {
        let stored = u32::from_le_bytes(head[12..16].try_into().expect("4 bytes")) as usize;
        let (content, after) = after.split_at(stored);
        frames.push((head, content));
        rest = after;
    }
    frames
}

/// Returns the key stream of the `BLOCK` bytes that begin a frame whose content is known.
fn key_stream(stored: &[u8], content: u8) -> Vec<u8> {
    stored[..BLOCK].iter().map(|byte| byte ^ content).collect()
}

#[test]
fn promise_10_timelines_of_one_memory_snapshot_share_no_key_stream() {
    let directory = tempfile::tempdir().expect("directory");
    let (key, clock) = (VolumeKey::from_bytes([7; 32]), ManualClock::new(Timestamp(0), 1));
    let mut open = create(&key, &clock);
    append(&mut open, 1..9, b'0');

    let mut snapshot = Some(open);
    let theirs =
        in_a_copy(directory.path(), || go_on(snapshot.take().expect("one"), &key, &clock, b'1'));
    let ours = go_on(snapshot.take().expect("one"), &key, &clock, b'2');

    for ((theirs, ours), begun) in theirs.iter().zip(&ours).zip([2, 0]) {
        for bytes in [theirs, ours] {
            let source = Box::new(BytesSource::new("segment", bytes.clone()));
            Segment::open(source, &KeyRing::from(key.clone()))
                .expect("opens")
                .verify()
                .expect("sound");
        }
        assert_eq!(theirs[..HEADER_BYTES], ours[..HEADER_BYTES], "the same key and salt");
        let (theirs_end, ours_end) = (theirs.len() - FOOTER_BYTES, ours.len() - FOOTER_BYTES);
        assert_ne!(theirs[theirs_end + 108..][..16], ours[ours_end + 108..][..16], "footer");
        let (theirs, ours) = (frames(theirs), frames(ours));
        assert_eq!(theirs[..begun], ours[..begun], "what was written before the snapshot");
        let data = begun..theirs.len() - 2;
        assert_eq!((data.len(), theirs.len()), (2, ours.len()));
        for ((their_head, their_content), (our_head, our_content)) in
            theirs[data.clone()].iter().zip(&ours[data])
        {
            assert_eq!(their_head[..40], our_head[..40], "the same place and size");
            assert_ne!(their_head[40..56], our_head[40..56], "the tag");
            let (their_stream, our_stream) =
                (key_stream(their_content, b'1'), key_stream(our_content, b'2'));
            for (at, (one, other)) in their_stream.chunks(8).zip(our_stream.chunks(8)).enumerate() {
                assert_ne!(one, other, "the key stream at {}", at * 8);
            }
        }
    }
}
