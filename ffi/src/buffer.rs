//! Memory that goes to a disk and to the journal without another copy.

use engine::device::Buffer;

use crate::boundary::{guard, guard_value, hrl_status};
use crate::handle::{self, Out};

/// Page-aligned memory, good for direct I/O. Used by one thread at a time.
pub struct hrl_buffer {
    pub(crate) inner: Buffer,
}

/// Makes a buffer of `length` zero bytes. Free it with `hrl_buffer_free`, unless
/// `hrl_tap_complete_buffer` took it.
/// Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_buffer_new(
    length: usize,
    out: Out<'_, *mut hrl_buffer>,
) -> hrl_status {
    guard(|| {
        out.check("out")?;
        out.give(hrl_buffer { inner: Buffer::zeroed(check(length)?) })
    })
}

/// Makes a buffer with a copy of `data`. As `hrl_buffer_new` otherwise. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_buffer_copy(
    data: *const u8,
    length: usize,
    out: Out<'_, *mut hrl_buffer>,
) -> hrl_status {
    guard(|| {
        out.check("out")?;
        let length = check(length)?;
        // SAFETY: the caller promises that the buffer has the length beside it.
        let data = unsafe { handle::bytes(data, length, "data")? };
        out.give(hrl_buffer { inner: Buffer::copy_of(data) })
    })
}

/// Returns the memory of the buffer. Valid as long as the buffer lives; NULL for NULL. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_buffer_data(buffer: Option<&mut hrl_buffer>) -> *mut u8 {
    guard_value(std::ptr::null_mut(), || {
        handle::given(buffer, "buffer")
            .map_or(std::ptr::null_mut(), |buffer| buffer.inner.as_mut_ptr())
    })
}

/// Returns the length in bytes; 0 for NULL. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_buffer_length(buffer: Option<&hrl_buffer>) -> usize {
    guard_value(0, || handle::given(buffer, "buffer").map_or(0, |buffer| buffer.inner.len()))
}

/// Frees a buffer; NULL is fine. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_buffer_free(buffer: Option<Box<hrl_buffer>>) {
    guard_value((), || drop(buffer));
}

/// Longest buffer, in bytes.
const BUFFER_BYTES_MAX: usize = 1 << 30;

fn check(length: usize) -> engine::Result<usize> {
    if length <= BUFFER_BYTES_MAX {
        return Ok(length);
    }
    Err(crate::boundary::bad_argument("length")
        .expected(format_args!("at most {BUFFER_BYTES_MAX} bytes"))
        .found(length))
}
