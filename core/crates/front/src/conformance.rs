//! Tests what every front promises, through a client of its protocol.

use std::io::Result;
use std::sync::Arc;
use std::time::Duration;

use hrl::capture::Volume;
use hrl::device::{BlockDevice, FaultDevice, FaultPlan, MemoryDevice};
use hrl::journal::PointKind;
use hrl::replica::{At, ViewOptions};
use hrl::store::DirStore;
use hrl::vault::Vault;
use hrl::{Policy, ProtectionOptions, SystemClock};

use crate::Disk;

/// Bytes of the disks that are served. A multiple of 4096.
pub const SIZE: u64 = 4 << 20;
const STEPS: u64 = 800;
const UNIT: u64 = 512;
const LIMIT: Duration = Duration::from_secs(60);

/// A client of a front. Offsets and lengths are multiples of 512 bytes. A refused or failed request
/// is an error, and the client goes on.
pub trait Client {
    /// Fills `buffer` from `offset`.
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<()>;
    /// Writes `data` at `offset`.
    fn write(&mut self, offset: u64, data: &[u8]) -> Result<()>;
    /// Makes a range read as zeroes.
    fn zero(&mut self, offset: u64, length: u64) -> Result<()>;
    /// Discards a range.
    fn discard(&mut self, offset: u64, length: u64) -> Result<()>;
    /// Makes every answered change durable.
    fn flush(&mut self) -> Result<()>;
}

/// A front that serves a disk, with a client. The front ends when it is dropped.
pub struct Served {
    /// The client, which is dropped first.
    pub client: Box<dyn Client>,
    /// What ends the front when it is dropped.
    pub server: Box<dyn Send>,
}

/// Checks a front. `serve` serves a disk of [`SIZE`] bytes, read-only if the flag says so, and connects
/// a client.
///
/// # Panics
/// If the front breaks a promise; the message says which.
pub fn check(serve: &dyn Fn(Disk, bool) -> Served) {
    check_model(serve);
    check_errors(serve);
    check_read_only(serve);
    check_protected(serve);
}

/// Compares random requests with the same on a byte array, and what a second client finds.
fn check_model(serve: &dyn Fn(Disk, bool) -> Served) {
    let device = Arc::new(MemoryDevice::new(SIZE));
    let disk = Disk::Volume(Arc::new(Volume::unprotected(device.clone())));
    let mut served = serve(disk.clone(), false);
    let mut model = vec![0_u8; SIZE as usize];
    play(&mut *served.client, &mut model, 1);
    served.client.flush().expect("flush");
    drop(served);
    let mut found = vec![0; SIZE as usize];
    device.read(0, &mut found).expect("read");
    assert!(found == model, "the disk has what was answered");
    found.fill(1);
    serve(disk, false).client.read(0, &mut found).expect("one large read");
    assert!(found == model, "the next client reads it");
}

/// Plays random requests to a client and a model.
fn play(client: &mut dyn Client, model: &mut [u8], seed: u64) {
    let mut state = seed;
    let mut random = move |below: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for step in 0..STEPS {
        let length = (random(40) + 1) * UNIT * [1, 1, 1, 16][random(4) as usize];
        let offset = random((SIZE - length) / UNIT) * UNIT;
        let range = offset as usize..(offset + length) as usize;
        match random(8) {
            0..3 => {
                let data: Vec<u8> = (0..length).map(|at| (step + at * 7) as u8).collect();
                client.write(offset, &data).expect("write");
                model[range].copy_from_slice(&data);
            }
            3 => {
                client.zero(offset, length).expect("zero");
                model[range].fill(0);
            }
            4 => {
                client.discard(offset, length).expect("discard");
                client.read(offset, &mut model[range]).expect("read what was discarded");
            }
            5 => client.flush().expect("flush"),
            _ => {
                let mut found = vec![0; length as usize];
                client.read(offset, &mut found).expect("read");
                assert!(found == model[range], "step {step}: {length} bytes at {offset}");
            }
        }
    }
}

/// Requests outside of the disk, and those that the disk fails, are answered with an error.
fn check_errors(serve: &dyn Fn(Disk, bool) -> Served) {
    let device = Arc::new(FaultDevice::new(Arc::new(MemoryDevice::new(SIZE)), 1));
    let mut served = serve(Disk::Device(device.clone()), false);
    let client = &mut *served.client;
    let mut buffer = vec![0; 4096];
    for offset in [SIZE - UNIT, SIZE, 1 << 40] {
        client.read(offset, &mut buffer).expect_err("a read past the end");
        client.write(offset, &buffer).expect_err("a write past the end");
    }
    client.write(SIZE - 4096, &[1; 4096]).expect("the last block");
    device.set_plan(FaultPlan { flushes: 1, ..FaultPlan::default() });
    client.flush().expect_err("a flush that the disk fails is not answered as done");
    client.read(SIZE - 4096, &mut buffer).expect("reads go on");
    assert!(buffer == [1; 4096]);
}

fn check_read_only(serve: &dyn Fn(Disk, bool) -> Served) {
    let device = Arc::new(MemoryDevice::new(SIZE));
    let mut served = serve(Disk::Device(device.clone()), true);
    served.client.write(0, &[1; 4096]).expect_err("a write");
    served.client.zero(0, 4096).expect_err("zeroes");
    let mut found = vec![1; 4096];
    served.client.read(0, &mut found).expect("read");
    assert!(found == [0; 4096], "nothing was written");
}

/// Changes of a protected volume are captured: a point is the disk.
fn check_protected(serve: &dyn Fn(Disk, bool) -> Served) {
    let directory = tempfile::tempdir().expect("directory");
    let store = DirStore::create(&directory.path().join("vault")).expect("store");
    let vault = Vault::create(Arc::new(store), None, SystemClock::shared()).expect("vault");
    let device = Arc::new(MemoryDevice::new(SIZE));
    let policy = Policy { crash_point_interval: Duration::ZERO, ..Policy::default() };
    let state = directory.path().join("state");
    let protection = ProtectionOptions::new("disk", device.clone(), vault.clone(), &state)
        .policy(policy)
        .open()
        .expect("protect");
    protection.wait_ordered(LIMIT).expect("ordered");
    let mut served = serve(Disk::Volume(protection.volume().clone()), false);
    let mut model = vec![0_u8; SIZE as usize];
    play(&mut *served.client, &mut model, 2);
    let point = protection.mark(PointKind::Crash, "point").expect("mark");
    served.client.write(0, &vec![0xEE; SIZE as usize / 4]).expect("a later write");
    protection.wait_replicated(LIMIT).expect("replicated");
    let replica = vault.replica("disk").expect("replica");
    let view = replica.view(&At::Point(point.id), &ViewOptions::default()).expect("view");
    let mut found = vec![0; SIZE as usize];
    view.read(0, &mut found).expect("read");
    assert!(found == model, "the point has what was answered before it, and nothing later");
    drop(served);
    protection.stop(LIMIT).expect("stop");
}
