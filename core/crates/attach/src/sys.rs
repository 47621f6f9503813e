//! Calls of the kernel: maps, programs, links and names in bpffs.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use hrl::{Error, ErrorKind, Result};

use super::preflight;

const MAP_CREATE: libc::c_int = 0;
const PROG_LOAD: libc::c_int = 5;
const OBJ_PIN: libc::c_int = 6;
const OBJ_GET: libc::c_int = 7;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const RAW_TRACEPOINT_OPEN: libc::c_int = 17;

const ARRAY: u32 = 2;
const MMAPABLE: u32 = 1 << 10;
const TRACING: u32 = 26;
const TRACE_RAW_TP: u32 = 23;
const LOG_BYTES: usize = 1 << 20;
/// Waits until every program that runs on any processor now has ended.
const MEMBARRIER_GLOBAL: libc::c_int = 1;
const MEMBARRIER_QUERY: libc::c_int = 0;
const BPFFS_MAGIC: libc::c_long = 0xcafe_4a11;

/// The argument of `bpf(2)`: numbers at the offsets of `union bpf_attr`.
#[repr(C, align(8))]
struct Attr([u8; 152]);

impl Attr {
    fn new() -> Self {
        Self([0; 152])
    }

    fn word(mut self, at: usize, value: u32) -> Self {
        self.0[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn double(mut self, at: usize, value: u64) -> Self {
        self.0[at..at + 8].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn name(mut self, at: usize, name: &str) -> Self {
        let bytes = &name.as_bytes()[..name.len().min(15)];
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }
}

fn bpf(command: libc::c_int, attr: &Attr) -> io::Result<RawFd> {
    // SAFETY: the kernel reads at most the bytes of `attr`, and what its pointers point to, which
    // the callers keep alive for the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, attr.0.as_ptr(), attr.0.len() as u32) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as RawFd) }
}

fn bpf_fd(command: libc::c_int, attr: &Attr) -> io::Result<OwnedFd> {
    // SAFETY: the kernel has just made this descriptor, and nothing else owns it.
    bpf(command, attr).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What is missing when the kernel refuses a call.
fn refused(operation: &'static str, object: &str, error: io::Error) -> Error {
    let why = preflight::why_refused(&error);
    let error = Error::io(operation, object, error);
    match why {
        Some(why) => error.message(why),
        None => error,
    }
}

/// A map with one value, which the process sees as memory.
pub(crate) struct SharedMap {
    fd: OwnedFd,
    memory: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the memory is a shared mapping of atomic numbers, valid until the map is dropped.
unsafe impl Send for SharedMap {}
// SAFETY: as above; all access is atomic.
unsafe impl Sync for SharedMap {}

impl SharedMap {
    /// Makes a map of `words` numbers of 8 bytes, all zero.
    pub(crate) fn create(name: &str, words: usize) -> Result<Self> {
        let attr = Attr::new()
            .word(0, ARRAY)
            .word(4, 4)
            .word(8, 8 * words as u32)
            .word(12, 1)
            .word(16, MMAPABLE)
            .name(28, name);
        let fd = bpf_fd(MAP_CREATE, &attr)
            .map_err(|error| refused("make map of changed blocks", name, error))?;
        Self::over(fd, words)
    }

    fn over(fd: OwnedFd, words: usize) -> Result<Self> {
        // SAFETY: a new mapping at an address that the kernel chooses.
        let memory = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                8 * words,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                fd.as_raw_fd(),
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            let error = io::Error::last_os_error();
            return Err(Error::io("map into memory", "map of changed blocks", error));
        }
        let memory = NonNull::new(memory.cast()).expect("a mapping is never at address zero");
        Ok(Self { fd, memory, words })
    }

    /// Opens a map that is pinned.
    pub(crate) fn pinned(path: &Path, words: usize) -> Result<Self> {
        Self::over(opened(path)?, words)
    }

    pub(crate) fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has this many numbers, is aligned to a page, and lives as long as
        // `self`.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), self.words) }
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    pub(crate) fn pin(&self, path: &Path) -> Result<()> {
        pin(&self.fd, path)
    }
}

impl Drop for SharedMap {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `over`, and no reference to it outlives `self`.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), 8 * self.words) };
    }
}

/// Loads a program for a tracepoint and attaches it, until the link is closed and not pinned.
pub(crate) fn attach(name: &str, code: &[u64], tracepoint: u32) -> Result<OwnedFd> {
    let licence = c"Dual MIT/GPL";
    let mut log = vec![0_u8; LOG_BYTES];
    let attr = |log: Option<&mut Vec<u8>>| {
        let attr = Attr::new()
            .word(0, TRACING)
            .word(4, code.len() as u32)
            .double(8, code.as_ptr() as u64)
            .double(16, licence.as_ptr() as u64)
            .name(48, name)
            .word(68, TRACE_RAW_TP)
            .word(108, tracepoint);
        match log {
            Some(log) => {
                attr.word(24, 1).word(28, log.len() as u32).double(32, log.as_mut_ptr() as u64)
            }
            None => attr,
        }
    };
    let program = bpf_fd(PROG_LOAD, &attr(None)).or_else(|error| {
        if error.kind() == io::ErrorKind::PermissionDenied && !is_root() {
            return Err(refused("load program", name, error));
        }
        bpf_fd(PROG_LOAD, &attr(Some(&mut log))).map_err(|error| {
            let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
            let text = String::from_utf8_lossy(&log[..end]);
            let last: Vec<&str> = text.lines().rev().take(3).collect();
            refused("load program", name, error)
                .found(last.into_iter().rev().collect::<Vec<_>>().join("; "))
        })
    })?;
    let attr = Attr::new().word(8, program.as_raw_fd().cast_unsigned());
    bpf_fd(RAW_TRACEPOINT_OPEN, &attr).map_err(|error| refused("attach program", name, error))
}

fn is_root() -> bool {
    // SAFETY: a call without arguments.
    unsafe { libc::geteuid() == 0 }
}

/// Gives an object a name in bpffs, so that it outlives the process.
pub(crate) fn pin(fd: &OwnedFd, path: &Path) -> Result<()> {
    let name = c_path(path)?;
    let attr = Attr::new().double(0, name.as_ptr() as u64).word(8, fd.as_raw_fd().cast_unsigned());
    bpf(OBJ_PIN, &attr)
        .map(drop)
        .map_err(|error| refused("pin", &path.display().to_string(), error))
}

/// Opens an object by its name in bpffs.
pub(crate) fn opened(path: &Path) -> Result<OwnedFd> {
    let name = c_path(path)?;
    bpf_fd(OBJ_GET, &Attr::new().double(0, name.as_ptr() as u64))
        .map_err(|error| refused("open", &path.display().to_string(), error))
}

fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| {
        Error::new(ErrorKind::InvalidInput, "open", path.display()).found("a byte of zero")
    })
}

/// Waits until every program that runs now has ended, on any processor.
pub(crate) fn wait_for_programs() -> Result<()> {
    // SAFETY: a call with numbers alone.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_GLOBAL, 0, 0) };
    if result == 0 {
        return Ok(());
    }
    Err(Error::io("wait for programs", "membarrier", io::Error::last_os_error()))
}

/// Returns whether [`wait_for_programs`] works here.
pub(crate) fn can_wait_for_programs() -> bool {
    // SAFETY: a call with numbers alone.
    let offered = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_QUERY, 0, 0) };
    offered >= 0 && offered & libc::c_long::from(MEMBARRIER_GLOBAL) != 0
}

/// Returns whether a directory is one of bpffs.
pub(crate) fn is_bpffs(directory: &Path) -> bool {
    let Ok(name) = c_path(directory) else { return false };
    let mut found = std::mem::MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: a name that ends with zero, and room for the structure.
    let result = unsafe { libc::statfs(name.as_ptr(), found.as_mut_ptr()) };
    // SAFETY: zeroes are a valid value of the structure, and so is what the kernel wrote.
    result == 0 && unsafe { found.assume_init() }.f_type == BPFFS_MAGIC
}

/// Takes the lock of an open file, until it is closed; waits while another process has it.
pub(crate) fn lock(file: &std::fs::File) -> io::Result<()> {
    // SAFETY: a call with a descriptor that is open, and a number.
    let result = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Returns how often the program of a link has run, and for how many nanoseconds. Zero unless the
/// kernel counts it.
pub(crate) fn run_counts(link: &OwnedFd) -> Result<(u64, u64)> {
    let about = |fd: RawFd, name: &str| -> Option<u64> {
        let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().parse().ok()
    };
    let number = about(link.as_raw_fd(), "prog_id").unwrap_or(0) as u32;
    let program = bpf_fd(PROG_GET_FD_BY_ID, &Attr::new().word(0, number))
        .map_err(|error| refused("open program", &number.to_string(), error))?;
    let of = |name: &str| about(program.as_raw_fd(), name).unwrap_or(0);
    Ok((of("run_cnt"), of("run_time_ns")))
}
