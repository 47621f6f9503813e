//! Mirrors: one vault follows another.

use std::ffi::{c_char, c_void};
use std::path::PathBuf;

use engine::SystemClock;
use engine::sync::lock::Mutex;
use hrl_gateway::{Mirror, MirrorOptions, MirroredVolume};

use crate::boundary::{HRL_OK, guard, guard_value, hrl_status, status_of};
use crate::callbacks::User;
use crate::handle::{self, Out, Text};
use crate::points::{HRL_LABEL_CHARS, HRL_NAME_CHARS, visit};
use crate::report::{millis, report};
use crate::vault::hrl_vault;

/// Makes one vault follow another. All threads may use it at once; runs wait for each other.
pub struct hrl_mirror {
    inner: Mutex<Mirror>,
}

report! {
    /// The result of a mirror's run for one volume.
    pub struct hrl_mirrored_volume from done: MirroredVolume {
        /// Name of the volume.
        volume: [c_char; HRL_NAME_CHARS],
        /// Newest catalog version of the source.
        source_version: u64,
        /// Newest catalog version of the target, which is never above that of the source.
        version: u64,
        /// Time by which the target is behind, in milliseconds.
        lag_ms: u64 = millis(done.lag),
        /// Objects copied.
        objects_copied: u64,
        /// Bytes copied.
        bytes_copied: u64,
        /// Objects deleted.
        objects_deleted: u64,
        /// Objects that the source lacks.
        source_lacks: u64,
        /// HRL_OK, or the status of the error that ended the run for this volume.
        status: hrl_status = done.failure.as_ref().map_or(HRL_OK, |error| status_of(error.kind())),
        /// That error as a sentence, cut if it does not fit; empty without an error.
        failure: [c_char; HRL_LABEL_CHARS] = failure_text(done),
    }
}

fn failure_text(done: &MirroredVolume) -> String {
    done.failure.as_ref().map(ToString::to_string).unwrap_or_default()
}

/// Receives the result for one volume, which lives until it returns; returns false to stop.
pub type hrl_mirrored_fn =
    Option<unsafe extern "C" fn(user: *mut c_void, volume: *const hrl_mirrored_volume) -> bool>;

/// Returns whether the run goes on. Called from any thread.
pub type hrl_go_on_fn = Option<unsafe extern "C" fn(user: *mut c_void) -> bool>;

/// Makes a mirror that brings `target` to the state of `source`, without the keys of its volumes.
/// `count` names in `volumes` select volumes; 0 selects all. `scratch` is a directory for copies of
/// objects above 32 MiB; NULL: that of the system. The vaults may be freed afterwards. Run one
/// mirror at a time for each target. Free it with `hrl_mirror_free`.
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
            ..MirrorOptions::default()
        };
        let inner = Mirror::new(source, target, options, SystemClock::shared());
        out.give(hrl_mirror { inner: Mutex::new(inner) })
    })
}

/// Catches up once, and passes the result of every volume to `each` on the calling thread. Call it
/// again to follow. A failure of one volume is in its result and does not stop the others. `go_on`
/// (NULL: always) is asked now and then; false ends the run, which the next one continues.
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
