//! Stores: a directory, an object store by URL, or one that the embedder brings.

use std::ffi::{CString, c_char, c_void};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use engine::store::{DirStore, ObjectInfo, PutOutcome, Store};
use engine::{Error, ErrorKind, Result};
use hrl_stores::{create_url, open_url};

use crate::boundary::{guard, guard_value, hrl_status};
use crate::callbacks::{User, needed, outcome};
use crate::handle::{In, Out, Text, versioned};

/// A place for immutable objects, in which a vault is kept. All threads may use it at once.
pub struct hrl_store {
    pub(crate) inner: Arc<dyn Store>,
}

/// Errno of an object that exists already.
const EEXIST: i32 = 17;
/// Errno of an object that is absent.
const ENOENT: i32 = 2;

/// Opens a directory as a store, and with `create` makes it if it is absent. Free it with
/// `hrl_store_free`.
/// Statuses: HRL_ERROR_NOT_FOUND, HRL_ERROR_INVALID_INPUT (no directory), HRL_ERROR_IO. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_store_open_directory(
    path: Text<'_>,
    create: bool,
    out: Out<'_, *mut hrl_store>,
) -> hrl_status {
    guard(|| {
        out.check("out")?;
        let path = Path::new(path.read("path")?);
        let store = if create { DirStore::create(path)? } else { DirStore::open(path)? };
        out.give(hrl_store { inner: Arc::new(store) })
    })
}

/// Opens the store at `url`: a path or file://PATH. Builds with the feature `cloud` also take
/// s3://BUCKET/PREFIX, az://CONTAINER/PREFIX and gs://BUCKET/PREFIX. Options follow `?`, as in
/// `s3://vaults?endpoint=https://s3.example.net`. Credentials come from the environment. With
/// `create` a directory is made if it is absent; buckets never are. Free the store with
/// `hrl_store_free`.
/// Statuses: HRL_ERROR_NOT_FOUND, HRL_ERROR_INVALID_INPUT (also refused credentials),
/// HRL_ERROR_UNSUPPORTED (a build without `cloud`), HRL_ERROR_UNAVAILABLE. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_store_open_url(
    url: Text<'_>,
    create: bool,
    out: Out<'_, *mut hrl_store>,
) -> hrl_status {
    guard(|| {
        out.check("out")?;
        let url = url.read("url")?;
        let inner = if create { create_url(url)? } else { open_url(url)? };
        out.give(hrl_store { inner })
    })
}

/// Receives name and size of one object of a listing, with the `context` of that listing.
pub type hrl_list_fn =
    Option<unsafe extern "C" fn(context: *mut c_void, name: *const c_char, length: u64)>;

/// A store of your own. The functions return 0 or an errno. They are called from any thread,
/// several at once, and must not unwind. Objects never change after they were put. ETIMEDOUT and
/// ECONNREFUSED are temporary failures, and are tried again.
#[repr(C)]
pub struct hrl_store_callbacks<'a> {
    /// `sizeof(hrl_store_callbacks)`, so that later versions can add to it.
    pub struct_bytes: usize,
    /// Name for errors; copied. NULL: "store".
    pub name: Text<'a>,
    /// Creates an object whole and durably, or returns EEXIST if the name is taken. Of several
    /// callers that race exactly one creates it.
    pub put: Option<
        unsafe extern "C" fn(
            user: *mut c_void,
            name: *const c_char,
            data: *const u8,
            length: usize,
        ) -> i32,
    >,
    /// Fills `buffer` with the bytes of an object from `offset` on; ENOENT if it is absent. The
    /// range is never beyond the end.
    pub get: Option<
        unsafe extern "C" fn(
            user: *mut c_void,
            name: *const c_char,
            offset: u64,
            buffer: *mut u8,
            length: usize,
        ) -> i32,
    >,
    /// Stores the size of an object in `length`; ENOENT if it is absent.
    pub head: Option<
        unsafe extern "C" fn(user: *mut c_void, name: *const c_char, length: *mut u64) -> i32,
    >,
    /// Calls `found(context, name, length)` for every object whose name starts with `prefix`, in
    /// any order.
    pub list: Option<
        unsafe extern "C" fn(
            user: *mut c_void,
            prefix: *const c_char,
            found: hrl_list_fn,
            context: *mut c_void,
        ) -> i32,
    >,
    /// Removes an object; succeeds if it is absent.
    pub remove: Option<unsafe extern "C" fn(user: *mut c_void, name: *const c_char) -> i32>,
    /// Called once, when nothing uses the store any more. NULL: nothing.
    pub free: Option<unsafe extern "C" fn(user: *mut c_void)>,
}

versioned!(hrl_store_callbacks<'_>);

/// Makes a store of your functions. All are needed but `free`. `callbacks` is copied; each function
/// receives `user`.
/// Statuses: HRL_ERROR_INVALID_INPUT; then `free` is not called. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_store_from_callbacks(
    callbacks: In<'_, hrl_store_callbacks<'_>>,
    user: *mut c_void,
    out: Out<'_, *mut hrl_store>,
) -> hrl_status {
    guard(|| {
        out.check("out")?;
        let store = CallbackStore::new(callbacks.read("callbacks")?, User(user))?;
        out.give(hrl_store { inner: Arc::new(store) })
    })
}

/// Frees the handle; NULL is fine. Vaults in the store go on. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_store_free(store: Option<Box<hrl_store>>) {
    guard_value((), || drop(store));
}

struct CallbackStore {
    name: String,
    put: unsafe extern "C" fn(*mut c_void, *const c_char, *const u8, usize) -> i32,
    get: unsafe extern "C" fn(*mut c_void, *const c_char, u64, *mut u8, usize) -> i32,
    head: unsafe extern "C" fn(*mut c_void, *const c_char, *mut u64) -> i32,
    list: unsafe extern "C" fn(*mut c_void, *const c_char, hrl_list_fn, *mut c_void) -> i32,
    remove: unsafe extern "C" fn(*mut c_void, *const c_char) -> i32,
    free: Option<unsafe extern "C" fn(*mut c_void)>,
    user: User,
}

impl CallbackStore {
    fn new(callbacks: &hrl_store_callbacks<'_>, user: User) -> Result<Self> {
        let name = callbacks.name.optional("callbacks.name")?.unwrap_or("store");
        Ok(Self {
            name: name.to_owned(),
            put: needed(callbacks.put, "callbacks.put")?,
            get: needed(callbacks.get, "callbacks.get")?,
            head: needed(callbacks.head, "callbacks.head")?,
            list: needed(callbacks.list, "callbacks.list")?,
            remove: needed(callbacks.remove, "callbacks.remove")?,
            free: callbacks.free,
            user,
        })
    }

    fn object(name: &str) -> Result<CString> {
        CString::new(name).map_err(|_| {
            Error::new(ErrorKind::InvalidInput, "name object", name).found("a zero byte")
        })
    }
}

impl Drop for CallbackStore {
    fn drop(&mut self) {
        if let Some(free) = self.free {
            // SAFETY: a function of this type, called as the header says: once, at the end.
            unsafe { free(self.user.pointer()) }
        }
    }
}

impl Store for CallbackStore {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn put(&self, name: &str, content: &[u8]) -> Result<PutOutcome> {
        engine::store::check_name(name)?;
        let object = Self::object(name)?;
        // SAFETY: a function of this type, called as the header says; name and content outlive the
        // call.
        let code = unsafe {
            (self.put)(self.user.pointer(), object.as_ptr(), content.as_ptr(), content.len())
        };
        if code == EEXIST {
            return Ok(PutOutcome::AlreadyExists);
        }
        outcome(code, "put to store", name).map(|()| PutOutcome::Created)
    }

    fn get(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>> {
        let length = self
            .head(name)?
            .map(|info| info.length)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "get from store", name))?;
        if range.start > range.end || range.end > length {
            return Err(Error::new(ErrorKind::InvalidInput, "get from store", name)
                .at(range.start)
                .expected(format_args!("a range within {length} bytes"))
                .found(format_args!("{}..{}", range.start, range.end)));
        }
        let object = Self::object(name)?;
        let mut bytes = vec![0; (range.end - range.start) as usize];
        // SAFETY: as in `put`; the memory is ours and this long.
        let code = unsafe {
            let pointer = bytes.as_mut_ptr();
            (self.get)(self.user.pointer(), object.as_ptr(), range.start, pointer, bytes.len())
        };
        outcome(code, "get from store", name).map(|()| bytes)
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        /// Takes one object of a listing. `context` is the vector of `list`.
        unsafe extern "C" fn found(context: *mut c_void, name: *const c_char, length: u64) {
            guard_value((), || {
                // SAFETY: the context that `list` gave, which nothing else uses during the call.
                let list = unsafe { context.cast::<Vec<ObjectInfo>>().as_mut() };
                // SAFETY: the header asks callbacks for NUL-terminated text.
                let name = unsafe { Text::from_raw(name) }.read("name");
                if let (Some(list), Ok(name)) = (list, name) {
                    list.push(ObjectInfo { name: name.to_owned(), length });
                }
            });
        }
        let object = Self::object(prefix)?;
        let mut objects: Vec<ObjectInfo> = Vec::new();
        let context = (&raw mut objects).cast();
        // SAFETY: as in `put`; the context lives and is not touched during the call.
        let code =
            unsafe { (self.list)(self.user.pointer(), object.as_ptr(), Some(found), context) };
        outcome(code, "list store", prefix)?;
        objects.retain(|info| info.name.starts_with(prefix));
        objects.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(objects)
    }

    fn head(&self, name: &str) -> Result<Option<ObjectInfo>> {
        let object = Self::object(name)?;
        let mut length = 0;
        // SAFETY: as in `put`; the length is ours.
        let code = unsafe { (self.head)(self.user.pointer(), object.as_ptr(), &raw mut length) };
        if code == ENOENT {
            return Ok(None);
        }
        outcome(code, "look into store", name)?;
        Ok(Some(ObjectInfo { name: name.to_owned(), length }))
    }

    fn delete(&self, name: &str) -> Result<()> {
        let object = Self::object(name)?;
        // SAFETY: as in `put`.
        let code = unsafe { (self.remove)(self.user.pointer(), object.as_ptr()) };
        if code == ENOENT { Ok(()) } else { outcome(code, "delete from store", name) }
    }
}
