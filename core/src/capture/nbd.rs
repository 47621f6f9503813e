#![allow(unused, missing_docs, clippy::all, clippy::pedantic)] // stub
use super::Volume;
use crate::device::BlockDevice;
use crate::error::Result;
use crate::{Extent, ExtentSet};
use std::path::PathBuf;
use std::sync::Arc;
/// `unix:PATH` or `tcp:HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NbdAddress {
    Unix(PathBuf),
    Tcp(String, u16),
}
impl NbdAddress {
    pub fn parse(text: &str) -> Result<Self> {
        todo!()
    }
    /** `nbd+unix:///NAME?socket=PATH` or `nbd://HOST:PORT/NAME` */
    pub fn uri(&self, export: &str) -> String {
        todo!()
    }
}
/// A named meta context beside base:allocation: set extents have flag 1 ("dirty"), all else 0.
#[derive(Clone)]
pub struct ExportContext {
    pub name: String,
    pub extents: Arc<ExtentSet>,
}
#[derive(Clone)]
pub enum ExportTarget {
    /** Tapped writes; the ring fast path is used when the device allows it. */
    Volume(Arc<Volume>),
    Device(Arc<dyn BlockDevice>),
}
#[derive(Clone)]
pub struct Export {
    pub name: String,
    pub description: String,
    pub target: ExportTarget,
    pub read_only: bool,
    pub contexts: Vec<ExportContext>,
}
#[derive(Clone, Debug)]
pub struct NbdLimits {
    pub connections_max: u32,
    pub requests_in_flight_max: u32,
    pub request_bytes_max: u32,
    pub handshake_seconds_max: u32,
}
impl Default for NbdLimits {
    fn default() -> Self {
        todo!()
    }
}
#[derive(Clone, Debug, Default)]
pub struct NbdStats {
    pub connections: u64,
    pub requests: u64,
    pub bytes_read: u64,
    pub bytes_written: u64,
    pub errors: u64,
}
/// A listening server; `stop` (and drop) ends all connections.
pub struct NbdServer {}
impl NbdServer {
    pub fn start(address: &NbdAddress, exports: Vec<Export>, limits: NbdLimits) -> Result<Self> {
        todo!()
    }
    /// Where it listens (with the real port when 0 was asked for).
    pub fn address(&self) -> &NbdAddress {
        todo!()
    }
    pub fn stats(&self) -> NbdStats {
        todo!()
    }
    /// Stops accepting, lets requests in flight finish (up to a limit), closes.
    pub fn stop(self) -> Result<()> {
        todo!()
    }
}
