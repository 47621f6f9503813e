//! One request of virtio-blk: reading it out of a chain of descriptors, running it, answering it.

use std::io::{Read, Write};

use hrl::device::{Buffer, Durability, Unmap};
use hrl::{Error, ErrorKind, Extent, Result};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP,
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
};
use virtio_queue::DescriptorChain;
use vm_memory::{GuestMemoryLoadGuard, GuestMemoryMmap};

use crate::service::Service;

pub(crate) const SECTOR_BYTES: u64 = 512;
/// Type, reserved, sector.
const HEADER_BYTES: usize = 16;
/// Sector, count of sectors, flags.
const RANGE_BYTES: usize = 16;
const FLAG_UNMAP: u32 = 1;

/// The memory that a client shares.
pub(crate) type Memory = GuestMemoryLoadGuard<GuestMemoryMmap>;

/// What a request asks for.
#[derive(Debug)]
pub(crate) enum Action {
    Read(Extent),
    Write(u64, Buffer),
    Flush,
    Name,
    Zero(Extent, Unmap),
    Discard(Extent),
    /// The device has no such request.
    Unknown,
    /// It cannot be carried out, and why.
    Refused(Error),
}

impl Action {
    /// Returns whether it changes the disk.
    pub(crate) fn is_change(&self) -> bool {
        matches!(self, Self::Write(..) | Self::Zero(..) | Self::Discard(_))
    }
}

/// Returns the bytes of a request. Fails for one that is too long.
pub(crate) fn bytes_of(chain: &DescriptorChain<Memory>, bytes_max: u64) -> Result<u64> {
    let bytes = chain.clone().map(|descriptor| u64::from(descriptor.len())).sum();
    let with_header = bytes_max + (HEADER_BYTES + RANGE_BYTES) as u64;
    if bytes > with_header {
        return Err(refused("it is too long").expected(with_header).found(bytes));
    }
    Ok(bytes)
}

/// Reads a request. Its data is copied here and never looked at again in the client's memory.
pub(crate) fn read(chain: DescriptorChain<Memory>, memory: &Memory) -> Action {
    parse(chain, memory).unwrap_or_else(Action::Refused)
}

fn refused(why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidInput, "read", "request of a virtual machine").message(why)
}

fn parse(chain: DescriptorChain<Memory>, memory: &Memory) -> Result<Action> {
    let writer = chain.clone().writer(memory).map_err(refused)?;
    let room = writer.available_bytes() as u64;
    let Some(room) = room.checked_sub(1) else {
        return Err(refused("there is no room for its status"));
    };
    let mut reader = chain.reader(memory).map_err(refused)?;
    let mut header = [0; HEADER_BYTES];
    reader.read_exact(&mut header).map_err(refused)?;
    let number = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("4 bytes"));
    let sector = u64::from(number(8)) | u64::from(number(12)) << 32;
    let offset =
        sector.checked_mul(SECTOR_BYTES).ok_or_else(|| refused("its sector is too large"))?;
    let whole = |bytes: u64| match bytes % SECTOR_BYTES {
        0 => Ok(bytes),
        _ => Err(refused(format_args!("{bytes} bytes are no whole sectors"))),
    };
    Ok(match number(0) {
        VIRTIO_BLK_T_IN => Action::Read(Extent::new(offset, whole(room)?)?),
        VIRTIO_BLK_T_OUT => {
            let mut data = Buffer::zeroed(whole(reader.available_bytes() as u64)? as usize);
            reader.read_exact(&mut data).map_err(refused)?;
            Action::Write(offset, data)
        }
        VIRTIO_BLK_T_FLUSH => Action::Flush,
        VIRTIO_BLK_T_GET_ID => Action::Name,
        kind @ (VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES) => {
            let mut range = [0; RANGE_BYTES];
            reader.read_exact(&mut range).map_err(refused)?;
            if reader.available_bytes() > 0 {
                return Err(refused("it has more than one range"));
            }
            let number =
                |at: usize| u32::from_le_bytes(range[at..at + 4].try_into().expect("4 bytes"));
            let sector = u64::from(number(0)) | u64::from(number(4)) << 32;
            let offset = sector
                .checked_mul(SECTOR_BYTES)
                .ok_or_else(|| refused("its sector is too large"))?;
            let extent = Extent::new(offset, u64::from(number(8)) * SECTOR_BYTES)?;
            match number(12) {
                flags if flags & !FLAG_UNMAP != 0 => Action::Unknown,
                0 if kind == VIRTIO_BLK_T_DISCARD => Action::Discard(extent),
                _ if kind == VIRTIO_BLK_T_DISCARD => Action::Unknown,
                FLAG_UNMAP => Action::Zero(extent, Unmap::Allowed),
                _ => Action::Zero(extent, Unmap::Forbidden),
            }
        }
        _ => Action::Unknown,
    })
}

/// What a request came to.
pub(crate) struct Outcome {
    pub status: u32,
    /// What was read for the client.
    pub data: Vec<u8>,
    /// Bytes of the disk that were written.
    pub written: u64,
    pub is_change: bool,
}

impl Outcome {
    fn new(status: u32, data: Vec<u8>) -> Self {
        Self { status, data, written: 0, is_change: false }
    }

    /// Returns whether the request was carried out.
    pub(crate) fn is_done(&self) -> bool {
        self.status == VIRTIO_BLK_S_OK
    }
}

/// Runs a request. An error of the disk is an I/O error for the client.
pub(crate) fn run(action: Action, service: &Service) -> Outcome {
    let Service { disk, name, read_only, .. } = service;
    let (device, is_change) = (disk.device(), action.is_change());
    let done = |()| Outcome::new(VIRTIO_BLK_S_OK, Vec::new());
    let result = match action {
        Action::Unknown => return Outcome::new(VIRTIO_BLK_S_UNSUPP, Vec::new()),
        Action::Refused(error) => Err(error),
        _ if is_change && *read_only => Err(refused("the disk is read-only")),
        Action::Read(extent) => {
            let mut data = vec![0; extent.length as usize];
            device.read(extent.offset, &mut data).map(|()| Outcome::new(VIRTIO_BLK_S_OK, data))
        }
        Action::Write(offset, data) => {
            let written = data.len() as u64;
            let result = disk.write(offset, data, Durability::Cached).map(done);
            result.map(|outcome| Outcome { written, ..outcome })
        }
        Action::Flush => device.flush().map(done),
        Action::Name => {
            let mut data = name.as_bytes().to_vec();
            data.resize(VIRTIO_BLK_ID_BYTES as usize, 0);
            Ok(Outcome::new(VIRTIO_BLK_S_OK, data))
        }
        Action::Zero(extent, unmap) => device.zero(extent, unmap, Durability::Cached).map(done),
        Action::Discard(extent) => device.discard(extent).map(|_| done(())),
    };
    if result.is_err() && is_change {
        disk.lose_sync();
    }
    let outcome = result.unwrap_or_else(|_| Outcome::new(VIRTIO_BLK_S_IOERR, Vec::new()));
    Outcome { is_change, ..outcome }
}

/// Writes what a request came to into the client's memory. Returns the bytes written there; zero if
/// the chain has no room, which is the client's fault.
pub(crate) fn answer(chain: DescriptorChain<Memory>, memory: &Memory, outcome: &Outcome) -> u32 {
    write_answer(chain, memory, outcome).unwrap_or(0)
}

fn write_answer(
    chain: DescriptorChain<Memory>,
    memory: &Memory,
    outcome: &Outcome,
) -> std::io::Result<u32> {
    let mut data = chain.writer(memory).map_err(std::io::Error::other)?;
    let room = data.available_bytes().checked_sub(1);
    let room = room.ok_or_else(|| std::io::Error::other("no room for a status"))?;
    // The status is the last byte that the client gives.
    let mut status = data.split_at(room).map_err(std::io::Error::other)?;
    let written = outcome.data.len().min(room);
    data.write_all(&outcome.data[..written])?;
    status.write_all(&[outcome.status as u8])?;
    Ok(written as u32 + 1)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hrl::device::{BlockDevice, MemoryDevice};
    use hrl_front::{Disk, Pool};
    use virtio_queue::{Queue, QueueT};
    use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemoryAtomic};

    use super::*;
    use crate::service::{Counters, VhostUserLimits};

    const MEMORY: u64 = 1 << 20;
    const DISK: u64 = 1 << 20;
    const SIZE: u16 = 16;
    const AVAILABLE: u64 = 0x1000;
    const USED: u64 = 0x2000;
    const ROUNDS: u64 = 20_000;

    /// Any descriptors and headers: an answer or none, and never more than the request may have.
    #[test]
    fn promise_12_no_chain_of_descriptors_does_harm() {
        let device = Arc::new(MemoryDevice::new(DISK));
        let limits = VhostUserLimits { request_bytes_max: 64 << 10, ..VhostUserLimits::default() };
        let service = Service {
            disk: Disk::Device(device.clone()),
            name: "disk".into(),
            read_only: false,
            limits,
            counters: Counters::default(),
            pool: Pool::start("test", 0),
        };
        let shared = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY as usize)]);
        let memory = GuestMemoryAtomic::new(shared.expect("memory"));
        let mut queue = Queue::new(SIZE).expect("queue");
        queue.set_avail_ring_address(Some(AVAILABLE as u32), None);
        queue.set_used_ring_address(Some(USED as u32), None);
        queue.set_ready(true);
        let mut state = 1_u64;
        let mut random = move |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let (mut done, mut failed) = (0, 0);
        for round in 0..ROUNDS {
            let guest = memory.memory();
            for number in 0..u64::from(SIZE) {
                let wild = random(16) == 0;
                let address = if wild { random(1 << 31) << 20 } else { random(MEMORY) };
                let length = if wild { random(1 << 31) } else { random(4) * 512 + 16 };
                let flags = random(8) as u16 & if wild { 7 } else { 3 };
                let at = GuestAddress(number * 16);
                guest.write_obj(address, at).expect("address");
                guest.write_obj(length as u32, GuestAddress(number * 16 + 8)).expect("length");
                guest.write_obj(flags, GuestAddress(number * 16 + 12)).expect("flags");
                let next = random(u64::from(SIZE) + 2) as u16;
                guest.write_obj(next, GuestAddress(number * 16 + 14)).expect("next");
                if address < MEMORY - 16 && address > 0x4000 {
                    let kind = [0, 1, 4, 8, 11, 13, random(1 << 31) as u32][random(7) as usize];
                    guest.write_obj(kind, GuestAddress(address)).expect("kind");
                    let sector = random(DISK / SECTOR_BYTES * 2);
                    guest.write_obj(sector, GuestAddress(address + 8)).expect("sector");
                }
            }
            let head = random(u64::from(SIZE)) as u16;
            let slot = AVAILABLE + 4 + round % u64::from(SIZE) * 2;
            guest.write_obj(head, GuestAddress(slot)).expect("head");
            guest.write_obj(round as u16 + 1, GuestAddress(AVAILABLE + 2)).expect("index");
            queue.set_next_avail(round as u16);
            let Some(chain) = queue.pop_descriptor_chain(guest.clone()) else { continue };
            let action = match bytes_of(&chain, service.limits.request_bytes_max.into()) {
                Ok(_) => read(chain.clone(), &guest),
                Err(error) => Action::Refused(error),
            };
            let outcome = run(action, &service);
            let count = if outcome.is_done() { &mut done } else { &mut failed };
            *count += 1;
            answer(chain, &guest, &outcome);
        }
        assert!(done > 100 && failed > 100, "both were tried: {done} done, {failed} failed");
        assert_eq!(device.size_bytes(), DISK);
    }
}
