//! What every front promises, over NBD.

mod raw;

use std::io::{Error, Read, Result};

use hrl_front::conformance::{self, Served};
use hrl_nbd::{Disk, Export, NbdAddress, NbdLimits, NbdServer};
use raw::*;

const WRITE_ZEROES: u16 = 6;

struct NbdClient(Client);

impl NbdClient {
    fn ask(&mut self, command: u16, offset: u64, length: usize, data: &[u8]) -> Result<()> {
        self.0.request(0, command, offset, length as u32);
        self.0.write(data);
        match self.0.reply() {
            0 => Ok(()),
            error => Err(Error::from_raw_os_error(error as i32)),
        }
    }
}

impl conformance::Client for NbdClient {
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.ask(READ, offset, buffer.len(), &[])?;
        self.0.0.read_exact(buffer)
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        self.ask(WRITE, offset, data.len(), data)
    }

    fn zero(&mut self, offset: u64, length: u64) -> Result<()> {
        self.ask(WRITE_ZEROES, offset, length as usize, &[])
    }

    fn discard(&mut self, offset: u64, length: u64) -> Result<()> {
        self.ask(TRIM, offset, length as usize, &[])
    }

    fn flush(&mut self) -> Result<()> {
        self.ask(FLUSH, 0, 0, &[])
    }
}

#[test]
fn it_is_a_front() {
    conformance::check(&|disk, read_only| {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("s");
        let mut export = match disk {
            Disk::Volume(volume) => Export::volume("disk", volume),
            Disk::Device(device) => Export::device("disk", device),
        };
        export.read_only |= read_only;
        let address = NbdAddress::Unix(path.clone());
        let server = NbdServer::start(&address, vec![export], NbdLimits::default());
        let rig = Rig { directory, path, server: server.expect("serve") };
        let client = Client::open(&rig);
        Served { client: Box::new(NbdClient(client)), server: Box::new(rig) }
    });
}
