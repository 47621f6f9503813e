//! The primitives of a model that shuttle schedules, and the search through its schedules.
//!
//! A model has no time. A wait with a limit of [`PATIENCE`] or more never ends by it, so a lost
//! wake-up shows as a deadlock. A wait with a shorter limit may end at any moment: its caller looks
//! again by itself anyway.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
pub(crate) use std::sync::OnceLock;
use std::time::Duration;

use ::shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler, Scheduler};
use ::shuttle::{Config, Runner};
pub(crate) use ::shuttle::{sync::atomic, thread_local};

/// Shortest limit that is never reached in a model.
const PATIENCE: Duration = Duration::from_secs(1);
/// Schedules of each model under each scheduler, unless `SCHEDULES` says otherwise.
const SCHEDULES: usize = 1_000;
/// Changes of priority in a schedule of PCT. It finds bugs that need so many in a certain order
/// (Burckhardt et al. 2010).
const DEPTH: usize = 4;
const STACK_BYTES: usize = 512 << 10;

/// Stands in for [`super::lock::Mutex`]. A model ends with its first panic.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(::shuttle::sync::Mutex<T>);

/// Stands in for std's guard. Knows its mutex, because a wait with a limit locks that again.
pub(crate) struct MutexGuard<'a, T> {
    inner: ::shuttle::sync::MutexGuard<'a, T>,
    mutex: &'a Mutex<T>,
}

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(::shuttle::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        let inner = self.0.lock().expect("a model ends with its first panic");
        MutexGuard { inner, mutex: self }
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

/// Stands in for [`super::lock::Condvar`].
#[derive(Debug, Default)]
pub(crate) struct Condvar(::shuttle::sync::Condvar);

/// Says that a wait ended by its limit.
pub(crate) struct TimedOut;

impl Condvar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }

    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        let MutexGuard { inner, mutex } = guard;
        let inner = self.0.wait(inner).expect("a model ends with its first panic");
        MutexGuard { inner, mutex }
    }

    pub(crate) fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        limit: Duration,
    ) -> (MutexGuard<'a, T>, TimedOut) {
        if limit >= PATIENCE {
            return (self.wait(guard), TimedOut);
        }
        let mutex = guard.mutex;
        drop(guard);
        thread::yield_now();
        (mutex.lock(), TimedOut)
    }
}

/// Stands in for `std::thread`.
pub(crate) mod thread {
    #[allow(unused_imports, reason = "std's names, as far as they are needed")]
    pub(crate) use ::shuttle::thread::{
        Builder, JoinHandle, Thread, current, park, scope, sleep, spawn, yield_now,
    };

    use super::PATIENCE;
    use std::time::Duration;

    pub(crate) fn park_timeout(limit: Duration) {
        if limit >= PATIENCE { park() } else { yield_now() }
    }

    /// Lets other threads run, or not: the place at which a request to a device takes its time.
    pub(crate) fn switch() {
        ::shuttle::thread::sleep(Duration::ZERO);
    }
}

/// Returns a number below `count` that the schedule chooses.
pub(crate) fn choose(count: u32) -> u32 {
    use ::shuttle::rand::Rng;
    ::shuttle::rand::thread_rng().gen_range(0..count)
}

/// Runs a model under many schedules: random ones, and ones with priorities that change [`DEPTH`]
/// times. Each run tries the same schedules. `SCHEDULES=N` sets how many. A failure prints its
/// schedule, which `SCHEDULE=…` replays.
pub(crate) fn explore(model: impl Fn() + Send + Sync + 'static) {
    let model = Arc::new(model);
    if let Ok(schedule) = std::env::var("SCHEDULE") {
        return run(ReplayScheduler::new_from_encoded(&schedule), &model);
    }
    let number = std::env::var("SCHEDULES").ok().and_then(|number| number.parse().ok());
    let number = number.unwrap_or(SCHEDULES);
    run(RandomScheduler::new_from_seed(0, number), &model);
    run(PctScheduler::new_from_seed(0, DEPTH, number), &model);
}

fn run(scheduler: impl Scheduler + 'static, model: &Arc<impl Fn() + Send + Sync + 'static>) {
    let mut config = Config::new();
    config.stack_size = STACK_BYTES;
    let model = model.clone();
    Runner::new(scheduler, config).run(move || model());
}
