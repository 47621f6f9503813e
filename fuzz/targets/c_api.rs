//! Any sequence of calls of the C library, with handles freed in any order, NULL and wrong sizes,
//! against models of the disks.
//!
//! - no call panics; one that fails says why and leaves its outputs alone (the sanitizer watches
//!   the memory);
//! - a disk reads as its model, whatever else was freed, and what a caller gave is given back once;
//! - a protected disk replicates: the view of a mark is the model's bytes then, also when
//!   everything else was freed.
//!
//! An input is calls, each a number and its arguments; see `Rig::call`.
#![no_main]

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_void};
use std::path::PathBuf;
use std::ptr::{null, null_mut};

use hrl_c_api as _;
use hrl_fuzz::scratch;
use libfuzzer_sys::arbitrary::{Result as Parsed, Unstructured};
use libfuzzer_sys::fuzz_target;

/// A handle; its creator knows what is behind it.
type Handle = *mut c_void;
type Wanted = Result<(), i32>;

const INVALID_INPUT: i32 = -1;
const READ_ONLY: i32 = -12;
const PANIC: i32 = -100;
const POINT_CRASH: u32 = 1;
const DURABLE: u32 = 1;
const KEEP_ALLOCATED: u32 = 2;
const SIZE: u64 = 64 << 10;
const BYTES_MAX: usize = 8 << 10;
const DEVICES: usize = 6;
const BUFFERS: usize = 3;
const CALLS_MAX: usize = 100;
const LIMIT_MS: u64 = 20_000;

#[repr(C)]
struct Callbacks {
    struct_bytes: usize,
    size_bytes: u64,
    block_bytes: u32,
    read_only: bool,
    name: *const c_char,
    read: Option<unsafe extern "C" fn(Handle, u64, *mut u8, usize) -> i32>,
    write: Option<unsafe extern "C" fn(Handle, u64, *const u8, usize, u32) -> i32>,
    zero: Option<unsafe extern "C" fn(Handle, u64, u64, u32) -> i32>,
    discard: Option<unsafe extern "C" fn(Handle, u64, u64) -> i32>,
    flush: Option<unsafe extern "C" fn(Handle) -> i32>,
    free: Option<unsafe extern "C" fn(Handle)>,
}

unsafe extern "C" {
    fn hrl_status_name(status: i32) -> *const c_char;
    fn hrl_error_message() -> *const c_char;
    fn hrl_device_new_memory(size_bytes: u64, out: *mut Handle) -> i32;
    fn hrl_device_new_overlay(base: Handle, scratch: Handle, out: *mut Handle) -> i32;
    fn hrl_device_from_callbacks(calls: *const Callbacks, user: Handle, out: *mut Handle) -> i32;
    fn hrl_device_size_bytes(device: Handle) -> u64;
    fn hrl_device_block_bytes(device: Handle) -> u32;
    fn hrl_device_is_read_only(device: Handle) -> bool;
    fn hrl_device_name(device: Handle) -> *const c_char;
    fn hrl_device_read(device: Handle, offset: u64, buffer: *mut u8, length: usize) -> i32;
    fn hrl_device_write(d: Handle, offset: u64, data: *const u8, length: usize, flags: u32) -> i32;
    fn hrl_device_zero(device: Handle, offset: u64, length: u64, flags: u32) -> i32;
    fn hrl_device_discard(device: Handle, offset: u64, length: u64, effect: *mut u32) -> i32;
    fn hrl_device_flush(device: Handle) -> i32;
    fn hrl_device_allocation(
        device: Handle,
        offset: u64,
        length: u64,
        visit: Option<unsafe extern "C" fn(Handle, u64, u64, bool) -> bool>,
        user: Handle,
    ) -> i32;
    fn hrl_device_free(device: Handle);
    fn hrl_buffer_new(length: usize, out: *mut Handle) -> i32;
    fn hrl_buffer_copy(data: *const u8, length: usize, out: *mut Handle) -> i32;
    fn hrl_buffer_data(buffer: Handle) -> *mut u8;
    fn hrl_buffer_length(buffer: Handle) -> usize;
    fn hrl_buffer_free(buffer: Handle);
    fn hrl_store_open_directory(path: *const c_char, create: bool, out: *mut Handle) -> i32;
    fn hrl_store_free(store: Handle);
    fn hrl_vault_create(store: Handle, key: Handle, out: *mut Handle) -> i32;
    fn hrl_vault_open(store: Handle, key: Handle, out: *mut Handle) -> i32;
    fn hrl_vault_free(vault: Handle);
    fn hrl_protection_options_new(
        volume: *const c_char,
        device: Handle,
        vault: Handle,
        state: *const c_char,
        out: *mut Handle,
    ) -> i32;
    fn hrl_protection_options_set(o: Handle, name: *const c_char, value: *const c_char) -> i32;
    fn hrl_protection_options_free(options: Handle);
    fn hrl_protection_open(options: Handle, out: *mut Handle) -> i32;
    fn hrl_protection_device(protection: Handle, out: *mut Handle) -> i32;
    fn hrl_protection_tap(protection: Handle, out: *mut Handle) -> i32;
    fn hrl_protection_mark(p: Handle, kind: u32, label: *const c_char, point: Handle) -> i32;
    fn hrl_protection_wait_ordered(protection: Handle, limit_ms: u64) -> i32;
    fn hrl_protection_wait_replicated(p: Handle, limit_ms: u64, sequence: *mut u64) -> i32;
    fn hrl_protection_stop(protection: Handle, limit_ms: u64) -> i32;
    fn hrl_protection_free(protection: Handle);
    fn hrl_replica_open(vault: Handle, name: *const c_char, out: *mut Handle) -> i32;
    fn hrl_replica_view(replica: Handle, at: *const c_char, out: *mut Handle) -> i32;
    fn hrl_replica_free(replica: Handle);
    fn hrl_tap_flush(tap: Handle, sequence: *mut u64) -> i32;
    fn hrl_tap_free(tap: Handle);
}

fuzz_target!(|input: &[u8]| {
    let mut rig = Rig::default();
    let mut input = Unstructured::new(input);
    for _ in 0..CALLS_MAX {
        if input.is_empty() || rig.call(&mut input).is_err() {
            break;
        }
    }
    drop(rig);
    assert_eq!(GIVEN.get(), 0, "what was given is given back once");
});

/// What the model knows of a device.
struct Device {
    handle: Handle,
    bytes: Vec<u8>,
    read_only: bool,
    discards: bool,
    /// It is part of another device, so nothing writes to it any more.
    is_lent: bool,
    /// Another device wrote to it.
    is_unknown: bool,
}

#[derive(Default)]
struct Rig {
    devices: [Option<Device>; DEVICES],
    buffers: [Option<(Handle, Vec<u8>)>; BUFFERS],
    has_lived: bool,
}

/// Checks that a call ended as expected: a failure has a text, and no panic was caught.
fn check(status: i32, wanted: Wanted, what: &str) {
    // SAFETY: static text, and the text of the last error, which lives until the next one.
    let (name, message) =
        unsafe { (CStr::from_ptr(hrl_status_name(status)), CStr::from_ptr(hrl_error_message())) };
    assert!(status != PANIC && status <= 0, "{what}: {message:?}");
    assert!(name != c"unknown" && (status == 0 || !message.is_empty()), "{what}: {name:?}");
    assert_eq!(status, wanted.err().unwrap_or(0), "{what}: {message:?}");
}

/// Makes a handle; `None` if it was refused as expected.
fn make(wanted: Wanted, what: &str, call: impl FnOnce(*mut Handle) -> i32) -> Option<Handle> {
    let untouched = 0x55 as Handle;
    let mut out = untouched;
    check(call(&raw mut out), wanted, what);
    assert_eq!(out == untouched, wanted.is_err(), "{what}: outputs of a failure are left alone");
    (out != untouched).then_some(out)
}

fn text(text: &str) -> CString {
    CString::new(text).expect("no NUL")
}

impl Rig {
    fn call(&mut self, input: &mut Unstructured<'_>) -> Parsed<()> {
        match input.arbitrary::<u8>()? % 16 {
            0 | 1 => self.new_memory(input),
            2 => self.new_overlay(input),
            3 => self.new_of_callbacks(input),
            4..=6 => self.write(input),
            7 | 8 => self.read(input),
            9 => self.zero(input),
            10 => self.discard(input),
            11 => self.look(input),
            12 => self.free(input),
            13 | 14 => self.buffer(input),
            _ => self.live(input),
        }
    }

    fn slot(input: &mut Unstructured<'_>) -> Parsed<usize> {
        input.choose_index(DEVICES)
    }

    fn keep(&mut self, slot: usize, device: Device) {
        if let Some(old) = self.devices[slot].replace(device) {
            // SAFETY: it was made by the library and is not used any more.
            unsafe { hrl_device_free(old.handle) }
        }
    }

    fn handle(&self, slot: usize) -> Handle {
        self.devices[slot].as_ref().map_or(null_mut(), |device| device.handle)
    }

    fn new_memory(&mut self, input: &mut Unstructured<'_>) -> Parsed<()> {
        let slot = Self::slot(input)?;
        let size = *input.choose(&[SIZE, SIZE, 512, 4096 + 512, 0, 100, u64::MAX])?;
        let good = size > 0 && size.is_multiple_of(512) && size < u64::MAX;
        let wanted = if good { Ok(()) } else { Err(INVALID_INPUT) };
        // SAFETY: `out` has room for a handle.
        let made = make(wanted, "new memory", |out| unsafe { hrl_device_new_memory(size, out) });
        if let Some(handle) = made {
            let bytes = vec![0; size as usize];
            self.keep(
                slot,
                Device {
                    handle,
                    bytes,
                    read_only: false,
                    discards: true,
                    is_lent: false,
                    is_unknown: false,
                },
            );
        }
        // SAFETY: NULL is no room for a handle, and refused.
        check(unsafe { hrl_device_new_memory(512, null_mut()) }, Err(INVALID_INPUT), "no out");
        Ok(())
    }

    fn new_overlay(&mut self, input: &mut Unstructured<'_>) -> Parsed<()> {
        let (slot, base, scratch) = (Self::slot(input)?, Self::slot(input)?, Self::slot(input)?);
        let (below, above) = (&self.devices[base], &self.devices[scratch]);
        let usable = |device: &Device| !device.is_lent && !device.is_unknown;
        if below.as_ref().is_some_and(|d| d.is_unknown)
            || above.as_ref().is_some_and(|d| !usable(d) || d.read_only)
            || (base == scratch && below.is_some())
        {
            return Ok(());
        }
        let fits = match (below, above) {
            (Some(below), Some(above)) => above.bytes.len() >= below.bytes.len(),
            _ => false,
        };
        let wanted = if fits { Ok(()) } else { Err(INVALID_INPUT) };
        let handles = (self.handle(base), self.handle(scratch));
        // SAFETY: handles are NULL or live.
        let made = make(wanted, "new overlay", |out| unsafe {
            hrl_device_new_overlay(handles.0, handles.1, out)
        });
        let Some(handle) = made else { return Ok(()) };
        let bytes = self.devices[base].as_ref().map(|d| d.bytes.clone()).unwrap_or_default();
        self.devices[base].iter_mut().for_each(|device| device.is_lent = true);
        if let Some(device) = &mut self.devices[scratch] {
            (device.is_lent, device.is_unknown) = (true, true);
        }
        self.keep(
            slot,
            Device {
                handle,
                bytes,
                read_only: false,
                discards: true,
                is_lent: false,
                is_unknown: false,
            },
        );
        Ok(())
    }

    fn new_of_callbacks(&mut self, input: &mut Unstructured<'_>) -> Parsed<()> {
        let (slot, shape) = (Self::slot(input)?, input.arbitrary::<u8>()?);
        let read_only = shape & 1 == 1;
        let mut callbacks = Callbacks {
            struct_bytes: size_of::<Callbacks>(),
            size_bytes: SIZE,
            block_bytes: 512 << (shape >> 6),
            read_only,
            name: if shape & 2 == 0 { null() } else { c"mine".as_ptr() },
            read: Some(Own::read),
            write: Some(Own::write),
            zero: (shape & 4 == 0).then_some(Own::zero),
            discard: None,
            flush: Some(Own::flush),
            free: Some(Own::free),
        };
        let wrong = shape >> 3 & 7;
        match wrong {
            1 => callbacks.struct_bytes = input.arbitrary::<u16>()?.into(),
            2 => callbacks.size_bytes = 100,
            3 => callbacks.block_bytes = 700,
            4 => callbacks.read = None,
            5 => callbacks.write = None,
            6 => callbacks.flush = None,
            _ => {}
        }
        let good = match wrong {
            1 => callbacks.struct_bytes == size_of::<Callbacks>(),
            5 | 6 => read_only,
            other => matches!(other, 0 | 7),
        };
        let user = Box::into_raw(Box::new(Own(vec![0x11; SIZE as usize]))).cast();
        GIVEN.set(GIVEN.get() + 1);
        let wanted = if good { Ok(()) } else { Err(INVALID_INPUT) };
        // SAFETY: the struct lives through the call, and `user` until `free` of the callbacks.
        let made = make(wanted, "callbacks", |out| unsafe {
            hrl_device_from_callbacks(&raw const callbacks, user, out)
        });
        match made {
            Some(handle) => {
                let bytes = vec![0x11; SIZE as usize];
                self.keep(
                    slot,
                    Device {
                        handle,
                        bytes,
                        read_only,
                        discards: false,
                        is_lent: false,
                        is_unknown: false,
                    },
                );
            }
            // SAFETY: the library refused it, so it is ours alone.
            None => unsafe { Own::free(user) },
        }
        Ok(())
    }

    /// Returns a range, mostly within a disk.
    fn range(input: &mut Unstructured<'_>) -> Parsed<(u64, usize)> {
        let offset = match input.arbitrary::<u8>()? {
            255 => u64::MAX - u64::from(input.arbitrary::<u8>()?),
            254 => SIZE - u64::from(input.arbitrary::<u8>()?),
            _ => u64::from(input.arbitrary::<u16>()?),
        };
        Ok((offset, usize::from(input.arbitrary::<u16>()?) % (BYTES_MAX + 1)))
    }

    /// Returns the expected result of a call on a range, apart from other faults.
    fn within(&self, slot: usize, offset: u64, length: u64) -> Wanted {
        let size = self.devices[slot].as_ref().map(|device| device.bytes.len() as u64);
        let end = offset.checked_add(length);
        match (size, end) {
            (Some(size), Some(end)) if end <= size => Ok(()),
            _ => Err(INVALID_INPUT),
        }
    }

    fn may_write(&self, slot: usize) -> bool {
        self.devices[slot].as_ref().is_none_or(|device| !device.is_lent)
    }

    fn write(&mut self, input: &mut Unstructured<'_>) -> Parsed<()> {
        let (slot, (offset, length)) = (Self::slot(input)?, Self::range(input)?);
        let (flags, fill) = (input.arbitrary::<u8>()?, input.arbitrary::<u8>()?);
        if !self.may_write(slot) {
            return Ok(());
        }
        let data = vec![fill; length];
        let flags = if flags >= 0xf0 { u32::from(flags) } else { u32::from(flags & 3) };
        let mut wanted = self.within(slot, offset, length as u64);
        if flags & !(DURABLE | KEEP_ALLOCATED) != 0 {
            wanted = Err(INVALID_INPUT);
        }
        let handle = self.handle(slot);
        let read_only = self.devices[slot].as_ref().is_some_and(|device| device.read_only);
        if wanted.is_ok() && read_only {
            wanted = Err(READ_ONLY);
        }
        // SAFETY: the handle is NULL or live, and the data this long.
        let status = unsafe { hrl_device_write(handle, offset, data.as_ptr(), length, flags) };
        check(status, wanted, "write");
        if let (Some(device), Ok(())) = (&mut self.devices[slot], wanted) {
            device.bytes[offset as usize..offset as usize + length].fill(fill);
        }
        // SAFETY: refused before anything is read.
        let long = unsafe { hrl_device_write(handle, 0, data.as_ptr(), usize::MAX, 0) };
        check(long, Err(INVALID_INPUT), "a length that nothing has");
        // SAFETY: as above.
        let none = unsafe { hrl_device_write(handle, 0, null(), 1, 0) };
        check(none, Err(INVALID_INPUT), "no data");
        Ok(())
    }

    fn read(&mut self, input: &mut Unstructured<'_>) -> Parsed<()> {
        let (slot, (offset, length)) = (Self::slot(input)?, Self::range(input)?);
        let mut buffer = vec![0xa5; length];
        let wanted = self.within(slot, offset, length as u64);
        let handle = self.handle(slot);
        // SAFETY: the handle is NULL or live, and the buffer this long.
        let status = unsafe { hrl_device_read(handle, offset, buffer.as_mut_ptr(), length) };
        check(status, wanted, "read");
        match &self.devices[slot] {
            Some(device) if wanted.is_ok() && !device.is_unknown => {
                assert!(buffer == device.bytes[offset as usize..offset as usize + length]);
            }
            Some(_) if wanted.is_ok() => {}
            _ => assert!(buffer.iter().all(|byte| *byte == 0xa5), "a failure fills nothing"),
        }
        // SAFETY: refused before anything is written.
        let none = unsafe { hrl_device_read(handle, 0, null_mut(), 1) };
        check(none, Err(INVALID_INPUT), "no buffer");
        Ok(())
    }

    fn zero(&mut self, input: &mut Unstructured<'_>) -> Parsed<()> {
        let (slot, (offset, length)) = (Self::slot(input)?, Self::range(input)?);
        let flags = u32::from(input.arbitrary::<u8>()? & 3);
        if !self.may_write(slot) {
            return Ok(());
        }
        let mut wanted = self.within(slot, offset, length as u64);
        let read_only = self.devices[slot].as_ref().is_some_and(|device| device.read_only);
        if wanted.is_ok() && read_only {
            wanted = Err(READ_ONLY);
        }
        // SAFETY: the handle is NULL or live.
        let status = unsafe { hrl_device_zero(self.handle(slot), offset, length as u64, flags) };
        check(status, wanted, "zero");
        if let (Some(device), Ok(())) = (&mut self.devices[slot], wanted) {
            device.bytes[offset as usize..offset as usize + length].fill(0);
        }
        Ok(())
    }

    fn discard(&mut self, input: &mut Unstructured<'_>) -> Parsed<()> {
        let (slot, (offset, length)) = (Self::slot(input)?, Self::range(input)?);
        if !self.may_write(slot) {
            return Ok(());
        }
        let mut wanted = self.within(slot, offset, length as u64);
        let read_only = self.devices[slot].as_ref().is_some_and(|device| device.read_only);
        if wanted.is_ok() && read_only {
            wanted = Err(READ_ONLY);
        }
        let mut effect = 77_u32;
        // SAFETY: the handle is NULL or live, and `effect` has room.
        let status = unsafe {
            hrl_device_discard(self.handle(slot), offset, length as u64, &raw mut effect)
        };
        check(status, wanted, "discard");
        match (&mut self.devices[slot], wanted) {
            (Some(device), Ok(())) => {
                assert_eq!(effect, if device.discards { 0 } else { 2 });
                if device.discards {
                    device.bytes[offset as usize..offset as usize + length].fill(0);
                }
            }
            _ => assert_eq!(effect, 77, "outputs of a failure are left alone"),
        }
        Ok(())
    }

    fn look(&mut self, input: &mut Unstructured<'_>) -> Parsed<()> {
        let (slot, (offset, length)) = (Self::slot(input)?, Self::range(input)?);
        let handle = self.handle(slot);
        // SAFETY: the handle is NULL or live.
        let (size, block, read_only, name) = unsafe {
            let name = CStr::from_ptr(hrl_device_name(handle));
            (
                hrl_device_size_bytes(handle),
                hrl_device_block_bytes(handle),
                hrl_device_is_read_only(handle),
                name,
            )
        };
        match &self.devices[slot] {
            Some(device) => {
                assert_eq!((size, read_only), (device.bytes.len() as u64, device.read_only));
                assert!(block.is_power_of_two() && !name.is_empty());
            }
            None => assert!((size, block, read_only, name) == (0, 0, true, c"")),
        }
        let wanted = self.within(slot, offset, length as u64);
        let mut runs = Runs { at: offset, zeroes: Vec::new() };
        // SAFETY: as above, and the runs live through the call.
        let status = unsafe {
            let user = (&raw mut runs).cast();
            hrl_device_allocation(handle, offset, length as u64, Some(Runs::visit), user)
        };
        check(status, wanted, "allocation");
        if let (Some(device), Ok(())) = (&self.devices[slot], wanted) {
            assert_eq!(runs.at, offset + length as u64, "runs follow each other to the end");
            for (offset, length) in runs.zeroes.into_iter().filter(|_| !device.is_unknown) {
                let hole = &device.bytes[offset as usize..(offset + length) as usize];
                assert!(hole.iter().all(|byte| *byte == 0), "a hole reads as zeroes");
            }
        }
        // SAFETY: as above.
        let (none, flush) = unsafe {
            (hrl_device_allocation(handle, 0, 0, None, null_mut()), hrl_device_flush(handle))
        };
        check(none, Err(INVALID_INPUT), "nobody to tell");
        check(flush, if handle.is_null() { Err(INVALID_INPUT) } else { Ok(()) }, "flush");
        Ok(())
    }

    fn free(&mut self, input: &mut Unstructured<'_>) -> Parsed<()> {
        let slot = Self::slot(input)?;
        let handle = self.devices[slot].take().map_or(null_mut(), |device| device.handle);
        // SAFETY: NULL, or a handle that is not used any more.
        unsafe { hrl_device_free(handle) }
        Ok(())
    }

    fn buffer(&mut self, input: &mut Unstructured<'_>) -> Parsed<()> {
        let (slot, length) = (input.choose_index(BUFFERS)?, usize::from(input.arbitrary::<u16>()?));
        let fill = input.arbitrary::<u8>()?;
        let made = if fill & 1 == 0 {
            let length = if fill == 0 { usize::MAX } else { length };
            let wanted = if fill == 0 { Err(INVALID_INPUT) } else { Ok(()) };
            // SAFETY: `out` has room for a handle.
            let made = make(wanted, "new buffer", |out| unsafe { hrl_buffer_new(length, out) });
            made.map(|handle| (handle, vec![0; length]))
        } else {
            let data = vec![fill; length];
            // SAFETY: as above, and the data is this long.
            let made = make(Ok(()), "copy buffer", |out| unsafe {
                hrl_buffer_copy(data.as_ptr(), length, out)
            });
            made.map(|handle| (handle, data))
        };
        let old = if fill & 2 == 0 { self.buffers[slot].take() } else { None };
        if let Some((handle, bytes)) = old.or(made) {
            // SAFETY: a live handle, whose memory is as long as it says.
            unsafe {
                let found = std::slice::from_raw_parts(hrl_buffer_data(handle), bytes.len());
                assert!(hrl_buffer_length(handle) == bytes.len() && found == bytes);
                if !self.buffers.iter().flatten().any(|(known, _)| *known == handle) {
                    hrl_buffer_free(handle);
                }
            }
        }
        // SAFETY: NULL is fine.
        unsafe {
            assert!(hrl_buffer_length(null_mut()) == 0 && hrl_buffer_data(null_mut()).is_null());
            hrl_buffer_free(null_mut());
        }
        Ok(())
    }

    /// Protects a disk, writes, takes a point and checks it in the vault; frees the handles in any
    /// order. Once for each input.
    fn live(&mut self, input: &mut Unstructured<'_>) -> Parsed<()> {
        let (order, order_after) = (input.arbitrary::<u16>()?, input.arbitrary::<u16>()?);
        let writes: Vec<(u16, u8)> =
            (0..4).map(|_| Ok((input.arbitrary()?, input.arbitrary()?))).collect::<Parsed<_>>()?;
        if !std::mem::replace(&mut self.has_lived, true) {
            Life::begin().run(order, order_after, &writes);
        }
        Ok(())
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let devices = self.devices.iter_mut().filter_map(Option::take);
        let buffers = self.buffers.iter_mut().filter_map(Option::take);
        // SAFETY: live handles, which nothing uses any more.
        unsafe {
            devices.for_each(|device| hrl_device_free(device.handle));
            buffers.for_each(|(handle, _)| hrl_buffer_free(handle));
        }
    }
}

// --- a disk of the caller's ---

thread_local! {
    /// Disks that the library was given and has not given back. Those of an input stay on its
    /// thread.
    static GIVEN: Cell<i64> = const { Cell::new(0) };
}

struct Own(Vec<u8>);

impl Own {
    unsafe extern "C" fn read(user: Handle, offset: u64, buffer: *mut u8, length: usize) -> i32 {
        // SAFETY: `user` is the box that was given, and the library says how long the buffer is.
        unsafe {
            let own = &*user.cast::<Self>();
            let range = offset as usize..offset as usize + length;
            std::slice::from_raw_parts_mut(buffer, length).copy_from_slice(&own.0[range]);
        }
        0
    }

    unsafe extern "C" fn write(
        user: Handle,
        offset: u64,
        data: *const u8,
        length: usize,
        flags: u32,
    ) -> i32 {
        assert_eq!(flags & !DURABLE, 0);
        // SAFETY: as in `read`.
        unsafe {
            let own = &mut *user.cast::<Self>();
            let range = offset as usize..offset as usize + length;
            own.0[range].copy_from_slice(std::slice::from_raw_parts(data, length));
        }
        0
    }

    unsafe extern "C" fn zero(user: Handle, offset: u64, length: u64, flags: u32) -> i32 {
        assert_eq!(flags & !(DURABLE | KEEP_ALLOCATED), 0);
        // SAFETY: as in `read`.
        let own = unsafe { &mut *user.cast::<Self>() };
        own.0[offset as usize..(offset + length) as usize].fill(0);
        0
    }

    unsafe extern "C" fn flush(_: Handle) -> i32 {
        0
    }

    unsafe extern "C" fn free(user: Handle) {
        GIVEN.set(GIVEN.get() - 1);
        // SAFETY: the box that was given, given back once.
        drop(unsafe { Box::from_raw(user.cast::<Self>()) });
    }
}

struct Runs {
    at: u64,
    zeroes: Vec<(u64, u64)>,
}

impl Runs {
    unsafe extern "C" fn visit(user: Handle, offset: u64, length: u64, allocated: bool) -> bool {
        // SAFETY: the runs that were handed in.
        let runs = unsafe { &mut *user.cast::<Self>() };
        assert_eq!(runs.at, offset);
        runs.at += length;
        if !allocated {
            runs.zeroes.push((offset, length));
        }
        true
    }
}

// --- a protected disk ---

/// Every handle of a protected disk, in order of creation.
struct Life {
    directory: PathBuf,
    store: Handle,
    vault: Handle,
    disk: Handle,
    options: Handle,
    protection: Handle,
}

impl Life {
    fn begin() -> Self {
        let directory = scratch("c-api").join("life");
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).expect("room for scratch files");
        let path = |name: &str| text(directory.join(name).to_str().expect("text"));
        // SAFETY: handles are live, texts live through their calls, and outputs have room.
        unsafe {
            let store = make(Ok(()), "store", |out| {
                hrl_store_open_directory(path("vault").as_ptr(), true, out)
            });
            let store = store.expect("made");
            let vault = make(Ok(()), "vault", |out| hrl_vault_create(store, null_mut(), out));
            let vault = vault.expect("made");
            let disk = make(Ok(()), "disk", |out| hrl_device_new_memory(SIZE, out)).expect("made");
            let options = make(Ok(()), "options", |out| {
                let state = path("state");
                hrl_protection_options_new(c"v".as_ptr(), disk, vault, state.as_ptr(), out)
            });
            let options = options.expect("made");
            let unknown = hrl_protection_options_set(options, c"speed".as_ptr(), c"1".as_ptr());
            check(unknown, Err(INVALID_INPUT), "an unknown setting");
            let protection =
                make(Ok(()), "protection", |out| hrl_protection_open(options, out)).expect("made");
            Self { directory, store, vault, disk, options, protection }
        }
    }

    fn run(mut self, order: u16, order_after: u16, writes: &[(u16, u8)]) {
        let mut bytes = vec![0; SIZE as usize];
        // SAFETY: handles are NULL or live, texts live through their calls, and outputs have room.
        unsafe {
            self.free_some(order);
            let device = make(Ok(()), "device", |out| hrl_protection_device(self.protection, out));
            let device = device.expect("made");
            let tap = make(Ok(()), "tap", |out| hrl_protection_tap(self.protection, out));
            let tap = tap.expect("made");
            for (offset, fill) in writes {
                let (at, length) = (usize::from(*offset) % (SIZE as usize - 512), 512);
                let status = hrl_device_write(device, at as u64, [*fill; 512].as_ptr(), length, 0);
                check(status, Ok(()), "a write");
                bytes[at..at + length].fill(*fill);
            }
            check(hrl_protection_wait_ordered(self.protection, LIMIT_MS), Ok(()), "first copy");
            let status =
                hrl_protection_mark(self.protection, POINT_CRASH, c"m".as_ptr(), null_mut());
            check(status, Ok(()), "mark");
            check(hrl_device_write(device, 0, [0xee; 64].as_ptr(), 64, 0), Ok(()), "after it");
            check(hrl_tap_flush(tap, null_mut()), Ok(()), "flush");
            let status = hrl_protection_wait_replicated(self.protection, LIMIT_MS, null_mut());
            check(status, Ok(()), "replicated");
            if order >> 8 & 1 == 0 {
                hrl_tap_free(tap);
            }
            hrl_device_free(device);
            check(hrl_protection_stop(self.protection, LIMIT_MS), Ok(()), "stop");
            let status = hrl_protection_mark(self.protection, POINT_CRASH, null(), null_mut());
            check(status, Err(INVALID_INPUT), "it was stopped");
            check(hrl_protection_stop(self.protection, LIMIT_MS), Ok(()), "a second stop");
            if order >> 8 & 1 == 1 {
                hrl_tap_free(tap);
            }
            self.free_some(order_after);
            self.check_view(&bytes);
            self.free_some(u16::MAX);
            hrl_protection_free(self.protection);
        }
    }

    /// Frees those handles that nothing needs any more.
    unsafe fn free_some(&mut self, mask: u16) {
        let take = |handle: &mut Handle, bit: u16| {
            if mask >> bit & 1 == 1 { std::mem::replace(handle, null_mut()) } else { null_mut() }
        };
        let (store, vault) = (take(&mut self.store, 0), take(&mut self.vault, 1));
        let (disk, options) = (take(&mut self.disk, 2), take(&mut self.options, 3));
        // SAFETY: NULL, or live handles that are not used any more.
        unsafe {
            if mask & 16 == 0 {
                hrl_store_free(store);
                hrl_vault_free(vault);
                hrl_device_free(disk);
                hrl_protection_options_free(options);
            } else {
                hrl_protection_options_free(options);
                hrl_device_free(disk);
                hrl_vault_free(vault);
                hrl_store_free(store);
            }
        }
    }

    /// Opens the view of the mark through another vault handle.
    unsafe fn check_view(&self, bytes: &[u8]) {
        let path = text(self.directory.join("vault").to_str().expect("text"));
        // SAFETY: as in `run`.
        unsafe {
            let store =
                make(Ok(()), "store", |out| hrl_store_open_directory(path.as_ptr(), false, out));
            let store = store.expect("made");
            let vault = make(Ok(()), "vault", |out| hrl_vault_open(store, null_mut(), out));
            let vault = vault.expect("made");
            hrl_store_free(store);
            let replica =
                make(Ok(()), "replica", |out| hrl_replica_open(vault, c"v".as_ptr(), out));
            let replica = replica.expect("made");
            hrl_vault_free(vault);
            let view =
                make(Ok(()), "view", |out| hrl_replica_view(replica, c"label:m".as_ptr(), out));
            let view = view.expect("made");
            hrl_replica_free(replica);
            let mut found = vec![0; SIZE as usize];
            check(hrl_device_read(view, 0, found.as_mut_ptr(), found.len()), Ok(()), "view");
            assert!(found == bytes, "the view of a mark is the disk as it was");
            check(hrl_device_write(view, 0, [0; 1].as_ptr(), 1, 0), Err(READ_ONLY), "a view");
            hrl_device_free(view);
        }
    }
}
