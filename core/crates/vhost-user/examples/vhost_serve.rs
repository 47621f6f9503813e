//! Serves a file by vhost-user-blk until standard input ends:
//! `vhost_serve SOCKET FILE [BYTES]`.

use std::io::Read;
use std::sync::Arc;

use hrl::device::{FileDevice, FileDeviceOptions};
use hrl_vhost_user::{Disk, VhostUserLimits, VhostUserServer};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [socket, file, rest @ ..] = &arguments[..] else {
        return Err("usage: vhost_serve SOCKET FILE [BYTES]".into());
    };
    let create_bytes = rest.first().map(|bytes| bytes.parse()).transpose()?;
    let options = FileDeviceOptions { create_bytes, ..FileDeviceOptions::default() };
    let disk = Disk::Device(Arc::new(FileDevice::open(file.as_ref(), &options)?));
    let server = VhostUserServer::start(socket.as_ref(), "hrl", disk, VhostUserLimits::default())?;
    println!("serving {file} at {}", server.path().display());
    std::io::stdin().read_to_end(&mut Vec::new())?;
    println!("{:?}", server.stats());
    Ok(())
}
