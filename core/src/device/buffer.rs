//! Memory for captured data: page-aligned, so that one copy serves both direct I/O and the journal.
//!
//! Most captured writes are one page. Up to [`IDLE_PAGES_MAX`] freed pages are kept for the next
//! buffers. The allocator would return them to the system and fault them in again, because one
//! thread takes pages and another frees them.

#![allow(unsafe_code, reason = "aligned allocation")]

use crate::sync::lock::{Mutex, MutexGuard};
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice;

/// Most pages of one process that are kept for the next buffers: 4 MiB.
const IDLE_PAGES_MAX: usize = 1024;

/// Alignment of every [`Buffer`], enough for direct I/O on any disk.
pub const BUFFER_ALIGNMENT_BYTES: usize = 4096;

/// Owned bytes at an address that is a multiple of [`BUFFER_ALIGNMENT_BYTES`].
pub struct Buffer {
    start: NonNull<u8>,
    length: usize,
    capacity: usize,
}

// SAFETY: a Buffer alone owns its memory and lends it by the rules of & and &mut.
unsafe impl Send for Buffer {}
// SAFETY: as above; a shared Buffer can only be read.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Makes a buffer of `length` zeroes.
    pub fn zeroed(length: usize) -> Self {
        let mut buffer = Self::uninitialised(length);
        // SAFETY: the allocation has at least `length` bytes, and nothing else points to it.
        unsafe { buffer.start.as_ptr().write_bytes(0, length) };
        buffer.length = length;
        buffer
    }

    /// Makes a copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut buffer = Self::uninitialised(bytes.len());
        // SAFETY: nothing else points to this memory, new or reused, so it cannot overlap `bytes`.
        // It has at least as many bytes.
        unsafe { bytes.as_ptr().copy_to_nonoverlapping(buffer.start.as_ptr(), bytes.len()) };
        buffer.length = bytes.len();
        buffer
    }

    /// Returns the bytes of memory allocated.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Shortens to `length` bytes; does nothing if it is not shorter.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    /// Allocates room for `length` bytes. The length stays zero until the caller has written them.
    fn uninitialised(length: usize) -> Self {
        let capacity = length.max(1).next_multiple_of(BUFFER_ALIGNMENT_BYTES);
        if capacity == BUFFER_ALIGNMENT_BYTES
            && let Some(Page(start)) = idle_pages().pop()
        {
            return Self { start, length: 0, capacity };
        }
        let layout = Self::layout(capacity);
        // SAFETY: the layout has a size above zero.
        let start = unsafe { alloc(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        Self { start, length: 0, capacity }
    }

    fn layout(capacity: usize) -> Layout {
        Layout::from_size_align(capacity, BUFFER_ALIGNMENT_BYTES)
            .expect("a buffer is far smaller than isize::MAX")
    }
}

/// Memory of a freed buffer of one page.
struct Page(NonNull<u8>);

// SAFETY: a Page alone owns its memory; no pointer into it is left elsewhere.
unsafe impl Send for Page {}

/// Returns the idle pages. The last page freed is taken first, because a cache may still have it.
fn idle_pages() -> MutexGuard<'static, Vec<Page>> {
    static IDLE: Mutex<Vec<Page>> = Mutex::new(Vec::new());
    IDLE.lock()
}

/// Keeps a page for the next buffer; returns false if there are enough.
fn keep(page: Page) -> bool {
    let mut idle = idle_pages();
    let keeps = idle.len() < IDLE_PAGES_MAX;
    if keeps {
        idle.push(page);
    }
    keeps
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.capacity == BUFFER_ALIGNMENT_BYTES && keep(Page(self.start)) {
            return;
        }
        // SAFETY: `start` came from `alloc` with this layout, and was not kept for another buffer,
        // so it is released once.
        unsafe { dealloc(self.start.as_ptr(), Self::layout(self.capacity)) };
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the first `length` bytes are initialised: every constructor writes them before it
        // sets the length.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes the access exclusive.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes)", self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_page_has_only_its_new_bytes() {
        let old: Vec<Buffer> =
            (0..IDLE_PAGES_MAX + 10).map(|_| Buffer::copy_of(&[7; 4096])).collect();
        drop(old);
        assert!(idle_pages().len() <= IDLE_PAGES_MAX);
        let fresh = Buffer::zeroed(100);
        assert_eq!(&fresh[..], &[0; 100]);
        let (one, other) = (Buffer::copy_of(&[1; 4096]), Buffer::copy_of(&[2; 4095]));
        assert!(one.iter().all(|byte| *byte == 1) && other.iter().all(|byte| *byte == 2));
        assert_eq!(other.len(), 4095);
        assert!(one.as_ptr().addr().is_multiple_of(BUFFER_ALIGNMENT_BYTES));
    }
}
