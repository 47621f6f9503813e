//! All casts of pointers that come from C.
//!
//! What the header asks of callers is the premise of every proof here: a pointer to a handle is NULL or came from this
//! library and was not freed; text is NUL-terminated; a buffer has the length beside it; an output has room for its type;
//! and nothing that is passed to a call changes or is freed before the call returns.

#![allow(clippy::not_unsafe_ptr_arg_deref, reason = "the premise above is the caller's")]

use std::ffi::{CStr, CString, c_char};

use engine::Result;

use crate::boundary::bad_argument;

/// The object behind a handle.
pub(crate) fn borrow<'a, T>(pointer: *const T, name: &str) -> Result<&'a T> {
    // SAFETY: NULL, or a live object of this library (premise), which is only ever shared.
    unsafe { pointer.as_ref() }
        .ok_or_else(|| bad_argument(name).expected("a pointer").found("NULL"))
}

/// As [`borrow`], where NULL stands for "none".
pub(crate) fn borrow_optional<'a, T>(pointer: *const T) -> Option<&'a T> {
    // SAFETY: as in `borrow`.
    unsafe { pointer.as_ref() }
}

/// The only reference to an object that C uses from one thread at a time.
pub(crate) fn borrow_mut<'a, T>(pointer: *mut T, name: &str) -> Result<&'a mut T> {
    // SAFETY: NULL, or a live object (premise) that the header forbids to be used by two threads at once.
    unsafe { pointer.as_mut() }
        .ok_or_else(|| bad_argument(name).expected("a pointer").found("NULL"))
}

/// `InvalidInput` when there is no room for an output: to be asked before anything is done.
pub(crate) fn check_out<T>(out: *mut T, name: &str) -> Result<()> {
    if out.is_null() { Err(bad_argument(name).expected("a pointer").found("NULL")) } else { Ok(()) }
}

/// Puts a value into an output.
pub(crate) fn put<T>(out: *mut T, value: T, name: &str) -> Result<()> {
    check_out(out, name)?;
    // SAFETY: not NULL, and it has room for a T (premise); the old content is C's and needs no drop.
    unsafe { out.write(value) };
    Ok(())
}

/// As [`put`]; NULL means that nobody wants it.
pub(crate) fn put_optional<T>(out: *mut T, value: T) {
    if !out.is_null() {
        // SAFETY: as in `put`.
        unsafe { out.write(value) };
    }
}

/// Hands a new object to C.
pub(crate) fn give<T>(out: *mut *mut T, value: T) -> Result<()> {
    check_out(out, "out")?;
    put(out, Box::into_raw(Box::new(value)), "out")
}

/// Takes an object back from C; `None` for NULL.
pub(crate) fn take<T>(pointer: *mut T) -> Option<Box<T>> {
    // SAFETY: `give` made it with Box::into_raw, and it is given back once (premise).
    (!pointer.is_null()).then(|| unsafe { Box::from_raw(pointer) })
}

/// Text from C.
pub(crate) fn text<'a>(pointer: *const c_char, name: &str) -> Result<&'a str> {
    if pointer.is_null() {
        return Err(bad_argument(name).expected("text").found("NULL"));
    }
    // SAFETY: not NULL, and NUL-terminated (premise).
    unsafe { CStr::from_ptr(pointer) }
        .to_str()
        .map_err(|error| bad_argument(name).expected("UTF-8").caused_by(error))
}

/// Text that may be NULL.
pub(crate) fn optional_text<'a>(pointer: *const c_char, name: &str) -> Result<Option<&'a str>> {
    if pointer.is_null() { Ok(None) } else { text(pointer, name).map(Some) }
}

/// Bytes from C.
pub(crate) fn bytes<'a>(pointer: *const u8, length: usize, name: &str) -> Result<&'a [u8]> {
    check_length(pointer, length, name)?;
    if length == 0 {
        return Ok(&[]);
    }
    // SAFETY: not NULL, and it has this length (premise), which is below isize::MAX.
    Ok(unsafe { std::slice::from_raw_parts(pointer, length) })
}

/// Room for bytes from C.
pub(crate) fn bytes_mut<'a>(pointer: *mut u8, length: usize, name: &str) -> Result<&'a mut [u8]> {
    check_length(pointer, length, name)?;
    if length == 0 {
        return Ok(&mut []);
    }
    // SAFETY: as in `bytes`, and nobody else uses it during the call (premise).
    Ok(unsafe { std::slice::from_raw_parts_mut(pointer, length) })
}

/// An array from C.
pub(crate) fn array<'a, T>(pointer: *const T, count: usize, name: &str) -> Result<&'a [T]> {
    if count == 0 {
        return Ok(&[]);
    }
    borrow(pointer, name)?;
    if count > isize::MAX as usize / size_of::<T>() {
        return Err(bad_argument(name).expected("a count that memory can hold").found(count));
    }
    // SAFETY: not NULL, and it has this many elements (premise), which fit into memory.
    Ok(unsafe { std::slice::from_raw_parts(pointer, count) })
}

fn check_length(pointer: *const u8, length: usize, name: &str) -> Result<()> {
    if length > isize::MAX as usize {
        return Err(bad_argument(name).expected("a length that memory can hold").found(length));
    }
    if pointer.is_null() && length > 0 {
        return Err(bad_argument(name).expected("a pointer").found("NULL"));
    }
    Ok(())
}

/// Text for C; zero bytes in it become question marks.
pub(crate) fn c_text(text: &str) -> CString {
    CString::new(text.replace('\0', "?")).unwrap_or_default()
}

/// Text in a fixed array for C, cut at a character where it does not fit.
pub(crate) fn fixed_text<const N: usize>(text: &str) -> [c_char; N] {
    let mut fixed = [0; N];
    let mut end = text.len().min(N - 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    for (to, from) in fixed.iter_mut().zip(text[..end].bytes()) {
        *to = c_char::from_ne_bytes([if from == 0 { b'?' } else { from }]);
    }
    fixed
}
