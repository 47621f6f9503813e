//! A server, and a client that sends whatever a test wants.

#![allow(dead_code, reason = "each test uses a part")]

pub mod denied;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hrl::capture::Volume;
use hrl::device::{FileDevice, FileDeviceOptions, MemoryDevice};
use hrl_nbd::{Export, NbdAddress, NbdLimits, NbdServer};

pub const SIZE: u64 = 4 << 20;
pub const OPTION: u64 = 0x4948_4156_454f_5054;
pub const READ: u16 = 0;
pub const WRITE: u16 = 1;
pub const FLUSH: u16 = 3;
pub const TRIM: u16 = 4;
pub const CACHE: u16 = 5;
pub const BLOCK_STATUS: u16 = 7;
pub const EPERM: u32 = 1;
pub const EINVAL: u32 = 22;
pub const ENOSPC: u32 = 28;

pub struct Rig {
    pub directory: tempfile::TempDir,
    pub path: PathBuf,
    pub server: NbdServer,
}

pub fn rig_with(limits: NbdLimits, ring: bool, read_only: bool) -> Rig {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("directory");
    let path = directory.path().join("s");
    let options = FileDeviceOptions { create_bytes: Some(SIZE), ..Default::default() };
    let mut export = if ring {
        let file = FileDevice::open(&directory.path().join("disk"), &options).expect("disk");
        Export::volume("disk", Arc::new(Volume::unprotected(Arc::new(file))))
    } else {
        Export::device("disk", Arc::new(MemoryDevice::new(SIZE)))
    };
    export.read_only = read_only;
    let server =
        NbdServer::start(&NbdAddress::Unix(path.clone()), vec![export], limits).expect("serve");
    denied::check_engine(&server);
    Rig { directory, path, server }
}

pub fn rig() -> Rig {
    rig_with(NbdLimits { handshake_seconds_max: 1, ..NbdLimits::default() }, true, false)
}

pub struct Client(pub UnixStream);

impl Client {
    /// Connects and reads the greeting.
    pub fn greet(rig: &Rig) -> Self {
        let stream = UnixStream::connect(&rig.path).expect("connect");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("limit");
        let mut client = Self(stream);
        assert_eq!(&client.read::<8>(), b"NBDMAGIC");
        client.read::<10>();
        client
    }

    /// Connects to the first export.
    pub fn open(rig: &Rig) -> Self {
        let mut client = Self::greet(rig);
        client.write(&3_u32.to_be_bytes());
        client.option(1, b"");
        let size = u64::from_be_bytes(client.read());
        assert_eq!(size, SIZE);
        client.read::<2>();
        client
    }

    pub fn read<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes).expect("an answer");
        bytes
    }

    pub fn write(&mut self, bytes: &[u8]) {
        // The server may have closed the connection already; the next read tells.
        let _ = self.0.write_all(bytes);
    }

    pub fn option(&mut self, option: u32, content: &[u8]) {
        self.write(&OPTION.to_be_bytes());
        self.write(&option.to_be_bytes());
        self.write(&(content.len() as u32).to_be_bytes());
        self.write(content);
    }

    pub fn request(&mut self, flags: u16, command: u16, offset: u64, length: u32) {
        self.write(&request(flags, command, offset, length));
    }

    /// The error of a simple reply.
    pub fn reply(&mut self) -> u32 {
        let bytes: [u8; 16] = self.read();
        assert_eq!(bytes[..4], 0x6744_6698_u32.to_be_bytes());
        u32::from_be_bytes(bytes[4..8].try_into().expect("4 bytes"))
    }

    pub fn assert_closed(&mut self) {
        let mut rest = Vec::new();
        let _ = self.0.read_to_end(&mut rest);
        assert!(rest.len() < 4096, "the connection ends");
    }
}

pub fn request(flags: u16, command: u16, offset: u64, length: u32) -> Vec<u8> {
    let mut bytes = 0x2560_9513_u32.to_be_bytes().to_vec();
    bytes.extend_from_slice(&flags.to_be_bytes());
    bytes.extend_from_slice(&command.to_be_bytes());
    bytes.extend_from_slice(&7_u64.to_be_bytes());
    bytes.extend_from_slice(&offset.to_be_bytes());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes
}

/// A good client is served: it writes, reads back, and leaves.
pub fn assert_alive(rig: &Rig) {
    let mut client = Client::open(rig);
    client.request(0, WRITE, 512, 1000);
    client.write(&[9; 1000]);
    assert_eq!(client.reply(), 0);
    client.request(0, READ, 512, 1000);
    assert_eq!(client.reply(), 0);
    assert_eq!(client.read::<1000>(), [9; 1000]);
}
