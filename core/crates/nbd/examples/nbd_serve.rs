//! Serves a file, or a disk in memory, over NBD, with or without protection.
//!
//! ```text
//! nbd_serve unix:/tmp/s.sock disk.img
//! nbd_serve tcp:127.0.0.1:10809 memory:1073741824
//! nbd_serve unix:/tmp/s.sock disk.img --vault DIR --state DIR
//! ```

use std::path::Path;
use std::sync::Arc;

use hrl::capture::Volume;
use hrl::device::{BlockDevice, FileDevice, FileDeviceOptions, MemoryDevice};
use hrl::store::DirStore;
use hrl::vault::Vault;
use hrl::{ProtectionOptions, Result, SystemClock};
use hrl_nbd::{Export, NbdAddress, NbdLimits, NbdServer};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, disk, rest @ ..] = arguments.as_slice() else {
        eprintln!("usage: nbd_serve ADDRESS DISK|memory:BYTES [--vault DIR --state DIR]");
        std::process::exit(2);
    };
    let device: Arc<dyn BlockDevice> = match disk.strip_prefix("memory:") {
        Some(size) => Arc::new(MemoryDevice::new(size.parse().unwrap_or(1 << 30))),
        None => Arc::new(FileDevice::open(Path::new(disk), &FileDeviceOptions::default())?),
    };
    let mut protection = None;
    let export = match rest {
        [_, vault, _, state] => {
            let store = Arc::new(DirStore::create(Path::new(vault))?);
            let vault = Vault::create(store, None, SystemClock::shared())?;
            let open = ProtectionOptions::new("disk", device, vault, state).open()?;
            let export = Export::volume("disk", open.volume().clone());
            protection = Some(open);
            export
        }
        _ => Export::volume("disk", Arc::new(Volume::unprotected(device))),
    };
    let server =
        NbdServer::start(&NbdAddress::parse(address)?, vec![export], NbdLimits::default())?;
    println!("{}", server.address().uri("disk"));
    // Ends with the standard input.
    let _ = std::io::stdin().read_line(&mut String::new());
    server.stop();
    protection.map_or(Ok(()), |protection| protection.stop(std::time::Duration::from_secs(60)))
}
