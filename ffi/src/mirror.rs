//! Mirrors: one vault follows another.

use std::ffi::{c_char, c_void};
use std::path::PathBuf;

use engine::SystemClock;
use engine::sync::lock::Mutex;
use hrl_gateway::{Mirror, MirrorOptions, MirroredVolume};

use crate::boundary::{guard, guard_value, hrl_status, status_of};
use crate::callbacks::User;
use crate::handle::{self, Out, Text};
use crate::points::{HRL_LABEL_CHARS, HRL_NAME_CHARS, visit};
use crate::vault::hrl_vault;

/// Makes one vault follow another. All threads may use it at once; runs wait for each other.
pub struct hrl_mirror {
    inner: Mutex<Mirror>,
}

/// The result of a mirror's run for one volume.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hrl_mirrored_volume {
    /// Name of the volume.
    pub volume: [c_char; HRL_NAME_CHARS],
    /// Newest catalog version of the source.
    pub source_version: u64,
    /// Newest catalog version of the target, which is never above that of the source.
    pub version: u64,
    /// Time by which the target is behind, in milliseconds.
    pub lag_ms: u64,
    /// Objects copied.
    pub objects_copied: u64,
    /// Bytes copied.
    pub bytes_copied: u64,
    /// Objects deleted.
    pub objects_deleted: u64,
    /// Objects that the source lacks.
    pub source_lacks: u64,
    /// HRL_OK, or the status of the error that ended the run for this volume.
    pub status: hrl_status,
    /// That error as a sentence, cut if it does not fit; empty if there was none.
    pub failure: [c_char; HRL_LABEL_CHARS],
}

impl From<&MirroredVolume> for hrl_mirrored_volume {
    fn from(done: &MirroredVolume) -> Self {
        let failure = done.failure.as_ref();
        Self {
            volume: handle::fixed_text(&done.volume),
            source_version: done.source_version,
            version: done.version,
            lag_ms: u64::try_from(done.lag.as_millis()).unwrap_or(u64::MAX),
            objects_copied: done.objects_copied,
            bytes_copied: done.bytes_copied,
            objects_deleted: done.objects_deleted,
            source_lacks: done.source_lacks,
            status: failure.map_or(0, |error| status_of(error.kind())),
            failure: handle::fixed_text(&failure.map(ToString::to_string).unwrap_or_default()),
        }
    }
}

/// Receives the result for one volume, which lives until it returns; returns false to stop.
pub type hrl_mirrored_fn =
    Option<unsafe extern "C" fn(user: *mut c_void, volume: *const hrl_mirrored_volume) -> bool>;

/// Returns whether the run goes on. Called from any thread.
pub type hrl_go_on_fn = Option<unsafe extern "C" fn(user: *mut c_void) -> bool>;

/// Makes a mirror that brings `target` to the state of `source`, without the keys of its volumes. `count` names in `volumes`
/// select volumes; 0 selects all. `scratch` is a directory for copies of objects above 32 MiB; NULL: that of the system.
/// The vaults may be freed afterwards. Run one mirror at a time for each target. Free it with `hrl_mirror_free`.
/// Statuses: HRL_ERROR_INVALID_INPUT. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_mirror_new(
    source: Option<&hrl_vault>,
    target: Option<&hrl_vault>,
    volumes: *const Text<'_>,
    count: usize,
    scratch: Text<'_>,
    out: Out<'_, *mut hrl_mirror>,
) -> hrl_status {
    guard(|| {
        out.check("out")?;
        let source = handle::given(source, "source")?.inner.clone();
        let target = handle::given(target, "target")?.inner.clone();
        // SAFETY: the caller promises that the array has the length beside it.
        let volumes = unsafe { handle::array(volumes, count, "volumes")? }
            .iter()
            .map(|name| name.read("volumes").map(str::to_owned))
            .collect::<engine::Result<Vec<_>>>()?;
        let options = MirrorOptions {
            volumes: (count > 0).then_some(volumes),
            scratch: scratch.optional("scratch")?.map(PathBuf::from),
        };
        let inner = Mirror::new(source, target, options, SystemClock::shared());
        out.give(hrl_mirror { inner: Mutex::new(inner) })
    })
}

/// Catches up once, and gives the result of every volume to `each` on the calling thread. Call it again to follow. A failure
/// of one volume is in its result and does not stop the others. `go_on` (NULL: always) is asked now and then; false ends the
/// run, which the next one continues.
/// Statuses: HRL_ERROR_UNAVAILABLE, HRL_ERROR_INVALID_INPUT. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_mirror_run(
    mirror: Option<&hrl_mirror>,
    go_on: hrl_go_on_fn,
    each: hrl_mirrored_fn,
    user: *mut c_void,
) -> hrl_status {
    guard(|| {
        let mirror = handle::given(mirror, "mirror")?;
        crate::callbacks::needed(each, "each")?;
        let asked = User(user);
        let done = mirror.inner.lock().run(&move || match go_on {
            // SAFETY: a function of this type, called as the header says.
            Some(go_on) => unsafe { go_on(asked.pointer()) },
            None => true,
        })?;
        visit(done.iter().map(hrl_mirrored_volume::from), each, user)
    })
}

/// Frees the mirror; NULL is fine. Since 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hrl_mirror_free(mirror: Option<Box<hrl_mirror>>) {
    guard_value((), || drop(mirror));
}
