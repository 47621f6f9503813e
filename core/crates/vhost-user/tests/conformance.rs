//! What every front promises, through libblkio's client, which needs no virtual machine.

#![allow(unsafe_code, reason = "the client takes addresses of memory that it shares")]

use std::io::{Error, Result};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use blkio::{Blkio, Blkioq, Completion, MemoryRegion, ReqFlags};
use hrl::device::MemoryDevice;
use hrl_front::conformance::{self, Client, SIZE, Served};
use hrl_vhost_user::{Disk, VhostUserLimits, VhostUserServer};

/// Bytes of one request; more are several at once.
const PIECE: usize = 64 << 10;

struct BlkioClient {
    queues: Vec<Blkioq>,
    region: MemoryRegion,
    next: usize,
    _driver: Blkio,
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::other(error.to_string())
}

impl BlkioClient {
    fn connect(
        path: &Path,
        queues: i32,
        read_only: bool,
    ) -> std::result::Result<Self, blkio::Error> {
        let mut driver = Blkio::new("virtio-blk-vhost-user")?;
        driver.set_str("path", &path.display().to_string())?;
        driver.set_bool("read-only", read_only)?;
        driver.connect()?;
        driver.set_i32("num-queues", queues)?;
        let queues = driver.start()?.queues;
        let region = driver.alloc_mem_region(SIZE as usize)?;
        driver.map_mem_region(&region)?;
        Ok(Self { queues, region, next: 0, _driver: driver })
    }

    fn memory(&mut self) -> &mut [u8] {
        // SAFETY: the region is mapped as long as the driver lives, and no request is under way.
        unsafe { std::slice::from_raw_parts_mut(self.region.addr as *mut u8, self.region.len) }
    }

    /// Makes requests on one queue and waits for all of them.
    fn run(&mut self, count: usize, ask: impl Fn(&mut Blkioq, usize)) -> Result<()> {
        let number = self.next % self.queues.len();
        self.next += 1;
        let queue = &mut self.queues[number];
        (0..count).for_each(|request| ask(queue, request));
        let mut completions: Vec<MaybeUninit<Completion>> =
            (0..count).map(|_| MaybeUninit::uninit()).collect();
        let mut limit = Duration::from_secs(20);
        let found = queue.do_io(&mut completions, count, Some(&mut limit), None).map_err(failed)?;
        assert_eq!(found, count, "every request is answered");
        for completion in completions {
            // SAFETY: as many were filled.
            let completion = unsafe { completion.assume_init() };
            if completion.ret != 0 {
                return Err(Error::from_raw_os_error(-completion.ret));
            }
        }
        Ok(())
    }

    /// Runs requests for pieces of `length` bytes; `ask` gets offset and length of each in the memory.
    fn pieces(&mut self, length: usize, ask: impl Fn(&mut Blkioq, usize, usize)) -> Result<()> {
        let piece = |number: usize| PIECE.min(length - number * PIECE);
        self.run(length.div_ceil(PIECE), |queue, number| ask(queue, number * PIECE, piece(number)))
    }
}

impl Client for BlkioClient {
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let at = self.region.addr;
        self.pieces(buffer.len(), |queue, from, length| {
            queue.read(offset + from as u64, (at + from) as *mut u8, length, 0, ReqFlags::empty());
        })?;
        buffer.copy_from_slice(&self.memory()[..buffer.len()]);
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        self.memory()[..data.len()].copy_from_slice(data);
        let at = self.region.addr;
        self.pieces(data.len(), |queue, from, length| {
            let data = (at + from) as *const u8;
            queue.write(offset + from as u64, data, length, 0, ReqFlags::empty());
        })
    }

    fn zero(&mut self, offset: u64, length: u64) -> Result<()> {
        self.run(1, |queue, _| queue.write_zeroes(offset, length, 0, ReqFlags::empty()))
    }

    fn discard(&mut self, offset: u64, length: u64) -> Result<()> {
        self.run(1, |queue, _| queue.discard(offset, length, 0, ReqFlags::empty()))
    }

    fn flush(&mut self) -> Result<()> {
        self.run(1, |queue, _| queue.flush(0, ReqFlags::empty()))
    }
}

/// A server, and the directory of its socket.
struct Rig(VhostUserServer, #[allow(dead_code, reason = "dropped later")] tempfile::TempDir);

fn serve(disk: Disk, limits: VhostUserLimits) -> Rig {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("s");
    Rig(VhostUserServer::start(&path, "disk", disk, limits).expect("serve"), directory)
}

#[test]
fn it_is_a_front() {
    for queues in [1, 4] {
        conformance::check(&|disk, read_only| {
            let limits = VhostUserLimits { read_only, ..VhostUserLimits::default() };
            let rig = serve(disk, limits);
            let client = BlkioClient::connect(rig.0.path(), queues, read_only).expect("connect");
            Served { client: Box::new(client), server: Box::new(rig) }
        });
    }
}

#[test]
fn one_client_after_the_other_and_a_stop_under_a_client() {
    let disk = Disk::Device(Arc::new(MemoryDevice::new(SIZE)));
    let rig = serve(disk, VhostUserLimits::default());
    for round in 1..4_u8 {
        let mut client = BlkioClient::connect(rig.0.path(), 2, false).expect("connect");
        client.write(u64::from(round) * 4096, &[round; 4096]).expect("write");
        let mut found = [0; 4096];
        client.read(4096, &mut found).expect("read");
        assert_eq!(found, [1; 4096]);
    }
    let stats = rig.0.stats();
    assert_eq!((stats.requests, stats.errors), (6, 0));
    assert_eq!((stats.bytes_read, stats.bytes_written), (3 * 4096, 3 * 4096));
    let path = rig.0.path().to_owned();
    let client = BlkioClient::connect(&path, 1, false).expect("connect");
    rig.0.stop();
    assert!(!path.exists(), "the socket is gone");
    drop(client);
}

#[test]
fn promise_12_a_client_that_says_nothing_or_nonsense_is_no_harm() {
    use std::io::Write;
    let disk = Disk::Device(Arc::new(MemoryDevice::new(SIZE)));
    let rig = serve(disk, VhostUserLimits::default());
    for nonsense in
        [&b""[..], &[0xFF; 4096], b"GET / HTTP/1.1\r\n\r\n", &[1, 0, 0, 0, 1, 0, 0, 0, 8]]
    {
        let mut stream = UnixStream::connect(rig.0.path()).expect("connect");
        let _ = stream.write_all(nonsense);
    }
    let mut client = BlkioClient::connect(rig.0.path(), 1, false).expect("the next one is served");
    client.write(0, &[1; 512]).expect("write");
}
