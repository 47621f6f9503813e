//! Clients of the NBD server that send anything (promises 11 and 12): each connection ends, nothing
//! outside a device is touched, the next client is served, and the journal of the protected export
//! still makes its disk (promises 1 to 3).
//!
//! An input is one byte of handshake (bits 0 to 2: flags, bit 7: a second client sends the same at
//! the same time), and then messages, each with its kind in one byte; see `message`.
#![no_main]

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use hrl::capture::{QueuedBody, Tap, Volume};
use hrl::device::{
    Allocation, BlockDevice, Discarded, Durability, FileDevice, FileDeviceOptions, MemoryDevice,
    Unmap,
};
use hrl::{Extent, ExtentSet, Mode, Policy, Result, Sequence, SystemClock};
use hrl_fuzz::scratch;
use hrl_nbd::{Export, ExportContext, NbdAddress, NbdLimits, NbdServer};
use libfuzzer_sys::arbitrary::{Result as Parsed, Unstructured};
use libfuzzer_sys::fuzz_target;

const SIZE: u64 = 128 << 10;
const OPTION: u64 = 0x4948_4156_454f_5054;
const REQUEST: u32 = 0x2560_9513;
const WRITE: u16 = 1;
/// A client's bytes fit into the socket's buffer, so that sending never waits for the server.
const SENT_BYTES_MAX: usize = 96 << 10;
const EXPORTS: [&str; 5] = ["disk", "memory", "fixed", "", "none"];
/// No connection takes this long, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(10);

fuzz_target!(|input: &[u8]| {
    let Ok((bytes, clients)) = conversation(&mut Unstructured::new(input)) else { return };
    let rig = &*RIG;
    let mut streams: Vec<_> = (0..clients).map(|_| rig.connect()).collect();
    for stream in &mut streams {
        // The server may have closed the connection already.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(Shutdown::Write);
    }
    for mut stream in streams {
        let mut answers = Vec::new();
        if let Err(error) = stream.read_to_end(&mut answers) {
            assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "the server hangs");
        }
    }
    rig.check_served();
    rig.check_idle();
    rig.check_journal();
    assert!(!OUTSIDE.load(Ordering::SeqCst), "a request outside the device reached it");
});

// --- what is sent ---

/// The bytes that a client sends, and the number of clients.
fn conversation(input: &mut Unstructured<'_>) -> Parsed<(Vec<u8>, usize)> {
    let handshake = input.arbitrary::<u8>()?;
    let mut bytes = u32::from(handshake & 7).to_be_bytes().to_vec();
    while !input.is_empty() && bytes.len() < SENT_BYTES_MAX {
        message(input, &mut bytes)?;
    }
    bytes.truncate(SENT_BYTES_MAX);
    Ok((bytes, 1 + usize::from(handshake >> 7)))
}

fn message(input: &mut Unstructured<'_>, out: &mut Vec<u8>) -> Parsed<()> {
    match input.arbitrary::<u8>()? % 8 {
        // The name of an export, which ends the handshake.
        0 => option(out, 1, export(input)?.as_bytes()),
        // Information about an export (6), or the end of the handshake (7).
        1 => {
            let number = 6 + u32::from(input.arbitrary::<u8>()? & 1);
            let mut content = text(export(input)?);
            let wanted: u16 = input.int_in_range(0..=4)?;
            content.extend_from_slice(&wanted.to_be_bytes());
            (0..wanted).for_each(|info| content.extend_from_slice(&info.to_be_bytes()));
            option(out, number, &content);
        }
        // Structured replies.
        2 => option(out, 8, b""),
        // Contexts of an export, listed (9) or set (10).
        3 => {
            let number = 9 + u32::from(input.arbitrary::<u8>()? & 1);
            let mut content = text(export(input)?);
            let queries = ["base:allocation", "hrl:changes", "base:", "x"];
            let count = usize::from(input.arbitrary::<u8>()?) % (queries.len() + 1);
            content.extend_from_slice(&(count as u32).to_be_bytes());
            queries[..count].iter().for_each(|query| content.extend(text(query)));
            option(out, number, &content);
        }
        // Any option with any content.
        4 => {
            let (number, length) = (input.arbitrary::<u8>()?, input.arbitrary::<u8>()?);
            option(out, number.into(), input.bytes(usize::from(length).min(input.len()))?);
        }
        // A request; the whole payload with a write.
        5 | 6 => {
            let (flags, command) = (input.arbitrary::<u8>()?, input.arbitrary::<u8>()? % 9);
            let offset = u64::from(input.arbitrary::<u32>()?);
            let offset = if offset >> 31 == 0 { offset % (SIZE + 8192) } else { offset << 32 };
            let length = u32::from(input.arbitrary::<u16>()?);
            let length = if length > 0xfff0 { length << 16 } else { length * 2 };
            request(out, flags.into(), command.into(), offset, length);
            if u16::from(command) == WRITE && (length as usize) < SENT_BYTES_MAX {
                out.resize(out.len() + length as usize, flags.wrapping_add(length as u8));
            }
        }
        // Anything.
        _ => {
            let length = usize::from(input.arbitrary::<u8>()?).min(input.len());
            out.extend_from_slice(input.bytes(length)?);
        }
    }
    Ok(())
}

fn export(input: &mut Unstructured<'_>) -> Parsed<&'static str> {
    Ok(EXPORTS[usize::from(input.arbitrary::<u8>()?) % EXPORTS.len()])
}

fn text(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u32).to_be_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

fn option(out: &mut Vec<u8>, number: u32, content: &[u8]) {
    out.extend_from_slice(&OPTION.to_be_bytes());
    out.extend_from_slice(&number.to_be_bytes());
    out.extend_from_slice(&(content.len() as u32).to_be_bytes());
    out.extend_from_slice(content);
}

fn request(out: &mut Vec<u8>, flags: u16, command: u16, offset: u64, length: u32) {
    out.extend_from_slice(&REQUEST.to_be_bytes());
    out.extend_from_slice(&flags.to_be_bytes());
    out.extend_from_slice(&command.to_be_bytes());
    out.extend_from_slice(&7_u64.to_be_bytes());
    out.extend_from_slice(&offset.to_be_bytes());
    out.extend_from_slice(&length.to_be_bytes());
}

// --- what it is sent to ---

static RIG: LazyLock<Rig> = LazyLock::new(Rig::start);
static OUTSIDE: AtomicBool = AtomicBool::new(false);

struct Rig {
    server: NbdServer,
    socket: PathBuf,
    tap: Arc<Tap>,
    disk: Arc<FileDevice>,
    /// Returns what the journal contains.
    replica: Mutex<Vec<u8>>,
}

impl Rig {
    fn start() -> Self {
        let directory = scratch("nbd");
        let (socket, path) = (directory.join("socket"), directory.join("disk"));
        let _ = std::fs::remove_file(&path);
        let options = FileDeviceOptions { create_bytes: Some(SIZE), ..Default::default() };
        let disk = Arc::new(FileDevice::open(&path, &options).expect("room for scratch files"));
        let policy = Policy { region_bytes: 4096, ..Policy::default() };
        let tap = Arc::new(Tap::new(SIZE, Sequence::ZERO, &policy, SystemClock::shared()));
        let keeper = tap.clone();
        std::thread::spawn(move || {
            loop {
                let wanted = keeper.wanted(Duration::from_secs(1));
                keeper.set_dirty(&wanted);
            }
        });
        let mut changes = ExtentSet::new();
        changes.insert(Extent { offset: 4096, length: 1000 });
        changes.insert(Extent { offset: SIZE - 1, length: 1 });
        let mut fixed = Export::device("fixed", Arc::new(Guarded(MemoryDevice::new(SIZE))));
        fixed.read_only = true;
        fixed.contexts =
            vec![ExportContext { name: "hrl:changes".to_owned(), extents: Arc::new(changes) }];
        let exports = vec![
            Export::volume("disk", Arc::new(Volume::new(disk.clone(), tap.clone()))),
            Export::device("memory", Arc::new(Guarded(MemoryDevice::new(SIZE)))),
            fixed,
        ];
        let limits = NbdLimits {
            requests_in_flight_max: 8,
            request_bytes_max: 96 << 10,
            backlog_bytes_max: 1 << 20,
            ..NbdLimits::default()
        };
        let address = NbdAddress::Unix(socket.clone());
        let server = NbdServer::start(&address, exports, limits).expect("a server");
        let replica = Mutex::new(vec![0; SIZE as usize]);
        Self { server, socket, tap, disk, replica }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes a time limit");
        stream
    }

    /// A well-behaved client writes, reads back and leaves.
    fn check_served(&self) {
        let mut stream = self.connect();
        let mut bytes = 3_u32.to_be_bytes().to_vec();
        option(&mut bytes, 1, b"memory");
        request(&mut bytes, 0, WRITE, 500, 100);
        bytes.extend_from_slice(&[9; 100]);
        stream.write_all(&bytes).expect("the server listens");
        let mut greeting = [0; 18 + 10 + 16];
        stream.read_exact(&mut greeting).expect("the server answers");
        assert_eq!(greeting[18..26], SIZE.to_be_bytes());
        assert_eq!(greeting[32..36], [0; 4], "the write succeeds");
        let mut bytes = Vec::new();
        request(&mut bytes, 0, 0, 500, 100);
        stream.write_all(&bytes).expect("the server listens");
        let mut reply = [0; 16 + 100];
        stream.read_exact(&mut reply).expect("the server answers");
        assert_eq!(reply[16..], [9; 100]);
    }

    /// Every connection ends once its client has left.
    fn check_idle(&self) {
        for _ in 0..100_000 {
            if self.server.stats().connections == 0 {
                return;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        panic!("a connection does not end");
    }

    fn check_journal(&self) {
        let mut replica = self.replica.lock().expect("no panic under it");
        loop {
            let records = self.tap.drain(u64::MAX, Duration::ZERO);
            if records.is_empty() {
                break;
            }
            for record in records {
                match record.body {
                    QueuedBody::Write(offset, data) => {
                        replica[offset as usize..offset as usize + data.len()]
                            .copy_from_slice(&data);
                    }
                    QueuedBody::Zero(extent) | QueuedBody::Discard(extent, _) => {
                        replica[extent.offset as usize..extent.end() as usize].fill(0);
                    }
                    QueuedBody::Flush => {}
                    other => panic!("nobody asked for {other:?}"),
                }
            }
        }
        assert_eq!(self.tap.mode(), Mode::Ordered);
        let mut disk = vec![0; SIZE as usize];
        self.disk.read(0, &mut disk).expect("the disk can be read");
        assert!(disk == *replica, "the journal makes the disk");
        let length = std::fs::metadata(self.disk.name()).expect("the file is there").len();
        assert_eq!(length, SIZE, "nothing is written past the end");
        // Makes the next client's changes wait for the dirty map again.
        self.tap.clean(self.tap.stats().last_sequence);
    }
}

/// A device that notices requests outside of it.
struct Guarded(MemoryDevice);

fn note_outside(offset: u64, length: u64) {
    if offset.checked_add(length).is_none_or(|end| end > SIZE) {
        OUTSIDE.store(true, Ordering::SeqCst);
    }
}

impl BlockDevice for Guarded {
    fn name(&self) -> String {
        self.0.name()
    }

    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }

    fn block_bytes(&self) -> u32 {
        self.0.block_bytes()
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        note_outside(offset, buffer.len() as u64);
        self.0.read(offset, buffer)
    }

    fn write(&self, offset: u64, data: &[u8], durability: Durability) -> Result<()> {
        note_outside(offset, data.len() as u64);
        self.0.write(offset, data, durability)
    }

    fn zero(&self, extent: Extent, unmap: Unmap, durability: Durability) -> Result<()> {
        note_outside(extent.offset, extent.length);
        self.0.zero(extent, unmap, durability)
    }

    fn discard(&self, extent: Extent) -> Result<Discarded> {
        note_outside(extent.offset, extent.length);
        self.0.discard(extent)
    }

    fn flush(&self) -> Result<()> {
        self.0.flush()
    }

    fn allocation(&self, extent: Extent) -> Result<Vec<Allocation>> {
        note_outside(extent.offset, extent.length);
        self.0.allocation(extent)
    }
}
