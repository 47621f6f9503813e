//! Atomics, locks and one-time initialisation for models that loom explores.
//!
//! Threads are std's: no model of loom's reaches a module that uses them.

use std::time::Duration;
pub(crate) use std::{thread, thread_local};

pub(crate) use ::loom::sync::{MutexGuard, atomic};

/// Stands in for [`super::lock::Mutex`]. A model ends with its first panic.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(::loom::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(::loom::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().expect("a model ends with its first panic")
    }
}

/// Stands in for [`super::lock::Condvar`].
#[derive(Debug, Default)]
pub(crate) struct Condvar(::loom::sync::Condvar);

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
        self.0.wait(guard).expect("a model ends with its first panic")
    }

    /// Waits without a limit, because loom has no time. No model of loom's comes here.
    pub(crate) fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        _: Duration,
    ) -> (MutexGuard<'a, T>, ()) {
        (self.wait(guard), ())
    }
}

/// Stands in for std's, which loom lacks.
#[derive(Debug, Default)]
pub(crate) struct OnceLock<T> {
    value: std::sync::OnceLock<T>,
    /// Tells the model that a thread that finds the value sees everything done before it was set.
    is_set: atomic::AtomicBool,
    setting: Mutex<()>,
}

impl<T> OnceLock<T> {
    pub(crate) fn new() -> Self {
        Self {
            value: std::sync::OnceLock::new(),
            is_set: atomic::AtomicBool::new(false),
            setting: Mutex::new(()),
        }
    }

    pub(crate) fn get(&self) -> Option<&T> {
        if self.is_set.load(atomic::Ordering::Acquire) { self.value.get() } else { None }
    }

    pub(crate) fn get_or_init(&self, init: impl FnOnce() -> T) -> &T {
        if let Some(value) = self.get() {
            return value;
        }
        let _one = self.setting.lock();
        let value = self.value.get_or_init(init);
        self.is_set.store(true, atomic::Ordering::Release);
        value
    }
}

/// Most preemptions in one schedule. All schedules with up to so many are tried (Musuvathi and
/// Qadeer 2007).
const PREEMPTIONS: usize = 3;

/// Runs a model with every order of its steps and every value that a load may return.
pub(crate) fn explore(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = ::loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(PREEMPTIONS));
    builder.check(model);
}
