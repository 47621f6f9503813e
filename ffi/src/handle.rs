//! The types of what C passes to a call, and the only code that reads or writes through its
//! pointers.
//!
//! An exported function names these types in its signature. `Option<&T>` is a handle, and
//! `Option<Box<T>>` a handle that C gives back. [`Text`] is a string, [`In`] a structure of
//! options, [`Out`] room for a value, and [`Room`] room for a structure that may grow. Each has the
//! layout of one pointer, and a lifetime that ends with the call, so that nothing of C's can be
//! kept by accident.
//!
//! Premise. A value of these types exists because C made the call, or because of an `unsafe`
//! conversion. Exported functions are `unsafe`: their caller promises what the header asks for. A
//! pointer is NULL or valid for the call. A handle came from this library and was not freed. Text
//! is NUL-terminated. An output has room for its type, a structure for the size that it states. All
//! reading and writing therefore happens behind safe methods. Only lengths stand beside their
//! pointers, so [`bytes`], [`bytes_mut`] and [`array`] are `unsafe`.

use std::ffi::{CStr, CString, c_char};
use std::marker::PhantomData;

use engine::Result;

use crate::boundary::bad_argument;

/// Returns the handle; `InvalidInput` for NULL.
pub(crate) fn given<H>(handle: Option<H>, name: &str) -> Result<H> {
    handle.ok_or_else(|| bad_argument(name).expected("a pointer").found("NULL"))
}

/// NUL-terminated text that C passes; may be NULL.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Text<'a> {
    pointer: *const c_char,
    call: PhantomData<&'a CStr>,
}

impl<'a> Text<'a> {
    /// Takes a pointer for text.
    ///
    /// # Safety
    /// `pointer` is NULL, or NUL-terminated text that neither changes nor is freed during `'a`.
    pub(crate) const unsafe fn from_raw(pointer: *const c_char) -> Self {
        Self { pointer, call: PhantomData }
    }

    /// Takes text of Rust.
    #[cfg(test)]
    pub(crate) const fn from_c(text: &'a CStr) -> Self {
        Self { pointer: text.as_ptr(), call: PhantomData }
    }

    /// Stands for NULL.
    #[cfg(test)]
    pub(crate) const fn none() -> Self {
        Self { pointer: std::ptr::null(), call: PhantomData }
    }

    /// Returns the text; `InvalidInput` for NULL and for what is not UTF-8.
    pub(crate) fn read(self, name: &str) -> Result<&'a str> {
        let missing = || bad_argument(name).expected("text").found("NULL");
        self.optional(name)?.ok_or_else(missing)
    }

    /// Returns the text; `None` for NULL.
    pub(crate) fn optional(self, name: &str) -> Result<Option<&'a str>> {
        if self.pointer.is_null() {
            return Ok(None);
        }
        // SAFETY: not NULL, so NUL-terminated and unchanged during 'a (invariant of the type).
        let text = unsafe { CStr::from_ptr(self.pointer) };
        text.to_str()
            .map(Some)
            .map_err(|error| bad_argument(name).expected("UTF-8").caused_by(error))
    }
}

/// A structure of options or callbacks whose first field is its size.
///
/// # Safety
/// The type is `repr(C)`, and its first field is `struct_bytes: usize`.
pub(crate) unsafe trait Versioned {
    /// Name of the type in C.
    const NAME: &'static str;
}

/// A structure that the library fills, as far as its reader knows it.
pub(crate) trait Report: Versioned + Copy {
    /// Size of the structure in the first release that has it.
    const FIRST_BYTES: usize;
}

/// Declares that a structure begins with `struct_bytes`.
macro_rules! versioned {
    ($name:ident $(<$lifetime:lifetime>)?) => {
        const _: () = {
            const fn size(value: &$name $(<$lifetime>)?) -> usize {
                value.struct_bytes
            }
            let _ = size;
            assert!(std::mem::offset_of!($name $(<$lifetime>)?, struct_bytes) == 0);
        };
        // SAFETY: declared with repr(C); the lines above prove place and type of the field.
        unsafe impl $crate::handle::Versioned for $name $(<$lifetime>)? {
            const NAME: &'static str = stringify!($name);
        }
    };
}
pub(crate) use versioned;

/// A structure that C passes; may be NULL.
#[repr(transparent)]
pub struct In<'a, T> {
    pointer: *const T,
    call: PhantomData<&'a T>,
}

impl<'a, T: Versioned> In<'a, T> {
    /// Takes a reference for a structure.
    #[cfg(test)]
    pub(crate) const fn from_ref(value: &'a T) -> Self {
        Self { pointer: value, call: PhantomData }
    }

    /// Stands for NULL.
    #[cfg(test)]
    pub(crate) const fn none() -> Self {
        Self { pointer: std::ptr::null(), call: PhantomData }
    }

    /// Returns the structure; `InvalidInput` for NULL and for another size than this version's.
    pub(crate) fn read(self, name: &str) -> Result<&'a T> {
        given(self.optional()?, name)
    }

    /// Returns the structure; `None` for NULL.
    pub(crate) fn optional(self) -> Result<Option<&'a T>> {
        if self.pointer.is_null() {
            return Ok(None);
        }
        // SAFETY: not NULL, so a structure of some version, each of which begins with its size
        // (`Versioned`).
        let struct_bytes = unsafe { self.pointer.cast::<usize>().read() };
        if struct_bytes != size_of::<T>() {
            return Err(bad_argument("struct_bytes")
                .expected(format_args!("sizeof({}), {} bytes", T::NAME, size_of::<T>()))
                .found(struct_bytes));
        }
        // SAFETY: of this version's size, and unchanged during 'a (invariant of the type).
        Ok(unsafe { self.pointer.as_ref() })
    }
}

/// Room for a result, which need not be initialized; may be NULL.
#[repr(transparent)]
pub struct Out<'a, T> {
    pointer: *mut T,
    call: PhantomData<&'a mut T>,
}

impl<T> Clone for Out<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Out<'_, T> {}

#[cfg(test)]
impl<'a, T> Out<'a, T> {
    /// Takes a reference as room for a result.
    pub(crate) const fn from_mut(value: &'a mut T) -> Self {
        Self { pointer: value, call: PhantomData }
    }
}

impl<T> Out<'_, T> {
    /// Fails with `InvalidInput` for NULL. To be asked before anything is done.
    pub(crate) fn check(self, name: &str) -> Result<()> {
        given((!self.pointer.is_null()).then_some(()), name)
    }

    /// Stores a value; `InvalidInput` for NULL.
    pub(crate) fn put(self, value: T, name: &str) -> Result<()> {
        self.check(name)?;
        self.put_optional(value);
        Ok(())
    }

    /// Stores a value unless C passed NULL.
    pub(crate) fn put_optional(self, value: T) {
        if !self.pointer.is_null() {
            // SAFETY: not NULL, so it has room for a T (invariant of the type). Old content is C's
            // and needs no drop.
            unsafe { self.pointer.write(value) };
        }
    }
}

impl<T> Out<'_, *mut T> {
    /// Hands a new object to C, which gives it back as `Option<Box<T>>`.
    pub(crate) fn give(self, value: T) -> Result<()> {
        self.check("out")?;
        self.put(Box::into_raw(Box::new(value)), "out")
    }
}

/// Room for a structure whose first field says how much of it C knows; may be NULL.
///
/// The rest of the structure need not be initialized.
#[repr(transparent)]
pub struct Room<'a, T> {
    pointer: *mut T,
    call: PhantomData<&'a mut T>,
}

#[cfg(test)]
impl<'a, T> Room<'a, T> {
    /// Takes a reference as room for a structure.
    pub(crate) const fn from_mut(value: &'a mut T) -> Self {
        Self { pointer: value, call: PhantomData }
    }

    /// Stands for NULL.
    pub(crate) const fn none() -> Self {
        Self { pointer: std::ptr::null_mut(), call: PhantomData }
    }
}

impl<'a, T: Report> Room<'a, T> {
    /// Returns the checked room; `InvalidInput` for NULL and for a size below the first release's.
    /// Called before anything is done.
    pub(crate) fn needed(self, name: &str) -> Result<Checked<'a, T>> {
        given((!self.pointer.is_null()).then_some(()), name)?;
        self.optional()
    }

    /// Checks as [`Self::needed`]. NULL is room that nothing fills.
    pub(crate) fn optional(self) -> Result<Checked<'a, T>> {
        let mut known_bytes = 0;
        if !self.pointer.is_null() {
            // SAFETY: not NULL, so a structure of some version, each of which begins with its size
            // (`Versioned`).
            known_bytes = unsafe { self.pointer.cast::<usize>().read() };
            if known_bytes < T::FIRST_BYTES {
                return Err(bad_argument(&format!("{}.struct_bytes", T::NAME))
                    .expected(format_args!(
                        "sizeof({}), at least {} bytes",
                        T::NAME,
                        T::FIRST_BYTES
                    ))
                    .found(known_bytes));
            }
        }
        Ok(Checked { pointer: self.pointer, known_bytes, call: PhantomData })
    }
}

/// Room whose size was checked.
pub(crate) struct Checked<'a, T> {
    pointer: *mut T,
    known_bytes: usize,
    call: PhantomData<&'a mut T>,
}

impl<T: Report> Checked<'_, T> {
    /// Stores as much of `value` as C knows, and the number of these bytes in `struct_bytes`.
    pub(crate) fn fill(self, mut value: T) {
        if self.pointer.is_null() {
            return;
        }
        let bytes = self.known_bytes.min(size_of::<T>());
        // SAFETY: the structure begins with its size (`Versioned`).
        unsafe { (&raw mut value).cast::<usize>().write(bytes) };
        let shown: *const u8 = (&raw const value).cast();
        // SAFETY: not NULL, so C has room for `known_bytes` (invariant of `Room`). `value` is no
        // shorter than `bytes`.
        unsafe { self.pointer.cast::<u8>().copy_from_nonoverlapping(shown, bytes) };
    }
}

/// Returns the bytes that C passes.
///
/// # Safety
/// `pointer` is NULL, or has `length` initialized bytes that do not change during `'a`.
pub(crate) unsafe fn bytes<'a>(pointer: *const u8, length: usize, name: &str) -> Result<&'a [u8]> {
    // SAFETY: the premise of `array` is that of this function.
    unsafe { array(pointer, length, name) }
}

/// Returns the room for bytes that C passes.
///
/// # Safety
/// `pointer` is NULL, or has room for `length` bytes that nothing else reads or writes during `'a`.
pub(crate) unsafe fn bytes_mut<'a>(
    pointer: *mut u8,
    length: usize,
    name: &str,
) -> Result<&'a mut [u8]> {
    check_count(pointer, length, name)?;
    if length == 0 {
        return Ok(&mut []);
    }
    // SAFETY: not NULL, at most isize::MAX bytes, and ours alone during 'a (premise).
    Ok(unsafe { std::slice::from_raw_parts_mut(pointer, length) })
}

/// Returns the array that C passes.
///
/// # Safety
/// `pointer` is NULL, or has `count` initialized elements that do not change during `'a`.
pub(crate) unsafe fn array<'a, T>(pointer: *const T, count: usize, name: &str) -> Result<&'a [T]> {
    check_count(pointer, count, name)?;
    if count == 0 {
        return Ok(&[]);
    }
    // SAFETY: not NULL, at most isize::MAX bytes, and unchanged during 'a (premise).
    Ok(unsafe { std::slice::from_raw_parts(pointer, count) })
}

/// Returns room for results in an array of C's, which need not be initialized.
///
/// # Safety
/// `pointer` is NULL, or has room for `count` elements that nobody else uses during `'a`.
pub(crate) unsafe fn places<'a, T>(
    pointer: *mut T,
    count: usize,
    name: &str,
) -> Result<Vec<Out<'a, T>>> {
    check_count(pointer, count, name)?;
    // SAFETY: within the array, which has `count` elements (premise).
    let place = |at: usize| Out { pointer: unsafe { pointer.add(at) }, call: PhantomData };
    Ok((0..count).map(place).collect())
}

fn check_count<T>(pointer: *const T, count: usize, name: &str) -> Result<()> {
    if count > isize::MAX as usize / size_of::<T>() {
        return Err(bad_argument(name).expected("a length that memory can hold").found(count));
    }
    given((count == 0 || !pointer.is_null()).then_some(()), name)
}

/// Returns text for C; zero bytes in it become question marks.
pub(crate) fn c_text(text: &str) -> CString {
    CString::new(text.replace('\0', "?")).unwrap_or_default()
}

/// Returns text in a fixed array for C, cut at a character if it does not fit.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(C)]
    struct Options<'a> {
        struct_bytes: usize,
        name: Text<'a>,
    }

    versioned!(Options<'_>);

    #[test]
    fn null_and_text_that_is_not_utf_8_are_refused() {
        assert_eq!(Text::from_c(c"disk").read("name").ok(), Some("disk"));
        assert!(matches!(Text::none().optional("name"), Ok(None)));
        for bad in [Text::none(), Text::from_c(c"\xff")] {
            assert!(bad.read("name").is_err());
        }
    }

    #[test]
    fn a_structure_of_another_size_is_not_read() {
        let mut options = Options { struct_bytes: size_of::<Options<'_>>(), name: Text::none() };
        assert!(In::from_ref(&options).read("options").is_ok());
        options.struct_bytes -= 1;
        let refused = In::from_ref(&options).optional().err().expect("refused").to_string();
        assert!(refused.contains("sizeof(Options)"), "{refused}");
        assert!(In::<Options<'_>>::none().read("options").is_err());
        assert!(matches!(In::<Options<'_>>::none().optional(), Ok(None)));
        assert!(options.name.read("name").is_err());
    }

    #[test]
    fn an_output_gives_an_object_that_comes_back_once() {
        let mut object = std::ptr::null_mut();
        Out::from_mut(&mut object).give(7).expect("room");
        // SAFETY: `give` made it, and nothing else frees it.
        assert_eq!(*unsafe { Box::from_raw(object) }, 7);
    }

    #[test]
    fn lengths_without_memory_are_refused() {
        // SAFETY: NULL is allowed.
        let (none, some) = unsafe {
            let null = std::ptr::null();
            (bytes(null, 0, "data"), bytes(null, 1, "data"))
        };
        assert!(none.is_ok_and(<[u8]>::is_empty) && some.is_err());
    }

    #[test]
    fn fixed_text_is_cut_at_a_character() {
        let cut: [c_char; 4] = fixed_text("aéé");
        assert_eq!(cut.map(|c| c.to_ne_bytes()[0]), [b'a', 0xc3, 0xa9, 0]);
    }
}
