//! Devices: files, memory, volumes, views, overlays, and those that the embedder brings.

use std::ffi::{CString, c_char, c_void};
use std::path::Path;
use std::sync::Arc;

use engine::capture::Volume;
use engine::device::{
    Allocation, BlockDevice, DirectIo, Discarded, Durability, FileDevice, FileDeviceOptions,
    MemoryDevice, Unmap,
};
use engine::replica::Overlay;
use engine::{Error, ErrorKind, Extent, Result};

use crate::boundary::{bad_argument, guard, guard_value, hrl_status};
use crate::callbacks::{User, needed, outcome};
use crate::handle::{self, In, Out, Text, versioned};
use crate::tap::hrl_discarded;

/// A disk: a file or block device, memory, a protected volume, a view of a replica, an overlay, or
/// one of your own. All threads may use it at once.
pub struct hrl_device {
    pub(crate) inner: Arc<dyn BlockDevice>,
    /// Set for a protected volume, so that a server can use its tap.
    pub(crate) volume: Option<Arc<Volume>>,
    name: CString,
}

impl hrl_device {
    pub(crate) fn new(inner: Arc<dyn BlockDevice>) -> Self {
        Self { name: handle::c_text(&inner.name()), inner, volume: None }
    }

    pub(crate) fn of_volume(volume: Arc<Volume>) -> Self {
        Self { volume: Some(volume.clone()), ..Self::new(volume) }
    }
}

/// Flag of `hrl_device_open_file`: open for reads only.
pub const HRL_OPEN_READ_ONLY: u32 = 1;
/// Flag of `hrl_device_open_file`: take an advisory lock, and on a block device the claim that a
/// mount takes too.
pub const HRL_OPEN_EXCLUSIVE: u32 = 2;
/// Flag of `hrl_device_open_file`: use the page cache, even if direct I/O is possible.
pub const HRL_OPEN_BUFFERED: u32 = 4;
/// Flag of writes: the data is on stable storage when the call returns.
pub const HRL_DURABLE: u32 = 1;
/// Flag of `hrl_device_zero`: the blocks stay allocated.
pub const HRL_KEEP_ALLOCATED: u32 = 2;

/// Opens a regular file or block device. `create_bytes` above 0 creates a sparse file of this size;
/// an existing file must have it. Free the device with `hrl_device_free`.
/// Statuses: HRL_ERROR_NOT_FOUND, HRL_ERROR_INVALID_INPUT (size 0 or no multiple of 512 bytes),
/// HRL_ERROR_FENCED (in use by another process), HRL_ERROR_ALREADY_EXISTS (another size),
/// HRL_ERROR_IO. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_device_open_file(
    path: Text<'_>,
    flags: u32,
    create_bytes: u64,
    out: Out<'_, *mut hrl_device>,
) -> hrl_status {
    guard(|| {
        out.check("out")?;
        let path = Path::new(path.read("path")?);
        if flags & !(HRL_OPEN_READ_ONLY | HRL_OPEN_EXCLUSIVE | HRL_OPEN_BUFFERED) != 0 {
            return Err(bad_argument("flags").expected("HRL_OPEN_ flags").found(flags));
        }
        let has = |flag: u32| flags & flag != 0;
        let options = FileDeviceOptions {
            access: if has(HRL_OPEN_READ_ONLY) {
                engine::device::Access::ReadOnly
            } else {
                engine::device::Access::ReadWrite
            },
            direct: if has(HRL_OPEN_BUFFERED) { DirectIo::Never } else { DirectIo::Auto },
            exclusive: has(HRL_OPEN_EXCLUSIVE),
            create_bytes: (create_bytes > 0).then_some(create_bytes),
        };
        out.give(hrl_device::new(Arc::new(FileDevice::open(path, &options)?)))
    })
}

/// Makes a sparse disk in memory. `size_bytes` is a multiple of 512 above 0. Free it with
/// `hrl_device_free`.
/// Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_device_new_memory(
    size_bytes: u64,
    out: Out<'_, *mut hrl_device>,
) -> hrl_status {
    guard(|| {
        out.check("out")?;
        if size_bytes == 0 || !size_bytes.is_multiple_of(512) || size_bytes > i64::MAX as u64 {
            return Err(bad_argument("size_bytes")
                .expected("a multiple of 512 bytes above 0")
                .found(size_bytes));
        }
        out.give(hrl_device::new(Arc::new(MemoryDevice::new(size_bytes))))
    })
}

/// Makes a writable disk of a read-only one. Reads see `base`; changes go to `scratch`, which has
/// the same size. The content of `scratch` is not read before it was written. Both may be freed
/// afterwards.
/// Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_device_new_overlay(
    base: Option<&hrl_device>,
    scratch: Option<&hrl_device>,
    out: Out<'_, *mut hrl_device>,
) -> hrl_status {
    guard(|| {
        out.check("out")?;
        let base = handle::given(base, "base")?.inner.clone();
        let scratch = handle::given(scratch, "scratch")?.inner.clone();
        out.give(hrl_device::new(Arc::new(Overlay::new(base, scratch)?)))
    })
}

/// A disk of your own. The functions return 0, or an errno such as EIO. They are called from any
/// thread, several at once, and must not unwind.
/// The contract is that of the crate's `BlockDevice`. A read that starts after a write returned
/// sees it. Writes that returned before a flush began survive a power failure once the flush
/// returned. A failed write changes nothing outside its range. Offsets and lengths are within the
/// disk, in bytes, and may be unaligned.
#[repr(C)]
pub struct hrl_device_callbacks<'a> {
    /// `sizeof(hrl_device_callbacks)`, so that later versions can add to it.
    pub struct_bytes: usize,
    /// Size of the disk: a multiple of 512 above 0, which never changes.
    pub size_bytes: u64,
    /// Unit that is written without tearing: a power of two from 512 to 65536.
    pub block_bytes: u32,
    /// Whether changes are refused.
    pub read_only: bool,
    /// Name for errors; copied. NULL: "device".
    pub name: Text<'a>,
    /// Fills `buffer`. Needed.
    pub read: Option<
        unsafe extern "C" fn(user: *mut c_void, offset: u64, buffer: *mut u8, length: usize) -> i32,
    >,
    /// Writes `data`; with HRL_DURABLE in `flags` it is on stable storage afterwards. Needed unless
    /// `read_only`.
    pub write: Option<
        unsafe extern "C" fn(
            user: *mut c_void,
            offset: u64,
            data: *const u8,
            length: usize,
            flags: u32,
        ) -> i32,
    >,
    /// Makes a range read as zeroes; `flags` of HRL_DURABLE and HRL_KEEP_ALLOCATED. NULL: zeroes
    /// are written.
    pub zero: Option<
        unsafe extern "C" fn(user: *mut c_void, offset: u64, length: u64, flags: u32) -> i32,
    >,
    /// Drops a range that is not needed, and makes it read as zeroes. NULL: discards do nothing.
    pub discard: Option<unsafe extern "C" fn(user: *mut c_void, offset: u64, length: u64) -> i32>,
    /// Makes every finished write durable. Needed unless `read_only`.
    pub flush: Option<unsafe extern "C" fn(user: *mut c_void) -> i32>,
    /// Called once, when nothing uses the disk any more. NULL: nothing.
    pub free: Option<unsafe extern "C" fn(user: *mut c_void)>,
}

versioned!(hrl_device_callbacks<'_>);

/// Makes a device of your functions. `callbacks` is copied; each function receives `user`. Free it
/// with `hrl_device_free`. `free` of the callbacks is called when the last user (a protection, a
/// server) is gone too.
/// Statuses: HRL_ERROR_INVALID_INPUT; then `free` is not called. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_device_from_callbacks(
    callbacks: In<'_, hrl_device_callbacks<'_>>,
    user: *mut c_void,
    out: Out<'_, *mut hrl_device>,
) -> hrl_status {
    guard(|| {
        out.check("out")?;
        let device = CallbackDevice::new(callbacks.read("callbacks")?, User(user))?;
        out.give(hrl_device::new(Arc::new(device)))
    })
}

struct CallbackDevice {
    name: String,
    size_bytes: u64,
    block_bytes: u32,
    read_only: bool,
    read: unsafe extern "C" fn(*mut c_void, u64, *mut u8, usize) -> i32,
    write: Option<unsafe extern "C" fn(*mut c_void, u64, *const u8, usize, u32) -> i32>,
    zero: Option<unsafe extern "C" fn(*mut c_void, u64, u64, u32) -> i32>,
    discard: Option<unsafe extern "C" fn(*mut c_void, u64, u64) -> i32>,
    flush: Option<unsafe extern "C" fn(*mut c_void) -> i32>,
    free: Option<unsafe extern "C" fn(*mut c_void)>,
    user: User,
}

static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

impl CallbackDevice {
    fn new(callbacks: &hrl_device_callbacks<'_>, user: User) -> Result<Self> {
        let bad = |name: &str, expected: &str| bad_argument(name).expected(expected);
        let (size, block) = (callbacks.size_bytes, callbacks.block_bytes);
        if size == 0 || !size.is_multiple_of(512) || size > i64::MAX as u64 {
            return Err(bad("callbacks.size_bytes", "a multiple of 512 above 0").found(size));
        }
        if !block.is_power_of_two() || !(512..=65_536).contains(&block) {
            return Err(
                bad("callbacks.block_bytes", "a power of two from 512 to 65536").found(block)
            );
        }
        let read_only = callbacks.read_only;
        let read = needed(callbacks.read, "callbacks.read")?;
        if !read_only && callbacks.write.is_none() {
            return Err(bad("callbacks.write", "a function").found("NULL"));
        }
        if !read_only && callbacks.flush.is_none() {
            return Err(bad("callbacks.flush", "a function").found("NULL"));
        }
        let name = callbacks.name.optional("callbacks.name")?.unwrap_or("device");
        Ok(Self {
            name: name.to_owned(),
            size_bytes: size,
            block_bytes: block,
            read_only,
            read,
            write: callbacks.write,
            zero: callbacks.zero,
            discard: callbacks.discard,
            flush: callbacks.flush,
            free: callbacks.free,
            user,
        })
    }

    fn check(&self, extent: Extent, operation: &'static str) -> Result<()> {
        extent.check_within(self.size_bytes, operation, &self.name)
    }

    fn refused(&self, operation: &'static str) -> Error {
        Error::new(ErrorKind::ReadOnly, operation, &self.name).message("the device is read-only")
    }
}

impl Drop for CallbackDevice {
    fn drop(&mut self) {
        if let Some(free) = self.free {
            // SAFETY: a function of this type, called as the header says: once, at the end.
            unsafe { free(self.user.pointer()) }
        }
    }
}

fn flags_of(unmap: Unmap, durability: Durability) -> u32 {
    let durable = if durability == Durability::Durable { HRL_DURABLE } else { 0 };
    durable | if unmap == Unmap::Forbidden { HRL_KEEP_ALLOCATED } else { 0 }
}

impl BlockDevice for CallbackDevice {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn block_bytes(&self) -> u32 {
        self.block_bytes
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.check(Extent { offset, length: buffer.len() as u64 }, "read from")?;
        // SAFETY: a function of this type, called as the header says; the memory is ours and this
        // long.
        let code =
            unsafe { (self.read)(self.user.pointer(), offset, buffer.as_mut_ptr(), buffer.len()) };
        outcome(code, "read from", &self.name).map_err(|error| error.at(offset))
    }

    fn write(&self, offset: u64, data: &[u8], durability: Durability) -> Result<()> {
        self.check(Extent { offset, length: data.len() as u64 }, "write to")?;
        let Some(write) = self.write.filter(|_| !self.read_only) else {
            return Err(self.refused("write to"));
        };
        let flags = flags_of(Unmap::Allowed, durability);
        // SAFETY: as in `read`.
        let code = unsafe { write(self.user.pointer(), offset, data.as_ptr(), data.len(), flags) };
        outcome(code, "write to", &self.name).map_err(|error| error.at(offset))
    }

    fn zero(&self, extent: Extent, unmap: Unmap, durability: Durability) -> Result<()> {
        self.check(extent, "zero")?;
        if self.read_only {
            return Err(self.refused("zero"));
        }
        if let Some(zero) = self.zero {
            let flags = flags_of(unmap, durability);
            // SAFETY: as in `read`.
            let code = unsafe { zero(self.user.pointer(), extent.offset, extent.length, flags) };
            return outcome(code, "zero", &self.name).map_err(|error| error.at(extent.offset));
        }
        let mut at = extent.offset;
        while at < extent.end() {
            let length = (extent.end() - at).min(ZEROES.len() as u64);
            self.write(at, &ZEROES[..length as usize], durability)?;
            at += length;
        }
        Ok(())
    }

    fn discard(&self, extent: Extent) -> Result<Discarded> {
        self.check(extent, "discard")?;
        if self.read_only {
            return Err(self.refused("discard"));
        }
        let Some(discard) = self.discard else { return Ok(Discarded::Ignored) };
        // SAFETY: as in `read`.
        let code = unsafe { discard(self.user.pointer(), extent.offset, extent.length) };
        outcome(code, "discard", &self.name).map_err(|error| error.at(extent.offset))?;
        Ok(Discarded::Zeroes)
    }

    fn flush(&self) -> Result<()> {
        let Some(flush) = self.flush else { return Ok(()) };
        // SAFETY: as in `read`.
        outcome(unsafe { flush(self.user.pointer()) }, "flush", &self.name)
    }
}

/// Returns the size in bytes; 0 for NULL. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_device_size_bytes(device: Option<&hrl_device>) -> u64 {
    guard_value(0, || handle::given(device, "device").map_or(0, |d| d.inner.size_bytes()))
}

/// Returns the unit that is written without tearing, in bytes; 0 for NULL. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_device_block_bytes(device: Option<&hrl_device>) -> u32 {
    guard_value(0, || handle::given(device, "device").map_or(0, |d| d.inner.block_bytes()))
}

/// Returns whether changes are refused; true for NULL. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_device_is_read_only(device: Option<&hrl_device>) -> bool {
    guard_value(true, || handle::given(device, "device").map_or(true, |d| d.inner.is_read_only()))
}

/// Returns the name, for example a path. Valid as long as the device lives; empty for NULL. Since
/// 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_device_name(device: Option<&hrl_device>) -> *const c_char {
    guard_value(c"".as_ptr(), || {
        handle::given(device, "device").map_or(c"".as_ptr(), |d| d.name.as_ptr())
    })
}

/// Fills `buffer` from `offset`.
/// Statuses: HRL_ERROR_INVALID_INPUT (outside the disk), HRL_ERROR_IO, HRL_ERROR_CORRUPT and
/// HRL_ERROR_UNAVAILABLE (views). Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_device_read(
    device: Option<&hrl_device>,
    offset: u64,
    buffer: *mut u8,
    length: usize,
) -> hrl_status {
    guard(|| {
        // SAFETY: the caller promises that the buffer has the length beside it.
        let buffer = unsafe { handle::bytes_mut(buffer, length, "buffer")? };
        handle::given(device, "device")?.inner.read(offset, buffer)
    })
}

/// Writes `data` at `offset`; with HRL_DURABLE in `flags` it is on stable storage afterwards. On a
/// protected volume the bytes are copied once, before anything else. So journal and disk are the
/// same, even if `data` changes meanwhile.
/// Statuses: HRL_ERROR_INVALID_INPUT (outside the disk), HRL_ERROR_READ_ONLY, HRL_ERROR_POISONED,
/// HRL_ERROR_FULL, HRL_ERROR_IO. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_device_write(
    device: Option<&hrl_device>,
    offset: u64,
    data: *const u8,
    length: usize,
    flags: u32,
) -> hrl_status {
    guard(|| {
        // SAFETY: the caller promises that the buffer has the length beside it.
        let data = unsafe { handle::bytes(data, length, "data")? };
        let (_, durability) = of_flags(flags)?;
        handle::given(device, "device")?.inner.write(offset, data, durability)
    })
}

/// Makes a range read as zeroes; `flags` of HRL_DURABLE and HRL_KEEP_ALLOCATED.
/// Statuses: those of `hrl_device_write`. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_device_zero(
    device: Option<&hrl_device>,
    offset: u64,
    length: u64,
    flags: u32,
) -> hrl_status {
    guard(|| {
        let (unmap, durability) = of_flags(flags)?;
        let extent = Extent::new(offset, length)?;
        handle::given(device, "device")?.inner.zero(extent, unmap, durability)
    })
}

/// Informs the disk that a range is not needed. `effect`, which may be NULL, receives the effect, a
/// `hrl_discarded`.
/// Statuses: those of `hrl_device_write`. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_device_discard(
    device: Option<&hrl_device>,
    offset: u64,
    length: u64,
    effect: Out<'_, u32>,
) -> hrl_status {
    guard(|| {
        let extent = Extent::new(offset, length)?;
        let done = handle::given(device, "device")?.inner.discard(extent)?;
        effect.put_optional(hrl_discarded::from(done) as u32);
        Ok(())
    })
}

/// Makes every write that returned durable. A failed flush is final: HRL_ERROR_POISONED ever after.
/// Statuses: HRL_ERROR_IO, HRL_ERROR_POISONED. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_device_flush(device: Option<&hrl_device>) -> hrl_status {
    guard(|| handle::given(device, "device")?.inner.flush())
}

/// Receives one run of a disk's allocation map; returns false to stop.
pub type hrl_allocation_fn = Option<
    unsafe extern "C" fn(user: *mut c_void, offset: u64, length: u64, allocated: bool) -> bool,
>;

/// Passes the allocation runs of a range, in order, to `visit` on the calling thread. A run that is
/// not allocated reads as zeroes.
/// Statuses: HRL_ERROR_INVALID_INPUT, HRL_ERROR_IO. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_device_allocation(
    device: Option<&hrl_device>,
    offset: u64,
    length: u64,
    visit: hrl_allocation_fn,
    user: *mut c_void,
) -> hrl_status {
    guard(|| {
        let visit =
            visit.ok_or_else(|| bad_argument("visit").expected("a function").found("NULL"))?;
        let extent = Extent::new(offset, length)?;
        for Allocation { extent, allocated } in
            handle::given(device, "device")?.inner.allocation(extent)?
        {
            // SAFETY: a function of this type, called as the header says.
            if !unsafe { visit(user, extent.offset, extent.length, allocated) } {
                break;
            }
        }
        Ok(())
    })
}

/// Frees the handle; NULL is fine. Other users of the disk (a protection, a server, an overlay) go
/// on. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_device_free(device: Option<Box<hrl_device>>) {
    guard_value((), || drop(device));
}

fn of_flags(flags: u32) -> Result<(Unmap, Durability)> {
    if flags & !(HRL_DURABLE | HRL_KEEP_ALLOCATED) != 0 {
        return Err(bad_argument("flags")
            .expected("HRL_DURABLE and HRL_KEEP_ALLOCATED at most")
            .found(flags));
    }
    let unmap = if flags & HRL_KEEP_ALLOCATED != 0 { Unmap::Forbidden } else { Unmap::Allowed };
    let durability =
        if flags & HRL_DURABLE != 0 { Durability::Durable } else { Durability::Cached };
    Ok((unmap, durability))
}
